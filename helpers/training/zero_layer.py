"""Models without layers see one token at a time, so bigram counts tell them all about a text: the faster way to train.

Each different token is predicted once, however often it occurs: a step on a whole epoch costs no more than one on
``d_vocab`` tokens.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from helpers import ReaderError
from helpers.bigrams import Bigrams, bigrams_of
from helpers.model import AttentionOnlyTransformer
from helpers.training.config import TrainingConfig, set_learning_rate
from helpers.training.machine import matmul_dtype

ROWS_PER_CHUNK = 512


def fit_bigrams(
    model: AttentionOnlyTransformer, bigrams: Bigrams, n_steps: int, learning_rate: float
) -> Iterator[float]:
    """Train a zero-layer model on all bigrams of a text in every step, yielding the loss before the step.

    This is ``train`` with the whole text in each batch. Adam, with ten steps of warm-up and half a cosine down to a
    hundredth.

    Raises:
        ReaderError: the model has layers.
    """
    if model.config.n_layers:
        raise ReaderError(f"The model has {model.config.n_layers} layers: only one without layers is a bigram model.")
    model.requires_grad_()
    config = TrainingConfig(warmup_steps=10, final_learning_rate=0.01)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, betas=config.betas, fused=True)
    dtype = matmul_dtype(config.precision) if model.W_E.dtype == torch.float32 else model.W_E.dtype
    for step in range(n_steps):
        set_learning_rate(optimizer, step, n_steps, config)
        loss = bigram_gradients(model, bigrams, dtype)
        optimizer.step()
        yield loss
    model.requires_grad_(False)
    model.zero_grad()


def zero_layer_gradients(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype
) -> float:
    """Mean loss over the batch, gradients left in the weights' ``grad``: what autograd gives, several times as fast."""
    return bigram_gradients(model, bigrams_of(tokens, model.config.d_vocab), dtype)


def bigram_gradients(model: AttentionOnlyTransformer, bigrams: Bigrams, dtype: torch.dtype) -> float:
    """Mean loss of a zero-layer model over all bigrams; its gradients are left in the weights' ``grad``."""
    x, w = model.W_E.detach().to(dtype), model.W_U.detach().to(dtype)
    grad_E, grad_U, loss = torch.empty_like(model.W_E), torch.zeros_like(model.W_U), 0.0
    first_share = bigrams.first_counts.to(grad_E.dtype) / bigrams.n
    for start in range(0, len(x), ROWS_PER_CHUNK):
        rows, here = slice(start, start + ROWS_PER_CHUNK), bigrams.rows(start, start + ROWS_PER_CHUNK)
        pairs = bigrams.first[here] - start, bigrams.second[here]
        share = bigrams.counts[here].to(grad_E.dtype) / bigrams.n
        log_probs = (x[rows] @ w).to(grad_E.dtype).log_softmax(-1)
        loss -= (share * log_probs[pairs]).sum().item()
        error = log_probs.exp_().mul_(first_share[rows, None])
        error[pairs] -= share
        error = error.to(dtype)
        grad_E[rows] = error @ w.T
        grad_U += x[rows].T @ error
    model.W_E.grad, model.W_U.grad = grad_E, grad_U
    return loss
