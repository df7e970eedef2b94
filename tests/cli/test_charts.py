"""The plots as SVG: well formed, within their bounds, true to the figures, safe with any name."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_cli.render.charts import Line, Part, Row, _ticks, lines, rows

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=80)
LENGTHS = st.floats(0, 1e7)


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}" + tag))


def check_bounds(svg: str) -> None:
    """No number that is none, and nothing outside of the picture."""
    assert not re.search(r"\b(nan|inf|None)\b", re.sub(r"<(text|title).*?</\1>", "", svg))
    _, _, width, height = map(float, elements(svg, "svg")[0].attrib["viewBox"].split())
    places = {"rect": ("x",), "text": ("x",), "line": ("x1", "x2"), "circle": ("cx",)}
    for tag, names in places.items():
        for element in elements(svg, tag):
            assert all(-0.1 <= float(element.get(name, 0)) <= width + 0.1 for name in names)
    for element in elements(svg, "rect"):
        if element.get("class") == "part":
            assert float(element.attrib["x"]) + float(element.attrib["width"]) <= width
    for element in elements(svg, "text"):
        assert 0 <= float(element.attrib["y"]) <= height


@given(st.lists(st.tuples(NAMES, st.lists(LENGTHS, max_size=3), LENGTHS), min_size=1, max_size=9))
def test_any_rows_fit_their_picture(found):
    bars = [
        Row(name, "1 ms", [Part(f"p{i}", i, size) for i, size in enumerate(sizes)], dots=sizes,
            mark=other, interval=(0, other))
        for name, sizes, other in found
    ]  # fmt: skip
    check_bounds(rows("Time", "milliseconds", bars, at=1.0))


POINTS = st.dictionaries(st.integers(0, 300), st.floats(0, 100), min_size=1, max_size=40)


@given(st.lists(st.tuples(NAMES, POINTS), min_size=1, max_size=9), st.sampled_from([0.0, 100.0]))
def test_any_lines_fit_their_picture(found, top):
    drawn = [Line(name, sorted(points.items()), i % 6) for i, (name, points) in enumerate(found)]
    check_bounds(lines("Depth", "depth", "%", drawn, top=top))


def test_bars_are_as_long_as_their_figures():
    svg = rows("Speed", "tokens/s", [Row("a", "", [Part("x", 0, 50.0), Part("y", 1, 25.0)]),
                                     Row("b", "", [Part("x", 0, 100.0)])])  # fmt: skip
    found = [r for r in elements(svg, "rect") if r.get("class") == "part"]
    sizes = [float(r.attrib["width"]) for r in found]
    assert sizes[0] == pytest.approx(2 * sizes[1], abs=0.2) == pytest.approx(sizes[2] / 2, abs=0.2)
    assert float(found[1].attrib["x"]) == pytest.approx(float(found[0].attrib["x"]) + sizes[0])
    assert [t.text for t in elements(svg, "text")][-2:] == ["x", "y"], "the legend"


def test_a_line_rises_with_its_figures():
    svg = lines("Depth", "depth", "%", [Line("a", [(0, 0.0), (1, 50.0), (2, 100.0)], 0)])
    points = elements(svg, "polyline")[0].attrib["points"].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points)
    assert x0 < x1 < x2 and y0 > y1 > y2
    assert (x1 - x0, y0 - y1) == pytest.approx((x2 - x1, y1 - y2))


def test_names_are_text_and_lines_of_one_colour_differ():
    odd = "<script>&\"'"
    bars, drawn = rows(odd, odd, [Row(odd, odd)]), [Line(odd, [(0, 1.0)], 1)] * 4
    graph = lines(odd, odd, odd, drawn)
    for svg in (bars, graph):
        assert odd in [text.text for text in elements(svg, "text")]
        assert "<script" not in svg
    marks = {path.attrib["d"] for path in elements(graph, "path")}
    assert len(marks) == 4
    assert len({line.attrib["stroke-dasharray"] for line in elements(graph, "polyline")}) == 3


@given(st.floats(0, 1e9), st.booleans())
def test_ticks_are_round_and_reach_the_end(most, whole):
    ticks = _ticks(most, whole=whole)
    assert ticks[0] == 0 and ticks[-1] >= most * (1 - 1e-6) and 2 <= len(ticks) <= 7
    assert ticks == sorted(set(ticks))
    digits = f"{ticks[1]:e}".partition("e")[0].rstrip("0.")
    assert digits in {"1", "2", "5"}
    if whole:
        assert all(tick == math.floor(tick) for tick in ticks)
