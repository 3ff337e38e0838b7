"""The FCN of the paper beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders
from jaxseg.errors import InputError
from jaxseg.models import Classifier, DenseHead, fully_convolutional
from jaxseg.models.fcn_vgg import FCNVGG, next_stage
from jaxseg.nn.transposed import bilinear_kernel

ENCODER = encoders.vgg.VGG((1, 1, 1, 1, 1), False, (4, 5, 6, 7, 8))
FEATURES, CLASSES = 10, 3
VGG16 = 14_714_688 + (7 * 7 * 512 + 1) * 4096 + (4096 + 1) * 4096
FUSING = 4 * 4 * 21 * 21


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fast_jit(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def network(stride, padding=100, **fields):
    return FCNVGG(ENCODER, CLASSES, stride, padding, fc_features=FEATURES, **fields)


def shapes(model):
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


def variables_of(model, seed=1):
    """Random values, and transposed convolutions as they start."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        if path[-2].key.startswith("upscore"):
            return bilinear_kernel(jax.random.key(0), x.shape)
        scale = np.sqrt(2 / np.prod(x.shape[:-1])) if len(x.shape) > 1 else 0.1
        return rng.normal(0, scale, x.shape).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(fill, shapes(model))


@pytest.mark.parametrize(
    ("name", "options", "count"),
    [
        ("fcn_vgg_32s", {}, VGG16 + (4096 + 1) * 21),
        ("fcn_vgg_32s", {"learn_last": True}, 134_346_581 + 1_806_336),
        ("fcn_vgg_16s", {}, 134_346_581 + (512 + 1) * 21 + FUSING),
        ("fcn_vgg_16s", {"learn_fusing": False}, 134_346_581 + (512 + 1) * 21),
        ("fcn_vgg_8s", {}, 134_346_581 + (512 + 256 + 2) * 21 + 2 * FUSING),
        (
            "fcn_vgg_8s_at_once",
            {"learn_last": True},
            134_346_581 + (512 + 256 + 2) * 21 + 2 * FUSING + 16 * 16 * 21 * 21,
        ),
    ],
)
def test_number_of_parameters_is_the_papers(name, options, count):
    model = jaxseg.create(name, encoder="vgg16", num_classes=21, **options)
    assert sum(x.size for x in jax.tree.leaves(shapes(model)["params"])) == count
    assert VGG16 + (4096 + 1) * 21 == 134_346_581


@pytest.mark.parametrize("padding", [1, 100])
@pytest.mark.sample(1)
def test_scores_start_at_zero_and_upsampling_as_bilinear(padding):
    model = network(8, padding, learn_last=True)
    images = noise(1, 45, 38, 3)
    start, variables = fast_jit(model.init)(jax.random.key(0), images), variables_of(model)
    assert set(start) == {"params"}
    for name, layer in start["params"].items():
        if name.startswith("score"):
            assert not any(np.asarray(x).any() for x in layer.values())
        elif name.startswith("upscore"):
            np.testing.assert_array_equal(layer["kernel"], variables["params"][name]["kernel"])
    fixed = network(8, padding, learn_fusing=False)
    kept = {k: v for k, v in variables["params"].items() if not k.startswith("upscore")}
    assert jax.tree.structure(shapes(fixed)["params"]) == jax.tree.structure(kept)
    expected = fast_jit(model.apply)(variables, images).logits
    assert expected.std() > 0.1
    logits = fast_jit(fixed.apply)({"params": kept}, images).logits
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("padding", "size"), [(100, (58, 90)), (1, (64, 96))])
@pytest.mark.parametrize("stride", [32, 16, 8])
@pytest.mark.sample(2)
def test_logits_of_a_rotated_image_are_rotated(stride, padding, size):
    """With symmetric kernels, logits that are not shifted against the image rotate with it."""
    model = network(stride, padding)
    variables = jax.tree.map(
        lambda x: (x + x[::-1, ::-1]) / 2 if x.ndim == 4 else x, variables_of(model)
    )
    images = noise(1, *size, 3)
    run = fast_jit(model.apply)
    logits, rotated = run(variables, images).logits, run(variables, images[:, ::-1, ::-1]).logits
    assert logits.std() > 0.05
    np.testing.assert_allclose(rotated, logits[:, ::-1, ::-1], rtol=0, atol=1e-5)


