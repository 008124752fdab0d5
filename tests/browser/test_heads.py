"""All heads of a layer in JupyterLab: circuitsvis draws them, does no harm, and agrees with our menu and tokens."""

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
from helpers.head_views import heads_view
nasty = ["<START>", "<img src=x onerror='window.harm=1'>", "</script><script>window.harm=1</script>", "&lt;", "b"]
pattern = torch.stack([torch.eye(5), torch.eye(5).roll(1, 0).tril() + torch.eye(5)[0].outer(torch.eye(5)[0])])
heads_view(nasty, pattern, ["<b>self</b>", "0:1"])"""


@pytest.fixture
def page(tmp_path: Path):
    with jupyter_lab(tmp_path) as url, browser() as chromium, new_page(chromium) as page:
        notebook = new_notebook(cells=[new_code_cell(CELL.strip())])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, tmp_path / "heads.ipynb")
        open_notebook(page, url, tmp_path / "root", tmp_path / "heads.ipynb")
        assert run_all(page) == []
        yield page


def test_a_click_and_the_menu_choose_a_head_and_its_tokens_tell_where_it_looks(page):
    enlarged, says = page.locator(".book-heads h2"), page.locator(".book-says")
    expect(enlarged).to_have_text("<b>self</b>")
    expect(page.locator(".book-heads canvas")).to_have_count(3)
    expect(says).to_contain_text("b (4) looks at: b (4) 1.00")
    page.locator(".jp-OutputArea select").select_option("0:1")
    expect(enlarged).to_have_text("0:1")
    expect(says).to_contain_text("b (4) looks at: &lt; (3) 1.00")
    page.locator("[data-at='3']").hover()
    expect(says).to_contain_text("&lt; (3) looks at: </script><script>window.harm=1</script> (2) 1.00")
    page.locator("[data-at='3']").focus()
    page.keyboard.press("ArrowRight")
    expect(says).to_contain_text("b (4) looks at: &lt; (3) 1.00")
    page.locator(".book-heads h4").first.click()
    expect(enlarged).to_have_text("<b>self</b>")
    expect(page.locator(".jp-OutputArea select")).to_have_value("<b>self</b>")
    expect(says).to_contain_text("b (4) looks at: b (4) 1.00")
    assert page.evaluate("window.harm") is None and page.complaints == [] and page.refused == []
