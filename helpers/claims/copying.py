"""Claims of chapter 04_copying_and_eigenvalues."""

import re
from dataclasses import astuple
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import Copying, LowRank, copying_summary, feature_share, logits_by_tables, ov_circuit
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, claim
from helpers.measures import spearman, token_pairs
from helpers.model import AttentionOnlyTransformer

OV_QK = "Summarizing OV/QK Matrices"
DETECTING = "Detecting Copying Behavior"
FULLY = "Do We “Fully Understand” One-Layer Models?"
COPYING_LINE = 0.8  # copying score above which a head is said to copy
COMMON = 1000  # how often the text has the tokens that are compared with their relatives


def plural(word: str) -> str:
    """ " words" for " word": a space and at least three small letters; other texts as they are."""
    return word + "s" if re.fullmatch(" [a-z]{3,}", word) else word


def past(word: str) -> str:
    """ " added" for " add", " used" for " use"."""
    return word.removesuffix("e") + "ed" if re.fullmatch(" [a-z]{3,}", word) else word


def capital(word: str) -> str:
    """ " None" for " none"."""
    return word.title() if re.fullmatch(" [a-z]{3,}", word) else word


def spaced(word: str) -> str:
    """ " self" for "self"."""
    return f" {word}" if re.fullmatch("[a-z]{3,}", word) else word


@cache
def summaries(book: Book) -> list[Copying]:
    """The copying summaries of every head of the one-layer model."""
    return [copying_summary(ov_circuit(book.one_layer, head)) for head in book.one_layer.heads]


def scores(book: Book) -> Float[Tensor, " head"]:
    """The copying score of every head of the one-layer model, in ascending order."""
    return torch.tensor([summary.eigenvalues for summary in summaries(book)]).sort().values


@claim("cl-3reasons", section=OV_QK, chapter="04", paper="stated",
       value="of three reasons, how many hold: rank at most d_head in every head; of the tokens that have a variant "
       "(capital, space, plural), ten times as many as by chance find it among the ten with the likest OV rows; more "
       "than half of the heads score above 0.5", bar=at_least(3, weaker=2), digits=0)
def _three_reasons(book: Book) -> float:
    """OV matrices can be summarised because they are of low rank, because like tokens are treated alike, and because
    so many of them copy."""
    model = book.one_layer
    circuits = [ov_circuit(model, head) for head in model.heads]
    some = torch.arange(2 * model.config.d_head)
    low_rank = all(torch.linalg.matrix_rank(ov.rows(some), rtol=1e-5) <= model.config.d_head for ov in circuits)
    found, chance = zip(*(variants_nearby(book, ov) for ov in circuits), strict=True)
    clusters = sum(found) >= 10 * sum(chance)
    copying = (scores(book) > 0.5).float().mean() > 0.5
    return float(low_rank + clusters + copying)


def variants_nearby(book: Book, ov: LowRank, near: int = 10) -> tuple[float, float]:
    """Share of common tokens whose variant is among the ``near`` with the likest centred row, and that by chance."""
    among, tokens, variants = _variants(book)
    U, S, _ = ov.centred().svd()
    rows = torch.nn.functional.normalize(U[among] * S, dim=1)
    likeness = rows[tokens] @ rows.T
    closer = (likeness > likeness.gather(1, variants[:, None])).sum(1) - 1  # the token itself is no neighbour
    return (closer < near).float().mean().item(), near / (len(among) - 1)


@cache
def _variants(book: Book) -> tuple[Int[Tensor, " token"], Int[Tensor, " pair"], Int[Tensor, " pair"]]:
    """The common tokens, and the places among them of all that have a variant and of those variants."""
    among = (book.counts.opened >= COMMON).nonzero().squeeze(1)
    place = torch.full((len(book.counts.opened),), -1).index_put((among,), torch.arange(len(among)))
    pairs = [token_pairs(book.corpus.tokenizer, among, change) for change in (plural, capital, spaced)]
    return among, *(place[torch.cat(side)] for side in zip(*pairs, strict=True))


@claim("fig15-eig-scatter", section=DETECTING, chapter="04", paper="10 of 12",
       value="heads with at least three quarters of their 32 eigenvalues in the right half of the plane",
       bar=at_least(10, weaker=7), digits=0,
       why_not="Somewhat fewer of our heads copy. Our guess: models of half the width, trained on far less text, and "
       "on code, where closing what was opened is worth a head as well.")
def _mostly_positive_eigenvalues(book: Book) -> float:
    """In most heads of a one-layer model most eigenvalues of the OV circuit have a positive real part."""
    shares = [(ov_circuit(book.one_layer, head).eigenvalues().real > 0).float().mean() for head in book.one_layer.heads]
    return float(sum(share >= 0.75 for share in shares))


