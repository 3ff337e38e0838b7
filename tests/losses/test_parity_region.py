"""Losses of regions beside segmentation_models.pytorch's, and MONAI's formulas written out in torch."""

import functools

import pytest

from jaxseg.losses import (
    dice_loss,
    focal_tversky_loss,
    generalized_dice_loss,
    jaccard_loss,
    log_cosh_dice_loss,
    mcc_loss,
    tversky_loss,
)

pytestmark = pytest.mark.parity
OURS = {"DiceLoss": dice_loss, "JaccardLoss": jaccard_loss}
MODES = {"binary": (1, "ids"), "multiclass": (4, "ids"), "multilabel": (3, "multilabel")}
WEIGHTS = [1.0, 0.0, 2.5, 0.25]  # which float32 holds, in which smp keeps them


@pytest.fixture
def shares(torch):
    """`shares(z, y)`: probabilities and truth of each class, `[N, K, P]`, both 0 where ignored."""

    def read(z, y):
        if y.ndim == 3 and z.shape[1] > 1:
            classes = torch.arange(z.shape[1])[:, None, None]
            y, p = torch.where(y[:, None] == 255, 255, (y[:, None] == classes).long()), z.softmax(1)
        elif y.dtype.is_floating_point and z.shape[1] > 1:
            p = z.softmax(1)
        else:
            y, p = y.reshape(z.shape), z.sigmoid()
        counted = y != 255
        return (p * counted).flatten(2), torch.where(counted, y, 0).double().flatten(2)

    return read


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize(("smooth", "weighted"), [(0.0, False), (0.7, True)])
def test_dice_and_jaccard_losses_are_smps_where_every_class_is_there(
    smp_losses, compare, batches, name, mode, smooth, weighted
):
    num_classes, kind = MODES[mode]
    weights = WEIGHTS[:num_classes] if weighted and num_classes > 1 else None
    theirs = getattr(smp_losses, name)(
        mode, smooth=smooth, ignore_index=255, eps=1e-12, class_weights=weights
    )
    ours = functools.partial(
        OURS[name], smooth=2 * smooth if name == "DiceLoss" else smooth, class_weights=weights
    )
    compare(ours, theirs, batches(num_classes, (2, 3, 7), kind=kind))


@pytest.mark.parametrize("name", OURS)
def test_absent_classes_are_where_smp_differs(smp_losses, compare, batches, name):
    """Three of four classes are there: smp divides their losses by four."""
    theirs = getattr(smp_losses, name)("multiclass", ignore_index=255, eps=1e-12)
    compare(lambda z, y: 0.75 * OURS[name](z, y), theirs, batches(4, absent=(2,)))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("alpha", "beta", "smooth"), [(0.3, 0.7, 0.0), (0.9, 0.2, 1.5), (1.0, 0.0, 0.0)]
)
def test_tversky_loss_is_smps(smp_losses, compare, batches, mode, alpha, beta, smooth):
    num_classes, kind = MODES[mode]
    options = {"alpha": alpha, "beta": beta, "smooth": smooth}
    theirs = smp_losses.TverskyLoss(mode, ignore_index=255, eps=1e-12, **options)
    ours = functools.partial(tversky_loss, **options)
    compare(ours, theirs, batches(num_classes, kind=kind))


@pytest.mark.parametrize("gamma", [0.75, 2.0])
@pytest.mark.parametrize("mode", MODES)
def test_focal_tversky_loss_is_the_mean_of_smps_of_one_class(
    torch, smp_losses, compare, batches, mode, gamma
):
    """smp takes the power after the mean over classes, the paper before."""
    num_classes, kind = MODES[mode]
    options = {"alpha": 0.3, "beta": 0.7, "gamma": gamma}

    def theirs(z, y):
        chosen = [None] if mode == "binary" else [[c] for c in range(num_classes)]
        losses = [
            smp_losses.TverskyLoss(mode, classes, ignore_index=255, **options) for classes in chosen
        ]
        return torch.stack([loss(z, y) for loss in losses]).mean()

    compare(
        functools.partial(focal_tversky_loss, **options), theirs, batches(num_classes, kind=kind)
    )


def test_smps_power_of_the_mean(smp_losses, compare, batches):
    theirs = smp_losses.TverskyLoss("multiclass", alpha=0.3, beta=0.7, gamma=1.5, ignore_index=255)
    compare(lambda z, y: tversky_loss(z, y) ** 1.5, theirs, batches(4))


