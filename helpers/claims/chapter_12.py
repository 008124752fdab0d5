"""Claims of chapter 12_three_layers: counting in context, and what a third layer does.

Models of the laptop's recipe with three layers, and two layers that learned Markov chains.
"""

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import markov
from helpers.circuits import W_OV, eigenvalue_score
from helpers.claims import models as sizes
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import all_patterns, induction_targets, prefix_matching_score, random_repeats
from helpers.identities import orders_of_terms
from helpers.markov import OnSuccessors
from helpers.model import AttentionOnlyTransformer
from helpers.statistics import Estimate, mean_of, ratio_of, resampled
from helpers.terms import Layers, losses_by_order, losses_without_composition
from helpers.weights import load_book_model

PerChain = Float[Tensor, " chain"]


# ---- Markov chains ------------------------------------------------------------------------------------------------


def chains_of(models: Models) -> Int[Tensor, "chain 64"]:
    """Chains that no training has seen, and no other seed."""
    generator = torch.Generator().manual_seed(2**31 + 1 + models.text_seed)
    return markov.sample_chains(8 * sizes.N_CONTEXTS, markov.SIZES.d_vocab, markov.SIZES.n_ctx, generator)[0]


def above_bayes(models: Models, name: str) -> tuple[PerChain, PerChain]:
    """By how much the loss of a model exceeds that of the Bayes predictor, and by how much that of unigrams does."""
    model, chains = models.load(name), chains_of(models)
    predictors = (
        markov.predicted_by(model, chains),
        markov.unigram_optimal(chains, model.config.d_vocab),
        markov.bayes_optimal(chains, model.config.d_vocab),
    )
    own, unigram, bayes = (markov.losses(predictor, chains).mean(1).double() for predictor in predictors)
    return own - bayes, unigram - bayes


@claim("markov-bayes", at_most(0.02), needs="trained", control="one layer", digits=3)
def _two_layers_come_to_the_optimum(models: Models) -> Evidence:
    """Two layers learn to predict Markov chains in their context nearly as well as is possible."""
    return Evidence(*(mean_of(above_bayes(models, name)[0]) for name in ("markov", "markov_one_layer")))


@claim("markov-one-layer", at_least(0.75), needs="trained", control="two layers")
def _one_layer_stays_at_unigrams(models: Models) -> Evidence:
    """One layer stays where states are counted alone."""
    return Evidence(*(ratio_of(*above_bayes(models, name)) for name in ("markov_one_layer", "markov")))


def on_successors(models: Models, layer: int) -> list[OnSuccessors]:
    """How all heads of a layer together look at successors: in each chain, in its second half."""
    model, chains = models.load("markov"), chains_of(models)[: 4 * sizes.N_CONTEXTS]
    together = all_patterns(model, chains)[layer].mean(1, keepdim=True)
    start, n_states = chains.shape[1] // 2, model.config.d_vocab
    return [
        markov.on_successors(pattern[None], chain[None], n_states, start)
        for pattern, chain in zip(together, chains, strict=True)
    ]


@claim("markov-statistical", at_least(0.8), needs="trained", control="the heads of layer 0")
def _all_successors_count_alike(models: Models) -> Evidence:
    """Induction by counting: the second layer's heads, taken together, look at all successors of the present state
    nearly alike.
    """
    return Evidence(*(mean_of(torch.cat([one.evenness for one in on_successors(models, i)])) for i in (1, 0)))


@claim("markov-successors", at_least(1.5), needs="trained", control="the heads of layer 0")
def _successors_are_looked_for(models: Models) -> Evidence:
    """The second layer's heads, taken together, look for successors of the present state, more than looking everywhere
    alike would find.
    """
    later = torch.arange(markov.SIZES.n_ctx) >= markov.SIZES.n_ctx // 2
    targets = induction_targets(chains_of(models)[: 4 * sizes.N_CONTEXTS]).double()
    even = (targets.mean(-1) * markov.SIZES.n_ctx / torch.arange(1, markov.SIZES.n_ctx + 1))[:, later].mean(1)
    return Evidence(*(ratio_of(torch.cat([one.mass for one in on_successors(models, i)]), even) for i in (1, 0)))


@claim("markov-not-literal", at_most(2.0), needs="trained", control="literal induction")
def _the_latest_successor_is_one_of_many(models: Models) -> Evidence:
    """The latest successor gets no more than its share, which literal induction would look at alone."""
    found = on_successors(models, 1)
    latest = torch.cat([one.latest for one in found])
    even = torch.tensor([one.literal for one in found])
    return Evidence(ratio_of(latest, even), ratio_of(torch.ones_like(even), even))


# ---- three layers -------------------------------------------------------------------------------------------------


def repeats_of(models: Models) -> Int[Tensor, "sample 41"]:
    """20 random tokens that come twice, other ones for each seed."""
    return random_repeats(512, 20, n_samples=64, seed=1000 + models.text_seed)


@claim("three-orders", EXACT)
def _orders_of_three_layers(models: Models) -> float:
    """With three layers, too, all orders of terms together are the model, and each is the sum of its paths."""
    return orders_of_terms(models.load("laptop_three_layers").double(), models.laptop_contexts[:2, :24])


