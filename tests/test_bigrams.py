"""Counting bigrams, and what chapter 02 measures on them: on texts where the answer is known, and in general."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import ReaderError
from helpers.figures import density
from helpers.measures import (
    bigram_lift,
    bigram_log_probs,
    bigram_loss,
    bigram_losses,
    direct_path,
    heads_lift,
    pearson,
    spearman,
)
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import START, Bigrams, bigrams_of, count_bigrams
from helpers.training import TrainingConfig, batch, fit_bigrams, widened
from helpers.widgets import bigram_explorer, bigram_table, explore_bigram
from tests.examples import random_model, random_tokens

A, B, C, D = range(4)
streams = st.lists(st.integers(0, 4), min_size=2, max_size=60).map(lambda ids: np.array(ids, dtype=np.uint16))


def bigrams(*tokens: int, d_vocab: int = 4) -> Bigrams:
    return count_bigrams(np.array(tokens, dtype=np.uint16), d_vocab)


def random_log_probs(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, n, dtype=torch.double, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)


# ---- counting -------------------------------------------------------------------------------------------------


def test_counts_of_a_text_made_by_hand():
    counts = bigrams(A, B, A, B, C, A, B, B)
    found = list(zip(counts.first.tolist(), counts.second.tolist(), counts.times.tolist(), strict=True))
    assert found == [(A, B, 3), (B, A, 1), (B, B, 1), (B, C, 1), (C, A, 1)]
    assert counts.n == 7
    assert counts.opened.tolist() == [3, 3, 1, 0]
    assert counts.closed.tolist() == [2, 4, 1, 0]
    assert [counts.row(token).tolist() for token in (A, B, D)] == [[0, 3, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert counts.first[counts.rows(B, D)].tolist() == [B, B, B, C]


@given(st.lists(st.integers(0, 5), min_size=2, max_size=40))
def test_the_likeliest_next_token_is_the_most_frequent_one(stream):
    counts = bigrams(*stream, d_vocab=7)
    for token, following in enumerate(counts.likeliest.tolist()):
        row = counts.row(token).tolist()
        assert following == (row.index(max(row)) if any(row) else -1)


def test_counting_in_parts_forgets_no_pair():
    stream = np.random.default_rng(0).integers(0, 3, (1 << 22) + 5).astype(np.uint16)
    counts = count_bigrams(stream, d_vocab=3)
    assert counts.n == len(stream) - 1
    assert counts.row(1)[2] == ((stream[:-1] == 1) & (stream[1:] == 2)).sum()


def test_the_largest_vocabulary_that_is_stored_does_not_overflow():
    last = 2**16 - 1
    counts = bigrams(last, last, last, d_vocab=last + 1)
    assert (counts.first.tolist(), counts.second.tolist(), counts.times.tolist()) == ([last], [last], [2])


@given(streams)
def test_counts_add_up(stream):
    counts = count_bigrams(stream, d_vocab=5)
    assert counts.n == len(stream) - 1
    assert counts.opened.tolist() == np.bincount(stream[:-1], minlength=5).tolist()
    assert counts.closed.tolist() == np.bincount(stream[1:], minlength=5).tolist()
    assert torch.stack([counts.row(token) for token in range(5)]).sum(1).tolist() == counts.opened.tolist()


# ---- losses ---------------------------------------------------------------------------------------------------


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


@given(streams, st.integers(0, 1000), st.floats(0.1, 100))
def test_no_model_beats_the_entropy_and_the_difference_is_the_mean_divergence(stream, seed, prior):
    counts = count_bigrams(stream, d_vocab=5)
    model = random_log_probs(5, seed)[counts.pairs]
    text = bigram_log_probs(counts)
    entropy = bigram_loss(text, counts)
    divergence = bigram_losses(model, counts) - bigram_losses(text, counts)
    assert (divergence > -1e-12).all()
    assert bigram_loss(model, counts) - entropy == pytest.approx((counts.opened / counts.n * divergence).sum().item())
    assert bigram_loss(bigram_log_probs(counts, prior=prior), counts) >= entropy - 1e-12


@given(streams, st.floats(0.1, 100))
def test_smoothed_probabilities_add_up_to_one(stream, prior):
    counts = count_bigrams(stream, d_vocab=5)
    every = torch.cartesian_prod(torch.arange(5), torch.arange(5)).T
    everything = Bigrams(*every, times=torch.ones(25, dtype=torch.long), d_vocab=5)
    probabilities = bigram_log_probs(counts, everything, prior).exp().view(5, 5)
    assert torch.allclose(probabilities.sum(1), torch.ones(5, dtype=torch.double))


@given(st.integers(0, 1000))
def test_the_direct_path_of_a_zero_layer_model_is_the_model(seed):
    model = random_model(n_layers=0, seed=seed)
    tokens = torch.arange(model.config.d_vocab)[:, None]
    assert torch.allclose(direct_path(model), model(tokens)[:, 0].log_softmax(-1), atol=1e-12)


# ---- ranks and correlations -----------------------------------------------------------------------------------


@given(streams)
def test_the_lift_in_the_text_itself_is_the_pointwise_mutual_information(stream):
    counts = count_bigrams(stream, 5)
    table = torch.full((5, 5), -math.inf, dtype=torch.double)
    table[counts.pairs] = bigram_log_probs(counts)
    together, first, second = counts.times / counts.n, counts.opened / counts.n, counts.closed / counts.n
    expected = (together.double() / (first[counts.first].double() * second[counts.second])).log()
    assert torch.allclose(bigram_lift(table, counts), expected, atol=1e-6)


@given(streams, st.integers(0, 2**32))
def test_a_table_with_equal_rows_lifts_nothing(stream, seed):
    table = random_log_probs(5, seed)
    counts = count_bigrams(stream, 5)
    assert bigram_lift(table[:1].expand(5, 5), counts).abs().max() < 1e-6
    lifted = table[0] - (counts.opened.double() / counts.n @ table.exp()).log()
    of_first = counts.first == 0
    assert torch.allclose(bigram_lift(table, counts)[of_first], lifted[counts.second[of_first]], atol=1e-6)


@given(st.integers(0, 2**32))
def test_what_heads_add_to_a_pair_is_their_mean_logit_after_its_first_token_above_that_anywhere(seed):
    model = random_model(2, seed=seed)
    tokens = random_tokens(model, batch=6, seed=seed)
    added = model(tokens) - model(tokens, replace=dict.fromkeys(model.heads, 0.0))
    added = added - added.mean(-1, keepdim=True)
    every = torch.cartesian_prod(torch.arange(11), torch.arange(11)).T
    found = heads_lift(model, tokens, (every[0], every[1])).view(11, 11)
    for token in range(11):
        here = tokens == token
        expected = added[here].mean(0) - added.mean((0, 1))
        assert torch.allclose(found[token], expected, equal_nan=True) and (here.any() or found[token].isnan().all())


def test_correlations_of_known_series():
    x = torch.arange(20, dtype=torch.double)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert pearson(x, x.exp()) < 0.7
    assert spearman(torch.tensor([1.0, 1, 2]), torch.tensor([1.0, 2, 3])) == pytest.approx(3**0.5 / 2)


def test_a_density_counts_every_point():
    x = torch.arange(50.0)
    plate = density(x, x.flip(0), "x", "y", "Fifty points.", "points", diagonal=True)
    assert plate.png.startswith(b"\x89PNG") and plate.caption == "Fifty points."


# ---- fitting --------------------------------------------------------------------------------------------------


def zero_layers(d_model: int, d_vocab: int = 5) -> AttentionOnlyTransformer:
    return AttentionOnlyTransformer(ModelConfig(n_layers=0, d_model=d_model, d_vocab=d_vocab)).double()


@pytest.fixture
def counts() -> Bigrams:
    return count_bigrams(np.random.default_rng(0).integers(0, 5, 200).astype(np.uint16) ** 2 // 4, 5)


def loss_of(model: AttentionOnlyTransformer, counts: Bigrams) -> float:
    return bigram_loss(direct_path(model)[counts.pairs], counts)


def test_the_gradient_of_the_fit_is_that_of_the_loss(counts):
    model = random_model(n_layers=0, d_vocab=5).requires_grad_()
    log_probs = (model.W_E @ model.W_U).log_softmax(-1)[counts.pairs]
    expected = torch.autograd.grad(-(counts.times * log_probs).sum() / counts.n, [model.W_E, model.W_U])
    loss = next(fit_bigrams(model, counts, 1, 1e-12))
    assert loss == pytest.approx(loss_of(model, counts))
    for weight, gradient in zip((model.W_E, model.W_U), expected, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-12)


def test_with_room_enough_the_fit_reaches_the_entropy_and_without_it_does_not(counts):
    entropy = bigram_loss(bigram_log_probs(counts), counts)
    wide, narrow = zero_layers(8), zero_layers(2)
    for model in (wide, narrow):
        assert next(fit_bigrams(model, counts, 1, 1e-12)) == pytest.approx(math.log(5), abs=0.05)
        assert len(list(fit_bigrams(model, counts, 400, 0.1))) == 400
    assert loss_of(wide, counts) == pytest.approx(entropy, abs=1e-3)
    assert loss_of(narrow, counts) > entropy + 0.005


def test_a_widened_model_starts_where_the_narrow_one_ended(counts):
    narrow = zero_layers(2)
    list(fit_bigrams(narrow, counts, 100, 0.1))
    wide = widened(narrow, 4)
    assert wide.W_E.shape == (5, 4) and wide.config.d_model == 4
    assert torch.equal(wide.W_E[:, :2], narrow.W_E.float()) and torch.equal(wide.W_U[:2], narrow.W_U.float())
    assert loss_of(wide, counts) == pytest.approx(loss_of(narrow, counts), abs=0.05)
    list(fit_bigrams(wide, counts, 200, 0.1))
    assert loss_of(wide, counts) < loss_of(narrow, counts)


@given(st.integers(0, 99))
def test_bigrams_of_contexts_are_those_within_each(seed):
    contexts = torch.from_numpy(np.random.default_rng(seed).integers(0, 5, (4, 9)))
    table = torch.zeros(5, 5, dtype=torch.long)
    for first, second in zip(contexts[:, :-1].flatten(), contexts[:, 1:].flatten(), strict=True):
        table[first, second] += 1
    counts = bigrams_of(contexts, 5)
    assert counts.n == 32 and torch.equal(torch.stack([counts.row(token) for token in range(5)]), table)


def test_the_counts_are_what_training_averages_over():
    """After the opening <START>, the batches of an epoch hold the bigrams of the text, each at most as often."""
    stream = np.random.default_rng(0).integers(1, 5, 6 * 64 + 66).astype(np.uint16)
    dealt = torch.cat([batch(stream, step, TrainingConfig(batch_size=1), n_ctx=64) for step in range(6)])
    assert (dealt[:, 0] == START).all()
    inside = [count_bigrams(context[1:].numpy().astype(np.uint16), 5) for context in dealt]
    text = count_bigrams(stream, 5)
    total = sum(torch.stack([c.row(token) for token in range(5)]) for c in inside)
    assert (total <= torch.stack([text.row(token) for token in range(5)])).all()
    assert total.sum() > 0.8 * text.n


def test_a_model_with_layers_is_not_a_bigram_model(counts):
    with pytest.raises(ReaderError, match="layers"):
        next(fit_bigrams(random_model(n_layers=1, d_vocab=5), counts, 1, 0.1))


# ---- the explorer ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero_layer(corpus) -> AttentionOnlyTransformer:
    config = ModelConfig(n_layers=0, d_model=6, d_vocab=corpus.tokenizer.d_vocab)
    return AttentionOnlyTransformer(config).requires_grad_(False)


@pytest.fixture(scope="module")
def corpus_counts(corpus) -> Bigrams:
    return count_bigrams(corpus.train, corpus.tokenizer.d_vocab)


def test_every_token_can_be_explored(corpus, zero_layer, corpus_counts):
    tokenizer = corpus.tokenizer
    for token in range(tokenizer.d_vocab):
        try:
            reading = explore_bigram(tokenizer.show(token), zero_layer, tokenizer, corpus_counts)
        except ReaderError:
            continue  # bytes that are no text cannot be typed
        assert reading.n == corpus_counts.opened[reading.token]
        assert len(reading.corpus) == min(8, (corpus_counts.row(reading.token) > 0).sum())
        assert reading.divergence >= -1e-6
        assert len(bigram_table(reading, tokenizer).rows) == 8


def test_the_explorer_reports_what_the_corpus_has(corpus, zero_layer, corpus_counts):
    token = int(corpus_counts.opened.argmax())
    reading = explore_bigram(corpus.tokenizer.show(token), zero_layer, corpus.tokenizer, corpus_counts)
    most = int(corpus_counts.row(token).argmax())
    assert reading.corpus[0].token == corpus.tokenizer.show(most)
    assert reading.corpus[0].corpus == pytest.approx(corpus_counts.row(token)[most].item() / reading.n)
    assert reading.corpus[0].model == pytest.approx(direct_path(zero_layer)[token, most].exp().item(), rel=1e-4)
    assert [c.model for c in reading.model] == sorted((c.model for c in reading.model), reverse=True)


def test_typing_and_choosing(corpus, zero_layer, corpus_counts):
    explorer = bigram_explorer(zero_layer, corpus.tokenizer, corpus_counts, "a", ["a", "e"])
    box, pane = explorer.controls["token"], explorer.panes[0]
    menu = explorer._panel.children[0].children[0]
    menu.value = "e"
    assert box.value == "e" and "After <code>e</code>" in pane.content["text/markdown"]
    box.value = "o"
    assert menu.value == "" and "After <code>o</code>" in pane.content["text/markdown"]


@pytest.mark.parametrize("bad", ["", "no such token", "</script>", "🙂🙂", "\0\0", "x" * 100_000])
def test_what_is_not_a_token_is_answered_with_a_sentence(bad, corpus, zero_layer, corpus_counts):
    with pytest.raises(ReaderError, match="not one token"):
        explore_bigram(bad, zero_layer, corpus.tokenizer, corpus_counts)
    explorer = bigram_explorer(zero_layer, corpus.tokenizer, corpus_counts, "a", [])
    explorer.controls["token"].value = bad
    assert "not one token" in explorer.message.value and not explorer.panes[0].content
    explorer.controls["token"].value = "e"
    assert not explorer.message.value and explorer.panes[0].content


def test_start_and_unseen_tokens_are_explored_too(corpus, zero_layer, corpus_counts):
    assert explore_bigram("<START>", zero_layer, corpus.tokenizer, corpus_counts).token == START
    unseen = explore_bigram("e", zero_layer, corpus.tokenizer, bigrams(START, START, d_vocab=corpus.tokenizer.d_vocab))
    assert unseen.n == 0 and unseen.corpus == [] and unseen.divergence == 0
    assert "never" in bigram_table(unseen, corpus.tokenizer).caption


def test_another_vocabulary_is_refused(corpus, zero_layer):
    with pytest.raises(ReaderError, match="same corpus"):
        explore_bigram("e", zero_layer, corpus.tokenizer, bigrams(A, B))
