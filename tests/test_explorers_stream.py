"""The explorer of a head's place in the stream: shares against projections, rows, clicks, what chapter 01 says."""

import json
import re

import pytest
import torch
from torch import Tensor

from helpers import ReaderError
from helpers.explorers import Explorer, stream_explorer
from helpers.explorers.stream import explore_stream, read_directions, shares_read, writable, written_on
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.stream import component_names, component_outputs, principal_cosines
from helpers.tokens import Tokenizer
from helpers.views import View
from helpers.weights import load_book_model
from tests.examples import random_model

SIZES = {"d_model": 12, "d_head": 3, "n_ctx": 64}
KINDS = "QKV"
STORY = "def zorvex_quimble(a):\n    return a + 1\n\nprint(zorvex_quimble(2))\n"


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return corpus.tokenizer


@pytest.fixture(scope="module")
def model(tokenizer) -> AttentionOnlyTransformer:
    return random_model(3, d_vocab=tokenizer.d_vocab, **SIZES)


@pytest.fixture(scope="module")
def text(corpus) -> str:
    return corpus.tokenizer.decode(corpus.train[1:30])


@pytest.fixture
def explorer(model, tokenizer, text) -> Explorer:
    return stream_explorer(model, tokenizer, text, (1, 0))


def rows(view: View) -> dict[str, list[str]]:
    """The numbers of each row as they are shown, by its name."""
    lines = view.still()["text/markdown"].split("\n")[2:]
    cells = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines]
    return {name: numbers for name, *numbers in cells}


def live_rows(explorer: Explorer) -> dict[str, list[str]]:
    """The same of the live form."""
    body = re.search("<tbody>(.*)</tbody>", explorer.shown[0].body.html)[1]
    found = [[re.sub("<[^>]*>", "", cell) for cell in row.split("</td>")] for row in body.split("</tr>")[:-1]]
    return {name: numbers for name, *numbers, _ in found}


def share(vectors: Tensor, reader: Tensor) -> float:
    """Of the squared length of rows, what a projection onto the columns of ``reader`` leaves."""
    left = vectors @ reader @ torch.linalg.inv(reader.T @ reader) @ reader.T
    return (left.square().sum() / vectors.square().sum()).item()


def close(shown: list[str], exact: list[float]) -> bool:
    return [float(number.strip("*")) for number in shown] == pytest.approx(exact, abs=0.00501)


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_every_pair_of_writer_and_reader_on_a_text(model, tokenizer, text):
    outputs = component_outputs(model.cache(tokenizer.prompt(text, 64)))[:, 0]
    outputs = dict(zip(component_names(model), outputs, strict=True))
    written = written_on(model, tokenizer, text)
    for head in model.heads:
        (view,) = explore_stream(model, written, head, "")
        found = rows(view)
        assert list(found) == [
            "from token",
            *(f"from {head_name(other)}" for other in model.heads if other[0] < head[0]),
            *(f"to {head_name(other)}" for other in model.heads if other[0] > head[0]),
        ]
        for name, numbers in found.items():
            way, other = name.split()
            writer, reader = (other, head) if way == "from" else (head_name(head), tuple(map(int, other.split(":"))))
            readers = [getattr(model, f"W_{kind}")[reader] for kind in KINDS]
            assert close(numbers, [share(outputs[writer], W) for W in readers]), name


def test_by_the_weights_it_is_the_overlap_of_figure_1_3(model):
    by_weights = writable(model)
    for writer, reader in [((0, 0), (1, 1)), ((0, 1), (2, 0)), ((1, 0), (2, 1))]:
        cosines = [principal_cosines(model.W_O[writer].T, getattr(model, f"W_{kind}")[reader]) for kind in KINDS]
        wanted = [of_pair.square().mean().item() for of_pair in cosines]
        assert shares_read(by_weights[head_name(writer)], read_directions(model, reader)).tolist() == pytest.approx(
            wanted, rel=1e-9
        )
    wanted = [share(model.W_E, getattr(model, f"W_{kind}")[2, 0]) for kind in KINDS]
    assert shares_read(by_weights["token"], read_directions(model, (2, 0))).tolist() == pytest.approx(wanted, rel=1e-9)


def test_a_reader_of_all_that_is_written_of_nothing_and_of_half(tokenizer, text):
    model = random_model(2, d_vocab=tokenizer.d_vocab, **SIZES)
    axes = torch.eye(12, dtype=torch.double)
    model.W_O[0, 1] = axes[:3]
    model.W_Q[1, 0], model.W_K[1, 0], model.W_V[1, 0] = 5 * axes[:, :3], -axes[:, 3:6], axes[:, [0, 7, 8]]
    for written in (written_on(model, tokenizer, text), writable(model)):
        numbers = rows(explore_stream(model, written, (0, 1), "")[0])["to 1:0"]
        assert numbers[:2] == ["**1.00**", "0.00"] and 0 < float(numbers[2].strip("*")) < 1
    assert numbers[2] == "0.33"
    assert rows(explore_stream(model, writable(model), (1, 0), "")[0])["from 0:1"] == numbers


