"""What tells two results apart, in a sentence: a transpose, a sign, a factor, a shift, a sum; or where they differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Pairs = Sequence[tuple[Tensor, Tensor]]  # what was found and what is wanted, case by case
Changes = Mapping[str, Callable[[Tensor], Tensor]]


def close(one: Any, other: Any, tolerance: float) -> bool:
    """Whether two results are equal up to rounding: numbers, tensors, or sequences of them."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return len(one) == len(other) and all(close(a, b, tolerance) for a, b in zip(one, other, strict=True))
    one, other = as_tensor(one), as_tensor(other)
    if one is None or other is None or one.shape != other.shape:
        return False
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance * _size(other), equal_nan=True)


def relation(found: Sequence, wanted: Sequence, tolerance: float) -> str:
    """The one relation that leads from every wanted result to the one found; an empty string if none does."""
    pairs = _pairs(found, wanted)
    if any(a is None or b is None or a.isnan().any() for a, b in pairs) or _is_constant([a for a, _ in pairs]):
        return ""
    return (
        _first(RELATIONS, pairs, tolerance)
        or _first(SUMMED, pairs, tolerance)
        or _first(KEPT, [(b, a) for a, b in pairs], tolerance)
    )


def difference(found: Sequence, wanted: Sequence, tolerance: float) -> str:
    """What is wrong with results that no relation explains: their kind, shape or factor, or one place; else empty."""
    pairs = _pairs(found, wanted)
    for one, (a, b) in zip(found, pairs, strict=True):
        if b is None:
            return "That is not what is asked for."
        if a is None:
            return COMPLEX if _is_complex(one) else "A tensor or a number is asked for; this is something else."
    for a, b in pairs:
        if a.shape != b.shape:
            return f"The result has the shape {list(a.shape)}; {list(b.shape)} is asked for."
    if any(a.isnan().any() and not b.isnan().any() for a, b in pairs):
        return NAN
    return scaled(pairs, tolerance) or _where(pairs, tolerance)


NAN = (
    "Some entries are no numbers (nan): is something divided by 0, a logarithm or root taken of a negative number, or "
    "a softmax of -inf alone?"
)


def largest(found: Sequence, wanted: Sequence) -> str:
    """Where results of the same shapes differ most."""
    return _largest(_pairs(found, wanted))


