"""Collective operations over the devices that share a batch, the same for every strategy.

Inside of `pmap` and `shard_map` each device sees its shard of the batch and the axis `"data"` is bound: sums are
`lax.psum`. Under `jit` with sharded arrays, and on one device, no axis is bound and sums are global already: the functions
return their argument. Under `jit` with a mesh (`jax.sharding.use_abstract_mesh`) they also constrain their result to be
replicated, which keeps XLA from sharding activations as parameters are sharded. The choice is made when a function is traced.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec, get_abstract_mesh

from jaxseg.typing import Array

AXIS = "data"
"""The axis of a mesh along which batches are sharded."""
ROWS = "rows"
"""The axis of a mesh along which the rows of images are sharded."""
Tree = TypeVar("Tree")
_micro_batch: ContextVar[tuple[Array | int, int]] = ContextVar("micro_batch", default=(0, 1))
"""Index and number of the micro-batches that the function being traced sees one of."""


def is_bound() -> bool:
    """Whether the function that is traced runs once per device, over the axis `"data"`."""
    try:
        lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def psum(tree: Tree) -> Tree:
    """Returns the sum over devices where the axis is bound, and the argument elsewhere.

    >>> psum(3)
    3
    """
    return lax.psum(tree, AXIS) if is_bound() else _replicate(tree)


def pmean(tree: Tree) -> Tree:
    """Returns the mean over devices where the axis is bound, and the argument elsewhere.

    >>> pmean(3.0)
    3.0
    """
    return lax.pmean(tree, AXIS) if is_bound() else _replicate(tree)


def num_shards(size: int) -> int:
    """Returns the number of equal shards of a batch that the function being traced sees as a whole.

    That is 1 where the axis is bound, where there is no mesh, where the mesh shards rows too, and where the number of devices
    does not divide the batch.

    Args:
        size: Number of images of the batch.

    >>> num_shards(8)
    1
    """
    mesh = get_abstract_mesh()
    if is_bound() or mesh.axis_names != (AXIS,) or size % mesh.size:
        return 1
    return mesh.size


def gather(array: Array) -> Array:
    """Returns the concatenated `[N, ...]` of all devices where the axis is bound, and the argument, replicated, elsewhere.

    >>> import jax.numpy as jnp
    >>> gather(jnp.ones((1, 2))).shape
    (1, 2)
    """
    return lax.all_gather(array, AXIS, tiled=True) if is_bound() else _replicate(array)


def gather_rows(array: Array, index: Array) -> Array:
    """Returns rows of an array that is sharded along its first axis, by their global index.

    Where the axis is bound, each device sees its shard of the array and asks for rows of its own: all devices look for the
    rows of all of them, and a reduce-scatter returns each row to the device that asked. Elsewhere XLA does the same.

    Args:
        array: `[L, ...]`; where the axis is bound, a device's shard `[L / D, ...]`.
        index: Integers of any shape, within `0..L-1`.

    Returns:
        `[*index.shape, ...]`.

    >>> import jax.numpy as jnp
    >>> gather_rows(jnp.array([[1, 2], [3, 4]]), jnp.array([1, 1, 0])).tolist()
    [[3, 4], [3, 4], [1, 2]]
    """
    mode = "promise_in_bounds"
    if not is_bound():
        return array.at[index].get(mode=mode)
    wanted = lax.all_gather(index.ravel(), AXIS, tiled=True)
    local = wanted - lax.axis_index(AXIS) * array.shape[0]
    is_here = (local >= 0) & (local < array.shape[0])
    rows = array.at[jnp.where(is_here, local, 0)].get(mode=mode)
    rows = jnp.where(is_here.reshape(-1, *(1,) * (array.ndim - 1)), rows, jnp.zeros_like(rows))
    found = lax.psum_scatter(rows, AXIS, tiled=True)  # each row is on one device
    return found.reshape(*index.shape, *array.shape[1:])


def image_index(size: int) -> Array:
    """Returns the indices, in the global batch, of the images that the function being traced sees.

    A layer that folds them into its key draws the same numbers for an image on one device, on several, under every strategy
    and in every division into micro-batches.

    Args:
        size: Number of images that the function sees.

    Returns:
        int32 `[size]`.

    >>> image_index(3).tolist()
    [0, 1, 2]
    """
    part, parts = _micro_batch.get()
    first = lax.axis_index(AXIS) * (size * parts) if is_bound() else 0
    return first + part + parts * jnp.arange(size, dtype=jnp.int32)


@contextlib.contextmanager
def micro_batch(part: Array | int, parts: int) -> Iterator[None]:
    """Says that functions traced inside see the images `part`, `part + parts`, ... of the device's batch."""
    before = _micro_batch.set((part, parts))
    try:
        yield
    finally:
        _micro_batch.reset(before)


def _replicate(tree: Tree) -> Tree:
    """Constrains a tree to be replicated over the mesh, if there is one."""
    mesh = get_abstract_mesh()
    if mesh.empty or set(mesh.axis_types) != {AxisType.Auto}:
        return tree

    def replicate(leaf):
        if not isinstance(leaf, jax.Array):  # a Python number
            return leaf
        return lax.with_sharding_constraint(leaf, PartitionSpec())

    return jax.tree.map(replicate, tree)
