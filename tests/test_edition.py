"""The edition to read and to print: what its pages hold, whom they ask, where their links lead; and what Lab exports.

The same checks read an edition of one nasty chapter, which is quick, and that of the whole book.
"""

import copy
import functools
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup, Tag
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import ReaderError, edition, export, handout
from helpers.edition import main, make
from helpers.export import mathml
from helpers.views import LIVE

REPOSITORY = Path(__file__).resolve().parent.parent
LARGEST = 500_000  # characters of a page
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
ALT = 'A "message". Figure 6.1. From <START> to a < b & c.'
CAPTION = "*Figure 6.1. From <code>&#60;START&#62;</code> to a < b & c, for $n$ heads.*"
TEXT = r"""# 6 · Nasty, `a < b` & more

Formulas: $a < b$, ($W_{OV}^\top$), $\sum|\lambda|$ and $\text{a, b} \ne \operatorname{tr}(AB)$.
No formula: \$5, `$x$`, <code>&#36;y&#36;</code>.

$$W = \begin{cases} W_Q & \text{queries} \\ W_K & \text{keys} \end{cases}$$

| a | formula |
|---|---|
| <code>&#60;&#47;script&#62;</code> | $\sqrt{2}$ |

```python
cost = "$5 and $6"  # </pre>
```

## Why $W_U$?

[Here](#why-w_u), [below](06b_more.ipynb#again), [the page](teaching/06_nasty.md), [README](../README.md),
[code](../helpers/by_hand.py), [nowhere](99_gone.ipynb), [paper](https://transformer-circuits.pub).

## Again

![A drawing](../data/figures/drawing.svg)

## Again
"""
STREAM = "<script>alert(1)</script> </details> $1 & $2 are no formula\n"
CODE = 'print("</details></pre><script>alert(1)</script>", a < b)'
STUB = 'answer = ...\n\nexercise("06.2").check(answer)'


@dataclass(frozen=True)
class Edition:
    """What was made, with the folder of notebooks that it was made of."""

    chapters: Path
    out: Path

    @property
    def pages(self) -> dict[str, BeautifulSoup]:
        """Each page but the one that holds all others."""
        files = sorted(file for file in self.out.glob("*.html") if file.name != "book.html")
        return {file.name: parsed(file) for file in files}

    @property
    def notebooks(self) -> list[tuple[BeautifulSoup, NotebookNode]]:
        """Each notebook with its page."""
        return [(parsed(self.out / f"{n.stem}.html"), nbformat.read(n, 4)) for n in self.chapters.glob("*.ipynb")]


@functools.cache
def parsed(file: Path) -> BeautifulSoup:
    return BeautifulSoup(file.read_text("utf8"), "html.parser")


def figure(data: dict) -> NotebookNode:
    data = {"image/png": PIXEL, "text/plain": ALT} | data
    return new_output("display_data", data=data, metadata={"image/png": {"alt": ALT}})


