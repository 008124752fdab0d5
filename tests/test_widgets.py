"""The explorers: their pure functions over all heads and over what readers may type, their shells by code."""

import asyncio
import re
import threading
from collections.abc import Iterator
from dataclasses import replace

import ipywidgets
import numpy as np
import pytest
import torch

from helpers import ReaderError, views
from helpers.circuits import copying_summary, ov_circuit, positivity, qk_circuit
from helpers.figures import Table
from helpers.measures import loss_per_token, prefix_matching_scores, previous_token_scores
from helpers.tokens import EncodedCorpus, Tokenizer
from helpers.training import RECIPES, TrainingState, train
from helpers.views import LIVE
from helpers.widgets import (
    CIRCUITS,
    LOCK,
    Explorer,
    LiveTraining,
    ablation_explorer,
    copying_explorer,
    example_table,
    explore_ablation,
    explore_copying,
    explore_head,
    explore_messages,
    explore_moment,
    explore_text,
    head_explorer,
    message_bars,
    message_explorer,
    moment_explorer,
    prediction_table,
    text_explorer,
    token_of,
)
from tests.examples import random_model

FINE = ["a", " ", "</script>", "<START>", "<b>bold</b>", "😀", "\0", "\n\t", "\ud800", "$x$ | `y` *z* &amp;"]
REFUSED = ["", "x" * 100_000, "ab " * 500]
SENTENCE = r"^[^\n]*\.$"


@pytest.fixture(scope="module")
def model(corpus):
    return random_model(2, d_vocab=corpus.tokenizer.d_vocab, d_model=8, d_head=4, n_ctx=64)


@pytest.fixture(scope="module")
def one_layer(corpus):
    return random_model(1, d_vocab=corpus.tokenizer.d_vocab, d_model=8, d_head=4, n_ctx=64)


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return corpus.tokenizer


@pytest.fixture
def text(corpus) -> str:
    return corpus.tokenizer.decode(corpus.train[1:30])


# ---- a text and a head ----------------------------------------------------------------------------------------


