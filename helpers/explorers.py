"""Explorers: things of the book to try out with text and heads of one's own.

Each is two functions. ``explore_x`` is pure: it takes what the reader chose and returns what is shown, or raises a
ReaderError. ``x_explorer`` puts controls before it. What is shown is made of the pictures, tables and views of
the chapters, and is saved with the notebook as it first was, so that a page reads well where nothing runs.
"""

import itertools
import textwrap
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import ipywidgets
import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from helpers import ReaderError
from helpers.bigrams import Bigrams
from helpers.circuits import LowRank, copying_summary, ov_circuit, qk_circuit
from helpers.figures import bars, eigenvalue_planes
from helpers.heads import (
    direct_logit_attribution,
    loss_per_token,
    mean_outputs,
    next_token_losses,
    prefix_matching_scores,
    previous_token_scores,
    random_repeats,
    repeated_random_loss,
    value_weighted_pattern,
)
from helpers.model import AttentionOnlyTransformer, Head, Replacements, head_name
from helpers.skip_trigrams import HeadReading, read_head
from helpers.stream import component_names, component_outputs
from helpers.text import after_one_of, frequent_tokens
from helpers.token_views import attention_view, token_view
from helpers.tokens import EncodedCorpus, Tokenizer
from helpers.views import Table, View, ViewWidget, alert, code, picture, show_output, text_output

Picture = tuple[Figure, str]  # with its caption
LOCK = threading.RLock()  # held by whoever runs a model: a front end may call back in another thread
WIDE_NAME = {"description_width": "initial"}  # room for all of a control's name
RANDOM_LENGTH, RANDOM_SAMPLES = 20, 4  # the repeated random text: tokens in a copy, texts


class Explorer:
    """Controls, and below them what ``show`` makes of their values; one sentence instead if they make no sense.

    Args:
        show: called with the controls' values by name, returns what to show, always the same number of things. It may
            adjust the controls, such as the end of a slider; that does not call it again.
        controls: widgets with a value, in the order of ``show``'s arguments.
        arrangement: a widget that lays the controls out; one below the other by default.

    Raises:
        ReaderError: the initial values are invalid.
    """

    def __init__(
        self,
        show: Callable[..., Sequence[View | Table | Picture]],
        controls: Mapping[str, ipywidgets.ValueWidget],
        arrangement: ipywidgets.Widget | None = None,
    ):
        self._show, self.controls, self._is_refreshing = show, controls, False
        self.message = ipywidgets.HTML()
        with LOCK:
            self.shown = [ViewWidget(view) for view in self._views()]
        self._settings = self._in_words()
        self._panel = ipywidgets.VBox([arrangement or ipywidgets.VBox([*controls.values()]), self.message])
        for control in controls.values():
            control.observe(self._refresh, names="value")

    def _views(self) -> list[View]:
        found = self._show(**{name: control.value for name, control in self.controls.items()})
        return [picture(*it) if isinstance(it, tuple) else it.view if isinstance(it, Table) else it for it in found]

    def _refresh(self, _change) -> None:
        with LOCK:
            if self._is_refreshing:
                return
            self._is_refreshing = True
            try:
                views, self.message.value = self._views(), ""
            except ReaderError as error:
                views, self.message.value = [None] * len(self.shown), alert(str(error))
            except Exception as error:
                sentence = f"This did not work ({type(error).__name__}: {error}): choose something else."
                self.message.value = alert(sentence)
                raise
            finally:
                self._is_refreshing = False
            for widget, view in zip(self.shown, views, strict=True):
                widget.update(view)

    def _in_words(self) -> str:
        """The settings of the controls, for the saved page. Buttons that are not pressed go without saying."""
        settings = []
        for control in self.controls.values():
            if isinstance(control, ipywidgets.ToggleButton):
                settings += [f"{control.description} pressed"] * control.value
            else:
                value = getattr(control, "label", control.value)
                settings.append(f"{control.description.lower()} {code(textwrap.shorten(str(value), 60) or '…')}")
        return f"**Explorer**, as saved with {', '.join(settings)}. Run this cell to change that."

    def _ipython_display_(self) -> None:
        show_output(text_output(self._settings), self._panel)
        for widget in self.shown:
            widget._ipython_display_()


# ---- controls ---------------------------------------------------------------------------------------------------


