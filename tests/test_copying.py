"""Words and their variants, and heads that treat these alike."""

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.bigrams import count_bigrams
from helpers.circuits import LowRank, ov_circuit
from helpers.copying import (
    attended,
    capital,
    common_tokens,
    copying_scores,
    finds_variant,
    first_components,
    most_reach,
    ov_factors,
    ov_products,
    plural,
    row_coordinates,
    spaced,
    variant_pairs,
)
from tests.examples import Words, close, low_rank, random_model, same_but_for_zeros, table_model

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
    found = finds_variant(row_coordinates(LowRank(left, right)), among, (plain, variants)).double().mean()
    assert found == 1 if alike else found < 5 * 10 / 899


def test_one_neighbour_is_the_likest(monkeypatch):
    """Token 2 is nearer to 1 than its variant 3 is, whatever the lengths of their rows and the rows' means."""
    directions = torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.3], [0.0, 1.0]])
    lengths = torch.tensor([1.0, 5.0, 7.0, 1.0])
    circuit = LowRank(directions * lengths[:, None], torch.tensor([[1.0, -1.0, 3.0, 5.0], [1.0, 1.0, -1.0, 7.0]]))
    centred = LowRank(circuit.left, torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]]))

    def nearby(matrix: LowRank, plain: int, variant: int) -> bool:
        pair = torch.tensor([plain]), torch.tensor([variant])
        return finds_variant(row_coordinates(matrix), torch.arange(4), pair).item()

    def found(near: int) -> bool:
        monkeypatch.setattr("helpers.copying.NEAR", near)
        return nearby(centred, 0, 2)

    assert (found(2), found(1)) == (True, False)
    assert nearby(circuit, 0, 0)


def test_heads_stand_in_the_order_of_the_model():
    copies, zeros = torch.eye(4), torch.zeros(4, 4)
    rotates: Tensor = copies.roll(1, 0)
    model = table_model((zeros, copies), (zeros, -copies), (zeros, rotates))
    # a rotation has the eigenvalues 1, i, -1 and -i; the mixture of all tokens, with the 1, raises no token over others
    assert copying_scores(model).tolist() == pytest.approx([1, -1, -1 / 3], abs=1e-6)


@pytest.mark.parametrize("n_groups", [1, 4])
def test_small_matrices_of_groups_add_up_to_the_spectrum_of_each_circuit(n_groups):
    model = random_model(1, d_vocab=12)
    products = ov_products(*ov_factors(model), n_groups)
    assert products.shape == (n_groups, 2, 3, 3)
    for head, product in zip(model.heads, products.sum(0), strict=True):
        assert same_but_for_zeros(torch.linalg.eigvals(product), ov_circuit(model, head).eigenvalues())


def test_a_group_has_every_nth_token():
    model = random_model(1, d_vocab=12)
    sources, outs = ov_factors(model)
    second = ov_products(sources, outs, 4)[1]
    assert close(second, ov_products(sources[1::4], outs[1::4])[0])
    by_hand = LowRank(sources[1::4, 0], outs[1::4, 0].T).dense()
    assert close(by_hand, ov_circuit(model, (0, 0)).dense()[1::4, 1::4])


def test_most_heads_are_more_than_half():
    assert most_reach(torch.tensor([3.0, 1, 2, 4])) == 2  # three of four have it
    assert most_reach(torch.tensor([5.0, 1, 3])) == 3


def test_what_looks_at_the_start_looks_at_no_text():
    patterns = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])[None, None]
    assert attended(patterns, torch.tensor([[0, 7, 7]])).tolist() == [[[0, 0.75, 0.5]]]


def test_rows_keep_their_angles_in_fewer_coordinates():
    circuit = low_rank(20, 3, 9, seed=0)
    rows, centred = row_coordinates(circuit), circuit.centred().dense()
    assert rows.shape == (20, 3) and close(rows @ rows.T, centred @ centred.T)


def test_first_components_are_those_with_the_most_variance():
    wide = torch.tensor([[1.0, 9.0, 0.1], [-1, 9, -0.1], [1, -9, -0.1], [-1, -9, 0.1]]) + 5
    assert close(first_components(wide, 1).abs(), torch.full((4, 1), 9.0).double())
    assert close(first_components(wide, 2).square().sum(1), torch.full((4,), 82.0).double())