def test_a_text_is_read_by_every_head(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    logits, cache = model.run_with_cache(tokens)
    for layer, head in model.heads:
        reading = explore_text(text, model, tokenizer, layer, head)
        assert reading.tokens == tokenizer.show_all(tokens[0]) and reading.tokens[0] == "<START>"
        assert torch.equal(reading.pattern, cache.patterns[layer][0, head])
        moved = reading.pattern * (cache.values[layer][0, head] @ model.W_O[layer, head]).norm(dim=-1)
        assert torch.allclose(reading.moved, moved / moved.sum(-1, keepdim=True), atol=1e-6)
    assert torch.allclose(reading.loss, loss_per_token(model, tokens)[0])
    for position, likely in enumerate(reading.likely):
        probabilities = logits[0, position].softmax(-1)
        assert [p for _, p in likely] == pytest.approx(probabilities.sort(descending=True).values[:5].tolist())
        assert likely[0][0] == tokenizer.show(probabilities.argmax())


@pytest.mark.parametrize("typed", FINE)
def test_any_text_can_be_explored(model, tokenizer, typed):
    explorer = text_explorer(model, tokenizer, typed, (0, 1))
    explorer.controls["text"].value = typed + typed
    assert explorer.message.value == "" and all(pane.content for pane in explorer.panes)
    explore_ablation(typed, model, tokenizer, [(0, 1)])


@pytest.mark.parametrize("typed", REFUSED, ids=["empty", "100,000 characters", "too long"])
def test_a_text_that_does_not_fit_is_refused(model, tokenizer, typed):
    with pytest.raises(ReaderError, match=SENTENCE):
        explore_text(typed, model, tokenizer, 0, 0)
    with pytest.raises(ReaderError, match=SENTENCE):
        explore_ablation(typed, model, tokenizer, [])
    with pytest.raises(ReaderError, match=SENTENCE):
        text_explorer(model, tokenizer, typed, (0, 0))


@pytest.mark.parametrize("head", [(2, 0), (0, 2), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, corpus, head):
    for explore in (lambda: explore_text("a", model, corpus.tokenizer, *head),
                    lambda: explore_ablation("a", model, corpus.tokenizer, [head]),
                    lambda: explore_head(head, "a", model, corpus),
                    lambda: text_explorer(model, corpus.tokenizer, "a", head)):
        with pytest.raises(ReaderError, match="There is no head"):
            explore()


def test_the_prediction_table_says_what_comes_next(model, tokenizer, text):
    reading = explore_text(text, model, tokenizer, 1, 0)
    for position in range(len(reading.tokens) - 1):
        table = prediction_table(reading, position)
        assert len(table.rows) == 5 and f"loss {reading.loss[position]:.2f} nats" in table.caption
    assert "the text ends" in prediction_table(reading, len(reading.tokens) - 1).caption


def test_every_control_of_the_text_explorer(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0), position=2)
    position, losses = explorer.controls["position"], explorer.panes[0].content
    for head in model.heads:
        explorer.controls["head"].value = head
        assert f"{head[0]}&#58;{head[1]}" in explorer.panes[3].content["text/markdown"]
    assert explorer.panes[0].content == losses
    attention = explorer.panes[2].content
    explorer.controls["weight"].value = "value-weighted attention"
    assert explorer.panes[2].content != attention and explorer.panes[0].content == losses
    for t in range(position.max + 1):
        position.value = t
        assert f"(position {t})" in explorer.panes[-1].content["text/markdown"]
    explorer.controls["text"].value = "ab"
    assert position.max == position.value == len(tokenizer.encode("ab"))


def test_a_mistake_becomes_a_sentence_and_goes_away_again(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0))
    before, position = [pane.content for pane in explorer.panes], explorer.controls["position"].value
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value and not any(pane.content for pane in explorer.panes)
    explorer.controls["text"].value = text
    explorer.controls["position"].value = position
    assert explorer.message.value == "" and [pane.content for pane in explorer.panes] == before



# ---- the messages in the stream -------------------------------------------------------------------------------


