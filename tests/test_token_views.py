"""Views of tokens without a browser: what goes into them is harmless, what stands in for them is there."""

import base64
import json
import re
from html.parser import HTMLParser

import circuitsvis.utils.render
import pytest
import torch

from helpers import ReaderError, token_views
from helpers.token_views import attention_view, bundle, token_view
from helpers.views import LIVE

NASTY = ["<START>", "</script>", "<script>alert(1)</script>", "<b", "<!--", "&lt;", "&amp", "😀", "\\x00", "\0", "␣",
         "↵", '"', "'", "\\", "$x$", "`", "*", "|", "%s", "${a}", "]]>", "\u2028"]  # fmt: skip


class Text(HTMLParser):
    """Collects what a browser would show as text; fails on any tag."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.text = ""

    def handle_data(self, data):
        self.text += data

    def handle_starttag(self, tag, attrs):
        raise AssertionError(f"a tag: {tag}")

    handle_endtag = handle_comment = handle_decl = unknown_decl = handle_starttag


def as_html(text: str) -> str:
    parser = Text()
    parser.feed(text)
    parser.close()
    return parser.text


def properties(html: str) -> dict:
    """What the script of a view hands to circuitsvis."""
    return json.loads(re.search(r"CircuitsVis\.\w+, (\{.*\})\);", html)[1])


def uniform(n_heads: int, n: int) -> torch.Tensor:
    return torch.ones(n_heads, n, n).tril() / torch.arange(1, n + 1)[:, None]


@pytest.mark.parametrize(
    "make",
    [
        lambda: attention_view(NASTY, uniform(2, len(NASTY)), ["</script>", "0:1"]),
        lambda: token_view(NASTY, torch.arange(len(NASTY)), "nats"),
    ],
)
def test_tokens_are_harmless_and_unchanged(make):
    view = make()
    assert view.html.count("</script") == view.html.count("<script") == 1
    for written, token in zip(properties(view.html)["tokens"], NASTY, strict=True):
        assert written.replace("\u2060", "") == as_html(written).replace("\u2060", "") == token
    assert re.sub("</?code>", "", view.caption).count("<") == 0


def test_the_name_of_a_head_is_harmless_too():
    assert "</script" not in json.dumps(properties(attention_view(["a"], uniform(1, 1), ["</script>"]).html))


def test_attention_is_rounded_and_small():
    pattern = torch.rand(8, 64, 64, dtype=torch.double)
    view = attention_view([f"t{i}" for i in range(64)], pattern, list("abcdefgh"))
    given = torch.tensor(properties(view.html)["attention"], dtype=torch.double)
    assert len(view.html) < 8 * 64 * 64 * 8 and torch.equal(given, given.mul(1000).round().div(1000))
    assert (given - pattern).abs().max() <= 0.000501  # of each head, destination and source


def test_the_caption_names_the_strongest_attention():
    pattern = torch.zeros(2, 4, 4)
    pattern[:, :, 0] = 1
    pattern[1, 3] = torch.tensor([0.1, 0.0, 0.9, 0.0])
    caption = attention_view(list("abcd"), pattern, ["one", "two"], "Look.").caption
    assert caption.startswith(
        "Look. Strongest attention, the first token aside: <code>two</code> from "
        "<code>d</code> (3) to <code>c</code> (2), 0.90;"
    )


def test_numbers_of_tokens_are_signed_about_zero():
    view = token_view(["a", "b", "c"], [0.5, -2.004, -0.001], "nats")
    given = properties(view.html)
    assert (given["minValue"], given["maxValue"], given["values"]) == (-2.0, 2.0, [0.5, -2.0, 0.0])
    assert view.caption == "Furthest from 0: <code>b</code> (1), -2.00."
    assert properties(token_view(["a"], [0.0], "nats").html)["maxValue"] == 1.0


def test_numbers_that_are_never_negative_have_a_scale_from_0():
    view = token_view(["a", "b"], [0.0, 2.5], "nats")
    assert properties(view.html)["minValue"] == 0 and view.caption == "Largest: <code>b</code> (1), 2.50."


@pytest.mark.parametrize(
    "make",
    [
        lambda: attention_view(list("ab"), uniform(1, 3), ["h"]),
        lambda: attention_view(list("ab"), uniform(2, 2), ["h"]),
        lambda: attention_view(list("ab"), uniform(1, 2)[0], ["h"]),
        lambda: attention_view([], uniform(0, 0), []),
        lambda: attention_view(list("ab"), 2 * uniform(1, 2), ["h"]),
        lambda: attention_view(list("ab"), uniform(1, 2) * torch.nan, ["h"]),
        lambda: attention_view(["a"] * 129, uniform(1, 129), ["h"]),
        lambda: token_view([], [], "nats"),
        lambda: token_view(["a"], [1.0, 2.0], "nats"),
        lambda: token_view(["a"], torch.tensor([[1.0]]), "nats"),
        lambda: token_view(["a"], [float("inf")], "nats"),
        lambda: token_view(["a"] * 1025, [0.0] * 1025, "nats"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(make):
    with pytest.raises(ReaderError, match=r"^[A-Z][^\n]*\.$"):
        make()


def test_128_tokens_are_shown():
    assert attention_view(["a"] * 128, uniform(1, 128), ["h"]).html


def test_the_program_of_circuitsvis_is_sent_once():
    html = bundle().outputs[0]["data"]["text/html"]
    assert bundle() is bundle() and len(html) > 1_000_000
    assert html.count("</script") == 1 and html.endswith("</script>")
    view = attention_view(["a"], uniform(1, 1), ["h"])
    assert view.scripts is token_view(["a"], [1.0], "").scripts is bundle() and len(view.html) < 2_000


def test_circuitsvis_never_asks_for_the_network(monkeypatch, shown):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert circuitsvis.utils.render.internet_on() is False
    attention_view(["a"], uniform(1, 1), ["h"])._ipython_display_()
    assert shown


@pytest.mark.parametrize(
    "make",
    [
        lambda: attention_view(NASTY, uniform(1, len(NASTY)), ["h"]),
        lambda: attention_view(NASTY, uniform(7, len(NASTY)), list("abcdefg")),
        lambda: token_view(NASTY, torch.arange(len(NASTY)), "nats"),
    ],
)
@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, for a letter that its font lacks
def test_a_view_is_saved_as_a_picture_and_its_caption(make, shown):
    view = make()
    view._ipython_display_()
    (picture, metadata), (caption, _) = shown
    assert set(picture) == {LIVE, "image/png", "text/plain"} and set(caption) == {LIVE, "text/markdown", "text/plain"}
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert "<code>" not in picture["text/plain"] and caption["text/markdown"] == f"*{view.caption}*"
    assert metadata == {"image/png": {"alt": picture["text/plain"]}}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are rendered."""
    figures = []
    monkeypatch.setattr(
        token_views, "render", lambda figure, caption: figures.append(figure) or {"text/plain": caption}
    )
    return figures


