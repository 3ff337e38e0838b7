"""Losses of pixels beside torch's, torchvision's and segmentation_models.pytorch's, and formulas written out in torch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.losses import (
    cross_entropy,
    focal_loss,
    poly_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    softmax_cross_entropy,
    softmax_focal_loss,
)

pytestmark = pytest.mark.parity
WEIGHTS = {
    1: [0.5, 3.0],
    2: [0.5, 3.0],
    4: [1.0, 0.0, 2.0, 0.25],
    19: np.linspace(0, 2, 19).tolist(),
}


def both(pixelwise, mean):
    """A loss of each pixel and its mean, in one array."""
    return lambda z, y: jnp.append(pixelwise(z, y).reshape(-1), mean(z, y))


def one_hot(y, num_classes):
    """Class ids as multilabel targets: every entry of an ignored pixel is ignored."""
    return jnp.where(y[..., None] == 255, 255, jax.nn.one_hot(y, num_classes, dtype=jnp.int32))


def last(x):
    """`[N, K, H, W]` to `[N, H, W, K]`."""
    return x.movedim(1, -1)


@pytest.mark.parametrize(
    ("weighted", "smoothing", "ignore_index"),
    [(False, 0.1, -1), (True, 0.0, -100), (True, 0.3, 255)],
)
@pytest.mark.parametrize(
    ("num_classes", "shape"), [(2, (1, 7, 3)), (4, (3, 5, 4)), (19, (2, 3, 5))]
)
def test_cross_entropy_is_torchs(
    torch, compare, batches, num_classes, shape, weighted, smoothing, ignore_index
):
    weights = WEIGHTS[num_classes] if weighted else None
    options = {"ignore_index": ignore_index, "label_smoothing": smoothing}

    def theirs(z, y):
        y = torch.where(y == 255, ignore_index, y)
        weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        entropy = functools.partial(torch.nn.functional.cross_entropy, z, y, weight, **options)
        return torch.cat([entropy(reduction="none").flatten(), entropy()[None]])

    ours = both(
        *(
            lambda z, y, loss=loss: loss(
                z, jnp.where(y == 255, ignore_index, y), class_weights=weights, **options
            )
            for loss in (softmax_cross_entropy, cross_entropy)
        )
    )
    absent = range(4, num_classes)
    compare(ours, theirs, batches(num_classes, shape, absent=absent))


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "poly"])
def test_per_image_is_the_mean_of_torchs_means(torch, compare, batches, name):
    """Of each image that has pixels that count, with the weights of its own in the denominator."""

    def theirs(z, y):
        means = []
        for image, one in zip(z, y, strict=True):
            counted = one != 255
            entropy = torch.nn.functional.cross_entropy(
                image[:, counted].T, one[counted], reduction="none"
            )
            wrong = 1 - (-entropy).exp()
            factor = {
                "cross_entropy": entropy,
                "focal": wrong**2 * entropy,
                "poly": entropy + wrong,
            }
            weights = torch.tensor(WEIGHTS[4], dtype=torch.float64)[one[counted]]
            means.append((weights * factor[name]).sum() / weights.sum())
        return torch.stack(means[:2]).mean()

    cases = batches(4)
    for _, labels in cases:
        labels[2] = 255
    loss = {"cross_entropy": cross_entropy, "focal": focal_loss, "poly": poly_loss}[name]
    compare(functools.partial(loss, per_image=True, class_weights=WEIGHTS[4]), theirs, cases)


@pytest.mark.parametrize(("weighted", "smoothing"), [(False, 0.0), (True, 0.2)])
@pytest.mark.parametrize("num_classes", [2, 4, 19])
def test_soft_cross_entropy_is_torchs(torch, compare, batches, num_classes, weighted, smoothing):
    """torch ignores nothing where targets are shares, and its mean takes no weights into the denominator."""
    weights = WEIGHTS[num_classes] if weighted else None

    def theirs(z, y):
        counted = (y != 255).all(1)
        loss = torch.nn.functional.cross_entropy(
            z,
            torch.where(counted[:, None], y, 0),
            None if weights is None else torch.tensor(weights, dtype=torch.float64),
            reduction="none",
            label_smoothing=smoothing,
        )
        loss = (loss * counted).flatten()
        return loss if weighted else torch.cat([loss, loss.sum()[None] / counted.sum()])

    options = {"class_weights": weights, "label_smoothing": smoothing}
    pixelwise = functools.partial(softmax_cross_entropy, **options)
    mean = functools.partial(cross_entropy, **options)
    ours = (lambda z, y: pixelwise(z, y).reshape(-1)) if weighted else both(pixelwise, mean)
    compare(ours, theirs, batches(num_classes, (2, 5, 3), kind="soft"))


def test_class_ids_and_their_one_hot_shares_have_one_weighted_mean(torch, compare, batches):
    """Where torch has two: it divides by the number of pixels where targets are shares."""

    def theirs(z, y):
        weight = torch.tensor(WEIGHTS[4], dtype=torch.float64)
        return torch.nn.functional.cross_entropy(z, y, weight, ignore_index=255)

    def ours(z, y):
        shares = one_hot(y, 4)
        return cross_entropy(z, shares.astype(jnp.float32), class_weights=WEIGHTS[4])

    compare(ours, theirs, batches(4))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", ["ids", "multilabel"])
@pytest.mark.parametrize("num_classes", [1, 3])
def test_sigmoid_cross_entropy_is_torchs(torch, compare, batches, num_classes, kind, smoothing):
    """With weights of classes and of positives, and without what is ignored, which torch does not know."""
    gain = np.linspace(0.5, 2.5, num_classes)
    weights = [2.0, 0.5] if num_classes == 1 else [2.0, 0.5, 1.0]

    def theirs(z, y):
        if kind == "ids" and num_classes > 1:
            y = torch.stack([torch.where(y == 255, 255, (y == c).long()) for c in range(3)], 1)
        y = y.reshape(z.shape)
        counted = (y != 255).double()
        target = torch.where(y == 255, 0, y).double() * (1 - smoothing) + smoothing / 2
        if num_classes == 1:
            weight, of_positives = torch.tensor(weights[0]), gain * weights[1] / weights[0]
            own = torch.where(y == 1, weights[1], weights[0])
        else:
            weight, of_positives = torch.tensor(weights)[:, None, None], gain
            own = weight.expand(y.shape)
        loss = counted * torch.nn.functional.binary_cross_entropy_with_logits(
            z,
            target,
            weight.double(),
            reduction="none",
            pos_weight=torch.tensor(of_positives)[:, None, None],
        )
        mean = loss.sum() / (own * counted).sum()
        return torch.cat([last(loss).flatten(), mean[None]])

    options = {
        "class_weights": weights,
        "label_smoothing": smoothing,
        "pos_weight": gain if num_classes > 1 else float(gain[0]),
    }

    def ours(z, y):
        loss = sigmoid_cross_entropy(z, y, **options)
        many = y
        if kind == "ids" and num_classes > 1:
            many = one_hot(y, 3)
        return jnp.append(loss.reshape(-1), cross_entropy(z, many, **options))

    compare(ours, theirs, batches(num_classes, (2, 3, 7), kind=kind))


def test_soft_binary_cross_entropy_is_torchs(torch, compare, batches):
    def theirs(z, y):
        counted = y != 255
        target = torch.where(counted, y, 0)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(z, target, reduction="none")
        loss = loss * counted
        return torch.cat([loss.flatten(), (loss.sum() / counted.sum())[None]])

    compare(both(sigmoid_cross_entropy, cross_entropy), theirs, batches(1, kind="soft"))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_soft_losses_of_smp_where_they_sum(torch, smp_losses, compare, batches, smoothing):
    """Its means divide by ignored pixels as well: tests/test_peer_defects.py, D2."""
    soft_ce = smp_losses.SoftCrossEntropyLoss("sum", smooth_factor=smoothing, ignore_index=255)
    compare(
        lambda z, y: softmax_cross_entropy(z, y, label_smoothing=smoothing).sum(),
        soft_ce,
        batches(4),
    )
    # Its smoothing moves a target by its factor, torch's and ours by half of it: to 1/K of it.
    soft_bce = smp_losses.SoftBCEWithLogitsLoss(
        ignore_index=255, reduction="sum", smooth_factor=smoothing / 2
    )
    compare(
        lambda z, y: sigmoid_cross_entropy(z, y, label_smoothing=smoothing).sum(),
        lambda z, y: soft_bce(z, y.double()),
        batches(3, kind="multilabel"),
    )


def test_the_mean_over_counted_pixels_is_where_smp_differs(smp_losses, compare, batches):
    """Its mean is over all pixels: with half of them ignored, half of torch's."""
    theirs = smp_losses.SoftCrossEntropyLoss(smooth_factor=0.0, ignore_index=255)
    cases = [(z, np.where(np.arange(8) < 4, y, 255)) for z, y in batches(3, (2, 3, 8), ignored=0)]
    compare(lambda z, y: 0.5 * cross_entropy(z, y), theirs, cases)


