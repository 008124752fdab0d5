"""The algebra, in float64, against the same thing computed the long way round."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import ReaderError
from helpers.circuits import (
    LowRank,
    composition_score,
    composition_scores,
    copying_score,
    copying_summary,
    entry_places,
    feature_contrasts,
    feature_share,
    induction_circuit,
    logits_by_tables,
    matching_score,
    matching_trace,
    offset_scores,
    offset_W_QK,
    ov_circuit,
    path_logits,
    paths,
    positivity,
    qk_circuit,
    read_head,
    read_telling_sources,
    score_parts,
    score_terms,
    telling_sources,
)
from helpers.model import AttentionOnlyTransformer, sinusoids
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
    assert close(matrix.row_stds(), dense.std(1, correction=0))


@given(SIZES, RANKS, SIZES, SEEDS)
def test_the_svd_is_one(rows, rank, columns, seed):
    matrix = low_rank(rows, rank, columns, seed)
    U, S, V = matrix.svd()
    n = min(rows, rank, columns)
    assert (U.shape, S.shape, V.shape) == ((rows, n), (n,), (columns, n))
    assert close(U @ S.diag() @ V.T, matrix.left @ matrix.right)
    assert close(U.T @ U, torch.eye(n).double()) and close(V.T @ V, torch.eye(n).double())
    assert bool((S.diff() <= 0).all() and (S >= 0).all()) and close(S, matrix.singular_values())


@given(SIZES, RANKS, SIZES, SEEDS, st.integers(1, 200), st.integers(1, 13))
def test_the_top_entries_are_the_largest_of_all_and_stand_where_they_say(rows, rank, columns, seed, k, at_once):
    matrix = low_rank(rows, rank, columns, seed)
    dense = matrix.left @ matrix.right
    top = matrix.top_entries(k, rows_at_once=at_once)
    assert len({(row, column) for row, column, _ in top}) == len(top) == min(k, rows * columns)
    assert all(close(value, dense[row, column].item()) for row, column, value in top)
    values = torch.tensor([value for *_, value in top], dtype=torch.double)
    assert close(values, dense.flatten().sort(descending=True).values[:k])


def test_the_largest_entries_need_not_be_in_different_rows():
    matrix = LowRank(torch.tensor([[1.0], [10.0], [0.1]]), torch.tensor([[3.0, 1.0, 2.0]]))
    assert matrix.top_entries(4, rows_at_once=2) == [(1, 0, 30.0), (1, 2, 20.0), (1, 1, 10.0), (0, 0, 3.0)]


@given(SIZES, RANKS, SEEDS, st.integers(1, 13))
def test_diagonal_ranks_are_the_places_in_the_sorted_rows(size, rank, seed, at_once):
    matrix = low_rank(size, rank, size, seed)
    order = matrix.dense().argsort(dim=1, descending=True).tolist()
    assert matrix.diagonal_ranks(at_once).tolist() == [1 + places.index(i) for i, places in enumerate(order)]


def test_equal_entries_share_the_best_place():
    assert LowRank(torch.ones(3, 1), torch.ones(1, 3)).diagonal_ranks().tolist() == [1, 1, 1]


def test_the_norm_survives_cancellation():
    near_zero = torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [-1 + 2**-20]])
    assert LowRank(*near_zero).norm() == pytest.approx(2**-20, rel=1e-6)


@pytest.mark.parametrize("n", [4095, 4096, 4097, 9000])
def test_long_factors_are_summed_to_their_ends(n):
    matrix = low_rank(n, 2, n, seed=n)
    assert same_but_for_zeros(matrix.eigenvalues(), torch.linalg.eigvals(matrix.right @ matrix.left))
    squares = sum((rows @ matrix.right).square().sum() for rows in matrix.left.split(500))
    assert close(matrix.norm(), squares.sqrt().item())
    single = LowRank(matrix.left.float(), matrix.right.float())
    assert single.eigenvalues().dtype == torch.complex128
    assert same_but_for_zeros(single.eigenvalues(), matrix.eigenvalues(), relative=1e-3)


class LargestTensor(TorchDispatchMode):
    """Remembers how many numbers the largest tensor had that was made meanwhile."""

    n = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            self.n = max(self.n, tensor.numel() if isinstance(tensor, Tensor) else 0)
        return made


BIG, THIN = 50_000, 4
AT_SCALE = {
    "T": lambda m: m.T,
    "product": lambda m: m @ m @ m,
    "product with a thin one": lambda m: m.left.T @ (m @ m.left),
    "rows": lambda m: m.rows(torch.arange(100)),
    "columns": lambda m: m.columns(torch.arange(100)),
    "entry": lambda m: m.entry(7, BIG - 1),
    "diagonal": lambda m: m.diagonal(),
    "centred": lambda m: m.centred(),
    "row_stds": lambda m: m.row_stds(),
    "standardised_diagonal": lambda m: m.standardised_diagonal(),
    "trace": lambda m: m.trace(),
    "norm": lambda m: m.norm(),
    "eigenvalues": lambda m: m.eigenvalues(),
    "singular_values": lambda m: m.singular_values(),
    "svd": lambda m: m.svd(),
}


@pytest.mark.parametrize("name", AT_SCALE)
def test_nothing_but_dense_makes_a_matrix_over_a_large_vocabulary(name):
    matrix = low_rank(BIG, THIN, BIG, seed=0)
    with LargestTensor() as largest:
        AT_SCALE[name](matrix)
    assert largest.n <= 100 * BIG


def test_what_goes_over_all_entries_holds_some_rows_at_a_time():
    matrix = low_rank(2_000, THIN, BIG, seed=0)
    with LargestTensor() as largest:
        top = matrix.top_entries(3)
    assert len(top) == 3 and largest.n <= 256 * BIG
    square = low_rank(5_000, THIN, 5_000, seed=0)
    with LargestTensor() as largest:
        ranks = square.diagonal_ranks()
    assert len(ranks) == 5_000 and largest.n <= 256 * 5_000


def test_the_watcher_of_tensors_sees_a_dense_matrix():
    with LargestTensor() as largest:
        low_rank(300, 2, 300, seed=0).dense()
    assert largest.n == 90_000


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


def test_diagonal_ranks_of_known_tables():
    one = torch.eye(4)
    assert LowRank(one, one).diagonal_ranks().tolist() == [1, 1, 1, 1]
    assert LowRank(-one, one).diagonal_ranks().tolist() == [4, 4, 4, 4]
    assert LowRank(torch.arange(9.0).view(3, 3), torch.eye(3)).diagonal_ranks().tolist() == [3, 2, 1]


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
    strongest = read_telling_sources(model, (0, 1), among, n_sources=3, n=2)
    assert strongest == [read_head(model, (0, 1), s, among, n=2) for s in telling_sources(model, (0, 1), among, n=3)]


def test_the_place_of_an_entry_is_the_share_of_larger_ones_in_its_column_or_row():
    model = random_model(1)
    among, rules = torch.tensor([1, 2, 4, 5, 8]), torch.tensor([[4, 2, 8], [1, 5, 5], [7, 4, 1]])
    places = entry_places(model, rules, among)
    for (source, destination, out), h in itertools.product(rules.tolist(), range(2)):
        column = qk_circuit(model, (0, h)).centred().dense()[:, source]
        row = ov_circuit(model, (0, h)).centred().dense()[source]
        expected = [(column[among] > column[destination]).sum().item() / 5, (row[among] > row[out]).sum().item() / 5]
        assert places[rules.tolist().index([source, destination, out]), h].tolist() == pytest.approx(expected)


@given(st.integers(-3, 5), st.integers(1, 8), st.floats(0.1, 4))
def test_a_head_made_of_rotations_scores_by_the_distance_from_its_offset(offset, n_waves, steepness):
    n_ctx, d_model = 12, 16
    frequencies = [float(n_ctx) ** (-2 * wave / d_model) for wave in range(n_waves)]
    scores = offset_scores(n_ctx, d_model, offset, n_waves, steepness)
    for dest, src in itertools.product(range(n_ctx), repeat=2):
        expected = steepness * sum(math.cos(f * (dest - src - offset)) for f in frequencies)
        assert scores[dest, src].item() == pytest.approx(expected, abs=1e-4)
    W = offset_W_QK(n_ctx, d_model, offset, n_waves, steepness)
    assert W.left.shape == (d_model, 2 * n_waves) and W.shape == (d_model, d_model)
    assert torch.allclose(sinusoids(n_ctx, d_model) @ W.dense() @ sinusoids(n_ctx, d_model).T, scores, atol=1e-4)


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


@given(SEEDS)
def test_the_logits_of_one_layer_can_be_looked_up(seed):
    model = random_model(1, seed=seed)
    tokens = random_tokens(model, batch=1, seed=seed)
    assert close(logits_by_tables(model, tokens[0, :6]), model(tokens[:, :6])[0], 1e-10)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_other_models_are_no_set_of_tables(n_layers):
    with pytest.raises(ReaderError, match="one-layer"):
        logits_by_tables(random_model(n_layers), torch.tensor([0, 1]))


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


@given(st.integers(3, 12), RANKS, SEEDS)
def test_the_summaries_of_copying_are_those_of_the_dense_matrix(size, rank, seed):
    matrix = low_rank(size, rank, size, seed)
    dense = matrix.dense()
    own = (dense.diagonal() - dense.mean(1)) / dense.std(1, correction=0)
    assert close(matrix.standardised_diagonal(), own)
    ranks = (dense >= dense.diagonal()[:, None]).sum(1)
    summary = copying_summary(matrix, k=2)
    assert summary.eigenvalues == pytest.approx(positivity(torch.linalg.eigvals(dense)), abs=1e-6)
    assert summary.mean == pytest.approx(own.mean().item(), abs=1e-6)
    assert summary.median == pytest.approx(own.median().item(), abs=1e-6)
    assert summary.first == pytest.approx((ranks == 1).double().mean().item(), abs=1e-6)
    assert summary.top_k == pytest.approx((ranks <= 2).double().mean().item(), abs=1e-6)


def test_a_copying_circuit_is_first_in_every_row_and_its_opposite_last():
    copies, opposite = (copying_summary(ov_circuit(copying_model(), (0, h)), k=5) for h in (0, 1))
    assert (copies.first, copies.top_k, opposite.first, opposite.top_k) == (1, 1, 0, 0)
    assert copies.mean == copies.median == pytest.approx(5**0.5) and opposite.median == pytest.approx(-(5**0.5))


def test_feature_contrasts_are_differences_of_differences():
    matrix, plain, marked = low_rank(9, 3, 9, seed=0), torch.tensor([0, 2, 5]), torch.tensor([1, 4, 8])
    d, contrasts = matrix.dense(), feature_contrasts(matrix, plain, marked)
    for i, (p, m) in enumerate(zip(plain, marked, strict=True)):
        for j, (q, n) in enumerate(zip(plain, marked, strict=True)):
            assert close(contrasts[i, j], (d[m, n] - d[m, q]) - (d[p, n] - d[p, q]))
    off = ~torch.eye(3).bool()
    assert feature_share(matrix, plain, marked) == pytest.approx((contrasts[off] > 0).double().mean().item())


def test_a_circuit_that_hands_on_a_feature_and_no_token_is_told_from_one_that_copies_tokens():
    plain, marked = torch.arange(4), torch.arange(4, 8)
    number = torch.cat([-torch.ones(4), torch.ones(4)])[:, None]
    assert feature_share(LowRank(number, number.T), plain, marked) == 1
    assert feature_share(LowRank(number, -number.T), plain, marked) == 0
    assert feature_share(LowRank(torch.eye(8), torch.eye(8)), plain, marked) == 0  # all its contrasts are within pairs


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


def test_the_matching_trace_is_the_sum_of_the_induction_circuits_by_how_far_each_looks_back():
    model = random_model(2)
    looks_back = torch.tensor([0.7, -0.2], dtype=torch.double)
    for head in ((1, 0), (1, 1)):
        dense = sum(s * induction_circuit(model, head, (0, e)).dense() for e, s in enumerate(looks_back))
        assert matching_trace(model, head, looks_back) == pytest.approx(dense.trace().item())
        assert matching_trace(model, head, looks_back) != pytest.approx(matching_trace(model, head, looks_back.flip(0)))
