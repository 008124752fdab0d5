"""The figures of the book, in one style. Each function returns a ``Plate``: a picture and the caption that reads it.

No pyplot: a figure is drawn the same way in a cell, in a widget's callback and in a test. Colours are those of
Okabe and Ito (2008), and cividis and RdBu for maps, which colour-blind readers can tell apart.
"""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from IPython.display import Markdown, display
from jaxtyping import Complex, Float
from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image
from torch import Tensor

ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, RED, PINK, GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plate:
    """A finished picture with its caption. In a notebook both are shown; the caption is also the text equivalent."""

    png: bytes
    caption: str

    @property
    def alt(self) -> str:
        """The caption without its markup, for screen readers and plain text."""
        return html.unescape(re.sub(r"</?code>|[*`]", "", self.caption))

    def _ipython_display_(self) -> None:
        display({"image/png": self.png, "text/plain": self.alt}, metadata={"image/png": {"alt": self.alt}}, raw=True)
        display(Markdown(f"*{self.caption}*"))


def plate(figure: Figure, caption: str) -> Plate:
    """Render ``figure`` once and for all, in 255 colours, which makes a notebook's pictures a third as large."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(255).save(small, format="png", optimize=True)
    return Plate(small.getvalue(), caption)


def panels(
    rows: int = 1, columns: int = 1, width: float = 3.4, height: float = 2.6, **options
) -> tuple[Figure, list[Axes]]:
    """A figure in the book's style and its axes, row by row."""
    with rc_context(STYLE):
        figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)

COLOURS = (BLUE, RED, GREEN, ORANGE, PINK, SKY, GREY)
MARKERS = "os^Dvx+"
LINE_STYLES = ("-", "--", "-.", ":", "-", "--", "-.")


def lines(
    series: dict[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, caption: str,
    xscale: str = "linear", guides: dict[str, float] | None = None, xticks: Sequence[float] | None = None,
) -> Plate:
    """One line for each named series of x and y values; ``guides`` are horizontal lines with a name.

    ``xticks`` are for few, measured points: they are marked on the lines and named on the axis.
    """
    figure, (axes,) = panels(width=6.4, height=3)
    for (name, (x, y)), colour, style in zip(series.items(), COLOURS, LINE_STYLES, strict=False):
        axes.plot(x, y, style, color=colour, label=name, linewidth=1.8, marker="o" if xticks else None)
    for name, y in (guides or {}).items():
        axes.axhline(y, color=GREY, linewidth=0.8)
        axes.annotate(name, (0, y), xycoords=("axes fraction", "data"), ha="left", va="bottom", color=GREY)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale=xscale)
    if xticks:
        axes.set_xticks(xticks, map(str, xticks))
        axes.minorticks_off()
    axes.legend()
    return plate(figure, caption)


def line_panels(
    curves: dict[str, dict[str, tuple[Sequence[float], Sequence[float]]]], xlabel: str, ylabels: Sequence[str],
    caption: str, xscale: str = "log", marks: dict[str, float] | None = None, xticks: Sequence[float] | None = None,
    share_y: bool = False, width: float = 3.6,
) -> Plate:
    """Line charts side by side: for each title, series as in ``lines``; ``marks`` are vertical lines with a name.

    A series has one look in all panels, and is in the legend of the first that has it. ``xticks`` are named on the
    axis as they are; ``share_y`` gives all panels one vertical scale.
    """
    figure, all_axes = panels(1, len(curves), width=width, height=2.8, sharey=share_y)
    looks: dict[str, dict] = {}
    for axes, (title, series), ylabel in zip(all_axes, curves.items(), ylabels, strict=True):
        for name, (x, y) in series.items():
            is_new, i = name not in looks, len(looks)
            look = looks.setdefault(name, {"color": COLOURS[i % 7], "linestyle": LINE_STYLES[i % 7]})
            axes.plot(x, y, label=name if is_new else None, linewidth=1.6, **look)
        for name, x in (marks or {}).items():
            axes.axvline(x, color=GREY, linewidth=0.8)
            axes.annotate(name, (x, 1), xycoords=("data", "axes fraction"), ha="right", va="top", fontsize=7,
                          color=GREY, rotation=90)
        axes.set(title=title, xlabel=xlabel, ylabel=ylabel, xscale=xscale)
        if xticks:
            axes.set_xticks(xticks, map(str, xticks))
            axes.minorticks_off()
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    return plate(figure, caption)


