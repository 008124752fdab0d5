"""A training that takes a moment, and how two of them are compared."""

import torch

from helpers.model import ModelConfig
from helpers.tokens import EncodedCorpus
from helpers.training import TrainingConfig, TrainingState

N_STEPS = 12
CONFIG = TrainingConfig(n_tokens=N_STEPS * 2 * 64, batch_size=2, warmup_steps=3, n_measurements=6, precision="float32")
ARGUMENTS = "--heads 2 --d-model 16 --d-head 8 --context 64 --batch-size 2 --tokens 1e3 --precision float32".split()


def sizes_for(corpus: EncodedCorpus, **changes) -> ModelConfig:
    """One layer of two heads, with the vocabulary of ``corpus``."""
    sizes = {"n_layers": 1, "n_heads": 2, "d_model": 16, "d_head": 8, "n_ctx": 64}
    return ModelConfig(**(sizes | {"d_vocab": corpus.tokenizer.d_vocab} | changes))


def same(one: TrainingState, other: TrainingState) -> bool:
    """Bit by bit: weights, optimizers, history."""
    ours, theirs = (
        [kept for optimizer in state.optimizers for kept in optimizer.state.values()] for state in (one, other)
    )
    numbers = one.step == other.step and one.loss == other.loss and one.history == other.history
    weights = same_tensors(one.model.state_dict(), other.model.state_dict())
    return numbers and weights and all(same_tensors(*pair) for pair in zip(ours, theirs, strict=True))


def same_tensors(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
