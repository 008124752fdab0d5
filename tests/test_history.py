"""What training writes down: on curves of which one knows when they turn, and on every history that the book ships."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers import ReaderError
from helpers.files import DATA
from helpers.heads import prefix_matching_scores
from helpers.history import (
    after_warmup,
    best_head,
    column,
    final,
    load_checkpoints,
    load_history,
    measure,
    passes,
    slopes,
)
from helpers.model import AttentionOnlyTransformer
from helpers.training import RECIPES, run
from tests.tiny import CONFIG, N_STEPS, sizes_for

TOKENS = torch.logspace(0, 6, 7, 10, dtype=torch.double)  # 1, 10, … a million


def curve(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.double)


# ---- measuring and keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 2])
def test_a_row_has_the_losses_and_a_score_for_every_head(corpus, n_layers):
    model = AttentionOnlyTransformer(sizes_for(corpus, n_layers=n_layers))
    row = measure(model, corpus)
    assert set(row) == {"validation_loss", "loss_by_position", "in_context_learning_score", "random_first_copy",
                        "random_second_copy", "previous_token", "prefix_matching", "copying"}  # fmt: skip
    assert row == measure(model, corpus)
    assert len(row["loss_by_position"]) == 63
    assert row["validation_loss"] == pytest.approx(sum(row["loss_by_position"]) / 63, abs=1e-3)
    for name in ("previous_token", "prefix_matching", "copying"):
        assert [len(layer) for layer in row[name]] == [2] * n_layers


@pytest.mark.parametrize("factor, found", [(math.nan, "is no longer a number"), (1000.0, "has risen to .* nats")])
def test_a_model_that_has_diverged_is_not_measured(corpus, factor, found):
    model = AttentionOnlyTransformer(sizes_for(corpus)).requires_grad_(False)
    model.W_U *= factor
    with pytest.raises(ReaderError, match=f"^The loss {found}"):
        measure(model, corpus)


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"history": []}', "\xff"])
def test_a_missing_or_damaged_history_is_named_and_not_to_be_had_from_git(tmp_path, content):
    if content is not None:
        (tmp_path / "history.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ReaderError, match=f"^The history in {tmp_path} is missing or damaged .*: ") as caught:
        load_history(tmp_path)
    assert "git" not in str(caught.value)


def test_a_missing_history_of_the_book_comes_back_with_git():
    with pytest.raises(ReaderError, match="bring it back with 'git checkout data/models/nowhere'"):
        load_history(DATA / "models" / "nowhere")


def test_the_checkpoints_of_a_training_are_its_start_what_was_kept_and_its_end(corpus, tmp_path):
    kept = {}

    def keep(state) -> None:
        kept[state.step] = {name: weight.detach().clone() for name, weight in state.model.named_parameters()}

    state = run(sizes_for(corpus), replace(CONFIG, n_checkpoints=4, seed=5), corpus, tmp_path, watch=keep)
    assert load_history(tmp_path) == state.history
    checkpoints = load_checkpoints(tmp_path)
    assert list(checkpoints) == [0, 4, 8, N_STEPS]
    for step, model in checkpoints.items():
        for name, weight in model.named_parameters():
            assert not weight.requires_grad
            torch.testing.assert_close(weight, kept[step][name], rtol=2e-3, atol=1e-6)
    assert torch.equal(checkpoints[0].W_E, kept[0]["W_E"])


def test_the_shipped_checkpoints_are_those_of_the_laptop_recipe():
    checkpoints = load_checkpoints(DATA / "models" / "laptop")
    assert list(checkpoints)[0] == 0 and list(checkpoints)[-1] == 1757 and len(checkpoints) == 12
    assert all(model.config == RECIPES["laptop"].model for model in checkpoints.values())
    history = {row["step"]: row for row in load_history(DATA / "models" / "laptop")}
    for step in (0, 1757):  # the two that have a row of the history
        scores = prefix_matching_scores(checkpoints[step], length=20)
        assert torch.allclose(scores, torch.tensor(history[step]["prefix_matching"]), atol=2e-3)


KEPT = [file.parent for kept in ("models", "histories") for file in (DATA / kept).glob("*/history.json")]
FOLDERS = sorted(folder for folder in KEPT if not folder.name.startswith("markov"))  # those are in test_markov


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


# ---- reading a history ------------------------------------------------------------------------------------------


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
    assert passes(TOKENS, rising, 0.0) == 1 and passes(TOKENS, rising, 2.0) == math.inf


def test_a_level_counts_as_passed_only_for_good():
    assert passes(TOKENS, curve(0, 1, 0, 1, 1, 1, 1), 0.5) == pytest.approx(10**2.5)
    assert passes(TOKENS, curve(1, 1, 1, 1, 1, 1, 0), 0.5) == math.inf


@given(st.floats(-2, 2), st.floats(-2, 2), st.integers(2, 7))
def test_slopes_of_a_straight_line_in_the_logarithm(a, b, width):
    found = slopes(TOKENS, a + b * TOKENS.log(), width)
    assert found.shape == (8 - width,) and torch.allclose(found, torch.full_like(found, b), atol=1e-9)
