"""Classifiers, and the claim of the tutorial: as convolutions they slide over the image."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import encoders
from jaxseg.errors import InputError
from jaxseg.models import (
    Classifier,
    ConvHead,
    DenseHead,
    classifier,
    fully_convolutional,
    vgg_classifier,
)
from jaxseg.nn import max_pool

PARAMETERS = {  # those of torchvision
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "vgg11": 132_863_336,
    "vgg11_bn": 132_868_840,
    "vgg13": 133_047_848,
    "vgg13_bn": 133_053_736,
    "vgg16": 138_357_544,
    "vgg16_bn": 138_365_992,
    "vgg19": 143_667_240,
    "vgg19_bn": 143_678_248,
}


def create(name, num_classes=1000, **options):
    encoder = encoders.create(name, **options)
    build = vgg_classifier if name.startswith("vgg") else classifier
    return build(encoder=encoder, num_classes=num_classes)


SMALL_VGG = encoders.vgg.VGG((1, 1, 1, 1, 1), True, (2, 3, 4, 5, 6))


class Seminar(nn.Module):
    """Convolution 5x5, max-pool 2x2: 14 x 14 pixels become a map of 5 x 5, if nothing is padded."""

    padding: int = 0

    @property
    def strides(self):
        return (2,)

    @property
    def channels(self):
        return (4,)

    @nn.compact
    def __call__(self, images, *, train=False):
        x = nn.Conv(4, (5, 5), padding=self.padding, param_dtype=images.dtype)(images)
        return (max_pool(nn.relu(x), 2, 2),)


def shapes(model, images, **options):
    return jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, **options), jnp.zeros(images)
    )


def filled(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: rng.uniform(-0.5, 0.5, x.shape).astype(x.dtype), shapes)


def fast_jit(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def noise(*shape, dtype=np.float32):
    return np.random.default_rng(1).normal(size=shape).astype(dtype)


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.sample(4)
def test_classifier_has_the_parameters_of_torchvision(name):
    logits, variables = shapes(create(name), (2, 33, 47, 3))
    assert logits.shape == (2, 1000)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == PARAMETERS[name]


@pytest.mark.parametrize("name", ["resnet18", "vgg11"])
def test_logits_with_any_size_channels_and_classes(name):
    model = create(name, num_classes=1, in_channels=12)
    for size in [(1, 1), (31, 65)]:
        for train in (False, True):
            run = lambda x, train=train: model.init_with_output(  # noqa: E731
                {"params": jax.random.key(0), "dropout": jax.random.key(1)}, x, train=train
            )
            assert jax.eval_shape(run, jnp.zeros((1, *size, 12)))[0].shape == (1, 1)


def seminar(size, padding=0, dtype=np.float64):
    """A classifier of 14 x 14 pixels, its fully convolutional form, and what both say of an image."""
    model = Classifier(
        Seminar(padding), DenseHead((8, 6, 3), (5, 5), dropout=0.5, param_dtype=dtype)
    )
    images = noise(2, *size, 3, dtype=dtype)
    template = jax.eval_shape(model.init, jax.random.key(0), images[:, :14, :14])
    variables = filled(template)
    whole, kernels = fully_convolutional(model, variables)
    assert jax.tree.map(jnp.shape, kernels) == jax.tree.map(
        jnp.shape, jax.eval_shape(whole.init, jax.random.key(0), images)
    )
    windows = [
        [model.apply(variables, images[:, i : i + 14, j : j + 14]) for j in steps]
        for i in range(0, size[0] - 13, 2)
        if (steps := range(0, size[1] - 13, 2))
    ]
    slid = np.stack([np.stack(row, axis=1) for row in windows], axis=1)
    return np.asarray(whole.apply(kernels, images)), slid


@pytest.mark.parametrize(
    ("size", "map_size"), [((14, 14), (1, 1)), ((16, 16), (2, 2)), ((20, 15), (4, 1))]
)
@pytest.mark.sample(1)
def test_fully_convolutional_equals_sliding_the_classifier(size, map_size):
    with jax.enable_x64(True):
        logits, slid = seminar(size)
    assert logits.dtype == np.float64
    assert logits.shape == slid.shape == (2, *map_size, 3)
    assert np.abs(slid).max() > 0.1
    np.testing.assert_allclose(logits, slid, rtol=0, atol=1e-12)
    if map_size != (1, 1):
        assert slid.std((1, 2)).min() > 1e-3


def test_fully_convolutional_with_padding_differs():
    """A window's border is zeros; inside of an image the same place has neighbors."""
    with jax.enable_x64(True):
        logits, slid = seminar((16, 16), padding=2)
    assert logits.shape[1:3] == (4, 4)
    assert np.abs(logits[:, :2, :2] - slid).max() > 1e-2


