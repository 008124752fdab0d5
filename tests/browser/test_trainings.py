"""The explorer of a training in a real JupyterLab: by the mouse on its curves, and by the keyboard on its slider."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.lab import CHROMIUM, browser, jupyter_lab, new_page, open_notebook, run_all

sync_api = pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

CELL = """
from helpers.explorers import training_explorer
from helpers.formation import load_formation
training_explorer({"free": load_formation("laptop"), "withheld": load_formation("withheld")}, 400)
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    notebook = new_notebook(cells=[new_code_cell(CELL.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "trainings.ipynb")
    with jupyter_lab(folder) as url, browser() as chromium, new_page(chromium) as page:
        open_notebook(page, url, folder / "root", folder / "trainings.ipynb")
        assert run_all(page) == []
        page.get_by_text("Step 399, after").first.wait_for()
        yield page


@pytest.mark.parametrize("panel, share, step", [(0, 0.5, "878"), (1, 1 / 3, "599"), (1, 1, "1,757"), (0, 0, "0")])
def test_a_click_on_a_panel_goes_to_the_step_below_it(page, panel, share, step):
    places = page.locator(".book-curves > div").nth(panel).locator("rect")
    first, last = places.first.bounding_box(), places.last.bounding_box()
    left, right = first["x"] + 1, last["x"] + last["width"] - 1
    page.mouse.click(left + share * (right - left), first["y"] + first["height"] / 2)
    page.get_by_text(f"Step {step}, after").first.wait_for()
    sync_api.expect(page.locator(".widget-readout").first).to_have_text(step)
    dot, line = (
        page.locator(".book-curves > div").nth(panel).locator(it).first for it in ("circle", "path[stroke=black]")
    )
    where = [box["x"] + box["width"] / 2 for box in (dot.bounding_box(), line.bounding_box())]
    assert max(abs(x - left - share * (right - left)) for x in where) < 8


def test_the_keyboard_goes_from_row_to_row_and_the_bars_follow(page):
    page.locator(".noUi-handle").first.focus()
    bars = page.locator(".book-bars")
    before = bars.inner_html()
    page.keyboard.press("ArrowRight")
    page.get_by_text("Step 40, after").first.wait_for()
    sync_api.expect(page.get_by_text("Not yet: previous token")).to_be_visible()
    assert bars.inner_html() != before


def test_another_training_says_what_never_forms(page):
    page.get_by_label("Training", exact=True).select_option("withheld")
    page.get_by_text("Never in this training: previous token").wait_for()


def test_nothing_went_wrong_and_nothing_left_this_machine(page):
    assert page.complaints == [] and page.refused == []
