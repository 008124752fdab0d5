"""Explorers of tokens: what comes after one, what a head makes of it."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.bigrams import Bigrams
from helpers.circuits import LowRank, copying_summary, ov_circuit, qk_circuit
from helpers.explorers.shell import WIDE_NAME, Explorer, chooser, head_menu, remembered, token_box, token_of
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.text import Text
from helpers.token_views import eigenvalue_view
from helpers.tokens import Tokenizer
from helpers.views import Field, Table, View, code

# ---- a token and its bigrams ------------------------------------------------------------------------------------


@torch.no_grad()
def explore_bigram(model: AttentionOnlyTransformer, tokenizer: Tokenizer, token: str, bigrams: Bigrams) -> tuple[Table]:
    """What comes after a token: on the left the likeliest by the model's direct path, on the right by the corpus.

    The caption has KL(corpus ‖ model) of the whole row.

    Raises:
        ReaderError: not one token of the vocabulary, or the model or the bigrams are of another vocabulary.
    """
    first = token_of(tokenizer, token)
    if not model.config.d_vocab == bigrams.d_vocab == tokenizer.d_vocab:
        raise ReaderError(
            f"The tokenizer has {tokenizer.d_vocab} tokens, the model {model.config.d_vocab} and the bigrams "
            f"{bigrams.d_vocab}: take all three from the same corpus."
        )
    log_p, row = (model.W_E[first] @ model.W_U).log_softmax(-1), bigrams.row(first)
    n, seen, p = int(row.sum()), row > 0, log_p.exp()
    share = row.double() / max(1, n)
    divergence = (share * (share.log() - log_p))[seen].sum()
    by_model = p.argsort(descending=True, stable=True)[:8].tolist()
    by_count = row.argsort(descending=True, stable=True)[: min(8, int(seen.sum()))].tolist()
    left = [[code(tokenizer.show(i)), p[i].item(), share[i].item()] for i in by_model]
    right = [[code(tokenizer.show(i)), share[i].item(), p[i].item()] for i in by_count]
    columns = {"likeliest in the model": "", "model": ".1%", "corpus": ".1%"}
    columns |= {"most frequent in the corpus": "", "in the corpus": ".1%", "in the model": ".1%"}
    rows = [[*a, *b] for a, b in itertools.zip_longest(left, right, fillvalue=["", "", ""])]
    shown = code(tokenizer.show(first))
    times = f"has {shown} {n:,} times; its row diverges from the model's by {divergence:.2f} nats"
    caption = f"After {shown}. The corpus {times if n else f'never has anything after {shown}'}."
    return (Table(columns, rows, caption),)


def bigram_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, token: str, bigrams: Bigrams, suggestions: Sequence[str]
) -> Explorer:
    """Type a token, or choose one of ``suggestions``: what comes next in the model and in the corpus, side by side."""
    box = token_box(token, "Token")
    names = [tokenizer.show(token_of(tokenizer, suggestion)) for suggestion in suggestions]
    options = [("choose one …", ""), *((name, name) for name in names)]
    menu = ipywidgets.Dropdown(options=options, value="", description="Suggestions", style=WIDE_NAME)
    ipywidgets.dlink((menu, "value"), (box, "value"), lambda chosen: chosen or box.value)
    ipywidgets.dlink((box, "value"), (menu, "value"), lambda typed: typed if typed in names else "")
    show = partial(explore_bigram, model, tokenizer, bigrams=bigrams)
    return Explorer(show, {"token": box}, ipywidgets.VBox([menu, box]))


# ---- what a head does with the token itself ---------------------------------------------------------------------

CIRCUITS = {"OV: does it raise what it attends to?": ov_circuit, "QK: does it attend to the same token?": qk_circuit}


def explore_copying(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    head: Head,
    circuit: Callable[[AttentionOnlyTransformer, Head], LowRank],
    among: Int[Tensor, " token"],
) -> tuple[View, Table]:
    """The eigenvalues of a head's ``circuit``, one of ``CIRCUITS``, and the ends of its diagonal, out of ``among``.

    Each row of the circuit is taken less its mean, which a softmax cannot see.

    Raises:
        ReaderError: no such head.
    """
    model.check_heads([head])
    matrix = circuit(model, head).centred()
    s, diagonal = copying_summary(matrix), matrix.standardised_diagonal()
    caption = (
        f"Head {head_name(head)}: eigenvalue score {s.eigenvalues:+.2f}; standardised diagonal {s.mean:+.2f} (mean), "
        f"{s.median:+.2f} (median); first in its own row {s.first:.1%} of tokens, among the ten first {s.top_10:.1%}."
    )
    order = among[diagonal[among].argsort(descending=True)]
    most, least = (
        [[code(tokenizer.show(token)), diagonal[token].item()] for token in tokens.tolist()]
        for tokens in (order[:8], order.flip(0)[:8])
    )
    columns = {"largest own entry": "", "largest, in sd": "+.1f", "smallest own entry": "", "smallest, in sd": "+.1f"}
    rows = [[*high, *low] for high, low in zip(most, least, strict=True)]
    ends = Table(columns, rows, "Common tokens by their diagonal entry, less the mean of their row, over its spread.")
    return eigenvalue_view(head_name(head), matrix.eigenvalues(), caption), ends


def copying_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, head: Head, among: Int[Tensor, " token"]
) -> Explorer:
    """Choose a head and a circuit: its eigenvalues, its summaries, and the tokens at either end of its diagonal."""
    menu = ipywidgets.Dropdown(options=[*CIRCUITS.items()], description="Circuit", layout={"width": "24em"})
    show = remembered(model, lambda head, circuit: explore_copying(model, tokenizer, head, circuit, among), n=64)
    controls = {"head": head_menu(model, head), "circuit": menu}
    return Explorer(lambda **chosen: show(*chosen.values()), controls)


# ---- a source token and a head of the one-layer model -----------------------------------------------------------

PAGE = 12  # rows of a table
QK, OV = "QK as a destination, nats", "OV as an out, nats"
COLUMNS = {"token": "", QK: "+.2f", "place among all": ",", OV: "+.2f", "place among all ": ","}
ORDERS = {  # by which column, and whether the largest comes first
    "largest QK": (QK, True),
    "smallest QK": (QK, False),
    "largest OV": (OV, True),
    "smallest OV": (OV, False),
    "token": ("token", False),
}
AS_TYPED = str.maketrans("␣↵→", " \n\t")
BY_QK, BY_OV = ORDERS["largest QK"], ORDERS["largest OV"]

Order = tuple[str, bool]


@dataclass(frozen=True)
class SourceReading:
    """What a head does with one source token: an entry for every token as a destination, and one for it as an out.

    Args:
        qk: the source's column of the QK circuit, each row's mean taken off; nats of attention score.
        ov: the source's row of the OV circuit, its mean taken off; nats of logit, at full attention.
    """

    text: Text
    head: Head
    source: int
    qk: Float[Tensor, " d_vocab"]
    ov: Float[Tensor, " d_vocab"]

    def name(self, token: int) -> str:
        return _names(self.text.tokenizer)[token]

    def found(self, part: str) -> Int[Tensor, " token"]:
        """The frequent tokens that contain ``part``, written as it is or as the book shows it."""
        plain, strings, frequent = part.translate(AS_TYPED), self.text.strings, self.text.frequent
        has = [part in self.name(token) or plain in strings[token] for token in frequent.tolist()]
        return frequent[torch.tensor(has, dtype=torch.bool)]

    def ranked(self, tokens: Int[Tensor, " token"], order: Order) -> Int[Tensor, " token"]:
        """``tokens`` in one of ``ORDERS``. Capitals, and a space before a word, do not count in the alphabet."""
        by, largest_first = order
        values = {QK: self.qk, OV: self.ov, "token": _alphabet(self.text.tokenizer)}[by]
        return tokens[values[tokens].argsort(descending=largest_first, stable=True)]

    def row(self, token: int) -> list[float | int]:
        """A token's QK and OV entries, each with its place among those of the frequent tokens, 1 for the largest."""
        pairs = ((entries[token], entries[self.text.frequent]) for entries in (self.qk, self.ov))
        return [number for own, others in pairs for number in (own.item(), 1 + int((others > own).sum()))]


