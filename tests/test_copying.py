"""Words and their variants, and heads that treat these alike."""

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.bigrams import count_bigrams
from helpers.circuits import LowRank
from helpers.copying import capital, common_tokens, copying_scores, plural, spaced, variant_pairs, variants_nearby
from tests.examples import Words, table_model

WORDS = Words("<START>", " name", " names", " Name", "name", "use", " use", " used", " Names", " x")


@pytest.mark.parametrize(
    "change, word, changed", [(plural, " name", " names"), (capital, " none", " None"), (spaced, "self", " self")]
)
def test_words_are_changed_and_other_tokens_left_alone(change, word, changed):
    assert change(word) == changed
    for other in (" it", "\n  ", " x1", "==", changed.upper(), "", " two words"):
        assert change(other) == other


def test_variants_are_plurals_capitals_and_words_with_a_space():
    plain, variants = variant_pairs(WORDS, torch.arange(1, 10))
    assert list(zip(plain.tolist(), variants.tolist(), strict=True)) == [(1, 2), (1, 3), (2, 8), (4, 1), (5, 6)]
    plain, variants = variant_pairs(WORDS, torch.tensor([2, 4, 9]))
    assert plain.tolist() == variants.tolist() == []


def test_common_tokens_begin_a_thousand_bigrams():
    bigrams = count_bigrams(np.array([3, 1] * 1000 + [2, 3] * 999 + [3], dtype=np.uint16), d_vocab=5)
    assert bigrams.first_counts.tolist() == [0, 1000, 999, 1999, 0] and common_tokens(bigrams).tolist() == [1, 3]


@pytest.mark.parametrize("alike", [True, False])
def test_variants_with_like_rows_are_found_and_others_by_chance_only(alike):
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(1000, 16, generator=generator), torch.randn(16, 1000, generator=generator)
    among = torch.arange(100, 1000)  # the rows of the others are not looked at
    plain, variants = torch.arange(200, 300), torch.arange(500, 600)
    if alike:
        left[variants] = 2 * left[plain]
    left[:100] = left[plain]
    found, chance = variants_nearby(LowRank(left, right), among, (plain, variants))
    assert chance == pytest.approx(10 / 899)
    assert found == 1 if alike else found < 5 * chance


def test_one_neighbour_is_the_likest(monkeypatch):
    """Token 2 is nearer to 1 than its variant 3 is, whatever the lengths of their rows and the rows' means."""
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]])
    lengths = torch.tensor([1.0, 5.0, 7.0, 1.0])
    circuit = LowRank(directions * lengths[:, None], torch.tensor([[1.0, -1.0, 3.0, 5.0], [1.0, 1.0, -1.0, 7.0]]))
    centred = LowRank(circuit.left, torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]))

    def found(near: int) -> float:
        monkeypatch.setattr("helpers.copying.NEAR", near)
        return variants_nearby(centred, torch.arange(4), (torch.tensor([0]), torch.tensor([2])))[0]

    assert (found(2), found(1)) == (1, 0)
    assert variants_nearby(circuit, torch.arange(4), (torch.tensor([0]), torch.tensor([0])))[0] == 1


def test_heads_stand_in_the_order_of_the_model():
    copies, zeros = torch.eye(4), torch.zeros(4, 4)
    rotates: Tensor = copies.roll(1, 0)
    model = table_model((zeros, copies), (zeros, -copies), (zeros, rotates))
    assert copying_scores(model).tolist() == pytest.approx([1, -1, 0], abs=1e-6)
