"""Which arrays of a training state are whole on every device, and which are cut over the devices."""

import math
from collections.abc import Callable, Mapping

from jaxseg.errors import InputError
from jaxseg.train.paths import under

_CUT = ("params", "opt_state", "ema")
Layout = Callable[[str, tuple[int, ...], int], int | None]
"""`(path, shape, devices) -> axis`: along which axis an array is cut over so many devices, or None to leave it whole."""


def whole(path: str, shape: tuple[int, ...], devices: int) -> int | None:
    """Every array is whole on every device: data parallelism as it is usual.

    >>> whole("params/head/kernel", (3, 3, 64, 256), 8) is None
    True
    """
    return None


def fully_sharded(*, minimum: int = 4096) -> Layout:
    """Cuts parameters and their optimizer state over all devices, each array along its longest axis that they divide.

    A device then holds a part of them, gets the others' parts while it computes, and updates its own: the numbers stay
    those of `whole`. What has no axis that they divide, and what is small, stays whole; so do statistics and totals.

    Args:
        minimum: How many elements an array has at least to be cut; below it, time goes into messages and no memory is
            gained.

    Returns:
        A layout for `Parallel`.

    Raises:
        InputError: The minimum is less than 1.

    >>> layout = fully_sharded(minimum=1000)
    >>> layout("params/head/kernel", (3, 3, 64, 256), 8), layout("params/head/bias", (256,), 8)
    (3, None)
    >>> layout("params/stem/kernel", (7, 7, 3, 50), 8) is None
    True

    References:
        Rajbhandari, Rasley, Ruwase and He, ZeRO, 2020, https://arxiv.org/abs/1910.02054; Zhao et al., PyTorch FSDP,
        2023, https://arxiv.org/abs/2304.11277. XLA places the exchanges here, and may hold more of the parameters at a
        time than one layer's.
    """
    if minimum < 1:
        raise InputError(f"minimum is {minimum}, it is at least 1")

    def layout(path: str, shape: tuple[int, ...], devices: int) -> int | None:
        axes = [axis for axis, length in enumerate(shape) if length and length % devices == 0]
        if path.partition("/")[0] not in _CUT or math.prod(shape) < minimum or not axes:
            return None
        return max(axes, key=lambda axis: (shape[axis], axis))

    return layout


def by_prefix(rules: Mapping[str, Layout]) -> Layout:
    """A layout for each part of a state, the first that fits; what none fits is whole.

    Args:
        rules: Layouts by prefix of whole names, such as `{"params/encoder": whole, "params": fully_sharded()}`. Paths
            are those of the state: `params/...`, `opt_state/0/mu/...`, `ema/...`.

    Returns:
        A layout for `Parallel`.

    >>> layout = by_prefix({"params": whole, "": fully_sharded()})
    >>> layout("params/head/kernel", (64, 256), 8), layout("opt_state/0/mu/head/kernel", (64, 256), 8)
    (None, 1)
    """

    def layout(path: str, shape: tuple[int, ...], devices: int) -> int | None:
        for prefix, rule in rules.items():
            if under(path, prefix):
                return rule(path, shape, devices)
        return None

    return layout
