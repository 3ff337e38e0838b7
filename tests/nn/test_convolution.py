"""The form for small maps is the same convolution, forward and gradient, and it is the one that is taken."""

import chex
import jax
import jax.numpy as jnp
import pytest
from jax import lax

from jaxseg.nn.convolution import convolution

CASES = [
    # size, kernel, stride, dilation
    ((1, 1), 3, 1, 1),
    ((2, 2), 3, 1, 1),
    ((4, 4), 3, 2, 1),
    ((2, 2), 3, 1, 2),
    ((2, 3), 5, 1, 1),
    ((5, 6), 7, 2, 1),
]


@pytest.mark.parametrize(("size", "taps", "stride", "dilation"), CASES)
def test_equal_to_lax_forward_and_gradient(size, taps, stride, dilation):
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, *size, 3))
    kernel = jax.random.normal(keys[1], (taps, taps, 3, 4))
    numbers = lax.conv_dimension_numbers(x.shape, kernel.shape, ("NHWC", "HWIO", "NHWC"))
    pad = dilation * (taps // 2)

    def value(form):
        def of(x, kernel):
            y = form(
                x,
                kernel,
                (stride, stride),
                ((pad, pad), (pad, pad)),
                rhs_dilation=(dilation, dilation),
                dimension_numbers=numbers,
            )
            return jnp.sin(y).sum(), y

        return jax.jit(jax.value_and_grad(of, (0, 1), has_aux=True))

    ours, theirs = (value(form)(x, kernel) for form in (convolution, lax.conv_general_dilated))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-4)
    lowered = value(convolution).lower(x, kernel).as_text()
    assert "stablehlo.convolution" not in lowered
    assert "stablehlo.dot_general" in lowered
