"""All heads of a layer: what is handed to circuitsvis, what is saved, what is refused. The mouse: tests/browser."""

import json
import socket
import urllib.request

import circuitsvis.utils.render
import ipywidgets
import pytest
import torch

from helpers import ReaderError, head_views
from helpers.head_views import Heads, heads_view
from helpers.views import LIVE
from tests.execute import CHAPTERS
from tests.test_token_views import NASTY, OF_TOKENS, parsed


def patterns(n_heads: int, n: int) -> torch.Tensor:
    return torch.rand(n_heads, n, n, generator=torch.Generator().manual_seed(0)).tril()


def parts_of(*arguments) -> tuple[Heads, ipywidgets.Dropdown, ipywidgets.Widget]:
    return heads_view(*arguments).panel().children


def test_circuitsvis_is_handed_every_entry_and_a_scale_from_0_to_1():
    pattern = patterns(3, 5)
    heads, *_ = parts_of(NASTY[:5], pattern, ["0:0", "</script>", "0:2"])
    assert {name: heads.shown[name] for name in ("tokens", "attentionHeadNames", "minValue", "maxValue")} == {
        "tokens": NASTY[:5],
        "attentionHeadNames": ["0:0", "</script>", "0:2"],
        "minValue": 0,
        "maxValue": 1,
    }
    given = torch.tensor(heads.shown["attention"])
    assert given.shape == (3, 5, 5) and (given - pattern).abs().max() <= 0.000501


def test_the_row_of_tokens_shows_the_chosen_head():
    pattern = patterns(3, len(NASTY))
    heads, menu, row = parts_of(NASTY, pattern, ["a", "b", "c"])
    assert [label for label, _ in menu.options] == ["a", "b", "c"]

    def weights() -> list[list[float]]:
        tokens = parsed(row.html, OF_TOKENS).select_one(".book-tokens")
        assert [token.get_text() for token in tokens] == NASTY
        return json.loads(tokens["data-weights"])

    for choose in (lambda: None, lambda: setattr(menu, "label", "c"), lambda: setattr(heads, "head", 1)):
        choose()
        assert heads.head == menu.value
        for dest, shown in enumerate(weights()):
            assert shown == pytest.approx(pattern[menu.value, dest, : dest + 1].tolist(), abs=0.000501)


def test_the_program_is_sent_when_a_view_is_shown_and_never_saved(shown, monkeypatch):
    made = []
    monkeypatch.setattr(head_views, "Heads", lambda **state: made.append(Heads(**state)) or made[-1])
    view = heads_view(NASTY, patterns(12, len(NASTY)), [f"1:{h}" for h in range(12)], "*Look.*")
    assert not made
    view._ipython_display_()
    assert len(made) == 1 and len(made[0].get_state()["_esm"]) > 1_000_000
    (picture, metadata), (caption, _) = shown
    assert set(picture) == {LIVE, "image/png", "text/plain"} and len(picture["image/png"]) < 200_000
    assert caption == {"text/markdown": "**Look.**", "text/plain": "**Look.**"}
    assert "CircuitsVis" not in json.dumps(shown) and metadata["image/png"]["alt"] == picture["text/plain"]


def test_the_browser_is_told_of_no_other_file():
    assert "sourceMappingURL" not in Heads._esm and "CircuitsVis.AttentionHeads" in Heads._esm


def test_no_chapter_has_saved_the_program():
    saved = {file.stem: file.read_text("utf8") for file in CHAPTERS.glob("*.ipynb")}
    assert "heads_view(" in saved["06_two_layer_induction"]
    assert not [name for name, text in saved.items() if "CircuitsVis" in text]


def test_the_text_equivalent_names_the_strongest_attention():
    pattern = torch.zeros(2, 4, 4)
    pattern[:, :, 0] = 1
    pattern[1, 3] = torch.tensor([0.1, 0.0, 0.9, 0.0])
    alt = heads_view(list("abcd"), pattern, ["one", "two"], "Look.").still()["text/plain"]
    assert alt.startswith("Look. Strongest attention, the first token aside: two from d (3) to c (2), 0.90;")
    assert heads_view(["a"], torch.ones(1, 1, 1), ["h"]).still()["text/plain"] == ""


@pytest.mark.parametrize("n_heads", [2, 12])
@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, for a letter that its font lacks
def test_the_picture_has_a_map_for_each_head_and_names_tokens_where_there_is_room(n_heads, monkeypatch):
    figures = []
    monkeypatch.setattr(head_views, "render", lambda figure, caption: figures.append(figure) or {})
    pattern = patterns(n_heads, len(NASTY))
    heads_view(NASTY, pattern, [f"${h}$" for h in range(n_heads)]).still()
    figures[0].canvas.draw()
    maps = [axes for axes in figures[0].axes if axes.images]
    assert len(maps) == n_heads
    for axes, head in zip(maps, pattern, strict=True):
        assert axes.images[0].get_array().tolist() == head.tolist() and axes.images[0].get_clim() == (0, 1)
        assert any(label.get_text() for label in axes.get_yticklabels()) == (n_heads == 2)


def test_circuitsvis_never_asks_for_the_network(monkeypatch, shown):
    def refuse(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(circuitsvis.utils.render, "internet_on", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    heads_view(["a"], torch.ones(1, 1, 1), ["h"])._ipython_display_()
    assert shown


def test_64_tokens_are_shown():
    assert heads_view(["a"] * 64, patterns(1, 64), ["h"]).panel()


@pytest.mark.parametrize(
    "arguments",
    [
        (list("ab"), patterns(1, 3), ["h"]),
        (list("ab"), patterns(2, 2), ["h"]),
        (list("ab"), patterns(1, 2)[0], ["h"]),
        (list("ab"), patterns(1, 2)[None], ["h"]),
        ([], patterns(1, 0), ["h"]),
        (list("ab"), patterns(0, 2), []),
        (list("ab"), patterns(1, 2) + 1, ["h"]),
        (list("ab"), -patterns(1, 2), ["h"]),
        (list("ab"), patterns(1, 2) * torch.nan, ["h"]),
        (["a"] * 65, patterns(1, 65), ["h"]),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(arguments):
    with pytest.raises(ReaderError, match=r"^[A-Z][^\n]*\.$"):
        heads_view(*arguments)
