"""Views that answer to the mouse and the keyboard: HTML for a running notebook, the same as a picture for a saved one.

HTML is written by the kernel, in a millisecond or so, and drawn by the page (page.js); whatever a reader may have typed
is escaped in it. Nothing here uses the network.
"""

import base64
import html
import io
import itertools
import json
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from jaxtyping import Complex, Float
from matplotlib import colormaps
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

from helpers import ReaderError
from helpers.figures import (
    BLUE,
    COLOURS,
    LINE_STYLES,
    RED,
    Number,
    Numbers,
    bars,
    eigenvalue_planes,
    heatmaps,
    line_panels,
    token_strip,
)
from helpers.views import Mime, View, as_html, as_text, code, render

LONGEST = 128  # tokens between which attention is shown


def attention_view(
    tokens: Sequence[str],
    pattern: Float[Tensor, "dest src"],
    head_name: str,
    at: int = 0,
    caption: str = "",
    chooses: str = "",
) -> View:
    """Who attends to whom: hover a token, or go to it with the arrow keys, to see where it looks.

    Below the tokens is the whole pattern as a map.

    Args:
        tokens: as ``Tokenizer.show_all`` gives them.
        pattern: attention of one head, each entry between 0 and 1.
        at: the token whose attention is shown while the mouse is elsewhere.
        chooses: the control of an explorer that a click on a token sets to its position, if any.

    Raises:
        ReaderError: shapes that do not fit each other, entries outside 0 to 1, more than 128 tokens.
    """
    pattern, n = pattern.detach().float(), len(tokens)
    if pattern.shape != (n, n) or not n:
        raise ReaderError(
            f"The pattern has shape {list(pattern.shape)}, but these tokens need [{n}, {n}]: "
            "choose one text of the batch and one head."
        )
    check_attention(tokens, pattern, LONGEST)
    choices = [json.dumps({chooses: i}) for i in range(n)] if chooses else []
    shown = attention_row(tokens, pattern, at, choices)
    caption = f"{caption} {_strongest(tokens, pattern, head_name)}".strip()
    size = min(9, 1.5 + 0.16 * n)
    return View(
        lambda: render(
            heatmaps({head_name: pattern}, tokens, tokens, "source", "destination", limit=1.0, width=size, height=size),
            caption,
        ),
        caption,
        f"{shown}{_map(pattern, head_name)}",
    )


def check_attention(tokens: Sequence[str], pattern: Float[Tensor, "*head dest src"], longest: int) -> None:
    """Raises ReaderError for entries outside 0 to 1, and for more tokens than a view shows."""
    if not ((pattern >= -1e-4) & (pattern <= 1 + 1e-4)).all():
        raise ReaderError("Attention lies between 0 and 1: divide a weighted pattern by its largest entry.")
    _check_length(tokens, longest)


def attention_row(
    tokens: Sequence[str], pattern: Float[Tensor, "dest src"], at: int, choices: Sequence[str] = ()
) -> str:
    """Tokens in HTML: one with the mouse or the focus shows where it looks, otherwise the one at ``at``.

    ``choices`` is what a click on each token chooses in an explorer, as JSON.
    """
    weights = json.dumps([row[: dest + 1] for dest, row in enumerate(rounded(pattern, 3))])
    return token_row(tokens, choices=choices, row=f'data-weights="{weights}" data-from="{at}"')


def _strongest(tokens: Sequence[str], pattern: Float[Tensor, "dest src"], head_name: str) -> str:
    """The text equivalent of a view: where the head looks hardest, the first token left aside."""
    beyond = pattern[:, 1:]
    if not beyond.numel():
        return ""
    dest, src = divmod(int(beyond.argmax()), len(tokens) - 1)
    return (
        f"Strongest attention of {code(head_name)}, the first token aside: from {code(tokens[dest])} ({dest}) "
        f"to {code(tokens[src + 1])} ({src + 1}), {beyond.max():.2f}."
    )


