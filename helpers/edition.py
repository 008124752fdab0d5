"""An edition to read and to print: the book as pages that need neither Jupyter, nor a script, nor a server.

    python -m helpers.edition OUT             # all chapters
    python -m helpers.edition OUT 03 06       # these, with their companions

It takes a minute. OUT/index.html is where to begin, OUT/book.html has everything on one page, and OUT/book.pdf is
that page in print, some 300 sheets, made by Chromium, Chrome or Edge (``CHROMIUM=/path/to/it`` if it is not found). In
JupyterLab, *File → Save and Export Notebook As → HTML* makes such a page of any notebook, your answers included.
"""

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from bs4 import BeautifulSoup, Tag
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook
from traitlets.config import Config

from helpers import ReaderError, handout
from helpers.files import DATA, write_or_explain

REPOSITORY = DATA.parent
MARK = '<meta content="helpers.edition" name="generator"'
PARTS = {".ipynb": "Chapters", "teaching": "For the teacher", "": "The rest"}
BROWSERS = [
    *"chromium chromium-browser google-chrome google-chrome-stable chrome microsoft-edge msedge brave-browser".split(),
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
]
UNCOLOURED = re.compile(r'<span class="(?:w|n|o|p|nn|bp)">([^<]*)</span>')  # of no use but to make a PDF large
HEADLESS = ["--headless", "--no-pdf-header-footer", "--generate-pdf-document-outline"]
if getattr(os, "geteuid", lambda: 1)() == 0:
    HEADLESS.append("--no-sandbox")  # without it Chromium does not start for root
SECONDS_TO_PRINT, MOST_PRINTS = 300, 3


@dataclass(frozen=True)
class Page:
    """A notebook, or a text in Markdown read as a notebook of one cell, and the page that it becomes."""

    source: Path
    notebook: NotebookNode

    @property
    def title(self) -> str:
        if self.source == REPOSITORY / "README.md":
            return "Installing and running it"
        first = "".join(cell.source for cell in self.notebook.cells[:1]).split("\n")[0]
        return first.removeprefix("# ") or self.source.stem

    @property
    def name(self) -> str:
        """The page's file; README.md in the folder teaching is teaching_README.html."""
        folder = "teaching_" if self.part == "For the teacher" else ""
        return f"{folder}{self.source.stem}.html"

    @property
    def part(self) -> str:
        return PARTS.get(self.source.suffix) or PARTS.get(self.source.parent.name) or PARTS[""]


# ---- what is read -----------------------------------------------------------------------------------------------


def sources(numbers: Sequence[str]) -> list[Path]:
    """The files of an edition of these chapters, in order. Raises ReaderError if there is no such chapter."""
    chapters = handout.chapters(numbers)
    folder = handout.CHAPTERS / "teaching"
    texts = [handout.CHAPTERS / "ledger.md", REPOSITORY / "README.md", folder / "README.md"]
    texts += [folder / f"{file.stem}.md" for file in chapters]
    return [*chapters, *(text for text in texts if text.exists())]


def read(source: Path) -> Page:
    """Raises ReaderError if a notebook cannot be read, or was not executed to its end without an error."""
    if source.suffix == ".md":
        return Page(source, new_notebook(cells=[new_markdown_cell(source.read_text("utf8"))]))
    try:
        notebook = nbformat.read(source, as_version=4)
    except (ValueError, TypeError, AttributeError) as error:  # whatever nbformat trips over
        raise ReaderError(f"{source} is no notebook: bring it back with git checkout, or leave it out.") from error
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    errors = any(output.output_type == "error" for cell in code for output in cell.outputs)
    if errors or any(cell.execution_count is None for cell in code):
        raise ReaderError(f"{source} was not executed to its end without an error: run every cell and save it.")
    return Page(source, notebook)


# ---- what is made -----------------------------------------------------------------------------------------------


def render(notebook: NotebookNode, title: str, folder: Path, around: dict) -> BeautifulSoup:
    """A notebook as JupyterLab saves it as HTML where the book is installed, with what makes it a page of the book.

    Args:
        folder: where the notebook's pictures are looked for.
        around: addresses of the contents, and of the pages before and after.
    """
    settings = Config(json.loads((DATA / "jupyter" / "jupyter_config.json").read_text("utf8")))
    exporter = HTMLExporter(config=settings, extra_template_basedirs=[str(DATA / "nbconvert")])
    resources = {"metadata": {"name": title, "path": str(folder)}, "edition": around}
    text, _ = exporter.from_notebook_node(notebook, resources)
    return BeautifulSoup(UNCOLOURED.sub(r"\1", text), "html.parser")


