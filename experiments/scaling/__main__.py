"""Compiles train steps for TPU pods without a TPU: memory, operations, collectives and an estimate of scaling.

    pip install -e . libtpu
    python experiments/scaling                     # compiles every missing row, then writes docs/scaling.md
    python experiments/scaling unet v5e:16x16      # only rows that contain all of these words
    python experiments/scaling --write             # writes docs/scaling.md from the rows that exist

Each row is one train step, compiled by the TPU's compiler on any machine; it takes one core several minutes. Rows are stored
in docs/benchmarks/scaling.json.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import math
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.experimental import topologies

import jaxseg
from jaxseg import data, losses, train
from jaxseg.parallel import Parallel, cost_of, estimate_step_time, fully_sharded
from jaxseg.parallel.cost import CHIPS, HOP_SECONDS, Collective, StepCost

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "docs" / "benchmarks" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
SIZE, CLASSES = 512, 19
IMAGES = {"float32": 8, "bfloat16": 16}  # per chip, as many as 16 GB hold
NETWORKS = {
    "unet resnet34": functools.partial(jaxseg.create, "unet", encoder="resnet34"),
    "fcn_8s resnet50": functools.partial(jaxseg.create, "fcn_8s", encoder="resnet50"),
    "fpn resnet101": functools.partial(jaxseg.create, "fpn", encoder="resnet101"),
}
TOPOLOGIES = ("v5e:2x4", "v5e:16x16")
PARALLELISM = {
    "data": {},
    "spatial shards": {"spatial_shards": 4},
    "fsdp": {"sharding_rule": fully_sharded()},
}
TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_NAMES = ("network", "topology", "parallelism", "dtype")


def compile_row(network: str, topology: str, parallelism: str, dtype: str) -> dict:
    """Compiles the train step of a network for a slice and returns its row."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    model = NETWORKS[network](num_classes=CLASSES, dtype=TYPES[dtype])
    optimizer = train.adamw(1e-3)
    loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
    step = train.make_train_step(model, optimizer, loss_fn, preprocess=data.normalize())
    parallel = Parallel("jit", devices, **PARALLELISM[parallelism])
    images = IMAGES[dtype] * len(devices)
    batch = {
        "image": jax.ShapeDtypeStruct((images, SIZE, SIZE, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images, SIZE, SIZE), jnp.uint8),
    }
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), image)
    state = jax.eval_shape(lambda tree: train.create_state(tree, optimizer), variables)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = time.perf_counter()
    cost = cost_of(parallel.lower(step, state, batch, key).compile())
    return {
        "network": network,
        "topology": topology,
        "parallelism": parallelism,
        "dtype": dtype,
        "images": images,
        "seconds": round(time.perf_counter() - start),
        "cost": dataclasses.asdict(cost) | {"collectives": grouped(cost.collectives)},
    }


def grouped(collectives: tuple[Collective, ...]) -> list[list]:
    """Returns kind, arrays, bytes and count of equal collectives; without paths they take a thirtieth of the space."""
    counts = Counter((each.kind, each.arrays, each.bytes) for each in collectives)
    return [[*what, count] for what, count in sorted(counts.items())]


def read() -> list[dict]:
    """Returns the rows that exist."""
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def add(row: dict) -> None:
    """Stores one more row at once, so that an interrupted command loses no other."""
    rows = sorted([*read(), row], key=lambda row: list(map(row.get, _NAMES)))
    lines = ",\n".join(json.dumps(row) for row in rows)
    ROWS.write_text(f"[\n{lines}\n]\n")


def cost(row: dict) -> StepCost:
    """Returns the cost that a row stores."""
    collectives = (
        itertools.repeat(Collective(kind, arrays, size, ""), count)
        for kind, arrays, size, count in row["cost"]["collectives"]
    )
    return StepCost(
        **row["cost"] | {"collectives": tuple(itertools.chain.from_iterable(collectives))}
    )


def images_for_95_percent(row: dict) -> int | str:
    """Returns the images per chip with an efficiency of 95 %, if collectives do not grow with them."""
    if row["parallelism"] == "spatial shards":
        return "-"
    time = estimate_step_time(cost(row), row["topology"])
    work = max(time.compute, time.memory) / IMAGES[row["dtype"]]
    return math.ceil(19 * (time.links + time.latency) / work)


def images_and_memory(row: dict) -> str:
    """Returns the images for 95 % and the GB that they take, if temporary memory grows with them."""
    images = images_for_95_percent(row)
    if isinstance(images, str):
        return images
    temporary = cost(row).temporary_bytes * images / IMAGES[row["dtype"]]
    return f"{images} ({(cost(row).argument_bytes + temporary) / 1e9:.1f} GB)"