def test_the_picture_of_attention_has_sources_to_the_right_and_destinations_downwards(drawn):
    pattern = torch.tensor([[[1.0, 0.0], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]])
    assert attention_view(["a", "b"], pattern, ["0:0", "0:1"], "Look.").still()["text/plain"].startswith("Look. ")
    first, second, _ = drawn[0].axes
    assert (first.get_title(), second.get_title()) == ("0:0", "0:1")
    assert first.images[0].get_array().tolist() == pattern[0].tolist() and first.images[0].get_clim() == (0, 1)
    assert second.images[0].get_array().tolist() == pattern[1].tolist()
    assert (first.get_xlabel(), first.get_ylabel()) == ("source", "destination")
    assert [label.get_text() for label in first.get_yticklabels()] == ["a", "b"]


def test_the_picture_of_many_heads_names_no_tokens(drawn):
    attention_view(["a", "b"], uniform(7, 2), list("0123456")).still()
    panels = [axes for axes in drawn[0].axes if axes.images]
    assert [axes.get_title() for axes in panels] == list("0123456")
    assert not any(label.get_text() for axes in panels for label in axes.get_xticklabels() + axes.get_yticklabels())


def test_the_picture_of_tokens_shows_the_same_numbers(drawn):
    token_view(["a", "b↵", "c"], [1.0, -2.0, 0.0], "loss, nats").still()
    axes, colours = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["a", "b↵", "c"] and colours.get_xlabel() == "loss, nats"
    assert colours.get_xlim() == (-2, 2)
