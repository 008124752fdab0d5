"""The explorer of neurons: where one is strongest, which tokens switch it on through which heads, what it raises."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.explorers.shell import Explorer, chooser
from helpers.figures import RED
from helpers.model import Head, head_name
from helpers.neurons import (
    input_output_cosines,
    neurons_on_logits,
    neurons_on_tokens,
    neurons_through_head,
    share_of_variance,
)
from helpers.standard import StandardTransformer, stream_terms
from helpers.token_views import token_row
from helpers.tokens import Tokenizer
from helpers.views import Table, View, code

N_CONTEXTS, BEFORE, AFTER = 6, 20, 5  # strongest places, and tokens shown around each
N_TOKENS, N_NEURONS = 6, 4  # named in a row
N_EFFECTS = 8  # tokens that a neuron raises most, and that it lowers most
N_FOR_SHARES = 8  # contexts on which shares of the variance are taken
Paths = Mapping[tuple[str, tuple[Head, ...]], Float[Tensor, " neuron"]]


@dataclass(frozen=True)
class NeuronReading:
    """What the neurons of a folded model do on some texts."""

    model: StandardTransformer
    tokenizer: Tokenizer
    tokens: Int[Tensor, "batch pos"]
    inputs: Sequence[Float[Tensor, "batch pos neuron"]]  # of each layer
    shares: Sequence[Paths]  # of the variance of the inputs, for each path that ends in a layer
    scales: Sequence[float]  # of each read, mean over places
    cosines: Sequence[Float[Tensor, " neuron"]]  # of what is read and what is written

    def check(self, layer: int, neuron: int) -> None:
        """Raises ReaderError if the model has no such neuron."""
        c = self.model.config
        if not (0 <= layer < c.n_layers and 0 <= neuron < c.d_mlp):
            raise ReaderError(
                f"There is no neuron {layer}.{neuron}: choose a layer below {c.n_layers} and one of its {c.d_mlp} "
                "neurons, counted from 0."
            )


@torch.no_grad()
def read_neurons(model: StandardTransformer, tokenizer: Tokenizer, tokens: Int[Tensor, "batch pos"]) -> NeuronReading:
    """Run a folded model on texts.

    Raises:
        ReaderError: the model has no neurons, or is not folded.
    """
    if not model.config.d_mlp:
        raise ReaderError("This model has no neurons: take one that was trained with --mlp.")
    cache, layers = model.cache(tokens), range(model.config.n_layers)
    return NeuronReading(
        model,
        tokenizer,
        tokens,
        [inputs.half() for inputs in cache.inputs],
        [_shares(model, tokens[:N_FOR_SHARES], layer) for layer in layers],
        [scale.mean().item() for scale in cache.scales],
        [input_output_cosines(model, layer) for layer in layers],
    )


def _shares(model: StandardTransformer, tokens: Int[Tensor, "batch pos"], layer: int) -> Paths:
    cache = model.cache(tokens)
    terms, W_in = stream_terms(model, cache, 2 * layer + 1), model.W_in[layer]
    whole = cache.inputs[layer][:, 1:]
    return {path: share_of_variance(term[:, 1:] @ W_in, whole) for path, term in terms.items()}


def explore_neuron(reading: NeuronReading, layer: int, neuron: int) -> tuple[View, Table, Table]:
    """Where a neuron's input is largest, what switches it on, and what it raises and lowers past all heads.

    A click on a neuron of an earlier layer goes there.

    Raises:
        ReaderError: the model has no such neuron.
    """
    reading.check(layer, neuron)
    return _contexts(reading, layer, neuron), _sources(reading, layer, neuron), _effects(reading, layer, neuron)


def _contexts(reading: NeuronReading, layer: int, neuron: int) -> View:
    """Its strongest place in each of the contexts where it is strongest, ``<START>`` aside; colour: output."""
    inputs = reading.inputs[layer][..., neuron].float()
    active = F.gelu(inputs).clamp(min=0)
    strongest, places = inputs[:, 1:].max(1)
    top, lines, rows = float(active[:, 1:].max()) or 1.0, [], []
    for context in strongest.argsort(descending=True, stable=True)[:N_CONTEXTS].tolist():
        place = 1 + int(places[context])
        start = max(0, place - BEFORE)
        around = slice(start, place + AFTER + 1)
        shown = reading.tokenizer.show_all(reading.tokens[context, around])
        values, grounds = inputs[context, around].tolist(), active[context, around].tolist()
        said = [f"{token}: input {value:.1f}" for token, value in zip(shown, values, strict=True)]
        lines.append(
            token_row(shown, grounds=[f"{RED}{min(178, round(178 * v / top)):02x}" for v in grounds], said=said)
        )
        at = place - start
        words = [code("".join(part)) if part else "" for part in (shown[:at], shown[at : at + 1], shown[at + 1 :])]
        rows.append([values[at], f"{words[0]} **{words[1]}** {words[2]}"])
    share = (inputs[:, 1:] > 0).float().mean()
    caption = (
        f"Neuron {layer}.{neuron}: its input is above 0 at {share:.1%} of the places. What it writes and what it reads "
        f"have a cosine of {reading.cosines[layer][neuron]:+.2f}."
    )
    return View(Table({"input": ".1f", "where": ""}, rows).view.still, caption, "".join(lines))


def _sources(reading: NeuronReading, layer: int, neuron: int) -> Table:
    """For each path from a token through one head at most, its strongest tokens; for earlier layers, their neurons."""
    model, rows = reading.model, []
    here = reading.scales[2 * layer + 1]

    def add(name: str, share: float, strongest: Tensor | None = None) -> None:
        rows.append([name, share, "" if strongest is None else _tokens(reading.tokenizer, strongest)])

    shares = {path: of_all[neuron].item() for path, of_all in reading.shares[layer].items()}
    add("its own token", shares["token", ()], neurons_on_tokens(model, layer).columns(neuron) / here)
    for head in model.heads[: (layer + 1) * model.config.n_heads]:
        through = neurons_through_head(model, layer, head).columns(neuron) / here / reading.scales[2 * head[0]]
        add(f"a token through {head_name(head)}", shares["token", (head,)], through)
    if layer:
        add("a token through two heads", sum(of for (begin, path), of in shares.items() if len(path) == 2))
    for earlier in range(layer):
        of_paths = {path: of for (begin, path), of in shares.items() if begin == f"MLP {earlier}"}
        weights = model.W_out[earlier] @ model.W_in[layer][:, neuron]
        rows.append([f"neurons of layer {earlier}", of_paths.pop(()), _neurons(earlier, weights)])
        rows.append([f"neurons of layer {earlier} through heads", sum(of_paths.values()), ""])
    columns = {"switched on by": "", "share of variance": ".2f", "most of all by": ""}
    caption = (
        "What its input is made of: how much of the variance of the input over the text each source explains, and the "
        "tokens that raise it most (a head attends to them fully; scales are mean ones)."
    )
    return Table(columns, rows, caption)


def _tokens(tokenizer: Tokenizer, values: Float[Tensor, " token"]) -> str:
    top = values.topk(min(N_TOKENS, len(values)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return ", ".join(f"{code(tokenizer.show(token))} {value:+.1f}" for token, value in pairs)


def _neurons(layer: int, weights: Float[Tensor, " neuron"]) -> str:
    top = weights.topk(min(N_NEURONS, len(weights))).indices.tolist()
    return " ".join(chooser(f"{layer}.{n}", {"layer": str(layer), "neuron": n}) for n in top)


def _effects(reading: NeuronReading, layer: int, neuron: int) -> Table:
    model, active = reading.model, F.gelu(reading.inputs[layer][:, 1:, neuron].float())
    size = active[active > 0].mean().item() if (active > 0).any() else 0.0
    logits = size * neurons_on_logits(model, layer).rows(neuron) / reading.scales[-1]
    (raised, more), (lowered, less) = (
        (top.indices.tolist(), top.values.tolist())
        for top in (logits.topk(min(N_EFFECTS, len(logits)), largest=largest) for largest in (True, False))
    )
    show = reading.tokenizer.show
    rows = [
        [code(show(up)), more_, code(show(down)), less_]
        for up, more_, down, less_ in zip(raised, more, lowered, less, strict=True)
    ]
    columns = {"raises": "", "by, nats": "+.2f", "lowers": "", "by, nats ": "+.2f"}
    return Table(
        columns, rows, f"What it writes to the logits past all heads at its mean output where it is on, {size:.1f}."
    )


def neuron_explorer(
    model: StandardTransformer, tokenizer: Tokenizer, tokens: Int[Tensor, "batch pos"], layer: int, neuron: int
) -> Explorer:
    """Choose a neuron of a folded model: where it is strongest, which tokens switch it on, and what it raises.

    Raises:
        ReaderError: the model has no such neuron, or is not folded.
    """
    reading = read_neurons(model, tokenizer, tokens)
    reading.check(layer, neuron)
    layers = [(str(i), i) for i in range(model.config.n_layers)]
    menu = ipywidgets.Dropdown(options=layers, value=layer, description="Layer")
    slider = ipywidgets.IntSlider(neuron, 0, model.config.d_mlp - 1, description="Neuron", layout={"width": "98%"})
    return Explorer(partial(explore_neuron, reading), {"layer": menu, "neuron": slider})
