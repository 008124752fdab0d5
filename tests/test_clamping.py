"""Trainings with a part of the induction circuit given or withheld: what is clamped stays, and all else is as ever."""

import json
from dataclasses import replace

import pytest
import torch

from helpers import clamping
from helpers.clamping import CLAMPS, PreviousTokenGiven, PreviousTokenWithheld, grow
from helpers.model import AttentionOnlyTransformer
from helpers.training import train
from helpers.training.recipes import Recipe
from tests.tiny import CONFIG, N_STEPS, sizes_for


def recipe_for(corpus, **training) -> Recipe:
    training = replace(CONFIG, n_tokens=N_STEPS * 2 * 128, muon_learning_rate=0.01, **training)
    return Recipe(sizes_for(corpus, n_ctx=128, n_layers=2), training)


def patterns(corpus, build) -> list[torch.Tensor]:
    model = build(sizes_for(corpus, n_layers=2), 3)
    return model.cache(corpus.contexts("validation", 3, 64)).patterns


@pytest.mark.parametrize("build", CLAMPS.values())
def test_every_clamp_begins_with_the_same_weights(corpus, build):
    model, free = (kind(sizes_for(corpus, n_layers=2), 3) for kind in (build, AttentionOnlyTransformer))
    assert all(map(torch.equal, model.parameters(), free.parameters()))


def test_a_given_head_attends_to_the_previous_token_alone(corpus):
    given, free = patterns(corpus, PreviousTokenGiven), patterns(corpus, AttentionOnlyTransformer)
    expected = torch.zeros(64, 64)
    expected[0, 0] = 1
    expected[range(1, 64), range(63)] = 1
    assert (given[0][:, 0] == expected).all() and torch.equal(given[0][:, 1], free[0][:, 1])
    assert not torch.allclose(given[1], free[1])  # it reads what the given head has written
    assert not (given[1][:, 0] == expected).all()


def test_withheld_the_previous_token_gets_no_attention_in_layer_0_alone(corpus):
    withheld, free = patterns(corpus, PreviousTokenWithheld), patterns(corpus, AttentionOnlyTransformer)
    assert not withheld[0].diagonal(-1, dim1=2, dim2=3).any() and withheld[1].diagonal(-1, dim1=2, dim2=3).all()
    assert torch.allclose(withheld[0].sum(-1), torch.ones(()))
    kept = withheld[0] > 0
    ratio = torch.where(kept, withheld[0] / free[0], torch.nan)
    assert torch.allclose(ratio.nan_to_num(-1).amax(-1), ratio.nan_to_num(9).amin(-1).clamp(max=9), atol=1e-4)


@pytest.mark.parametrize("name", CLAMPS)
def test_what_is_clamped_does_not_learn_and_the_rest_does(corpus, name):
    recipe = recipe_for(corpus)
    start = CLAMPS[name](recipe.model, recipe.training.seed)
    *_, end = train(recipe.model, recipe.training, corpus, build=CLAMPS[name])
    assert type(end.model) is CLAMPS[name]
    frozen = {
        (weight, *place)
        for weight in ("W_Q", "W_K", "W_V", "W_O")
        for place in start.heads
        if torch.equal(getattr(start, weight)[place], getattr(end.model, weight)[place])
    }
    assert (
        frozen
        == {
            "free": set(),
            "given": {("W_Q", 0, 0), ("W_K", 0, 0)},
            "withheld": set(),
            "no_copying": {(weight, 1, head) for weight in ("W_V", "W_O") for head in (0, 1)},
        }[name]
    )


def test_a_clamped_training_is_measured_on_its_way(corpus):
    rows = grow("given", recipe_for(corpus), corpus, every=5)
    assert [row["step"] for row in rows] == [0, 5, 10, N_STEPS]
    assert all(row["previous_token"][0][0] > 0.999 > row["previous_token"][0][1] for row in rows)
    assert rows[-1]["n_tokens"] == N_STEPS * 2 * 128 and "prefix_matching" in rows[-1]


def test_the_command_says_what_formed_when_and_writes_the_rows(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(clamping, "load_encoded", lambda d_vocab: corpus)
    monkeypatch.setattr(clamping, "RECIPES", {"laptop": recipe_for(corpus)})
    clamping.main(["withheld", "--seed", "1", "--out", str(tmp_path)])
    written = json.loads((tmp_path / "withheld_seed1.json").read_text())
    assert (written["clamp"], written["training"]["seed"]) == ("withheld", 1) and written["rows"][-1]["step"] == N_STEPS
    assert "prefix matching half formed after" in capsys.readouterr().out
