"""A convolution of an upsampled map equals that on the map before upsampling, and U-Net uses it where it can."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.models.unet import UNet
from jaxseg.nn import Conv, concatenate, nearest, upsample_merge
from jaxseg.nn.cpu.upsampled_conv import Upsampled

KEY = jax.random.key(0)


def arrays(height, width, skip, dtype=np.float64):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 3)).astype(dtype)
    of_skip = rng.normal(size=(2, 2 * height, 2 * width, skip)).astype(dtype) if skip else None
    return x, of_skip, rng.normal(size=(3, 3, 3 + skip, 4)).astype(dtype)


def apply(x, skip, kernel, deferred, stride=1):
    y = upsample_merge(x, skip, (2 * x.shape[1], 2 * x.shape[2]))
    assert isinstance(y, Upsampled)
    layer = Conv(kernel.shape[-1], kernel.shape[:2], stride, use_bias=False)
    return layer.apply({"params": {"kernel": kernel}}, y if deferred else y.array())


def value_and_gradients(deferred):
    def of(x, skip, kernel):
        y = apply(x, skip, kernel, deferred)
        return jnp.sin(y).sum(), y

    return jax.jit(jax.value_and_grad(of, (0, 1, 2), has_aux=True))


@pytest.mark.parametrize("size", [(1, 3), (2, 2), (3, 5), (4, 2)])
@pytest.mark.parametrize("skip", [0, 2])
@pytest.mark.sample(3)
def test_upsampled_conv_in_float64_equals_xla(size, skip):
    with jax.enable_x64(True):
        given = arrays(*size, skip)
        ours, theirs = (value_and_gradients(deferred)(*given) for deferred in (True, False))
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_upsampled_stands_for_nearest_and_concatenate():
    x, skip, _ = (jnp.asarray(z) for z in arrays(2, 3, 2, np.float32))
    y = nearest(x, (4, 6))
    np.testing.assert_array_equal(Upsampled(x).array(), y)
    np.testing.assert_array_equal(Upsampled(x, skip).array(), concatenate(y, skip))
    for z in (Upsampled(x), Upsampled(x, skip)):
        assert z.shape == z.array().shape


def test_upsample_merge_computes_other_maps():
    x, skip, _ = (jnp.asarray(z) for z in arrays(2, 3, 2, np.float32))
    odd = upsample_merge(x, skip[:, :3], (3, 6))
    np.testing.assert_array_equal(odd, concatenate(nearest(x, (3, 6)), skip[:, :3]))
    added = upsample_merge(x, x[:, :1], (4, 6), merge=lambda x, skip: x + skip.mean())
    np.testing.assert_array_equal(added, nearest(x, (4, 6)) + x[:, :1].mean())
    zeros = upsample_merge(x, None, (4, 6), upsample=lambda x, size: jnp.zeros((2, *size, 3)))
    assert not np.asarray(zeros).any()


def lowered(platform, deferred=True, dtype=np.float32, **options):
    given = [jnp.asarray(z, dtype) for z in arrays(4, 4, 2)]
    if "kernel" in options:
        given[2] = options.pop("kernel")

    def of(x, skip, kernel):
        return jnp.sin(apply(x, skip, kernel, deferred, **options)).sum()

    traced = jax.jit(jax.grad(of, (0, 1, 2))).trace(*given)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_upsampled_conv_is_for_cpus_alone():
    """A kernel of 2 x 2 taps and four times the channels there; as many convolutions as without elsewhere."""
    assert "tensor<2x2x3x16xf32>" in lowered("cpu")
    assert "tensor<2x2x3x16xf32>" not in lowered("tpu")
    for deferred in (True, False):
        assert lowered("tpu", deferred).count("stablehlo.convolution") == 3


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": jnp.bfloat16},
        {"stride": 2},
        {"kernel": np.ones((1, 1, 5, 4), np.float32)},
        {"kernel": np.ones((5, 5, 5, 4), np.float32)},
    ],
    ids=["half precision", "stride", "one tap", "five taps"],
)
def test_other_convs_of_an_upsampled_map_compute_it(options):
    assert lowered("cpu", True, **options) == lowered("cpu", False, **options)


class TestUNet:
    FEATURES = tuple(
        np.random.default_rng(1).normal(size=(2, 16 >> i, 24 >> i, 4 + i)) for i in range(3)
    )

    def taps(self, size=(32, 48), **options):
        """Kernels of 2 x 2 taps in the program for a CPU."""
        decoder = UNet((8, 6, 4), **options)
        features = [jnp.asarray(x, jnp.float32) for x in self.FEATURES]
        run = jax.jit(lambda *x: decoder.init_with_output(KEY, x, size)[0])
        return run.lower(*features).as_text().count("tensor<2x2x")

    def test_unet_uses_it_at_every_factor_of_two(self):
        assert self.taps() > 0
        assert self.taps(upsample=lambda x, size: nearest(x, size)) == 0
        unknown = self.taps(merge=lambda x, skip: concatenate(x, skip))
        assert 0 < unknown < self.taps()  # the last step has no skip to join
        assert self.taps(size=(31, 48)) < self.taps()

    @pytest.mark.slow
    def test_unet_with_it_has_equal_numbers(self):
        """Maps, gradients and running statistics in float64, beside a U-Net whose upsampling is not known."""
        with jax.enable_x64(True):
            features = tuple(jnp.asarray(x) for x in self.FEATURES)

            def results(upsample):
                decoder = UNet((8, 6, 4), upsample=upsample, param_dtype=jnp.float64)
                variables = UNet((8, 6, 4), param_dtype=jnp.float64).init(KEY, features, (32, 48))

                def of(params, features):
                    tree = variables | {"params": params}
                    maps, new = decoder.apply(
                        tree, features, (32, 48), train=True, mutable=["batch_stats"]
                    )
                    return sum(jnp.sin(y).sum() for y in maps), (maps, new)

                grad = jax.value_and_grad(of, (0, 1), has_aux=True)
                return jax.jit(grad)(variables["params"], features)

            ours, theirs = results(nearest), results(lambda x, size: nearest(x, size))
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
