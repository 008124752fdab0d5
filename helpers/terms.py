"""What each order of term is worth ("Term Importance Analysis"), and each kind of composition."""

import itertools
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer, Cache

Texts = Int[Tensor, "batch pos"]
Losses = Float[Tensor, "batch predicted"]
Layers = tuple[int, ...]


def term_importance(model: AttentionOnlyTransformer, tokens: Texts, every: int = 1) -> list[float]:
    """Mean loss, in nats, with all terms up to each order: the direct path alone, plus heads, plus pairs of heads, …

    The paper's algorithm. All runs use the attention of the intact model. Each run saves what the heads would write
    and puts what was saved in the run before into the residual stream; so in run n the stream holds exactly the
    terms of order n or less. With as many orders as layers nothing is left out. Measured is ``every`` so many tokens.
    """
    return [losses.mean().item() for losses in losses_by_order(model, tokens, every=every)]


def losses_by_order(
    model: AttentionOnlyTransformer, tokens: Texts, let_in: Sequence[int] = (), every: int = 1
) -> list[Losses]:
    """The losses behind ``term_importance``, of ``every`` so many tokens of each text: one tensor for each run.

    ``let_in`` says which order of terms comes first, second, …: (0, 2, 1) lets in pairs before single heads.
    """
    chunks = []
    for chunk, cache in _chunks(model, tokens, tokens):
        up_to = _streams_by_order(model, cache)
        of_order = [later - before for before, later in itertools.pairwise([torch.zeros_like(up_to[0]), *up_to])]
        streams = itertools.accumulate(of_order[order] for order in let_in) if let_in else up_to
        chunks.append([_losses(model, stream, chunk, every) for stream in streams])
    return [torch.cat(run) for run in zip(*chunks, strict=True)]


def _streams_by_order(model: AttentionOnlyTransformer, cache: Cache) -> list[Float[Tensor, "batch pos d_model"]]:
    saved, streams = [torch.zeros_like(cache.residual[0])] * model.config.n_layers, []
    for _ in range(model.config.n_layers + 1):
        stream, fresh = cache.residual[0], []
        for layer, pattern in enumerate(cache.patterns):
            fresh.append(written_by_layer(model, layer, pattern, stream))
            stream = stream + saved[layer]
        saved = fresh
        streams.append(stream)
    return streams


def layer_importance(model: AttentionOnlyTransformer, tokens: Texts, every: int = 1) -> dict[Layers, float]:
    """Mean loss, in nats, of the direct path and the single heads of some layers, for every choice of layers.

    Each head reads the embeddings alone, under the attention of the intact model. Measured is ``every`` so many tokens.
    """
    return {choice: losses.mean().item() for choice, losses in losses_by_layers(model, tokens, every=every).items()}


def losses_by_layers(
    model: AttentionOnlyTransformer, tokens: Texts, looking_as_on: Texts | None = None, every: int = 1
) -> dict[Layers, Losses]:
    """The losses behind ``layer_importance``, of ``every`` so many tokens of each text.

    ``looking_as_on`` are other texts, on which the attention is taken.
    """
    layers = range(model.config.n_layers)
    losses = {choice: [] for n in range(len(layers) + 1) for choice in itertools.combinations(layers, n)}
    for chunk, cache in _chunks(model, tokens, tokens if looking_as_on is None else looking_as_on):
        embedded = model.W_E[chunk]
        written = [written_by_layer(model, layer, pattern, embedded) for layer, pattern in enumerate(cache.patterns)]
        for choice, of_choice in losses.items():
            of_choice.append(_losses(model, embedded + sum(written[layer] for layer in choice), chunk, every))
    return {choice: torch.cat(of_choice) for choice, of_choice in losses.items()}


def _chunks(model: AttentionOnlyTransformer, tokens: Texts, looking_as_on: Texts) -> Iterator[tuple[Texts, Cache]]:
    """Some texts at a time, with what the intact model computes on as many others; 2 at a time keep memory small."""
    for chunk, others in zip(tokens.split(2), looking_as_on.split(2), strict=True):
        yield chunk, model.cache(others)


def written_by_layer(
    model: AttentionOnlyTransformer,
    layer: int,
    pattern: Float[Tensor, "batch head dest src"],
    stream: Float[Tensor, "batch src d_model"],
) -> Float[Tensor, "batch dest d_model"]:
    """What a layer's heads write together if their values are read from ``stream``, with the given attention."""
    values = torch.einsum("bpd,hde->bhpe", stream, model.W_V[layer])
    return torch.einsum("bhqk,bhke,hed->bqd", pattern, values, model.W_O[layer])


def _losses(
    model: AttentionOnlyTransformer, stream: Float[Tensor, "batch pos d_model"], tokens: Texts, every: int
) -> Losses:
    """Losses of the second, the (2 + ``every``)th token, …, of each text."""
    logits = stream[:, :-1:every] @ model.W_U
    return -logits.log_softmax(-1).gather(-1, tokens[:, 1::every, None]).squeeze(-1)


# ---- kinds of composition ---------------------------------------------------------------------------------------


def losses_without_composition(
    model: AttentionOnlyTransformer, tokens: Texts, kinds: str, layers: Layers | None = None
) -> Float[Tensor, "batch pos-1"]:
    """Loss of every token but the first, in nats, without some kinds of composition: "Q", "K", "V" or several.

    The queries, keys or values of every head, or of those of some ``layers``, are then computed from the embeddings
    alone. Attention is computed anew. So ``"K"`` is a model without K-composition, and ``"QKV"`` one whose heads all
    read what the first layer reads.

    Raises:
        ReaderError: one of ``kinds`` is another one.
    """
    chunks = tokens.split(2)
    logits = (logits_without_composition(model, chunk, kinds, layers)[:, :-1] for chunk in chunks)
    return torch.cat([next_token_losses(of_chunk, chunk) for of_chunk, chunk in zip(logits, chunks, strict=True)])


def logits_without_composition(
    model: AttentionOnlyTransformer, tokens: Texts, kinds: str, layers: Layers | None = None
) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits behind ``losses_without_composition``; with ``kinds`` "" those of the model.

    Raises:
        ReaderError: one of ``kinds`` is another one.
    """
    if not {*kinds} <= {*"QKV"}:
        raise ReaderError(f"{kinds!r} are no kinds of composition: choose some of Q, K and V.")
    embedded = stream = model.W_E[tokens]
    for layer in range(model.config.n_layers):
        cut = kinds if layers is None or layer in layers else ""
        queries, keys, values = (embedded if kind in cut else stream for kind in "QKV")
        _, pattern = model.attention(queries, layer, keys_read=keys)
        stream = stream + written_by_layer(model, layer, pattern, values)
    return stream @ model.W_U
