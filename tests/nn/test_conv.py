"""Each form of a convolution equals XLA's, forward and backward, and is used where it is meant to be."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import Conv
from jaxseg.nn.cpu import winograd
from jaxseg.nn.cpu.conv_window import Window

CASES = {
    # map, kernel, stride, dilation
    "stacked, one pixel": ((2, 1, 1, 3), (3, 3, 4), 1, 1),
    "stacked, 2 x 2": ((2, 2, 2, 3), (3, 3, 4), 1, 1),
    "stacked, stride": ((2, 4, 4, 3), (3, 3, 4), 2, 1),
    "stacked, dilation": ((2, 2, 2, 3), (3, 3, 4), 1, 2),
    "stacked, oblong": ((2, 2, 3, 3), (5, 5, 4), 1, 1),
    "stacked, stem": ((2, 5, 6, 3), (7, 7, 4), 2, 1),
    "padded": ((2, 5, 6, 3), (3, 3, 4), 1, 1),
    "padded, dilation": ((2, 7, 6, 3), (3, 3, 4), 1, 2),
    "one tap, more channels": ((2, 5, 6, 3), (1, 1, 4), 1, 1),
    "one tap, fewer channels": ((2, 5, 6, 4), (1, 1, 3), 1, 1),
    "one tap, stride": ((2, 5, 6, 4), (1, 1, 5), 2, 1),
    "stride": ((2, 8, 9, 3), (3, 3, 4), 2, 1),
    "stride, stem": ((2, 17, 14, 3), (7, 7, 4), 2, 1),
    "stride, more channels": ((1, 8, 8, 33), (3, 3, 4), 2, 1),
    "winograd": ((2, 14, 20, 128), (3, 3, 129), 1, 1),
    "winograd, odd": ((1, 23, 22, 128), (3, 3, 128), 1, 1),
    "winograd, dilation": ((1, 24, 24, 128), (3, 3, 128), 1, 2),
    "no winograd, dilation": ((1, 23, 24, 128), (3, 3, 128), 1, 2),
}


def ours(x, kernel, stride, dilation):
    size = kernel.shape[:2]
    layer = Conv(kernel.shape[-1], size, stride, dilation, use_bias=False)
    return layer.apply({"params": {"kernel": kernel}}, x)


def theirs(x, kernel, stride, dilation):
    """The layer of Flax, which is XLA's convolution."""
    layer = nn.Conv(
        kernel.shape[-1],
        kernel.shape[:2],
        strides=stride,
        padding=dilation * (kernel.shape[0] // 2),
        kernel_dilation=dilation,
        use_bias=False,
    )
    return layer.apply({"params": {"kernel": kernel}}, x)


def inputs(case, dtype=np.float64):
    shape, (height, width, features), *options = CASES[case]
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=shape), rng.normal(size=(height, width, shape[-1], features))
    return [x.astype(dtype) for x in arrays], options


def value_and_gradients(form, options):
    def of(x, kernel):
        y = form(x, kernel, *options)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.sample(6)
