"""Claims of chapter 03_one_layer_skip_trigrams that hold what heads say against the text.

What it means that a model supports a rule, and that a text has one, is said in ``helpers.skip_trigrams``. Nearly all
are held to one line: as a text has a rule if the source makes it twice as frequent, heads know rules of a kind if they
support them twice as often as the same rules with other sources, with which the text does not have them.
"""

import random
from collections.abc import Callable, Sequence
from functools import cache

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from helpers.claims.ledger import Evidence, at_least, claim
from helpers.claims.models import Models
from helpers.mined_rules import (
    COPIED,
    FINISHED_BY_ANOTHER_WORD,
    OTHER_KINDS,
    RELATIVES,
    MinedRules,
    joined,
    mined,
    split_word_rules,
)
from helpers.skip_trigrams import HeadReading, clusters, followers
from helpers.statistics import mean_of, ratio_of, resampled
from helpers.text import LEAST_LIFT, shelf_text
from helpers.training import RECIPES

TWICE = at_least(float(LEAST_LIFT))
RE_PAIRED = "sources of other rules, against those of others again"
MAX_GAP = RECIPES["one_layer"].model.n_ctx - 1  # how many tokens back a source may be in a context of the book's models

# ---- the lists of every head ------------------------------------------------------------------------------------


@claim("links-headdump", TWICE, control=RE_PAIRED)
def _lists_of_every_head(models: Models) -> Evidence:
    """The recipe of the paper, applied to every head, gives lists of skip-trigrams that the text has, twice as often as
    with the sources of other lists or more.
    """
    has = torch.tensor([_is_in_text(reading, reading.source) for reading in models.readings])
    by_chance = _with_other_sources(models.readings, _is_in_text)
    _, unit = torch.tensor([reading.source for reading in models.readings]).unique(return_inverse=True)
    by_source = torch.zeros(int(unit.max()) + 1, 1 + by_chance.shape[1], dtype=torch.double)  # in whichever heads
    by_source.index_add_(0, unit, torch.cat([has[:, None], by_chance], dim=1).double())
    return _times_chance(by_source[:, 0], by_source[:, 1:])


def _is_in_text(reading: HeadReading, source: int) -> bool:
    """Whether the text has a rule with this source, and a destination and an out of ``reading``."""
    rules = shelf_text().positions.rules
    return any(rules(source, destination, reading.outs, MAX_GAP) for destination in reading.destinations)


def _with_other_sources(
    readings: Sequence[HeadReading], is_so: Callable[[HeadReading, int], bool], n: int = 8
) -> Bool[Tensor, "reading {n}"]:
    """Whether something is so of each reading with the sources of ``n`` others."""
    sources = sorted({reading.source for reading in readings})
    random.Random(0).shuffle(sources)
    place = {source: i for i, source in enumerate(sources)}
    return torch.tensor(
        [
            [is_so(reading, sources[(place[reading.source] + i) % len(sources)]) for i in range(1, n + 1)]
            for reading in readings
        ]
    )


def _times_chance(so: Shaped[Tensor, " unit"], by_chance: Shaped[Tensor, "unit other"]) -> Evidence:
    """How many times as often something is so as by chance; as a control, one half of the chances by the other."""
    one, other = by_chance.double().mean(1), by_chance.double().unflatten(1, (2, -1)).mean(2)
    return Evidence(ratio_of(so, one), ratio_of(other[:, 0], other[:, 1]))


@claim("tab-copying", at_least(0.5), control="the outs of the heads' other sources")
def _copying(models: Models) -> Evidence:
    """The strongest skip-trigrams of copying heads say the source again."""
    heads = models.copying_scores.topk(3).indices.tolist()
    readings = [reading for head in heads for reading in models.long_lists[head]]
    copied = torch.tensor([_raises(reading, reading.source) for reading in readings])
    return Evidence(mean_of(copied), mean_of(_with_other_sources(readings, _raises).double().mean(1)))


def _raises(reading: HeadReading, token: int) -> bool:
    return token in reading.outs


# ---- rules of the paper's kinds ---------------------------------------------------------------------------------


@cache
def _split_words() -> MinedRules:
    return split_word_rules(shelf_text(), MAX_GAP)


@cache
def _copied() -> MinedRules:
    return mined(shelf_text(), COPIED, MAX_GAP, n_bigrams=300)


