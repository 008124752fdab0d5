"""Explorers: things of the book to try out with text and heads of one's own.

Each is two functions. ``explore_x`` is pure: from what the reader chose to what was found, with a ReaderError for
what cannot be. ``x_explorer`` puts controls before it. What is shown is made of the pictures, tables and views of
the chapters, and is saved with the notebook as it first was, so that a page reads well where nothing runs.
"""

import asyncio
import html
import itertools
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import ipywidgets
import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import Copying, HeadReading, copying_summary, ov_circuit, positivity, qk_circuit, read_head
from helpers.figures import Plate, Table, bars, code, eigenvalue_planes, line_panels
from helpers.measures import (
    destinations_after,
    frequent_tokens,
    loss_per_token,
    mean_outputs,
    prefix_matching_scores,
    previous_token_scores,
    random_repeats,
    repeated_random_loss,
    value_weighted,
)
from helpers.model import AttentionOnlyTransformer, Head, Replacements
from helpers.stream import message_logits, message_names, messages
from helpers.tokens import Bigrams, EncodedCorpus, Tokenizer
from helpers.training import TrainingState
from helpers.views import Pane, Sight, attention_view, parts, show_both, token_view

WEIGHTS = ("attention", "value-weighted attention")
LOCK = threading.RLock()  # held by whoever runs a model: a front end may call back in another thread
RANDOM_LENGTH, RANDOM_SAMPLES = 20, 4  # the repeated random text: tokens in a copy, texts


class Explorer:
    """Controls, and below them what ``show`` makes of their values; one sentence instead if they make no sense.

    Args:
        show: called with the controls' values by name, returns pictures, tables and views, always as many.
        controls: widgets with a value, in the order of ``show``'s arguments.
        arrangement: a widget that lays the controls out; one below the other by default.

    Raises:
        ReaderError: already the first values make no sense.
    """

    def __init__(
        self, show: Callable[..., Sequence[Sight]], controls: dict[str, ipywidgets.ValueWidget],
        arrangement: ipywidgets.Widget | None = None,
    ):
        self._show, self.controls = show, controls
        self.message = ipywidgets.HTML()
        with LOCK:
            self.panes = [Pane(part) for part in self._parts()]
        self._settings = self._in_words()
        self._panel = ipywidgets.VBox([arrangement or ipywidgets.VBox([*controls.values()]), self.message])
        for control in controls.values():
            control.observe(self._refresh, names="value")

    def _parts(self) -> list:
        values = {name: control.value for name, control in self.controls.items()}
        return [part for sight in self._show(**values) for part in parts(sight)]

    def _refresh(self, _change) -> None:
        with LOCK:
            try:
                found, sentence = self._parts(), ""
            except ReaderError as error:
                found, sentence = [None] * len(self.panes), str(error)
            except Exception as error:
                self._say(f"This did not work ({type(error).__name__}: {error}): choose something else.")
                raise
            for pane, part in zip(self.panes, found, strict=True):
                pane.show(part)
            self._say(sentence)

    def _say(self, sentence: str) -> None:
        self.message.value = f'<p role="alert"><b>{html.escape(sentence)}</b></p>' if sentence else ""

    def _in_words(self) -> str:
        """The settings of the controls, for the saved page. Buttons that are not pressed go without saying."""
        settings = []
        for control in self.controls.values():
            if isinstance(control.value, bool):
                settings += [f"{control.description} pressed"] * control.value
            else:
                value = getattr(control, "label", control.value)
                settings.append(f"{control.description.lower()} {code(textwrap.shorten(str(value), 60) or '…')}")
        return f"**Explorer**, as saved with {', '.join(settings)}. Run this cell to change that."

    def _ipython_display_(self) -> None:
        show_both(self._panel, {"text/markdown": self._settings, "text/plain": self._settings})
        for pane in self.panes:
            pane._ipython_display_()


# ---- controls -------------------------------------------------------------------------------------------------


def text_box(text: str) -> ipywidgets.Textarea:
    return ipywidgets.Textarea(text, description="Text", continuous_update=False, placeholder="Type a text",
                               layout={"width": "98%", "height": "6em"},
                               tooltip="Type, then press Tab or click elsewhere")


def token_box(token: str, description: str) -> ipywidgets.Text:
    """A field for one token; ␣, ↵ and → may be typed for a space, a new line and a tab."""
    return ipywidgets.Text(token, description=description, continuous_update=False, tooltip="Type, then press Enter",
                           placeholder="one token, such as ␣self", style={"description_width": "initial"})