def _map(pattern: Float[Tensor, "dest src"], head_name: str) -> str:
    """A picture with a dot for each entry, which the page enlarges."""
    dots = (colormaps["cividis"](pattern.clamp(0, 1).numpy())[..., :3] * 255).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(dots).save(buffer, format="png")
    source = f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    alt = f"Attention of head {head_name}, from every token to every token before it."
    legend = "A row for each destination, downwards; a column for each source; dark is 0, bright is 1."
    return f'<img class="book-map" src="{source}" alt="{html.escape(alt)}"><small>{legend}</small>'


def token_view(tokens: Sequence[str], values: Numbers, unit: str, caption: str = "") -> View:
    """A number for each token as its colour: red above 0, and blue below, if any is. Hover a token to read the number.

    Args:
        tokens: as ``Tokenizer.show_all`` gives them.
        values: one finite number for each token, such as its loss in nats.
        unit: what the numbers are: "loss, nats".

    Raises:
        ReaderError: not one finite value for each token, or more than 1,024 tokens.
    """
    numbers = torch.as_tensor(values).detach()
    if numbers.shape != (len(tokens),) or not len(tokens) or not numbers.isfinite().all():
        raise ReaderError(
            f"There are {len(tokens)} tokens and values of shape {list(numbers.shape)}: "
            "give one finite value for each token."
        )
    _check_length(tokens, 8 * LONGEST)
    values = rounded(numbers, 2)
    top = max(map(abs, values)) or 1.0
    peak = max(range(len(values)), key=lambda i: abs(values[i]))
    furthest, signs = ("Furthest from 0", "+") if min(values) < 0 else ("Largest", "")
    said = [
        f"{token} ({i}): {value:{signs}.2f} ({unit})"
        for i, (token, value) in enumerate(zip(tokens, values, strict=True))
    ]
    caption = f"{caption} {furthest}: {code(tokens[peak])} ({peak}), {values[peak]:{signs}.2f}.".strip()
    grounds = [f"{RED if value > 0 else BLUE}{round(178 * abs(value) / top):02x}" for value in values]
    return View(
        lambda: render(token_strip(tokens, values, unit), caption),
        caption,
        token_row(tokens, grounds=grounds, said=said),
    )


def token_row(
    tokens: Sequence[str],
    *,
    grounds: Sequence[str] = (),
    said: Sequence[str] = (),
    choices: Sequence[str] = (),
    names: Sequence[str] = (),
    row: str = "",
) -> str:
    """Tokens one after the other, some with a name before them; a line below for what is said of one of them."""
    spans = []
    parts = itertools.zip_longest(tokens, grounds, said, choices, names)
    for i, (token, ground, says, choice, name) in enumerate(parts):
        attributes = [f'data-at="{i}"', f'tabindex="{-1 if i else 0}"']
        attributes += ['class="book-end"'] * token.endswith("↵")
        attributes += [f'style="background: {ground}"'] if ground else []
        attributes += [f'data-says="{html.escape(says)}"'] if says else []
        attributes += [f'data-choose="{html.escape(choice)}" role="button"'] if choice else []
        attributes += [f'data-name="{html.escape(name)}"'] if name else []
        spans.append(f"<span {' '.join(attributes)}>{html.escape(token)}</span>")
    hint = "Tokens; arrow keys go from one to the next."
    tokens_ = f'<div class="book-tokens" role="group" aria-label="{hint}" {row}>{"".join(spans)}</div>'
    return f'{tokens_}<output class="book-says"></output>'


def _check_length(tokens: Sequence[str], longest: int) -> None:
    if len(tokens) > longest:
        raise ReaderError(f"This view shows at most {longest} tokens, and there are {len(tokens):,}: shorten the text.")


def rounded(values: Tensor, digits: int) -> list:
    """Numbers in nested lists, without a minus at zero."""
    return values.double().mul(10**digits).round().div(10**digits).add(0.0).tolist()  # adding 0 makes -0 a 0


# ---- charts -----------------------------------------------------------------------------------------------------


