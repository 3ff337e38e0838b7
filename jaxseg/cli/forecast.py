"""`jaxseg train --dry-run [--topology v5e:16x16]`: what a recipe's step needs, from its compiled program; nothing runs."""

import dataclasses
from collections import Counter
from typing import Any

import jax
from jax.experimental import topologies

from jaxseg.cli import assemble, feeding, sources
from jaxseg.cli.progress import console
from jaxseg.cli.step import described, train_step
from jaxseg.errors import InputError
from jaxseg.recipe import Recipe
from jaxseg.train.program import chip_of, forecast, needs


def run(recipe: Recipe, topology: str | None) -> None:
    """Compiles a recipe's train step and prints what each device needs.

    Args:
        recipe: The recipe; its data set is opened for the sizes of images and classes.
        topology: TPUs that need not be there, such as `"v5e:16x16"`; this machine's devices by default.

    Raises:
        InputError: An unknown topology, no TPU compiler, a step that does not fit, or what `jaxseg train` refuses.
    """
    model = dataclasses.replace(recipe.model, pretrained=None)  # the same shapes
    recipe = dataclasses.replace(recipe, model=model)
    facts = assemble.resolve(recipe, sources.open_source(recipe.data, recipe.data.train_split))
    network = assemble.network(recipe.model, facts)
    feeding.check(recipe)
    feeding.check_augmentation(recipe, facts)
    parallel = assemble.parallel(recipe, None if topology is None else _devices(topology))
    optimizer = assemble.optimizer(recipe, assemble.learning_rate(recipe, 10**6))
    step = train_step(recipe, facts, network, optimizer)
    state, batch, key = described(recipe, facts, network.shapes(), optimizer)
    lowered = parallel.lower(step, state, batch, key)
    size = batch["image"].shape[1:3]
    try:
        need = needs(lowered.compile())
    except jax.errors.JaxRuntimeError as error:
        raise InputError(f"the step cannot be compiled: {str(error).splitlines()[0]}") from error
    kinds = Counter(each.kind for each in need.exchanges)
    said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "none"
    shown = console()
    shown.print(
        f"{assemble.title(recipe.model)}, {recipe.train.batch_size} images of {size[0]} x {size[1]} "
        f"on {len(parallel.devices)} devices ({topology or parallel.devices[0].device_kind})"
    )
    limit = "" if topology is None else f", of {_gb(chip_of(topology).memory)}"
    shown.print(
        f"memory of each: {_gb(need.memory)} (state and batch {_gb(need.state)}, the step {_gb(need.temporary)}){limit}"
    )
    if recipe.data.on_device:
        height, width = facts.image_size
        held = facts.train_images * height * width * (facts.channels + 1)
        shown.print(
            f"besides, each holds the data set of {_gb(held)}, or {_gb(held / len(parallel.devices))} where that does not "
            "fit (with labels of one byte), and augments: neither is in these numbers"
        )
    shown.print(
        f"work of each: {need.flops / 1e9:.1f} GFLOP, {_gb(need.traffic)} to and from memory"
    )
    total = sum(each.bytes for each in need.exchanges)
    shown.print(f"exchanges: {said}; {_gb(total)}")
    if topology is not None:
        times = forecast(need, topology)
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
