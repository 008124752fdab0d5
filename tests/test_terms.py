"""Sums over paths, parts and tokens, and what is left when some are left out, against the long way round."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.circuits import (
    composition_excess,
    composition_score,
    composition_scores,
    path_logits,
    paths,
    score_by_token,
    score_expansion,
    score_parts,
    score_terms,
    swapped_composition_score,
)
from helpers.measures import (
    layer_importance,
    loss_per_token,
    losses_without_composition,
    path_effects,
    term_importance,
    virtual_pattern,
)
from helpers.model import AttentionOnlyTransformer, ModelConfig
from tests.examples import random_model, random_tokens

SEEDS = st.integers(0, 2**32)


def loss_of(logits: torch.Tensor, tokens: torch.Tensor) -> float:
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).item()


def sum_of_paths(model, tokens, wanted) -> torch.Tensor:
    _, cache = model.run_with_cache(tokens)
    return sum(path_logits(model, tokens, cache.patterns, path) for path in paths(model) if wanted(path))


@given(st.integers(0, 3), st.integers(1, 5), SEEDS)
def test_the_loss_of_each_order_is_that_of_the_sum_of_its_paths(n_layers, batch, seed):
    model = random_model(n_layers, seed)
    tokens = random_tokens(model, batch, seed)
    losses = term_importance(model, tokens)
    assert len(losses) == n_layers + 1
    for order, loss in enumerate(losses):
        left = sum_of_paths(model, tokens, lambda path: len(path) <= order)  # noqa: B023
        assert loss == pytest.approx(loss_of(left, tokens), rel=1e-9)
    assert losses[-1] == pytest.approx(loss_per_token(model, tokens).mean().item(), rel=1e-9)


@given(st.integers(1, 3), st.integers(1, 5), SEEDS)
def test_the_loss_of_some_layers_is_that_of_their_single_heads(n_layers, batch, seed):
    model = random_model(n_layers, seed)
    tokens = random_tokens(model, batch, seed)
    losses = layer_importance(model, tokens)
    assert set(losses) == {c for n in range(n_layers + 1) for c in itertools.combinations(range(n_layers), n)}
    for layers, loss in losses.items():
        left = sum_of_paths(model, tokens, lambda p: not p or (len(p) == 1 and p[0][0] in layers))  # noqa: B023
        assert loss == pytest.approx(loss_of(left, tokens), rel=1e-9)
    assert [losses[()], losses[tuple(range(n_layers))]] == pytest.approx(term_importance(model, tokens)[:2])


@given(st.integers(0, 2), SEEDS)
def test_path_effects_are_those_of_the_path_logits(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens = random_tokens(model, seed=seed)
    _, cache = model.run_with_cache(tokens)
    effects = path_effects(model, tokens)
    assert list(effects) == paths(model)
    for path, effect in effects.items():
        logits = path_logits(model, tokens, cache.patterns, path)
        raised = (logits - logits.mean(-1, keepdim=True))[:, :-1].gather(-1, tokens[:, 1:, None])
        assert effect == pytest.approx(raised.mean().item(), rel=1e-9, abs=1e-12)


def test_nothing_cut_is_the_model_and_all_cut_reads_embeddings_only():
    model, tokens = random_model(2), random_tokens(random_model(2))
    assert torch.allclose(losses_without_composition(model, tokens, ""), loss_per_token(model, tokens))
    flat = random_model(2)
    flat.W_O[0] = 0  # then layer 1 can read nothing but embeddings
    _, cache = flat.run_with_cache(tokens)
    _, own = model.run_with_cache(tokens)
    written = own.head_outputs[0].sum(1) + cache.head_outputs[1].sum(1)
    cut = losses_without_composition(model, tokens, "QKV").mean().item()
    assert cut == pytest.approx(loss_of((own.residual[0] + written) @ model.W_U, tokens))


@pytest.mark.parametrize("side", ["Q", "K", "V"])
def test_a_side_that_does_not_read_the_first_layer_can_be_cut_without_loss(side):
    model, tokens = random_model(2), random_tokens(random_model(2))
    assert losses_without_composition(model, tokens, side).mean() != pytest.approx(loss_per_token(model, tokens).mean())
    model.W_O[0, :, :, 3:] = 0  # layer 0 writes into three dimensions, which this side does not read
    getattr(model, f"W_{side}")[1, :, :3] = 0
    cut = {other: losses_without_composition(model, tokens, other) for other in "QKV"}
    assert torch.allclose(cut[side], loss_per_token(model, tokens))
    assert all(not torch.allclose(cut[other], cut[side]) for other in "QKV" if other != side)


def test_without_v_composition_the_patterns_stay_and_the_pairs_go():
    model, tokens = random_model(2), random_tokens(random_model(2))
    cut = losses_without_composition(model, tokens, "V").mean().item()
    assert cut == pytest.approx(term_importance(model, tokens)[1], rel=1e-9)


def test_a_virtual_head_looks_from_its_late_head_through_its_early_one():
    model, tokens = random_model(2), random_tokens(random_model(2))
    _, cache = model.run_with_cache(tokens)
    pattern = virtual_pattern(cache, ((0, 1), (1, 0)))
    by_hand = torch.einsum("bij,bjk->bik", cache.patterns[1][:, 0], cache.patterns[0][:, 1])
    assert torch.allclose(pattern, by_hand) and torch.equal(virtual_pattern(cache, ((0, 1), (1, 0)), 2), pattern[2])
    assert torch.allclose(pattern.sum(-1), torch.ones(3, 8).double()) and not pattern.triu(1).any()


# ---- scores -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 2), SEEDS)
def test_the_expansion_has_every_score_term_of_every_pair(layer, seed):
    model = random_model(layer + 1, seed)
    tokens = random_tokens(model, 1, seed)
    _, cache = model.run_with_cache(tokens)
    expansion = score_expansion(model, cache, (layer, 1))
    n_parts = len(score_parts(model, (layer, 1)))
    assert expansion.shape == (n_parts, n_parts, 8, 8)
    for dest, src in ((7, 2), (3, 3), (0, 0)):
        assert torch.allclose(expansion[:, :, dest, src], score_terms(model, cache, (layer, 1), dest, src))


@given(SEEDS, st.integers(0, 7), st.integers(0, 7))
def test_a_score_by_tokens_counts_what_was_moved_from_each_token(seed, dest, src):
    model = random_model(2, seed)
    tokens = random_tokens(model, 1, seed)
    _, cache = model.run_with_cache(tokens)
    by_token = score_by_token(model, cache, (1, 0), dest, src)
    assert by_token.shape == (9, 9)
    if src <= dest:
        assert by_token.sum().item() == pytest.approx(cache.scores[1][0, 0, dest, src].item(), rel=1e-9, abs=1e-9)
    assert not by_token[dest + 1 : 8].any() and not by_token[:, src + 1 : 8].any()  # nothing comes from later tokens
    x, W_QK = cache.residual[0][0], model.W_Q[1, 0] @ model.W_K[1, 0].T / math.sqrt(3)

    def of(place, token):
        attention = cache.patterns[0][0, :, place, token]
        moved = sum(attention[h] * x[token] @ model.W_V[0, h] @ model.W_O[0, h] for h in (0, 1))
        return moved + x[token] * (place == token)

    expected = of(dest, 0) @ W_QK @ of(src, src)
    assert by_token[0, src].item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-12)
    positions = model.W_pos[dest] @ W_QK @ model.W_pos[src]
    assert by_token[8, 8].item() == pytest.approx(positions.item(), rel=1e-9, abs=1e-12)


# ---- composition --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@given(seed=SEEDS)
def test_the_swapped_score_is_the_norm_of_the_cyclically_changed_product(kind, seed):
    model = random_model(2, seed, d_head=2)
    W_V, W_O, Q, K = model.W_V[0, 0], model.W_O[0, 0], model.W_Q[1, 1], model.W_K[1, 1]
    first, second = {"Q": (Q, K.T), "K": (K, Q.T), "V": (model.W_V[1, 1], model.W_O[1, 1])}[kind]
    norms = (W_V @ W_O).norm() * (first @ second).norm()
    swapped = swapped_composition_score(model, (0, 0), (1, 1), kind)
    assert swapped == pytest.approx(((W_O @ first @ second @ W_V).norm() / norms).item(), rel=1e-6)
    assert swapped != pytest.approx(composition_score(model, (0, 0), (1, 1), kind), rel=1e-3)


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
def test_the_excess_is_counted_from_the_level_of_random_matrices(kind):
    model = AttentionOnlyTransformer(ModelConfig(n_layers=2, n_heads=4, d_model=128, d_head=8, d_vocab=4))
    random = AttentionOnlyTransformer(model.config, seed=100)
    level = composition_scores(random, kind).mean()
    assert torch.allclose(composition_excess(model, kind), composition_scores(model, kind) - level)
    assert composition_excess(model, kind).mean().abs() < 0.1 * level
    swapped = composition_excess(model, kind, swapped_composition_score)
    assert swapped.mean().abs() < 0.1 * level and not torch.allclose(swapped, composition_excess(model, kind))