@claim("order-three", at_least(0.01))
def _triples_are_worth_something(models: Models) -> Estimate:
    """With three layers, terms of three heads in a row are worth something."""
    *_, up_to_two, everything = losses_by_order(
        models.load("laptop_three_layers"), models.laptop_contexts[:32], every=2
    )
    return mean_of((up_to_two - everything).mean(1).double())


def fall_left(models: Models, *cuts: tuple[str, Layers | None]) -> list[Estimate]:
    """The share of the fall of the loss on random repeats that is left without kinds of composition in some layers."""
    model, tokens = models.load("laptop_three_layers"), repeats_of(models)

    def falls(kinds: str, layers: Layers | None = None) -> Float[Tensor, " sample"]:
        losses = losses_without_composition(model, tokens, kinds, layers)
        return (losses[:, :20].mean(1) - losses[:, 21:].mean(1)).double()

    intact = falls("")
    return [ratio_of(falls(*cut), intact) for cut in cuts]


def smaller(one: Estimate, other: Estimate) -> Estimate:
    return min(one, other, key=lambda share: share.value)


@claim("q-composition-induction", at_most(0.5), needs="trained", control="without that of layer 1 alone")
def _queries_read_earlier_layers(models: Models) -> Evidence:
    """Q-composition carries induction in three layers. (In two layers as well.)"""
    return Evidence(*fall_left(models, ("Q", None), ("Q", (1,))))


@claim("v-shift", at_most(0.5), needs="trained", control="its queries or its keys instead: the smaller")
def _the_middle_layer_composes_by_values(models: Models) -> Evidence:
    """The middle layer serves induction by what its values read of the layer below."""
    queries, keys, values = fall_left(models, ("Q", (1,)), ("K", (1,)), ("V", (1,)))
    return Evidence(values, smaller(queries, keys))


@claim("v-shift-alone", at_least(0.8), needs="trained", control="the same of the last layer")
def _the_middle_layer_composes_by_nothing_else(models: Models) -> Evidence:
    """Induction hardly needs what the middle layer's queries and keys read of the layer below."""
    of_middle, of_last = ([("Q", (layer,)), ("K", (layer,))] for layer in (1, 2))
    return Evidence(smaller(*fall_left(models, *of_middle)), smaller(*fall_left(models, *of_last)))


@claim("prefix-in-last-layer", at_most(0.1))
def _only_the_last_layer_matches(models: Models) -> Estimate:
    """Of three layers only the last one matches prefixes."""
    model, tokens = models.load("laptop_three_layers"), repeats_of(models)
    patterns = all_patterns(model, tokens)
    matching = torch.stack([_matching(pattern, tokens) for pattern in patterns], dim=1)

    def below(samples: Float[Tensor, "sample layer head"]) -> Tensor:
        best = samples.mean(0).amax(-1)
        return best[:-1].max() / best.max()

    return resampled(below, matching)


def _matching(
    pattern: Float[Tensor, "sample head dest src"], tokens: Int[Tensor, "sample pos"]
) -> Float[Tensor, "sample head"]:
    of_samples = (prefix_matching_score(one[None], text[None]) for one, text in zip(pattern, tokens, strict=True))
    return torch.stack([*of_samples]).double()


@claim("cl-two-back", at_least(1.5), needs="trained", control="two layers (seed 0)")
def _pairs_look_two_back(models: Models) -> Evidence:
    """Virtual heads may serve ends that no single head does, such as attending two tokens back."""
    three, tokens = models.load("laptop_three_layers"), models.laptop_contexts[:32]
    return Evidence(two_back(three, tokens), two_back(load_book_model("laptop"), tokens))


def two_back(model: AttentionOnlyTransformer, tokens: Int[Tensor, "context 128"]) -> Estimate:
    """Attention two places back: that of the best pair of heads in two layers, over that of the best single head."""
    patterns = all_patterns(model, tokens)
    single = torch.cat([_offset(pattern, 2) for pattern in patterns], dim=1)
    pairs = [
        _offset(late[:, None] @ early[:, :, None], 2).flatten(1) for early, late in itertools.combinations(patterns, 2)
    ]

    def ratio(pairs: Tensor, single: Tensor) -> Tensor:
        return pairs.mean(0).max() / single.mean(0).max()

    return resampled(ratio, torch.cat(pairs, dim=1).double(), single.double())


def _offset(pattern: Float[Tensor, "context *head dest src"], offset: int) -> Float[Tensor, "context *head"]:
    return pattern.diagonal(-offset, dim1=-2, dim2=-1).mean(-1)


@claim("cl-memory-management", at_least(1.0))
def _some_heads_delete(models: Models) -> Estimate:
    """Some heads delete what stands in the stream: they attend to their own place, and write what they read there with
    its sign reversed.
    """
    model = models.load("laptop_three_layers")
    reversed_ = [-2 * eigenvalue_score(W_OV(model, head).eigenvalues()) for head in model.heads]
    at_own = torch.cat([_offset(pattern, 0) for pattern in all_patterns(model, models.laptop_contexts[:32])], dim=1)
    return resampled(lambda own: torch.minimum(torch.tensor(reversed_), own.mean(0) / 0.3).max(), at_own.double())
