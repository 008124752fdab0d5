"""Interference in a model of two layers: what readers of the stream hear besides their main sources, and its price.

In the middle of the stream there are 13 **writers**, the token's embedding and the heads of layer 0, and 37
**readers**: the queries, keys and values of layer 1, in this order, and the unembedding, which hears the same writers
directly. A reader's bystanders are those that are not among its main sources. Losses are in nats a token.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, einsum

from helpers import ReaderError, one_core
from helpers.edges import in_units_of_tokens
from helpers.model import AttentionOnlyTransformer
from helpers.stream import component_outputs, rotation_of_tokens

Written = Float[Tensor, "writer context pos d_model"]


@torch.no_grad()
def written_below(model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"]) -> Written:
    """What the token and each head of layer 0 write.

    Raises:
        ReaderError: the model has not two layers, or smears its keys.
    """
    if model.config.n_layers != 2 or model.smear is not None:
        raise ReaderError("Bystanders are measured in models of two layers with ordinary keys.")
    chunks = [component_outputs(model.cache(chunk))[: 1 + model.config.n_heads] for chunk in tokens.split(2)]
    return torch.cat(chunks, dim=1)


def mean_elsewhere(written: Written) -> Written:
    """The mean of what each writes at the same place of the other contexts."""
    return (written.sum(1, keepdim=True) - written) / (written.shape[1] - 1)


def news_elsewhere(written: Written, rotation: Float[Tensor, "d_model d_model"] | None = None) -> Written:
    """What each writes at the same place of the next context; with a rotation, its difference from the mean turned."""
    elsewhere, mean = written.roll(-1, dims=1), mean_elsewhere(written)
    return elsewhere if rotation is None else mean + (elsewhere - mean) @ rotation


def blind_rotation(model: AttentionOnlyTransformer, draw: int = 0) -> Float[Tensor, "d_model d_model"]:
    """A turn of the stream as good as random, made from the model so that it does not depend on the stream's basis.

    In units of tokens it is the rotation that carries each embedding as near as it can to that of another, drawn token.
    """
    basis = torch.linalg.inv(torch.linalg.qr(model.W_E.double()).R)  # as in ``in_units_of_tokens``
    embeddings = in_units_of_tokens(model).W_E.double()
    embeddings = embeddings - embeddings.mean(0)
    return (basis @ rotation_of_tokens(embeddings, draw) @ torch.linalg.inv(basis)).to(model.W_E)


# ---- one context --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Hearing:
    """What layer 1 and the unembedding make of a context at some places."""

    model: AttentionOnlyTransformer
    reads: Float[Tensor, "kind late pos d_head"]
    places: Int[Tensor, " place"]
    mixed: Float[Tensor, "late place d_head"]
    log_p: Float[Tensor, "place d_vocab"]
    answers: Int[Tensor, " place"]

    def mix(self, reads: Float[Tensor, "kind *late pos d_head"]) -> Float[Tensor, "*late place d_head"]:
        return _mix(self.model, reads, self.places)

    def rise(self, moved: Float[Tensor, "place d_vocab"]) -> tuple[float, float]:
        """By how much the loss rises if the logits move so, and the divergence from the intact model."""
        log_sum = (self.log_p + moved).logsumexp(-1)
        of_answers = moved.gather(1, self.answers[:, None]).squeeze(1)
        return (log_sum - of_answers).mean().item(), (log_sum - (self.log_p.exp() * moved).sum(-1)).mean().item()


def _readers(model: AttentionOnlyTransformer) -> Float[Tensor, "kind late d_model d_head"]:
    return torch.stack([model.W_Q[1] / math.sqrt(model.config.d_head), model.W_K[1], model.W_V[1]])


def _mix(
    model: AttentionOnlyTransformer, reads: Float[Tensor, "kind *late pos d_head"], places: Int[Tensor, " place"]
) -> Float[Tensor, "*late place d_head"]:
    """What heads fetch with these queries, keys and values."""
    queries, keys, values = reads
    hidden = model.future[places, : keys.shape[-2]]
    return (queries[..., places, :] @ keys.mT).masked_fill(hidden, -torch.inf).softmax(-1) @ values


def _hear(
    model: AttentionOnlyTransformer,
    written: Float[Tensor, "writer pos d_model"],
    tokens: Int[Tensor, " pos"],
    places: Int[Tensor, " place"],
) -> _Hearing:
    stream, W = written.sum(0), _readers(model)
    reads = einsum("pd,khde->khpe", stream, W)
    reads[:2] += einsum("pd,khde->khpe", model.W_pos[: len(tokens)], W[:2])
    mixed = _mix(model, reads, places)
    logits = (stream[places] + einsum("hpe,hed->pd", mixed, model.W_O[1])) @ model.W_U
    return _Hearing(model, reads, places, mixed, logits.log_softmax(-1), tokens[places + 1])


# ---- main sources -------------------------------------------------------------------------------------------------


@one_core()
@torch.no_grad()
def edge_divergences(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"], places: Int[Tensor, " place"]
) -> Float[Tensor, "writer reader"]:
    """How far the predictions move, in nats, if one reader hears one writer's mean instead: of every such edge."""
    written, readout = written_below(model, tokens), model.W_O[1] @ model.W_U
    news, found = mean_elsewhere(written) - written, []
    for i, of_context in enumerate(tokens):
        hearing = _hear(model, written[:, i], of_context, places)
        changes = einsum("wpd,khde->wkhpe", news[:, i], _readers(model))
        moved = [
            [
                hearing.rise((_mixed_with(hearing, change[kind, h], kind, h) - hearing.mixed[h]) @ readout[h])[1]
                for kind in range(3)
                for h in range(model.config.n_heads)
            ]
            for change in changes
        ]
        to_logits = [[hearing.rise(one)[1]] for one in news[:, i, places] @ model.W_U]
        found.append(torch.cat([torch.tensor(moved), torch.tensor(to_logits)], dim=1))
    return torch.stack(found).mean(0)