def text_box(text: str) -> ipywidgets.Textarea:
    hints = {"placeholder": "Type a text", "tooltip": "Type, then press Tab or click elsewhere"}
    layout = {"width": "98%", "height": "6em"}
    return ipywidgets.Textarea(text, description="Text", continuous_update=False, layout=layout, **hints)


def token_box(token: str, description: str) -> ipywidgets.Text:
    """A field for one token; ␣, ↵ and → may be typed for a space, a new line and a tab."""
    hints = {"placeholder": "one token, such as ␣self", "tooltip": "Type, then press Enter"}
    return ipywidgets.Text(token, description=description, continuous_update=False, style=WIDE_NAME, **hints)


def head_menu(model: AttentionOnlyTransformer, head: Head) -> ipywidgets.Dropdown:
    """Raises ReaderError if the model has no such head."""
    model.check_heads([head])
    return ipywidgets.Dropdown(options=[(head_name(h), h) for h in model.heads], value=tuple(head), description="Head")


def position_slider(model: AttentionOnlyTransformer, position: int) -> ipywidgets.IntSlider:
    """A slider for a position of a text; ``fit`` lets it end with the text."""
    last = model.config.n_ctx - 1
    return ipywidgets.IntSlider(position, 0, last, description="Position", continuous_update=False)


def fit(slider: ipywidgets.IntSlider, tokens: Int[Tensor, "1 pos"]) -> int:
    """Let a slider end at the last position of ``tokens``; returns the one where it now stands."""
    slider.max = tokens.shape[1] - 1
    return slider.value


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
) -> tuple[Picture, Table]:
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
    figure = eigenvalue_planes({"eigenvalues": matrix.eigenvalues()}, columns=1)
    figure.set_size_inches(3.4, 3.7)
    return (figure, caption), ends


def copying_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, head: Head, among: Int[Tensor, " token"]
) -> Explorer:
    """Choose a head and a circuit: its eigenvalues, its summaries, and the tokens at either end of its diagonal."""
    menu = ipywidgets.Dropdown(options=[*CIRCUITS.items()], description="Circuit", layout={"width": "24em"})
    show = partial(explore_copying, model, tokenizer, among=among)
    return Explorer(show, {"head": head_menu(model, head), "circuit": menu})


# ---- a text and a head ------------------------------------------------------------------------------------------


@torch.no_grad()
def explore_text(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, head: Head, position: int, weigh: bool = False
) -> tuple[View, View, Table]:
    """Each token's loss, the attention of one head on ``text``, and the tokens that the model expects at ``position``.

    ``weigh`` shows value-weighted attention, as a share of all that arrives at a destination.

    Raises:
        ReaderError: no such head or position; the text is empty or longer than the context.
    """
    model.check_heads([head])
    tokens, (layer, h) = tokenizer.prompt(text, model.config.n_ctx), head
    _check_position(tokens, position)
    logits, cache = model.run_with_cache(tokens)
    loss = next_token_losses(logits[:, :-1], tokens)[0]
    pattern = cache.patterns[layer]
    if weigh:
        moved = value_weighted_pattern(pattern, cache.values[layer], model.W_O[layer])
        pattern = moved / moved.sum(-1, keepdim=True)
    return (
        loss_view(tokenizer, tokens, loss, "loss, nats", f"Mean loss {loss.mean():.2f} nats a token."),
        attention_view(tokenizer.show_all(tokens[0]), pattern[0, [h]], [head_name(head)]),
        _prediction_table(tokenizer, tokens[0], logits[0, position].log_softmax(-1), position),
    )


def _check_position(tokens: Int[Tensor, "1 pos"], position: int) -> None:
    n = tokens.shape[1]
    if not 0 <= position < n:
        raise ReaderError(f"There is no position {position}: this text has positions 0 to {n - 1}.")


def loss_view(
    tokenizer: Tokenizer, tokens: Int[Tensor, "1 pos"], losses: Float[Tensor, " predicted"], unit: str, caption: str
) -> View:
    """A number for each token but ``<START>``, which nothing predicts: it gets 0."""
    return token_view(tokenizer.show_all(tokens[0]), torch.cat([losses.new_zeros(1), losses]), unit, caption)