def write_nasty_chapters(folder: Path) -> Path:
    """A chapter with what could break a page, its companion, the teacher's page and a ledger."""
    caption = new_output("display_data", data={"text/markdown": CAPTION, "text/plain": CAPTION})
    table = new_output("execute_result", data={"text/markdown": "| $n$ |\n|---|\n| 1 |", "text/plain": "n"})
    cells = [
        new_markdown_cell(TEXT),
        new_code_cell(CODE, execution_count=1, outputs=[new_output("stream", name="stdout", text=STREAM)]),
        new_code_cell("show()", execution_count=2, outputs=[figure({LIVE: {"model_id": "a"}}), caption, table]),
        new_code_cell(STUB, execution_count=3),
        new_code_cell(""),
    ]
    state = {"application/vnd.jupyter.widget-state+json": {"version_major": 2, "state": {"a": {}}}}
    (folder / "chapters" / "teaching").mkdir(parents=True)
    (folder / "data" / "figures").mkdir(parents=True)
    (folder / "data" / "figures" / "drawing.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
    nbformat.write(new_notebook(cells=cells, metadata={"widgets": state}), folder / "chapters" / "06_nasty.ipynb")
    more = new_notebook(cells=[new_markdown_cell("# 6b · More\n\n## Again\n\n[Back](06_nasty.ipynb)")])
    nbformat.write(more, folder / "chapters" / "06b_more.ipynb")
    (folder / "chapters" / "ledger.md").write_text("# The ledger")
    (folder / "chapters" / "teaching" / "06_nasty.md").write_text("# 6 · Teach\n\n[It](../06_nasty.ipynb#again-1), $x$")
    return folder / "chapters"


@pytest.fixture(scope="module", params=["nasty", pytest.param("whole", marks=pytest.mark.slow)])
def made(request, tmp_path_factory) -> Edition:
    folder = tmp_path_factory.mktemp("edition")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "nasty":
            patch.setattr(handout, "CHAPTERS", write_nasty_chapters(folder))
        chapters = handout.CHAPTERS
        make(folder / "out")
    return Edition(chapters, folder / "out")


# ---- what a page holds ------------------------------------------------------------------------------------------


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def texts(notebook: NotebookNode) -> list[str]:
    """All that is Markdown, in order."""
    found = []
    for cell in notebook.cells:
        found += [cell.source] if cell.cell_type == "markdown" else []
        found += [o.data["text/markdown"] for o in cell.get("outputs", ()) if "text/markdown" in o.get("data", {})]
    return found


def formulas(markdown: str) -> list[str]:
    """What stands between dollars, but for code."""
    plain = re.sub(r"```.*?```|<code>.*?</code>|`[^`\n]*`|\\\$", "", markdown, flags=re.DOTALL)
    return [(a or b).strip() for a, b in re.findall(r"\$\$(.+?)\$\$|\$([^$]+?)\$", plain, re.DOTALL)]


def test_every_formula_is_mathml_and_none_is_left(made):
    counted = 0
    for page, notebook in made.notebooks:
        expected = [formula for text in texts(notebook) for formula in formulas(text)]
        assert [math["alttext"] for math in page.select("main math")] == expected
        counted += len(expected)
        assert all(code.get_text() for code in page.select("code, pre"))
        prose = "".join(text for text in page.main.find_all(string=True) if not text.find_parent(["code", "pre"]))
        assert prose.count("$") == (1 if page.title.string.startswith("6 · Nasty") else 0)  # \$5
    assert counted > 6


def test_every_picture_has_the_alt_text_of_the_notebook_and_its_caption(made):
    for page, notebook in made.notebooks:
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs if "data" in output]
        pictures = [output.data for output in outputs if "image/png" in output.data]
        images = page.select(".output img")
        assert [image["alt"] for image in images] == [data["text/plain"] for data in pictures]
        assert [image["src"].split(",")[1] for image in images] == [re.sub(r"\s", "", d["image/png"]) for d in pictures]
        assert all(image.get("alt") and "No description" not in image["alt"] for image in page.select("img"))
        captions = [without_formulas(caption) for caption in page.select("figure > figcaption")]
        said = [d["text/markdown"].strip("*") for d in outputs_after_pictures(outputs)]
        assert len(captions) == len(said)
        for shown, markdown in zip(captions, said, strict=True):
            assert words(shown) == words(html.unescape(re.sub("</?code>", "", markdown)))


def outputs_after_pictures(outputs: list[NotebookNode]) -> list[dict]:
    pairs = zip(outputs, outputs[1:], strict=False)
    after = [second.data for first, second in pairs if "image/png" in first.data and "text/markdown" in second.data]
    return [data for data in after if data["text/markdown"].startswith("*") and data["text/markdown"][1] != "*"]


def without_formulas(caption: Tag) -> str:
    copied = copy.copy(caption)
    for formula in copied.select("math"):
        formula.decompose()
    return copied.get_text()


