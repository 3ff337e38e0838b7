"""What a compiled train step needs of each device, and what devices say to each other: read from the program itself."""

import math
import re
from dataclasses import dataclass
from typing import Any

from jaxseg.errors import InputError, unknown

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
_ENDING = re.compile(r"%async-collective-done\S* = .* calls=(%[^\s,]+)")


@dataclass(frozen=True)
class Collective:
    """One exchange between devices.

    Attributes:
        kind: `"all-reduce"`, `"all-gather"`, `"reduce-scatter"`, `"collective-permute"` (a device sends to one other,
            such as rows to the next band) or `"all-to-all"`.
        arrays: How many arrays travel together.
        bytes: How large they are on one device; of an all-gather, what a device has afterwards.
        path: Where in the model it comes from, such as `jit(train_step)/jvp(Net)/encoder/stem/norm/reduce_sum`;
            `transpose(` stands in that of a gradient.
    """

    kind: str
    arrays: int
    bytes: int
    path: str


def collectives(text: str) -> list[Collective]:
    """Every exchange in a compiled program.

    Args:
        text: The program, as `.as_text()` of a compiled one gives it.

    Returns:
        The exchanges in the order of the text; an asynchronous one is counted where it starts. (A TPU's program holds one
        that it fuses with work three times: in what starts it, in the work, and in what ends it.)

    >>> collectives('  %a = (f32[3]{0}, f32[2,2]{1,0}) all-reduce(%x, %y), metadata={op_name="jit(f)/sum"}')
    [Collective(kind='all-reduce', arrays=2, bytes=28, path='jit(f)/sum')]
    """
    found, ending, computation = [], set(_ENDING.findall(text)), ""
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):
            computation = line.split(maxsplit=1)[0]
        match = _COLLECTIVE.search(line)
        goes_on = computation in ending or computation.startswith("%async_collective_fusion")
        if match is None or goes_on:
            continue
        sizes = [_size(*array) for array in _ARRAY.findall(match[1])]
        if match[3] and match[2] in ("all-gather", "collective-permute"):
            # These start with what goes in, then what comes out, then counters.
            arrays = max(1, sum(size > 4 for size in sizes) // 2)
            sizes = sizes[arrays : 2 * arrays] or sizes
        name = _NAME.search(line)
        found.append(Collective(match[2], len(sizes), sum(sizes), name[1] if name else ""))
    return found


def _size(kind: str, shape: str) -> int:
    bits = 8 if kind == "pred" else int(re.sub(r"\D", "", kind[1:]) or 8)
    return math.prod(int(length) for length in shape.split(",") if length) * bits // 8


@dataclass(frozen=True)
class Chip:
    """What a maker says of an accelerator, for one chip.

    Attributes:
        flops: Peak floating-point operations a second, in bfloat16; XLA multiplies float32 so too, unless asked.
        memory: Bytes of its memory.
        memory_rate: Bytes a second to and from its memory.
        link_rate: Bytes a second that it sends to its neighbours, over all links.
        axes: Axes of the torus that chips form.
    """

    flops: float
    memory: float
    memory_rate: float
    link_rate: float
    axes: int


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 2),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9, 3),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9, 2),
}
"""By the name that topologies begin with; half of the published bidirectional link rate is sent.

References:
    https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v5p, https://cloud.google.com/tpu/docs/v6e
"""
HOP = 1e-6
"""Seconds from a chip to its neighbour, about (Austin et al., How to Scale Your Model, 2025,
https://jax-ml.github.io/scaling-book)."""


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `"v5e:16x16"`.

    Raises:
        InputError: An unknown chip, or no shape.

    >>> chip_of("v5e:2x4").memory
    16000000000.0
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise unknown("chip", name, CHIPS)
    if not re.fullmatch(r"\d+(x\d+)+", shape):
        raise InputError(f"a topology is a chip and a shape, such as {name}:2x4, not {topology!r}")
    return CHIPS[name]


@dataclass(frozen=True)
class Needs:
    """What one step needs on each device.

    Attributes:
        state: Bytes of arguments, the state and the batch.
        temporary: Bytes while it runs, beside the arguments.
        flops: Floating-point operations.
        traffic: Bytes to and from memory, as XLA counts them.
        exchanges: What devices say to each other.
    """

    state: int
    temporary: int
    flops: float
    traffic: float
    exchanges: tuple[Collective, ...]

    @property
    def memory(self) -> int:
        """Bytes in all; the results take the arguments' place."""
        return self.state + self.temporary


def needs(program: Any) -> Needs:
    """What a program needs of each device.

    Args:
        program: A compiled step, as of `Parallel.lower(...).compile()`.

    >>> import jax
    >>> program = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()
    >>> needs(program).state, needs(program).exchanges
    (256, ())
    """
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return Needs(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        cost.get("flops", math.nan),
        cost.get("bytes accessed", math.nan),
        tuple(collectives(program.as_text())),
    )


@dataclass(frozen=True)
class Forecast:
    """How long a step takes at the least, in seconds, by a model of what limits it.

    Attributes:
        compute: All operations at the chip's peak.
        traffic: All bytes at the memory's rate.
        links: All bytes of exchanges at the links' rate.
        latency: The hops of all exchanges, one exchange after the other.
    """

    compute: float
    traffic: float
    links: float
    latency: float

    @property
    def step(self) -> float:
        """The larger of computing and reading, then the exchanges, as if nothing of these were hidden."""
        return max(self.compute, self.traffic) + self.links + self.latency

    @property
    def efficiency(self) -> float:
        """The part of the step that one device alone would need too: what weak scaling keeps."""
        return max(self.compute, self.traffic) / self.step


def forecast(need: Needs, topology: str) -> Forecast:
    r"""A roofline for a step on a slice of TPUs.

    An all-reduce of V bytes sends $2V$ from each of n chips (for large n), over all links of the torus at once; reducing
    and spreading go half around each ring, $s / 2$ hops for a side of s. An all-gather or a reduce-scatter is half of
    that, and a permutation one hop.

    Args:
        need: Of one step.
        topology: A chip and the slice's shape, such as `"v5e:16x16"`.

    Returns:
        The parts of the time. It is an estimate and no measurement: no kernel reaches a peak, and exchanges hide behind
        computation where nothing waits for them.

    Raises:
        InputError: As of `chip_of`.

    >>> gradients = Collective("all-reduce", 60, 98_000_000, "")
    >>> times = forecast(Needs(0, 0, 197e9, 1e9, (gradients,)), "v5e:16x16")
    >>> [round(1e3 * time, 2) for time in (times.compute, times.traffic, times.links, times.latency)]
    [1.0, 1.22, 0.98, 0.03]
    """
    chip = chip_of(topology)
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    around = sum(side // 2 for side in sides)
    rounds = {"all-reduce": 2, "collective-permute": 0}
    links = latency = 0.0
    for exchange in need.exchanges:
        times = rounds.get(exchange.kind, 1)
        links += exchange.bytes * max(times, 1) / chip.link_rate
        latency += HOP * (times * around or 1)
    return Forecast(need.flops / chip.flops, need.traffic / chip.memory_rate, links, latency)
