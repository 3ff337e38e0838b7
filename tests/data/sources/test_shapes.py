import hashlib
import pickle

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import metrics
from jaxseg.data.label_spec import LabelOptions
from jaxseg.data.sources.shapes import CLASSES, PALETTE, Shapes, ShapesOptions
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe

SIZES = [(1, 1), (1, 50), (200, 3), (17, 33), (64, 64), (240, 320)]


@pytest.fixture(scope="module")
def records():
    return list(Shapes(300, (64, 64), seed=3))


def digest(record):
    parts = [
        np.ascontiguousarray(record[name]).tobytes() for name in ("image", "label", "instance")
    ]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def test_shapes_image_has_known_bytes():
    assert digest(Shapes(1, (64, 64), seed=0)[0]) == "a88750c88515ed5c"
    assert digest(Shapes(10, (37, 91), seed=5)[9]) == "af7c4f53624d839a"


def test_shapes_image_depends_on_seed_and_index_only():
    source = Shapes(20, (32, 48), seed=2)
    in_order = [digest(record) for record in source]
    assert [digest(source[i]) for i in reversed(range(20))] == in_order[::-1]
    assert [digest(Shapes(1000, (32, 48), seed=2)[i]) for i in range(20)] == in_order
    others = [digest(record) for record in Shapes(20, (32, 48), seed=3)]
    assert len({*in_order, *others}) == 40


def test_shapes_survive_pickle():
    source = Shapes(5, (16, 16), seed=9)
    assert digest(pickle.loads(pickle.dumps(source))[4]) == digest(source[4])


@pytest.mark.parametrize("size", SIZES)
def test_shapes_of_any_size(size):
    for record in Shapes(8, size):
        assert record["image"].shape == (*size, 3)
        assert record["image"].dtype == np.uint8
        assert record["label"].shape == record["instance"].shape == size
        assert record["label"].dtype == np.uint8
        assert record["instance"].dtype == np.int32


def test_shapes_attributes():
    source = Shapes(12, seed=4)
    assert source.classes == CLASSES
    assert source.num_classes == len(CLASSES) == 7
    assert source.palette is PALETTE
    assert PALETTE.shape == (7, 3)
    assert PALETTE.dtype == np.uint8
    assert source.ignore_index == 255
    assert len(source) == 12
    assert source[11]["name"] == source[-1]["name"] == "shapes-4-000011"


def test_shapes_instances_agree_with_labels(records):
    for record in records:
        label, instance = record["label"], record["instance"]
        np.testing.assert_array_equal(label == 0, instance == 0)
        assert label.max() < len(CLASSES)
        ids = np.unique(instance)
        np.testing.assert_array_equal(ids[ids > 0], np.arange(1, instance.max() + 1))
        assert all(len(np.unique(label[instance == i])) == 1 for i in ids)


def test_shapes_overlap_partially(records):
    """Shapes of one image often touch, but none is hidden entirely."""
    touching = 0
    for record in records:
        instance = record["instance"]
        pairs = np.stack([instance[:, :-1], instance[:, 1:]])
        touching += bool(((pairs[0] != pairs[1]) & (pairs > 0).all(0)).any())
    assert touching > 0.5 * len(records)


def test_shapes_every_class_is_frequent(records):
    labels = np.stack([record["label"] for record in records])
    shares = np.bincount(labels.ravel(), minlength=7) / labels.size
    assert 0.5 < shares[0] < 0.8
    assert (shares[1:] > 0.02).all()
    images = np.array([[k in label for k in range(7)] for label in labels]).mean(0)
    assert (images > 0.25).all()


def test_shapes_vary_in_size_and_width(records):
    areas = np.concatenate([np.bincount(record["instance"].ravel())[1:] for record in records])
    assert np.percentile(areas, 10) < 350
    assert np.percentile(areas, 90) > 1000
    thin = [record["label"] == CLASSES.index("bar") for record in records]
    widths = [mask[mask.any(1)].sum(1).min() for mask in thin if mask.any()]
    assert min(widths) <= 2


