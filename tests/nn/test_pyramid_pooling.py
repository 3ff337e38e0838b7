"""Pyramid pooling beyond its comparison with smp inside of PSPNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import noise, random_variables

from jaxseg.errors import InputError
from jaxseg.nn import PyramidPooling, bilinear, nearest


def test_is_the_upsampled_mean_of_each_cell():
    x = noise(2, 6, 9, 5)
    block = PyramidPooling(2, grids=(1, 3), single_norm=None, upsample=nearest)
    variables = random_variables(jax.eval_shape(block.init, jax.random.key(0), x))
    first, second = map(np.asarray, block.apply(variables, x))
    single = variables["params"]["grid0"]["conv"]
    mean = x.mean((1, 2)) @ np.asarray(single["kernel"][0, 0]) + np.asarray(single["bias"])
    np.testing.assert_allclose(first[:, 4, 7], np.maximum(mean, 0), rtol=0, atol=1e-6)
    cells = second.reshape(2, 3, 2, 3, 3, 2)
    np.testing.assert_array_equal(cells, np.broadcast_to(cells[:, :, :1, :, :1], cells.shape))
    assert np.ptp(cells) > 0


def test_a_map_smaller_than_its_grids_can_be_trained():
    x, block = jnp.ones((1, 1, 2, 3)), PyramidPooling(4, grids=(1, 6), upsample=bilinear)
    variables = block.init(jax.random.key(0), x)
    maps, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
    assert [y.shape for y in maps] == [(1, 1, 2, 4)] * 2
    assert all(np.isfinite(y).all() for y in maps)


@pytest.mark.parametrize("grids", [(), (0, 2), (-1,)])
def test_no_grid_or_cell_is_an_error(grids):
    with pytest.raises(InputError, match="at least one cell"):
        PyramidPooling(4, grids=grids)