def _prediction_table(
    tokenizer: Tokenizer, tokens: Int[Tensor, " pos"], log_p: Float[Tensor, " d_vocab"], position: int
) -> Table:
    """The five likeliest tokens after ``position``, and what the text has there."""
    caption = f"After {code(tokenizer.show(int(tokens[position])))} (position {position})"
    if position + 1 < len(tokens):
        following = int(tokens[position + 1])
        caption += (
            f" the text goes on with {code(tokenizer.show(following))}: "
            f"probability {log_p[following].exp():.1%}, loss {-log_p[following]:.2f} nats."
        )
    else:
        caption += " the text ends."
    best = log_p.topk(min(5, len(log_p))).indices.tolist()
    rows = [[code(tokenizer.show(token)), log_p[token].exp().item()] for token in best]
    return Table({"likely next token": "", "probability": ".1%"}, rows, caption)


def text_explorer(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    text: str,
    head: Head,
    position: int | None = None,
    weigh: bool = False,
) -> Explorer:
    """Type a text, choose a head and a position: the loss of each token, the head's attention, the next token.

    ``position`` is by default the last that has a next token; ``weigh`` weighs attention by the length of what it
    moves.
    """
    prompt = partial(tokenizer.prompt, n_ctx=model.config.n_ctx)
    slider = position_slider(model, prompt(text).shape[1] - 2 if position is None else position)
    options = [("attention", False), ("value-weighted attention", True)]

    def show(text: str, head: Head, position: int, weigh: bool) -> tuple[View, View, Table]:
        return explore_text(model, tokenizer, text, head, fit(slider, prompt(text)), weigh)

    weight = ipywidgets.Dropdown(options=options, value=weigh, description="Show")
    controls = {"text": text_box(text), "head": head_menu(model, head), "position": slider, "weigh": weight}
    return Explorer(show, controls)


# ---- the components of the stream -------------------------------------------------------------------------------


@torch.no_grad()
def explore_components(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, position: int
) -> tuple[Picture]:
    """What each component adds to the logit of the token after ``position`` (after the text's end: of the likeliest).

    Logits are in nats above the average over the vocabulary.

    Raises:
        ReaderError: the text is empty or longer than the context, or has no such position.
    """
    tokens, names = tokenizer.prompt(text, model.config.n_ctx), component_names(model)
    _check_position(tokens, position)
    here = component_outputs(model, tokens)[:, 0, position]
    p = (here.sum(0) @ model.W_U).softmax(-1)
    out = int(tokens[0, position + 1]) if position + 1 < tokens.shape[1] else int(p.argmax())
    logits = direct_logit_attribution(model, here, out).tolist()
    before = tokenizer.show_all(tokens[0, max(0, position - 8) : position + 1])
    loudest = max(range(len(names)), key=lambda i: abs(logits[i]))
    caption = (
        f"After {code(*before)} (position {position}): what each component adds to the logit of "
        f"{code(tokenizer.show(out))}. The sum is {sum(logits):.1f} nats, the probability {p[out]:.1%}; "
        f"the loudest is {names[loudest]} with {logits[loudest]:+.1f}."
    )
    return ((bars({"logit": logits}, names, "nats"), caption),)


def component_explorer(model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, position: int) -> Explorer:
    """Type a text and choose a position: which components speak for the token that comes next, and how loudly."""
    slider = position_slider(model, position)

    def show(text: str, position: int) -> tuple[Picture]:
        position = fit(slider, tokenizer.prompt(text, model.config.n_ctx))
        return explore_components(model, tokenizer, text, position)

    return Explorer(show, {"text": text_box(text), "position": slider})


# ---- a source token and a head of the one-layer model -----------------------------------------------------------


def explore_head(
    model: AttentionOnlyTransformer, corpus: EncodedCorpus, source: str, head: Head, among: Int[Tensor, " token"]
) -> tuple[Table, Table]:
    """The destinations and outs of a head for one source token, and skip-trigrams of both that the corpus has.

    Only tokens of ``among`` are considered.

    Raises:
        ReaderError: no such head, or the source is not one token of the vocabulary.
    """
    model.check_heads([head])
    tokenizer, max_gap = corpus.tokenizer, model.config.n_ctx - 1
    reading = read_head(model, head, token_of(tokenizer, source), among, n=min(5, len(among)))
    columns = {"attends to it most": "", "QK, nats": "+.2f", "made likelier": "", "OV, nats": "+.2f"}
    entries = zip(reading.destinations, reading.qk, reading.outs, reading.ov, strict=True)
    caption = (
        f"Head {head_name(head)} and the source {code(tokenizer.show(reading.source))}: the largest "
        "entries of its QK column (each row's mean taken off) and of its OV row."
    )
    circuits = [[code(tokenizer.show(d)), qk, code(tokenizer.show(out)), ov] for d, qk, out, ov in entries]
    found = [row for destination in reading.destinations for row in _examples(corpus, reading, destination, max_gap)]
    rows = [[times, line] for _, times, line in sorted(found, key=lambda row: -row[0])[:5]]
    counted = "How often destination and out come after the source in the corpus, of how often the destination does."
    none = "The corpus has no skip-trigram of these tokens."
    examples = Table({"times": "", "for example": ""}, rows, counted if rows else none)
    return Table(columns, circuits, caption), examples


