"""Predictions: the reader commits a guess before a figure, and is told afterwards what a wrong one stands for.

    predict("06.A")   # shows the question; the guess is kept when "Commit" is pressed
    outcome("06.A")   # after the figure

Where no kernel runs, the question and its options are to be read on the page, and after the figure all that there is
to say to them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ipywidgets

from helpers import ReaderError
from helpers.exercises.kinds import Reply
from helpers.views import Field, alert, show_output, text_output

GUESSES: dict[str, object] = {}  # committed in this session, by the prediction's number
WIDE = {"layout": {"width": "auto"}, "style": {"description_width": "initial"}}


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One of several ``choices``; each says what it stands for: a misconception, or why it is right."""

    number: str
    question: str
    choices: Mapping[str, str]
    right: str

    def controls(self) -> list[ipywidgets.ValueWidget]:
        """What the reader guesses with."""
        return [ipywidgets.RadioButtons(options=list(self.choices), value=None, **WIDE)]

    def reply(self, guess: Sequence[object]) -> str:
        """What there is to say to a guess, the values of the controls."""
        (choice,) = guess
        return ("✔ Right. " if choice == self.right else f"✘ You guessed: {choice} ") + self.choices[choice]

    def options(self) -> list[str]:
        """What may be guessed, for the page."""
        return list(self.choices)

    def everything(self) -> list[str]:
        """What there is to say to every guess, for the page."""
        return [f"**{choice}** {says}" for choice, says in self.choices.items()]


@dataclass(frozen=True, kw_only=True)
class NumberPrediction(Prediction):
    """A number; ``choices`` are named ranges, each up to its ``upper`` end."""

    upper: Sequence[float]

    def controls(self) -> list[ipywidgets.ValueWidget]:
        """A field for a number, empty at first."""
        return [Field(placeholder="a number", description="Your guess", **WIDE)]

    def reply(self, guess: Sequence[object]) -> str:
        """Of the range in which the number lies.

        Raises:
            ReaderError: it is no number.
        """
        try:
            number = float(str(guess[0]).replace(",", ""))
        except ValueError:
            number = math.nan
        if math.isnan(number):
            raise ReaderError(f"{str(guess[0])[:50]!r} is not a number: type one, such as 0.5.")
        inside = next((choice for choice, end in zip(self.choices, self.upper, strict=True) if number <= end), None)
        return super().reply([inside or list(self.choices)[-1]])


@dataclass(frozen=True, kw_only=True)
class SignsPrediction(Prediction):
    """A sign for each of ``rows``; ``choices`` has what to say to each row, ``right`` the signs in order ("+-0+")."""

    signs: Sequence[str] = ("−", "0", "+")

    def controls(self) -> list[ipywidgets.ValueWidget]:
        """A row of buttons for each sign."""
        style = WIDE["style"] | {"button_width": "4em"}
        options = {"options": self.signs, "value": None, "layout": WIDE["layout"], "style": style}
        return [ipywidgets.ToggleButtons(description=row, **options) for row in self.choices]

    def reply(self, guess: Sequence[object]) -> str:
        """Row by row, those that are wrong."""
        right = self.right.replace("-", "−")
        missed = [row for row, sign, one in zip(self.choices, right, guess, strict=True) if sign != one]
        said = " ".join(f"*{row}:* {self.choices[row]}" for row in missed)
        return f"✘ {len(right) - len(missed)} of {len(right)} signs are right. {said}" if missed else "✔ All are right."

    def everything(self) -> list[str]:
        """Each row with its sign."""
        signs = self.right.replace("-", "−")
        return [f"**{row}: {sign}** {says}" for (row, says), sign in zip(self.choices.items(), signs, strict=True)]


class Guess:
    """A prediction as a widget; what is committed cannot be changed any more, short of running the cell again."""

    def __init__(self, prediction: Prediction):
        self.prediction, self.controls = prediction, prediction.controls()
        self.commit = ipywidgets.Button(description="Commit", tooltip="Keep this guess")
        self.message = ipywidgets.HTML()
        self.commit.on_click(self._keep)
        GUESSES.pop(prediction.number, None)

    def _keep(self, _button) -> None:
        guess = [control.value for control in self.controls]
        try:
            if None in guess or "" in guess:
                raise ReaderError("Choose first, then commit.")
            self.prediction.reply(guess)
        except ReaderError as error:
            self.message.value = alert(str(error))
            return
        GUESSES[self.prediction.number] = guess
        for control in (*self.controls, self.commit):
            control.disabled = True
        self.message.value = "Kept. Read on: what came out stands below the figure."

    def _ipython_display_(self) -> None:
        heading = f"**Prediction {self.prediction.number}.** {self.prediction.question}"
        options = "\n".join(f"- {option}" for option in self.prediction.options())
        question = ipywidgets.HTML(f"<b>Prediction {self.prediction.number}.</b> {self.prediction.question}")
        panel = ipywidgets.VBox([question, *self.controls, self.commit, self.message])
        show_output(text_output(f"{heading}\n\n{options}\n\n*Run this cell to commit a guess.*"), panel)


def said(prediction: Prediction) -> Reply:
    """What came out: to the guess that was committed, or to every one if none was."""
    guess = GUESSES.get(prediction.number)
    if guess is None:
        told = "\n".join(f"- {one}" for one in prediction.everything())
        return Reply(f"**Prediction {prediction.number}**, no guess kept. What came out:\n\n{told}")
    return Reply(f"**Prediction {prediction.number}.** {prediction.reply(guess)}")
