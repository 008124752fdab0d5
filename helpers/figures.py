"""The figures of the book, in one style. Each function draws a matplotlib ``Figure`` and returns it.

No pyplot: a figure is drawn the same way in a cell, in a widget's callback and in a test. Colours are those of
Okabe and Ito (2008), and cividis and RdBu for maps, which colour-blind readers can tell apart.
"""

import cmath
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import cycle

import numpy as np
import torch
from jaxtyping import Complex, Float
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.lines import Line2D
from matplotlib.offsetbox import AnnotationBbox, HPacker, TextArea
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Text
from torch import Tensor

from helpers.statistics import Estimate

BLUE, RED, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PINK, SKY, GREY = "#CC79A7", "#56B4E9", "#777777"
COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)
DARK = (BLUE, RED, GREEN, GREY)  # white numbers can be read on these
MARKERS = "os^Dvx+"
LINE_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")
HATCHES = ("", "//", "..", "xx")
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
}

Number = int | float
Numbers = Sequence[Number] | Tensor
Series = Mapping[str, tuple[Numbers, Numbers]]  # a name, and x and y of its points


def panels(
    rows: int = 1, columns: int = 1, *, width: Number = 3.4, height: Number = 2.6, **options
) -> tuple[Figure, list[Axes]]:
    """A figure in the book's style and its axes, row by row; each axes is ``width`` by ``height`` inches."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


# ---- lines and points -------------------------------------------------------------------------------------------


def lines(series: Series, xlabel: str, ylabel: str, **options) -> Figure:
    """A chart with one line for each series; options as in ``line_panels``. Points at ``xticks`` are marked."""
    look = {"xscale": "linear", "markers": "xticks" in options, "width": 6.4, "height": 3}
    return line_panels({"": series}, xlabel, [ylabel], **(look | options))


def line_panels(
    curves: Mapping[str, Series],
    xlabel: str,
    ylabels: Sequence[str],
    *,
    xscale: str = "log",
    marks: Mapping[str, Number] | None = None,
    guides: Mapping[str, Number] | None = None,
    xticks: Sequence[Number] | None = None,
    markers: bool = False,
    share_y: bool = False,
    width: Number = 3.6,
    height: Number = 2.8,
) -> Figure:
    """Line charts side by side, one for each title in ``curves``.

    A series looks the same in all panels, and is in the legend of the first that has it.

    Args:
        marks: vertical lines, by name.
        guides: horizontal lines, by name.
        xticks: the only ticks of the x axis, written as they are.
        markers: mark the points themselves, where they are few.
        share_y: give all panels one vertical scale.
    """
    figure, all_axes = panels(1, len(curves), width=width, height=height, sharey=share_y)
    looks: dict[str, dict] = {}
    for axes, (title, series), ylabel in zip(all_axes, curves.items(), ylabels, strict=True):
        for name, (x, y) in series.items():
            is_new, i = name not in looks, len(looks)
            look = looks.setdefault(name, {"color": COLOURS[i % 7], "linestyle": LINE_STYLES[i % 7]})
            axes.plot(x, y, label=name if is_new else None, linewidth=1.7, marker="o" if markers else None, **look)
        _straight_lines(axes, guides or {}, marks or {})
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale=xscale)
        if xticks is not None:
            axes.set_xticks(xticks, [str(tick) for tick in xticks])
            axes.minorticks_off()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    return figure


def _straight_lines(axes: Axes, guides: Mapping[str, Number], marks: Mapping[str, Number]) -> None:
    """Horizontal ``guides`` and vertical ``marks``, each with its name."""
    for name, y in guides.items():
        axes.axhline(y, color=GREY, linewidth=0.8)
        axes.annotate(name, (0, y), xycoords=("axes fraction", "data"), ha="left", va="bottom", color=GREY)
    for name, x in marks.items():
        axes.axvline(x, color=GREY, linewidth=0.8)
        place = {"xy": (x, 1), "xycoords": ("data", "axes fraction"), "ha": "right", "va": "top", "rotation": 90}
        axes.annotate(name, **place, fontsize=8, color=GREY)


def scatter(
    groups: Series,
    xlabel: str,
    ylabel: str,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    legend_beside: bool = False,
) -> Figure:
    """Points in named groups, each with its own colour and marker; ``labels`` names the points of a group."""
    figure, (axes,) = panels(width=5, height=3.6)
    for (name, (x, y)), colour, marker in zip(groups.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        axes.scatter(x, y, color=colour, marker=marker, label=name, s=26)
        for text, *point in zip((labels or {}).get(name, ()), x, y, strict=False):
            axes.annotate(text, point, xytext=(4, 3), textcoords="offset points", fontsize=8)
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.axvline(0, color=GREY, linewidth=0.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(**({"loc": "upper left", "bbox_to_anchor": (1, 1)} if legend_beside else {}))
    return figure


def intervals(
    series: Mapping[str, Mapping[str, Estimate]], xlabel: str, title: str, *, bounds: tuple[Number, Number]
) -> Figure:
    """Dots with their intervals, downwards: a row for each name in the first series, and a dot in it for each series.

    Later series may lack some of the names. An interval without length, of a number that comes without one, has no end.
    """
    rows = list(next(iter(series.values())))
    figure, (axes,) = panels(width=6, height=1.2 + 0.34 * len(rows))
    looks = zip(series.items(), cycle(COLOURS), cycle(MARKERS), strict=False)
    for i, ((name, estimates), colour, marker) in enumerate(looks):
        places = [rows.index(row) + 0.22 * (i - (len(series) - 1) / 2) for row in estimates]
        values = [estimate.value for estimate in estimates.values()]
        ends = [(e.value - e.low, e.high - e.value) for e in estimates.values()]
        below, above = zip(*ends, strict=True)
        caps = 2.5 if any(below + above) else 0
        axes.errorbar(values, places, xerr=(below, above), fmt=marker, color=colour, label=name, ms=5, capsize=caps)
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
    axes.set(title=title, xlabel=xlabel, xlim=bounds, ylim=(len(rows) - 0.5, -0.5))
    figure.legend(loc="outside lower center", ncols=len(series))
    return figure


def scatter_panels(clouds: Mapping[str, Series], xlabel: str, ylabel: str, title: str = "") -> Figure:
    """Points in the same named groups side by side, one panel for each kind, on one logarithmic vertical scale."""
    figure, all_axes = panels(1, len(clouds), width=2.9, height=2.8, sharey=True)
    for axes, (kind, groups) in zip(all_axes, clouds.items(), strict=True):
        for (name, points), colour, marker in zip(groups.items(), COLOURS, MARKERS, strict=False):
            axes.scatter(*points, color=colour, marker=marker, label=name, s=16)
        axes.set(title=kind, xlabel=xlabel, yscale="log")
    figure.suptitle(title)
    all_axes[0].set(ylabel=ylabel)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(groups), fontsize=8)
    return figure


def arrow_planes(directions: Mapping[str, Float[Tensor, "feature 2"]]) -> Figure:
    """Directions in a plane as arrows from the origin, numbered from 1, beside a circle of length 1; a panel each."""
    figure, all_axes = panels(1, len(directions), width=2.3, height=2.4)
    for axes, (title, vectors) in zip(all_axes, directions.items(), strict=True):
        axes.add_patch(Circle((0, 0), 1, fill=False, edgecolor=GREY, linewidth=0.6))
        for i, ((x, y), place) in enumerate(zip(vectors.tolist(), beside_tips(vectors), strict=True)):
            colour = COLOURS[i % 7]
            axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 2})
            axes.annotate(str(i + 1), place, color=colour, ha="center", va="center", weight="bold")
        axes.set(title=title, xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), aspect="equal")
        axes.axis("off")
    return figure


def beside_tips(vectors: Float[Tensor, "feature 2"]) -> list[tuple[float, float]]:
    """Where a number can be written for each arrow from the origin: past its tip, or else beside it, on no arrow."""
    tips, places = [complex(x, y) for x, y in vectors.tolist()], []
    turns = [cmath.rect(1, sign * angle) for angle in (0, 0.7, 1.4, 2.1) for sign in (1, -1)]

    def room(place: complex) -> float:
        to_arrows = (abs(place - tip * _nearest_share(place, tip)) for tip in tips)
        return min(0.16, *to_arrows, *(0.6 * abs(place - other) for other in places))

    for tip in tips:
        ahead = tip / abs(tip) if tip else 1
        places.append(max((tip + far * ahead * turn for far in (0.18, 0.27) for turn in turns), key=room))
    return [(place.real, place.imag) for place in places]


def _nearest_share(place: complex, tip: complex) -> float:
    """How far along the arrow to ``tip`` its nearest point to ``place`` is, as a share of its length."""
    return min(1.0, max(0.0, (place * tip.conjugate()).real / (abs(tip) ** 2 or 1.0)))


def density(
    x: Float[Tensor, " n"],
    y: Float[Tensor, " n"],
    xlabel: str,
    ylabel: str,
    *,
    unit: str,
    diagonal: bool = False,
    xscale: str = "linear",
    bins: int = 80,
) -> Figure:
    """Very many points as a map of how many fall where, on a logarithmic scale; ``diagonal`` draws y = x."""
    figure, (axes,) = panels(width=5.8, height=3.8)
    low, high = x.min().item(), x.max().item()
    edges = np.geomspace(low, high, bins + 1) if xscale == "log" else bins
    *_, image = axes.hist2d(x.numpy(), y.numpy(), bins=(edges, bins), cmap="cividis", norm=LogNorm())
    if diagonal:
        ends = max(x.min(), y.min()).item(), min(x.max(), y.max()).item()
        axes.plot(ends, ends, color=RED, linewidth=1, linestyle="--")
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale)
    figure.colorbar(image, ax=axes, label=unit)
    return figure


# ---- bars -------------------------------------------------------------------------------------------------------


def bars(
    series: Mapping[str, Numbers], names: Sequence[str], ylabel: str, *, guides: Mapping[str, Number] | None = None
) -> Figure:
    """Groups of bars, one group for each name and one bar in it for each series; ``guides`` as in ``line_panels``."""
    figure, (axes,) = panels(width=max(4.0, 0.45 * len(names) * max(1, len(series) / 2)), height=2.8)
    room = figure.get_figwidth() / len(names) / 0.08  # letters that fit under a group of bars
    longest = max(len(line) for name in names for line in name.splitlines())
    width = 0.8 / len(series)
    for i, ((label, heights), colour, hatch) in enumerate(
        zip(series.items(), cycle(COLOURS), cycle(HATCHES), strict=False)
    ):
        places = [j + (i - (len(series) - 1) / 2) * width for j in range(len(names))]
        axes.bar(places, heights, width, label=label, color=colour, hatch=hatch, edgecolor="white")
    _straight_lines(axes, guides or {}, {})
    axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=90 if longest > room else 0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylabel=ylabel)
    if len(series) > 1:
        axes.legend(ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def stacked_bars(rows: Mapping[str, Mapping[str, Number]], xlabel: str) -> Figure:
    """A horizontal bar for each row, downwards, made of parts one after the other, with the size of each part on it.

    A part has the same colour in all rows, whatever its place. Very small parts are too narrow for their number.
    """
    figure, (axes,) = panels(width=9, height=1.1 + 0.45 * len(rows))
    looks = dict(zip(dict.fromkeys(part for row in rows.values() for part in row), DARK, strict=False))
    room = max(sum(row.values()) for row in rows.values()) / 30
    for y, row in enumerate(rows.values()):
        start = 0
        for part, size in row.items():
            axes.barh(y, size, 0.7, left=start, color=looks[part], edgecolor="white", label="" if y else part)
            if size > room:
                narrow = {"fontsize": 8} if size < 2 * room else {}
                axes.text(start + size / 2, y, f"{size}", ha="center", va="center", color="white", **narrow)
            start += size
    axes.set_yticks(range(len(rows)), [plain(row) for row in rows])
    axes.set(xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    figure.legend(loc="outside lower center", ncols=len(looks))
    return figure


def histograms(
    series: Mapping[str, Numbers],
    xlabel: str,
    ylabel: str,
    *,
    bounds: tuple[Number, Number],
    bins: int,
    marks: Mapping[str, Number] | None = None,
    height: Number = 1.7,
) -> Figure:
    """Histograms one above the other on the same axis; ``marks`` as in ``line_panels``."""
    figure, all_axes = panels(len(series), 1, width=6, height=height, sharex=True)
    for axes, (name, values), colour in zip(all_axes, series.items(), cycle(COLOURS), strict=False):
        axes.hist(values, bins=bins, range=bounds, color=colour, edgecolor="white")
        _straight_lines(axes, {}, marks or {})
        axes.set(title=name, ylabel=ylabel)
        axes.yaxis.get_major_locator().set_params(integer=True)
    all_axes[-1].set(xlabel=xlabel)
    return figure


# ---- matrices and tokens ----------------------------------------------------------------------------------------


def heatmaps(
    matrices: Mapping[str, Float[Tensor, "row column"]],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
    *,
    signed: bool = False,
    limit: Number | None = None,
    numbers: bool = False,
    width: Number = 3.6,
    height: Number = 3.2,
    per_row: int = 12,
) -> Figure:
    """Matrices side by side on one colour scale: from 0 upwards, or symmetric about 0 if ``signed``.

    ``limit`` is the end of the scale, by default the largest absolute entry; ``numbers`` writes each entry down.
    """
    per_row = min(per_row, len(matrices))
    figure, all_axes = panels(-(-len(matrices) // per_row), per_row, width=width, height=height)
    _hide(all_axes[len(matrices) :])
    top = limit or max(matrix.abs().max().item() for matrix in matrices.values())
    colours = ScalarMappable(Normalize(-top if signed else 0, top), "RdBu_r" if signed else "cividis")
    for i, (axes, (title, matrix)) in enumerate(zip(all_axes, matrices.items(), strict=False)):
        axes.imshow(matrix.numpy(), aspect="auto", interpolation="nearest", norm=colours.norm, cmap=colours.cmap)
        axes.set(title=title, xlabel=xlabel, ylabel="" if i % per_row else ylabel)
        _ticks(axes.xaxis, columns, width, rotation=90 if max(map(len, columns)) > 3 else 0)
        _ticks(axes.yaxis, rows, height)
        if numbers:
            _write_numbers(axes, matrix, colours)
    figure.colorbar(colours, ax=all_axes, fraction=0.03)
    return figure


def _ticks(axis: Axis, names: Sequence[str], inches: Number, rotation: Number = 0) -> None:
    """Names at the rows or columns of a matrix: all of them if there is room for them, evenly spaced ones if not."""
    step = max(1, round(0.16 * len(names) / inches))
    axis.set_ticks(range(0, len(names), step), [plain(name) for name in names[::step]], fontsize=8, rotation=rotation)


def _write_numbers(axes: Axes, matrix: Float[Tensor, "row column"], colours: ScalarMappable) -> None:
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            share = float(colours.norm(value))
            dark = share < 0.5 if colours.norm.vmin == 0 else abs(share - 0.5) > 0.35
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if dark else "black")


def table_corners(
    tables: Mapping[str, Float[Tensor, "row column"]],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Corners of tables of probabilities side by side, in percent, white at 0; what rounds to 0 has no number."""
    figure, all_axes = panels(1, len(tables), width=4.6, height=4)
    for axes, (title, table) in zip(all_axes, tables.items(), strict=True):
        axes.imshow(table.numpy(), aspect="auto", cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(columns)), [plain(name) for name in columns], fontsize=10, rotation=90)
        axes.set_yticks(range(len(rows)), [plain(name) for name in rows], fontsize=10)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        for i, j in (table >= 0.005).nonzero().tolist():
            ink = "white" if table[i, j] > 0.6 else "black"
            axes.text(j, i, f"{table[i, j]:.0%}", ha="center", va="center", fontsize=9, color=ink)
    return figure


