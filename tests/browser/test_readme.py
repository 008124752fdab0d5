"""The picture in the README: an explorer as it looks in JupyterLab, photographed there.

``python -m tests.browser.test_readme`` takes it anew.
"""

import io
import re
import tempfile
from pathlib import Path

import nbformat
import pytest
from PIL import Image, ImageChops, ImageStat

from tests.browser.lab import CHROMIUM, REPOSITORY, browser, jupyter_lab, new_page, open_notebook, run_all

pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

PICTURE = REPOSITORY / "data" / "figures" / "explorer.png"
LARGEST = 150_000  # bytes
CELL = """
from helpers.explorers import path_explorer
from helpers.weights import load_book_model
from helpers.tokens import load_encoded
model, tokenizer = load_book_model("two_layer"), load_encoded().tokenizer
tale = (
    "The Zorvex of Quimbledash was a quiet machine. Every morning the clerk opened the door "
    "and asked the Zorvex of Quimbledash whether it had slept."
)
again = [i for i, token in enumerate(tokenizer.encode(tale)) if tokenizer.show(token) == "or"][-1]
path_explorer(model, tokenizer, tale, again + 1, (0, 6), (1, 9))
"""


def take_picture(folder: Path) -> bytes:
    """The explorer below its cell, as a PNG in 255 colours, with no part of it cut off."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL.strip())])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "explorer.ipynb")
    with jupyter_lab(folder) as url, browser() as chromium, new_page(chromium, 900, 1400) as page:
        open_notebook(page, url, folder / "root", folder / "explorer.ipynb")
        assert run_all(page) == []
        page.get_by_text("The text goes on with it").wait_for()
        taken = page.locator(".jp-Cell-outputArea").first.screenshot()
        assert page.complaints == [] and page.refused == []
    small = io.BytesIO()
    Image.open(io.BytesIO(taken)).convert("RGB").quantize(255).save(small, format="png", optimize=True)
    return small.getvalue()


def greys(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png)).convert("L")


def unlikeness(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures differ on average, from 0 to 1, brought to one small size so that fonts do not matter."""
    small = (one.resize((40, 25)), other.resize((40, 25)))
    return ImageStat.Stat(ImageChops.difference(*small)).mean[0] / 255


def test_the_picture_of_the_readme_is_what_the_explorer_looks_like_now(tmp_path):
    kept, now = greys(PICTURE.read_bytes()), greys(take_picture(tmp_path))
    for ours, theirs in zip(kept.size, now.size, strict=True):
        assert abs(ours - theirs) < 0.1 * ours, "python -m tests.browser.test_readme takes it anew"
    assert unlikeness(kept, now) < 0.03 < unlikeness(kept, kept.rotate(180))


def test_the_readme_shows_it_in_words_too_and_it_is_small():
    readme = (REPOSITORY / "README.md").read_text("utf8")
    (alt,) = re.findall(r"!\[([^]]+)\]\(data/figures/explorer\.png\)", readme)
    assert len(alt) > 60 and PICTURE.stat().st_size <= LARGEST


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        PICTURE.write_bytes(take_picture(Path(folder)))
    print(PICTURE)
