"""Where arrays live and how a step is compiled: the only file that knows meshes and strategies."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxseg import collective
from jaxseg.errors import InputError, unknown
from jaxseg.typing import Array

Tree = TypeVar("Tree")

_STRATEGIES = ("jit", "pmap", "shard_map")
# Convolutions by Eigen instead of YNNPACK: gradients of filters are several times faster on a CPU.
_CPU_OPTIONS = {"xla_cpu_experimental_ynn_fusion_type": ""}


class Parallel:
    """One batch over several devices: state and results everywhere, a part of the batch on each.

    Results are the same for every strategy and any number of devices.

    Args:
        strategy: `"jit"` lets XLA divide the work, `"pmap"` and `"shard_map"` run the step once per device with
            explicit sums.
        devices: The devices, those of other processes included; all of them by default.

    Raises:
        InputError: An unknown strategy, or no devices.

    >>> parallel = Parallel("jit", jax.devices()[:1])
    >>> double = parallel.compile(lambda state, batch: state + 2 * batch["image"].sum())
    >>> state = parallel.replicate(jnp.float32(1.0))
    >>> float(double(state, parallel.shard({"image": np.ones((4, 2), np.float32)})))
    17.0
    """

    def __init__(self, strategy: str = "jit", devices: Sequence[Any] | None = None):
        if strategy not in _STRATEGIES:
            raise unknown("strategy", strategy, _STRATEGIES)
        self.strategy = strategy
        self.devices = tuple(jax.devices() if devices is None else devices)
        if not self.devices:
            raise InputError("there are no devices to run on")
        axis = collective.AXIS
        # Not jax.make_mesh, which puts TPUs into another order than pmap is given.
        self._mesh = Mesh(np.asarray(self.devices), (axis,), axis_types=(AxisType.Auto,))
        self._everywhere = NamedSharding(self._mesh, PartitionSpec())
        self._divided = NamedSharding(self._mesh, PartitionSpec(axis))

    def replicate(self, tree: Tree) -> Tree:
        """A copy of a state, of totals or of a key that is whole on every device.

        Args:
            tree: A pytree of arrays, the same in every process.

        Returns:
            The tree on the mesh of all devices; it shares no memory with the argument, which a step that gets the copy
            as a donation leaves alone.
        """
        if jax.process_count() == 1:
            # device_put shares the first device's part even with may_alias=False.
            return jax.device_put(jax.tree.map(jnp.copy, tree), self._everywhere)
        return jax.tree.map(self._spread, tree)

    def shard(self, batch: Mapping[str, Any]) -> dict[str, Array]:
        """A batch cut along its first axis, an equal part on each device.

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
        if not size or size % count:
            raise InputError(
                f"a batch of {size} cannot be divided over {count} devices: make the batch a multiple of {count}, or "
                "use fewer devices"
            )
        return {name: self._put(array, count) for name, array in arrays.items()}

    def compile(self, fn: Callable[..., Any], donate: tuple[int, ...] = (0,)) -> Callable[..., Any]:
        """A step over all devices.

        Args:
            fn: Of positional arguments, the second of them the batch, such as `step(state, batch, key)`. Its results
                must be the same on every device: sums and means go through `jaxseg.collective`.
            donate: Which arguments are given away: their memory is used for results, and they cannot be read again. The
                state by default; `(2,)` for an evaluation step, which gives away the totals and keeps the state.

        Returns:
            The function for arguments from `replicate` and, for the second, `shard`; its results are on every device.
        """

        @functools.cache
        def compiled(arity: int) -> Callable[..., Any]:
            return self._compile(fn, arity, donate)

        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            return compiled(len(args))(*args)

        return call

    def _spread(self, array: Any) -> Array:
        """An array that this process holds, as a global one; `device_put` takes no keys there."""
        if isinstance(array, jax.Array) and not array.is_fully_addressable:
            return array
        if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            data = self._spread(jax.random.key_data(array))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(array))
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, self._everywhere, lambda index: host[index])

    def _rewrap(self, array: Array) -> Array:
        """What pmap gives each process for itself, as one global array; nothing is copied."""
        shards = [shard.data for shard in array.addressable_shards]
        return jax.make_array_from_single_device_arrays(array.shape, self._everywhere, shards)

    def _put(self, array: Any, count: int) -> Array:
        if self.strategy == "pmap":
            array = array.reshape(count, len(array) // count, *array.shape[1:])
        if jax.process_count() == 1:
            return jax.device_put(array, self._divided)
        return jax.make_array_from_process_local_data(self._divided, np.asarray(array))

    def _compile(
        self, fn: Callable[..., Any], arity: int, donate: tuple[int, ...]
    ) -> Callable[..., Any]:
        options = _compiler_options(self.devices[0].platform)
        shardings = [self._divided if i == 1 else self._everywhere for i in range(arity)]
        if self.strategy == "pmap":
            mapped = jax.pmap(
                fn,
                collective.AXIS,
                in_axes=tuple(0 if i == 1 else None for i in range(arity)),
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
                mesh=self._mesh,
                in_specs=tuple(sharding.spec for sharding in shardings),
                out_specs=PartitionSpec(),
                check_vma=False,  # gradients are those of pmap: see `collective`
            )
        return jax.jit(
            fn,
            in_shardings=tuple(shardings),
            out_shardings=self._everywhere,
            donate_argnums=donate,
            compiler_options=options,
        )


def _is_numeric(array: Any) -> bool:
    """Whether a batch's entry goes to the devices: names, sizes and the like are lists."""
    return hasattr(array, "dtype") and (
        jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    )


@functools.cache
def _compiler_options(platform: str) -> dict[str, Any] | None:
    """What XLA is asked for beyond its defaults, where it knows of it."""
    if platform != "cpu":
        return None
    try:
        jax.jit(lambda x: x, compiler_options=_CPU_OPTIONS).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return None
    return _CPU_OPTIONS
