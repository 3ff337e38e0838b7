"""Curves over training steps as SVG: small, sharp, and coloured by the page's own style sheet."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 14, 34
_POINTS = 400  # more than this are averaged in groups: a line of more points looks the same


class Curve(NamedTuple):
    """One line of a chart.

    Attributes:
        name: As the legend shows it.
        steps: Where the values were taken, `[n]`.
        values: `[n]`; those that are not finite are left out.
        style: A class of the page's style sheet, such as `"a"`.
        marked: Whether every value gets a dot, as few and precise ones deserve.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    style: str = "a"
    marked: bool = False


def chart(title: str, curves: Sequence[Curve], *, top: float | None = None) -> str:
    """Draws curves over their steps as one inline SVG element.

    Args:
        title: What the values are, also read by screen readers.
        curves: The lines; where none has a finite value the chart says that nothing was recorded.
        top: Upper end of the value axis; by default it follows the values, less outliers among unmarked ones.

    Returns:
        An `<svg>` element without a reference to anything outside.

    >>> chart("Loss", [Curve("training", [0, 10], [2.0, 1.0])]).startswith('<svg viewBox="0 0 560 300"')
    True
    """
    lines = [line for line in map(_finite, curves) if len(line.steps)]
    head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
    if not lines:
        middle = f'x="{WIDTH / 2:g}" y="{HEIGHT / 2:g}" text-anchor="middle"'
        return f'{head}<text class="tick" {middle}>nothing recorded</text></svg>'
    first = min(line.steps[0] for line in lines)
    last = max(line.steps[-1] for line in lines)
    bottom = min(0.0, *(min(line.values) for line in lines))
    if top is None:
        top = max(max(line.values) if line.marked else _robust_top(line.values) for line in lines)
    ticks = _ticks(bottom, top)
    bottom, top = min(bottom, ticks[0]), max(top, ticks[-1])
    if first == last:
        first, last = first - 1, last + 1

    def x(step: float) -> float:
        return _LEFT + (step - first) / (last - first) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        value = min(max(value, bottom), top)
        return HEIGHT - _BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - _TOP - _BOTTOM)

    parts = [head]
    for tick in ticks:
        parts.append(
            f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}"/>'
            f'<text class="tick" x="{_LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        )
    for tick in _ticks(first, last):
        if first <= tick <= last and tick == round(tick):
            parts.append(
                f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 12}" text-anchor="middle">{tick:,.0f}</text>'
            )
    for line in lines:
        corners = [
            f"{x(step):.1f} {y(value):.1f}"
            for step, value in zip(line.steps, line.values, strict=True)
        ]
        if len(corners) > 1:
            parts.append(f'<path class="line {line.style}" d="M{"L".join(corners)}"/>')
        if line.marked or len(corners) == 1:
            radius = 3 if len(corners) <= 60 else 1.5
            for corner, step, value in zip(corners, line.steps, line.values, strict=True):
                cx, cy = corner.split()
                note = f"{html.escape(line.name)} {value:.4g} at step {step:,.0f}"
                parts.append(
                    f'<circle class="dot {line.style}" cx="{cx}" cy="{cy}" r="{radius}"><title>{note}</title></circle>'
                )
    return "".join([*parts, "</svg>"])


def _finite(curve: Curve) -> Curve:
    """The curve's finite values in order of their steps, averaged in groups where they are many."""
    steps, values = np.asarray(curve.steps, np.float64), np.asarray(curve.values, np.float64)
    keep = np.isfinite(steps) & np.isfinite(values)
    steps, values = steps[keep], values[keep]
    order = np.argsort(steps, kind="stable")
    steps, values = steps[order], values[order]
    if len(steps) > _POINTS and not curve.marked:
        group = math.ceil(len(steps) / _POINTS)
        edges = np.arange(0, len(steps), group)
        sizes = np.diff(np.append(edges, len(steps)))
        steps, values = (
            np.add.reduceat(steps, edges) / sizes,
            np.add.reduceat(values, edges) / sizes,
        )
    return curve._replace(steps=steps.tolist(), values=values.tolist())


def _robust_top(values: Sequence[float]) -> float:
    """The largest value, unless a few spikes would flatten all the rest."""
    high = float(np.percentile(values, 98))
    return high if max(values) > 3 * high > 0 else max(values)


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers that cover `[low, high]`."""
    if not high > low:
        high = low + 1.0
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]
