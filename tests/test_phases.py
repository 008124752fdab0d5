"""When curves turn, on curves of which one knows it, and on every history that the book ships."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.corpus import DATA
from helpers.measures import paired_icl_scores, pairs_of_contexts
from helpers.phases import (
    after_warmup,
    best_head,
    column,
    final,
    half_way,
    icl_score_of_each_pair,
    largest_share,
    passes,
    position_slope,
    resampled_means,
    resteepening,
    slopes,
    standard_error,
)
from helpers.training import load_history
from tests.examples import random_model

TOKENS = torch.logspace(0, 6, 7, 10, dtype=torch.double)  # 1, 10, … a million
CURVES = st.lists(st.floats(-3, 3), min_size=7, max_size=7).map(lambda y: torch.tensor(y, dtype=torch.double))


def curve(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


def test_columns_and_the_best_head_of_every_row():
    history = [{"step": 0, "a": 1, "s": [[0.1, 0.4], [0.3, 0.2]]}, {"step": 9, "a": 2, "s": [[0.0, 0.1], [0.7, 0.2]]}]
    assert column(history, "a").tolist() == [1, 2] and column(history, "s").shape == (2, 2, 2)
    assert best_head(history, "s").tolist() == [0.4, 0.7]
    assert after_warmup(history, 9) == history[1:] and after_warmup(history, 0) == history[1:]  # never the start
    assert after_warmup(history, 10) == []


def test_the_final_value_is_the_mean_of_the_last_three():
    assert final(curve(100, 1, 2, 6)) == 3


def test_a_level_is_passed_between_rows_by_their_logarithms():
    rising = curve(0, 0, 0, 1, 1, 1, 1)
    assert passes(TOKENS, rising, 0.5) == pytest.approx(10**2.5)
    assert passes(TOKENS, rising, 0.25) == pytest.approx(10**2.25)
    assert passes(TOKENS, rising, 0.0) == 1 and passes(TOKENS, rising, 2) == math.inf


def test_a_level_counts_as_passed_only_for_good():
    assert passes(TOKENS, curve(0, 1, 0, 1, 1, 1, 1), 0.5) == pytest.approx(10**2.5)
    assert passes(TOKENS, curve(1, 1, 1, 1, 1, 1, 0), 0.5) == math.inf


def test_half_way_is_that_of_the_final_value_upwards_or_downwards():
    rising = curve(0, 0, 0, 0.5, 1, 1, 1)
    assert half_way(TOKENS, rising) == half_way(TOKENS, -rising) == pytest.approx(10**3)


@given(CURVES, st.floats(0.1, 10))
def test_half_way_does_not_depend_on_the_unit(values, unit):
    if abs(final(values)) > 0.01:
        assert half_way(TOKENS, unit * values) == pytest.approx(half_way(TOKENS, values), rel=1e-6)


def test_the_largest_share_is_that_of_the_best_window():
    tokens = curve(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
    steady, jump = tokens / 10, curve(0, 0, 0, 0, 0, 1, 1, 1, 1, 1)
    assert largest_share(tokens, jump, 0.1) == largest_share(tokens, -jump, 0.1) == 1
    assert largest_share(tokens, steady, 0.3) == pytest.approx(0.3 / final(steady))
    assert largest_share(tokens, steady, 1.0) == pytest.approx(0.9 / final(steady))
    assert largest_share(tokens, jump, 0.05) == 0  # no two rows are so near


@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(2, 7))
def test_slopes_of_a_straight_line_in_the_logarithm(a, b, width):
    found = slopes(TOKENS, a + b * TOKENS.log(), width)
    assert found.shape == (8 - width,) and torch.allclose(found, torch.full_like(found, b), atol=1e-9)


def test_a_convex_fall_never_gets_steeper_again_and_a_bump_does():
    rows = torch.logspace(0, 4, 30, 10, dtype=torch.double)
    power_law = 2 + rows**-0.3
    assert resteepening(rows, power_law) == 0
    bump = power_law - 0.5 * torch.sigmoid(4 * (rows.log() - 6))
    assert 0.2 < resteepening(rows, bump) < 0.6
    assert resteepening(rows, bump, width=15) < resteepening(rows, bump, width=3)
    assert resteepening(rows, -power_law) > 0.1  # a rise that gets gentler


def test_the_slope_by_position_counts_from_where_it_is_told():
    positions = torch.arange(1, 101, dtype=torch.double)
    losses = torch.where(positions < 50, 5.0, 5 - 0.2 * (positions / 50).log())
    assert position_slope(losses, 50) == pytest.approx(-0.2)
    assert -0.2 < position_slope(losses, 10) < -0.01
    assert position_slope(losses[:49], 10) == pytest.approx(0)


def test_the_score_of_each_pair_is_its_own_and_their_mean_that_of_all():
    model = random_model(2, d_vocab=40, d_model=8, d_head=4, n_ctx=80)
    stream = torch.randint(1, 40, (500,), generator=torch.Generator().manual_seed(1)).numpy()
    pairs = pairs_of_contexts(stream, n=5, n_ctx=80, width=8)
    removed = {"none": (), "one": [(1, 0)]}
    each = icl_score_of_each_pair(model, pairs, removed, width=8)
    together = paired_icl_scores(model, pairs, removed, width=8)
    last = paired_icl_scores(model, tuple(tokens[4:] for tokens in pairs), removed, width=8)
    assert list(each) == list(removed) and each["none"].shape == (5,) and each["none"].std() > 0
    for name in removed:
        assert each[name].mean().item() == pytest.approx(together[name], abs=1e-5)
        assert each[name][4].item() == pytest.approx(last[name], abs=1e-5)


def test_standard_error_is_that_of_the_mean():
    assert standard_error(curve(1, 2, 3, 4)) == pytest.approx((5 / 3) ** 0.5 / 2)


def test_means_drawn_anew_scatter_by_the_standard_error_and_alike_in_every_row():
    values = torch.randn(100, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    means = resampled_means(torch.stack([values, 1 - 2 * values]))
    assert means.shape == (2, 4000) and torch.allclose(means[1], 1 - 2 * means[0])
    assert means[0].mean().item() == pytest.approx(values.mean().item(), abs=0.01)
    assert means[0].std().item() == pytest.approx(standard_error(values), rel=0.05)
    assert torch.equal(resampled_means(values[None], n=3, seed=4), resampled_means(values[None], n=3, seed=4))


FOLDERS = sorted(file.parent for kept in ("models", "histories") for file in (DATA / kept).glob("*/history.json"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_the_shipped_histories_are_whole_and_in_order(folder):
    history = load_history(folder)
    steps = [row["step"] for row in history]
    assert steps == sorted(set(steps)) and steps[0] == 0 and len(steps) > 30
    assert len({len(row["loss_by_position"]) for row in history}) == 1
    assert history[0]["validation_loss"] > history[-1]["validation_loss"] + 1
    for row in history:
        losses = row["loss_by_position"]
        assert sum(losses) / len(losses) == pytest.approx(row["validation_loss"], abs=1e-3)