STRIP_WIDTH = 96  # letters in a line of ``token_strip``


def token_strip(tokens: Sequence[str], values: Sequence[Number], unit: str) -> Figure:
    """Tokens in reading order, each on the colour of its value: red above 0, white at 0; blue below, if any is."""
    n_rows = _rows_of_text(tokens)
    figure, (axes,) = panels(width=8, height=0.7 + 0.2 * n_rows)
    top = max(map(abs, values)) or 1
    bottom, scale = (-top, "RdBu_r") if min(values) < 0 else (0, "Reds")
    colours = ScalarMappable(Normalize(bottom, top), scale)
    inks = ["white" if abs(value) > 0.7 * top else "black" for value in values]
    _write_tokens(axes, tokens, [colours.to_rgba(value) for value in values], inks)
    figure.colorbar(colours, ax=axes, label=unit, orientation="horizontal", fraction=0.12, aspect=60)
    return figure


def tokens_and_bars(
    tokens: Sequence[str], marks: Mapping[int, tuple[str, str]], bars: Sequence[tuple[str, Number, str, str]]
) -> Figure:
    """Tokens in reading order, some of them marked; below them, if there are any, bars one below the other.

    Args:
        marks: name and colour of each marked token, by its place. The names make the legend.
        bars: what each bar is, its length from 0 to 1, the number to be written beside it, and its colour.
    """
    n_rows = _rows_of_text(tokens)
    heights = [0.5 + 0.2 * n_rows, 0.1 + 0.27 * len(bars)]
    ratios = {"height_ratios": heights} if bars else {}
    figure, axes = panels(2 if bars else 1, 1, width=8, height=sum(heights) / (2 if bars else 1), gridspec_kw=ratios)
    faces = [marks[i][1] if i in marks else "white" for i in range(len(tokens))]
    _write_tokens(axes[0], tokens, faces, ["black"] * len(tokens))
    patches = [Rectangle((0, 0), 1, 1, facecolor=colour) for _, colour in marks.values()]
    names = [plain(name) for name, _ in marks.values()]
    figure.legend(patches, names, loc="outside upper left", ncols=len(names), fontsize=8, frameon=False)
    for i, (name, length, number, colour) in enumerate(bars):
        axes[1].barh(i, length, 0.55, color=colour)
        axes[1].text(length + 0.01, i, number, va="center", fontsize=8)
        axes[1].text(-0.02, i, plain(name), va="center", ha="right", fontsize=8)
    if bars:
        axes[1].set(xlim=(-1.3, 1.15), ylim=(len(bars) - 0.5, -0.5))
        axes[1].set_axis_off()
    return figure


