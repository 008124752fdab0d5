"""Small models and texts for the tests, made from a seed."""

import random

import torch

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


def texts(n: int = 60, n_words: int = 120) -> list[str]:
    """Documents of words from a list of forty made-up ones; each differs from the others."""
    dice = random.Random(0)
    words = ["".join(dice.choices("aeioubdfgklmnprst", k=dice.randint(2, 7))) for _ in range(40)]
    return [" ".join(dice.choices(words, k=n_words)) + ".\n" for _ in range(n)]
