"""Training on bigram counts: the gradients of the loss, and what a model without layers reaches."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers import START, ReaderError
from helpers.bigrams import Bigrams, bigram_log_probs, bigram_loss, count_bigrams, direct_path
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.training.loop import batch
from helpers.training.zero_layer import fit_bigrams
from tests.examples import random_model
from tests.tiny import CONFIG


def zero_layers(d_model: int) -> AttentionOnlyTransformer:
    return AttentionOnlyTransformer(ModelConfig(n_layers=0, d_model=d_model, d_vocab=5)).double()


@pytest.fixture
def bigrams() -> Bigrams:
    return count_bigrams(np.random.default_rng(0).integers(0, 5, 200).astype(np.uint16) ** 2 // 4, 5)


def loss_of(model: AttentionOnlyTransformer, bigrams: Bigrams) -> float:
    return bigram_loss(direct_path(model)[bigrams.pairs], bigrams)


def test_the_gradient_of_the_fit_is_that_of_the_loss(bigrams):
    model = random_model(n_layers=0, d_vocab=5).requires_grad_()
    log_probs = (model.W_E @ model.W_U).log_softmax(-1)[bigrams.pairs]
    expected = torch.autograd.grad(-(bigrams.counts * log_probs).sum() / bigrams.n, [model.W_E, model.W_U])
    loss = next(fit_bigrams(model, bigrams, 1, 1e-12))
    assert loss == pytest.approx(loss_of(model, bigrams))
    for weight, gradient in zip((model.W_E, model.W_U), expected, strict=True):
        assert torch.allclose(weight.grad, gradient, atol=1e-12)


def test_with_room_enough_the_fit_reaches_the_entropy_and_without_it_does_not(bigrams):
    entropy = bigram_loss(bigram_log_probs(bigrams), bigrams)
    wide, narrow = zero_layers(8), zero_layers(2)
    for model in (wide, narrow):
        assert next(fit_bigrams(model, bigrams, 1, 1e-12)) == pytest.approx(math.log(5), abs=0.05)
        assert len(list(fit_bigrams(model, bigrams, 400, 0.1))) == 400
        assert not model.W_E.requires_grad and model.W_E.grad is None
    assert loss_of(wide, bigrams) == pytest.approx(entropy, abs=1e-3)
    assert loss_of(narrow, bigrams) > entropy + 0.005


def test_the_counts_are_what_training_averages_over():
    """After the <START> before each, the batches of an epoch hold the bigrams of the text, each at most as often."""
    text = np.random.default_rng(0).integers(1, 5, 6 * 64 + 66).astype(np.uint16)
    dealt = torch.cat([batch(text, step, replace(CONFIG, batch_size=1), n_ctx=64) for step in range(6)])
    assert (dealt[:, 0] == START).all()
    inside = sum(table(count_bigrams(context[1:].numpy().astype(np.uint16), 5)) for context in dealt)
    whole = table(count_bigrams(text, 5))
    assert (inside <= whole).all() and inside.sum() > 0.8 * whole.sum()


def table(bigrams: Bigrams) -> torch.Tensor:
    return torch.stack([bigrams.row(token) for token in range(5)])


def test_a_model_with_layers_is_not_a_bigram_model(bigrams):
    with pytest.raises(ReaderError, match="The model has 1 layers"):
        next(fit_bigrams(random_model(n_layers=1, d_vocab=5), bigrams, 1, 0.1))
