"""Claims of chapter 05_two_layer_composition."""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import composition_excess, swapped_composition_score
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import all_patterns, attention_by_offset, value_weighted_pattern
from helpers.identities import sum_of_paths, sum_of_scores, virtual_weights


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


@claim("eq-composition", at_least(0.5))
def _most_pairs_compose_less_than_random(models: Models) -> float:
    """Most pairs of heads compose less than random matrices of their shapes would."""
    return torch.stack([models.composition[kind] < 0 for kind in "QKV"]).float().mean().item()


@claim("cl-most-not-composing", at_most(0.5, weaker=0.67), also_untrained=True)
def _most_heads_do_not_compose(models: Models) -> float:
    """Most heads of the second layer take part in no substantive composition."""
    strongest = torch.stack([models.composition[kind].amax(0) for kind in "QKV"]).amax(0)
    return (strongest >= models.two_layer.config.d_model**-0.5).float().mean().item()


@claim("fig19-composition-original", at_least(4.0, weaker=3.0), digits=0)
def _swapped_scores_show_one_source(models: Models) -> float:
    """With the norm taken of the wrong product, K-composition with the previous-token head is all that shows."""
    scores = _swapped_composition(models)
    edges = [(value, kind, early) for kind in "QKV" for early, row in enumerate(scores[kind].tolist()) for value in row]
    expected = ("K", models.previous_token_head[1])
    return float(sum((kind, early) == expected for _, kind, early in sorted(edges)[-4:]))


@claim("erratum-bug", at_least(1.5, weaker=1.0), digits=1)
def _more_composition_than_it_seemed(models: Models) -> float:
    """There is more composition of heads than the figure with the wrong norm showed."""
    return n_standing_out(models.composition) / n_standing_out(_swapped_composition(models))


def _swapped_composition(models: Models) -> dict[str, Float[Tensor, "early late"]]:
    """``composition_excess`` of all three kinds, with the norm of the wrong product."""
    return {kind: composition_excess(models.two_layer, kind, swapped_composition_score) for kind in "QKV"}


def n_standing_out(scores: dict[str, Float[Tensor, "early late"]]) -> int:
    """How many pairs, of all three kinds, reach at least a quarter of the largest excess."""
    every = torch.stack([*scores.values()])
    return int((every >= 0.25 * every.max()).sum())


@claim("fig26-composition-corrected", at_least(1.0, weaker=0.5), needs="induction_heads")
def _induction_heads_read_the_previous_token_head(models: Models) -> float:
    """Induction heads K-compose with a previous-token head more than with any other head."""
    strongest = models.composition["K"].argmax(0).tolist()
    agree = [strongest[head] == models.previous_token_head[1] for _, head in models.induction_heads]
    return sum(agree) / len(agree)


@claim("fig26-other-source", at_least(0.5, weaker=0.35), needs="induction_heads")
def _second_source_is_local(models: Models) -> float:
    """Induction heads also K-compose with a head that attends to the last several tokens."""
    into = models.composition["K"][:, [head for _, head in models.induction_heads]].sum(1)
    into[models.previous_token_head[1]] = -torch.inf
    pattern = all_patterns(models.two_layer, models.contexts[:4])[0]
    local = attention_by_offset(pattern, 4)[into.argmax()].sum().item()
    return local if into.max() > 0 else 0.0


@claim("fig26-V-flat", at_most(0.5))
def _v_composition_is_weak(models: Models) -> float:
    """V-composition stays far below K-composition."""
    return (models.composition["V"].max() / models.composition["K"].max()).item()


@claim("cl-0:7", at_least(0.6, weaker=0.4))
def _previous_token_head(models: Models) -> float:
    """One head of the first layer attends mainly to the previous token."""
    return models.previous_token[0].max().item()


@claim("int-HP", at_most(0.5, weaker=0.8), needs="induction_heads")
def _start_is_a_resting_place(models: Models) -> float:
    """Induction heads rest on the first token, and move much less from there than they attend to it."""
    heads, cache = [head for _, head in models.induction_heads], models.two_layer.cache(models.contexts[:4])
    pattern = cache.patterns[1][:, heads, 20:]
    moved = value_weighted_pattern(cache.patterns[1], cache.values[1], models.two_layer.W_O[1])[:, heads, 20:]
    share = moved[..., 0] / moved.sum(-1)
    return (share.mean() / pattern[..., 0].mean()).item()
