"""What no other test can see: the views and explorers under a reader's mouse, in JupyterLab, without a network."""

import json
import re

import nbformat
import pytest

from helpers.tokens import Tokenizer
from tests.browser.lab import (
    CHROMIUM,
    PATIENCE,
    REPOSITORY,
    browser,
    jupyter_lab,
    new_page,
    open_notebook,
    run_all,
    setting,
)

playwright = pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
expect = playwright.expect
expect.set_options(timeout=1000 * PATIENCE)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

CHAPTERS = sorted((REPOSITORY / "chapters").glob("*.ipynb"))
TEXT = "def Wendelbury(x): return(Wendelbury) # </script> & <START>"
CELLS = [
    f"""
import threading
import ipywidgets, torch
from helpers.explorers import ablation_explorer, head_explorer, text_explorer
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.text import Text
from helpers.token_views import attention_view, token_view
from helpers.tokens import EncodedCorpus, Tokenizer
tokenizer = Tokenizer.load()
model, one_layer = (AttentionOnlyTransformer(ModelConfig(n, 2, 32, 8, n_ctx=64)).requires_grad_(False) for n in (2, 1))
model.W_U.mul_(50)
TEXT = {TEXT!r}
tokens = tokenizer.prompt(TEXT, 64)
shown = tokenizer.show_all(tokens[0])
ids = tokens[0].repeat(1000).numpy().astype("uint16")
corpus = EncodedCorpus("small", tokenizer, ids, ids, [])
previous = torch.eye(len(shown)).roll(1, 0).tril()""",
    'attention_view(shown, previous, "previous token")',
    'token_view(shown, torch.linspace(-1, 3, len(shown)), "nats")',
    "text_explorer(model, tokenizer, TEXT, head=(1, 0), position=3)",
    'head_explorer(one_layer, Text(corpus), source=" return", head=(0, 1))',
    "ablation_explorer(model, tokenizer, TEXT)",
    """
button, answer = ipywidgets.Button(description="which thread?"), ipywidgets.Label()
is_main = lambda: threading.current_thread() is threading.main_thread()
button.on_click(lambda _: setattr(answer, "value", f"main thread: {is_main()}"))
ipywidgets.VBox([button, answer])""",
    """
from helpers.live import LiveTraining
from helpers.training import TrainingConfig, train
steps = train(ModelConfig(1, 2, 32, 8, n_ctx=64), TrainingConfig(10_000_000, warmup_steps=1), corpus)
LiveTraining(steps, next(steps))""",
    """
from helpers.exercises import outcome, predict
predict("06.A")""",
    'predict("09.A")',
    'predict("06.B")',
    'outcome("06.A")',
    'outcome("06.B")',
]
RUN_ONE = """async index => {
  jupyterapp.shell.currentWidget.content.activeCellIndex = index;
  await jupyterapp.commands.execute('notebook:run-cell');
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(the server's URL, the folder that it serves)"""
    folder = tmp_path_factory.mktemp("lab")
    with jupyter_lab(folder) as url:
        yield url, folder / "root"


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def page(lab, chromium, tmp_path_factory):
    """A notebook with every view and explorer, run from top to bottom."""
    file = tmp_path_factory.mktemp("notebook") / "views.ipynb"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source.strip()) for source in CELLS])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    nbformat.write(notebook, file)
    with new_page(chromium) as page:
        open_notebook(page, lab[0], lab[1], file)
        assert run_all(page) == []
        cell(page, 1).get_by_text("Strongest attention of previous token").wait_for()
        yield page


def cell(page, index: int):
    """The outputs of a cell, brought into view."""
    found = page.locator(".jp-Cell").nth(index).locator(".jp-Cell-outputArea")
    found.scroll_into_view_if_needed()
    return found


def tokens_in(page, index: int, row: int = 0):
    """The tokens of a view in a cell."""
    return cell(page, index).locator(".book-tokens").nth(row).locator("> *")


def grounds(page, index: int) -> list[str]:
    """The colour of the ground of each token."""
    return tokens_in(page, index).evaluate_all("tokens => tokens.map(t => getComputedStyle(t).backgroundColor)")


def has_focus(token) -> bool:
    return token.evaluate("token => token === document.activeElement")


def test_every_reader_gets_the_books_settings(lab):
    assert setting(lab[0], "@jupyterlab/apputils-extension:kernels-settings")["commsOverSubshells"] == "disabled"
    assert setting(lab[0], "@jupyterlab/apputils-extension:notification")["fetchNews"] == "false"


def test_controls_call_back_in_the_main_thread(page):
    cell(page, 6).get_by_role("button", name="which thread?").click()
    cell(page, 6).get_by_text("main thread: True").wait_for()


def test_tokens_are_text_and_nothing_else(page):
    tokenizer = Tokenizer.load()
    shown = tokenizer.show_all(tokenizer.prompt(TEXT, 64)[0])
    assert "</script>" in "".join(shown) and shown[0] == "<START>"
    for index, row in ((1, 0), (2, 0), (3, 0), (3, 1), (5, 0)):
        assert tokens_in(page, index, row).all_text_contents() == shown
        assert tokens_in(page, index, row).locator("*").count() == 0
    assert page.locator(".book-view script").count() == 0


