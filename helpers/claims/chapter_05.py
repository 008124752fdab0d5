"""Claims of chapter 05_two_layer_composition."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import W_OV
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.edges import (
    KINDS,
    component_composition_scores,
    in_units_of_tokens,
    levelled,
    of_all_kinds,
    rotated_writers,
    written_variance,
)
from helpers.heads import attention_by_offset, prefix_matching_score, value_weighted_pattern
from helpers.identities import sum_of_paths, sum_of_scores, virtual_weights
from helpers.statistics import Estimate, mean_of, pearson, ratio_of, resampled, spearman

Pairs = Float[Tensor, "early late"]
OF_KINDS = Float[Tensor, "*draw kind early late"]
ROTATED = "writers rotated"


# ---- what can be read ----------------------------------------------------------------------------------------------


@claim("cl-3-compositions", EXACT)
def _queries_keys_and_values_read_earlier_heads(models: Models) -> float:
    """A head of the second layer reads the outputs of earlier heads in three ways: by its queries, keys and values."""
    return virtual_weights(*models.exact("two_layer", length=32))


@claim("fig17-logits-2L", EXACT)
def _logits_are_a_sum_of_paths(models: Models) -> float:
    """The logits of a two-layer model are the sum of the direct path, every head, and every pair of heads in a row."""
    return sum_of_paths(*models.exact("two_layer", n=1, length=32))


@claim("fig18-QK-2L", EXACT)
def _scores_are_a_sum_of_terms(models: Models) -> float:
    """Attention scores of the second layer are a sum over what the query and what the key is made of."""
    return sum_of_scores(*models.exact("two_layer"))


# ---- composition scores --------------------------------------------------------------------------------------------


def random_level(models: Models) -> float:
    """The composition score of random matrices."""
    return models.two_layer.config.d_model**-0.5


def excess(models: Models, scores: OF_KINDS) -> OF_KINDS:
    """How far composition scores are above those of random matrices; 0 where they are below."""
    return (scores - random_level(models)).clamp(min=0)


@claim("eq-composition", at_least(2 / 3), control=ROTATED)
def _most_pairs_compose_less_than_random(models: Models) -> Evidence:
    """Most pairs of heads compose less than random matrices of their shapes would."""
    below, rotated = (s < random_level(models) for s in (models.composition, models.rotated_composition))
    return Evidence(known(below.double().mean()), mean_of(rotated.double().mean((1, 2, 3))))


@claim("eq-composition-much", at_most(0.5), control=ROTATED)
def _most_pairs_compose_much_less_than_random(models: Models) -> Evidence:
    """Most pairs compose *much* less than random matrices would: less than half as much."""
    rotated = models.rotated_composition.flatten(1).median(1).values
    level = random_level(models)
    return Evidence(known(models.composition.median() / level), mean_of(rotated / level))


def known(value: Tensor | float) -> Estimate:
    """A number read from the weights, for which nothing was drawn."""
    return Estimate(float(value), float(value), float(value))


@claim("erratum-more", at_least(1.5), control=ROTATED, digits=1)
def _there_is_more_than_one_source(models: Models) -> Evidence:
    """There is more composition than keys reading the previous-token head, all that the paper's first figure showed."""
    _, source = models.previous_token_head

    def elsewhere(scores: OF_KINDS) -> Float[Tensor, " *draw"]:
        above = excess(models, scores)
        return above.sum((-3, -2, -1)) - above[..., KINDS.index("K"), source, :].sum(-1)

    found, by_chance = elsewhere(models.composition), elsewhere(models.rotated_composition)
    others = (by_chance.sum() - by_chance) / (len(by_chance) - 1)
    return Evidence(ratio_of(found.expand_as(by_chance), by_chance), mean_of(by_chance / others))


@claim("fig26-V-flat", at_most(0.1, weaker=0.5), control="Q in place of V")
def _v_composition_is_weak(models: Models) -> Evidence:
    """Of V-composition there is next to nothing, of K-composition much."""
    found = excess(models, models.composition).sum((-2, -1))
    Q, K, V = (found - excess(models, models.rotated_composition).sum((-2, -1))).T
    return Evidence(ratio_of(V, K), ratio_of(Q, K))


@claim("edge-V", at_most(1.0))
def _v_composition_does_less(models: Models) -> Estimate:
    """K-composition matters more than V-composition: without it predictions move further."""
    _, K, V = models.divergence_without.kinds.T
    return ratio_of(V, K)


