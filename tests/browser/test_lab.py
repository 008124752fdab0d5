"""What no other test can see: the views and explorers under a reader's mouse, in JupyterLab, without a network."""

import json
import re

import nbformat
import pytest

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
from helpers.token_views import attention_view, token_view
from helpers.tokens import EncodedCorpus, Tokenizer
tokenizer = Tokenizer.load()
model, one_layer = (AttentionOnlyTransformer(ModelConfig(n, 2, 32, 8, n_ctx=64)).requires_grad_(False) for n in (2, 1))
model.W_U.mul_(50)
TEXT = {TEXT!r}
tokens = tokenizer.prompt(TEXT, 64)
shown = tokenizer.show_all(tokens[0])
ids = tokens[0].repeat(50).numpy().astype("uint16")
corpus = EncodedCorpus("small", tokenizer, ids, ids, [])
previous = torch.eye(len(shown)).roll(1, 0)[None]""",
    'attention_view(shown, previous, ["previous token"])',
    'token_view(shown, torch.linspace(-1, 3, len(shown)), "nats")',
    "text_explorer(model, tokenizer, TEXT, head=(1, 0), position=3)",
    'head_explorer(one_layer, corpus, source=" return", head=(0, 1))',
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
        page.wait_for_selector("figcaption >> text=previous token")
        yield page


def cell(page, index: int):
    """The outputs of a cell, brought into view."""
    found = page.locator(".jp-Cell").nth(index).locator(".jp-Cell-outputArea")
    found.scroll_into_view_if_needed()
    return found


def darkness(page, index: int) -> list[float]:
    """How dark the ground of each token is, from 0, white, to 1."""
    colours = (
        cell(page, index)
        .locator(".tokens button")
        .evaluate_all(
            "buttons => buttons.map(b => getComputedStyle(b).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number))"
        )
    )
    return [1 - sum(colour) / (3 * 255) for colour in colours]


def test_every_reader_gets_the_books_settings(lab):
    assert setting(lab[0], "@jupyterlab/apputils-extension:kernels-settings")["commsOverSubshells"] == "disabled"
    assert setting(lab[0], "@jupyterlab/apputils-extension:notification")["fetchNews"] == "false"


def test_controls_call_back_in_the_main_thread(page):
    cell(page, 6).get_by_role("button", name="which thread?").click()
    cell(page, 6).get_by_text("main thread: True").wait_for()


def test_hovering_a_token_shows_where_it_looks(page):
    tokens = cell(page, 1).locator(".tokens button")
    assert [t.replace("\u2060", "") for t in tokens.all_text_contents()][0] == "<START>"
    assert "</script>" in "".join(tokens.all_text_contents()).replace("\u2060", "")
    for position in (4, 9):
        tokens.nth(position).hover()
        page.wait_for_function(f"""() => document.querySelectorAll('.tokens')[0]
            .querySelectorAll('button')[{position}].style.boxShadow""")
        dark = darkness(page, 1)
        assert dark.index(max(dark)) == position - 1 and sorted(dark)[-2] < 0.01


def test_hovering_a_coloured_token_shows_its_number(page):
    cell(page, 2).locator(".colored-tokens span span").last.hover()
    tooltip = cell(page, 2).locator(".colored-tokens div:has(> strong)")
    tooltip.wait_for()
    assert tooltip.inner_text().split() == [">", "3"]


def test_circuitsvis_is_sent_once_and_not_saved(page, lab):
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    saved = (lab[1] / "chapters" / "views.ipynb").read_text("utf8")
    assert "CircuitsVis" not in saved and "image/png" in saved and len(saved) < 1_000_000
    assert page.evaluate("() => document.documentElement.outerHTML.length") < 1_000_000
    assert page.evaluate("() => typeof CircuitsVis.render") == "function"


def test_the_position_slider_changes_the_prediction(page):
    outputs = cell(page, 3)
    outputs.get_by_text("(position 3)").wait_for()
    outputs.locator(".noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    outputs.get_by_text("(position 4)").wait_for()


def test_another_head_and_another_text(page):
    outputs = cell(page, 3)
    outputs.get_by_label("Head").select_option("0:1")
    outputs.locator("figcaption >> text=0:1").wait_for()
    outputs.get_by_label("Text").fill("Wendelbury Wendelbury")
    page.keyboard.press("Tab")
    expect(outputs.locator(".tokens button")).to_have_count(15)
    assert "".join(outputs.locator(".tokens button").all_text_contents()).endswith(">Wendelbury␣Wendelbury")


def test_a_mistake_is_answered_with_a_sentence(page):
    outputs = cell(page, 3)
    outputs.get_by_label("Text").fill("too long " * 200)
    page.keyboard.press("Tab")
    outputs.get_by_role("alert").get_by_text("shorten it").wait_for()
    outputs.get_by_label("Text").fill("<b>fine</b>")
    page.keyboard.press("Tab")
    outputs.get_by_role("alert").wait_for(state="detached")
    outputs.locator(".tokens button").first.wait_for()


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
    picture = outputs.locator("img").first
    before = picture.get_attribute("src")
    outputs.get_by_role("button", name="0:1").click()
    outputs.get_by_text("without 0:1").first.wait_for()
    outputs.locator("img").first.wait_for()
    assert outputs.locator("img").first.get_attribute("src") != before
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
    cell(page, 1).locator("figcaption >> text=previous token").wait_for()


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
