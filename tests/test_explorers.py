"""The explorers: their pure functions over all heads and over what readers may type, their shells by code."""

import itertools
import json
import re
import threading

import ipywidgets
import numpy as np
import pytest
import torch

from helpers import START, ReaderError
from helpers.bigrams import Bigrams, count_bigrams, direct_path
from helpers.circuits import copying_summary, eigenvalue_score, ov_circuit, qk_circuit
from helpers.explorers import (
    LOCK,
    Explorer,
    ablation_explorer,
    bigram_explorer,
    checkpoint_explorer,
    component_explorer,
    copying_explorer,
    head_explorer,
    text_explorer,
    token_of,
)
from helpers.explorers import tokens as tokens_module
from helpers.explorers.shell import remembered
from helpers.explorers.texts import explore_ablation, explore_components, explore_text, read, read_intact
from helpers.explorers.tokens import CIRCUITS, ORDERS, explore_bigram, explore_copying
from helpers.explorers.trainings import explore_checkpoint, take_snapshot
from helpers.heads import (
    loss_per_token,
    prefix_matching_scores,
    previous_token_scores,
    random_repeats,
    repeated_random_loss,
)
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.text import Text
from helpers.tokens import EncodedCorpus, Tokenizer
from helpers.training import TrainingConfig
from helpers.training.optimizers import new_optimizers
from helpers.views import LIVE, Table, View, as_html, code
from tests.examples import random_model
from tests.test_token_views import (
    OF_BARS,
    OF_TOKENS,
    alt_of,
    bars_of,
    dots_of,
    numbers_of,
    parsed,
    row_of,
    tokens_of,
    weights_of,
)

FINE = ["a", " ", "</script>", "<START>", "<b>bold</b>", "😀", "\0", "\n\t", "\ud800", "$x$ | `y` *z* &amp;"]
REFUSED = ["", "x" * 100_000, "ab " * 500]
NO_TOKENS = ["", "no such token", "␣␣␣?", "</script>", "😀", "\0\0", "x" * 100_000]
MAY_HAVE = OF_TOKENS | OF_BARS
SENTENCE = r"^[^\n]*\.$"


@pytest.fixture(scope="module")
def model(corpus) -> AttentionOnlyTransformer:
    return random_model(2, d_vocab=corpus.tokenizer.d_vocab, d_model=8, d_head=4, n_ctx=64)


@pytest.fixture(scope="module")
def one_layer(corpus) -> AttentionOnlyTransformer:
    return random_model(1, d_vocab=corpus.tokenizer.d_vocab, d_model=8, d_head=4, n_ctx=64)


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return corpus.tokenizer


@pytest.fixture
def text(corpus) -> str:
    return corpus.tokenizer.decode(corpus.train[1:30])


@pytest.fixture
def n_runs(monkeypatch) -> list[int]:
    """The lengths of the texts on which a model is run."""
    lengths, run = [], AttentionOnlyTransformer.residual_stream

    def counted(model, tokens, **options):
        lengths.append(tokens.shape[1])
        return run(model, tokens, **options)

    monkeypatch.setattr(AttentionOnlyTransformer, "residual_stream", counted)
    return lengths


def text_of(corpus: EncodedCorpus, frequent: torch.Tensor) -> Text:
    """A text in which these tokens count as frequent, however small it is."""
    text = Text(corpus)
    vars(text)["frequent"] = frequent
    return text


def bodies(explorer: Explorer) -> list[str]:
    """What is shown below the controls, without the captions."""
    return [widget.body.html for widget in explorer.shown]


def captions(explorer: Explorer) -> list[str]:
    return [widget.caption.html for widget in explorer.shown]


def in_html(caption: str) -> str:
    return f"<em>{as_html(caption)}</em>"


def is_empty(explorer: Explorer) -> bool:
    return not any(bodies(explorer) + captions(explorer))


def words(explorer: Explorer) -> str:
    """Everything that is said below the controls, as HTML."""
    return "\n".join(bodies(explorer) + captions(explorer))


def bars(view: View) -> list[list[float]]:
    """Of all series, as they are written beside the bars."""
    return [list(series.values()) for series in bars_of(view).values()]


def close(shown: torch.Tensor | list, exact: torch.Tensor | list, digits: int = 2) -> bool:
    shown, exact = (torch.as_tensor(numbers, dtype=torch.double) for numbers in (shown, exact))
    return shown.shape == exact.shape and torch.allclose(shown, exact, rtol=0, atol=0.51 * 10**-digits)


# ---- the shell --------------------------------------------------------------------------------------------------


def number_explorer() -> Explorer:
    return Explorer(reciprocal, {"number": ipywidgets.IntText(1, description="Number")})


