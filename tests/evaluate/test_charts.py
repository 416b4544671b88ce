"""Drawings are to scale, read aloud, and inside their frame."""

import math
import re
from xml.etree import ElementTree

import pytest

from calrec.evaluate.report.charts import Bar, Line, bars, curves, downsample, log_ticks, pair, standalone, ticks
from calrec.evaluate.results import Figure


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def of(root: ElementTree.Element, tag: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in root.iter(tag) if kind in one.attrib.get("class", "").split()]


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


ROWS = [
    Bar("CALRec", Figure(0.3, 0.2, 0.4), True),
    Bar("History", Figure(0.6, 0.5, 0.8)),
    Bar("None", Figure(0.0, 0.0, 0.0)),
]


def test_bars_are_proportional_and_whiskers_end_at_the_interval():
    root = parsed(bars("Recall@10", ROWS))
    width = float(root.attrib["viewBox"].split()[2])
    per_unit = (width - 2) / 0.8  # the longest whisker takes all the room
    lengths = [float(rect.attrib["width"]) for rect in root.iter("rect")]
    assert lengths == pytest.approx([0.3 * per_unit, 0.6 * per_unit, 0], abs=0.01)
    assert all(float(rect.attrib["x"]) == 0 for rect in root.iter("rect"))
    ends = [(numbers(p.attrib["d"])[0], float(re.search(r"H([\d.]+)", p.attrib["d"])[1])) for p in root.iter("path")]
    expected = [(0.2 * per_unit, 0.4 * per_unit), (0.5 * per_unit, 0.8 * per_unit), (0, 0)]
    assert [end for pair_ in ends for end in pair_] == pytest.approx([e for p in expected for e in p], abs=0.01)
    assert len(of(root, "rect", "ours")) == 1 and len(of(root, "rect", "theirs")) == 2


def test_bars_are_read_aloud_with_their_values():
    root = parsed(bars("Recall@10", ROWS))
    assert root.attrib["role"] == "img"
    assert root.attrib["aria-label"].startswith("Recall@10: CALRec 0.3000, 0.2000 to 0.4000; History 0.6000")


def test_a_long_label_is_cut_and_whole_in_the_tooltip():
    root = parsed(bars("m", [Bar("<b>" * 50, Figure(0.5, 0.4, 0.6))]))
    assert next(root.iter("title")).text == "<b>" * 50 + ": 0.5000, 95 % interval 0.4000 to 0.6000"
    shown = [text.text or "" for text in root.iter("text")]
    assert max(map(len, shown)) * 7.5 + 8 * 7.5 < 360


def test_two_bars_of_a_cell_share_a_scale():
    root = parsed(pair(Figure(0.1, 0.05, 0.15), Figure(0.2, 0.1, 0.4), top=0.4))
    assert [float(rect.attrib["width"]) for rect in root.iter("rect")] == pytest.approx([30, 60])
    assert [float(re.search(r"H([\d.]+)", p.attrib["d"])[1]) for p in root.iter("path")] == pytest.approx([45, 120])
    assert len(list(parsed(pair(Figure(0.1, 0.1, 0.1), None, top=0.1)).iter("rect"))) == 1


def area(root: ElementTree.Element) -> tuple[list[tuple[float, float]], list[float]]:
    """(height of a grid line, its label) and the labels' numbers, from top to bottom of the list."""
    heights = [numbers(path.attrib["d"])[1] for path in of(root, "path", "grid")]
    labels = [text for text in of(root, "text", "tick") if text.attrib.get("text-anchor") == "end"]
    values = [float((text.text or "").replace("k", "e3").replace("M", "e6")) for text in labels]
    return list(zip(heights, values, strict=True)), values


