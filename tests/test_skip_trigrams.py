"""Skip-trigrams on models whose circuits are tables made by hand, and on texts made to go with them."""

import json

import numpy as np
import pytest
import torch

from helpers import skip_trigrams
from helpers.circuits import ov_circuit, qk_circuit
from helpers.skip_trigrams import (
    HeadReading,
    SkipTrigramBug,
    bugs_of_heads,
    clusters,
    contexts_after,
    followers,
    paper_rules,
    read_strongest_sources,
    skip_trigram_bugs,
    source_effects,
    supported,
)
from helpers.text import Text, TokenPositions
from helpers.tokens import Tokenizer
from tests.examples import Words, close, corpus_of, random_model, table_model

# ---- reading a head ---------------------------------------------------------------------------------------------


def read_head(model, head, source, among, n=4):
    """The reading of one source."""
    return skip_trigrams._reading(head, *skip_trigrams._centred_circuits(model, head), source, among, n)


def test_reading_a_head_takes_the_largest_centred_entries_among_the_tokens_asked_for():
    model = random_model(1)
    among = torch.tensor([1, 4, 5, 7, 9])
    qk, ov = (circuit(model, (0, 1)).centred().dense() for circuit in (qk_circuit, ov_circuit))
    reading = read_head(model, (0, 1), source=4, among=among, n=2)
    assert reading.destinations == sorted(among.tolist(), key=lambda d: -qk[d, 4])[:2]
    assert reading.outs == sorted(among.tolist(), key=lambda out: -ov[4, out])[:2]
    assert close(torch.tensor(reading.qk).double(), qk[reading.destinations, 4], 1e-6)
    assert close(torch.tensor(reading.ov).double(), ov[4, reading.outs], 1e-6)


def test_the_strongest_source_has_the_largest_product_of_what_asks_for_it_and_what_it_raises():
    qk, ov = torch.zeros(20, 20), torch.zeros(20, 20)
    qk[5, 3], ov[3, 6] = 10, 0.1
    qk[5, 4], ov[4, 6] = 4, 2
    qk[5, 7], ov[7, 6] = 3, 1
    model, among = table_model((qk, ov)), torch.arange(20)
    readings = read_strongest_sources(model, (0, 0), among)
    assert len(readings) == 8
    assert readings[:3] == [read_head(model, (0, 0), source, among) for source in (4, 7, 3)]


# ---- does a head support a rule? --------------------------------------------------------------------------------


def test_one_head_must_rank_both_entries_of_a_rule_among_its_top_five_per_cent():
    falling = torch.arange(40.0, 0, -1)  # token 0 first, then 1, …
    qk, ov = torch.zeros(40, 40), torch.zeros(40, 40)
    qk[:, 7], qk[:, 8], ov[7] = falling, -falling, falling
    rules, among = torch.tensor([[7, 0, 0], [7, 2, 2], [7, 3, 0], [7, 0, 3]]), torch.arange(40)
    assert supported(table_model((qk, ov)), rules, among).tolist() == [True, True, False, False]
    assert not supported(table_model((qk, -ov), (-qk, ov)), rules, among).any()


WORDS = Words("<START>", " two", "t", "wo", " of", "of", "x", ":", "Wo", "_wos", " t", "s")


def test_the_papers_rules_are_tokens_where_each_text_is_one(tmp_path, monkeypatch):
    assert all(all(len(texts) == 3 for texts, _ in rules) for rules in paper_rules(Tokenizer.load()).values())
    (tmp_path / "paper_rules.json").write_text(json.dumps({"words": [[" two", "t", ["wo", "xx"]]]}), "utf8")
    monkeypatch.setattr("helpers.skip_trigrams.DATA", tmp_path)
    rules = paper_rules(WORDS)
    assert rules == {"words": [((" two", "t", "wo"), (1, 2, 3)), ((" two", "t", "xx"), None)]}


# ---- do heads look for what could come next? --------------------------------------------------------------------

COUNTING = Text(corpus_of(np.tile(np.arange(1, 41), 1000), Words(*map(str, range(42)))))  # 1 2 … 40 1 2 …


def test_followers_are_frequent_after_a_token_and_lifted():
    assert COUNTING.frequent.tolist() == list(range(1, 41))
    assert followers(COUNTING, 7).nonzero().flatten().tolist() == [7]  # the eighth frequent token is 8
    text = [1, 2, 1, 3, 1, 4] * 1000 + [6, 3] * 9 + [7, 3] * 10 + [8, 1, 8, 3] * 10  # 1 is as frequent anywhere
    few = Text(corpus_of(text, WORDS))
    assert few.frequent.tolist() == [1, 2, 3, 4]
    assert [few.frequent[followers(few, token)].tolist() for token in (6, 7, 8)] == [[], [3], [3]]