def reciprocal(number: int):
    if number < 0:
        raise ReaderError("<b>Choose</b> a positive number.")
    return [Table({"reciprocal": ""}, [[1 / number]], f"Of {number}.")]


def test_a_mistake_is_answered_with_an_escaped_sentence():
    explorer = number_explorer()
    explorer.controls["number"].value = -1
    assert "&lt;b&gt;Choose&lt;/b&gt; a positive number." in explorer.message.value and is_empty(explorer)
    assert parsed(explorer.message.value, {"p": {"role"}, "b": set()}).p["role"] == "alert"


def test_an_unforeseen_error_is_told_and_raised():
    explorer = number_explorer()
    with pytest.raises(ZeroDivisionError):
        explorer.controls["number"].value = 0
    assert "ZeroDivisionError" in explorer.message.value
    explorer.controls["number"].value = 2
    assert explorer.message.value == "" and "<td>0.5</td>" in words(explorer)


def test_a_first_mistake_is_the_cells_own():
    with pytest.raises(ReaderError):
        Explorer(reciprocal, {"number": ipywidgets.IntText(-1, description="Number")})


def test_callbacks_wait_for_whoever_runs_a_model():
    explorer = number_explorer()
    moved = threading.Thread(target=setattr, args=(explorer.controls["number"], "value", 4))
    with LOCK:
        moved.start()
        moved.join(0.2)
        assert moved.is_alive() and "1.0" in words(explorer)
    moved.join(10)
    assert "0.25" in words(explorer)


def clickable() -> Explorer:
    menu = ipywidgets.Dropdown(options=[("<one>", 1), ("two", 2)], description="Menu")
    slider = ipywidgets.IntSlider(3, 0, 9, description="Slider")
    return Explorer(
        lambda menu, slider: [View(lambda: {"text/plain": ""}, "", f"{menu} {slider}")],
        {"menu": menu, "slider": slider},
    )


def test_a_click_sets_controls_by_value_and_menus_by_label():
    explorer = clickable()
    page = explorer.shown[0].body
    page.chosen = json.dumps({"menu": "two", "slider": 5})
    assert page.html == "2 5" and page.chosen == ""
    explorer.controls["slider"].value = 7
    page.chosen = json.dumps({"menu": "<one>", "slider": 5})
    assert page.html == "1 5" and page.chosen == ""


def test_the_same_can_be_clicked_again_after_the_control_has_moved():
    explorer = clickable()
    for _ in range(2):
        explorer.shown[0].body.chosen = '{"slider": 5}'
        assert explorer.controls["slider"].value == 5
        explorer.controls["slider"].value = 6


def check_clicks(explorer: Explorer) -> int:
    """Click on whatever can be clicked, one after the other; returns how many different clicks there were."""
    parts = [
        (w.body, part["data-choose"]) for w in explorer.shown for part in parsed(w.body.html).select("[data-choose]")
    ]
    for page, choice in dict.fromkeys(parts):
        wanted = json.loads(choice)
        assert wanted and set(wanted) <= set(explorer.controls)
        page.chosen = choice
        assert page.chosen == "" and explorer.message.value == ""
        for name, value in wanted.items():
            control = explorer.controls[name]
            assert getattr(control, "label", control.value) == value
    return len(dict.fromkeys(parts))


@pytest.fixture
def all_explorers(model, one_layer, corpus, text, bigrams) -> list[Explorer]:
    tokenizer, source = corpus.tokenizer, corpus.tokenizer.show(corpus.train[1])
    return [
        text_explorer(model, tokenizer, text, (0, 0)),
        bigram_explorer(model, tokenizer, "a", bigrams, ["e"]),
        component_explorer(model, tokenizer, text, 3),
        copying_explorer(one_layer, tokenizer, (0, 1), torch.arange(20)),
        head_explorer(one_layer, text_of(corpus, torch.arange(1, 40)), source, (0, 1)),
        ablation_explorer(model, tokenizer, text, [(0, 1)]),
        checkpoint_explorer({0: model, 7: model}, tokenizer, text, (1, 0), step=7),
    ]


def test_every_control_has_a_name_and_what_is_typed_waits_until_the_reader_is_done(all_explorers):
    for explorer in all_explorers:
        for control in explorer.controls.values():
            assert control.description
            if isinstance(control, ipywidgets.IntSlider | ipywidgets.SelectionSlider):
                assert control.continuous_update
            if control.description in ("Text", "Token", "Source token"):
                assert not control.continuous_update


def test_every_click_sets_a_control_that_is_there(all_explorers, tokenizer, text):
    of_text, _, _, _, of_head, _, of_checkpoint = (check_clicks(explorer) for explorer in all_explorers)
    assert of_text == tokenizer.prompt(text, 64).shape[1] and of_head > len(ORDERS) and of_checkpoint == 0