def _places_of(tokens: Sequence[str]) -> list[tuple[int, int]]:
    """Column and row of each token in lines of text."""
    places, column, row = [], 0, 0
    for token in tokens:
        if column and column + len(token) > STRIP_WIDTH:
            column, row = 0, row + 1
        places.append((column, row))
        column, row = (0, row + 1) if token.endswith("↵") else (column + len(token), row)
    return places


def _rows_of_text(tokens: Sequence[str]) -> int:
    return 1 + max(row for _, row in _places_of(tokens))


def _write_tokens(axes: Axes, tokens: Sequence[str], faces: Sequence, inks: Sequence[str]) -> None:
    for token, face, ink, (x, y) in zip(tokens, faces, inks, _places_of(tokens), strict=True):
        axes.add_patch(Rectangle((x, y), len(token), 1, facecolor=face, edgecolor="#dddddd"))
        look = {"color": ink, "family": "DejaVu Sans Mono", "fontsize": 8, "ha": "center", "va": "center"}
        axes.text(x + len(token) / 2, y + 0.5, plain(token), **look)
    axes.set(xlim=(0, STRIP_WIDTH), ylim=(_rows_of_text(tokens), 0))
    axes.set_axis_off()


def plain(text: str) -> str:
    """Text that matplotlib draws letter by letter: no dollar of it starts a formula; ▯ for what its font lacks."""
    return "".join(c if c == "\n" or ord(c) in _letters() else "▯" for c in text).replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in ("DejaVu Sans", "DejaVu Sans Mono"))
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


