"""How figures are drawn: colours, the panel, and turning panels into SVG and PNG.

A figure is a few *panels*, each small enough to be read on a phone. The files hold them side by
side. The page holds them one by one. There their colours are CSS variables, so that they follow the
reader's light or dark setting.
"""

from __future__ import annotations

import copy
import io
import math
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from ..colours import COLOURS, GRID, INK, MUTED, PAPER

PNG_DPI = 300
PAD = 3.0  # points around a panel on a page
SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
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


@dataclass(frozen=True)
class Drawing:
    """A figure, drawn.

    Files hold it whole: as SVG with text as text, and as PNG at 300 dpi. A page holds each panel as
    an `<svg>` element.
    """

    figure: Figure
    svg: str
    png: bytes
    panels: tuple[str, ...]

    @property
    def files(self) -> dict[str, str | bytes]:
        """What is written, by its path in the folder of a report."""
        return {f"figures/{self.figure.name}.svg": self.svg, f"figures/{self.figure.name}.png": self.png}


def render(figure: Figure) -> Drawing:
    """Returns the figure, drawn once for all uses: finding places for the texts takes longest."""
    with _style():
        drawn = _figure(figure.panels, figure.columns)
        text = _svg(drawn)
        drawn.set_layout_engine("none")  # the places found for the SVG hold for the PNG
        drawn.set_dpi(PNG_DPI)
        out = io.BytesIO()
        FigureCanvasAgg(drawn).print_png(out, metadata={"Software": None})
        boxes = [ax.get_tightbbox() for ax in drawn.axes]
    return Drawing(figure, text, out.getvalue(), _panels(figure, text, boxes))


def _panels(figure: Figure, text: str, boxes: Sequence[Any]) -> tuple[str, ...]:
    """Cuts the SVG of a figure into its panels, each seen through a window of one size. No panel
    shares an id with another, and colours are CSS variables."""
    root = ET.fromstring(text)
    height = float(root.attrib["viewBox"].split()[3])
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        if (link := element.attrib.pop(f"{{{XLINK}}}href", None)) is not None:
            element.set("href", link)
    # Matplotlib writes a marker where it is first used, perhaps in another panel.
    shared = {found.attrib["id"]: found for defs in root.iter("defs") for found in defs if "id" in found.attrib}
    for parent in list(root.iter()):
        for child in parent.findall("defs"):
            parent.remove(child)
    points = 72 / PNG_DPI
    wide, high = (points * max(getattr(box, side) for box in boxes) + 2 * PAD for side in ("width", "height"))
    panels = []
    for i, (panel, box) in enumerate(zip(figure.panels, boxes, strict=True), start=1):
        group = root.find(f".//g[@id='axes_{i}']")
        assert group is not None
        window = f"{points * box.x0 - PAD:.2f} {height - points * box.y1 - PAD:.2f} {wide:.2f} {high:.2f}"
        svg = ET.Element("svg", {"viewBox": window, "role": "img", "aria-label": words.clean(panel.alt)})
        used = dict.fromkeys(re.findall(r"#([\w-]+)", ET.tostring(group, "unicode")))
        ET.SubElement(svg, "defs").extend(copy.deepcopy(shared[name]) for name in used if name in shared)
        svg.append(group)
        _fit_page(svg, f"{figure.name}-{i}")
        panels.append(ET.tostring(svg, "unicode"))
    return tuple(panels)


def _fit_page(svg: ET.Element, prefix: str) -> None:
    for element in svg.iter():
        for name, value in element.attrib.items():
            if name == "id":
                element.set(name, f"{prefix}-{value}")
            elif name == "href" and value.startswith("#"):
                element.set(name, f"#{prefix}-{value[1:]}")
            else:
                value = value.replace("url(#", f"url(#{prefix}-")
                if name == "style":
                    for colour, variable in COLOURS.items():
                        value = value.replace(f": {colour}", f": var(--{variable})")
                element.set(name, value)


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


def shown_of(shown: Sequence[object], candidates: Sequence[object]) -> str:
    """Returns the sentence that owns up to a selection, or nothing where all are shown."""
    if len(shown) == len(candidates):
        return ""
    return (
        f" {len(shown)} of {len(candidates)} rows are drawn: the references, the best of each method and others spread over its settings; "
        "the table has all."
    )