def test_captions_are_spoken_and_what_they_are_about_is_not(all_explorers):
    for explorer in all_explorers:
        for widget in explorer.shown:
            assert widget.caption.spoken and not widget.body.spoken and widget.caption.html


@pytest.mark.slow
def test_every_explorer_is_saved_with_its_settings_and_stills(all_explorers, shown):
    for explorer in all_explorers:
        explorer._ipython_display_()
        (settings, _), *rest = shown
        said = settings["text/markdown"]
        assert said.startswith("**Explorer**, as saved with ") and re.sub("</?code>", "", said).count("<") == 0
        assert len(rest) == 2 * len(explorer.shown) and all(LIVE in data for data, _ in shown)
        for (body, metadata), (caption, _) in zip(rest[::2], rest[1::2], strict=True):
            assert caption["text/markdown"].startswith("*") and ("image/png" in body) != ("text/markdown" in body)
            if "image/png" in body:
                assert body["text/plain"] == alt_of(caption["text/markdown"]).strip("*") != ""
                assert metadata == {"image/png": {"alt": body["text/plain"]}}
            else:
                assert body["text/markdown"].startswith("| ")
        assert not re.search("<(?!/?code>)|book-", "".join(text for data, _ in shown for text in _texts(data)))
        shown.clear()


def _texts(data: dict) -> list[str]:
    """The text of a saved output."""
    return [content for mime, content in data.items() if mime.startswith("text/") and mime != "text/plain"]


# ---- what is remembered -----------------------------------------------------------------------------------------


@pytest.fixture
def calls_of_a_function(corpus):
    """A model, a function that is remembered for it, and the arguments with which it has been called."""
    model, calls = random_model(1, d_vocab=corpus.tokenizer.d_vocab), []
    for weight in model.parameters():
        weight.mul_(10).round_()  # so that sums are exact
    return model, remembered(model, lambda *arguments: calls.append(arguments) or len(calls), n=2), calls


def test_the_last_results_are_remembered(calls_of_a_function):
    _, function, calls = calls_of_a_function
    assert [function("a"), function("b", 2), function("a"), function("b", 2)] == [1, 2, 1, 2]
    assert [function("c"), function("b", 2), function("a")] == [3, 2, 4]
    assert calls == [("a",), ("b", 2), ("c",), ("a",)]


BY_MUON = TrainingConfig(1000, muon_learning_rate=0.01, precision="float32")
WRITE = {
    "an entry": lambda model: model.W_U[0, 0].add_(1),
    "rows exchanged": lambda model: model.W_E.copy_(model.W_E.flip(0)),
    "other weights loaded": lambda model: model.load_state_dict(
        random_model(1, seed=5, d_vocab=model.config.d_vocab).state_dict()
    ),
    "beside the record": lambda model: model.W_O.data.mul_(1.5),
    "plain optimizer": lambda model: step(model, [torch.optim.SGD(model.parameters(), 0.1)]),
    "the book's AdamW": lambda model: step(model, new_optimizers(model.requires_grad_(), TrainingConfig(1000))),
    "the book's Muon": lambda model: step(model, new_optimizers(model.requires_grad_(), BY_MUON)),
}


def step(model: AttentionOnlyTransformer, optimizers: list[torch.optim.Optimizer]) -> None:
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    for optimizer in optimizers:
        optimizer.step()
    model.requires_grad_(False)


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_what_was_remembered_is_forgotten_when_a_weight_is_written_in_place(calls_of_a_function, write):
    model, function, calls = calls_of_a_function
    before = [weight.clone() for weight in model.parameters()]
    assert function("a") == function("a") == 1
    write(model)
    assert not all(map(torch.equal, before, model.parameters()))
    assert function("a") == function("a") == 2 and len(calls) == 2


def test_an_explorer_shows_the_weights_as_they_are_now(corpus, tokenizer, text):
    model = random_model(2, d_vocab=tokenizer.d_vocab, d_model=8, d_head=4, n_ctx=64)
    explorer = text_explorer(model, tokenizer, text, (0, 0), position=2)
    step(model, new_optimizers(model.requires_grad_(), TrainingConfig(1000, learning_rate=0.1)))
    explorer.controls["position"].value = 3
    new = text_explorer(model, tokenizer, text, (0, 0), position=3)
    assert bodies(explorer) == bodies(new) and captions(explorer) == captions(new)


# ---- a token and its bigrams ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def zero_layer(corpus) -> AttentionOnlyTransformer:
    return random_model(0, d_vocab=corpus.tokenizer.d_vocab).float()


