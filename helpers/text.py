"""What a text contains: where each token stands, which skip-trigrams occur, which tokens are frequent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import START
from helpers.bigrams import Bigrams, count_bigrams
from helpers.tokens import EncodedCorpus, Tokenizer, load_encoded

LEAST_FREQUENT = 1000  # occurrences of a token whose embedding has had some training
LEAST_RULE, LEAST_LIFT = 10, 2  # occurrences and lift of a skip-trigram that counts as a rule of the text


@dataclass(frozen=True)
class SkipTrigramCount:
    """How often a text has ``destination out`` at all, and how often after ``source`` within some tokens."""

    n_destination: int
    n_out: int  # of those, followed by out
    n_destination_after_source: int
    n_out_after_source: int  # of those, followed by out

    @property
    def lift(self) -> float:
        """How many times likelier ``out`` is after ``destination`` when ``source`` came before; 1 means no relation."""
        after_source = self.n_out_after_source / max(1, self.n_destination_after_source)
        return after_source / max(1e-9, self.n_out / max(1, self.n_destination))


@dataclass(frozen=True)
class TokenPositions:
    """The positions of each token in a row of ids, sorted once, so that very many skip-trigrams can be counted."""

    tokens: np.ndarray
    order: np.ndarray  # every position, by its token and then in the order of the text
    first: np.ndarray  # where each token's positions begin in ``order``; the end comes last

    @classmethod
    def of(cls, tokens: np.ndarray, d_vocab: int) -> "TokenPositions":
        tokens = np.asarray(tokens)
        first = np.concatenate([[0], np.bincount(tokens, minlength=d_vocab).cumsum()])
        return cls(tokens, tokens.argsort(kind="stable").astype(np.int32), first)

    def __getitem__(self, token: int) -> np.ndarray:
        return self.order[self.first[token] : self.first[token + 1]]

    def _with_next(self, token: int) -> np.ndarray:
        """Its positions but for the last of the text, which no token follows."""
        places = self[token]
        return places[places < len(self.tokens) - 1]

    def after(self, source: int, destination: int, max_gap: int) -> np.ndarray:
        """Where ``destination`` stands, and a token follows, with ``source`` 1 to ``max_gap`` tokens before it."""
        return after_one_of(self[source], self._with_next(destination), max_gap)

    def outs(self, source: int, destination: int, max_gap: int) -> np.ndarray:
        """How often each token follows ``destination`` with ``source`` 1 to ``max_gap`` tokens before it."""
        return np.bincount(self.tokens[self.after(source, destination, max_gap) + 1], minlength=len(self.first) - 1)

    def following(self, token: int) -> np.ndarray:
        """How often each token follows ``token``."""
        return np.bincount(self.tokens[self._with_next(token) + 1], minlength=len(self.first) - 1)

    def count(self, source: int, destination: int, out: int, max_gap: int) -> SkipTrigramCount:
        """Count ``source … destination out``, the source 1 to ``max_gap`` tokens before the destination."""
        follows = self.tokens[self._with_next(destination) + 1]
        after = self.tokens[self.after(source, destination, max_gap) + 1]
        return SkipTrigramCount(len(follows), int((follows == out).sum()), len(after), int((after == out).sum()))

    def rules(
        self, source: int, destination: int, outs: Sequence[int], max_gap: int
    ) -> list[tuple[int, SkipTrigramCount]]:
        """Those of ``outs`` for which ``source … destination out`` is a rule of the text, each with its count.

        A rule occurs ten times or more, with a lift of 2 or more.
        """
        times = self.outs(source, destination, max_gap)
        enough = [(out, self.count(source, destination, out, max_gap)) for out in outs if times[out] >= LEAST_RULE]
        return [(out, count) for out, count in enough if count.lift >= LEAST_LIFT]

    # ---- all sources at once ------------------------------------------------------------------------------------

    @cached_property
    def _same_before(self) -> np.ndarray:
        """For each position, where its token stood last before it; of its first, far before the text."""
        latest = np.full(len(self.order), np.iinfo(np.int32).min, dtype=np.int32)
        again = self.tokens[self.order[1:]] == self.tokens[self.order[:-1]]
        latest[self.order[1:][again]] = self.order[:-1][again]
        return latest

    @cached_property
    def _usually_near(self) -> dict[tuple[int, int], np.ndarray]:
        """The shares that have been asked for before: by destination and how near."""
        return {}

    def shares_near(self, places: np.ndarray, max_gap: int) -> np.ndarray:
        """For each token, the share of ``places`` that have it 1 to ``max_gap`` tokens before them.

        Of many places only some are looked at, evenly spread.
        """
        times, places = np.zeros(len(self.first) - 1), _some(places)
        for part in np.array_split(places, 1 + len(places) // 500):
            before = part[:, None] - np.arange(1, max_gap + 1)
            latest = self._same_before[np.maximum(before, 0)]
            first = (before >= 0) & (latest < part[:, None] - max_gap)  # of several times within reach, one counts
            times += np.bincount(self.tokens[before[first]], minlength=len(times))
        return times / max(1, len(places))

    def sources(self, destination: int, out: int, max_gap: int) -> tuple[np.ndarray, np.ndarray]:
        """For each token as a source, how often about the text has ``source … destination out``, and with what lift.

        By Bayes' rule the lift is how many times likelier the source is before ``destination out`` than before
        ``destination``.
        """
        anywhere = self._with_next(destination)
        followed = anywhere[self.tokens[anywhere + 1] == out]
        if (destination, max_gap) not in self._usually_near:
            self._usually_near[destination, max_gap] = self.shares_near(anywhere, max_gap)
        near, usually = self.shares_near(followed, max_gap), self._usually_near[destination, max_gap]
        return near * len(followed), near / np.maximum(usually, 1 / max(1, len(_some(anywhere))))


MOST_PLACES = 1000  # at which sources are looked for


def _some(places: np.ndarray) -> np.ndarray:
    """At most ``MOST_PLACES`` of several places, evenly spread."""
    if len(places) <= MOST_PLACES:
        return places
    return places[np.linspace(0, len(places) - 1, MOST_PLACES).astype(np.int64)]


def after_one_of(sources: np.ndarray, destinations: np.ndarray, max_gap: int) -> np.ndarray:
    """The destinations with a source 1 to ``max_gap`` places before them; positions, both sorted."""
    if len(destinations) < len(sources):
        latest = np.searchsorted(sources, destinations) - 1  # the source before each destination
        return destinations[(latest >= 0) & (destinations - sources[latest] <= max_gap)]
    begin, end = (np.searchsorted(destinations, sources + gap, side="right") for gap in (0, max_gap))
    begin = np.maximum(begin, np.append(0, end[:-1]))  # what an earlier source has is not counted again
    n = np.maximum(end - begin, 0)
    return destinations[np.repeat(begin - (n.cumsum() - n), n) + np.arange(n.sum())]


def frequent_tokens(tokens: np.ndarray, d_vocab: int, least: int) -> Int[Tensor, " token"]:
    """The tokens that occur at least ``least`` times in a row of ids, in order of their id."""
    counts = sum(np.bincount(part, minlength=d_vocab) for part in np.array_split(tokens, 1 + len(tokens) // 1_000_000))
    return torch.from_numpy(np.flatnonzero(counts >= least))


def token_pairs(
    tokenizer: Tokenizer, among: Int[Tensor, " token"], change: Callable[[str], str]
) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The tokens of ``among`` whose changed text is another token of ``among``, and those others.

    ``change`` makes " words" of " word", say; it returns its argument for a text that the rule does not apply to.
    """
    ids = {tokenizer.decode([token]): token for token in among.tolist()}
    found = [(token, ids[change(text)]) for text, token in ids.items() if ids.get(change(text), token) != token]
    plain, changed = zip(*found, strict=True) if found else ((), ())
    return torch.tensor(plain, dtype=torch.long), torch.tensor(changed, dtype=torch.long)