@lru_cache(4)
def _names(tokenizer: Tokenizer) -> list[str]:
    return tokenizer.show_all(range(tokenizer.d_vocab))


@lru_cache(4)
def _alphabet(tokenizer: Tokenizer) -> Int[Tensor, " d_vocab"]:
    """The place of each token in the alphabet."""
    names = _names(tokenizer)
    order = sorted(range(len(names)), key=lambda token: (names[token].lstrip("␣").casefold(), names[token]))
    return torch.tensor(order).argsort()


def head_circuits(model: AttentionOnlyTransformer, head: Head) -> tuple[LowRank, LowRank]:
    """A head's QK and OV circuits, each row less its mean.

    Raises:
        ReaderError: no such head, or the model smears its keys.
    """
    model.check_heads([head])
    return qk_circuit(model, head).centred(), ov_circuit(model, head)


def read_source(text: Text, head: Head, circuits: tuple[LowRank, LowRank], source: str) -> SourceReading:
    """Look a source token up in a head's ``circuits``.

    Raises:
        ReaderError: the source is not one token of the vocabulary.
    """
    token, (qk, ov) = token_of(text.tokenizer, source), circuits
    return SourceReading(text, tuple(head), token, qk.columns(token), ov.rows(token))


def explore_head(reading: SourceReading, order: Order = BY_QK, find: str = "", page: int = 1) -> View:
    """A page, from 1, of the frequent tokens that contain ``find``, and before them the source itself.

    Only tokens that occur 1,000 times are listed. A click on the head of a column sorts by it; a click on a token makes
    that the source.
    """
    found, start = reading.found(find), PAGE * (page - 1)
    listed = reading.ranked(found, order)[start : start + PAGE].tolist()
    source = code(reading.name(reading.source))
    place = f"{start + 1:,} to {start + len(listed):,} of {len(found):,} frequent tokens"
    caption = (
        f"Head {head_name(reading.head)} and the source {source}, then {place if listed else 'no frequent token'}"
        f"{f' with {code(_cut(find))} in it' if find else ''}. QK: how much each asks for the source (its "
        "row's mean taken off). OV: how far the source raises each."
    )
    names, numbers = zip(*((reading.name(t), reading.row(t)) for t in (reading.source, *listed)), strict=True)

    def table(columns: dict[str, str], first_cells: list[str]) -> View:
        first_cells[0] = f"**{first_cells[0]}**"
        return Table(columns, [[cell, *row] for cell, row in zip(first_cells, numbers, strict=True)]).view

    still = table(COLUMNS, [code(name) for name in names])
    live = table(_sorting_columns(order), [chooser(code(name), {"source": name}) for name in names])
    return View(still.still, caption, live.html)


