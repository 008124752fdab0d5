"""Rules of a text that are of the paper's kinds: mined from the text by their lift, none picked by hand.

A kind is told by the strings of the three tokens alone. Of the commonest bigrams "destination out" that fit it, the
sources that tell most of them are taken.
"""

import keyword
import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.model import AttentionOnlyTransformer
from helpers.skip_trigrams import Rule, supported
from helpers.text import LEAST_LIFT, LEAST_RULE, Text, split_words

Test = Callable[[str], bool]


@dataclass(frozen=True)
class Kind:
    """What the strings of a rule's tokens must be like."""

    destination: Test
    out: Test
    source: Callable[[str, str, str], bool]  # of source, destination and out


# ---- strings ----------------------------------------------------------------------------------------------------


def stem(string: str) -> str:
    """A token's string without spaces and underscores around it and without capitals."""
    return string.strip(" _").lower()


def look_alike(one: str, other: str) -> bool:
    """Whether one of two strings contains the other, or both begin with the same three letters."""
    one, other = stem(one), stem(other)
    return one in other or other in one or one[:3] == other[:3]


def is_name(string: str) -> bool:
    return bool(re.fullmatch(" ?[A-Za-z_]{2,}", string))


def is_keyword(string: str) -> bool:
    return keyword.iskeyword(string.strip())


def is_english(string: str) -> bool:
    return bool(re.fullmatch(" [a-z]{2,}", string)) and not is_keyword(string)


def closing_for(string: str) -> str:
    """What closes the brackets with which a string ends: "])" for "f([", nothing for "f"."""
    opened = re.search(r"[(\[{]*$", string)[0]
    return opened[::-1].translate(str.maketrans("([{", ")]}"))


def closes(string: str) -> str:
    """The closing brackets with which a string begins, space aside."""
    return re.match(r"\s*([)\]}]*)", string)[1]


# ---- kinds ------------------------------------------------------------------------------------------------------


def _name_of_another(source: str, destination: str, out: str) -> bool:
    return is_name(source) and stem(source) != stem(out)


OTHER_KINDS = {  # than copying, from the paper's list
    "attributes": Kind(lambda d: d == ".", is_name, _name_of_another),
    "arguments": Kind(lambda d: d in ("(", ","), is_name, _name_of_another),
    "keywords": Kind(lambda d: True, is_keyword, lambda s, d, o: is_keyword(s) and stem(s) != stem(o)),
    "brackets": Kind(
        lambda d: not re.search(r"[(\[{}\])]", d),
        lambda o: closes(o) != "",
        lambda s, d, o: closing_for(s) == closes(o),
    ),
    "LaTeX and HTML": Kind(lambda d: d.strip() in ("\\", "\\\\", "<", "&"), is_name, _name_of_another),
    "web addresses": Kind(
        lambda d: d in ("/", "//", "://"), is_name, lambda s, d, o: _name_of_another(s, d, o) and s[0] != " "
    ),
    "English": Kind(is_english, is_english, lambda s, d, o: is_english(s) and stem(s) != stem(o)),
}


def _another_whole_word(source: str, destination: str, out: str) -> bool:
    return bool(re.fullmatch(" [A-Za-z]{3,}", source)) and not look_alike(source, destination + out)


FINISHED_BY_ANOTHER_WORD = Kind(lambda d: stem(d).isalpha() and d[-1:].isalpha(), str.isalpha, _another_whole_word)
COPIED = Kind(lambda d: True, lambda o: len(stem(o)) >= 3 and is_name(o), lambda s, d, o: s == o)
RELATIVES = Kind(
    COPIED.destination, COPIED.out, lambda s, d, o: len(stem(s)) >= 3 and is_name(s) and not look_alike(s, o)
)


# ---- mining -----------------------------------------------------------------------------------------------------

PER_SOURCE, N_OTHERS = 3, 8


@dataclass(frozen=True)
class MinedRules:
    """Rules of a text, and for each the sources of some others with which the text does not have it."""

    rules: Int[Tensor, "rule 3"]
    others: Int[Tensor, "rule other"]

    def __len__(self) -> int:
        return len(self.rules)

    def supported(
        self, model: AttentionOnlyTransformer, among: Int[Tensor, " token"]
    ) -> tuple[Bool[Tensor, " rule"], Bool[Tensor, "rule other"]]:
        """Whether a head supports each rule, and whether one does with each of the other sources."""
        n_others = self.others.shape[1]
        re_paired = self.rules.repeat_interleave(n_others, 0)
        re_paired[:, 0] = self.others.flatten()
        both = supported(model, torch.cat([self.rules, re_paired]), among)
        return both[: len(self)], both[len(self) :].unflatten(0, (-1, n_others))


