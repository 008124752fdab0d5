"""The search for skip-trigrams against a loop that anyone can read."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from helpers.measures import count_skip_trigram, destinations_after, find_skip_trigrams, frequent_tokens

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
    assert find_skip_trigrams(ids, source, destination, out, max_gap).tolist() == wanted
    count = count_skip_trigram(ids, source, destination, out, max_gap)
    assert (count.n_destination_after_source, count.n_out_after_source) == (len(places), len(wanted))
    assert count.n_destination == sum(t == destination for t in stream[:-1])
    assert count.n_out == sum(pair == (destination, out) for pair in zip(stream, stream[1:], strict=False))


@given(st.lists(IDS, max_size=40), st.integers(1, 5))
def test_frequent_tokens(stream, least):
    wanted = [token for token in range(5) if stream.count(token) >= least]
    assert frequent_tokens(np.array(stream, dtype=np.uint16), 5, least).tolist() == wanted