def head_menu(model: AttentionOnlyTransformer, head: Head) -> ipywidgets.Dropdown:
    """Raises ReaderError if the model has no such head."""
    _check_heads(model, [head])
    return ipywidgets.Dropdown(options=[(head_name(h), h) for h in model.heads], value=tuple(head), description="Head")


def head_name(head: Head) -> str:
    return f"{head[0]}:{head[1]}"


def _check_heads(model: AttentionOnlyTransformer, heads: Sequence[Head]) -> None:
    for head in heads:
        if tuple(head) not in model.heads:
            raise ReaderError(f"There is no head {head_name(head)}: this model has {model.config.n_layers} layers of "
                              f"{model.config.n_heads} heads, both counted from 0.")


def token_of(tokenizer: Tokenizer, text: str) -> int:
    """The one token that ``text`` is, written as it is or as the book shows it (␣self, ↵).

    Raises:
        ReaderError: it is not one token of the vocabulary.
    """
    if len(text) > 100:
        raise ReaderError(f"A text of {len(text):,} letters is not one token of the vocabulary: type a shorter one.")
    try:
        return tokenizer.token(text)
    except ReaderError:
        as_shown = {tokenizer.show(token): token for token in range(tokenizer.d_vocab)}
        if text not in as_shown:
            raise
        return as_shown[text]


# ---- a token and its bigrams ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Continuation:
    """A token that may come next, with its probability in the model and in the corpus."""

    token: str  # as shown
    model: float
    corpus: float


@dataclass(frozen=True)
class BigramReading:
    """What comes after one token: the row of the model's bigram table, and the row of the corpus'."""

    token: int
    n: int  # how often the corpus has the token, with another after it
    model: list[Continuation]  # the model's likeliest, in order
    corpus: list[Continuation]  # the corpus' most frequent; fewer or none if it has fewer
    divergence: float  # KL(corpus ‖ model) of the whole row, nats; 0 for a token that the corpus does not have


def explore_bigram(
    token_text: str, model: AttentionOnlyTransformer, tokenizer: Tokenizer, counts: Bigrams, n: int = 8
) -> BigramReading:
    """The ``n`` likeliest next tokens after one token, by the model's direct path and by the counts of a corpus.

    Raises:
        ReaderError: not one token of the vocabulary, or the model or the counts are of another vocabulary.
    """
    token = token_of(tokenizer, token_text)
    if not model.config.d_vocab == counts.d_vocab == tokenizer.d_vocab:
        raise ReaderError(f"The tokenizer has {tokenizer.d_vocab} tokens, the model {model.config.d_vocab} and the "
                          f"counts {counts.d_vocab}: take all three from the same corpus.")
    with torch.no_grad():
        log_probs = (model.W_E[token] @ model.W_U).log_softmax(-1)
    row = counts.row(token)
    frequencies = row.double() / max(1, int(row.sum()))
    seen = row > 0
    divergence = (frequencies * (frequencies.log() - log_probs))[seen].sum().item()

    def continuations(likeliest: Int[Tensor, " next"]) -> list[Continuation]:
        return [Continuation(tokenizer.show(i), log_probs[i].exp().item(), frequencies[i].item())
                for i in likeliest.tolist()]

    by_model = continuations(log_probs.topk(min(n, tokenizer.d_vocab)).indices)
    by_count = continuations(row.argsort(descending=True, stable=True)[: min(n, int(seen.sum()))])
    return BigramReading(token, int(row.sum()), by_model, by_count, divergence)


def bigram_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, counts: Bigrams, token: str, suggestions: Sequence[str]
) -> Explorer:
    """Type a token, or choose one of ``suggestions``: what comes next in the model and in the corpus, side by side."""
    box = token_box(token, "Token")
    names = [tokenizer.show(token_of(tokenizer, suggestion)) for suggestion in suggestions]
    menu = ipywidgets.Dropdown(options=[("choose one …", ""), *((name, name) for name in names)], value="",
                               description="Suggestions", style={"description_width": "initial"})

    def take_suggestion(change) -> None:
        if change.new:
            box.value = change.new

    def forget_suggestion(change) -> None:
        menu.value = change.new if change.new in names else ""

    menu.observe(take_suggestion, names="value")
    box.observe(forget_suggestion, names="value")

    def show(token: str) -> list[Sight]:
        return [bigram_table(explore_bigram(token, model, tokenizer, counts), tokenizer)]

    return Explorer(show, {"token": box}, ipywidgets.VBox([menu, box]))