def rendered(pages: Sequence[Page]) -> dict[str, BeautifulSoup]:
    """Each page under its name, with links to those before and after it."""
    names, made = {page.source: page.name for page in pages}, {}
    for before, page, after in zip([None, *pages], pages, [*pages[1:], None], strict=False):
        around = {"previous": link_to(before), "next": link_to(after), "contents": "index.html"}
        made[page.name] = render(page.notebook, page.title, page.source.parent, around)
        mend_links(made[page.name].main, page.source.parent, names)
        name_headings(made[page.name].main)
    return made


def link_to(page: Page | None) -> dict[str, str] | None:
    return {"href": page.name, "title": page.title} if page else None


def mend_links(main: Tag, folder: Path, names: dict[Path, str]) -> None:
    """Links to files lead to their pages. Of a link to anything else in the repository only the text stays."""
    for link in main.select("a[href]"):
        path, _, anchor = link["href"].partition("#")
        if urlsplit(link["href"]).scheme or not path:
            continue
        name = names.get((folder / unquote(path)).resolve())
        if name is None:
            link.unwrap()
        else:
            link["href"] = f"{name}#{anchor}" if anchor else name


def name_headings(main: Tag) -> None:
    """Headings of the same words get names of their own."""
    taken = set()
    for heading in main.select("h1, h2, h3, h4, h5, h6"):
        name, n = heading.get("id", "section"), 1
        while heading.get("id") is None or heading["id"] in taken:
            heading["id"], n = f"{name}-{n}", n + 1
        taken.add(heading["id"])


def contents(pages: Sequence[Page], made: dict[str, BeautifulSoup]) -> BeautifulSoup:
    """The first page: what the README begins with, then every page under its part of the book."""
    lines = [(REPOSITORY / "README.md").read_text("utf8").split("\n## ")[0]]
    lines.append('\n<p><a href="book.html">The whole book on one page</a>, to search it or to print it.</p>\n')
    for part in dict.fromkeys(page.part for page in pages):
        entries = [entry(page, made[page.name].main) for page in pages if page.part == part]
        lines += [f"## {part}\n", f'<ul class="contents">{"".join(entries)}</ul>\n']
    title = lines[0].split("\n")[0].removeprefix("# ")
    return render(new_notebook(cells=[new_markdown_cell("\n".join(lines))]), title, REPOSITORY, {"contents": ""})


def entry(page: Page, main: Tag) -> str:
    """A page in the list of contents; a chapter with its sections."""
    shown = main.select("h2") if page.part == "Chapters" else []
    sections = " · ".join(f'<a href="{page.name}#{h["id"]}">{h.decode_contents()}</a>' for h in shown)
    return f'<li><a href="{page.name}">{html.escape(page.title)}</a><p>{sections}</p></li>'


def whole_book(front: BeautifulSoup, made: dict[str, BeautifulSoup]) -> BeautifulSoup:
    """All pages on one, each a section under its own name. The pages are used up."""
    pages = {"index.html": front, **made}
    front.select_one('a[href="book.html"]').parent.decompose()
    for name, soup in pages.items():
        section, stem = soup.main, name.removesuffix(".html")
        section.name, section["id"] = "section", stem
        for element in section.select("[id]"):
            element["id"] = f"{stem}--{element['id']}"
        for link in section.select("a[href]"):
            page, _, anchor = link["href"].partition("#")
            if (page or name) in pages:
                link["href"] = "#" + (page or name).removesuffix(".html") + (f"--{anchor}" if anchor else "")
    main = front.new_tag("main")
    main.extend([soup.section.extract() for soup in pages.values()])
    front.body.clear()
    front.body.append(main)
    return front


# ---- what is written --------------------------------------------------------------------------------------------


