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
from helpers.terms import (
    layer_importance,
    losses_by_layers,
    losses_by_order,
    losses_without_composition,
    term_importance,
)
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


def test_orders_may_be_let_in_in_another_order():
    model = random_model(2)
    tokens = random_tokens(model, 3)
    wanted = [(0,), (0, 2), (0, 1, 2)]
    orders = [loss_of_paths(model, tokens, lambda path: len(path) in some) for some in wanted]  # noqa: B023
    losses = losses_by_order(model, tokens, let_in=(0, 2, 1))
    assert [of_run.mean().item() for of_run in losses] == pytest.approx(orders, rel=1e-9)


def test_every_so_many_th_token_is_measured():
    model = random_model(2)
    tokens = random_tokens(model, 3)
    for all_of_them, some in zip(losses_by_order(model, tokens), losses_by_order(model, tokens, every=3), strict=True):
        assert torch.allclose(all_of_them[:, ::3], some)
    of_layers, some = losses_by_layers(model, tokens), losses_by_layers(model, tokens, every=3)
    assert all(torch.allclose(losses[:, ::3], some[choice]) for choice, losses in of_layers.items())
    means = {choice: losses.mean().item() for choice, losses in some.items()}
    assert layer_importance(model, tokens, every=3) == means
    assert term_importance(model, tokens, every=3) == [
        losses.mean().item() for losses in losses_by_order(model, tokens, every=3)
    ]


def test_heads_may_look_where_they_look_in_other_texts():
    model = random_model(2)
    tokens = random_tokens(model, 2)
    others = tokens.flip(0)
    patterns = model.cache(others).patterns
    logits = sum(path_logits(model, tokens, patterns, path) for path in paths(model) if len(path) < 2)
    losses = losses_by_layers(model, tokens, looking_as_on=others)
    assert losses[0, 1].mean().item() == pytest.approx(loss_of(logits, tokens), rel=1e-9)
    assert torch.allclose(losses[()], losses_by_layers(model, tokens)[()])


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


def test_composition_can_be_cut_in_some_layers_alone():
    deep = random_model(3)
    bare = random_model(3)
    bare.W_O[0] = 0  # then layer 1 reads embeddings alone, whatever is cut
    texts = random_tokens(deep)
    everywhere, in_the_last = (losses_without_composition(deep, texts, "QKV", layers) for layers in (None, (2,)))
    assert torch.allclose(losses_without_composition(deep, texts, "QKV", (1, 2)), everywhere)
    assert not torch.allclose(in_the_last, everywhere)
    assert torch.allclose(losses_without_composition(deep, texts, "QKV", (0,)), loss_per_token(deep, texts))
    assert torch.allclose(losses_without_composition(bare, texts, "QKV", (1,)), loss_per_token(bare, texts))
    assert not torch.allclose(losses_without_composition(bare, texts, "QKV", (2,)), loss_per_token(bare, texts))


def test_without_v_composition_the_patterns_stay_and_the_pairs_go():
    model, tokens = random_model(2), random_tokens(random_model(2))
    cut = losses_without_composition(model, tokens, "V").mean().item()
    assert cut == pytest.approx(term_importance(model, tokens)[1], rel=1e-9)
