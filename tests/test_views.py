"""What a cell shows while the kernel runs, and what is saved of it."""

import base64
import html
import io
import json
import math
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jupyterlab.commands import get_app_dir
from PIL import Image

from helpers.figures import RED, lines, panels
from helpers.files import DATA
from helpers.views import LIVE, Page, Table, View, ViewWidget, alert, as_html, code, picture, text_output
from tests.test_token_views import NASTY, PROGRAM, parsed

CAPTION = "*Figure* 1. Head <code>&#48;&#58;1</code> of `model`."
ALT = "Figure 1. Head 0:1 of model."


def saved(outputs: list[tuple[dict, dict]]) -> list[dict]:
    """What ``tests.execute`` keeps of outputs: all but the widgets."""
    return [{mime: content for mime, content in data.items() if mime != LIVE} for data, _ in outputs]


# ---- pictures ---------------------------------------------------------------------------------------------------


def test_a_picture_is_one_output_with_its_caption_as_alt_text_and_another_with_the_caption(shown):
    picture(lines({"a": ([1, 2], [3, 4])}, "x", "y"), CAPTION)._ipython_display_()
    (data, metadata), (caption, _) = shown
    assert set(data) == {"image/png", "text/plain"} and data["text/plain"] == ALT
    assert metadata == {"image/png": {"alt": ALT}} and caption == {"text/markdown": f"*{CAPTION}*"}


def test_a_picture_is_the_figure_in_255_colours():
    figure, (axes,) = panels(width=3, height=2)
    axes.axvspan(0, 1, color=RED)
    png = base64.b64decode(picture(figure, "").still()["image/png"])
    image = Image.open(io.BytesIO(png))
    assert image.mode == "P" and 1.9 < image.width / image.height * 4 / 3 < 2.1
    assert abs(image.width - 330) < 30  # 110 dots to the inch
    colours = image.convert("RGB")
    assert colours.getpixel((0, 0)) == (255, 255, 255)
    assert max(abs(a - b) for a, b in zip(colours.getpixel((200, 100)), bytes.fromhex(RED[1:]), strict=True)) < 4


def test_a_figure_is_rendered_once(monkeypatch):
    figure, _ = panels()
    view = picture(figure, "")
    monkeypatch.setattr(type(figure), "savefig", None)
    assert view.still() == view.still() and not view.html


# ---- tables -----------------------------------------------------------------------------------------------------


def cells(table: Table) -> list[list[str]]:
    """The cells of the rows, as they are shown."""
    return [line.strip("| ").split(" | ") for line in repr(table).split("\n\n")[0].split("\n")[2:]]


def test_numbers_stay_numbers_and_are_formatted_last():
    columns = {"model": "", "loss, nats": ".2f", "share": ".0%", "n": ",", "change": "+.2f"}
    table = Table(columns, [["one", 1.005, torch.tensor(0.25), 1234, -0.5], ["two", 2, 1.0, 5, 0.5]], "What it *says*.")
    assert table.rows[0][1] == 1.005 and sum(row[3] for row in table.rows) == 1239
    assert table._repr_markdown_() == (
        "| model | loss, nats | share | n | change |\n| --- | --- | --- | --- | --- |\n"
        "| one | 1.00 | 25% | 1,234 | -0.50 |\n| two | 2.00 | 100% | 5 | +0.50 |\n\n*What it *says*.*"
    )


def test_text_passes_unformatted_and_nothing_is_a_dash():
    assert cells(Table({"a": "", "b": ".2f", "c": ".0%"}, [[None, "none", None], ["x", "**bold**", 1]])) == [
        ["–", "none", "–"],
        ["x", "**bold**", "100%"],
    ]


