"""The measures of heads, on heads and models made by hand, of which one knows what should come out."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import START, ReaderError
from helpers.circuits import copying_score, qk_eigenvalue_score
from helpers.heads import (
    all_patterns,
    attention_by_offset,
    boosts_beyond_mean,
    direct_logit_attribution,
    induction_targets,
    largest_on,
    loss_per_token,
    losses_without_heads,
    mean_outputs,
    prefix_matching_score,
    prefix_matching_scores,
    previous_token_score,
    previous_token_scores,
    random_repeats,
    repeated_bigrams,
    repeated_random_loss,
    value_weighted_pattern,
)
from helpers.model import AttentionOnlyTransformer, Head
from tests.examples import random_model, random_tokens

LENGTHS = st.integers(2, 12)


def looking_at(sources: list[int], share: float = 1.0) -> Tensor:
    """The pattern ``[1, 1, dest, src]`` of a head that pays ``share`` to one source each, the rest to ``<START>``."""
    pattern = torch.zeros(1, 1, len(sources), len(sources))
    for dest, src in enumerate(sources):
        pattern[0, 0, dest, src] += share
        pattern[0, 0, dest, 0] += 1 - share
    return pattern


def looking_back(offset: int, n: int, share: float = 1.0) -> Tensor:
    return looking_at([max(0, dest - offset) for dest in range(n)], share)


def uniform(n: int) -> Tensor:
    return (torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None])[None, None]


# ---- repeats and induction targets ------------------------------------------------------------------------------


@given(LENGTHS, st.integers(2, 4), st.integers(1, 5), st.integers(0, 99))
def test_random_repeats_are_the_same_different_tokens_over_and_over(length, n_copies, n_samples, seed):
    tokens = random_repeats(30, length, n_copies, n_samples, seed)
    assert tokens.shape == (n_samples, 1 + n_copies * length) and (tokens[:, 0] == START).all()
    copies = tokens[:, 1:].view(n_samples, n_copies, length)
    assert (copies == copies[:, :1]).all() and copies.min() > START and copies.max() < 30
    assert all(len(set(row.tolist())) == length for row in copies[:, 0])
    assert torch.equal(tokens, random_repeats(30, length, n_copies, n_samples, seed))


def test_random_repeats_take_every_token_but_start_and_no_more():
    assert set(random_repeats(9, 8, n_samples=1)[0, 1:].tolist()) == set(range(1, 9))
    with pytest.raises(
        ReaderError, match="A vocabulary of 9 has fewer than 9 tokens besides <START>: choose a smaller"
    ):
        random_repeats(9, 9)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=15))
def test_induction_targets_stand_right_after_an_earlier_copy(ids):
    targets = induction_targets(torch.tensor([ids]))[0]
    for dest, src in itertools.product(range(len(ids)), repeat=2):
        assert targets[dest, src] == (0 < src <= dest and ids[src - 1] == ids[dest])


# ---- heads made by hand -----------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(2, 4), st.floats(0, 1))
def test_an_induction_head_scores_the_share_that_it_pays_to_its_targets(length, n_copies, share):
    tokens = random_repeats(30, length, n_copies, n_samples=1)
    pattern = looking_back(length - 1, 1 + n_copies * length, share)
    further_back = [targets.sum().item() for targets in induction_targets(tokens)[0]]
    assert further_back == [0] * (length + 1) + [copy for copy in range(1, n_copies) for _ in range(length)]
    assert prefix_matching_score(pattern, tokens).item() == pytest.approx(share, abs=1e-6)


@given(LENGTHS)
def test_a_duplicate_token_head_is_off_by_one_and_uniform_attention_scores_its_chance(length):
    tokens, n = random_repeats(30, length, n_samples=1), 1 + 2 * length
    for offset in (length, length + 1, length - 2):
        assert prefix_matching_score(looking_back(offset, n), tokens).tolist() == [0]
    chance = np.mean([1 / (dest + 1) for dest in range(length + 1, n)])
    assert prefix_matching_score(uniform(n), tokens).item() == pytest.approx(chance)


def test_each_head_has_its_own_score_averaged_over_the_texts():
    tokens = random_repeats(30, 5, n_samples=2)
    perfect, elsewhere = looking_back(4, 11), looking_at([0] * 11)
    pattern = torch.cat([torch.cat([perfect, elsewhere], 1), torch.cat([elsewhere, elsewhere], 1)])
    assert prefix_matching_score(pattern, tokens).tolist() == [0.5, 0]


def test_the_previous_token_score_of_perfect_partial_and_other_heads():
    assert previous_token_score(looking_back(1, 9)).item() == 1
    assert previous_token_score(looking_back(1, 9, 0.25)).item() == pytest.approx((7 * 0.25 + 1) / 8)
    assert previous_token_score(looking_back(2, 9)).item() == pytest.approx(1 / 8)
    assert previous_token_score(looking_back(0, 9)).item() == 0
    assert previous_token_score(uniform(9)).item() == pytest.approx(np.mean([1 / n for n in range(2, 10)]))


def test_attention_by_offset_is_the_average_over_destinations():
    pattern = torch.tensor([[[[1.0, 0, 0], [0.25, 0.75, 0], [0.5, 0.125, 0.375]]]]).repeat(2, 1, 1, 1)
    pattern = torch.cat([pattern, looking_back(1, 3).expand(2, 1, 3, 3)], dim=1)
    found = attention_by_offset(pattern, 2)
    assert found[0].tolist() == pytest.approx([(1 + 0.75 + 0.375) / 3, (0.25 + 0.125) / 2, 0.5])
    assert found[1].tolist() == pytest.approx([1 / 3, 1, 0])


# ---- an induction model made by hand ----------------------------------------------------------------------------


def induction_model(n_repeat: int = 20, d_vocab: int = 30) -> AttentionOnlyTransformer:
    """The paper's mechanism with weights set by hand, one head a layer.

    The stream has a part for the token, one for the token before, which head 0:0 writes, and one that the positions
    alone are in. Head 1:0 compares the token with the token before the source, and copies the source's token.
    """
    n_ctx = 1 + 2 * n_repeat
    model = random_model(2, n_heads=1, d_vocab=d_vocab, n_ctx=n_ctx, d_head=64, d_model=2 * d_vocab + 2 * n_ctx)
    for weight in model.parameters():
        weight.zero_()
    token, before, position = (slice(0, d_vocab), slice(d_vocab, 2 * d_vocab), slice(2 * d_vocab, 2 * d_vocab + n_ctx))
    model.W_E[:, token] = model.W_U[token] = torch.eye(d_vocab).double()
    model.W_pos.zero_()[:, position] = torch.eye(n_ctx).double()
    model.W_Q[0, 0, position, :n_ctx] = 400 * torch.eye(n_ctx).double()
    model.W_K[0, 0, position, :n_ctx] = torch.eye(n_ctx).double().roll(1, dims=1)  # key t answers to query t + 1
    model.W_V[0, 0, token, :d_vocab] = model.W_O[0, 0, :d_vocab, before] = torch.eye(d_vocab).double()
    model.W_Q[1, 0, token, :d_vocab] = 400 * torch.eye(d_vocab).double()
    model.W_K[1, 0, before, :d_vocab] = torch.eye(d_vocab).double()
    model.W_V[1, 0, token, :d_vocab] = torch.eye(d_vocab).double()
    model.W_O[1, 0, :d_vocab, token] = 20 * torch.eye(d_vocab).double()
    return model


def test_the_hand_made_model_does_induction_and_the_measures_see_it():
    model = induction_model()
    previous, induction = previous_token_scores(model, random_repeats(30, 20)), prefix_matching_scores(model, 20)
    assert previous[0].item() == pytest.approx(1, abs=1e-6) and previous[1].item() < 0.1
    assert induction[1].item() == pytest.approx(1, abs=1e-6) and induction[0].item() < 0.1
    first, second = repeated_random_loss(model)
    assert first > 3 and second < 1e-6
    scores = copying_score(model, (1, 0)), qk_eigenvalue_score(model, (1, 0), (0, 0))
    assert scores == pytest.approx((1, 1))


@pytest.mark.parametrize("head", [(0, 0), (1, 0)])
def test_without_either_head_the_hand_made_model_cannot(head: Head):
    assert repeated_random_loss(induction_model(), replace={head: 0.0})[1] > 3


def test_the_second_copy_does_not_count_its_first_token(monkeypatch):
    losses = torch.cat([torch.full((3, 20), 5.0), torch.full((3, 1), 99.0), torch.full((3, 19), 2.0)], dim=1)
    monkeypatch.setattr("helpers.heads.loss_per_token", lambda *_: losses)
    assert repeated_random_loss(random_model(0, n_ctx=41, d_vocab=30)) == (5, 2)


def test_scores_over_a_model_are_those_of_its_patterns():
    model = random_model(2, n_ctx=11)
    tokens = random_repeats(11, 5)
    patterns = all_patterns(model, tokens)
    assert all(torch.allclose(one, other) for one, other in zip(patterns, model.cache(tokens).patterns, strict=True))
    matching, previous = prefix_matching_scores(model, 5), previous_token_scores(model, tokens)
    for layer in range(2):
        assert torch.allclose(matching[layer], prefix_matching_score(patterns[layer], tokens))
        assert torch.allclose(previous[layer], previous_token_score(patterns[layer]))


def test_a_model_without_layers_has_no_scores():
    model = random_model(0, n_ctx=11)
    assert prefix_matching_scores(model, 5).shape == previous_token_scores(model, random_tokens(model)).shape == (0, 2)


# ---- losses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interventions", [{}, {"replace": {(1, 0): 0.0}}])
def test_the_loss_per_token_is_the_cross_entropy_of_the_next_token(interventions):
    model = random_model(2).requires_grad_(True)
    tokens = random_tokens(model, batch=5)
    losses = loss_per_token(model, tokens, **interventions)
    expected = F.cross_entropy(model(tokens, **interventions)[:, :-1].mT, tokens[:, 1:], reduction="none")
    assert torch.allclose(losses, expected) and expected.requires_grad and not losses.requires_grad


def test_a_text_of_one_token_has_no_losses():
    assert loss_per_token(random_model(1), torch.tensor([[START], [START]])).shape == (2, 0)


def test_the_loss_under_frozen_patterns_takes_those_of_each_text():
    model = random_model(2)
    tokens = random_tokens(model, batch=5)
    losses, patterns = loss_per_token(model, tokens), all_patterns(model, tokens)
    assert torch.allclose(loss_per_token(model, tokens, patterns=patterns), losses)
    assert not torch.allclose(loss_per_token(model, tokens, patterns=[p.flip(0) for p in patterns]), losses)


@pytest.mark.parametrize("frozen", [False, True])
def test_losses_are_computed_for_two_texts_at_once_whatever_is_done_to_the_model(monkeypatch, frozen):
    model, sizes = random_model(1), []
    tokens = random_tokens(model, batch=5)
    patterns = all_patterns(model, tokens) if frozen else None
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda texts, **how: sizes.append(len(texts)) or forward(texts, **how))
    assert loss_per_token(model, tokens, patterns=patterns, replace={(0, 0): 0.0}).shape == (5, tokens.shape[1] - 1)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize("n_layers", [1, 2])
def test_losses_without_heads_of_the_last_layer_are_those_of_their_ablation(n_layers):
    model = random_model(n_layers).requires_grad_(True)
    tokens, last = random_tokens(model), n_layers - 1
    groups = [[], [(last, 1)], [(last, 0), (last, 1)]]
    expected = [loss_per_token(model, tokens, replace=dict.fromkeys(group, 0.0)).mean() for group in groups]
    losses = losses_without_heads(model, tokens, groups)
    assert torch.allclose(losses, torch.stack(expected)) and not losses.requires_grad
    assert len(set(torch.stack(expected).tolist())) == 3
    with pytest.raises(ReaderError, match=f"Name heads of the last layer, {last}, only"):
        losses_without_heads(model, tokens, [[(last, 0)], [(last, 2)]])


def test_a_removed_head_may_go_on_writing_its_mean():
    model = random_model(1)
    tokens, means = random_tokens(model), mean_outputs(model, random_tokens(model, seed=1))
    expected = loss_per_token(model, tokens, replace=means).mean()
    assert torch.allclose(losses_without_heads(model, tokens, [model.heads], means), expected)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_boosts_are_what_heads_of_the_last_layer_add_beyond_their_mean_on_the_other_half_of_the_texts(n_layers):
    model = random_model(n_layers)
    tokens, last = random_tokens(model, batch=6), n_layers - 1
    logits, boosts = boosts_beyond_mean(model, tokens, slice(1, -1, 2))

    def centred(logits):
        return (logits - logits.mean(-1, keepdim=True))[:, 1:-1:2]

    assert torch.allclose(logits, centred(model(tokens)))
    means = model.cache(tokens).head_outputs[last].unflatten(0, (2, 3)).transpose(0, 1)[:, :, :, 1:-1:2].mean((0, 3))
    for head, boost in enumerate(boosts):
        mean = torch.cat([means[1, head].expand(3, 8, -1), means[0, head].expand(3, 8, -1)])
        assert torch.allclose(logits - boost, centred(model(tokens, replace={(last, head): mean})))


# ---- what a head moves ------------------------------------------------------------------------------------------


def test_value_weighted_attention_is_the_length_of_what_is_moved():
    pattern = torch.tensor([[[[1.0, 0], [0.25, 0.75]]]])
    values = torch.tensor([[[[1.0, 0], [0, 2]]]])  # [batch, head, src, d_head]
    W_O = torch.tensor([[[3.0, 4, 0], [0, 0, 1]]])  # the first value becomes (3, 4, 0), the second (0, 0, 2)
    assert value_weighted_pattern(pattern, values, W_O).tolist() == [[[[5, 0], [1.25, 1.5]]]]


def test_direct_logit_attribution_counts_from_the_mean_over_the_vocabulary():
    model = random_model(0, d_model=2, d_vocab=3)
    model.W_U.copy_(torch.tensor([[3.0, 0, 0], [0, 6, 0]]))
    outputs = torch.tensor([[[1.0, 0], [0, 1]], [[0, 0], [1, 1]]]).double()  # logits 3 0 0, 0 6 0, 0 0 0, 3 6 0
    assert direct_logit_attribution(model, outputs, 1).tolist() == [[-1, 4], [0, 3]]
    assert direct_logit_attribution(model, outputs, torch.tensor([[0, 1], [2, 2]])).tolist() == [[2, 4], [0, -3]]
    assert direct_logit_attribution(model, outputs[0, 0], torch.tensor(0)).item() == 2


def test_mean_outputs_are_averages_over_texts_and_positions():
    model = random_model(2)
    tokens = random_tokens(model)
    cache, means = model.cache(tokens), mean_outputs(model, tokens)
    assert list(means) == model.heads
    for (layer, head), mean in means.items():
        assert torch.allclose(mean, cache.head_outputs[layer][:, head].mean(dim=(0, 1)))


def test_the_largest_weight_counts_where_there_is_a_place_to_find_and_start_does_not_compete():
    tokens = torch.tensor([[START, 5, 6, 5, 6]])
    pattern = looking_at([0, 1, 2, 2, 1], share=0.4)  # the fourth looks at its target, and the fifth does not
    assert largest_on(pattern, induction_targets(tokens)).tolist() == [[0.5]]


def test_a_bigram_is_repeated_where_the_same_token_comes_next_again():
    tokens = torch.tensor([[START, 5, 6, 5, 7, 5, 6]])
    assert repeated_bigrams(tokens).nonzero()[:, 1].tolist() == [5]