def bigram_table(reading: BigramReading, tokenizer: Tokenizer) -> Table:
    """The model's likeliest continuations on the left, the corpus' most frequent on the right."""
    left = [[code(c.token), f"{c.model:.1%}", f"{c.corpus:.1%}"] for c in reading.model]
    right = [[code(c.token), f"{c.corpus:.1%}", f"{c.model:.1%}"] for c in reading.corpus]
    rows = [[*a, *b] for a, b in itertools.zip_longest(left, right, fillvalue=["", "", ""])]
    shown = code(tokenizer.show(reading.token))
    times = f"has {shown} {reading.n:,} times; its row diverges from the model's by {reading.divergence:.2f} nats"
    caption = f"After {shown}. The corpus {times if reading.n else f'never has anything after {shown}'}."
    header = ["likeliest in the model", "model", "corpus", "most frequent in the corpus", "corpus", "model"]
    return Table(header, rows, caption)


# ---- what a head does with the token itself --------------------------------------------------------------------

CIRCUITS = {"OV: does it raise what it attends to?": ov_circuit, "QK: does it attend to the same token?": qk_circuit}


@dataclass(frozen=True)
class CopyingReading:
    """One circuit of a head, with the row means that a softmax cannot see and without them."""

    eigenvalues: dict[str, Complex[Tensor, " rank"]]  # "as it is" and "rows centred"
    summary: Copying  # as it is
    centred_score: float
    most: list[tuple[str, float]]  # tokens with the largest standardised diagonal entries, as shown
    least: list[tuple[str, float]]


def explore_copying(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, among: Int[Tensor, " token"], head: Head, circuit: str,
    n: int = 8,
) -> CopyingReading:
    """Eigenvalues and diagonal of a head's circuit, one of ``CIRCUITS``; ``most`` and ``least`` are out of ``among``.

    Raises:
        ReaderError: no such head, or another circuit.
    """
    _check_heads(model, [head])
    if circuit not in CIRCUITS:
        raise ReaderError(f"There is no circuit {circuit!r}: choose one of {', '.join(map(repr, CIRCUITS))}.")
    matrix = CIRCUITS[circuit](model, head)
    eigenvalues = {"as it is": matrix.eigenvalues(), "rows centred": matrix.centred().eigenvalues()}
    diagonal = matrix.standardised_diagonal()
    order = among[diagonal[among].argsort(descending=True)]
    most, least = ([(tokenizer.show(token), diagonal[token].item()) for token in tokens.tolist()]
                   for tokens in (order[:n], order.flip(0)[:n]))
    return CopyingReading(eigenvalues, copying_summary(matrix), positivity(eigenvalues["rows centred"]), most, least)


def copying_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, among: Int[Tensor, " token"], head: Head
) -> Explorer:
    """Choose a head and a circuit: its eigenvalues, its summaries, and the tokens at either end of its diagonal."""
    menu = ipywidgets.Dropdown(options=[*CIRCUITS], description="Circuit", layout={"width": "24em"})

    def show(head: Head, circuit: str) -> list[Sight]:
        return copying_sights(explore_copying(model, tokenizer, among, head, circuit), head_name(head))

    return Explorer(show, {"head": head_menu(model, head), "circuit": menu})


def copying_sights(reading: CopyingReading, name: str) -> list[Sight]:
    """The eigenvalues with the scores below them, and the tokens of the diagonal's two ends."""
    s = reading.summary
    caption = (f"Head {name}: eigenvalue score {s.eigenvalues:+.2f}, with centred rows {reading.centred_score:+.2f}; "
               f"standardised diagonal {s.mean:+.2f} (mean), {s.median:+.2f} (median); first in its own row "
               f"{s.first:.1%} of tokens, among the ten first {s.top_k:.1%}.")
    rows = [[code(most), f"{high:+.1f}", code(least), f"{low:+.1f}"]
            for (most, high), (least, low) in zip(reading.most, reading.least, strict=True)]
    header = ["largest own entry", "standard deviations", "smallest own entry", "standard deviations"]
    return [eigenvalue_planes(reading.eigenvalues, caption, columns=2),
            Table(header, rows, "Common tokens by their diagonal entry, less the mean of their row, over its spread.")]


# ---- a text and a head ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TextReading:
    """What a head looks at in a text, and what the model expects at every position of it."""

    tokens: list[str]  # as shown, <START> first
    pattern: Float[Tensor, "dest src"]
    moved: Float[Tensor, "dest src"]  # value-weighted attention, as a share of all that arrives at a destination
    likely: list[list[tuple[str, float]]]  # at each position, the five likeliest next tokens with their probability
    loss: Float[Tensor, " pos-1"]  # of each token but the first, nats


