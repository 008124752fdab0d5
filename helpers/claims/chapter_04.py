"""Claims of chapter 04_copying_and_eigenvalues."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Complex, Float, Int, Shaped
from torch import Tensor

from helpers.bigrams import next_in_frequency
from helpers.circuits import LowRank, ov_circuit
from helpers.claims.ledger import Evidence, at_least, claim
from helpers.claims.models import Models
from helpers.copying import (
    NEAR,
    attended,
    common_tokens,
    finds_variant,
    first_components,
    most_reach,
    ov_factors,
    ov_products,
    row_coordinates,
    variant_pairs,
)
from helpers.heads import all_patterns
from helpers.model import AttentionOnlyTransformer
from helpers.statistics import Estimate, resampled, spearman
from helpers.text import shelf_text

REPAIRED = "each source's row given to the token next in frequency"  # the same in all heads


@claim("cl-3reasons", at_least(0.1))
def _variants_are_alike(models: Models) -> Estimate:
    """An OV circuit groups like tokens, such as a word and its plural, more closely than the embedding does already.

    The embedding is given as many dimensions as the circuit has: its first principal components.
    """
    model, text = models.one_layer, shelf_text()
    among = common_tokens(text.bigrams)
    pairs = variant_pairs(text.tokenizer, among)
    circuits = (row_coordinates(ov_circuit(model, head)) for head in model.heads)
    in_circuits = torch.stack([finds_variant(rows, among, pairs).double() for rows in circuits]).mean(0)
    in_embedding = finds_variant(first_components(model.W_E, model.config.d_head), among, pairs).double()
    return resampled(lambda here, there: (here - there).mean(), in_circuits, in_embedding)


# ---- eigenvalues --------------------------------------------------------------------------------------------------


@claim("fig15-eig-scatter", at_least(0.75), control=REPAIRED)
def _mostly_positive_eigenvalues(models: Models) -> Evidence:
    """In more than half of the heads of a one-layer model most eigenvalues of the OV circuit are positive."""

    def reached_by_most(spectra: Complex[Tensor, "head d_head"]) -> float:
        return most_reach((spectra.real > 0).double().mean(1))

    sources, outs = ov_factors(models.one_layer)
    repaired = sources[next_in_frequency(shelf_text().bigrams)]
    return Evidence(of_spectra(reached_by_most, sources, outs), of_spectra(reached_by_most, repaired, outs))


@claim("fig16-eig-hist", at_least(1.0, weaker=0.5), control=REPAIRED)
def _two_groups(models: Models) -> Evidence:
    """The copying scores fall into two groups, a large one near 1 and a small one near 0, with nothing between.

    Of scores that are spread evenly from 1/4 to 1, a third lie above 3/4.
    """

    def near_one(spectra: Complex[Tensor, "head d_head"]) -> float:
        scores = scores_of(spectra)
        return ((scores > 0.75).double().sum() / (scores > 0.25).sum().clamp(min=1)).item()

    sources, outs = ov_factors(models.one_layer)
    repaired = sources[next_in_frequency(shelf_text().bigrams)]
    return Evidence(of_spectra(near_one, sources, outs), of_spectra(near_one, repaired, outs))


def of_spectra(
    statistic: Callable[..., float],
    sources: Float[Tensor, "token head d_head"],
    outs: Float[Tensor, "token head d_head"],
    *tables: Shaped[Tensor, "token head"],
) -> Estimate:
    """``statistic`` of the eigenvalues of every head's OV circuit, and of tables over tokens, tokens resampled.

    In groups of 16 tokens, which stand far from each other in the vocabulary: much faster than one by one.
    """
    n_groups = len(sources) // 16
    products = ov_products(sources, outs, n_groups)
    grouped = [table.unflatten(0, (-1, n_groups)) for table in tables]

    def of_groups(groups: Int[Tensor, " group"]) -> float:
        times = torch.bincount(groups, minlength=n_groups).double()
        spectra = torch.linalg.eigvals(torch.tensordot(times, products, dims=1))
        return statistic(spectra, *(table[:, groups].flatten(0, 1) for table in grouped))

    return resampled(of_groups, torch.arange(n_groups), n=100)


def scores_of(spectra: Complex[Tensor, "head d_head"]) -> Float[Tensor, " head"]:
    """The copying score of each head."""
    return spectra.sum(1).real / spectra.abs().sum(1)


@claim("cl-random-eig", at_least(0.45), geometry=True)
def _random_heads(models: Models) -> Estimate:
    """The eigenvalues of a random head are as often positive as negative, and many of them are complex."""
    first = 100 * (1 + models.text_seed)
    random = (AttentionOnlyTransformer(models.one_layer.config, first + i).requires_grad_(False) for i in range(6))
    spectra = torch.stack([torch.linalg.eigvals(ov_products(*ov_factors(model))).flatten() for model in random])
    kinds = (spectra.real > 0, spectra.real < 0, spectra.imag != 0)
    shares = torch.stack([kind.double().mean(1) for kind in kinds], dim=1)  # [random model, kind]
    return resampled(lambda some: some.mean(0).min(), shares)


# ---- the diagonal -------------------------------------------------------------------------------------------------


@claim("cl-most-heads-copy", at_least(1.0), control=REPAIRED)
def _most_heads_copy(models: Models) -> Evidence:
    """Most heads of a one-layer model copy: on text, more than half of them raise the logit of the very token that they
    attend to, by a standard deviation or more of what they do to all tokens.
    """
    model, contexts = models.one_layer, models.contexts[:32]
    weights = torch.cat([attended(all_patterns(model, some)[0], some) for some in contexts.split(2)])
    total = weights.sum(2)  # [context, head]

    def found(row_of: Tensor | slice) -> Estimate:
        boosts = own_boosts(model, row_of)[:, contexts].transpose(0, 1)  # [context, head, place]
        return resampled(lambda up, of: most_reach(up.sum(0) / of.sum(0)), (weights * boosts).sum(2), total)

    return Evidence(found(slice(None)), found(next_in_frequency(shelf_text().bigrams)))


def own_boosts(model: AttentionOnlyTransformer, row_of: Tensor | slice) -> Float[Tensor, "head token"]:
    """How far each head raises each token by its own row, or the row of the token that it is paired with; in standard
    deviations of the row, above the row's mean.
    """
    circuits = (ov_circuit(model, head) for head in model.heads)
    return torch.stack([LowRank(ov.left[row_of], ov.right).standardised_diagonal() for ov in circuits])


@claim("cl-copying-caveat", at_least(0.01), geometry=True)
def _positive_eigenvalues_negative_diagonal(models: Models) -> Estimate:
    """A head may have positive eigenvalues only and still lower some of the tokens that it attends to."""
    sources, outs = ov_factors(models.one_layer)
    n_positive = (torch.linalg.eigvals(ov_products(sources, outs)[0]).real > 0).sum(1)
    lowered = (sources * outs).sum(2) < 0  # [token, head]
    most_positive = lowered[:, n_positive == n_positive.max()].double()  # all 32, in a trained model
    return resampled(lambda some: some.mean(0).min(), most_positive)


@claim("cl-copying-alternatives", at_least(0.7), control=REPAIRED)
def _alternatives_agree(models: Models) -> Evidence:
    """Other ways to say that a head copies, by its diagonal, put the heads in much the same order."""
    sources, outs = ov_factors(models.one_layer)
    repaired = sources[next_in_frequency(shelf_text().bigrams)]
    return Evidence(agreement(sources, outs), agreement(repaired, outs))


def agreement(sources: Float[Tensor, "token head d_head"], outs: Float[Tensor, "token head d_head"]) -> Estimate:
    """Smallest rank correlation, over heads, of the copying score with the four readings of the diagonal."""
    circuits = [LowRank(left, right.T) for left, right in zip(sources.unbind(1), outs.unbind(1), strict=True)]
    boosts = torch.stack([ov.standardised_diagonal() for ov in circuits], dim=1)
    ranks = torch.stack([ov.diagonal_ranks() for ov in circuits], dim=1)

    def smallest(
        spectra: Complex[Tensor, "head d_head"],
        boost: Float[Tensor, "token head"],
        first: Bool[Tensor, "token head"],
        near: Bool[Tensor, "token head"],
    ) -> float:
        """Of one sample of tokens."""
        others = (boost.mean(0), boost.median(0).values, first.double().mean(0), near.double().mean(0))
        return min(spearman(scores_of(spectra), other) for other in others)

    return of_spectra(smallest, sources, outs, boosts, ranks == 1, ranks <= NEAR)
