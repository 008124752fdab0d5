"""Explorers of a text: what heads do there, what each part of the model says, what is lost without it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.explorers.shell import Explorer, head_menu, position_slider, remembered, text_box
from helpers.heads import (
    direct_logit_attribution,
    loss_per_token,
    mean_outputs,
    next_token_losses,
    random_repeats,
    repeated_random_loss,
    value_weighted_pattern,
)
from helpers.model import AttentionOnlyTransformer, Cache, Head, head_name
from helpers.stream import component_names, component_outputs
from helpers.token_views import attention_view, bar_view, token_view
from helpers.tokens import Tokenizer
from helpers.views import Table, View, code

RANDOM_LENGTH, RANDOM_SAMPLES = 20, 4  # the repeated random text: tokens in a copy, texts


# ---- a text and a head ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What a model makes of a text: all that takes long, so that heads and positions can be gone through at once."""

    model: AttentionOnlyTransformer
    names: list[str]  # of the tokens, as the book shows them
    tokens: Int[Tensor, "1 pos"]
    logits: Float[Tensor, "pos d_vocab"]
    losses: Float[Tensor, " predicted"]
    cache: Cache

    def check(self, position: int) -> None:
        """Raises ReaderError if the text has no such position."""
        if not 0 <= position < len(self.names):
            raise ReaderError(f"There is no position {position}: this text has positions 0 to {len(self.names) - 1}.")


@torch.no_grad()
def read(model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str) -> Reading:
    """Run a model on a text.

    Raises:
        ReaderError: the text is empty or longer than the context.
    """
    tokens = tokenizer.prompt(text, model.config.n_ctx)
    logits, cache = model.run_with_cache(tokens)
    losses = next_token_losses(logits[:, :-1], tokens)[0]
    return Reading(model, tokenizer.show_all(tokens[0]), tokens, logits[0], losses, cache)


def fit(slider: ipywidgets.IntSlider, reading: Reading) -> int:
    """Let a slider end at the last position of a text; returns the one where it now stands."""
    slider.max = len(reading.names) - 1
    return slider.value


@torch.no_grad()
def explore_text(
    reading: Reading, tokenizer: Tokenizer, head: Head, position: int, weigh: bool = False
) -> tuple[View, View, Table]:
    """Each token's loss, the attention of one head on a text, and the tokens that the model expects at ``position``.

    ``weigh`` shows value-weighted attention, as a share of all that arrives at a destination.

    Raises:
        ReaderError: no such head or position.
    """
    model, (layer, h) = reading.model, head
    model.check_heads([head])
    reading.check(position)
    pattern = reading.cache.patterns[layer][:, [h]]
    if weigh:
        moved = value_weighted_pattern(pattern, reading.cache.values[layer][:, [h]], model.W_O[layer, [h]])
        pattern = moved / moved.sum(-1, keepdim=True)
    mean = f"Mean loss {reading.losses.mean():.2f} nats a token."
    return (
        loss_view(reading.names, reading.losses, "loss, nats", mean),
        attention_view(reading.names, pattern[0, 0], head_name(head), position, chooses="position"),
        _prediction_table(reading, tokenizer, position),
    )


def loss_view(names: Sequence[str], losses: Float[Tensor, " predicted"], unit: str, caption: str) -> View:
    """A number for each token but ``<START>``, which nothing predicts: it gets 0."""
    return token_view(names, torch.cat([losses.new_zeros(1), losses]), unit, caption)


