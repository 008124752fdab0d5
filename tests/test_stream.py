"""The stream: forms of a model that say the same, against a form that must not; and what is measured in the stream."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.circuits import W_OV, W_QK
from helpers.stream import (
    Biases,
    biased_logits,
    component_names,
    component_outputs,
    dimensions_for,
    fold_biases,
    in_basis,
    joint_spectrum,
    principal_cosines,
    principal_variances,
    random_biases,
    random_rotation,
    read_basis,
    with_other_keys_and_values,
    with_weights,
    write_basis,
)
from tests.examples import random_model, random_tokens

LAYERS = st.integers(0, 3)
SEEDS = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def invertible(size: int, seed: int) -> Tensor:
    """With singular values between 1/2 and 2."""
    scales = torch.linspace(0.5, 2, size, dtype=torch.double)
    return random_rotation(size, seed) @ torch.diag(scales) @ random_rotation(size, seed + 1)


def same(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_components_add_up_to_the_stream_and_have_a_name_each(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    outputs, names = component_outputs(model.cache(tokens)), component_names(model)
    assert same(outputs.sum(0), model.residual_stream(tokens)) and torch.equal(outputs[0], model.W_E[tokens])
    assert names == ["token", "0:0", "0:1", "1:0", "1:1"][: len(outputs)] and len(names) == 1 + 2 * n_layers
    if n_layers:
        assert same(outputs[names.index("1:0")], model.cache(tokens).head_outputs[1][:, 0])


# ---- the same model in another form -----------------------------------------------------------------------------


@given(st.integers(1, 9), SEEDS)
def test_a_random_rotation_keeps_lengths_and_differs_by_seed(size, seed):
    rotation = random_rotation(size, seed)
    assert rotation.dtype == torch.double and same(rotation @ rotation.T, torch.eye(size, dtype=torch.double))
    assert torch.equal(rotation, random_rotation(size, seed))
    assert size == 1 or not same(rotation, random_rotation(size, seed + 1))


def test_random_rotations_have_no_preferred_direction():
    traces = torch.stack([random_rotation(8, seed).trace() for seed in range(400)])
    assert abs(traces.mean()) < 0.2 and 0.8 < traces.var() < 1.25  # of all orthogonal matrices: mean 0, variance 1


def test_weights_are_replaced_in_a_copy_only():
    model = random_model(1)
    before = {name: weight.clone() for name, weight in [*model.named_parameters(), ("W_pos", model.W_pos)]}
    changed = with_weights(model, W_E=2 * model.W_E, W_pos=0 * model.W_pos)
    assert torch.equal(changed.W_E, 2 * before["W_E"]) and not changed.W_pos.any()
    assert not changed.W_E.requires_grad and torch.equal(changed.W_U, before["W_U"])
    assert all(torch.equal(getattr(model, name), weight) for name, weight in before.items())


@given(LAYERS, SEEDS)
def test_in_any_basis_the_model_says_the_same_of_another_stream(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens, basis = random_tokens(model), invertible(6, seed)
    other = in_basis(model, basis)
    assert same(other(tokens), model(tokens))
    assert same(other.residual_stream(tokens), model.residual_stream(tokens) @ basis)


def test_whoever_is_left_out_of_the_rotation_breaks_it():
    model, basis = random_model(2), random_rotation(6)
    tokens, rotated = random_tokens(model), in_basis(model, basis)
    for name in ("W_E", "W_Q", "W_K", "W_V", "W_O", "W_U", "W_pos"):
        assert not same(with_weights(rotated, **{name: getattr(model, name)})(tokens), model(tokens)), name


@given(LAYERS, SEEDS)
def test_other_keys_and_values_leave_the_circuits_alone(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens = random_tokens(model)
    keys, values = invertible(3, seed), invertible(3, seed + 7)
    other = with_other_keys_and_values(model, keys, values)
    assert same(other(tokens), model(tokens))
    assert same(other.W_K, model.W_K @ keys) and same(other.W_V, model.W_V @ values)
    for head in model.heads:
        assert same(W_QK(other, head).dense(), W_QK(model, head).dense())
        assert same(W_OV(other, head).dense(), W_OV(model, head).dense())


@given(LAYERS, SEEDS)
def test_biases_fold_into_one_more_dimension(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens, biases = random_tokens(model), random_biases(model)
    wider = fold_biases(model, biases)
    stream = wider.residual_stream(tokens)
    assert wider.config.d_model == 8 and wider.config.d_head == 4
    assert same(wider(tokens), biased_logits(model, biases, tokens))
    assert same(stream[..., 6], torch.ones_like(stream[..., 6])) and not stream[..., 7].any()


@pytest.mark.parametrize("name", ["Q", "K", "V", "O", "U"])
def test_every_bias_counts_but_that_of_the_keys(name):
    """A bias of the keys adds the same number to all scores of a row, which a softmax does not notice."""
    model = random_model(2)
    tokens, biases = random_tokens(model), random_biases(model)
    without = Biases(**{**vars(biases), name: torch.zeros_like(getattr(biases, name))})
    none = Biases(**{name: torch.zeros_like(bias) for name, bias in vars(biases).items()})
    unchanged = same(biased_logits(model, biases, tokens), biased_logits(model, without, tokens))
    assert unchanged == (name == "K") and same(biased_logits(model, none, tokens), model(tokens))


# ---- bandwidth --------------------------------------------------------------------------------------------------


@given(SEEDS)
def test_a_head_reads_and_writes_what_its_bases_span(seed):
    model = random_model(2, seed)
    for head in model.heads:
        space_in, space_out, ov = read_basis(model, head), write_basis(model, head), W_OV(model, head).dense()
        assert same(space_in.T @ space_in, torch.eye(3, dtype=torch.double))
        assert same(space_in @ space_in.T @ ov, ov) and same(ov @ space_out @ space_out.T, ov)
        assert same(ov @ space_out, space_in * torch.linalg.svdvals(ov)[:3])  # the strongest first


def test_principal_cosines_of_known_planes():
    axes = torch.eye(4, dtype=torch.double)
    angle = 0.3
    tilted = torch.stack([axes[0], math.cos(angle) * axes[1] + math.sin(angle) * axes[2]], dim=1)
    plane = torch.stack([5 * axes[0], axes[0] + axes[1]], dim=1)  # no orthonormal columns needed
    assert same(principal_cosines(plane, tilted), torch.tensor([1, math.cos(angle)], dtype=torch.double))
    assert same(
        principal_cosines(axes[:, :1], axes[:, :2]), torch.ones(1, dtype=torch.double)
    )  # the smaller lies in the larger


def test_dimensions_for_nine_tenths_of_the_variance_are_the_fewest_that_hold_them():
    series = [[1.0, 5.0, 3.0, 1.0], [1.0, 1.0], [1.0, 8.0, 0.5, 0.5], [19.0, 1.0]]
    assert [dimensions_for(torch.tensor(variances)) for variances in series] == [3, 2, 2, 1]


@given(SEEDS)
def test_principal_variances_are_those_of_the_centred_rows(seed):
    rows = normal(20, 5, seed=seed) + 9
    assert same(principal_variances(rows), torch.linalg.svdvals(rows - rows.mean(0)).square() / 20)


def test_a_joint_spectrum_says_whose_each_dimension_is():
    """Both use the first axis, one alone the second and the other alone the third."""
    one = torch.tensor([[3.0, 2, 0], [3, -2, 0], [-3, 2, 0], [-3, -2, 0]]).double()
    variances, shares = joint_spectrum(7 * one, one[:, [0, 2, 1]] + 5)
    assert same(variances, torch.tensor([9, 2, 2]).double() / 13)
    assert same(shares.sort().values, torch.tensor([0, 0.5, 1]).double()) and same(shares[0], shares.new_tensor(0.5))


@given(SEEDS)
def test_a_joint_spectrum_is_no_matter_of_the_basis(seed):
    one, other, basis = normal(20, 5, seed=seed), normal(30, 5, seed=seed + 1), random_rotation(5, seed)
    variances, shares = joint_spectrum(one, other)
    assert variances.sum() == pytest.approx(1) and (variances @ shares).item() == pytest.approx(0.5)
    assert all(map(same, joint_spectrum(one @ basis, other @ basis), (variances, shares)))
