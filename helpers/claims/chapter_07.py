"""Claims of chapter 07_term_importance."""

import math

import torch

from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import attention_by_offset, random_repeats
from helpers.identities import orders_of_terms, sum_of_paths
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.terms import losses_without_composition


@claim("alg-term-importance", EXACT)
def _all_orders_are_the_model(models: Models) -> float:
    """Keeping all orders of terms gives back the model's loss."""
    return orders_of_terms(*models.exact("two_layer"))


@claim("tab-term-order", at_least(5.0, weaker=2.0), needs="trained", digits=1)
def _pairs_add_little(models: Models) -> float:
    """Of all terms, single heads are worth by far the most, pairs of heads very little."""
    direct, heads, pairs = models.loss_by_order
    return (direct - heads) / (heads - pairs)


@claim("tab-term-order-direct", at_least(2.0, weaker=1.0), needs="trained", digits=1)
def _heads_beat_the_direct_path(models: Models) -> float:
    """Single heads are worth more than the direct path."""
    direct, heads, _ = models.loss_by_order
    return (direct - heads) / (math.log(models.two_layer.config.d_vocab) - direct)


@claim("tab-term-order-each", at_least(20.0, weaker=10.0), needs="trained", digits=0)
def _a_pair_adds_less_than_a_head(models: Models) -> float:
    """For each term the difference is larger still, since there are many more pairs than heads."""
    return _pairs_add_little(models) * 144 / 24


@claim("tab-term-layer", at_least(10.0, weaker=2.0), needs="trained", digits=1)
def _the_second_layer_speaks_to_the_logits(models: Models) -> float:
    """As single terms the second layer's heads are worth far more than the first layer's."""
    loss = models.loss_by_layers
    return (loss[0,] - loss[0, 1]) / (loss[1,] - loss[0, 1])


@claim("tab-term-sums", EXACT)
def _gains_of_layers_are_gains_of_orders(models: Models) -> float:
    """What the layers add one after the other comes, in either order, to the gain of all single heads: without any
    layer the loss is that of the terms of order 0, with all layers that of orders 0 and 1.
    """
    return orders_of_terms(*models.exact("two_layer"))


@claim("variant", at_most(0.3, weaker=0.6), needs="trained")
def _k_composition_carries_induction(models: Models) -> float:
    """A variant of the algorithm can isolate one kind of composition: without K, induction is gone."""
    return _fall(models, "K") / _fall(models, "")


def _fall(models: Models, kinds: str) -> float:
    """From the first to the second copy, in nats, without some kinds of composition."""
    tokens = random_repeats(models.two_layer.config.d_vocab, length=20, n_samples=8)
    losses = losses_without_composition(models.two_layer, tokens, kinds)
    return (losses[:, :20].mean() - losses[:, 21:].mean()).item()


@claim("cl-virtual-count", EXACT)
def _there_are_many_virtual_heads(models: Models) -> float:
    """Heads grow in number with the layers, virtual heads of two with their square, of three with their cube."""
    sizes = {2: models.two_layer.config.n_heads, 3: 4, 4: 3}  # heads per layer, for each number of layers
    configs = [ModelConfig(n_layers, n, d_model=2, d_head=1, d_vocab=2, n_ctx=1) for n_layers, n in sizes.items()]
    many_layers = (AttentionOnlyTransformer(config).requires_grad_(False).double() for config in configs)
    return max(sum_of_paths(model, torch.zeros(1, 1, dtype=torch.long)) for model in many_layers)


@claim("cl-two-back", at_least(1.0))
def _virtual_heads_look_two_back(models: Models) -> float:
    """Virtual heads may serve ends that no single head does, such as attending two tokens back."""
    early, late = models.two_layer.cache(models.contexts[:2]).patterns
    single = max(attention_by_offset(pattern, 2)[:, 2].max().item() for pattern in (early, late))
    virtual = max(attention_by_offset(late @ early[:, [head]], 2)[:, 2].max().item() for head in range(early.shape[1]))
    return virtual / single
