"""Edges between heads: cut one by one and all at once, against whole forward passes; and scores that go with them."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import composition_score, composition_scores, reading_matrix
from helpers.edges import (
    KINDS,
    component_composition_scores,
    cut_edges,
    in_units_of_tokens,
    levelled,
    of_all_kinds,
    rotated_writers,
    written_variance,
)
from helpers.model import AttentionOnlyTransformer, Cache
from helpers.stream import in_basis, random_rotation, with_weights
from tests.examples import close, random_model, random_tokens

SIZES = {"n_heads": 3, "d_model": 8, "d_vocab": 13}
PLACES = torch.tensor([2, 4, 6])


def stretch(size: int, seed: int = 0) -> Tensor:
    """An invertible matrix that is no rotation."""
    generator = torch.Generator().manual_seed(seed)
    return random_rotation(size) @ torch.randn(size, generator=generator).double().exp().diag()


# ---- cutting ------------------------------------------------------------------------------------------------------


def others(outputs: Tensor) -> Tensor:
    """The mean of all contexts but each one, the slow way."""
    return torch.stack([torch.cat([outputs[:i], outputs[i + 1 :]]).mean(0) for i in range(len(outputs))])


def head_output(model: AttentionOnlyTransformer, cache: Cache, late: int, reads: dict[str, Tensor]) -> Tensor:
    """What a head of layer 1 writes if its queries, keys and values read these streams."""
    _, pattern = model.attention(reads["Q"], 1, keys_read=reads["K"])
    return pattern[:, late] @ (reads["V"] @ model.W_V[1, late]) @ model.W_O[1, late]


def consequences(model: AttentionOnlyTransformer, tokens: Tensor, outputs: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Rise in loss and divergence of predictions if heads of layer 1 write ``outputs``, by two whole forward passes."""
    before, after = (
        model(tokens, replace=replaced).log_softmax(-1)[:, PLACES]
        for replaced in ({}, {(1, late): output for late, output in outputs.items()})
    )
    rise = (before - after).gather(-1, tokens[:, PLACES + 1, None]).squeeze(-1)
    return rise.mean(1), (before.exp() * (before - after)).sum(-1).mean(1)


@pytest.fixture
def case() -> tuple[AttentionOnlyTransformer, Tensor, Cache, Tensor]:
    """A model, five contexts, what it computes on them, and what each head of layer 0 writes on average in others."""
    model = random_model(2, **SIZES)
    tokens = random_tokens(model, 5)
    cache = model.cache(tokens)
    return model, tokens, cache, others(cache.head_outputs[0])


def reads_without(cache: Cache, means: Tensor, kinds: str, early: slice) -> dict[str, Tensor]:
    cut = cache.residual[1] + (means - cache.head_outputs[0])[:, early].sum(1)
    return {kind: cut if kind in kinds else cache.residual[1] for kind in KINDS}


def test_each_edge_is_cut_as_in_a_whole_forward_pass(case):
    model, tokens, cache, means = case
    found = cut_edges(model, tokens, PLACES)
    for i, kind in enumerate(KINDS):
        for early in range(3):
            for late in range(3):
                reads = reads_without(cache, means, kind, slice(early, early + 1))
                expected = consequences(model, tokens, {late: head_output(model, cache, late, reads)})
                for effects, values in zip(found, expected, strict=True):
                    assert close(effects.edges[:, i, early, late], values)


def test_edges_of_a_kind_and_edges_into_a_head_are_cut_together(case):
    model, tokens, cache, means = case
    found = cut_edges(model, tokens, PLACES)
    for i, kind in enumerate(KINDS):
        reads = reads_without(cache, means, kind, slice(None))
        expected = consequences(model, tokens, {late: head_output(model, cache, late, reads) for late in range(3)})
        for effects, values in zip(found, expected, strict=True):
            assert close(effects.kinds[:, i], values)
    for late in range(3):
        alone = head_output(model, cache, late, reads_without(cache, means, KINDS, slice(None)))
        without_head = others(cache.head_outputs[1])[:, late]
        for output, name in ((alone, "all_edges"), (without_head, "head")):
            for effects, values in zip(found, consequences(model, tokens, {late: output}), strict=True):
                assert close(getattr(effects, name)[:, late], values)


def test_an_edge_that_carries_nothing_can_be_cut_and_divergences_are_never_negative():
    model = random_model(2, **SIZES)
    model.W_O[0, 1] = 0
    loss, divergence = cut_edges(model, random_tokens(model, 4), PLACES)
    assert loss.edges[:, :, 1].abs().max() < 1e-12 and loss.edges[:, :, 0].abs().min() > 1e-9
    assert divergence.edges.min() > -1e-12 and divergence.head.min() > 0


@pytest.mark.parametrize("model", [random_model(1), random_model(3), random_model(2, smeared_keys=True)])
def test_only_two_layers_with_ordinary_keys_have_such_edges(model):
    with pytest.raises(ReaderError, match="two layers with ordinary keys"):
        cut_edges(model, random_tokens(model), PLACES)


