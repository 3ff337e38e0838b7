"""Every loss against its formula in NumPy and SciPy, in float64, pixel by pixel where that is the plainest."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from jaxseg import losses

MODES = {"binary": 1, "multiclass": 4, "multilabel": 3}
WEIGHTS = {"binary": [0.5, 3.0], "multiclass": [1.0, 0.0, 2.0, 0.25], "multilabel": [1.0, 2.0, 0.5]}
every_mode = pytest.mark.parametrize("mode", MODES)


def case(mode, seed=0, shape=(3, 6, 5)):
    """Logits and labels: blobs rather than noise, a class absent from an image, image 2 ignored, a row ignored."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, MODES[mode])) * 2
    if mode == "multilabel":
        labels = (ndimage.gaussian_filter(rng.normal(size=logits.shape), (0, 1, 1, 0)) > 0).astype(
            int
        )
    else:
        noise = ndimage.gaussian_filter(rng.normal(size=(*shape, 3)), (0, 1, 1, 0))
        labels = noise.argmax(-1) if mode == "multiclass" else (noise[..., 0] > 0).astype(int)
    labels[:, 4] = 255
    labels[2] = 255
    labels[1, 0, 0] = 255
    return logits, labels


def shares(mode, logits, labels):
    """Probability, truth and what is counted, `[N, H, W, K]`."""
    if mode == "multiclass":
        exponents = np.exp(logits)
        p = exponents / exponents.sum(-1, keepdims=True)
        y = labels[..., None] == np.arange(logits.shape[-1])
        counted = np.broadcast_to(labels[..., None] != 255, p.shape)
    else:
        p = 1 / (1 + np.exp(-logits))
        entries = labels.reshape(p.shape)
        y, counted = entries == 1, entries != 255
    return p * counted, (y & counted).astype(float), counted


def entries(mode, logits, labels, weights=None):
    """Lists, one for each image, of (probability of the label, weight, whether the label is 1)."""
    p, y, counted = shares(mode, logits, labels)
    images = []
    for image in range(len(p)):
        found = []
        for place in np.ndindex(p.shape[1:]):
            here = (image, *place)
            c = place[-1]
            if not counted[here] or (mode == "multiclass" and not y[here]):
                continue
            true = y[here] == 1
            index = c if mode != "binary" else int(true)
            probability = p[here] if true else 1 - p[here]
            found.append((probability, 1.0 if weights is None else weights[index], true))
        images.append(np.array(found).reshape(-1, 3))
    return images


def value(loss, logits, labels, **options):
    with jax.enable_x64(True):
        return np.asarray(jax.jit(lambda z, y: loss(z, y, **options))(jnp.asarray(logits), labels))


@every_mode
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("loss", "options", "formula"),
    [
        (losses.focal_loss, {"gamma": 2.0}, lambda p, y: -((1 - p) ** 2) * np.log(p)),
        (losses.focal_loss, {"gamma": 0.5}, lambda p, y: -np.sqrt(1 - p) * np.log(p)),
        (losses.focal_loss, {"gamma": 0.0}, lambda p, y: -np.log(p)),
        (losses.poly_loss, {"epsilon": 1.0}, lambda p, y: -np.log(p) + 1 - p),
        (losses.poly_loss, {"epsilon": -0.5}, lambda p, y: -np.log(p) - 0.5 * (1 - p)),
        (losses.cross_entropy, {}, lambda p, y: -np.log(p)),
    ],
)
@pytest.mark.sample(9)
def test_means_over_pixels(mode, weighted, loss, options, formula):
    logits, labels = case(mode)
    weights = WEIGHTS[mode] if weighted else None
    p, w, y = np.concatenate(entries(mode, logits, labels, weights)).T
    got = value(loss, logits, labels, class_weights=weights, **options)
    np.testing.assert_allclose(got, (w * formula(p, y)).sum() / w.sum(), rtol=1e-10)


@every_mode
@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        losses.focal_loss,
        losses.poly_loss,
        losses.boundary_loss,
        losses.hausdorff_loss,
    ],
)
@pytest.mark.sample(3)
def test_per_image_is_the_mean_of_the_images_that_count(mode, loss):
    """Image 2 is ignored as a whole and is no image of loss 0."""
    logits, labels = case(mode)
    single = [value(loss, logits[i : i + 1], labels[i : i + 1]) for i in range(2)]
    got = value(loss, logits, labels, per_image=True)
    np.testing.assert_allclose(got, np.mean(single), rtol=1e-10)
    assert abs(got - value(loss, logits, labels)) > 1e-6