def test_messages_speak_for_the_token_that_comes_next(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    logits = model(tokens)[0]
    for position in range(tokens.shape[1]):
        reading = explore_messages(text, model, tokenizer, position)
        last = position == tokens.shape[1] - 1
        out = int(logits[position].argmax()) if last else int(tokens[0, position + 1])
        assert reading.out == tokenizer.show(out) and reading.names[:2] == ["token", "0:0"]
        assert sum(reading.logits) == pytest.approx((logits[position, out] - logits[position].mean()).item())
        assert reading.probability == pytest.approx(logits[position].softmax(-1)[out].item())
    assert f"(position {position})" in message_bars(reading).caption


@pytest.mark.parametrize("typed", FINE)
def test_the_messages_of_any_text_can_be_explored(model, tokenizer, typed):
    explorer = message_explorer(model, tokenizer, typed + typed, 1)
    explorer.controls["text"].value = typed
    n = tokenizer.prompt(typed, 64).shape[1]
    assert explorer.message.value == "" and explorer.controls["position"].max == n - 1
    explorer.controls["position"].value = n - 1
    assert explorer.message.value == "" and all(pane.content for pane in explorer.panes)


@pytest.mark.parametrize("typed", REFUSED, ids=["empty", "100,000 characters", "too long"])
def test_messages_of_a_text_that_does_not_fit_are_refused(model, tokenizer, typed):
    with pytest.raises(ReaderError, match=SENTENCE):
        explore_messages(typed, model, tokenizer, 0)
    explorer = message_explorer(model, tokenizer, "a", 0)
    explorer.controls["text"].value = typed
    assert "<b>" in explorer.message.value


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_that_is_not_there_is_refused(model, tokenizer, position):
    with pytest.raises(ReaderError, match="positions 0 to"):
        explore_messages(tokenizer.decode([5, 6]), model, tokenizer, position)

# ---- copying --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, circuit", [*zip(CIRCUITS, (ov_circuit, qk_circuit), strict=True)])
def test_copying_of_every_head_and_circuit(one_layer, tokenizer, name, circuit):
    among = torch.arange(3, 40)
    for head in one_layer.heads:
        reading = explore_copying(one_layer, tokenizer, among, head, name, n=5)
        matrix, dense = circuit(one_layer, head), circuit(one_layer, head).dense()
        assert reading.summary == copying_summary(matrix)
        assert torch.equal(reading.eigenvalues["as it is"], matrix.eigenvalues())
        centred = torch.linalg.eigvals(dense - dense.mean(1, keepdim=True))
        assert reading.centred_score == pytest.approx(positivity(centred), abs=1e-6)
        own = (dense.diagonal() - dense.mean(1)) / dense.std(1, correction=0)
        order = sorted(among.tolist(), key=lambda token: -own[token])
        for tokens, shown in ((order[:5], reading.most), (order[::-1][:5], reading.least)):
            assert [token for token, _ in shown] == tokenizer.show_all(tokens)
            assert [entry for _, entry in shown] == pytest.approx(own[tokens].tolist(), abs=1e-6)


def test_a_circuit_or_head_that_is_not_there_is_refused(one_layer, tokenizer):
    with pytest.raises(ReaderError, match=r"no circuit 'OQ': choose one of 'OV: .*'\.$"):
        explore_copying(one_layer, tokenizer, torch.arange(9), (0, 0), "OQ")
    with pytest.raises(ReaderError, match="There is no head 1:0"):
        copying_explorer(one_layer, tokenizer, torch.arange(9), (1, 0))


def test_every_control_of_the_copying_explorer(one_layer, tokenizer):
    explorer = copying_explorer(one_layer, tokenizer, torch.arange(20), (0, 0))
    seen = set()
    for head in one_layer.heads:
        for circuit in CIRCUITS:
            explorer.controls["head"].value, explorer.controls["circuit"].value = head, circuit
            summary = explore_copying(one_layer, tokenizer, torch.arange(20), head, circuit).summary
            caption = explorer.panes[1].content["text/markdown"]
            assert explorer.message.value == ""
            assert f"Head {head[0]}:{head[1]}: eigenvalue score {summary.eigenvalues:+.2f}" in caption
            seen.add(caption)
    assert len(seen) == 2 * len(one_layer.heads)


# ---- the shell ------------------------------------------------------------------------------------------------


def number_explorer(show) -> Explorer:
    return Explorer(show, {"number": ipywidgets.IntText(1, description="Number")})


def refuse(number: int):
    if number < 0:
        raise ReaderError("<b>Choose</b> a positive number.")
    return [Table(["root"], [[1 / number]])]


def test_sentences_are_escaped():
    explorer = number_explorer(refuse)
    explorer.controls["number"].value = -1
    assert "&lt;b&gt;Choose&lt;/b&gt; a positive number." in explorer.message.value


def test_an_unforeseen_error_is_told_and_raised():
    explorer = number_explorer(refuse)
    with pytest.raises(ZeroDivisionError):
        explorer.controls["number"].value = 0
    assert "ZeroDivisionError" in explorer.message.value
    explorer.controls["number"].value = 2
    assert explorer.message.value == "" and "0.5" in explorer.panes[0].content["text/markdown"]


def test_a_first_mistake_is_the_cells_own():
    with pytest.raises(ReaderError):
        Explorer(refuse, {"number": ipywidgets.IntText(-1, description="Number")})


def test_callbacks_wait_for_whoever_runs_a_model():
    explorer = number_explorer(refuse)
    moved = threading.Thread(target=setattr, args=(explorer.controls["number"], "value", 4))
    with LOCK:
        moved.start()
        moved.join(0.2)
        assert moved.is_alive() and "1.0" in explorer.panes[0].content["text/markdown"]
    moved.join(10)
    assert "0.25" in explorer.panes[0].content["text/markdown"]


@pytest.fixture
def explorers(model, one_layer, corpus, text) -> list[Explorer]:
    source = corpus.tokenizer.show(corpus.train[1])
    return [text_explorer(model, corpus.tokenizer, text, (0, 0)), head_explorer(one_layer, corpus, source, (0, 1)),
            ablation_explorer(model, corpus.tokenizer, text, [(0, 1)]),
            moment_explorer({0: model, 7: model}, corpus.tokenizer, text, (1, 0), step=7)]


def test_every_control_has_a_name_and_waits_until_the_reader_is_done(explorers):
    for explorer in explorers:
        for control in explorer.controls.values():
            assert control.description and not getattr(control, "continuous_update", False)


def test_every_output_has_a_live_and_a_still_form(explorers, monkeypatch):
    shown: list[dict] = []
    monkeypatch.setattr(views, "display", lambda data, metadata, raw: shown.append(data))
    for explorer in explorers:
        explorer._ipython_display_()
        settings = shown.pop(0)["text/markdown"]
        assert settings.startswith("**Explorer**, as saved with ") and re.sub("</?code>", "", settings).count("<") == 0
        assert len(shown) == len(explorer.panes)
        assert all(LIVE in data and ("image/png" in data or "text/markdown" in data) for data in shown)
        shown.clear()


# ---- a source token and a head --------------------------------------------------------------------------------


def test_every_head_is_read_for_a_source(one_layer, corpus):
    among = torch.arange(1, corpus.tokenizer.d_vocab)
    stream, tokenizer = corpus.train.tolist(), corpus.tokenizer
    for head in one_layer.heads:
        for source in corpus.train[1:4].tolist():
            reading, examples = explore_head(head, tokenizer.show(source), one_layer, corpus, among, n_examples=99)
            qk, ov = qk_circuit(one_layer, head).dense(), ov_circuit(one_layer, head).dense()
            assert reading.destinations[0] == 1 + (qk - qk.mean(1, keepdim=True))[1:, source].argmax()
            assert reading.outs[0] == 1 + ov[source, 1:].argmax()
            for example in examples:
                here = [*example.before, source, *example.between, example.destination, example.out]
                assert any(stream[i : i + len(here)] == here for i in range(len(stream)))
                places = [t for t in range(len(stream) - 1)
                          if stream[t] == example.destination and source in stream[max(0, t - 63) : t]]
                assert example.n_destination == len(places)
                assert example.n == sum(stream[t + 1] == example.out for t in places)


def test_the_corpus_is_searched_for_the_heads_skip_trigrams(one_layer, tokenizer):
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    stream = np.array([a, *[c] * 8, b, a, b, a] * 30, dtype=np.uint16)
    corpus = EncodedCorpus("abc", tokenizer, stream, stream, [])
    reading, examples = explore_head((0, 0), "a", one_layer, corpus)
    assert {*reading.destinations, *reading.outs} <= {a, b, c}
    assert any((e.destination, e.out) == (b, a) and e.n == e.n_destination for e in examples)
    table = example_table(reading, examples, tokenizer)
    assert any("**<code>a</code>** <code>cccccccc</code> **<code>b</code>** → **<code>a</code>**" in row[1]
               for row in table.rows)


def test_a_source_may_be_written_as_shown_and_must_be_one_token(one_layer, corpus):
    tokenizer = corpus.tokenizer
    spaced = next(i for i in range(tokenizer.d_vocab) if tokenizer.show(i).startswith("␣"))
    assert token_of(tokenizer, tokenizer.show(spaced)) == token_of(tokenizer, tokenizer.decode([spaced])) == spaced
    assert token_of(tokenizer, "↵") == tokenizer.token("\n") and token_of(tokenizer, "<START>") == 0
    explorer = head_explorer(one_layer, corpus, tokenizer.decode([spaced]), (0, 0))
    for typed in ("", "no such token", "␣␣␣?", "</script>", "😀", "\0\0", "x" * 100_000):
        explorer.controls["source"].value = typed
        sentence = explorer.message.value
        assert "is not one token of the vocabulary" in sentence and "</script>" not in sentence and len(sentence) < 300
    explorer.controls["source"].value = "a"
    assert explorer.message.value == "" and "the source <code>a</code>" in explorer.panes[0].content["text/markdown"]


# ---- taking heads away ----------------------------------------------------------------------------------------


def test_nothing_taken_away_changes_nothing(model, tokenizer, text):
    for kind in ("zero", "mean"):
        reading = explore_ablation(text, model, tokenizer, [], kind)
        assert torch.equal(reading.intact, reading.ablated) and reading.random_intact == reading.random_ablated


def test_without_any_head_the_direct_path_is_left(model, tokenizer, text):
    reading = explore_ablation(text, model, tokenizer, model.heads)
    tokens = tokenizer.prompt(text, 64)
    log_probs = (model.W_E[tokens[0]] @ model.W_U).log_softmax(-1)
    assert torch.allclose(reading.ablated, -log_probs[:-1].gather(1, tokens[0, 1:, None])[:, 0])


def test_each_head_can_be_replaced_by_its_mean(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    _, cache = model.run_with_cache(tokens)
    for layer, head in model.heads:
        mean = cache.head_outputs[layer][0, head].mean(0)
        wanted = loss_per_token(model, tokens, replace={(layer, head): mean})[0]
        assert torch.allclose(explore_ablation(text, model, tokenizer, [(layer, head)], "mean").ablated, wanted)
    with pytest.raises(ReaderError, match="choose 'zero' or 'mean'"):
        explore_ablation(text, model, tokenizer, [], "median")


def test_every_button_takes_its_head_away(model, tokenizer, text):
    explorer = ablation_explorer(model, tokenizer, text)
    caption = explorer.panes[1]
    assert "with every head in place" in caption.content["text/markdown"]
    for head in model.heads:
        button = explorer.controls[f"{head[0]}:{head[1]}"]
        button.value = True
        loss = explore_ablation(text, model, tokenizer, [head]).ablated.mean()
        assert f"without {head[0]}:{head[1]}" in caption.content["text/markdown"] and button.icon == "times"
        assert f"→ {loss:.2f};" in caption.content["text/markdown"]
        button.value = False
    explorer.controls["kind"].value = "mean"
    explorer.controls["1:0"].value = True
    loss = explore_ablation(text, model, tokenizer, [(1, 0)], "mean").ablated.mean()
    assert f"→ {loss:.2f};" in caption.content["text/markdown"]


# ---- the course of training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moments(corpus) -> dict:
    sizes = {"d_vocab": corpus.tokenizer.d_vocab, "d_model": 8, "d_head": 4, "n_ctx": 64}
    return {step: random_model(2, seed=step, **sizes) for step in (0, 1000, 2000)}


def test_a_moment_has_the_scores_of_its_model(moments, tokenizer, text):
    for model in moments.values():
        moment = explore_moment(text, model, tokenizer, (1, 1))
        assert torch.equal(moment.reading.pattern, explore_text(text, model, tokenizer, 1, 1).pattern)
        assert torch.equal(moment.previous_token, previous_token_scores(model, tokenizer.prompt(text, 64)))
        assert torch.equal(moment.prefix_matching, prefix_matching_scores(model, 20))


def test_the_slider_goes_through_the_moments(moments, tokenizer, text):
    explorer = moment_explorer(moments, tokenizer, text, (0, 0), step=1000)
    pictures = set()
    for step, model in moments.items():
        explorer.controls["step"].value = step
        words = [pane.content.get("text/markdown", "") for pane in explorer.panes]
        loss = explore_text(text, model, tokenizer, 0, 0).loss.mean()
        assert any(f"Mean loss at step {step:,}: {loss:.2f} nats" in word for word in words)
        best = prefix_matching_scores(model, 20).max()
        assert any(f"Heads at step {step:,}" in word and f"prefix matching {best:.2f}" in word for word in words)
        pictures.add(explorer.panes[-2].content["image/png"])
    assert len(pictures) == 3
    explorer.controls["head"].value = (1, 1)
    assert "1&#58;1" in explorer.panes[1].content["text/markdown"]
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value


class Course:
    """A short training and a widget that goes on with it; the widget draws and rests after every step."""

    def __init__(self, corpus, **changes):
        config = replace(RECIPES["laptop"].training, **({"n_tokens": 10 * 2 * 64, "batch_size": 2, "warmup_steps": 3,
                         "n_measurements": 5, "precision": "float32"} | changes))
        sizes = replace(RECIPES["laptop"].model, n_heads=2, d_model=16, d_head=8, n_ctx=64,
                        d_vocab=corpus.tokenizer.d_vocab)
        self.steps = train(sizes, config, corpus)
        self.widget = LiveTraining(self.steps, next(self.steps))
        self.widget.SECONDS_BETWEEN_RESTS = self.widget.SECONDS_BETWEEN_DRAWINGS = 0.0

    @property
    def buttons(self) -> tuple[bool, bool]:
        """Which of Train and Stop can be pressed."""
        return not self.widget.train.disabled, not self.widget.stop.disabled


def test_the_button_trains_to_the_end_and_draws_on_the_way(corpus):
    course, seen = Course(corpus), []
    widget = course.widget
    widget.bar.observe(lambda change: seen.append(change.new), names="value")
    assert course.buttons == (True, False)

    async def press() -> None:
        widget.train.click()
        await asyncio.sleep(0)
        assert course.buttons == (False, True)
        await widget.task

    first = widget.panes[0].content["image/png"]
    asyncio.run(press())
    assert widget.state.step == widget.state.n_steps == 10 and course.buttons == (True, False)
    assert seen == list(range(1, 11)) and widget.panes[0].content["image/png"] != first
    assert "at its end" in widget.message.value and "Step 10 of 10" in widget.panes[1].content["text/markdown"]
    asyncio.run(press_and_wait(widget))
    assert widget.state.step == 10 and "at its end" in widget.message.value


async def press_and_wait(widget: LiveTraining) -> None:
    widget.train.click()
    await widget.task


def test_stop_keeps_the_model_and_train_goes_on_from_there_to_the_same_end(corpus):
    course = Course(corpus)
    widget = course.widget

    async def stop_at(step: int) -> None:
        widget.train.click()
        widget.train.click()  # a second press does nothing
        while widget.state.step < step:
            await asyncio.sleep(0)
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
    course = Course(corpus)
    others: list[int] = []

    async def other_work() -> None:
        while not course.widget.task.done():
            others.append(course.widget.state.step)
            await asyncio.sleep(0)

    async def both() -> None:
        course.widget.train.click()
        await asyncio.gather(other_work(), course.widget.task)

    asyncio.run(both())
    assert len(set(others)) > 5


def test_a_cell_that_is_run_again_stops_the_task_of_its_first_widget(corpus):
    course, other = Course(corpus), Course(corpus)
    first, seen = course.widget, []

    async def run_the_cell_again() -> None:
        first.train.click()
        other.widget.train.click()
        while first.state.step < 2:
            await asyncio.sleep(0)
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
    first, second = course.widget, LiveTraining(course.steps, course.widget.state)
    second.SECONDS_BETWEEN_RESTS = 0.0

    async def press_one_after_the_other() -> None:
        first.train.click()
        while first.state.step < 2:
            await asyncio.sleep(0)
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


def test_a_live_training_has_a_still_form(corpus, monkeypatch):
    shown: list[dict] = []
    monkeypatch.setattr(views, "display", lambda data, metadata, raw: shown.append(data))
    Course(corpus).widget._ipython_display_()
    assert "as saved at step 0" in shown[0]["text/markdown"] and len(shown) == 3
    assert all(LIVE in data for data in shown) and "image/png" in shown[1]
