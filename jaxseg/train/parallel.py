"""How a step is compiled for several devices: the only file that knows strategies."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from jaxseg import collective, compiler
from jaxseg.errors import InputError, unknown
from jaxseg.train.layout import Layout, whole
from jaxseg.train.parallel_step import ParallelStep
from jaxseg.train.placement import Placement, put, put_part, put_shared
from jaxseg.typing import Array

Tree = TypeVar("Tree")

_STRATEGIES = ("jit", "pmap", "shard_map")


class Parallel:
    """One batch over several devices: state and results everywhere, a part of the batch on each.

    Results are the same for every strategy, any number of devices, bands and layouts.

    Args:
        strategy: `"jit"` lets XLA divide the work, `"pmap"` and `"shard_map"` run the step once per device with
            explicit sums.
        devices: The devices, those of other processes included; all of them by default.
        bands: Into how many bands the rows of each image are cut, for images that one device cannot hold: D devices
            form `D / bands` groups, a group shares its images, and XLA exchanges the rows at the bands' edges. Any
            number of rows will do; where the bands do not divide it, images travel whole and are cut on the device.
        layout: Which arrays of the state are cut over all devices instead of being whole on each, such as
            `fully_sharded()`.

    Raises:
        InputError: An unknown strategy, no devices, bands that do not divide them (or reach into another process), or
            bands or a layout with a strategy other than `"jit"`.

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
        bands: int = 1,
        layout: Layout = whole,
    ):
        if strategy not in _STRATEGIES:
            raise unknown("strategy", strategy, _STRATEGIES)
        self.strategy = strategy
        self.devices = tuple(jax.devices() if devices is None else devices)
        if not self.devices:
            raise InputError("there are no devices to run on")
        self._placement = Placement(self.devices, bands=bands, layout=layout)
        if strategy != "jit" and not self._placement.is_plain:
            raise InputError(
                f"bands of rows and cut states need the strategy 'jit', not {strategy!r}"
            )

    def replicate(self, tree: Tree) -> Tree:
        """A copy of a state, of totals or of a key that is whole on every device, but for what the layout cuts.

        Args:
            tree: A pytree of arrays, the same in every process.

        Returns:
            The tree on the mesh of all devices; it shares no memory with the argument, which a step that gets the copy
            as a donation leaves alone.
        """
        return put(tree, self._placement.state(tree))

    def take(self, tree: Tree) -> Tree:
        """As `replicate`, of a state that nobody else will read: what lies in its place already is not copied.

        Args:
            tree: A pytree of arrays, the same in every process, such as what `create_state` has just returned; a step
                that is given the result as a donation may take their memory.

        Returns:
            The tree on the mesh of all devices.
        """
        return put_shared(tree, self._placement.state(tree))

    def keep(self, tree: Tree, *, cut: bool = False) -> Tree:
        """What steps read and never are given as a donation, such as a data set, whole on every device or cut over them.

        Args:
            tree: A pytree of arrays, the same in every process, on the host as a rule. No second copy of them is made on
                a device, as `replicate` does; on a CPU the result may share their memory.
            cut: Whether each array is cut along its first axis, an equal part on each device; for arguments that
                `compile` knows as `divided`.

        Returns:
            The tree on the mesh of all devices. For `"pmap"` a cut array is `[D, L / D, ...]`.

        Raises:
            InputError: The devices do not divide a first axis.
        """
        if not cut:
            return put_shared(tree, jax.tree.map(lambda _: self._placement.everywhere, tree))
        count = len(self.devices)
        for array in jax.tree.leaves(tree):
            if len(array) % count:
                raise InputError(f"{len(array)} rows cannot be cut over {count} devices")
        if self.strategy == "pmap":
            tree = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), tree)
        return put_shared(tree, jax.tree.map(lambda _: self._placement.divided, tree))

    def shard(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """A batch cut along its first axis, an equal part on each device (or group of devices, with bands).

        Args:
            batch: Arrays `[N, ...]` by name, on the host as a rule; this process's part of the batch where there are
                several. Entries that are not numeric arrays, such as a list of file names, stay behind.

        Returns:
            The arrays on the devices. For `"pmap"` they are `[D, N / D, ...]`.

        Raises:
            InputError: The devices do not divide N, arrays differ in N, or there is no array.
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
        count = sum(device.process_index == jax.process_index() for device in self.devices)
        bands = self._placement.bands
        count //= bands
        if not size or size % count:
            holders = "devices" if bands == 1 else f"groups of {bands} devices"
            raise InputError(
                f"a batch of {size} cannot be divided over {count} {holders}: make the batch a multiple of {count}, "
                "or use fewer devices"
            )
        return {name: self._put(array, count) for name, array in arrays.items()}

    def compile(
        self,
        fn: Callable[..., Any],
        donate: tuple[int, ...] = (0,),
        *,
        divided: tuple[int, ...] = (1,),
    ) -> ParallelStep:
        """A step over all devices.

        Args:
            fn: Of positional arguments, the second of them the batch, such as `step(state, batch, key)`. Its results
                must be the same on every device: sums and means go through `jaxseg.collective`.
            donate: Which arguments are given away: their memory is used for results, and they cannot be read again. The
                state by default; `(2,)` for an evaluation step, which gives away the totals and keeps the state.
            divided: Which arguments are cut along their first axis: the batch, and what `keep(..., cut=True)` gave.

        Returns:
            The function for arguments from `replicate` or `keep` and, for the second, `shard`; its results are on every device,
            but for what the layout cuts. It compiles when it is first called; `prepare` begins that before its arguments
            are there.
        """
        return ParallelStep(
            fn,
            lambda args: self._compile(fn, args, donate, divided),
            None if self.strategy == "pmap" else self._describe,
        )

    def lower(
        self, fn: Callable[..., Any], *args: Any, donate: tuple[int, ...] = (0,)
    ) -> jax.stages.Lowered:
        """The program of a step for the shapes of its arguments: what it needs is known before anything runs.

        The devices need not be there: those of `jax.experimental.topologies.get_topology_desc` will do.

        Args:
            fn: As for `compile`.
            *args: Arrays or their `jax.ShapeDtypeStruct`, the second argument a dictionary of the global batch's.
            donate: As for `compile`.

        Returns:
            JAX's lowered program; `.compile()` answers `memory_analysis()`, of one device, and `as_text()`.

        Raises:
            InputError: The strategy is `"pmap"`, which compiles for devices that are there alone.

        >>> parallel, batch = Parallel("jit"), {"image": np.ones((8, 4), np.float32)}
        >>> program = parallel.lower(lambda state, batch: state + batch["image"].sum(), np.float32(0), batch)
        >>> program.compile().memory_analysis().argument_size_in_bytes  # 4 numbers, and one
        20
        """
        if self.strategy == "pmap":
            raise InputError("pmap compiles when it is called: ask for jit or shard_map")

        described = self._describe(args)
        return self._compile(fn, described, donate).lower(*described)

    def _describe(self, args: Sequence[Any]) -> list[Any]:
        """Shapes, types and places of a step's arguments, the second of them a batch."""

        def described(index: int, tree: Any) -> Any:
            where = self._placement
            shardings = jax.tree.map(where.batch, tree) if index == 1 else where.state(tree)
            return jax.tree.map(
                lambda x, s: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=s), tree, shardings
            )

        return [described(index, tree) for index, tree in enumerate(args)]

    def _rewrap(self, array: Array) -> Array:
        """What pmap gives each process for itself, as one global array; nothing is copied."""
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(
            array.shape, self._placement.everywhere, shards
        )

    def _put(self, array: Any, count: int) -> Array:
        if self.strategy == "pmap":
            array = array.reshape(count, len(array) // count, *array.shape[1:])
        return put_part(array, self._placement.batch(array))

    def _compile(
        self,
        fn: Callable[..., Any],
        args: Sequence[Any],
        donate: tuple[int, ...],
        divided: tuple[int, ...] = (1,),
    ) -> Callable[..., Any]:
        options = compiler.options(self.devices[0].platform)
        place = self._placement
        if not place.is_plain:  # arguments say themselves where they are
            fn = _cut(fn, place)
            results = jax.eval_shape(fn, *args)  # jit finds this trace again
            several = type(results) is tuple  # such as a state and logs
            placed = tuple(map(place.state, results)) if several else place.state(results)
            return jax.jit(
                fn, out_shardings=placed, donate_argnums=donate, compiler_options=options
            )
        shardings = [place.divided if i in divided else place.everywhere for i in range(len(args))]
        if self.strategy == "pmap":
            mapped = jax.pmap(
                fn,
                collective.AXIS,
                in_axes=tuple(0 if i in divided else None for i in range(len(args))),
                out_axes=None,
                devices=self.devices,
                donate_argnums=donate,
            )
            if jax.process_count() > 1:  # where a pmap inside a jit would see this process only
                return lambda *args: jax.tree.map(self._rewrap, mapped(*args))
            fn = mapped
        elif self.strategy == "shard_map":
            fn = jax.shard_map(
                fn,
                mesh=place.mesh,
                in_specs=tuple(sharding.spec for sharding in shardings),
                out_specs=PartitionSpec(),
                check_vma=False,  # gradients are those of pmap: see `collective`
            )
        elif len(self.devices) > 1:
            fn = _cut(fn, place)
        return jax.jit(
            fn,
            in_shardings=tuple(shardings),
            out_shardings=place.everywhere,
            donate_argnums=donate,
            compiler_options=options,
        )


def _cut(fn: Callable[..., Any], place: Placement) -> Callable[..., Any]:
    """The function on its mesh, its batch in bands of rows, from which XLA cuts all maps, and its parameters gathered."""

    @functools.wraps(fn)
    def cut(state: Any, batch: Any, *rest: Any) -> Any:
        with jax.sharding.use_abstract_mesh(place.mesh.abstract_mesh):
            return fn(place.gathered(state), jax.tree.map(place.in_bands, batch), *rest)

    return cut


def _is_numeric(array: Any) -> bool:
    """Whether a batch's entry goes to the devices: names, sizes and the like are lists."""
    return hasattr(array, "dtype") and (
        jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    )
