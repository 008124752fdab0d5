"""Do circuits copy tokens, or features that tokens share? Words, their variants, and heads that treat these alike.

"Summarizing OV/QK Matrices" and "Detecting Copying Behavior" in the paper.
"""

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from helpers.bigrams import Bigrams
from helpers.circuits import LowRank, copying_score
from helpers.model import AttentionOnlyTransformer
from helpers.text import LEAST_FREQUENT, token_pairs
from helpers.tokens import Tokenizer

Pairs = tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]


def copying_scores(model: AttentionOnlyTransformer) -> Float[Tensor, " head"]:
    """The copying score of every head, in the order of ``model.heads``."""
    return torch.tensor([copying_score(model, head) for head in model.heads])


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


def variants_nearby(circuit: LowRank, among: Int[Tensor, " token"], pairs: Pairs) -> tuple[float, float]:
    """How often one token of a pair is among the ten whose centred rows are likest the other's; and by chance.

    Only the tokens of ``among`` count, which are in order of their id; likeness is the cosine of two rows.
    """
    plain, variants = (torch.searchsorted(among, tokens) for tokens in pairs)
    U, S, _ = circuit.centred().svd()
    rows = F.normalize(U[among] * S, dim=1)
    likeness = rows[plain] @ rows.T
    closer = (likeness > likeness.gather(1, variants[:, None])).sum(1) - 1  # the token itself is no neighbour
    return (closer < NEAR).float().mean().item(), NEAR / (len(among) - 1)