@given(st.floats(allow_nan=False), st.sampled_from([".2f", "+.2f", ".0%", ".1%", ",.1f", "", ".3g", "+.1e"]))
def test_no_zero_has_a_minus(value, spec):
    for number in (value, -abs(value) / 1e6, torch.tensor(value, dtype=torch.double)):
        ((shown,),) = cells(Table({"value": spec}, [[number]]))
        assert shown.lstrip("+-") == format(abs(float(number)), spec).lstrip("+")
        is_zero = not any(digit in shown for digit in "123456789") and math.isfinite(float(number))
        assert shown.startswith("-") == (float(number) < 0 and not is_zero)
        assert shown.startswith("+") == (spec.startswith("+") and not shown.startswith("-"))


def test_a_table_without_rows_or_with_a_row_too_short():
    assert repr(Table({"a": "", "b": ""}, [], "None.")) == "| a | b |\n| --- | --- |\n\n*None.*"
    assert repr(Table({"a": ""}, [])) == "| a |\n| --- |"
    with pytest.raises(ValueError):
        repr(Table({"a": "", "b": ""}, [[1]]))


def test_a_table_has_one_line_a_row_whatever_its_tokens():
    table = repr(Table({"token": "", "n": ""}, [[code("|"), 1], [code("a`b", "$"), 2]], "what it says"))
    rows = table.split("\n")
    assert [row.count("|") for row in rows[:4]] == [3, 3, 3, 3] and rows[-1] == "*what it says*"


@given(st.text(min_size=1, max_size=8))
def test_code_brings_every_character_and_none_that_markdown_or_html_reads(text):
    shown = code(text)
    inner = shown.removeprefix("<code>").removesuffix("</code>")
    assert all(c.isalnum() or c in "&#;" for c in inner)
    if all(c.isprintable() and ord(c) > 31 for c in text):
        assert html.unescape(inner) == text


MARKED = {"table": set(), "thead": set(), "tbody": set(), "tr": set(), "th": {"scope"}, "td": set()}
MARKED |= {"code": set(), "b": set(), "em": set()}


def test_captions_keep_their_marks_in_html_and_tokens_stay_text():
    caption = f"*Figure* **1.** Head `0:1` after {code(*NASTY)} and *{code('*')}*."
    page = parsed(as_html(caption), MARKED)
    assert page.em.get_text() == "Figure" and page.b.get_text() == "1." and page.code.get_text() == "0:1"
    assert page.select("em")[1].decode() == "<em><code>*</code></em>" and len(page.select("code")) == len(NASTY) + 2
    words = " ".join(NASTY).replace("\0", "\ufffd")  # the one letter that no page can show
    assert page.get_text() == f"Figure 1. Head 0:1 after {words} and *."


@given(st.lists(st.lists(st.text(min_size=1, max_size=6), min_size=2, max_size=2), max_size=4))
def test_a_table_has_the_same_cells_as_html_and_as_markdown(tokens):
    rows = [[code(token), -0.001, f"**{code(other)}** → x", None] for token, other in tokens]
    table = Table({"token": "", "*loss*, nats": "+.2f", "line": "", "none": ""}, rows, "It *says*.")
    page = parsed(table.view.html, MARKED)
    assert [cell.get_text() for cell in page.select("th")] == ["token", "loss, nats", "line", "none"]
    wanted = [re.sub(r"\*\*(.*?)\*\*", r"<b>\1</b>", cell) for row in cells(table) for cell in row] if rows else []
    assert [cell.decode() for cell in page.select("td")] == [parsed(f"<td>{cell}</td>").decode() for cell in wanted]
    assert table.view.caption == "It *says*." and "says" not in table.view.html


@pytest.mark.parametrize("token", NASTY)
def test_a_cell_with_a_token_shows_the_token(token):
    page = parsed(Table({"": ""}, [[code(token)]]).view.html, MARKED)
    assert page.td.get_text() == page.td.code.get_text() == token.replace("\0", "\ufffd")


# ---- in widgets -------------------------------------------------------------------------------------------------


def contents(widget: ViewWidget) -> list[str]:
    """What is shown at present."""
    return [widget.body.html, widget.caption.html]