def bar_view(
    series: Mapping[str, Sequence[float]],
    names: Sequence[str],
    unit: str,
    caption: str,
    bounds: tuple[float, float] | None = None,
) -> View:
    """Numbers as bars, a row for each name and in it a bar for each series, with the number beside it.

    ``bounds`` are the ends of the scale, one of them at or below 0 and one above; the numbers' own by default.
    """
    values = list(zip(*series.values(), strict=True))
    low, high = bounds or (min(0.0, *map(min, values)), max(0.0, *map(max, values)))
    span = high - low or 1.0
    colours = dict(zip(series, cycle(COLOURS), strict=False))
    head = "".join(f'<th scope="col" style="color: {colour}">■ {as_html(n)}</th>' for n, colour in colours.items())
    rows = []
    for name, row in zip(names, values, strict=True):
        strips = "".join(
            f'<i style="margin-left: {100 * (min(0.0, v) - low) / span:.1f}%; '
            f'width: {100 * abs(v) / span:.1f}%; background: {colour}"></i>'
            for v, colour in zip(row, colours.values(), strict=True)
        )
        numbers = "".join(f"<td>{v:{'+' if low < 0 else ''}.2f}</td>" for v in row)
        rows.append(f'<tr><th scope="row">{as_html(name)}</th><td class="book-bar">{strips}</td>{numbers}</tr>')
    table = f'<thead><tr><th></th><th scope="col">{unit}</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'

    def still() -> Mime:
        figure = bars(series, [textwrap.fill(as_text(name), 16, break_long_words=False) for name in names], unit)
        figure.axes[0].set_ylim(bounds)
        return render(figure, caption)

    return View(still, caption, f'<table class="book-bars">{table}</table>')


WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 400, 210, 34, 8, 34  # of a panel of ``curve_view``, and its margins
DASHES = dict(zip(LINE_STYLES, ("none", "6 3", "7 3 2 3", "2 2"), strict=False))


def curve_view(
    x: Sequence[Number],
    curves: Mapping[str, Mapping[str, Sequence[Number]]],
    xlabel: str,
    at: int,
    caption: str,
    choices: Sequence[str],
    log_ticks: Sequence[Number] | None = None,
) -> View:
    """Lines in panels side by side, and a cursor at one x with a dot and a number for each line. A click moves it.

    Args:
        x: at least two numbers in order, the same for all lines.
        curves: the lines of each panel, by its title: a name, and a number for each x.
        at: which x the cursor is at.
        choices: for each x, what a click near it chooses in an explorer, as JSON.
        log_ticks: makes the x axis logarithmic, with these ticks.
    """
    names = list(dict.fromkeys(name for series in curves.values() for name in series))
    looks = dict(zip(names, cycle(zip(COLOURS, LINE_STYLES, strict=True)), strict=False))
    panels = "".join(
        f"<div><b>{as_html(title)}</b>{_panel(x, series, xlabel, at, looks, choices, log_ticks)}"
        f"{_legend(series, at, looks)}</div>"
        for title, series in curves.items()
    )

    def still() -> Mime:
        of_panels = {title: {name: (x, y) for name, y in series.items()} for title, series in curves.items()}
        if log_ticks is None:
            look = {"xscale": "linear", "marks": {f"{xlabel} {x[at]:,}": x[at]}}
        else:
            look = {"xscale": "log", "marks": {"": x[at]}, "xticks": log_ticks}
        return render(line_panels(of_panels, xlabel, [""] * len(curves), **look, width=4), caption)

    return View(still, caption, f'<div class="book-curves">{panels}</div>')


@dataclass(frozen=True)
class _Scale:
    """Where numbers between ``low`` and ``high`` stand on an axis from ``start`` to ``end``."""

    low: Number
    high: Number
    start: Number
    end: Number

    def place(self, value: Number) -> float:
        return round(self.start + (self.end - self.start) * (value - self.low) / ((self.high - self.low) or 1.0), 1)

    @property
    def ticks(self) -> list[float]:
        return [t for t in MaxNLocator(5).tick_values(self.low, self.high).tolist() if self.low <= t <= self.high]


class _LogScale(_Scale):
    def place(self, value: Number) -> float:
        return _Scale(math.log(self.low), math.log(self.high), self.start, self.end).place(math.log(value))


