"""Interpolation, pooling and its inverse, and normalisation equal torch's, both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.nn import (
    BatchNorm,
    adaptive_avg_pool,
    bilinear,
    max_pool,
    max_pool_with_indices,
    max_unpool,
    nearest,
)
from jaxseg.nn.resize import nearest_index

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

RESIZES = {
    "nearest": (nearest, {"mode": "nearest"}),
    "half pixel": (bilinear, {"mode": "bilinear", "align_corners": False}),
    "corners": (
        lambda x, size: bilinear(x, size, align_corners=True),
        {"mode": "bilinear", "align_corners": True},
    ),
}


def noise(*shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def to_torch(torch, x):
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2))).requires_grad_()


def to_numpy(x):
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("convention", RESIZES)
@pytest.mark.parametrize("given", [(7, 12), (1, 5), (16, 9)])
def test_resize_and_its_gradient(torch, convention, given):
    ours, options = RESIZES[convention]
    rng = np.random.default_rng(1)
    sizes = [(14, 24), (1, 1), (3, 12), *map(tuple, rng.integers(1, 40, (3, 2)).tolist())]
    x = noise(2, *given, 3)
    weights = [noise(2, *size, 3) for size in sizes]

    def all_sizes(x):
        results = [ours(x, size) for size in sizes]
        return sum((y * w).sum() for y, w in zip(results, weights, strict=True)), results

    (_, results), gradient = jax.jit(jax.value_and_grad(all_sizes, has_aux=True))(x)
    theirs = to_torch(torch, x)
    total = 0
    for y, size, weight in zip(results, sizes, weights, strict=True):
        expected = torch.nn.functional.interpolate(theirs, size=size, **options)
        np.testing.assert_allclose(y, to_numpy(expected), rtol=0, atol=1e-5)
        total = total + (expected * to_torch(torch, weight)).sum()
    total.backward()
    np.testing.assert_allclose(gradient, to_numpy(theirs.grad), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "uint8"])
def test_nearest_rounds_as_torch_does(torch, dtype):
    """Where the ratio is not exact the pixel that is taken depends on the arithmetic."""
    for given in range(1, 60):
        x = torch.arange(given, dtype=getattr(torch, dtype)).reshape(1, 1, 1, given)
        for out in range(1, 130):
            expected = (
                torch.nn.functional.interpolate(x, size=(1, out), mode="nearest").float().numpy()
            )
            np.testing.assert_array_equal(nearest_index(given, out), expected.ravel())


@pytest.mark.parametrize("size", [(7, 10), (8, 8), (1, 1)])
def test_max_pool_and_its_gradient(torch, size):
    x = noise(2, *size, 3) - 3
    theirs = to_torch(torch, x)
    expected = torch.nn.functional.max_pool2d(theirs, 3, 2, 1)
    weight = noise(*to_numpy(expected).shape)
    (expected * to_torch(torch, weight)).sum().backward()
    gradient = jax.grad(lambda x: (max_pool(x, 3, 2, 1) * weight).sum())(x)
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1), to_numpy(expected))
    np.testing.assert_allclose(gradient, to_numpy(theirs.grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [(7, 7), (14, 9), (5, 8), (1, 2)])
def test_adaptive_pooling_and_its_gradient(torch, given):
    x, weight = noise(2, *given, 3), noise(2, 7, 7, 3)
    theirs = to_torch(torch, x)
    expected = torch.nn.functional.adaptive_avg_pool2d(theirs, (7, 7))
    (expected * to_torch(torch, weight)).sum().backward()
    gradient = jax.grad(lambda x: (adaptive_avg_pool(x, (7, 7)) * weight).sum())(x)
    np.testing.assert_allclose(adaptive_avg_pool(x, (7, 7)), to_numpy(expected), rtol=0, atol=1e-6)
    np.testing.assert_allclose(gradient, to_numpy(theirs.grad), rtol=0, atol=1e-5)


def test_batch_norm_in_training(torch):
    x, scale, bias = noise(3, 4, 5, 6) * 2 + 1, noise(6), noise(6)
    weight = noise(3, 5, 4, 6).transpose(0, 2, 1, 3)
    layer = torch.nn.BatchNorm2d(6)
    layer.weight.data, layer.bias.data = torch.from_numpy(scale), torch.from_numpy(bias)
    theirs = to_torch(torch, x)
    expected = layer(theirs)
    (expected * to_torch(torch, weight)).sum().backward()

    def loss(params, x):
        statistics = {"mean": np.zeros(6, np.float32), "var": np.ones(6, np.float32)}
        variables = {"params": params, "batch_stats": statistics}
        y, updated = BatchNorm().apply(variables, x, train=True, mutable=["batch_stats"])
        return (y * weight).sum(), (y, updated["batch_stats"])

    params = {"scale": scale, "bias": bias}
    (of_params, of_x), (y, moved) = jax.grad(loss, argnums=(0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(y, to_numpy(expected), rtol=0, atol=1e-5)
    np.testing.assert_allclose(moved["mean"], layer.running_mean.numpy(), rtol=0, atol=1e-6)
    np.testing.assert_allclose(moved["var"], layer.running_var.numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(of_x, to_numpy(theirs.grad), rtol=0, atol=1e-4)
    np.testing.assert_allclose(of_params["scale"], layer.weight.grad.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(of_params["bias"], layer.bias.grad.numpy(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("window", "stride", "padding", "size"),
    [
        (2, 2, 0, (7, 10)),
        (3, 2, 1, (7, 10)),
        (3, 1, 0, (7, 10)),
        (2, 3, 1, (7, 10)),
        (2, 2, 1, (5, 5)),
        (3, 3, 0, (9, 13)),
        (4, 3, 2, (11, 6)),
        (5, 2, 2, (8, 15)),
    ],
)
def test_pooling_with_places_and_unpooling(torch, window, stride, padding, size, dtype):
    x = noise(2, *size, 3).astype(jnp.bfloat16).astype(np.float32)
    x[0, :3] = 0.5  # equal ones: the first wins
    theirs = to_torch(torch, x)  # in float32 of rounded inputs, whatever our type
    pool = torch.nn.functional.max_pool2d
    pooled, indices = pool(theirs, window, stride, padding, return_indices=True)
    back = torch.nn.functional.max_unpool2d(
        pooled, indices, window, output_size=size, stride=stride, padding=padding
    )
    weight = noise(*to_numpy(back).shape).astype(jnp.bfloat16).astype(np.float32)
    (back * to_torch(torch, weight)).sum().backward()

    def ours(x):
        values, where = max_pool_with_indices(x, window, stride, padding)
        result = max_unpool(values, size, indices=where).astype(jnp.float32)
        return (result * weight).sum(), (values, where, result)

    (_, results), gradient = jax.jit(jax.value_and_grad(ours, has_aux=True))(jnp.asarray(x, dtype))
    for result, expected in zip(results, (pooled, indices, back), strict=True):
        np.testing.assert_array_equal(result.astype(jnp.float32), to_numpy(expected))
    tolerance = 0 if window <= stride else 3e-2 if dtype == "bfloat16" else 1e-6
    expected = to_numpy(theirs.grad)
    np.testing.assert_allclose(
        gradient.astype(jnp.float32), expected, rtol=tolerance, atol=tolerance
    )
