"""The path of an induction step: its numbers against other ways to them, what it says, what a reader may type."""

import itertools
import json
import re

import pytest
import torch
from matplotlib.figure import Figure

from helpers import ReaderError
from helpers.circuits import score_by_token, score_parts, score_terms
from helpers.explorers import paths
from helpers.explorers.paths import Step, explore_path, induction_step, path_explorer
from helpers.explorers.texts import Reading, read
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.tokens import Tokenizer
from helpers.views import LIVE, View
from helpers.weights import load_book_model
from tests.examples import random_model
from tests.test_token_views import NASTY, OF_TOKENS, parsed

TEXT = "The Zorvex of Quimbledash was quiet. The clerk asked the Zorvex of Quimbledash why."
PREVIOUS, INDUCTION = (0, 6), (1, 9)
OF_PATHS = OF_TOKENS | {
    "span": OF_TOKENS["span"] | {"role", "data-name"},
    **{"table": {"class"}, "tbody": set(), "tr": set(), "td": {"class"}, "th": {"scope"}, "i": {"style"}},
    "code": set(),
}


def reading_of(tokens: list[int], names: list[str] | None = None, seed: int = 0) -> Reading:
    """What a random model of two heads in each of two layers makes of tokens."""
    model, row = random_model(2, seed, n_ctx=max(2, len(tokens)), d_vocab=11), torch.tensor([tokens])
    logits, cache = model.run_with_cache(row)
    return Reading(model, names or [f"t{token}" for token in tokens], row, logits[0], torch.zeros(0).double(), cache)


@pytest.fixture(scope="module")
def model() -> AttentionOnlyTransformer:
    return load_book_model("two_layer")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load()


@pytest.fixture(scope="module")
def reading(model, tokenizer) -> Reading:
    return read(model, tokenizer, TEXT)


REPEATS = [0, 3, 4, 4, 5, 3, 4, 6, 3, 3, 7, 4]
ALL = list(itertools.product(range(len(REPEATS)), [(0, 0), (0, 1)], [(1, 0), (1, 1)]))


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_the_place_is_after_an_earlier_occurrence_and_of_several_the_one_most_looked_at():
    readings, fates = [reading_of(REPEATS, seed=seed) for seed in range(3)], set()
    for reading, (dest, previous, (layer, h)) in itertools.product(readings, ALL):
        step = induction_step(reading, dest, previous, (layer, h))
        attention = reading.cache.patterns[layer][0, h, dest]
        after = [i + 1 for i in range(dest) if REPEATS[i] == REPEATS[dest]]
        assert attention[step.looks] == attention.max() == step.looks_with
        assert (step.source is None) == (not after)
        if after:
            assert step.source in after and attention[step.source] == attention[after].max() == step.attention
        fates.add((bool(after), len(after) > 1, step.looks == step.source))
    assert len(fates) == 5  # none, one, several; the head looks there or elsewhere


def test_scores_are_those_of_the_papers_expansion():
    reading = reading_of(REPEATS)
    seen = 0
    for dest, previous, induction in ALL:
        step = induction_step(reading, dest, previous, induction)
        if step.source is None:
            continue
        args = reading.model, reading.cache, induction, dest
        terms = {i: score_terms(*args, i) for i in range(1, max(dest, step.source) + 1)}
        means = torch.stack([terms[i] for i in range(1, dest)]).mean(0)
        above = terms[step.source] - means
        part = score_parts(reading.model, induction).index(head_name(previous))
        assert step.by_token == pytest.approx(above[0, part].item(), abs=1e-9)
        assert step.by_previous == pytest.approx(above[:, part].sum().item(), abs=1e-9)
        assert step.score == pytest.approx(above.sum().item(), abs=1e-9)
        by_token = [score_by_token(*args, i).sum() for i in (step.source, *range(1, dest))]
        assert step.score == pytest.approx((by_token[0] - torch.stack(by_token[1:]).mean()).item(), abs=1e-9)
        seen += 1
    assert seen > 20


def test_attention_logits_and_probability_are_the_models_own():
    reading = reading_of(REPEATS)
    model, tokens = reading.model, reading.tokens
    logits = model(tokens)[0]
    for dest, previous, induction in ALL:
        step = induction_step(reading, dest, previous, induction)
        if step.source is None:
            continue
        b = tokens[0, step.source]
        lost = (logits - model(tokens, replace={induction: 0.0})[0])[
            dest
        ]  # heads of the last layer act on logits alone
        assert step.raised == pytest.approx((lost[b] - lost.mean()).item(), abs=1e-9)
        assert step.probability == pytest.approx(logits[dest].softmax(-1)[b].item())
        one_back = reading.cache.patterns[0][0, previous[1], step.source, step.source - 1]
        assert step.one_back == one_back.item()


