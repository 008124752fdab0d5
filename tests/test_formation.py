"""What is measured along a training: against the plain functions, over interruptions, on curves that are known."""

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import ReaderError, formation
from helpers.circuits import copying_score, qk_eigenvalue_score
from helpers.files import DATA, book_folder
from helpers.formation import (
    BANDS,
    Curve,
    Texts,
    curve,
    half_formed,
    head_scores,
    load_formation,
    losses,
    measure_run,
    repeats_curve,
    text_scores,
    turn_of,
)
from helpers.heads import all_patterns, loss_per_token, prefix_matching_score, previous_token_scores
from helpers.history import load_history, rounded
from helpers.in_context import WIDTH, paired_icl_scores
from helpers.model import AttentionOnlyTransformer
from helpers.stream import in_basis, random_rotation, with_other_keys_and_values, with_shifted_logits
from helpers.training import run
from tests.tiny import CONFIG, N_STEPS, sizes_for

KEPT = replace(CONFIG, n_tokens=N_STEPS * 2 * 128, n_checkpoints=4, seed=3)


def model_for(corpus, n_layers: int = 2, **changes) -> AttentionOnlyTransformer:
    model = AttentionOnlyTransformer(sizes_for(corpus, n_ctx=128, n_layers=n_layers, **changes), seed=1)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def trained(corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small_seed3"
    run(sizes_for(corpus, n_ctx=128, n_layers=2), KEPT, corpus, folder)
    return folder


@pytest.fixture
def few(monkeypatch):
    """A handful of pairs in place of 2,000."""
    draw = Texts.draw
    monkeypatch.setattr(Texts, "draw", lambda *about: draw(*about, n_pairs=6))


# ---- a row --------------------------------------------------------------------------------------------------------


def test_every_seed_has_texts_of_its_own(corpus):
    config = model_for(corpus).config
    one, same, other = (Texts.draw(corpus, config, seed, n_pairs=4) for seed in (0, 0, 1))
    assert one.repeats.shape == (32, 101) and one.contexts.shape == (32, 128)
    assert [len(tokens) for tokens in one.pairs] == [4, 4] and one.pairs[0].shape == (4, 128)
    for a, b, c in ((one.repeats, same.repeats, other.repeats), (one.pairs[0], same.pairs[0], other.pairs[0])):
        assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(one.pairs[0][:, -WIDTH:], one.pairs[1][:, -WIDTH:])


def test_scores_of_heads_are_those_of_the_plain_functions(corpus):
    model = model_for(corpus)
    texts = Texts.draw(corpus, model.config, 0, n_pairs=4)
    scores = head_scores(model, texts)
    patterns = all_patterns(model, texts.repeats)
    for layer in range(2):
        expected = prefix_matching_score(patterns[layer], texts.repeats)
        assert torch.allclose(scores["prefix_matching"][layer], expected, atol=1e-6)
        assert scores["copying"][layer] == [copying_score(model, head) for head in model.layer_heads(layer)]
    assert torch.equal(scores["previous_token"], previous_token_scores(model, texts.contexts))
    assert scores["matching"][1][0] == qk_eigenvalue_score(model, (1, 1), (0, 0))
    assert scores["matching"][0][1] == qk_eigenvalue_score(model, (1, 0), (0, 1))
    of_tokens = loss_per_token(model, texts.repeats)
    assert scores["random_first_copy"] == pytest.approx(of_tokens[:, :50].mean().item(), abs=1e-5)
    assert scores["random_second_copy"] == pytest.approx(of_tokens[:, 51:].mean().item(), abs=1e-5)


@pytest.mark.parametrize("changes", [{"n_layers": 1}, {"smeared_keys": True}])
def test_matching_is_of_two_layers_with_plain_keys(corpus, changes):
    model = model_for(corpus, **changes)
    assert "matching" not in head_scores(model, Texts.draw(corpus, model.config, 0, n_pairs=4))


def test_scores_on_text_are_those_of_the_plain_functions(corpus, monkeypatch):
    monkeypatch.setattr(formation, "matmul_dtype", lambda _: torch.float32)
    model = model_for(corpus)
    texts = Texts.draw(corpus, model.config, 0, n_pairs=40)
    scores = text_scores(model, texts)
    of_pairs = paired_icl_scores(model, texts.pairs, {"none": ()}, WIDTH)["none"]
    assert scores["icl_score"].item() == pytest.approx(of_pairs.mean().item(), abs=1e-5)
    assert scores["icl_score_error"].item() == pytest.approx(of_pairs.std().item() / 40**0.5, rel=1e-3)
    of_tokens = loss_per_token(model, texts.pairs[0])
    assert scores["validation_loss"].item() == pytest.approx(of_tokens.mean().item(), abs=1e-5)
    assert len(scores["loss_by_band"]) == len(BANDS)
    assert scores["loss_by_band"][0].item() == pytest.approx(of_tokens[:, 0].mean().item(), abs=1e-5)  # position 1
    assert scores["loss_by_band"][-1].item() == pytest.approx(of_tokens[:, 63:].mean().item(), abs=1e-5)  # from 64 on


def test_the_precision_of_a_training_is_enough(corpus):
    model = model_for(corpus)
    tokens = corpus.contexts("validation", 40, 128)
    assert losses(model, tokens).mean().item() == pytest.approx(loss_per_token(model, tokens).mean().item(), abs=1e-3)


# ---- a run --------------------------------------------------------------------------------------------------------


def test_every_checkpoint_has_a_row(corpus, trained, tmp_path, few):
    rows = measure_run(trained, tmp_path / "a.json", corpus)
    assert [row["step"] for row in rows] == [0, 4, 8, N_STEPS]
    assert [row["n_tokens"] for row in rows] == [step * 256 for step in (0, 4, 8, N_STEPS)]
    assert {"icl_score", "validation_loss", "prefix_matching", "matching"} <= rows[0].keys()
    assert rows[0]["validation_loss"] > rows[-1]["validation_loss"]
    assert formation._load(tmp_path / "a.json")["rows"] == rows
    heads = measure_run(trained, tmp_path / "b.json", corpus, heads_alone=True)
    assert heads == [{name: row[name] for name in heads[0]} for row in rows] and "icl_score" not in heads[0]


def test_measuring_goes_on_where_it_was_interrupted(corpus, trained, tmp_path, few, monkeypatch):
    file = tmp_path / "a.json"
    rows, seen = measure_run(trained, file, corpus, heads_alone=True), []
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"rows": rows[:1] + rows[2:]}))
    monkeypatch.setattr(formation, "head_scores", lambda model, texts: seen.append(1) or head_scores(model, texts))
    assert measure_run(trained, file, corpus, heads_alone=True) == rows and len(seen) == 1
    file.write_text(json.dumps(content | {"training": {}}))  # of another training: measured anew
    assert measure_run(trained, file, corpus, heads_alone=True) == rows and len(seen) == 5


