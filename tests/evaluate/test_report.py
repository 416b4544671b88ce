"""The page and its Markdown twin: the same figures, honest marks, nothing that a title could break."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from calrec.evaluate.report import drift, words
from calrec.evaluate.report import page as report
from calrec.evaluate.results import METHOD, Difference, Evaluation, Example, Figure, Method, Slice, Ties
from calrec.recommend.drift import Drift

METRICS = ("recall_at_1", "recall_at_10", "ndcg_at_10", "mrr")
NASTY = "a|b *c* _d_ `e` <script>alert(1)</script> <img src=http://x.example/y> &amp; \"q\" 'r'\n# h \\ [l](http://x)"


def figures(mean: float, width: float = 0.1) -> dict[str, Figure]:
    """MRR a tenth of the others, so that a swap of columns is seen."""
    parts = {name: 1.0 if name != "mrr" else 0.1 for name in METRICS}
    return {name: Figure(mean * p, (mean - width / 2) * p, (mean + width / 2) * p) for name, p in parts.items()}


def against(mean: float, p_holm: float) -> dict[str, Difference]:
    one = Difference(mean, mean - 0.04, mean + 0.06, p_holm / 2, p_holm, mean / 0.4, 31, 17)
    return {name: replace(one, mean=one.mean * (0.1 if name == "mrr" else 1)) for name in METRICS}


def method(mean: float, p_holm: float | None = None) -> Method:
    ties = {name: Ties(f.mean + 0.01, f.mean, f.mean - 0.01) for name, f in figures(mean).items()}
    texts = {name: f.mean + 0.005 for name, f in figures(mean).items()}
    differences = {} if p_holm is None else against(0.3 - mean, p_holm)
    return Method(figures(mean), texts, ties, mean / 2, 7 + mean, differences)


METHODS = {
    METHOD: method(0.3),
    "popularity": method(0.1, 0.0004),
    "recent_popularity": method(0.2, 0.004),
    "markov": method(0.28, 0.3),
    "repeat_last": method(0.5, 0.04),
}
EXAMPLES = [
    Example("u1", ["tea", "cup"], "pot", 2, ["lamp", "pot", "rug"], [("pot", 3), ("lamp", 1)]),
    Example("u2", ["cup"], "vase", 0, ["lamp", "pot", "rug"], [("lamp", 4)]),
]


def curve(steps: int, every: int = 10) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = [{"step": 0, "valid_nig": 7.0, "valid_ndcg": 0.05}]
    for step in range(1, steps + 1):
        rows.append({"step": step, "loss": 1 + 5 / step, "nig": 1 + 6 / step, "tt": 2.0, "lr": 1e-3, "grad_norm": 9.9})
        if step % every == 0:
            rows.append({"step": step, "valid_nig": 1 + 8 / step, "valid_ndcg": 1 - 1 / (step + 1)})
    return rows


BASE = Evaluation(
    domain="garden",
    split="test",
    users=200,
    eligible=535,
    items=1234,
    k=20,
    exclude_seen=False,
    methods=METHODS,
    slices=[
        Slice("target frequency", "0 (cold)", 29, {name: its.figures for name, its in METHODS.items()}),
        Slice("target frequency", "1-5", 171, {name: its.figures for name, its in METHODS.items()}),
        Slice("target", "repeat", 30, {name: its.figures for name, its in METHODS.items()}),
    ],
    explanations={"distinct_texts_per_sample": 0.25, "something_new": 1.5},
    examples=EXAMPLES,
    curves={"stage1": curve(60), "stage2": []},
    cost={
        "stage1": {"seconds": 90.0, "tokens": 1_800_000, "peak_memory_bytes": 3 * 2**29},
        "generate": {"seconds": 40.0, "tokens": 8000, "users_per_second": 5.0, "peak_memory_bytes": 2**30},
    },
    data={"texts": "0123abcd", "logs": {"garden": "beef"}, "interactions": 123456},
    config={"stage1": {"steps": 60, "domains": ["home", "garden"]}, "retrieve": {"k": 20}},
)


# --- reading what was written -----------------------------------------------------------------------------------


class Parser(HTMLParser):
    """Checks that elements are closed in order; collects cells of tables, texts, and what a page would load."""

    VOID = frozenset({"meta", "br", "img", "link", "input", "hr"})

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.loaded: list[tuple[str, str | None]] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.loaded += [(n, v) for n, v in attrs if n in ("src", "href", "srcset", "data", "action", "xlink:href")]
        self.loaded += [(n, v) for n, v in attrs if n.startswith("on")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)
        if "table" in self.open and "svg" not in self.open and self.tables[-1] and self.tables[-1][-1]:
            self.tables[-1][-1][-1] += data

    def of(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        """Attributes of each element of a tag, and of a class if one is given."""
        return [a for t, a in self.seen if t == tag and (not kind or kind in (a.get("class") or "").split())]


def plain(cell: str) -> str:
    """A Markdown cell as it is shown."""
    text = re.sub(r"(?<!\\)\*\*", "", cell)
    return html.unescape(re.sub(r"\\([\\`*_{}\[\]|#~])", r"\1", text))


def markdown_tables(text: str) -> list[list[list[str]]]:
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found[-1].append([plain(cell.strip()) for cell in cells])
        elif found[-1]:
            found.append([])
    return [[rows[0], *rows[2:]] for rows in found if rows]


def squeezed(tables: Sequence[Sequence[Sequence[str]]]) -> list[list[list[str]]]:
    return [[[" ".join(cell.split()) for cell in row] for row in rows] for rows in tables]


def both(evaluation: Evaluation) -> tuple[Parser, str]:
    """The parsed page and the Markdown, which hold the same tables."""
    page, text = Parser(report.page(evaluation)), report.markdown(evaluation)
    assert squeezed(page.tables) == squeezed(markdown_tables(text))
    assert page.loaded == [("href", value) for _, value in page.loaded if value and re.fullmatch(r"#[a-z0-9-]+", value)]
    return page, text


def table_of(page: Parser, header: str) -> dict[str, list[str]]:
    """First cell → the others, of the first table whose header begins so."""
    rows = next(rows for rows in squeezed(page.tables) if rows[0][0] == header)
    return {row[0]: row[1:] for row in rows}


# --- what it says -----------------------------------------------------------------------------------------------


def test_the_page_and_its_twin_hold_the_same_figures():
    page, text = both(BASE)
    assert len(page.tables) == 1 + 2 + 1 + 2 + 1 + 1 + 1 + 1 + 1  # 2 metrics against each method, 2 ways to divide
    for heading in page.texts["h2"]:
        assert f"## {heading}" in text
    for sentence in page.texts["p"]:
        assert sentence in plain(text)


def test_the_headline_table_by_hand():
    page, _ = both(BASE)
    assert table_of(page, "Method") == {
        "Method": ["Recall@1", "Recall@10", "NDCG@10", "MRR"],
        "CALRec": ["0.3000 ± 0.0500", "0.3000 ± 0.0500", "0.3000 ± 0.0500", "0.0300 ± 0.0050"],
        "Popularity": ["0.1000 ± 0.0500 ▲***"] * 3 + ["0.0100 ± 0.0050 ▲***"],
        "Recent popularity": ["0.2000 ± 0.0500 ▲**"] * 3 + ["0.0200 ± 0.0050 ▲**"],
        "Markov (last item)": ["0.2800 ± 0.0500"] * 3 + ["0.0280 ± 0.0050"],
        "History, newest first": ["0.5000 ± 0.0500 ▼*"] * 3 + ["0.0500 ± 0.0050 ▼*"],
    }
    bold = [text for text in page.texts["b"] if re.fullmatch(r"0\.\d{4}", text)]
    assert bold == ["0.5000"] * 3 + ["0.0500"]  # the best of each column


def test_the_pairwise_table_by_hand():
    page, _ = both(BASE)
    rows = table_of(page, "CALRec less")
    assert rows["CALRec less"][0] == "Recall@10"
    assert rows["Popularity"] == [
        "+0.2000", "+0.1600 to +0.2600", "0.0002", "0.0004", "▲ better ***", "+0.50", "31", "17",
    ]  # fmt: skip
    assert rows["History, newest first"][0] == "−0.2000" and rows["History, newest first"][4] == "▼ worse *"
    assert rows["Markov (last item)"][3:5] == ["0.3000", "–"]


@pytest.mark.parametrize(
    ("mean", "p_holm", "expected"),
    [
        (0.1, 0.05, ""), (0.1, 0.0499, "▲*"), (0.1, 0.01, "▲*"), (0.1, 0.0099, "▲**"), (0.1, 0.001, "▲**"),
        (0.1, 0.0009, "▲***"), (-0.1, 0.0009, "▼***"), (-0.1, 0.04, "▼*"), (-0.1, 0.06, ""), (0.0, 1.0, ""),
    ],
)  # fmt: skip
def test_marks_follow_the_corrected_p_value_and_the_direction(mean: float, p_holm: float, expected: str):
    one = Difference(mean, mean - 0.1, mean + 0.1, p=0.0001, p_holm=p_holm, effect=0.1, wins=1, losses=2)
    assert words.mark(one) == expected


def test_differences_have_a_sign_unless_they_are_shown_as_zero():
    assert [words.format_signed(x, 2) for x in (0.126, -0.126, 0.0, 0.004)] == ["+0.13", "−0.13", "0.00", "0.00"]
    assert words.format_signed(-0.00004) == "0.0000"


def test_the_verdict_claims_what_holm_leaves_and_no_more():
    assert words.verdict(BASE) == (
        "CALRec puts the next item among its first 10 for 30.0 % of the users (95 % interval 25.0 to 35.0 %); better "
        "than Popularity (+20.0 points, +16.0 to +26.0) and Recent popularity (+10.0 points, +6.0 to +16.0); worse "
        "than History, newest first (−20.0 points, −24.0 to −14.0); no difference shown to Markov (last item)."
    )
    unsure = {name: replace(its, against=against(0.2, 0.2) if its.against else {}) for name, its in METHODS.items()}
    said = words.verdict(replace(BASE, methods=unsure))
    assert "better" not in said and "worse" not in said and said.count("no difference shown to") == 1
    alone = replace(BASE, methods={METHOD: METHODS[METHOD]})
    assert words.verdict(alone).endswith("(95 % interval 25.0 to 35.0 %); it was compared with nothing.")


def test_the_protocol_says_who_was_asked_among_what():
    assert words.protocol(BASE) == (
        "A random sample of 200 users out of 535 with a held-out test item. Each user's held-out item is sought among "
        "all 1,234 items of the category, none sampled, in a list of 20; items of the history may come again, for "
        "every method alike. ± is half the width of the 95 % bootstrap interval over users."
    )
    other = words.protocol(replace(BASE, users=535, split="valid", exclude_seen=True))
    assert other.startswith("535 users, all with a held-out valid item.") and "history are left out" in other


def test_slices_of_few_users_are_grey_and_said():
    page, text = both(BASE)
    assert len(page.of("tr", "muted")) == 1
    assert table_of(page, "target frequency")["0 (cold)"][0] == "29 few"
    assert table_of(page, "target")["repeat"] == ["30", "0.3000 ± 0.0500", "0.5000 ± 0.0500"]
    assert "Grey rows have fewer than 30 users" in text and "CALRec beside History, newest first" in text
    enough = replace(BASE, slices=BASE.slices[1:])
    assert "Grey" not in report.markdown(enough) and not Parser(report.page(enough)).of("tr", "muted")


def test_curves_are_drawn_and_told():
    page, text = both(BASE)
    # training, validation of nig beside training, validation of ndcg; two charts of bars
    assert len(page.of("svg", "chart")) == 3 + 2 and len(page.of("polyline")) == 3 + 2 + 1
    rows = table_of(page, "Curve")
    assert rows["Stage 1, loss"] == ["6.0000", f"{1 + 5 / 60:.4f}", f"{1 + 5 / 60:.4f}", "60"]
    assert rows["Stage 1, validation: next item, nats per token"][:2] == ["7.0000", f"{1 + 8 / 60:.4f}"]
    assert rows["Stage 1, validation: NDCG@10 by cosine"][2:] == [f"{1 - 1 / 61:.4f}", "60"]
    assert not any("grad" in name or "lr" in name for name in rows)
    assert "Stage 2: 0 steps" in text


def test_examples_show_the_target_and_say_what_was_missed():
    page, text = both(BASE)
    assert len(page.of("article", "good")) == len(page.of("article", "bad")) == 1
    assert "### User u1: found at place 2" in text and "    2. **pot** (the target)" in text
    assert "### User u2: missed: the target is not in the list" in text
    assert "- history, oldest first: tea → cup" in text
    assert "- generated:\n    1. pot ×3\n    2. lamp ×1" in text
    assert len(page.of("li", "hit")) == 1 and page.texts["h3"] == [
        "User u1: found at place 2",
        "User u2: missed: the target is not in the list",
    ]


def test_cost_facts_data_and_settings():
    page, _ = both(BASE)
    assert table_of(page, "Step") == {
        "Step": ["Time", "Tokens", "Tokens/s", "Users/s", "Peak memory"],
        "Stage 1": ["1 min 30 s", "1,800,000", "20,000", "–", "1.50 GiB"],
        "Generate": ["40 s", "8,000", "200", "5.0", "1.00 GiB"],
    }
    facts = table_of(page, "Fact")
    assert facts["Distinct texts per sample"][0] == "25.0 %" and facts["something new"] == ["1.5", ""]
    assert table_of(page, "Data") == {
        "Data": ["Value"], "texts": ["0123abcd"], "logs.garden": ["beef"], "interactions": ["123,456"],
    }  # fmt: skip
    assert table_of(page, "Setting")["stage1.domains"] == ["home, garden"]
    assert len(page.of("details")) == 1


DRIFT = Drift(
    {"new_items_share": 0.031, "new_items_target_share": 0.1, "new_words_share": 0.094, "category_shift": 0.2},
    "beef",
    {"users": (1_234_567, 2), "median_length": (4.0, 4.5)},
    [("Tea", 0.3, 0.1), ("", 0.0, 0.2)],
)


def test_drift_is_told_with_a_warning_where_it_is_large():
    page, text = both(replace(BASE, drift=DRIFT))
    rows = table_of(page, "Drift")
    assert {name: row[0] for name, row in rows.items() if name != "Drift"} == {
        "New items in the catalogue": "3.1 %", "Held-out items that are new": "10.0 % large", "New words": "9.4 %",
        "Category mix": "20.0 % large",
    }  # fmt: skip
    warning = "The data moved far from the champion's: held-out items that are new 10.0 % and category mix 20.0 %."
    assert f"**{warning}**" in text and warning in page.texts["p"] and drift.warnings(DRIFT) == [warning]
    sizes = next(rows for rows in squeezed(page.tables) if rows[0][1:] == ["champion's", "these"])
    assert sizes[1:] == [["users", "1,234,567", "2"], ["median of events per user", "4.0", "4.5"]]
    assert table_of(page, "Category, share of the events") == {
        "Category, share of the events": ["champion's", "these", "points"],
        "Tea": ["30.0 %", "10.0 %", "−20.0"],
        "no category": ["0.0 %", "20.0 %", "+20.0"],
    }


def test_every_figure_of_drift_has_a_name_and_little_of_it_is_no_warning():
    small = Drift(dict.fromkeys(words.DRIFT, 0.05), "beef")
    page, text = both(replace(BASE, drift=small))
    assert len(table_of(page, "Drift")) == 1 + 6 and "moved far" not in text and drift.warnings(small) == []


def test_without_a_champion_there_is_no_drift_and_that_is_said():
    page, text = both(BASE)
    assert drift.NOTHING in page.texts["p"] and "## Drift" in text and drift.warnings(None) == []


def test_the_drawings_of_the_page_can_be_had_by_name():
    found = report.drawings(BASE)
    assert list(found) == [
        "recall_at_10", "ndcg_at_10", "stage-1-training", "stage-1-next-item-nats-per-token",
        "stage-1-ndcg-10-by-cosine",
    ]  # fmt: skip
    page = report.page(BASE)
    assert all(drawing in page for drawing in found.values())
    nasty = report.drawings(replace(BASE, curves={NASTY: [{"step": 1, NASTY: 2.0}]}))
    assert all(re.fullmatch(r"[a-z0-9_-]{1,200}", name) for name in nasty)


# --- whatever comes ---------------------------------------------------------------------------------------------


def test_hostile_and_endless_names_are_text_and_nothing_else():
    long = "x" * 100_000
    nasty = Example(NASTY + long, [NASTY, long], NASTY, 1, [NASTY, long], [(NASTY, 1), ("", 2), (long, 3)])
    evaluation = replace(
        BASE,
        domain=NASTY,
        methods={**METHODS, NASTY: method(0.25, 0.002), long: method(0.26, 0.6)},
        slices=[Slice(NASTY, NASTY, 5, dict.fromkeys((*METHODS, NASTY, long), METHODS[METHOD].figures))],
        explanations={NASTY: 0.5},
        examples=[nasty],
        curves={NASTY: [{"step": 1, "loss": 2.0, NASTY: 1.0, f"valid_{NASTY}": 3.0}]},
        cost={NASTY: {"seconds": 1.0}},
        data={NASTY: NASTY, "long": long},
        drift=Drift({"category_shift": 1.0}, "beef", {}, [(NASTY, 0.5, 0.25), (long, 0.5, 0.75)]),
        config={NASTY: {NASTY: [NASTY]}},
    )
    page, text = both(evaluation)
    tags = {tag for tag, _ in page.seen}
    assert "script" not in tags and "img" not in tags
    assert all(not name.startswith("on") for _, attributes in page.seen for name in attributes)
    assert "<" not in text and ">" not in text  # so no renderer takes anything for a tag
    assert "alert(1)" in plain(text) and max(map(len, text.splitlines())) < 20_000
    assert len(report.page(evaluation)) < 100_000


@pytest.mark.parametrize(
    "change",
    [
        {"methods": {METHOD: METHODS[METHOD]}, "slices": []},
        {"curves": {}, "cost": {}},
        {"curves": {"stage1": [{"step": 1, "loss": 2.0}]}},
        {"curves": {"stage1": [{"step": 0, "valid_nig": float("nan")}, {"step": 2, "loss": float("inf")}]}},
        {"examples": [], "slices": [], "explanations": {}, "data": {}, "config": {}},
        {"users": 1, "eligible": 1, "items": 1, "k": 1},
    ],
)
def test_what_is_missing_leaves_the_rest_whole(change: Mapping[str, Any]):
    _, text = both(replace(BASE, **change))
    assert text.startswith("# Next items in garden\n\n**CALRec puts")


def test_slices_without_a_rival_have_the_model_alone():
    alone = replace(BASE, methods={METHOD: METHODS[METHOD]})
    assert table_of(both(alone)[0], "target")["target"] == ["users", "CALRec"]


def test_other_cut_offs_and_rankings_without_scores():
    def cut(its: Method) -> Method:
        few = ("recall_at_1", "mrr")
        return replace(
            its,
            figures={name: its.figures[name] for name in few},
            on_texts={name: its.on_texts[name] for name in few},
            ties={},
            against={name: its.against[name] for name in few if its.against},
        )

    page, _ = both(replace(BASE, methods={name: cut(its) for name, its in METHODS.items()}, slices=[], k=1))
    assert table_of(page, "CALRec less")["CALRec less"][0] == "Recall@1"
    assert table_of(page, "Method")["Method"] == ["Recall@1", "MRR"]
    assert "puts the next item first for 30.0 % of the users" in page.texts["p"][0]
    beyond = squeezed(page.tables)[2]
    assert beyond[0][3:] == ["Recall@1 on texts", "Recall@1 ties at best", "Recall@1 ties at worst"]
    assert beyond[1][3:] == ["0.3050", "–", "–"]


def test_nothing_of_anyone_is_still_a_report():
    zero = Figure(0.0, 0.0, 0.0)
    none = Method(dict.fromkeys(METRICS, zero), {}, {}, 0.0, 0.0, {})
    page, text = both(replace(BASE, methods={METHOD: none}, slices=[Slice("target", "new", 1, {METHOD: none.figures})]))
    assert "for 0.0 % of the users" in text
    assert all(float(rect["width"] or "nan") == 0 for rect in page.of("rect"))


def test_a_million_steps_are_a_page_of_bounded_size():
    few = len(report.page(replace(BASE, curves={"stage1": curve(500)})))
    rows = [{"step": step, "loss": 2.0 + step % 7, "nig": 1.5} for step in range(1, 1_000_001)]
    evaluation = replace(BASE, curves={"stage1": rows})
    assert len(report.page(evaluation)) < few + 20_000
    assert table_of(both(evaluation)[0], "Curve")["Stage 1, loss"] == ["3.0000", "3.0000", "2.0000", "7"]


def test_what_is_wrong_with_the_lists_is_said_first():
    warned = replace(BASE, warnings=["50% of the places are filled with popular items: too few matches"])
    for text in (report.page(warned), report.markdown(warned)):
        assert text.index("Warning: 50% of the places are filled") < text.index("CALRec puts the next item")
    assert "Warning" not in report.markdown(BASE)
