"""The cost of a compiled step: memory, operations and collectives, read from the program, and a roofline for TPUs."""

import math
import re
from dataclasses import dataclass
from typing import Any

from jaxseg.errors import InputError, unknown

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf" = (.*?) ({_KINDS})(-start)?\(")
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")
_NAME = re.compile(r'op_name="([^"]*)"')
_DONE = re.compile(r"%async-collective-done\S* = .* calls=(%[^\s,]+)")


@dataclass(frozen=True)
class Collective:
    """One collective operation of a program.

    Attributes:
        kind: `"all-reduce"`, `"all-gather"`, `"reduce-scatter"`, `"collective-permute"` (each device sends to one other, such
            as rows to the next spatial shard) or `"all-to-all"`.
        arrays: Number of arrays that are combined in it.
        bytes: Their size on one device; for an all-gather, the size of the result.
        path: The operation of the model that it belongs to, such as `jit(train_step)/jvp(Net)/encoder/stem/norm/reduce_sum`;
            those of gradients contain `transpose(`.
    """

    kind: str
    arrays: int
    bytes: int
    path: str


def find_collectives(text: str) -> list[Collective]:
    """Finds every collective operation in a compiled program.

    Args:
        text: The program, from `.as_text()` of a compiled function.

    Returns:
        The collectives in the order of the text. An asynchronous one is listed where it starts. (A TPU's program contains
        a collective that is fused with other work three times: where it starts, in the work, and where it ends.)

    >>> find_collectives('  %a = (f32[3]{0}, f32[2,2]{1,0}) all-reduce(%x, %y), metadata={op_name="jit(f)/sum"}')
    [Collective(kind='all-reduce', arrays=2, bytes=28, path='jit(f)/sum')]
    """
    found, done, computation = [], set(_DONE.findall(text)), ""
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")):
            computation = line.split(maxsplit=1)[0]
        match = _COLLECTIVE.search(line)
        is_repeated = computation in done or computation.startswith("%async_collective_fusion")
        if match is None or is_repeated:
            continue
        sizes = [_num_bytes(*array) for array in _ARRAY.findall(match[1])]
        if match[3] and match[2] in ("all-gather", "collective-permute"):
            # The result of these starts is a tuple of operands, results and counters.
            arrays = max(1, sum(size > 4 for size in sizes) // 2)
            sizes = sizes[arrays : 2 * arrays] or sizes
        name = _NAME.search(line)
        found.append(Collective(match[2], len(sizes), sum(sizes), name[1] if name else ""))
    return found


def _num_bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype[1:]) or 8)
    return math.prod(int(length) for length in shape.split(",") if length) * bits // 8


@dataclass(frozen=True)
class StepCost:
    """The cost of one step on each device.

    Attributes:
        argument_bytes: Size of the arguments: the state and the batch.
        temporary_bytes: Size of everything else that is in memory at once while the step runs.
        flops: Number of floating-point operations.
        memory_traffic: Bytes read from and written to memory, in XLA's count.
        collectives: The collective operations.
    """

    argument_bytes: int
    temporary_bytes: int
    flops: float
    memory_traffic: float
    collectives: tuple[Collective, ...]

    @property
    def memory_bytes(self) -> int:
        """Peak memory; results reuse the memory of donated arguments."""
        return self.argument_bytes + self.temporary_bytes


def cost_of(program: Any) -> StepCost:
    """Returns the cost of a compiled program.

    Args:
        program: A compiled step, from `Parallel.lower(...).compile()`.

    >>> import jax
    >>> program = jax.jit(lambda x: x @ x).lower(jax.ShapeDtypeStruct((8, 8), "float32")).compile()
    >>> cost_of(program).argument_bytes, cost_of(program).collectives
    (256, ())
    """
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return StepCost(
        memory.argument_size_in_bytes,
        memory.temp_size_in_bytes,
        cost.get("flops", math.nan),
        cost.get("bytes accessed", math.nan),
        tuple(find_collectives(program.as_text())),
    )


