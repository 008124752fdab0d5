"""Correlations of series whose answers are known."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.statistics import pearson, preference, spearman


def test_correlations_of_known_series():
    x = torch.arange(20, dtype=torch.double)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert pearson(x, x.exp()) < 0.7
    assert spearman(torch.tensor([1.0, 1, 2]), torch.tensor([1.0, 2, 3])) == pytest.approx(3**0.5 / 2)


@given(st.integers(0, 99))
def test_preference_is_the_share_of_pairs_in_which_the_chosen_one_is_larger(seed):
    generator = torch.Generator().manual_seed(seed)
    values, chosen = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator) < 0.4
    chosen[1], chosen[2], chosen[0, :2] = False, True, torch.tensor([True, False])
    shares = []
    for row, own in zip(values, chosen, strict=True):
        pairs = list(itertools.product(row[own].tolist(), row[~own].tolist()))
        shares += [sum(a > b for a, b in pairs) / len(pairs)] if pairs else []
    assert preference(values, chosen) == pytest.approx(sum(shares) / len(shares))