@pytest.mark.parametrize(
    ("gamma", "alpha"), [(2.0, 0.25), (0.5, None), (0.0, 0.75), (1.0, 0.0), (3.0, 1.0)]
)
@pytest.mark.parametrize("num_classes", [1, 3])
def test_sigmoid_focal_loss_is_torchvisions(
    torch, torchvision, compare, batches, num_classes, gamma, alpha
):
    def theirs(z, y):
        y = y.reshape(z.shape)
        counted = y != 255
        loss = counted * torchvision.ops.sigmoid_focal_loss(
            z, torch.where(counted, y, 0).double(), -1 if alpha is None else alpha, gamma
        )
        return torch.cat([last(loss).flatten(), (loss.sum() / counted.sum())[None]])

    options = {"gamma": gamma, "alpha": alpha}
    ours = both(*(functools.partial(loss, **options) for loss in (sigmoid_focal_loss, focal_loss)))
    kind = "ids" if num_classes == 1 else "multilabel"
    compare(ours, theirs, batches(num_classes, (2, 4, 3), kind=kind))


class TestSmpsFocalLoss:
    @pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (1.5, 0.25)])
    def test_binary(self, smp_losses, compare, batches, gamma, alpha):
        theirs = smp_losses.FocalLoss("binary", alpha, gamma, ignore_index=255)
        compare(functools.partial(focal_loss, gamma=gamma, alpha=alpha), theirs, batches(1))

    @pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (1.5, 0.25)])
    def test_multilabel(self, smp_losses, compare, batches, gamma, alpha):
        """With ignored entries it fails: tests/test_peer_defects.py, D3."""
        weights = [2.0, 0.5, 0.0]
        theirs = smp_losses.FocalLoss("multilabel", alpha, gamma, class_weights=weights)
        ours = functools.partial(focal_loss, gamma=gamma, alpha=alpha, class_weights=weights)
        compare(ours, theirs, batches(3, kind="multilabel", ignored=0))

    @pytest.mark.parametrize(("gamma", "alpha"), [(2.0, None), (1.5, 0.25)])
    def test_its_multiclass_form_is_one_sigmoid_for_each_class(
        self, smp_losses, compare, batches, gamma, alpha
    ):
        """The mean over counted pixels and classes of the sigmoid focal loss of class ids."""
        theirs = smp_losses.FocalLoss("multiclass", alpha, gamma, ignore_index=255)

        def ours(z, y):
            loss = sigmoid_focal_loss(z, y, gamma=gamma, alpha=alpha)
            return loss.sum() / (3 * (y != 255).astype(z.dtype).sum())

        compare(ours, theirs, batches(3))
        encoded = [(z, np.asarray(one_hot(y, 3))) for z, y in batches(3)]
        compare(
            functools.partial(focal_loss, gamma=gamma, alpha=alpha),
            lambda z, y: theirs(z, y.amax(1).where(y.amax(1) == 255, y.argmax(1))),
            encoded,
        )

    def test_softmax(self, smp_losses, compare, batches):
        theirs = smp_losses._functional.softmax_focal_loss_with_logits
        compare(focal_loss, theirs, batches(4, ignored=0))


