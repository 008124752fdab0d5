"""The explorer of a source token and a head: its numbers, its orders, its search, what a click does."""

import html
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser

import pytest
import torch

from helpers import START, ReaderError
from helpers.circuits import LowRank
from helpers.explorers import Explorer, head_explorer, token_of
from helpers.explorers import tokens as module
from helpers.explorers.shell import chooser
from helpers.explorers.tokens import (
    BY_QK,
    ORDERS,
    PAGE,
    QK,
    SourceReading,
    explore_examples,
    explore_head,
    head_circuits,
    read_source,
)
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.text import Text
from helpers.tokens import EncodedCorpus, Tokenizer
from helpers.views import View, as_html, code
from tests.examples import Words, corpus_of, random_model

SIZES = {"d_model": 8, "d_head": 4, "n_ctx": 64}
NASTY = ["<START>", "</script>", '<img src=x onerror="f()">', "&lt;", "&amp", "😀", "\\x00", "'", '"', "\\", "$x$",
         "`a`", "**b**", "*c*", "|", '{"order": 1}', "%s", "${a}", "]]>", "\u2028", "plain"]  # fmt: skip
TAGS = {"table", "thead", "tbody", "tr", "th", "td", "button", "code", "b", "em"}


class Nasty(Words):
    """Its tokens are shown as they are."""

    def show(self, token) -> str:
        return self.words[int(token)]

    def token(self, text: str) -> int:
        if text not in self.words:
            raise ReaderError(f"{text!r} is not one token of the vocabulary: choose another one.")
        return self.words.index(text)

    def encode(self, text: str) -> list[int]:
        return [self.words.index(text)] if text in self.words else [1, 1]


class Parts(HTMLParser):
    """The cells of a table, as they are read, and its buttons: attributes and text."""

    def __init__(self, source: str):
        super().__init__(convert_charrefs=True)
        self.cells, self.buttons, self.tags, self._open = [], [], set(), None
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag == "button":
            self._open = {**dict(attrs), "text": ""}
            self.buttons.append(self._open)

    def handle_endtag(self, tag):
        if tag == "button":
            self._open = None

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data
        if self._open:
            self._open["text"] += data


def text_of(corpus: EncodedCorpus, frequent: Sequence[int]) -> Text:
    """A text whose frequent tokens are given, as small as it may be."""
    text = Text(corpus)
    vars(text)["frequent"] = torch.tensor(frequent)
    return text


@pytest.fixture(scope="module")
def model(corpus) -> AttentionOnlyTransformer:
    return random_model(1, d_vocab=corpus.tokenizer.d_vocab, **SIZES)


@pytest.fixture(scope="module")
def text(corpus) -> Text:
    return text_of(corpus, range(1, corpus.tokenizer.d_vocab))


@pytest.fixture(scope="module")
def source(corpus) -> str:
    return corpus.tokenizer.show(corpus.train[1])


@pytest.fixture
def explorer(model, text, source) -> Explorer:
    return head_explorer(model, text, source, (0, 1))


def reading_of(model, text, source: str, head=(0, 1)) -> SourceReading:
    return read_source(text, head, head_circuits(model, head), source)


def rows(view: View) -> list[list[str]]:
    """The cells of the still form, without the row of the source."""
    lines = view.still()["text/markdown"].split("\n")
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[3:]]


def all_rows(reading: SourceReading, order=BY_QK, find: str = "") -> list[list[str]]:
    """Of every page."""
    pages = (rows(explore_head(reading, order, find, page)) for page in itertools.count(1))
    return [row for page in itertools.takewhile(bool, pages) for row in page]


def listed(explorer: Explorer) -> list[str]:
    """The tokens of the page, as they are read, without the source."""
    return Parts(explorer.shown[0].body.html).cells[5:][5::5]


def click(explorer: Explorer, button: dict) -> None:
    explorer.shown[0].body.chosen = button["data-choose"]


def buttons(explorer: Explorer) -> tuple[list[dict], list[dict]]:
    """Those of the head of the table, and those of its tokens."""
    found = Parts(explorer.shown[0].body.html).buttons
    return found[: len(ORDERS)], found[len(ORDERS) :]


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_every_token_stands_once_with_its_entries_and_places(model, corpus, text):
    shown = corpus.tokenizer.show_all(range(corpus.tokenizer.d_vocab))
    for (_, h), source in itertools.product(model.heads, corpus.train[1:3].tolist()):
        keys, queries = model.W_E @ model.W_K[0, h], model.W_E @ model.W_Q[0, h]
        qk = queries @ keys.T / math.sqrt(model.config.d_head)
        of_source = (qk - qk.mean(1, keepdim=True))[:, source]
        logits = model.W_E[source] @ model.W_V[0, h] @ model.W_O[0, h] @ model.W_U
        raised = logits - logits.mean()
        reading = reading_of(model, text, shown[source], (0, h))
        found = all_rows(reading)
        assert [row[0] for row in found] == [code(shown[1 + i]) for i in of_source[1:].argsort(descending=True)]
        places = [1 + values[1:].argsort(descending=True).argsort() for values in (of_source, raised)]
        for token, row in zip(1 + of_source[1:].argsort(descending=True), found, strict=True):
            asked, place, out, place_of_out = row[1:]
            assert float(asked) == pytest.approx(of_source[token].item(), abs=0.00501)
            assert float(out) == pytest.approx(raised[token].item(), abs=0.00501)
            assert [int(n.replace(",", "")) for n in (place, place_of_out)] == [p[token - 1].item() for p in places]