@pytest.mark.parametrize("mode", MODES)
def test_log_cosh_dice_loss_is_its_formula(torch, smp_losses, compare, batches, mode):
    num_classes, kind = MODES[mode]
    dice = smp_losses.DiceLoss(mode, ignore_index=255)
    compare(
        log_cosh_dice_loss, lambda z, y: dice(z, y).cosh().log(), batches(num_classes, kind=kind)
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("smooth", [1e-5, 0.5])
def test_mcc_loss_is_the_mean_of_smps_of_each_class(
    torch, smp_losses, compare, batches, mode, smooth
):
    """smp's is of one class, takes probabilities, and ignores nothing: it is given what counts."""
    num_classes, kind = MODES[mode]
    weights = WEIGHTS[:num_classes] if num_classes > 1 else None

    def theirs(z, y):
        p = z.softmax(1) if mode == "multiclass" else z.sigmoid()
        losses = []
        for c in range(num_classes):
            mine = y if y.ndim == 3 else y[:, c]
            counted = mine != 255
            truth = mine[counted] == c if mode == "multiclass" else mine[counted]
            losses.append(smp_losses.MCCLoss(smooth)(p[:, c][counted][None], truth.double()[None]))
        w = torch.tensor(weights or [1.0], dtype=torch.float64)
        return (w * torch.stack(losses)).sum() / w.sum()

    ours = functools.partial(mcc_loss, smooth=smooth, class_weights=weights)
    compare(ours, theirs, batches(num_classes, (2, 4, 5), kind=kind))


def test_mcc_loss_per_image_is_the_mean_over_images(torch, smp_losses, compare, batches):
    def theirs(z, y):
        one = smp_losses.MCCLoss()
        return torch.stack([one(a.sigmoid(), b.double()) for a, b in zip(z, y, strict=True)]).mean()

    compare(functools.partial(mcc_loss, per_image=True), theirs, batches(1, ignored=0))


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel", "soft"])
@pytest.mark.parametrize("per_image", [True, False])
def test_generalized_dice_loss_is_monais(torch, shares, compare, batches, mode, per_image):
    """Weights 1 / size^2; infinite ones, of absent classes, become the largest finite one of the image or batch."""
    num_classes, kind = MODES.get(mode, (4, "soft"))

    def theirs(z, y):
        p, t = (x if per_image else x.movedim(1, 0).flatten(1)[None] for x in shares(z, y))
        size = t.sum(2)
        weight = size**-2
        largest = torch.where(weight.isinf(), 0, weight).amax(1, keepdim=True)
        weight = torch.where(weight.isinf(), largest, weight)
        overlap, both = (weight * (p * t).sum(2)).sum(1), (weight * (p.sum(2) + size)).sum(1)
        return (1 - 2 * overlap / both).mean()

    ours = functools.partial(generalized_dice_loss, per_image=per_image)
    absent = (1,) if num_classes > 1 else ()
    compare(ours, theirs, batches(num_classes, kind=kind, absent=absent))


@pytest.mark.parametrize("per_image", [True, False])
def test_smooth_and_class_weights_of_the_generalized_dice_loss(
    torch, shares, compare, batches, per_image
):
    """`smooth` is in units of the largest weight: MONAI's in unscaled ones."""

    def theirs(z, y):
        p, t = (x if per_image else x.movedim(1, 0).flatten(1)[None] for x in shares(z, y))
        size = t.sum(2)
        weight = size**-2 * torch.tensor(WEIGHTS)
        smooth = 0.3 * (size**-2).amax(1)
        overlap, both = (weight * (p * t).sum(2)).sum(1), (weight * (p.sum(2) + size)).sum(1)
        return (1 - (2 * overlap + smooth) / (both + smooth)).mean()

    ours = functools.partial(
        generalized_dice_loss, smooth=0.3, class_weights=WEIGHTS, per_image=per_image
    )
    compare(ours, theirs, batches(4))


@pytest.mark.parametrize("mode", ["binary", "multiclass", "multilabel", "soft"])
@pytest.mark.parametrize("per_image", [True, False])
def test_tversky_loss_is_monais_where_every_class_is_there(
    torch, shares, compare, batches, mode, per_image
):
    """With both of MONAI's smooths the same; it counts absent classes, as nearly 1."""
    num_classes, kind = MODES.get(mode, (4, "soft"))

    def theirs(z, y):
        p, t = (x if per_image else x.movedim(1, 0).flatten(1)[None] for x in shares(z, y))
        hit, false, missed = (x.sum(2) for x in (p * t, p * (1 - t), (1 - p) * t))
        return (1 - (hit + 1e-3) / (hit + 0.2 * false + 0.9 * missed + 1e-3)).mean()

    options = {"alpha": 0.2, "beta": 0.9, "smooth": 1e-3, "per_image": per_image}
    compare(functools.partial(tversky_loss, **options), theirs, batches(num_classes, kind=kind))


@pytest.mark.parametrize("name", ["dice", "jaccard", "focal_tversky", "log_cosh_dice", "mcc"])
def test_per_image_is_the_weighted_mean_of_images_and_their_classes(
    torch, shares, compare, batches, name
):
    """Image by image and class by class; class 2 is nowhere, and an image without a class has no such term."""

    def loss(p, t):
        hit, false, missed = ((a * b).sum() for a, b in ((p, t), (p, 1 - t), (1 - p, t)))
        if name == "mcc":
            free = ((1 - p) * (1 - t)).sum()
            sizes = [hit + false, hit + missed, free + false, free + missed]
            return 1 - (hit * free - false * missed) / torch.stack(sizes).prod().sqrt()
        if name == "focal_tversky":
            return (1 - hit / (hit + 0.3 * false + 0.7 * missed)) ** 0.75
        return (
            1 - 2 * hit / (2 * hit + false + missed)
            if name != "jaccard"
            else 1 - hit / (hit + false + missed)
        )

    def theirs(z, y):
        total = weight = 0
        for image, one in zip(z, y, strict=True):
            counted = one != 255
            p = image.softmax(0)[:, counted]
            for c in range(4):
                t = (one[counted] == c).double()
                if t.any():
                    total, weight = total + WEIGHTS[c] * loss(p[c], t), weight + WEIGHTS[c]
        return (total / weight).cosh().log() if name == "log_cosh_dice" else total / weight

    ours = {
        "dice": dice_loss,
        "jaccard": jaccard_loss,
        "focal_tversky": focal_tversky_loss,
        "log_cosh_dice": log_cosh_dice_loss,
        "mcc": functools.partial(mcc_loss, smooth=0.0),
    }[name]
    cases = batches(4, absent=(2,))
    for _, labels in cases:
        labels[0][labels[0] == 3] = 0
    compare(functools.partial(ours, per_image=True, class_weights=WEIGHTS), theirs, cases)