def points(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    found = []
    for line in root.iter("polyline"):
        flat = numbers(line.attrib["points"])
        found.append(list(zip(flat[::2], flat[1::2], strict=True)))
    return found


def test_points_lie_between_the_grid_lines_that_enclose_them():
    root = parsed(curves("c", [Line("a", [(0, 1.0), (50, 2.5), (100, 2.0)])]))
    grid, values = area(root)
    assert min(values) <= 1.0 and max(values) >= 2.5
    (y0, v0), *_, (y1, v1) = grid
    (((x_0, y_0), (x_50, y_50), (x_100, y_100)),) = points(root)
    for y, value in ((y_0, 1.0), (y_50, 2.5), (y_100, 2.0)):
        assert v0 + (y - y0) / (y1 - y0) * (v1 - v0) == pytest.approx(value, abs=0.02)
    assert x_50 - x_0 == pytest.approx(x_100 - x_50, abs=0.2)
    assert "logarithmic" not in "".join(root.itertext())


def test_values_over_decades_have_a_logarithmic_axis():
    root = parsed(curves("c", [Line("a", [(0, 8.0), (10, 0.8), (20, 0.08)])]))
    (((_, y_8), (_, y_08), (_, y_008)),) = points(root)
    assert y_08 - y_8 == pytest.approx(y_008 - y_08, abs=0.3)  # equal factors, equal ways
    assert "logarithmic" in "".join(root.itertext())
    down = parsed(curves("c", [Line("a", [(0, 8.0), (20, -0.08)])]))
    assert "logarithmic" not in "".join(down.itertext())


def test_the_axis_of_steps_ends_at_the_last_step_however_many_there_are():
    root = parsed(curves("c", [Line("a", [(float(step), 2.0) for step in range(601)])]))
    below = [text for text in of(root, "text", "tick") if text.attrib.get("text-anchor") == "middle"]
    assert [text.text for text in below] == ["0", "200", "400", "600", "steps"]
    assert float(below[3].attrib["x"]) > max(x for x, _ in points(root)[0])  # a mean of the last three steps


@pytest.mark.parametrize(
    "lines",
    [
        [Line("one point", [(7, 3.0)])],
        [Line("flat", [(0, 0.0), (5, 0.0)])],
        [Line("flat", [(0, -2.0), (5, -2.0)])],
        [Line("huge", [(0, 1e-9), (10**7, 1e9)])],
        [Line(f"curve {n} with quite a long name", [(0, n + 1.0), (9, n)]) for n in range(7)],
        [Line("holes", [(0, float("nan")), (3, 1.0), (4, float("inf"))])],
    ],
)
def test_everything_stays_inside_its_frame(lines: list[Line]):
    root = parsed(curves("c", lines))
    _, _, width, height = numbers(root.attrib["viewBox"])
    for x, y in (point for line in points(root) for point in line):
        assert 0 <= x <= width and 0 <= y <= height and math.isfinite(x + y)
    for text in root.iter("text"):
        size = 6 if "tick" in text.attrib.get("class", "") else 7.5
        long, x = size * len(text.text or ""), float(text.attrib["x"])
        left = x - {"end": long, "middle": long / 2}.get(text.attrib.get("text-anchor", ""), 0)
        assert left >= -1 and left + long <= width + 1, text.text
        assert 0 < float(text.attrib["y"]) <= height
    assert len(list(root.iter("polyline"))) == len(lines)


def test_nothing_to_show_is_said():
    assert "nothing to show" in "".join(parsed(curves("c", [Line("a", [(1, float("nan"))])])).itertext())


def test_many_points_become_means_of_neighbours():
    line = [(float(step), float(step % 2)) for step in range(1000)]
    found = downsample(line)
    assert len(found) == 200
    assert found[0] == (2.0, pytest.approx(2 / 5)) and found[1] == (7.0, pytest.approx(3 / 5))
    assert sum(y for _, y in found) / 200 == pytest.approx(0.5)
    assert downsample(line[:200]) == line[:200]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 10, [0, 2, 4, 6, 8, 10]), (0.13, 0.52, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1])],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]):
    assert ticks(low, high) == pytest.approx(expected)


def test_logarithmic_ticks_are_powers_of_ten():
    assert log_ticks(0.08, 8) == pytest.approx([0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10])
    assert log_ticks(0.02, 900) == pytest.approx([0.01, 0.1, 1, 10, 100, 1000])


def test_an_axis_may_begin_anywhere_and_has_whole_numbers():
    root = parsed(curves("m", [Line("all", [(7, 1.0), (8, 2.0)])], "version", (6.5, 8.5)))
    below = [text for text in of(root, "text", "tick") if text.attrib.get("text-anchor") == "middle"]
    assert [text.text for text in below] == ["7", "8", "version"]
    assert [x for x, _ in points(root)[0]] == [float(text.attrib["x"]) for text in below[:2]]


def test_whiskers_are_inside_the_frame_and_to_scale():
    root = parsed(curves("m", [Line("all", [(1, 2.0), (2, 3.0)], [(2, 1.0, 4.0)])]))
    (whisker,) = of(root, "path", "whisker")
    x, low, high = numbers(whisker.attrib["d"])
    heights, _ = area(root)
    by_value = {value: height for height, value in heights}
    assert (x, low, high) == (points(root)[0][1][0], by_value[1.0], by_value[4.0])


def test_a_single_point_is_a_dot_in_the_legend_too():
    root = parsed(curves("m", [Line("all", [(1, 2.0), (2, 3.0)]), Line("one", [(2, 3.0)], radius=6)]))
    assert [circle.attrib["r"] for circle in of(root, "circle", "d1")] == ["6", "6"]
    assert len(of(root, "path", "l0")) == 1 and not of(root, "path", "l1")


def test_a_drawing_stands_alone_with_its_own_colours():
    alone = standalone(bars("a > b", ROWS))
    root = parsed(alone)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    box = numbers(root.attrib["viewBox"])
    inside = numbers(parsed(bars("a > b", ROWS)).attrib["viewBox"])
    assert box[0] < 0 and box[0] + box[2] > inside[2] and box[1] + box[3] > inside[3]
    (style,) = root.iter("{http://www.w3.org/2000/svg}style")
    assert "background:#fff" in style.text and "prefers-color-scheme" not in style.text
    assert root.attrib["aria-label"].startswith("a > b: CALRec 0.3000")