def test_the_source_itself_comes_first_whether_frequent_or_not(model, corpus):
    source = int(corpus.train[1])
    for frequent in (range(1, 40), [t for t in range(1, 40) if t != source]):
        reading = reading_of(model, text_of(corpus, frequent), corpus.tokenizer.show(source))
        for page in (1, 2):
            view = explore_head(reading, page=page)
            own = view.still()["text/markdown"].split("\n")[2].split(" | ")
            assert own[0] == f"| **{code(corpus.tokenizer.show(source))}**"
            larger = sum(float(row[1]) > float(own[1]) + 0.02 for row in all_rows(reading))
            nearly = sum(float(row[1]) > float(own[1]) - 0.02 for row in all_rows(reading))
            assert 1 + larger <= int(own[2]) <= 1 + nearly


def test_the_live_table_is_the_still_one(model, text, source):
    view = explore_head(reading_of(model, text, source), page=2)
    of_still = [re.sub("</?code>", "", cell) for row in rows(view) for cell in row]
    assert Parts(view.html).cells[10:] == [html.unescape(cell) for cell in of_still]
    assert len(rows(view)) == PAGE


@pytest.mark.parametrize("label", ORDERS)
def test_tokens_are_sorted(model, text, source, label):
    by, largest_first = ORDERS[label]
    found = all_rows(reading_of(model, text, source), ORDERS[label])
    if by == "token":
        names = [html.unescape(re.sub("</?code>", "", row[0])).lstrip("␣").casefold() for row in found]
        assert names == sorted(names) and len(names) == len(text.frequent)
    else:
        values = [float(row[1 if by == QK else 3]) for row in found]
        assert values == sorted(values, reverse=largest_first) and values[0] != values[-1]


def test_only_tokens_that_come_a_thousand_times_are_listed(model, corpus):
    a, b, c = letters(corpus.tokenizer)
    explorer = head_explorer(model, Text(corpus_of([a, b] * 999 + [a, c, b], corpus.tokenizer)), "c", (0, 1))
    for head in model.heads:
        explorer.controls["head"].value = head
        assert sorted(listed(explorer)) == ["a", "b"] and buttons(explorer)[1][0]["text"] == "c"


# ---- search and pages -------------------------------------------------------------------------------------------


def test_a_part_is_found_wherever_a_token_contains_it(model, corpus, text, source):
    reading, tokenizer = reading_of(model, text, source), corpus.tokenizer
    for part in ("a", " ", "␣", "el", ".", "\\", "[", "\ud800", ".*", "", "no such part"):
        ids = range(1, tokenizer.d_vocab)
        wanted = [t for t in ids if part.replace("␣", " ") in tokenizer.decode([t]) or part in tokenizer.show(t)]
        found = all_rows(reading, BY_QK, part)
        assert {row[0] for row in found} == {code(tokenizer.show(t)) for t in wanted} and len(found) == len(wanted)
        caption = explore_head(reading, BY_QK, part).caption
        assert f" with {code(part)} in it." in caption or not part
        first = f"then 1 to {min(PAGE, len(wanted))} of {len(wanted)} frequent tokens"
        assert (first if wanted else "then no frequent token") in caption
        assert caption.encode("utf8")


def test_a_long_part_is_not_repeated(model, text, source):
    caption = explore_head(reading_of(model, text, source), BY_QK, "x" * 100_000).caption
    assert "no frequent token" in caption and len(caption) < 500


