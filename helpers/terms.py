"""What each order of term is worth ("Term Importance Analysis"), and each kind of composition."""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer


def term_importance(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> list[float]:
    """Mean loss, in nats, with all terms up to each order: the direct path alone, plus heads, plus pairs of heads, …

    The paper's algorithm. All runs use the attention of the intact model. Each run saves what the heads would write
    and puts what was saved in the run before into the residual stream; so in run n the stream holds exactly the
    terms of order n or less. With as many orders as layers nothing is left out.
    """
    of_chunks = [_losses_by_order(model, chunk) * len(chunk) / len(tokens) for chunk in tokens.split(2)]
    return torch.stack(of_chunks).sum(0).tolist()


def _losses_by_order(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, " order"]:
    cache = model.cache(tokens)
    saved, losses = [torch.zeros_like(cache.residual[0])] * model.config.n_layers, []
    for _ in range(model.config.n_layers + 1):
        stream, fresh = cache.residual[0], []
        for layer, pattern in enumerate(cache.patterns):
            fresh.append(written_by_layer(model, layer, pattern, stream))
            stream = stream + saved[layer]
        saved = fresh
        losses.append(_mean_loss(model, stream, tokens))
    return torch.stack(losses)


def layer_importance(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> dict[tuple[int, ...], float]:
    """Mean loss, in nats, of the direct path and the single heads of some layers, for every choice of layers.

    Each head reads the embeddings alone, under the attention of the intact model.
    """
    layers = range(model.config.n_layers)
    choices = [choice for n in range(len(layers) + 1) for choice in itertools.combinations(layers, n)]
    losses = dict.fromkeys(choices, 0.0)
    for chunk in tokens.split(2):
        cache = model.cache(chunk)
        embedded = cache.residual[0]
        written = [written_by_layer(model, layer, pattern, embedded) for layer, pattern in enumerate(cache.patterns)]
        for choice in choices:
            stream = embedded + sum(written[layer] for layer in choice)
            losses[choice] += _mean_loss(model, stream, chunk).item() * len(chunk) / len(tokens)
    return losses


def written_by_layer(
    model: AttentionOnlyTransformer,
    layer: int,
    pattern: Float[Tensor, "batch head dest src"],
    stream: Float[Tensor, "batch src d_model"],
) -> Float[Tensor, "batch dest d_model"]:
    """What a layer's heads write together if their values are read from ``stream``, with the given attention."""
    values = torch.einsum("bpd,hde->bhpe", stream, model.W_V[layer])
    return torch.einsum("bhqk,bhke,hed->bqd", pattern, values, model.W_O[layer])


def _mean_loss(
    model: AttentionOnlyTransformer, stream: Float[Tensor, "batch pos d_model"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, ""]:
    return next_token_losses(stream[:, :-1] @ model.W_U, tokens).mean()


def losses_without_composition(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], kinds: str
) -> Float[Tensor, "batch pos-1"]:
    """Loss of every token but the first, in nats, without some kinds of composition: "Q", "K", "V" or several.

    The queries, keys or values of every head are then computed from the embeddings alone. Attention is computed anew.
    So ``"K"`` is a model without K-composition, and ``"QKV"`` one whose heads all read what the first layer reads.

    Raises:
        ReaderError: one of ``kinds`` is another one.
    """
    if not {*kinds} <= {*"QKV"}:
        raise ReaderError(f"{kinds!r} are no kinds of composition: choose some of Q, K and V.")
    losses = []
    for chunk in tokens.split(2):
        embedded = stream = model.W_E[chunk]
        for layer in range(model.config.n_layers):
            queries, keys, values = (embedded if kind in kinds else stream for kind in "QKV")
            _, pattern = model.attention(queries, layer, keys_read=keys)
            stream = stream + written_by_layer(model, layer, pattern, values)
        losses.append(next_token_losses(stream[:, :-1] @ model.W_U, chunk))
    return torch.cat(losses)
