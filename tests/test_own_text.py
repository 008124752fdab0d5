"""What the book tells readers to do with text of their own, word for word; only fewer tokens are trained on."""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest
import torch

from helpers.explorers import Explorer
from helpers.figures import heatmaps
from helpers.files import DATA
from helpers.heads import previous_token_scores, repeated_random_loss
from helpers.tokens import Tokenizer, load_encoded
from helpers.training.__main__ import main
from helpers.weights import load_model
from tests.examples import texts

REPOSITORY = DATA.parent


@pytest.fixture(autouse=True)
def a_folder_with_texts(tmp_path, monkeypatch) -> Path:
    """The current folder, with some texts where the book's commands look for the reader's own."""
    own = tmp_path / "path" / "to" / "my" / "texts"
    own.mkdir(parents=True)
    for i, text in enumerate(texts()):
        (own / f"{i:02}.txt").write_text(text, "utf8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    return tmp_path


def section(document: str) -> str:
    """What is said under "Your own text"."""
    return re.search(r"^## Your own text\n(.*?)(?=^## |\Z)", document, flags=re.DOTALL | re.MULTILINE)[1]


def block(text: str, language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)[1]


@pytest.mark.slow
def test_the_code_of_chapter_00_trains_a_model_and_shows_it():
    notebook = json.loads((REPOSITORY / "chapters" / "00_start_here.ipynb").read_text("utf8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    (cell,) = [cell for cell in cells if cell.startswith("## Your own text")]
    code, n = re.subn(r"n_tokens=[\d_]+", "n_tokens=4096", block(section(cell), "python"))
    assert n == 1
    *statements, last = ast.parse(code).body
    names: dict = {}
    exec(compile(ast.Module(statements, []), "chapter 00", "exec"), names)
    explorer = eval(compile(ast.Expression(last.value), "chapter 00", "eval"), names)
    assert isinstance(explorer, Explorer) and not explorer.message.value
    explorer.controls["text"].value = texts()[0][:100]
    assert not explorer.message.value
    weights = torch.cat([weight.flatten() for weight in names["model"].parameters()])
    assert weights.isfinite().all() and names["tokenizer"].fingerprint == names["corpus"].tokenizer.fingerprint


@pytest.mark.slow
def test_the_command_of_the_documentation_trains_a_model_that_can_be_measured():
    command = block(section((DATA / "README.md").read_text("utf8")), "bash").strip()
    prefix = "python -m helpers.training "
    assert command.startswith(prefix)
    main([*shlex.split(command.removeprefix(prefix)), "--tokens", "6144", "--threads", str(torch.get_num_threads())])
    model, tokenizer = load_model("runs/mine"), Tokenizer.load("runs/mine/tokenizer.json")
    corpus = load_encoded("path/to/my/texts")
    assert model.config.n_layers == 2 and tokenizer.fingerprint == corpus.tokenizer.fingerprint
    scores = previous_token_scores(model, corpus.contexts("validation", 2, model.config.n_ctx))
    assert scores.shape == (2, 12) and 0 < scores.max() < 1
    assert all(0 < loss < 20 for loss in repeated_random_loss(model))
    figure = heatmaps({"previous token": scores}, ["0", "1"], [str(head) for head in range(12)], "head", "layer")
    assert figure.axes
