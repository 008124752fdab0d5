"""The algebra, in float64, against the same thing computed the long way round."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import ReaderError
from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    centred_unembedding,
    composition_excess,
    composition_score,
    composition_scores,
    copying_score,
    copying_summary,
    eigenvalue_score,
    induction_circuit,
    logits_by_tables,
    matching_circuit,
    ov_circuit,
    path_logits,
    paths,
    positional_scores,
    qk_circuit,
    qk_eigenvalue_score,
    score_by_token,
    score_expansion,
    score_parts,
    score_terms,
    swapped_composition_score,
)
from helpers.model import AttentionOnlyTransformer, Head, ModelConfig
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
    assert close(matrix.centred().dense(), dense - dense.mean(1, keepdim=True))
    assert close(matrix.norm(), dense.norm().item())
    assert close(matrix.row_stds(), dense.std(1, correction=0))
    U, S, V = matrix.svd()
    n = min(rows, rank, columns)
    assert (U.shape, S.shape, V.shape) == ((rows, n), (n,), (columns, n))
    assert close(U.T @ U, torch.eye(n).double()) and close(V.T @ V, torch.eye(n).double())
    assert close(U @ S.diag() @ V.T, dense) and close(S, torch.linalg.svdvals(dense)[:n])
    assert close(matrix.singular_values(), S)


@given(SIZES, RANKS, SEEDS)
def test_diagonal_trace_and_eigenvalues_of_a_square_one(size, rank, seed):
    matrix = low_rank(size, rank, size, seed)
    dense = matrix.left @ matrix.right
    assert close(matrix.diagonal(), dense.diagonal()) and close(matrix.trace(), dense.trace().item())
    eigenvalues = matrix.eigenvalues()
    assert len(eigenvalues) == rank and same_but_for_zeros(eigenvalues, torch.linalg.eigvals(dense))


@given(SIZES, RANKS, SIZES, RANKS, SIZES, SEEDS)
def test_products_keep_the_smaller_rank(rows, rank, middle, other_rank, columns, seed):
    one, other = low_rank(rows, rank, middle, seed), low_rank(middle, other_rank, columns, seed + 1)
    product, thick = one @ other, other.dense()
    assert close(product.dense(), one.dense() @ thick) and product.left.shape[1] == min(rank, other_rank)
    assert close((one @ thick).dense(), one.dense() @ thick)
    assert close((thick.T @ one.T).dense(), thick.T @ one.dense().T)


@pytest.mark.parametrize("at_once", [1, 2, 256])
def test_diagonal_ranks_of_known_tables(at_once, monkeypatch):
    monkeypatch.setattr("helpers.circuits.ROWS_AT_ONCE", at_once)
    one = torch.eye(4)
    assert LowRank(one, one).diagonal_ranks().tolist() == [1, 1, 1, 1]
    assert LowRank(-one, one).diagonal_ranks().tolist() == [4, 4, 4, 4]
    assert LowRank(torch.arange(9.0).view(3, 3), torch.eye(3)).diagonal_ranks().tolist() == [3, 2, 1]
    assert LowRank(torch.ones(3, 1), torch.ones(1, 3)).diagonal_ranks().tolist() == [1, 1, 1]  # equals share a place


def test_ab_and_ba_differ_in_norm():
    a = LowRank(torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0, 1.0]]))
    b = LowRank(torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0, 1.0]]))
    assert (a @ b).norm() == 1 and (b @ a).norm() == 0


def test_the_norm_survives_cancellation():
    near_zero = LowRank(torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0], [-1 + 2**-20]]))
    assert near_zero.norm() == pytest.approx(2**-20, rel=1e-6)


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
    "product": lambda m: m @ m @ m,
    "product with a thin one": lambda m: m.left.T @ (m @ m.left),
    "rows": lambda m: m.rows(torch.arange(100)),
    "columns": lambda m: m.columns(torch.arange(100)),
    "centred": lambda m: m.centred(),
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
    assert 0 < largest.n <= 100 * BIG


def test_ranks_of_the_diagonal_are_found_with_some_rows_at_a_time():
    square = low_rank(5_000, THIN, 5_000, seed=0)
    with LargestTensor() as largest:
        assert len(square.diagonal_ranks()) == 5_000
    assert largest.n == 256 * 5_000
    with LargestTensor() as largest:
        low_rank(300, 2, 300, seed=0).dense()
    assert largest.n == 90_000


# ---- the two circuits -------------------------------------------------------------------------------------------

HEADS = pytest.mark.parametrize("head", [(0, 1), (1, 0)])


@HEADS
def test_the_circuits_are_the_products_of_the_weights(head: Head):
    model = random_model(2)
    W_E, W_U = model.W_E, centred_unembedding(model)
    ov, qk = model.W_V[head] @ model.W_O[head], model.W_Q[head] @ model.W_K[head].T / math.sqrt(3)
    assert close(W_OV(model, head).dense(), ov) and close(W_QK(model, head).dense(), qk)
    assert close(ov_circuit(model, head).dense(), W_E @ ov @ W_U)
    assert close(qk_circuit(model, head).dense(), W_E @ qk @ W_E.T)
    assert ov_circuit(model, head).left.shape[1] == qk_circuit(model, head).left.shape[1] == 3
    assert close(positional_scores(model, head), model.W_pos @ qk @ model.W_pos.T)


def test_the_centred_unembedding_moves_no_probability_and_its_columns_cancel():
    model = random_model(0)
    stream, centred = model.W_E[:3], centred_unembedding(model)
    assert close((stream @ centred).softmax(-1), (stream @ model.W_U).softmax(-1))
    assert centred.sum(1).abs().max() < 1e-12 < model.W_U.sum(1).abs().max()


# ---- path expansion ---------------------------------------------------------------------------------------------


def test_the_paths_of_a_model_come_shortest_first():
    assert paths(random_model(0)) == [()]
    expected = [(), ((0, 0),), ((1, 0),), ((2, 0),), ((0, 0), (1, 0)), ((0, 0), (2, 0)), ((1, 0), (2, 0))]
    assert paths(random_model(3, n_heads=1)) == [*expected, ((0, 0), (1, 0), (2, 0))]
    assert len(paths(random_model(2))) == 1 + 4 + 4


def test_the_logits_of_a_path_are_attention_times_weights_in_the_order_of_the_path():
    model = random_model(2)
    tokens = random_tokens(model)
    patterns = model.cache(tokens).patterns
    virtual = patterns[1][:, 0] @ patterns[0][:, 1]
    circuit = model.W_E @ W_OV(model, (0, 1)).dense() @ W_OV(model, (1, 0)).dense() @ model.W_U
    assert close(path_logits(model, tokens, patterns, ((0, 1), (1, 0))), virtual @ circuit[tokens])
    assert close(path_logits(model, tokens, patterns, ()), model.W_E[tokens] @ model.W_U)


@given(SEEDS)
def test_the_logits_of_one_layer_can_be_looked_up(seed):
    model = random_model(1, seed=seed)
    tokens = random_tokens(model, batch=1, seed=seed)
    logits = model(tokens[:, :6])[0]
    assert close(logits_by_tables(model, tokens[0, :6]), logits - logits.mean(-1, keepdim=True), 1e-10)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_other_models_are_no_set_of_tables(n_layers):
    with pytest.raises(ReaderError, match="one-layer"):
        logits_by_tables(random_model(n_layers), torch.tensor([0, 1]))


@HEADS
def test_the_terms_of_a_score_are_those_of_what_query_and_key_are_made_of(head: Head):
    model = random_model(2)
    tokens = random_tokens(model)
    cache = model.cache(tokens)
    names = score_parts(model, head)
    assert names == ["token", "position"] + ["0:0", "0:1"] * head[0]
    expansion = score_expansion(model, cache, head)
    assert expansion.shape == (len(names), len(names), 8, 8)
    for dest, src in ((7, 2), (3, 3), (0, 0)):
        terms = score_terms(model, cache, head, dest, src)
        assert close(expansion[:, :, dest, src], terms)
        assert close(terms.sum(), cache.scores[head[0]][0, head[1], dest, src])  # of the first text
    qk = W_QK(model, head).dense()
    assert close(expansion[0, 0], qk_circuit(model, head).rows(tokens[0])[:, tokens[0]])
    assert close(expansion[1, 1], positional_scores(model, head))
    if head[0] == 1:
        assert close(expansion[1, 3], model.W_pos @ qk @ cache.head_outputs[0][0, 1].T)


@given(SEEDS, st.integers(0, 7), st.integers(0, 7))
def test_a_score_by_tokens_counts_what_was_moved_from_each_token(seed, dest, src):
    model = random_model(2, seed)
    cache = model.cache(random_tokens(model, 1, seed))
    by_token = score_by_token(model, cache, (1, 0), dest, src)
    assert by_token.shape == (9, 9)
    if src <= dest:
        assert by_token.sum().item() == pytest.approx(cache.scores[1][0, 0, dest, src].item(), rel=1e-9, abs=1e-9)
    assert not by_token[dest + 1 : 8].any() and not by_token[:, src + 1 : 8].any()  # nothing comes from later tokens
    x, qk = cache.residual[0][0], W_QK(model, (1, 0)).dense()

    def of(place: int, token: int) -> Tensor:
        attention = cache.patterns[0][0, :, place, token]
        moved = sum(attention[h] * x[token] @ model.W_V[0, h] @ model.W_O[0, h] for h in (0, 1))
        return moved + x[token] * (place == token)

    assert by_token[0, src].item() == pytest.approx((of(dest, 0) @ qk @ of(src, src)).item(), rel=1e-9, abs=1e-12)
    positions = model.W_pos[dest] @ qk @ model.W_pos[src]
    assert by_token[8, 8].item() == pytest.approx(positions.item(), rel=1e-9, abs=1e-12)


# ---- smeared keys: no circuit gives their scores, but values are as ever -----------------------------------------

NO_QK_CIRCUIT = {
    "W_QK": lambda m, cache: W_QK(m, (1, 0)),
    "qk_circuit": lambda m, cache: qk_circuit(m, (1, 0)),
    "positional_scores": lambda m, cache: positional_scores(m, (1, 0)),
    "logits_by_tables": lambda m, cache: logits_by_tables(random_model(1, smeared_keys=True), torch.tensor([0, 1])),
    "score_terms": lambda m, cache: score_terms(m, cache, (1, 0), 3, 2),
    "score_expansion": lambda m, cache: score_expansion(m, cache, (1, 0)),
    "score_by_token": lambda m, cache: score_by_token(m, cache, (1, 0), 3, 2),
    "induction_circuit": lambda m, cache: induction_circuit(m, (1, 0), (0, 0)),
    "qk_eigenvalue_score": lambda m, cache: qk_eigenvalue_score(m, (1, 0), (0, 0)),
    "Q-composition": lambda m, cache: composition_score(m, (0, 0), (1, 0), "Q"),
    "K-composition": lambda m, cache: composition_scores(m, "K"),
    "composition_excess": lambda m, cache: composition_excess(m, "K"),
    "swapped": lambda m, cache: swapped_composition_score(m, (0, 0), (1, 0), "Q"),
}


@pytest.mark.parametrize("name", NO_QK_CIRCUIT)
def test_what_needs_a_qk_circuit_refuses_smeared_keys(name):
    model = random_model(2, smeared_keys=True)
    with pytest.raises(ReaderError, match="smears its keys: .* Take one without"):
        NO_QK_CIRCUIT[name](model, model.cache(random_tokens(model)))


def test_smeared_keys_leave_values_alone():
    smeared, plain = random_model(2, smeared_keys=True), random_model(2)
    plain.load_state_dict({name: weight for name, weight in smeared.state_dict().items() if name != "smear"})
    for head in plain.heads:
        assert close(ov_circuit(smeared, head).dense(), ov_circuit(plain, head).dense())
        assert copying_score(smeared, head) == copying_score(plain, head)
    assert torch.equal(composition_scores(smeared, "V"), composition_scores(plain, "V"))
    tokens = random_tokens(smeared)
    logits, cache = smeared.run_with_cache(tokens)
    assert close(sum(path_logits(smeared, tokens, cache.patterns, path) for path in paths(smeared)), logits)
    assert not torch.allclose(logits, plain(tokens))


# ---- eigenvalues ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eigenvalues, score", [([2, 1], 1), ([-2, -1], -1), ([3, -1], 0.5), ([3 + 4j, 3 - 4j], 0.6)])
def test_the_eigenvalue_score_is_the_sum_over_the_sum_of_sizes(eigenvalues, score):
    assert eigenvalue_score(torch.tensor(eigenvalues, dtype=torch.complex128)) == pytest.approx(score)


def copying_model() -> AttentionOnlyTransformer:
    """Head 0:0 raises the very token that it attends to, head 0:1 lowers it."""
    n = 12
    model = random_model(1, d_vocab=n, d_head=n, d_model=n)
    model.W_E.copy_(torch.eye(n))
    model.W_U.copy_(torch.eye(n))
    model.W_V.copy_(torch.eye(n).expand(1, 2, n, n))
    model.W_O.copy_(torch.stack([torch.eye(n), -torch.eye(n)])[None])
    return model


def test_a_copying_head_is_first_in_every_row_and_its_opposite_last():
    model = copying_model()
    copies, opposite = (copying_summary(ov_circuit(model, (0, head))) for head in (0, 1))
    assert copies.eigenvalues == copying_score(model, (0, 0)) == pytest.approx(1)
    assert opposite.eigenvalues == copying_score(model, (0, 1)) == pytest.approx(-1)
    assert (copies.first, copies.top_10, opposite.first, opposite.top_10) == (1, 1, 0, 0)
    assert (copies.mean, copies.median, opposite.median) == pytest.approx((11**0.5, 11**0.5, -(11**0.5)))


@given(st.integers(3, 14), RANKS, SEEDS)
def test_the_summaries_of_copying_are_those_of_the_dense_matrix(size, rank, seed):
    matrix = low_rank(size, rank, size, seed)
    dense = matrix.dense()
    own = (dense.diagonal() - dense.mean(1)) / dense.std(1, correction=0)
    ranks = (dense >= dense.diagonal()[:, None]).sum(1)
    summary = copying_summary(matrix)
    assert close(matrix.standardised_diagonal(), own)
    assert summary.eigenvalues == pytest.approx(eigenvalue_score(torch.linalg.eigvals(dense)), abs=1e-6)
    assert (summary.mean, summary.median) == pytest.approx((own.mean().item(), own.median().item()), abs=1e-6)
    shares = [(ranks <= n).double().mean().item() for n in (1, 10)]
    assert [summary.first, summary.top_10] == pytest.approx(shares, abs=1e-6)


# ---- composition ------------------------------------------------------------------------------------------------

KINDS = pytest.mark.parametrize("kind", ["Q", "K", "V"])


@KINDS
@given(n_heads=st.integers(1, 3), d_model=st.integers(1, 6), d_head=st.integers(1, 8), seed=SEEDS)
def test_composition_scores_are_ratios_of_frobenius_norms(kind, n_heads, d_model, d_head, seed):
    model = random_model(2, seed=seed, n_heads=n_heads, d_model=2 * d_model, d_head=d_head)
    scores, swapped = (composition_scores(model, kind, f) for f in (composition_score, swapped_composition_score))
    assert scores.shape == swapped.shape == (n_heads, n_heads)
    for early in range(n_heads):
        for late in range(n_heads):
            Q, K, V, O = (weight[1, late] for weight in (model.W_Q, model.W_K, model.W_V, model.W_O))  # noqa: E741
            ov, reads = model.W_V[0, early] @ model.W_O[0, early], {"Q": Q @ K.T, "K": K @ Q.T, "V": V @ O}[kind]
            inner = {"Q": (Q, K.T), "K": (K, Q.T), "V": (V, O)}[kind]
            norms = ov.norm() * reads.norm()
            assert scores[early, late].item() == pytest.approx(((ov @ reads).norm() / norms).item(), rel=1e-6)
            product = model.W_O[0, early] @ inner[0] @ inner[1] @ model.W_V[0, early]
            assert swapped[early, late].item() == pytest.approx((product.norm() / norms).item(), rel=1e-6)


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
    with pytest.raises(ReaderError, match="'k' is no kind of composition"):
        composition_score(model, (0, 0), (1, 0), "k")


@KINDS
def test_the_excess_is_counted_from_the_level_of_random_matrices(kind):
    model = AttentionOnlyTransformer(ModelConfig(n_layers=2, n_heads=4, d_model=128, d_head=8, d_vocab=4))
    random = AttentionOnlyTransformer(model.config, seed=100)
    level = composition_scores(random, kind).mean()
    assert torch.allclose(composition_excess(model, kind), composition_scores(model, kind) - level)
    assert composition_excess(model, kind).mean().abs() < 0.1 * level
    swapped = composition_excess(model, kind, swapped_composition_score)
    assert swapped.mean().abs() < 0.1 * level and not torch.allclose(swapped, composition_excess(model, kind))


def test_the_induction_circuit_is_the_qk_circuit_with_keys_read_through_the_earlier_head():
    model = random_model(2)
    dense = model.W_E @ W_QK(model, (1, 0)).dense() @ (model.W_E @ W_OV(model, (0, 1)).dense()).T
    assert close(induction_circuit(model, (1, 0), (0, 1)).dense(), dense)
    expected = eigenvalue_score(torch.linalg.eigvals(dense))
    assert qk_eigenvalue_score(model, (1, 0), (0, 1)) == pytest.approx(expected, abs=1e-6)


def test_the_matching_trace_is_the_sum_of_the_induction_circuits_by_how_far_each_looks_back():
    model, head, looks_back = random_model(2), (1, 1), torch.tensor([0.7, -0.2], dtype=torch.double)
    expected = sum(score * induction_circuit(model, head, (0, e)).trace() for e, score in enumerate([0.7, -0.2]))
    assert matching_circuit(model, head, looks_back).trace() == pytest.approx(expected)
    assert matching_circuit(model, head, looks_back.flip(0)).trace() != pytest.approx(expected)