def explore_text(
    text: str, model: AttentionOnlyTransformer, tokenizer: Tokenizer, layer: int, head: int
) -> TextReading:
    """Attention of one head on ``text``, and the model's predictions.

    Raises:
        ReaderError: no such head; the text is empty or longer than the context.
    """
    _check_heads(model, [(layer, head)])
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens)
    log_probs = logits[0].log_softmax(-1)
    best = log_probs.topk(min(5, tokenizer.d_vocab))
    likely = [list(zip(tokenizer.show_all(ids), probabilities, strict=True))
              for ids, probabilities in zip(best.indices.tolist(), best.values.exp().tolist(), strict=True)]
    loss = -log_probs[:-1].gather(1, tokens[0, 1:, None])[:, 0]
    moved = value_weighted(cache.patterns[layer], cache.values[layer], model.W_O[layer])[0, head]
    moved = moved / moved.sum(-1, keepdim=True)
    return TextReading(tokenizer.show_all(tokens[0]), cache.patterns[layer][0, head], moved, likely, loss)


def text_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, head: Head, position: int | None = None,
    weigh: bool = False,
) -> Explorer:
    """Type a text, choose a head and a position: the loss of each token, the head's attention, the next token.

    ``position`` is by default the last that has a next token; ``weigh`` weighs attention by the length of what it
    moves.
    """
    n = tokenizer.prompt(text, model.config.n_ctx).shape[1]
    slider = ipywidgets.IntSlider(n - 2 if position is None else position, 0, n - 1, description="Position",
                                  continuous_update=False)
    box = text_box(text)
    weight = ipywidgets.Dropdown(options=WEIGHTS, value=WEIGHTS[weigh], description="Show")

    def fit_slider(change) -> None:
        slider.max = min(len(tokenizer.encode(change.new[:10_000])), model.config.n_ctx - 1)

    def show(text: str, head: Head, position: int, weight: str) -> list[Sight]:
        """Each token's loss, the head's attention, and what is likely at the position."""
        reading = explore_text(text, model, tokenizer, *head)
        mean_loss = f"Mean loss {reading.loss.mean():.2f} nats a token."
        return [
            token_view(reading.tokens, _from_start(reading.loss), "loss, nats", mean_loss),
            attention_view(reading.tokens, (reading.moved if weight == WEIGHTS[1] else reading.pattern)[None],
                           [head_name(head)]),
            prediction_table(reading, min(position, len(reading.tokens) - 1)),
        ]

    box.observe(fit_slider, names="value")
    return Explorer(show, {"text": box, "head": head_menu(model, head), "position": slider, "weight": weight})


def _from_start(losses: Float[Tensor, " pos-1"]) -> Float[Tensor, " pos"]:
    """The same with a 0 for ``<START>``, which nothing predicts."""
    return torch.cat([losses.new_zeros(1), losses])


def prediction_table(reading: TextReading, position: int) -> Table:
    """The five likeliest tokens after ``position``, and what the text has there."""
    caption = f"After {code(reading.tokens[position])} (position {position})"
    if position < len(reading.loss):
        loss = reading.loss[position]
        caption += (f" the text goes on with {code(reading.tokens[position + 1])}: "
                    f"probability {(-loss).exp():.1%}, loss {loss:.2f} nats.")
    else:
        caption += " the text ends."
    rows = [[code(token), f"{probability:.1%}"] for token, probability in reading.likely[position]]
    return Table(["likely next token", "probability"], rows, caption)


# ---- the messages in the stream -------------------------------------------------------------------------------


@dataclass(frozen=True)
class MessageReading:
    """What every message in the stream at one position is worth to the logit of one token."""

    tokens: list[str]  # of the text, as shown
    position: int
    out: str  # the token that the messages speak of, as shown
    probability: float  # of it, after all of them
    names: list[str]  # "token", "0:0", …
    logits: list[float]  # nats above the average over the vocabulary


def explore_messages(
    text: str, model: AttentionOnlyTransformer, tokenizer: Tokenizer, position: int
) -> MessageReading:
    """The logit of the token that the text has after ``position`` (after its end: of the likeliest), by message.

    Raises:
        ReaderError: the text is empty or longer than the context, or has no such position.
    """
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    n = tokens.shape[1]
    if not 0 <= position < n:
        raise ReaderError(f"There is no position {position}: this text has positions 0 to {n - 1}.")
    with torch.no_grad():
        here = messages(model, tokens)[:, 0, position]
        probabilities = (here.sum(0) @ model.W_U).softmax(-1)
        out = int(tokens[0, position + 1]) if position + 1 < n else int(probabilities.argmax())
        logits = message_logits(model, here, out).tolist()
    return MessageReading(tokenizer.show_all(tokens[0]), position, tokenizer.show(out), probabilities[out].item(),
                          message_names(model), logits)


