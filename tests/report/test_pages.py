"""Pages are well-formed, escaped, to scale, and stand alone."""

import re
from xml.etree import ElementTree

import pytest

from calrec.report.document import Block, Case, Cell, Charts, Histogram, Section, Text, markdown, page, plain_table

NASTY = "a<b>&'\""


def element(block: Block, name: str) -> ElementTree.Element:
    """The first element of this name on a page of one block."""
    made = re.search(rf"<{name}\b.*?</{name}>", page("x", [Section("", [block])]), re.DOTALL)
    assert made
    return ElementTree.fromstring(re.sub(r"( \w+)=(\w+)(?=[ >])", r"\1='\2'", made[0]))


def bars_of(svg: ElementTree.Element) -> list[float]:
    return [float(rect.attrib["width"]) for rect in svg.iter("rect")]


def test_bars_are_to_scale_and_carry_their_values():
    svg = element(Histogram("Events", [("few", 250), ("many", 1000), ("none", 0)]), "svg")
    few, many, none = bars_of(svg)
    assert few == pytest.approx(many / 4, abs=0.1) and none == 0
    assert [text.text for text in svg.iter("text")] == ["Events", "few", "250", "many", "1,000", "none", "0"]


def test_no_bar_leaves_the_picture():
    root = element(Histogram("x", [("label " * 20, 10**12), ("b", 1)]), "svg")
    width = float(root.attrib["viewBox"].split()[2])
    for group in root.iter("g"):
        *_, value = group.iter("text")
        assert (float(value.attrib["x"]), value.attrib["text-anchor"]) == (width, "end")
    assert max(bars_of(root)) <= width


def test_names_are_escaped_and_read_aloud():
    root = element(Histogram(NASTY, [(NASTY, 1)]), "svg")
    assert (root.attrib["role"], root.attrib["aria-label"]) == ("img", NASTY)
    assert next(root.iter("title")).text == NASTY


@pytest.mark.parametrize("bars", [[], [("a", 0)]])
def test_nothing_to_show_is_drawn_too(bars: list[tuple[str, int]]):
    svg = element(Histogram("empty", bars), "svg")
    assert bars_of(svg) == [0.0] * len(bars) and [text.text for text in svg.iter("text")][1:2]


def test_a_table_has_its_cells():
    made = element(plain_table(["name", "n"], [[NASTY, 1234567], ["b", 0.5], ["c", True]]), "table")
    rows = [["".join(cell.itertext()).strip() for cell in row] for row in made.iter("tr")]
    assert rows == [["name", "n"], [NASTY, "1,234,567"], ["b", "0.5"], ["c", "True"]]


def test_a_page_stands_alone():
    made = page(NASTY, [Section("s", [plain_table(["x"], [["y"]]), Histogram("h", [("a", 1)])])])
    assert made.startswith("<!doctype html>") and made.endswith("</html>\n")
    assert "http" not in made and "a<b>" not in made and made.count("<svg") == made.count("</svg>") == 1


def test_every_block_is_escaped_but_drawings():
    case = Case(NASTY, True, {NASTY: [Cell(NASTY, NASTY, NASTY, True)]}, {})
    kinds = [Text(NASTY, kind) for kind in ("", "lead", "warning", "note", "code")]
    drawing = "<svg><title>drawn</title></svg>"
    sections = [Section("", kinds), Section(NASTY, [case, Charts([drawing])], closed=True)]
    made = page(NASTY, sections)
    assert "a<b>" not in made and made.count("a&lt;b&gt;&amp;") >= 12 and drawing in made
    assert made.index("<nav") < made.index("<details>") and "<svg" not in markdown(NASTY, sections)


def test_lines_of_code_stay_as_they_are():
    assert markdown("", [Section("", [Text("a *b*\n-> c", "code")])]) == "    a *b*\n    -> c\n"
