import math
import re
from xml.etree import ElementTree

import pytest

from jaxseg.report.curves import HEIGHT, WIDTH, Curve, chart

PATH = re.compile(r"[ML](-?[\d.]+) (-?[\d.]+)")


def draw(*curves, **options):
    return ElementTree.fromstring(chart("A & B", curves, **options))


def lines(svg):
    return [
        [(float(x), float(y)) for x, y in PATH.findall(path.get("d"))]
        for path in svg.iter("path")
        if "line" in path.get("class")
    ]


def texts(svg):
    return [text.text for text in svg.iter("text")]


def test_higher_values_are_higher_and_later_steps_further_right():
    (points,) = lines(draw(Curve("loss", [0, 10, 20], [2.0, 1.0, 3.0])))
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x0 < x1 < x2
    assert y2 < y0 < y1
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in points)


def test_values_that_are_not_finite_are_left_out_and_rows_are_sorted():
    (points,) = lines(draw(Curve("loss", [30, 10, 20, 40], [1.0, 3.0, math.nan, math.inf])))
    assert len(points) == 2
    assert points[0][0] < points[1][0]
    assert points[0][1] < points[1][1]


@pytest.mark.parametrize("curves", [[], [Curve("a", [], [])], [Curve("a", [1.0], [math.nan])]])
def test_nothing_to_draw_is_said(curves):
    assert texts(draw(*curves)) == ["nothing recorded"]


def test_a_single_value_is_a_dot():
    svg = draw(Curve("a", [5], [0.25]))
    (dot,) = svg.iter("circle")
    assert dot[0].text == "a 0.25 at step 5"
    assert not lines(svg)


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-12, 1e12])
def test_constant_values_of_any_size(value):
    (points,) = lines(draw(Curve("a", [0, 1], [value, value])))
    assert all(0 <= y <= HEIGHT for _, y in points)


def test_many_values_are_averaged_in_groups():
    values = [float(i % 2) for i in range(10_000)]
    (points,) = lines(draw(Curve("a", range(10_000), values)))
    assert len(points) <= 400
    assert max(y for _, y in points) - min(y for _, y in points) < HEIGHT / 10


def test_marked_values_are_never_averaged():
    svg = draw(Curve("a", range(1000), [0.5] * 1000, marked=True))
    assert len(list(svg.iter("circle"))) == 1000


def test_a_spike_does_not_flatten_the_rest():
    values = [1.0] * 200
    values[7] = 1e6
    (points,) = lines(draw(Curve("a", range(200), values)))
    assert points[0][1] < HEIGHT / 2
    assert min(y for _, y in points) >= 0


def test_a_given_top_is_kept():
    assert "1" in texts(draw(Curve("a", [100, 200], [0.2, 0.3]), top=1.0))
    assert "1" not in texts(draw(Curve("a", [100, 200], [0.2, 0.3])))


def test_names_are_escaped():
    svg = draw(Curve("<x> & y", [1], [1.0]))
    assert svg.get("aria-label") == "A & B"
    assert next(svg.iter("title")).text.startswith("<x> & y")