@pytest.mark.parametrize("mode", ["binary", "multilabel"])
def test_alpha_of_the_focal_loss_divides_the_labels(mode):
    logits, labels = case(mode)
    p, _, y = np.concatenate(entries(mode, logits, labels)).T
    expected = (np.where(y, 0.25, 0.75) * (1 - p) ** 2 * -np.log(p)).mean()
    np.testing.assert_allclose(
        value(losses.focal_loss, logits, labels, alpha=0.25), expected, rtol=1e-10
    )


@pytest.mark.parametrize("per_image", [True, False])
@every_mode
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.3, 2), (0.7, 5), (0.05, 7), (0.9, 1000)])
@pytest.mark.sample(6)
def test_ohem_keeps_what_is_improbable_and_so_many_at_least(mode, threshold, min_kept, per_image):
    logits, labels = case(mode)
    groups = entries(mode, logits, labels)
    groups = groups if per_image else [np.concatenate(groups)]
    kept = []
    for group in groups:
        p = np.sort(group[:, 0])
        number = max((p < threshold).sum(), min(min_kept, len(p)))
        kept += list(-np.log(p[:number]))
    options = {"threshold": threshold, "min_kept": min_kept, "per_image": per_image}
    got = value(losses.ohem_cross_entropy, logits, labels, **options)
    np.testing.assert_allclose(got, np.mean(kept), rtol=1e-10)


@pytest.mark.parametrize("per_image", [True, False])
@every_mode
@pytest.mark.parametrize("fraction", [0.01, 0.3, 1.0])
@pytest.mark.sample(6)
def test_topk_keeps_the_worst(mode, fraction, per_image):
    logits, labels = case(mode)
    groups = entries(mode, logits, labels)
    groups = groups if per_image else [np.concatenate(groups)]
    kept = []
    for group in groups:
        p = np.sort(group[:, 0])
        kept += list(-np.log(p[: max(int(len(p) * fraction), 1)]))
    got = value(losses.topk_cross_entropy, logits, labels, fraction=fraction, per_image=per_image)
    np.testing.assert_allclose(got, np.mean(kept), rtol=1e-10)


@pytest.mark.parametrize("classes", [3, 9], ids=["computed again", "kept as a map"])
def test_pixels_without_any_loss_count_among_those_of_which_a_share_is_kept(classes):
    """Of eight pixels two have a loss; the fourth hardest has none, and so tie all others."""
    logits = np.zeros((1, 2, 4, classes), np.float32)
    logits[..., 0] = 1000.0
    logits[0, 0, 0, 0], logits[0, 1, 3, 0] = 0.0, 1.0
    labels = np.zeros((1, 2, 4), np.int32)
    hard = [np.log(classes), np.log(1 + (classes - 1) * np.exp(-1))]
    got = losses.topk_cross_entropy(logits, labels, fraction=0.5)
    np.testing.assert_allclose(got, sum(hard) / 8, rtol=1e-6)


def by_class(mode, logits, labels, per_image):
    """(image or None, class, probabilities, truth) of the counted pixels."""
    p, y, counted = shares(mode, logits, labels)
    for group in range(len(p)) if per_image else [slice(None)]:
        for c in range(p.shape[-1]):
            valid = counted[group][..., c]
            yield group, c, p[group][..., c][valid], y[group][..., c][valid]


def tversky(p, y, alpha=0.3, beta=0.7, smooth=0.0):
    overlap = (p * y).sum()
    wrong = alpha * (p * (1 - y)).sum() + beta * ((1 - p) * y).sum()
    return 1 - (overlap + smooth) / (overlap + wrong + smooth)


def matthews(p, y, smooth=1e-5):
    tp, tn = (p * y).sum() + smooth, ((1 - p) * (1 - y)).sum() + smooth
    fp, fn = (p * (1 - y)).sum() + smooth, ((1 - p) * y).sum() + smooth
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return 1 - (tp * tn - fp * fn) / np.sqrt(product)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("per_image", [False, True])
@every_mode
@pytest.mark.parametrize(
    ("loss", "formula"),
    [
        (losses.tversky_loss, tversky),
        (losses.focal_tversky_loss, lambda p, y: tversky(p, y) ** 0.75),
        (losses.mcc_loss, matthews),
    ],
)
@pytest.mark.sample(9)
def test_means_over_the_classes_that_are_there(mode, per_image, weighted, loss, formula):
    logits, labels = case(mode)
    weights = WEIGHTS[mode] if weighted and mode != "binary" else [1.0] * 4
    terms, counted = [], []
    for _, c, p, y in by_class(mode, logits, labels, per_image):
        if y.any() and not (loss is losses.mcc_loss and y.all()):
            terms.append(formula(p, y))
            counted.append(weights[c])
    options = {"per_image": per_image, "class_weights": WEIGHTS[mode] if weighted else None}
    got = value(loss, logits, labels, **options)
    np.testing.assert_allclose(got, np.average(terms, weights=counted), rtol=1e-9)