def _cut(text: str, most: int = 40) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def _sorting_columns(order: Order) -> dict[str, str]:
    """``COLUMNS`` with buttons that choose an order: a column's name for its first one, an arrow for another."""
    columns = {}
    for column, spec in COLUMNS.items():
        labels = [label for label, (by, _) in ORDERS.items() if by == column]
        buttons = [
            chooser(shown, {"order": label}, label, ORDERS[label] == order)
            for shown, label in zip((column, "▲"), labels, strict=False)
        ]
        columns[" ".join(buttons) or column] = spec
    return columns


def explore_examples(reading: SourceReading, max_gap: int, n: int = 5) -> Table:
    """Skip-trigrams of the ``n`` largest destinations and outs that the text has, the most frequent first.

    Only the first 8 million tokens of the text are searched, and the source at most ``max_gap`` tokens before.
    """
    destinations, outs = (reading.ranked(reading.text.frequent, by)[:n].tolist() for by in (BY_QK, BY_OV))
    found = [row for destination in destinations for row in _examples(reading, destination, outs, max_gap)]
    rows = [[times, line] for _, times, line in sorted(found, key=lambda row: -row[0])[:5]]
    which = f"Of the {len(destinations)} largest destinations and outs"
    counted = f"{which}: how often both follow the source, of how often the destination does."
    none = "The text has no skip-trigram of the largest destinations and outs."
    return Table({"times": "", "for example": ""}, rows, counted if rows else none)


