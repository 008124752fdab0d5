"""What chapters promise to readers and teachers: minutes, exercises where they belong, predictions before figures."""

import math
import re
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers.exercises import of_chapter
from helpers.exercises.__main__ import ANSWERS, answers, main, pages
from helpers.exercises.predictions import Prediction
from tests.execute import CHAPTERS
from tests.reading_time import ReadingTime, exercise_minutes, reading_time

LONGEST = 25  # minutes
NUMBERS = [f"{i:02}" for i in range(1, 13)]
README = (CHAPTERS.parent / "README.md").read_text("utf8")


def notebooks_of(number: str) -> dict[Path, nbformat.NotebookNode]:
    """A chapter and its companion, if it has one."""
    return {file: nbformat.read(file, as_version=4) for file in sorted(CHAPTERS.glob(f"{number}*.ipynb"))}


# ---- minutes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_a_chapter_takes_at_most_25_minutes_and_says_how_many(number):
    file, *_ = found = notebooks_of(number)
    for notebook in found.values():
        minutes = math.ceil(reading_time(notebook).minutes)
        assert minutes <= LONGEST
        assert f"*{minutes} minutes to read" in notebook.cells[0].source
    minutes = math.ceil(reading_time(found[file]).minutes)
    doing = exercise_minutes(number)
    assert f"*{minutes} minutes to read, {doing} for the exercises" in found[file].cells[0].source
    row = next(line for line in README.splitlines() if f"(chapters/{file.name})" in line)
    assert f"| {minutes} min | {doing} min |" in row


def test_the_rule_counts_what_is_read_and_leaves_exercises_apart():
    table = new_output("display_data", data={"text/markdown": "| a |\n| --- |\n| 1 |\n\n*Three more words.*"})
    cells = [
        new_markdown_cell("Two [words](https://example.org/not/these)"),
        new_code_cell("x = 1\n\ny = 2", outputs=[table]),
        new_markdown_cell("**Exercise 06.1 · Not counted** (3 minutes). At all."),
        new_code_cell('exercise("06.1").check(...)'),
    ]
    assert reading_time(new_notebook(cells=cells)) == ReadingTime(words=5, shown=1, lines=2)
    assert ReadingTime(words=200, shown=2, lines=30).minutes == 3


# ---- exercises and predictions in their chapters --------------------------------------------------------------------


@pytest.mark.parametrize("number", NUMBERS)
def test_every_exercise_stands_once_in_its_chapter_with_its_title_minutes_and_stub(number):
    cells = [cell for notebook in notebooks_of(number).values() for cell in notebook.cells]
    assert len(of_chapter(number)) >= 5
    for one in of_chapter(number).values():
        (place,) = (i for i, cell in enumerate(cells) if f'exercise("{one.number}").check(' in cell.source)
        assert cells[place - 1].source.startswith(f"**Exercise {one.number} · {one.title}** ({one.minutes} minutes).")
        assert one.stub.strip() in cells[place].source
        assert "Not attempted yet" in cells[place].outputs[0].data["text/markdown"]


@pytest.mark.parametrize("number", NUMBERS)
def test_predictions_come_before_their_outcome_with_a_figure_or_table_between(number):
    file, *_ = found = notebooks_of(number)
    sources = [cell.source for cell in found[file].cells]
    assert len(of_chapter(number, Prediction)) >= 2
    for name in of_chapter(number, Prediction):
        (asked,) = (i for i, source in enumerate(sources) if f'predict("{name}")' in source)
        (told,) = (i for i, source in enumerate(sources) if f'outcome("{name}")' in source)
        assert any(re.search(r"picture\(|Table\(|explorer\(", source) for source in sources[asked + 1 : told])


# ---- the teacher's pages --------------------------------------------------------------------------------------------


def test_every_chapter_has_a_page_for_its_teacher_with_what_to_expect():
    assert list(pages()) == NUMBERS
    for number, page in pages().items():
        assert ANSWERS.between(page) == answers(number).strip(), "python -m helpers.exercises --write"


@pytest.mark.parametrize("number", NUMBERS)
def test_a_page_names_for_each_objective_its_exercise_and_its_claim(number):
    from helpers.claims import CLAIMS

    page = pages()[number].read_text("utf8")
    objectives = re.search(r"^## Objectives\n\n(.+?)\n\n## ", page, re.MULTILINE | re.DOTALL)[1].splitlines()
    for line in objectives:
        named = re.findall(rf"\b{number}\.\d", line)
        assert named and set(named) <= set(of_chapter(number)), line
        assert number == "09" or set(re.findall(r"`([\w:-]+)`", line)) & set(CLAIMS), line


@pytest.mark.parametrize("number", NUMBERS)
def test_links_of_a_page_lead_somewhere(number):
    page = pages()[number]
    for target in re.findall(r"\]\((?!https?://|#)([^)#\s]+)", page.read_text("utf8")):
        assert (page.parent / target).exists(), target


def test_the_command_prints_what_to_expect(capsys):
    main(["06"])
    printed = capsys.readouterr().out
    assert all(says in printed for says in of_chapter("06")["06.2"].wrong)
