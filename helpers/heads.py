"""What attention heads do on tokens: where they look, what they write, and what the loss is without them.

Losses are in nats per token. Positions count from 0, ``<START>``; the loss "at position t" is that of predicting the
token at t from those before it.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import START, ReaderError
from helpers.circuits import centred_unembedding
from helpers.model import AttentionOnlyTransformer, Head

# ---- losses -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def loss_per_token(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    patterns: Sequence[Float[Tensor, "batch head dest src"]] | None = None,
    **interventions,
) -> Float[Tensor, "batch pos-1"]:
    """Cross-entropy of every token but the first, in nats; batches of 2 keep memory small.

    Takes the interventions of a forward pass. Those other than ``patterns`` are the same for every batch.
    """
    losses = []
    for start in range(0, len(tokens), 2):
        of_batch = slice(start, start + 2)
        frozen = None if patterns is None else [layer[of_batch] for layer in patterns]
        logits = model(tokens[of_batch], patterns=frozen, **interventions)
        losses.append(next_token_losses(logits[:, :-1], tokens[of_batch]))
    return torch.cat(losses)


def next_token_losses(
    logits: Float[Tensor, "batch predicted d_vocab"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch predicted"]:
    """Cross-entropy of the last ``predicted`` tokens, in nats, given the logits at the places before them."""
    answers = tokens[:, tokens.shape[1] - logits.shape[1] :, None]
    return -logits.log_softmax(-1).gather(-1, answers).squeeze(-1)


def repeated_random_loss(
    model: AttentionOnlyTransformer, length: int = 20, n_samples: int = 16, **interventions
) -> tuple[float, float]:
    """Mean loss on the first and on the second copy of random tokens.

    The first token of the second copy is left out: nothing says that the sequence starts again there.
    """
    tokens = random_repeats(model.config.d_vocab, length, n_samples=n_samples)
    losses = loss_per_token(model, tokens, **interventions)
    return losses[:, :length].mean().item(), losses[:, length + 1 :].mean().item()


@torch.no_grad()
def losses_without_heads(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    groups: Iterable[Sequence[Head]],
    means: Mapping[Head, Float[Tensor, " d_model"]] | None = None,
) -> Float[Tensor, " group"]:
    """Mean loss, in nats, without each group of heads of the last layer.

    Nothing reads what these heads write but the unembedding, so one forward pass serves for all groups. With ``means``,
    those of ``mean_outputs`` on other text, each removed head goes on writing its mean.

    Raises:
        ReaderError: the last layer has no such head.
    """
    cache, losses, last = model.cache(tokens), [], model.config.n_layers - 1
    for group in groups:
        if not {*group} <= {*model.layer_heads(last)}:
            raise ReaderError(
                f"Name heads of the last layer, {last}, only: what the others write is read by later heads."
            )
        written = sum(cache.head_outputs[-1][:, head] - (means[last, head] if means else 0) for _, head in group)
        losses.append(next_token_losses((cache.residual[-1] - written)[:, :-1] @ model.W_U, tokens).mean())
    return torch.stack(losses)


@torch.no_grad()
def boosts_beyond_mean(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"], places: slice
) -> tuple[Float[Tensor, "context place d_vocab"], Float[Tensor, "head context place d_vocab"]]:
    """The logits at some places, and what each head of the last layer adds to them there.

    Counted are logits above their mean over the vocabulary, and what a head adds beyond its mean on the other half of
    the contexts: taking it away is a mean ablation.
    """
    found = []
    for chunk in tokens.split(4):
        cache = model.cache(chunk)
        found.append((cache.residual[-1][:, places].clone(), cache.head_outputs[-1][:, :, places].clone()))
    stream, written = map(torch.cat, zip(*found, strict=True))
    halves = written.tensor_split(2)
    means = [other.mean((0, 2))[:, None] for other in reversed(halves)]
    beyond = torch.cat([half - mean for half, mean in zip(halves, means, strict=True)])
    U = centred_unembedding(model)
    boosts = U.new_empty(beyond.shape[1], *stream.shape[:2], U.shape[1])
    for head, of_head in enumerate(boosts):
        of_head.copy_(beyond[:, head] @ U)
    return stream @ U, boosts


def mean_outputs(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> dict[Head, Float[Tensor, " d_model"]]:
    """Each head's average output over ``tokens``: what to put in its place for a mean ablation."""
    cache = model.cache(tokens)
    return {(layer, head): cache.head_outputs[layer][:, head].mean(dim=(0, 1)) for layer, head in model.heads}


# ---- attention --------------------------------------------------------------------------------------------------


