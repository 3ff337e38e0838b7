"""The devices that a recipe asks for."""

from collections.abc import Sequence
from typing import Any

import jax

from jaxseg.errors import InputError
from jaxseg.parallel import Parallel, fully_sharded
from jaxseg.parallel.sharding import replicated
from jaxseg.recipe import Recipe


def make_parallel(recipe: Recipe, devices: Sequence[Any] | None = None) -> Parallel:
    """Returns the recipe's strategy over its devices.

    Args:
        recipe: The recipe.
        devices: The devices to choose from; those of every process by default.

    Raises:
        InputError: More devices are asked for than exist, processes have different numbers of them, or they do not divide
            the batch.
    """
    wanted = recipe.train.devices
    if devices is None:
        groups = [jax.local_devices(process_index=i) for i in range(jax.process_count())]
    else:
        groups = [devices]
    for index, group in enumerate(groups):
        if not 1 <= (wanted or 1) <= len(group):
            whose = f" in process {index}" if len(groups) > 1 else ""
            raise InputError(f"train.devices is {wanted}, but there are {len(group)}{whose}")
    counts = {len(group[:wanted]) for group in groups}
    if len(counts) > 1:
        raise InputError(
            f"processes have {min(counts)} to {max(counts)} devices: give each the same number "
            f"(--train.devices {min(counts)})"
        )
    chosen = [device for group in groups for device in group[:wanted]]
    parallel = Parallel(
        recipe.train.parallel,
        chosen,
        spatial_shards=recipe.train.spatial_shards,
        sharding_rule=fully_sharded() if recipe.train.fsdp else replicated,
    )
    _check_batches(recipe, len(chosen) // recipe.train.spatial_shards, len(groups))
    return parallel


def _check_batches(recipe: Recipe, shards: int, processes: int) -> None:
    for size in (recipe.train.batch_size, recipe.eval.batch_size):
        if size is not None and (size < 1 or size % shards):
            holders = "devices" if recipe.train.spatial_shards == 1 else "groups of devices"
            fewer = "use fewer (--train.devices)"
            if processes > 1:
                holders += f" in {processes} processes"
                fewer = f"{fewer}, or start fewer processes"
            raise InputError(
                f"a batch of {size} cannot be divided over {shards} {holders}: make it a multiple, or {fewer}"
            )
    micro = recipe.train.micro_batches
    if recipe.train.batch_size % (shards * micro):
        raise InputError(
            f"{recipe.train.batch_size // shards} images on a device cannot be split into {micro} micro-batches: make "
            f"--train.batch-size a multiple of {shards * micro}"
        )
