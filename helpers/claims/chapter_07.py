"""Claims of chapter 07_term_importance."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.identities import orders_of_terms, sum_of_paths
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.statistics import Estimate, ratio_of
from helpers.terms import Layers, losses_by_order, losses_without_composition

Losses = dict[Layers, Float[Tensor, " context"]]


@claim("alg-term-importance", EXACT)
def _all_orders_are_the_model(models: Models) -> float:
    """Keeping all orders of terms gives back the model's loss; and what the layers add one after the other comes, in
    either order, to the gain of all single heads.
    """
    return orders_of_terms(*models.exact("two_layer"))


@claim("tab-term-order", at_least(10.0), needs="trained", control="the pairs let in before the heads", digits=1)
def _pairs_add_little(models: Models) -> Evidence:
    """Pairs of heads add very little to what single heads are worth, less than a tenth."""
    losses = losses_by_order(models.two_layer, models.contexts, let_in=(0, 2, 1), every=4)
    direct, with_pairs, both = torch.stack(losses).mean(-1).double()
    heads = models.loss_by_layers[0, 1]
    return Evidence(ratio_of(direct - heads, heads - both), ratio_of(with_pairs - both, direct - with_pairs))


@claim("tab-term-order-direct", at_least(2.0), needs="trained", control="the attention of another context", digits=1)
def _heads_beat_the_direct_path(models: Models) -> Evidence:
    """Single heads are worth more than twice what the direct path is worth."""
    guessing = math.log(models.two_layer.config.d_vocab)

    def for_each_nat_of_the_path(loss: Losses) -> Estimate:
        return ratio_of(loss[()] - loss[0, 1], guessing - loss[()])

    return Evidence(*map(for_each_nat_of_the_path, (models.loss_by_layers, models.loss_by_layers_elsewhere)))


@claim("tab-term-layer", at_most(0.05, weaker=0.15), needs="trained", control="the attention of another context")
def _the_second_layer_speaks_to_the_logits(models: Models) -> Evidence:
    """As single terms the first layer's heads add next to nothing to the second layer's."""

    def added_by_the_first(loss: Losses) -> Estimate:
        return ratio_of(loss[1,] - loss[0, 1], loss[()] - loss[0, 1])

    return Evidence(*map(added_by_the_first, (models.loss_by_layers, models.loss_by_layers_elsewhere)))


@claim("variant", at_most(0.15), needs="trained", control="without Q-, without V-composition: the smaller")
def _k_composition_carries_induction(models: Models) -> Evidence:
    """A variant of the algorithm can isolate one kind of composition: without K, induction is gone."""
    intact = _falls(models, "")
    without = {kind: ratio_of(_falls(models, kind), intact) for kind in "QKV"}
    return Evidence(without["K"], min(without["Q"], without["V"], key=lambda share: share.value))


def _falls(models: Models, kinds: str) -> Float[Tensor, " sample"]:
    """From the first to the second copy, in nats, without some kinds of composition."""
    losses = losses_without_composition(models.two_layer, models.random_repeats(20), kinds)
    return (losses[:, :20].mean(1) - losses[:, 21:].mean(1)).double()


@claim("cl-virtual-count", EXACT)
def _there_are_many_virtual_heads(models: Models) -> float:
    """Heads grow in number with the layers, virtual heads of two with their square, of three with their cube."""
    sizes = {2: models.two_layer.config.n_heads, 3: 4, 4: 3}  # heads per layer, for each number of layers
    configs = [ModelConfig(n_layers, n, d_model=2, d_head=1, d_vocab=2, n_ctx=1) for n_layers, n in sizes.items()]
    many_layers = (AttentionOnlyTransformer(config).requires_grad_(False).double() for config in configs)
    return max(sum_of_paths(model, torch.zeros(1, 1, dtype=torch.long)) for model in many_layers)