def _examples(
    corpus: EncodedCorpus, reading: HeadReading, destination: int, max_gap: int
) -> Iterator[tuple[int, str, str]]:
    """For each out that the text has: how often, "3 of 12", and a line with the source some eight tokens away."""
    tokens = corpus.train
    sources = np.flatnonzero(tokens == reading.source)
    places = after_one_of(sources, np.flatnonzero(tokens[:-1] == destination), max_gap)
    for out in reading.outs:
        ends = places[tokens[places + 1] == out]
        if len(ends):
            starts = sources[np.searchsorted(sources, ends) - 1]
            i = np.abs(ends - starts - 8).argmin()
            yield len(ends), f"{len(ends):,} of {len(places):,}", _line(corpus, int(starts[i]), int(ends[i]))


def _line(corpus: EncodedCorpus, start: int, end: int) -> str:
    """The text around a skip-trigram from ``start`` to its destination at ``end``; a long middle is left out."""

    def words(first: int, stop: int) -> str:
        shown = corpus.tokenizer.show_all(corpus.train[first:stop])
        return code("".join(shown)) if shown else ""

    source, destination, out = (f"**{words(i, i + 1)}**" for i in (start, end, end + 1))
    is_short = end - start <= 17
    between = words(start + 1, end) if is_short else f"{words(start + 1, start + 9)} … {words(end - 8, end)}"
    return f"{words(max(0, start - 5), start)} {source} {between} {destination} → {out}"


def head_explorer(model: AttentionOnlyTransformer, corpus: EncodedCorpus, source: str, head: Head) -> Explorer:
    """Type a source token, choose a head: its destinations, its outs, and skip-trigrams of both in the corpus.

    Destinations and outs are tokens that come at least once in 40,000.
    """
    tokenizer = corpus.tokenizer
    among = frequent_tokens(corpus.train, tokenizer.d_vocab, max(1, len(corpus.train) // 40_000))
    box = token_box(tokenizer.show(token_of(tokenizer, source)), "Source token")
    show = partial(explore_head, model, corpus, among=among)
    return Explorer(show, {"source": box, "head": head_menu(model, head)})


# ---- taking heads away ------------------------------------------------------------------------------------------


def explore_ablation(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, gone: Sequence[Head], by_mean: bool = False
) -> tuple[Picture, View]:
    """Take heads away and see what it costs, on ``text`` and on random tokens that come twice.

    What a head writes becomes nothing, or (``by_mean``) its average over the very tokens that are read.

    Raises:
        ReaderError: no such head; the text is empty or longer than the context.
    """
    model.check_heads(gone)
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    random = random_repeats(model.config.d_vocab, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES)
    losses, means = [], []
    for heads in ([], gone):
        on_text, on_random = (_replacements(model, t, heads, by_mean) for t in (tokens, random))
        losses.append(loss_per_token(model, tokens, replace=on_text)[0])
        copies = repeated_random_loss(model, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES, replace=on_random)
        means.append([losses[-1].mean().item(), *copies])
    names = ["your text", "random tokens,\nfirst copy", "random tokens,\nsecond copy"]
    moves = [f"{name}: {b:.2f} → {a:.2f}".replace("\n", " ") for name, b, a in zip(names, *means, strict=True)]
    without = f"without {', '.join(map(head_name, gone))}" if gone else "with every head in place"
    caption = f"Mean losses of the intact model, then {without}: {'; '.join(moves)}."
    changed = f"Change of each token's loss {without}."
    return (
        (bars({"intact": means[0], "now": means[1]}, names, "loss, nats a token"), caption),
        loss_view(tokenizer, tokens, losses[1] - losses[0], "change of loss, nats", changed),
    )


def _replacements(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], heads: Sequence[Head], by_mean: bool
) -> Replacements:
    means = mean_outputs(model, tokens) if by_mean and heads else {}
    return {tuple(head): means.get(tuple(head), 0.0) for head in heads}


def ablation_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, ablated_heads: Sequence[Head] = ()
) -> Explorer:
    """A button for each head that takes it away: the losses move, and the tokens show where."""
    gone_at_first = [tuple(head) for head in ablated_heads]
    tooltip = "What takes the place of a head's output"
    options = [("zero", False), ("mean", True)]
    kind = ipywidgets.Dropdown(options=options, value=False, description="Ablation", tooltip=tooltip)
    buttons = {head_name(head): _toggle(head, head in gone_at_first) for head in model.heads}

    def show(text: str, by_mean: bool, **pressed: bool) -> tuple[Picture, View]:
        gone = [head for head in model.heads if pressed[head_name(head)]]
        return explore_ablation(model, tokenizer, text, gone, by_mean)

    rows = []
    for layer in range(model.config.n_layers):
        label = ipywidgets.Label(f"Take away, layer {layer}:", layout={"width": "11em"})
        of_layer = [buttons[head_name(head)] for head in model.layer_heads(layer)]
        rows.append(ipywidgets.HBox([label, *of_layer], layout={"flex_flow": "row wrap"}))
    controls = {"text": text_box(text), "by_mean": kind} | buttons
    return Explorer(show, controls, ipywidgets.VBox([controls["text"], kind, *rows]))