def split_words(tokenizer: Tokenizer, among: Int[Tensor, " token"]) -> Int[Tensor, "word 3"]:
    """The words of ``among`` that are one token with a leading space and two without: (whole, first, rest)."""
    found = []
    for whole in among.tolist():
        word = tokenizer.decode([whole])
        pieces = tokenizer.encode(word[1:]) if word[:1] == " " and word[1:].isalpha() else []
        if len(pieces) == 2:
            found.append((whole, *pieces))
    return torch.tensor(found, dtype=torch.long).reshape(-1, 3)


@dataclass(frozen=True)
class Text:
    """An encoded corpus, and what is counted in its training text: each thing once, when it is first asked for."""

    corpus: EncodedCorpus

    @property
    def tokenizer(self) -> Tokenizer:
        return self.corpus.tokenizer

    @cached_property
    def strings(self) -> list[str]:
        """The text of every token."""
        return [self.tokenizer.decode([token]) for token in range(self.tokenizer.d_vocab)]

    @cached_property
    def bigrams(self) -> Bigrams:
        return count_bigrams(self.corpus.train, self.tokenizer.d_vocab)

    @cached_property
    def unigram_probs(self) -> Float[Tensor, " token"]:
        """The share of each token among the tokens that follow any token."""
        return self.bigrams.second_counts.double() / self.bigrams.n

    @cached_property
    def frequent(self) -> Int[Tensor, " token"]:
        """The tokens, ``<START>`` aside, that occur at least 1,000 times."""
        frequent = frequent_tokens(self.corpus.train, self.tokenizer.d_vocab, LEAST_FREQUENT)
        return frequent[frequent != START]

    @cached_property
    def positions(self) -> TokenPositions:
        """Where each token stands in the first 8 million tokens."""
        return TokenPositions.of(self.corpus.train[:8_000_000], self.tokenizer.d_vocab)


@cache
def shelf_text() -> Text:
    """The book's own corpus; what is counted in it is shared by the whole process."""
    return Text(load_encoded())