# ---- what is said -----------------------------------------------------------------------------------------------


def said(view: View) -> str:
    return parsed(view.caption).get_text()


def marks_of(view: View) -> dict[str, int]:
    row = parsed(view.html).select(".book-tokens > span")
    return {token["data-name"]: i for i, token in enumerate(row) if token.get("data-name")}


def chain_of(view: View) -> dict[str, str]:
    rows = parsed(view.html).select("tr")
    return {row.th.get_text(): row.select("td")[-1].get_text() for row in rows}


def test_a_step_that_succeeds(reading):
    (view,) = explore_path(reading, 25, PREVIOUS, INDUCTION)
    step = induction_step(reading, 25, PREVIOUS, INDUCTION)
    assert reading.names[24:27] == ["␣Z", "or", "ve"] and step.looks == step.source == 4
    assert step.one_back > 0.9 and step.attention > 0.9 and step.probability > 0.8 and step.raised > 3
    assert marks_of(view) == {"earlier [a]": 3, "source [b]": 4, "destination [a]": 25, "predicted [b]": 26}
    assert said(view) == (
        f"or (25) came before, at 3: head 1:9 looks most at what followed, ve (4), with {step.attention:.2f}, and "
        f"raises its logit by {step.raised:.1f} nats; the model gives it {step.probability:.1%}. "
        "The text goes on with it."
    )
    assert chain_of(view) == {
        "0:6 at ve looks one back, at or": f"{step.one_back:.2f}",
        "↓ score of 1:9 on ve, above the mean of the tokens before": f"{step.score:+.1f} nats",
        "of this, by what 0:6 wrote at ve": f"{step.by_previous:+.1f} nats",
        "of that, asked for by the token or alone": f"{step.by_token:+.1f} nats",
        "↓ attention of 1:9 on ve": f"{step.attention:.2f}",
        "↓ 1:9 raises the logit of ve by": f"{step.raised:+.1f} nats",
        "↓ probability of ve": f"{step.probability:.2f}",
    }


def test_a_step_without_an_earlier_occurrence(reading):
    for dest in (0, 3):
        (view,) = explore_path(reading, dest, PREVIOUS, INDUCTION)
        assert f"({dest}) has not come before: there is no step to take. Head 1:9 looks most at " in said(view)
        assert chain_of(view) == {} and {name.split(", ")[-1] for name in marks_of(view)} >= {"looks here"}


def test_a_head_that_looks_elsewhere(reading):
    (view,) = explore_path(reading, 33, PREVIOUS, INDUCTION)  # the end of the name, which goes on differently
    step = induction_step(reading, 33, PREVIOUS, INDUCTION)
    assert reading.names[step.source - 1] == reading.names[33] == "ash" and step.looks != step.source
    assert f"but head 1:9 looks most at {reading.names[step.looks]} ({step.looks}), with" in said(view)
    assert said(view).endswith(f"it looks with {step.attention:.2f} only: the step fails.")
    assert "predicted" not in "".join(marks_of(view)) and len(chain_of(view)) == 7


def test_a_previous_token_head_that_carries_little_is_named(reading):
    (view,) = explore_path(reading, 25, (0, 3), INDUCTION)
    assert "Head 0:3 carried little of this: it looks one back with 0.00 only. The text goes" in said(view)


def test_another_continuation_and_the_end_of_the_text():
    tokens = torch.tensor([[0, 3, 4, 3, 5]])
    reading = reading_of(tokens[0].tolist(), list("sabac"))
    step = Step(3, 2, 0.9, 2, 0.9, 1.0, 1.0, 1.0, 0.9, 0.01, 0.5)
    assert paths._caption(step, reading, "0:0", "1:0").endswith("goes on with <code>c</code>.")
    assert "hardly moves its logit;" in paths._caption(step, reading, "0:0", "1:0")
    assert paths._marks(step, reading)[4][0] == "[b] was predicted"
    ended = reading_of(tokens[0, :4].tolist(), list("saba"))
    assert paths._caption(step, ended, "0:0", "1:0").endswith("Here the text ends.") and 4 not in paths._marks(
        step, ended
    )


def test_a_place_of_two_parts_has_both_names():
    reading = reading_of([0, 3, 3], ["s", "a", "a"])
    step = Step(2, 2, 0.9, 2)
    assert {place: name for place, (name, _) in paths._marks(step, reading).items()} == {
        2: "destination [a], source [b]",
        1: "earlier [a]",
    }


def test_bars_of_nats_share_a_scale_and_are_red_below_0():
    bars = paths._bars([("share", 0.25, True), ("long", 4.0, False), ("below", -1.0, False)])
    assert [(length, number) for _, length, number, _ in bars] == [
        (0.25, "0.25"),
        (1.0, "+4.0 nats"),
        (0.25, "-1.0 nats"),
    ]
    assert len({colour for *_, colour in bars}) == 3
    assert paths._bars([("none", 0.0, False)])[0][1] == 0


