"""Drawings of the report as inline SVG: laid out for a phone, coloured by the page's style, read aloud by their label.

Colours are those of Okabe and Ito, which the colour-blind can tell apart; labels and dashes say the same again.
"""

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from calrec.evaluate.results import Figure

_LIGHT = ":root{--ours:#0072b2;--theirs:#a3acb6;--s1:#d55e00;--s2:#009e73;--s3:#b8558f;--grid:#8884}"
_DARK = """
@media(prefers-color-scheme:dark){:root{--ours:#56b4e9;--theirs:#6f7985;--s1:#e69f00;--s2:#2fc59a;--s3:#e3a3c8}}
"""
_SHAPES = """
svg{display:block;font-size:13px;fill:currentColor}
.chart{width:100%;max-width:30rem}
.ours{fill:var(--ours)}.theirs{fill:var(--theirs)}
.whisker{stroke:currentColor;stroke-width:1.5;fill:none}
.grid{stroke:var(--grid);fill:none}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.l0{stroke:var(--ours)}.l1{stroke:var(--s1)}.l2{stroke:var(--s2)}.l3{stroke:var(--s3)}
.d0{fill:var(--ours)}.d1{fill:var(--s1)}.d2{fill:var(--s2)}.d3{fill:var(--s3)}
.tick{font-size:11px;opacity:.75}
"""
STYLE = _LIGHT + _DARK + _SHAPES
_ALONE = f"{_LIGHT}{_SHAPES}svg{{background:#fff;color:#1f2328;font-family:system-ui,sans-serif}}"

_WIDTH = 360  # px: a phone without its margins, so that letters there have the size that they say
_LABEL, _CHAR = 38, 7.5  # characters of a label, the rest is in its tooltip; px of a character
_ROW = 34  # px of a method: its name and its bar
_LEFT, _RIGHT, _HEIGHT = 46, 16, 150  # px beside the area of curves, and its height
_POINTS, _MARKED = 200, 30  # points that are drawn of a curve; up to so many are dots too
_DASHES = ("none", "7 3", "2 3", "9 3 2 3")
_DECADES = 20  # the largest of a curve's values by its smallest, from which on the axis is logarithmic

Point = tuple[float, float]


@dataclass(frozen=True)
class Bar:
    """One method."""

    label: str
    figure: Figure
    ours: bool = False


@dataclass(frozen=True)
class Line:
    """One curve: (step, value), steps rising."""

    label: str
    points: Sequence[Point]
    intervals: Sequence[tuple[float, float, float]] = ()
    """(step, lower end, upper end), drawn as whiskers."""
    radius: float = 2.5
    """Of the dots, when the points are few, in px."""


# --- bars -------------------------------------------------------------------------------------------------------


def bars(title: str, rows: Sequence[Bar]) -> str:
    """Bars from 0, with whiskers from the lower to the upper end of each interval."""
    top = max((value for row in rows for value in (row.figure.mean, row.figure.high)), default=0)
    scale = (_WIDTH - 2) / top if top > 0 else 0.0
    drawn = "".join(_bar(row, 24 + at * _ROW, scale) for at, row in enumerate(rows))
    said = "; ".join(f"{r.label} {r.figure.mean:.4f}, {r.figure.low:.4f} to {r.figure.high:.4f}" for r in rows)
    return _chart(f"{title}: {said}", 24 + len(rows) * _ROW, f"{_title(title)}{drawn}")


def _bar(row: Bar, y: int, scale: float) -> str:
    of, kind = row.figure, "ours" if row.ours else "theirs"
    low, high = of.low * scale, of.high * scale
    weight = " font-weight='bold'" if row.ours else ""
    return (
        f"<g><title>{_text(f'{row.label}: {of.mean:.4f}, 95 % interval {of.low:.4f} to {of.high:.4f}')}</title>"
        f"<text x='0' y='{y + 13}'{weight}>{_text(_short(row.label))}</text>"
        f"<text x='{_WIDTH}' y='{y + 13}' text-anchor='end'{weight}>{of.mean:.4f}</text>"
        f"<rect class='{kind}' x='0' y='{y + 18}' width='{of.mean * scale:.2f}' height='10'/>"
        f"<path class='whisker' d='M{low:.2f} {y + 20}v6m0 -3H{high:.2f}m0 -3v6'/></g>"
    )


