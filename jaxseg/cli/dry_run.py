"""`jaxseg train --dry-run [--topology v5e:16x16]`: prints what a train step needs of each device; nothing runs."""

from collections import Counter
from dataclasses import replace
from typing import Any

import jax
from jax.experimental import topologies

from jaxseg.errors import InputError
from jaxseg.parallel.cost import chip_of, cost_of, estimate_step_time
from jaxseg.recipe import Recipe
from jaxseg.runs import batches as train_batches
from jaxseg.runs.build import build, complete
from jaxseg.runs.devices import make_parallel
from jaxseg.runs.info import resolve
from jaxseg.runs.progress import console
from jaxseg.runs.sources import open_source


def print_cost(recipe: Recipe, topology: str | None) -> None:
    """Compiles a recipe's train step and prints what each device needs.

    Args:
        recipe: The recipe; its data set is opened for the sizes of images and classes.
        topology: TPUs that need not be present, such as `"v5e:16x16"`; this machine's devices by default.

    Raises:
        InputError: An unknown topology, no TPU compiler, a step that does not fit, or what `jaxseg train` refuses.
    """
    recipe = replace(recipe, model=replace(recipe.model, pretrained=None))  # the same shapes
    train_batches.check(recipe)
    info = resolve(recipe, open_source(recipe.data, recipe.data.train_split))
    run = build(complete(recipe, info), info)
    train_batches.check_augmentation(run)
    parallel = make_parallel(recipe, None if topology is None else _devices(topology))
    batch = run.batch_like()
    lowered = parallel.lower(run.train_step(), run.state_like(), batch, jax.random.key(0))
    size = batch["image"].shape[1:3]
    try:
        cost = cost_of(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"the step cannot be compiled: {str(error).splitlines()[0]}") from error
    kinds = Counter(each.kind for each in cost.collectives)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    shown = console()
    shown.print(
        f"{run.title}, {recipe.train.batch_size} images of {size[0]} x {size[1]} "
        f"on {len(parallel.devices)} devices ({topology or parallel.devices[0].device_kind})"
    )
    limit = "" if topology is None else f", of {_gb(chip_of(topology).memory_bytes)}"
    shown.print(
        f"memory of each: {_gb(cost.memory_bytes)} (state and batch {_gb(cost.argument_bytes)}, the step {_gb(cost.temporary_bytes)}){limit}"
    )
    if recipe.data.on_device:
        height, width = info.image_size
        held = info.train_images * height * width * (info.channels + 1)
        shown.print(
            f"in addition, each holds the data set of {_gb(held)}, or {_gb(held / len(parallel.devices))} where that does not "
            "fit (with targets of one byte), and augments: neither is part of these numbers"
        )
    shown.print(
        f"work of each: {cost.flops / 1e9:.1f} GFLOP, {_gb(cost.memory_traffic)} to and from memory"
    )
    total = sum(each.bytes for each in cost.collectives)
    shown.print(f"exchanges: {said}; {_gb(total)}")
    if topology is not None:
        times = estimate_step_time(cost, topology)
        shown.print(
            f"a step takes {1e3 * times.step:.2f} ms at the least, of which exchanges "
            f"{1e3 * (times.links + times.latency):.2f} ms: {recipe.train.batch_size / times.step:.0f} images/s "
            "(an estimate on published speeds, not a measurement)"
        )


def _devices(topology: str) -> Any:
    chip_of(topology)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    except Exception as error:  # JAX's own kinds differ with what is missing
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise InputError(
            f"no TPU compiler for {topology} ({reason}): pip install libtpu, ask for a shape that the chip has, and let "
            "one process at a time use it"
        ) from error


def _gb(size: float) -> str:
    return f"{size / 1e9:.3f} GB"
