"""What readers hear besides their main sources: against other code, at its ends, and in every basis."""

import pytest
import torch

from helpers import ReaderError
from helpers.bystanders import (
    blind_rotation,
    edge_divergences,
    main_sources,
    mean_elsewhere,
    news_elsewhere,
    rises_with_other_bystanders,
    written_below,
)
from helpers.edges import cut_edges
from helpers.heads import next_token_losses
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.stream import in_basis, random_rotation, with_other_keys_and_values

PLACES = torch.tensor([3, 8, 10])


@pytest.fixture(scope="module")
def model() -> AttentionOnlyTransformer:
    config = ModelConfig(n_layers=2, n_heads=3, d_model=16, d_head=4, d_vocab=40, n_ctx=12)
    model = AttentionOnlyTransformer(config, seed=1).double().requires_grad_(False)
    model.W_U *= 20  # so that it has opinions
    model.W_O *= 3
    return model


@pytest.fixture(scope="module")
def tokens() -> torch.Tensor:
    return torch.randint(1, 40, (5, 12), generator=torch.Generator().manual_seed(0))


def test_edges_from_heads_are_those_that_are_cut_elsewhere(model, tokens):
    found = edge_divergences(model, tokens, PLACES)
    _, moved = cut_edges(model, tokens, PLACES)
    expected = moved.edges.mean(0).transpose(0, 1).flatten(1)  # [early, kind and late]
    assert torch.allclose(found[1:, :9], expected.to(found), atol=1e-6) and expected.min() > 1e-4


def test_the_edge_from_the_token_to_the_logits_takes_its_own_logits_away(model, tokens):
    written = written_below(model, tokens)
    moved = (mean_elsewhere(written) - written)[0] @ model.W_U
    before, after = (logits[:, PLACES].log_softmax(-1) for logits in (model(tokens), model(tokens) + moved))
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    assert edge_divergences(model, tokens, PLACES)[0, -1].item() == pytest.approx(divergence.item(), rel=1e-5)


def test_main_sources_are_the_fewest_that_hold_the_share():
    divergences = torch.tensor([[6.0, 1.0, 0.0], [3.0, 1.0, 5.0], [1.0, 1.0, 0.0]])
    assert main_sources(divergences, 0.9).T.tolist() == [[True, True, False], [True] * 3, [False, True, False]]
    assert main_sources(divergences, 0.5).sum(0).tolist() == [1, 2, 1]


def test_who_hears_nothing_else_is_not_disturbed_and_who_hears_all_else_says_all_else(model, tokens):
    written = written_below(model, tokens)
    elsewhere, none = news_elsewhere(written), torch.zeros(4, 10, dtype=torch.bool)
    undisturbed = rises_with_other_bystanders(model, tokens, PLACES, ~none, written, elsewhere)
    assert undisturbed.abs().max() < 1e-12
    assert rises_with_other_bystanders(model, tokens, PLACES, none, written, written).abs().max() < 1e-12
    found = rises_with_other_bystanders(model, tokens, PLACES, none, written, elsewhere)
    intact = next_token_losses(model(tokens)[:, :-1], tokens)[:, PLACES]
    of_others = next_token_losses(model(tokens.roll(-1, 0))[:, :-1], tokens)[:, PLACES]
    assert torch.allclose(found.double(), (of_others - intact).mean(1), atol=1e-5) and found.abs().min() > 0.01


def test_means_and_news_are_of_other_contexts(model, tokens):
    written = written_below(model, tokens)
    changed = written.clone()
    changed[:, 2] += 1
    assert torch.allclose(mean_elsewhere(changed)[:, 2], mean_elsewhere(written)[:, 2])
    assert torch.allclose(mean_elsewhere(changed)[:, 0], mean_elsewhere(written)[:, 0] + 1 / 4)
    assert torch.equal(news_elsewhere(written)[:, 4], written[:, 0])
    still = news_elsewhere(written, torch.eye(16).double())
    assert torch.allclose(still, news_elsewhere(written))


def measured(model: AttentionOnlyTransformer, tokens: torch.Tensor) -> torch.Tensor:
    """Everything this module measures."""
    written, divergences = written_below(model, tokens), edge_divergences(model, tokens, PLACES)
    main = main_sources(divergences)
    instead = [
        mean_elsewhere(written), news_elsewhere(written), news_elsewhere(written, blind_rotation(model)),
    ]  # fmt: skip
    rises = [rises_with_other_bystanders(model, tokens, PLACES, main, written, other) for other in instead]
    return torch.cat([divergences.flatten(), *rises])


def test_no_basis_matters(model, tokens):
    M = torch.randn(16, 16, generator=torch.Generator().manual_seed(3)).double()
    keys, values = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(4)).double()
    others = [in_basis(model, M), in_basis(model, random_rotation(16)), with_other_keys_and_values(model, keys, values)]
    for other in others:
        assert torch.allclose(measured(other, tokens), measured(model, tokens), atol=1e-5)


def test_a_blind_rotation_keeps_lengths_in_units_of_tokens_and_is_another_for_each_draw(model):
    inverse = torch.linalg.qr(model.W_E).R
    turn = inverse @ blind_rotation(model) @ torch.linalg.inv(inverse)
    assert torch.allclose(turn @ turn.T, torch.eye(16).double(), atol=1e-9)
    assert not torch.allclose(blind_rotation(model, 1), blind_rotation(model))


def test_other_models_are_refused(tokens):
    with pytest.raises(ReaderError, match="two layers"):
        written_below(AttentionOnlyTransformer(ModelConfig(1, 3, 16, 4, 40, 12)), tokens)
