"""Do circuits copy tokens, or features that tokens share? Words, their variants, and heads that treat these alike.

"Summarizing OV/QK Matrices" and "Detecting Copying Behavior" in the paper.
"""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import START
from helpers.bigrams import Bigrams
from helpers.circuits import LowRank, copying_score, ov_circuit
from helpers.model import AttentionOnlyTransformer
from helpers.text import LEAST_FREQUENT, token_pairs
from helpers.tokens import Tokenizer

Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]


def copying_scores(model: AttentionOnlyTransformer) -> Float[Tensor, " head"]:
    """The copying score of every head, in the order of ``model.heads``."""
    return torch.tensor([copying_score(model, head) for head in model.heads])


def ov_factors(
    model: AttentionOnlyTransformer,
) -> tuple[Float[Tensor, "token head d_head"], Float[Tensor, "token head d_head"]]:
    """Every head's OV circuit as two factors, the source's and the out token's, with the tokens in front.

    So tokens can be resampled, and sources paired with other out tokens, in all heads alike.
    """
    circuits = [ov_circuit(model, head) for head in model.heads]
    return torch.stack([ov.left for ov in circuits], 1), torch.stack([ov.right.T for ov in circuits], 1)


def ov_products(
    sources: Float[Tensor, "token head d_head"], outs: Float[Tensor, "token head d_head"], n_groups: int = 1
) -> Float[Tensor, "group head d_head d_head"]:
    """A small matrix for every head with the eigenvalues of its OV circuit among some tokens, from its ``ov_factors``.

    The tokens are dealt out to ``n_groups`` of equal size, whose matrices add up to that of all of them.
    """
    sources, outs = (factor.double().unflatten(0, (-1, n_groups)) for factor in (sources, outs))
    return torch.einsum("tghi,tghj->ghij", outs, sources)


def most_reach(of_heads: Float[Tensor, " head"]) -> float:
    """What most heads reach: the number that more than half of them have or exceed, the seventh largest of twelve."""
    return of_heads.topk(len(of_heads) // 2 + 1).values[-1].item()


def attended(
    patterns: Float[Tensor, "batch head dest src"], tokens: Int[Tensor, "batch src"]
) -> Float[Tensor, "batch head src"]:
    """How much attention each place gets from each head in all; those of ``<START>``, which is no text, get none."""
    return patterns.sum(2) * (tokens != START)[:, None]


# ---- words and their variants -----------------------------------------------------------------------------------


def plural(word: str) -> str:
    """ " words" for " word": a space and at least three small letters; other texts as they are."""
    return word + "s" if re.fullmatch(" [a-z]{3,}", word) else word


def capital(word: str) -> str:
    """ " None" for " none"."""
    return word.title() if re.fullmatch(" [a-z]{3,}", word) else word


def spaced(word: str) -> str:
    """ " self" for "self"."""
    return f" {word}" if re.fullmatch("[a-z]{3,}", word) else word


VARIANTS: tuple[Callable[[str], str], ...] = (plural, capital, spaced)


def common_tokens(bigrams: Bigrams) -> Int[Tensor, " token"]:
    """The tokens with which at least 1,000 bigrams of a text begin, in order of their id."""
    return (bigrams.first_counts >= LEAST_FREQUENT).nonzero().squeeze(1)


def variant_pairs(tokenizer: Tokenizer, among: Int[Tensor, " token"]) -> Pairs:
    """All tokens of ``among`` that have a plural, a capital or a spaced variant there, and these variants."""
    pairs = [token_pairs(tokenizer, among, change) for change in VARIANTS]
    plain, variants = zip(*pairs, strict=True)
    return torch.cat(plain), torch.cat(variants)


NEAR = 10  # tokens that count as neighbours of another


def finds_variant(
    rows: Float[Tensor, "token dim"], among: Int[Tensor, " common"], pairs: Pairs
) -> Bool[Tensor, " pair"]:
    """Of which pairs is one token among the ten of ``among`` whose rows are likest the other's, by their cosine?

    ``rows`` has a row for each token of the vocabulary; ``among`` is in order of the id, and all else does not count.
    """
    plain, variants = (torch.searchsorted(among, tokens) for tokens in pairs)
    rows = F.normalize(rows[among], dim=1)
    likeness = rows[plain] @ rows.T
    closer = (likeness > likeness.gather(1, variants[:, None])).sum(1) - 1  # the token itself is no neighbour
    return closer < NEAR


def row_coordinates(circuit: LowRank) -> Float[Tensor, "row rank"]:
    """The circuit's centred rows in as many coordinates as it has rank, with the same lengths and angles."""
    U, S, _ = circuit.centred().svd()
    return U * S


def first_components(rows: Float[Tensor, "token dim"], n: int) -> Float[Tensor, "token n"]:
    """The rows, less their mean, along the ``n`` principal components with most of their variance."""
    centred = (rows - rows.mean(0)).double()
    return centred @ torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -n:]
