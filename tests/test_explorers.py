"""The explorers: their pure functions over all heads and over what readers may type, their shells by code."""

import html
import itertools
import re
import threading

import ipywidgets
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from helpers import START, ReaderError
from helpers.bigrams import Bigrams, count_bigrams, direct_path
from helpers.circuits import copying_summary, eigenvalue_score, ov_circuit, qk_circuit
from helpers.explorers import (
    CIRCUITS,
    LOCK,
    Explorer,
    ablation_explorer,
    bigram_explorer,
    checkpoint_explorer,
    component_explorer,
    copying_explorer,
    explore_ablation,
    explore_bigram,
    explore_checkpoint,
    explore_components,
    explore_copying,
    explore_head,
    explore_text,
    head_explorer,
    text_explorer,
    token_of,
)
from helpers.figures import eigenvalue_planes
from helpers.heads import loss_per_token, prefix_matching_scores, previous_token_scores, repeated_random_loss
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.tokens import Tokenizer
from helpers.views import LIVE, Table, View, code
from tests.examples import corpus_of, random_model
from tests.test_token_views import properties

FINE = ["a", " ", "</script>", "<START>", "<b>bold</b>", "😀", "\0", "\n\t", "\ud800", "$x$ | `y` *z* &amp;"]
REFUSED = ["", "x" * 100_000, "ab " * 500]
NO_TOKENS = ["", "no such token", "␣␣␣?", "</script>", "😀", "\0\0", "x" * 100_000]
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


def contents(explorer: Explorer) -> list[dict]:
    """What is shown below the controls, output by output."""
    parts = [part for widget in explorer.shown for part in (widget.body, widget.caption)]
    return [output["data"] for part in parts for output in part.outputs]


def words(explorer: Explorer) -> str:
    """Everything that is said below the controls."""
    return "\n".join(data.get("text/markdown", "") for data in contents(explorer))


def heights(figure: Figure) -> list[float]:
    """Of all bars, series by series."""
    return [patch.get_height() for patch in figure.axes[0].patches]


def numbers(view: View) -> torch.Tensor:
    """What a view of tokens shows, rounded to two digits."""
    return torch.tensor(properties(view.html)["values"], dtype=torch.double)


def close(shown: torch.Tensor, exact: torch.Tensor, digits: int = 2) -> bool:
    return torch.allclose(shown, exact.double(), rtol=0, atol=0.51 * 10**-digits)


# ---- the shell --------------------------------------------------------------------------------------------------


def number_explorer() -> Explorer:
    return Explorer(reciprocal, {"number": ipywidgets.IntText(1, description="Number")})


def reciprocal(number: int):
    if number < 0:
        raise ReaderError("<b>Choose</b> a positive number.")
    return [Table({"reciprocal": ""}, [[1 / number]]).view]


def test_a_mistake_is_answered_with_an_escaped_sentence():
    explorer = number_explorer()
    explorer.controls["number"].value = -1
    assert "&lt;b&gt;Choose&lt;/b&gt; a positive number." in explorer.message.value and not contents(explorer)


def test_an_unforeseen_error_is_told_and_raised():
    explorer = number_explorer()
    with pytest.raises(ZeroDivisionError):
        explorer.controls["number"].value = 0
    assert "ZeroDivisionError" in explorer.message.value
    explorer.controls["number"].value = 2
    assert explorer.message.value == "" and "0.5" in words(explorer)


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


@pytest.fixture
def all_explorers(model, one_layer, corpus, text, bigrams) -> list[Explorer]:
    tokenizer, source = corpus.tokenizer, corpus.tokenizer.show(corpus.train[1])
    return [
        text_explorer(model, tokenizer, text, (0, 0)),
        bigram_explorer(model, tokenizer, "a", bigrams, ["e"]),
        component_explorer(model, tokenizer, text, 3),
        copying_explorer(one_layer, tokenizer, (0, 1), torch.arange(20)),
        head_explorer(one_layer, corpus, source, (0, 1)),
        ablation_explorer(model, tokenizer, text, [(0, 1)]),
        checkpoint_explorer({0: model, 7: model}, tokenizer, text, (1, 0), step=7),
    ]


def test_every_control_has_a_name_and_waits_until_the_reader_is_done(all_explorers):
    for explorer in all_explorers:
        for control in explorer.controls.values():
            assert control.description and not getattr(control, "continuous_update", False)


