"""Sums and means over the devices that hold one batch, so that one step fits every strategy.

Inside `pmap` and `shard_map` each device sees its own part of the batch and the axis `"data"` is bound: sums go
through `lax.psum`. Under `jit` with sharded arrays, and on one device, sums are global already and nothing is bound:
the same functions are the identity, but that a mesh in force (`jax.sharding.use_abstract_mesh`) makes them ask for results
that are whole on every device, which keeps XLA from cutting activations as parameters are cut. Which of these holds is
known when the function is traced.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, PartitionSpec, get_abstract_mesh

from jaxseg.typing import Array

AXIS = "data"
ROWS = "rows"  # the other axis of a mesh that cuts images into bands
Tree = TypeVar("Tree")


def is_bound() -> bool:
    """Whether the function being traced runs once per device, over the axis `"data"`."""
    try:
        lax.axis_size(AXIS)
    except NameError:
        return False
    return True


def psum(tree: Tree) -> Tree:
    """The sum over devices where the axis is bound, the argument itself elsewhere.

    >>> psum(3)
    3
    """
    return lax.psum(tree, AXIS) if is_bound() else _whole(tree)


def pmean(tree: Tree) -> Tree:
    """The mean over devices where the axis is bound, the argument itself elsewhere."""
    return lax.pmean(tree, AXIS) if is_bound() else _whole(tree)


def parts(count: int) -> int:
    """Into how many equal parts the devices cut a batch of `count`, where the function being traced sees all of them.

    1 where the axis is bound (a device sees its own part alone), where no mesh is in force, where the mesh cuts rows
    too, and where it does not divide the batch.

    >>> parts(8)
    1
    """
    mesh = get_abstract_mesh()
    if is_bound() or mesh.axis_names != (AXIS,) or count % mesh.size:
        return 1
    return mesh.size


def gather(array: Array) -> Array:
    """The `[G, ...]` of all devices after each other where the axis is bound, whole on every device elsewhere.

    >>> import jax.numpy as jnp
    >>> gather(jnp.ones((1, 2))).shape
    (1, 2)
    """
    return lax.all_gather(array, AXIS, tiled=True) if is_bound() else _whole(array)


def fold_in_device(key: jax.Array) -> Array:
    """A key of this device's own where the axis is bound, the key itself elsewhere."""
    return jax.random.fold_in(key, lax.axis_index(AXIS)) if is_bound() else key


def take(array: Array, index: Array) -> Array:
    """Rows of an array that is cut over the devices along its first axis, by their index in the whole of it.

    Where the axis is bound each device sees its part of the array and asks for rows of its own: all devices look for
    all rows, and what each finds travels to whoever asked. Elsewhere XLA sees the whole array and does the same.

    Args:
        array: `[L, ...]`, or where the axis is bound a device's `[L / D, ...]`.
        index: Integers `[...]` within `0..L-1`.

    >>> import jax.numpy as jnp
    >>> take(jnp.array([[1, 2], [3, 4]]), jnp.array([1, 1, 0])).tolist()
    [[3, 4], [3, 4], [1, 2]]
    """
    within = "promise_in_bounds"
    if not is_bound():
        return array.at[index].get(mode=within)
    asked = lax.all_gather(index.ravel(), AXIS, tiled=True)
    mine = asked - lax.axis_index(AXIS) * array.shape[0]
    here = (mine >= 0) & (mine < array.shape[0])
    rows = array.at[jnp.where(here, mine, 0)].get(mode=within)
    kept = jnp.where(here.reshape(-1, *(1,) * (array.ndim - 1)), rows, jnp.zeros_like(rows))
    found = lax.psum_scatter(kept, AXIS, tiled=True)  # each row lies on one device alone
    return found.reshape(*index.shape, *array.shape[1:])


def _whole(tree: Tree) -> Tree:
    """The tree whole on every device of the mesh in force, if there is one."""
    mesh = get_abstract_mesh()
    if mesh.empty or set(mesh.axis_types) != {AxisType.Auto}:
        return tree

    def whole(leaf):
        if not isinstance(leaf, jax.Array):  # a number
            return leaf
        return lax.with_sharding_constraint(leaf, PartitionSpec())

    return jax.tree.map(whole, tree)