def all_patterns(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> list[Float[Tensor, "batch head dest src"]]:
    """Every layer's attention pattern on ``tokens``; batches of 4 keep memory small."""
    chunks = [model.cache(chunk).patterns for chunk in tokens.split(4)]
    return [torch.cat(layer) for layer in zip(*chunks, strict=True)]


def attention_by_offset(
    pattern: Float[Tensor, "batch head dest src"], max_offset: int
) -> Float[Tensor, "head {max_offset}+1"]:
    """Average attention to the token 0, 1, … ``max_offset`` places back, over destinations that have such a token."""
    offsets = range(max_offset + 1)
    return torch.stack([pattern.diagonal(-offset, dim1=-2, dim2=-1).mean(dim=(0, 2)) for offset in offsets], dim=1)


def previous_token_score(pattern: Float[Tensor, "batch head dest src"]) -> Float[Tensor, " head"]:
    """Average attention that a head pays to the token right before, over every destination but the first."""
    return pattern.diagonal(offset=-1, dim1=-2, dim2=-1).mean(dim=(0, 2))


def previous_token_scores(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "layer head"]:
    """``previous_token_score`` of every head on the given text."""
    return _by_layer(model, [previous_token_score(pattern) for pattern in all_patterns(model, tokens)])


def random_repeats(
    d_vocab: int, length: int, n_copies: int = 2, n_samples: int = 16, seed: int = 0
) -> Int[Tensor, "{n_samples} 1+{n_copies}*{length}"]:
    """``<START>`` and then the same ``length`` different random tokens, ``n_copies`` times over.

    Raises:
        ReaderError: the vocabulary has fewer tokens than ``length``.
    """
    if length >= d_vocab:
        raise ReaderError(
            f"A vocabulary of {d_vocab} has fewer than {length} tokens besides <START>: choose a smaller length."
        )
    generator = torch.Generator().manual_seed(seed)
    rows = [1 + torch.randperm(d_vocab - 1, generator=generator)[:length].repeat(n_copies) for _ in range(n_samples)]
    return torch.cat([torch.full((n_samples, 1), START), torch.stack(rows)], dim=1)


def induction_targets(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos pos"]:
    """True where an induction head should look, ``[batch, dest, src]``: right after an earlier copy of the destination.

    Source j is a target of destination t when ``tokens[j - 1] == tokens[t]`` and j ≤ t; with a repeat of N tokens
    that is t - (N - 1), not t - N.
    """
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], dim=1)
    return (before[:, None, :] == tokens[:, :, None]).tril()


def repeated_bigrams(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos-1"]:
    """Where the token that comes next came right after an earlier copy of the present token as well."""
    return ((tokens[:, None, :] == tokens[:, 1:, None]) & induction_targets(tokens)[:, :-1]).any(-1)


def largest_on(
    weights: Float[Tensor, "batch head dest src"], places: Bool[Tensor, "batch dest src"]
) -> Float[Tensor, "batch head"]:
    """How often a head's largest weight is on one of ``places``: a share of the destinations that have some.

    The weights may be attention, scores or what is moved. ``<START>``, where heads rest, does not compete.
    """
    largest = 1 + weights[..., 1:].argmax(-1, keepdim=True)
    hits = places[:, None].expand_as(weights).gather(-1, largest).squeeze(-1).sum(-1)
    return hits.double() / places.any(-1).sum(-1, keepdim=True)


def prefix_matching_score(
    pattern: Float[Tensor, "batch head pos pos"], tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, " head"]:
    """Share of a head's attention that falls on induction targets, averaged over destinations that have one."""
    targets = induction_targets(tokens)
    on_target = (pattern * targets[:, None]).sum(-1)
    has_target = targets.any(-1)[:, None].expand_as(on_target)
    return torch.stack([on_target[:, h][has_target[:, h]].mean() for h in range(pattern.shape[1])])


def prefix_matching_scores(
    model: AttentionOnlyTransformer, length: int, n_samples: int = 16
) -> Float[Tensor, "layer head"]:
    """``prefix_matching_score`` of every head on random tokens repeated once at distance ``length``."""
    tokens = random_repeats(model.config.d_vocab, length, n_samples=n_samples)
    return _by_layer(model, [prefix_matching_score(pattern, tokens) for pattern in all_patterns(model, tokens)])


def _by_layer(model: AttentionOnlyTransformer, scores: list[Float[Tensor, " head"]]) -> Float[Tensor, "layer head"]:
    return torch.stack(scores) if scores else torch.empty(0, model.config.n_heads)


# ---- what is moved ----------------------------------------------------------------------------------------------


def value_weighted_pattern(
    pattern: Float[Tensor, "batch head dest src"],
    values: Float[Tensor, "batch head src d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
) -> Float[Tensor, "batch head dest src"]:
    """Attention times the length of what it moves, ``A_ij ‖v_j W_O‖``: how much of each source arrives at all.

    The paper weights by ``‖v_j‖``. The length after W_O does not depend on the basis in which values are written.
    """
    return pattern * torch.einsum("bhke,hed->bhkd", values, W_O).norm(dim=-1)[:, :, None, :]


def direct_logit_attribution(
    model: AttentionOnlyTransformer, output: Float[Tensor, "... d_model"], answers: Int[Tensor, "..."] | int
) -> Float[Tensor, "..."]:
    """How far a component's output raises the logits of ``answers`` above the mean over the vocabulary, in nats.

    ``answers`` is one token for all places of ``output``, or a tensor with one for each.
    """
    return (output * centred_unembedding(model).T[answers]).sum(-1)
