"""Edges between heads: what a two-layer model loses without each of them, and what scores say of them beforehand.

An edge leads from a head of layer 0 to the queries, keys or values of a head of layer 1. It is cut by giving these
alone what the early head writes on average; all other heads go on reading what it really writes. Only one head of the
last layer changes then, and what follows it is linear: every edge is cut exactly, on one forward pass.

Rows stand for heads of layer 0 ("early"), columns for heads of layer 1 ("late").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, einsum

from helpers import ReaderError
from helpers.circuits import composition_scores, reading_matrix
from helpers.model import AttentionOnlyTransformer
from helpers.stream import in_basis, with_weights, write_basis

KINDS = "QKV"
Pairs = Float[Tensor, "early late"]


# ---- cutting ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Effects:
    """What follows from each cut, in nats for each context: a rise in loss, or how far the predictions move."""

    edges: Float[Tensor, "context kind early late"]  # each edge by itself; the kinds are Q, K and V
    kinds: Float[Tensor, "context kind"]  # all edges of a kind: without Q-, without K-, without V-composition
    all_edges: Float[Tensor, "context late"]  # all edges into a late head: it reads no earlier head
    head: Float[Tensor, "context late"]  # the late head itself: it writes its mean


@torch.no_grad()
def cut_edges(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"], places: Int[Tensor, " place"]
) -> tuple[Effects, Effects]:
    """How far the loss rises at some ``places``, on average, and how far the predictions move there, for every cut.

    What is cut is replaced by its mean over the other contexts at the same place. That takes the news away, leaves what
    is always there, and needs no draw. How far the predictions move is their Kullback-Leibler divergence from those of
    the intact model, which is the rise in loss that the model itself expects. It needs far less text than the rise on
    the text's own next tokens, where gains and losses cancel.

    Raises:
        ReaderError: the model has not two layers, or smears its keys.
    """
    if model.config.n_layers != 2 or model.smear is not None:
        raise ReaderError("Edges between heads are cut in models of two layers with ordinary keys.")
    fetched = torch.cat([_fetched(model, some) for some in tokens.split(4)])
    news, hidden = _mean_of_others(fetched) - fetched, model.future[places, : tokens.shape[1]]
    stream = model.W_E[tokens] + einsum("cepf,efd->cpd", fetched, model.W_O[0])
    reads = [_reads(model, of_context, places) for of_context in stream]
    mixed = torch.stack([_mix(read, hidden) for read in reads])
    without_head = _mean_of_others(mixed)
    logits = (stream[:, places] + einsum("chpf,hfd->cpd", mixed, model.W_O[1])) @ model.W_U
    readout, virtual, effects = model.W_O[1] @ model.W_U, _virtual_weights(model), []
    for i, read in enumerate(reads):
        cut = _mixed_after_cuts(read, _news_read(virtual, news[i], places), hidden)
        changes = torch.cat([cut, without_head[i, None]]) - mixed[i]
        effects.append(_effects(changes, readout, logits[i].log_softmax(-1), tokens[i, places + 1]))
    return tuple(_named(torch.stack(one), model.config.n_heads) for one in zip(*effects, strict=True))


def _fetched(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"]
) -> Float[Tensor, "context early pos d_head"]:
    """What the heads of layer 0 have fetched, before W_O."""
    embedded = model.W_E[tokens]
    _, pattern = model.attention(embedded, 0)
    return pattern @ einsum("cpd,hdf->chpf", embedded, model.W_V[0])


def _mean_of_others(of_contexts: Float[Tensor, "context ..."]) -> Float[Tensor, "context ..."]:
    return (of_contexts.sum(0) - of_contexts) / (len(of_contexts) - 1)


Reads = dict[str, Float[Tensor, "... d_head"]]  # of late heads: "Q" at the places, "K" and "V" everywhere


def _reads(
    model: AttentionOnlyTransformer, stream: Float[Tensor, "pos d_model"], places: Int[Tensor, " place"]
) -> Reads:
    """The queries, keys and values of layer 1."""
    positioned, W = stream + model.W_pos[: len(stream)], _readers(model)
    return {"Q": positioned[places] @ W["Q"], "K": positioned @ W["K"], "V": stream @ W["V"]}


def _readers(model: AttentionOnlyTransformer) -> dict[str, Float[Tensor, "late d_model d_head"]]:
    return {"Q": model.W_Q[1] / math.sqrt(model.config.d_head), "K": model.W_K[1], "V": model.W_V[1]}


def _virtual_weights(model: AttentionOnlyTransformer) -> dict[str, Float[Tensor, "early late d_head d_head"]]:
    """Through which layer 1 reads what layer 0 has fetched."""
    return {kind: model.W_O[0][:, None] @ W for kind, W in _readers(model).items()}


def _news_read(
    virtual: dict[str, Float[Tensor, "early late d_head d_head"]],
    news: Float[Tensor, "early pos d_head"],
    places: Int[Tensor, " place"],
) -> Reads:
    """What would be added to the reads of each late head if an early head wrote other things by ``news``."""
    at = {"Q": news[:, places], "K": news, "V": news}
    return {kind: at[kind][:, None] @ virtual[kind] for kind in KINDS}


def _mix(reads: Reads, hidden: Bool[Tensor, "place pos"]) -> Float[Tensor, "*cut late place d_head"]:
    """What heads fetch with these queries, keys and values."""
    return (reads["Q"] @ reads["K"].mT).masked_fill(hidden, -torch.inf).softmax(-1) @ reads["V"]


def _mixed_after_cuts(
    reads: Reads, news: Reads, hidden: Bool[Tensor, "place pos"]
) -> Float[Tensor, "cut late place d_head"]:
    """What each late head fetches without each edge, kind after kind; without all of a kind; and without any."""
    edges = [_mix(reads | {kind: reads[kind] + news[kind]}, hidden) for kind in KINDS]
    all_cut = {kind: reads[kind] + news[kind].sum(0) for kind in KINDS}
    kinds = [_mix(reads | {kind: all_cut[kind]}, hidden) for kind in KINDS]
    return torch.cat([*edges, torch.stack([*kinds, _mix(all_cut, hidden)])])


def _effects(
    changes: Float[Tensor, "cut late place d_head"],
    readout: Float[Tensor, "late d_head d_vocab"],
    log_p: Float[Tensor, "place d_vocab"],
    answers: Int[Tensor, " place"],
) -> tuple[Float[Tensor, "cut late+1"], Float[Tensor, "cut late+1"]]:
    """The rise in loss and the divergence if a late head, or at last all, fetch other things: means over places."""
    losses, divergences = [], []
    for at_place, before, answer in zip(changes.permute(2, 1, 0, 3), log_p, answers, strict=True):
        moved = at_place @ readout  # logits, [late, cut, d_vocab]
        moved = torch.cat([moved, moved.sum(0, keepdim=True)])
        expected, of_answer = moved @ before.exp(), moved[..., answer].clone()
        log_sum = moved.add_(before).logsumexp(-1)
        losses.append(log_sum - of_answer)
        divergences.append(log_sum - expected)
    return torch.stack(losses).mean(0).T, torch.stack(divergences).mean(0).T


def _named(effects: Float[Tensor, "context cut column"], n_early: int) -> Effects:
    n = len(KINDS)
    edges, kinds, all_edges, head = effects.split((n * n_early, n, 1, 1), dim=1)
    return Effects(edges[..., :-1].unflatten(1, (n, n_early)), kinds[..., -1], all_edges[:, 0, :-1], head[:, 0, :-1])


# ---- scores -----------------------------------------------------------------------------------------------------


def of_all_kinds(
    model: AttentionOnlyTransformer, scores: Callable[[AttentionOnlyTransformer, str], Pairs] = composition_scores
) -> Float[Tensor, "kind early late"]:
    """The scores of all pairs of heads by Q, K and V."""
    return torch.stack([scores(model, kind).double() for kind in KINDS])


def rotated_writers(model: AttentionOnlyTransformer, draw: int = 0) -> AttentionOnlyTransformer:
    """The same model, but what heads of layer 0 write is turned: a control for composition by chance.

    The rotation is as good as random, but made from the model: it carries each token's embedding as near as it can to
    that of another token, drawn by ``draw``. So it does not depend on the basis of the stream.
    """
    embeddings = (model.W_E - model.W_E.mean(0)).double()
    others = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(draw))
    U, _, Vh = torch.linalg.svd(embeddings[others].T @ embeddings)
    return with_weights(model, W_O=torch.stack([model.W_O[0] @ (U @ Vh).to(model.W_O), *model.W_O[1:]]))


def in_units_of_tokens(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    """The same model in the basis of its stream in which the embeddings are orthonormal.

    The composition scores of this model are those of matrices over tokens: ``A = W_E W_OV W_E⁺`` says of which
    embeddings a mixture is written, ``B = W_E W_QK W_Eᵀ`` which tokens match, and the stream between them drops out. So
    they stay as they are whatever linear map the stream goes through; the paper's own only if it is a rotation.
    """
    return in_basis(model, torch.linalg.inv(torch.linalg.qr(model.W_E.double()).R))


def component_composition_scores(model: AttentionOnlyTransformer, kind: str) -> Pairs:
    """How well a late head reads that singular direction of an early head's output which it reads best.

    After Merullo et al. (2024), who find that heads talk through single directions.
    """
    directions = [write_basis(model, early).T.to(model.W_E) for early in model.layer_heads(0)]
    matrices = [reading_matrix(model, late, kind) for late in model.layer_heads(1)]
    best = [[(of_early @ W).dense().norm(dim=1).max() / W.norm() for W in matrices] for of_early in directions]
    return torch.tensor(best, dtype=model.W_E.dtype)


@torch.no_grad()
def written_variance(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"]
) -> Float[Tensor, "context early"]:
    """How much what each head of layer 0 writes differs from context to context: its variance, in units of tokens."""
    fetched = torch.cat([_fetched(model, some) for some in tokens.split(4)])
    news, W_O = fetched - _mean_of_others(fetched), in_units_of_tokens(model).W_O[0]
    return einsum("cepf,efg,cepg->ce", news, W_O @ W_O.mT, news) / tokens.shape[1]


def levelled(table: Pairs) -> Pairs:
    """A table without its rows' and columns' means: what a pair of heads has beyond the level of either head."""
    return table - table.mean(0) - table.mean(1, keepdim=True) + table.mean()
