"""Claims of chapter 10_superposition."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.bystanders import (
    blind_rotation,
    mean_elsewhere,
    news_elsewhere,
    rises_with_other_bystanders,
    written_below,
)
from helpers.claims.features import how_many
from helpers.claims.ledger import Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.dictionary import losses_from, stream_between
from helpers.statistics import Estimate, mean_of, ratio_of, resampled
from helpers.superposition import Features, linear_optimum, loss_of_keeping, train_sweep

Stream = Float[Tensor, "context pos d_model"]
Counts = Float[Tensor, "context feature"]  # of places
Written = Float[Tensor, "writer context pos d_model"]

# ---- toy models ---------------------------------------------------------------------------------------------------

PROBABILITIES = 0.01, 0.1, 0.5, 0.9  # of a feature


@claim("toy-linear-optimum", at_most(0.02), control="a dimension each for as many features as there are", digits=3)
def _without_a_relu_training_finds_principal_components(models: Models) -> Evidence:
    """Without a ReLU, a model of more features than dimensions learns what principal components do, and no more."""
    excesses, of_keeping = [], []
    for features in (Features(5), Features(4, "pairs together")):
        best, kept = (
            torch.tensor([f(features, 2, p) for p in PROBABILITIES]) for f in (linear_optimum, loss_of_keeping)
        )
        trained = train_sweep(features, 2, PROBABILITIES, linear=True, seed=models.toy_seed).loss
        excesses.append((trained / best - 1).max())
        of_keeping.append((kept / best - 1).max())
    return Evidence(known(max(excesses)), known(max(of_keeping)))


@claim("toy-opposite-pairs", at_most(0.02), control="one feature more", digits=3)
def _opposite_pairs_cost_nothing(models: Models) -> Evidence:
    """If at most one feature is present at a time, a ReLU lets twice as many as dimensions share them at no cost."""

    def lost(n: int, d: int) -> float:
        features, ps = Features(n, "one at a time"), (0.02, 0.1)
        losses = train_sweep(features, d, ps, seed=models.toy_seed).loss.tolist()
        return max(loss / loss_of_keeping(features, d, p) for loss, p in zip(losses, ps, strict=True))

    sizes = 1, 2, 3
    return Evidence(known(max(lost(2 * d, d) for d in sizes)), known(min(lost(2 * d + 1, d) for d in sizes)))


def known(value: Tensor | float) -> Estimate:
    """A number for which nothing was drawn but the starts, of which the best is kept."""
    return Estimate(float(value), float(value), float(value))


# ---- bystanders ---------------------------------------------------------------------------------------------------

N_HEARD = 16  # contexts
EVERY_SIXTEENTH = torch.arange(15, 255, 16)


@claim("bystanders-signal", at_least(0.1))
def _bystanders_are_worth_something(models: Models) -> Estimate:
    """What readers of the stream hear besides their main sources is worth something to the model: it is signal."""
    return mean_of(_rises(models, mean_elsewhere)[0])


@claim("bystanders-arranged", at_least(0.1), needs="trained", control="other turns in place of none")
def _bystanders_lie_where_they_disturb_less(models: Models) -> Evidence:
    """What bystanders write lies where it disturbs less than it would in random directions."""
    turns = (blind_rotation(models.two_layer, draw) for draw in range(10, 14))
    as_it_is, *turned = _rises(models, *(partial(news_elsewhere, rotation=turn) for turn in (None, *turns)))
    turned, otherwise = (sum(some) / 2 for some in (turned[:2], turned[2:]))
    return Evidence(mean_of((turned + otherwise) / 2 - as_it_is), mean_of(otherwise - turned))


def _rises(models: Models, *instead: Callable[[Written], Written]) -> list[Float[Tensor, " context"]]:
    """The rise in loss on some of ``contexts`` if readers hear each of ``instead`` of their bystanders."""
    model, tokens = models.two_layer, models.contexts[:N_HEARD]
    written = written_below(model, tokens)
    heard = tokens, EVERY_SIXTEENTH, models.main_sources, written
    return [rises_with_other_bystanders(model, *heard, other(written)) for other in instead]


# ---- the dictionary -----------------------------------------------------------------------------------------------

AT_RANDOM = "as many random directions"
N_RECOVERED = 32  # contexts


@claim("dictionary-recovers", at_least(0.9), needs="trained", control=AT_RANDOM)
def _a_few_features_keep_what_the_stream_is_good_for(models: Models) -> Evidence:
    """With 32 of 4,096 features at each place, a dictionary keeps nine tenths of what the stream is good for."""
    model, tokens = models.two_layer, models.contexts[:N_RECOVERED]
    stream = stream_between(model, tokens)

    def losses(instead: Stream) -> Float[Tensor, " context"]:
        of_each = (losses_from(model, *one) for one in zip(instead.split(1), tokens.split(1), strict=True))
        return torch.tensor([*of_each], dtype=torch.double)

    ablated, intact = losses(stream.mean((0, 1)).expand_as(stream)), losses(stream)
    rebuilt = (losses(dictionary(stream)) for dictionary in (models.dictionary, models.random_directions))
    return Evidence(*(ratio_of(ablated - one, ablated - intact) for one in rebuilt))


@claim("dictionary-named", at_least(20.0), needs="trained", control=AT_RANDOM, digits=0)
def _features_have_names(models: Models) -> Evidence:
    """Simple rules, found by search, name features of the dictionary: on other text they hold at four of five places
    where the feature is active.
    """
    return Evidence(*(named_by_rule(one.on, one.right) for one in models.named_features.values()))


@claim("dictionary-beyond-token", at_least(20.0), needs="trained", control=AT_RANDOM, digits=0)
def _features_stand_for_more_than_the_present_token(models: Models) -> Evidence:
    """Some features have a name that is not of the present token: they stand for what layer 0 has fetched."""
    both = models.named_features.values()
    return Evidence(*(named_by_rule(one.on[:, one.beyond], one.right[:, one.beyond]) for one in both))


def named_by_rule(on: Counts, right: Counts) -> Estimate:
    """How many features are named; the interval is as wide as that of resamples, with the number in its middle.

    A context that is drawn twice counts twice, which lifts some features above the least number of places. So resamples
    name more features; but they differ as much from each other.
    """
    found = resampled(how_many, on, right)
    half = (found.high - found.low) / 2
    return Estimate(found.value, max(0.0, found.value - half), found.value + half)
