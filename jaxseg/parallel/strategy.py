"""Data, spatial and fully sharded parallelism: how one pure function runs on several devices."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxseg import collective, compiler
from jaxseg.errors import InputError, unknown
from jaxseg.parallel.compiled_step import CompiledStep
from jaxseg.parallel.sharding import (
    DeviceMesh,
    ShardingRule,
    put,
    put_copy,
    put_local,
    replicated,
)
from jaxseg.typing import Array

Tree = TypeVar("Tree")

_STRATEGIES = ("jit", "pmap", "shard_map")


class Parallel:
    """A strategy to run a step on several devices: the state on each of them, a shard of the batch on each.

    Results do not depend on the strategy, the number of devices, spatial shards and the sharding rule.

    Attributes:
        strategy: The name of the strategy.
        devices: The devices, those of other processes included.

    Args:
        strategy: `"jit"` lets XLA partition the program; `"pmap"` and `"shard_map"` run the step once per device, with
            explicit collectives.
        devices: The devices, those of other processes included; by default all of them.
        spatial_shards: Number of shards of the rows of each image, for images that do not fit into the memory of one
            device. D devices form `D / spatial_shards` groups, the devices of a group share their images, and XLA exchanges
            the rows at the edges of shards. Images of any height work; where `spatial_shards` does not divide it, they are
            sharded on the devices.
        sharding_rule: Which arrays of the state are sharded instead of replicated, such as `fully_sharded()`.

    Raises:
        InputError: The strategy is unknown, there are no devices, their number is no multiple of `spatial_shards`, two
            processes would share an image, or spatial shards or a sharding rule are combined with a strategy other than
            `"jit"`.

    >>> parallel = Parallel("jit", jax.devices()[:1])
    >>> double = parallel.compile(lambda state, batch: state + 2 * batch["image"].sum())
    >>> state = parallel.replicate(jnp.float32(1.0))
    >>> float(double(state, parallel.shard({"image": np.ones((4, 2), np.float32)})))
    17.0
    """

    def __init__(
        self,
        strategy: str = "jit",
        devices: Sequence[Any] | None = None,
        *,
        spatial_shards: int = 1,
        sharding_rule: ShardingRule = replicated,
    ):
        if strategy not in _STRATEGIES:
            raise unknown("strategy", strategy, _STRATEGIES)
        self.strategy = strategy
        self.devices = tuple(jax.devices() if devices is None else devices)
        if not self.devices:
            raise InputError("there are no devices to run on")
        self._mesh = DeviceMesh(
            self.devices, spatial_shards=spatial_shards, sharding_rule=sharding_rule
        )
        if strategy != "jit" and not self._mesh.is_data_parallel:
            raise InputError(
                f"spatial shards and a sharding rule need the strategy 'jit', not {strategy!r}"
            )

    def replicate(self, tree: Tree, *, donate: bool = False) -> Tree:
        """Copies a state, totals or a key to every device, except for the arrays that the sharding rule shards.

        Args:
            tree: A pytree of arrays, the same in every process.
            donate: Whether the result may share memory with the argument, for a tree that is not read again, such as a new
                state: arrays on the right device are not copied, and a step that the result is donated to uses their
                memory.

        Returns:
            The tree on the mesh of all devices.
        """
        shardings = self._mesh.state_shardings(tree)
        return put(tree, shardings) if donate else put_copy(tree, shardings)

    def put(self, tree: Tree, *, sharded: bool = False) -> Tree:
        """Transfers arrays that steps read and never donate, such as a data set, to the devices.

        Unlike `replicate`, it makes no second copy on a device; on a CPU the result may share memory with the argument.

        Args:
            tree: A pytree of arrays, the same in every process, usually NumPy's.
            sharded: Whether to shard each array along its first axis instead of replicating it, for arguments that
                `compile` lists in `sharded`.

        Returns:
            The tree on the mesh of all devices. With `"pmap"` a sharded array is `[D, L / D, ...]`.

        Raises:
            InputError: The number of devices does not divide a first axis.
        """
        if not sharded:
            return put(tree, jax.tree.map(lambda _: self._mesh.replicated, tree))
        count = len(self.devices)
        for array in jax.tree.leaves(tree):
            if len(array) % count:
                raise InputError(f"{len(array)} rows cannot be sharded over {count} devices")
        if self.strategy == "pmap":
            tree = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)
        return put(tree, jax.tree.map(lambda _: self._mesh.sharded, tree))

    def shard(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """Shards a batch along its first axis, equally over devices or, with spatial shards, groups of devices.

        Args:
            batch: Arrays `[N, ...]` by name, usually NumPy's; with several processes, this process's part of the batch.
                Entries that are no numeric arrays, such as lists of file names, are dropped.

        Returns:
            The arrays on the devices. With `"pmap"` they are `[D, N / D, ...]`.

        Raises:
            InputError: The number of devices does not divide N, arrays differ in N, or there is no array.
        """
        arrays = {name: array for name, array in batch.items() if _is_numeric(array)}
        sizes = {
            name: np.shape(array)[0] if np.ndim(array) else 0 for name, array in arrays.items()
        }
        if len(set(sizes.values())) != 1:
            raise InputError(
                f"a batch needs arrays with one and the same first axis, these have {sizes or 'none'}"
            )
        (size,) = set(sizes.values())
        spatial_shards = self._mesh.spatial_shards
        count = sum(device.process_index == jax.process_index() for device in self.devices)
        count //= spatial_shards
        if not size or size % count:
            holders = "devices" if spatial_shards == 1 else f"groups of {spatial_shards} devices"
            raise InputError(
                f"a batch of {size} cannot be divided over {count} {holders}: make the batch a multiple of {count}, "
                "or use fewer devices"
            )
        return {name: self._put_batch(array, count) for name, array in arrays.items()}

    def compile(
        self,
        fn: Callable[..., Any],
        donate: tuple[int, ...] = (0,),
        *,
        sharded: tuple[int, ...] = (1,),
    ) -> CompiledStep:
        """Compiles a step for all devices.

        Args:
            fn: A function of positional arguments whose second argument is the batch, such as `step(state, batch, key)`. Its
                results must be the same on every device: it computes sums and means by `jaxseg.collective`.
            donate: Indices of arguments whose memory is reused for results, so that they cannot be read again. The default
                is the state; evaluation steps use `(2,)`, which donates the totals and keeps the state.
            sharded: Indices of arguments that are sharded along their first axis: the batch, and arguments from
                `put(..., sharded=True)`.

        Returns:
            The function for arguments from `replicate` or `put`, and `shard` for the batch. Its results are replicated,
            except for the arrays that the sharding rule shards. The first call compiles it, unless
            `compile_in_background` has.
        """
        return CompiledStep(
            fn,
            lambda args: self._make_jit(fn, args, donate, sharded),
            None if self.strategy == "pmap" else self._describe,
        )

    def lower(
        self, fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (0,)
    ) -> jax.stages.Lowered:
        """Lowers a step for the shapes of its arguments, to inspect what it needs before anything runs.

        The devices need not be present: those of `jax.experimental.topologies.get_topology_desc` work as well.

        Args:
            fn: The function, as for `compile`.
            *args: Arrays or `jax.ShapeDtypeStruct`; the second argument is a dictionary of the global batch.
            donate: Indices of donated arguments, as for `compile`.

        Returns:
            The lowered program. `lower(...).compile()` has `memory_analysis()`, of one device, and `as_text()`.

        Raises:
            InputError: The strategy is `"pmap"`, which compiles only for devices that are present.

        >>> parallel, batch = Parallel("jit"), {"image": np.ones((8, 4), np.float32)}
        >>> program = parallel.lower(lambda state, batch: state + batch["image"].sum(), np.float32(0), batch)
        >>> program.compile().memory_analysis().argument_size_in_bytes  # 4 numbers of the batch, and the state
        20
        """
        if self.strategy == "pmap":
            raise InputError("pmap compiles when it is called: use jit or shard_map")
        described = self._describe(args)
        return self._make_jit(fn, described, donate).lower(*described)

    def _describe(self, args: Sequence[Any]) -> list[Any]:
        """Returns shapes, dtypes and shardings of a step's arguments, the second of which is a batch."""

        def describe(index: int, tree: Any) -> Any:
            mesh = self._mesh
            shardings = (
                jax.tree.map(mesh.batch_sharding, tree)
                if index == 1
                else mesh.state_shardings(tree)
            )
            return jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=s), tree, shardings
            )

        return [describe(index, tree) for index, tree in enumerate(args)]

    def _put_batch(self, array: Any, count: int) -> Array:
        if self.strategy == "pmap":
            array = array.reshape(count, len(array) // count, *array.shape[1:])
        return put_local(array, self._mesh.batch_sharding(array))

    def _make_jit(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        donate: tuple[int, ...],
        sharded: tuple[int, ...] = (1,),
    ) -> Callable[..., Any]:
        options = compiler.options(self.devices[0].platform)
        mesh = self._mesh
        if not mesh.is_data_parallel:  # inputs have their shardings already
            fn = _with_mesh(fn, mesh)
            results = jax.eval_shape(fn, *args)  # jit reuses this trace
            is_tuple = type(results) is tuple  # such as a state and logs: each has paths of its own
            shardings = (
                tuple(map(mesh.state_shardings, results))
                if is_tuple
                else mesh.state_shardings(results)
            )
            return jax.jit(
                fn, out_shardings=shardings, donate_argnums=donate, compiler_options=options
            )
        shardings = [mesh.sharded if i in sharded else mesh.replicated for i in range(len(args))]
        if self.strategy == "pmap":
            mapped = jax.pmap(
                fn,
                collective.AXIS,
                in_axes=tuple(0 if i in sharded else None for i in range(len(args))),
                out_axes=None,
                devices=self.devices,
                donate_argnums=donate,
            )
            if jax.process_count() > 1:  # inside of a jit, pmap would see this process alone
                return lambda *args: jax.tree.map(self._make_global, mapped(*args))
            fn = mapped
        elif self.strategy == "shard_map":
            fn = jax.shard_map(
                fn,
                mesh=mesh.mesh,
                in_specs=tuple(sharding.spec for sharding in shardings),
                out_specs=PartitionSpec(),
                check_vma=False,  # gradients are those of pmap: see `collective`
            )
        elif len(self.devices) > 1:
            fn = _with_mesh(fn, mesh)
        return jax.jit(
            fn,
            in_shardings=tuple(shardings),
            out_shardings=mesh.replicated,
            donate_argnums=donate,
            compiler_options=options,
        )

    def _make_global(self, array: Array) -> Array:
        """Makes a global array, without a copy, of a result of pmap, which is local to a process."""
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, self._mesh.replicated, shards)


def _with_mesh(fn: Callable[..., Any], mesh: DeviceMesh) -> Callable[..., Any]:
    """Runs a function under its mesh, with the batch's rows sharded, from which XLA shards all maps, and gathered parameters."""

    @functools.wraps(fn)
    def run(state: Any, batch: Any, *rest: Any) -> Any:
        with jax.sharding.use_abstract_mesh(mesh.mesh.abstract_mesh):
            return fn(mesh.gather_params(state), jax.tree.map(mesh.shard_rows, batch), *rest)

    return run


def _is_numeric(array: Any) -> bool:
    return hasattr(array, "dtype") and (
        jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    )