def message_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, position: int
) -> Explorer:
    """Type a text and choose a position: which components speak for the token that comes next, and how loudly."""
    slider = ipywidgets.IntSlider(position, 0, tokenizer.prompt(text, model.config.n_ctx).shape[1] - 1,
                                  description="Position", continuous_update=False)
    box = text_box(text)

    def fit_slider(change) -> None:
        slider.max = min(len(tokenizer.encode(change.new[:10_000])), model.config.n_ctx - 1)

    def show(text: str, position: int) -> list[Sight]:
        last = tokenizer.prompt(text, model.config.n_ctx).shape[1] - 1
        return [message_bars(explore_messages(text, model, tokenizer, min(position, last)))]

    box.observe(fit_slider, names="value")
    return Explorer(show, {"text": box, "position": slider})


def message_bars(reading: MessageReading) -> Plate:
    """A bar for each message."""
    before = code(*reading.tokens[max(0, reading.position - 8) : reading.position + 1])
    loudest = max(range(len(reading.names)), key=lambda i: abs(reading.logits[i]))
    return bars(reading.names, {"logit": reading.logits}, "nats",
                f"After {before} (position {reading.position}): what each message adds to the logit of "
                f"{code(reading.out)}. The sum is {sum(reading.logits):.1f} nats, the probability "
                f"{reading.probability:.1%}; the loudest is {reading.names[loudest]} with "
                f"{reading.logits[loudest]:+.1f}.")


# ---- a source token and a head of the one-layer model ---------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A skip-trigram ``source … destination out`` that the corpus has, and one place where."""

    destination: int
    out: int
    n: int  # how often
    n_destination: int  # how often the destination comes after the source at all
    before: list[int]  # the tokens of the example up to the source
    between: list[int]  # from the source to the destination


def explore_head(
    head: Head, source_text: str, model: AttentionOnlyTransformer, corpus: EncodedCorpus,
    among: Int[Tensor, " token"] | None = None, n_examples: int = 5,
) -> tuple[HeadReading, list[Example]]:
    """The destinations and outs of a head for one source token, and where the corpus bears them out.

    Only tokens of ``among`` are considered, by default those that come at least once in 40,000 tokens.

    Raises:
        ReaderError: no such head, or the source is not one token of the vocabulary.
    """
    _check_heads(model, [head])
    source = token_of(corpus.tokenizer, source_text)
    among = common_tokens(corpus) if among is None else among
    with torch.no_grad():
        reading = read_head(model, tuple(head), source, among, n=min(5, len(among)))
    found = [example for destination in reading.destinations
             for example in _examples(corpus.train, source, destination, reading.outs, model.config.n_ctx - 1)]
    return reading, sorted(found, key=lambda example: -example.n)[:n_examples]