# ---- complex numbers and composition ----------------------------------------------------------------------------


def eigenvalue_planes(eigenvalues: Mapping[str, Complex[Tensor, " _"]], *, columns: int = 6) -> Figure:
    """Eigenvalues by angle and logarithm of their size, a small plot for each name, as in the paper's polar plots.

    The outermost ring is the largest eigenvalue of the plot, the centre a thousandth of it.
    """
    rows = -(-len(eigenvalues) // columns)
    figure, all_axes = panels(rows, columns, width=1.5, height=1.7, subplot_kw={"projection": "polar"})
    _hide(all_axes[len(eigenvalues) :])
    ticks = {"yticks": [1, 2, 3], "yticklabels": [], "xticklabels": ["+", "", "−", ""]}
    for axes, (name, values) in zip(all_axes, eigenvalues.items(), strict=False):
        radius = (values.abs() / values.abs().max()).clamp(min=1e-3).log10() + 3
        colours = [BLUE if value.real > 0 else RED for value in values]
        axes.scatter(values.angle(), radius, s=6, color=colours, alpha=0.8)
        axes.set(title=name, ylim=(0, 3.2), xticks=[0, torch.pi / 2, torch.pi, 3 * torch.pi / 2], **ticks)
    return figure


def _hide(spare: Sequence[Axes]) -> None:
    """What is left of a grid after the last panel."""
    for axes in spare:
        axes.set_visible(False)


def complex_planes(
    values: Mapping[str, Complex[Tensor, " _"]],
    *,
    x: tuple[Number, Number] = (-1.3, 1.3),
    y: tuple[Number, Number] = (-1.3, 1.3),
    stacked: bool = False,
) -> Figure:
    """Complex numbers as dots in the plane, one panel for each name, side by side or ``stacked``, on the same axes.

    The axes are linear and end at ``x`` and ``y``. Dots are blue on the right of 0, red on the left.
    """
    width, shape = (6.4 if stacked else 3.1), (len(values), 1) if stacked else (1, len(values))
    height = 0.8 + width * (y[1] - y[0]) / (x[1] - x[0])
    figure, all_axes = panels(*shape, width=width, height=height, sharey=not stacked, sharex=stacked)
    for axes, (name, dots) in zip(all_axes, values.items(), strict=True):
        colours = [BLUE if value.real > 0 else RED for value in dots]
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0)
        axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        axes.scatter(dots.real, dots.imag, s=16, color=colours, alpha=0.6, linewidths=0)
        axes.set(title=name, xlabel="real part", xlim=x, ylim=y, aspect="equal")
    all_axes[0].set(ylabel="imaginary part")
    return figure


