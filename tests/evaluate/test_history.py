"""A target's metrics over its versions: the chart, the table, and their twin in Markdown."""

import itertools
import re

import pytest

from calrec.evaluate.report.history import Version, history
from tests.evaluate.test_report import NASTY, Parser, markdown_tables, squeezed


def versions(count: int, champion: int | None = None) -> list[Version]:
    """Recall@10 rises by .001 a version; every second one has an interval."""
    found = []
    for number in range(1, count + 1):
        ends = {"recall_at_10_low": 0.1, "recall_at_10_high": 0.4} if number % 2 == 0 else {}
        metrics = {"recall_at_10": 0.2 + number / 1000, "ndcg_at_10": 0.1, **ends, "mrr": 0.05}
        found.append(Version(number, f"2026-01-{number:02}", metrics, number == champion, f"data{number // 3}"))
    return found


def test_the_table_has_the_newest_version_first():
    page, text = history("home", versions(3, champion=2))
    (rows,) = squeezed(Parser(page).tables)
    assert rows == [
        ["Version", "Date", "Recall@10", "NDCG@10", "MRR", "Data"],
        ["3", "2026-01-03", "0.2030", "0.1000", "0.0500", "data1"],
        ["2 champion", "2026-01-02", "0.2020 0.1000 to 0.4000", "0.1000", "0.0500", "data0"],
        ["1", "2026-01-01", "0.2010", "0.1000", "0.0500", "data0"],
    ]
    assert markdown_tables(text) == [rows]
    lead = (
        "Version 2 is the champion, with Recall@10 0.2020 and NDCG@10 0.1000; "
        "the newest is version 3, with Recall@10 0.2030 and NDCG@10 0.1000."
    )
    assert Parser(page).texts["p"][0] == lead and f"**{lead}**" in text


def test_the_chart_has_a_point_a_version_whiskers_where_known_and_a_large_dot_for_the_champion():
    page = Parser(history("home", versions(5, champion=4))[0])
    recall, _ = (polyline["points"].split() for polyline in page.of("polyline") if len(polyline["points"].split()) > 1)
    places = [tuple(map(float, place.split(","))) for place in recall]
    assert len(places) == 5
    assert [b - a for (a, _), (b, _) in itertools.pairwise(places)] == pytest.approx(
        [places[1][0] - places[0][0]] * 4, abs=0.11
    )
    assert all(a[1] > b[1] for a, b in itertools.pairwise(places))  # it rises: px from above fall
    whiskers = page.of("path", "whisker")
    assert [float(re.match(r"M([\d.]+)", path["d"])[1]) for path in whiskers] == [places[1][0], places[3][0]]
    large = [circle for circle in page.of("circle") if circle["r"] == "6" and float(circle["cy"]) > 50]
    assert {float(one["cx"]) for one in large} == {places[3][0]}
    labels = [svg["aria-label"] for svg in page.of("svg")]
    assert labels[0] == "Recall@10: every version from 0.201 to 0.205; the champion from 0.204 to 0.204"
    assert page.loaded == []


@pytest.mark.parametrize("count", [1, 2, 50, 120])
def test_any_number_of_versions_is_a_page_of_bounded_size(count: int):
    page, text = history("home", list(reversed(versions(count, champion=count))))
    assert f"Version {count}, the newest, is the champion, with Recall@10" in text
    parsed = Parser(page)
    assert len(parsed.tables[0]) - 1 == min(count, 50) and len(page) < 60_000
    assert (f"The newest 50 of {count} versions." in text) == (count > 50)
    ticks = [text for text in parsed.texts["text"] if re.fullmatch(r"\d+", text) and int(text) > 0]
    assert ticks and all(count - 50 <= int(tick) <= count for tick in ticks)


def test_versions_of_other_metrics_and_without_a_champion():
    both = [Version(1, "2026-01-01", {"mrr": 0.1}), Version(4, "2026-01-02", {"recall_at_5": 0.2}, data="d")]
    page, text = history("home", both)
    assert "No champion is shown; the newest is version 4, with Recall@5 0.2000." in text
    assert squeezed(Parser(page).tables)[0][1:] == [
        ["4", "2026-01-02", "–", "0.2000", "d"],
        ["1", "2026-01-01", "0.1000", "–", ""],
    ]


def test_hostile_names_are_text_and_no_version_is_an_error():
    page, text = history(NASTY, [Version(1, NASTY, {NASTY: 0.1}, True, NASTY)])
    assert {tag for tag, _ in Parser(page).seen} & {"script", "img"} == set() and "<script" not in text
    with pytest.raises(ValueError, match="home has no version yet"):
        history("home", [])
