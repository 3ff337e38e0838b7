"""Sharding of a batch and of a training state over a mesh of devices."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg import collective
from jaxseg.errors import InputError
from jaxseg.tree_paths import path_name, under
from jaxseg.typing import Array

Tree = TypeVar("Tree")
ShardingRule = Callable[[str, tuple[int, ...], int], int | None]
"""`rule(path, shape, num_devices)`: the axis along which to shard an array over all devices, or None to replicate it."""

_SHARDABLE = ("params", "opt_state", "ema")


def replicated(path: str, shape: tuple[int, ...], num_devices: int) -> int | None:
    """The sharding rule of data parallelism: replicates every array.

    >>> replicated("params/head/kernel", (3, 3, 64, 256), 8) is None
    True
    """
    return None


def fully_sharded(*, min_size: int = 4096) -> ShardingRule:
    """Returns the sharding rule of ZeRO and FSDP: shards parameters and their optimizer state over all devices.

    Each array is sharded along its longest axis that the number of devices divides. Every device stores and updates its
    shard, and gathers the other shards to compute with; results are those of `replicated`. Small arrays, arrays without
    such an axis, batch statistics and totals are replicated.

    Args:
        min_size: Smallest number of elements of an array to shard; sharding smaller ones costs messages and saves no
            memory.

    Returns:
        A rule for `Parallel`.

    Raises:
        InputError: `min_size` is less than 1.

    >>> rule = fully_sharded(min_size=1000)
    >>> rule("params/head/kernel", (3, 3, 64, 256), 8), rule("params/head/bias", (256,), 8)
    (3, None)
    >>> rule("params/stem/kernel", (7, 7, 3, 50), 8) is None
    True

    References:
        Rajbhandari, Rasley, Ruwase and He, ZeRO, 2020, https://arxiv.org/abs/1910.02054; Zhao et al., PyTorch FSDP,
        2023, https://arxiv.org/abs/2304.11277. Here XLA schedules the collectives, and may hold more gathered parameters
        at a time than those of one layer.
    """
    if min_size < 1:
        raise InputError(f"min_size is {min_size}: it must be at least 1")

    def rule(path: str, shape: tuple[int, ...], num_devices: int) -> int | None:
        axes = [axis for axis, size in enumerate(shape) if size and size % num_devices == 0]
        if path.partition("/")[0] not in _SHARDABLE or math.prod(shape) < min_size or not axes:
            return None
        return max(axes, key=lambda axis: (shape[axis], axis))

    return rule


def by_prefix(rules: Mapping[str, ShardingRule]) -> ShardingRule:
    """Returns a sharding rule that applies the first rule whose prefix matches; other arrays are replicated.

    Args:
        rules: Rules by prefix of whole names, such as `{"params/encoder": replicated, "params": fully_sharded()}`. Paths
            are those of the state: `params/...`, `opt_state/0/mu/...`, `ema/...`.

    Returns:
        A rule for `Parallel`.

    >>> rule = by_prefix({"params": replicated, "": fully_sharded()})
    >>> rule("params/head/kernel", (64, 256), 8), rule("opt_state/0/mu/head/kernel", (64, 256), 8)
    (None, 1)
    """

    def first(path: str, shape: tuple[int, ...], num_devices: int) -> int | None:
        for prefix, rule in rules.items():
            if under(path, prefix):
                return rule(path, shape, num_devices)
        return None

    return first


class DeviceMesh:
    """A mesh of devices and the shardings of arrays on it.

    Attributes:
        mesh: The mesh, with the axis `"data"` and, with spatial shards, the axis `"rows"`.
        spatial_shards: Number of shards of an image's rows.
        replicated: The sharding of an array that every device holds.
        sharded: The sharding of an array along its first axis.

    Args:
        devices: The devices, those of other processes included.
        spatial_shards: Number of shards of an image's rows; that many consecutive devices share their images.
        sharding_rule: Which arrays of a state are sharded.

    Raises:
        InputError: The number of devices is no multiple of `spatial_shards`, or devices that share an image belong to two
            processes.

    >>> mesh = DeviceMesh(jax.devices()[:4], spatial_shards=2)
    >>> mesh.mesh.shape["rows"], tuple(mesh.batch_sharding(np.zeros((2, 6, 5, 3))).spec)
    (2, ('data', 'rows'))
    """

    def __init__(
        self,
        devices: Sequence[Any],
        *,
        spatial_shards: int = 1,
        sharding_rule: ShardingRule = replicated,
    ):
        count = len(devices)
        if spatial_shards < 1 or count % spatial_shards:
            raise InputError(
                f"{count} devices cannot form groups of {spatial_shards}, one device for each spatial shard"
            )
        groups = [devices[i : i + spatial_shards] for i in range(0, count, spatial_shards)]
        if any(len({device.process_index for device in group}) > 1 for group in groups):
            raise InputError(
                f"{spatial_shards} spatial shards, but a process has fewer devices: two processes cannot share an image"
            )
        self.spatial_shards = spatial_shards
        self._rule, self._count = sharding_rule, count
        # Not jax.make_mesh, which orders TPUs differently from pmap.
        grid, names = np.asarray(devices), (collective.AXIS,)
        if spatial_shards > 1:
            grid, names = grid.reshape(-1, spatial_shards), (collective.AXIS, collective.ROWS)
        self.mesh = Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec(collective.AXIS))
        self._rows = NamedSharding(self.mesh, PartitionSpec(*names))

    @property
    def is_data_parallel(self) -> bool:
        """Whether nothing but the batch is sharded, along its first axis."""
        return self.spatial_shards == 1 and self._rule is replicated

    def state_shardings(self, tree: Any) -> Any:
        """Returns the sharding of every leaf of a state, of totals or of logs."""

        def sharding(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            axis = self._rule(path_name(path), np.shape(leaf), self._count)
            if axis is None:
                return self.replicated
            return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, self.mesh.axis_names))

        return jax.tree.map_with_path(sharding, tree)

    def batch_sharding(self, array: Any) -> NamedSharding:
        """Returns the sharding in which a batch's array is transferred to the devices.

        Rows of an image or a label map `[N, H, W, ...]` are sharded where the number of spatial shards divides H.
        """
        shape = np.shape(array)
        if self.spatial_shards == 1 or len(shape) < 3 or shape[1] % self.spatial_shards:
            return self.sharded
        return self._rows

    def shard_rows(self, array: Array) -> Array:
        """Shards the rows of a batch's array in a compiled function, for any number of rows."""
        if self.spatial_shards == 1 or array.ndim < 3:
            return array
        return jax.lax.with_sharding_constraint(array, self._rows)

    def gather_params(self, state: Tree) -> Tree:
        """Replicates the parameters of a state in a compiled function.

        Otherwise XLA shards the channels of a feature map as those of the kernel that computes it.
        """

        def gather(path: tuple[Any, ...], leaf: Any) -> Any:
            if not under(path_name(path), "params"):
                return leaf
            return jax.lax.with_sharding_constraint(leaf, self.replicated)

        return jax.tree.map_with_path(gather, state)


