"""Losses that sort or select pixels beside their peers: Lovasz as its author wrote it, OHEM as mmsegmentation has it, top-k."""

import functools

import pytest

from jaxseg.losses import (
    cross_entropy,
    lovasz_hinge_loss,
    lovasz_softmax_loss,
    ohem_cross_entropy,
    topk_cross_entropy,
)

pytestmark = pytest.mark.parity
SHAPES = [(3, 5, 4), (2, 1, 13)]


@pytest.fixture
def berman(torch, smp_losses, monkeypatch):
    """The module of segmentation_models.pytorch that holds Berman's code, which casts to float32, in float64."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    return smp_losses.lovasz


class TestLovaszSoftmax:
    @pytest.mark.parametrize("per_image", [True, False])
    @pytest.mark.parametrize("num_classes", [2, 5])
    def test_smps_multiclass_loss(
        self, smp_losses, berman, compare, batches, num_classes, per_image
    ):
        theirs = smp_losses.LovaszLoss("multiclass", per_image, ignore_index=255)
        ours = functools.partial(lovasz_softmax_loss, per_image=per_image)
        compare(ours, theirs, batches(num_classes) + batches(num_classes, absent=(1, 4)))

    @pytest.mark.parametrize("per_image", [True, False])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_bermans_loss_of_all_classes(self, berman, compare, batches, shape, per_image):
        """A class without truth costs its largest error."""
        compare(
            functools.partial(lovasz_softmax_loss, per_image=per_image, present_only=False),
            lambda z, y: berman._lovasz_softmax(z.softmax(1), y, "all", per_image, 255),
            batches(5, shape, absent=(1, 4)),
        )

    @pytest.mark.parametrize("per_image", [True, False])
    def test_bermans_loss_of_one_sigmoid(self, berman, compare, batches, per_image):
        compare(
            functools.partial(lovasz_softmax_loss, per_image=per_image),
            lambda z, y: berman._lovasz_softmax(z[:, 0].sigmoid(), y, [1], per_image, 255),
            batches(1),
        )

    @pytest.mark.parametrize("per_image", [True, False])
    def test_class_weights_and_several_sigmoids(self, torch, berman, compare, batches, per_image):
        """Berman's loss of each class, with the classes' weights, where every image has every class."""
        weights = [1.0, 0.0, 2.5]

        def theirs(z, y):
            of_class = [
                berman._lovasz_softmax(z[:, c].sigmoid(), y[:, c], [1], per_image, 255)
                for c in range(3)
            ]
            return sum(w * x for w, x in zip(weights, of_class, strict=True)) / sum(weights)

        ours = functools.partial(lovasz_softmax_loss, per_image=per_image, class_weights=weights)
        compare(ours, theirs, batches(3, kind="multilabel"))

    def test_soft_truth(self, torch, compare, batches):
        """The steps of the Jaccard loss between neighbours, of shares instead of whole pixels."""

        def theirs(z, y):
            counted = (y != 255).all(1)
            p, t = (x.movedim(1, -1)[counted].T for x in (z.softmax(1), y))
            losses = []
            for errors, truth in zip((p - t).abs(), t, strict=True):
                errors, order = errors.sort(descending=True)
                missed, false = truth[order].cumsum(0), (1 - truth[order]).cumsum(0)
                jaccard = 1 - (truth.sum() - missed) / (truth.sum() + false)
                losses.append((errors * torch.diff(jaccard, prepend=torch.zeros(1).double())).sum())
            return torch.stack(losses).mean()

        ours = functools.partial(lovasz_softmax_loss, per_image=False)
        compare(ours, theirs, batches(3, kind="soft"))

    def test_one_pixel(self, berman, compare, batches):
        theirs = functools.partial(berman._lovasz_softmax, classes="all", ignore=255)
        ours = functools.partial(lovasz_softmax_loss, present_only=False)
        compare(ours, lambda z, y: theirs(z.softmax(1), y), batches(2, (1, 1, 1), ignored=0))


class TestLovaszHinge:
    @pytest.mark.parametrize("per_image", [True, False])
    @pytest.mark.parametrize("shape", SHAPES)
    def test_smps_binary_loss(self, smp_losses, berman, compare, batches, shape, per_image):
        theirs = smp_losses.LovaszLoss("binary", per_image, ignore_index=255)
        ours = functools.partial(lovasz_hinge_loss, per_image=per_image)
        compare(ours, theirs, batches(1, shape) + batches(1, shape, absent=(1,)))

    def test_a_margin_that_is_just_reached_has_no_slope(self, smp_losses, berman, compare, batches):
        theirs = smp_losses.LovaszLoss("binary", ignore_index=255)
        cases = batches(1)
        for logits, labels in cases:
            logits[0, 0, :2, 0] = 2.0 * labels[0, 0, :2] - 1
        compare(functools.partial(lovasz_hinge_loss, per_image=False), theirs, cases)

    @pytest.mark.parametrize("per_image", [True, False])
    @pytest.mark.parametrize("kind", ["ids", "multilabel"])
    def test_several_classes_are_its_mean(self, berman, compare, batches, kind, per_image):
        """Of each class against the rest; smp's multilabel form sorts the errors of all classes together."""

        def theirs(z, y):
            if y.ndim == 3:
                y = y[:, None].where(
                    y[:, None] == 255, y[:, None] == y.new_tensor(range(3))[:, None, None]
                )
            return sum(berman._lovasz_hinge(z[:, c], y[:, c], per_image, 255) for c in range(3)) / 3

        ours = functools.partial(lovasz_hinge_loss, per_image=per_image)
        compare(ours, theirs, batches(3, kind=kind, absent=(2,)))

    def test_smps_multilabel_loss_is_of_one_class_as_large_as_all(
        self, smp_losses, berman, compare, batches
    ):
        theirs = smp_losses.LovaszLoss("multilabel", per_image=True, ignore_index=255)

        def ours(z, y):
            return lovasz_hinge_loss(*(x.reshape(len(x), -1, 1, 1) for x in (z, y)))

        compare(ours, theirs, batches(3, kind="multilabel"))