def test_clusters_are_sources_that_ask_for_the_same_destination():
    qk = 10 * torch.eye(42)
    qk[:, 1:13] = 0
    qk[5, 1:13] = 10
    qk[7] += 100  # the same for every source, which no softmax sees
    ((head, destination, sources, share),) = clusters(table_model((qk, qk)), COUNTING)
    assert (head, destination, sources.tolist()) == ((0, 0), 5, list(range(1, 13)))
    assert share == pytest.approx(1 / 12)  # only 6 follows 5
    qk[5, 1:4] = 0  # nine are too few
    assert clusters(table_model((qk, qk)), COUNTING) == []


# ---- bugs -------------------------------------------------------------------------------------------------------

SOURCE, FILLER, D1, OUT1, D2, OUT2 = 3, 1, 4, 5, 6, 7
OFTEN = [SOURCE, FILLER, D1, OUT1, FILLER, FILLER] * 30 + [SOURCE, FILLER, D2, OUT2, FILLER, FILLER] * 25
ELSEWHERE = [0] * 9 + ([D1, 2, 0, D2, 2, 0] + [0] * 9) * 60  # so that the two rules have a lift
NUMBERS = Words(*map(str, range(20)))


def bugs(tokens: list[int]) -> list[SkipTrigramBug]:
    held = HeadReading((0, 0), SOURCE, destinations=[D1, D2], qk=[8.0, 6.0], outs=[OUT2, OUT1], ov=[4.0, 2.0])
    return skip_trigram_bugs(held, Text(corpus_of(tokens, NUMBERS)), max_gap=7)


def test_two_rules_of_the_text_make_a_bug_unless_it_has_the_crossed_pair_too():
    one, other = bugs(OFTEN + ELSEWHERE)
    assert one == SkipTrigramBug(SOURCE, (D1, OUT1), (D2, OUT2), 30, 25, 0, effect=4.0)
    assert other == SkipTrigramBug(SOURCE, (D2, OUT2), (D1, OUT1), 25, 30, 0, effect=2.0)
    assert (one.crossed, other.crossed) == ((D1, OUT2), (D2, OUT1))
    (left,) = bugs([SOURCE, D1, OUT2, 0, 0] + OFTEN + ELSEWHERE)  # one in 25 is more than a hundredth
    assert left.crossed == (D2, OUT1)
    assert bugs(OFTEN[:-96] + ELSEWHERE) == []  # nine are too few
    assert bugs(OFTEN) == []  # no lift: the text has these pairs after the source alone


def test_bugs_of_heads_are_those_of_the_entries_that_a_head_holds(monkeypatch):
    monkeypatch.setattr("helpers.skip_trigrams.HELD", 0.1)  # two of the nineteen frequent tokens
    qk, ov = torch.zeros(20, 20), torch.zeros(20, 20)
    qk[[D1, D2], SOURCE], ov[SOURCE, [OUT1, OUT2]] = torch.tensor([8.0, 6]), torch.tensor([2.0, 4])
    model = table_model((qk, ov), (-qk, ov))
    text = Text(corpus_of(OFTEN + np.repeat(np.arange(19, 0, -1), 1000).tolist(), NUMBERS))
    readings = [read_head(model, head, SOURCE, text.frequent) for head in model.heads]
    of_first, of_second = bugs_of_heads(model, readings, text)
    assert [bug.crossed for bug in of_first] == [(D1, OUT2), (D2, OUT1)]
    assert of_first[0].effect == pytest.approx(4 - 6 / 20)  # of the entries 8 and 4, less the means of their rows
    assert of_second == []
    assert bugs_of_heads(model, readings, text, read_as={SOURCE: 5}) == [[], []]


def test_the_effect_of_a_source_is_what_goes_when_no_head_sees_it():
    model = random_model(1)
    tokens = torch.tensor([[0, 3, 5, 3, 7], [0, 5, 7, 3, 3]])
    (pattern,) = model.cache(tokens).patterns
    there = (tokens == 3) & torch.tensor([True, True, True, True, False])
    seen = pattern * ~there[:, None, None]
    without = model(tokens, patterns=[seen / seen.sum(-1, keepdim=True)])
    expected = (model(tokens).log_softmax(-1) - without.log_softmax(-1))[:, -1]
    assert close(source_effects(model, tokens, source=3), expected)
    assert not source_effects(model, tokens, source=9).any()


def test_contexts_after_a_source_end_with_the_destination():
    text = np.array([3, 4, 1, 1, 3, 1, 4, 2, 1, 1, 1, 4, 3, 4, 1, 4, 1])
    contexts = contexts_after(TokenPositions.of(text, 5), source=3, destination=4, n_ctx=5, n=9)
    assert contexts.tolist() == [[0, 1, 3, 1, 4], [0, 1, 4, 3, 4], [0, 3, 4, 1, 4]]
    assert len(contexts_after(TokenPositions.of(text, 5), source=3, destination=4, n_ctx=5, n=2)) == 2
    assert contexts_after(TokenPositions.of(text, 5), source=2, destination=3, n_ctx=4, n=2).shape == (0, 4)
