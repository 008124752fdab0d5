"""Claims of chapter 06_two_layer_induction.

Heads are a matter of degree: "induction heads" are all heads of layer 1, weighted by their prefix-matching scores, and
"the other heads" are all of them, weighted by what they lack to the largest one.
"""

import torch
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor

from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    centred_unembedding,
    copying_score,
    eigenvalue_score,
    induction_circuit,
    ov_circuit,
)
from helpers.claims.chapter_04 import of_spectra, scores_of
from helpers.claims.ledger import Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.copying import ov_products
from helpers.heads import all_patterns, induction_targets, largest_on, repeated_bigrams, value_weighted_pattern
from helpers.model import AttentionOnlyTransformer, Cache, Head
from helpers.scrubbing import read_by_distance
from helpers.statistics import Estimate, mean_of, ratio_of, resampled, spearman

OTHER_HEADS = "the other heads of layer 1"


def induction_weights(models: Models) -> Float[Tensor, " head"]:
    """How far each head of layer 1 is an induction head: its share of their prefix-matching scores."""
    matching = models.prefix_matching[1].double()
    return matching / matching.sum()


def other_weights(models: Models) -> Float[Tensor, " head"]:
    """How far it is not: its share of what all of them lack to the largest score."""
    lack = models.prefix_matching[1].max() - models.prefix_matching[1].double()
    return lack / lack.sum()


def certain(value: Tensor | float) -> Estimate:
    """Of something that nothing is drawn for."""
    return Estimate(float(value), float(value), float(value))


# ---- what they do -------------------------------------------------------------------------------------------------


@claim("S-2L", at_least(0.5), control="the best head of the one-layer model")
def _two_layers_have_induction_heads(models: Models) -> Evidence:
    """Two-layer models form induction heads: where a token comes again, one attends most to what followed before."""
    tokens = models.random_repeats(100, n_samples=24)

    def best(model: AttentionOnlyTransformer) -> Estimate:
        shares = largest_on(all_patterns(model, tokens)[-1], induction_targets(tokens))
        return mean_of(shares[:, shares.mean(0).argmax()])

    return Evidence(best(models.two_layer), best(models.one_layer))


@claim("cl-induction-function", at_least(0.5), control="the same places, with new tokens instead of a second copy")
def _without_a_copy_induction_heads_rest(models: Models) -> Evidence:
    """Induction heads rest on the first token until they find an earlier copy of the present one."""
    copied = models.random_repeats(50, n_samples=32)
    new = models.random_repeats(100, n_copies=1, n_samples=32)

    def leaves(tokens: Int[Tensor, "sample 101"]) -> Estimate:
        resting = all_patterns(models.two_layer, tokens)[1][..., 0].double()
        first, second = (
            induction_weights(models) @ resting[:, :, at].mean(-1).T for at in (slice(1, 51), slice(51, 101))
        )
        return ratio_of(first - second, first)

    return Evidence(leaves(copied), leaves(new))


@claim("fig20-examples", at_least(0.5), control="their share of the heads of layer 1, were all alike")
def _they_raise_what_followed_before(models: Models) -> Evidence:
    """On real text, where a pair of tokens comes again, it is the induction heads that raise its second token.

    Above what each head does for the next token where the present one came before, but with another after it.
    """
    found = torch.cat([attributed(models.two_layer, text) for text in models.contexts.split(2)])
    degree = models.prefix_matching[1].double() / models.prefix_matching[1].max()

    def share(contexts: Float[Tensor, "context kind column"]) -> Tensor:
        repeated, other = contexts.sum(0)
        by_head = repeated[:-1] / repeated[-1] - other[:-1] / other[-1]
        return by_head @ degree / by_head.sum()

    return Evidence(resampled(share, found), certain(degree.mean()))