def _examples(
    reading: SourceReading, destination: int, outs: Sequence[int], max_gap: int
) -> Iterator[tuple[int, str, str]]:
    """For each out that the text has: how often, "3 of 12", and a line with the source some eight tokens away."""
    text, positions = reading.text, reading.text.positions
    tokens, sources = positions.tokens, positions[reading.source]
    places = positions.after(reading.source, destination, max_gap)
    for out in outs:
        ends = places[tokens[places + 1] == out]
        if len(ends):
            starts = sources[np.searchsorted(sources, ends) - 1]
            i = np.abs(ends - starts - 8).argmin()
            yield len(ends), f"{len(ends):,} of {len(places):,}", _line(text, int(starts[i]), int(ends[i]))


def _line(text: Text, start: int, end: int) -> str:
    """The text around a skip-trigram from ``start`` to its destination at ``end``; a long middle is left out."""

    def words(first: int, stop: int) -> str:
        shown = text.tokenizer.show_all(text.positions.tokens[first:stop])
        return code("".join(shown)) if shown else ""

    source, destination, out = (f"**{words(i, i + 1)}**" for i in (start, end, end + 1))
    is_short = end - start <= 17
    between = words(start + 1, end) if is_short else f"{words(start + 1, start + 9)} … {words(end - 8, end)}"
    return f"{words(max(0, start - 5), start)} {source} {between} {destination} → {out}"


def head_explorer(model: AttentionOnlyTransformer, text: Text, source: str, head: Head) -> Explorer:
    """Type a source token, or click on one, and choose a head: every frequent token as a destination and as an out.

    They can be sorted, searched and paged through. Below are skip-trigrams of the largest entries, from the text.
    """
    box = token_box(text.tokenizer.show(token_of(text.tokenizer, source)), "Source token")
    part = Field(description="Find", placeholder="tokens that contain …")
    menu = ipywidgets.Dropdown(options=ORDERS, description="Order by")
    slider = ipywidgets.IntSlider(1, 1, 1, description="Page")
    circuits = remembered(model, partial(head_circuits, model), n=len(model.heads))
    listed = None  # the last choice of all but the page

    def look_up(source: str, head: Head) -> tuple[SourceReading, Table]:
        reading = read_source(text, head, circuits(head), source)
        return reading, explore_examples(reading, model.config.n_ctx - 1)

    look_up = remembered(model, look_up)

    def show(source: str, head: Head, order: Order, page: int, find: str) -> tuple[View, Table]:
        nonlocal listed
        reading, examples = look_up(source, head)
        slider.max = max(1, math.ceil(len(reading.found(find)) / PAGE))
        if listed != (listed := (source, head, order, find)):
            slider.value = 1
        return explore_head(reading, order, find, slider.value), examples

    controls = {"source": box, "head": head_menu(model, head), "order": menu, "page": slider, "find": part}
    wrap = {"flex_flow": "row wrap"}
    rows = [ipywidgets.HBox(row, layout=wrap) for row in ([box, controls["head"]], [part, menu])]
    return Explorer(show, controls, ipywidgets.VBox([*rows, slider]))
