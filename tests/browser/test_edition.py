"""The edition in a browser that has no network: every page, on a desktop and a telephone, light and dark; and in print.

``python -m tests.browser.test_edition OUT`` takes pictures of every page.
"""

import sys
import urllib.request
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup

from helpers.edition import make, numbered, page_numbers, print_book
from tests.browser.lab import CHROMIUM, REPOSITORY, TOKEN, browser, jupyter_lab
from tests.test_edition import asked, code_cells

pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

WIDTHS = {"desktop": 1280, "telephone": 375}
MEASURE = """() => ({
  beyond: document.documentElement.scrollWidth - innerWidth,
  cut: [...document.querySelectorAll('p, li, h1, h2, h3, summary, figcaption, img')].filter(element =>
    !element.closest('table, pre, .formula, .output:has(table)') &&
    element.getBoundingClientRect().right > innerWidth + 1).map(element => element.outerHTML.slice(0, 200)),
  colours: [getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor],
  pictures: [...document.images].filter(image => !image.complete || !image.naturalWidth).length,
  flat: [...document.querySelectorAll('math')].filter(math =>
    math.checkVisibility() && !math.getBoundingClientRect().height).length,
})"""


@pytest.fixture(scope="module")
def edition(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("edition") / "out"
    make(out)
    return out


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


def opened(chromium, width: int, scheme: str):
    """A page without a network, with a list of what it asked for and of what it complained about."""
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.asked, page.complaints = [], []
    page.on("request", lambda request: page.asked.append(request.url))
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    return page


def luminance(colour: str) -> float:
    """Of ``rgb(…)``, as WCAG defines it."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_every_page_can_be_read_without_a_network(edition, chromium, width, scheme):
    page = opened(chromium, width, scheme)
    for file in sorted(edition.glob("*.html")):
        page.goto(file.as_uri())
        measured = page.evaluate(MEASURE)
        ink, ground = map(luminance, measured.pop("colours"))
        assert measured == {"beyond": 0, "cut": [], "pictures": 0, "flat": 0}, file.name
        assert (ink > ground) == (scheme == "dark") and (max(ink, ground) + 0.05) / (min(ink, ground) + 0.05) > 7
    assert [address for address in page.asked if not address.startswith(("file:", "data:image/"))] == []
    assert [address for address in page.asked if address.startswith("file:")] == [
        file.as_uri() for file in sorted(edition.glob("*.html"))
    ]
    assert page.complaints == []
    page.context.close()


def test_what_is_too_wide_or_asks_would_be_seen(chromium, tmp_path):
    bad = '<p style="width: 900px">wide</p><math></math><img alt="" src="https://example.org/a.png">'
    (tmp_path / "bad.html").write_text(bad)
    page = opened(chromium, 375, "light")
    page.goto((tmp_path / "bad.html").as_uri())
    measured = page.evaluate(MEASURE)
    assert measured["beyond"] > 0 and len(measured["cut"]) == 1 and measured["pictures"] == 1
    assert "https://example.org/a.png" in page.asked and page.complaints
    page.context.close()


def test_code_opens_and_a_wide_table_scrolls_from_the_keyboard(edition, chromium):
    page = opened(chromium, 375, "light")
    page.goto((edition / "03_one_layer_skip_trigrams.html").as_uri())
    fold = page.locator("details.code:not([open])").first
    assert not fold.locator("pre").is_visible()
    handle = fold.element_handle()
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert handle.evaluate("fold => fold.open") and handle.query_selector("pre").is_visible()
    table = page.locator("table:has(th:nth-child(8))").first
    assert table.evaluate("table => table.scrollWidth > table.clientWidth")
    table.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("table => table.scrollLeft > 0", arg=table.element_handle())
    page.context.close()


def test_the_book_is_printed_with_its_code_in_black_on_white(edition, chromium, monkeypatch):
    printed = []
    monkeypatch.setattr("helpers.edition.numbered", lambda *of: printed.append(numbered(*of)) or printed[-1])
    pdf = print_book(edition)
    pages = page_numbers(pdf.read_bytes())
    links = BeautifulSoup(printed[-1], "html.parser").select(".contents a")
    assert len(links) > 100 and [int(a["data-page"]) for a in links] == [pages[a["href"][1:]] for a in links]
    assert [int(a["data-page"]) for a in links] == sorted(int(a["data-page"]) for a in links)
    assert 2 < int(links[0]["data-page"]) < 9 and int(links[-1]["data-page"]) > 200
    assert pdf.read_bytes().startswith(b"%PDF") and 1_000_000 < pdf.stat().st_size < 30_000_000
    page = opened(chromium, 800, "dark")
    page.emulate_media(media="print")
    page.goto((edition / "01_residual_stream.html").as_uri())
    ink, ground = map(luminance, page.evaluate(MEASURE)["colours"])
    assert ink < 0.01 and ground == 1
    assert page.locator("details.code:not([open]) pre").first.is_visible()
    assert not page.locator("summary").first.is_visible() and not page.locator("nav").first.is_visible()
    page.context.close()


def test_lab_saves_a_chapter_as_a_page_that_holds_all_it_needs(tmp_path):
    """Where the book is installed as it is now: ``python -m pip install -e .`` after a change of ``pyproject.toml``."""
    notebook = REPOSITORY / "chapters" / "05_two_layer_composition.ipynb"
    with jupyter_lab(tmp_path) as url:
        (tmp_path / "root" / notebook.name).write_bytes(notebook.read_bytes())
        with urllib.request.urlopen(f"{url}/nbconvert/html/{notebook.name}?download=true&token={TOKEN}") as answer:
            page = BeautifulSoup(answer.read().decode(), "html.parser")
    assert asked(page) == [] and len(page.select("math")) > 20
    outputs = [output for cell in code_cells(nbformat.read(notebook, 4)) for output in cell.outputs]
    alts = [output.data["text/plain"] for output in outputs if "image/png" in output.get("data", {})]
    assert [image["alt"] for image in page.select(".output img")] == alts and len(alts) > 3


def take_pictures(out: Path) -> None:
    """Every page of the edition in ``out``, in both widths and both colours, as PNG beside it."""
    with browser() as chromium:
        for name, width in WIDTHS.items():
            for scheme in ("light", "dark"):
                page = opened(chromium, width, scheme)
                for file in sorted(out.glob("[!b]*.html")):
                    page.goto(file.as_uri())
                    page.screenshot(path=out / f"{file.stem}-{name}-{scheme}.png", full_page=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
    take_pictures(Path(sys.argv[1]))
