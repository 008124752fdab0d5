"""Mining on texts that are made to have some rules and not others."""

import torch

from helpers.mined_rules import (
    COPIED,
    FINISHED_BY_ANOTHER_WORD,
    OTHER_KINDS,
    RELATIVES,
    Kind,
    MinedRules,
    closes,
    closing_for,
    joined,
    look_alike,
    mined,
    split_word_rules,
    with_others,
)
from helpers.text import Text
from tests.examples import Words, corpus_of, table_model

WORDS = Words("<START>", " two", "t", "wo", "of", "one", "x", ":", "zed", ".", "up", "low")


def text_of(*rules: tuple[int, int, int], times: int = 20) -> Text:
    """Every token 1,000 times or more, and each rule some times, far from the others and unlike what is usual."""
    frequent = torch.arange(1, len(WORDS.words)).repeat_interleave(1000).tolist()
    return Text(
        corpus_of(frequent + sum(([s, 0, d, o] + [0] * 8 for s, d, o in rules for _ in range(times)), []), WORDS)
    )


# ---- strings ----------------------------------------------------------------------------------------------------


def test_brackets_are_closed_by_their_mirror_image():
    assert [closing_for(string) for string in ("f([", "{", "x", "()", "")] == ["])", "}", "", "", ""]
    assert [closes(string) for string in ("])", "\n )),", "x)", " ")] == ["])", "))", "", ""]


def test_strings_look_alike_that_contain_each_other_or_begin_alike():
    assert look_alike(" Pike", "pikes") and look_alike("_interval", " Integer") and look_alike("it", " with")
    assert not look_alike(" Israel", "Knesset")


def test_the_papers_rules_are_of_the_kinds():
    def fits(kind: Kind, source: str, destination: str, out: str) -> bool:
        return kind.destination(destination) and kind.out(out) and kind.source(source, destination, out)

    of_kind = {
        "attributes": ("upper", ".", "lower"),
        "arguments": (" open", ",", " rb"),
        "keywords": (" try", "\n", " except"),
        "brackets": ("=([", "x", "]),"),
        "LaTeX and HTML": ("left", " \\", "right"),
        "web addresses": ("github", "/", "issues"),
        "English": (" keep", " under", " wraps"),
    }
    assert {name for name, rule in of_kind.items() if fits(OTHER_KINDS[name], *rule)} == set(OTHER_KINDS)
    assert not any(fits(kind, "upper", ".", "upper") for kind in OTHER_KINDS.values())  # that is copying
    assert fits(COPIED, "upper", ".", "upper") and not fits(RELATIVES, "upper", ".", "upper")
    assert fits(RELATIVES, "lambda", " $\\", "operator") and not fits(COPIED, "lambda", " $\\", "operator")
    assert fits(FINISHED_BY_ANOTHER_WORD, " Israel", " K", "nes")
    assert not fits(FINISHED_BY_ANOTHER_WORD, " Ralph", "R", "alph")


# ---- mining -----------------------------------------------------------------------------------------------------

NAMES = Kind(lambda d: d == ".", str.isalpha, lambda s, d, o: s.isalpha() and s != o)
ONE, X, COLON, ZED, DOT, UP, LOW = range(5, 12)


def test_the_strongest_source_of_each_bigram_is_mined_if_the_text_has_the_rule():
    text = text_of((UP, DOT, LOW), (ONE, DOT, LOW), (UP, DOT, LOW), (ZED, DOT, ONE), (X, DOT, ZED), (COLON, DOT, UP))
    rules = mined(text, NAMES, max_gap=4).rules
    assert rules.tolist() == []  # of three sources none has eight others
    assert [rule for rule, _ in strongest(text)] == [(X, DOT, ZED), (ZED, DOT, ONE), (UP, DOT, LOW)]
    assert (ONE, DOT, LOW) in [rule for rule, _ in strongest(text, per_bigram=2)]


def strongest(text: Text, **options) -> list[tuple[tuple[int, int, int], list[int]]]:
    """The rules of ``NAMES`` as tuples, by their sources, with the others of each, where one other source is enough."""
    found = mined(text, NAMES, max_gap=4, n_others=1, **options)
    return sorted(
        (tuple(rule), others) for rule, others in zip(found.rules.tolist(), found.others.tolist(), strict=True)
    )


def test_the_other_sources_are_those_of_rules_that_the_text_does_not_have_so():
    rules = [(source, 50, 60) for source in range(10)]
    found = with_others(rules, lambda rule: rule[0] == 3)
    assert found.rules.tolist() == list(map(list, rules)) and found.others.shape == (10, 8)
    for (source, *_), others in zip(rules, found.others.tolist(), strict=True):
        assert len(set(others)) == 8 and not {source, 3} & set(others)
    assert len(with_others(rules, lambda rule: rule[0] < 3)) == 0  # at most seven are left to any


def test_split_words_are_rules_where_the_text_has_them():
    text = text_of((1, 2, 3))
    assert split_word_rules(text, max_gap=4, n_others=0).rules.tolist() == [[1, 2, 3]]
    assert len(split_word_rules(text_of(), max_gap=4, n_others=0)) == 0


def test_rules_and_their_re_pairings_are_asked_of_the_model():
    qk, ov = torch.zeros(40, 40), torch.zeros(40, 40)
    rising = torch.arange(40.0)
    qk[:, 7], qk[:, 8], qk[:, 9] = rising, rising, -rising
    ov[7], ov[8], ov[9] = rising, -rising, rising
    one = MinedRules(torch.tensor([[7, 39, 39]]), torch.tensor([[8, 9]]))
    other = MinedRules(torch.tensor([[8, 39, 39]]), torch.tensor([[7, 9]]))
    supported, by_chance = joined([one, other]).supported(table_model((qk, ov)), torch.arange(40))
    assert supported.tolist() == [True, False] and by_chance.tolist() == [[False, False], [True, False]]
    assert len(joined([one, other])) == 2
