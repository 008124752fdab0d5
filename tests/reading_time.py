"""How long a chapter takes to read, by rule: 200 words a minute, 30 s for a figure or table, 2 s for a line of code.

Exercises and predictions are apart: what belongs to them begins with their name in bold, up to the next such cell or
heading or any other text.

python -m tests.reading_time            # minutes of every chapter
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from helpers.exercises import of_chapter
from tests.execute import CHAPTERS

APART = re.compile(r"\*\*(Exercise|Prediction) \d\d\.\w")
OF_EXERCISES = re.compile(r"\b(exercise|predict|outcome)\(")


@dataclass(frozen=True)
class ReadingTime:
    """What there is to read in a chapter."""

    words: int
    shown: int  # figures, tables and explorers
    lines: int  # of code

    @property
    def minutes(self) -> float:
        return self.words / 200 + self.shown / 2 + self.lines / 30


def reading_time(notebook: NotebookNode) -> ReadingTime:
    """Of all cells but those of exercises and predictions. Rows of claims are one table; captions count as words."""
    words = shown = lines = 0
    for cell in notebook.cells:
        if APART.match(cell.source) or (cell.cell_type == "code" and OF_EXERCISES.search(cell.source)):
            continue
        if cell.cell_type == "markdown":
            words += n_words(cell.source)
            continue
        lines += sum(bool(line.strip()) for line in cell.source.splitlines())
        for data in (output.get("data", {}) for output in cell.outputs):
            text = data.get("text/markdown", "")
            is_table = text.startswith("| ") or "\n| " in text
            shown += "image/png" in data or "image/svg+xml" in data or is_table
            words += n_words("\n".join(line for line in text.splitlines() if not line.startswith(("|", "*S"))))
    return ReadingTime(words, shown, lines)


def n_words(markdown: str) -> int:
    """Words and numbers; not marks, nor the addresses of links."""
    return len(re.findall(r"\w[\w'’.-]*", re.sub(r"\]\([^)]*\)", "]", markdown)))


def exercise_minutes(number: str) -> int:
    """What the exercises of a chapter are said to take."""
    return sum(one.minutes for one in of_chapter(number).values())


if __name__ == "__main__":
    for path in [Path(p) for p in sys.argv[1:]] or sorted(CHAPTERS.glob("*.ipynb")):
        time = reading_time(nbformat.read(path, as_version=4))
        print(f"{path.stem:34} {time.minutes:4.1f} min + {exercise_minutes(path.name[:2]):2} min, {time}")