def common_tokens(corpus: EncodedCorpus) -> Int[Tensor, " token"]:
    return frequent_tokens(corpus.train, corpus.tokenizer.d_vocab, max(1, len(corpus.train) // 40_000))


def _examples(stream: np.ndarray, source: int, destination: int, outs: list[int], max_gap: int) -> list[Example]:
    """For each of ``outs`` that the text has: how often, and a place where the source is some eight tokens away."""
    places = destinations_after(stream, source, destination, max_gap)
    sources = np.flatnonzero(stream == source)
    examples = []
    for out in outs:
        ends = places[stream[places + 1] == out]
        if len(ends):
            starts = sources[np.searchsorted(sources, ends) - 1]
            i = np.abs(ends - starts - 8).argmin()
            before, between = stream[max(0, starts[i] - 5) : starts[i]], stream[starts[i] + 1 : ends[i]]
            examples.append(Example(destination, out, len(ends), len(places), before.tolist(), between.tolist()))
    return examples


def head_explorer(model: AttentionOnlyTransformer, corpus: EncodedCorpus, source: str, head: Head) -> Explorer:
    """Type a source token, choose a head: its destinations, its outs, and skip-trigrams of both in the corpus."""
    among = common_tokens(corpus)
    box = token_box(corpus.tokenizer.show(token_of(corpus.tokenizer, source)), "Source token")

    def show(source: str, head: Head) -> list[Sight]:
        reading, examples = explore_head(head, source, model, corpus, among)
        return [reading_table(reading, corpus.tokenizer), example_table(reading, examples, corpus.tokenizer)]

    return Explorer(show, {"source": box, "head": head_menu(model, head)})


def reading_table(reading: HeadReading, tokenizer: Tokenizer) -> Table:
    """The largest entries of both circuits, side by side."""
    pairs = zip(reading.destinations, reading.wanted, reading.outs, reading.raised, strict=True)
    rows = [[code(tokenizer.show(d)), f"{wanted:+.2f}", code(tokenizer.show(o)), f"{raised:+.2f}"]
            for d, wanted, o, raised in pairs]
    return Table(["attends to it most", "QK, nats", "made likelier", "OV, nats"], rows,
                 f"Head {head_name(reading.head)} and the source {code(tokenizer.show(reading.source))}: the largest "
                 "entries of its QK column (each row's mean taken off) and of its OV row.")


def example_table(reading: HeadReading, examples: list[Example], tokenizer: Tokenizer) -> Table:
    """Skip-trigrams that the corpus has, each with a line of text around it."""

    def words(ids: list[int]) -> str:
        return code("".join(tokenizer.show_all(ids))) if ids else ""

    rows = []
    for e in examples:
        source, destination, out = (f"**{words([token])}**" for token in (reading.source, e.destination, e.out))
        line = f"{words(e.before)} {source} {_shortened(e.between, words)} {destination} → {out}"
        rows.append([f"{e.n:,} of {e.n_destination:,}", line])
    caption = "How often destination and out come after the source in the corpus, of how often the destination does."
    return Table(["times", "for example"], rows, caption if rows else "The corpus has no skip-trigram of these tokens.")


def _shortened(ids: list[int], words: Callable[[list[int]], str], longest: int = 16) -> str:
    half = longest // 2
    return words(ids) if len(ids) <= longest else f"{words(ids[:half])} … {words(ids[-half:])}"


# ---- taking heads away ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AblationReading:
    """Losses in nats, of the intact model and of the one without some heads."""

    tokens: list[str]  # of the text, <START> first
    intact: Float[Tensor, " pos-1"]
    ablated: Float[Tensor, " pos-1"]
    random_intact: tuple[float, float]  # on the first and on the second copy of random tokens
    random_ablated: tuple[float, float]


def explore_ablation(
    text: str, model: AttentionOnlyTransformer, tokenizer: Tokenizer, ablated_heads: Sequence[Head], kind: str = "zero"
) -> AblationReading:
    """Take heads away and see what it costs, on ``text`` and on random tokens that come twice.

    What a head writes becomes nothing (``kind`` "zero") or its average over the very tokens that are read ("mean").

    Raises:
        ReaderError: no such head; the text is empty or longer than the context; another ``kind``.
    """
    if kind not in ("zero", "mean"):
        raise ReaderError(f"The kind of ablation is {kind!r}: choose 'zero' or 'mean'.")
    _check_heads(model, ablated_heads)
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    random = random_repeats(model.config.d_vocab, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES)
    with torch.no_grad():
        on_text, on_random = (_replacements(model, t, ablated_heads, kind) for t in (tokens, random))
    return AblationReading(
        tokens=tokenizer.show_all(tokens[0]),
        intact=loss_per_token(model, tokens)[0],
        ablated=loss_per_token(model, tokens, replace=on_text)[0],
        random_intact=repeated_random_loss(model, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES),
        random_ablated=repeated_random_loss(model, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES, replace=on_random),
    )


def _replacements(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], heads: Sequence[Head], kind: str
) -> Replacements:
    means = mean_outputs(model, tokens) if kind == "mean" and heads else {}
    return {tuple(head): means.get(tuple(head), 0.0) for head in heads}


def ablation_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, ablated_heads: Sequence[Head] = ()
) -> Explorer:
    """A button for each head that takes it away: the losses move, and the tokens show where."""
    box = text_box(text)
    kind = ipywidgets.Dropdown(options=["zero", "mean"], description="Ablation",
                               tooltip="What takes the place of a head's output")
    buttons = {head_name(head): _toggle(head, head in [tuple(h) for h in ablated_heads]) for head in model.heads}

    def show(text: str, kind: str, **pressed: bool) -> list[Sight]:
        gone = [head for head in model.heads if pressed[head_name(head)]]
        return ablation_sights(explore_ablation(text, model, tokenizer, gone, kind), gone)

    rows = [ipywidgets.HBox([ipywidgets.Label(f"Take away, layer {layer}:", layout={"width": "11em"}),
                             *(buttons[head_name(head)] for head in model.heads if head[0] == layer)],
                            layout={"flex_flow": "row wrap"})
            for layer in range(model.config.n_layers)]
    return Explorer(show, {"text": box, "kind": kind, **buttons}, ipywidgets.VBox([box, kind, *rows]))