def test_hovering_a_token_shows_where_it_looks(page):
    tokens, words = tokens_in(page, 1), cell(page, 1).locator(".book-says")
    names = tokens.all_text_contents()
    for position in (4, 9):
        tokens.nth(position).hover()
        looks_at = f"{names[position]} ({position}) looks at: {names[position - 1]} ({position - 1}) 1.00"
        expect(words).to_contain_text(looks_at)
        assert tokens.nth(position).get_attribute("class").split()[-1] == "book-here"
        assert [i for i, ground in enumerate(grounds(page, 1)) if ground == "rgb(0, 114, 178)"] == [position - 1]
    cell(page, 1).locator("img").hover()
    expect(words).to_contain_text("<START> (0) looks at: <START> (0) 0.00")


def test_hovering_a_coloured_token_shows_its_number(page):
    words = cell(page, 2).locator(".book-says")
    expect(words).to_have_text("")
    tokens_in(page, 2).last.hover()
    expect(words).to_have_text(re.compile(r"^> \(\d+\): \+3\.00 \(nats\)$"))
    red, blue = "rgba(213, 94, 0, 0.698)", "rgba(0, 114, 178, 0.23"
    assert grounds(page, 2)[-1] == red and grounds(page, 2)[0].startswith(blue)


def test_arrow_keys_go_from_token_to_token(page):
    tokens, words = tokens_in(page, 1), cell(page, 1).locator(".book-says")
    tokens.first.focus()
    for key, position in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("ArrowRight", 2)):
        page.keyboard.press(key)
        assert has_focus(tokens.nth(position))
        expect(words).to_contain_text(f"({position}) looks at: ")
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        page.keyboard.press(key)
    assert has_focus(tokens.first)
    page.keyboard.press("Tab")
    assert not has_focus(tokens.first) and not has_focus(tokens.nth(1))


def test_what_is_saved_are_pictures_and_no_live_view(page, lab):
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    saved = (lab[1] / "chapters" / "views.ipynb").read_text("utf8")
    assert "book-" not in saved and "image/png" in saved and len(saved) < 1_000_000
    assert page.evaluate("() => document.documentElement.outerHTML.length") < 1_000_000


def test_the_position_slider_changes_the_prediction(page):
    outputs = cell(page, 3)
    outputs.get_by_text("(position 3)").wait_for()
    outputs.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    outputs.get_by_text("(position 4)").wait_for()


def test_a_click_on_a_token_sets_the_position(page):
    outputs, tokens = cell(page, 3), tokens_in(page, 3, row=1)
    readout = outputs.locator(".widget-readout")
    for _ in range(2):  # the second time, the slider has moved away meanwhile
        tokens.nth(7).click()
        outputs.get_by_text("(position 7)").wait_for()
        expect(readout).to_have_text("7")
        outputs.locator(".noUi-handle").focus()
        page.keyboard.press("ArrowLeft")
        outputs.get_by_text("(position 6)").wait_for()
    for key, position in (("Enter", 2), ("Space", 3)):
        tokens.nth(position).focus()
        page.keyboard.press(key)
        outputs.get_by_text(f"(position {position})").wait_for()
        expect(readout).to_have_text(str(position))
        assert has_focus(tokens.nth(position))


def test_a_slider_is_followed_while_it_is_dragged(page):
    outputs = cell(page, 3)
    handle, seen = outputs.locator(".noUi-handle"), set()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for distance in (25, 50, 75):
        page.mouse.move(x + distance, y, steps=5)
        position = int(outputs.locator(".widget-readout").inner_text())
        outputs.get_by_text(f"(position {position})").wait_for()
        seen.add(position)
    assert len(seen) == 3
    page.mouse.up()
    outputs.get_by_text(f"(position {position})").wait_for()


def test_a_new_caption_is_spoken(page):
    live = cell(page, 3).locator("[aria-live=polite]")
    assert live.count() == 3 and "looks at" not in " ".join(live.all_inner_texts())
    assert cell(page, 3).locator("[aria-live] .book-tokens").count() == 0


def test_another_head_and_another_text(page):
    outputs = cell(page, 3)
    outputs.get_by_label("Head").select_option("0:1")
    outputs.get_by_text("Strongest attention of 0:1").wait_for()
    outputs.get_by_label("Text").fill("Wendelbury Wendelbury")
    page.keyboard.press("Tab")
    for row in (0, 1):
        expect(tokens_in(page, 3, row)).to_have_count(15)
        assert "".join(tokens_in(page, 3, row).all_text_contents()).endswith(">Wendelbury␣Wendelbury")