def words(text: str) -> list[str]:
    return re.findall(r"\w+", re.sub(r"\$[^$]*\$", "", text))


def test_all_code_is_there_and_folded_but_for_exercises(made):
    for page, notebook in made.notebooks:
        cells, folds = code_cells(notebook), page.select("main > details.code")
        assert [fold.pre.get_text().strip() for fold in folds] == [cell.source.strip() for cell in cells]
        assert [fold.has_attr("open") for fold in folds] == ['exercise("' in cell.source for cell in cells]
        assert all(fold.summary.get_text() for fold in folds)


def test_all_output_is_there(made):
    for page, notebook in made.notebooks:
        outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
        streams = [output.text for output in outputs if output.output_type == "stream"]
        assert [pre.get_text().strip("\n") for pre in page.select(".output > pre")] == [t.strip("\n") for t in streams]
        captions = len(outputs_after_pictures([o for o in outputs if "data" in o]))
        assert len(page.select(".output")) == len(outputs) - captions


def test_a_page_says_what_it_is(made):
    for name, page in made.pages.items():
        assert page.html["lang"] == "en" and page.title.string and page.select_one("meta[name=viewport]")
        assert len(page.select("h1")) == 1, name
        assert len(str(page)) < LARGEST
        ids = [element["id"] for element in page.select("[id]")]
        assert len(ids) == len(set(ids)), name


# ---- whom a page asks -------------------------------------------------------------------------------------------


def asked(page: BeautifulSoup) -> list[str]:
    """All that a browser would fetch or run when it opens a page."""
    found = [f"<{tag.name}>" for tag in page.select("script, iframe, object, embed, base, meta[http-equiv=refresh]")]
    found += [tag["href"] for tag in page.select("link[href], image[href], use[href]")]
    found += [
        tag[name] for name in ("src", "srcset", "poster", "background", "data") for tag in page.select(f"[{name}]")
    ]
    styles = [style.get_text() for style in page.select("style")] + [tag["style"] for tag in page.select("[style]")]
    found += [match for style in styles for match in re.findall(r"@import[^;]*|url\([^)]*\)|image-set[^;]*", style)]
    found += [f"{tag.name} {name}" for tag in page.find_all(True) for name in tag.attrs if name.startswith("on")]
    return [address for address in found if not address.startswith("data:image/")]


def test_a_page_asks_nobody_and_runs_nothing(made):
    for file in made.out.glob("*.html"):
        page = parsed(file)
        assert asked(page) == []
        policy = page.select_one("meta[http-equiv=Content-Security-Policy]")["content"]
        assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@pytest.mark.parametrize("text", [
    "<script>1</script>", "<img src=a.png>", "<img srcset='a.png 2x' alt=a>", "<link rel=stylesheet href=a.css>",
    "<style>@import 'a.css';</style>", "<style>p { background: url(a.png) }</style>", "<p style='mask: url(#a)'>",
    "<iframe>", "<object data=a>", "<video poster=a.png>", "<p onclick='a()'>", "<img src=data:text/html,a>",
])  # fmt: skip
def test_what_is_asked_for_would_be_seen(text):
    assert asked(BeautifulSoup(text, "html.parser"))


# ---- where links lead -------------------------------------------------------------------------------------------


def dead_links(pages: dict[str, BeautifulSoup]) -> list[str]:
    places = {name: {element["id"] for element in page.select("[id]")} for name, page in pages.items()}
    dead = []
    for name, page in pages.items():
        for address in (link["href"] for link in page.select("a[href]")):
            target, _, anchor = address.partition("#")
            inside = places.get(target or name)
            if not address.startswith("https://") and (inside is None or (anchor and anchor not in inside)):
                dead.append(f"{name}: {address}")
    return dead


