"""The mean over flipped, rotated and resized images, as a model."""

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.errors import InputError
from jaxseg.models.averaging import PROBABILITIES, Averaging
from jaxseg.nn import bilinear
from jaxseg.typing import Array, Size, Variables


@dataclasses.dataclass(frozen=True)
class Symmetry:
    """A rotation by `turns` quarters against the clock, then flips."""

    turns: int
    vertical: bool
    horizontal: bool

    def __call__(self, x: Array) -> Array:
        """Maps `[N, H, W, ...]` to the turned and flipped map."""
        return jnp.flip(jnp.rot90(x, self.turns, (1, 2)), self.axes)

    def inverse(self, x: Array) -> Array:
        """Returns the map that `__call__` maps to `x`."""
        return jnp.rot90(jnp.flip(x, self.axes), -self.turns, (1, 2))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that are flipped."""
        return (1,) * self.vertical + (2,) * self.horizontal


@dataclasses.dataclass(frozen=True)
class TestTimeAugmentation:
    """A model that averages a model's outputs for flipped, rotated and resized images.

    Outputs are flipped and turned back exactly, and resized back. Every combination of flips, rotations and scales is one
    call of the model; combinations that are the same, such as both flips and a half turn, are one. Calls follow each
    other, so that memory is that of the largest one. Use it in place of a model, as a `SlidingWindow`, or around one.

    Attributes:
        model: Anything with `apply(variables, images, train=False)` that returns a pytree of maps at the images' size.
        flips: Which flips, besides none: `"horizontal"`, `"vertical"`.
        rotations: Degrees, multiples of 90.
        scales: Factors of the images' height and width, greater than 0. Images and outputs are resized by bilinear
            interpolation.
        average: The mean: `averaging.PROBABILITIES`, `OUTPUTS` for logits or depths, or `UNCERTAINTY` for maps of entropy
            and mutual information.

    Raises:
        InputError: A flip, rotation or scale is unknown or out of range, or there is none.

    References:
        Flips and scales of mmsegmentation's and DeepLab's evaluation, Chen et al., 2017,
        https://arxiv.org/abs/1706.05587, section 4.1.

    >>> import flax.linen as nn
    >>> from jaxseg.models import averaging
    >>> from jaxseg.typing import Output
    >>> class Column(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(images + jnp.arange(3.0).reshape(1, 1, 3, 1))
    >>> model = TestTimeAugmentation(Column(), average=averaging.OUTPUTS)
    >>> model.apply({}, jnp.zeros((1, 1, 3, 1))).logits.ravel().tolist()
    [1.0, 1.0, 1.0]
    """

    __test__ = False  # no test, whatever pytest thinks of its name

    model: Any
    flips: tuple[str, ...] = ("horizontal",)
    rotations: tuple[int, ...] = (0,)
    scales: tuple[float, ...] = (1.0,)
    average: Averaging = PROBABILITIES

    def __post_init__(self):
        unknown = set(self.flips) - {"horizontal", "vertical"}
        if unknown:
            raise InputError(f'flips={self.flips}: "horizontal", "vertical", or both')
        if not self.rotations or any(degrees % 90 for degrees in self.rotations):
            raise InputError(f"rotations={self.rotations}: multiples of 90 degrees, at least one")
        if not self.scales or not all(0 < scale < float("inf") for scale in self.scales):
            raise InputError(f"scales={self.scales}: at least one factor, all greater than 0")

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Any:
        """Returns the mean output.

        Args:
            variables: The model's variables.
            images: `[N, H, W, C]`.
            train: Must be false.

        Raises:
            InputError: `train` is true.
        """
        if train:
            raise InputError("test-time augmentation is for inference: train the model itself")
        size, total, count = (images.shape[1], images.shape[2]), None, 0
        for scale in self.scales:
            resized = bilinear(images, _scaled(size, scale)) if scale != 1 else images
            for symmetries in self._groups(square=resized.shape[1] == resized.shape[2]):
                total = self._add(total, variables, resized, symmetries, size)
                count += len(symmetries)
        return self.average.finish(total, count)

    def _groups(self, *, square: bool) -> Iterator[list[Symmetry]]:
        """Yields the symmetries whose results have the same shape, so that they share one program."""
        every = self._symmetries()
        if square:
            yield every
            return
        for turned in (0, 1):
            group = [symmetry for symmetry in every if symmetry.turns % 2 == turned]
            if group:
                yield group

    def _symmetries(self) -> list[Symmetry]:
        probe = np.arange(6).reshape(1, 2, 3)
        found: dict[Any, Symmetry] = {}
        for degrees in self.rotations:
            for vertical in (False, True)[: 1 + ("vertical" in self.flips)]:
                for horizontal in (False, True)[: 1 + ("horizontal" in self.flips)]:
                    symmetry = Symmetry(degrees // 90 % 4, vertical, horizontal)
                    moved = np.flip(np.rot90(probe, symmetry.turns, (1, 2)), symmetry.axes)
                    found.setdefault(repr(moved.tolist()), symmetry)
        return list(found.values())

    def _add(
        self,
        total: Any,
        variables: Variables,
        images: Array,
        symmetries: list[Symmetry],
        size: Size,
    ) -> Any:
        """Returns a total, or None, with the model's outputs for some symmetries of the images."""
        inverses = [partial(jax.tree.map, symmetry.inverse) for symmetry in symmetries]

        def run(index: Array) -> Any:
            moved = lax.switch(index, symmetries, images)
            output = self.model.apply(variables, moved, train=False)
            output = lax.switch(index, inverses, output)
            return jax.tree.map(lambda x: _resize(x, size), output)

        return self.average.accumulate(run, jnp.arange(len(symmetries)), total)


def _scaled(size: Size, scale: float) -> Size:
    height, width = (max(1, int(length * scale + 0.5)) for length in size)
    return height, width


def _resize(x: Array, size: Size) -> Array:
    return x if x.shape[1:3] == size else bilinear(x, size)
