"""In-context learning on losses made by hand, and what heads contribute to it against a model without them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import START, ReaderError
from helpers.heads import all_patterns, loss_per_token
from helpers.in_context import (
    in_context_learning_score,
    paired_icl_scores,
    pairs_of_contexts,
    raised_by_context,
    shuffled_texts,
    streams_without,
)
from tests.examples import random_model, random_tokens


def test_the_in_context_learning_score_is_negative_when_context_helps():
    falling = torch.linspace(6, 2, 255).expand(4, -1)
    assert in_context_learning_score(falling) < 0 < in_context_learning_score(-falling)
    position = torch.arange(1, 256).float()[None]  # of the token that is predicted
    assert in_context_learning_score(position) == pytest.approx((240 + 255) / 2 - (42 + 57) / 2)


@pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
def test_streams_without_heads_are_those_of_the_model_with_its_patterns_and_these_heads_at_zero(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    wanted = [[], [(0, 0)], [(0, 1), (-1, 0)], [(-1, 0), (-1, 1)], [(1, 1), (0, 0)]] if n_layers else [[]]
    groups = [*({(layer % n_layers, head) for layer, head in heads} for heads in wanted), model.heads]
    patterns = model.cache(tokens).patterns
    for heads, stream in zip(groups, streams_without(model, tokens, [*map(list, groups)], width=3), strict=True):
        without = model.residual_stream(tokens, patterns=patterns, replace=dict.fromkeys(heads, 0.0))
        torch.testing.assert_close(stream, without[:, -4:-1], rtol=1e-9, atol=1e-9)


def test_a_model_with_smeared_keys_is_refused():
    with pytest.raises(ReaderError, match="smeared keys"):
        streams_without(random_model(1, smeared_keys=True), random_tokens(random_model(1)), [[]], width=3)


@given(st.integers(1, 6), st.integers(60, 90), st.integers(1, 8), st.integers(0, 99))
def test_pairs_of_contexts_end_in_the_same_tokens(n, n_ctx, half, seed):
    width = 2 * half
    long, short = pairs_of_contexts(np.arange(1, 200, dtype=np.uint16), n, n_ctx, width, seed)
    assert long.shape == (n, n_ctx) and short.shape == (n, 50 + half)
    assert (long[:, 0] == START).all() and (short[:, 0] == START).all()
    assert torch.equal(long[:, -width:], short[:, -width:])
    for row in (*long, *short):
        assert (row[1:].diff() == 1).all()  # neighbours in the text


def test_the_paired_score_is_the_loss_in_the_long_context_less_that_in_the_short_one():
    model = random_model(2, n_ctx=64)
    text = np.random.default_rng(0).integers(1, 11, 300).astype(np.uint16)
    pairs = pairs_of_contexts(text, 6, 64, width=4)
    late, early = (loss_per_token(model, tokens)[:, -4:].mean(1) for tokens in pairs)
    assert abs((late - early).mean()) > 1e-3
    removed = {"none": [], "one": [(0, 1)], "all of layer 1": [(1, 0), (1, 1)]}
    scores = paired_icl_scores(model, pairs, removed, width=4)
    assert torch.allclose(scores["none"], late - early)
    for name, heads in removed.items():
        zeros = dict.fromkeys(heads, 0.0)
        losses = [loss_per_token(model, t, patterns=all_patterns(model, t), replace=zeros)[:, -4:] for t in pairs]
        assert torch.allclose(scores[name], losses[0].mean(1) - losses[1].mean(1))
    with pytest.raises(ReaderError, match="no head 2:0"):
        paired_icl_scores(model, pairs, {"one": [(2, 0)]}, width=4)


def test_a_model_of_bigrams_gains_nothing_from_a_longer_context():
    model = random_model(0, n_ctx=64)
    text = np.random.default_rng(1).integers(1, 11, 300).astype(np.uint16)
    scores = paired_icl_scores(model, pairs_of_contexts(text, 4, 64, width=4), {"none": ()}, width=4)["none"]
    assert torch.allclose(scores, torch.zeros(4).double(), atol=1e-12)


# ---- by which algorithm -----------------------------------------------------------------------------------------

TEXT, OTHER = torch.tensor([[0, 1, 2, 3, 4, 1, 9, 9]]), torch.tensor([[0, 5, 6, 3, 6, 7, 8, 8]])


def test_the_successor_is_compared_with_the_context_and_the_context_with_another():
    logits = torch.zeros(1, 8, 10)
    logits[0, 5, 2] = 5.0  # 1 has come again: 2 followed it
    logits[0, 5, [4]] = 1.0  # the only other token that is here once and not there
    logits[0, 5, [5, 7]] = torch.tensor([0.5, 0.1])  # there once and not here; 6 is there twice, 3 on both sides
    logits[0, 5, [0, 1, 3, 6, 8, 9]] = 100.0  # of no concern
    any_token, successor = raised_by_context(logits, TEXT, OTHER)
    assert any_token.item() == pytest.approx(1.0 - 0.3) and successor.item() == pytest.approx(4.0)


def test_a_model_that_copies_any_token_does_nothing_for_the_successor():
    copies = torch.nn.functional.one_hot(TEXT, 10).cumsum(1).clamp(max=1).double()
    any_token, successor = raised_by_context(copies, TEXT, OTHER)
    assert any_token.item() == pytest.approx(1) and successor.item() == pytest.approx(0)


def test_a_text_without_repetition_asks_nothing():
    none = torch.arange(8)[None]
    assert [x.item() for x in raised_by_context(torch.randn(1, 8, 10), none, OTHER)] == [0, 0]


def test_shuffled_texts_have_the_same_tokens_after_the_start():
    texts = torch.arange(40).reshape(2, 20)
    shuffled = shuffled_texts(texts)
    assert torch.equal(shuffled[:, 0], texts[:, 0]) and not torch.equal(shuffled, texts)
    assert torch.equal(shuffled.sort(dim=1).values, texts)