def heatmaps(
    matrices: dict[str, Float[Tensor, "row column"]], rows: Sequence[str], columns: Sequence[str], ylabel: str,
    xlabel: str, caption: str, signed: bool = False, limit: float | None = None, numbers: bool = False,
    width: float = 3.6, height: float = 3.2, per_row: int = 12,
) -> Plate:
    """Matrices side by side on one colour scale: from 0 upwards, or symmetric about 0 if ``signed``."""
    per_row = min(per_row, len(matrices))
    figure, all_axes = panels(-(-len(matrices) // per_row), per_row, width=width, height=height)
    for axes in all_axes[len(matrices) :]:
        axes.set_visible(False)
    top = limit or max(float(torch.as_tensor(m).abs().max()) for m in matrices.values())
    colours = {"cmap": "RdBu_r" if signed else "cividis", "vmin": -top if signed else 0, "vmax": top}
    for i, (axes, (title, matrix)) in enumerate(zip(all_axes, matrices.items(), strict=False)):
        image = axes.imshow(torch.as_tensor(matrix).numpy(), aspect="auto", interpolation="nearest", **colours)
        axes.set(title=title, xlabel=xlabel, ylabel="" if i % per_row else ylabel)
        _ticks(axes.xaxis, columns, rotation=90 if max(map(len, columns)) > 3 else 0)
        _ticks(axes.yaxis, rows)
        if numbers:
            _write_numbers(axes, torch.as_tensor(matrix), colours)
    figure.colorbar(image, ax=all_axes, fraction=0.03)
    return plate(figure, caption)


def _ticks(axis, names: Sequence[str], rotation: float = 0) -> None:
    step = -(-len(names) // 60)
    axis.set_ticks(range(0, len(names), step), [plain(name) for name in names[::step]], fontsize=7, rotation=rotation)


def _write_numbers(axes: Axes, matrix: Float[Tensor, "row column"], colours: dict) -> None:
    for i, row in enumerate(matrix.tolist()):
        for j, value in enumerate(row):
            share = (value - colours["vmin"]) / (colours["vmax"] - colours["vmin"])
            dark = share < 0.5 if colours["vmin"] == 0 else abs(share - 0.5) > 0.35
            axes.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=6, color="white" if dark else "black")


def plain(text: str) -> str:
    """Text that matplotlib draws letter by letter: no dollar of it starts a formula; ▯ for what its font lacks."""
    return "".join(c if c == "\n" or ord(c) in _letters() else "▯" for c in text).replace("$", r"\$")


@cache
def _letters() -> frozenset[int]:
    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in ("DejaVu Sans", "DejaVu Sans Mono"))
    return frozenset.intersection(*(frozenset(font.get_charmap()) for font in fonts))


def token_strip(tokens: Sequence[str], values: Sequence[float], unit: str, caption: str, line: int = 96) -> Plate:
    """Tokens in reading order, each on the colour of its value: red above 0, blue below, white at 0."""
    places, column, row = [], 0, 0
    for token in tokens:
        if column and column + len(token) > line:
            column, row = 0, row + 1
        places.append((column, row))
        column, row = (0, row + 1) if token.endswith("↵") else (column + len(token), row)
    last = max(place[1] for place in places)
    figure, (axes,) = panels(width=8, height=0.7 + 0.2 * (last + 1))
    norm = Normalize(-max(map(abs, values)) or -1, max(map(abs, values)) or 1)
    colours = ScalarMappable(norm, "RdBu_r")
    for token, value, (x, y) in zip(tokens, values, places, strict=True):
        axes.add_patch(Rectangle((x, y), len(token), 1, facecolor=colours.to_rgba(value), edgecolor="#dddddd"))
        axes.text(x + len(token) / 2, y + 0.5, plain(token), ha="center", va="center", family="DejaVu Sans Mono",
                  fontsize=8, color="white" if abs(norm(value) - 0.5) > 0.35 else "black")
    axes.set(xlim=(0, line), ylim=(last + 1, 0))
    axes.set_axis_off()
    figure.colorbar(colours, ax=axes, label=unit, orientation="horizontal", fraction=0.12, aspect=60)
    return plate(figure, caption)


def bars(
    names: Sequence[str], series: dict[str, Sequence[float]], ylabel: str, caption: str,
    guides: dict[str, float] | None = None,
) -> Plate:
    """Groups of bars, one group for each name and one bar in it for each series."""
    figure, (axes,) = panels(width=max(4.0, 0.45 * len(names) * max(1, len(series) / 2)), height=2.8)
    room = figure.get_figwidth() / len(names) / 0.08  # letters that fit under a group of bars
    longest = max(len(line) for name in names for line in name.splitlines())
    width = 0.8 / len(series)
    for i, ((label, heights), colour) in enumerate(zip(series.items(), COLOURS, strict=False)):
        axes.bar([j + (i - (len(series) - 1) / 2) * width for j in range(len(names))], heights, width, label=label,
                 color=colour, hatch=("", "//", "..", "xx")[i % 4], edgecolor="white")
    for name, y in (guides or {}).items():
        axes.axhline(y, color=GREY, linewidth=0.8)
        axes.annotate(name, (0, y), xycoords=("axes fraction", "data"), ha="left", va="bottom", color=GREY)
    axes.set_xticks(range(len(names)), [plain(name) for name in names], rotation=90 if longest > room else 0)
    axes.axhline(0, color="black", linewidth=0.6)
    axes.set(ylabel=ylabel)
    if len(series) > 1:
        axes.legend(ncols=len(series), loc="lower right", bbox_to_anchor=(1, 1))
    return plate(figure, caption)


def histograms(
    series: dict[str, Sequence[float]], bounds: tuple[float, float], bins: int, xlabel: str, ylabel: str, caption: str,
    log: bool = False, height: float = 1.7,
) -> Plate:
    """Histograms one above the other on the same axis; ``log`` counts on a logarithmic scale."""
    figure, all_axes = panels(len(series), 1, width=6, height=height, sharex=True, sharey=log)
    for axes, (name, values), colour in zip(all_axes, series.items(), COLOURS, strict=False):
        axes.hist(values, bins=bins, range=bounds, color=colour, edgecolor="white", log=log)
        axes.set(title=name, ylabel=ylabel)
        if not log:
            axes.yaxis.get_major_locator().set_params(integer=True)
    all_axes[-1].set(xlabel=xlabel)
    return plate(figure, caption)


def scatter(
    groups: dict[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, caption: str,
    labels: dict[str, Sequence[str]] | None = None, legend_beside: bool = False,
) -> Plate:
    """Points in named groups, each with its own colour and marker; ``labels`` names the points of a group."""
    figure, (axes,) = panels(width=5, height=3.6)
    for (name, (x, y)), colour, marker in zip(groups.items(), COLOURS, MARKERS, strict=False):
        axes.scatter(x, y, color=colour, marker=marker, label=name, s=26)
        for text, *point in zip((labels or {}).get(name, ()), x, y, strict=False):
            axes.annotate(text, point, xytext=(4, 3), textcoords="offset points", fontsize=7)
    axes.axhline(0, color=GREY, linewidth=0.5)
    axes.axvline(0, color=GREY, linewidth=0.5)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.legend(**({"loc": "upper left", "bbox_to_anchor": (1, 1)} if legend_beside else {}))
    return plate(figure, caption)


def density(
    x: Float[Tensor, " n"], y: Float[Tensor, " n"], xlabel: str, ylabel: str, caption: str, unit: str,
    diagonal: bool = False, bins: int = 80,
) -> Plate:
    """Very many points as a map of how many fall where, on a logarithmic scale; ``diagonal`` draws y = x."""
    figure, (axes,) = panels(width=5, height=3.8)
    *_, image = axes.hist2d(x.numpy(), y.numpy(), bins=bins, cmap="cividis", norm=LogNorm())
    if diagonal:
        ends = max(x.min(), y.min()).item(), min(x.max(), y.max()).item()
        axes.plot(ends, ends, color=RED, linewidth=1, linestyle="--")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    figure.colorbar(image, ax=axes, label=unit)
    return plate(figure, caption)


def eigenvalue_planes(eigenvalues: dict[str, Complex[Tensor, " n"]], caption: str, columns: int = 6) -> Plate:
    """Eigenvalues by angle and logarithm of their size, a small plot for each name, as in the paper's polar plots."""
    rows = -(-len(eigenvalues) // columns)
    figure, all_axes = panels(rows, columns, width=1.5, height=1.7, subplot_kw={"projection": "polar"})
    for axes in all_axes[len(eigenvalues) :]:
        axes.set_visible(False)
    for axes, (name, values) in zip(all_axes, eigenvalues.items(), strict=False):
        radius = (values.abs() / values.abs().max()).clamp(min=1e-3).log10() + 3
        colours = [BLUE if value.real > 0 else RED for value in values]
        axes.scatter(values.angle().numpy(), radius.numpy(), s=6, color=colours, alpha=0.8)
        axes.set(title=name, ylim=(0, 3.2), yticks=[1, 2, 3], yticklabels=[],
                 xticks=[0, torch.pi / 2, torch.pi, 3 * torch.pi / 2], xticklabels=["+", "", "−", ""])
    return plate(figure, caption)


def composition_graph(
    scores: dict[str, Float[Tensor, "early late"]], early: Sequence[float], late: Sequence[float], caption: str
) -> Plate:
    """Heads of layer 0 on the left of each panel, heads of layer 1 on the right, a line for each score above 0.

    The width of a line is the score as a share of the largest of all panels. Dots are the darker the larger the number
    in ``early`` (of the heads of layer 0) and ``late`` (of layer 1), both from 0 to 1.
    """
    figure, all_axes = panels(1, len(scores), width=2.7, height=3.8, sharey=True)
    widest = max(matrix.max().item() for matrix in scores.values())
    for axes, (kind, matrix) in zip(all_axes, scores.items(), strict=True):
        for (i, j), score in zip(torch.cartesian_prod(*map(torch.arange, matrix.shape)).tolist(),
                                 matrix.flatten().tolist(), strict=True):
            share = min(1.0, score / widest)
            if share > 0.02:
                axes.plot((0, 1), (i, j), color=BLUE, linewidth=6 * share, alpha=0.2 + 0.8 * share,
                          solid_capstyle="butt", zorder=1)
        for x, strengths, colours in ((0, early, "Oranges"), (1, late, "Greens")):
            axes.scatter([x] * len(strengths), range(len(strengths)), c=strengths, cmap=colours, vmin=-0.1, vmax=1,
                         s=55, edgecolor=GREY, linewidth=0.7, zorder=2)
        axes.set(title=f"{kind}-composition", xticks=[0, 1], xticklabels=["layer 0", "layer 1"], xlim=(-0.2, 1.2),
                 yticks=range(len(early)), ylim=(len(early) - 0.5, -0.5))
    all_axes[0].set_ylabel("head")
    return plate(figure, caption)


def architecture(n_layers: int, n_heads: int, caption: str) -> Plate:
    """A drawing of the model: the residual stream from left to right, heads that read from it and add to it."""
    width = 2.6 + 3.4 * n_layers
    figure, (axes,) = panels(width=1.15 * width, height=3.1)
    axes.set(xlim=(0, width), ylim=(-0.75, 2.8))
    axes.set_axis_off()
    _arrow(axes, (0.85, 0), (width - 0.87, 0), GREY, linewidth=5)
    for x, name, note in ((0.45, "$W_E$", "token"), (width - 0.45, "$W_U$", "logits")):
        _box(axes, (x, 0), name, 0.75, SKY)
        axes.text(x, -0.62, note, ha="center", va="center")
    for layer in range(n_layers):
        _layer(axes, layer, n_heads, left=1.4 + 3.4 * layer)
    axes.text(width - 1.3, -0.3, f"$x_{n_layers}$", ha="center", va="center")
    axes.text(width / 2, -0.62, "residual stream: d_model numbers at each position", ha="center", va="center",
              color=GREY)
    return plate(figure, caption)


def _layer(axes: Axes, layer: int, n_heads: int, left: float) -> None:
    """Three of a layer's heads, between the point where they read and the sum to which they write."""
    fork, sum_at = left, left + 2.9
    for head, offset in ((0, 0.8), (1, 1.5), (n_heads - 1, 2.55)):
        _arrow(axes, (fork, 0.08), (left + offset - 0.1, 1.57), BLUE)
        _arrow(axes, (left + offset + 0.1, 1.57), (sum_at, 0.15), RED)
        _box(axes, (left + offset, 1.8), f"{layer}:{head}", 0.52, YELLOW)
    axes.text(left + 2.03, 1.8, "…", ha="center", va="center", fontsize=12)
    axes.plot(sum_at, 0, marker="o", markersize=13, markerfacecolor="white", markeredgecolor="black")
    axes.text(sum_at, -0.02, "+", ha="center", va="center", fontsize=12)
    axes.text(fork, -0.3, f"$x_{layer}$", ha="center", va="center")
    axes.text(left + 1.6, 2.45, f"layer {layer}: {n_heads} heads", ha="center", va="center")
    axes.text(left - 0.02, 0.75, "read\n$W_Q, W_K, W_V$", ha="center", va="center", color=BLUE, fontsize=8)
    axes.text(sum_at + 0.12, 1.3, "write\n$W_O$", ha="center", va="center", color=RED, fontsize=8)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, linewidth: float = 1.2
) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=6 + 2 * linewidth, color=colour,
                                   linewidth=linewidth, shrinkA=0, shrinkB=0))


