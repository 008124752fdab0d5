"""Exercises that answer back: what the reader writes is tried, and a typical mistake is called by its name.

    exercise("06.1").check(my_answer)   # right, or what is wrong with it
    exercise("06.1").hint()             # one step further, each time it is asked
    exercise("06.1").solution()         # ours
    predict("06.A"), outcome("06.A")    # before and after a figure

A module for each chapter has its exercises, each with a stub that the chapter prints, a reference, and a table of
typical wrong answers with what to say to them; and its predictions.
"""

from importlib import import_module
from typing import TypeVar

from helpers import ReaderError
from helpers.exercises.kinds import Exercise, Reply
from helpers.exercises.predictions import Guess, Prediction, said

Kind = TypeVar("Kind", Exercise, Prediction)

__all__ = ["exercise", "of_chapter", "outcome", "predict"]


def exercise(number: str) -> Exercise:
    """The exercise of this number, such as "06.1".

    Raises:
        ReaderError: there is none.
    """
    return _numbered(number, Exercise)


def predict(number: str) -> Guess:
    """The question of this number, such as "06.A", with its options.

    Raises:
        ReaderError: there is none.
    """
    return Guess(_numbered(number, Prediction))


def outcome(number: str) -> Reply:
    """What came of the prediction of this number.

    Raises:
        ReaderError: there is none.
    """
    return said(_numbered(number, Prediction))


def of_chapter(chapter: str, kind: type[Kind] = Exercise) -> dict[str, Kind]:
    """The exercises of a chapter, such as "06", or its predictions, by their number; none where it has none."""
    try:
        module = import_module(f"helpers.exercises.chapter_{chapter}")
    except ModuleNotFoundError:
        return {}
    return {one.number: one for one in vars(module).values() if isinstance(one, kind)}


def _numbered(number: str, kind: type[Kind]) -> Kind:
    chapter, _, _ = str(number).partition(".")
    known = of_chapter(chapter, kind)
    if number not in known:
        there = f"chapter {chapter} has {', '.join(known)}" if known else "chapters 01 to 12 have some"
        raise ReaderError(f"There is no {kind.__name__.lower()} {number!r}: {there}.")
    return known[number]
