"""A guess is kept once it is committed, and answered afterwards; a page without a kernel says it all."""

import pytest

from helpers import ReaderError
from helpers.exercises import of_chapter
from helpers.exercises.predictions import GUESSES, Guess, NumberPrediction, Prediction, SignsPrediction, said

ALL = [one for i in range(1, 13) for one in of_chapter(f"{i:02}", Prediction).values()]
CHOICES = Prediction(number="99.A", question="Which?", right="one", choices={"one": "Since.", "two": "You mix up."})
NUMBER = NumberPrediction(
    number="99.B",
    question="How much?",
    right="about 1",
    upper=(0.5, 1.5, 9.0),
    choices={"less": "l", "about 1": "r", "more": "m"},
)
SIGNS = SignsPrediction(
    number="99.C", question="Which way?", right="+-", choices={"first": "It rises.", "second": "It falls."}
)
WRONG = [(CHOICES, ["two"], "You mix up."), (NUMBER, ["1,7"], "m"), (SIGNS, ["+", "+"], "*second:* It falls.")]
RIGHT = [(CHOICES, ["one"]), (NUMBER, ["1.2"]), (SIGNS, ["+", "−"])]


def committed(prediction, values):
    guess = Guess(prediction)
    for control, value in zip(guess.controls, values, strict=True):
        control.value = value
    guess.commit.click()
    return guess


@pytest.mark.parametrize("prediction, values, says", WRONG)
def test_a_wrong_guess_is_told_what_it_stands_for(prediction, values, says):
    guess = committed(prediction, values)
    assert all(control.disabled for control in guess.controls)
    assert says in said(prediction).text and "✘" in said(prediction).text


@pytest.mark.parametrize("prediction, values", RIGHT)
def test_a_right_guess_is_told_so(prediction, values):
    committed(prediction, values)
    assert "✔" in said(prediction).text and "✘" not in said(prediction).text


@pytest.mark.parametrize(
    "prediction, values",
    [
        (CHOICES, [None]),
        (SIGNS, ["+", None]),
        *((NUMBER, [typed]) for typed in ("much", "", "nan", "9," * 50_000 + "x")),
    ],
    ids=lambda one: str(one)[:20],
)
def test_what_is_no_guess_is_not_kept(prediction, values):
    guess = committed(prediction, values)
    assert len(guess.message.value) < 200
    assert "alert" in guess.message.value and prediction.number not in GUESSES and not guess.commit.disabled


def test_without_a_guess_everything_is_said_and_running_again_forgets():
    committed(CHOICES, ["two"])
    Guess(CHOICES)
    assert all(says in said(CHOICES).text for says in CHOICES.choices.values())


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.number)
def test_every_prediction_has_a_right_answer_and_says_something_to_each_other(one):
    assert len(set(one.choices.values())) == len(one.choices) >= 2
    if isinstance(one, SignsPrediction):
        assert len(one.right) == len(one.choices) and {*one.right.replace("-", "−")} <= {*one.signs}
    else:
        assert one.right in one.choices and all(one.choices.values())


def test_numbers_are_read_with_a_point():
    with pytest.raises(ReaderError):
        NUMBER.reply(["one"])