def make(out: Path, numbers: Sequence[str] = ()) -> None:
    """Write the pages and the whole book on one page into ``out``, in place of an earlier edition.

    Raises:
        ReaderError: no such chapter, one that was not executed, ``out`` holds something else, or cannot be written.
    """
    if out.exists() and not is_edition(out):
        raise ReaderError(f"{out} is there already and holds something else: choose another folder.")
    pages = [read(source) for source in sources(numbers)]
    made = rendered(pages)
    front = contents(pages, made)
    for name, soup in {"index.html": front, **made}.items():
        save(soup, out / name)
    save(whole_book(front, made), out / "book.html")


def is_edition(out: Path) -> bool:
    """Whether this is an empty folder, or one with pages of an edition."""
    if not out.is_dir():
        return False
    return not any(out.iterdir()) or any(MARK in page.read_text("utf8", "replace") for page in out.glob("*.html"))


def save(soup: BeautifulSoup, file: Path) -> None:
    """Raises ReaderError if the file cannot be written."""
    write_or_explain(file, lambda f: f.write(f"{soup}\n".encode()))


def print_book(out: Path) -> Path:
    """Make ``book.pdf`` of ``book.html``, with page numbers in its contents.

    These are known once it is printed, so it is printed again with them, and once more should they move by that.

    Raises:
        ReaderError: there is no browser for it, or it does not work.
    """
    book, pdf = (out / "book.html").resolve(), (out / "book.pdf").resolve()
    numbers: dict[str, int] = {}
    with tempfile.TemporaryDirectory(dir=out, ignore_cleanup_errors=True) as folder:
        for _ in range(MOST_PRINTS):
            copy = Path(folder).resolve() / "book.html"
            copy.write_text(numbered(book.read_text("utf8"), numbers), "utf8")
            print_page(copy, pdf, f"print {book} from a browser that you have")
            before, numbers = numbers, page_numbers(pdf.read_bytes())
            if numbers == before:
                break
    return pdf


def print_page(page: Path, pdf: Path, instead: str) -> None:
    """Raises ReaderError, which says what to do ``instead``, if no PDF is made."""
    options = [f"--user-data-dir={page.parent / 'profile'}", f"--print-to-pdf={pdf}", *HEADLESS]
    try:
        pdf.unlink(missing_ok=True)
        subprocess.run([browser(), *options, page.as_uri()], capture_output=True, timeout=SECONDS_TO_PRINT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReaderError(f"{pdf} could not be made ({error}): {instead}.") from error
    if not pdf.exists():
        raise ReaderError(f"{browser()} made no {pdf}: {instead}, or name another as CHROMIUM.")


def page_numbers(pdf: bytes) -> dict[str, int]:
    """The page of every place that a link leads to, by its name, of a PDF by Chromium; of another's perhaps none."""
    pages = re.findall(rb"^(\d+) 0 obj\n<</Type /Page\n", pdf, re.MULTILINE)
    places = re.findall(rb"^(?:<<)?/(\S+) \[(\d+) 0 R /XYZ", pdf, re.MULTILINE)
    order = {page: i for i, page in enumerate(pages, start=1)}
    return {as_text(name): order[page] for name, page in places if page in order}


def as_text(name: bytes) -> str:
    """A name of a PDF, in which #c3#a9 stands for é."""
    return re.sub(rb"#([0-9a-fA-F]{2})", lambda found: bytes.fromhex(found[1].decode()), name).decode("utf8", "replace")


def numbered(book: str, numbers: dict[str, int]) -> str:
    """The book with the page number of what each link leads to, for the style sheet to print."""

    def with_number(link: re.Match) -> str:
        page = numbers.get(unquote(html.unescape(link[1])))
        return f'{link[0]} data-page="{page}"' if page else link[0]

    return re.sub(r'<a href="#([^"]+)"', with_number, book)


def browser() -> str:
    """A browser that prints. Raises ReaderError if there is none."""
    for found in map(shutil.which, [os.environ.get("CHROMIUM") or "", *BROWSERS]):
        if found:
            return found
    raise ReaderError("The PDF needs Chromium: install it and run this again, or print book.html from another browser.")


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``make`` and ``print_book`` do."""
    parser = argparse.ArgumentParser("python -m helpers.edition", description="Make an edition to read and to print.")
    parser.add_argument("out", type=Path, help="folder for the edition")
    parser.add_argument("chapters", nargs="*", help="their numbers, such as 03 06; all by default")
    a = parser.parse_args(arguments)
    make(a.out, a.chapters)
    print(a.out / "index.html")
    print(print_book(a.out))


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