COMPLEX = (
    "Your result has a complex type, and real numbers are asked for: if the imaginary parts cancel, take `.real`; "
    "if there is a root of a negative number, look at its sign."
)
TRANSPOSED = "This is the transpose of what is asked for: rows and columns are exchanged."
RELATIONS: Changes = {
    TRANSPOSED: lambda x: x.mT,
    "Every sign is the wrong way round.": lambda x: -x,
    "The signs are lost: is there an absolute value or a square too many?": lambda x: x.abs(),
    "The last axis is read backwards.": lambda x: x.flip(-1),
    "Everything stands one place too late along the last axis.": lambda x: x.roll(1, -1),
    "Everything stands one place too early along the last axis.": lambda x: x.roll(-1, -1),
    "Everything stands one place too late along the axis before the last.": lambda x: x.roll(1, -2),
    "Everything stands one place too early along the axis before the last.": lambda x: x.roll(-1, -2),
    "This is the logarithm of what is asked for.": lambda x: x.log(),
    "This is the exponential of what is asked for.": lambda x: x.exp(),
    "This is the square of what is asked for: take its root.": lambda x: x**2,
    "This is the root of what is asked for.": lambda x: x.sqrt(),
    "This is 1 over what is asked for: is a fraction upside down?": lambda x: 1 / x,
    "This is 1 minus what is asked for.": lambda x: 1 - x,
    "A softmax over the last axis is missing.": lambda x: x.log() - x.log().logsumexp(-1, keepdim=True),
    "There is a softmax too many, over the last axis.": lambda x: x.softmax(-1),
    "There is a softmax too many, over the first axis.": lambda x: x.softmax(0),
    "The mean over the last axis has been taken off.": lambda x: x - x.mean(-1, keepdim=True),
    "The mean over the first axis has been taken off.": lambda x: x - x.mean(0, keepdim=True),
    "Everything has been divided by its sum along the last axis.": lambda x: x / x.sum(-1, keepdim=True),
    "Everything has been divided by its length along the last axis.": lambda x: x / x.norm(dim=-1, keepdim=True),
    "These are running sums along the first axis.": lambda x: x.cumsum(0),
    "These are running sums along the last axis.": lambda x: x.cumsum(-1),
    "Negative entries have been set to 0.": lambda x: x.relu(),
}
SUMMED: Changes = {
    "You summed over the first axis as well; keep it.": lambda x: x.sum(0),
    "You summed over the last axis as well; keep it.": lambda x: x.sum(-1),
    "You averaged over the first axis as well; keep it.": lambda x: x.mean(0),
    "You averaged over the last axis as well; keep it.": lambda x: x.mean(-1),
    "You summed over everything; keep the axes.": lambda x: x.sum(),
    "You averaged over everything; keep the axes.": lambda x: x.mean(),
    "This is only the diagonal of what is asked for.": lambda x: x.diagonal(),
    "This is only the last row of what is asked for.": lambda x: x[-1],
    "This is only the first row of what is asked for.": lambda x: x[0],
    "The last place along the first axis is missing.": lambda x: x[:-1],
    "The first place along the first axis is missing.": lambda x: x[1:],
    "The last place along the last axis is missing.": lambda x: x[..., :-1],
    "The first place along the last axis is missing.": lambda x: x[..., 1:],
}
KEPT: Changes = {  # what leads from the result that was found to the wanted one
    "There is an axis of length 1 too many.": lambda x: x.squeeze(),
    "Nearly: a sum over the first axis is missing.": lambda x: x.sum(0),
    "Nearly: a sum over the last axis is missing.": lambda x: x.sum(-1),
    "Nearly: a mean over the first axis is missing.": lambda x: x.mean(0),
    "Nearly: a mean over the last axis is missing.": lambda x: x.mean(-1),
    "Nearly: a sum over all entries is missing.": lambda x: x.sum(),
    "Nearly: a mean over all entries is missing.": lambda x: x.mean(),
    "Only the diagonal of this is asked for.": lambda x: x.diagonal(),
    "Only the last row of this is asked for.": lambda x: x[-1],
    "There is a place too many at the end of the first axis.": lambda x: x[:-1],
    "There is a place too many at the start of the first axis.": lambda x: x[1:],
    "There is a place too many at the end of the last axis.": lambda x: x[..., :-1],
    "There is a place too many at the start of the last axis.": lambda x: x[..., 1:],
}


def _is_constant(found: Sequence[Tensor]) -> bool:
    """Whether several results are all the same, and so explain nothing."""
    return len(found) > 1 and all(torch.equal(one, found[0]) for one in found)


def _first(changes: Changes, pairs: Pairs, tolerance: float) -> str:
    """The first change that leads from the second to the first of every pair."""
    holds = (text for text, change in changes.items() if all(_explains(change, a, b, tolerance) for a, b in pairs))
    return next(holds, "")


def _explains(change: Callable[[Tensor], Tensor], a: Tensor, b: Tensor, tolerance: float) -> bool:
    """Whether ``a`` is the changed ``b``, and that is not what ``b`` was before."""
    if b.ndim < 2 and change is RELATIONS[TRANSPOSED]:
        return False
    try:
        changed = change(b) if b.ndim else change(torch.stack([b, b + 1.2345]))[0]  # of a number, no sums over axes
    except (RuntimeError, IndexError):
        return False
    return close(a, changed, tolerance)


