"""Claims of chapter 01_residual_stream."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import centred_unembedding
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.identities import (
    biases_folded,
    change_of_basis,
    forward_by_hand,
    information_movement,
    linear_when_frozen,
    low_rank_heads,
    sum_of_outputs,
    sum_of_paths,
    sum_of_scores,
    tensor_products,
    virtual_heads,
    virtual_weights,
)
from helpers.model import AttentionOnlyTransformer
from helpers.statistics import Estimate, mean_of
from helpers.stream import dimensions_for, joint_spectrum, principal_variances


@claim("S-take", EXACT)
def _end_to_end_paths(models: Models) -> float:
    """Nothing but W_E, W_U, the positions and each head's W_QK and W_OV is needed: at given attention the two-layer
    model is the sum of 169 paths from token to logit, and its attention scores are sums over pairs of such paths,
    the position being one more.

    Exercises the paper's list of take-aways together: heads add up, paths run from end to end, QK and OV are
    separate, keys, queries and values do not appear, and the second layer composes with the first in all three ways.
    """
    model, tokens = models.exact("two_layer", n=1)
    return max(sum_of_paths(model, tokens), sum_of_scores(model, tokens))


@claim("fig1-arch", EXACT)
def _architecture(models: Models) -> float:
    """The model does three things: embed the token, add to the stream what every head of every layer writes,
    unembed.
    """
    return forward_by_hand(*models.exact("two_layer"))


@claim("fig2-residual", EXACT)
def _sum_of_component_outputs(models: Models) -> float:
    """The stream is a sum of component outputs, the embedding and the outputs of all heads, so the logits are the sum
    of what each component alone is worth.
    """
    return sum_of_outputs(*models.exact("two_layer"))


@claim("fig3-virtual-weights", EXACT)
def _virtual_weights(models: Models) -> float:
    """What a head of layer 1 reads from the stream is, component by component, what the embedding or a head of layer 0
    wrote times a virtual weight, the product of the writer's output and the reader's input matrix.
    """
    return virtual_weights(*models.exact("two_layer"))


@claim("cl-no-privileged-basis", EXACT)
def _no_privileged_basis(models: Models) -> float:
    """Rotate every matrix that writes to or reads from the stream, positions included, and the model says the same."""
    return change_of_basis(*models.exact("two_layer"))


@claim("cl-bias-fold", EXACT)
def _biases_fold(models: Models) -> float:
    """A model with biases is a model without them whose stream has a dimension that is always 1."""
    return biases_folded(*models.exact("two_layer"))


@claim("cl-pca-embed", at_most(0.5))
def _embedding_spectrum(models: Models) -> float:
    """The embedding and the unembedding use few of the stream's dimensions: their spectra decay quickly."""
    model = models.two_layer
    used = [dimensions_for(principal_variances(vectors)) for vectors in (model.W_E, centred_unembedding(model).T)]
    return max(used) / model.config.d_model


@claim("cl-pca-joint", at_least(0.1), control="W_U turned at random", digits=3)
def _dimensions_of_their_own(models: Models) -> Evidence:
    """Embedding and unembedding share some dimensions of the stream, and keep others that only one of them uses.

    The control's unembedding is turned by the rotation that takes the embedding as near as possible to that of other
    tokens, which has nothing to do with W_U.
    """
    model = models.two_layer
    embedded, unembedded = model.W_E - model.W_E.mean(0), centred_unembedding(model).T
    others = torch.randperm(len(embedded), generator=torch.Generator().manual_seed(0))
    U, _, Vh = torch.linalg.svd(embedded[others].T @ embedded)
    return Evidence(*(_lesser_kind(embedded, vectors) for vectors in (unembedded, unembedded @ (U @ Vh))))


def _lesser_kind(one: Float[Tensor, "token d_model"], other: Float[Tensor, "token d_model"]) -> Estimate:
    """The share of all dimensions that are shared or that are one set's alone, whichever are fewer.

    All tokens are there and none is drawn, so the number is no sample's.
    """
    _, shares = joint_spectrum(one, other)
    shared, alone = (shares - 0.5).abs() < 0.25, (shares - 0.5).abs() > 0.4
    fewer = min(kind.double().mean().item() for kind in (shared, alone))
    return Estimate(fewer, fewer, fewer)


@claim("cl-bandwidth", at_least(1.0), geometry=True)
def _bandwidth(models: Models) -> Estimate:
    """The stream is in demand: together its writers use more directions than it has dimensions. This is mostly
    arithmetic of the sizes, so an untrained model shows it too.
    """
    return mean_of(torch.tensor([_dimensions_used(models.two_layer, some) for some in models.contexts[:32].split(4)]))


def _dimensions_used(model: AttentionOnlyTransformer, tokens: Int[Tensor, "context pos"]) -> float:
    """How many directions hold nine tenths of what each writer writes, summed over embedding and heads, per d_model."""
    cache, mixed = model.cache(tokens), []
    for pattern, values in zip(cache.patterns, cache.values, strict=True):
        mixed += (pattern @ values).transpose(0, 1).flatten(1, 2)  # of each head [token, d_head]
    heads = zip(mixed, model.W_O.flatten(0, 1), strict=True)
    used = [dimensions_for(_variances_written(rows, W_O)) for rows, W_O in heads]
    used.append(dimensions_for(principal_variances(model.W_E[tokens].flatten(0, 1))))
    return sum(used) / model.config.d_model


def _variances_written(
    mixed: Float[Tensor, "token d_head"], W_O: Float[Tensor, "d_head d_model"]
) -> Float[Tensor, " d_head"]:
    """``principal_variances`` of ``mixed @ W_O``, but for zeros, from a small matrix with the same eigenvalues."""
    centred = (mixed - mixed.mean(0)).double()
    return torch.linalg.eigvals(centred.T @ centred / len(mixed) @ W_O.double() @ W_O.double().T).real.clamp(min=0)


@claim("eq-heads-additive", EXACT)
def _heads_add(models: Models) -> float:
    """Concatenating the results of the heads and multiplying by one large output matrix adds up what each head writes
    with its own part of it.
    """
    return sum_of_outputs(*models.exact("two_layer"))


@claim("fig5-info-movement", EXACT)
def _information_movement(models: Models) -> float:
    """With attention held, a change of the stream at source j changes what a head writes at destination i by A_ij times
    the change through W_OV: the pattern says where, W_OV says what.
    """
    return information_movement(*models.exact("two_layer"))


@claim("eq-head-tensor", EXACT)
def _head_is_a_tensor_product(models: Models) -> float:
    """A head is the tensor product of its pattern and its W_OV: one large matrix that acts on all positions and all
    dimensions at once.
    """
    return tensor_products(*models.exact("two_layer"))


@claim("cl-lowrank-readwrite", EXACT)
def _low_rank(models: Models) -> float:
    """What a head moves, its values read from d_head directions and its output lies in d_head directions; inside, its
    keys, queries and values may be written in any other basis without any effect.
    """
    model, tokens = models.exact("two_layer")
    return max(low_rank_heads(model, tokens), change_of_basis(model, tokens))


@claim("cl-half-linear", EXACT)
def _half_linear(models: Models) -> float:
    """With its attention held fixed, a whole model is linear in the stream."""
    return linear_when_frozen(*models.exact("two_layer"))


@claim("eq-virtual-head", EXACT)
def _virtual_head(models: Models) -> float:
    """Two heads in a row act as one: the product of their patterns is a pattern again, causal and with rows that sum to
    1, and the product of their W_OV is its W_OV.
    """
    return virtual_heads(*models.exact("two_layer"))