def test_shapes_scale_with_the_image():
    def share(size):
        labels = np.stack([record["label"] for record in Shapes(40, size, seed=1)])
        return np.bincount(labels.ravel(), minlength=7) / labels.size

    np.testing.assert_allclose(share((48, 48)), share((144, 144)), atol=0.01)


def test_shapes_two_classes_share_their_colours(records):
    """Colour histograms of the two classes of a pair are much more similar than those of different pairs."""
    bins = np.stack([record["image"] for record in records]).astype(int) // 64
    code = (bins[..., 0] * 4 + bins[..., 1]) * 4 + bins[..., 2]
    labels = np.stack([record["label"] for record in records])
    histograms = [
        np.bincount(code[labels == k], minlength=64) / (labels == k).sum() for k in range(7)
    ]
    for pair in (1, 3, 5):
        apart = [np.abs(histograms[pair] - h).sum() / 2 for h in histograms]
        assert apart[pair + 1] < 0.5
        assert min(apart[k] for k in range(1, 7) if k not in (pair, pair + 1)) > 0.65


@pytest.mark.parametrize(
    "arguments",
    [
        {"length": -1},
        {"length": 1, "size": (0, 4)},
        {"length": 1, "size": (4, 4, 4)},
        {"length": 1, "seed": -1},
    ],
)
def test_shapes_invalid_arguments_raise(arguments):
    with pytest.raises(InputError, match="at least"):
        Shapes(**arguments)


@pytest.mark.parametrize("index", [3, -4])
def test_shapes_index_out_of_range_raises(index):
    with pytest.raises(IndexError):
        Shapes(3)[index]


class Convolutions(nn.Module):
    """Three convolutions, whose receptive field is `1 + 3 * (kernel - 1)` pixels."""

    kernel: int

    @nn.compact
    def __call__(self, x):
        size = (self.kernel, self.kernel)
        for _ in range(2):
            x = nn.relu(nn.Conv(48, size)(x))
        return nn.Conv(len(CLASSES), size)(x)


@pytest.mark.slow
@pytest.mark.full
@pytest.mark.parametrize(("kernel", "limit"), [(1, 0.5), (3, 0.75)])
def test_shapes_small_receptive_fields_do_not_suffice(kernel, limit):
    """Networks with receptive fields of 1 and 7 x 7 pixels, trained as long as `jaxseg train` trains its U-Net."""
    recipe, options = Recipe(), ShapesOptions()
    batch = recipe.train.batch_size
    steps = recipe.train.epochs * options.train_length // batch
    train = options.open("train", root=None, labels=LabelOptions())
    validation = options.open("val", root=None, labels=LabelOptions())
    model = Convolutions(kernel)
    rng = np.random.default_rng(0)

    def arrays(records):
        images = np.stack([record["image"] for record in records])
        return (images / np.float32(127.5) - 1).astype(np.float32), np.stack(
            [record["label"] for record in records]
        )

    def loss_fn(params, images, labels):
        logits = model.apply({"params": params}, images)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    options = {"xla_cpu_experimental_ynn_fusion_type": ""}

    def step(params, state, images, labels):
        loss, gradients = jax.value_and_grad(loss_fn)(params, images, labels)
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    images, labels = arrays(list(train))
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    state, first, last = optimizer.init(params), None, 0.0
    run = jax.jit(step, compiler_options=options)
    for _ in range(steps):
        chosen = rng.choice(len(images), batch, replace=False)
        params, state, loss = run(params, state, images[chosen], labels[chosen].astype(np.int32))
        first = float(loss) if first is None else first
        last = 0.95 * last + 0.05 * float(loss)
    assert last < 0.9 * first
    counts = metrics.ConfusionMatrix.zero(len(CLASSES))
    images, labels = arrays(list(validation))
    predict = jax.jit(lambda params, x: jnp.argmax(model.apply({"params": params}, x), -1))
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        counts = counts.update(
            labels=jnp.asarray(labels[part].astype(np.int32)),
            predictions=predict(params, images[part]),
        )
    assert float(metrics.mean_iou(counts.to_numpy())) < limit
