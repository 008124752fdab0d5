"""Small models and texts for the tests, made from a seed."""

import random

import torch
from torch import Tensor

from helpers.circuits import LowRank
from helpers.model import AttentionOnlyTransformer, ModelConfig

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


def low_rank(rows: int, rank: int, columns: int, seed: int) -> LowRank:
    """A product of two Gaussian matrices, in float64."""
    generator = torch.Generator().manual_seed(seed)
    return LowRank(torch.randn(rows, rank, generator=generator, dtype=torch.double),
                   torch.randn(rank, columns, generator=generator, dtype=torch.double))


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


def texts(n: int = 60, n_words: int = 120) -> list[str]:
    """Documents of words from a list of forty made-up ones; each differs from the others."""
    dice = random.Random(0)
    words = ["".join(dice.choices("aeioubdfgklmnprst", k=dice.randint(2, 7))) for _ in range(40)]
    return [" ".join(dice.choices(words, k=n_words)) + ".\n" for _ in range(n)]
