"""In-context learning on losses made by hand, and what heads contribute to it against a model without them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import START, ReaderError
from helpers.heads import all_patterns, loss_per_token
from helpers.in_context import frozen_contribution, in_context_learning_score, paired_icl_scores, pairs_of_contexts
from tests.examples import random_model, random_tokens


def test_the_in_context_learning_score_is_negative_when_context_helps():
    falling = torch.linspace(6, 2, 255).expand(4, -1)
    assert in_context_learning_score(falling) < 0 < in_context_learning_score(-falling)
    position = torch.arange(1, 256).float()[None]  # of the token that is predicted
    assert in_context_learning_score(position) == pytest.approx((240 + 255) / 2 - (42 + 57) / 2)


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("heads", [[], [(0, 0)], [(0, 1), (-1, 0)], [(-1, 0), (-1, 1)], "all"])
def test_what_heads_contribute_is_what_is_lost_without_them_if_patterns_are_kept(n_layers, heads):
    model = random_model(n_layers)
    heads = model.heads if heads == "all" else list({(layer % n_layers, head) for layer, head in heads})
    tokens = random_tokens(model)
    cache = model.cache(tokens)
    without = model.residual_stream(tokens, patterns=cache.patterns, replace=dict.fromkeys(heads, 0.0))
    for places in (slice(None), slice(-4, -1)):
        contribution = frozen_contribution(model, cache, heads, places)
        torch.testing.assert_close((cache.residual[-1] - without)[:, places], contribution, rtol=1e-9, atol=1e-9)


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
