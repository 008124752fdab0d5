"""Bigrams, on texts where the answer is known and in general, and what models say of them."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.bigrams import (
    Bigrams,
    bigram_log_probs,
    bigram_loss,
    bigram_losses,
    bigrams_of,
    count_bigrams,
    direct_path,
    frequent_pairs,
    interaction,
    next_in_frequency,
)
from tests.examples import random_model

A, B, C, D = range(4)
TEXTS = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(lambda ids: np.array(ids, dtype=np.uint16))


def bigrams(*tokens: int, d_vocab: int = 4) -> Bigrams:
    return count_bigrams(np.array(tokens, dtype=np.uint16), d_vocab)


def random_log_probs(n: int, seed: int) -> Tensor:
    return torch.randn(n, n, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


# ---- counting ---------------------------------------------------------------------------------------------------


def test_counts_of_a_text_made_by_hand():
    counts = bigrams(A, B, A, B, C, A, B, B)
    found = list(zip(counts.first.tolist(), counts.second.tolist(), counts.counts.tolist(), strict=True))
    assert found == [(A, B, 3), (B, A, 1), (B, B, 1), (B, C, 1), (C, A, 1)]
    assert counts.n == 7
    assert counts.first_counts.tolist() == [3, 3, 1, 0]
    assert counts.second_counts.tolist() == [2, 4, 1, 0]
    assert [counts.row(token).tolist() for token in (A, B, D)] == [[0, 3, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert counts.likeliest.tolist() == [B, A, A, -1]  # of equals the smallest id
    assert counts.first[counts.rows(B, D)].tolist() == [B, B, B, C]
    table = torch.arange(16).view(4, 4)
    assert table[counts.pairs].tolist() == [1, 4, 5, 6, 8]


def test_counting_in_parts_forgets_no_pair():
    text = np.random.default_rng(0).integers(0, 3, (1 << 22) + 5).astype(np.uint16)
    counts = count_bigrams(text, d_vocab=3)
    assert counts.n == len(text) - 1
    assert counts.row(1)[2] == ((text[:-1] == 1) & (text[1:] == 2)).sum()


def test_the_largest_vocabulary_that_is_stored_does_not_overflow():
    last = 2**16 - 1
    counts = bigrams(last, last, last, d_vocab=last + 1)
    assert (counts.first.tolist(), counts.second.tolist(), counts.counts.tolist()) == ([last], [last], [2])


def test_bigrams_of_contexts_are_those_within_each():
    counts = bigrams_of(torch.tensor([[A, B, A, B], [C, C, C, D]]), 4)
    assert [counts.row(token).tolist() for token in range(4)] == [[0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 2, 1], [0] * 4]


def test_partners_are_next_in_frequency_and_those_of_the_ends_each_other():
    counts = bigrams(A, A, A, B, B, D, A, B, D, D, C)  # as first tokens: A 4, B 3, D 3, C 0
    assert next_in_frequency(counts).tolist() == [D, C, A, B]


def test_frequent_pairs_occur_a_hundred_times():
    counts = bigrams(*[A, B] * 100, *[B, C] * 99, B)
    found = frequent_pairs(counts)
    assert set(zip(found.first.tolist(), found.second.tolist(), found.counts.tolist(), strict=True)) == {(A, B, 100)}


def test_what_is_particular_to_pairs_knows_nothing_of_single_tokens():
    generator = torch.Generator().manual_seed(0)
    first, second = torch.cartesian_prod(torch.arange(3), torch.arange(3)).T
    pairs = Bigrams(first, second, torch.ones(9, dtype=torch.long), d_vocab=4)
    values, of_first, of_second = (torch.randn(n, generator=generator, dtype=torch.double) for n in (9, 3, 3))
    found = interaction(values, pairs)
    assert torch.allclose(found, interaction(values + of_first[first] + 9 * of_second[second], pairs))
    by_hand = values.view(3, 3) - values.view(3, 3).mean(0) - values.view(3, 3).mean(1, keepdim=True) + values.mean()
    assert torch.allclose(found.view(3, 3), by_hand)


# ---- losses -----------------------------------------------------------------------------------------------------


def test_entropy_of_a_text_made_by_hand():
    counts = bigrams(A, B, A, C, A, B, A, C, A)  # after A comes B or C; after each of these, A
    log_probs = bigram_log_probs(counts)
    assert log_probs.exp().tolist() == pytest.approx([0.5, 0.5, 1, 1])
    assert bigram_losses(log_probs, counts).tolist() == pytest.approx([math.log(2), 0, 0, 0])
    assert bigram_loss(log_probs, counts) == pytest.approx(math.log(2) / 2)


def test_a_pair_that_the_text_does_not_have_costs_infinitely_much_without_a_prior():
    seen, other = bigrams(A, A, B, B), bigrams(A, B, A, D, A)
    assert bigram_log_probs(seen, other).exp().tolist() == pytest.approx([0.5, 0, 0, 0])
    assert bigram_loss(bigram_log_probs(seen, other), other) == math.inf
    smoothed = bigram_log_probs(seen, other, prior=2.0).exp()  # A, B: (1 + 2 · 2/3) / (2 + 2)
    assert smoothed.tolist() == pytest.approx([7 / 12, 0, (2 / 3) / 3, 1 / 3])


@given(TEXTS, st.integers(0, 1000), st.floats(0.1, 100))
def test_no_model_beats_the_entropy_and_the_difference_is_the_mean_divergence(text, seed, prior):
    counts = count_bigrams(text, d_vocab=5)
    model, own = random_log_probs(5, seed)[counts.pairs], bigram_log_probs(counts)
    entropy = bigram_loss(own, counts)
    divergence = bigram_losses(model, counts) - bigram_losses(own, counts)
    assert (divergence > -1e-12).all()
    mean = (counts.first_counts / counts.n * divergence).sum().item()
    assert bigram_loss(model, counts) - entropy == pytest.approx(mean)
    assert bigram_loss(bigram_log_probs(counts, prior=prior), counts) >= entropy - 1e-12


@given(TEXTS, st.floats(0.1, 100))
def test_smoothed_probabilities_add_up_to_one(text, prior):
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    everything = Bigrams(*every, counts=torch.ones(25, dtype=torch.long), d_vocab=5)
    probabilities = bigram_log_probs(count_bigrams(text, 5), everything, prior).exp().view(5, 5)
    assert torch.allclose(probabilities.sum(1), torch.ones(5, dtype=torch.double))


# ---- models -----------------------------------------------------------------------------------------------------


def test_the_direct_path_of_a_zero_layer_model_is_the_model():
    model = random_model(n_layers=0, d_vocab=1025).requires_grad_(True)  # more rows than are made at a time
    table = direct_path(model)
    assert torch.allclose(table, model(torch.arange(1025)[:, None])[:, 0].log_softmax(-1), atol=1e-12)
    assert not table.requires_grad
