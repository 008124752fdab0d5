"""Muon, and which weights it takes."""

import pytest
import torch

from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.training import TrainingConfig
from helpers.training.optimizers import Muon, new_optimizers, of_layers, orthogonalised

torch.manual_seed(0)


@pytest.mark.parametrize("shape", [(2, 16, 12), (3, 4, 16), (1, 5, 5)])
def test_orthogonalised_keeps_the_singular_vectors_and_levels_the_singular_values(shape):
    weight = torch.randn(shape, dtype=torch.double)
    U, S, Vh = torch.linalg.svd(weight, full_matrices=False)
    inside = U.mT @ orthogonalised(weight, n_iterations=10) @ Vh.mT
    values = inside.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(inside, values.diag_embed(), atol=1e-9, rtol=0)
    assert 0.6 < values.min() and values.max() < 1.3 and S.max() > 2 * S.min()


def test_every_layer_is_made_orthogonal_by_itself_and_whatever_its_size():
    weight = torch.randn(2, 3, 4, 16)
    torch.testing.assert_close(of_layers(weight)[1:], of_layers(1000 * weight[1:]), atol=1e-5, rtol=0)


def test_heads_of_a_layer_are_moved_in_different_directions():
    """Two heads that have the same gradient share one step between them; by themselves each would make all of it."""
    alike = torch.randn(1, 1, 4, 64, dtype=torch.double).expand(1, 2, 4, 64)
    together, alone = of_layers(alike), of_layers(alike[:, :1])
    torch.testing.assert_close(together.norm() ** 2, alone.norm() ** 2, rtol=0.3, atol=0)
    apart = of_layers(torch.randn(1, 2, 4, 64, dtype=torch.double))
    assert (apart[0, 0] @ apart[0, 1].mT).norm() < 0.8 * (together[0, 0] @ together[0, 1].mT).norm()


def test_a_layer_without_a_gradient_stays_where_it_is():
    assert not of_layers(torch.zeros(1, 1, 2, 4)).any()


@pytest.mark.parametrize("writes", [False, True])
def test_muon_steps_along_the_orthogonalised_nesterov_momentum(writes):
    weight = torch.nn.Parameter(torch.randn(1, 2, *((3, 8) if writes else (8, 3))))
    expected, mean = weight.detach().clone(), torch.zeros_like(weight)
    optimizer = Muon([{"params": [weight], "writes": writes}], lr=0.1, momentum=0.8)
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        mean = 0.8 * mean + 0.2 * weight.grad
        ahead = 0.8 * mean + 0.2 * weight.grad
        rows = torch.cat([head if writes else head.mT for head in ahead[0]])[None]  # [layer, head and d_head, d_model]
        heads = orthogonalised(rows)[0].split(3)
        expected -= 0.1 * torch.stack([head if writes else head.mT for head in heads])
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected)


def test_muon_leaves_weights_without_a_gradient_alone():
    weight = torch.nn.Parameter(torch.ones(1, 1, 4, 2))
    Muon([{"params": [weight], "writes": False}], lr=0.1).step()
    assert (weight == 1).all()


@pytest.mark.parametrize("rate, by_muon", [(0.0, set()), (0.01, {"W_Q", "W_K", "W_V", "W_O"})])
def test_muon_takes_the_heads_and_every_weight_has_one_optimizer(rate, by_muon):
    model = AttentionOnlyTransformer(
        ModelConfig(n_layers=2, n_heads=2, d_model=8, d_head=4, d_vocab=9, smeared_keys=True)
    )
    optimizers = new_optimizers(model, TrainingConfig(muon_learning_rate=rate))
    taken = [{id(w) for group in o.param_groups for w in group["params"]} for o in optimizers]
    names = {name: [i for i, ids in enumerate(taken) if id(weight) in ids] for name, weight in model.named_parameters()}
    assert names == {name: [int(name in by_muon)] for name in names}
    assert {type(o) for o in optimizers[1:]} <= {Muon} and len(optimizers) == 1 + bool(by_muon)


def test_all_decays_but_the_heads_of_muon_and_the_share_of_a_smeared_key():
    sizes = ModelConfig(n_layers=1, n_heads=2, d_model=8, d_head=4, d_vocab=9, smeared_keys=True)
    model = AttentionOnlyTransformer(sizes)
    torch.nn.init.constant_(model.smear, 1.0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for weight in model.parameters():
        weight.grad = torch.zeros_like(weight)
    for optimizer in new_optimizers(model, TrainingConfig(learning_rate=0.1, weight_decay=0.5, muon_learning_rate=0.1)):
        optimizer.step()
    kept = {name: 0.95 if name in ("W_E", "W_U") else 1.0 for name in before}
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight.detach(), kept[name] * before[name])