def _prediction_table(reading: Reading, tokenizer: Tokenizer, position: int) -> Table:
    """The five likeliest tokens after ``position``, and what the text has there."""
    log_p = reading.logits[position].log_softmax(-1)
    caption = f"After {code(reading.names[position])} (position {position})"
    if position + 1 < len(reading.names):
        log_p_following = log_p[reading.tokens[0, position + 1]]
        caption += (
            f" the text goes on with {code(reading.names[position + 1])}: "
            f"probability {log_p_following.exp():.1%}, loss {-log_p_following:.2f} nats."
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
    reading = remembered(model, partial(read, model, tokenizer))
    slider = position_slider(model, len(reading(text).names) - 2 if position is None else position)
    options = [("attention", False), ("value-weighted attention", True)]

    def show(text: str, head: Head, position: int, weigh: bool) -> tuple[View, View, Table]:
        return explore_text(reading(text), tokenizer, head, fit(slider, reading(text)), weigh)

    weight = ipywidgets.Dropdown(options=options, value=weigh, description="Show")
    controls = {"text": text_box(text), "head": head_menu(model, head), "position": slider, "weigh": weight}
    return Explorer(show, controls)


# ---- the components of the stream -------------------------------------------------------------------------------


@torch.no_grad()
def explore_components(reading: Reading, tokenizer: Tokenizer, position: int) -> tuple[View]:
    """What each component adds to the logit of the token after ``position`` (after the text's end: of the likeliest).

    Logits are in nats above the average over the vocabulary.

    Raises:
        ReaderError: the text has no such position.
    """
    reading.check(position)
    names, p = component_names(reading.model), reading.logits[position].softmax(-1)
    is_last = position + 1 == len(reading.names)
    out = int(p.argmax() if is_last else reading.tokens[0, position + 1])
    outputs = component_outputs(reading.cache)[:, 0, position]
    logits = direct_logit_attribution(reading.model, outputs, out).tolist()
    loudest = max(range(len(names)), key=lambda i: abs(logits[i]))
    caption = (
        f"After {code(*reading.names[max(0, position - 8) : position + 1])} (position {position}): what each component "
        f"adds to the logit of {code(tokenizer.show(out))}. The sum is {sum(logits):.1f} nats, the probability "
        f"{p[out]:.1%}; the loudest is {names[loudest]} with {logits[loudest]:+.1f}."
    )
    return (bar_view({"logit": logits}, names, "nats", caption),)


def component_explorer(model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, position: int) -> Explorer:
    """Type a text and choose a position: which components speak for the token that comes next, and how loudly."""
    reading, slider = remembered(model, partial(read, model, tokenizer)), position_slider(model, position)

    def show(text: str, position: int) -> tuple[View]:
        return explore_components(reading(text), tokenizer, fit(slider, reading(text)))

    return Explorer(show, {"text": text_box(text), "position": slider})


# ---- taking heads away ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Intact:
    """What a model makes of a text, and of random tokens that come twice, with every head in place."""

    reading: Reading
    means: list[float]  # losses on the text and on both copies
    mean_outputs: list[dict[Head, Float[Tensor, " d_model"]]]  # on the text, on the random tokens


def read_intact(model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str) -> Intact:
    """Raises ReaderError if the text is empty or longer than the context."""
    reading = read(model, tokenizer, text)
    random = random_repeats(model.config.d_vocab, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES)
    means = [reading.losses.mean().item(), *repeated_random_loss(model, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES)]
    return Intact(reading, means, [mean_outputs(model, tokens) for tokens in (reading.tokens, random)])


def explore_ablation(intact: Intact, gone: Sequence[Head], by_mean: bool = False) -> tuple[View, View]:
    """Take heads away and see what it costs, on a text and on random tokens that come twice.

    What a head writes becomes nothing, or (``by_mean``) its average over the very tokens that are read.

    Raises:
        ReaderError: no such head.
    """
    model = intact.reading.model
    model.check_heads(gone)
    on_text, on_random = ({tuple(h): of[tuple(h)] if by_mean else 0.0 for h in gone} for of in intact.mean_outputs)
    losses = loss_per_token(model, intact.reading.tokens, replace=on_text)[0] if gone else intact.reading.losses
    copies = intact.means[1:]
    if gone:
        copies = repeated_random_loss(model, RANDOM_LENGTH, n_samples=RANDOM_SAMPLES, replace=on_random)
    now = [losses.mean().item(), *copies]
    names = ["your text", "random tokens, first copy", "random tokens, second copy"]
    moves = [f"{name}: {b:.2f} → {a:.2f}" for name, b, a in zip(names, intact.means, now, strict=True)]
    without = f"without {', '.join(map(head_name, gone))}" if gone else "with every head in place"
    caption = f"Mean losses of the intact model, then {without}: {'; '.join(moves)}."
    changed = f"Change of each token's loss {without}."
    return (
        bar_view({"intact": intact.means, "now": now}, names, "loss, nats a token", caption),
        loss_view(intact.reading.names, losses - intact.reading.losses, "change of loss, nats", changed),
    )


def ablation_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, ablated_heads: Sequence[Head] = ()
) -> Explorer:
    """A button for each head that takes it away: the losses move, and the tokens show where."""
    gone_at_first = [tuple(head) for head in ablated_heads]
    tooltip = "What takes the place of a head's output"
    options = [("zero", False), ("mean", True)]
    kind = ipywidgets.Dropdown(options=options, value=False, description="Ablation", tooltip=tooltip)
    buttons = {head_name(head): _toggle(head, head in gone_at_first) for head in model.heads}
    intact = remembered(model, partial(read_intact, model, tokenizer))

    def show(text: str, by_mean: bool, **pressed: bool) -> tuple[View, View]:
        return explore_ablation(intact(text), [head for head in model.heads if pressed[head_name(head)]], by_mean)

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