@cache
def _relatives() -> MinedRules:
    return mined(shelf_text(), RELATIVES, MAX_GAP, n_bigrams=300)


@cache
def _other_kinds() -> MinedRules:
    kinds = OTHER_KINDS.values()
    return joined([mined(shelf_text(), kind, MAX_GAP, per_bigram=2) for kind in kinds])


@cache
def _finished_by_another_word() -> MinedRules:
    return mined(shelf_text(), FINISHED_BY_ANOTHER_WORD, MAX_GAP, n_bigrams=600)


def _support(models: Models, rules: MinedRules) -> Evidence:
    """How many times as often a head supports rules as it supports them re-paired."""
    return _times_chance(*rules.supported(models.one_layer, shelf_text().frequent))


@claim("cl-split-tokens", TWICE, control=RE_PAIRED)
def _split_words_are_supported(models: Models) -> Evidence:
    """Heads are partly specialised in words that are one token with a leading space and two without it: they finish
    such a word after it has come before, twice as often as after other words or more.
    """
    return _support(models, _split_words())


@claim("tab-patterns", TWICE, control=RE_PAIRED)
def _simple_patterns(models: Models) -> Evidence:
    """Heads learn simple patterns of learning in context: they say a token again, also where it is cut in two the
    second time, or a relative of it.
    """
    model, among = models.one_layer, shelf_text().frequent
    patterns = [rules.supported(model, among) for rules in (_copied(), _relatives(), _split_words())]
    which = torch.arange(len(patterns)).repeat_interleave(torch.tensor([len(so) for so, _ in patterns]))
    so, by_chance = (torch.cat(column).double() for column in zip(*patterns, strict=True))
    one, other = by_chance.unflatten(1, (2, -1)).mean(2).T
    return Evidence(resampled(_least_ratio, so, by_chance.mean(1), which), resampled(_least_ratio, one, other, which))


def _least_ratio(so: Float[Tensor, " rule"], by_chance: Float[Tensor, " rule"], which: Tensor) -> float:
    """How many times as often something is so as by chance: the smallest such ratio of several kinds of rules."""
    return min(float(so[which == kind].sum() / by_chance[which == kind].sum()) for kind in which.unique())


@claim("list-other", TWICE, control=RE_PAIRED)
def _other_kinds_of_rules(models: Models) -> Evidence:
    """Heads have skip-trigrams of the other kinds that the paper lists: of Python, of LaTeX and HTML, of web addresses,
    of English.
    """
    return _support(models, _other_kinds())


@claim("cl-Knesset", TWICE, control=RE_PAIRED)
def _another_word_is_finished(models: Models) -> Evidence:
    """A head can finish a word that is cut in two by the mention of a related, but different word."""
    return _support(models, _finished_by_another_word())


# ---- sources that ask for the same destination ------------------------------------------------------------------


@claim("cl-by-from", TWICE, control="the sources exchanged")
def _clusters_of_sources(models: Models) -> Evidence:
    """In some head sources that share the destination which wants them most follow it in the text, twice as often as
    tokens do at large or more.
    """
    among = shelf_text().frequent
    exchanged = torch.randperm(len(among), generator=torch.Generator().manual_seed(0))
    n_heads = models.one_layer.config.n_heads
    follow, by_chance, control = torch.zeros(3, len(among), n_heads, dtype=torch.double)
    for (_, head), destination, sources, _ in clusters(models.one_layer, shelf_text()):
        follows, members = _follows(destination), torch.searchsorted(among, sources)
        follow[members, head] = follows[members]
        control[members, head] = follows[exchanged[members]]
        by_chance[members, head] = follows.mean()
    return Evidence(*(resampled(_largest_ratio, so, by_chance, n=100) for so in (follow, control)))


@cache
def _follows(destination: int) -> Float[Tensor, " token"]:
    """1 for each frequent token that follows a destination in the text, 0 for the others."""
    return followers(shelf_text(), destination).double()


def _largest_ratio(so: Float[Tensor, "token head"], by_chance: Float[Tensor, "token head"]) -> float:
    """How many times as often something is so as by chance, in the head where that is most."""
    return (so.sum(0) / by_chance.sum(0)).nan_to_num(0).max().item()
