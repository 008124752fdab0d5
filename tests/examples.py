"""Small models and texts for the tests, made from a seed."""

import random

import numpy as np
import torch
from torch import Tensor

from helpers import START
from helpers.circuits import LowRank
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import EncodedCorpus, Ids, Tokenizer

SMALL = {"n_heads": 2, "d_model": 6, "d_head": 3, "d_vocab": 11, "n_ctx": 8}


def random_model(n_layers: int = 2, seed: int = 0, **sizes) -> AttentionOnlyTransformer:
    """A small model in float64 whose weights are all large, so that no mistake hides behind a near-zero term."""
    model = AttentionOnlyTransformer(ModelConfig(n_layers=n_layers, **(SMALL | sizes))).double()
    generator = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        weight.data.normal_(0, 0.5, generator=generator)
    return model.requires_grad_(False).eval()


def random_tokens(model: AttentionOnlyTransformer, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """``<START>`` and random tokens, as long as the context allows."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, model.config.d_vocab, (batch, model.config.n_ctx), generator=generator)
    return tokens.index_fill(1, torch.tensor(0), 0)


def table_model(*tables: tuple[Tensor, Tensor], n_ctx: int = 8) -> AttentionOnlyTransformer:
    """One layer with a head for each pair ``(qk, ov)`` of square tables over the tokens, which are its circuits."""
    n = len(tables[0][0])
    model = random_model(1, n_heads=len(tables), d_model=n, d_head=n, d_vocab=n, n_ctx=n_ctx)
    for weight in (model.W_E, model.W_U, model.W_K, model.W_O):
        weight.copy_(torch.eye(n).expand(weight.shape))
    for head, (qk, ov) in enumerate(tables):
        model.W_Q[0, head], model.W_V[0, head] = qk * n**0.5, ov
    return model


def low_rank(rows: int, rank: int, columns: int, seed: int) -> LowRank:
    """A product of two Gaussian matrices, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(rows, rank, generator=generator, dtype=torch.double),
        torch.randn(rank, columns, generator=generator, dtype=torch.double),
    )


def close(one: Tensor | float, other: Tensor | float, relative: float = 1e-9) -> bool:
    """Equal up to an error that is small in comparison with the largest entry."""
    one, other = (x if isinstance(x, Tensor) else torch.tensor(x, dtype=torch.double) for x in (one, other))
    return one.shape == other.shape and bool((one - other).abs().max() <= relative * (1e-3 + other.abs().max()))


def same_but_for_zeros(one: Tensor, other: Tensor, relative: float = 1e-9) -> bool:
    """The same complex numbers in any order, once the shorter list is filled up with zeros."""
    shorter, longer = sorted((one.tolist(), other.tolist()), key=len)
    scale = relative * (1e-3 + float(other.abs().max()))
    for value in shorter + [0] * (len(longer) - len(shorter)):
        nearest = min(range(len(longer)), key=lambda i: abs(longer[i] - value))
        if abs(longer.pop(nearest) - value) > scale:
            return False
    return True


class Words(Tokenizer):
    """A tokenizer of a few words, the first of them ``<START>``; it takes the longest that the text goes on with."""

    def __init__(self, *words: str):
        self.words = words

    @property
    def d_vocab(self) -> int:
        return len(self.words)

    def decode(self, ids: Ids) -> str:
        return "".join(self.words[i] for i in map(int, ids) if i != START)

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            ids.append(max((i for i, word in enumerate(self.words) if text.startswith(word)), key=self._length))
            text = text[self._length(ids[-1]) :]
        return ids

    def _length(self, token: int) -> int:
        return len(self.words[token])


def corpus_of(tokens: list[int] | np.ndarray, tokenizer: Tokenizer) -> EncodedCorpus:
    """A corpus whose two splits are the same row of ids."""
    ids = np.array(tokens, dtype=np.uint16)
    return EncodedCorpus("a few tokens", tokenizer, ids, ids, [])


def texts(n: int = 60, n_words: int = 120) -> list[str]:
    """Documents of words from a list of forty made-up ones; each differs from the others."""
    dice = random.Random(0)
    words = ["".join(dice.choices("aeioubdfgklmnprst", k=dice.randint(2, 7))) for _ in range(40)]
    return [" ".join(dice.choices(words, k=n_words)) + ".\n" for _ in range(n)]