# ---- scores -------------------------------------------------------------------------------------------------------


def over_tokens(model: AttentionOnlyTransformer) -> Tensor:
    return of_all_kinds(in_units_of_tokens(model))


def test_only_scores_over_tokens_survive_every_map_of_the_stream_that_no_probability_notices():
    model = random_model(2, **SIZES)
    twin, tokens = in_basis(model, stretch(8)), random_tokens(model, 5)
    assert close(twin(tokens).log_softmax(-1), model(tokens).log_softmax(-1))
    for scores in (of_all_kinds, lambda m: of_all_kinds(m, component_composition_scores)):
        assert close(scores(in_basis(model, random_rotation(8))), scores(model))
        assert (scores(twin) - scores(model)).abs().max() > 0.05
    assert close(over_tokens(twin), over_tokens(model))
    assert close(written_variance(twin, tokens), written_variance(model, tokens))


@pytest.mark.parametrize("early, late", [(0, 0), (2, 1)])
def test_scores_over_tokens_are_those_of_matrices_over_tokens(early, late):
    model = random_model(2, **SIZES)
    E, undo = model.W_E, torch.linalg.pinv(model.W_E)
    writes, OV = (E @ model.W_V[head] @ model.W_O[head] @ undo for head in ((0, early), (1, late)))
    QK = E @ model.W_Q[1, late] @ model.W_K[1, late].T @ E.T
    expected = [(writes @ B).norm() / (writes.norm() * B.norm()) for B in (QK, QK.T, OV)]
    assert close(over_tokens(model)[:, early, late], torch.stack(expected))


def test_a_single_direction_that_is_read_alone_has_the_whole_score():
    model, direction = random_model(2, **SIZES), torch.linspace(-1, 2, 8).double()
    model.W_O[0, 0] = torch.outer(torch.ones(3).double(), direction)
    for W in (model.W_Q, model.W_K, model.W_V):
        W[1, 0] = torch.outer(direction, torch.arange(3.0).double())
    for kind in KINDS:
        scores = component_composition_scores(model, kind)
        assert close(scores[0, 0], 1.0) and scores.max() < 1 + 1e-9
        assert close(composition_score(model, (0, 0), (1, 0), kind), 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_best_read_direction_of_a_head_by_dense_matrices(kind):
    model = random_model(2, **SIZES)
    reads = reading_matrix(model, (1, 2), kind).dense()
    _, _, Vh = torch.linalg.svd(model.W_V[0, 1] @ model.W_O[0, 1])
    expected = max((Vh[i] @ reads).norm() for i in range(3)) / reads.norm()
    assert close(component_composition_scores(model, kind)[1, 2], expected)


def test_rotated_writers_keep_their_size_and_lose_their_readers_in_any_basis():
    model = random_model(2, **SIZES)
    rotated = rotated_writers(model)
    assert close(rotated.W_O[0] @ rotated.W_O[0].mT, model.W_O[0] @ model.W_O[0].mT)
    assert torch.equal(rotated.W_O[1], model.W_O[1]) and not close(rotated.W_O[0], model.W_O[0])
    assert not close(of_all_kinds(rotated_writers(model, 1)), of_all_kinds(rotated))
    elsewhere = rotated_writers(in_basis(model, random_rotation(8)))
    assert close(of_all_kinds(elsewhere), of_all_kinds(rotated))


def test_all_kinds_are_scored_by_the_papers_score_unless_told_otherwise():
    model = random_model(2, **SIZES)
    assert close(of_all_kinds(model), torch.stack([composition_scores(model, kind) for kind in KINDS]))


def test_what_never_differs_between_contexts_has_no_variance():
    model = random_model(2, **SIZES)
    tokens = random_tokens(model, 4)
    assert written_variance(model, tokens).min() > 0
    assert close(written_variance(with_weights(model, W_O=2 * model.W_O), tokens), 4 * written_variance(model, tokens))
    assert written_variance(model, tokens[:1].expand(4, -1)).max() < 1e-20


def test_the_variance_is_that_of_the_outputs_in_units_of_tokens():
    model = random_model(2, **SIZES)
    tokens = random_tokens(model, 4)
    outputs = in_units_of_tokens(model).cache(tokens).head_outputs[0]
    assert close(written_variance(model, tokens), (outputs - others(outputs)).square().sum(-1).mean(-1))


@pytest.mark.parametrize("level", [lambda t: t + torch.arange(5.0), lambda t: t + torch.arange(4.0)[:, None]])
def test_levels_of_rows_and_columns_are_taken_off(level: Callable[[Tensor], Tensor]):
    table = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(levelled(level(table)), levelled(table), atol=1e-5)
    assert levelled(table).mean(0).abs().max() < 1e-6 and levelled(table).mean(1).abs().max() < 1e-6
