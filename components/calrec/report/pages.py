"""Drawing for reports with nothing but the standard library: a bar chart, a table and a page that stands alone."""

import html
from collections.abc import Sequence

from calrec.system import printing

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h2{font-size:1.1rem;margin:2rem 0 .5rem}
.scroll{overflow-x:auto}
.chart{display:block;width:100%;max-width:30rem;margin:1rem 0}
.note{margin:.2rem 0}
.warning{margin:.5rem 0;padding:.4rem .8rem;border-left:4px solid #d98b00;background:#d98b0018}
.warning::before{content:"Warning: ";font-weight:bold}
table{border-collapse:collapse;margin:.5rem 0 1rem;width:100%}
td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #8884;font-variant-numeric:tabular-nums}
td,th{vertical-align:top}td:first-child,th:first-child{text-align:left}
.text td,.text th{text-align:left}
@media(max-width:30rem){body{margin:1rem auto;padding:0 .7rem}td,th{padding:.25rem .3rem;font-size:13px}}
.user{border-left:3px solid #2f6fde;padding-left:.8rem;margin:1rem 0}
small{opacity:.75}
"""

_WIDTH, _ROW = 360, 34  # px: of a chart, which is that of a phone, so that letters have their size there; of a row
_LONGEST = 40  # characters of a label; the rest is in its tooltip


def histogram(title: str, bars: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars below their labels and values, as an inline SVG that fits a phone.

    Args:
        title: above the chart, and its name for a screen reader.
        bars: (label, value >= 0), from top to bottom; without any, the chart says so.
    """
    scale = (_WIDTH - 2) / max(1, *(value for _, value in bars)) if bars else 0.0
    rows = "".join(_bar(row, label, value, scale) for row, (label, value) in enumerate(bars))
    rows = rows or "<text x='0' y='40'>nothing to show</text>"
    name = html.escape(title)
    return (
        f"<svg class='chart' viewBox='0 0 {_WIDTH} {max(1, len(bars)) * _ROW + 26}' font-size='13' fill='currentColor' "
        f"role='img' aria-label='{name}'><title>{name}</title>"
        f"<text x='0' y='16' font-weight='bold'>{name}</text>{rows}</svg>"
    )


def _bar(row: int, label: str, value: int, scale: float) -> str:
    y = 26 + row * _ROW
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    return (
        f"<g><title>{html.escape(f'{label}: {value:,}')}</title>"
        f"<text x='0' y='{y + 13}'>{html.escape(short)}</text>"
        f"<text x='{_WIDTH}' y='{y + 13}' text-anchor='end'>{value:,}</text>"
        f"<rect x='0' y='{y + 18}' width='{value * scale:.1f}' height='10' fill='#2f6fde'/></g>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]], words: bool = False) -> str:
    """An HTML table; cells are escaped, whole numbers get thousands separators, an empty header is left out.

    Args:
        header: names of the columns.
        rows: cells.
        words: whether all columns are text; else only the first is.
    """
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(format_cell(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    kind = "scroll text" if words else "scroll"
    return f"<div class='{kind}'><table>{f'<tr>{head}</tr>' if head else ''}{body}</table></div>"


def sentences(texts: Sequence[str], kind: str = "note") -> str:
    """A paragraph for each sentence; `kind` warning: marked as such."""
    return "".join(f"<p class='{kind}'>{html.escape(text)}</p>" for text in texts)


def section(heading: str, *parts: str) -> str:
    """Parts of a page below their heading; nothing when they are empty."""
    inside = "".join(parts)
    return f"<h2>{html.escape(heading)}</h2>{inside}" if inside else ""


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]], words: bool = False) -> str:
    """A Markdown table of plain texts: the first column is text, the others are numbers, or text too."""
    head, *cells = ([printing.markdown(format_cell(cell)) for cell in row] for row in (header, *rows))
    lines = [head, ["---", *["---" if words else "---:"] * (len(header) - 1)], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the columns stand below each other, each row on one line."""
    rows = [[printing.safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def format_cell(cell: object) -> str:
    """A cell's text: 1234567 is shown as 1,234,567."""
    return f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)


def page(title: str, sections: Sequence[str], style: str = "") -> str:
    """One HTML page without outside resources.

    Args:
        title: heading, and after "CALRec · " the name of the page.
        sections: HTML, already escaped, one below the other.
        style: CSS beside that of every page.
    """
    name = html.escape(title)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width,initial-scale=1'>"
        f"<title>CALRec · {name}</title><style>{STYLE}{style}</style><h1>{name}</h1>{''.join(sections)}</html>\n"
    )
