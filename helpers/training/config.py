"""The settings of a training, and what follows from them: the learning rate and what is due at each step."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from helpers import ReaderError

PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainingConfig:
    """AdamW, perhaps Muon, warm-up, cosine decay, clipped gradients; as for the book's models by default."""

    n_tokens: int = 32_000_000  # to train on, in all; more than the corpus has means several epochs
    batch_size: int = 8  # contexts in a step
    learning_rate: float = 2e-3  # of AdamW
    muon_learning_rate: float = 0.0  # of the attention heads; 0: they learn by AdamW like all other weights
    warmup_steps: int = 300
    final_learning_rate: float = 0.1  # as a share of the full one
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01  # by AdamW
    clip: float = 1.0
    seed: int = 0
    n_measurements: int = 40  # rows of the history, evenly spaced in the logarithm of the step
    n_checkpoints: int = 0  # of the weights, evenly spaced in steps
    precision: str = "auto"  # of the matrix products: float32, bfloat16, or auto: the faster on this machine

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise ReaderError(f"precision is {self.precision!r}: choose 'auto', 'float32' or 'bfloat16'.")
        positive = self.n_tokens, self.batch_size, self.n_measurements
        not_negative = self.warmup_steps, self.seed, self.n_checkpoints
        rates = 0 < self.learning_rate < math.inf and 0 <= self.muon_learning_rate < math.inf
        if min(positive) < 1 or min(not_negative) < 0 or not rates:
            raise ReaderError(
                f"No training has these settings: {self}. Numbers are positive; muon_learning_rate, warmup_steps, seed "
                "and n_checkpoints may be 0."
            )

    def n_steps(self, n_ctx: int) -> int:
        """How many steps a training on contexts of ``n_ctx`` tokens has."""
        return self.n_tokens // (self.batch_size * n_ctx)


def schedule(step: int, n_steps: int, config: TrainingConfig) -> float:
    """Share of the full learning rate at ``step``: linear warm-up, then half a cosine down to the final share."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * done))


def set_learning_rate(optimizer: torch.optim.Optimizer, step: int, n_steps: int, config: TrainingConfig) -> None:
    """Give every weight the share of the learning rate it began with that is due at ``step``."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * schedule(step, n_steps, config)


def measurement_steps(n_steps: int, n: int) -> set[int]:
    """The start, and about ``n`` steps from 1 to ``n_steps``, evenly spaced in their logarithm."""
    return {0} | {round(step) for step in np.geomspace(1, max(1, n_steps), n)}


def checkpoint_steps(n_steps: int, n: int) -> set[int]:
    """``n`` steps from 0 to ``n_steps``, evenly spaced."""
    return {round(step) for step in np.linspace(0, n_steps, n)}