@pytest.fixture(scope="module")
def bigrams(corpus) -> Bigrams:
    return count_bigrams(corpus.train, corpus.tokenizer.d_vocab)


@pytest.mark.slow
def test_the_bigrams_of_every_token_can_be_explored(zero_layer, tokenizer, bigrams):
    for token in range(tokenizer.d_vocab):
        try:
            (table,) = explore_bigram(zero_layer, tokenizer, tokenizer.show(token), bigrams)
        except ReaderError:
            continue  # bytes that are no text cannot be typed
        n, successors = bigrams.first_counts[token], int((bigrams.row(token) > 0).sum())
        assert len(table.rows) == 8 and sum(row[3] != "" for row in table.rows) == min(8, successors)
        assert f"{n:,} times" in table.caption if n else "never has anything" in table.caption


def test_both_rows_of_a_token_are_reported(zero_layer, tokenizer, bigrams):
    token = int(bigrams.first_counts.argmax())
    (table,) = explore_bigram(zero_layer, tokenizer, tokenizer.show(token), bigrams)
    row, log_p = bigrams.row(token), direct_path(zero_layer)[token]
    shares, p = row.double() / row.sum(), log_p.exp()
    by_count, by_model = (values.argsort(descending=True, stable=True)[:8] for values in (row, p))
    for start, order, first, second in ((0, by_model, p, shares), (3, by_count, shares, p)):
        found = [row[start : start + 3] for row in table.rows]
        assert [token for token, _, _ in found] == [code(token) for token in tokenizer.show_all(order)]
        assert [value for _, value, _ in found] == pytest.approx(first[order].tolist(), rel=1e-4)
        assert [value for _, _, value in found] == pytest.approx(second[order].tolist(), rel=1e-4)
    divergence = (shares * (shares.log() - log_p))[row > 0].sum()
    assert f"diverges from the model's by {divergence:.2f} nats" in table.caption


def test_a_token_is_typed_or_chosen(zero_layer, tokenizer, bigrams):
    explorer = bigram_explorer(zero_layer, tokenizer, "a", bigrams, ["a", "e"])
    box, menu = explorer.controls["token"], explorer._panel.children[0].children[0]
    menu.value = "e"
    assert box.value == "e" and "After <code>e</code>" in words(explorer)
    box.value = "o"
    assert menu.value == "" and "After <code>o</code>" in words(explorer)


def test_start_and_unseen_tokens_have_bigrams_too(zero_layer, tokenizer):
    nothing = count_bigrams(np.array([START, START], dtype=np.uint16), tokenizer.d_vocab)
    (start,), (unseen,) = (explore_bigram(zero_layer, tokenizer, token, nothing) for token in ("<START>", "e"))
    assert start.rows[0][3:5] == [code("<START>"), 1.0] and start.rows[1][3:] == [""] * 3
    assert "never" in unseen.caption and all(row[3:] == [""] * 3 for row in unseen.rows)


def test_bigrams_of_another_vocabulary_are_refused(zero_layer, tokenizer):
    with pytest.raises(ReaderError, match="same corpus"):
        explore_bigram(zero_layer, tokenizer, "e", count_bigrams(np.array([0, 1], dtype=np.uint16), 4))


@pytest.mark.parametrize("typed", NO_TOKENS)
def test_what_is_not_one_token_is_answered_with_a_sentence(one_layer, zero_layer, corpus, bigrams, typed):
    with pytest.raises(ReaderError, match="is not one token of the vocabulary"):
        token_of(corpus.tokenizer, typed)
    for name, explorer in (
        ("token", bigram_explorer(zero_layer, corpus.tokenizer, "a", bigrams, [])),
        ("source", head_explorer(one_layer, text_of(corpus, torch.arange(1, 40)), "a", (0, 0))),
    ):
        explorer.controls[name].value = typed
        sentence = explorer.message.value
        assert "is not one token of the vocabulary" in sentence and "</script>" not in sentence and len(sentence) < 300
        assert is_empty(explorer)
        explorer.controls[name].value = "e"
        assert explorer.message.value == "" and "<code>e</code>" in words(explorer)


def test_a_token_may_be_written_as_shown(tokenizer):
    spaced = next(i for i in range(tokenizer.d_vocab) if tokenizer.show(i).startswith("␣"))
    assert token_of(tokenizer, tokenizer.show(spaced)) == token_of(tokenizer, tokenizer.decode([spaced])) == spaced
    assert token_of(tokenizer, "↵") == tokenizer.token("\n") and token_of(tokenizer, "<START>") == START


# ---- what a head does with the token itself ---------------------------------------------------------------------


