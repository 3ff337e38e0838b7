"""Times networks with oneDNN's convolutions in place of XLA's, beside jaxseg and PyTorch.

PyTorch's convolutions on a CPU are oneDNN's. Here XLA calls them through `jax.ffi`, and the rest of the program stays the
same. jaxseg itself has no compiled code and does not use them; the difference shows what could be gained.

    apt-get install g++ libdnnl-dev
    python experiments/benchmarks/onednn.py --task train --batch 4
    python experiments/benchmarks/onednn.py --task infer --batch 1

Needs torch and segmentation_models.pytorch, a C++ compiler and oneDNN 2 with OpenMP, as packaged by Debian. Prints rows;
`--append` adds them to docs/benchmarks.md.
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
from append_table import append, rows
from interleave import time_alternately

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
    """Replaces every convolution in this process that oneDNN supports, gradients included."""
    import jax
    from jax import lax

    import jaxseg.nn.conv as layers
    from jaxseg.nn.cpu import upsampled_conv
    from jaxseg.nn.cpu.conv_window import Window

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

    def convolve_upsampled(x: upsampled_conv.Upsampled, kernel: Any) -> Any:
        return convolution(x.array(), kernel, Window(padding=((1, 1), (1, 1))))

    layers._convolution, upsampled_conv.convolve = convolution, convolve_upsampled


def onednn_side(arguments: models.Arguments) -> Callable[[], Any]:
    """Returns the function to time of jaxseg with oneDNN's convolutions."""
    replace()
    return models.jaxseg_side(arguments)


def main(arguments: models.Arguments) -> None:
    """Measures, prints and, on request, appends."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # OpenMP's threads would spin beside XLA's
    sides = {
        "jaxseg": (models.jaxseg_side, (arguments,)),
        "jaxseg with oneDNN": (onednn_side, (arguments,)),
        "torch": (models.torch_side, (arguments, False)),
    }
    measured = models.results(arguments, time_alternately(sides, arguments.rounds))
    print("\n".join(rows("onednn", measured)))
    if arguments.append:
        append("onednn", measured)


if __name__ == "__main__":
    main(tyro.cli(models.Arguments))