# ---- what is shown ----------------------------------------------------------------------------------------------


def test_tokens_are_harmless_unchanged_and_choose_their_position():
    tokens = [0, *(1 + i % 5 for i in range(len(NASTY) - 1))]
    reading = reading_of(tokens, NASTY)
    for dest in range(len(NASTY)):
        (view,) = explore_path(reading, dest, (0, 0), (1, 1))
        row = parsed(view.html, OF_PATHS).select(".book-tokens > span")
        assert [token.get_text() for token in row] == NASTY
        assert [json.loads(token["data-choose"]) for token in row] == [{"position": i} for i in range(len(NASTY))]
        parsed(view.caption, {"code": set()})


@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, for a letter that its font lacks
def test_the_picture_marks_the_same_places_and_shows_the_same_numbers(monkeypatch):
    figures: list[Figure] = []
    monkeypatch.setattr(paths, "render", lambda figure, caption: figures.append(figure) or {"text/plain": caption})
    reading = reading_of([0, *(1 + i % 5 for i in range(len(NASTY) - 1))], NASTY)
    for dest in (0, len(NASTY) - 2):
        (view,) = explore_path(reading, dest, (0, 0), (1, 1))
        assert len(figures) == bool(dest), "drawn before it is needed"
        assert view.still() == {"text/plain": view.caption}
        named = [text.get_text() for text in figures[-1].legends[0].get_texts()]
        assert [name.split(":")[0] for name in named] and {n.split(":")[0] for n in named} == set(marks_of(view))
        assert [text.get_text() for axes in figures[-1].axes[1:] for text in axes.texts[::2]] == [
            *chain_of(view).values()
        ]
        figures[-1].canvas.draw()


# ---- the controls -----------------------------------------------------------------------------------------------


def test_each_control_changes_what_is_shown_and_a_text_is_read_once(model, tokenizer, monkeypatch):
    runs, run = [], AttentionOnlyTransformer.residual_stream
    monkeypatch.setattr(
        AttentionOnlyTransformer, "residual_stream", lambda *a, **b: runs.append(a[1].shape[1]) or run(*a, **b)
    )
    explorer = path_explorer(model, tokenizer, TEXT, 25)
    first = explorer.shown[0].body.html
    explorer.shown[0].body.chosen = '{"position": 33}'
    assert explorer.controls["position"].value == 33 and explorer.shown[0].body.html != first
    explorer.controls["induction"].value = (1, 3)
    assert "1:3" in explorer.shown[0].caption.html
    explorer.controls["previous"].label = "0:2"
    assert "0:2" in explorer.shown[0].body.html and runs == [len(read(model, tokenizer, TEXT).names)] * 2
    explorer.controls["text"].value = "a b a"
    assert explorer.controls["position"].max == len(tokenizer.encode("a b a")) == explorer.controls["position"].value
    explorer.controls["text"].value = ""
    assert "role" in explorer.message.value and explorer.shown[0].body.html == ""
    assert [label for label, _ in explorer.controls["previous"].options] == [head_name(h) for h in model.layer_heads(0)]
    assert [label for label, _ in explorer.controls["induction"].options] == [
        head_name(h) for h in model.layer_heads(1)
    ]


def test_it_is_saved_as_a_picture_with_its_caption(model, tokenizer, shown):
    path_explorer(model, tokenizer, TEXT, 25)._ipython_display_()
    settings, (picture, metadata), (caption, _) = shown
    assert "position <code>25</code>, previous-token head <code>0&#58;6</code>" in settings[0]["text/markdown"]
    assert set(picture) == {LIVE, "image/png", "text/plain"} and picture["text/plain"].startswith("or (25) came before")
    assert metadata["image/png"]["alt"] == picture["text/plain"]
    assert re.sub("</?code>", "", caption["text/markdown"]) == f"*{picture['text/plain']}*"


@pytest.mark.parametrize("heads", [((1, 0), (1, 9)), ((1, 9), (0, 6)), ((0, 12), (1, 9)), ((0, 6), (2, 0))])
def test_heads_that_cannot_be_are_refused(heads, model, tokenizer, reading):
    with pytest.raises(ReaderError, match=r"^[^\n]*\.$"):
        path_explorer(model, tokenizer, TEXT, 25, *heads)
    with pytest.raises(ReaderError):
        explore_path(reading, 25, *heads)


def test_no_such_position_is_refused(reading):
    with pytest.raises(ReaderError, match="There is no position 99"):
        explore_path(reading, 99, PREVIOUS, INDUCTION)
