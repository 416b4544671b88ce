"""Drawings are well-formed, escaped and to scale."""

from xml.etree import ElementTree

import pytest

from calrec.report.pages import histogram, page, table

NASTY = "a<b>&'\""


def bars_of(svg: str) -> list[float]:
    return [float(rect.attrib["width"]) for rect in ElementTree.fromstring(svg).iter("rect")]


def test_bars_are_to_scale_and_carry_their_values():
    svg = histogram("Events", [("few", 250), ("many", 1000), ("none", 0)])
    few, many, none = bars_of(svg)
    assert few == pytest.approx(many / 4, abs=0.1) and none == 0
    texts = [text.text for text in ElementTree.fromstring(svg).iter("text")]
    assert texts == ["Events", "few", "250", "many", "1,000", "none", "0"]


def test_no_bar_leaves_the_picture():
    root = ElementTree.fromstring(histogram("x", [("label " * 20, 10**12), ("b", 1)]))
    width = float(root.attrib["viewBox"].split()[2])
    for group in root.iter("g"):
        *_, value = group.iter("text")
        assert (float(value.attrib["x"]), value.attrib["text-anchor"]) == (width, "end")
    assert max(bars_of(ElementTree.tostring(root, "unicode"))) <= width


def test_names_are_escaped_and_read_aloud():
    root = ElementTree.fromstring(histogram(NASTY, [(NASTY, 1)]))
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", NASTY)
    assert next(root.iter("title")).text == NASTY


@pytest.mark.parametrize("bars", [[], [("a", 0)]])
def test_nothing_to_show_is_drawn_too(bars: list[tuple[str, int]]):
    assert bars_of(histogram("empty", bars)) == [0.0] * len(bars)


def test_a_table_has_its_cells():
    made = ElementTree.fromstring(table(["name", "n"], [[NASTY, 1234567], ["b", 0.5], ["c", True]]))
    rows = [["".join(cell.itertext()) for cell in row] for row in made[0]]
    assert rows == [["name", "n"], [NASTY, "1,234,567"], ["b", "0.5"], ["c", "True"]]
    assert len(ElementTree.fromstring(table([], [["a", 1]]))[0]) == 1


def test_a_page_stands_alone():
    made = page(NASTY, [table(["x"], [["y"]]), histogram("h", [("a", 1)])])
    assert made.startswith("<!doctype html>") and made.endswith("</html>\n")
    assert "http" not in made and "a<b>" not in made and made.count("<svg") == made.count("</svg>") == 1