def _box(axes: Axes, centre: tuple[float, float], text: str, width: float, colour: str) -> None:
    x, y = centre
    axes.add_patch(FancyBboxPatch((x - width / 2, y - 0.22), width, 0.44, boxstyle="round,pad=0.02", facecolor=colour,
                                  edgecolor="black", linewidth=0.8))
    axes.text(x, y, text, ha="center", va="center")


def complex_planes(values: dict[str, Complex[Tensor, " n"]], caption: str, limit: float = 1.3) -> Plate:
    """Very many complex numbers as dots in the plane, one square for each name, on the same linear axes."""
    figure, all_axes = panels(1, len(values), width=2.5, height=2.8, sharey=True)
    for axes, (name, dots) in zip(all_axes, values.items(), strict=True):
        axes.scatter(dots.real.numpy(), dots.imag.numpy(), s=2, color=BLUE, alpha=0.4, linewidths=0)
        axes.set(title=name, xlabel="real part", xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    all_axes[0].set(ylabel="imaginary part")
    return plate(figure, caption)


@dataclass(frozen=True)
class Table:
    """Rows under a header. Cells made by ``code`` show a token as it is, whatever characters it has."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""

    def _repr_markdown_(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        table = "\n".join("| " + " | ".join(map(str, cells)) + " |" for cells in lines)
        return table + (f"\n\n*{self.caption}*" if self.caption else "")

    def __repr__(self) -> str:
        return self._repr_markdown_()


def code(*tokens: str) -> str:
    """Tokens for a table or a Markdown text, in code type, every special character made harmless."""
    return " ".join(f"<code>{''.join(c if c.isalnum() else f'&#{ord(c)};' for c in token)}</code>" for token in tokens)