def _panel(
    x: Sequence[Number],
    series: Mapping[str, Sequence[Number]],
    xlabel: str,
    at: int,
    looks: Mapping[str, tuple[str, str]],
    choices: Sequence[str],
    log_ticks: Sequence[Number] | None,
) -> str:
    values = [value for y in series.values() for value in y]
    across = (_Scale if log_ticks is None else _LogScale)(x[0], x[-1], LEFT, WIDTH - 8)
    up = _Scale(min(0.0, *values), max(values), HEIGHT - BOTTOM, TOP)
    parts = [
        f'<path d="M{LEFT} {up.place(tick)}H{WIDTH - 8}" stroke="#ddd"/>'
        f'<text x="{LEFT - 5}" y="{up.place(tick) + 4}" text-anchor="end">{tick:g}</text>'
        for tick in up.ticks
    ]
    parts += [
        f'<text x="{across.place(t)}" y="{HEIGHT - 18}" text-anchor="middle">{t:,g}</text>'
        for t in log_ticks or across.ticks
    ]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 3}" text-anchor="middle">{as_html(xlabel)}</text>')
    parts.append(f'<path d="M{across.place(x[at])} {TOP}V{HEIGHT - BOTTOM}" stroke="black" stroke-width="1"/>')
    for name, y in series.items():
        colour, style = looks[name]
        points = " ".join(f"{across.place(a)},{up.place(b)}" for a, b in zip(x, y, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2" '
            f'stroke-dasharray="{DASHES[style]}"/>'
            f'<circle cx="{across.place(x[at])}" cy="{up.place(y[at])}" r="4" fill="{colour}"/>'
        )
    edges = [x[0], *((a + b) / 2 for a, b in itertools.pairwise(x)), x[-1]]
    for value, (a, b), choice in zip(x, itertools.pairwise(map(across.place, edges)), choices, strict=True):
        parts.append(
            f'<rect class="book-near" x="{a}" y="{TOP}" width="{b - a:.1f}" height="{HEIGHT - BOTTOM - TOP}" '
            f'data-choose="{html.escape(choice)}"><title>{as_html(xlabel)} {value:,}</title></rect>'
        )
    said = html.escape(", ".join(f"{name} {y[at]:.2f}" for name, y in series.items()))
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12" role="img" aria-label="{said}">{"".join(parts)}</svg>'


def _legend(series: Mapping[str, Sequence[Number]], at: int, looks: Mapping[str, tuple[str, str]]) -> str:
    rows = []
    for name, y in series.items():
        colour, style = looks[name]
        line = f'<path d="M0 5H26" stroke="{colour}" stroke-width="3" stroke-dasharray="{DASHES[style]}"/>'
        rows.append(f'<div><svg width="26" height="10">{line}</svg> {as_html(name)} <b>{y[at]:.2f}</b></div>')
    return "".join(rows)


def eigenvalue_view(name: str, eigenvalues: Complex[Tensor, " n"], caption: str) -> View:
    """Eigenvalues in a polar plot as in ``eigenvalue_planes``: the largest on the outer ring, a factor of 10 a ring."""
    radius = ((eigenvalues.abs() / eigenvalues.abs().max()).clamp(min=1e-3).log10() + 3) / 3
    places = torch.polar(radius, eigenvalues.angle())
    rings = "".join(f'<circle r="{r / 3:.3f}" fill="none" stroke="#ccc" stroke-width=".01"/>' for r in (1, 2, 3))
    dots = "".join(
        f'<circle cx="{z.real:.3f}" cy="{-z.imag:.3f}" r=".03" fill="{BLUE if value.real > 0 else RED}" opacity=".8"/>'
        for z, value in zip(places.tolist(), eigenvalues.tolist(), strict=True)
    )
    signs = '<text x="1.04" y=".05">+</text><text x="-1.14" y=".05">−</text>'
    svg = (
        f'<svg viewBox="-1.2 -1.1 2.4 2.2" width="280" role="img" aria-label="Eigenvalues of head {name}" '
        f'font-size=".15">{rings}{dots}{signs}</svg>'
    )
    return View(lambda: render(eigenvalue_planes({name: eigenvalues}, columns=1), caption), caption, svg)
