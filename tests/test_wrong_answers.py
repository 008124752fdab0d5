"""Mistakes that stand in no table are named as well, by a misused argument, or as several at once."""

import itertools

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from helpers.exercises import exercise, of_chapter
from helpers.exercises.kinds import Function, Value


def weighted(x: Float[Tensor, "a b"], y: Float[Tensor, "b b"], n: int) -> Float[Tensor, "a b"]:
    return x @ y.exp() * n


def cases() -> list[tuple]:
    torch.manual_seed(0)
    return [(torch.randn(a, b), torch.randn(b, b), a) for a, b in [(3, 3), (2, 4)]]


WEIGHTED = Function(
    number="00.1",
    title="",
    minutes=1,
    stub="def weighted(x, y, n):\n    ...",
    wrong={},
    hints=[""],
    reference=weighted,
    cases=cases,
)
MISUSES = {
    "`y` is transposed": lambda x, y, n: x @ y.mT.exp() * n,
    "`y` has the wrong sign": lambda x, y, n: x @ (-y).exp() * n,
    "`n` is one smaller": lambda x, y, n: x @ y.exp() * (n - 1),
    "`y` is read backwards along its first axis": lambda x, y, n: x @ y.flip(0).exp() * n,
    "does not change when `n` does": lambda x, y, n: x @ y.exp(),
    "does not change when `x` or `n` does": lambda x, y, n: y.exp(),
    "always the same": lambda x, y, n: torch.zeros(2, 4),
    "Every sign": lambda x, y, n: -x @ y.exp() * n,
    "summed over the last axis as well": lambda x, y, n: (x @ y.exp()).sum(-1) * n,
    "only the last row": lambda x, y, n: (x @ y.exp() * n)[-1],
    "place too many at the end of the last axis": lambda x, y, n: torch.nn.functional.pad(x @ y.exp() * n, (0, 1)),
    "right, except above the diagonal": lambda x, y, n: (x @ y.exp() * n).tril(),
    "right, except in the first row": lambda x, y, n: torch.cat([x[:1], (x @ y.exp() * n)[1:]]),
    "running sums along the last axis": lambda x, y, n: (x @ y.exp() * n).cumsum(-1),
    "3 times what is asked for": lambda x, y, n: x @ y.exp() * n * 3,
    "no numbers": lambda x, y, n: (x @ y.exp() * n).log().sqrt(),
    "take `.real`": lambda x, y, n: (x @ y.exp() * n).to(torch.complex64),
    "differs, most": lambda x, y, n: x @ y.sinh() * n,
}


@pytest.mark.parametrize("says", MISUSES)
def test_what_a_function_does_with_its_arguments_is_said(says):
    assert says in WEIGHTED.check(MISUSES[says]).text


def test_two_arguments_that_change_places_are_named():
    def scores(q: Float[Tensor, "pos d"], k: Float[Tensor, "pos d"]) -> Float[Tensor, "dest src"]:
        return q @ k.mT.exp()

    one = Function(
        number="00.2",
        title="",
        minutes=1,
        stub="def scores(q, k):\n    ...",
        wrong={},
        hints=[""],
        reference=scores,
        cases=lambda: [
            (torch.arange(6.0).view(3, 2), torch.eye(3, 2)),
            (torch.eye(2, 2), torch.tensor([[1.0, 2], [3, 5]])),
        ],
    )
    assert "`q` and `k` change places" in one.check(lambda q, k: k @ q.mT.exp()).text
    assert one.check(scores).is_right


def test_several_mistakes_at_once_name_the_largest_that_explains_some():
    one = Value(
        number="00.3",
        title="",
        minutes=1,
        stub="",
        right=["a", "a", "b"],
        choices=["a", "b"],
        wrong={"First.": ["b", "a", "b"], "First two.": ["b", "b", "b"], "All.": ["b", "b", "a"]},
        hints=[""],
    )
    assert one.check(["b", "b", "b"]).text == "First two."
    assert one.check(["b", "a", "a"]).text == "1 of 3 entries are right. First."
    assert one.check(["a", "b", "b"]).text == "2 of 3 entries are right."


LISTS = [
    one
    for i in range(1, 13)
    for one in of_chapter(f"{i:02}").values()
    if isinstance(one, Value) and one.choices and not isinstance(one.right, str)
]


@pytest.mark.parametrize("one", LISTS, ids=lambda one: one.number)
def test_of_all_wrong_choices_nine_in_ten_are_told_why(one):
    wrong = [list(guess) for guess in itertools.product(one.choices, repeat=len(one.right)) if list(guess) != one.right]
    told = [one.check(guess).text for guess in wrong]
    assert all(not one.check(guess).is_right for guess in wrong)
    assert sum(not text.endswith("entries are right.") for text in told) >= 0.9 * len(wrong)


def share(values: Tensor) -> Tensor:
    return values.sum().real / values.abs().sum()


def by_singular_values(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    small = W_O @ (W_U - W_U.mean(1, keepdim=True)) @ W_E @ W_V
    return small.trace() / torch.linalg.svdvals(small).sum()


UNLAWFUL = {  # what gives mistakes away that stand in no table and misuse no argument
    "If A doubles": ("04.2", lambda A, B: (A.T @ A).norm() * (B @ B.T).norm()),
    "a column of A doubles": ("04.2", lambda A, B: torch.linalg.matrix_norm(A.T @ A @ B @ B.T, 2).sqrt()),
    "in another order": ("04.2", lambda A, B: torch.linalg.eigvals(B @ A).real.square().sum().sqrt()),
    "The result differs": ("04.2", lambda A, B: (A @ B).abs().sum()),
    "to all columns of W_U": (
        "04.3",
        lambda W_E, W_V, W_O, W_U: share(torch.linalg.eigvals(W_E @ W_V @ W_O @ W_U.relu())),
    ),
    "W_O doubles": ("04.3", lambda W_E, W_V, W_O, W_U: (W_E @ W_V @ W_O @ W_U).std(1).mean()),
    "a column of W_V doubles": ("04.3", by_singular_values),
}


@pytest.mark.parametrize("says", UNLAWFUL)
def test_a_law_that_a_function_breaks_is_said(says):
    number, function = UNLAWFUL[says]
    assert says in of_chapter("04")[number].check(function).text


def test_a_number_is_compared_with_nothing_that_needs_an_axis():
    one = Value(number="00.4", title="", minutes=1, stub="", right=4.0, wrong={}, hints=[""])
    assert [one.check(x).text for x in (0, 1, 5)] == ["That is too small.", "That is too small.", "That is too large."]
    assert "square" in one.check(16).text and "root" in one.check(2).text and "sign" in one.check(-4).text


def test_a_law_can_be_asked_of_a_result_in_pieces():
    one = exercise("08.4")
    assert one.check(lambda *case: tuple(one.reference(*case))).is_right
    assert not one.check(lambda *case: [2.5 * part**2 for part in one.reference(*case)]).is_right