def page(rows: list[dict]) -> str:
    """Returns the text of docs/scaling.md."""
    total = len(NETWORKS) * len(TOPOLOGIES) * len(PARALLELISM) * len(TYPES)
    lines = [
        "# Scaling, as the TPU's compiler sees it",
        "",
        "`python experiments/scaling` writes this page; it needs `libtpu`, but no TPU. Words select rows:",
        "`python experiments/scaling unet bfloat16`. Nothing here was run on a TPU: memory, operations and collectives are",
        "read from programs that the TPU's compiler made, and times are a roofline of published numbers.",
        "",
        f"Each row is a complete train step (AdamW, cross-entropy and Dice, {CLASSES} classes) on images of {SIZE} x {SIZE}",
        f"pixels, {IMAGES['float32']} per chip in float32 and {IMAGES['bfloat16']} in bfloat16. With spatial shards, four chips share four times as",
        "many images, a quarter of the rows of each. With fsdp, the arrays of the state are sharded over all chips.",
        f"{len(rows)} of {total} rows have been compiled so far.",
        "",
        "## Memory, operations and collectives of each chip",
        "",
        "GB are 1e9 bytes, of 16 on a v5e chip. Collectives are counted after the compiler has combined them. The moments of a",
        "BatchNorm layer are gathered from all chips by one collective; on 16 x 16 chips the compiler gathers by an all-reduce",
        "of arrays that are zero except for the chip's own part.",
        "",
        "| network | chips | parallelism | dtype | arguments GB | temporary GB | TFLOP | memory traffic GB | collectives |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        of_step = cost(row)
        kinds = Counter(each.kind for each in of_step.collectives)
        counts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        lines.append(
            f"| {' | '.join(map(row.get, _NAMES))} | {of_step.argument_bytes / 1e9:.2f} "
            f"| {of_step.temporary_bytes / 1e9:.2f} | {of_step.flops / 1e12:.2f} "
            f"| {of_step.memory_traffic / 1e9:.1f} | {counts} |"
        )
    lines += [
        "",
        "## Estimated time of a step",
        "",
        "Compute is all operations at the chip's peak, memory all traffic at the memory's bandwidth, links all bytes of",
        f"collectives at the bandwidth of all links, and latency {1e6 * HOP_SECONDS:.0f} microsecond for each hop, one collective after the other. The",
        "step is the larger of compute and memory plus all collectives, as if none of them were overlapped. Weak scaling is the",
        "part of the step that a single chip needs as well. Compute and memory grow with the images of a chip and collectives",
        "do not: the last column is the number of images with which weak scaling reaches 95 %, and the memory that they take if",
        "temporary memory grows with them.",
        "",
        "| network | chips | parallelism | dtype | compute ms | memory ms | links ms | latency ms | step ms | images/s | weak scaling | for 95 % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        time = estimate_step_time(cost(row), row["topology"])
        parts = (time.compute, time.memory, time.links, time.latency, time.step)
        lines.append(
            f"| {' | '.join(map(row.get, _NAMES))} | "
            + " | ".join(f"{1e3 * part:.2f}" for part in parts)
            + f" | {row['images'] / time.step:.0f} | {100 * time.efficiency:.1f} % | {images_and_memory(row)} |"
        )
    chips = "; ".join(
        f"{name} {chip.flops / 1e12:.0f} TFLOP/s, {chip.memory_bytes / 1e9:.0f} GB at {chip.memory_bandwidth / 1e9:.0f} GB/s, "
        f"sends {chip.link_bandwidth / 1e9:.0f} GB/s"
        for name, chip in CHIPS.items()
    )
    lines += [
        "",
        "## Sources of the chips' numbers",
        "",
        f"{chips} (half of the published bidirectional rate).",
        "https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v5p,",
        "https://cloud.google.com/tpu/docs/v6e; latency of a hop: Austin et al., How to Scale Your Model, 2025,",
        "https://jax-ml.github.io/scaling-book.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compiles the missing rows that are selected, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "words", nargs="*", help="compile only rows that contain all of these words"
    )
    parser.add_argument("--write", action="store_true", help="compile nothing")
    options = parser.parse_args()
    done = {tuple(row[name] for name in _NAMES) for row in read()}
    for names in itertools.product(NETWORKS, TOPOLOGIES, PARALLELISM, TYPES):
        words = {word for name in names for word in name.split()} | set(names)
        if options.write or names in done or not words.issuperset(options.words):
            continue
        print(*names, flush=True)
        add(compile_row(*names))
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
