"""The kinds of exercises, and how an answer to each is judged."""

import copy
import inspect
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from helpers.exercises.arguments import breaks, misuse, results
from helpers.exercises.differences import close, difference, largest, relation
from helpers.exercises.locks import is_closed

RIGHT, NOT_YET = "Right.", "Not attempted yet: replace the dots (...) by your answer and run the cell again."


@dataclass(frozen=True)
class Reply:
    """What is said to an answer, after a mark: right, wrong, or neither."""

    text: str
    mark: str = ""

    @property
    def is_right(self) -> bool:
        return self.mark == "✔"

    def __repr__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return f"{self.mark} {self.text}".strip()


@dataclass(frozen=True, kw_only=True)
class Exercise:
    """What all kinds have: a task, a stub for the chapter, and typical ``wrong`` answers by what to say to them."""

    number: str
    title: str
    minutes: int
    stub: str  # as the chapter prints it; every line of it is in the solution
    wrong: Mapping[str, Any]
    hints: Sequence[str]
    well_done: str = ""  # what the right answer means
    _asked: list[int] = field(default_factory=list, repr=False, compare=False)  # hints that were asked for

    def check(self, answer: Any) -> Reply:
        """Whether ``answer`` is right; if not, what is wrong with it, as far as we can tell."""
        if self._is_untouched(answer):
            return Reply(NOT_YET)
        text = self.judged(answer)
        if text is None:
            return Reply(f"{RIGHT} {self.well_done}".strip(), "✔")
        return Reply(text, "" if text == NOT_YET else "✘")

    def _is_untouched(self, answer: Any) -> bool:
        """Whether there are still dots in the answer, or it is a function that does what the stub does: nothing."""
        if not inspect.isfunction(answer):
            return answer is ... or (isinstance(answer, list | tuple) and any(one is ... for one in answer))
        names: dict[str, Any] = {}
        exec(f"from __future__ import annotations\n{self.stub}", names)
        stubs = [one.__code__ for one in names.values() if inspect.isfunction(one)]
        code = answer.__code__
        return any((code.co_code, code.co_consts) == (stub.co_code, stub.co_consts) for stub in stubs)

    def judged(self, answer: Any) -> str | None:
        """What is wrong with an answer; None if nothing is."""
        raise NotImplementedError

    def hint(self) -> Reply:
        """The next hint; the last one again and again."""
        self._asked.append(min(len(self._asked), len(self.hints) - 1))
        return Reply(self.hints[self._asked[-1]])

    def solution(self, key: str = "") -> Reply:
        """Our answer, as code; in the folder of a handout only with the teacher's ``key``."""
        if is_closed(Path.cwd(), key):
            return Reply('Solutions are closed here: ask your teacher for the key, then `.solution("key")`.')
        return Reply(f"```python\n{self.solution_code()}\n```")

    def solution_code(self) -> str:
        """The code that answers the stub."""
        raise NotImplementedError


# ---- write a function ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Function(Exercise):
    """Write a function: called with each of ``cases``, it is compared with ``reference``, then with the wrong ones.

    The result may be known to stay, or to grow by a factor, when the arguments change in some way: ``laws`` has what
    to say if it does not, and nothing closer is known.
    """

    reference: Callable
    cases: Callable[[], Sequence[tuple]]  # the arguments of each call
    tolerance: float = 1e-4
    laws: Mapping[str, tuple[Callable[..., tuple], float]] = field(default_factory=dict)

    def judged(self, answer: Any) -> str | None:
        """Compares what the function returns in all cases at once: a mistake is named if it explains all of them."""
        if not callable(answer):
            return f"A function is asked for; this is {_what(answer)}."
        found = []
        for case in self.cases():
            try:
                found.append(answer(*copy.deepcopy(case)))
            except Exception as error:
                return _own_line(error)
            if found[-1] is ...:
                return NOT_YET
            if found[-1] is None:
                return "Your function returns nothing (None): does it end with a return?"
        wanted = [self.reference(*case) for case in self.cases()]
        if self._agree(found, wanted):
            return None
        for text, wrong in self.wrong.items():
            if self._agree(found, results(wrong, self.cases())):
                return text
        return (
            relation(found, wanted, self.tolerance)
            or misuse(answer, self.reference, self.cases(), self.tolerance)
            or difference(found, wanted, self.tolerance)
            or self._broken_law(answer)
            or largest(found, wanted)
        )

    def _broken_law(self, answer: Callable) -> str:
        laws = (text for text, law in self.laws.items() if breaks(answer, self.cases(), *law, self.tolerance))
        return next(laws, "")

    def _agree(self, one: Sequence, other: Sequence) -> bool:
        return all(close(a, b, self.tolerance) for a, b in zip(one, other, strict=True))

    def solution_code(self) -> str:
        return textwrap.dedent(inspect.getsource(self.reference)).strip()