def groups(z, y, per_image):
    """Logits `[K, ...]` and labels of each image, or of all of them together."""
    return zip(z, y, strict=True) if per_image else [(z.movedim(1, 0), y)]


OHEM = [(0.7, 5), (0.05, 5), (0.3, 12), (0.0, 1), (1.0, 3)]


def hard_pixels(torch, z, y, threshold, min_kept):
    """mmsegmentation's rule: the cross-entropies of the pixels kept of `[K, P]` logits.

    A pixel is kept below the larger of the threshold and of the probability that comes after `min_kept` smaller ones.
    """
    z, y = z[:, y != 255], y[y != 255]
    log_p = z.log_softmax(0).gather(0, y[None])[0]
    ordered = log_p.detach().exp().sort().values
    limit = max(threshold, ordered[min(min_kept, len(ordered) - 1)].item())
    return -log_p[log_p.exp() < limit], y[log_p.exp() < limit]


@pytest.mark.parametrize(("threshold", "min_kept"), OHEM)
@pytest.mark.parametrize("per_image", [True, False])
def test_ohem_is_mmsegmentations(torch, compare, batches, per_image, threshold, min_kept):
    def theirs(z, y):
        kept = [
            hard_pixels(torch, a.flatten(1), b.flatten(), threshold, min_kept)[0]
            for a, b in groups(z, y, per_image)
        ]
        return torch.cat(kept).mean()

    ours = functools.partial(
        ohem_cross_entropy, threshold=threshold, min_kept=min_kept, per_image=per_image
    )
    compare(ours, theirs, batches(4, (2, 6, 5)))


@pytest.mark.parametrize("per_image", [True, False])
def test_weights_do_not_select_and_stand_in_the_denominator(torch, compare, batches, per_image):
    weights = torch.tensor([1.0, 0.5, 3.0], dtype=torch.float64)

    def theirs(z, y):
        losses, labels = map(
            torch.cat,
            zip(
                *(
                    hard_pixels(torch, a.flatten(1), b.flatten(), 0.2, 6)
                    for a, b in groups(z, y, per_image)
                ),
                strict=True,
            ),
        )
        return (weights[labels] * losses).sum() / weights[labels].sum()

    options = {"threshold": 0.2, "min_kept": 6, "per_image": per_image}
    ours = functools.partial(ohem_cross_entropy, class_weights=weights.tolist(), **options)
    compare(ours, theirs, batches(3))


@pytest.mark.parametrize("name", ["ohem", "topk"])
def test_of_one_sigmoid_it_is_that_of_two_classes(torch, compare, batches, name):
    def theirs(z, y):
        z, y = torch.cat([torch.zeros_like(z), z], 1).movedim(1, 0).flatten(1), y.flatten()
        if name == "ohem":
            return hard_pixels(torch, z, y, 0.4, 9)[0].mean()
        return worst(torch, z[:, y != 255], y[y != 255], 0.25).mean()

    options = {"threshold": 0.4, "min_kept": 9} if name == "ohem" else {"fraction": 0.25}
    ours = ohem_cross_entropy if name == "ohem" else topk_cross_entropy
    compare(functools.partial(ours, per_image=False, **options), theirs, batches(1))


def test_where_there_are_few_pixels_mmsegmentation_leaves_out_the_easiest(torch, compare, batches):
    """Ours keeps all of them, so that its loss there is the cross-entropy."""
    pixels = batches(3, (1, 3, 5), ignored=0)

    def theirs(z, y):
        kept, _ = hard_pixels(torch, z[0].flatten(1), y.flatten(), 0.0, 15)
        assert len(kept) == 14
        everything = torch.nn.functional.cross_entropy(z, y, reduction="none")
        return (kept.sum() + everything.min()) / 15

    compare(functools.partial(ohem_cross_entropy, threshold=0.0, min_kept=15), theirs, pixels)
    compare(cross_entropy, theirs, pixels)


def worst(torch, z, y, fraction):
    """The largest cross-entropies of `[K, P]` logits: a share of them, as nnU-Net counts it."""
    loss = torch.nn.functional.cross_entropy(z.T, y, reduction="none")
    return loss.topk(max(int(len(loss) * fraction), 1)).values


@pytest.mark.parametrize(("fraction", "ignored"), [(0.01, 0.4), (0.1, 0), (0.35, 0.4), (1.0, 0)])
@pytest.mark.parametrize("per_image", [True, False])
def test_topk_is_nnunets(torch, compare, batches, per_image, ignored, fraction):
    """Which counts a tenth of all pixels of the batch, ignored ones among them; ours one of those that count."""

    def theirs(z, y):
        parts = [
            worst(torch, a[:, b != 255], b[b != 255], fraction) for a, b in groups(z, y, per_image)
        ]
        return torch.cat(parts).mean()

    ours = functools.partial(topk_cross_entropy, fraction=fraction, per_image=per_image)
    compare(ours, theirs, batches(3, (2, 4, 5), ignored=ignored))
