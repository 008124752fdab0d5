"""A handout for a class: notebooks for students, and a copy for the teacher with solutions and expected mistakes.

    python -m helpers.handout OUT 03 06             # chapters 03 and 06
    python -m helpers.handout OUT --key lattice     # all chapters; ``.solution()`` asks for the word "lattice"
    python -m helpers.handout OUT --zip             # OUT/students.zip and OUT/teacher.zip in place of folders

Students open their notebooks with the book installed as its README says. In their folder solutions stay closed: nobody
can open them without a key, or with the teacher's word if there is one. That keeps honest people honest; the tables of
answers are part of the book, which they have.
"""

import argparse
import copy
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from helpers import ReaderError
from helpers.exercises import exercise
from helpers.exercises.kinds import Exercise
from helpers.exercises.locks import lock
from helpers.files import write_or_explain

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
OF_AN_EXERCISE = re.compile(r"\b(?:exercise|predict|outcome)\(")
CHECKED = re.compile(r'exercise\("(\d\d\.\w+)"\)\.check')


def for_students(notebook: NotebookNode) -> NotebookNode:
    """The notebook with the outputs of exercises and predictions cleared."""
    cleared = copy.deepcopy(notebook)
    for cell in cleared.cells:
        if cell.cell_type == "code" and OF_AN_EXERCISE.search(cell.source):
            cell.outputs, cell.execution_count = [], None
    return cleared


def for_the_teacher(notebook: NotebookNode) -> NotebookNode:
    """The notebook with, below each exercise, our solution and what is said to typical wrong answers."""
    told = copy.deepcopy(notebook)
    cells = []
    for cell in told.cells:
        cells.append(cell)
        if cell.cell_type == "code" and (found := CHECKED.search(cell.source)):
            answers = new_markdown_cell(with_answers(exercise(found[1])))
            answers["id"] = f"answers-{found[1].replace('.', '-')}"
            cells.append(answers)
    told.cells = cells
    return told


def with_answers(one: Exercise) -> str:
    """The solution of an exercise, and what is said to each typical wrong answer."""
    expected = "\n".join(f"- {says}" for says in one.wrong)
    return (
        f"**Solution {one.number}** ({one.minutes} minutes)\n\n```python\n{one.solution_code()}\n```\n\n"
        f"What is said to typical wrong answers:\n\n{expected}"
    )


def chapters(numbers: Sequence[str]) -> list[Path]:
    """The notebooks of these chapters with their companions; of all without any.

    Raises:
        ReaderError: there is no such chapter.
    """
    files = sorted(CHAPTERS.glob("*.ipynb"))
    for number in numbers:
        if not any(file.name.startswith(number) for file in files):
            there = ", ".join(sorted({file.name[:2] for file in files}))
            raise ReaderError(f"There is no chapter {number!r}: there are {there}.")
    return [file for file in files if not numbers or file.name.startswith(tuple(numbers))]


def make(out: Path, numbers: Sequence[str] = (), key: str = "", zipped: bool = False) -> list[Path]:
    """Write the students' and the teacher's copy into ``out``; returns both folders, or both archives.

    Raises:
        ReaderError: no such chapter, ``out`` has a handout already, or it cannot be written.
    """
    files, students, teacher = chapters(numbers), out / "students", out / "teacher"
    if taken := [folder for folder in (students, teacher) if folder.exists()]:
        raise ReaderError(f"{taken[0]} is there already: choose another folder, or remove it first.")
    for file in files:
        notebook = nbformat.read(file, as_version=4)
        save(for_students(notebook), students / file.name)
        save(for_the_teacher(notebook), teacher / file.name)
    lock(students, key)
    if not zipped:
        return [students, teacher]
    archives = [Path(shutil.make_archive(str(folder), "zip", folder)) for folder in (students, teacher)]
    for folder in (students, teacher):
        shutil.rmtree(folder)
    return archives


def save(notebook: NotebookNode, file: Path) -> None:
    """Raises ReaderError if the file cannot be written."""
    write_or_explain(file, lambda f: f.write(f"{nbformat.writes(notebook)}\n".encode()))


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``make`` does."""
    parser = argparse.ArgumentParser("python -m helpers.handout", description="Make a handout for a class.")
    parser.add_argument("out", type=Path, help="folder for the handout")
    parser.add_argument("chapters", nargs="*", help="their numbers, such as 03 06; all by default")
    parser.add_argument("--key", default="", help="a word with which students can open solutions")
    parser.add_argument("--zip", action="store_true", help="make archives")
    a = parser.parse_args(arguments)
    print(*make(a.out, a.chapters, a.key, a.zip), sep="\n")


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
