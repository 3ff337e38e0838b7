"""Each form of a convolution is the same convolution, forward and gradient, and is taken where it is meant to be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from jaxseg.nn import winograd
from jaxseg.nn.convolution import convolution
from jaxseg.nn.window import Window

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
    "blocks": ((2, 8, 9, 3), (3, 3, 4), 2, 1),
    "blocks, stem": ((2, 17, 14, 3), (7, 7, 4), 2, 1),
    "stride": ((1, 8, 8, 33), (3, 3, 4), 2, 1),
    "winograd": ((2, 14, 20, 128), (3, 3, 129), 1, 1),
    "winograd, odd": ((1, 23, 22, 128), (3, 3, 128), 1, 1),
    "winograd, dilation": ((1, 24, 24, 128), (3, 3, 128), 1, 2),
    "no winograd, dilation": ((1, 23, 24, 128), (3, 3, 128), 1, 2),
}


def convolve(x, kernel, stride, dilation, form=convolution):
    layer = nn.Conv(
        kernel.shape[-1],
        kernel.shape[:2],
        strides=stride,
        padding=dilation * (kernel.shape[0] // 2),
        kernel_dilation=dilation,
        use_bias=False,
        conv_general_dilated=form,
    )
    return layer.apply({"params": {"kernel": kernel}}, x)


def inputs(case, dtype=np.float64):
    shape, (height, width, features), *how = CASES[case]
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=shape), rng.normal(size=(height, width, shape[-1], features))
    return [x.astype(dtype) for x in arrays], how


def value_and_gradients(form, how):
    def of(x, kernel):
        y = convolve(x, kernel, *how, form=form)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))


@pytest.mark.parametrize("case", CASES)
def test_equal_to_lax_in_float64(case):
    with jax.enable_x64(True):
        arrays, how = inputs(case)
        ours, theirs = (
            value_and_gradients(form, how)(*arrays)
            for form in (convolution, lax.conv_general_dilated)
        )
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def lowered(case, platform, form=convolution):
    arrays, how = inputs(case, np.float32)
    traced = value_and_gradients(form, how).trace(*arrays)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("case", CASES)
def test_other_platforms_have_xlas_own(case):
    """As many convolutions, of the same kinds, as without any forms; where taps are stacked, none anywhere."""
    if case.startswith("stacked"):
        for platform in ("cpu", "tpu"):
            assert "stablehlo.convolution" not in lowered(case, platform)
        return

    def windows(form):
        lines = lowered(case, "tpu", form).splitlines()
        return sorted(
            line.split("window = ")[1] for line in lines if "stablehlo.convolution(" in line
        )

    assert windows(convolution) == windows(lax.conv_general_dilated)
    assert "dot_general" not in lowered(case, "tpu")


def test_forms_are_taken_on_a_cpu():
    of_winograd = lowered("winograd", "cpu")
    assert of_winograd.count("stablehlo.convolution") == 0
    assert of_winograd.count('inlineable = "false"') == 2  # one forward, one backward
    assert lowered("no winograd, dilation", "cpu").count("stablehlo.convolution") == 3
    for case in ("one tap, more channels", "one tap, fewer channels", "one tap, stride"):
        assert lowered(case, "cpu").count("stablehlo.dot_general") == 1
    assert "tensor<2x5x12x" not in lowered("blocks, stem", "tpu")
    assert "x12x4xf32>" in lowered("blocks, stem", "cpu")  # 4 x 4 taps on blocks of 2 x 2 x 3


def test_half_precision_and_groups_are_xlas():
    x = jnp.ones((1, 16, 16, 128), jnp.bfloat16)
    kernel = jnp.ones((3, 3, 128, 128), jnp.bfloat16)
    text = jax.jit(lambda x, k: convolve(x, k, 1, 1)).lower(x, kernel).as_text()
    assert text.count("stablehlo.convolution") == 1
    assert "dot_general" not in text
    layer = nn.Conv(4, (3, 3), padding=1, feature_group_count=2, conv_general_dilated=convolution)
    plain = nn.Conv(4, (3, 3), padding=1, feature_group_count=2)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 4))
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_allclose(layer.apply(variables, x), plain.apply(variables, x), rtol=1e-6)


@pytest.mark.parametrize("size", [3, 8])
def test_a_stretched_map_is_xlas(size):
    """Transposed convolutions, which `flax.linen.Conv` asks for as `input_dilation`."""
    x = jax.random.normal(jax.random.key(0), (1, size, size, 4))
    options = {"padding": 1, "input_dilation": 2, "conv_general_dilated": convolution}
    layer = nn.Conv(4, (5, 5) if size == 3 else (3, 3), **options)
    plain = layer.clone(conv_general_dilated=None)
    variables = plain.init(jax.random.key(1), x)
    np.testing.assert_array_equal(layer.apply(variables, x), plain.apply(variables, x))


def test_winograd_is_as_exact_as_a_convolution():
    """Float32 beside float64: not farther off than twice what XLA's own convolution is."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(size=(2, 16, 16, 64)), rng.normal(size=(3, 3, 64, 8))
    cotangent = rng.normal(size=(2, 16, 16, 8))
    window = Window(padding=((1, 1), (1, 1)))

    @jax.jit
    def both(*arrays):
        x, kernel, cotangent = arrays
        return (
            (winograd.forward(x, kernel), *winograd.gradient(x, kernel, cotangent)),
            (window.convolve(x, kernel), *window.gradient(x, kernel, cotangent)),
        )

    with jax.enable_x64(True):
        exact = [np.asarray(z) for z in both(x, kernel, cotangent)[1]]
    ours, theirs = both(*(jnp.asarray(a, jnp.float32) for a in (x, kernel, cotangent)))
    for a, b, true in zip(ours, theirs, exact, strict=True):
        ours_off, theirs_off = (np.sqrt(np.mean(np.square(np.asarray(z) - true))) for z in (a, b))
        assert ours_off < 2 * theirs_off
        assert ours_off < 1e-6 * np.abs(true).max()


def test_winograd_of_any_small_size():
    window = Window(padding=((1, 1), (1, 1)))
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(3, 3, 2, 3))
        for height, width in ((1, 1), (1, 4), (2, 3), (5, 2)):
            x, cotangent = (rng.normal(size=(2, height, width, c)) for c in (2, 3))
            y, *gradients = (
                winograd.forward(x, kernel),
                *winograd.gradient(x, kernel, cotangent),
            )
            np.testing.assert_allclose(y, window.convolve(x, kernel), atol=1e-12)
            expected = window.gradient(x, kernel, cotangent)
            for a, b in zip(gradients, expected, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-12)
