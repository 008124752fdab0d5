"""In-context learning, measured: how much easier late tokens are, and how much of that is due to some heads.

The score is that of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022).
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer, Cache, Head
from helpers.tokens import contexts_at

Pairs = tuple[Int[Tensor, "pair n_ctx"], Int[Tensor, "pair short"]]


EARLY, WIDTH = 50, 16  # the early position, and how many positions around it and at the end are averaged


def in_context_learning_score(losses: Float[Tensor, "batch predicted"]) -> float:
    """Loss late in the context minus loss around position 50, in nats; negative when context helps.

    The follow-up paper takes tokens 500 and 50; here the last 16 positions and the 16 positions around 50, each
    averaged, since the book's contexts are shorter.
    """
    near = losses[:, EARLY - WIDTH // 2 - 1 : EARLY + WIDTH // 2 - 1]
    return (losses[:, -WIDTH:].mean() - near.mean()).item()


def pairs_of_contexts(tokens: np.ndarray, n: int, n_ctx: int, width: int = WIDTH, seed: int = 0) -> Pairs:
    """``n`` contexts, and as many short ones that end in the same ``width`` tokens, which stand around position 50."""
    short = EARLY + width // 2
    ends = np.random.default_rng(seed).integers(n_ctx, len(tokens), n)
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
        ReaderError: the model lacks one of the heads.
    """
    model.check_heads(head for heads in removed.values() for head in heads)
    late, early = (_losses_at_the_end(model, tokens, removed, width) for tokens in pairs)
    return {name: (late[name] - early[name]).double() for name in removed}


@torch.no_grad()
def _losses_at_the_end(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    removed: Mapping[Hashable, Sequence[Head]],
    width: int,
) -> dict[Hashable, Float[Tensor, " batch"]]:
    """Mean loss of the last ``width`` tokens of each text without each group of heads."""
    losses = {name: [] for name in removed}
    places = slice(-1 - width, -1)
    for chunk in tokens.split(2):  # 2 texts at a time keep memory small
        cache = Cache()
        residual = model.residual_stream(chunk, cache=cache)[:, places]
        for name, heads in removed.items():
            logits = (residual - frozen_contribution(model, cache, heads, places)) @ model.W_U
            losses[name].append(next_token_losses(logits, chunk).mean(1))
    return {name: torch.cat(of_chunks) for name, of_chunks in losses.items()}


def frozen_contribution(
    model: AttentionOnlyTransformer, cache: Cache, heads: Sequence[Head], places: slice
) -> Float[Tensor, "batch place d_model"]:
    """What the last residual stream would lose without ``heads`` if every attention pattern stayed as it is.

    That is what they write, and what later heads, other than ``heads``, move of it: V-composition, but not Q or K.
    """
    lost = torch.zeros_like(cache.residual[0])
    for layer in range(model.config.n_layers):
        at = places if layer == model.config.n_layers - 1 else slice(None)
        gone = [head for at_layer, head in heads if at_layer == layer]
        kept = [head for head in range(model.config.n_heads) if head not in gone]
        written = cache.head_outputs[layer][:, gone, at].sum(1)
        if lost.any():
            attention = cache.patterns[layer][:, kept, at]
            moved = (attention.flatten(1, 2) @ lost).unflatten(1, attention.shape[1:3])
            values = torch.einsum("bhqd,hde->bhqe", moved, model.W_V[layer, kept])
            written = written + torch.einsum("bhqe,hed->bqd", values, model.W_O[layer, kept])
        lost = lost[:, at] + written
    return lost if model.config.n_layers else lost[:, places]