def same_dots(dots: torch.Tensor, eigenvalues: torch.Tensor) -> bool:
    """Whether each eigenvalue has a dot at its angle, 1 from the centre if largest, 1/3 less for each factor of 10."""
    radius = (1 + (eigenvalues.abs() / eigenvalues.abs().max()).log10() / 3).clamp(min=0)
    places = torch.stack([radius * eigenvalues.angle().cos(), radius * eigenvalues.angle().sin()], dim=1)
    return len(dots) == 4 and torch.cdist(places, dots.double()).amin(1).max().item() < 0.002


@pytest.mark.parametrize("circuit", [ov_circuit, qk_circuit])
def test_copying_of_every_head_and_circuit(one_layer, tokenizer, circuit):
    among = torch.arange(3, 40)
    for head in one_layer.heads:
        view, table = explore_copying(one_layer, tokenizer, head, circuit, among)
        matrix, dense = circuit(one_layer, head).centred(), circuit(one_layer, head).dense()
        s, caption = copying_summary(matrix), view.caption
        exact = torch.linalg.eigvals(dense - dense.mean(1, keepdim=True))
        assert same_dots(dots_of(view), exact[exact.abs().argsort(descending=True)][: len(dots_of(view))])
        assert f"of head {head_name(head)}" in parsed(view.html).svg["aria-label"]
        score = eigenvalue_score(torch.linalg.eigvals(dense - dense.mean(1, keepdim=True)))
        assert f"eigenvalue score {score:+.2f}; " in caption
        assert f"diagonal {s.mean:+.2f} (mean), {s.median:+.2f} (median)" in caption
        assert f"own row {s.first:.1%} of tokens, among the ten first {s.top_10:.1%}" in caption
        own = (dense.diagonal() - dense.mean(1)) / dense.std(1, correction=0)
        order = sorted(among.tolist(), key=lambda token: -own[token])
        for start, tokens in ((0, order[:8]), (2, order[::-1][:8])):
            assert [row[start] for row in table.rows] == [code(token) for token in tokenizer.show_all(tokens)]
            assert [row[start + 1] for row in table.rows] == pytest.approx(own[tokens].tolist(), abs=1e-6)


def test_every_control_of_the_copying_explorer(one_layer, tokenizer):
    explorer = copying_explorer(one_layer, tokenizer, (0, 0), torch.arange(20))
    seen = set()
    for head, circuit in itertools.product(one_layer.heads, CIRCUITS.values()):
        explorer.controls["head"].value, explorer.controls["circuit"].value = head, circuit
        view, table = explore_copying(one_layer, tokenizer, head, circuit, torch.arange(20))
        assert explorer.message.value == "" and bodies(explorer) == [view.html, table.view.html]
        assert captions(explorer) == [in_html(view.caption), in_html(table.caption)]
        seen.add(words(explorer))
    assert len(seen) == 2 * len(one_layer.heads)


def test_a_circuit_is_taken_apart_once(one_layer, tokenizer, monkeypatch):
    explorer, taken = copying_explorer(one_layer, tokenizer, (0, 0), torch.arange(20)), []
    monkeypatch.setattr(tokens_module, "copying_summary", lambda matrix: taken.append(1) or copying_summary(matrix))
    first = words(explorer)
    for head in ((0, 1), (0, 0), (0, 1), (0, 0)):
        explorer.controls["head"].value = head
    assert len(taken) == 1 and words(explorer) == first


# ---- a text and a head ------------------------------------------------------------------------------------------


