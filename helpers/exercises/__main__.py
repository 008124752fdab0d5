"""What teachers read of the exercises, generated from their tables.

python -m helpers.exercises 06        # the exercises of chapter 06: minutes, solutions' hints, expected mistakes
python -m helpers.exercises --write   # into the pages of chapters/teaching
"""

import sys
from pathlib import Path
from typing import Any

from helpers import ReaderError
from helpers.exercises import of_chapter
from helpers.exercises.kinds import Exercise
from helpers.exercises.predictions import Prediction
from helpers.files import DATA, Marks

TEACHING = DATA.parent / "chapters" / "teaching"
ANSWERS = Marks("<!-- answers: python -m helpers.exercises --write -->", "<!-- end of the answers -->")


def answers(chapter: str) -> str:
    """What to expect of a class, in Markdown: of each exercise its minutes and typical mistakes; every prediction.

    Raises:
        ReaderError: the chapter has no exercises.
    """
    exercises, predictions = of_chapter(chapter), of_chapter(chapter, Prediction)
    if not exercises:
        raise ReaderError(f"There are no exercises of a chapter {chapter!r}: chapters 01 to 12 have some.")
    return "\n\n".join([*map(_exercise, exercises.values()), *map(_prediction, predictions.values())])


def _exercise(one: Exercise) -> str:
    mistakes = "\n".join(f"- {_answered(wrong)}{says}" for says, wrong in one.wrong.items())
    return f"**{one.number} {one.title}** ({one.minutes} minutes). Said to typical wrong answers:\n\n{mistakes}"


def _answered(wrong: Any) -> str:
    """A wrong value, before what is said to it; functions and matrices are described by that alone."""
    if isinstance(wrong, str | int | float):
        return f"`{wrong:.3g}`: " if isinstance(wrong, float) else f"`{wrong}`: "
    if isinstance(wrong, list | tuple) and not isinstance(wrong[0], list | tuple):
        return f"`{', '.join(f'{one:.3g}' if isinstance(one, float) else str(one) for one in wrong)}`: "
    return ""


def _prediction(one: Prediction) -> str:
    told = "\n".join(f"- {says}" for says in one.everything())
    return f"**Prediction {one.number}.** {one.question}\n\n{told}"


def pages() -> dict[str, Path]:
    """The teacher's page of each chapter, by its number."""
    return {file.name[:2]: file for file in sorted(TEACHING.glob("[0-9][0-9]_*.md"))}


def main(arguments: list[str]) -> None:
    """The command line. Raises ReaderError for a chapter without exercises, or a page without its marks."""
    match arguments:
        case ["--write"]:
            for chapter, page in pages().items():
                ANSWERS.write(page, answers(chapter))
        case ["-h" | "--help"] | []:
            print(__doc__)
        case _:
            print(*map(answers, arguments), sep="\n\n")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ReaderError as error:
        sys.exit(str(error))
