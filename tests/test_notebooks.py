"""The chapters as files: executed, clean, small; and the machinery that keeps and compares their outputs."""

import ast
import itertools
import json
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.corpus import locate, read_manifest
from tests.execute import CHAPTERS, WIDGET_VIEW, clean, execute

REPOSITORY = CHAPTERS.parent
MACHINE_PATH = re.compile(r"(?<![\w.~/-])/(tmp|root|home|opt|work|Users)/\w")
IMAGES = ("image/png", "image/jpeg", "image/svg+xml")


@pytest.fixture(params=sorted(CHAPTERS.glob("*.ipynb")), ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


@pytest.fixture
def notebook(path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook: NotebookNode) -> Iterator[NotebookNode]:
    for cell in code_cells(notebook):
        yield from cell.outputs


# ---- every chapter ----------------------------------------------------------------------------------------------


def test_a_chapter_is_a_valid_notebook_for_any_python_3(path, notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3" and notebook.metadata.kernelspec.language == "python"
    assert path.stat().st_size < 1_000_000
    assert re.fullmatch(r"\d\db?_[a-z0-9_]+", path.stem) and notebook.cells[0].source.startswith("# ")


def test_a_chapter_was_executed_from_top_to_bottom_without_errors(notebook):
    assert [cell.execution_count for cell in code_cells(notebook)] == list(range(1, len(code_cells(notebook)) + 1))
    assert not [output for output in outputs(notebook) if output.output_type == "error"]


def test_a_chapter_holds_nothing_of_one_session(notebook):
    saved = json.loads(json.dumps(notebook))
    clean(notebook)
    assert saved == notebook
    assert all(not cell.metadata for cell in notebook.cells)


def test_code_cells_are_short_and_plain(notebook):
    for cell in code_cells(notebook):
        assert 0 < n_lines(cell) <= 15 and len(cell.source) <= 700, cell.source
        assert max(map(len, cell.source.splitlines())) <= 100, cell.source
        assert not re.search(r";$", cell.source, re.MULTILINE), cell.source
        assert not re.search(r"pyplot|\bplt\.|NBVAL_SKIP|NBVAL_RAISES|https?://", cell.source), cell.source


def test_half_of_the_code_cells_have_at_most_eight_lines(notebook):
    assert statistics.median(map(n_lines, code_cells(notebook))) <= 8


def n_lines(cell: NotebookNode) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def test_a_cell_that_shows_something_asserts_nothing(notebook):
    """Asserts stand in a cell of their own, so that the mechanism and the figure are all there is to read."""
    for cell in code_cells(notebook):
        shows = any(output.output_type != "stream" for output in cell.outputs)
        assert not (shows and re.search(r"^\s*assert\b", cell.source, re.MULTILINE)), cell.source


def test_names_are_imported_where_they_are_first_used(notebook):
    """Each import stands in the first cell that uses the name, and the same name is not imported twice."""
    imported = set()
    for cell in code_cells(notebook):
        tree = ast.parse(cell.source)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert names <= used and not names & imported, cell.source
        imported |= names


def test_every_picture_is_followed_by_its_caption(notebook):
    for cell in code_cells(notebook):
        for output, following in itertools.pairwise([*cell.outputs, {}]):
            if any(image in output.get("data", {}) for image in IMAGES):
                assert "text/markdown" in output.data or "text/markdown" in following.get("data", {}), cell.source


def test_output_that_is_not_compared_is_asserted(notebook):
    cells = code_cells(notebook)
    for cell, following in itertools.pairwise([*cells, new_code_cell()]):
        if "NBVAL_IGNORE_OUTPUT" in cell.source:
            assert re.search(r"^\s*assert\b", f"{cell.source}\n{following.source}", re.MULTILINE), cell.source


def test_nothing_names_a_folder_of_the_machine_that_made_it(notebook):
    texts = [cell.source for cell in notebook.cells]
    for output in outputs(notebook):
        kept = {mime: content for mime, content in output.get("data", {}).items() if mime not in IMAGES}
        texts += [output.get("text", ""), json.dumps(kept)]
    assert not [match.group() for text in texts for match in MACHINE_PATH.finditer(text)]


def test_links_between_chapters_and_to_files_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", cell.source):
                assert (path.parent / target).exists(), target


def test_chapters_of_the_readme_and_chapters_of_the_folder_are_the_same():
    named = set(re.findall(r"\(chapters/([^)]+\.ipynb)\)", (REPOSITORY / "README.md").read_text("utf8")))
    assert named == {path.name for path in CHAPTERS.glob("*.ipynb")}


# ---- the machinery ----------------------------------------------------------------------------------------------


def test_cleaning_drops_widgets_bars_timings_and_stderr_and_keeps_the_rest():
    view = {WIDGET_VIEW: {"model_id": "abc"}, "text/plain": "IntSlider(value=0)"}
    kept = [
        new_output("stream", name="stdout", text="printed\n"),
        new_output("display_data", data={"image/png": "aGk=", "text/plain": "caption"}),
        new_output("execute_result", data={"text/plain": "1"}, execution_count=1),
    ]
    still = new_output("display_data", data={"text/markdown": "*a table*", "text/plain": "Explorer()"})
    with_still = new_output("display_data", data=still.data | {WIDGET_VIEW: {"model_id": "def"}})
    noise = [new_output("stream", name="stderr", text=" 50%|###"), new_output("display_data", data=view)]
    timing = {"execution": {"iopub.execute_input": "now"}}
    cell = new_code_cell("1", metadata=timing, outputs=[*noise, *kept, with_still])
    dirty = new_notebook(
        cells=[cell, new_markdown_cell("text")],
        metadata={
            "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"abc": {}}}},
            "language_info": {"name": "python", "version": "3.11.7"},
        },
    )
    clean(dirty)
    assert dirty.cells[0].outputs == [*kept, still] and dirty.cells[0].metadata == {}
    assert dirty.metadata == {"language_info": {"name": "python"}} and dirty.cells[1].source == "text"


DIFFERENT_EVERY_TIME = [
    "import sys, time, ipywidgets\nfrom tqdm.auto import tqdm\nfrom IPython.display import HTML",
    "for _ in tqdm(range(3)):\n    pass\nprint(object(), 'in', round(time.time() % 60, 1), 's')",
    "print(time.time(), file=sys.stderr)\nipywidgets.IntSlider(description=str(time.time()))",
    "HTML(f'<p>{time.time()}</p>')",
    "# NBVAL_IGNORE_OUTPUT\nprint(time.time())",
]
WRONG = {  # the source of each cell, and what it printed when it was "saved"
    "print(1)": "2\n",
    "import ipywidgets, time\nprint(time.time_ns())": "1763715600000000000\n",
    "1 / 0": "",
    "with ipywidgets.Output():\n    1 / 0": "",
    "print(2)": "2\n",
}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory) -> dict[str, list[str]]:
    """What pytest, with the settings of this repository, says of the cells of two small notebooks."""
    folder = tmp_path_factory.mktemp("book")
    for name in (
        "pyproject.toml",
        "chapters/conftest.py",
        "tests/__init__.py",
        "tests/execute.py",
        "tests/nbval_sanitize.cfg",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    good = new_notebook(cells=[new_code_cell(source) for source in DIFFERENT_EVERY_TIME], metadata=kernel)
    nbformat.write(good, folder / "chapters" / "good.ipynb")
    execute(folder / "chapters" / "good.ipynb")
    wrong = new_notebook(
        metadata=kernel,
        cells=[
            new_code_cell(source, execution_count=1, outputs=[new_output("stream", text=text)] if text else [])
            for source, text in WRONG.items()
        ],
    )
    nbformat.write(wrong, folder / "chapters" / "wrong.ipynb")
    done = subprocess.run([sys.executable, "-m", "pytest", "-v", "-n", "0"], cwd=folder, capture_output=True, text=True)
    return {name: re.findall(rf"{name}::ipynb::Cell \d+ (\w+)", done.stdout) for name in ("good", "wrong")}


@pytest.mark.slow
def test_what_may_differ_from_run_to_run_passes(verdicts):
    assert verdicts["good"] == ["PASSED"] * len(DIFFERENT_EVERY_TIME)


@pytest.mark.slow
def test_other_outputs_errors_and_errors_in_widgets_fail(verdicts):
    printed = [
        "FAILED" if all(locate(file.path) for file in read_manifest()) else "PASSED"
    ] * 2  # see chapters/conftest
    assert verdicts["wrong"] == [*printed, "FAILED", "FAILED", "PASSED"]


def test_the_sanitizer_is_ascii_and_replaces_by_something():
    lines = (REPOSITORY / "tests" / "nbval_sanitize.cfg").read_text("ascii").splitlines()
    patterns = [line.removeprefix("regex: ") for line in lines if line.startswith("regex:")]
    words = [line.removeprefix("replace: ") for line in lines if line.startswith("replace:")]
    assert len(patterns) == len(words) == len(set(patterns)) > 0 and all(words)
    assert all(re.compile(pattern) for pattern in patterns)
