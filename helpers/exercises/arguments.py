"""What a wrong function does with its arguments: exchanges two, turns one round, or never looks at it."""

import copy
import inspect
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from helpers.exercises.differences import as_tensor, close

Cases = Sequence[tuple]
FAILURES = (RuntimeError, ValueError, IndexError, TypeError, AttributeError, ArithmeticError)


def misuse(answer: Callable, reference: Callable, cases: Cases, tolerance: float) -> str:
    """What ``answer`` does with the arguments of ``reference``, if that explains all cases; else an empty string."""
    found, names = results(answer, cases), list(inspect.signature(reference).parameters)
    if any(isinstance(one, Tensor) and one.isnan().any() for one in found):
        return ""
    ignored = [f"`{name}`" for i, name in enumerate(names) if _ignores(answer, reference, cases, i, tolerance)]
    if len(ignored) == len(names):
        return "Your result is always the same: it should depend on the arguments."
    if ignored:
        return f"Your result does not change when {_listed(ignored)} does, and it should."
    for text, changed in _changes(names, cases):
        if close(found, results(reference, changed), tolerance):
            return text
    return ""


def breaks(answer: Callable, cases: Cases, change: Callable[..., tuple], factor: float, tolerance: float) -> bool:
    """Whether a result does not grow by ``factor`` when its arguments change; it cannot be said if the answer fails."""
    before, after = (results(answer, some) for some in (cases, [change(*case) for case in cases]))
    pairs = [(as_tensor(a), as_tensor(b)) for a, b in zip(before, after, strict=True)]
    if any(a is None or b is None for a, b in pairs):
        return False
    return not all(close(b + (1 - factor) * a, a, tolerance) for a, b in pairs)


def _listed(names: Sequence[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else last


def results(function: Callable, cases: Cases) -> list:
    """What a function returns in each case; None where it fails, as many a wrong one does."""
    return [_or_nothing(function, case) for case in cases]


def _or_nothing(function: Callable, case: tuple) -> Any:
    try:
        return function(*copy.deepcopy(case))
    except Exception:  # whatever a reader's function may raise
        return None


def _ignores(answer: Callable, reference: Callable, cases: Cases, i: int, tolerance: float) -> bool:
    """Whether the answer stays the same when argument ``i`` changes, while the reference does not."""
    others = [_with(case, i, _disturbed(case[i])) for case in cases]
    stays = [close(results(one, others), results(one, cases), tolerance) for one in (answer, reference)]
    return stays == [True, False]


def _disturbed(value: Any) -> Any:
    """Other values of the same kind: zeros and signs stay, and so does the range of whole numbers."""
    if not isinstance(value, Tensor):
        return value + 1 if isinstance(value, int) else value * 0.9
    generator = torch.Generator().manual_seed(0)
    if value.is_floating_point():
        return value * torch.randn(value.shape, generator=generator).exp().to(value)
    others = (value.flatten() + 1) % (value.max() + 1)
    return others[torch.randperm(value.numel(), generator=generator)].view(value.shape)


def _changes(names: Sequence[str], cases: Cases) -> Iterator[tuple[str, list[tuple]]]:
    """Every misuse that we know, with the cases as they then are."""
    for i, j in itertools.combinations(range(len(names)), 2):
        exchanged = [_with(_with(case, i, case[j]), j, case[i]) for case in cases]
        yield f"This is what you get if `{names[i]}` and `{names[j]}` change places.", exchanged
    for (text, change), (i, name) in itertools.product(CHANGES.items(), enumerate(names)):
        try:
            yield text.format(f"`{name}`"), [_with(case, i, change(case[i])) for case in cases]
        except FAILURES:
            continue


CHANGES: dict[str, Callable[[Any], Any]] = {
    "This is what you get if {} is transposed.": lambda x: x.mT,
    "This is what you get if {} has the wrong sign.": lambda x: -x,
    "This is what you get if {} is taken twice, one copy multiplied by the other.": lambda x: x @ x,
    "This is what you get if every entry of {} is squared.": lambda x: x.square(),
    "This is what you get if {} is read backwards along its first axis.": lambda x: x.flip(0),
    "This is what you get if {} is read backwards along its last axis.": lambda x: x.flip(-1),
    "This is what you get if {} is shifted one place on along its first axis.": lambda x: x.roll(1, 0),
    "This is what you get if {} is shifted one place back along its first axis.": lambda x: x.roll(-1, 0),
    "This is what you get if {} is shifted one place on along its last axis.": lambda x: x.roll(1, -1),
    "This is what you get if {} is shifted one place back along its last axis.": lambda x: x.roll(-1, -1),
    "This is what you get if {} is one larger.": lambda x: _whole(x) + 1,
    "This is what you get if {} is one smaller.": lambda x: _whole(x) - 1,
}


def _whole(x: Any) -> int:
    if not isinstance(x, int):
        raise TypeError(x)
    return x


def _with(case: tuple, i: int, value: Any) -> tuple:
    return (*case[:i], value, *case[i + 1 :])
