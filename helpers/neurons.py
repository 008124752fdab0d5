"""What neurons read and write, from weights alone, and what is erased from the stream ("MLP Layers").

A neuron's input is ``W_in`` read from the stream, so it expands over paths as logits do: a table over tokens for the
direct path, and one more for each head. All models here are folded ones; see ``standard.fold``. Their scales, positive
numbers that no table knows, are left out.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import W_OV, LowRank, centred_unembedding
from helpers.model import Head, Stream
from helpers.standard import StandardCache, StandardTransformer, stream_terms
from helpers.stream import rotation_of_tokens


def neurons_on_tokens(model: StandardTransformer, layer: int) -> LowRank:
    """``[token, neuron]``: how far a token switches on the neurons of a layer at its own place, ``W_E W_in``."""
    return LowRank(model.W_E, model.W_in[layer])


def neurons_through_head(model: StandardTransformer, layer: int, head: Head) -> LowRank:
    """``[source token, neuron]``: how far a token does so where a head attends to it, ``W_E W_OV W_in``."""
    return model.W_E @ W_OV(model, head) @ model.W_in[layer]


Inputs = Float[Tensor, "batch pos neuron"]


def inputs_by_source(model: StandardTransformer, cache: StandardCache, layer: int) -> dict[tuple[str, int], Inputs]:
    """The inputs of a layer's neurons as a sum, by where a path begins and how many heads it passes.

    It begins at the "token", at a layer of neurons such as "MLP 0", or at the "biases", which count as one source.
    """
    begun: dict[tuple[str, int], Stream] = {}
    for (source, path), term in stream_terms(model, cache, 2 * layer + 1).items():
        key = ("biases", 0) if source.startswith("b_O") else (source, len(path))
        begun[key] = begun[key] + term if key in begun else term
    inputs = {key: read @ model.W_in[layer] for key, read in begun.items()}
    inputs["biases", 0] = inputs["biases", 0] + model.b_in[layer]
    return inputs


def share_of_variance(part: Inputs, whole: Inputs) -> Float[Tensor, " neuron"]:
    """How much of the variance of each neuron's input over all places is a part's: their covariance over it.

    The shares of all parts add up to 1. One that counteracts the others is below 0.
    """
    one, all_ = (x - x.mean((0, 1)) for x in (part, whole))
    return (one * all_).mean((0, 1)) / all_.square().mean((0, 1))


def neurons_on_logits(model: StandardTransformer, layer: int) -> LowRank:
    """``[neuron, out token]``: how far neurons that are on raise logits above their mean, ``W_out W_U``."""
    return LowRank(model.W_out[layer], centred_unembedding(model))


def input_output_cosines(model: StandardTransformer, layer: int, seed: int | None = None) -> Float[Tensor, " neuron"]:
    """The cosine of the direction that each neuron reads and the one that it writes.

    Near -1, a neuron takes away what switched it on. With a ``seed``, what is written is rotated at random: a control.
    """
    written = model.W_out[layer]
    if seed is not None:
        written = written @ rotation_of_tokens(model.W_E, seed)
    return torch.cosine_similarity(model.W_in[layer].T, written, dim=-1)


def share_left(written: Stream, later: Stream, shift: int = 0) -> float:
    """How much is left of what a component wrote once a later one has written too: 1 all, 0 nothing, 2 twice as much.

    ``1 + Σ⟨later, written⟩ / Σ‖written‖²``, both less their means over places. With a ``shift``, ``later`` is that of
    other texts, so many rows further on: a control.
    """
    one, other = (x - x.mean((0, 1)) for x in (written, later.roll(shift, 0)))
    return 1 + ((one * other).sum() / one.square().sum()).item()