def pair(ours: Figure, theirs: Figure | None, top: float) -> str:
    """Bars for a cell of a table, the model above, on a scale that ends at `top`."""
    scale = 120 / top if top > 0 else 0.0
    both = [("ours", "CALRec", ours), ("theirs", "the other", theirs)]
    drawn = ""
    for at, (kind, _, figure) in enumerate(both):
        if figure is not None:
            y = 1 + 10 * at
            drawn += f"<rect class='{kind}' x='0' y='{y}' width='{figure.mean * scale:.2f}' height='8'/>"
            drawn += f"<path class='whisker' d='M{figure.low * scale:.2f} {y + 4}H{figure.high * scale:.2f}'/>"
    label = ", ".join(f"{name} {figure.mean:.4f}" for _, name, figure in both if figure is not None)
    return (
        f"<svg class='pair' viewBox='0 0 122 20' width='122' height='20' role='img' aria-label='{label}'>{drawn}</svg>"
    )


# --- curves -----------------------------------------------------------------------------------------------------


def curves(title: str, lines: Sequence[Line], across: str = "steps", span: tuple[float, float] | None = None) -> str:
    """Curves over steps; the axis of values is logarithmic where they are positive and spread over a decade or more.

    Args:
        title: above the drawing, and its name for a screen reader.
        lines: at least one.
        across: what the steps are, below their axis.
        span: where that axis begins and ends; None: at 0, and at the last step.
    """
    shown = [replace(line, points=downsample([p for p in line.points if math.isfinite(p[1])])) for line in lines]
    shown = [line for line in shown if line.points]
    if not shown:
        return _chart(f"{title}: nothing to show", 50, f"{_title(title)}<text x='0' y='40'>nothing to show</text>")
    span = span or (0.0, max(line.points[-1][0] for line in lines if line.points))
    values = [value for line in shown for _, value in line.points]
    values += [end for line in shown for _, *ends in line.intervals for end in ends]
    axes = _Axes(values, span, 40 + 18 * _legend(shown)[1], across)
    said = "; ".join(f"{line.label} from {line.points[0][1]:.4g} to {line.points[-1][1]:.4g}" for line in shown)
    drawn = "".join(_line(line, at, axes) for at, line in enumerate(shown))
    return _chart(f"{title}: {said}", axes.bottom + 36, f"{_title(title)}{_legend(shown)[0]}{axes.draw()}{drawn}")


def downsample(points: Sequence[Point]) -> list[Point]:
    """At most 200 points: means of neighbours where there are more."""
    if len(points) <= _POINTS:
        return list(points)
    values = np.array(points, dtype=np.float64)
    starts = np.linspace(0, len(values), _POINTS, endpoint=False).astype(np.int64)
    sizes = np.diff(np.append(starts, len(values)))
    return [(float(x), float(y)) for x, y in np.add.reduceat(values, starts) / sizes[:, None]]


