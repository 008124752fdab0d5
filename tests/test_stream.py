"""The stream: forms of a model that say the same, against a form that must not; and what is measured in the stream."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.circuits import W_OV, W_QK
from helpers.stream import (
    biased_logits,
    change_by_basis,
    closest_pairs,
    dimensions_for,
    fold_biases,
    fold_layer_norm,
    found_in_sums,
    in_basis,
    layer_norm,
    message_logits,
    message_names,
    messages,
    normalised_logits,
    overlap,
    pair_cosines,
    principal_cosines,
    principal_variances,
    random_biases,
    random_rotation,
    reads,
    rms_norm,
    wiring,
    with_other_keys_and_values,
    with_weights,
    writes,
)
from tests.examples import random_model, random_tokens

LAYERS = st.integers(0, 3)
SEEDS = st.integers(0, 2**31)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def invertible(size: int, seed: int) -> torch.Tensor:
    """With singular values between 1/2 and 2."""
    scales = torch.linspace(0.5, 2, size, dtype=torch.double)
    return random_rotation(size, seed) @ torch.diag(scales) @ random_rotation(size, seed + 1)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-8, atol=1e-8)


# ---- messages ---------------------------------------------------------------------------------------------------


@given(LAYERS, SEEDS)
def test_the_messages_add_up_to_the_stream_and_have_a_name_each(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens = random_tokens(model)
    sent = messages(model, tokens)
    assert same(sent.sum(0), model.residual_stream(tokens)) and torch.equal(sent[0], model.W_E[tokens])
    assert len(message_names(model)) == len(sent) == 1 + 2 * n_layers
    assert message_names(model)[0] == "token" and message_names(model)[1:] == [f"{i}:{h}" for i, h in model.heads]


def test_a_message_is_that_of_the_head_it_is_named_after():
    model = random_model(2)
    tokens = random_tokens(model)
    number = message_names(model).index("1:0")
    assert same(messages(model, tokens)[number], model.run_with_cache(tokens)[1].head_outputs[1][:, 0])


@given(SEEDS)
def test_the_logits_of_all_messages_are_the_logit_above_the_average(seed):
    model = random_model(2, seed)
    tokens = random_tokens(model)
    logits = model(tokens)
    for token in (0, 7):
        worth = message_logits(model, messages(model, tokens), token).sum(0)
        assert same(worth, logits[..., token] - logits.mean(-1))


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
    assert not same(other.W_E, model.W_E)


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


def test_norms_do_what_their_names_say():
    x = normal(5, 6) + 3
    assert same(rms_norm(x).square().mean(-1), torch.ones(5, dtype=torch.double))
    assert same(rms_norm(x), rms_norm(7 * x)) and not same(rms_norm(x), rms_norm(x + 7))
    assert same(layer_norm(x), torch.nn.functional.layer_norm(x, (6,), eps=0))


@given(LAYERS, SEEDS)
def test_layer_norm_folds_and_then_can_be_rotated(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens, gain, basis = random_tokens(model), 0.5 + normal(6, seed=seed).abs(), random_rotation(6, seed)
    assert same(normalised_logits(model, tokens, lambda x: x), model(tokens))
    said = normalised_logits(model, tokens, lambda x: gain * layer_norm(x))
    folded = fold_layer_norm(model, gain)
    assert same(normalised_logits(folded, tokens, rms_norm), said)
    assert same(normalised_logits(in_basis(folded, basis), tokens, rms_norm), said)
    assert not same(normalised_logits(in_basis(model, basis), tokens, lambda x: gain * layer_norm(x)), said)


@given(LAYERS, SEEDS)
def test_a_change_of_basis_is_felt_where_the_norm_knows_the_coordinates(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens, rotation, skew = random_tokens(model), random_rotation(6, seed), invertible(6, seed)
    gain = 0.5 + normal(6, seed=seed).abs()
    assert change_by_basis(model, tokens, skew, lambda x: x) < 1e-9
    assert change_by_basis(model, tokens, rotation, rms_norm) < 1e-9
    assert change_by_basis(model, tokens, skew, rms_norm) > 1e-3
    assert change_by_basis(model, tokens, rotation, lambda x: gain * rms_norm(x)) > 1e-3


def test_a_change_of_basis_is_measured_in_the_largest_logit():
    model, sign = random_model(0), -torch.eye(6, dtype=torch.double)
    tokens = random_tokens(model)
    said = normalised_logits(model, tokens, torch.relu)
    turned = model.W_E[tokens].clamp(max=0) @ model.W_U  # in the basis -1 the norm lets through what was negative
    expected = (turned - said).abs().max() / said.abs().max()
    assert change_by_basis(model, tokens, sign, torch.relu) == pytest.approx(expected.item())


@given(LAYERS, SEEDS)
def test_biases_fold_into_one_more_dimension(n_layers, seed):
    model = random_model(n_layers, seed)
    tokens, biases = random_tokens(model), random_biases(model, seed)
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
    without = type(biases)(**{**vars(biases), name: torch.zeros_like(getattr(biases, name))})
    unchanged = same(biased_logits(model, biases, tokens), biased_logits(model, without, tokens))
    assert unchanged == (name == "K")


def test_without_biases_the_biased_model_is_the_model():
    model = random_model(2)
    tokens, biases = random_tokens(model), random_biases(model)
    none = type(biases)(**{name: torch.zeros_like(bias) for name, bias in vars(biases).items()})
    assert same(biased_logits(model, none, tokens), model(tokens))


# ---- bandwidth --------------------------------------------------------------------------------------------------


@given(SEEDS)
def test_a_head_reads_and_writes_what_its_bases_span(seed):
    model = random_model(2, seed)
    for head in model.heads:
        space_in, space_out, ov = reads(model, head), writes(model, head), W_OV(model, head).dense()
        assert same(space_in.T @ space_in, torch.eye(3, dtype=torch.double))
        assert same(space_in @ space_in.T @ ov, ov) and same(ov @ space_out @ space_out.T, ov)
        assert same(ov @ space_out, space_in * torch.linalg.svdvals(ov)[:3])  # the strongest first


def test_principal_cosines_and_overlap_of_known_planes():
    axes = torch.eye(4, dtype=torch.double)
    angle = 0.3
    tilted = torch.stack([axes[0], math.cos(angle) * axes[1] + math.sin(angle) * axes[2]], dim=1)
    plane = torch.stack([5 * axes[0], axes[0] + axes[1]], dim=1)  # no orthonormal columns needed
    assert same(principal_cosines(plane, tilted), torch.tensor([1, math.cos(angle)], dtype=torch.double))
    assert overlap(plane, tilted) == pytest.approx((1 + math.cos(angle) ** 2) / 2)
    assert overlap(plane, plane @ normal(2, 2)) == pytest.approx(1)
    assert overlap(plane, axes[:, 2:]) == pytest.approx(0)
    assert overlap(axes[:, :1], plane) == pytest.approx(1)  # the smaller lies in the larger


@given(st.integers(1, 5), st.integers(1, 5))
def test_random_subspaces_overlap_by_their_share_of_the_dimensions(one, other):
    found = [overlap(normal(40, one, seed=2 * i), normal(40, other, seed=2 * i + 1)) for i in range(60)]
    assert sum(found) / 60 == pytest.approx(max(one, other) / 40, rel=0.5)


def test_wiring_has_writers_in_rows_and_the_wanted_side_of_readers_in_columns():
    model = random_model(2)
    for side, weight in {"Q": model.W_Q, "K": model.W_K, "V": model.W_V}.items():
        found = wiring(model, side)
        assert found.shape == (2, 2)
        assert found[1, 0].item() == pytest.approx(overlap(writes(model, (0, 1)), weight[1, 0]))
        assert found[0, 1].item() == pytest.approx(overlap(model.W_O[0, 0].T, weight[1, 1]))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8), st.floats(0.05, 0.95))
def test_dimensions_for_a_share_are_the_fewest_that_hold_it(variances, share):
    n = dimensions_for(torch.tensor(variances, dtype=torch.double), share)
    largest = sorted(variances, reverse=True)
    assert sum(largest[:n]) >= share * sum(largest) - 1e-9
    assert sum(largest[: n - 1]) < share * sum(largest) + 1e-9


@given(SEEDS)
def test_principal_variances_are_those_of_the_centred_rows(seed):
    rows = normal(20, 5, seed=seed) + 9
    assert same(principal_variances(rows), torch.linalg.svdvals(rows - rows.mean(0)).square() / 20)


# ---- superposition ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 9, 1030])
def test_cosines_are_those_of_every_pair_once(n):
    rows = normal(n, 3)
    expected = torch.nn.functional.cosine_similarity(rows[:, None], rows[None], dim=-1)
    first, second = torch.triu_indices(n, n, 1)
    assert same(pair_cosines(rows), expected[first, second])
    if n > 2:
        best = pair_cosines(rows).topk(3)
        pairs = [(first[i].item(), second[i].item()) for i in best.indices]
        assert [pair[:2] for pair in closest_pairs(rows, 3)] == pairs
        assert [pair[2] for pair in closest_pairs(rows, 3)] == pytest.approx(best.values.tolist())


def test_orthogonal_directions_are_all_found_in_a_sum_and_parallel_ones_by_luck_alone():
    assert found_in_sums(3 * torch.eye(20), 7) == 1
    parallel = torch.ones(20, 4) * torch.arange(1, 21)[:, None]
    assert found_in_sums(parallel, 5, n_samples=500) == pytest.approx(5 / 20, abs=0.05)
    crowded = torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    assert found_in_sums(crowded, 1) == 1 and 0.01 < found_in_sums(crowded, 8) < 0.6
