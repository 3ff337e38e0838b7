"""Train steps compiled for TPU pods that are not there: memory, operations, exchanges and an estimate of scaling.

    pip install -e . libtpu
    python experiments/scaling                     # every row that is missing, then docs/scaling.md
    python experiments/scaling unet v5e:16x16      # rows that hold all of these words
    python experiments/scaling --write             # docs/scaling.md from the rows there are

Each row is one train step, compiled by the TPU's own compiler on a machine without any: minutes of a core each. The rows
are kept in docs/benchmarks/scaling.json.
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
from jaxseg.train.program import CHIPS, HOP, Collective, Needs, forecast, needs

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "docs" / "benchmarks" / "scaling.json"
PAGE = ROOT / "docs" / "scaling.md"
SIZE, CLASSES = 512, 19
IMAGES = {"float32": 8, "bfloat16": 16}  # a chip, which its 16 GB hold
NETWORKS = {
    "unet resnet34": functools.partial(jaxseg.create, "unet", encoder="resnet34"),
    "fcn_8s resnet50": functools.partial(jaxseg.create, "fcn_8s", encoder="resnet50"),
    "fpn resnet101": functools.partial(jaxseg.create, "fpn", encoder="resnet101"),
}
TOPOLOGIES = ("v5e:2x4", "v5e:16x16")
WAYS = {
    "data": {},
    "bands": {"bands": 4},
    "cut state": {"layout": train.fully_sharded()},
}
TYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def compiled(network: str, topology: str, way: str, dtype: str) -> dict:
    """One row: the train step of a network on a slice, compiled and read."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=topology).devices
    model = NETWORKS[network](num_classes=CLASSES, dtype=TYPES[dtype])
    optimizer = train.adamw(1e-3)
    loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
    step = train.make_train_step(model, optimizer, loss_fn, preprocess=data.normalize())
    parallel = train.Parallel("jit", devices, **WAYS[way])
    images = IMAGES[dtype] * len(devices)
    batch = {
        "image": jax.ShapeDtypeStruct((images, SIZE, SIZE, 3), jnp.uint8),
        "label": jax.ShapeDtypeStruct((images, SIZE, SIZE), jnp.uint8),
    }
    one = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), one)
    state = jax.eval_shape(lambda tree: train.create_state(tree, optimizer), variables)
    key = jax.eval_shape(lambda: jax.random.key(0))
    start = time.perf_counter()
    need = needs(parallel.lower(step, state, batch, key).compile())
    return {
        "network": network,
        "topology": topology,
        "way": way,
        "dtype": dtype,
        "images": images,
        "seconds": round(time.perf_counter() - start),
        "needs": dataclasses.asdict(need) | {"exchanges": grouped(need.exchanges)},
    }


def grouped(exchanges: tuple[Collective, ...]) -> list[list]:
    """Kind, arrays, bytes and how often: what the page is made of, in a thirtieth of the space that paths take."""
    counts = Counter((each.kind, each.arrays, each.bytes) for each in exchanges)
    return [[*what, times] for what, times in sorted(counts.items())]


def read() -> list[dict]:
    """The rows there are."""
    return json.loads(ROWS.read_text()) if ROWS.exists() else []


def add(row: dict) -> None:
    """Keeps one more row, so that an interrupted command loses no other."""
    rows = sorted([*read(), row], key=lambda row: list(map(row.get, _NAMES)))
    lines = ",\n".join(json.dumps(row) for row in rows)
    ROWS.write_text(f"[\n{lines}\n]\n")


_NAMES = ("network", "topology", "way", "dtype")


def need_of(row: dict) -> Needs:
    """A row's needs."""
    exchanges = (
        itertools.repeat(Collective(kind, arrays, size, ""), times)
        for kind, arrays, size, times in row["needs"]["exchanges"]
    )
    return Needs(**row["needs"] | {"exchanges": tuple(itertools.chain.from_iterable(exchanges))})


def enough(row: dict) -> int | str:
    """Images a chip with which 95 % of its time is work, where exchanges do not grow with them."""
    if row["way"] == "bands":
        return "-"
    times = forecast(need_of(row), row["topology"])
    work = max(times.compute, times.traffic) / IMAGES[row["dtype"]]
    return math.ceil(19 * (times.links + times.latency) / work)


def enough_in_memory(row: dict) -> str:
    """As `enough`, and the GB that they take, if temporary ones grow as images do."""
    images, need = enough(row), need_of(row)
    if isinstance(images, str):
        return images
    return (
        f"{images} ({(need.state + need.temporary * images / IMAGES[row['dtype']]) / 1e9:.1f} GB)"
    )