def test_a_damaged_file_of_rows_is_named(corpus, trained, tmp_path):
    (tmp_path / "a.json").write_text("[1")
    with pytest.raises(ReaderError, match=f"^{tmp_path}/a.json is missing or damaged"):
        measure_run(trained, tmp_path / "a.json", corpus)


def test_what_the_book_lacks_comes_back_with_git():
    with pytest.raises(ReaderError, match="nowhere_seed7.json is missing or damaged: .* 'git checkout data/formations"):
        load_formation("nowhere", 7)


def test_the_command_writes_the_rows_beside_the_training_or_elsewhere(corpus, trained, tmp_path, few, monkeypatch):
    monkeypatch.setattr(formation, "load_encoded", lambda d_vocab: corpus)
    formation.main([str(trained), "--heads"])
    formation.main([str(trained), "--heads", "--out", str(tmp_path)])
    assert (trained / "formation.json").read_text() == (tmp_path / "small_seed3.json").read_text()
    assert len(load_history(trained)) < len(json.loads((trained / "formation.json").read_text())["rows"]) + 9


# ---- curves -------------------------------------------------------------------------------------------------------


def rows_of(**curves: list) -> list[dict]:
    """Rows after 100, 200, … tokens, and one before the first step, which no curve has."""
    length = len(next(iter(curves.values())))
    after = [
        {"step": i + 1, "n_tokens": 100 * (i + 1)} | {name: values[i] for name, values in curves.items()}
        for i in range(length)
    ]
    return [after[0] | {"step": 0, "n_tokens": 0}, *after]


