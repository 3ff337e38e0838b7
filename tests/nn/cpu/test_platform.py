"""Forms for CPUs are left out inside `nn.cpu.disabled`, and nowhere else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import BatchNorm, Conv, ConvNorm, bilinear, cpu, max_pool, max_unpool, upsample_merge
from jaxseg.nn.cpu.platform import by_platform, is_disabled

KEY = jax.random.key(0)


def initialized(module, x, **options):
    variables = module.init(KEY, x, **options)
    return lambda x: module.apply(variables, x, **options)


def normalized(x):
    variables = BatchNorm().init(KEY, x, train=False)
    return BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])[0]


def upsampled(x):
    block = ConvNorm(3, param_dtype=x.dtype)
    y = upsample_merge(x, None, (2 * x.shape[1], 2 * x.shape[2]))
    return block.apply(block.init(KEY, y), y)


def unpooled(x):
    indices = jnp.broadcast_to(3 * jnp.arange(36).reshape(1, 6, 6, 1), x.shape)
    return max_unpool(x, (12, 12), indices=indices)


OPERATIONS = {
    "conv": lambda x: initialized(Conv(3, param_dtype=x.dtype), x)(x),
    "stacked conv": lambda x: initialized(Conv(3, 7, padding=0, param_dtype=x.dtype), x)(x),
    "upsampled conv": upsampled,
    "batch norm": normalized,
    "max pool": lambda x: max_pool(x, 3, 2, 1),
    "max unpool": unpooled,
    "bilinear": lambda x: bilinear(x, (12, 18)),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.sample(3)
def test_disabled_has_forward_mode_and_equal_values(name):
    size = 7 if name == "stacked conv" else 6
    with jax.enable_x64(True):
        x = jnp.asarray(np.random.default_rng(0).normal(size=(2, size, size, 2)))
        jitted = jax.jit(lambda x: jnp.sin(OPERATIONS[name](x)))
        y, back = jax.vjp(jitted, x)
        with cpu.disabled():
            plain, tangent = jax.jvp(jitted, (x,), (jnp.cos(x),))
            text = str(jax.make_jaxpr(jax.grad(lambda x: jitted(x).sum()))(x))
        assert "custom_vjp" not in text
        assert "platform_index" not in text
        np.testing.assert_allclose(plain, y, rtol=0, atol=1e-12)
        weight = jnp.cos(3 * y)
        np.testing.assert_allclose(
            (weight * tangent).sum(), (back(weight)[0] * jnp.cos(x)).sum(), rtol=1e-10
        )


def test_disabled_ends_with_its_block():
    assert not is_disabled()
    with cpu.disabled():
        assert is_disabled()
    assert not is_disabled()


def test_by_platform_has_the_plain_form_elsewhere():
    traced = jax.jit(lambda x: by_platform(x, cpu=jnp.sin, plain=jnp.cos)).trace(1.0)
    for platform, operation in (("cpu", "sine"), ("tpu", "cosine"), ("cuda", "cosine")):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert f"stablehlo.{operation}" in text