def composition_graph(
    scores: Mapping[str, Float[Tensor, "early late"]],
    early: Sequence[Number],
    late: Sequence[Number],
    *,
    legend: Sequence[str] = (),
) -> Figure:
    """Heads of layer 0 on the left of each panel, heads of layer 1 on the right, a line for each score above 0.

    The width of a line is the score as a share of the largest of all panels. Dots are the darker the larger the number
    in ``early`` (of the heads of layer 0) and ``late`` (of layer 1), both from 0 to 1; ``legend`` says what these are.
    """
    figure, all_axes = panels(1, len(scores), width=2.7, height=3.8, sharey=True)
    widest = max(matrix.max().item() for matrix in scores.values())
    for axes, (kind, matrix) in zip(all_axes, scores.items(), strict=True):
        for i, row in enumerate((matrix / widest).tolist()):
            for j, share in enumerate(row):
                if share > 0.02:
                    look = {"linewidth": 6 * share, "alpha": min(1.0, 0.2 + 0.8 * share), "solid_capstyle": "butt"}
                    axes.plot((0, 1), (i, j), color=BLUE, zorder=1, **look)
        for x, strengths, colours in ((0, early, "Oranges"), (1, late, "Greens")):
            dots = {"c": strengths, "cmap": colours, "vmin": -0.1, "vmax": 1, "edgecolor": GREY, "linewidth": 0.7}
            axes.scatter([x] * len(strengths), range(len(strengths)), s=55, zorder=2, **dots)
        axes.set(title=f"{kind}-composition", xticks=[0, 1], xticklabels=["layer 0", "layer 1"], xlim=(-0.2, 1.2))
        axes.set(yticks=range(len(early)), ylim=(len(early) - 0.5, -0.5))
    all_axes[0].set_ylabel("head")
    dots = [_dots_from_0_to_1(colours) for colours in ("Oranges", "Greens")][: len(legend)]
    if dots:
        figure.legend(dots, legend, handler_map={tuple: HandlerTuple(None)}, loc="outside lower center", ncols=2)
    return figure


