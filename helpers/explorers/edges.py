"""An explorer of edges between heads: how well a pair fits, what a cut does, which tokens the edge is about."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import ipywidgets
import torch
from jaxtyping import Int
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import W_OV, LowRank, centred_unembedding, composition_score, reading_matrix
from helpers.edges import KINDS, Pairs
from helpers.explorers.shell import Explorer, chooser
from helpers.figures import heatmaps
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.tokens import Tokenizer
from helpers.views import Table, View, code, render

N_MARKED, N_PAIRS = 5, 8  # edges of a kind, as many as the chapter compares; pairs of tokens
BLUE_TO_RED = colormaps["RdBu_r"]  # looked up once: each look-up copies it
OF_KIND = {"Q": "queries", "K": "keys", "V": "values"}
Tables = Mapping[str, Pairs]  # a number for each edge, by "Q", "K" and "V"


@torch.no_grad()
def circuit_through(model: AttentionOnlyTransformer, writer: Head, reader: Head, kind: str) -> LowRank:
    """What two tokens have to do with each other by one edge, in nats; each row less its mean.

    By "K" a score, ``[token of the query, token that the writer fetched for the key]``; by "Q" a score, ``[token that
    the writer fetched for the query, token of the key]``; by "V" a logit, ``[token that the writer fetched, out
    token]``. A head that fetches a token is taken to attend to nothing else.

    Raises:
        ReaderError: ``kind`` is another one, or the model smears its keys and ``kind`` is not "V".
    """
    read = model.W_E @ W_OV(model, writer) @ reading_matrix(model, reader, kind)
    circuit = read @ (centred_unembedding(model) if kind == "V" else model.W_E.T)
    return (circuit.T if kind == "K" else circuit).centred()


def explore_edge(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    excess: Tables,
    effects: Tables,
    among: Int[Tensor, " token"],
    writer: Head,
    reader: Head,
    kind: str,
) -> tuple[View, Table]:
    """All edges of a kind as a grid to click on, with one of them by each kind; and the tokens that it is about.

    Args:
        excess: ``composition_excess`` by kind.
        effects: how far the predictions move when an edge is cut, in nats, by kind.
        among: the tokens that are considered.

    Raises:
        ReaderError: the model has not two layers, the writer is not in layer 0 or the reader not in layer 1, there is
            no such kind, or a table is not of this model.
    """
    _check(model, writer, reader, kind, excess, effects)
    return (
        _all_edges(model, excess, effects, writer, reader, kind),
        _strongest_pairs(model, tokenizer, among, writer, reader, kind),
    )


def _check(model: AttentionOnlyTransformer, writer: Head, reader: Head, kind: str, *tables: Tables) -> None:
    if model.config.n_layers != 2:
        raise ReaderError('Edges lead from one layer to the next: take a model of two, load_book_model("two_layer").')
    model.check_heads([writer, reader])
    if (writer[0], reader[0]) != (0, 1):
        raise ReaderError("An edge leads from layer 0 to layer 1: choose the writer in layer 0, the reader in layer 1.")
    if kind not in OF_KIND:
        raise ReaderError(f'{kind!r} is no kind of composition: choose "Q", "K" or "V".')
    n = model.config.n_heads
    if any(set(of_kinds) != set(KINDS) or any(t.shape != (n, n) for t in of_kinds.values()) for of_kinds in tables):
        raise ReaderError(f"Give the scores and the effects of this model: for each of Q, K and V a table [{n}, {n}].")


def _rank(edges: Tensor, value: Tensor) -> int:
    """1 for the largest."""
    return 1 + int((edges > value).sum())


# ---- all edges of a kind ------------------------------------------------------------------------------------------


def _all_edges(
    model: AttentionOnlyTransformer, excess: Tables, effects: Tables, writer: Head, reader: Head, kind: str
) -> View:
    """The scores of a kind as a grid, on one colour scale for all kinds."""
    names = ([head_name(head) for head in model.layer_heads(layer)] for layer in (0, 1))
    limit = max(table.abs().max().item() for table in excess.values()) or 1.0
    grid = Grid(excess[kind], effects[kind], *names, limit, writer[1] * model.config.n_heads + reader[1])
    largest = excess[kind].flatten().topk(len(grid.marked)).indices.tolist()
    place, both = (writer[1], reader[1]), [(of[kind], torch.stack([*of.values()])) for of in (excess, effects)]
    (score, by_score), (moved, by_cut) = ((table[place].item(), _rank(all_, table[place])) for table, all_ in both)
    caption = (
        f"{kind}-composition above the level of random matrices: red above 0, blue below. Dots: the {len(largest)} "
        f"edges whose cuts do most; {len(grid.marked & set(largest))} of them have one of the {len(largest)} largest "
        f"scores. Framed: {head_name(writer)} to the {OF_KIND[kind]} of {head_name(reader)}, {score:+.3f}, number "
        f"{by_score} of all {len(KINDS) * excess[kind].numel()} edges; its cut moves the predictions by "
        f"{moved:.4f} nats, number {by_cut}."
    )
    one = _by_kind(model, excess, effects, writer, reader, kind)
    return View(lambda: render(grid.picture(), caption), caption, grid.html() + one)


@dataclass(frozen=True)
class Grid:
    """The edges of a kind, a row for each writer and a column for each reader; an edge goes by its place in a row."""

    scores: Pairs
    effects: Pairs
    writers: list[str]
    readers: list[str]
    limit: float  # the end of the colour scale, which is symmetric about 0
    chosen: int

    @cached_property
    def marked(self) -> set[int]:
        """The edges whose cuts do most."""
        return set(self.effects.flatten().topk(min(N_MARKED, self.effects.numel())).indices.tolist())

    def heads(self, edge: int) -> tuple[str, str]:
        return self.writers[edge // len(self.readers)], self.readers[edge % len(self.readers)]

    def name(self, edge: int) -> str:
        return " → ".join(self.heads(edge))

    def picture(self) -> Figure:
        """The grid for the saved page."""
        labels = "reader, layer 1", "writer, layer 0"
        figure = heatmaps(
            {"": self.scores}, self.writers, self.readers, *labels, signed=True, limit=self.limit, width=5.4, height=4.2
        )
        rows, columns = zip(*(divmod(edge, len(self.readers)) for edge in self.marked), strict=True)
        row, column = divmod(self.chosen, len(self.readers))
        figure.axes[0].scatter(columns, rows, s=36, color="black", edgecolor="white")
        figure.axes[0].add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, linewidth=2.5, clip_on=False))
        figure.axes[-1].set_ylabel("score above random matrices")
        return figure

    def html(self) -> str:
        """Buttons side by side; Tab leads to the chosen one, arrow keys from there to the others."""
        n, buttons = len(self.readers), "".join(map(self._button, range(self.scores.numel())))
        hint = "Edges; arrow keys go from one to the next."
        return (
            f'<div class="book-grid" style="--columns: {n}"><small>writer ↓ reader →</small>'
            f'<div class="book-columns">{_spans(self.readers)}</div><div class="book-rows">{_spans(self.writers)}</div>'
            f'<div class="book-tokens" role="group" aria-label="{hint}" data-from="{self.chosen}" '
            f'data-columns="{n}">{buttons}</div><output class="book-says"></output></div>'
        )

    def _button(self, edge: int) -> str:
        score, effect = (table.flatten()[edge].item() for table in (self.scores, self.effects))
        ground, is_chosen = to_hex(BLUE_TO_RED((score / self.limit + 1) / 2)), edge == self.chosen
        choice = html.escape(json.dumps(dict(zip(("writer", "reader"), self.heads(edge), strict=True))))
        says = f"{self.name(edge)}: {score:+.3f} above random; its cut {effect:.4f} nats"
        return (
            f'<button data-at="{edge}" data-choose="{choice}" data-says="{says}" aria-label="{says}" '
            f'aria-pressed="{str(is_chosen).lower()}" tabindex="{0 if is_chosen else -1}" '
            f'style="background: {ground}">{"●" * (edge in self.marked)}</button>'
        )


def _spans(names: Sequence[str]) -> str:
    return "".join(f"<span>{name}</span>" for name in names)


# ---- one edge -----------------------------------------------------------------------------------------------------


def _by_kind(
    model: AttentionOnlyTransformer, excess: Tables, effects: Tables, writer: Head, reader: Head, kind: str
) -> str:
    """The score and the effect of an edge by each kind, as a table in HTML; a click on a kind chooses it."""
    place, n, rows = (writer[1], reader[1]), excess[kind].numel(), []
    for one in KINDS:
        raw, above, moved = composition_score(model, writer, reader, one), excess[one][place], effects[one][place]
        name = chooser(OF_KIND[one], {"kind": one}, pressed=one == kind)
        rows.append([name, raw, above.item(), _rank(excess[one], above), moved.item(), _rank(effects[one], moved)])
    columns = {f"{head_name(writer)} → {head_name(reader)}": "", "score": ".3f", "above random": "+.3f"}
    columns |= {f"rank of {n}": "", "divergence when cut, nats": ".4f", f"its rank of {n}": ""}
    return Table(columns, rows).view.html


@torch.no_grad()
def _strongest_pairs(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    among: Int[Tensor, " token"],
    writer: Head,
    reader: Head,
    kind: str,
) -> Table:
    """The tokens whose rows of the circuit through an edge have the largest entries, each with the token of its own."""
    circuit = circuit_through(model, writer, reader, kind)
    entries, partners = (circuit.left[among] @ circuit.right[:, among]).max(1)
    same = (partners == torch.arange(len(among))).float().mean()
    shown = entries.topk(min(N_PAIRS, len(among))).indices.tolist()
    first, second = ([code(tokenizer.show(int(among[i]))) for i in places] for places in (shown, partners[shown]))
    fetched = f"token that {head_name(writer)} fetched"
    columns = {
        "Q": ["what the query has: " + fetched, "token of the key", "score, nats"],
        "K": ["token of the query", "what the key has: " + fetched, "score, nats"],
        "V": [fetched, f"made likelier by {head_name(reader)}", "logit, nats"],
    }[kind]
    alone = f"{head_name(writer)} and {head_name(reader)} each" if kind == "V" else head_name(writer)
    caption = (
        f"The largest entries of the circuit through this edge, one a row, as if {alone} attended to one token "
        f"alone. Of {len(among):,} tokens, {same:.1%} find themselves at the top of their row."
    )
    rows = [[a, b, entries[i].item()] for a, b, i in zip(first, second, shown, strict=True)]
    return Table(dict(zip(columns, ["", "", "+.1f"], strict=True)), rows, caption)


def edge_explorer(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    excess: Tables,
    effects: Tables,
    among: Int[Tensor, " token"],
    writer: Head,
    reader: Head,
    kind: str = "K",
) -> Explorer:
    """Choose two heads and a kind, or click on an edge: how well they fit, what a cut does, what the edge is about.

    Raises:
        ReaderError: as in ``explore_edge``.
    """
    _check(model, writer, reader, kind, excess, effects)
    menus = {
        description: ipywidgets.Dropdown(
            options=[(head_name(head), head) for head in model.layer_heads(layer)],
            value=tuple(chosen),
            description=description.capitalize(),
        )
        for layer, (description, chosen) in enumerate({"writer": writer, "reader": reader}.items())
    }
    menus["kind"] = ipywidgets.Dropdown(options=[*KINDS], value=kind, description="Kind")
    show = partial(explore_edge, model, tokenizer, excess, effects, among)
    return Explorer(show, menus, ipywidgets.HBox([*menus.values()], layout={"flex_flow": "row wrap"}))
