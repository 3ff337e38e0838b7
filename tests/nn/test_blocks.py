from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from jaxseg.errors import InputError
from jaxseg.nn import (
    Conv,
    ConvNorm,
    GroupNorm,
    LayerNorm,
    LayerScale,
    SeparableConv,
    SqueezeExcite,
    TransposedConv,
    bilinear,
    max_pool,
)
from jaxseg.nn.blocks import kaiming_fan_in, kaiming_fan_out


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def fast_jit(function, **options):
    """Random numbers compile slowly on a CPU, and much faster without optimisation."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (1, 4), (2, 2)])
@pytest.mark.parametrize("size", [(1, 1), (6, 7)])
def test_convolution_pads_alike_on_every_side(stride, dilation, size):
    block = ConvNorm(4, stride=stride, dilation=dilation, activation=None)
    x = noise(2, *size, 3)
    variables = fast_jit(block.init, static_argnames="train")(jax.random.key(0), x, train=False)
    y = block.apply(variables, x, train=False)
    kernel = np.asarray(variables["params"]["conv"]["kernel"])
    spread = np.zeros((2 * dilation + 1, 2 * dilation + 1, 3, 4))
    spread[::dilation, ::dilation] = kernel
    expected = [
        sum(signal.correlate2d(image[..., c], spread[..., c, f], mode="same") for c in range(3))[
            ::stride, ::stride
        ]
        for image in x
        for f in range(4)
    ]
    expected = np.stack(expected).reshape(2, 4, *y.shape[1:3]).transpose(0, 2, 3, 1) / np.sqrt(
        1 + 1e-5
    )
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_relu_is_the_default():
    block = ConvNorm(4, kernel_size=1)
    y, _ = fast_jit(block.init_with_output, static_argnames="train")(
        jax.random.key(0), noise(1, 5, 5, 3), train=False
    )
    assert y.min() == 0
    assert y.max() > 0


@pytest.mark.parametrize(("init", "fan"), [(kaiming_fan_in, 9 * 64), (kaiming_fan_out, 9 * 16)])
def test_initialisation_keeps_the_variance_through_relus(init, fan):
    kernel = fast_jit(init, static_argnums=1)(jax.random.key(0), (3, 3, 64, 16))
    np.testing.assert_allclose(kernel.std(), np.sqrt(2 / fan), rtol=0.05)


@pytest.mark.parametrize(
    ("window", "stride", "padding", "size"),
    [(3, 2, 1, (7, 10)), (2, 2, 0, (6, 5)), (3, 2, 1, (1, 1))],
)
def test_max_pool_never_takes_the_padding(window, stride, padding, size):
    x = noise(2, *size, 3) - 10
    padded = np.pad(
        x, ((0, 0), (padding, padding), (padding, padding), (0, 0)), constant_values=-np.inf
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, (window, window), (1, 2))
    np.testing.assert_array_equal(
        max_pool(x, window, stride, padding), windows[:, ::stride, ::stride].max((-2, -1))
    )


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_transposed_convolution_is_the_transpose_of_a_strided_one(factor):
    x = noise(2, 3, 4, 5)
    layer = TransposedConv(6, factor)
    k = 2 * factor - factor % 2
    params = {"kernel": noise(k, k, 5, 6), "bias": noise(6)}
    padding = (factor - factor % 2) // 2
    big = jax.ShapeDtypeStruct((2, 3 * factor, 4 * factor, 6), jnp.float32)

    def strided(y):
        kernel = params["kernel"].transpose(0, 1, 3, 2)
        pads = ((padding, padding), (padding, padding))
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            y, kernel, (factor, factor), pads, dimension_numbers=layout
        )

    expected = jax.linear_transpose(strided, big)(x)[0] + params["bias"].reshape(1, 1, 1, 6)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("factor", [2, 3])
def test_transposed_convolution_starts_as_bilinear_interpolation(factor):
    x = noise(1, 5, 6, 3)
    y, _ = TransposedConv(3, factor).init_with_output(jax.random.key(0), x)
    expected = bilinear(x, (5 * factor, 6 * factor))
    inside = slice(factor, -factor)
    np.testing.assert_allclose(y[:, inside, inside], expected[:, inside, inside], rtol=0, atol=1e-6)


def test_transposed_convolution_cuts_or_repeats_to_the_size():
    x = noise(1, 3, 3, 2)
    layer = TransposedConv(2, 2)
    variables = layer.init(jax.random.key(0), x)
    whole = layer.apply(variables, x)
    np.testing.assert_array_equal(layer.apply(variables, x, (5, 6)), whole[:, :5])
    larger = layer.apply(variables, x, (7, 7))
    np.testing.assert_array_equal(larger[:, 6, :6], whole[:, 5])
    np.testing.assert_array_equal(larger[:, :6, 6], whole[:, :, 5])
    assert layer.clone(dtype=jnp.bfloat16).apply(variables, x).dtype == jnp.bfloat16


@pytest.mark.parametrize("norm", [LayerNorm, partial(GroupNorm, 2)])
def test_conv_norm_takes_any_norm_and_activation(norm):
    x = noise(2, 5, 6, 3)
    block = ConvNorm(4, norm=norm, activation=nn.silu)
    y, variables = block.init_with_output(jax.random.key(0), x)
    assert set(variables) == {"params"}
    assert set(variables["params"]["conv"]) == {"kernel"}
    conv = Conv(4, use_bias=False).apply({"params": variables["params"]["conv"]}, x)
    z = norm().apply({"params": variables["params"]["norm"]}, conv)
    np.testing.assert_allclose(y, nn.silu(z), rtol=0, atol=1e-6)


def test_conv_norm_without_norm_has_a_bias():
    x = noise(1, 4, 5, 3)
    for activation in (nn.relu, None):
        block = ConvNorm(4, norm=None, activation=activation)
        y, variables = block.init_with_output(jax.random.key(0), x)
        assert set(variables["params"]) == {"conv"}
        expected = Conv(4).apply({"params": variables["params"]["conv"]}, x)
        expected = expected if activation is None else activation(expected)
        np.testing.assert_array_equal(y, expected)


def test_conv_norm_activation_saves_only_the_input():
    """Of a layer's maps the backward pass needs the convolution's result, whatever the activation."""
    x = jnp.asarray(noise(2, 8, 8, 3))
    for activation in (nn.relu, nn.silu, nn.gelu):
        block = ConvNorm(4, activation=activation)
        variables = block.init(jax.random.key(0), x)

        def loss(params, block=block, variables=variables):
            tree = variables | {"params": params}
            return block.apply(tree, x, train=True, mutable=["batch_stats"])[0]

        _, back = jax.vjp(loss, variables["params"])
        saved = [leaf.shape for leaf in jax.tree.leaves(back) if np.size(leaf) >= 2 * 8 * 8 * 3]
        assert sorted(saved) == [(2, 8, 8, 3), (2, 8, 8, 4)]


def test_conv_groups_that_do_not_divide_are_an_error():
    for layer in (Conv(4, groups=2), Conv(3, groups=3, kernel_size=1)):
        channels = 3 if layer.groups == 2 else 4
        with pytest.raises(InputError, match=f"groups={layer.groups}"):
            layer.init(jax.random.key(0), noise(1, 4, 4, channels))


def test_conv_groups_convolve_their_channels_alone():
    x = noise(1, 6, 7, 4)
    layer = Conv(6, groups=2, use_bias=False)
    y, variables = layer.init_with_output(jax.random.key(0), x)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 2, 6)
    for i in range(2):
        part = Conv(3, use_bias=False).apply(
            {"params": {"kernel": kernel[..., 3 * i : 3 * i + 3]}}, x[..., 2 * i : 2 * i + 2]
        )
        np.testing.assert_allclose(y[..., 3 * i : 3 * i + 3], part, rtol=0, atol=1e-5)


def test_separable_conv_is_two_convolutions():
    x = noise(2, 6, 7, 3)
    block = SeparableConv(5, 3, dilation=2)
    y, variables = block.init_with_output(jax.random.key(0), x)
    depthwise = Conv(3, 3, dilation=2, groups=3, use_bias=False)
    z = depthwise.apply({"params": variables["params"]["depthwise"]}, x)
    pointwise = {name: tree["pointwise"] for name, tree in variables.items()}
    np.testing.assert_allclose(y, ConvNorm(5, 1).apply(pointwise, z), rtol=0, atol=1e-6)


def test_squeeze_excite_scales_whole_channels():
    x = noise(2, 5, 6, 4) + 3
    y, variables = SqueezeExcite(2).init_with_output(jax.random.key(0), x)
    params = variables["params"]
    assert params["reduce"]["kernel"].shape == (1, 1, 4, 2)
    hidden = np.maximum(x.mean((1, 2)) @ params["reduce"]["kernel"][0, 0], 0)
    gate = 1 / (1 + np.exp(-(hidden @ params["expand"]["kernel"][0, 0])))
    np.testing.assert_allclose(y, x * gate[:, None, None], rtol=0, atol=1e-5)
    half = SqueezeExcite(2, dtype=jnp.bfloat16).apply(variables, jnp.asarray(x, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16


def test_layer_scale_starts_near_zero():
    x = noise(2, 5, 6, 4)
    y, variables = LayerScale(1e-3).init_with_output(jax.random.key(0), x)
    assert variables["params"]["scale"].shape == (4,)
    np.testing.assert_allclose(y, 1e-3 * x, rtol=1e-6)
    assert LayerScale().apply(variables, jnp.asarray(x, jnp.bfloat16)).dtype == jnp.bfloat16