def _own_line(error: Exception) -> str:
    """The last line of the reader's own code that led to an error, and the error; not our traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_OURS)]
    where = f"Line {frames[0].lineno} of your code, `{frames[0].line}`," if frames else "Your code"
    said = str(error).splitlines()[0] if str(error) else "without a word"
    if len(said) > 200:
        said = f"{said[:200]} …"
    return f"{where} ends with {type(error).__name__}: {said}."


_OURS = __file__


def _what(answer: Any) -> str:
    if isinstance(answer, Tensor):
        return f"a tensor of shape {list(answer.shape)}"
    return "nothing (None)" if answer is None else f"of type {type(answer).__name__}"


# ---- a number, a sign, a choice -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Value(Exercise):
    """Find a number, a list of numbers or signs, or choose: compared with ``right``, then with the wrong ones.

    Of ``choices``, if there are any, the answer must be one, or a list of some for each question.
    """

    right: Any
    choices: Sequence[str] = ()
    tolerance: float = 1e-3

    def judged(self, answer: Any) -> str | None:
        """Numbers may be tensors, and a choice may differ in case and blanks."""
        answer, right = _plain(answer), _plain(self.right)
        if self.choices and (strange := [one for one in _as_list(answer) if one not in map(_plain, self.choices)]):
            return f"Choose among {', '.join(map(repr, self.choices))}; {strange[0]!r} is none of them."
        if type(answer) is not type(right):
            return f"{_kind(right)} is asked for; this is {_what(answer)}."
        if isinstance(right, list) and len(answer) != len(right):
            return f"{len(right)} entries are asked for; these are {len(answer)}."
        if _same(answer, right, self.tolerance):
            return None
        for text, wrong in self.wrong.items():
            if _same(answer, _plain(wrong), self.tolerance):
                return text
        if isinstance(right, list):
            return self._partly(answer, right)
        if isinstance(right, float):
            too = "small" if answer < right else "large"
            return relation([answer], [right], self.tolerance) or f"That is too {too}."
        return "That is not it."

    def _partly(self, answer: list, right: list) -> str:
        """How many entries are right, and the mistake of the table that explains most of the others."""
        missed = self._missed(answer, right)
        says = f"{len(right) - len(missed)} of {len(right)} entries are right."
        explained = {
            text: at
            for text, wrong in self.wrong.items()
            if (at := self._missed(_plain(wrong), right)) <= missed and not at & self._missed(answer, _plain(wrong))
        }
        return f"{says} {max(explained, key=lambda text: len(explained[text]))}" if explained else says

    def _missed(self, answer: list, right: list) -> set[int]:
        """Where two lists differ."""
        return {i for i, (a, b) in enumerate(zip(answer, right, strict=True)) if not _same(a, b, self.tolerance)}

    def solution_code(self) -> str:
        return self.stub.replace("...", repr(self.right))


def _plain(value: Any) -> Any:
    """Tensors and numpy numbers as floats and lists, whole numbers as floats, words in small letters."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, complex) and not value.imag:
        return value.real
    if isinstance(value, str):
        return " ".join(value.lower().split())
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_list(value: Any) -> list:
    return value if isinstance(value, list) else [value]


def _same(one: Any, other: Any, tolerance: float) -> bool:
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b, tolerance) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= tolerance * max(1.0, abs(other))
    return type(one) is type(other) and one == other


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"A list of {len(value)}"
    return {float: "A number", str: "A word", bool: "True or False"}.get(type(value), "Something else")


# ---- build something ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Built(Exercise):
    """Build a tensor, or find a counterexample: anything that meets all of ``conditions``, tried in this order.

    Each condition has what to say where it is not met. ``wrong`` are whole answers, said before any condition.
    """

    shape: tuple[int | None, ...]  # None for any size
    conditions: Mapping[str, Callable[[Tensor], bool]]
    example: Callable[[], Tensor]

    def judged(self, answer: Any) -> str | None:
        """A tensor of the right shape with finite entries, then the conditions. A function is called for it."""
        if callable(answer) and not isinstance(answer, Tensor):
            try:
                answer = answer()
            except Exception as error:
                return _own_line(error)
            if answer is ...:
                return NOT_YET
        try:
            built = torch.as_tensor(answer).double()
        except (TypeError, ValueError, RuntimeError):
            return f"A tensor is asked for; this is {_what(answer)}."
        fits = built.ndim == len(self.shape) and all(
            n in (None, m) for n, m in zip(self.shape, built.shape, strict=False)
        )
        if not fits:
            wanted = [n or "any" for n in self.shape]
            return f"A tensor of shape {wanted} is asked for; this has the shape {list(built.shape)}.".replace("'", "")
        if not built.isfinite().all():
            return "Some entries are infinite, or not numbers at all (nan)."
        for text, wrong in self.wrong.items():
            if close(built, torch.as_tensor(wrong() if callable(wrong) else wrong).double(), 1e-6):
                return text
        return next((text for text, holds in self.conditions.items() if not holds(built)), None)

    def solution_code(self) -> str:
        return textwrap.dedent(inspect.getsource(self.example)).strip()
