"""Views without a browser: what goes into them is harmless, what stands in for them is there."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import circuitsvis.utils.render
import pytest
import torch
from jupyterlab.commands import get_app_dir

from helpers import ReaderError, views
from helpers.corpus import DATA
from helpers.figures import Plate, Table
from helpers.views import LIVE, Pane, attention_view, bundle, parts, token_view

NASTY = ["<START>", "</script>", "<script>alert(1)</script>", "<b", "<!--", "&lt;", "&amp", "😀", "\\x00", "\0", "␣",
         "↵", '"', "'", "\\", "$x$", "`", "*", "|", "%s", "${a}", "]]>", "\u2028"]


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


@pytest.fixture
def shown(monkeypatch) -> list[dict]:
    """The mime bundles that are displayed."""
    bundles = []
    monkeypatch.setattr(views, "display", lambda data, metadata, raw: bundles.append(data))
    return bundles


def uniform(n_heads: int, n: int) -> torch.Tensor:
    return torch.ones(n_heads, n, n).tril() / torch.arange(1, n + 1)[:, None]


@pytest.mark.parametrize("make", [
    lambda: attention_view(NASTY, uniform(2, len(NASTY)), ["</script>", "0:1"]),
    lambda: token_view(NASTY, torch.arange(len(NASTY)), "nats"),
])
def test_tokens_are_harmless_and_unchanged(make):
    view = make()
    assert view.html.count("</script") == view.html.count("<script") == 1
    for written, token in zip(properties(view.html)["tokens"], NASTY, strict=True):
        assert written.replace("\u2060", "") == as_html(written).replace("\u2060", "") == token
    assert re.sub("</?code>", "", view.caption).count("<") == 0


def test_the_first_token_of_a_head_name_is_harmless_too():
    assert "</script" not in json.dumps(properties(attention_view(["a"], uniform(1, 1), ["</script>"]).html))


def test_attention_is_rounded_and_small():
    view = attention_view([f"t{i}" for i in range(64)], torch.rand(8, 64, 64, dtype=torch.double), list("abcdefgh"))
    assert len(view.html) < 8 * 64 * 64 * 8
    assert all(value == round(value, 3) for value in sum(properties(view.html)["attention"][0], []))


def test_the_caption_names_the_strongest_attention():
    pattern = torch.zeros(2, 4, 4)
    pattern[:, :, 0] = 1
    pattern[1, 3] = torch.tensor([0.1, 0.0, 0.9, 0.0])
    caption = attention_view(list("abcd"), pattern, ["one", "two"], "Look.").caption
    assert caption.startswith("Look. Strongest attention, the first token aside: <code>two</code> from "
                              "<code>d</code> (3) to <code>c</code> (2), 0.90;")


def test_numbers_of_tokens_are_signed_about_zero():
    given = properties(token_view(["a", "b", "c"], [0.5, -2.004, -0.001], "nats").html)
    assert (given["minValue"], given["maxValue"], given["values"]) == (-2.0, 2.0, [0.5, -2.0, 0.0])
    assert properties(token_view(["a"], [0.0], "nats").html)["maxValue"] == 1.0


@pytest.mark.parametrize("make", [
    lambda: attention_view(list("ab"), uniform(1, 3), ["h"]),
    lambda: attention_view(list("ab"), uniform(2, 2), ["h"]),
    lambda: attention_view(list("ab"), uniform(1, 2)[0], ["h"]),
    lambda: attention_view([], uniform(0, 0), []),
    lambda: attention_view(list("ab"), 2 * uniform(1, 2), ["h"]),
    lambda: attention_view(list("ab"), uniform(1, 2) * torch.nan, ["h"]),
    lambda: attention_view(["a"] * 129, uniform(1, 129), ["h"]),
    lambda: token_view([], [], "nats"),
    lambda: token_view(["a"], [1.0, 2.0], "nats"),
    lambda: token_view(["a"], [[1.0]], "nats"),
    lambda: token_view(["a"], [float("inf")], "nats"),
    lambda: token_view(["a"] * 1025, [0.0] * 1025, "nats"),
])
def test_what_cannot_be_shown_is_refused_in_one_sentence(make):
    with pytest.raises(ReaderError, match=r"^[A-Z][^\n]*\.$"):
        make()


def test_128_tokens_are_shown():
    assert attention_view(["a"] * 128, uniform(1, 128), ["h"]).html


def test_the_program_of_circuitsvis_is_there_once():
    html = bundle().outputs[0]["data"]["text/html"]
    assert bundle() is bundle() and len(html) > 1_000_000
    assert html.count("</script") == 1 and html.endswith("</script>")
    view = Pane(parts(attention_view(["a"], uniform(1, 1), ["h"]))[0])
    assert view.widget.children[0] is bundle() and len(view.content["text/html"]) < 2_000


def test_circuitsvis_never_asks_for_the_network(monkeypatch, shown):
    def refuse(*_):
        raise AssertionError("the network was used")

    monkeypatch.setattr("socket.socket.connect", refuse)
    assert circuitsvis.utils.render.internet_on() is False
    attention_view(["a"], uniform(1, 1), ["h"])._ipython_display_()
    assert shown


@pytest.mark.parametrize("make", [
    lambda: attention_view(NASTY, uniform(1, len(NASTY)), ["h"]),
    lambda: attention_view(NASTY, uniform(7, len(NASTY)), list("abcdefg")),
    lambda: token_view(NASTY, torch.arange(len(NASTY)), "nats"),
])
@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, for a letter that its font lacks
def test_a_view_is_saved_as_a_picture_and_its_caption(make, shown):
    view = make()
    view._ipython_display_()
    picture, caption = shown
    assert set(picture) == {LIVE, "image/png", "text/plain"} and set(caption) == {LIVE, "text/markdown", "text/plain"}
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert "<code>" not in picture["text/plain"] and caption["text/markdown"] == f"*{view.caption}*"


def test_pictures_and_tables_have_the_same_two_forms():
    plate, table = Plate(b"\x89PNG", "A <code>&#42;</code> caption."), Table(["a"], [["b"]])
    picture, caption = parts(plate)
    assert picture.live == picture.still() == {"image/png": "iVBORw==", "text/plain": "A * caption."}
    assert caption.live["text/markdown"] == "*A <code>&#42;</code> caption.*"
    (only,) = parts(table)
    assert only.live == only.still() and "| b |" in only.live["text/markdown"]


def test_a_pane_shows_another_part_or_nothing():
    first, second = (parts(Table(["a"], [[row]]))[0] for row in "xy")
    pane = Pane(first)
    pane.show(second)
    assert pane.content == second.live
    pane.show(None)
    assert pane.content == {}


def test_jupyterlab_has_the_books_settings_and_knows_them():
    source = DATA / "jupyterlab" / "transformer-circuits-book.json"
    installed = Path(get_app_dir(), "settings", "overrides.d", source.name)
    assert installed.read_text("utf8") == source.read_text("utf8"), "run 'python -m pip install -e .' again"
    for plugin, settings in json.loads(source.read_text("utf8")).items():
        package, name = plugin.split(":")
        schema = json.loads(Path(get_app_dir(), "schemas", package, f"{name}.json").read_text("utf8"))["properties"]
        for key, value in settings.items():
            choices = [choice["const"] for choice in schema[key].get("oneOf", [])]
            assert value in choices or (schema[key]["type"] == "boolean" and isinstance(value, bool))