@pytest.mark.slow
def test_every_explorer_is_saved_with_its_settings_and_stills(all_explorers, shown):
    for explorer in all_explorers:
        explorer._ipython_display_()
        settings = shown[0][0]["text/markdown"]
        assert settings.startswith("**Explorer**, as saved with ") and re.sub("</?code>", "", settings).count("<") == 0
        assert len(shown) == 1 + len(contents(explorer)) and all(LIVE in data for data, _ in shown)
        assert all(("image/png" in data) != ("text/markdown" in data) for data, _ in shown)
        assert all(metadata["image/png"]["alt"] == data["text/plain"] for data, metadata in shown if metadata)
        shown.clear()


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
        ("source", head_explorer(one_layer, corpus, "a", (0, 0))),
    ):
        explorer.controls[name].value = typed
        sentence = explorer.message.value
        assert "is not one token of the vocabulary" in sentence and "</script>" not in sentence and len(sentence) < 300
        assert not contents(explorer)
        explorer.controls[name].value = "e"
        assert explorer.message.value == "" and "<code>e</code>" in words(explorer)


def test_a_token_may_be_written_as_shown(tokenizer):
    spaced = next(i for i in range(tokenizer.d_vocab) if tokenizer.show(i).startswith("␣"))
    assert token_of(tokenizer, tokenizer.show(spaced)) == token_of(tokenizer, tokenizer.decode([spaced])) == spaced
    assert token_of(tokenizer, "↵") == tokenizer.token("\n") and token_of(tokenizer, "<START>") == START


# ---- what a head does with the token itself ---------------------------------------------------------------------


@pytest.mark.parametrize("circuit", [ov_circuit, qk_circuit])
def test_copying_of_every_head_and_circuit(one_layer, tokenizer, circuit):
    among = torch.arange(3, 40)
    for head in one_layer.heads:
        (figure, caption), table = explore_copying(one_layer, tokenizer, head, circuit, among)
        matrix, dense = circuit(one_layer, head).centred(), circuit(one_layer, head).dense()
        s, wanted = copying_summary(matrix), eigenvalue_planes({"eigenvalues": matrix.eigenvalues()}, columns=1)
        for axes, same in zip(figure.axes, wanted.axes, strict=True):
            assert axes.get_title() == same.get_title()
            assert np.array_equal(axes.collections[0].get_offsets(), same.collections[0].get_offsets())
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
        (_, caption), table = explore_copying(one_layer, tokenizer, head, circuit, torch.arange(20))
        assert explorer.message.value == "" and caption in words(explorer) and repr(table) in words(explorer)
        seen.add(words(explorer))
    assert len(seen) == 2 * len(one_layer.heads)


# ---- a text and a head ------------------------------------------------------------------------------------------