def test_html_is_live_and_its_still_form_is_saved(shown):
    view = View(lambda: {"image/png": "AAAA", "text/plain": ALT}, CAPTION, "<b>live</b>")
    view._ipython_display_()
    (body, metadata), (caption, _) = shown
    assert LIVE in body and LIVE in caption and metadata == {"image/png": {"alt": ALT}}
    assert saved(shown) == [{"image/png": "AAAA", "text/plain": ALT}, text_output(f"*{CAPTION}*")]
    assert "<b>" not in json.dumps(saved(shown))
    widget = ViewWidget(view)
    assert contents(widget) == ["<b>live</b>", f"<em>{as_html(CAPTION)}</em>"]
    assert parsed(widget.caption.html, MARKED).get_text() == ALT


def test_each_output_shows_a_page_of_its_own(shown):
    widget = ViewWidget(View(lambda: {"image/png": "AAAA", "text/plain": ALT}, CAPTION, "<b>live</b>"))
    widget._ipython_display_()
    assert [data[LIVE]["model_id"] for data, _ in shown] == [widget.body.model_id, widget.caption.model_id]


def test_a_caption_is_spoken_when_it_changes_and_its_view_is_not():
    widget = ViewWidget(View(lambda: text_output("x"), "about x", "x"))
    assert widget.caption.spoken and not widget.body.spoken
    assert {"html", "chosen", "spoken"} <= set(widget.caption.get_state())
    assert 'if (model.get("spoken")) body.setAttribute("aria-live", "polite");' in PROGRAM
    assert set(re.findall(r'model\.[gs]et\("(\w+)"', PROGRAM)) == {"html", "chosen", "spoken"}


def test_the_program_of_the_page_comes_with_the_widget():
    state = Page(html="<b>x</b>").get_state()
    assert state["_esm"] == PROGRAM and ".book-view" in state["_css"] and state["html"] == "<b>x</b>"


def test_the_still_form_is_made_only_to_be_saved():
    made = []
    view = View(lambda: made.append(1) or {"text/plain": ""}, "", "<b>live</b>")
    widget = ViewWidget(view)
    widget.update(view)
    assert not made


def test_pictures_and_tables_are_the_same_live_and_still(shown):
    figure = picture(lines({"a": ([1, 2], [3, 4])}, "x", "y"), f"{CAPTION} <code>&#34;&#60;</code>")
    table = Table({"a": ".1f"}, [[0.25]], "Said below.")
    for view in (figure, table.view):
        ViewWidget(view)._ipython_display_()
    assert saved(shown) == [
        figure.still(),
        text_output(f"*{figure.caption}*"),
        text_output("| a |\n| --- |\n| 0.2 |"),
        text_output("*Said below.*"),
    ]
    image = parsed(ViewWidget(figure).body.html, {"img": {"src", "alt"}}).img
    assert image["src"] == f"data:image/png;base64,{figure.still()['image/png']}" and image["alt"] == f'{ALT} "<'
    assert contents(ViewWidget(table.view)) == [table.view.html, "<em>Said below.</em>"]


def test_another_view_or_nothing_takes_the_place_and_the_first_is_saved(shown):
    first, second = (View(lambda row=row: text_output(row), f"about {row}", row) for row in "xy")
    widget = ViewWidget(first)
    sent = []
    for page in (widget.body, widget.caption):
        page.observe(lambda change: sent.append(change.new), names="html")
    widget.update(View(lambda: text_output("x"), "about x", "x"))
    assert not sent  # nothing has changed
    widget.update(second)
    assert contents(widget) == ["y", "<em>about y</em>"] == sent
    widget.update(None)
    assert contents(widget) == ["", ""]
    widget._ipython_display_()
    assert saved(shown) == [text_output("x"), text_output("*about x*")]


def test_an_alert_is_escaped_and_empty_if_there_is_nothing_to_say():
    assert alert("<b>Choose</b> another.") == '<p role="alert"><b>&lt;b&gt;Choose&lt;/b&gt; another.</b></p>'
    assert alert("") == ""


# ---- JupyterLab -------------------------------------------------------------------------------------------------


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
