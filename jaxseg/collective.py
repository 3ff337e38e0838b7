"""Sums and means over the devices that hold one batch, so that one step fits every strategy.

Inside `pmap` and `shard_map` each device sees its own part of the batch and the axis `"data"` is bound: sums go
through `lax.psum`. Under `jit` with sharded arrays, and on one device, sums are global already and nothing is bound:
the same functions are the identity, but that a mesh in force (`jax.sharding.use_abstract_mesh`) makes them ask for results
that are whole on every device, which keeps XLA from cutting activations as parameters are cut. Which of these holds is
known when the function is traced.
"""

from typing import TypeVar

import jax
from jax import lax
from jax.sharding import AxisType, PartitionSpec, get_abstract_mesh

from jaxseg.typing import Array

AXIS = "data"
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


def fold_in_device(key: jax.Array) -> Array:
    """A key of this device's own where the axis is bound, the key itself elsewhere."""
    return jax.random.fold_in(key, lax.axis_index(AXIS)) if is_bound() else key


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