@every_mode
def test_log_cosh_dice(mode):
    logits, labels = case(mode)
    expected = np.log(np.cosh(value(losses.dice_loss, logits, labels)))
    np.testing.assert_allclose(
        value(losses.log_cosh_dice_loss, logits, labels), expected, rtol=1e-9
    )


@pytest.mark.parametrize("per_image", [False, True])
@every_mode
def test_generalized_dice(mode, per_image):
    logits, labels = case(mode)
    groups = {}
    for group, _, p, y in by_class(mode, logits, labels, per_image):
        groups.setdefault(str(group), []).append(((p * y).sum(), p.sum(), y.sum()))
    expected = []
    for sums in groups.values():
        overlap, predicted, true = np.array(sums).T
        if true.any():
            weights = 1 / np.where(true, true, np.inf) ** 2
            weights = np.where(true, weights, weights.max())
            ratio = 2 * (weights * overlap).sum() / (weights * (predicted + true)).sum()
            expected.append(1 - ratio)
    got = value(losses.generalized_dice_loss, logits, labels, per_image=per_image)
    np.testing.assert_allclose(got, np.mean(expected), rtol=1e-10)


def jaccard_of(mistakes, y):
    """The Jaccard loss of a set of pixels got wrong."""
    true = set(np.flatnonzero(y))
    predicted = true ^ set(mistakes)
    return 1 - len(true & predicted) / len(true | predicted) if true | predicted else 0.0


def lovasz(errors, y):
    """The definition: the Jaccard loss of ever more mistakes, largest errors first."""
    order = np.argsort(-errors, kind="stable")
    levels = [jaccard_of(order[:i], y) for i in range(len(y) + 1)]
    return (errors[order] * np.diff(levels)).sum()


@pytest.mark.parametrize("present_only", [True, False])
@pytest.mark.parametrize("per_image", [True, False])
@every_mode
@pytest.mark.parametrize("name", ["softmax", "hinge"])
@pytest.mark.sample(6)
def test_lovasz_is_the_definition(mode, name, per_image, present_only):
    logits, labels = case(mode)
    _, _, counted = shares(mode, logits, labels)
    groups = {}
    for group, c, p, y in by_class(mode, logits, labels, per_image):
        if name == "hinge":
            z = logits[group][..., c][counted[group][..., c]]
            p, y = z, y
            errors = np.maximum(1 - z * (2 * y - 1), 0)
        else:
            errors = np.abs(y - p)
        if len(y) and (y.any() or not present_only):
            groups.setdefault(str(group), []).append(lovasz(errors, y))
    loss = {"softmax": losses.lovasz_softmax_loss, "hinge": losses.lovasz_hinge_loss}[name]
    got = value(loss, logits, labels, per_image=per_image, present_only=present_only)
    np.testing.assert_allclose(got, np.mean([np.mean(g) for g in groups.values()]), rtol=1e-10)


def test_lovasz_of_a_set_of_mistakes_is_its_jaccard_loss():
    """At errors of 0 and 1 the extension is the function that it extends: all 64 predictions of six pixels."""
    truth = np.array([1, 1, 0, 0, 1, 0])
    batch = np.array(list(itertools.product([0, 1], repeat=6)))
    labels = np.broadcast_to(truth, batch.shape)[:, None]
    with jax.enable_x64(True):
        loss = jax.jit(jax.vmap(lambda z, y: losses.lovasz_softmax_loss(z[None], y[None])))
        got = loss(jnp.where(batch == 1, 400.0, -400.0)[:, None, :, None], labels)
    expected = [jaccard_of(np.flatnonzero(row != truth), truth) for row in batch]
    np.testing.assert_allclose(got, expected, atol=1e-12)


def skeleton(x, iterations):
    """Grey erosion with a cross, dilation with a square, as SciPy has them."""
    cross = ndimage.generate_binary_structure(2, 1)

    def opened(x):
        eroded = ndimage.grey_erosion(x, footprint=cross, mode="nearest")
        return ndimage.grey_dilation(eroded, size=(3, 3), mode="nearest")

    thin = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = ndimage.grey_erosion(x, footprint=cross, mode="nearest")
        delta = np.maximum(x - opened(x), 0)
        thin = thin + np.maximum(delta - thin * delta, 0)
    return thin