# ---- whom induction heads read -------------------------------------------------------------------------------------


@claim("cl-0:7", at_least(2 / 3), control="the next best head")
def _previous_token_head(models: Models) -> Evidence:
    """One head of the first layer attends mainly to the previous token."""
    to_previous = attention_back(models)[:, :, 1].T
    first, second = to_previous.mean(1).topk(2).indices
    return Evidence(mean_of(to_previous[first]), mean_of(to_previous[second]))


def attention_back(models: Models) -> Float[Tensor, "context head 5"]:
    """Attention of each head of layer 0 to the present token and to those one to four places back."""
    model, by_offset = models.two_layer, []
    for tokens in models.contexts:
        _, pattern = model.attention(model.W_E[tokens][None], 0)
        by_offset.append(attention_by_offset(pattern, 4).double())
    return torch.stack(by_offset)


def k_excess(models: Models) -> Pairs:
    return excess(models, models.composition)[KINDS.index("K")]


@claim("fig26-composition-corrected", at_least(0.5), needs="trained", control="the other heads of layer 1")
def _induction_heads_read_the_previous_token_head(models: Models) -> Evidence:
    """Induction heads K-compose with the previous-token head more than with any other head, most of them."""
    reads_it = k_excess(models).argmax(0) == models.previous_token_head[1]
    tokens, model = models.random_repeats(50, n_samples=32), models.two_layer
    patterns = (model.cache(sample[None]).patterns[1] for sample in tokens)
    matching = torch.stack([prefix_matching_score(p, s[None]) for p, s in zip(patterns, tokens, strict=True)]).double()

    def share(samples: Float[Tensor, "sample head"]) -> Tensor:
        return samples[:, reads_it].sum() / samples.sum()

    return Evidence(resampled(share, matching), known(models.other_weights[reads_it].sum()))


@claim("fig26-other-source", at_least(0.5), needs="trained", control="all other heads of layer 0 alike")
def _second_source_is_local(models: Models) -> Evidence:
    """What else the keys of induction heads read attends to the last several tokens."""
    others = torch.arange(models.two_layer.config.n_heads) != models.previous_token_head[1]
    read = (k_excess(models) @ models.induction_weights)[others]
    to_last_four = attention_back(models)[:, others, 1:].sum(-1)
    return Evidence(mean_of(to_last_four @ read / read.sum()), mean_of(to_last_four.mean(1)))


@claim("int-HP", at_most(0.5), needs="trained", control="the other heads of layer 1")
def _start_is_a_resting_place(models: Models) -> Evidence:
    """Induction heads rest on the first token: what they attend to there moves less than half of what it would."""
    sums = torch.stack([_start_and_others(models, tokens) for tokens in models.contexts[:32].split(4)])

    def moved(weights: Float[Tensor, " head"]) -> Callable[[Float[Tensor, "chunk 2 2 head"]], Tensor]:
        def per_attention(chunks: Float[Tensor, "chunk 2 2 head"]) -> Tensor:
            (at_start, at_others), (from_start, from_others) = chunks.sum(0)
            return (weights * from_start / (from_others / at_others)).sum() / (weights * at_start).sum()

        return per_attention

    return Evidence(resampled(moved(models.induction_weights), sums), resampled(moved(models.other_weights), sums))


def _start_and_others(models: Models, tokens: Tensor) -> Float[Tensor, "2 2 head"]:
    """Attention, and what is moved, from ``<START>`` and from all other tokens, by each head of layer 1."""
    cache = models.two_layer.cache(tokens)
    moved = value_weighted_pattern(cache.patterns[1], cache.values[1], models.two_layer.W_O[1])
    late = [weights[:, :, 20:].double().sum((0, 2)) for weights in (cache.patterns[1], moved)]
    return torch.stack([torch.stack([weights[:, 0], weights[:, 1:].sum(1)]) for weights in late])


# ---- which edges matter --------------------------------------------------------------------------------------------