def test_links_lead_to_pages(made):
    pages, book = made.pages, parsed(made.out / "book.html")
    assert dead_links(pages | {"book.html": book}) == []
    inside = [link["href"] for link in book.select("a[href]")]
    assert len(inside) > 6 and all(address.startswith(("#", "https://")) for address in inside)
    listed = {link["href"].split("#")[0] for link in pages["index.html"].select("a[href]")}
    assert set(pages) - {"index.html"} <= listed
    assert dead_links({"a.html": BeautifulSoup("<a href='#b'><a href='b.html'>", "html.parser")}) != []


def test_next_and_previous_lead_through_all_pages_and_back(made):
    pages = made.pages
    name = next(name for name, page in pages.items() if name != "index.html" and not page.select("a[rel=prev]"))
    order = [name]
    while following := pages[order[-1]].select_one("a[rel=next]"):
        assert pages[following["href"]].select_one("a[rel=prev]")["href"] == order[-1]
        order.append(following["href"])
    assert sorted(order) == sorted(set(pages) - {"index.html"})


def test_the_whole_book_on_one_page_has_what_the_pages_have(made):
    book = parsed(made.out / "book.html")
    ids = [element["id"] for element in book.select("[id]")]
    assert len(ids) == len(set(ids))
    for tag in ("math", "img", "details", "table", "p"):
        there = sum(len(page.select(f"main {tag}")) for page in made.pages.values())
        assert len(book.select(tag)) == there - (tag == "p")  # the line that leads to this page


def test_links_of_the_nasty_chapter(nasty, tmp_path):
    make(tmp_path / "out")
    page = parsed(tmp_path / "out" / "06_nasty.html")
    links = {link.get_text(): link["href"] for link in page.main.select("a")}
    assert links == {
        "Here": "#why-w_u", "below": "06b_more.html#again",
        "the page": "teaching_06_nasty.html", "paper": "https://transformer-circuits.pub",
    }  # fmt: skip
    assert "README, \ncode, nowhere" in page.main.get_text().replace(",\n", ", \n")
    assert [heading["id"] for heading in page.select("h2")][1:] == ["again", "again-1"]
    assert [span.get_text() for span in page.select(".together")] == ["a<b,", "(WOV⊤),", "a,\xa0b≠tr(AB).", "WU?"]
    assert page.select_one("p > img")["src"].startswith("data:image/svg+xml;base64,")


# ---- page numbers of the PDF ------------------------------------------------------------------------------------

PDF = rb"""%PDF-1.4
7 0 obj
<</Type /Page
/Resources <<>>>>
endobj
12 0 obj
<</Type /Page
/Resources <<>>>>
endobj
13 0 obj
<</Type /Pages
/Count 2
/Kids [7 0 R 12 0 R]>>
endobj
14 0 obj
<</06_nasty--a [7 0 R /XYZ 0 673.2 0]
/06_nasty--caf#c3#a9 [12 0 R /XYZ 0 1 0]
/gone [99 0 R /XYZ 0 1 0]>>
endobj
"""


def test_page_numbers_are_those_of_the_places_that_links_lead_to():
    assert edition.page_numbers(PDF) == {"06_nasty--a": 1, "06_nasty--café": 2}
    assert edition.page_numbers(b"made by something else") == {}


def test_links_get_the_page_number_of_their_place_and_nothing_else_changes():
    book = (
        '<a href="#06_nasty--a">a</a> <a href="#06_nasty--caf%C3%A9">b</a> <a href="#gone">c</a> <a href="https://x">'
    )
    found = edition.numbered(book, edition.page_numbers(PDF))
    assert re.findall(r'data-page="(\d)">(.)', found) == [("1", "a"), ("2", "b")]
    assert re.sub(r' data-page="\d"', "", found) == book == edition.numbered(book, {})


