"""A training with buttons: it runs, stops and goes on, and never twice at once."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from helpers.live import LiveTraining, training_curves
from helpers.training import RECIPES, TrainingState, train
from helpers.views import LIVE
from tests.test_token_views import parsed

pytestmark = pytest.mark.slow


class Course:
    """A short training and a widget that goes on with it; the widget rests after every step and draws at the end."""

    def __init__(self, corpus, **changes):
        short = {"n_tokens": 10 * 2 * 64, "batch_size": 2, "warmup_steps": 3, "n_measurements": 5}
        config = replace(RECIPES["laptop"].training, **(short | {"precision": "float32"} | changes))
        sizes = {"n_heads": 2, "d_model": 16, "d_head": 8, "n_ctx": 64, "d_vocab": corpus.tokenizer.d_vocab}
        self.steps = train(replace(RECIPES["laptop"].model, **sizes), config, corpus)
        self.widget = eager(LiveTraining(self.steps, next(self.steps)))

    @property
    def buttons(self) -> tuple[bool, bool]:
        """Which of Train and Stop can be pressed."""
        return not self.widget.train.disabled, not self.widget.stop.disabled


def eager(widget: LiveTraining) -> LiveTraining:
    widget.SECONDS_BETWEEN_RESTS, widget.SECONDS_BETWEEN_DRAWINGS = 0.0, 60.0
    return widget


async def press_and_wait(widget: LiveTraining) -> None:
    widget.train.click()
    await widget.task


async def until(widget: LiveTraining, step: int) -> None:
    while widget.state.step < step:
        await asyncio.sleep(0)


def picture_and_words(widget: LiveTraining) -> tuple[str, str]:
    picture = parsed(widget.curves.body.html, {"img": {"src", "alt"}}).img["src"]
    assert picture.startswith("data:image/png;base64,")
    return picture, parsed(widget.curves.caption.html, {"em": set()}).get_text()


def test_the_button_trains_to_the_end_and_draws_on_the_way(corpus):
    course, seen = Course(corpus), []
    widget = course.widget
    widget.SECONDS_BETWEEN_DRAWINGS = 0.0
    widget.bar.observe(lambda change: seen.append(change.new), names="value")
    assert course.buttons == (True, False)

    async def press() -> None:
        widget.train.click()
        await asyncio.sleep(0)
        assert course.buttons == (False, True)
        await widget.task

    first, _ = picture_and_words(widget)
    asyncio.run(press())
    last, words = picture_and_words(widget)
    assert widget.state.step == widget.state.n_steps == 10 and course.buttons == (True, False)
    assert seen == list(range(1, 11)) and last != first and "Step 10 of 10" in words
    assert "at its end" in widget.message.value
    asyncio.run(press_and_wait(widget))
    assert widget.state.step == 10 and "at its end" in widget.message.value


def test_stop_keeps_the_model_and_train_goes_on_from_there_to_the_same_end(corpus):
    course = Course(corpus)
    widget = course.widget

    async def stop_at(step: int) -> None:
        widget.train.click()
        widget.train.click()  # a second press does nothing
        await until(widget, step)
        widget.stop.click()
        await widget.task

    asyncio.run(stop_at(4))
    stopped_at = widget.state.step
    assert 4 <= stopped_at < 10 and course.buttons == (True, False)
    assert f"Stopped after step {stopped_at}: press Train" in widget.message.value
    asyncio.run(press_and_wait(widget))
    *_, undisturbed = Course(corpus).steps
    assert widget.state.step == 10 and torch.equal(widget.state.model.W_E, undisturbed.model.W_E)
    assert widget.state.history == undisturbed.history


def test_what_else_wants_the_kernel_gets_its_turn_while_the_training_runs(corpus):
    widget = Course(corpus).widget
    others: list[int] = []

    async def other_work() -> None:
        while not widget.task.done():
            others.append(widget.state.step)
            await asyncio.sleep(0)

    async def both() -> None:
        widget.train.click()
        await asyncio.gather(other_work(), widget.task)

    asyncio.run(both())
    assert len(set(others)) > 5


def test_a_cell_that_is_run_again_stops_the_task_of_its_first_widget(corpus):
    course, other = Course(corpus), Course(corpus)
    first, seen = course.widget, []

    async def run_the_cell_again() -> None:
        first.train.click()
        other.widget.train.click()
        await until(first, 2)
        second = LiveTraining(course.steps, first.state)
        seen.append(second.state.step)
        await first.task
        assert second.bar.value == first.state.step == seen[0] < 10 and not first.train.disabled
        await other.widget.task  # another training goes on

    asyncio.run(run_the_cell_again())
    assert other.widget.state.step == 10


def test_a_task_that_has_not_begun_can_be_stopped(corpus):
    course = Course(corpus)

    async def press_and_run_the_cell_again() -> None:
        course.widget.train.click()
        LiveTraining(course.steps, course.widget.state)
        await course.widget.task

    asyncio.run(press_and_run_the_cell_again())
    assert course.widget.state.step == 0 and course.buttons == (True, False)


def test_of_two_widgets_of_one_training_the_one_pressed_last_runs(corpus):
    course = Course(corpus)
    first, second = course.widget, eager(LiveTraining(course.steps, course.widget.state))

    async def press_one_after_the_other() -> None:
        first.train.click()
        await until(first, 2)
        second.train.click()
        await first.task
        assert first.state.step < 10 and "Stopped" in first.message.value
        await second.task

    asyncio.run(press_one_after_the_other())
    assert second.state.step == 10 and "at its end" in second.message.value


def test_a_training_that_goes_wrong_becomes_a_sentence(corpus):
    course = Course(corpus, learning_rate=1e6, warmup_steps=0, n_tokens=40 * 2 * 64)
    asyncio.run(press_and_wait(course.widget))
    assert "start again with a lower learning rate" in course.widget.message.value and course.buttons == (True, False)
    asyncio.run(press_and_wait(course.widget))
    assert "has ended before" in course.widget.message.value


def test_an_unforeseen_error_of_a_training_is_told_and_raised(corpus):
    def steps() -> Iterator[TrainingState]:
        raise RuntimeError("<out of memory>")
        yield

    widget = LiveTraining(steps(), Course(corpus).widget.state)
    with pytest.raises(RuntimeError):
        asyncio.run(press_and_wait(widget))
    assert "RuntimeError: &lt;out of memory&gt;" in widget.message.value and not widget.train.disabled


def test_a_live_training_has_a_still_form(corpus, shown):
    Course(corpus).widget._ipython_display_()
    panel, curves, caption = (data for data, _ in shown)
    assert "as saved at step 0" in panel["text/markdown"] and all(LIVE in data for data, _ in shown)
    assert "image/png" in curves and "Step 0 of 10" in caption["text/markdown"]


def test_the_curves_are_those_of_the_history(corpus):
    *_, state = Course(corpus).steps
    figure, _ = training_curves(state)
    rows, (losses, scores) = state.history[1:], figure.axes
    found = {line.get_label(): line.get_data() for axes in (losses, scores) for line in axes.lines}
    steps = [row["step"] for row in rows]
    wanted = {
        "validation text": [row["validation_loss"] for row in rows],
        "random tokens, first copy": [row["random_first_copy"] for row in rows],
        "random tokens, second copy": [row["random_second_copy"] for row in rows],
        "previous token": [max(map(max, row["previous_token"])) for row in rows],
        "prefix matching": [max(map(max, row["prefix_matching"])) for row in rows],
    }
    assert {name: (list(x), list(y)) for name, (x, y) in found.items()} == {n: (steps, y) for n, y in wanted.items()}
    assert (losses.get_ylabel(), scores.get_ylabel()) == ("nats a token", "share of attention")