def test_a_text_is_read_by_every_head(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    cache, losses = model.cache(tokens), loss_per_token(model, tokens)[0]
    for layer, head in model.heads:
        pattern = cache.patterns[layer][0, head]
        moved = pattern * (cache.values[layer][0, head] @ model.W_O[layer, head]).norm(dim=-1)
        for weigh, wanted in ((False, pattern), (True, moved / moved.sum(-1, keepdim=True))):
            of_losses, attention, _ = explore_text(model, tokenizer, text, (layer, head), 1, weigh)
            assert close(torch.tensor(properties(attention.html)["attention"]).double(), wanted[None], digits=3)
            assert properties(attention.html)["tokens"][1:] == tokenizer.show_all(tokens[0])[1:]
            assert close(numbers(of_losses), torch.cat([losses.new_zeros(1), losses]))
            assert f"Mean loss {losses.mean():.2f} nats a token." in of_losses.caption


def test_the_prediction_table_says_what_comes_next(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    probabilities, losses = model(tokens)[0].softmax(-1), loss_per_token(model, tokens)[0]
    for position in range(tokens.shape[1]):
        *_, table = explore_text(model, tokenizer, text, (1, 0), position)
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
        assert explorer.message.value == "" and contents(explorer) and explorer.controls["position"].max == n - 1
        explorer.controls["position"].value = n - 1
        assert explorer.message.value == "" and f"(position {n - 1})" in words(explorer)
    explore_ablation(model, tokenizer, typed, [(0, 1)])


@pytest.mark.parametrize("typed", REFUSED, ids=["empty", "100,000 characters", "too long"])
def test_a_text_that_does_not_fit_is_refused(model, tokenizer, typed):
    for explore in (
        lambda: explore_text(model, tokenizer, typed, (0, 0), 0),
        lambda: explore_components(model, tokenizer, typed, 0),
        lambda: explore_ablation(model, tokenizer, typed, []),
        lambda: text_explorer(model, tokenizer, typed, (0, 0)),
    ):
        with pytest.raises(ReaderError, match=SENTENCE):
            explore()
    explorer = component_explorer(model, tokenizer, "a", 0)
    explorer.controls["text"].value = typed
    assert "<b>" in explorer.message.value


@pytest.mark.parametrize("head", [(2, 0), (0, 2), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, corpus, head):
    among = torch.arange(9)
    for explore in (
        lambda: explore_text(model, corpus.tokenizer, "a", head, 0),
        lambda: explore_copying(model, corpus.tokenizer, head, ov_circuit, among),
        lambda: explore_ablation(model, corpus.tokenizer, "a", [head]),
        lambda: explore_checkpoint({0: model}, corpus.tokenizer, 0, head, "a"),
        lambda: explore_head(model, corpus, "a", head, among),
        lambda: text_explorer(model, corpus.tokenizer, "a", head),
    ):
        with pytest.raises(ReaderError, match=f"no head {head_name(head)}"):
            explore()


def test_every_control_of_the_text_explorer(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0), position=2)
    position, losses, attention = explorer.controls["position"], explorer.shown[0].body, explorer.shown[1].body
    first = losses.outputs
    for head in model.heads:
        explorer.controls["head"].value = head
        assert f"{head[0]}&#58;{head[1]}" in words(explorer)
    assert losses.outputs == first
    plain = attention.outputs
    explorer.controls["weigh"].value = True
    assert attention.outputs != plain and losses.outputs == first
    for t in range(position.max + 1):
        position.value = t
        assert f"(position {t})" in words(explorer)


def test_a_mistake_becomes_a_sentence_and_goes_away_again(model, tokenizer, text):
    explorer = text_explorer(model, tokenizer, text, (0, 0))
    before = contents(explorer)
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value and not contents(explorer)
    explorer.controls["text"].value = text
    assert explorer.message.value == "" and contents(explorer) == before


@pytest.mark.parametrize("make", [lambda *a: text_explorer(*a, (0, 0), 20), lambda *a: component_explorer(*a, 20)])
def test_another_text_runs_the_model_once_and_moves_the_slider(model, tokenizer, text, n_runs, make):
    explorer = make(model, tokenizer, text)
    n = tokenizer.prompt(text, 64).shape[1]
    n_runs.clear()
    position = explorer.controls["position"]
    explorer.controls["text"].value = "ab"  # shorter: the slider is beyond its end
    last = len(tokenizer.encode("ab"))
    assert n_runs == [last + 1] and position.max == position.value == last
    assert f"(position {last})" in words(explorer)
    explorer.controls["text"].value = text  # longer: the slider stays
    assert n_runs == [last + 1, n] and (position.max, position.value) == (n - 1, last)
    position.value = 5
    assert n_runs == [last + 1, n, n] and "(position 5)" in words(explorer)


# ---- the components of the stream -------------------------------------------------------------------------------


@pytest.mark.slow
def test_components_speak_for_the_token_that_comes_next(model, tokenizer, text):
    tokens = tokenizer.prompt(text, 64)
    logits, last = model(tokens)[0], tokens.shape[1] - 1
    for position in range(last + 1):
        ((figure, caption),) = explore_components(model, tokenizer, text, position)
        out = int(logits[position].argmax() if position == last else tokens[0, position + 1])
        direct = model.W_E[tokens[0, position]] @ model.W_U
        assert sum(heights(figure)) == pytest.approx((logits[position, out] - logits[position].mean()).item())
        assert heights(figure)[0] == pytest.approx((direct[out] - direct.mean()).item())
        names = [label.get_text() for label in figure.axes[0].get_xticklabels()]
        assert names == ["token", *map(head_name, model.heads)]
        loudest = max(range(len(names)), key=lambda i: abs(heights(figure)[i]))
        assert caption.endswith(f"the loudest is {names[loudest]} with {heights(figure)[loudest]:+.1f}.")
        assert f"(position {position})" in caption and f"the logit of {code(tokenizer.show(out))}." in caption
        assert f"the probability {logits[position].softmax(-1)[out]:.1%};" in caption


@pytest.mark.parametrize("position", [-1, 3])
def test_a_position_that_is_not_there_is_refused(model, tokenizer, position):
    with pytest.raises(ReaderError, match="positions 0 to"):
        explore_components(model, tokenizer, tokenizer.decode([5, 6]), position)
    with pytest.raises(ReaderError, match="positions 0 to"):
        explore_text(model, tokenizer, tokenizer.decode([5, 6]), (0, 0), position)


# ---- a source token and a head ----------------------------------------------------------------------------------


def test_every_head_is_read_for_a_source(one_layer, corpus):
    among, tokenizer = torch.arange(1, corpus.tokenizer.d_vocab), corpus.tokenizer
    tokens, shown = corpus.train.tolist(), tokenizer.show_all(corpus.train)
    for head, source in itertools.product(one_layer.heads, tokens[1:4]):
        circuits, examples = explore_head(one_layer, corpus, tokenizer.show(source), head, among)
        qk, ov = qk_circuit(one_layer, head).dense(), ov_circuit(one_layer, head).dense()
        wanted = {0: (qk - qk.mean(1, keepdim=True))[1:, source], 2: (ov[source] - ov[source].mean())[1:]}
        for column, entries in wanted.items():
            best = entries.topk(5)
            assert [row[column] for row in circuits.rows] == [code(t) for t in tokenizer.show_all(1 + best.indices)]
            assert [row[column + 1] for row in circuits.rows] == pytest.approx(best.values.tolist(), abs=1e-6)
        times = [int(row[0].split()[0]) for row in examples.rows]
        assert times == sorted(times, reverse=True) and len(times) <= 5
        for n, line in examples.rows:
            destination, out = (
                token_of(tokenizer, html.unescape(t)) for t in re.findall(r"<code>([^>]*)</code>\*\*", line)[1:]
            )
            places = [
                t for t in range(len(tokens) - 1) if tokens[t] == destination and source in tokens[max(0, t - 63) : t]
            ]
            assert n == f"{sum(tokens[t + 1] == out for t in places)} of {len(places)}"
            pieces = [html.unescape("".join(re.findall("<code>(.*?)</code>", part))) for part in line.split("…")]
            assert all(piece in "".join(shown) for piece in pieces)


def test_the_corpus_is_searched_for_the_heads_skip_trigrams(one_layer, tokenizer):
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    corpus = corpus_of([a, *[c] * 8, b, a, b, a] * 30, tokenizer)
    circuits, examples = explore_head(one_layer, corpus, "a", (0, 0), torch.tensor(sorted((a, b, c))))
    assert {row[column] for row in circuits.rows for column in (0, 2)} == {code(letter) for letter in "abc"}
    line = "**<code>a</code>** <code>cccccccc</code> **<code>b</code>** → **<code>a</code>**"
    (times,) = (times for times, found in examples.rows if line in found)
    assert times == "60 of 60"


def test_a_long_way_from_source_to_destination_is_cut_in_the_middle(one_layer, tokenizer):
    a, b, c = (tokenizer.encode(letter)[0] for letter in "abc")
    for length, between in ((16, "c" * 16), (17, "c" * 8 + "</code> … <code>" + "c" * 8)):
        corpus = corpus_of([b, a, *[c] * length, b, a], tokenizer)
        _, examples = explore_head(one_layer, corpus, "a", (0, 0), torch.tensor(sorted((a, b))))
        line = f"<code>b</code> **<code>a</code>** <code>{between}</code> **<code>b</code>** → **<code>a</code>**"
        assert examples.rows == [["1 of 1", line]]


def test_what_the_corpus_lacks_is_said(one_layer, tokenizer):
    corpus = corpus_of([5] * 90, tokenizer)
    _, examples = explore_head(one_layer, corpus, "a", (0, 0), torch.tensor([5]))
    assert not examples.rows and "has no skip-trigram" in examples.caption


# ---- taking heads away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_mean", [False, True])
def test_each_head_can_be_taken_away(model, tokenizer, text, by_mean):
    tokens = tokenizer.prompt(text, 64)
    cache, intact = model.cache(tokens), loss_per_token(model, tokens)[0]
    before = [intact.mean().item(), *repeated_random_loss(model, 20, n_samples=4)]
    for layer, head in model.heads:
        (figure, caption), view = explore_ablation(model, tokenizer, text, [(layer, head)], by_mean)
        written = cache.head_outputs[layer][0, head].mean(0) if by_mean else 0.0
        ablated = loss_per_token(model, tokens, replace={(layer, head): written})[0]
        assert heights(figure)[:3] == before and heights(figure)[3] == pytest.approx(ablated.mean().item())
        assert [label.get_text() for label in figure.axes[0].get_legend().get_texts()] == ["intact", "now"]
        assert close(numbers(view)[1:], ablated - intact) and numbers(view)[0] == 0
        moves = [f"{b:.2f} → {a:.2f}" for b, a in zip(heights(figure)[:3], heights(figure)[3:], strict=True)]
        assert re.findall(r"[\d.]+ → [\d.]+\d", caption) == moves


@pytest.mark.parametrize("by_mean", [False, True])
def test_nothing_taken_away_changes_nothing(model, tokenizer, text, by_mean):
    (figure, caption), view = explore_ablation(model, tokenizer, text, [], by_mean)
    assert heights(figure)[:3] == heights(figure)[3:] and not numbers(view).any()
    assert "with every head in place" in caption


def test_without_any_head_the_direct_path_is_left(model, tokenizer, text):
    (figure, _), _ = explore_ablation(model, tokenizer, text, model.heads)
    tokens = tokenizer.prompt(text, 64)
    log_probs = (model.W_E[tokens[0]] @ model.W_U).log_softmax(-1)
    assert heights(figure)[3] == pytest.approx(-log_probs[:-1].gather(1, tokens[0, 1:, None]).mean().item())
    random = repeated_random_loss(model, 20, n_samples=4, replace=dict.fromkeys(model.heads, 0.0))
    assert heights(figure)[4:] == pytest.approx(random)


@pytest.mark.slow
def test_every_button_takes_its_head_away(model, tokenizer, text):
    explorer = ablation_explorer(model, tokenizer, text)
    assert "with every head in place" in words(explorer)
    for head in model.heads:
        button = explorer.controls[head_name(head)]
        button.value = True
        (_, caption), _ = explore_ablation(model, tokenizer, text, [head])
        assert f"without {head_name(head)}" in caption in words(explorer) and button.icon == "times"
        button.value = False
        assert button.icon == ""
    explorer.controls["by_mean"].value = explorer.controls["1:0"].value = True
    assert explore_ablation(model, tokenizer, text, [(1, 0)], True)[0][1] in words(explorer)


# ---- the course of training -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoints(corpus) -> dict[int, AttentionOnlyTransformer]:
    sizes = {"d_vocab": corpus.tokenizer.d_vocab, "d_model": 8, "d_head": 4, "n_ctx": 64}
    return {step: random_model(2, seed=step, **sizes) for step in (0, 1000, 2000)}


def test_a_checkpoint_has_the_scores_of_its_model(checkpoints, tokenizer, text):
    for step, model in checkpoints.items():
        attention, losses, (figure, caption) = explore_checkpoint(checkpoints, tokenizer, step, (1, 1), text)
        of_text, alone, _ = explore_text(model, tokenizer, text, (1, 1), 0)
        assert attention.html == alone.html and losses.html == of_text.html
        scores = previous_token_scores(model, tokenizer.prompt(text, 64)), prefix_matching_scores(model, 20)
        assert heights(figure) == [*scores[0].flatten().tolist(), *scores[1].flatten().tolist()]
        names = [f"{of_heads.max():.2f} (head {head_name(divmod(int(of_heads.argmax()), 2))})" for of_heads in scores]
        assert caption.endswith(f"Largest: previous token {names[0]}, prefix matching {names[1]}.")
        mean = loss_per_token(model, tokenizer.prompt(text, 64)).mean()
        assert f"Mean loss at step {step:,}: {mean:.2f} nats" in losses.caption


def test_the_slider_goes_through_the_checkpoints(checkpoints, tokenizer, text):
    explorer = checkpoint_explorer(checkpoints, tokenizer, text, (0, 0), step=1000)
    for step in checkpoints:
        explorer.controls["step"].value = step
        attention, losses, (_, caption) = explore_checkpoint(checkpoints, tokenizer, step, (0, 0), text)
        said = [line for line in words(explorer).split("\n") if line]
        assert said == [f"*{attention.caption}*", f"*{losses.caption}*", f"*{caption}*"]
    explorer.controls["head"].value = (1, 1)
    assert "1&#58;1" in words(explorer)
    explorer.controls["text"].value = ""
    assert "The text is empty" in explorer.message.value