@pytest.mark.parametrize("num_classes", [2, 4, 19])
@pytest.mark.parametrize("name", ["focal", "poly"])
def test_softmax_focal_and_poly_losses_are_their_formulas(
    torch, compare, batches, name, num_classes
):
    weights = WEIGHTS[num_classes]

    def theirs(z, y):
        counted, known = y != 255, torch.where(y == 255, 0, y)
        log_p = z.log_softmax(1).gather(1, known[:, None])[:, 0]
        own = torch.tensor(weights, dtype=torch.float64)[known] * counted
        if name == "focal":
            loss = -own * (1 - log_p.exp()) ** 1.5 * log_p
            return torch.cat([loss.flatten(), (loss.sum() / own.sum())[None]])
        return (own * (0.7 * (1 - log_p.exp()) - log_p)).sum() / own.sum()

    if name == "focal":
        options = {"gamma": 1.5, "class_weights": weights}
        ours = both(*(functools.partial(f, **options) for f in (softmax_focal_loss, focal_loss)))
    else:
        ours = functools.partial(poly_loss, epsilon=0.7, class_weights=weights)
    compare(ours, theirs, batches(num_classes, (2, 5, 4), absent=range(4, num_classes)))


@pytest.mark.parametrize("num_classes", [1, 3])
@pytest.mark.parametrize("epsilon", [-0.5, 2.0])
def test_poly_loss_of_sigmoids_is_its_formula(torch, compare, batches, num_classes, epsilon):
    def theirs(z, y):
        y = y.reshape(z.shape)
        counted = (y != 255).double()
        log_p = torch.nn.functional.logsigmoid(torch.where(y == 1, z, -z))
        return (counted * (epsilon * (1 - log_p.exp()) - log_p)).sum() / counted.sum()

    kind = "ids" if num_classes == 1 else "multilabel"
    ours = functools.partial(poly_loss, epsilon=epsilon)
    compare(ours, theirs, batches(num_classes, kind=kind))