def test_a_book_is_printed_until_its_page_numbers_stay(nasty, tmp_path, monkeypatch):
    """A first print without numbers; with them the contents need one more page, so all move by one; then they stay."""
    printed = []

    def print_page(page: Path, pdf: Path, instead: str) -> None:
        printed.append(page.read_text("utf8"))
        pdf.write_bytes(PDF if len(printed) == 1 else PDF.replace(b"%PDF-1.4\n", b"1 0 obj\n<</Type /Page\n"))

    monkeypatch.setattr(edition, "print_page", print_page)
    (tmp_path / "out").mkdir()
    before = '<a href="#06_nasty--a">a</a>'
    (tmp_path / "out" / "book.html").write_text(before)
    edition.print_book(tmp_path / "out")
    assert [re.findall(r'data-page="(\d)"', page) for page in printed] == [[], ["1"], ["2"]]
    assert (tmp_path / "out" / "book.html").read_text() == before
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["book.html", "book.pdf"]


# ---- formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tex, shown", [
    (r"a < b", "a<b"), (r"W_{OV}^\top", "WOV⊤"), (r"-\ln p", "−lnp"), (r"\operatorname{tr}(AB)", "tr(AB)"),
    (r"\begin{aligned} a &= b \\ &= c \end{aligned}", "a=b=c"), (r"\sum_i |\lambda_i|", "∑i|λi|"),
])  # fmt: skip
def test_a_formula_is_mathml_that_keeps_its_tex(tex, shown):
    soup = BeautifulSoup(mathml(tex), "html.parser")
    assert soup.math["alttext"] == tex and soup.get_text() == shown and "<code>" not in mathml(tex)


@pytest.mark.parametrize("tex", [r"\nosuch{x}", r"\frac{1}{", "", r"\text{<b>x</b>}", r"\text{a & b}",
                                 r"\href{javascript:alert(1)}{x}", r"\color{red;\"><script>}x"])  # fmt: skip
def test_what_cannot_be_read_is_shown_as_tex_in_code_type(tex):
    assert mathml(tex) == f"<code>{html.escape(tex)}</code>"


def test_names_of_functions_and_bars_stand_as_in_tex():
    assert '<mspace width="0.167em"' in mathml(r"\ln p") and "<mspace" not in mathml(r"\ln(p)")
    assert mathml("|x|").count('lspace="0" rspace="0"') == 2
    assert "<mo>tr" not in mathml(r"\operatorname{tr} A")


def test_without_the_package_for_formulas_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    with pytest.raises(ReaderError, match="Formulas need latex2mathml: run 'python -m pip install"):
        mathml("x")


# ---- what cannot be made ----------------------------------------------------------------------------------------


@pytest.fixture
def nasty(tmp_path, monkeypatch) -> Path:
    """The chapters of the nasty edition, which is made in ``tmp_path / "out"``."""
    chapters = write_nasty_chapters(tmp_path)
    monkeypatch.setattr(handout, "CHAPTERS", chapters)
    return chapters


def change(notebook: Path, **changes) -> None:
    """Change the last cell of a notebook that has a source."""
    read = nbformat.read(notebook, as_version=4)
    code_cells(read)[-1].update(changes)
    nbformat.write(read, notebook)


def test_a_chapter_that_was_not_executed_is_refused(nasty, tmp_path):
    change(nasty / "06_nasty.ipynb", execution_count=None)
    with pytest.raises(ReaderError, match="06_nasty.ipynb was not executed to its end"):
        make(tmp_path / "out")
    change(nasty / "06_nasty.ipynb", execution_count=3, outputs=[new_output("error", ename="E", evalue="e")])
    with pytest.raises(ReaderError, match="without an error: run every cell"):
        make(tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"cells": 1, "nbformat": 4}'])
def test_a_file_that_is_no_notebook_is_refused(nasty, tmp_path, text):
    (nasty / "06_nasty.ipynb").write_text(text)
    with pytest.raises(ReaderError, match="06_nasty.ipynb is no notebook"):
        make(tmp_path / "out")


def test_there_is_no_such_chapter(nasty, tmp_path):
    with pytest.raises(ReaderError, match="There is no chapter '12'"):
        make(tmp_path / "out", ["12"])