def _dots_from_0_to_1(colours: str) -> tuple[Line2D, ...]:
    """A light, a middling and a dark dot, for a legend."""
    scale = ScalarMappable(Normalize(-0.1, 1), colours)
    look = {"marker": "o", "markersize": 8, "linestyle": "", "markeredgecolor": GREY}
    return tuple(Line2D([], [], markerfacecolor=scale.to_rgba(x), **look) for x in (0, 0.5, 1))


# ---- the runs of term importance --------------------------------------------------------------------------------

RUNS = (  # what is in the stream at the start and after each layer; what each layer's head saves
    (("x", "x", "x"), ("h(x)", "g(x)")),
    (("x", "x + h(x)", "x + h(x) + g(x)"), ("h(x)", "g(x) + g(h(x))")),
    (("x", "x + h(x)", "x + h(x) + g(x) + g(h(x))"), ()),
)
COLOUR_OF_ORDER = {"g(h(x))": RED, "h(x)": BLUE, "g(x)": BLUE}


def runs_of_two_heads() -> Figure:
    """Runs 2 to 4 of ``term_importance`` for a head h below a head g: what each reads, saves and adds."""
    figure, (axes,) = panels(width=9, height=3.4)
    axes.set(xlim=(-1.3, 15.2), ylim=(-2.2, 0.2))
    axes.set_axis_off()
    for run, (streams, saved) in enumerate(RUNS):
        axes.annotate("", (13.6, -run), (0, -run), arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 2})
        axes.text(-0.4, -run, f"run {run + 2}", ha="right", va="center", weight="bold", fontsize=10)
        axes.text(13.8, -run, f"loss of\norder {run}", va="center", fontsize=10)
        for x, stream in zip((0.6, 4.4, 11.3), streams, strict=True):
            _sum_of_terms(axes, stream, x, -run)
        for head, reads, adds, terms in zip("hg", (1.4, 5.9), (3.0, 8.3), saved, strict=False):
            axes.annotate("", (reads, -run - 0.37), (reads, -run), arrowprops={"arrowstyle": "->", "linewidth": 1.5})
            box = {"boxstyle": "round", "facecolor": "#eeeeee", "edgecolor": "black"}
            axes.text(reads, -run - 0.5, head, ha="center", va="center", fontsize=11, bbox=box)
            axes.annotate("", (adds, -run - 0.5), (reads + 0.2, -run - 0.5), arrowprops={"arrowstyle": "->"})
            look = {"arrowstyle": "->", "linestyle": "--", "linewidth": 1.5}
            axes.annotate("", (adds, -run - 0.97), (adds, -run - 0.5), arrowprops=look)
            _sum_of_terms(axes, terms, adds, -run - 0.5)
    return figure