def _toggle(head: Head, pressed: bool) -> ipywidgets.ToggleButton:
    """A button that says with a cross, not by colour alone, that its head is taken away."""
    button = ipywidgets.ToggleButton(pressed, description=head_name(head), tooltip=f"take head {head_name(head)} away",
                                     icon="times" if pressed else "", layout={"width": "4.5em"})
    button.observe(lambda change: setattr(button, "icon", "times" if change.new else ""), names="value")
    return button


def ablation_sights(reading: AblationReading, gone: Sequence[Head]) -> list[Sight]:
    """Bars of the mean losses before and after, and the text with the change at each token."""
    without = f"without {', '.join(map(head_name, gone))}" if gone else "with every head in place"
    names = ["your text", "random tokens,\nfirst copy", "random tokens,\nsecond copy"]
    before = [reading.intact.mean().item(), *reading.random_intact]
    after = [reading.ablated.mean().item(), *reading.random_ablated]
    moves = [f"{name}: {b:.2f} → {a:.2f}".replace("\n", " ") for name, b, a in zip(names, before, after, strict=True)]
    return [
        bars(names, {"intact": before, "now": after}, "loss, nats a token",
             f"Mean losses of the intact model, then {without}: {'; '.join(moves)}."),
        token_view(reading.tokens, _from_start(reading.ablated - reading.intact), "change of loss, nats",
                   f"Change of each token's loss {without}."),
    ]


# ---- the course of training -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Moment:
    """A model as it was at one step of its training: what a head of it looks at in a text, and what its heads do."""

    reading: TextReading
    previous_token: Float[Tensor, "layer head"]  # attention to the previous token, on the text
    prefix_matching: Float[Tensor, "layer head"]  # on repeated random tokens


def explore_moment(text: str, model: AttentionOnlyTransformer, tokenizer: Tokenizer, head: Head) -> Moment:
    """``explore_text``, and the scores of every head.

    Raises:
        ReaderError: no such head; the text is empty, or longer than the context.
    """
    reading = explore_text(text, model, tokenizer, *head)
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    return Moment(reading, previous_token_scores(model, tokens), prefix_matching_scores(model, RANDOM_LENGTH))


def moment_explorer(
    moments: dict[int, AttentionOnlyTransformer], tokenizer: Tokenizer, text: str, head: Head, step: int
) -> Explorer:
    """Go through a training by a slider: a head's attention in a text, each token's loss, and what all heads do."""
    box = text_box(text)
    slider = ipywidgets.SelectionSlider(options=[(f"{s:,}", s) for s in moments], value=step, description="Step",
                                        continuous_update=False, layout={"width": "98%"})
    menu = head_menu(moments[step], head)

    def show(step: int, head: Head, text: str) -> list[Sight]:
        """The head's attention, each token's loss, and every head's scores at the step."""
        moment = explore_moment(text, moments[step], tokenizer, head)
        reading = moment.reading
        return [
            attention_view(reading.tokens, reading.pattern[None], [head_name(head)], f"Step {step:,}."),
            token_view(reading.tokens, _from_start(reading.loss), "loss, nats",
                       f"Mean loss at step {step:,}: {reading.loss.mean():.2f} nats a token."),
            moment_bars(moment, step),
        ]

    return Explorer(show, {"step": slider, "head": menu, "text": box})


def moment_bars(moment: Moment, step: int) -> Plate:
    """Both scores of every head."""
    n_layers, n_heads = moment.prefix_matching.shape
    names = [head_name((layer, head)) for layer in range(n_layers) for head in range(n_heads)]
    best = {"previous token": moment.previous_token, "prefix matching": moment.prefix_matching}
    peaks = [f"{name} {scores.max():.2f} (head {names[int(scores.argmax())]})" for name, scores in best.items()]
    return bars(names, {name: scores.flatten().tolist() for name, scores in best.items()}, "share of attention",
                f"Heads at step {step:,}: attention to the previous token in this text, and to the induction target "
                f"in repeated random tokens. Largest: {', '.join(peaks)}.")


