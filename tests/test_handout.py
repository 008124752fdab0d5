"""A handout, opened as a student and as a teacher would."""

import zipfile

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from helpers import ReaderError, handout
from helpers.exercises import exercise
from helpers.exercises.locks import NAME, is_closed, lock
from helpers.handout import main, make

STUB = 'answer = ...\n\nexercise("06.2").check(answer)'
KEY = 'from helpers.exercises import exercise\n\nexercise("06.2").solution({})'


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A folder of chapters with one notebook that has an exercise."""
    said = [new_output("stream", name="stdout", text="said")]
    code = [
        new_code_cell("print('said')", outputs=said, execution_count=1),
        new_code_cell(STUB, outputs=said, execution_count=2),
        new_code_cell('outcome("06.A")', outputs=said, execution_count=3),
    ]
    (tmp_path / "chapters").mkdir()
    nbformat.write(new_notebook(cells=[new_markdown_cell("# 6"), *code]), tmp_path / "chapters" / "06_made_up.ipynb")
    monkeypatch.setattr(handout, "CHAPTERS", tmp_path / "chapters")
    return tmp_path


def test_students_find_the_exercises_empty_and_the_rest_as_it_was(book):
    students, _ = make(book / "out", ["06"])
    cells = nbformat.read(students / "06_made_up.ipynb", as_version=4).cells
    assert [bool(cell.get("outputs")) for cell in cells] == [False, True, False, False]
    assert "Solution" not in (students / "06_made_up.ipynb").read_text("utf8")


def test_the_teacher_finds_solutions_and_expected_mistakes(book):
    _, teacher = make(book / "out")
    cells = nbformat.read(teacher / "06_made_up.ipynb", as_version=4).cells
    answers = cells[3].source
    assert exercise("06.2").solution_code() in answers and all(says in answers for says in exercise("06.2").wrong)
    nbformat.validate(nbformat.read(teacher / "06_made_up.ipynb", as_version=4))


@pytest.mark.slow
def test_a_student_opens_a_solution_with_the_key_alone(book):
    students, teacher = make(book / "out", key="lattice")
    asked = [KEY.format(""), KEY.format('"guess"').splitlines()[-1], KEY.format('"Lattice"').splitlines()[-1]]

    def said_in(folder):
        notebook = new_notebook(cells=[new_code_cell(source) for source in asked])
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
        return ["closed" not in cell.outputs[0].data["text/markdown"] for cell in notebook.cells]

    assert said_in(students) == [False, False, True] and said_in(teacher) == [True, True, True]


def test_without_a_key_or_with_a_damaged_lock_solutions_stay_closed(tmp_path):
    assert not is_closed(tmp_path)
    lock(tmp_path)
    assert is_closed(tmp_path) and is_closed(tmp_path, "") and is_closed(tmp_path, "word")
    (tmp_path / NAME).write_text("{")
    assert is_closed(tmp_path, "word")


def test_archives_hold_what_the_folders_would(book, capsys):
    main([str(book / "out"), "06", "--zip"])
    printed = capsys.readouterr().out.split()
    assert [sorted(zipfile.ZipFile(file).namelist()) for file in printed] == [
        ["06_made_up.ipynb", NAME], ["06_made_up.ipynb"]
    ]  # fmt: skip
    assert not (book / "out" / "students").exists()


def test_what_cannot_be_made_is_said_in_a_sentence(book):
    with pytest.raises(ReaderError, match="There is no chapter '12'"):
        make(book / "out", ["12"])
    make(book / "out")
    with pytest.raises(ReaderError, match="is there already"):
        make(book / "out")
