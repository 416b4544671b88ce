"""Tables of plain values, for a terminal and for Markdown."""

from collections.abc import Sequence

from calrec.report.document import plain_table, table_markdown
from calrec.system import printing


def text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal: the columns stand below each other, each row on one line."""
    rows = [[printing.safe(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table: the first column is text, the others are numbers."""
    return table_markdown(plain_table(header, rows))