def _sum_of_terms(axes: Axes, terms: str, x: Number, y: Number) -> None:
    """A sum on white, the colour of each term by the number of its heads."""
    pieces = [
        TextArea(piece, textprops={"fontsize": 11, "color": COLOUR_OF_ORDER.get(piece, "black")})
        for piece in terms.split()
    ]
    axes.add_artist(AnnotationBbox(HPacker(children=pieces, pad=0, sep=4), (x, y), bboxprops={"edgecolor": "none"}))


READS = {  # what gets the stream, and its steps from there on, from the bottom up
    "heads": ("$W_Q$, $W_K$ + biases", "softmax", "$W_V$, $W_O$ + biases"),
    "neurons": ("$W_{in}$ + bias", "GELU", "$W_{out}$ + bias"),
    "": ("$W_U$ + bias", "logits"),
}
NOT_LINEAR = ("÷ scale", "softmax", "GELU")


def standard_layer() -> Figure:
    """A layer with LayerNorm and neurons, and the unembedding: what reads the stream, and what is not linear in it."""
    figure, (axes,) = panels(width=9, height=2.6)
    axes.set(xlim=(-1.2, 14.2), ylim=(-2.5, 0.5))
    axes.set_axis_off()
    axes.annotate("", (10.8, 0), (-0.2, 0), arrowprops={"arrowstyle": "->", "color": GREY, "linewidth": 2})
    axes.text(-0.3, 0, "stream", ha="right", va="center", weight="bold", fontsize=10)
    heights = (-0.7, -1.4, -2.1)
    for x, (name, steps) in zip((0.8, 5.7, 10.6), READS.items(), strict=True):
        _column(axes, x, ("− mean", "÷ scale", "× gain + offset"), heights)
        first = _column(axes, x + 2.5, steps, heights[::-1])
        axes.annotate("", (x, -0.5), (x, 0), arrowprops={"arrowstyle": "->"})
        up_to_box = {"arrowstyle": "->", "patchB": first.get_bbox_patch()}
        axes.annotate("", (x + 2.5, -2.1), (x + 0.98, -2.1), arrowprops=up_to_box)
        if name:
            axes.annotate("", (x + 2.5, 0), (x + 2.5, -0.5), arrowprops={"arrowstyle": "->"})
            axes.text(x + 2.5, 0.2, name, ha="center", fontsize=10, weight="bold")
    return figure


def _column(axes: Axes, x: Number, names: Sequence[str], heights: Sequence[Number]) -> Text:
    """Names in boxes, those that are not linear in red, and arrows from each to the next; the first name."""
    written = []
    for name, y in zip(names, heights, strict=False):
        colour = RED if name in NOT_LINEAR else BLUE
        box = {"boxstyle": "round", "facecolor": "white", "edgecolor": colour, "linewidth": 1.5}
        written.append(axes.text(x, y, name, ha="center", va="center", fontsize=10, color=colour, bbox=box))
    for one, other in zip(heights, heights[1 : len(names)], strict=False):
        gap = 0.22 if one > other else -0.22
        axes.annotate("", (x, other + gap), (x, one - gap), arrowprops={"arrowstyle": "->"})
    return written[0]