@dataclass(frozen=True)
class Chip:
    """The published specification of an accelerator chip.

    Attributes:
        flops: Peak bfloat16 operations per second. XLA multiplies float32 in bfloat16 by default.
        memory_bytes: Size of its memory.
        memory_bandwidth: Bytes per second to and from its memory.
        link_bandwidth: Bytes per second sent to its neighbours, over all links.
        torus_axes: Number of axes of the torus that the chips form.
    """

    flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    torus_axes: int


CHIPS = {
    "v5e": Chip(197e12, 16e9, 819e9, 200e9, 2),
    "v5p": Chip(459e12, 95e9, 2765e9, 600e9, 3),
    "v6e": Chip(918e12, 32e9, 1638e9, 400e9, 2),
}
"""Chips by the name that topologies begin with. The link bandwidth is half of the published bidirectional one.

References:
    https://cloud.google.com/tpu/docs/v5e, https://cloud.google.com/tpu/docs/v5p, https://cloud.google.com/tpu/docs/v6e
"""
HOP_SECONDS = 1e-6
"""Approximate latency from a chip to its neighbour (Austin et al., How to Scale Your Model, 2025,
https://jax-ml.github.io/scaling-book)."""


def chip_of(topology: str) -> Chip:
    """Returns the chip of a topology such as `"v5e:16x16"`.

    Raises:
        InputError: The chip is unknown, or the shape is missing.

    >>> chip_of("v5e:2x4").memory_bytes
    16000000000.0
    """
    name, _, shape = topology.partition(":")
    if name not in CHIPS:
        raise unknown("chip", name, CHIPS)
    if not re.fullmatch(r"\d+(x\d+)+", shape):
        raise InputError(f"a topology is a chip and a shape, such as {name}:2x4, not {topology!r}")
    return CHIPS[name]


@dataclass(frozen=True)
class StepTime:
    """An estimate of the time of a step, in seconds.

    Attributes:
        compute: Time of all operations at the chip's peak.
        memory: Time of all memory traffic at the memory's bandwidth.
        links: Time of all bytes of collectives at the links' bandwidth.
        latency: Time of the hops of all collectives, one collective after the other.
    """

    compute: float
    memory: float
    links: float
    latency: float

    @property
    def step(self) -> float:
        """The larger of compute and memory time, plus the collectives, as if none of them were overlapped."""
        return max(self.compute, self.memory) + self.links + self.latency

    @property
    def efficiency(self) -> float:
        """The efficiency of weak scaling: the part of the step that a single device needs as well."""
        return max(self.compute, self.memory) / self.step


def estimate_step_time(cost: StepCost, topology: str) -> StepTime:
    r"""Estimates the time of a step on a slice of TPUs by a roofline.

    An all-reduce of V bytes sends $2V$ from each of n chips (for large n), over all links of the torus at once; reducing and
    broadcasting take half a ring each, $s / 2$ hops for a side of s. An all-gather or a reduce-scatter takes half of that, a
    permutation one hop.

    Args:
        cost: The cost of the step.
        topology: A chip and the shape of the slice, such as `"v5e:16x16"`.

    Returns:
        The parts of the time. This is an estimate, not a measurement: no kernel reaches the peak, and collectives overlap
        with computation that does not wait for them.

    Raises:
        InputError: The topology is invalid; see `chip_of`.

    >>> gradients = Collective("all-reduce", 60, 98_000_000, "")
    >>> time = estimate_step_time(StepCost(0, 0, 197e9, 1e9, (gradients,)), "v5e:16x16")
    >>> [round(1e3 * part, 2) for part in (time.compute, time.memory, time.links, time.latency)]
    [1.0, 1.22, 0.98, 0.03]
    """
    chip = chip_of(topology)
    sides = [int(side) for side in topology.partition(":")[2].split("x")]
    hops_around = sum(side // 2 for side in sides)
    rounds = {"all-reduce": 2, "collective-permute": 0}
    links = latency = 0.0
    for collective in cost.collectives:
        times = rounds.get(collective.kind, 1)
        links += collective.bytes * max(times, 1) / chip.link_bandwidth
        latency += HOP_SECONDS * (times * hops_around or 1)
    return StepTime(
        cost.flops / chip.flops, cost.memory_traffic / chip.memory_bandwidth, links, latency
    )
