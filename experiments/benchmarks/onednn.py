"""What oneDNN's convolutions, called from XLA, would give: whole networks with and without them, and PyTorch, in turns.

PyTorch's convolutions on a CPU are oneDNN's. Here they stand in for XLA's own through `jax.ffi`: the rest of the program
stays as it is. jaxseg itself has no compiled code and does not use them; this says what is left to gain, and where.

    apt-get install g++ libdnnl-dev
    python experiments/benchmarks/onednn.py --task train --batch 4
    python experiments/benchmarks/onednn.py --task infer --batch 1

Needs torch and segmentation_models.pytorch, a C++ compiler and oneDNN 2 with OpenMP, as Debian has them. Prints rows and
appends them to docs/benchmarks.md with `--append`.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models
import tyro
from page import append
from turns import take_turns

HEADING = "## With oneDNN's convolutions"
INTRODUCTION = """Rows of `python experiments/benchmarks/onednn.py --append`, as of the table before: jaxseg as it is, jaxseg
whose convolutions are oneDNN's by `jax.ffi` (Debian's oneDNN 2.6), and PyTorch, whose convolutions are oneDNN's too.

| what | side | median | spread | ratio | ready after | peak | where and when |
|---|---|---|---|---|---|---|---|"""
TARGETS = ("OnednnForward", "OnednnOfImages", "OnednnOfKernel")


def build() -> ctypes.CDLL:
    """Compiles and loads onednn.cc.

    Raises:
        SystemExit: There is no compiler, or no oneDNN.
    """
    import jax

    source = Path(__file__).with_suffix(".cc")
    library = Path(tempfile.mkdtemp()) / "libonednn.so"
    command = f"g++ -O2 -std=c++17 -w -shared -fPIC -I{jax.ffi.include_dir()} {source} -o {library} -ldnnl"
    try:
        subprocess.run(command.split(), check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        advice = "apt-get install g++ libdnnl-dev"
        raise SystemExit(f"onednn.cc does not compile ({error}): {advice}") from None
    return ctypes.CDLL(str(library))


def replace() -> None:
    """Has every layer's convolution in this process that oneDNN can do run there, gradients included."""
    import jax
    from jax import lax

    import jaxseg.nn.convolution as layers
    from jaxseg.nn import doubled
    from jaxseg.nn.window import Window

    library = build()
    for name in TARGETS:
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")

    plain = lax.conv_general_dilated

    def call(name: str, like: Any, *arrays: Any, **geometry: Any) -> Any:
        shape = jax.ShapeDtypeStruct(like.shape, like.dtype)
        return jax.ffi.ffi_call(name, shape)(*arrays, **geometry)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
    def convolve(x: Any, kernel: Any, stride: int, before: int, after: int) -> Any:
        pads = ((before, after),) * 2
        numbers = ("NHWC", "HWIO", "NHWC")
        like = jax.eval_shape(
            lambda x, k: plain(x, k, (stride, stride), pads, dimension_numbers=numbers), x, kernel
        )
        geometry = {"stride": stride, "before": before, "after": after}
        return call("OnednnForward", like, x, kernel, **geometry)

    def forward(x: Any, kernel: Any, *geometry: int) -> Any:
        return convolve(x, kernel, *geometry), (x, kernel)

    def backward(stride: int, before: int, after: int, saved: Any, cotangent: Any) -> Any:
        x, kernel = saved
        geometry = {"stride": stride, "before": before, "after": after}
        return (
            call("OnednnOfImages", x, cotangent, kernel, **geometry),
            call("OnednnOfKernel", kernel, x, cotangent, **geometry),
        )

    convolve.defvjp(forward, backward)

    def convolution(x: Any, kernel: Any, window: Window) -> Any:
        alike = len(set(window.strides)) == len(set(window.padding)) == 1
        if not alike or window.dilation != (1, 1):
            return window.convolve(x, kernel)
        return convolve(x, kernel, window.strides[0], *window.padding[0])

    def of_doubled(x: Any, skip: Any, kernel: Any) -> Any:
        joined, _ = doubled.doubled(x, skip)
        return convolution(joined, kernel, Window(padding=((1, 1), (1, 1))))

    layers._convolution, doubled._convolution = convolution, of_doubled


def onednn_side(arguments: models.Arguments) -> Callable[[], Any]:
    """jaxseg with oneDNN's convolutions."""
    replace()
    return models.jaxseg_side(arguments)


def main(arguments: models.Arguments) -> None:
    """Measures, prints and, if asked to, appends."""
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as `jaxseg train` has it
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP's threads would spin beside XLA's
    sides = {
        "jaxseg": (models.jaxseg_side, (arguments,)),
        "jaxseg with oneDNN": (onednn_side, (arguments,)),
        "torch": (models.torch_side, (arguments, False)),
    }
    lines = models.rows(arguments, take_turns(sides, arguments.rounds))
    print("\n".join(lines))
    if arguments.append:
        append(HEADING, INTRODUCTION, lines)


if __name__ == "__main__":
    main(tyro.cli(models.Arguments))