def page(rows: list[dict]) -> str:
    """docs/scaling.md."""
    total = len(NETWORKS) * len(TOPOLOGIES) * len(WAYS) * len(TYPES)
    lines = [
        "# Scaling, as the TPU's compiler sees it",
        "",
        "Made by `python experiments/scaling` (which needs `libtpu`, and no TPU); a part of the rows by words of",
        "theirs, `python experiments/scaling unet bfloat16`. Nothing here was run on a TPU: memory, operations and",
        "exchanges are read from programs that the TPU's compiler made; times are a roofline on published numbers.",
        "",
        f"Each row is a whole train step (AdamW, cross-entropy and Dice, {CLASSES} classes) on images of {SIZE} x {SIZE}",
        f"pixels, {IMAGES['float32']} a chip in float32 and {IMAGES['bfloat16']} in bfloat16; with bands, four chips share four",
        "times as many, a quarter of the rows of each. A cut state is one whose arrays are spread over all chips.",
        f"{len(rows)} of {total} rows have been compiled so far.",
        "",
        "## What a chip needs, and what it says",
        "",
        "GB are 1e9 bytes, of 16 on a v5e chip; exchanges are counted after the compiler has combined them. A BatchNorm's",
        "moments are gathered from all chips at once; on 16 x 16 chips the compiler gathers by an all-reduce of zeros and one's",
        "own.",
        "",
        "| network | chips | way | type | state GB | temporary GB | TFLOP | traffic GB | exchanges |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        need = need_of(row)
        kinds = Counter(each.kind for each in need.exchanges)
        said = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        lines.append(
            f"| {row['network']} | {row['topology']} | {row['way']} | {row['dtype']} | {need.state / 1e9:.2f} "
            f"| {need.temporary / 1e9:.2f} | {need.flops / 1e12:.2f} | {need.traffic / 1e9:.1f} | {said} |"
        )
    lines += [
        "",
        "## How long a step takes at the least",
        "",
        "Computing at the chip's peak, reading and writing at the memory's rate, sending at the links' rate over all links,",
        f"and {1e6 * HOP:.0f} microsecond a hop, one exchange after the other. The step is the larger of the first two and then",
        "all exchanges, as if none were hidden; weak scaling is the part that one chip alone would need too. What one chip",
        "does grows with its images and exchanges do not, so that the last column says how many of them keep 95 %, and the",
        "memory that they take if temporary numbers grow as images do.",
        "",
        "| network | chips | way | type | compute ms | memory ms | links ms | hops ms | step ms | images/s | weak scaling | for 95 % |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        times = forecast(need_of(row), row["topology"])
        parts = (times.compute, times.traffic, times.links, times.latency, times.step)
        lines.append(
            f"| {row['network']} | {row['topology']} | {row['way']} | {row['dtype']} | "
            + " | ".join(f"{1e3 * part:.2f}" for part in parts)
            + f" | {row['images'] / times.step:.0f} | {100 * times.efficiency:.1f} % | {enough_in_memory(row)} |"
        )
    chips = "; ".join(
        f"{name} {chip.flops / 1e12:.0f} TFLOP/s, {chip.memory / 1e9:.0f} GB at {chip.memory_rate / 1e9:.0f} GB/s, "
        f"sends {chip.link_rate / 1e9:.0f} GB/s"
        for name, chip in CHIPS.items()
    )
    lines += [
        "",
        "## Where the numbers of chips come from",
        "",
        f"{chips} (half of the published bidirectional rate).",
        "https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v5p,",
        "https://cloud.google.com/tpu/docs/v6e; a hop: Austin et al., How to Scale Your Model, 2025,",
        "https://jax-ml.github.io/scaling-book.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Compiles the rows that are asked for and missing, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="rows that hold all of these words alone")
    parser.add_argument("--write", action="store_true", help="compile nothing")
    options = parser.parse_args()
    done = {tuple(row[name] for name in _NAMES) for row in read()}
    for names in itertools.product(NETWORKS, TOPOLOGIES, WAYS, TYPES):
        words = {word for name in names for word in name.split()} | set(names)
        if options.write or names in done or not words.issuperset(options.words):
            continue
        print(*names, flush=True)
        add(compiled(*names))
    PAGE.write_text(page(read()))


if __name__ == "__main__":
    main()
