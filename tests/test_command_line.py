"""``python -m helpers.training``: settings, the list of all trainings, and what it says to bad arguments."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers import ReaderError, markov
from helpers.files import DATA, book_folder
from helpers.history import load_card
from helpers.model import AttentionOnlyTransformer
from helpers.standard import StandardConfig, StandardTransformer
from helpers.tokens import Tokenizer
from helpers.training import RECIPES, SEEDS, __main__, loop
from helpers.training.__main__ import argument_parser, chosen_recipe, is_done, main
from helpers.training.recipes import Recipe, book_trainings
from helpers.weights import load_book_model, load_model
from tests.tiny import ARGUMENTS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")


def recipe(*arguments: str) -> Recipe:
    return chosen_recipe(argument_parser().parse_args(list(arguments)))


# ---- settings ---------------------------------------------------------------------------------------------------


def test_it_trains_on_a_folder_of_text(text_folder, tmp_path):
    main(["--layers", "1", "--text", str(text_folder), "--out", str(tmp_path / "run"), *ARGUMENTS])
    model, card = load_model(tmp_path / "run"), load_card(tmp_path / "run")
    assert (model.config.n_layers, model.config.d_model, model.config.n_ctx) == (1, 16, 64)
    assert Tokenizer.load(tmp_path / "run" / "tokenizer.json").d_vocab == model.config.d_vocab
    assert card["steps"] == 7 and card["history"][-1]["step"] == 7 and card["training"]["n_tokens"] == 1000


def test_arguments_change_a_recipe_and_leave_the_rest_as_it_is():
    assert [recipe("--layers", str(n)).model.n_layers for n in range(4)] == [0, 1, 2, 3]
    assert recipe() == recipe("--layers", "2") == RECIPES["two_layer"]
    assert recipe("--layers", "0", "--seed", "1").training == replace(RECIPES["zero_layer"].training, seed=1)
    laptop = recipe("--recipe", "laptop", "--heads", "3", "--context", "64", "--smeared-keys")
    assert laptop.model == replace(RECIPES["laptop"].model, n_heads=3, n_ctx=64, smeared_keys=True)


def test_every_setting_has_an_argument():
    changed = recipe(*"--layers 3 --heads 5 --d-model 6 --d-head 7 --d-vocab 8e2 --context 99 --tokens 30e6 "
                     "--positional-amplitude .5 --batch-size 4 --learning-rate .1 --muon-learning-rate .6 "
                     "--warmup-steps 9 --weight-decay .3 --final-learning-rate .2 --clip .4 --seed 1 "
                     "--measurements 10 --checkpoints 11 --smeared-keys --precision float32".split())  # fmt: skip
    assert vars(changed.model) == {
        "n_layers": 3, "n_heads": 5, "d_model": 6, "d_head": 7, "d_vocab": 800, "n_ctx": 99,
        "positional_amplitude": 0.5, "smeared_keys": True,
    }  # fmt: skip
    assert vars(changed.training) == {
        "n_tokens": 30_000_000, "batch_size": 4, "learning_rate": 0.1, "muon_learning_rate": 0.6,
        "warmup_steps": 9, "final_learning_rate": 0.2,
        "betas": (0.9, 0.95), "weight_decay": 0.3, "clip": 0.4, "seed": 1, "n_measurements": 10, "n_checkpoints": 11,
        "precision": "float32",
    }  # fmt: skip


def test_the_commands_of_the_documentation_can_be_read():
    documents = [DATA / "README.md", DATA.parent / "README.md", *DATA.parent.glob("chapters/*.ipynb")]
    texts = " ".join(file.read_text("utf8") for file in documents)
    commands = [part.split("`")[0].split("\\n")[0].split("\n")[0] for part in texts.split("-m helpers.training")[1:]]
    assert len(commands) >= 8
    for command in commands:
        argument_parser().parse_args([word.rstrip(".,;") for word in command.replace("…", "").split()])


# ---- every model of the book ------------------------------------------------------------------------------------


@pytest.fixture
def small_recipes(monkeypatch) -> None:
    small = {"n_heads": 2, "d_model": 16, "d_head": 8, "d_vocab": 300, "n_ctx": 64}
    for name, recipe in RECIPES.items():
        training = replace(recipe.training, n_tokens=512, batch_size=2)
        monkeypatch.setitem(RECIPES, name, Recipe(replace(recipe.model, **small), training))
    monkeypatch.setattr(loop, "measure", lambda *_: {})  # most of the time


def kind_of(recipe: Recipe) -> type[AttentionOnlyTransformer]:
    return StandardTransformer if isinstance(recipe.model, StandardConfig) else AttentionOnlyTransformer


def train_all(text_folder: Path, out: Path) -> None:
    main(["--all", "--text", str(text_folder), "--out", str(out)])


@pytest.mark.slow
def test_all_models_of_the_book_are_trained_again_and_none_twice(small_recipes, text_folder, tmp_path, capsys):
    for verb in ("training", "done"):
        train_all(text_folder, tmp_path)
        assert capsys.readouterr().out.count(f": {verb}\n") == len(RECIPES) * len(SEEDS)
    runs = {name: load_model(tmp_path / name, kind=kind_of(recipe)).config for name, recipe in book_trainings().items()}
    assert {name for name, config in runs.items() if config.smeared_keys} == {n for n in runs if "smeared" in n}
    assert [runs[name].n_layers for name in ("zero_layer_seed2", "laptop_one_layer_seed1", "laptop")] == [0, 1, 2]
    one, other = (load_model(tmp_path / name) for name in ("one_layer", "one_layer_seed1"))
    assert not torch.equal(one.W_E, other.W_E)
    kept = {folder.parent.name for folder in tmp_path.glob("*/checkpoints")}
    assert kept == {name for name in runs if name.startswith("laptop") and "adamw" not in name}


def test_an_interrupted_training_of_all_goes_on_where_it_stopped(
    small_recipes, text_folder, tmp_path, monkeypatch, capsys
):
    """A training that has only begun has a model too, but is not done."""
    only = {"two_layer": book_trainings()["two_layer"]}
    monkeypatch.setattr(__main__, "book_trainings", lambda: only)
    batch = loop.batch

    def interrupt(tokens, step, *rest):
        if step == 2:
            raise KeyboardInterrupt
        return batch(tokens, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch", interrupt)
        train_all(text_folder, tmp_path / "all")
    assert load_card(tmp_path / "all" / "two_layer")["steps"] == 2 and load_model(tmp_path / "all" / "two_layer")
    for out in ("all", "at_once"):
        train_all(text_folder, tmp_path / out)
        assert capsys.readouterr().out.endswith("two_layer: training\n")
    files = (tmp_path / out / "two_layer" / "model.safetensors" for out in ("all", "at_once"))
    assert len({file.read_bytes() for file in files}) == 1


def test_the_book_has_every_training_and_each_took_all_its_steps():
    of_chains = {book_folder(name, seed).name for name in markov.RECIPES for seed in SEEDS}  # see test_markov
    folders = [folder for kept in ("models", "histories") for folder in (DATA / kept).iterdir()]
    shipped = {folder.name: folder for folder in folders if folder.name not in of_chains}
    assert set(book_trainings()) == set(shipped) and len(shipped) == len(RECIPES) * len(SEEDS)
    for name, recipe in book_trainings().items():
        assert is_done(shipped[name], recipe) and not is_done(shipped[name] / "nowhere", recipe)
        assert load_card(shipped[name])["training"]["seed"] == recipe.training.seed
    for name in RECIPES:
        if (book_folder(name) / "config.json").exists():
            assert load_book_model(name, kind=kind_of(RECIPES[name])).config == RECIPES[name].model


def test_the_recipes_for_the_laptop_differ_in_layers_and_keys_alone():
    laptop = RECIPES["laptop"]
    variants = {"laptop": (2, False), "laptop_one_layer": (1, False), "laptop_smeared": (1, True),
                "laptop_two_layer_smeared": (2, True)}  # fmt: skip
    for name, (n_layers, smeared) in variants.items():
        assert RECIPES[name] == Recipe(replace(laptop.model, n_layers=n_layers, smeared_keys=smeared), laptop.training)


def test_the_control_of_the_recipe_for_the_laptop_has_the_same_model_and_no_muon():
    laptop, adamw = RECIPES["laptop"], RECIPES["laptop_adamw"]
    assert adamw.model == laptop.model and laptop.training.muon_learning_rate and not adamw.training.muon_learning_rate


# ---- bad arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments, sentence", [
    (["--text", "nowhere"], "There is no file or folder 'nowhere'"),
    (["--layers", "-1"], "No model has these sizes"),
    (["--d-model", "15"], "No model has these sizes"),
    (["--batch-size", "0"], "No training has these settings"),
    (["--tokens", "10"], "less than one step"),
    (["--context", "9"], "choose at least 64"),
    (["--d-vocab", "70000"], "A vocabulary of 70,000 is too large"),
    (["--precision", "half"], "choose 'auto', 'float32' or 'bfloat16'"),
    (["--resume"], "There is no training to resume in run: start one without resume"),
])  # fmt: skip
def test_bad_arguments_are_answered_with_a_sentence(text_folder, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReaderError, match=sentence):
        main(["--out", "run", "--text", str(text_folder), *ARGUMENTS, *arguments])


@pytest.mark.parametrize("arguments", [
    ["--tokens", "many"], ["--tokens", "nan"], ["--tokens", "inf"], ["--seed", "0.5"], ["--layers", "two"],
    ["--wrong"], ["--recipe", "x"],
])  # fmt: skip
def test_arguments_that_cannot_be_read_end_with_the_usage(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--out", str(tmp_path), *arguments])
    assert caught.value.code == 2 and "python -m helpers.training: error: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_the_command_itself_prints_the_sentence_and_no_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "helpers.training", "--text", "nowhere", "--out", str(tmp_path)],
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("There is no file or folder 'nowhere'")