def test_conv_in_float64_equals_xla(case):
    with jax.enable_x64(True):
        arrays, options = inputs(case)
        results = (value_and_gradients(form, options)(*arrays) for form in (ours, theirs))
        for a, b in zip(*map(jax.tree.leaves, results), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def lowered(case, platform, form=ours):
    arrays, options = inputs(case, np.float32)
    traced = value_and_gradients(form, options).trace(*arrays)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("case", CASES)
def test_conv_on_other_platforms_is_xlas(case):
    """As many convolutions, of the same kinds, as in Flax's layer; where taps are stacked, none on any platform."""
    if case.startswith("stacked"):
        for platform in ("cpu", "tpu"):
            assert "stablehlo.convolution" not in lowered(case, platform)
        return

    def windows(form):
        lines = lowered(case, "tpu", form).splitlines()
        return sorted(
            line.split("window = ")[1] for line in lines if "stablehlo.convolution(" in line
        )

    assert windows(ours) == windows(theirs)
    assert "dot_general" not in lowered(case, "tpu")


def test_conv_on_a_cpu_has_forms():
    of_winograd = lowered("winograd", "cpu")
    assert of_winograd.count("stablehlo.convolution") == 0
    assert of_winograd.count('inlineable = "false"') == 2  # one forward, one backward
    assert lowered("no winograd, dilation", "cpu").count("stablehlo.convolution") == 3
    for case in ("one tap, more channels", "one tap, fewer channels", "one tap, stride"):
        assert lowered(case, "cpu").count("stablehlo.dot_general") == 1


def test_conv_in_half_precision_and_with_groups_is_xlas():
    x = jnp.ones((1, 16, 16, 128), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 128, 128), jnp.bfloat16)
    text = jax.jit(lambda x, k: ours(x, k, 1, 1)).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "dot_general" not in text
    layer = Conv(4, groups=2)
    plain = nn.Conv(4, (3, 3), padding=1, feature_group_count=2)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 4))
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(layer.apply(variables, x), plain.apply(variables, x), rtol=1e-6)


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_conv_parameters_equal_those_of_flax(dtype):
    """Names, shapes, initial values and the type of the result."""
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 4))
    layer = Conv(5, dtype=dtype)
    plain = nn.Conv(5, (3, 3), padding=1, dtype=dtype)
    y, variables = layer.init_with_output(jax.random.key(1), x)
    expected = plain.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, variables, expected)
    assert y.dtype == plain.apply(expected, x).dtype


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("taps", "dilation"), [(3, 1), (5, 1), (3, 2), (2, 1)])
def test_same_padding_is_that_of_xla(stride, taps, dilation):
    x = jax.random.normal(jax.random.key(0), (1, 9, 10, 4))
    ours = Conv(3, taps, stride, dilation, "same")
    plain = nn.Conv(3, (taps, taps), stride, "SAME", kernel_dilation=dilation)
    y, variables = ours.init_with_output(jax.random.key(1), x)
    np.testing.assert_allclose(y, plain.apply(variables, x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 2, (1, 3)])
def test_conv_padding_is_zeros_on_every_side(padding):
    x = jax.random.normal(jax.random.key(0), (1, 5, 6, 2))
    y, variables = Conv(3, padding=padding).init_with_output(jax.random.key(1), x)
    rows, columns = (padding, padding) if isinstance(padding, int) else padding
    padded = jnp.pad(x, ((0, 0), (rows, rows), (columns, columns), (0, 0)))
    expected = Conv(3, padding=0).apply(variables, padded)
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-5)


def test_winograd_is_as_exact_as_a_convolution():
    """In float32 its distance from float64 is at most twice that of XLA's convolution."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 16, 16, 64)), rng.normal(size=(3, 3, 64, 8))
    cotangent = rng.normal(size=(2, 16, 16, 8))
    window = Window(padding=((1, 1), (1, 1)))

    @jax.jit
    def both(*arrays):
        x, kernel, cotangent = arrays
        return (
            (winograd.forward(x, kernel), *winograd.gradients(x, kernel, cotangent)),
            (window.convolve(x, kernel), *window.gradients(x, kernel, cotangent)),
        )

    with jax.enable_x64(True):
        exact = [np.asarray(z) for z in both(x, kernel, cotangent)[1]]
    results = both(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, cotangent)))
    for a, b, true in zip(*results, exact, strict=True):
        ours_off, theirs_off = (np.sqrt(np.mean(np.square(np.asarray(z) - true))) for z in (a, b))
        assert ours_off < 2 * theirs_off
        assert ours_off < 1e-6 * np.abs(true).max()


@pytest.mark.slow
def test_winograd_of_small_maps_equals_xla():
    window = Window(padding=((1, 1), (1, 1)))
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(3, 3, 2, 3))
        for height, width in ((1, 1), (1, 4), (2, 3), (5, 2)):
            x, cotangent = (rng.normal(size=(2, height, width, c)) for c in (2, 3))
            results = (
                winograd.forward(x, kernel),
                *winograd.gradients(x, kernel, cotangent),
            )
            expected = window.convolve(x, kernel), *window.gradients(x, kernel, cotangent)
            for a, b in zip(results, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)