def test_a_folder_with_something_else_is_left_alone(nasty, tmp_path):
    (tmp_path / "out").mkdir()
    make(tmp_path / "out")
    make(tmp_path / "out")  # in place of the first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("<p>mine</p>")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "index.html"):
        with pytest.raises(ReaderError, match="is there already and holds something else"):
            make(taken)
    assert [file.read_text() for file in (tmp_path / "mine").iterdir()] == ["<p>mine</p>"]


def test_what_cannot_be_written_is_said(nasty, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ReaderError, match="could not be written"):
        make(tmp_path / "file" / "out")


@pytest.mark.parametrize("browser, sentence", [
    ("", "needs Chromium: install it .* or print book.html"),
    (sys.executable, "made no .*book.pdf: print .*book.html from a browser"),
])  # fmt: skip
def test_without_a_browser_the_pages_are_there_all_the_same(nasty, tmp_path, monkeypatch, browser, sentence, capsys):
    monkeypatch.setenv("CHROMIUM", browser)
    monkeypatch.setattr(edition, "BROWSERS", [])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "book.pdf").write_text("of another edition")
    (tmp_path / "out" / "old.html").write_text(edition.MARK)
    with pytest.raises(ReaderError, match=sentence):
        main([str(tmp_path / "out"), "06"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "index.html")
    assert sorted(file.suffix for file in (tmp_path / "out").iterdir()) == [".html"] * 8


# ---- JupyterLab's export ----------------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path) -> dict[str, str]:
    """The environment of a reader: what pyproject.toml gives to the installation, and where Jupyter looks for it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text("utf8"))
    for source, target in project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"].items():
        shutil.copytree(REPOSITORY / source, tmp_path / "prefix" / target)
    places = {"JUPYTER_PATH": "share/jupyter", "JUPYTER_CONFIG_PATH": "etc/jupyter"}
    return {name: str(tmp_path / "prefix" / place) for name, place in places.items()}


def exported(format: str, folder: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "nbconvert", "--to", format, "--output-dir", str(folder), "06_nasty.ipynb"]
    environment = os.environ | environment | {"PYTHONPATH": str(REPOSITORY)}
    subprocess.run(command, cwd=folder / "chapters", env=environment, check=True, capture_output=True)
    return next(folder.glob("06_nasty*.html")).read_text("utf8")


@pytest.mark.slow
def test_a_notebook_saved_as_html_holds_all_it_needs(tmp_path, installed):
    notebook = nbformat.read(write_nasty_chapters(tmp_path) / "06_nasty.ipynb", as_version=4)
    page = BeautifulSoup(exported("html", tmp_path, installed), "html.parser")
    assert asked(page) == [] and page.html["lang"] == "en"
    assert [image["alt"] for image in page.select(".output img")] == [ALT]
    assert [math["alttext"] for math in page.select("math")] == [f for t in texts(notebook) for f in formulas(t)]
    assert [fold.has_attr("open") for fold in page.select("details")] == [True] * 3
    assert page.title.string == "06_nasty" and not page.select("nav")


@pytest.mark.slow
def test_slides_are_exported_as_before(tmp_path, installed):
    write_nasty_chapters(tmp_path)
    assert "reveal.js" in exported("slides", tmp_path, installed)


def test_the_settings_name_what_is_there():
    settings = json.loads((REPOSITORY / "data" / "jupyter" / "jupyter_config.json").read_text("utf8"))["HTMLExporter"]
    assert settings["filters"] == {"markdown2html": f"{export.__name__}.{export.markdown2html.__name__}"}
    assert (REPOSITORY / "data" / "nbconvert" / settings["template_name"] / "index.html.j2").exists()


@pytest.mark.slow
def test_the_server_loads_nothing_large_for_it():
    code = "import helpers.export, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {"torch", "matplotlib", "ipywidgets"} & set(loaded.stdout.split())