@claim("cl-most-not-composing", at_most(0.25), needs="trained", control="the induction heads")
def _most_heads_do_not_compose(models: Models) -> Evidence:
    """Most heads of the second layer take part in no substantive composition: alone they keep most of their worth."""
    cut, weights = models.divergence_without, models.induction_weights

    def lost(alone: Float[Tensor, "context late"], head: Float[Tensor, "context late"]) -> Float[Tensor, " late"]:
        return alone.double().mean(0) / head.double().mean(0)

    median = resampled(lambda alone, head: lost(alone, head).median(), cut.all_edges, cut.head)
    return Evidence(median, resampled(lambda alone, head: weights @ lost(alone, head), cut.all_edges, cut.head))


@claim("edge-strongest", at_least(0.85), needs="trained", control=ROTATED)
def _the_strongest_lines_are_the_edges_that_matter(models: Models) -> Evidence:
    """The five edges of largest K-composition are those that keys can least do without."""
    K = KINDS.index("K")

    def share(scores: Pairs) -> Estimate:
        chosen = scores.flatten().topk(5).indices

        def of_best_five(edges: Float[Tensor, "context early late"]) -> Tensor:
            effects = edges.double().mean(0).flatten()
            return effects[chosen].sum() / effects.topk(5).values.sum()

        return resampled(of_best_five, models.divergence_without.edges[:, K])

    rotated = max((share(scores[K]) for scores in models.rotated_composition), key=lambda one: one.value)
    return Evidence(share(models.composition[K]), rotated)


Correlation = Callable[[Pairs, Pairs], float]


def rank_correlation(scores: Pairs, effects: Pairs) -> float:
    return spearman(scores.flatten(), effects.flatten())


def correlation_of_fit(scores: Pairs, effects: Pairs) -> float:
    """Between what a score and the size of an effect have beyond the level of either head.

    A divergence grows with the square of a change, so its root is what is proportional to a score.
    """
    return pearson(levelled(scores).flatten(), levelled(effects.clamp(min=0).sqrt()).flatten())


def foretold(models: Models, scores: OF_KINDS, correlation: Correlation = rank_correlation) -> Estimate:
    """How well scores tell which edges matter: their correlation with what each cut does, mean of the three kinds."""

    def of_effects(edges: Float[Tensor, "context kind early late"]) -> float:
        effects = edges.double().mean(0)
        return sum(correlation(*of_kind) for of_kind in zip(scores, effects, strict=True)) / len(KINDS)

    return resampled(of_effects, models.divergence_without.edges, n=200)


@claim("edge-scores", at_least(0.5), needs="trained", control=ROTATED)
def _composition_scores_tell_which_edges_matter(models: Models) -> Evidence:
    """A larger composition score means an edge that matters more."""
    return Evidence(foretold(models, models.composition), foretold(models, models.rotated_composition[0]))


@claim("edge-scores-tokens", at_least(0.5), needs="trained", control=ROTATED)
def _token_scores_tell_which_edges_matter(models: Models) -> Evidence:
    """The same of composition scores over tokens, which no linear map of the stream changes."""
    both = models.two_layer, rotated_writers(models.two_layer)
    return Evidence(*(foretold(models, of_all_kinds(in_units_of_tokens(model))) for model in both))


@claim("edge-scores-components", at_least(0.5), needs="trained", control=ROTATED)
def _component_scores_tell_which_edges_matter(models: Models) -> Evidence:
    """The same of composition scores of single singular directions."""
    both = models.two_layer, rotated_writers(models.two_layer)
    return Evidence(*(foretold(models, of_all_kinds(model, component_composition_scores)) for model in both))


@claim("edge-fit", at_least(0.5), needs="trained", control=ROTATED)
def _composition_scores_tell_which_heads_fit(models: Models) -> Evidence:
    """Once it is set aside how much each head matters, a larger composition score means an edge that matters more."""
    both = models.composition, models.rotated_composition[0]
    return Evidence(*(foretold(models, scores, correlation_of_fit) for scores in both))


@claim("edge-writers", at_least(0.5), needs="trained", control="the size of the writers' weights")
def _writers_tell_which_edges_matter(models: Models) -> Evidence:
    """The more an early head's output differs from text to text, the more its edges matter, whoever reads."""
    over_tokens, shape = in_units_of_tokens(models.two_layer), models.composition.shape
    variances = written_variance(models.two_layer, models.contexts[:32]).mean(0)
    sizes = torch.tensor([W_OV(over_tokens, early).norm() for early in over_tokens.layer_heads(0)])
    return Evidence(*(foretold(models, of_early[:, None].expand(shape)) for of_early in (variances, sizes)))
