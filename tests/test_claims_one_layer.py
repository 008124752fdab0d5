"""What the claims of chapter 03 call a word, a relative and a rule."""

import torch

from helpers.claims.book import Book
from helpers.claims.one_layer import (
    PAPER_RULES,
    finishes_another_word,
    paper_rules,
    pattern_candidates,
    served,
    spelling_relatives,
    text_has,
    within_word,
)
from helpers.tokens import Tokenizer

TOKENIZER = Tokenizer.load()
BOOK = Book(0)


def ids(*texts: str) -> list[int]:
    return [TOKENIZER.token(text) for text in texts]


def test_within_a_word_there_is_a_letter_on_both_sides_of_the_seam():
    pairs = {("con", "straint"): True, ("con", " x"): False, ("(", "self"): False, (" x", "."): False}
    assert {pair: within_word(TOKENIZER, *ids(*pair)) for pair in pairs} == pairs


def test_relatives_differ_in_case_space_underscore_or_a_final_s():
    family, other = ids("idx", " idx"), ids("data", " x")
    relatives = spelling_relatives(TOKENIZER, torch.tensor(family + other))
    assert all(sorted(relatives[token]) == sorted(set(family) - {token}) for token in family)
    assert relatives[other[0]] == [] and other[1] not in relatives  # one letter is no word


def test_another_word_is_a_whole_one_that_is_not_alike():
    assert finishes_another_word(BOOK, *ids(" matplotlib", "py", "plot"))
    assert not finishes_another_word(BOOK, *ids("mpletion", "co", "mple"))  # not a whole word
    assert not finishes_another_word(BOOK, *ids(" imp", "ro", "ve"))  # its own beginning
    assert not finishes_another_word(BOOK, *ids(" parameter", "par", "ameter"))
    assert not finishes_another_word(BOOK, *ids(" matplotlib", ".", "plot"))


def test_the_papers_rules_are_three_tokens_or_none():
    rules = [rule for kind in paper_rules(TOKENIZER).values() for rule in kind]
    assert len(rules) == sum(len(outs) for families in PAPER_RULES.values() for *_, outs in families)
    for texts, tokens in rules:
        single = all(len(TOKENIZER.encode(text)) == 1 for text in texts)
        assert tokens == (tuple(map(TOKENIZER.token, texts)) if single else None)


def test_rules_that_are_known_to_be_there_are_served_and_in_the_text():
    rule, reversed_rule = ids("ench", "b", "ench"), ids("b", "ench", "b")
    assert served(BOOK, torch.tensor([rule, reversed_rule])).tolist() == [True, False]
    assert text_has(BOOK, *rule) and not text_has(BOOK, *reversed_rule)


def test_candidates_have_the_form_of_their_pattern():
    copied, related, cut, cut_related = pattern_candidates(BOOK).values()
    assert copied and all(source == out for source, _, out in copied)
    assert related and all(source != out for source, _, out in related)
    for whole, first, rest in cut:
        assert TOKENIZER.decode([whole])[1:] == TOKENIZER.decode([first, rest])
    assert {rule[:2] for rule in cut_related} <= {rule[:2] for rule in cut} and not set(cut_related) & set(cut)