@claim("fig16-eig-hist", section=DETECTING, chapter="04", paper="none between 0.22 and 0.74 (by eye)",
       value="widest gap between neighbouring copying scores", bar=at_least(0.4, weaker=0.25),
       why_not="With seed 0 the gap parts two groups as in the paper; with seed 1 it only sets one head apart, with "
       "seed 2 the scores fill the range. Part of the reason: one eigenvalue along the mean over the vocabulary, which "
       "a softmax cannot see, spoils the score of some heads.")
def _two_groups(book: Book) -> float:
    """The copying scores fall into two groups, a large one near 1 and a small one near 0, with nothing between."""
    return scores(book).diff().max().item()


@claim("cl-most-heads-copy", section="Copying / Primitive In-Context Learning", chapter="04", paper="10 of 12",
       value=f"heads with a copying score above {COPYING_LINE}", bar=at_least(7, weaker=4), digits=0,
       why_not="One large eigenvalue along the mean over the vocabulary spoils the score of some heads, though a "
       "softmax cannot see it. With centred rows 8, 8 and 7 heads are above the line, which we found afterwards.")
def _most_heads_copy(book: Book) -> float:
    """Most heads of a one-layer model copy: their eigenvalues lie, by size, almost wholly on the positive side."""
    return float((scores(book) > COPYING_LINE).sum())


@claim("cl-random-eig", section=DETECTING, chapter="04", paper="as many of either sign, many complex",
       value="smallest of three shares: of eigenvalues with positive, with negative real part, not on the real line; "
       "48 random heads", bar=at_least(0.45), also_untrained=True)
def _random_heads(book: Book) -> float:
    """The eigenvalues of a random head are as often positive as negative, and many of them are complex."""
    first = 100 * (1 + (book.seed if book.seed is not None else -1))
    models = [AttentionOnlyTransformer(book.one_layer.config, seed=first + i).requires_grad_(False) for i in range(4)]
    values = torch.cat([ov_circuit(model, head).eigenvalues() for model in models for head in model.heads])
    shares = [(values.real > 0), (values.real < 0), (values.imag != 0)]
    return min(share.float().mean().item() for share in shares)


@claim("cl-copying-caveat", section=DETECTING, chapter="04", paper="possible",
       value="share of tokens whose own logit is lowered, below its row's mean, by the head with the highest copying "
       "score, %", bar=at_least(0.1), also_untrained=True, digits=1)
def _positive_eigenvalues_negative_diagonal(book: Book) -> float:
    """A head whose eigenvalues are nearly all positive may still lower some tokens that it attends to."""
    best = max(book.one_layer.heads, key=lambda head: summaries(book)[head[1]].eigenvalues)
    return 100 * (ov_circuit(book.one_layer, best).centred().diagonal() < 0).float().mean().item()


@claim("cl-copying-alternatives", section=DETECTING, chapter="04", paper="stated, no number",
       value="smallest rank correlation over heads of the copying score with an alternative: mean and median "
       "standardised diagonal, share of tokens first or among the ten first in their own row",
       bar=at_least(0.7, weaker=0.4))
def _alternatives_agree(book: Book) -> float:
    """Other ways to say that a head copies, by its diagonal, put the heads in much the same order."""
    by_eigenvalues, *others = torch.tensor([astuple(summary) for summary in summaries(book)]).T
    return min(spearman(by_eigenvalues, other) for other in others)


@claim("cl-bigger-copy", section=DETECTING, chapter="04", paper="of larger models",
       value="plural after plural rather than after singular, for pairs of different words: largest share of any head",
       bar=at_least(0.7, weaker=0.6),
       why_not="The paper says it of larger models. Ours hand on a trace: untrained heads reach 0.52, and seed 0 with "
       "the plurals drawn by lot 0.53.")
def _plurality_is_copied(book: Book) -> float:
    """Some heads copy a feature of words, such as being plural, and not only the words themselves."""
    among = (book.counts.opened >= COMMON).nonzero().squeeze(1)
    pairs = token_pairs(book.corpus.tokenizer, among, plural)
    return max(feature_share(ov_circuit(book.one_layer, head), *pairs) for head in book.one_layer.heads)


@claim("cl-understood", section=FULLY, chapter="04", paper="as one understands a giant linear regression",
       value="largest relative error of logits looked up in tables", bar=EXACT)
def _a_model_of_tables(book: Book) -> float:
    """A one-layer model is a set of tables: its logits are sums of their entries, weighted by attention that is
    itself looked up."""
    model, tokens = book.double("one_layer"), book.text[0, :128]
    return book.error(logits_by_tables(model, tokens), model(tokens[None])[0])
