"""What is counted in a text, against loops that anyone can read."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.text import SkipTrigramCount, Text, TokenPositions, frequent_tokens, split_words, token_pairs
from tests.examples import Words, corpus_of

IDS = st.integers(0, 3)
TEXTS = st.lists(IDS, max_size=40)
WORDS = Words("<START>", " two", "t", "wo", " of", "of", " x1", "x", "1", "two", " s", "s", "tx")


def after_slowly(text: list[int], source: int, destination: int, max_gap: int) -> list[int]:
    return [t for t in range(len(text) - 1) if text[t] == destination and source in text[max(0, t - max_gap) : t]]


@given(TEXTS, IDS, IDS, IDS, st.integers(1, 9))
def test_skip_trigrams_are_found_and_counted(text, source, destination, out, max_gap):
    positions = TokenPositions.of(np.array(text, dtype=np.uint16), 5)
    after = after_slowly(text, source, destination, max_gap)
    assert positions[source].tolist() == [i for i, token in enumerate(text) if token == source]
    assert positions.after(source, destination, max_gap).tolist() == after
    outs = [text[t + 1] for t in after]
    assert positions.outs(source, destination, max_gap).tolist() == [outs.count(token) for token in range(5)]
    bigrams = list(zip(text, text[1:], strict=False))
    assert positions.following(destination).tolist() == [bigrams.count((destination, token)) for token in range(5)]
    n_out = bigrams.count((destination, out))
    expected = SkipTrigramCount(text[:-1].count(destination), n_out, len(after), outs.count(out))
    assert positions.count(source, destination, out, max_gap) == expected


@given(TEXTS, IDS, IDS, st.integers(1, 9))
def test_all_sources_of_a_bigram_are_counted_at_once(text, destination, out, max_gap):
    positions = TokenPositions.of(np.array(text, dtype=np.uint16), 5)
    times, lift = positions.sources(destination, out, max_gap)
    for source in range(5):
        count = positions.count(source, destination, out, max_gap)
        assert times[source] == pytest.approx(count.n_out_after_source)
        assert lift[source] == pytest.approx(count.lift if count.n_out_after_source else 0)


def test_of_very_many_places_some_are_looked_at():
    text = [1, 0] * 3000 + [0, 0] * 2000
    positions = TokenPositions.of(np.array(text, dtype=np.uint16), 2)
    assert positions.shares_near(np.arange(1, 10_000), max_gap=2) == pytest.approx([1, 0.6], abs=2e-3)
    assert positions.shares_near(np.array([1, 2, 0, 9_999]), max_gap=1).tolist() == [0.5, 0.25]
    assert positions.shares_near(np.array([], dtype=np.int64), max_gap=1).tolist() == [0, 0]


def test_the_lift_is_how_many_times_likelier_the_out_is_after_the_source():
    count = SkipTrigramCount(n_destination=40, n_out=10, n_destination_after_source=8, n_out_after_source=6)
    assert count.lift == pytest.approx(3)  # three of four, where it is one of four anywhere
    assert SkipTrigramCount(0, 0, 0, 0).lift == 0


def test_only_rules_that_are_frequent_and_lifted_count():
    often, rarely, anyway = [1, 0, 2, 5, 0, 0], [1, 0, 2, 6, 0, 0], [1, 0, 2, 7, 0, 0]
    text = often * 12 + rarely * 9 + anyway * 12 + [0, 0, 0, 2, 7] * 33  # 2 stands after 1 half of the time
    positions = TokenPositions.of(np.array(text, dtype=np.uint16), 8)
    assert positions.rules(1, 2, [5, 6, 7], max_gap=3) == [(5, SkipTrigramCount(66, 12, 33, 12))]
    assert positions.rules(1, 2, [5, 6, 7], max_gap=1) == []  # no source so near


@given(TEXTS, st.integers(1, 5))
def test_frequent_tokens(text, least):
    wanted = [token for token in range(5) if text.count(token) >= least]
    assert frequent_tokens(np.array(text, dtype=np.uint16), 5, least).tolist() == wanted


def test_pairs_are_tokens_of_the_list_whose_changed_text_is_one_too():
    plain, changed = token_pairs(WORDS, torch.arange(13), str.strip)
    assert (plain.tolist(), changed.tolist()) == ([1, 4, 10], [9, 5, 11])
    plain, changed = token_pairs(WORDS, torch.tensor([1, 5, 9]), str.strip)
    assert (plain.tolist(), changed.tolist()) == ([1], [9])
    plain, changed = token_pairs(WORDS, torch.tensor([4, 9]), str.strip)
    assert plain.tolist() == changed.tolist() == [] and plain.dtype == torch.long


def test_split_words_are_whole_with_a_space_and_two_pieces_without():
    words = Words(*(word for word in WORDS.words if word != "two"))
    assert split_words(words, torch.arange(12)).tolist() == [[1, 2, 3]]
    assert split_words(words, torch.tensor([4, 5])).shape == (0, 3)


def test_a_text_counts_each_thing_once():
    text = Text(corpus_of([0, 1, 2] * 999 + [0, 1, 3], WORDS))
    assert text.tokenizer is WORDS and text.frequent.tolist() == [1]  # 2 occurs 999 times, <START> is left out
    assert text.bigrams.row(1).tolist() == [0, 0, 999, 1] + [0] * 9 and text.bigrams is text.bigrams
    assert (2999 * text.unigram_probs).tolist() == pytest.approx([999, 1000, 999, 1] + [0] * 9)
    assert text.positions.count(2, 1, 3, max_gap=2) == SkipTrigramCount(1000, 1, 999, 1)
