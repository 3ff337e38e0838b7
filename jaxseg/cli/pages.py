"""Huge pages of memory, which a train step gains from and all that comes before it loses by."""

import ctypes
import sys
from collections.abc import Callable
from typing import Any

_PR_SET_THP_DISABLE = 41  # of linux/prctl.h


def allow_huge(allowed: bool) -> None:
    """Whether Linux may give this process memory in huge pages from now on; elsewhere nothing changes."""
    if sys.platform == "linux":
        arguments = (_PR_SET_THP_DISABLE, int(not allowed), 0, 0, 0)
        ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, arguments))


def huge_from_second_call(step: Callable[..., Any]) -> Callable[..., Any]:
    """`step`, which has huge pages allowed once it is called a second time.

    A step frees and takes the same hundreds of megabytes each time, 7 % faster in huge pages. To get them at first takes
    Linux half a second for U-Net's, and what compiles and loads programs takes more of them than it uses: the turns in
    docs/benchmarks.md have the first step end a second earlier, and still the twelfth.
    """
    calls = 0

    def stepped(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            allow_huge(True)
        return step(*args)

    return stepped
