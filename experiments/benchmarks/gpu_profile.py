"""Divides the time of a compiled step among kinds of operations, from the profiler's trace.

The text of the compiled program says for each instruction its operation and the part of the model that it belongs to; the
trace says when it ran. Where the trace names no instruction, for example for kernels of a CUDA graph, the kernel's name
decides. Time in which several operations run is divided among them, and time in which none runs is idle, so that the kinds
add up to the elapsed time.
"""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

CONVOLUTION, PRODUCT, NORM = "convolution", "matrix product", "normalization"
OTHER, COPY, UPDATE, IDLE = "other elementwise", "copy", "optimizer", "idle"
KINDS = (CONVOLUTION, PRODUCT, NORM, OTHER, COPY, UPDATE, IDLE)

_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = .*? ([a-z][\w-]*)\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.-]+) \(.*\{$")
_CALLS = re.compile(r"calls=%?([\w.-]+)")
_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_HOLDERS = ("while", "conditional", "call")
"""Opcodes that contain other operations, which the trace lists as well."""
_MOVES = {"copy", "copy-start", "copy-done", "transpose", "bitcast", "parameter", "tuple"}
_KERNELS = (
    (CONVOLUTION, re.compile(r"conv(?!ert)|cudnn|[fdw](prop|grad)", re.I)),
    (PRODUCT, re.compile(r"gemm|nvjet|cutlass|cublas|matmul|\bdot", re.I)),
    (COPY, re.compile(r"copy|mem(cpy|set)|transpose|nchw|nhwc", re.I)),
)


class Event(NamedTuple):
    """One operation: its kind, start and end in nanoseconds."""

    kind: str
    start: float
    end: float


def kinds_of(text: str) -> dict[str, str]:
    """Returns the kind of each instruction of a compiled program.

    Args:
        text: The program, returned by `.as_text()`.

    Returns:
        Kinds by name of the instruction, with punctuation replaced by underscores as in the names of kernels. The kind
        `""` marks instructions that only contain others.

    >>> kinds_of('ENTRY %main (x: f32[2]) -> f32[2] {\\n  ROOT %copy.1 = f32[2]{0} copy(%x)\\n}')
    {'copy_1': 'copy'}
    """
    found: list[tuple[str, str, str]] = []
    inside: dict[str, set[str]] = {}
    computation = ""
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            computation = match[1]
        elif match := _INSTRUCTION.match(line):
            found.append((match[1], match[2], line))
            inside.setdefault(computation, set()).add(match[2])
    differentiates = "jvp(" in text
    return {
        _plain(name): _kind(opcode, line, inside, differentiates) for name, opcode, line in found
    }


def _kind(opcode: str, line: str, inside: Mapping[str, set[str]], differentiates: bool) -> str:
    if opcode in _HOLDERS:
        return ""
    path = _first(_NAME, line)
    opcodes = {opcode} | inside.get(_first(_CALLS, line), set())
    target = _first(_TARGET, line).lower()
    if "convolution" in opcodes or "conv" in target:
        return CONVOLUTION
    if "dot" in opcodes or re.search("gemm|matmul|cublas", target):
        return PRODUCT
    if opcodes - {"fusion"} <= _MOVES:
        return COPY
    if differentiates and path.startswith("jit(") and "jvp(" not in path:
        return UPDATE  # the part of a train step outside of the gradient
    return NORM if "/norm/" in path else OTHER


def _first(pattern: re.Pattern[str], line: str) -> str:
    match = pattern.search(line)
    return match[1] if match else ""


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name)


def events(profile: Any, kinds: Mapping[str, str]) -> list[Event]:
    """Returns the operations that ran on the devices of a profile, or on the CPU's threads if there are no others.

    Args:
        profile: A `jax.profiler.ProfileData`.
        kinds: Returned by `kinds_of`.
    """
    planes = list(profile.planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:")]
    lines = [line for plane in devices for line in plane.lines]
    # A GPU repeats its streams as lines of operations, modules and steps; a TPU has only operations.
    chosen = [line for line in lines if line.name.startswith("Stream")]
    chosen = chosen or [line for line in lines if line.name == "XLA Ops"]
    if chosen:
        return list(_of(chosen, kinds, instructions_alone=False))
    host = [line for plane in planes if plane.name == "/host:CPU" for line in plane.lines]
    return list(_of(host, kinds, instructions_alone=True))


def _of(
    lines: Iterable[Any], kinds: Mapping[str, str], *, instructions_alone: bool
) -> Iterable[Event]:
    for line in lines:
        for event in line.events:
            instruction = str(dict(event.stats).get("hlo_op", ""))
            if instructions_alone and not instruction:
                continue
            kind = kinds.get(_plain(instruction), kinds.get(_plain(event.name)))
            if kind is None:
                kind = next((k for k, known in _KERNELS if known.search(event.name)), OTHER)
            if kind:
                yield Event(kind, event.start_ns, event.start_ns + event.duration_ns)


def divided(found: Iterable[Event]) -> dict[str, float]:
    """Returns the nanoseconds of each kind, which add up to the time from the first event to the end of the last.

    >>> divided([Event("copy", 0, 4), Event("convolution", 2, 6), Event("copy", 9, 10)])
    {'convolution': 3.0, 'matrix product': 0.0, 'normalization': 0.0, 'other elementwise': 0.0, 'copy': 4.0, 'optimizer': 0.0, 'idle': 3.0}
    """
    edges = sorted(
        edge for kind, start, end in found for edge in ((start, 1, kind), (end, -1, kind))
    )
    total = dict.fromkeys(KINDS, 0.0)
    active: Counter[str] = Counter()
    for index, (at, change, kind) in enumerate(edges):
        passed, running = at - edges[max(index - 1, 0)][0], active.total()
        if not running:
            total[IDLE] += passed
        else:
            for each, count in active.items():
                total[each] += passed * count / running
        active[kind] += change
    return total


def profiled(run: Callable[[], Any], text: str) -> dict[str, float]:
    """Returns the nanoseconds of each kind while a function runs once.

    Args:
        run: The function, which waits for its result.
        text: The compiled program that it runs.

    Raises:
        RuntimeError: The profile contains no operation.
    """
    import jax

    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            run()
        files = sorted(Path(folder).rglob("*.xplane.pb"))
        profiles = [jax.profiler.ProfileData.from_file(str(file)) for file in files]
    kinds = kinds_of(text)
    found = [event for profile in profiles for event in events(profile, kinds)]
    if not found:
        raise RuntimeError(
            "the profile contains no operation: is the profiler (CUPTI) installed for this GPU?"
        )
    return divided(found)


def profile_side(case: Any, batch: int) -> tuple[float, dict[str, float]]:
    """Profiles a case of jaxseg in this process: returns seconds per step and the fraction of each kind."""
    from gpu_sides import jaxseg_side

    program = jaxseg_side(case, batch)
    program.run()
    spent = profiled(program.run, program.text)
    total = sum(spent.values())
    return total / case.steps / 1e9, {kind: value / total for kind, value in spent.items()}