def scaled(pairs: Pairs, tolerance: float) -> str:
    """A factor or a constant between results and what is asked for, the same in all; empty if there is none."""
    a, b = (torch.cat([one.flatten() for one in side]) for side in zip(*pairs, strict=True))
    if len(a) < 2 or not b.any():
        return ""
    factor = ((a @ b) / (b @ b)).item()
    if close(a, factor * b, tolerance) and abs(factor) > tolerance:
        return f"Everything is {factor:.3g} times what is asked for."
    shift = (a - b).mean().item()
    if close(a, b + shift, tolerance):
        return f"Everything is {abs(shift):.3g} too {'large' if shift > 0 else 'small'}."
    if min(len(x.flatten()) for x, _ in pairs) < 2:
        return ""
    factors = [((x.flatten() @ y.flatten()) / (y.flatten() @ y.flatten())).item() for x, y in pairs]
    if all(close(x, f * y, tolerance) and abs(f) > tolerance for f, (x, y) in zip(factors, pairs, strict=True)):
        listed = ", ".join(f"{factor:.3g}" for factor in factors)
        return f"The result is right up to a factor, {listed} in our trials: what should it be divided by?"
    return ""


PLACES: Mapping[str, Callable[[Tensor], Tensor]] = {  # of a tensor of ones
    "on the diagonal": lambda x: x.tril().triu(),
    "below the diagonal": lambda x: x.tril(-1),
    "above the diagonal": lambda x: x.triu(1),
    "in the first row": lambda x: _only(x, -2, 0),
    "in the last row": lambda x: _only(x, -2, -1),
    "at the first place of the last axis": lambda x: _only(x, -1, 0),
    "at the last place of the last axis": lambda x: _only(x, -1, -1),
    "at the first place of the first axis": lambda x: _only(x, 0, 0),
    "at the last place of the first axis": lambda x: _only(x, 0, -1),
}


def _where(pairs: Pairs, tolerance: float) -> str:
    """The one named place where results differ, in all cases; empty if there is none."""
    for place, marked in PLACES.items():
        if all(_differ_only(a, b, marked, tolerance) for a, b in pairs):
            return f"The result is right, except {place}. {_largest(pairs)}"
    return ""


def _differ_only(a: Tensor, b: Tensor, marked: Callable[[Tensor], Tensor], tolerance: float) -> bool:
    try:
        where = marked(torch.ones_like(b)) > 0
    except (RuntimeError, IndexError):
        return False
    return not where.all() and close(a, torch.where(where, a, b), tolerance)


def _only(ones: Tensor, axis: int, place: int) -> Tensor:
    marked = torch.zeros_like(ones)
    marked.select(axis, place).fill_(1)
    return marked


def _largest(pairs: Pairs) -> str:
    a, b = max(pairs, key=lambda pair: (pair[0] - pair[1]).abs().max().item())
    place = (a - b).abs().argmax()
    at = [int(i) for i in torch.unravel_index(place, a.shape)]
    where = f" at {at}" if at else ""
    ours, theirs = b.flatten()[place].item(), a.flatten()[place].item()
    return f"The result differs, most{where}: yours is {theirs:.4g}, and {ours:.4g} is asked for."


def _pairs(found: Sequence, wanted: Sequence) -> list[tuple[Tensor | None, Tensor | None]]:
    return [(as_tensor(a), as_tensor(b)) for a, b in zip(found, wanted, strict=True)]


def as_tensor(value: Any) -> Tensor | None:
    """A number, tensor or list of tensors of one shape, in float64; None for everything else."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return None
    try:
        is_list = isinstance(value, list | tuple) and len(value) and all(isinstance(one, Tensor) for one in value)
        tensor = torch.stack(list(value)) if is_list else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    return tensor.detach().double() if not tensor.is_complex() else None


def _is_complex(value: Any) -> bool:
    return isinstance(value, complex) or (isinstance(value, Tensor) and value.is_complex())


def _size(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()]
    return finite.abs().mean().item() if finite.numel() else 1.0
