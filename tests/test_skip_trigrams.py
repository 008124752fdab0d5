"""The search for skip-trigrams against a loop that anyone can read."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.circuits import HeadReading
from helpers.measures import (
    Places,
    SkipTrigramCount,
    destinations_after,
    frequent_rules,
    frequent_tokens,
    split_words,
)

IDS = st.integers(0, 3)


def found_slowly(stream: list[int], source: int, destination: int, max_gap: int) -> list[int]:
    return [t for t in range(len(stream) - 1)
            if stream[t] == destination and source in stream[max(0, t - max_gap) : t]]


@given(st.lists(IDS, max_size=40), IDS, IDS, IDS, st.integers(1, 9))
def test_skip_trigrams_are_found_and_counted(stream, source, destination, out, max_gap):
    ids = np.array(stream, dtype=np.uint16)
    places = found_slowly(stream, source, destination, max_gap)
    assert destinations_after(ids, source, destination, max_gap).tolist() == places
    wanted = [t for t in places if stream[t + 1] == out]
    count = Places.of(ids, d_vocab=5).count(source, destination, out, max_gap)
    assert (count.n_destination_after_source, count.n_out_after_source) == (len(places), len(wanted))
    assert count.n_destination == sum(t == destination for t in stream[:-1])
    assert count.n_out == sum(pair == (destination, out) for pair in zip(stream, stream[1:], strict=False))


@given(st.lists(IDS, max_size=40), st.integers(1, 5))
def test_frequent_tokens(stream, least):
    wanted = [token for token in range(5) if stream.count(token) >= least]
    assert frequent_tokens(np.array(stream, dtype=np.uint16), 5, least).tolist() == wanted


@given(st.lists(IDS, max_size=40), IDS, IDS, IDS, st.integers(1, 9))
def test_sorted_places_find_what_the_plain_search_finds(stream, source, destination, out, max_gap):
    ids = np.array(stream, dtype=np.uint16)
    places = Places.of(ids, d_vocab=5)
    assert places[source].tolist() == [i for i, token in enumerate(stream) if token == source]
    assert places.after(source, destination, max_gap).tolist() == found_slowly(stream, source, destination, max_gap)
    assert np.array_equal(places.after(source, destination, max_gap),
                          destinations_after(ids, source, destination, max_gap))
    windows = zip(stream, stream[1:], stream[2:], strict=False)
    assert places.times([source, destination, out]) == list(windows).count((source, destination, out))
    outs = places.outs(source, destination, max_gap)
    assert outs.shape == (5,) and outs[out] == places.count(source, destination, out, max_gap).n_out_after_source


def test_only_rules_that_are_frequent_and_lifted_count():
    often, rarely, anyway = [1, 0, 2, 5, 0, 0], [1, 0, 3, 6, 0, 0], [1, 0, 4, 7, 0, 0]
    elsewhere = [0] * 9 + [2, 0, 3, 0, 4, 7] * 12
    stream = np.array(often * 12 + anyway * 12 + rarely * 9 + elsewhere, dtype=np.uint16)
    reading = HeadReading((0, 0), 1, [2, 3, 4], [0.0] * 3, [5, 6, 7], [0.0] * 3)
    rules = frequent_rules(Places.of(stream, 8), reading, max_gap=3, least=10, lift=1.5)
    assert [(destination, out) for destination, out, _ in rules] == [(2, 5)]
    assert rules[0][2] == SkipTrigramCount(24, 12, 12, 12) and rules[0][2].lift == 2
    assert len(frequent_rules(Places.of(stream, 8), reading, max_gap=3, least=9, lift=0)) == 3


class Dictionary:
    """A tokenizer of a few words."""

    words = (" two", "t", "wo", " of", "of", " x1", "x", "1", "two", " s", "s")

    def decode(self, ids):
        return "".join(self.words[i] for i in ids)

    def encode(self, text):
        cut = {"two": [1, 2], "of": [4], "x1": [6, 7], "s": [10]}
        return cut[text]


def test_split_words_are_whole_with_a_space_and_two_pieces_without():
    assert split_words(Dictionary(), torch.arange(11)).tolist() == [[0, 1, 2]]
    assert split_words(Dictionary(), torch.tensor([3, 4])).shape == (0, 3)
