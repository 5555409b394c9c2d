"""How figures are drawn: colours, the panel, and turning panels into SVG and PNG.

A figure is a few *panels*, each small enough to be read on a phone. The files hold them side by
side. The page holds them one by one. There their colours are CSS variables, so that they follow the
reader's light or dark setting.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as MplFigure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from attack.metrics.measure import Measure

from .. import words

PNG_DPI = 300

# Okabe and Ito's colours, told apart with every common colour vision; yellow and sky are too pale
# for lines on white.
INK, MUTED, GRID, PAPER, SOFT = "#16191d", "#5b636d", "#dfe3e8", "#fefefe", "#eef1f4"
SERIES = ("#0072b2", "#d55e00", "#00875f", "#b8528c", "#a87400", "#4b5fc4")
DARK_SERIES = ("#58b4ea", "#ff9a52", "#3ec99a", "#e79cc8", "#e0b040", "#9aa8ff")
REFERENCE = MUTED
COLOURS = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "paper", SOFT: "soft"} | {
    colour: f"series-{i}" for i, colour in enumerate(SERIES, start=1)
}
Line: TypeAlias = str | tuple[float, tuple[float, ...]]  # a line style of Matplotlib
LINES: tuple[Line, ...] = ("-", (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)))
MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">", "h")

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "orchestrator",
    "text.parse_math": False,  # a recipe may hold "$"
    "text.usetex": False,
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.fontsize": 7.6,
    "legend.frameon": True,
    "legend.framealpha": 0.85,
    "legend.edgecolor": PAPER,
    "legend.facecolor": PAPER,
    "legend.handlelength": 2.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.facecolor": PAPER,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "lines.linewidth": 1.6,
    "axes.formatter.use_mathtext": False,
    "axes.unicode_minus": True,
}


@dataclass(frozen=True)
class Panel:
    """One pair of axes: what draws it, and its size in inches."""

    draw: Callable[[Axes], None]
    alt: str
    width: float = 4.3
    height: float = 3.2


@dataclass(frozen=True)
class Figure:
    """Panels that belong together, with the caption that says what to see."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    columns: int = 2


@contextmanager
def _style() -> Iterator[None]:
    # The object-oriented canvas is used throughout, so no backend of the caller's is touched.
    with matplotlib.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(panels: tuple[Panel, ...], columns: int) -> MplFigure:
    columns = min(columns, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    size = (max(sum(p.width for p in line) for line in lines), sum(max(p.height for p in line) for line in lines))
    figure = MplFigure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(len(lines), columns, height_ratios=[max(p.height for p in line) for line in lines])
    for index, panel in enumerate(panels):
        panel.draw(figure.add_subplot(grid[index // columns, index % columns]))
    return figure


def _svg(figure: MplFigure) -> str:
    out = io.BytesIO()
    # No creator, no date: equal input, equal bytes.
    FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Type": None, "Format": None})
    return out.getvalue().decode()


def render(figure: Figure) -> tuple[str, bytes]:
    """Returns the whole figure as SVG with text as text, and as PNG at 300 dpi."""
    with _style():
        drawn = _figure(figure.panels, figure.columns)
        text = _svg(drawn)
        drawn.set_layout_engine("none")  # the places found for the SVG hold for the PNG
        out = io.BytesIO()
        FigureCanvasAgg(drawn)
        drawn.savefig(out, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return text, out.getvalue()


def inline_svg(panel: Panel, prefix: str) -> str:
    """Returns one panel as an `<svg>` element for the page: no width, no ids shared with another,
    colours as CSS variables."""
    with _style():
        text = _svg(_figure((panel,), 1))
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=.*?</style>", "", text, count=1, flags=re.DOTALL)
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="([^"]+)"', head)
    # text between tags stays as it is
    body = re.sub(r"<[^>]*>", lambda tag: _adapt(tag.group(0), prefix), body)
    alt = escape(words.clean(panel.alt), quote=True)
    return f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{alt}">{body.strip()}'


def banded_line(ax: Axes, points: Sequence[tuple[float, Measure]], colour: str, marker: str, label: str) -> None:
    """Draws measures over numbers as a line, with a band of their 95 % intervals."""
    xs, ys = [x for x, _ in points], [math.nan if y.value is None else y.value for _, y in points]
    ax.plot(xs, ys, color=colour, marker=marker, markersize=4, label=label)
    known = [(x, y.interval) for x, y in points if y.interval]
    if len(known) > 1:
        low, high = zip(*(interval for _, interval in known), strict=True)
        ax.fill_between([x for x, _ in known], low, high, color=colour, alpha=0.15, linewidth=0)


def percents(counts: Sequence[float]) -> np.ndarray:
    """Returns the shares of a histogram's bins, in percent."""
    array = np.asarray(counts, float)
    return 100.0 * array / array.sum() if array.sum() else array


def plain_log(ax: Axes, which: str) -> None:
    """Makes an axis logarithmic with ticks written as plain numbers: 0.01, not 10⁻² in a markup
    that is switched off."""
    axis = ax.xaxis if which == "x" else ax.yaxis
    (ax.set_xscale if which == "x" else ax.set_yscale)("log")
    low, high = sorted(axis.get_view_interval())
    axis.set_major_locator(LogLocator(base=10, subs=(1.0,) if high > 30 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _adapt(tag: str, prefix: str) -> str:
    tag = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', tag)
    tag = re.sub(r'xlink:href="#([^"]+)"', rf'href="#{prefix}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", tag)
    for colour, name in COLOURS.items():
        tag = tag.replace(f": {colour}", f": var(--{name})")
    return tag


def shown_of(shown: Sequence[object], candidates: Sequence[object]) -> str:
    """Returns the sentence that owns up to a selection, or nothing where all are shown."""
    if len(shown) == len(candidates):
        return ""
    return (
        f" {len(shown)} of {len(candidates)} rows are drawn: the references, the best of each method and others spread over its settings; "
        "the table has all."
    )
