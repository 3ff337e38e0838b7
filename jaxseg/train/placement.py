"""Where arrays live on a mesh of devices: a state, and a batch cut into images and bands of rows."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.train.layout import Layout, whole
from jaxseg.train.paths import path_name, under
from jaxseg.typing import Array

Tree = TypeVar("Tree")


class Placement:
    """A mesh of devices, and the sharding of every array on it.

    Args:
        devices: The devices, those of other processes included.
        bands: Into how many bands the rows of images are cut; so many devices in a row share their images.
        layout: Which arrays of a state are cut over all devices.

    Raises:
        InputError: Bands that do not divide the devices, or that reach into another process.

    >>> placement = Placement(jax.devices()[:4], bands=2)
    >>> tuple(placement.mesh.shape.items()), tuple(placement.batch(np.zeros((2, 6, 5, 3))).spec)
    ((('data', 2), ('rows', 2)), ('data', 'rows'))
    """

    def __init__(self, devices: Sequence[Any], *, bands: int = 1, layout: Layout = whole):
        count = len(devices)
        if bands < 1 or count % bands:
            raise InputError(f"{count} devices cannot form groups of {bands}, one for each band")
        groups = [devices[i : i + bands] for i in range(0, count, bands)]
        if any(len({device.process_index for device in group}) > 1 for group in groups):
            raise InputError(
                f"{bands} bands, but a process has fewer devices: two processes cannot share an image"
            )
        self.bands = bands
        self._layout, self._count = layout, count
        # Not jax.make_mesh, which puts TPUs into another order than pmap is given.
        grid, names = np.asarray(devices), (collective.AXIS,)
        if bands > 1:
            grid, names = grid.reshape(-1, bands), (collective.AXIS, collective.ROWS)
        self.mesh = Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))
        self.everywhere = NamedSharding(self.mesh, PartitionSpec())
        self.divided = NamedSharding(self.mesh, PartitionSpec(collective.AXIS))

    @property
    def is_plain(self) -> bool:
        """Whether nothing is cut but the batch, along its first axis."""
        return self.bands == 1 and self._layout is whole

    def state(self, tree: Any) -> Any:
        """The sharding of every leaf of a state, of totals or of logs."""

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            axis = self._layout(path_name(path), np.shape(leaf), self._count)
            if axis is None:
                return self.everywhere
            spec = PartitionSpec(*[None] * axis, self.mesh.axis_names)
            return NamedSharding(self.mesh, spec)

        return jax.tree.map_with_path(sharding, tree)

    def batch(self, array: Any) -> NamedSharding:
        """Where a batch's array travels to; images and labels, `[N, H, W, ...]`, in bands where those divide H."""
        shape = np.shape(array)
        if self.bands == 1 or len(shape) < 3 or shape[1] % self.bands:
            return self.divided
        return self._banded

    def in_bands(self, array: Array) -> Array:
        """Within a compiled function: a batch's array cut along its rows, also where the bands do not divide them."""
        if self.bands == 1 or array.ndim < 3:
            return array
        return jax.lax.with_sharding_constraint(array, self._banded)

    def gathered(self, state: Tree) -> Tree:
        """Within a compiled function: a state whose parameters are whole on every device, for the model to compute with.

        Without it XLA takes a cut kernel as a wish to cut the maps that it makes by their channels.
        """

        def whole(path: tuple[Any, ...], leaf: Any) -> Any:
            if not under(path_name(path), "params"):
                return leaf
            return jax.lax.with_sharding_constraint(leaf, self.everywhere)

        return jax.tree.map_with_path(whole, state)

    @property
    def _banded(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(collective.AXIS, collective.ROWS))


def put(tree: Tree, shardings: Any) -> Tree:
    """A tree that every process holds whole, as global arrays that share no memory with it."""
    if jax.process_count() == 1:
        # device_put shares the first device's part even with may_alias=False.
        return jax.device_put(_copied(tree), shardings)
    return jax.tree.map(_spread, tree, shardings)


def _copied(tree: Tree) -> Tree:
    """What lies together in one program: one array after the other, XLA would compile a program for each shape."""
    leaves, structure = jax.tree.flatten(tree)
    places = [leaf.sharding if isinstance(leaf, jax.Array) else None for leaf in leaves]
    for place in set(places):
        chosen = [i for i, other in enumerate(places) if other == place]
        for i, copy in zip(chosen, _copies([leaves[i] for i in chosen]), strict=True):
            leaves[i] = copy
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _copies(arrays: list[Any]) -> list[Array]:
    return [jnp.copy(array) for array in arrays]


def put_shared(tree: Tree, shardings: Any) -> Tree:
    """A tree that every process holds whole, as global arrays that may share memory with it."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_spread, tree, shardings)


def put_part(array: Any, sharding: NamedSharding) -> Array:
    """This process's part of a batch's array, as a part of the global one."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def _spread(array: Any, sharding: NamedSharding) -> Array:
    """An array that this process holds, as a global one; `device_put` takes no keys there."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _spread(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
