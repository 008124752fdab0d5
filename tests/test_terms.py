"""What is left when some terms are left out, against sums over paths."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import path_logits, paths
from helpers.heads import loss_per_token
from helpers.model import AttentionOnlyTransformer
from helpers.terms import layer_importance, losses_without_composition, term_importance
from tests.examples import random_model, random_tokens


def loss_of(logits: Tensor, tokens: Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()


def loss_of_paths(model: AttentionOnlyTransformer, tokens: Tensor, wanted: Callable) -> float:
    patterns = model.cache(tokens).patterns
    return loss_of(sum(path_logits(model, tokens, patterns, path) for path in paths(model) if wanted(path)), tokens)


@pytest.mark.parametrize("n_layers, batch", [(0, 2), (1, 1), (2, 5), (3, 2)])
def test_the_loss_of_each_order_is_that_of_the_sum_of_its_paths(n_layers, batch):
    model = random_model(n_layers)
    tokens = random_tokens(model, batch)
    losses = term_importance(model, tokens)
    orders = [loss_of_paths(model, tokens, lambda path: len(path) <= n) for n in range(n_layers + 1)]  # noqa: B023
    assert losses == pytest.approx(orders, rel=1e-9)
    assert losses[-1] == pytest.approx(loss_per_token(model, tokens).mean().item(), rel=1e-9)


@pytest.mark.parametrize("n_layers, batch", [(1, 1), (2, 5), (3, 2)])
def test_the_loss_of_some_layers_is_that_of_their_single_heads(n_layers, batch):
    model = random_model(n_layers)
    tokens = random_tokens(model, batch)
    losses = layer_importance(model, tokens)
    assert set(losses) == {c for n in range(n_layers + 1) for c in itertools.combinations(range(n_layers), n)}
    for layers, loss in losses.items():
        left = loss_of_paths(model, tokens, lambda p: not p or (len(p) == 1 and p[0][0] in layers))  # noqa: B023
        assert loss == pytest.approx(left, rel=1e-9)


def test_nothing_cut_is_the_model_and_all_cut_reads_embeddings_only():
    model, tokens = random_model(2), random_tokens(random_model(2))
    assert torch.allclose(losses_without_composition(model, tokens, ""), loss_per_token(model, tokens))
    with pytest.raises(ReaderError, match="'k' are no kinds of composition"):
        losses_without_composition(model, tokens, "k")
    flat = random_model(2)
    flat.W_O[0] = 0  # then layer 1 can read nothing but embeddings
    own, of_flat = model.cache(tokens), flat.cache(tokens)
    written = own.head_outputs[0].sum(1) + of_flat.head_outputs[1].sum(1)
    cut = losses_without_composition(model, tokens, "QKV").mean().item()
    assert cut == pytest.approx(loss_of((own.residual[0] + written) @ model.W_U, tokens))


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_a_kind_that_does_not_read_the_first_layer_can_be_cut_without_loss(kind):
    model, tokens = random_model(2), random_tokens(random_model(2))
    assert losses_without_composition(model, tokens, kind).mean() != pytest.approx(loss_per_token(model, tokens).mean())
    model.W_O[0, :, :, 3:] = 0  # layer 0 writes into three dimensions, which this kind does not read
    getattr(model, f"W_{kind}")[1, :, :3] = 0
    cut = {other: losses_without_composition(model, tokens, other) for other in "QKV"}
    assert torch.allclose(cut[kind], loss_per_token(model, tokens))
    assert all(not torch.allclose(cut[other], cut[kind]) for other in "QKV" if other != kind)


def test_without_v_composition_the_patterns_stay_and_the_pairs_go():
    model, tokens = random_model(2), random_tokens(random_model(2))
    cut = losses_without_composition(model, tokens, "V").mean().item()
    assert cut == pytest.approx(term_importance(model, tokens)[1], rel=1e-9)