class LiveTraining:
    """A training that goes on when the reader presses a button, with curves that are drawn as it runs.

    It runs as a task of the kernel's own event loop and lets go of it several times a second: so *Stop* is heard at
    once, and cells can be run meanwhile (the training waits for them). Whatever happens, ``state`` is where it
    stands, with the model trained so far.

    One training has one task. A widget that is made for the same ``steps``, as when its cell is run again, stops the
    task of any other, and so does *Train*.

    Args:
        steps: what ``train`` returns, perhaps with some steps taken already.
        state: the last that it has yielded.
    """

    SECONDS_BETWEEN_RESTS, SECONDS_BETWEEN_DRAWINGS = 0.1, 2.0
    _all: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, steps: Iterator[TrainingState], state: TrainingState):
        self._steps, self.state, self.task = steps, state, None
        self._wanted = False
        self._stop_others()
        self._all.add(self)
        self.train = ipywidgets.Button(description="Train", icon="play", tooltip="go on with the training")
        self.stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="stop and keep the model", disabled=True)
        self.bar = ipywidgets.IntProgress(state.step, max=state.n_steps, description="Steps", layout={"width": "98%"})
        self.message = ipywidgets.HTML()
        self.panes = [Pane(part) for part in parts(training_plate(state))]
        self._panel = ipywidgets.VBox([ipywidgets.HBox([self.train, self.stop]), self.bar, self.message])
        self.train.on_click(self._begin)
        self.stop.on_click(self._end)

    def _begin(self, _button) -> None:
        if self.task is None or self.task.done():
            self._stop_others()
            self._set_running(True)
            self.task = asyncio.get_running_loop().create_task(self._run())

    def _end(self, _button) -> None:
        self._wanted = False

    def _stop_others(self) -> None:
        for other in list(self._all):
            if other is not self and other._steps is self._steps:
                other._wanted = False

    async def _run(self) -> None:
        self._say("")
        try:
            await self._take_steps()
        except ReaderError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"The training broke off ({type(error).__name__}: {error}): run the cells above again.")
            raise
        finally:
            self._set_running(False)
            self._draw()

    async def _take_steps(self) -> None:
        drawn = rested = time.monotonic()
        while self._wanted:
            with LOCK:
                state = next(self._steps, None)
            if state is None:
                self._say("The training is at its end." if self.state.step == self.state.n_steps else
                          "This training has ended before: run the cells above again to begin another.")
                return
            self.state = state
            if (now := time.monotonic()) - rested > self.SECONDS_BETWEEN_RESTS:
                if now - drawn > self.SECONDS_BETWEEN_DRAWINGS:
                    self._draw()
                    drawn = time.monotonic()
                await asyncio.sleep(0.001)
                rested = time.monotonic()
        self._say(f"Stopped after step {self.state.step:,}: press Train to go on.")

    def _set_running(self, running: bool) -> None:
        self._wanted, self.train.disabled, self.stop.disabled = running, running, not running

    def _draw(self) -> None:
        self.bar.value = self.state.step
        for pane, part in zip(self.panes, parts(training_plate(self.state)), strict=True):
            pane.show(part)

    def _say(self, sentence: str) -> None:
        self.message.value = f'<p role="alert"><b>{html.escape(sentence)}</b></p>' if sentence else ""

    def _ipython_display_(self) -> None:
        words = f"**Training**, as saved at step {self.state.step:,}. Run this cell to go on with it."
        show_both(self._panel, {"text/markdown": words, "text/plain": words})
        for pane in self.panes:
            pane._ipython_display_()


def training_plate(state: TrainingState) -> Plate:
    """Losses and the best scores of any head, as far as the history of a training goes."""
    rows = state.history[1:] or state.history
    steps = [max(1, row["step"]) for row in rows]

    def best(name: str) -> list[float]:
        return [max(map(max, row[name]), default=0.0) for row in rows]

    copies = {name: [row[f"random_{name}_copy"] for row in rows] for name in ("first", "second")}
    losses = {"validation text": (steps, [row["validation_loss"] for row in rows]),
              **{f"random tokens, {name} copy": (steps, copy) for name, copy in copies.items()}}
    scores = {"previous token": (steps, best("previous_token")), "prefix matching": (steps, best("prefix_matching"))}
    now = (f"Step {state.step:,} of {state.n_steps:,}; at step {steps[-1]:,} the validation loss was "
           f"{rows[-1]['validation_loss']:.2f} nats, best previous-token score {best('previous_token')[-1]:.2f}, best "
           f"prefix matching {best('prefix_matching')[-1]:.2f}.")
    return line_panels({"loss": losses, "best head": scores}, "step", ["nats a token", "share of attention"], now)