@pytest.mark.parametrize("per_image", [False, True])
@every_mode
@pytest.mark.sample(2)
def test_soft_cldice(mode, per_image):
    logits, labels = case(mode, shape=(3, 9, 8))
    p, y, _ = shares(mode, logits, labels)
    thin_p, thin_y = np.zeros_like(p), np.zeros_like(y)
    for image, c in np.ndindex(p.shape[0], p.shape[-1]):
        thin_p[image, ..., c] = skeleton(p[image, ..., c], 3)
        thin_y[image, ..., c] = skeleton(y[image, ..., c], 3)
    terms = []
    for group in range(len(p)) if per_image else [slice(None)]:
        for c in range(p.shape[-1]):
            a, b, s, t = (x[group][..., c] for x in (p, y, thin_p, thin_y))
            if b.any():
                precision = ((s * b).sum() + 1) / (s.sum() + 1)
                sensitivity = ((t * a).sum() + 1) / (t.sum() + 1)
                terms.append(1 - 2 * precision * sensitivity / (precision + sensitivity))
    got = value(losses.soft_cldice_loss, logits, labels, per_image=per_image)
    np.testing.assert_allclose(got, np.mean(terms), rtol=1e-10)


def distances(inside, counted):
    """To the nearest counted pixel inside and outside; zeros where there is no boundary."""
    inside, outside = inside & counted, ~inside & counted
    if not inside.any() or not outside.any():
        return np.zeros(inside.shape), np.zeros(inside.shape)
    return tuple(ndimage.distance_transform_edt(~x) for x in (inside, outside))


@pytest.mark.parametrize("weighted", [False, True])
@every_mode
@pytest.mark.parametrize("name", ["boundary", "hausdorff"])
@pytest.mark.sample(3)
def test_losses_of_distances(mode, name, weighted):
    logits, labels = case(mode, shape=(3, 9, 8))
    p, y, counted = shares(mode, logits, labels)
    weights = WEIGHTS[mode] if weighted and mode != "binary" else [1.0] * 4
    terms, total = 0.0, 0.0
    for image, c in np.ndindex(p.shape[0], p.shape[-1]):
        a, b, valid = (x[image, ..., c] for x in (p, y, counted))
        near, far = distances(b == 1, valid)
        if name == "boundary":
            term = a * np.where(b == 1, np.where(far > 0, 1 - far, 0), near)
        else:
            term = (a - b) ** 2 * ((near + far) ** 2 + sum(distances(a > 0.5, valid)) ** 2)
        terms += weights[c] * term[valid].sum()
        total += weights[c] * valid.sum()
    loss = {"boundary": losses.boundary_loss, "hausdorff": losses.hausdorff_loss}[name]
    got = value(loss, logits, labels, class_weights=WEIGHTS[mode] if weighted else None)
    np.testing.assert_allclose(got, terms / total, rtol=1e-10)


def test_without_truth_or_nothing_else_there_is_no_boundary():
    logits = np.random.default_rng(0).normal(size=(1, 4, 4, 1))
    for label in (0, 1):
        assert value(losses.boundary_loss, logits, np.full((1, 4, 4), label)) == 0


@pytest.mark.parametrize(
    "loss",
    [
        losses.cross_entropy,
        losses.dice_loss,
        losses.generalized_dice_loss,
        losses.mcc_loss,
        losses.lovasz_softmax_loss,
        losses.soft_cldice_loss,
        losses.boundary_loss,
        losses.hausdorff_loss,
    ],
)
@pytest.mark.sample(2)
def test_shares_of_classes_that_are_0_and_1_are_class_ids(loss):
    logits, labels = case("multiclass")
    soft = (labels[..., None] == np.arange(4)).astype(float)
    soft[labels == 255, 1] = 255
    options = {"class_weights": WEIGHTS["multiclass"]}
    np.testing.assert_allclose(
        value(loss, logits, soft, **options), value(loss, logits, labels, **options), rtol=1e-12
    )
    logits, labels = case("binary")
    soft = labels.astype(float)
    np.testing.assert_allclose(value(loss, logits, soft), value(loss, logits, labels), rtol=1e-12)


def test_one_against_rest_is_multilabel():
    logits, labels = case("multiclass")
    rest = np.where(labels[..., None] == 255, 255, labels[..., None] == np.arange(4))
    for loss in (losses.sigmoid_focal_loss, losses.sigmoid_cross_entropy):
        np.testing.assert_array_equal(value(loss, logits, labels), value(loss, logits, rest))
        assert value(loss, logits, labels).shape == logits.shape
