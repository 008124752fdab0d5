"""The grid of edges in JupyterLab: a click, the arrow keys and the menus choose the same edge."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tests.browser.lab import CHROMIUM, PATIENCE, browser, jupyter_lab, new_page, open_notebook, run_all

playwright = pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
expect = playwright.expect
expect.set_options(timeout=1000 * PATIENCE)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

CELL = """
import torch
from helpers.edges import KINDS
from helpers.explorers import edge_explorer
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import Tokenizer
model = AttentionOnlyTransformer(ModelConfig(2, 4, 32, 8, n_ctx=64)).requires_grad_(False)
scores = {kind: torch.arange(16.0).view(4, 4) - 8 * i for i, kind in enumerate(KINDS)}
edge_explorer(model, Tokenizer.load(), scores, scores, torch.arange(50), (0, 1), (1, 2))"""


@pytest.fixture
def page(tmp_path: Path):
    with jupyter_lab(tmp_path) as url, browser() as chromium, new_page(chromium) as page:
        notebook = new_notebook(cells=[new_code_cell(CELL.strip())])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "edges.ipynb")
        open_notebook(page, url, tmp_path / "root", tmp_path / "edges.ipynb")
        assert run_all(page) == []
        yield page


def check_chosen(page, writer: str, reader: str) -> None:
    writers, readers = (page.locator(".jp-OutputArea select").nth(i) for i in (0, 1))
    expect(page.locator("[data-columns] [aria-pressed=true]")).to_have_attribute(
        "data-choose", f'{{"writer": "{writer}", "reader": "{reader}"}}'
    )
    expect(writers).to_have_value(writer)
    expect(readers).to_have_value(reader)
    expect(page.locator("table").first).to_contain_text(f"{writer} → {reader}")


def test_clicks_arrow_keys_and_menus_choose_an_edge(page):
    check_chosen(page, "0:1", "1:2")
    page.locator("[data-at='12']").click()
    check_chosen(page, "0:3", "1:0")
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    expect(page.locator("[data-at='9']")).to_be_focused()
    expect(page.locator(".book-says")).to_have_text("0:2 → 1:1: +1.000 above random; its cut 1.0000 nats")
    page.keyboard.press("Enter")
    check_chosen(page, "0:2", "1:1")
    expect(page.locator("[data-at='9']")).to_be_focused()
    page.get_by_role("button", name="values").click()
    expect(page.locator(".book-says")).to_have_text("0:2 → 1:1: -7.000 above random; its cut -7.0000 nats")
    page.locator(".jp-OutputArea select").first.select_option("0:0")
    check_chosen(page, "0:0", "1:1")
    page.locator("[data-at='0']").hover()
    expect(page.locator(".book-says")).to_contain_text("0:0 → 1:0")
    assert page.complaints == [] and page.refused == []
