"""The report that a person reads: one table, one chart, a few users; Markdown and a page that stands alone."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from calrec import draw

METHOD = "calrec"
NAMES = {
    METHOD: "CALRec",
    "popularity": "Popularity",
    "markov": "Markov (last item)",
    "repeat_last": "History, newest first",
    "bm25_last": "BM25 on the last item",
}


@dataclass(frozen=True)
class Example:
    """One user as a person sees it."""

    user_id: str
    history: Sequence[str]
    target: str
    recommended: Sequence[str]
    generated: Sequence[str]
    rank: int


@dataclass(frozen=True)
class Report:
    """What the report says."""

    domain: str
    split: str
    users: int
    items: int
    exclude_seen: bool
    results: Mapping[str, Mapping[str, float]]
    """method → metric → mean; `…_text` metrics are on text groups."""
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    facts: Mapping[str, Any]
    examples: Sequence[Example]

    @property
    def shown(self) -> list[str]:
        """Metrics of the table."""
        return [name for name in self.results[METHOD] if not name.endswith("_text")]


def markdown_table(results: Mapping[str, Mapping[str, float]], metrics: Sequence[str]) -> str:
    """One row per method, one column per metric; the best of a column is bold."""
    lines = ["| method | " + " | ".join(metrics) + " |", "|---|" + "---:|" * len(metrics)]
    best = {name: max(values[name] for values in results.values()) for name in metrics}
    for method, values in results.items():
        cells = (f"**{values[m]:.4f}**" if values[m] == best[m] else f"{values[m]:.4f}" for m in metrics)
        lines.append(f"| {NAMES.get(method, method)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown(report: Report) -> str:
    """The report as Markdown."""
    text = {
        m: {k.removesuffix("_text"): v for k, v in r.items() if k.endswith("_text")} for m, r in report.results.items()
    }
    low_high = "\n".join(
        f"| {name} | {report.results[METHOD][name]:.4f} | {low:.4f} – {high:.4f} |"
        for name, (low, high) in report.intervals[METHOD].items()
    )
    facts = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in report.facts.items())
    return f"""# {report.domain}

{_subtitle(report)}

{markdown_table(report.results, report.shown)}

CALRec with its 95 % bootstrap interval over users:

| metric | mean | interval |
|---|---:|---:|
{low_high}

The same when items with identical text count as one:

{markdown_table(text, report.shown)}

What explains the figures:

| fact | value |
|---|---:|
{facts}

{"".join(_example_markdown(example) for example in report.examples)}"""


def _subtitle(report: Report) -> str:
    seen = "items already bought are left out" if report.exclude_seen else "items already bought may come again"
    return (
        f"{report.users:,} users, the held-out {report.split} item of each ranked against all {report.items:,} items; "
        f"{seen}, for every method alike."
    )


def _example_markdown(example: Example) -> str:
    where = f"place {example.rank}" if example.rank else "not in the list"
    return (
        f"**User {example.user_id}** bought … {' → '.join(example.history)}, then *{example.target}* ({where}).  \n"
        f"Generated: {'; '.join(example.generated)}.  \nRecommended: {'; '.join(example.recommended)}.\n\n"
    )


# --- HTML -------------------------------------------------------------------------------------------------------


def page(report: Report) -> str:
    """The report as one HTML page without outside resources."""
    chart = "".join(_chart(report, name) for name in ("recall_at_10", "ndcg_at_10") if name in report.shown)
    head = "".join(f"<th>{html.escape(m)}</th>" for m in report.shown)
    rows = "".join(
        f"<tr><td>{html.escape(NAMES.get(method, method))}</td>"
        + "".join(_cell(report, method, m) for m in report.shown)
        + "</tr>"
        for method in report.results
    )
    facts = [(name.replace("_", " "), value) for name, value in report.facts.items()]
    users = "".join(_example_html(example) for example in report.examples)
    return draw.page(
        report.domain,
        [
            f"<p>{html.escape(_subtitle(report))}</p>{chart}<table><tr><th>method</th>{head}</tr>{rows}</table>",
            "<p><small>Lines in the chart and ± in the table: 95 % bootstrap interval over users.</small></p>",
            f"<h2>What explains the figures</h2>{draw.table((), facts)}<h2>Some users</h2>{users}",
        ],
    )


def _cell(report: Report, method: str, metric: str) -> str:
    value = report.results[method][metric]
    low, high = report.intervals[method][metric]
    best = value == max(results[metric] for results in report.results.values())
    shown = f"<b>{value:.4f}</b>" if best else f"{value:.4f}"
    return f"<td title='{low:.4f} – {high:.4f}'>{shown}<br><small>± {(high - low) / 2:.3f}</small></td>"


def _chart(report: Report, metric: str) -> str:
    """Horizontal bars with intervals, as SVG."""
    width, bar, left = 720, 26, 190
    top = max(high for method in report.results for _, high in [report.intervals[method][metric]]) or 1.0
    parts = []
    for row, (method, values) in enumerate(report.results.items()):
        y, value = row * bar + 24, values[metric]
        low, high = report.intervals[method][metric]
        x = [left + (width - left - 70) * v / top for v in (value, low, high)]
        color = "#2f6fde" if method == METHOD else "#9aa4b2"
        parts.append(
            f"<text x='{left - 8}' y='{y + 14}' text-anchor='end'>{html.escape(NAMES.get(method, method))}</text>"
            f"<rect x='{left}' y='{y}' width='{x[0] - left:.1f}' height='{bar - 7}' fill='{color}'/>"
            f"<path d='M{x[1]:.1f} {y + 9.5}H{x[2]:.1f}' stroke='currentColor'/>"
            f"<text x='{x[2] + 6:.1f}' y='{y + 14}'>{value:.4f}</text>"
        )
    height = len(report.results) * bar + 30
    return (
        f"<svg viewBox='0 0 {width} {height}' width='100%' font-size='13' fill='currentColor' role='img'>"
        f"<text x='{left}' y='14' font-weight='bold'>{metric}</text>{''.join(parts)}</svg>"
    )


def _example_html(example: Example) -> str:
    where = f"place {example.rank}" if example.rank else "not in the list"
    shorten = "</li><li>".join(html.escape(text) for text in example.recommended)
    return (
        f"<div class=user><b>User {html.escape(example.user_id)}</b><br><small>bought</small> … "
        f"{' → '.join(html.escape(text) for text in example.history)}<br><small>then</small> "
        f"<b>{html.escape(example.target)}</b> ({where})<br><small>generated</small> "
        f"{'; '.join(html.escape(text) for text in example.generated)}<br>"
        f"<small>recommended</small><ol><li>{shorten}</li></ol></div>"
    )
