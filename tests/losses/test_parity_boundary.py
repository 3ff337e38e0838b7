"""Losses of centrelines and distances beside MONAI's and the authors' formulas, written out in torch and SciPy."""

import functools

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from jaxseg.losses import boundary_loss, hausdorff_loss, soft_cldice_loss, soft_skeleton

pytestmark = pytest.mark.parity
MODES = {"binary": (1, "ids"), "multiclass": (4, "ids"), "multilabel": (3, "multilabel")}
SHAPES = [(2, 6, 9), (3, 11, 5)]


@pytest.fixture
def shares(torch):
    """`shares(z, y)`: probabilities, truth and what is counted of each class, `[N, K, H, W]`; 0 where ignored."""

    def read(z, y):
        if y.ndim == 3 and z.shape[1] > 1:
            classes = torch.arange(z.shape[1])[:, None, None]
            y, p = torch.where(y[:, None] == 255, 255, (y[:, None] == classes).long()), z.softmax(1)
        else:
            y, p = y.reshape(z.shape), z.sigmoid()
        counted = y != 255
        return p * counted, torch.where(counted, y, 0).double(), counted

    return read


@pytest.fixture
def skeleton(torch):
    """`skeleton(x, iterations)` of `[N, K, H, W]`: what openings take away from ever smaller forms."""
    largest = functools.partial(torch.nn.functional.max_pool2d, stride=1)

    def erode(x):
        upright = -largest(-x, (3, 1), padding=(1, 0))
        return torch.min(upright, -largest(-x, (1, 3), padding=(0, 1)))

    def taken_away(x):
        return (x - largest(erode(x), 3, padding=1)).relu()

    def run(x, iterations):
        found = taken_away(x)
        for _ in range(iterations):
            x = erode(x)
            more = taken_away(x)
            found = found + (more - found * more).relu()
        return found

    return run


def cldice(p, t, skeleton, iterations, smooth, dims):
    """Of MONAI's `SoftclDiceLoss`, with the axes that are summed over."""
    thin_p, thin_t = skeleton(p, iterations), skeleton(t, iterations)
    precision = ((thin_p * t).sum(dims) + smooth) / (thin_p.sum(dims) + smooth)
    sensitivity = ((thin_t * p).sum(dims) + smooth) / (thin_t.sum(dims) + smooth)
    return 1 - 2 * precision * sensitivity / (precision + sensitivity)


@pytest.mark.parametrize(("iterations", "shape"), [(0, SHAPES[0]), (3, SHAPES[1])])
def test_the_skeleton_is_monais(skeleton, compare, batches, shape, iterations):
    compare(
        lambda z, y: soft_skeleton(z, iterations),
        lambda z, y: skeleton(z, iterations).movedim(1, -1),
        batches(3, shape),
    )