def put(tree: Tree, shardings: Any) -> Tree:
    """Transfers a tree that every process holds to global arrays, which may share memory with it."""
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings)
    return jax.tree.map(_make_global, tree, shardings)


def put_copy(tree: Tree, shardings: Any) -> Tree:
    """Transfers a tree that every process holds to global arrays, which share no memory with it."""
    if jax.process_count() == 1:
        # device_put shares the first device's shard even with may_alias=False.
        return jax.device_put(_copy(tree), shardings)
    return jax.tree.map(_make_global, tree, shardings)


def put_local(array: Any, sharding: NamedSharding) -> Array:
    """Transfers this process's part of a batch's array to a global array."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)
    return jax.make_array_from_process_local_data(sharding, np.asarray(array))


def _copy(tree: Tree) -> Tree:
    """Copies all arrays of one sharding by one program; by themselves XLA would compile a program for each shape."""
    leaves, structure = jax.tree.flatten(tree)
    shardings = [leaf.sharding if isinstance(leaf, jax.Array) else None for leaf in leaves]
    for sharding in set(shardings):
        chosen = [i for i, other in enumerate(shardings) if other == sharding]
        for i, copy in zip(chosen, _copies([leaves[i] for i in chosen]), strict=True):
            leaves[i] = copy
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _copies(arrays: list[Any]) -> list[Array]:
    return [jnp.copy(array) for array in arrays]


def _make_global(array: Any, sharding: NamedSharding) -> Array:
    """Makes a global array of one that every process holds; with several processes `device_put` refuses keys."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return array
    if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        data = _make_global(jax.random.key_data(array), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
    host = np.asarray(array)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
