"""SegNet beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg import encoders, pretrained
from jaxseg.errors import InputError
from jaxseg.models.segnet import SegNet, SegNetDecoder, unpool
from jaxseg.nn import Head, max_pool_with_indices

ENCODER = encoders.vgg.VGG((1, 2, 1, 1, 2), True, (4, 5, 6, 7, 8))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fast_jit(function, **options):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def variables_of(model, seed=1):
    rng = np.random.default_rng(seed)

    def fill(x):
        wide = x.ndim > 1
        values = rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape) if wide else None
        return (values if wide else rng.uniform(0.3, 1, x.shape)).astype(x.dtype)

    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return jax.tree.map(fill, shapes)


def part(variables, name):
    return {key: tree[name] for key, tree in variables.items() if name in tree}


def test_decoder_has_the_encoders_stages_in_reverse():
    params = variables_of(SegNet(ENCODER, 3))["params"]
    assert set(params) == {"encoder", "decoder", "head"}
    kernels = {name: layer["conv"]["kernel"].shape for name, layer in params["decoder"].items()}
    assert kernels == {
        "stage5_conv1": (3, 3, 8, 8),
        "stage5_conv0": (3, 3, 8, 7),
        "stage4_conv0": (3, 3, 7, 6),
        "stage3_conv0": (3, 3, 6, 5),
        "stage2_conv1": (3, 3, 5, 5),
        "stage2_conv0": (3, 3, 5, 4),
    }
    assert params["head"]["conv"]["kernel"].shape == (3, 3, 4, 3)


@pytest.mark.parametrize("size", [(4, 6), (5, 7), (1, 3)])
def test_unpool_puts_maxima_back_also_on_odd_maps(size):
    x = noise(2, *size, 3)
    pads = [(0, 0), *((0, length % 2) for length in size), (0, 0)]
    values, indices = max_pool_with_indices(np.pad(x, pads, constant_values=-np.inf), 2)
    spread = np.asarray(unpool(values, indices, size))
    assert spread.shape == x.shape
    assert (spread != 0).sum() == values.size
    np.testing.assert_array_equal(spread[spread != 0], x[spread != 0])


def test_unpool_of_a_dropped_row_is_zero():
    values = jnp.ones((1, 1, 1, 1))
    spread = unpool(values, jnp.full((1, 1, 1, 1), 3, jnp.int32), (3, 3))
    assert spread[0, :, :, 0].tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.sample(1)
def test_decoder_reads_indices_and_the_coarsest_feature(ceil_mode):
    """The same coarsest feature with the indices of another image leads to other logits."""
    model = SegNet(ENCODER.clone(ceil_mode=ceil_mode), 3)
    variables = variables_of(model)
    run = fast_jit(model.encoder.apply, static_argnames="method")
    images = noise(2, 45, 38, 3)
    features, indices = run(part(variables, "encoder"), images, method="with_indices")
    sizes = tuple(x.shape[1:3] for x in (images, *features[:-1]))
    decoder = SegNetDecoder(ENCODER.convolutions, ENCODER.widths)
    decode = fast_jit(lambda v, x, i: decoder.apply(v, x, i, sizes, train=False))

    def logits(indices):
        x = decode(part(variables, "decoder"), features[-1], indices)
        return Head(3).apply(part(variables, "head"), x)

    expected = fast_jit(model.apply)(variables, images).logits
    assert expected.shape == (2, 45, 38, 3)
    np.testing.assert_allclose(logits(indices), expected, rtol=0, atol=1e-4)
    swapped = logits(tuple(i[::-1] for i in indices))
    assert np.abs(swapped - expected).max() > 0.1


def test_bfloat16_on_a_float32_encoder_is_near_float32():
    """Then no maximum moves; with an encoder in bfloat16 see test_models.py."""
    types = {"dtype": "bfloat16", "encoder_options": {"dtype": "float32"}}
    by_name = jaxseg.create("segnet", encoder="vgg11_bn", num_classes=3, **types)
    assert (by_name.dtype, by_name.encoder.dtype) == ("bfloat16", "float32")
    exact, near = SegNet(ENCODER, 3), SegNet(ENCODER.clone(dtype="float32"), 3, dtype="bfloat16")
    variables, images = variables_of(exact), noise(2, 33, 47, 3)
    expected, logits = (fast_jit(m.apply)(variables, images).logits for m in (exact, near))
    assert logits.dtype == jnp.float32
    error = np.sqrt(np.square(logits - expected).mean() / np.square(expected).mean())
    assert 0 < error < 2e-2


def test_decoder_on_a_plain_vgg_normalizes():
    model = jaxseg.create("segnet", encoder="vgg11", num_classes=1)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert set(shapes["batch_stats"]) == {"decoder"}


def test_from_torch_fills_the_encoder_of_segnet():
    model = SegNet(ENCODER, 3)
    variables = variables_of(model)
    state_dict = pretrained.to_torch(
        ENCODER, part(variables_of(model, 2), "encoder"), source="timm"
    )
    filled = pretrained.from_torch(model, variables, state_dict, source="torchvision")
    np.testing.assert_array_equal(
        filled["params"]["encoder"]["stage1_conv0"]["conv"]["kernel"],
        state_dict["features.0.weight"].transpose(2, 3, 1, 0),
    )
    jax.tree.map(
        np.testing.assert_array_equal, filled["params"]["decoder"], variables["params"]["decoder"]
    )
    with pytest.raises(InputError, match=r"source 'smp' has no SegNet"):
        pretrained.to_torch(model, variables)
