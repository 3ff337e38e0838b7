"""Huge pages of memory, which a train step gains from and all that comes before it loses by.

A step frees and takes the same hundreds of megabytes each time, 7 % faster in huge pages. To get them at first takes Linux
half a second for U-Net's, and what compiles and loads programs takes more of them than it uses: with huge pages from the
second step on the first ends a second earlier, and still the twelfth (the turns in docs/benchmarks.md).
"""

import ctypes
import sys

_PR_SET_THP_DISABLE = 41  # of linux/prctl.h


def allow_huge(allowed: bool) -> None:
    """Whether Linux may give this process memory in huge pages from now on; elsewhere nothing changes."""
    if sys.platform == "linux":
        arguments = (_PR_SET_THP_DISABLE, int(not allowed), 0, 0, 0)
        ctypes.CDLL(None).prctl(*map(ctypes.c_ulong, arguments))
