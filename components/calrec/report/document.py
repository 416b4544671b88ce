"""A report as blocks that know nothing of a format, and the two formats: what the page says, its Markdown twin says."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from calrec.system import printing


@dataclass(frozen=True)
class Cell:
    """What stands in a table, or one thing of a list."""

    text: str
    beside: str = ""
    """Said in small letters behind it, such as ± 0.012."""
    mark: str = ""
    strong: bool = False
    """Stands out: the best of its column, the target in a list."""
    chart: str = ""
    """An SVG, on the page only."""

    @property
    def words(self) -> str:
        """All that it says."""
        return " ".join(part for part in (self.text, self.beside, self.mark) if part)


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = ""
    """lead: what matters most; note: in small letters."""


@dataclass(frozen=True)
class Table:
    """Rows below a header."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset({0})
    """Columns of words; all others are numbers."""
    muted: frozenset[int] = frozenset()
    """Rows that should not be relied on."""


@dataclass(frozen=True)
class Charts:
    """Drawings side by side, on the page only: a table says the same."""

    drawings: Sequence[str]


@dataclass(frozen=True)
class Case:
    """One user."""

    title: str
    good: bool
    lines: Mapping[str, Sequence[Cell]]
    """What → one thing after the other."""
    between: Mapping[str, str]
    """What → what stands between two of its things; absent: they are numbered."""


Block = Text | Table | Charts | Case


@dataclass(frozen=True)
class Section:
    """Blocks below a heading."""

    title: str
    blocks: Sequence[Block]
    closed: bool = False
    """On the page its blocks are shown on demand."""


def shorten(text: str, longest: int = 160) -> str:
    """A title in one line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= longest else line[: longest - 1] + "…"


# --- Markdown ---------------------------------------------------------------------------------------------------


def markdown(title: str, sections: Sequence[Section]) -> str:
    """The document as Markdown."""
    parts = [f"# {printing.markdown(title)}"]
    for section in sections:
        parts += [f"## {printing.markdown(section.title)}"] if section.title else []
        parts += [_markdown(block) for block in section.blocks if not isinstance(block, Charts)]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Text | Table | Case) -> str:
    if isinstance(block, Text):
        return f"**{printing.markdown(block.text)}**" if block.kind == "lead" else printing.markdown(block.text)
    if isinstance(block, Case):
        return _case_markdown(block)
    rule = ["---" if at in block.words else "---:" for at in range(len(block.header))]
    rows = [
        [printing.markdown(name) for name in block.header],
        rule,
        *([_cell_markdown(c) for c in row] for row in block.rows),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _case_markdown(case: Case) -> str:
    lines = [f"### {printing.markdown(case.title)}", ""]
    for what, cells in case.lines.items():
        between = case.between.get(what)
        things = [_cell_markdown(cell) for cell in cells]
        if between is None:
            numbered = [f"    {place}. {thing}" for place, thing in enumerate(things, 1)]
            lines += [f"- {printing.markdown(what)}:", *numbered]
        else:
            lines.append(f"- {printing.markdown(what)}: {f' {printing.markdown(between)} '.join(things)}")
    return "\n".join(lines)


def _cell_markdown(cell: Cell) -> str:
    text = f"**{printing.markdown(cell.text)}**" if cell.strong and cell.text else printing.markdown(cell.text)
    return " ".join(part for part in (text, printing.markdown(cell.beside), printing.markdown(cell.mark)) if part)


# --- HTML -------------------------------------------------------------------------------------------------------


def sections_html(sections: Sequence[Section]) -> list[str]:
    """The document as HTML below its title, with a list of its sections; each part is whole."""
    named = [section for section in sections if section.title]
    links = "".join(f"<a href='#{anchor(s.title)}'>{html.escape(s.title)}</a>" for s in named)
    first, *rest = [_section_html(section) for section in sections]
    return [first, f"<nav aria-label='Sections'>{links}</nav>", *rest]


def _section_html(section: Section) -> str:
    inner, cases = "", ""
    for block in section.blocks:
        if isinstance(block, Case):
            cases += _case_html(block)
        else:
            inner += _html(block)
    inner += f"<div class=cases>{cases}</div>" if cases else ""
    head = f"<h2 id='{anchor(section.title)}'>{html.escape(section.title)}</h2>" if section.title else ""
    if section.closed:
        return f"<section><details><summary>{head}</summary>{inner}</details></section>"
    return f"<section>{head}{inner}</section>"


def _html(block: Text | Table | Charts) -> str:
    if isinstance(block, Text):
        return f"<p{f' class={block.kind}' if block.kind else ''}>{html.escape(block.text)}</p>"
    if isinstance(block, Charts):
        return f"<div class=charts>{''.join(block.drawings)}</div>"
    kinds = [" class=words" if at in block.words else "" for at in range(len(block.header))]
    head = "".join(f"<th scope=col{k}>{html.escape(n)}</th>" for k, n in zip(kinds, block.header, strict=True))
    body = "".join(
        f"<tr{' class=muted' if at in block.muted else ''}>{_row_html(row, kinds)}</tr>"
        for at, row in enumerate(block.rows)
    )
    label = html.escape(f"Table: {', '.join(name for name in block.header if name)}", quote=True)
    return (
        f"<div class=wide tabindex=0 role=region aria-label='{label}'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _row_html(row: Sequence[Cell], kinds: Sequence[str]) -> str:
    first, *rest = zip(row, kinds, strict=True)
    cells = "".join(f"<td{kind}>{_cell_html(cell)}</td>" for cell, kind in rest)
    return f"<th scope=row{first[1]}>{_cell_html(first[0])}</th>{cells}"


def _case_html(case: Case) -> str:
    lines = ""
    for what, cells in case.lines.items():
        between = case.between.get(what)
        if between is None:
            shown = "".join(f"<li{' class=hit' if c.strong else ''}>{_cell_html(c)}</li>" for c in cells)
            shown = f"<ol>{shown}</ol>"
        else:
            shown = f" <span class=soft>{html.escape(between)}</span> ".join(_cell_html(cell) for cell in cells)
        lines += f"<dt>{html.escape(what)}</dt><dd>{shown}</dd>"
    kind = "good" if case.good else "bad"
    return f"<article class='case {kind}'><h3>{html.escape(case.title)}</h3><dl>{lines}</dl></article>"


def _cell_html(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<b>{text}</b>" if cell.strong else text
    under = [f"<small>{html.escape(cell.beside)}</small>"] if cell.beside else []
    if cell.mark:
        under.append(f"<span class='mark{' down' if '▼' in cell.mark else ''}'>{html.escape(cell.mark)}</span>")
    below = f"<span class=under>{' '.join(under)}</span>" if under else ""
    return " ".join(part for part in (text, below, cell.chart) if part)


def anchor(title: str) -> str:
    """A title as a name of a place or a file."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
