"""Correlations of series whose answers are known."""

import pytest
import torch

from helpers.statistics import pearson, spearman


def test_correlations_of_known_series():
    x = torch.arange(20, dtype=torch.double)
    assert pearson(x, 3 - 2 * x) == pytest.approx(-1)
    assert spearman(x, x.exp()) == pytest.approx(1)
    assert pearson(x, x.exp()) < 0.7
    assert spearman(torch.tensor([1.0, 1, 2]), torch.tensor([1.0, 2, 3])) == pytest.approx(3**0.5 / 2)
