"""The measures on heads, models and texts made by hand, of which one knows what should come out."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from helpers.circuits import HeadReading, copying_score, matching_score, ov_circuit, qk_circuit
from helpers.measures import (
    Places,
    SkipTrigramBug,
    SkipTrigramCount,
    all_patterns,
    attention_by_offset,
    bigrams_after,
    frozen_contribution,
    in_context_learning_score,
    induction_targets,
    logit_effect,
    loss_per_token,
    losses_with_unseen_boosts,
    losses_without,
    mean_outputs,
    most_frequent_rule,
    paired_icl_scores,
    pairs_of_contexts,
    preference,
    prefix_matching_score,
    prefix_matching_scores,
    previous_token_score,
    previous_token_scores,
    probability_of_unseen,
    random_repeats,
    repeated_random_loss,
    skip_trigram_bugs,
    spearman,
    standard_ranks,
    value_weighted,
)
from helpers.model import AttentionOnlyTransformer
from helpers.tokens import START
from tests.examples import random_model, random_tokens

LENGTHS = st.integers(2, 12)


def looking_at(sources: list[int], share: float = 1.0) -> torch.Tensor:
    """The pattern ``[1, 1, dest, src]`` of a head that pays ``share`` to one source each, the rest to ``<START>``."""
    pattern = torch.zeros(1, 1, len(sources), len(sources))
    for dest, src in enumerate(sources):
        pattern[0, 0, dest, src] += share
        pattern[0, 0, dest, 0] += 1 - share
    return pattern


def uniform(n: int) -> torch.Tensor:
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


def test_random_repeats_reach_every_token_but_start():
    assert set(random_repeats(9, 8, n_samples=1)[0, 1:].tolist()) == set(range(1, 9))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=15))
def test_induction_targets_stand_right_after_an_earlier_copy(ids):
    targets = induction_targets(torch.tensor([ids]))[0]
    for dest, src in itertools.product(range(len(ids)), repeat=2):
        assert targets[dest, src] == (0 < src <= dest and ids[src - 1] == ids[dest])


@given(LENGTHS)
def test_with_a_repeat_of_n_the_target_is_n_minus_one_back(length):
    targets = induction_targets(random_repeats(30, length, n_samples=1))[0]
    found = [(dest, src) for dest, src in targets.nonzero().tolist()]
    assert found == [(dest, dest - (length - 1)) for dest in range(length + 1, 2 * length + 1)]


# ---- heads made by hand -----------------------------------------------------------------------------------------


@given(LENGTHS, st.integers(2, 4))
def test_a_perfect_induction_head_scores_one(length, n_copies):
    tokens = random_repeats(30, length, n_copies, n_samples=1)
    pattern = looking_at([max(0, dest - length + 1) for dest in range(1 + n_copies * length)])
    assert prefix_matching_score(pattern, tokens).tolist() == [1]


@given(LENGTHS)
def test_a_duplicate_token_head_is_off_by_one_and_scores_zero(length):
    tokens = random_repeats(30, length, n_samples=1)
    for offset in (length, length + 1, length - 2):
        pattern = looking_at([max(0, dest - offset) for dest in range(1 + 2 * length)])
        assert prefix_matching_score(pattern, tokens).tolist() == [0]


@given(LENGTHS, st.floats(0, 1))
def test_a_head_that_attends_in_part_scores_its_share(length, share):
    tokens = random_repeats(30, length, n_samples=1)
    pattern = looking_at([max(0, dest - length + 1) for dest in range(1 + 2 * length)], share)
    assert prefix_matching_score(pattern, tokens).item() == pytest.approx(share, abs=1e-6)


@given(LENGTHS)
def test_uniform_attention_scores_its_chance(length):
    tokens = random_repeats(30, length, n_samples=1)
    chance = np.mean([1 / (dest + 1) for dest in range(length + 1, 2 * length + 1)])
    assert prefix_matching_score(uniform(1 + 2 * length), tokens).item() == pytest.approx(chance)


def test_each_head_has_its_own_score_averaged_over_the_texts():
    tokens = random_repeats(30, 5, n_samples=2)
    perfect, elsewhere = looking_at([max(0, t - 4) for t in range(11)]), looking_at([0] * 11)
    pattern = torch.cat([torch.cat([perfect, elsewhere], 1), torch.cat([elsewhere, elsewhere], 1)])
    assert prefix_matching_score(pattern, tokens).tolist() == [0.5, 0]


def test_the_previous_token_score_of_perfect_partial_and_other_heads():
    back = [max(0, dest - 1) for dest in range(9)]
    assert previous_token_score(looking_at(back)).item() == 1
    assert previous_token_score(looking_at(back, 0.25)).item() == pytest.approx((7 * 0.25 + 1) / 8)
    assert previous_token_score(looking_at([max(0, dest - 2) for dest in range(9)])).item() == pytest.approx(1 / 8)
    assert previous_token_score(looking_at(list(range(9)))).item() == 0
    assert previous_token_score(uniform(9)).item() == pytest.approx(np.mean([1 / n for n in range(2, 10)]))


@given(st.integers(1, 3), st.integers(1, 2), st.integers(2, 8), st.integers(0, 99))
def test_attention_by_offset_is_the_average_over_destinations(batch, n_heads, n, seed):
    pattern = torch.rand(batch, n_heads, n, n, generator=torch.Generator().manual_seed(seed))
    found = attention_by_offset(pattern, n - 1)
    assert found.shape == (n_heads, n)
    for head, offset in itertools.product(range(n_heads), range(n)):
        shares = [pattern[b, head, dest, dest - offset].item() for b in range(batch) for dest in range(offset, n)]
        assert found[head, offset].item() == pytest.approx(np.mean(shares), rel=1e-5)
    assert torch.allclose(found[:, 1], previous_token_score(pattern))


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
    assert copying_score(model, (1, 0)) == matching_score(model, (1, 0), (0, 0)) == pytest.approx(1)


@pytest.mark.parametrize("head", [(0, 0), (1, 0)])
def test_without_either_head_the_hand_made_model_cannot(head):
    first, second = repeated_random_loss(induction_model(), replace={head: 0.0})
    assert second > 3


def test_the_second_copy_does_not_count_its_first_token(monkeypatch):
    losses = torch.cat([torch.full((3, 20), 5.0), torch.full((3, 1), 99.0), torch.full((3, 19), 2.0)], dim=1)
    monkeypatch.setattr("helpers.measures.loss_per_token", lambda *_: losses)
    assert repeated_random_loss(random_model(0, n_ctx=41, d_vocab=30)) == (5, 2)


def test_scores_over_a_model_are_those_of_its_patterns():
    model = random_model(2, n_ctx=11)
    tokens = random_repeats(11, 5)
    patterns = all_patterns(model, tokens)
    _, cache = model.run_with_cache(tokens)
    assert all(torch.allclose(one, other) for one, other in zip(patterns, cache.patterns, strict=True))
    matching, previous = prefix_matching_scores(model, 5), previous_token_scores(model, tokens)
    for layer in range(2):
        assert torch.allclose(matching[layer], prefix_matching_score(patterns[layer], tokens))
        assert torch.allclose(previous[layer], previous_token_score(patterns[layer]))


def test_a_model_without_layers_has_no_scores():
    model = random_model(0, n_ctx=11)
    assert prefix_matching_scores(model, 5).shape == previous_token_scores(model, random_tokens(model)).shape == (0, 2)


# ---- losses -----------------------------------------------------------------------------------------------------


def test_the_loss_per_token_is_the_cross_entropy_of_the_next_token():
    model = random_model(2)
    tokens = random_tokens(model, batch=19)
    expected = F.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    assert torch.allclose(loss_per_token(model, tokens).flatten(), expected)
    ablated = F.cross_entropy(model(tokens, replace={(1, 0): 0.0})[:, :-1].mT, tokens[:, 1:], reduction="none")
    assert torch.allclose(loss_per_token(model, tokens, replace={(1, 0): 0.0}), ablated)


def test_the_in_context_learning_score_is_negative_when_context_helps():
    falling, rising = torch.linspace(6, 2, 255).expand(4, -1), torch.linspace(2, 6, 255).expand(4, -1)
    assert in_context_learning_score(falling) < 0 < in_context_learning_score(rising)
    assert in_context_learning_score(torch.full((4, 255), 3.0)) == 0
    position = torch.arange(1, 256).float()[None]  # of the token that is predicted
    assert in_context_learning_score(position) == pytest.approx((240 + 255) / 2 - (42 + 57) / 2)


# ---- what a head moves ------------------------------------------------------------------------------------------


def test_value_weighted_attention_is_the_length_of_what_is_moved():
    model = random_model(1)
    _, cache = model.run_with_cache(random_tokens(model))
    weighted = value_weighted(cache.patterns[0], cache.values[0], model.W_O[0])
    for b, h, dest, src in itertools.product(range(3), range(2), range(8), range(8)):
        moved = cache.patterns[0][b, h, dest, src] * cache.values[0][b, h, src] @ model.W_O[0, h]
        assert weighted[b, h, dest, src].item() == pytest.approx(moved.norm().item())


def test_the_logit_effects_of_all_heads_and_the_direct_path_make_up_the_logit_of_the_next_token():
    model = random_model(1)
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    parts = [cache.residual[0], *(cache.head_outputs[0][:, head] for head in range(2))]
    total = sum(logit_effect(model, part, tokens) for part in parts)
    right = logits[:, :-1].gather(2, tokens[:, 1:, None]).squeeze(2)
    assert torch.allclose(total, right - logits[:, :-1].mean(2))


def test_mean_outputs_are_averages_over_texts_and_positions():
    model = random_model(2)
    tokens = random_tokens(model)
    _, cache = model.run_with_cache(tokens)
    means = mean_outputs(model, tokens)
    assert list(means) == model.heads
    for (layer, head), mean in means.items():
        assert torch.allclose(mean, cache.head_outputs[layer][:, head].mean(dim=(0, 1)))


# ---- skip-trigrams in text --------------------------------------------------------------------------------------

STREAMS = st.lists(st.integers(0, 4), min_size=1, max_size=60)


@given(STREAMS, st.integers(0, 4), st.integers(1, 9))
def test_bigrams_after_a_source_are_counted(ids, source, max_gap):
    slowly: dict[tuple[int, int], int] = {}
    for t in range(len(ids) - 1):
        if source in ids[max(0, t - max_gap) : t]:
            slowly[ids[t], ids[t + 1]] = slowly.get((ids[t], ids[t + 1]), 0) + 1
    assert bigrams_after(np.array(ids, dtype=np.uint16), source, max_gap) == slowly


def test_the_rule_that_the_text_has_most_often_is_found():
    stream = np.array([7, 1, 2, 7, 3, 4, 7, 3, 4, 7, 1, 4], dtype=np.uint16)
    reading = HeadReading((0, 0), 7, [1, 3], [0.0, 0.0], [2, 4], [0.0, 0.0])
    destination, out, count = most_frequent_rule(Places.of(stream, 20), reading, max_gap=5)
    assert (destination, out) == (3, 4) and count == SkipTrigramCount(2, 2, 2, 2)


def test_a_skip_trigram_bug_is_found_unless_the_text_has_the_crossed_pair_too():
    model = random_model(1, d_vocab=20)
    source, filler = 3, 1
    wanted = qk_circuit(model, (0, 1)).centred().dense()[:, source]
    raised = ov_circuit(model, (0, 1)).centred().dense()[source]
    d1, d2 = [t for t in range(4, 20) if wanted[t] > 0][:2]
    out1, out2 = [t for t in range(4, 20) if raised[t] > 0 and t not in (d1, d2)][:2]
    stream = [source, filler, d1, out1, filler, filler] * 30 + [source, filler, d2, out2, filler, filler] * 25

    def bugs(ids: list[int]) -> list[SkipTrigramBug]:
        found = skip_trigram_bugs(model, (0, 1), source, np.array(ids, dtype=np.uint16), n=1000)
        return [bug for bug in found if (bug.first, bug.second) == ((d1, out1), (d2, out2))]

    effect = pytest.approx(min(wanted[d1], raised[out2]).item())
    assert bugs(stream) == [SkipTrigramBug(source, (d1, out1), (d2, out2), 30, 25, 0, effect)]
    assert bugs(stream + [source, d1, out2]) == []  # one in 25 is more than a hundredth
    assert bugs(stream[:-36]) == []  # 19 are too few


# ---- what heads and their bugs cost -----------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2])
def test_losses_without_heads_of_the_last_layer_are_those_of_their_ablation(n_layers):
    model = random_model(n_layers)
    tokens, last = random_tokens(model), n_layers - 1
    groups = [[], [1], [0, 1]]
    expected = [loss_per_token(model, tokens, replace={(last, h): 0.0 for h in group}).mean() for group in groups]
    assert torch.allclose(losses_without(model, tokens, groups), torch.stack(expected))
    assert len(set(torch.stack(expected).tolist())) == 3


def test_boosts_of_unseen_pairs_are_scaled_and_others_left():
    model = random_model(1)
    tokens, d_vocab = random_tokens(model), model.config.d_vocab
    none, every = torch.zeros(d_vocab, d_vocab, dtype=torch.bool), torch.ones(d_vocab, d_vocab, dtype=torch.bool)
    plain = loss_per_token(model, tokens)
    kept, half, removed = losses_with_unseen_boosts(model, tokens, none, (1, 0.5, 0))
    assert torch.allclose(kept, plain) and not torch.allclose(half, removed)
    assert torch.allclose(losses_with_unseen_boosts(model, tokens, every, (0,))[0], plain)
    logits, _ = model.run_with_cache(tokens)
    direct = model.W_E[tokens] @ model.W_U
    boost = (logits - direct) - (logits - direct).mean(-1, keepdim=True)
    some = torch.rand(d_vocab, d_vocab, generator=torch.Generator().manual_seed(0)) < 0.5
    for text, pos in itertools.product(range(3), range(7)):
        fixed = logits[text, pos].clone()
        for out in range(d_vocab):
            if not some[tokens[text, pos], out] and boost[text, pos, out] > 0:
                fixed[out] -= 0.75 * boost[text, pos, out]
        expected = F.cross_entropy(fixed, tokens[text, pos + 1])
        assert torch.isclose(losses_with_unseen_boosts(model, tokens, some, (0.25,))[0, text, pos], expected)


def test_the_probability_of_unseen_pairs_is_summed_by_the_present_token():
    model = random_model(2)
    tokens = random_tokens(model)
    seen = torch.ones(11, 11, dtype=torch.bool)
    seen[tokens[1, 3], 5] = seen[tokens[1, 3], 7] = False
    unseen = probability_of_unseen(model, tokens, seen)
    assert torch.isclose(unseen[1, 3], model(tokens).softmax(-1)[1, 3, [5, 7]].sum())
    assert (unseen[tokens[:, :-1] != tokens[1, 3]] == 0).all() and unseen.shape == (3, 7)


@given(st.integers(0, 99))
def test_products_of_standard_ranks_are_rank_correlations(seed):
    x, y = torch.randn(2, 9, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    one, other = standard_ranks(torch.stack([x, y.exp()]))
    assert abs((one * other).sum().item() - spearman(x, y)) < 1e-9
    assert standard_ranks(torch.tensor([[3.0, 9.0, 1.0]])).argsort().tolist() == [[2, 0, 1]]


@given(st.integers(0, 99))
def test_preference_is_the_share_of_pairs_in_which_the_chosen_one_is_larger(seed):
    generator = torch.Generator().manual_seed(seed)
    values, chosen = torch.randn(3, 7, generator=generator), torch.rand(3, 7, generator=generator) < 0.4
    chosen[1], chosen[0, :2] = False, torch.tensor([True, False])
    shares = []
    for row, own in zip(values, chosen, strict=True):
        pairs = list(itertools.product(row[own].tolist(), row[~own].tolist()))
        shares += [sum(a > b for a, b in pairs) / len(pairs)] if pairs else []
    assert preference(values, chosen) == pytest.approx(sum(shares) / len(shares))


# ---- in-context learning, in pairs ------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("heads", [[], [(0, 0)], [(0, 1), (-1, 0)], [(-1, 0), (-1, 1)], "all"])
def test_what_heads_contribute_is_what_is_lost_without_them_if_patterns_are_kept(n_layers, heads):
    model = random_model(n_layers)
    heads = model.heads if heads == "all" else list({(layer % n_layers, head) for layer, head in heads})
    tokens = random_tokens(model)
    _, cache = model.run_with_cache(tokens)
    without = model.residual_stream(tokens, patterns=cache.patterns, replace=dict.fromkeys(heads, 0.0))
    contribution = frozen_contribution(model, cache, heads)
    torch.testing.assert_close(cache.residual[-1] - contribution, without, rtol=1e-9, atol=1e-9)
    places = slice(-4, -1)
    torch.testing.assert_close(frozen_contribution(model, cache, heads, places), contribution[:, places])


@given(st.integers(1, 6), st.integers(20, 40), st.integers(2, 8), st.integers(1, 4), st.integers(0, 99))
def test_pairs_of_contexts_end_in_the_same_tokens(n, n_ctx, early, half, seed):
    width = 2 * half
    early = max(early, half + 1)
    stream = np.arange(1, 200, dtype=np.uint16)
    long, short = pairs_of_contexts(stream, n, n_ctx, early, width, seed)
    assert long.shape == (n, n_ctx) and short.shape == (n, early + half)
    assert (long[:, 0] == START).all() and (short[:, 0] == START).all()
    assert torch.equal(long[:, -width:], short[:, -width:])
    for row in (*long, *short):
        assert (row[1:].diff() == 1).all()  # pieces of the stream


def test_the_paired_score_is_the_loss_in_the_long_context_less_that_in_the_short_one():
    model = random_model(2, n_ctx=24)
    stream = np.random.default_rng(0).integers(1, 11, 300).astype(np.uint16)
    pairs = pairs_of_contexts(stream, 6, 24, early=8, width=4)
    late, early = (loss_per_token(model, tokens)[:, -4:].mean().item() for tokens in pairs)
    assert abs(late - early) > 1e-3
    assert paired_icl_scores(model, pairs, width=4) == {"none": pytest.approx(late - early)}
    removed = {"none": [], "one": [(0, 1)], "all of layer 1": [(1, 0), (1, 1)]}
    scores = paired_icl_scores(model, pairs, removed, width=4)
    assert scores["none"] == pytest.approx(late - early)
    for name, heads in removed.items():
        losses = [loss_per_token(model, t, patterns=all_patterns(model, t), replace=dict.fromkeys(heads, 0.0))
                  for t in pairs]
        assert scores[name] == pytest.approx(losses[0][:, -4:].mean().item() - losses[1][:, -4:].mean().item())


def test_a_model_of_bigrams_gains_nothing_from_a_longer_context():
    model = random_model(0, n_ctx=24)
    stream = np.random.default_rng(1).integers(1, 11, 300).astype(np.uint16)
    pairs = pairs_of_contexts(stream, 4, 24, early=8, width=4)
    assert paired_icl_scores(model, pairs, width=4)["none"] == pytest.approx(0)