def test_chance_is_what_random_weights_have(tokenizer):
    model = random_model(2, d_vocab=tokenizer.d_vocab, n_heads=4, d_model=64, d_head=8)
    by_weights = writable(model)
    found = torch.stack(
        [shares_read(by_weights[f"0:{i}"], read_directions(model, (1, j))) for i in range(4) for j in range(4)]
    )
    assert found.mean().item() == pytest.approx(8 / 64, abs=0.01)
    (view,) = explore_stream(model, by_weights, (0, 0), "them all")
    assert "of them all, in the 8 of 64 directions" in view.caption and "chance, which is 0.125." in view.caption


def test_bold_is_more_than_twice_chance(model, tokenizer):
    bold = {True: 0, False: 0}
    for head in model.heads:
        for numbers in rows(explore_stream(model, written_on(model, tokenizer, "a"), head, "")[0]).values():
            for number in numbers:
                value, is_bold = float(number.strip("*")), number.startswith("**")
                assert is_bold == (value > 0.5) or value == 0.5  # chance is 3 of 12
                bold[is_bold] += 1
    assert min(bold.values()) > 0


# ---- the explorer -----------------------------------------------------------------------------------------------


def test_a_click_chooses_a_head_and_all_heads_can_be_clicked(explorer, model):
    for head in [*model.heads, *reversed(model.heads)]:
        chosen = re.findall('data-choose="([^"]*)"', explorer.shown[0].body.html)
        choices = [json.loads(re.sub(r"&#(\d+);", lambda m: chr(int(m[1])), choice))["head"] for choice in chosen]
        assert set(choices) == {head_name(other) for other in model.heads}
        explorer.shown[0].body.chosen = json.dumps({"head": head_name(head)})
        assert explorer.controls["head"].value == head and f"Head {head_name(head)}:" in explorer.shown[0].caption.html
        assert f'aria-pressed="true">{head_name(head)}</button>' in explorer.shown[0].body.html


def test_a_cell_chooses_the_head_of_its_row(explorer, model):
    html = explorer.shown[0].body.html
    for name in ("0:0", "0:1", "2:0", "2:1"):
        assert html.count(f"""data-choose='{{"head": "{name}"}}'""") == 3
    assert html.count("data-choose='") == 4 * 3  # the token is no head


def test_the_live_form_has_the_numbers_of_the_still_one(explorer, model, tokenizer):
    for text in ("a", "el 😀 <b>"):
        explorer.controls["text"].value = text
        for head in model.heads:
            explorer.controls["head"].value = head
            (view,) = explore_stream(model, written_on(model, tokenizer, text), head, "")
            plain = {name: [n.strip("*") for n in numbers] for name, numbers in rows(view).items()}
            assert live_rows(explorer) == plain and "<b>" not in explorer.shown[0].caption.html
            bold = sum(number.startswith("**") for numbers in rows(view).values() for number in numbers)
            assert explorer.shown[0].body.html.count("<b>") == bold


def test_the_weights_do_not_know_the_text(explorer, model):
    explorer.controls["by_weights"].value = True
    (view,) = explore_stream(model, writable(model), (1, 0), "")
    before = live_rows(explorer)
    assert before == {name: [n.strip("*") for n in numbers] for name, numbers in rows(view).items()}
    explorer.controls["text"].value = "another"
    assert live_rows(explorer) == before
    explorer.controls["by_weights"].value = False
    assert live_rows(explorer) != before


def test_the_model_runs_once_for_a_text(model, tokenizer, text, monkeypatch):
    n_runs, run = [], AttentionOnlyTransformer.residual_stream
    monkeypatch.setattr(
        AttentionOnlyTransformer, "residual_stream", lambda *a, **options: n_runs.append(1) or run(*a, **options)
    )
    explorer = stream_explorer(model, tokenizer, text, (1, 0))
    for head in model.heads:
        explorer.controls["head"].value = head
    assert len(n_runs) == 1
    explorer.controls["text"].value = "a"
    assert len(n_runs) == 2


@pytest.mark.parametrize("typed", ["", "x" * 100_000, "ab " * 500], ids=["empty", "100,000 characters", "too long"])
def test_a_text_that_does_not_fit_is_refused(model, tokenizer, explorer, typed):
    with pytest.raises(ReaderError, match=r"^[^\n]*\.$"):
        written_on(model, tokenizer, typed)
    explorer.controls["text"].value = typed
    assert "<b>" in explorer.message.value and not explorer.shown[0].body.html
    explorer.controls["text"].value = "a"
    assert explorer.message.value == "" and live_rows(explorer)


@pytest.mark.parametrize("head", [(3, 0), (0, 2), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, tokenizer, text, head):
    for make in (
        lambda: explore_stream(model, writable(model), head, ""),
        lambda: stream_explorer(model, tokenizer, text, head),
    ):
        with pytest.raises(ReaderError, match=f"no head {head_name(head)}"):
            make()


def test_what_chapter_01_says_of_the_books_model():
    model, tokenizer = load_book_model("two_layer"), Tokenizer.load()
    written, by_weights = written_on(model, tokenizer, STORY), writable(model)
    found = {name: rows(explore_stream(model, of, (1, 9), "")[0])["from 0:6"] for name, of in
             (("text", written), ("weights", by_weights))}  # fmt: skip
    assert found["text"][1] == "**0.43**" and found["weights"][1] == "**0.36**"
    for late in ((1, 4), (1, 7)):
        assert shares_read(written["0:8"], read_directions(model, late))[0].item() == pytest.approx(0.25, abs=0.02)
        assert shares_read(by_weights["0:8"], read_directions(model, late))[0] < 2 / 12
