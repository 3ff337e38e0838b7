"""Pyramid pooling: means of a map over coarse grids, beside the map itself."""

from collections.abc import Callable, Iterable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.nn.blocks import ConvNorm, kaiming_fan_out
from jaxseg.nn.norm import BatchNorm
from jaxseg.nn.pool import adaptive_avg_pool
from jaxseg.nn.resize import bilinear
from jaxseg.typing import Array, Upsample


class PyramidPooling(nn.Module):
    """Means of a map over grids of several sizes, each upsampled again.

    A mean goes through a 1x1 convolution, a normalization and a ReLU before it is upsampled.

    Attributes:
        features: Channels of each upsampled mean.
        grids: Rows, and columns, of the grids.
        single_norm: Makes the normalization of the grid with one cell, the others have batch normalization; None leaves
            it out, as in segmentation_models.pytorch.
        upsample: From a grid to the map's size.
        kernel_init: Initializer of all kernels; by default Kaiming's normal over fan-out.
        dtype: Type to compute in; by default that of inputs and parameters.
        param_dtype: Type of parameters and running statistics.

    Raises:
        InputError: There is no grid, or one without cells.

    References:
        Zhao et al., Pyramid Scene Parsing Network, 2017, https://arxiv.org/abs/1612.01105, section 3.2

    >>> import jax
    >>> block = PyramidPooling(8, grids=(1, 3))
    >>> maps, variables = block.init_with_output(jax.random.key(0), jnp.ones((1, 5, 7, 4)))
    >>> [x.shape for x in maps], sorted(variables["params"])
    ([(1, 5, 7, 8), (1, 5, 7, 8)], ['grid0', 'grid1'])
    """

    features: int
    grids: tuple[int, ...] = (1, 2, 3, 6)
    single_norm: Callable[..., Any] | None = BatchNorm
    upsample: Upsample = bilinear
    kernel_init: nn.initializers.Initializer = kaiming_fan_out
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def __post_init__(self):
        check_grids(self.grids)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Array, *, train: bool = False) -> tuple[Array, ...]:
        """Maps `[N, H, W, C]` to one `[N, H, W, features]` for each grid."""
        size = x.shape[1], x.shape[2]
        maps = []
        for i, cells in enumerate(self.grids):
            conv = ConvNorm(
                self.features,
                1,
                norm=self.single_norm if cells == 1 else BatchNorm,
                kernel_init=self.kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"grid{i}",
            )
            mean = conv(adaptive_avg_pool(x, (cells, cells)), train=train)
            maps.append(self.upsample(mean, size))
        return tuple(maps)


def check_grids(grids: Iterable[int]) -> tuple[int, ...]:
    """Returns the grids of a pyramid as a tuple.

    Raises:
        InputError: There is none, or one without cells.

    >>> check_grids([1, 2])
    (1, 2)
    """
    grids = tuple(grids)
    if not grids or min(grids) < 1:
        raise InputError(f"grids={grids}: pyramid pooling needs a grid, and each at least one cell")
    return grids