def _mixed_with(
    hearing: _Hearing, change: Float[Tensor, "pos d_head"], kind: int, h: int
) -> Float[Tensor, "place d_head"]:
    reads = hearing.reads[:, h].clone()
    reads[kind] += change
    return hearing.mix(reads)


def main_sources(divergences: Float[Tensor, "writer reader"], share: float = 0.9) -> Bool[Tensor, "writer reader"]:
    """For each reader the fewest writers whose edges make up ``share`` of the sum of its divergences."""
    ordered, writers = divergences.sort(0, descending=True)
    before = ordered.cumsum(0) - ordered
    is_main = before < share * ordered.sum(0)
    return torch.zeros_like(is_main).scatter(0, writers, is_main)


# ---- what bystanders cost -----------------------------------------------------------------------------------------


@torch.no_grad()
def rises_with_other_bystanders(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "context pos"],
    places: Int[Tensor, " place"],
    main: Bool[Tensor, "writer reader"],
    written: Written,
    instead: Written,
) -> Float[Tensor, " context"]:
    """The rise in loss, at some places, if all readers hear ``instead`` of what their bystanders have ``written``."""
    by, readout, rises = (~main).to(written), model.W_O[1] @ model.W_U, []
    to_heads = by[:, :-1].unflatten(1, (3, -1))
    for i, of_context in enumerate(tokens):
        hearing, news = _hear(model, written[:, i], of_context, places), instead[:, i] - written[:, i]
        change = einsum("wkh,wpd,khde->khpe", to_heads, news, _readers(model))
        moved = einsum("hpe,hev->pv", hearing.mix(hearing.reads + change) - hearing.mixed, readout)
        direct = einsum("w,wpd->pd", by[:, -1], news[:, places]) @ model.W_U
        rises.append(hearing.rise(moved + direct)[0])
    return torch.tensor(rises)
