"""What a cell shows while the kernel runs, and what is saved of it."""

import base64
import html
import io
import json
import math
from pathlib import Path

import ipywidgets
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jupyterlab.commands import get_app_dir
from PIL import Image

from helpers.figures import RED, lines, panels
from helpers.files import DATA
from helpers.views import LIVE, Table, View, ViewWidget, alert, code, picture, text_output

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
    assert view.still() == view.live == view.still()


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


# ---- in widgets -------------------------------------------------------------------------------------------------


def contents(widget: ViewWidget) -> list[dict]:
    """What is shown at present."""
    return [output["data"] for part in (widget.body, widget.caption) for output in part.outputs]


def test_html_is_live_and_its_still_form_is_saved(shown):
    scripts = ipywidgets.HTML("the program")
    view = View(lambda: {"image/png": "AAAA", "text/plain": ALT}, CAPTION, "<b>live</b>", scripts)
    view._ipython_display_()
    (body, metadata), (caption, _) = shown
    assert LIVE in body and LIVE in caption and metadata == {"image/png": {"alt": ALT}}
    assert saved(shown) == [{"image/png": "AAAA", "text/plain": ALT}, text_output(f"*{CAPTION}*")]
    assert "<b>" not in json.dumps(saved(shown))
    widget = ViewWidget(view)
    assert widget._panel.children == (scripts, widget.body)
    assert contents(widget) == [{"text/html": "<b>live</b>"}, text_output(f"*{CAPTION}*")]


def test_the_still_form_is_made_only_to_be_saved():
    made = []
    view = View(lambda: made.append(1) or {"text/plain": ""}, "", "<b>live</b>")
    widget = ViewWidget(view)
    widget.update(view)
    assert not made


def test_pictures_and_tables_are_the_same_live_and_still(shown):
    figure = picture(lines({"a": ([1, 2], [3, 4])}, "x", "y"), CAPTION)
    table = Table({"a": ".1f"}, [[0.25]], "Said below.").view
    for view in (figure, table):
        ViewWidget(view)._ipython_display_()
    assert saved(shown) == [figure.still(), text_output(f"*{CAPTION}*"), table.still()]
    assert contents(ViewWidget(table)) == [table.still()] and "| 0.2 |" in table.still()["text/markdown"]
    assert table.still()["text/markdown"].endswith("*Said below.*")


def test_another_view_or_nothing_takes_the_place_and_the_first_is_saved(shown):
    first, second = (View(lambda row=row: text_output(row), f"about {row}") for row in "xy")
    widget = ViewWidget(first)
    sent = []
    widget.body.observe(lambda change: sent.append(change.new), names="outputs")
    widget.update(View(lambda: text_output("x"), "about x"))
    assert not sent  # nothing has changed
    widget.update(second)
    assert contents(widget) == [text_output("y"), text_output("*about y*")] and len(sent) == 1
    widget.update(None)
    assert contents(widget) == []
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