def test_pages_end_with_what_is_found_and_begin_anew_with_another_choice(explorer, text):
    controls = explorer.controls
    page, n = controls["page"], len(text.frequent)
    assert page.max == -(-n // PAGE) > 3
    seen = []
    for i in range(1, page.max + 1):
        page.value = i
        assert page.value == i
        seen += listed(explorer)
    assert len(set(seen)) == len(seen) == n
    for name, value in (("order", ORDERS["token"]), ("find", "a"), ("head", (0, 0)), ("source", "a")):
        page.value = 2
        assert page.value == 2
        controls[name].value = value
        assert page.value == 1 and len(listed(explorer)) == min(PAGE, page.max * PAGE)
    controls["find"].value = "no such part"
    assert (page.max, page.value, listed(explorer), explorer.message.value) == (1, 1, [], "")
    controls["find"].value = ""
    assert page.max == -(-n // PAGE)


# ---- the mouse --------------------------------------------------------------------------------------------------


def test_a_click_on_the_head_of_a_column_sorts(explorer):
    for i, label in enumerate(ORDERS):
        names = {button["aria-label"]: button for button in buttons(explorer)[0]}
        assert set(names) == set(ORDERS)
        click(explorer, names[label])
        assert explorer.controls["order"].label == label
        pressed = [button["aria-label"] for button in buttons(explorer)[0] if button["aria-pressed"] == "true"]
        assert pressed == [label], i
    assert listed(explorer) == sorted(listed(explorer), key=lambda name: name.lstrip("␣").casefold())


def test_a_click_on_a_token_makes_it_the_source(explorer, text):
    for page in range(1, explorer.controls["page"].max + 1):
        explorer.controls["page"].value = page
        token = buttons(explorer)[1][1:][page % 3]
        click(explorer, token)
        assert explorer.message.value == "" and explorer.controls["source"].value == token["text"]
        assert buttons(explorer)[1][0]["text"] == token["text"]  # which keeps the focus where it was
        assert f"the source {code(token['text'])}, then" in explorer.shown[0].caption.html


def test_every_token_of_the_book_can_be_clicked():
    tokenizer = Tokenizer.load()
    assert all(token_of(tokenizer, tokenizer.show(token)) == token for token in range(tokenizer.d_vocab))


def test_tokens_are_harmless_and_unchanged():
    tokenizer = Nasty(*NASTY)
    model = random_model(1, d_vocab=len(NASTY), **SIZES)
    text = text_of(corpus_of([*range(len(NASTY))] * 3, tokenizer), range(1, len(NASTY)))
    explorer, seen = head_explorer(model, text, "plain", (0, 0)), []
    for page in (1, 2):
        explorer.controls["page"].value = page
        parts = Parts(explorer.shown[0].body.html)
        assert parts.tags <= TAGS - {"em"}
        for button in buttons(explorer)[1][1:]:
            assert json.loads(button["data-choose"]) == {"source": button["text"]}
            seen.append(button["text"])
    assert sorted(seen) == sorted(NASTY[1:])
    for token in NASTY:
        explorer.controls["source"].value = token
        assert explorer.message.value == ""
        for widget in explorer.shown:
            assert Parts(widget.body.html).tags | Parts(widget.caption.html).tags <= TAGS
        explorer.controls["find"].value = token
        assert listed(explorer) == [other for other in listed(explorer) if token in other]
        assert (token in listed(explorer)) == (token != "<START>")
        assert Parts(explorer.shown[0].caption.html).tags <= TAGS
        explorer.controls["find"].value = ""


@pytest.mark.parametrize("value", NASTY)
def test_a_button_survives_being_a_cell(value):
    (button,) = Parts(f"<td>{as_html(chooser(code(value), {'x': value}, value))}</td>").buttons
    assert json.loads(button["data-choose"]) == {"x": value} and button["aria-label"] == button["text"] == value


# ---- what takes long, and refusals ------------------------------------------------------------------------------


def test_the_circuits_of_a_head_are_multiplied_once(explorer, model, text, source, monkeypatch):
    heads, circuit = [], module.qk_circuit
    monkeypatch.setattr(module, "qk_circuit", lambda model, head: heads.append(head) or circuit(model, head))
    explorer = head_explorer(model, text, source, (0, 1))
    for name, value in (("source", "a"), ("page", 2), ("find", "e"), ("order", ORDERS["token"])):
        explorer.controls[name].value = value
    for head in ((0, 0), (0, 1), (0, 0)):
        explorer.controls["head"].value = head
    assert heads == [(0, 1), (0, 0)]


def test_the_text_is_searched_for_another_source_or_head_only(model, text, source, monkeypatch):
    n, search = [], module.explore_examples
    monkeypatch.setattr(module, "explore_examples", lambda *a: n.append(1) or search(*a))
    explorer = head_explorer(model, text, source, (0, 1))
    for name, value in (("page", 2), ("find", "e"), ("order", ORDERS["token"])):
        explorer.controls[name].value = value
    assert len(n) == 1
    explorer.controls["source"].value = "a"
    explorer.controls["head"].value = (0, 0)
    assert len(n) == 3


@pytest.mark.parametrize("typed", ["", "no such token", "␣␣␣?", "</script>", "😀", "\0\0", "x" * 100_000])
def test_what_is_no_token_is_refused(model, text, explorer, typed):
    with pytest.raises(ReaderError, match=r"^[^\n]*\.$"):
        reading_of(model, text, typed)
    explorer.controls["source"].value = typed
    assert "<b>" in explorer.message.value and "</script>" not in explorer.message.value
    assert not any(widget.body.html or widget.caption.html for widget in explorer.shown)
    explorer.controls["source"].value = "a"
    assert explorer.message.value == "" and listed(explorer)


@pytest.mark.parametrize("head", [(1, 0), (0, 2), (-1, 0)])
def test_a_head_that_is_not_there_is_refused(model, text, source, head):
    for make in (lambda: head_circuits(model, head), lambda: head_explorer(model, text, source, head)):
        with pytest.raises(ReaderError, match=f"no head {head_name(head)}"):
            make()


# ---- skip-trigrams of the text ----------------------------------------------------------------------------------


def letters(tokenizer) -> list[int]:
    return [tokenizer.encode(letter)[0] for letter in "abc"]


def examples_of(model, corpus, source: str, frequent: Sequence[int], head=(0, 0)):
    return explore_examples(reading_of(model, text_of(corpus, frequent), source, head), model.config.n_ctx - 1)


def test_examples_are_of_the_largest_entries_and_counted(model, corpus):
    tokenizer, tokens = corpus.tokenizer, corpus.train.tolist()
    text = text_of(corpus, [token for token, _ in Counter(tokens).most_common(16) if token != START])
    shown, n_rows = "".join(tokenizer.show_all(tokens)), 0
    for head, source in itertools.product(model.heads, tokens[1:6]):
        reading = reading_of(model, text, tokenizer.show(source), head)
        best = [{row[0] for row in rows(explore_head(reading, ORDERS[f"largest {by}"]))[:5]} for by in ("QK", "OV")]
        examples = explore_examples(reading, 63)
        times = [int(row[0].split()[0]) for row in examples.rows]
        assert times == sorted(times, reverse=True) and len(times) <= 5
        n_rows += len(times)
        for n, line in examples.rows:
            marked = re.findall(r"\*\*(<code>[^>]*</code>)\*\*", line)
            assert marked[0] == code(tokenizer.show(source)) and marked[1] in best[0] and marked[2] in best[1]
            destination, out = (token_of(tokenizer, html.unescape(name[6:-7])) for name in marked[1:])
            places = [
                t for t in range(len(tokens) - 1) if tokens[t] == destination and source in tokens[max(0, t - 63) : t]
            ]
            assert n == f"{sum(tokens[t + 1] == out for t in places):,} of {len(places):,}"
            pieces = [html.unescape("".join(re.findall("<code>(.*?)</code>", part))) for part in line.split("…")]
            assert all(piece in shown for piece in pieces)
    assert n_rows > 20


def test_the_text_is_searched_for_the_heads_skip_trigrams(model, corpus):
    a, b, c = letters(corpus.tokenizer)
    small = corpus_of([a, *[c] * 8, b, a, b, a] * 30, corpus.tokenizer)
    line = "**<code>a</code>** <code>cccccccc</code> **<code>b</code>** → **<code>a</code>**"
    (times,) = (times for times, found in examples_of(model, small, "a", sorted((a, b, c))).rows if line in found)
    assert times == "60 of 60"


def test_a_long_way_from_source_to_destination_is_cut_in_the_middle(model, corpus):
    a, b, c = letters(corpus.tokenizer)
    for length, between in ((16, "c" * 16), (17, "c" * 8 + "</code> … <code>" + "c" * 8)):
        small = corpus_of([b, a, *[c] * length, b, a], corpus.tokenizer)
        line = f"<code>b</code> **<code>a</code>** <code>{between}</code> **<code>b</code>** → **<code>a</code>**"
        assert examples_of(model, small, "a", sorted((a, b))).rows == [["1 of 1", line]]


def test_what_the_text_lacks_is_said(model, corpus):
    examples = examples_of(model, corpus_of([5] * 90, corpus.tokenizer), "a", [5])
    assert not examples.rows and "has no skip-trigram" in examples.caption


def test_largest_means_of_the_circuits_that_are_given(text):
    """The reading takes a column of QK and a row of OV, not the other way round."""
    n = len(text.strings)
    qk, ov = (torch.zeros(n, n).index_put_(place, torch.tensor(1.0)) for place in _places())
    reading = read_source(text, (0, 0), (LowRank(qk, torch.eye(n)), LowRank(ov, torch.eye(n))), text.tokenizer.show(7))
    assert reading.row(3) == [1.0, 1, 0.0, 2] and reading.row(4) == [0.0, 2, 1.0, 1]


def _places() -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
    return (torch.tensor(3), torch.tensor(7)), (torch.tensor(7), torch.tensor(4))
