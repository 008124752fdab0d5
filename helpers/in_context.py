"""In-context learning, measured: how much easier late tokens are, how much of that is due to some heads, and by which
algorithm a model learns.

The score is that of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022).
"""

import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer, Head
from helpers.tokens import contexts_at

Pairs = tuple[Int[Tensor, "pair n_ctx"], Int[Tensor, "pair short"]]


EARLY, WIDTH = 50, 16  # the early position, and how many positions around it and at the end are averaged
TEXTS_AT_ONCE = 8


def in_context_learning_score(losses: Float[Tensor, "batch predicted"]) -> float:
    """Loss late in the context minus loss around position 50, in nats; negative when context helps.

    The follow-up paper takes tokens 500 and 50; here the last 16 positions and the 16 positions around 50, each
    averaged, since the book's contexts are shorter.
    """
    near = losses[:, EARLY - WIDTH // 2 - 1 : EARLY + WIDTH // 2 - 1]
    return (losses[:, -WIDTH:].mean() - near.mean()).item()


def pairs_of_contexts(tokens: np.ndarray, n: int, n_ctx: int, width: int = WIDTH, seed: int = 0) -> Pairs:
    """``n`` contexts, and as many short ones that end in the same ``width`` tokens, which stand around position 50."""
    return pairs_ending_at(tokens, np.random.default_rng(seed).integers(n_ctx, len(tokens), n), n_ctx, width)


def pairs_ending_at(tokens: np.ndarray, ends: np.ndarray, n_ctx: int, width: int = WIDTH) -> Pairs:
    """``pairs_of_contexts`` whose last tokens stand right before given places of a text."""
    short = EARLY + width // 2
    return contexts_at(tokens, ends - n_ctx + 1, n_ctx), contexts_at(tokens, ends - short + 1, short)


def paired_icl_scores(
    model: AttentionOnlyTransformer, pairs: Pairs, removed: Mapping[Hashable, Sequence[Head]], width: int = WIDTH
) -> dict[Hashable, Float[Tensor, " pair"]]:
    """In-context-learning score of each pair, nats: on the same tokens late in a context and early in a shorter one.

    ``in_context_learning_score`` compares the losses of different tokens, and some tokens are harder than others.
    In pairs that cancels, so that far fewer texts give the same certainty; the expected value is the same.

    There is one score without each of several groups of heads: what they write is taken away, but all others keep
    looking where they look (the "pattern-preserving ablation" of Olsson et al., 2022). ``{"none": ()}`` removes none.

    Raises:
        ReaderError: the model lacks one of the heads, or smears its keys.
    """
    model.check_heads(head for heads in removed.values() for head in heads)
    late, early = (_losses_at_the_end(model, tokens, list(removed.values()), width) for tokens in pairs)
    return dict(zip(removed, (late - early).double(), strict=True))


@torch.no_grad()
def _losses_at_the_end(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], groups: Sequence[Sequence[Head]], width: int
) -> Float[Tensor, "group batch"]:
    """Mean loss of the last ``width`` tokens of each text without each group of heads."""
    losses = []
    for chunk in tokens.split(TEXTS_AT_ONCE):
        streams = streams_without(model, chunk, groups, width)
        losses.append(torch.stack([next_token_losses(stream @ model.W_U, chunk).mean(1) for stream in streams]))
    return torch.cat(losses, dim=1)


# ---- without some heads, patterns kept --------------------------------------------------------------------------

PerHead = Float[Tensor, "batch head pos d_head"]


def streams_without(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], groups: Sequence[Sequence[Head]], width: int
) -> list[Float[Tensor, "batch width d_model"]]:
    """The last residual stream, at the places that predict the last ``width`` tokens, without each group of heads.

    All heads look where they look in the intact model. So what is lost is what a group writes, and what later heads
    move of it: V-composition, but not Q or K. Of the last layer only these places are computed.

    Raises:
        ReaderError: the model smears its keys.
    """
    if model.smear is not None:
        raise ReaderError("Patterns cannot be kept here if keys are smeared: take a model without smeared keys.")
    intact, at = frozenset(), slice(-1 - width, -1)
    streams = {intact: F.embedding(tokens, model.W_E)}  # by the heads that are gone from the layers so far
    for layer in range(model.config.n_layers):
        if last := layer == model.config.n_layers - 1:
            mixed = _mixed_at(at, model, layer, streams[intact], streams)
        else:
            mixed = _mixed(model, layer, tokens, streams[intact], streams)
        after = {intact, *(frozenset(head for head in group if head[0] <= layer) for group in groups)}
        before = {gone: frozenset(head for head in gone if head[0] < layer) for gone in after}
        streams = {
            gone: (streams[old][:, at] if last else streams[old]) + _written(model, layer, mixed[old], without=gone)
            for gone, old in before.items()
        }
    return [streams[frozenset(group)] if model.config.n_layers else streams[intact][:, at] for group in groups]


