"""Every answer of every table gets its own reply and no other."""

import pytest
import torch

from helpers.exercises import exercise, of_chapter
from helpers.exercises.kinds import NOT_YET, RIGHT, Built, Function, Value

ALL = [one for i in range(1, 13) for one in of_chapter(f"{i:02}").values()]
by_number = pytest.mark.parametrize("one", ALL, ids=lambda one: one.number)


def right_answer(one):
    match one:
        case Function():
            return one.reference
        case Value():
            return one.right
        case Built():
            return one.example()


@by_number
def test_the_reference_is_right(one):
    assert one.check(right_answer(one)).text.startswith(RIGHT)


@by_number
def test_every_wrong_answer_gets_its_hint_and_no_other(one):
    assert len(set(one.wrong)) >= (4 if isinstance(one, Function) else 1)
    for text, wrong in one.wrong.items():
        answer = wrong() if isinstance(one, Built) and callable(wrong) else wrong
        assert one.check(answer).text == text


@by_number
def test_the_stub_is_not_attempted_yet(one):
    names = {}
    exec(f"from __future__ import annotations\n{one.stub}", names)
    written = list(names.values())[-1]
    assert one.check(written).text == one.check(...).text == NOT_YET


@by_number
def test_what_is_no_answer_is_told_so(one):
    assert not one.check(None).is_right
    for strange in (torch.zeros(2, 3, 4, 5), 10**9, "nonsense", lambda *_: None, lambda *_: torch.zeros(7, 7, 7)):
        assert not one.check(strange).is_right


@by_number
def test_an_error_shows_the_line_of_the_reader(one):
    def broken(*_):
        return undefined_name  # noqa: F821

    if isinstance(one, Function):
        assert "undefined_name" in one.check(broken).text and "Line" in one.check(broken).text


@by_number
def test_every_line_of_the_stub_is_in_the_solution(one):
    solution = one.solution_code().splitlines()
    for line in one.stub.strip().splitlines():
        start = line.split("...")[0].rstrip()
        assert any(ours.startswith(start) for ours in solution), line


@by_number
def test_hints_come_one_after_the_other(one):
    given = [exercise(one.number).hint().text for _ in range(len(one.hints) + 1)]
    assert given[-1] == one.hints[-1]


@by_number
def test_cases_are_quick_and_always_the_same(one):
    if isinstance(one, Function):
        assert len(one.cases()) >= 2
        for a, b in zip(one.cases(), one.cases(), strict=True):
            for x, y in zip(a, b, strict=True):
                assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y