def _toggle(head: Head, pressed: bool) -> ipywidgets.ToggleButton:
    """A button that says with a cross, not by colour alone, that its head is taken away."""
    name = head_name(head)
    tooltip, layout = f"take head {name} away", {"width": "4.5em"}
    button = ipywidgets.ToggleButton(pressed, description=name, tooltip=tooltip, layout=layout)
    ipywidgets.dlink((button, "value"), (button, "icon"), lambda pressed: "times" if pressed else "")
    return button


# ---- the course of training -------------------------------------------------------------------------------------


def explore_checkpoint(
    checkpoints: Mapping[int, AttentionOnlyTransformer], tokenizer: Tokenizer, step: int, head: Head, text: str
) -> tuple[View, View, Picture]:
    """A model at one step of its training: a head's attention in a text, each token's loss, and what its heads do.

    Raises:
        ReaderError: no such head; the text is empty, or longer than the context.
    """
    model, (layer, h) = checkpoints[step], head
    model.check_heads([head])
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    pattern, loss = model.cache(tokens).patterns[layer][0, [h]], loss_per_token(model, tokens)[0]
    mean = f"Mean loss at step {step:,}: {loss.mean():.2f} nats a token."
    scores = {
        "previous token": previous_token_scores(model, tokens).flatten(),
        "prefix matching": prefix_matching_scores(model, RANDOM_LENGTH).flatten(),
    }
    names = [head_name(head) for head in model.heads]
    peaks = [f"{name} {of_heads.max():.2f} (head {names[int(of_heads.argmax())]})" for name, of_heads in scores.items()]
    caption = (
        f"Heads at step {step:,}: attention to the previous token in this text, and to the induction target "
        f"in repeated random tokens. Largest: {', '.join(peaks)}."
    )
    return (
        attention_view(tokenizer.show_all(tokens[0]), pattern, [head_name(head)], f"Step {step:,}."),
        loss_view(tokenizer, tokens, loss, "loss, nats", mean),
        (bars({name: of_heads.tolist() for name, of_heads in scores.items()}, names, "share of attention"), caption),
    )


def checkpoint_explorer(
    checkpoints: Mapping[int, AttentionOnlyTransformer], tokenizer: Tokenizer, text: str, head: Head, step: int
) -> Explorer:
    """Go through a training by a slider: a head's attention in a text, each token's loss, and what all heads do.

    ``checkpoints`` has the model after each of some steps.
    """
    options, look = [(f"{s:,}", s) for s in checkpoints], {"continuous_update": False, "layout": {"width": "98%"}}
    slider = ipywidgets.SelectionSlider(options=options, value=step, description="Step", **look)
    show = partial(explore_checkpoint, checkpoints, tokenizer)
    return Explorer(show, {"step": slider, "head": head_menu(checkpoints[step], head), "text": text_box(text)})