def _mixed(
    model: AttentionOnlyTransformer, layer: int, tokens: Int[Tensor, "batch pos"], intact: Tensor, streams: Mapping
) -> dict[frozenset, PerHead]:
    """The values that each head of a layer gathers from each stream, looking where it looks in the intact one."""

    def project(weights: Float[Tensor, "head d_model d_head"], stream: Tensor | None) -> Float[Tensor, "..."]:
        """A stream as the heads read it; None for the positions. In layer 0 each different token is read once."""
        flat = weights.transpose(0, 1).flatten(1)
        if stream is None:
            read = model.W_pos[: tokens.shape[1]] @ flat
        elif layer:
            read = stream @ flat
        else:
            different, places = tokens.unique(return_inverse=True)
            read = (model.W_E[different] @ flat)[places]
        return read.unflatten(-1, (model.config.n_heads, -1)).transpose(-3, -2)

    W_Q, W_K = model.W_Q[layer] / math.sqrt(model.config.d_head), model.W_K[layer]
    queries, keys = (project(weights, intact) + project(weights, None) for weights in (W_Q, W_K))
    values = {gone: project(model.W_V[layer], stream) for gone, stream in streams.items()}
    attend = F.scaled_dot_product_attention
    return {gone: attend(queries, keys, of_stream, is_causal=True, scale=1.0) for gone, of_stream in values.items()}


def _mixed_at(
    places: slice, model: AttentionOnlyTransformer, layer: int, intact: Tensor, streams: Mapping
) -> dict[frozenset, PerHead]:
    """The same at a few places, where it is cheaper to leave keys and values unmade: ``q W_Kᵀ`` meets the stream."""
    n = intact.shape[1]
    read = intact + model.W_pos[:n]
    W_Q = model.W_Q[layer] / math.sqrt(model.config.d_head)
    asked = torch.einsum("bpd,hde,hke->bhpk", read[:, places], W_Q, model.W_K[layer])
    scores = asked.flatten(1, 2) @ read.mT
    hidden = model.future[:n, :n][places].repeat(model.config.n_heads, 1)
    pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    gathered = {gone: (pattern @ stream).unflatten(1, asked.shape[1:3]) for gone, stream in streams.items()}
    return {gone: torch.einsum("bhpd,hde->bhpe", moved, model.W_V[layer]) for gone, moved in gathered.items()}


def _written(
    model: AttentionOnlyTransformer, layer: int, mixed: PerHead, without: frozenset[Head]
) -> Float[Tensor, "batch pos d_model"]:
    """What the heads of a layer write together, ``without`` some."""
    kept = torch.tensor([head not in without for head in model.layer_heads(layer)])
    W_O = model.W_O[layer] * kept[:, None, None]
    return mixed.transpose(1, 2).flatten(2) @ W_O.flatten(0, 1)


# ---- by which algorithm -----------------------------------------------------------------------------------------


def shuffled_texts(tokens: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
    """The same tokens in random order, ``<START>`` excepted: which token follows which is chance.

    One order serves for all texts: which tokens meet is chance all the same.
    """
    order = 1 + torch.randperm(tokens.shape[1] - 1, generator=torch.Generator().manual_seed(0))
    return torch.cat([tokens[:, :1], tokens[:, order]], dim=1)


def raised_by_context(
    logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"], others: Int[Tensor, "batch pos"]
) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
    """How far a model raises what the context has: any of its tokens, and the successor above these. Nats of logit.

    Two predictors of what comes after a token that came once before: *copying* expects any token of the context,
    *induction* the one that followed last time. So the successor is compared with the other tokens that the text has
    had once, and these with tokens that the other text has had once by then, and this text never. On shuffled texts
    nothing else tells them apart. Sums over the places of each text; a model that only copies has 0 in the second.
    """
    sums = [_raised_in(*texts) for texts in zip(logits, tokens, others, strict=True)]
    any_token, successor = torch.tensor(sums, dtype=torch.double).reshape(-1, 2).unbind(1)
    return any_token, successor


def _raised_in(
    logits: Float[Tensor, "pos d_vocab"], text: Int[Tensor, " pos"], other: Int[Tensor, " pos"]
) -> tuple[float, float]:
    first, second = _first_two_places(text, logits.shape[1])
    there, again = _first_two_places(other, logits.shape[1])
    place = torch.arange(len(text))[:, None]
    ours = (first <= place) & (place < second) & (place < there)
    theirs = (there <= place) & (place < again) & (place < first)
    after = text[(first[text] + 1).clamp(max=len(text) - 1), None]
    asked = (second[text] == place[:, 0]) & ours.gather(1, after).squeeze(1) & (ours.sum(1) > 1) & theirs.any(1)
    logits, after, ours, theirs = logits[asked].double(), after[asked], ours[asked], theirs[asked]
    successor = logits.gather(1, after).squeeze(1)
    of_others = _mean_where(logits, ours.scatter(1, after, False))
    return (of_others - _mean_where(logits, theirs)).sum().item(), (successor - of_others).sum().item()


def _first_two_places(text: Int[Tensor, " pos"], d_vocab: int) -> tuple[Int[Tensor, " token"], Int[Tensor, " token"]]:
    """Where each token of the vocabulary stands for the first and for the second time; past the end if it does not."""
    n, places = len(text), torch.arange(len(text))
    first = torch.full((d_vocab,), n).scatter_reduce(0, text, places, "amin")
    later = places.where(places > first[text], n)
    return first, torch.full((d_vocab,), n).scatter_reduce(0, text, later, "amin")


def _mean_where(rows: Float[Tensor, "row n"], chosen: Bool[Tensor, "row n"]) -> Float[Tensor, " row"]:
    return (rows * chosen).sum(1) / chosen.sum(1)
