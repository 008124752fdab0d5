"""A training that the reader starts, watches and stops in a notebook."""

import asyncio
import time
import weakref
from collections.abc import Iterator
from typing import ClassVar

import ipywidgets
from matplotlib.figure import Figure

from helpers import ReaderError
from helpers.explorers import LOCK
from helpers.figures import line_panels
from helpers.training import TrainingState
from helpers.views import ViewWidget, alert, picture, show_output, text_output


class LiveTraining:
    """A training that goes on when the reader presses a button, with curves that are drawn as it runs.

    It runs as a task of the kernel's own event loop and lets go of it several times a second: so *Stop* is heard at
    once, and cells can be run meanwhile (the training waits for them). Whatever happens, ``state`` is where it
    stands, with the model trained so far.

    One training has one task. A widget that is made for the same ``steps``, as when its cell is run again, stops the
    task of any other, and so does *Train*.

    Args:
        steps: what ``train`` returns, perhaps with some steps taken already.
        state: the last that it has yielded.
    """

    SECONDS_BETWEEN_RESTS, SECONDS_BETWEEN_DRAWINGS = 0.1, 2.0
    _all: ClassVar[weakref.WeakSet] = weakref.WeakSet()

    def __init__(self, steps: Iterator[TrainingState], state: TrainingState):
        self._steps, self.state, self.task = steps, state, None
        self._wanted = False
        self._stop_others()
        self._all.add(self)
        self.train = ipywidgets.Button(description="Train", icon="play", tooltip="go on with the training")
        self.stop = ipywidgets.Button(description="Stop", icon="stop", tooltip="stop and keep the model", disabled=True)
        self.bar = ipywidgets.IntProgress(state.step, max=state.n_steps, description="Steps", layout={"width": "98%"})
        self.message = ipywidgets.HTML()
        self.curves = ViewWidget(picture(*training_curves(state)))
        self._panel = ipywidgets.VBox([ipywidgets.HBox([self.train, self.stop]), self.bar, self.message])
        self.train.on_click(self._begin)
        self.stop.on_click(self._end)

    def _begin(self, _button) -> None:
        if self.task is None or self.task.done():
            self._stop_others()
            self._set_running(True)
            self.task = asyncio.get_running_loop().create_task(self._run())

    def _end(self, _button) -> None:
        self._wanted = False

    def _stop_others(self) -> None:
        for other in list(self._all):
            if other is not self and other._steps is self._steps:
                other._wanted = False

    async def _run(self) -> None:
        self._say("")
        try:
            await self._take_steps()
        except ReaderError as error:
            self._say(str(error))
        except Exception as error:
            self._say(f"The training broke off ({type(error).__name__}: {error}): run the cells above again.")
            raise
        finally:
            self._set_running(False)
            self._draw()

    async def _take_steps(self) -> None:
        drawn = rested = time.monotonic()
        while self._wanted:
            with LOCK:
                state = next(self._steps, None)
            if state is None:
                at_end = self.state.step == self.state.n_steps
                ended_before = "This training has ended before: run the cells above again to begin another."
                self._say("The training is at its end." if at_end else ended_before)
                return
            self.state = state
            if (now := time.monotonic()) - rested > self.SECONDS_BETWEEN_RESTS:
                if now - drawn > self.SECONDS_BETWEEN_DRAWINGS:
                    self._draw()
                    drawn = time.monotonic()
                await asyncio.sleep(0.001)
                rested = time.monotonic()
        self._say(f"Stopped after step {self.state.step:,}: press Train to go on.")

    def _set_running(self, running: bool) -> None:
        self._wanted, self.train.disabled, self.stop.disabled = running, running, not running

    def _draw(self) -> None:
        self.bar.value = self.state.step
        self.curves.update(picture(*training_curves(self.state)))

    def _say(self, sentence: str) -> None:
        self.message.value = alert(sentence)

    def _ipython_display_(self) -> None:
        words = f"**Training**, as saved at step {self.state.step:,}. Run this cell to go on with it."
        show_output(text_output(words), self._panel)
        self.curves._ipython_display_()


def training_curves(state: TrainingState) -> tuple[Figure, str]:
    """Losses and the best scores of any head, as far as the history of a training goes, and a caption."""
    rows = state.history[1:] or state.history
    steps = [max(1, row["step"]) for row in rows]
    losses = {"validation text": [row["validation_loss"] for row in rows]}
    for copy in ("first", "second"):
        losses[f"random tokens, {copy} copy"] = [row[f"random_{copy}_copy"] for row in rows]
    keys = {"previous token": "previous_token", "prefix matching": "prefix_matching"}
    best = {name: [max(map(max, row[key]), default=0.0) for row in rows] for name, key in keys.items()}
    series = {"loss": losses, "best head": best}
    curves = {title: {name: (steps, y) for name, y in lines.items()} for title, lines in series.items()}
    caption = (
        f"Step {state.step:,} of {state.n_steps:,}; at step {steps[-1]:,} the validation loss was "
        f"{rows[-1]['validation_loss']:.2f} nats, best previous-token score {best['previous token'][-1]:.2f}, best "
        f"prefix matching {best['prefix matching'][-1]:.2f}."
    )
    figure = line_panels(curves, "step", ["nats a token", "share of attention"])
    for axes in figure.axes:
        axes.set_ylim(bottom=0)
    return figure, caption