def joined(parts: Sequence[MinedRules]) -> MinedRules:
    return MinedRules(torch.cat([part.rules for part in parts]), torch.cat([part.others for part in parts]))


def with_others(rules: Sequence[Rule], has: Callable[[Rule], bool], n: int = N_OTHERS) -> MinedRules:
    """Give each rule the sources of ``n`` others, drawn from all rules, with which the text does not have it.

    A rule that the text has with nearly all sources is left out. ``has`` says whether the text has a rule.
    """
    sources = sorted({source for source, *_ in rules})
    dice, kept, others = random.Random(0), [], []
    for source, destination, out in rules:
        drawn = dice.sample(sources, len(sources))
        lacking = (other for other in drawn if other != source and not has((other, destination, out)))
        if len(chosen := list(islice(lacking, n))) == n:
            kept.append((source, destination, out))
            others.append(chosen)
    return MinedRules(
        torch.tensor(kept, dtype=torch.long).reshape(-1, 3),
        torch.tensor(others, dtype=torch.long).reshape(len(kept), n),
    )


def mined(
    text: Text, kind: Kind, max_gap: int, n_bigrams: int = 80, per_bigram: int = 1, n_others: int = N_OTHERS
) -> MinedRules:
    """The text's rules of a kind, for the commonest bigrams that fit it, strongest first.

    A rule's strength is how often it occurs times the log of its lift: the nats that its source is worth.
    """
    strengths = {bigram: _strengths(text, *bigram, max_gap) for bigram in _commonest(text, kind, n_bigrams)}
    found = []
    for (destination, out), strength in strengths.items():
        fit = (s for s in text.frequent.tolist() if strength[s] > 0 and _fits(text, kind, s, destination, out))
        best = sorted(fit, key=strength.__getitem__, reverse=True)[:per_bigram]
        found += [(strength[source], (source, destination, out)) for source in best]
    rules = _without_repetition([rule for _, rule in sorted(found, reverse=True)])
    return with_others(rules, lambda rule: strengths[rule[1:]][rule[0]] > 0, n_others)


def _strengths(text: Text, destination: int, out: int, max_gap: int) -> np.ndarray:
    """For each token as a source, the strength of "source … destination → out"; 0 if that is no rule of the text."""
    times, lift = text.positions.sources(destination, out, max_gap)
    return np.where((times >= LEAST_RULE) & (lift >= LEAST_LIFT), times * np.log(np.maximum(lift, 1)), 0)


def _fits(text: Text, kind: Kind, source: int, destination: int, out: int) -> bool:
    return kind.source(*(text.strings[token] for token in (source, destination, out)))


def _commonest(text: Text, kind: Kind, n: int) -> list[tuple[int, int]]:
    """The ``n`` commonest bigrams of frequent tokens that fit a kind."""
    first, second = text.bigrams.pairs
    fits = []
    for test, tokens in ((kind.destination, first), (kind.out, second)):
        fitting = torch.zeros(text.tokenizer.d_vocab, dtype=torch.bool)
        fitting[[token for token in text.frequent.tolist() if test(text.strings[token])]] = True
        fits.append(fitting[tokens])
    counts = text.bigrams.counts * (fits[0] & fits[1])
    best = counts.argsort(descending=True, stable=True)[: min(n, int((counts > 0).sum()))]
    return list(zip(first[best].tolist(), second[best].tolist(), strict=True))


def _without_repetition(rules: list[Rule]) -> list[Rule]:
    """The rules without those whose source has had ``PER_SOURCE`` before."""
    times, kept = Counter(), []
    for rule in rules:
        times[rule[0]] += 1
        kept += [rule] * (times[rule[0]] <= PER_SOURCE)
    return kept


def split_word_rules(text: Text, max_gap: int, n_others: int = N_OTHERS) -> MinedRules:
    """The split words (whole, first, rest) for which "whole … first → rest" is a rule of the text."""

    def has(rule: Rule) -> bool:
        source, destination, out = rule
        return bool(text.positions.rules(source, destination, [out], max_gap))

    words = map(tuple, split_words(text.tokenizer, text.frequent).tolist())
    return with_others([word for word in words if has(word)], has, n_others)
