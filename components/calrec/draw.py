"""Drawing for reports with nothing but the standard library: a bar chart, a table and a page that stands alone."""

import html
from collections.abc import Sequence

STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;margin:1rem 0;width:100%}
td,th{padding:.3rem .6rem;text-align:right;border-bottom:1px solid #8884;font-variant-numeric:tabular-nums}
td:first-child,th:first-child{text-align:left}
.user{border-left:3px solid #2f6fde;padding-left:.8rem;margin:1rem 0}
small{opacity:.75}
"""

_WIDTH, _BAR, _CHAR = 720, 24, 7.2  # px: of the chart, of a row, of a character at font size 13
_LONGEST = 40  # characters of a label; the rest is in its tooltip


def histogram(title: str, bars: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars with their values as an inline SVG of any width.

    Args:
        title: above the chart, and its name for a screen reader.
        bars: (label, value >= 0), from top to bottom; without any, the chart says so.
    """
    left = 16 + _CHAR * max((min(len(label), _LONGEST) for label, _ in bars), default=0)
    room = _WIDTH - left - 16 - _CHAR * max((len(f"{value:,}") for _, value in bars), default=0)
    scale = room / max(1, *(value for _, value in bars)) if bars else 0.0
    rows = "".join(_bar(row, label, value, left, scale) for row, (label, value) in enumerate(bars))
    rows = rows or f"<text x='{left:.0f}' y='40'>nothing to show</text>"
    name = html.escape(title)
    return (
        f"<svg viewBox='0 0 {_WIDTH} {max(1, len(bars)) * _BAR + 30}' width='100%' font-size='13' fill='currentColor' "
        f"role='img' aria-label='{name}'><title>{name}</title>"
        f"<text x='{left:.0f}' y='16' font-weight='bold'>{name}</text>{rows}</svg>"
    )


def _bar(row: int, label: str, value: int, left: float, scale: float) -> str:
    y = 26 + row * _BAR
    full, end = html.escape(f"{label}: {value:,}"), left + value * scale
    short = label if len(label) <= _LONGEST else label[: _LONGEST - 1] + "…"
    return (
        f"<g><title>{full}</title>"
        f"<text x='{left - 8:.0f}' y='{y + 14}' text-anchor='end'>{html.escape(short)}</text>"
        f"<rect x='{left:.0f}' y='{y}' width='{end - left:.1f}' height='{_BAR - 6}' fill='#2f6fde'/>"
        f"<text x='{end + 6:.1f}' y='{y + 14}'>{value:,}</text></g>"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An HTML table; cells are escaped, whole numbers get thousands separators, an empty header is left out."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(shown(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table>{f'<tr>{head}</tr>' if head else ''}{body}</table>"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *([shown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def shown(cell: object) -> str:
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