def test_a_text_is_read_by_every_head(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    cache, losses, reading = model.cache(tokens), loss_per_token(model, tokens)[0], read(model, tokenizer, text)
    for layer, head in model.heads:
        pattern = cache.patterns[layer][0, head]
        moved = pattern * (cache.values[layer][0, head] @ model.W_O[layer, head]).norm(dim=-1)
        for weigh, wanted in ((False, pattern), (True, moved / moved.sum(-1, keepdim=True))):
            of_losses, attention, _ = explore_text(reading, tokenizer, (layer, head), 1, weigh)
            assert close(weights_of(attention), wanted, digits=3) and row_of(attention)["data-from"] == "1"
            assert tokens_of(attention) == tokens_of(of_losses) == tokenizer.show_all(tokens[0])
            assert close(numbers_of(of_losses), torch.cat([losses.new_zeros(1), losses]))
            assert f"attention of {code(head_name((layer, head)))}," in attention.caption
            assert f"Mean loss {losses.mean():.2f} nats a token." in of_losses.caption


def test_the_prediction_table_says_what_comes_next(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    probabilities, losses = model(tokens)[0].softmax(-1), loss_per_token(model, tokens)[0]
    reading = read(model, tokenizer, text)
    for position in range(tokens.shape[1]):
        *_, table = explore_text(reading, tokenizer, (1, 0), position)
        best = probabilities[position].sort(descending=True)
        assert [row[0] for row in table.rows] == [code(token) for token in tokenizer.show_all(best.indices[:5])]
        assert [row[1] for row in table.rows] == pytest.approx(best.values[:5].tolist())
        last = position == len(losses)
        assert ("the text ends" if last else f"loss {losses[position]:.2f} nats") in table.caption


@pytest.mark.parametrize("typed", FINE)
def test_any_text_can_be_explored(model, tokenizer, typed):
    for explorer in (text_explorer(model, tokenizer, typed, (0, 1)), component_explorer(model, tokenizer, typed, 1)):
        explorer.controls["text"].value = typed + typed
        n = tokenizer.prompt(typed + typed, 64).shape[1]
        assert explorer.message.value == "" and all(bodies(explorer)) and explorer.controls["position"].max == n - 1
        explorer.controls["position"].value = n - 1
        assert explorer.message.value == "" and f"(position {n - 1})" in words(explorer)
    explore_ablation(read_intact(model, tokenizer, typed), [(0, 1)])


@pytest.mark.parametrize("typed", FINE)
def test_what_is_typed_is_shown_as_text_and_nothing_else(model, tokenizer, typed):
    explorers = text_explorer(model, tokenizer, typed, (0, 1), 0), ablation_explorer(model, tokenizer, typed)
    for explorer in (*explorers, checkpoint_explorer({0: model}, tokenizer, typed, (0, 1), step=0)):
        wanted = tokenizer.show_all(tokenizer.prompt(typed, 64)[0])
        rows = [row for body in bodies(explorer) for row in parsed(body, MAY_HAVE).select(".book-tokens")]
        assert rows and all([token.get_text() for token in row] == wanted for row in rows)
        for caption in captions(explorer):
            parsed(caption, {"em": set(), "code": set()})


@pytest.mark.parametrize("typed", REFUSED, ids=["empty", "100,000 characters", "too long"])
def test_a_text_that_does_not_fit_is_refused(model, tokenizer, typed):
    for explore in (
        lambda: read(model, tokenizer, typed),
        lambda: read_intact(model, tokenizer, typed),
        lambda: take_snapshot({0: model}, tokenizer, 0, typed),
        lambda: text_explorer(model, tokenizer, typed, (0, 0)),
    ):
        with pytest.raises(ReaderError, match=SENTENCE):
            explore()
    for explorer in (component_explorer(model, tokenizer, "a", 0), ablation_explorer(model, tokenizer, "a")):
        explorer.controls["text"].value = typed
        assert "<b>" in explorer.message.value and is_empty(explorer)


@pytest.mark.parametrize("head", [(2, 0), (0, 2), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, corpus, head):
    among, tokenizer = torch.arange(9), corpus.tokenizer
    for explore in (
        lambda: explore_text(read(model, tokenizer, "a"), tokenizer, head, 0),
        lambda: explore_copying(model, tokenizer, head, ov_circuit, among),
        lambda: explore_ablation(read_intact(model, tokenizer, "a"), [head]),
        lambda: explore_checkpoint(take_snapshot({0: model}, tokenizer, 0, "a"), head),
        lambda: text_explorer(model, tokenizer, "a", head),
    ):
        with pytest.raises(ReaderError, match=f"no head {head_name(head)}"):
            explore()


def test_every_control_of_the_text_explorer(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0), position=2)
    position, (losses, attention, _) = explorer.controls["position"], (widget.body for widget in explorer.shown)
    first = losses.html
    for head in model.heads:
        explorer.controls["head"].value = head
        assert f"{head[0]}&#58;{head[1]}" in words(explorer)
    assert losses.html == first
    plain = attention.html
    explorer.controls["weigh"].value = True
    assert attention.html != plain and losses.html == first
    for t in range(position.max + 1):
        position.value = t
        assert f"(position {t})" in words(explorer) and f'data-from="{t}"' in attention.html


def test_a_click_on_a_token_sets_the_position(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0), position=2)
    attention = explorer.shown[1].body
    for t, token in enumerate(parsed(attention.html).select_one(".book-tokens")):
        attention.chosen = token["data-choose"]
        assert explorer.controls["position"].value == t and f"(position {t})" in captions(explorer)[2]


def test_a_mistake_becomes_a_sentence_and_goes_away_again(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0))
    before = words(explorer)
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value and is_empty(explorer)
    explorer.controls["text"].value = text
    assert explorer.message.value == "" and words(explorer) == before


