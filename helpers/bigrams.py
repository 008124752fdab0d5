"""Which token follows which: the bigrams of a text, and what a model's direct path says of them.

The direct path ``W_E W_U`` is a bigram table, and all of it in a model without layers ("Zero-Layer Transformers").
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.model import AttentionOnlyTransformer

# ---- counting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bigrams:
    """Which token follows which in a text: each different pair of neighbours once, by first and second token."""

    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    counts: Int[Tensor, " pair"]  # how often the pair occurs
    d_vocab: int

    @property
    def pairs(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """The index of the pairs in a table with a row for each first and a column for each second token."""
        return self.first, self.second

    @property
    def n(self) -> int:
        """The number of bigrams, each counted as often as it occurs."""
        return int(self.counts.sum())

    @property
    def first_counts(self) -> Int[Tensor, " token"]:
        """How many bigrams begin with each token."""
        return self.counts.new_zeros(self.d_vocab).index_add_(0, self.first, self.counts)

    @property
    def second_counts(self) -> Int[Tensor, " token"]:
        """How many bigrams end with each token."""
        return self.counts.new_zeros(self.d_vocab).index_add_(0, self.second, self.counts)

    @property
    def likeliest(self) -> Int[Tensor, " token"]:
        """The most frequent successor of each token; of several the smallest id, -1 where there is none."""
        most = self.counts.new_zeros(self.d_vocab).scatter_reduce(0, self.first, self.counts, "amax")
        best = self.counts == most[self.first]
        following = torch.full_like(most, self.d_vocab).scatter_reduce(0, self.first[best], self.second[best], "amin")
        return torch.where(most > 0, following, -1)

    def rows(self, start: int, stop: int) -> slice:
        """Where the pairs stand whose first token is one of ``start`` to ``stop`` - 1."""
        return slice(*torch.searchsorted(self.first, self.first.new_tensor([start, stop])).tolist())

    def row(self, token: int) -> Int[Tensor, " next"]:
        """How often each token comes after ``token``."""
        here = self.rows(token, token + 1)
        return self.counts.new_zeros(self.d_vocab).index_put_((self.second[here],), self.counts[here])


def count_bigrams(tokens: np.ndarray, d_vocab: int) -> Bigrams:
    """Count the neighbours in a row of ids, a few million at a time."""
    parts = []
    for start in range(0, max(1, len(tokens) - 1), 1 << 22):
        part = tokens[start : start + (1 << 22) + 1].astype(np.uint32)
        parts.append(np.unique(part[:-1] * np.uint32(d_vocab) + part[1:], return_counts=True))
    codes, counts = (np.concatenate(column) for column in zip(*parts, strict=True))
    codes, place = np.unique(codes, return_inverse=True)
    counts = np.bincount(place, weights=counts).astype(np.int64)
    first, second = divmod(codes.astype(np.int64), d_vocab)
    return Bigrams(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(counts), d_vocab)


def bigrams_of(contexts: Int[Tensor, "batch pos"], d_vocab: int) -> Bigrams:
    """Count the neighbours within each of several contexts."""
    codes, counts = torch.unique(contexts[:, :-1] * d_vocab + contexts[:, 1:], return_counts=True)
    return Bigrams(codes // d_vocab, codes % d_vocab, counts, d_vocab)


ENOUGH = 100  # occurrences of a pair whose log-likelihood is known to a tenth of a nat


def frequent_pairs(bigrams: Bigrams) -> Bigrams:
    """The pairs that occur a hundred times or more."""
    enough = bigrams.counts >= ENOUGH
    return Bigrams(bigrams.first[enough], bigrams.second[enough], bigrams.counts[enough], bigrams.d_vocab)


def next_in_frequency(bigrams: Bigrams) -> Int[Tensor, " token"]:
    """A partner for each token: the one with which the next fewer bigrams begin, and for the rarest the commonest.

    A table with each row taken from the partner is right about frequencies and wrong about all else: a control.
    """
    rarest_first = bigrams.first_counts.argsort(stable=True)
    return torch.empty_like(rarest_first).scatter_(0, rarest_first, rarest_first.roll(1))


# ---- tables of log-probabilities -------------------------------------------------------------------------------


def direct_path(model: AttentionOnlyTransformer) -> Float[Tensor, "token next"]:
    """The paper's ``W_U W_E`` read as a bigram model: each row of our ``W_E W_U`` through a log-softmax.

    67 MB at 4,096 tokens, made some rows at a time.
    """
    table = model.W_E.new_empty(model.config.d_vocab, model.config.d_vocab)
    with torch.no_grad():
        for rows, embedded in zip(table.split(512), model.W_E.split(512), strict=True):
            torch.log_softmax(embedded @ model.W_U, dim=-1, out=rows)
    return table


def bigram_log_probs(bigrams: Bigrams, at: Bigrams | None = None, prior: float = 0.0) -> Float[Tensor, " pair"]:
    """The log-probability of each pair of ``at`` by a text's counts, ``log (count(a b) / count(a))``.

    ``at`` is by default the text's own bigrams. A ``prior`` smooths: each first token is taken to have occurred that
    many times more, followed by tokens in proportion to their frequency. Without one, a pair that the text does not
    have gets minus infinity.
    """
    at = at or bigrams
    codes, wanted = (b.first * b.d_vocab + b.second for b in (bigrams, at))
    place = torch.searchsorted(codes, wanted).clamp(max=len(codes) - 1)
    times = torch.where(codes[place] == wanted, bigrams.counts[place], 0)
    expected = prior * (bigrams.second_counts.double() / bigrams.n)[at.second]
    return ((times + expected) / (bigrams.first_counts.double()[at.first] + prior)).nan_to_num(0).log()


def bigram_losses(log_probs: Float[Tensor, " pair"], bigrams: Bigrams) -> Float[Tensor, " token"]:
    """Mean cross-entropy, in nats, of what comes after each token; 0 after a token that nothing follows.

    ``log_probs`` is what a model gives to each pair of ``bigrams``: ``table[bigrams.pairs]``. With the text's own
    ``bigram_log_probs(bigrams)`` it is the least possible, the entropy of what comes next.
    """
    nats = torch.zeros(bigrams.d_vocab, dtype=torch.double)
    nats.index_add_(0, bigrams.first, -bigrams.counts * log_probs.double())
    return nats / bigrams.first_counts.clamp(min=1)


def bigram_loss(log_probs: Float[Tensor, " pair"], bigrams: Bigrams) -> float:
    """Mean cross-entropy of a bigram model on all bigrams of a text, nats; ``log_probs`` as for ``bigram_losses``."""
    return -(bigrams.counts * log_probs.double()).sum().item() / bigrams.n


def interaction(values: Float[Tensor, " pair"], bigrams: Bigrams) -> Float[Tensor, " pair"]:
    """What is particular to each pair: ``values`` less the means of all with the same first or the same second token.

    Of log-probabilities neither the frequency of a token nor a constant of a row is left. The two means are taken out
    in turn, ten times.
    """
    values = values.double()
    for tokens in 10 * bigrams.pairs:
        times = torch.bincount(tokens, minlength=bigrams.d_vocab).clamp(min=1)
        means = values.new_zeros(bigrams.d_vocab).index_add_(0, tokens, values) / times
        values = values - means[tokens]
    return values
