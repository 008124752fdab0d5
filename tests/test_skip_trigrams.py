"""Skip-trigrams on models whose circuits are tables made by hand, and on texts made to go with them."""

import itertools
import json
import math

import numpy as np
import pytest
import torch

from helpers.circuits import ov_circuit, qk_circuit
from helpers.skip_trigrams import (
    SkipTrigramBug,
    clusters,
    crossed_effect,
    entry_quantiles,
    followers,
    paper_rules,
    patterns_found,
    read_head,
    read_strongest_sources,
    skip_trigram_bugs,
    spelling_relatives,
    supported,
)
from helpers.text import Text
from helpers.tokens import Tokenizer
from tests.examples import Words, close, corpus_of, random_model, table_model

# ---- reading a head ---------------------------------------------------------------------------------------------


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


def test_the_quantile_of_an_entry_is_the_share_of_larger_ones_in_its_column_or_row():
    model = random_model(1)
    among, rules = torch.tensor([1, 2, 4, 5, 8]), [(4, 2, 8), (1, 5, 5), (7, 4, 1)]
    quantiles = entry_quantiles(model, torch.tensor(rules), among)
    for (i, (source, destination, out)), h in itertools.product(enumerate(rules), range(2)):
        column = qk_circuit(model, (0, h)).centred().dense()[:, source]
        row = ov_circuit(model, (0, h)).centred().dense()[source]
        expected = [(column[among] > column[destination]).sum().item() / 5, (row[among] > row[out]).sum().item() / 5]
        assert quantiles[i, h].tolist() == pytest.approx(expected)


def test_one_head_must_rank_both_entries_of_a_rule_among_its_top_five_per_cent():
    falling = torch.arange(40.0, 0, -1)  # token 0 first, then 1, …
    qk, ov = torch.zeros(40, 40), torch.zeros(40, 40)
    qk[:, 7], qk[:, 8], ov[7] = falling, -falling, falling
    rules, among = torch.tensor([[7, 0, 0], [7, 2, 2], [7, 3, 0], [7, 0, 3]]), torch.arange(40)
    assert supported(table_model((qk, ov)), rules, among).tolist() == [True, True, False, False]
    assert not supported(table_model((qk, -ov), (-qk, ov)), rules, among).any()


WORDS = Words("<START>", " two", "t", "wo", " of", "of", "x", ":", "Wo", "_wos", " t", "s")


def test_relatives_differ_in_case_a_leading_space_or_underscore_and_a_final_s_only():
    relatives = spelling_relatives(WORDS, torch.arange(12))
    assert relatives == {1: [], 3: [8, 9], 8: [3, 9], 9: [3, 8], 4: [5], 5: [4]}


def test_patterns_are_found_where_the_model_supports_a_rule_that_the_text_has():
    qk, ov = torch.zeros(12, 12), torch.zeros(12, 12)
    for source, destination, out in [(5, 7, 5), (4, 7, 5), (6, 7, 6), (1, 2, 3), (8, 2, 8)]:
        qk[destination, source] = ov[source, out] = 100
    qk += torch.arange(12.0)[:, None] * 1e-3  # no ties
    model = table_model((qk, ov))
    frequent = np.repeat(np.arange(11, 0, -1), 1000).tolist()  # every token is frequent, none follows from a source
    has = [rule * 12 for rule in ([4, 0, 7, 5] + [0] * 8, [5, 0, 7, 5] + [0] * 8, [1, 0, 2, 3] + [0] * 8)]
    text = Text(corpus_of(frequent + sum(has, []), WORDS))
    readings = [read_head(model, (0, 0), source, text.frequent, n=1) for source in (4, 5, 6)]
    assert [reading.destinations for reading in readings] == [[7], [7], [7]]
    assert patterns_found(model, text, readings) == {
        "[b] … [a] → [b]": [(5, 7, 5)],  # x … : → x is supported, too, but the text does not have it
        "[b] … [a] → [b′]": [(4, 7, 5)],
        "[ab] … [a] → [b]": [(1, 2, 3)],
        "[ab] … [a] → [b′]": [],
    }
    without = table_model((qk, torch.zeros(12, 12) + torch.arange(12.0)))
    assert not any(patterns_found(without, text, readings).values())


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


def test_a_skip_trigram_bug_is_found_unless_the_text_has_the_crossed_pair_too():
    qk, ov = torch.zeros(20, 20), torch.zeros(20, 20)
    source, filler, d1, out1, d2, out2 = 3, 1, 4, 5, 6, 7
    qk[[d1, d2], source], ov[source, [out1, out2]] = torch.tensor([8.0, 6]), torch.tensor([2.0, 4])
    model = table_model((qk, ov))
    text = [source, filler, d1, out1, filler, filler] * 30 + [source, filler, d2, out2, filler, filler] * 25

    def bugs(tokens: list[int]) -> list[SkipTrigramBug]:
        found = skip_trigram_bugs(model, (0, 0), source, np.array(tokens, dtype=np.uint16))
        return [bug for bug in found if (bug.first, bug.second) == ((d1, out1), (d2, out2))]

    (bug,) = bugs(text)
    assert (bug.source, bug.n_first, bug.n_second, bug.n_crossed) == (source, 30, 25, 0)
    assert bug.effect == pytest.approx(4 - 6 / 20)  # of the entries 8 and 4, less the means of their rows
    assert bugs(text + [source, d1, out2]) == []  # one in 25 is more than a hundredth
    assert bugs(text[:-96]) == []  # nine are too few


def test_the_crossed_effect_is_counted_from_other_sources():
    ov = torch.zeros(20, 20)
    ov[3, 7], ov[5, 7] = 6, 3  # attended to with a third: logits of 2 and 1
    model = table_model((torch.zeros(20, 20), ov))
    bug = SkipTrigramBug(3, (4, 5), (6, 7), 30, 25, 0, 1.0)
    source, one, others = (v - math.log(math.e + 18 + math.exp(v)) for v in (2, 1, 0))  # 1 for the destination itself
    expected = source - (one + 15 * others) / 16
    assert crossed_effect(model, bug, torch.arange(4, 20)) == pytest.approx(expected)