def test_fc6_and_fc7_equal_the_dense_layers_of_a_classifier():
    dense = Classifier(ENCODER, DenseHead((FEATURES, FEATURES, CLASSES), (7, 7)))
    variables = variables_of(dense)
    convolutional, kernels = fully_convolutional(dense, variables)
    images = noise(1, 45, 38, 3)
    sides = (99, 99)
    framed = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    expected = fast_jit(convolutional.apply)(kernels, framed)
    assert expected.shape == (1, 2, 2, CLASSES)
    params = kernels["params"]
    layers = {"fc6": "dense0", "fc7": "dense1", "score_fr": "dense2"}
    params = {"encoder": params["encoder"]} | {
        ours: params["head"][theirs] for ours, theirs in layers.items()
    }
    logits = fast_jit(network(32).apply)({"params": params}, images).logits
    tent = 1 - np.abs(np.arange(96)[:, None] - 32 * np.arange(2) - 31.5) / 32
    rows, columns = (np.maximum(tent, 0)[19 : 19 + length] for length in (45, 38))
    whole = np.einsum("nhwk,yh,xw->nyxk", expected, rows, columns)
    assert whole.std() > 0.05
    np.testing.assert_allclose(logits, whole, rtol=0, atol=1e-5)


def test_at_once_scales_pools_before_their_scores():
    at_once = jaxseg.create(
        "fcn_vgg_8s_at_once", encoder=ENCODER, num_classes=CLASSES, fc_features=FEATURES
    )
    variables, images = variables_of(at_once), noise(1, 45, 38, 3)
    params = dict(variables["params"])
    for name, scale in (("score_pool4", 0.01), ("score_pool3", 0.0001)):
        params[name] = params[name] | {"kernel": params[name]["kernel"] * np.float32(scale)}
    logits = fast_jit(at_once.apply)(variables, images).logits
    staged = fast_jit(network(8).apply)
    np.testing.assert_allclose(logits, staged({"params": params}, images).logits, rtol=0, atol=1e-5)
    assert np.abs(logits - staged(variables, images).logits).max() > 0.1


@pytest.mark.parametrize(("coarse", "fine"), [(32, 16), (16, 8)])
def test_next_stage_starts_near_the_coarser_network(coarse, fine):
    coarser, finer = (network(stride, learn_last=True) for stride in (coarse, fine))
    trained = variables_of(coarser)
    start = variables_of(finer, seed=2)
    for name in ("score_pool4", "score_pool3"):
        if name in start["params"]:
            start["params"][name] = jax.tree.map(np.zeros_like, start["params"][name])
    variables = next_stage(start, trained)
    assert jax.tree.structure(variables) == jax.tree.structure(start)
    new = {f"score_pool{4 if fine == 16 else 3}", f"upscore{fine}"}
    new |= {"upscore2"} if fine == 16 else {"upscore_pool4"}
    for name, layer in variables["params"].items():
        source = start if name in new else trained
        jax.tree.map(np.testing.assert_array_equal, layer, source["params"][name])
    if fine == 8:
        return
    images = noise(1, 200, 200, 3)
    before, after = (
        np.asarray(fast_jit(model.apply)(v, images).logits)
        for model, v in ((coarser, trained), (finer, variables))
    )
    # Twice bilinear is not quite bilinear once, so they are near, not equal.
    assert 0 < (after - before).std() < 0.2 * before.std()


def test_next_stage_of_another_network_is_refused():
    start, trained = shapes(network(16)), variables_of(network(32))
    other = shapes(FCNVGG(ENCODER, 2, 16, fc_features=FEATURES))
    with pytest.raises(InputError, match=r"params/score_fr/bias has the shape \(3,\).*and \(2,\)"):
        next_stage(other, trained)
    with pytest.raises(InputError, match=r"params/score_pool4/bias .* does not exist in the finer"):
        next_stage(trained, start)


@pytest.mark.slow
def test_dropout_drops_half_of_fc6_and_fc7_in_training():
    model = network(32)
    variables, images = variables_of(model), noise(1, 200, 200, 3)
    dropouts = "Dropout_0", "Dropout_1"
    with pytest.raises(Exception, match="dropout"):
        model.apply(variables, images, train=True)

    @fast_jit
    def run(key):
        return model.apply(
            variables,
            images,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, method: (
                method == "__call__" and module.name in ("fc6", "fc7", *dropouts)
            ),
            mutable=["intermediates"],
        )[1]["intermediates"]

    result = run(jax.random.key(1))
    for layer, dropout in zip(("fc6", "fc7"), dropouts, strict=True):
        before, after = (np.asarray(result[name]["__call__"][0]) for name in (layer, dropout))
        live, kept = before > 0, after != 0
        assert 0.4 < kept.sum() / live.sum() < 0.6
        np.testing.assert_allclose(after[kept], 2 * before[kept], rtol=1e-6)
        somewhere = kept.any((1, 2), keepdims=True)
        assert (somewhere & live & ~kept).any()  # single values are dropped, not channels