def attributed(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch kind column"]:
    """Direct logit attribution of the next token to each head of layer 1, summed over places, whose number is last.

    Of two kinds: where the next token also followed an earlier copy of the present one, and where only others did.
    """
    written, answers = model.cache(tokens).head_outputs[1][:, :, :-1], centred_unembedding(model).T[tokens[:, 1:]]
    raised = torch.einsum("bhpd,bpd->bph", written, answers).double()
    repeated, seen = repeated_bigrams(tokens), induction_targets(tokens).any(-1)[:, :-1]
    kinds = torch.stack([repeated, seen & ~repeated], dim=1).to(raised)
    return torch.cat([kinds @ raised, kinds.sum(-1, keepdim=True)], dim=-1)


@claim("int-random", at_least(0.5), control="the earlier copies themselves, one place before")
def _it_works_on_random_tokens(models: Models) -> Evidence:
    """Induction heads work far from the training text: on random tokens that come three times, they move what followed
    either earlier copy.
    """
    tokens = models.random_repeats(20, n_copies=3)
    cache = models.two_layer.cache(tokens)
    moved = value_weighted_pattern(cache.patterns[1], cache.values[1], models.two_layer.W_O[1])

    def most_on(places: Bool[Tensor, "sample dest src"]) -> Estimate:
        return mean_of(largest_on(moved, places) @ induction_weights(models))

    copies = (tokens[:, :, None] == tokens[:, None, :]).tril(-1)
    return Evidence(most_on(induction_targets(tokens)), most_on(copies))


# ---- how they work ------------------------------------------------------------------------------------------------


@claim("fig21-mechanism", at_least(0.5), control="the places after copies of other tokens")
def _keys_come_from_the_previous_token(models: Models) -> Evidence:
    """Taken apart by tokens, an induction head's key comes from the token before the source, its query from its own.

    That is the largest part of what puts the source above its strongest competitor.
    """
    cache = models.two_layer.cache(models.random_repeats(50, n_samples=16))
    parts = read_by_distance(models.two_layer, cache, 8)
    weights = induction_weights(models)

    def smaller_share(shift: int) -> Estimate:
        found = (largest_parts(models.two_layer, parts, head, shift) for head in models.two_layer.layer_heads(1))
        hits = torch.einsum("hbs,h->bs", torch.stack([*found]), weights)
        return resampled(lambda samples: samples.mean(0).min(), hits)

    return Evidence(smaller_share(0), smaller_share(25))


def largest_parts(
    model: AttentionOnlyTransformer, parts: Float[Tensor, "part sample 101 d_model"], head: Head, shift: int
) -> Float[Tensor, "sample side"]:
    """How often the largest part of a key is of the token before the source, and that of a query of its own token.

    In the second copy of 50 tokens. The source is the place after the first copy, or that of another token, ``shift``
    destinations away. A part is what it puts the source above the strongest of all places that are neither such.
    """
    queries, keys = parts @ model.W_Q[head], parts @ model.W_K[head]
    query, key, n = queries.sum(0), keys.sum(0), parts.shape[2]
    dests, samples = torch.arange(51, 101), torch.arange(len(query))[:, None]
    targets, sources = dests - 49, (dests - 49).roll(shift)
    scores = (query @ key.mT).masked_fill(model.future[:n, :n], -torch.inf)[:, dests]
    scores[:, :, 0] = scores[:, torch.arange(50), targets] = scores[:, torch.arange(50), sources] = -torch.inf
    rivals = scores.argmax(-1)
    of_key = ((keys[:, :, sources] - keys[:, samples, rivals]) * query[:, dests]).sum(-1).argmax(0) == 1
    of_query = ((key[:, sources] - key[samples, rivals]) * queries[:, :, dests]).sum(-1).argmax(0) == 0
    return torch.stack([of_key, of_query], dim=-1).double().mean(1)


@claim("cl-minimal-induction", at_least(0.5), control="the best of the other heads of layer 0 in its place")
def _one_term_is_enough(models: Models) -> Evidence:
    """The minimal circuit makes an induction head: the query's token with what the previous-token head left in the key.

    Heads are left with this one term of their scores.
    """
    model, tokens = models.two_layer, models.random_repeats(50, n_samples=32)
    cache, targets, previous = model.cache(tokens), induction_targets(tokens), models.previous_token_head
    finds = {
        early: largest_on(term_scores(model, cache, early), targets) @ induction_weights(models)
        for early in model.layer_heads(0)
    }
    others = [found for early, found in finds.items() if early != previous]
    return Evidence(mean_of(finds[previous]), mean_of(max(others, key=torch.mean)))


def term_scores(model: AttentionOnlyTransformer, cache: Cache, early: Head) -> Float[Tensor, "batch head dest src"]:
    """The scores of layer 1, but for a factor, if queries read the token alone and keys what one earlier head wrote."""
    queries = torch.einsum("bpd,hde->bhpe", cache.residual[0], model.W_Q[1])
    keys = torch.einsum("bpd,hde->bhpe", cache.head_outputs[0][:, early[1]], model.W_K[1])
    n = keys.shape[2]
    return (queries @ keys.mT).masked_fill(model.future[:n, :n], -torch.inf)


# ---- from the weights ---------------------------------------------------------------------------------------------


@claim("fig22-2D", at_least(0.85), control=OTHER_HEADS)
def _induction_heads_are_in_the_corner(models: Models) -> Evidence:
    """Induction heads are at the extreme of the eigenvalue scores of both circuits: of OV, and of QK through previous
    tokens.
    """
    factors, weights = corner_factors(models.two_layer, models.previous_token_head), induction_weights(models)
    value = of_spectra(lambda spectra: (corners(spectra) @ weights).item(), *factors)
    others = corners(torch.linalg.eigvals(ov_products(*factors)[0])) @ other_weights(models)
    return Evidence(value, certain(others))


@claim("fig22-rank", at_least(0.7), control="through the other heads of layer 0, on average")
def _weights_rank_heads_as_behaviour_does(models: Models) -> Evidence:
    """The weights alone put heads in nearly the order in which they match prefixes.

    From 0.7 on, the ranks by weights explain half of the variance of those by behaviour.
    """
    model, matching = models.two_layer, models.prefix_matching[1]
    others = [early for early in model.layer_heads(0) if early != models.previous_token_head]
    copying = torch.tensor([copying_score(model, late) for late in model.layer_heads(1)]).double()
    through = [spearman(torch.minimum(copying, matching_scores(model, W_OV(model, e))), matching) for e in others]
    factors = corner_factors(model, models.previous_token_head)
    value = of_spectra(lambda spectra: spearman(corners(spectra), matching), *factors)
    return Evidence(value, certain(sum(through) / len(through)))


def matching_scores(model: AttentionOnlyTransformer, writes: LowRank) -> Float[Tensor, " head"]:
    """The QK eigenvalue scores of layer 1 through an early head with this OV matrix.

    From a product in the stream, which has the same eigenvalues as the circuit over tokens, but for zeros.
    """
    tokens = model.W_E.T @ model.W_E
    circuits = (W_QK(model, late) @ writes.T @ tokens for late in model.layer_heads(1))
    return torch.tensor([eigenvalue_score(circuit.eigenvalues()) for circuit in circuits]).double()


def corner_factors(
    model: AttentionOnlyTransformer, early: Head
) -> tuple[Float[Tensor, "token circuit d_head"], Float[Tensor, "token circuit d_head"]]:
    """Two factors, tokens in front, of the OV circuits of layer 1 and then of its QK circuits through ``early``."""
    late = model.layer_heads(1)
    circuits = [ov_circuit(model, head) for head in late] + [induction_circuit(model, head, early) for head in late]
    return torch.stack([circuit.left for circuit in circuits], 1), torch.stack([c.right.T for c in circuits], 1)


def corners(spectra: Complex[Tensor, "circuit d_head"]) -> Float[Tensor, " head"]:
    """How far up in the corner each head is: the smaller of its two eigenvalue scores."""
    return torch.minimum(*scores_of(spectra).chunk(2))


@claim("cl-not-circular", at_most(0.5), control="as trained")
def _composition_does_not_imply_matching(models: Models) -> Evidence:
    """Large K-composition does not make the eigenvalues positive: that the head matches is a finding of its own.

    The previous-token head reads another language: turned by rotations, as if tokens had been mistaken for others. No
    composition score can notice.
    """
    model, previous = models.two_layer, W_OV(models.two_layer, models.previous_token_head)

    def size(rotation: Float[Tensor, "d_model d_model"]) -> float:
        turned = LowRank(rotation @ previous.left, previous.right)
        return (matching_scores(model, turned).abs() @ induction_weights(models)).item()

    as_trained = size(torch.eye(model.config.d_model).to(model.W_E))
    sizes = torch.tensor([size(confusion(model.W_E, seed)) for seed in range(12)])
    return Evidence(mean_of(sizes), certain(as_trained))


def confusion(embedding: Float[Tensor, "token d_model"], seed: int) -> Float[Tensor, "d_model d_model"]:
    """The rotation that best takes the embeddings of tokens, less their mean, to those of tokens drawn at random."""
    centred = embedding - embedding.mean(0)
    drawn = torch.randperm(len(centred), generator=torch.Generator().manual_seed(seed))
    left, _, right = torch.linalg.svd(centred[drawn].T @ centred)
    return left @ right


# ---- causal scrubbing ---------------------------------------------------------------------------------------------


@claim("scrub-naive", at_most(0.5), control="the rich story", needs="induction_heads")
def _the_naive_story_is_not_enough(models: Models) -> Evidence:
    """The naive story of induction heads explains less than half of what they are worth."""
    return Evidence(models.stories_recover["naive"], models.stories_recover["rich"])


@claim("scrub-rich", at_least(0.85), control="the same, but no key reads the token before it", needs="induction_heads")
def _four_tokens_are_enough(models: Models) -> Evidence:
    """Almost all of what induction heads are worth comes from four tokens: queries, keys and values each read their own
    and the three before it.
    """
    return Evidence(models.stories_recover["rich"], models.stories_recover["blind keys"])