class _Axes:
    """From steps and values to px."""

    def __init__(self, ys: Sequence[float], span: tuple[float, float], top: float, across: str):
        self.top, self.bottom = top, top + _HEIGHT
        self.log = min(ys) > 0 and max(ys) >= _DECADES * min(ys)
        low, high = min(ys), max(ys)
        if low == high:
            low, high = low - (abs(low) / 2 or 1), high + (abs(high) / 2 or 1)
        self.y_ticks = log_ticks(low, high) if self.log else ticks(low, high)
        self.low, self.high = min(low, self.y_ticks[0]), max(high, self.y_ticks[-1])
        self.first, self.last, self.across = span[0], max(span[1], span[0] + 1.0), across
        self.x_ticks = [t for t in ticks(self.first, self.last) if self.first <= t <= self.last and t == round(t)]

    def x(self, step: float) -> float:
        return _LEFT + (step - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return float(self.bottom - (at - low) / (high - low) * _HEIGHT)

    def draw(self) -> str:
        across = "".join(
            f"<path class='grid' d='M{_LEFT} {self.y(tick):.1f}H{_WIDTH - _RIGHT}'/>"
            f"<text class='tick' x='{_LEFT - 6}' y='{self.y(tick) + 4:.1f}' text-anchor='end'>{_number(tick)}</text>"
            for tick in self.y_ticks
        )
        y = self.bottom + 15
        below = "".join(
            f"<text class='tick' x='{self.x(tick):.1f}' y='{y}' text-anchor='middle'>{_number(tick)}</text>"
            for tick in self.x_ticks
        )
        what = self.across + (", logarithmic scale of values" if self.log else "")
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        under = f"<text class='tick' x='{middle}' y='{self.bottom + 31}' text-anchor='middle'>{what}</text>"
        return across + below + under


def ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers that enclose low to high."""
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose low to high, with 2 and 5 times them where they are few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = max(1, (last - first) // 5)
    found = [f * 10.0**n for n in range(first, last + 1, every) for f in factors]
    inside = [tick for tick in found if low <= tick <= high]
    return [*[t for t in found if t < low][-1:], *inside, *[t for t in found if t > high][:1]]


def _line(line: Line, at: int, axes: _Axes) -> str:
    places = [f"{axes.x(step):.1f},{axes.y(value):.1f}" for step, value in line.points]
    dots = "".join(
        f"<circle class='d{at % 4}' cx='{place.split(',')[0]}' cy='{place.split(',')[1]}' r='{line.radius:g}'/>"
        for place in places
    )
    whiskers = "".join(
        f"<path class='whisker' opacity='.4' d='M{axes.x(step):.1f} {axes.y(low):.1f}V{axes.y(high):.1f}'/>"
        for step, low, high in line.intervals
    )
    return (
        f"{whiskers}<polyline class='line l{at % 4}' stroke-dasharray='{_DASHES[at % 4]}' points='{' '.join(places)}'/>"
        f"{dots if len(places) <= _MARKED else ''}"
    )


def _legend(lines: Sequence[Line]) -> tuple[str, int]:
    """What each curve is, and how many rows that takes."""
    x, row, drawn = 0.0, 1, ""
    for at, line in enumerate(lines):
        label = _short(line.label)
        width = 30 + _CHAR * len(label) + 12
        if x and x + width > _WIDTH:
            x, row = 0.0, row + 1
        y = 18 + 18 * row
        stroke = f"<path class='line l{at % 4}' stroke-dasharray='{_DASHES[at % 4]}' d='M{x:.0f} {y - 4}h24'/>"
        dot = f"<circle class='d{at % 4}' cx='{x + 12:.0f}' cy='{y - 4}' r='{line.radius:g}'/>"
        drawn += f"{dot if len(line.points) == 1 else stroke}<text x='{x + 30:.0f}' y='{y}'>{_text(label)}</text>"
        x += width
    return drawn, row


# --- all of them ------------------------------------------------------------------------------------------------


def _chart(said: str, height: float, inner: str) -> str:
    label = html.escape(said, quote=True)
    return f"<svg class='chart' viewBox='0 0 {_WIDTH} {height:.0f}' role='img' aria-label='{label}'>{inner}</svg>"


def standalone(drawing: str) -> str:
    """A drawing as a file of its own: on white, since its colours cannot follow a page that it does not stand in."""
    width, height = map(int, re.search(r"viewBox='0 0 (\d+) (\d+)'", drawing).groups())  # type: ignore[union-attr]
    size = f"width='{width + 24}' height='{height + 20}'"  # MLflow shows an image without a size as nothing
    box = f"viewBox='-12 -10 {width + 24} {height + 20}' {size} xmlns='http://www.w3.org/2000/svg'"
    framed = re.sub(r"viewBox='[^']*'", box, drawing, count=1)
    return framed.replace(">", f"><style>{_ALONE}</style>", 1) + "\n"


def _title(title: str) -> str:
    return f"<text x='0' y='14' font-weight='bold'>{_text(title)}</text>"


def _short(label: str) -> str:
    return label if len(label) <= _LABEL else label[: _LABEL - 1] + "…"


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _number(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e4 else f"{value:g}"
