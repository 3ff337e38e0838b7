"""Pyramid pooling beyond its comparison with smp inside of PSPNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import noise, random_variables

from jaxseg.errors import InputError
from jaxseg.nn import PyramidPooling, bilinear, nearest


def test_is_the_upsampled_mean_of_each_cell_beside_the_map():
    x = noise(2, 6, 9, 5)
    block = PyramidPooling(2, grids=(1, 3), single_norm=None, upsample=nearest)
    variables = random_variables(jax.eval_shape(block.init, jax.random.key(0), x))
    y = np.asarray(block.apply(variables, x))
    single = variables["params"]["grid0"]["conv"]
    mean = x.mean((1, 2)) @ np.asarray(single["kernel"][0, 0]) + np.asarray(single["bias"])
    np.testing.assert_allclose(y[:, 4, 7, :2], np.maximum(mean, 0), rtol=0, atol=1e-6)
    assert all(np.ptp(y[..., 2:4].reshape(2, 3, 2, 3, 3, 2), axis=(2, 4)).ravel() == 0)
    np.testing.assert_array_equal(y[..., 4:], x)


def test_a_map_smaller_than_its_grids_can_be_trained():
    x, block = jnp.ones((1, 1, 2, 3)), PyramidPooling(4, grids=(1, 6), upsample=bilinear)
    variables = block.init(jax.random.key(0), x)
    y, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.shape == (1, 1, 2, 11)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("grids", [(), (0, 2), (-1,)])
def test_no_grid_or_cell_is_an_error(grids):
    with pytest.raises(InputError, match="at least one cell"):
        PyramidPooling(4, grids=grids)