@pytest.mark.parametrize(("iterations", "smooth"), [(3, 1.0), (1, 0.1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_cldice_loss_of_one_class_is_monais(
    shares, skeleton, compare, batches, shape, iterations, smooth
):
    """What is ignored, which MONAI does not know, is background."""

    def theirs(z, y):
        p, t, _ = shares(z, y)
        return cldice(p, t, skeleton, iterations, smooth, (0, 1, 2, 3))

    ours = functools.partial(soft_cldice_loss, iterations=iterations, smooth=smooth)
    compare(ours, theirs, batches(1, shape))


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("mode", MODES)
def test_cldice_loss_is_a_mean_over_classes(shares, skeleton, compare, batches, mode, per_image):
    """MONAI sums over all classes but the first before it divides; an absent class is left out here."""
    num_classes, kind = MODES[mode]
    absent = (1,) if num_classes > 1 else ()

    def theirs(z, y):
        p, t, _ = shares(z, y)
        losses = cldice(p, t, skeleton, 1, 1.0, (2, 3) if per_image else (0, 2, 3))
        there = [c for c in range(num_classes) if c not in absent]
        return losses[..., there].mean()

    ours = functools.partial(soft_cldice_loss, iterations=1, per_image=per_image)
    compare(ours, theirs, batches(num_classes, (2, 7, 5), kind=kind, absent=absent))


def test_where_pixels_tie_the_gradient_is_monais(torch, skeleton, compare, batches):
    """As all pixels do at first under a head that starts with zeros: what an opening leaves is 0, and so is its slope."""

    def theirs(z, y):
        return cldice(z.sigmoid(), y[:, None].double(), skeleton, 3, 1.0, (0, 1, 2, 3))

    cases = [(z.round(), y) for z, y in batches(1, (1, 9, 7), ignored=0)]
    compare(soft_cldice_loss, theirs, [*cases, *((0 * z, y) for z, y in cases)])


def each_image(distances, *masks):
    """A function of single masks `[H, W]`, for each of `[N, K, H, W]`."""
    flat = [np.asarray(x).reshape(-1, *x.shape[2:]) for x in masks]
    return np.stack([distances(*x) for x in zip(*flat, strict=True)]).reshape(masks[0].shape)


def to_nearest(seeds):
    return distance_transform_edt(~seeds)


def near_and_far(inside, counted):
    """Distances to the nearest counted pixel inside, and outside; 0 where one of them is nowhere."""
    if not (inside & counted).any() or not (~inside & counted).any():
        return np.zeros(inside.shape), np.zeros(inside.shape)
    return to_nearest(inside & counted), to_nearest(~inside & counted)


def two_sided(inside, counted):
    return sum(near_and_far(inside, counted))


def signed(inside, counted):
    near, far = near_and_far(inside, counted)
    return np.where(inside, 1 - far, near)


@pytest.mark.parametrize(("alpha", "shape"), [(2.0, SHAPES[0]), (0.5, SHAPES[1])])
@pytest.mark.parametrize("mode", MODES)
def test_hausdorff_loss_is_monais(torch, shares, compare, batches, mode, alpha, shape):
    """With the background among the classes, and where nothing is ignored, which MONAI does not know."""
    num_classes, kind = MODES[mode]

    def theirs(z, y):
        p, t, _ = shares(z, y)
        fields = []
        for mask in (p.detach().numpy() > 0.5, t.numpy() > 0.5):
            fields.append(
                each_image(
                    lambda m: (
                        to_nearest(m) + to_nearest(~m) if m.any() and not m.all() else 0.0 * m
                    ),
                    mask,
                )
            )
        distance = sum(torch.tensor(field) ** alpha for field in fields)
        return torch.stack(
            [((p[:, c] - t[:, c]) ** 2 * distance[:, c]).mean() for c in range(num_classes)]
        ).mean()

    absent = (1,) if num_classes > 1 else ()
    cases = batches(num_classes, shape, kind=kind, ignored=0, absent=absent)
    for logits, _ in cases:
        logits[0, ..., 0] += 20  # a prediction that fills an image
    compare(functools.partial(hausdorff_loss, alpha=alpha), theirs, cases)


@pytest.mark.parametrize("mode", ["multiclass", "multilabel"])
def test_monai_leaves_out_the_background(torch, shares, compare, batches, mode):
    """As class weights with a 0 do."""
    num_classes, kind = MODES[mode]

    def theirs(z, y):
        p, t, _ = shares(z, y)
        masks = (x.detach().numpy()[:, 1:] > 0.5 for x in (p, t))
        distance = sum(torch.tensor(each_image(two_sided, m, np.ones_like(m))) ** 2 for m in masks)
        return ((p - t)[:, 1:] ** 2 * distance).mean()

    weights = [0.0, *[1.0] * (num_classes - 1)]
    ours = functools.partial(hausdorff_loss, class_weights=weights)
    compare(ours, theirs, batches(num_classes, kind=kind, ignored=0))


@pytest.mark.parametrize("per_image", [True, False])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["boundary", "hausdorff"])
def test_what_is_ignored_is_neither_inside_nor_outside(
    torch, shares, compare, batches, mode, name, per_image
):
    """Distances reach over it, to the nearest pixel that counts; means are by class weights, over what counts."""
    num_classes, kind = MODES[mode]
    weights = [2.0, 0.5, 1.0, 0.25][:num_classes]

    def theirs(z, y):
        p, t, counted = shares(z, y)
        inside, counts = t.numpy() > 0.5, counted.numpy()
        if name == "boundary":
            terms = p * torch.tensor(each_image(signed, inside, counts))
        else:
            masks = (p.detach().numpy() > 0.5, inside)
            fields = (torch.tensor(each_image(two_sided, m, counts)) for m in masks)
            terms = (p - t) ** 2 * sum(field**2 for field in fields)
        w = torch.tensor(weights)[:, None, None] * counted
        dims = (1, 2, 3) if per_image else (0, 1, 2, 3)
        return ((w * terms).sum(dims) / w.sum(dims)).mean()

    loss = boundary_loss if name == "boundary" else hausdorff_loss
    options = {"class_weights": weights if num_classes > 1 else None, "per_image": per_image}
    ours = functools.partial(loss, **options)
    compare(ours, theirs, batches(num_classes, (2, 9, 6), kind=kind, ignored=0.4))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", MODES)
def test_boundary_loss_is_kervadecs(torch, shares, compare, batches, mode, shape):
    """Mean of probabilities times signed distances, which are 0 where the truth is empty (SciPy defines no full one)."""
    num_classes, kind = MODES[mode]

    def level(mask):
        if not mask.any():
            return np.zeros(mask.shape)
        return to_nearest(mask) * ~mask - (to_nearest(~mask) - 1) * mask

    def theirs(z, y):
        p, t, _ = shares(z, y)
        return (p * torch.tensor(each_image(level, t.numpy() > 0.5))).mean()

    absent = (1,) if num_classes > 1 else ()
    compare(boundary_loss, theirs, batches(num_classes, shape, kind=kind, ignored=0, absent=absent))


def test_a_class_without_a_boundary_counts_in_the_mean(torch, compare):
    """A full image and an empty one: their distances are 0, and their pixels count all the same."""
    logits = (
        np.random.default_rng(0).normal(size=(3, 4, 5, 1)).astype(np.float32).astype(np.float64)
    )
    labels = np.zeros((3, 4, 5), np.int32)
    labels[0, :2], labels[1] = 1, 1

    def theirs(z, y):
        distance = torch.tensor(signed(labels[0] == 1, labels[0] < 2))
        return (z[0, 0].sigmoid() * distance).sum() / labels.size

    compare(boundary_loss, theirs, [(logits, labels)])