def test_a_mistake_is_answered_with_a_sentence(page):
    outputs = cell(page, 3)
    outputs.get_by_label("Text").fill("too long " * 200)
    page.keyboard.press("Tab")
    outputs.get_by_role("alert").get_by_text("shorten it").wait_for()
    expect(outputs.locator(".book-tokens")).to_have_count(0)
    outputs.get_by_label("Text").fill("<b>fine</b>")
    page.keyboard.press("Tab")
    outputs.get_by_role("alert").wait_for(state="detached")
    assert "".join(tokens_in(page, 3).all_text_contents()).endswith("<b>fine</b>")


def test_another_source_token(page):
    outputs = cell(page, 4)
    outputs.get_by_label("Source token").fill("␣Wendel")
    page.keyboard.press("Enter")
    outputs.get_by_role("alert").get_by_text("is not one token").wait_for()
    outputs.get_by_label("Source token").fill("def")
    page.keyboard.press("Enter")
    outputs.get_by_text("the source def").wait_for()


def test_a_button_takes_a_head_away(page):
    outputs = cell(page, 5)
    bars = outputs.locator(".book-bars")
    before = bars.inner_html()
    outputs.get_by_role("button", name="0:1").click()
    outputs.get_by_text("without 0:1").first.wait_for()
    assert bars.inner_html() != before
    assert outputs.get_by_role("button", name="0:1").locator("i.fa-times").count() == 1


def test_attention_can_be_weighted_by_what_it_moves(page):
    outputs = cell(page, 3)
    caption = outputs.get_by_text("Strongest attention").first
    before = caption.inner_text()
    outputs.get_by_label("Show").select_option("value-weighted attention")
    expect(caption).not_to_have_text(before)


def test_a_training_runs_stops_and_goes_on_at_the_press_of_a_button(page):
    outputs, stopped = cell(page, 7), re.compile("Stopped after step ([0-9,]+)")
    reached = []
    for _ in range(2):
        outputs.get_by_role("button", name="Train").click()
        page.wait_for_timeout(3000)
        outputs.get_by_role("button", name="Stop").click()
        sentence = outputs.get_by_role("alert").get_by_text(stopped)
        sentence.wait_for()
        reached.append(int(stopped.search(sentence.inner_text())[1].replace(",", "")))
        outputs.get_by_text(f"Step {reached[-1]:,} of").wait_for()
    assert 0 < reached[0] < reached[1]


def test_a_guess_is_committed_from_the_keyboard_and_judged_below_the_figure(page):
    outputs = cell(page, 8)
    cell(page, 11).get_by_text("no guess kept").wait_for()
    outputs.get_by_role("button", name="Commit").focus()
    page.keyboard.press("Enter")
    outputs.get_by_text("Choose first").wait_for()
    outputs.get_by_role("radio").first.focus()
    page.keyboard.press("Space")
    for _ in range(outputs.get_by_role("radio").count()):  # to the button
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    outputs.get_by_text("Kept").wait_for()
    expect(outputs.get_by_role("radio").first).to_be_disabled()
    page.evaluate(RUN_ONE, 11)
    cell(page, 11).get_by_text("You guessed").wait_for()


def test_a_guess_that_is_no_number_is_asked_for_again(page):
    outputs = cell(page, 9)
    outputs.get_by_role("textbox").fill("five")
    outputs.get_by_role("button", name="Commit").click()
    outputs.get_by_text("is not a number").wait_for()
    outputs.get_by_role("textbox").fill("5.0")
    outputs.get_by_role("button", name="Commit").click()
    outputs.get_by_text("Kept").wait_for()


def test_a_sign_for_each_row(page):
    outputs = cell(page, 10)
    outputs.get_by_role("button", name="Commit").click()
    outputs.get_by_text("Choose first").wait_for()
    for row in range(5):
        outputs.locator(".widget-toggle-buttons").nth(row).get_by_role("button", name="0").click()
    outputs.get_by_role("button", name="Commit").click()
    outputs.get_by_text("Kept").wait_for()
    page.evaluate(RUN_ONE, 12)
    cell(page, 12).get_by_text("3 of 5 signs are right").wait_for()


def test_views_come_back_when_the_page_is_loaded_again(page):
    page.reload()
    page.wait_for_selector(".jp-Notebook")
    cell(page, 1).get_by_text("Strongest attention of previous token").wait_for()
    tokens_in(page, 1).nth(4).hover()
    expect(cell(page, 1).locator(".book-says")).to_contain_text("(4) looks at")


def test_nothing_went_wrong_and_nothing_left_this_machine(page):
    assert page.complaints == []
    assert page.refused == []


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_shows_its_pictures_and_runs(lab, chromium, chapter):
    saved = [output for c in json.loads(chapter.read_text("utf8"))["cells"] for output in c.get("outputs", ())]
    with new_page(chromium) as page:
        open_notebook(page, lab[0], lab[1], chapter)
        expect(page.locator(".jp-OutputArea img")).to_have_count(sum("image/png" in o.get("data", {}) for o in saved))
        assert run_all(page) == []
        assert page.complaints == [] and page.refused == []