def test_fully_convolutional_resnet_has_the_logits_as_mean():
    model = Classifier(encoders.resnet.ResNet((1, 1, 1, 1), depth=2), DenseHead((5,)))
    images = noise(2, 33, 47, 3)
    variables = filled(shapes(model, images.shape)[1])
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    whole, kernels = fully_convolutional(model, variables)
    logits = fast_jit(whole.apply)(kernels, images)
    assert logits.shape == (2, 9, 12, 5)
    expected = fast_jit(model.apply)(variables, images)
    np.testing.assert_allclose(logits.mean((1, 2)), expected, rtol=1e-4, atol=1e-4)


def test_fully_convolutional_reshapes_the_same_weights():
    model = Classifier(SMALL_VGG, DenseHead((8, 7, 3), (7, 7), dropout=0.3))
    variables = filled(shapes(model, (1, 32, 32, 3))[1])
    before = jax.tree.map(np.copy, variables)
    whole, kernels = fully_convolutional(model, variables)
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    assert whole.head == ConvHead((8, 7, 3), (7, 7), dropout=0.3)
    assert kernels["params"]["encoder"] is variables["params"]["encoder"]
    dense, layers = variables["params"]["head"], kernels["params"]["head"]
    assert [layers[f"dense{i}"]["kernel"].shape for i in range(3)] == [
        (7, 7, 6, 8),
        (1, 1, 8, 7),
        (1, 1, 7, 3),
    ]
    assert (
        dense["dense0"]["kernel"][3 * 49 + 2 * 7 + 5, 4] == layers["dense0"]["kernel"][2, 5, 3, 4]
    )
    np.testing.assert_array_equal(dense["dense2"]["kernel"], layers["dense2"]["kernel"][0, 0])
    np.testing.assert_array_equal(dense["dense1"]["bias"], layers["dense1"]["bias"])


def test_dense_head_drops_out_and_gradients_reach_all():
    head, feature = DenseHead((64, 64, 3), (2, 2), dropout=0.5), noise(4, 3, 5, 6)
    variables = filled(shapes(head, feature.shape)[1])

    def loss(variables, key):
        logits = head.apply(variables, feature, train=True, rngs={"dropout": key})
        return jnp.square(logits).mean()

    first, gradient = jax.value_and_grad(loss)(variables, jax.random.key(0))
    assert loss(variables, jax.random.key(1)) != first
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path
    with pytest.raises(Exception, match="dropout"):
        head.apply(variables, feature, train=True)
    head.apply(variables, feature)


def test_bfloat16_logits_are_near_float32():
    options = [{}, {"dtype": jnp.bfloat16}]
    models = [Classifier(SMALL_VGG.clone(**o), DenseHead((8, 3), (2, 2), **o)) for o in options]
    images = noise(2, 40, 32, 3)
    variables = filled(shapes(models[0], images.shape)[1])
    variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
    exact, near = (fast_jit(model.apply)(variables, images) for model in models)
    assert near.dtype == jnp.float32
    assert 0 < np.abs(exact - near).max() < 2e-2 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: create("resnet18", num_classes=0), "num_classes=0"),
        (lambda: classifier(encoder="resnet18"), "a builder takes a module"),
        (lambda: fully_convolutional(Classifier(SMALL_VGG, ConvHead((3,))), {}), "is a ConvHead"),
        (
            lambda: shapes(Classifier(SMALL_VGG, ConvHead((3,), (7, 7))), (1, 223, 64, 3)),
            "a map of 7 x 2 pixels is smaller than the window of 7 x 7",
        ),
        (
            lambda: jax.eval_shape(
                create("resnet18").init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.uint8)
            ),
            "images of type uint8",
        ),
    ],
)
def test_impossible_arguments_are_named(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert message in str(error.value)