@pytest.mark.parametrize("make", [lambda *a: text_explorer(*a, (0, 0), 20), lambda *a: component_explorer(*a, 20)])
def test_the_model_runs_once_for_a_text_and_another_text_moves_the_slider(model, tokenizer, text, n_runs, make):
    explorer = make(model, tokenizer, text)
    n = tokenizer.prompt(text, 64).shape[1]
    assert n_runs == [n]
    position = explorer.controls["position"]
    explorer.controls["text"].value = "ab"  # shorter: the slider is beyond its end
    last = len(tokenizer.encode("ab"))
    assert n_runs == [n, last + 1] and position.max == position.value == last
    assert f"(position {last})" in words(explorer)
    explorer.controls["text"].value = text  # longer, and known already: the slider stays
    assert n_runs == [n, last + 1] and (position.max, position.value) == (n - 1, last)
    position.value = 5
    assert "(position 5)" in words(explorer)
    for head in model.heads if "head" in explorer.controls else ():
        explorer.controls["head"].value = head
        explorer.controls["weigh"].value = True
    assert n_runs == [n, last + 1]


# ---- the components of the stream -------------------------------------------------------------------------------


@pytest.mark.slow
def test_components_speak_for_the_token_that_comes_next(model, tokenizer, text):
    tokens, reading = tokenizer.prompt(text, 64), read(model, tokenizer, text)
    cache, logits, last = model.cache(tokens), model(tokens)[0], tokens.shape[1] - 1
    for position in range(last + 1):
        (view,) = explore_components(reading, tokenizer, position)
        out = int(logits[position].argmax() if position == last else tokens[0, position + 1])
        written = [model.W_E[tokens[0, position]], *(cache.head_outputs[at][0, h, position] for at, h in model.heads)]
        exact = [(x @ model.W_U)[out] - (x @ model.W_U).mean() for x in written]
        assert close(bars(view), [exact]) and bars_of(view).keys() == {"logit"}
        names = list(bars_of(view)["logit"])
        assert names == ["token", *map(head_name, model.heads)]
        assert sum(exact) == pytest.approx((logits[position, out] - logits[position].mean()).item())
        assert f"The sum is {sum(exact):.1f} nats" in view.caption
        loudest = max(range(len(names)), key=lambda i: abs(exact[i]))
        assert view.caption.endswith(f"the loudest is {names[loudest]} with {exact[loudest]:+.1f}.")
        assert f"(position {position})" in view.caption and f"the logit of {code(tokenizer.show(out))}." in view.caption
        assert f"the probability {logits[position].softmax(-1)[out]:.1%};" in view.caption


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_that_is_not_there_is_refused(model, tokenizer, position):
    reading = read(model, tokenizer, tokenizer.decode([5, 6]))
    with pytest.raises(ReaderError, match="positions 0 to 2."):
        explore_components(reading, tokenizer, position)
    with pytest.raises(ReaderError, match="positions 0 to 2."):
        explore_text(reading, tokenizer, (0, 0), position)


# ---- taking heads away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_mean", [False, True])
def test_each_head_can_be_taken_away(model, tokenizer, text, by_mean):
    tokens, known = tokenizer.prompt(text, 64), read_intact(model, tokenizer, text)
    cache, intact = model.cache(tokens), loss_per_token(model, tokens)[0]
    before = [intact.mean().item(), *repeated_random_loss(model, 20, n_samples=4)]
    random = model.cache(random_repeats(model.config.d_vocab, 20, n_samples=4))
    for layer, head in model.heads:
        means, changes = explore_ablation(known, [(layer, head)], by_mean)
        written, on_random = (c.head_outputs[layer][:, head].flatten(0, 1).mean(0) for c in (cache, random))
        ablated = loss_per_token(model, tokens, replace={(layer, head): written if by_mean else 0.0})[0]
        of_random = {(layer, head): on_random if by_mean else 0.0}
        after = [ablated.mean().item(), *repeated_random_loss(model, 20, n_samples=4, replace=of_random)]
        assert close(bars(means), [before, after]) and list(bars_of(means)) == ["intact", "now"]
        assert close(numbers_of(changes)[1:], ablated - intact) and numbers_of(changes)[0] == 0
        moves = [f"{b:.2f} → {a:.2f}" for b, a in zip(before, after, strict=True)]
        assert re.findall(r"[\d.]+ → [\d.]+\d", means.caption) == moves


@pytest.mark.parametrize("by_mean", [False, True])
def test_nothing_taken_away_changes_nothing(model, tokenizer, text, by_mean):
    means, changes = explore_ablation(read_intact(model, tokenizer, text), [], by_mean)
    before, now = bars(means)
    assert before == now and not any(numbers_of(changes))
    assert "with every head in place" in means.caption