def test_a_curve_of_scores_is_that_of_the_best_head():
    rows = rows_of(score=[[[1, 2], [4, 3]], [[5, 2], [4, 3]]], loss=[7, 6])
    assert curve(rows, "score").values.tolist() == [4, 5] and curve(rows, "score", layer=0).values.tolist() == [2, 5]
    assert curve(rows, "loss").values.tolist() == [7, 6] and curve(rows, "loss").tokens.tolist() == [100, 200]
    rows = rows_of(random_first_copy=[3, 5], random_second_copy=[3, 1])
    assert repeats_curve(rows).values.tolist() == [0, 4]


@pytest.mark.parametrize("sign", [1, -1])
def test_shares_are_of_the_final_value(sign):
    grown = curve(rows_of(x=[sign * x for x in (0, 0, 1, 3, 4, 4, 4)]), "x")
    assert grown.share(300.0) == 0.25 and grown.share(450.0) == 0.875
    assert grown.reaches(0.25) == pytest.approx(300) and 400 < grown.reaches(0.9) < 500


def test_a_slope_is_that_of_the_rows_between_two_times():
    grown = Curve(torch.tensor([1.0, 2, 4, 8, 16]).double(), torch.tensor([9.0, 0, 1, 2, 9]).double())
    assert grown.slope(2.0, 8.0) == pytest.approx(1 / math.log(2))


def test_the_turn_is_where_the_best_head_passes_a_tenth_half_and_nine_tenths():
    turn = turn_of(rows_of(prefix_matching=[[[x, x / 3]] for x in (0, 0, 0.5, 1, 1, 1, 1)]))
    assert 200 < turn.start < turn.middle == 300 < turn.end < 400


def circuit_rows(strength: float = 1.0, n: int = 7) -> list[dict]:
    """Rows in which the better heads are the second of layer 0 and the first of layer 1."""
    early = [[0.9, 0], [0.9, 0.5], [0.9, 1], [0.9, 1], [0, 1], [0, 1], [0, 1]]  # the first loses at the end
    return rows_of(
        previous_token=[[scores, [0, 0]] for scores in early[:n]],
        prefix_matching=[[[0, 0], [strength * x, 0]] for x in (0, 0, 0, 0.5, 1, 1, 1)[:n]],
        copying=[[[0, 0], [1, 0]]] * n,
        matching=[[[1, x], [1, 1]] for x in (-1, -1, 0.5, 1, 1, 1, 1)[:n]],
    )


def test_parts_of_the_circuit_are_those_of_the_heads_that_end_best():
    formed = half_formed(circuit_rows())
    assert list(formed) == ["previous token", "copying", "matching", "prefix matching"]
    assert list(formed.values()) == pytest.approx([200, 100, 300, 400])


def test_parts_of_a_clamped_training_are_held_against_those_of_a_free_one():
    assert half_formed(circuit_rows(), free=circuit_rows(2.0))["prefix matching"] == 500
    assert half_formed(circuit_rows(n=3), free=circuit_rows())["prefix matching"] == math.inf


@pytest.mark.parametrize("symmetry", ["rotated", "other keys and values", "shifted logits"])
def test_no_score_depends_on_how_the_weights_are_written(corpus, symmetry):
    model = model_for(corpus).double()
    matrices = torch.randn(2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    other = {
        "rotated": lambda: in_basis(model, random_rotation(16, seed=1)),
        "other keys and values": lambda: with_other_keys_and_values(model, *matrices),
        "shifted logits": lambda: with_shifted_logits(model, matrices[0].flatten()[:16]),
    }[symmetry]()
    texts = Texts.draw(corpus, model.config, 0, n_pairs=4)
    one, two = (head_scores(each, texts) | text_scores(each, texts) for each in (model, other))
    for name, score in one.items():
        assert np.allclose(rounded(score, 9), rounded(two[name], 9), atol=1e-6), name


# ---- what comes with the book -------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", sorted((DATA / "formations").glob("*.json")), ids=lambda file: file.stem)
def test_the_shipped_formations_are_whole_dense_and_small(file):
    about = json.loads(file.read_text("utf8"))
    steps = [row["step"] for row in about["rows"]]
    settings = about["training"]
    assert steps[0] == 0 and steps[-1] == settings["n_tokens"] // (settings["batch_size"] * about["model"]["n_ctx"])
    assert 0 < max(b - a for a, b in itertools.pairwise(steps)) <= 40
    assert len({tuple(row) for row in about["rows"]}) == 1
    assert ("icl_score" in about["rows"][0]) != about["heads_alone"]
    assert file.stem == book_folder(re.sub(r"_seed\d+$", "", file.stem), settings["seed"]).name
    assert file.stat().st_size < 150_000
