"""The algebra, in float64, against the same thing computed the long way round."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from helpers.circuits import (
    LowRank,
    composition_score,
    composition_scores,
    copying_score,
    induction_circuit,
    matching_score,
    ov_circuit,
    path_logits,
    paths,
    positivity,
    qk_circuit,
    read_head,
    score_parts,
    score_terms,
    telling_sources,
)
from helpers.model import AttentionOnlyTransformer
from tests.examples import close, low_rank, random_model, random_tokens, same_but_for_zeros

SIZES = st.integers(1, 12)
RANKS = st.integers(1, 6)
SEEDS = st.integers(0, 2**32)


# ---- low-rank matrices ------------------------------------------------------------------------------------------


@given(SIZES, RANKS, SIZES, SEEDS)
def test_what_a_low_rank_matrix_tells_is_what_the_dense_one_tells(rows, rank, columns, seed):
    matrix = low_rank(rows, rank, columns, seed)
    dense = matrix.left @ matrix.right
    some = torch.tensor([rows - 1, 0])
    assert matrix.shape == dense.shape and matrix.T.shape == dense.T.shape
    assert close(matrix.dense(), dense) and close(matrix.T.dense(), dense.T)
    assert close(matrix.rows(0), dense[0]) and close(matrix.rows(some), dense[some])
    assert close(matrix.columns(columns - 1), dense[:, -1])
    assert close(matrix.columns(torch.tensor([columns - 1, 0])), dense[:, [columns - 1, 0]])
    assert close(matrix.entry(rows - 1, 0), dense[-1, 0].item())
    assert close(matrix.centred().dense(), dense - dense.mean(1, keepdim=True))
    assert close(matrix.norm(), dense.norm().item())
    values = torch.linalg.svdvals(dense)
    ours = matrix.singular_values()
    assert len(ours) == min(rows, rank, columns) and close(ours, values[: len(ours)])


@given(SIZES, RANKS, SEEDS)
def test_diagonal_trace_and_eigenvalues_of_a_square_one(size, rank, seed):
    matrix = low_rank(size, rank, size, seed)
    dense = matrix.dense()
    assert close(matrix.diagonal(), dense.diagonal()) and close(matrix.trace(), dense.trace().item())
    eigenvalues = matrix.eigenvalues()
    assert len(eigenvalues) == rank and same_but_for_zeros(eigenvalues, torch.linalg.eigvals(dense))
    assert close(eigenvalues.sum().real, dense.trace())


@given(SIZES, RANKS, SIZES, RANKS, SIZES, SEEDS)
def test_products_keep_the_smaller_rank(rows, rank, middle, other_rank, columns, seed):
    one, other = low_rank(rows, rank, middle, seed), low_rank(middle, other_rank, columns, seed + 1)
    product = one @ other
    assert close(product.dense(), one.dense() @ other.dense())
    assert product.left.shape[1] == min(rank, other_rank)
    thick = other.dense()
    assert close((one @ thick).dense(), one.dense() @ thick)
    assert close((thick.T @ one.T).dense(), thick.T @ one.dense().T)


@given(SIZES, SIZES, SEEDS)
def test_ab_and_ba_share_their_nonzero_eigenvalues(rows, columns, seed):
    matrix = low_rank(rows, columns, rows, seed)
    one, other = (torch.linalg.eigvals(m) for m in (matrix.left @ matrix.right, matrix.right @ matrix.left))
    assert same_but_for_zeros(one, other)


def test_ab_and_ba_differ_in_norm():
    a = LowRank(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]]))
    b = LowRank(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 1.0]]))
    assert (a @ b).norm() == 1 and (b @ a).norm() == 0


# ---- the two circuits -------------------------------------------------------------------------------------------

HEADS = pytest.mark.parametrize("head", [(0, 0), (0, 1), (1, 0), (1, 1)])


@HEADS
def test_the_circuits_are_the_products_of_the_weights(head):
    model = random_model(2)
    layer, h = head
    ov = model.W_E @ model.W_V[layer, h] @ model.W_O[layer, h] @ model.W_U
    qk = model.W_E @ model.W_Q[layer, h] @ model.W_K[layer, h].T @ model.W_E.T / math.sqrt(3)
    assert close(ov_circuit(model, head).dense(), ov) and close(qk_circuit(model, head).dense(), qk)
    assert ov_circuit(model, head).left.shape[1] == qk_circuit(model, head).left.shape[1] == 3
    assert ov_circuit(model, head).shape == qk_circuit(model, head).shape == (11, 11)


def test_reading_a_head_takes_the_largest_centred_entries_among_the_tokens_asked_for():
    model = random_model(1)
    among = torch.tensor([1, 4, 5, 7, 9])
    qk, ov = (circuit(model, (0, 1)).dense() for circuit in (qk_circuit, ov_circuit))
    qk, ov = qk - qk.mean(1, keepdim=True), ov - ov.mean(1, keepdim=True)
    reading = read_head(model, (0, 1), source=4, among=among, n=2)
    assert reading.destinations == sorted(among.tolist(), key=lambda d: -qk[d, 4])[:2]
    assert reading.outs == sorted(among.tolist(), key=lambda out: -ov[4, out])[:2]
    assert close(torch.tensor(reading.wanted).double(), qk[reading.destinations, 4], 1e-6)
    assert close(torch.tensor(reading.raised).double(), ov[4, reading.outs], 1e-6)
    strength = {s: (max(qk[d, s] for d in among) * max(ov[s, o] for o in among)).item() for s in among.tolist()}
    assert telling_sources(model, (0, 1), among, n=3) == sorted(strength, key=strength.get, reverse=True)[:3]


# ---- path expansion ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers, n_paths", [(0, 1), (1, 3), (2, 9), (3, 27)])
def test_the_paths_add_up_to_the_logits(n_layers, n_paths):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    ways = paths(model)
    assert len(ways) == len(set(ways)) == n_paths and ways[0] == () and [len(w) for w in ways] == sorted(map(len, ways))
    total = sum(path_logits(model, tokens, cache.patterns, path) for path in ways)
    assert close(total, logits, 1e-10)


@HEADS
def test_the_terms_of_a_score_add_up_to_it(head):
    model = random_model(2)
    tokens = random_tokens(model, batch=1)
    _, cache = model.run_with_cache(tokens)
    names = score_parts(model, head)
    assert names == ["token", "position"] + ["0:0", "0:1"] * head[0]
    for dest in range(8):
        for src in range(dest + 1):
            terms = score_terms(model, cache, head, dest, src)
            assert terms.shape == (len(names), len(names))
            assert close(terms.sum(), cache.scores[head[0]][0, head[1], dest, src])
    content = qk_circuit(model, head).dense()[tokens[0, 7], tokens[0, 2]]
    assert close(score_terms(model, cache, head, 7, 2)[0, 0], content)


# ---- eigenvalues ------------------------------------------------------------------------------------------------


def test_positivity_is_one_for_positive_eigenvalues_and_minus_one_for_negative_ones():
    factor = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    matrix = LowRank(factor, factor.T)
    assert positivity(matrix.eigenvalues()) == pytest.approx(1, abs=1e-9)
    assert positivity(LowRank(-factor, factor.T).eigenvalues()) == pytest.approx(-1, abs=1e-9)
    rotation = torch.tensor([[0.0, -1], [1, 0]])
    assert positivity(LowRank(rotation, torch.eye(2)).eigenvalues()) == pytest.approx(0, abs=1e-9)


def copying_model() -> AttentionOnlyTransformer:
    """Head 0:0 raises the very token that it attends to, head 0:1 lowers it."""
    model = random_model(1, d_vocab=6, d_head=6)
    model.W_E.copy_(torch.eye(6))
    model.W_U.copy_(torch.eye(6))
    model.W_V.copy_(torch.eye(6).expand(1, 2, 6, 6))
    model.W_O.copy_(torch.stack([torch.eye(6), -torch.eye(6)])[None])
    return model


def test_the_copying_score_of_a_copying_and_of_an_anti_copying_head():
    assert copying_score(copying_model(), (0, 0)) == pytest.approx(1)
    assert copying_score(copying_model(), (0, 1)) == pytest.approx(-1)
    dense = torch.linalg.eigvals(ov_circuit(random_model(2), (1, 1)).dense())
    assert copying_score(random_model(2), (1, 1)) == pytest.approx(positivity(dense), abs=1e-6)


# ---- composition ------------------------------------------------------------------------------------------------


def dense_composition(model: AttentionOnlyTransformer, early: int, late: int, kind: str) -> float:
    ov = model.W_V[0, early] @ model.W_O[0, early]
    reads = {
        "Q": model.W_Q[1, late] @ model.W_K[1, late].T,
        "K": model.W_K[1, late] @ model.W_Q[1, late].T,
        "V": model.W_V[1, late] @ model.W_O[1, late],
    }[kind]
    return ((ov @ reads).norm() / (ov.norm() * reads.norm())).item()


@pytest.mark.parametrize("kind", ["Q", "K", "V"])
@given(n_heads=st.integers(1, 3), d_model=st.integers(1, 6), d_head=st.integers(1, 8), seed=SEEDS)
def test_composition_scores_are_ratios_of_frobenius_norms(kind, n_heads, d_model, d_head, seed):
    model = random_model(2, seed=seed, n_heads=n_heads, d_model=2 * d_model, d_head=d_head)
    scores = composition_scores(model, kind)
    assert scores.shape == (n_heads, n_heads)
    for early in range(n_heads):
        for late in range(n_heads):
            score = composition_score(model, (0, early), (1, late), kind)
            assert score == pytest.approx(dense_composition(model, early, late, kind), rel=1e-7)
            assert 0 <= score <= 1 + 1e-9 and scores[early, late].item() == pytest.approx(score, rel=1e-6)


def test_a_head_that_reads_what_another_writes_composes_fully_and_one_that_reads_elsewhere_not_at_all():
    model = random_model(2, n_heads=2, d_model=6, d_head=3)
    for weight in (model.W_O[0, 0], model.W_Q[1, 0].T, model.W_K[1, 1].T, model.W_V[1, 1].T):
        weight.copy_(torch.eye(3, 6))
    for weight in (model.W_K[1, 0].T, model.W_Q[1, 1].T, model.W_V[1, 0].T):
        weight.copy_(torch.eye(6)[3:])
    model.W_V[0, 0] = torch.eye(6, 3)
    found = {(kind, late): composition_score(model, (0, 0), (1, late), kind) for kind in "QKV" for late in (0, 1)}
    full = {pair for pair, score in found.items() if score > 0.5}
    assert full == {("Q", 0), ("K", 1), ("V", 1)}
    assert all(found[pair] == 0 for pair in found.keys() - full)
    assert found["Q", 0] == pytest.approx(3**-0.5)  # two matrices with three equal singular values each


def test_the_induction_circuit_is_the_qk_circuit_with_keys_read_through_the_earlier_head():
    model = random_model(2)
    ov = model.W_V[0, 1] @ model.W_O[0, 1]
    qk = model.W_Q[1, 0] @ model.W_K[1, 0].T / math.sqrt(3)
    dense = model.W_E @ qk @ (model.W_E @ ov).T
    assert close(induction_circuit(model, (1, 0), (0, 1)).dense(), dense)
    eigenvalues = torch.linalg.eigvals(dense)
    assert matching_score(model, (1, 0), (0, 1)) == pytest.approx(positivity(eigenvalues), abs=1e-6)