def test_without_any_head_the_direct_path_is_left(model, tokenizer, text):
    means, _ = explore_ablation(read_intact(model, tokenizer, text), model.heads)
    tokens = tokenizer.prompt(text, 64)
    log_probs = (model.W_E[tokens[0]] @ model.W_U).log_softmax(-1)
    random = repeated_random_loss(model, 20, n_samples=4, replace=dict.fromkeys(model.heads, 0.0))
    assert close(bars(means)[1], [-log_probs[:-1].gather(1, tokens[0, 1:, None]).mean().item(), *random])


@pytest.mark.slow
def test_every_button_takes_its_head_away(model, tokenizer, text):
    explorer, known = ablation_explorer(model, tokenizer, text), read_intact(model, tokenizer, text)
    assert "with every head in place" in words(explorer)
    for head in model.heads:
        button = explorer.controls[head_name(head)]
        button.value = True
        means, changes = explore_ablation(known, [head])
        assert f"without {head_name(head)}" in means.caption and button.icon == "times"
        assert bodies(explorer) == [means.html, changes.html]
        assert captions(explorer) == [in_html(means.caption), in_html(changes.caption)]
        button.value = False
        assert button.icon == ""
    explorer.controls["by_mean"].value = explorer.controls["1:0"].value = True
    assert bodies(explorer) == [view.html for view in explore_ablation(known, [(1, 0)], True)]


def test_a_button_runs_the_model_without_its_head_alone(model, tokenizer, text, n_runs):
    explorer, n = ablation_explorer(model, tokenizer, text), tokenizer.prompt(text, 64).shape[1]
    n_runs.clear()
    explorer.controls["0:1"].value = True
    runs = list(n_runs)
    assert sum(length in (n - 1, n) for length in runs) == 1 and set(runs) - {n - 1, n} == {41}
    explorer.controls["by_mean"].value = True  # the means are known
    assert sorted(n_runs) == sorted(2 * runs)
    explorer.controls["0:1"].value = False  # the intact model is known
    assert sorted(n_runs) == sorted(2 * runs)


# ---- the course of training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(corpus) -> dict[int, AttentionOnlyTransformer]:
    sizes = {"d_vocab": corpus.tokenizer.d_vocab, "d_model": 8, "d_head": 4, "n_ctx": 64}
    return {step: random_model(2, seed=step, **sizes) for step in (0, 1000, 2000)}


def test_a_checkpoint_has_the_scores_of_its_model(checkpoints, tokenizer, text):
    for step, model in checkpoints.items():
        attention, losses, heads = explore_checkpoint(take_snapshot(checkpoints, tokenizer, step, text), (1, 1))
        tokens = tokenizer.prompt(text, 64)
        assert close(weights_of(attention), model.cache(tokens).patterns[1][0, 1], digits=3)
        assert attention.caption.startswith(f"Step {step:,}. ")
        assert close(numbers_of(losses)[1:], loss_per_token(model, tokens)[0])
        scores = previous_token_scores(model, tokens), prefix_matching_scores(model, 20)
        assert close(bars(heads), [of_heads.flatten().tolist() for of_heads in scores])
        assert list(bars_of(heads)) == ["previous token", "prefix matching"]
        assert list(bars_of(heads)["previous token"]) == [head_name(head) for head in model.heads]
        names = [f"{of_heads.max():.2f} (head {head_name(divmod(int(of_heads.argmax()), 2))})" for of_heads in scores]
        assert heads.caption.endswith(f"Largest: previous token {names[0]}, prefix matching {names[1]}.")
        mean = loss_per_token(model, tokens).mean()
        assert f"Mean loss at step {step:,}: {mean:.2f} nats" in losses.caption


def test_the_slider_goes_through_the_checkpoints(checkpoints, tokenizer, text):
    explorer = checkpoint_explorer(checkpoints, tokenizer, text, (0, 0), step=1000)
    for step in checkpoints:
        explorer.controls["step"].value = step
        views = explore_checkpoint(take_snapshot(checkpoints, tokenizer, step, text), (0, 0))
        assert bodies(explorer) == [view.html for view in views]
        assert captions(explorer) == [in_html(view.caption) for view in views]
    explorer.controls["head"].value = (1, 1)
    assert "1&#58;1" in words(explorer)
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value and is_empty(explorer)


def test_each_checkpoint_runs_once_for_a_text(checkpoints, tokenizer, text, n_runs):
    explorer, n = checkpoint_explorer(checkpoints, tokenizer, text, (0, 0), step=1000), len(checkpoints)
    per_step = len(n_runs)
    for step in [*checkpoints, *checkpoints]:
        explorer.controls["step"].value = step
        explorer.controls["head"].value = (1, step % 2)
    assert len(n_runs) == n * per_step
    explorer.controls["text"].value = "ab"
    assert len(n_runs) == (n + 1) * per_step
