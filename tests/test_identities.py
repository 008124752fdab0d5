"""The mathematics of the paper, one test or a few for each identity, numbered as below.

Tensor products: 1 to 5. Path expansions: 6 to 10. Low-rank matrices: 11 to 15. Copying and matching: 16 to 19.
Composition: 20 to 22. Positions: 23, 24. Order of terms: 25. Skip-trigrams: 26. What a head moves: 27.

Each holds for random shapes and weights in float64, to a relative error of 1e-9; where it says something of a trained
model, it is checked again on those of the book. What single functions of ``helpers.circuits`` and ``helpers.measures``
do with small examples stands in ``test_circuits`` and ``test_measures``.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import reduce

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    composition_score,
    composition_scores,
    copying_score,
    induction_circuit,
    matching_score,
    ov_circuit,
    path_logits,
    paths,
    positional_scores,
    positivity,
    qk_circuit,
    score_parts,
    score_terms,
)
from helpers.corpus import DATA
from helpers.measures import logit_effect, loss_per_token, value_weighted
from helpers.model import AttentionOnlyTransformer, Cache, ModelConfig, load_model
from helpers.tokens import Tokenizer
from tests.examples import close, low_rank, random_model, random_tokens, same_but_for_zeros

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 7)
KINDS = ("Q", "K", "V")
PASSAGE = "x = max(x, y)\ny = max(x, y)\n"


def models(n_layers: int, n_ctx: st.SearchStrategy[int] = SIZES, **sizes: st.SearchStrategy[int]) -> st.SearchStrategy:
    """Models with random weights and sizes."""
    drawn = {"n_heads": st.integers(1, 3), "d_model": st.sampled_from([2, 4, 6, 8]), "d_head": st.integers(1, 4),
             "d_vocab": st.integers(3, 10)} | sizes
    return st.builds(random_model, st.just(n_layers), seed=SEEDS, n_ctx=n_ctx, **drawn)


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def kron(A: Tensor, W: Tensor) -> Tensor:
    """``A ⊗ W`` as one matrix, for a stream whose rows stand one after the other."""
    return torch.kron(A.contiguous(), W.contiguous())


def run(model: AttentionOnlyTransformer, batch: int = 2) -> tuple[Tensor, Tensor, Cache]:
    """Random tokens as many as fit, the logits after them, and the cache."""
    tokens = random_tokens(model, batch)
    return tokens, *model.run_with_cache(tokens)


def heads_of(model: AttentionOnlyTransformer, layer: int) -> list[tuple[int, int]]:
    return [head for head in model.heads if head[0] == layer]


def read_by(model: AttentionOnlyTransformer, W: Tensor) -> AttentionOnlyTransformer:
    """The same model with another matrix in the place of the unembedding: whatever else reads the stream at its end."""
    reader = deepcopy(model)
    reader.W_U = torch.nn.Parameter(W, requires_grad=False)
    return reader


# ---- the models of the book, in float64, on a short text --------------------------------------------------------

TRAINED = ["", "_seed1", "_seed2"]


def trained_model(name: str) -> AttentionOnlyTransformer:
    return load_model(DATA / "models" / name).double()


@pytest.fixture(scope="session", params=TRAINED, ids=["seed0", "seed1", "seed2"])
def one_layer(request) -> AttentionOnlyTransformer:
    return trained_model(f"one_layer{request.param}")


@pytest.fixture(scope="session", params=TRAINED, ids=["seed0", "seed1", "seed2"])
def two_layer(request) -> AttentionOnlyTransformer:
    return trained_model(f"two_layer{request.param}")


@pytest.fixture(scope="session", params=["one_layer", "two_layer"])
def trained(request) -> AttentionOnlyTransformer:
    return trained_model(request.param)


@pytest.fixture(scope="session")
def text() -> Tensor:
    """The beginning of two lines of Python."""
    tokens = Tokenizer.load().prompt(PASSAGE, n_ctx=32)[:, :12]
    assert tokens.shape == (1, 12) and len(tokens.unique()) < 12  # so that there is something to match
    return tokens


@pytest.fixture(scope="session")
def vocabulary() -> Tensor:
    """Some tokens, for which tables over the vocabulary may be formed."""
    return torch.arange(300, 500)


# ---- tensor products ("A Note on the Notation of Attention Heads") -----------------------------------------------


@given(SIZES, SIZES, SIZES, SIZES, SEEDS)
def test_identity_01_a_tensor_product_acts_on_positions_from_the_left_and_on_vectors_from_the_right(n, m, d, e, seed):
    A, W, x = normal(n, m, seed=seed), normal(e, d, seed=seed + 1), normal(m, d, seed=seed + 2)
    by_index = torch.einsum("ij,ab,jb->ia", A, W, x)
    assert close(A @ x @ W.T, by_index)
    assert close((kron(A, W) @ x.flatten()).view(n, e), by_index)


@given(st.lists(SIZES, min_size=6, max_size=6), SEEDS)
def test_identity_02_tensor_products_multiply_factor_by_factor(sizes, seed):
    n, m, k, d, e, f = sizes
    A, C = normal(n, m, seed=seed), normal(m, k, seed=seed + 1)
    B, D = normal(d, e, seed=seed + 2), normal(e, f, seed=seed + 3)
    assert close(kron(A, B) @ kron(C, D), kron(A @ C, B @ D))


@given(models(2))
def test_identity_03_a_head_is_attention_times_ov_and_heads_add(model):
    _, _, cache = run(model)
    for layer in range(2):
        x, A = cache.residual[layer], cache.patterns[layer]
        for head in heads_of(model, layer):
            product = kron(A[0, head[1]], W_OV(model, head).dense().T) @ x[0].flatten()
            assert close(cache.head_outputs[layer][0, head[1]], product.view(x[0].shape))
        results = torch.cat(list((A @ cache.values[layer]).unbind(1)), dim=-1)  # side by side, as often programmed
        assert close(cache.residual[layer + 1] - x, results @ torch.cat(list(model.W_O[layer])))


def test_identity_03_in_the_trained_models(trained, text):
    _, cache = trained.run_with_cache(text)
    for layer, head in trained.heads:
        expected = cache.patterns[layer][0, head] @ (cache.residual[layer][0] @ W_OV(trained, (layer, head)).dense())
        assert close(cache.head_outputs[layer][0, head], expected)


@given(models(2))
def test_identity_04_two_heads_in_a_row_are_one_virtual_head(model):
    tokens, _, cache = run(model, batch=1)
    x = cache.residual[0][0]
    for early in heads_of(model, 0):
        for late in heads_of(model, 1):
            A1, A2 = cache.patterns[0][0, early[1]], cache.patterns[1][0, late[1]]
            W1, W2 = W_OV(model, early), W_OV(model, late)
            virtual = kron(A2 @ A1, (W1 @ W2).dense().T)
            assert close(kron(A2, W2.dense().T) @ kron(A1, W1.dense().T), virtual)
            moved = (virtual @ x.flatten()).view(x.shape)
            assert close(path_logits(model, tokens, cache.patterns, (early, late))[0], moved @ model.W_U)
            assert_attends(A2 @ A1)


def assert_attends(pattern: Tensor) -> None:
    """Every row shares out 1 among the tokens up to its own."""
    assert close(pattern.sum(-1), torch.ones(pattern.shape[:-1], dtype=torch.double))
    assert (pattern >= 0).all() and (pattern.triu(1) == 0).all()


def test_identity_04_virtual_attention_of_the_trained_models_is_attention(two_layer, text):
    _, cache = two_layer.run_with_cache(text)
    assert_attends(torch.einsum("bhqk,bgkj->bhgqj", cache.patterns[1], cache.patterns[0]))


@given(n=SIZES, width=st.integers(1, 4), d_model=st.sampled_from([2, 4]), seed=SEEDS)
def test_identity_05_heads_that_attend_to_fixed_offsets_are_a_convolution(n, width, d_model, seed):
    model = random_model(1, seed=seed, n_heads=width, d_model=d_model, d_head=d_model, n_ctx=n)
    tokens = random_tokens(model, batch=1)
    shifts = torch.stack([torch.eye(n).roll(offset, 0).tril(-offset) for offset in range(width)]).double()
    stream = model.residual_stream(tokens, patterns=[shifts[None]])
    kernel = torch.stack([W_OV(model, (0, offset)).dense().T for offset in reversed(range(width))], dim=-1)
    x = model.W_E[tokens]
    convolved = F.conv1d(x.mT, kernel, padding=width - 1)[..., :n].mT
    assert close(stream - x, convolved)


# ---- expansions ("The Path Expansion Trick") --------------------------------------------------------------------


def expanded(model: AttentionOnlyTransformer, tokens: Tensor, patterns: list[Tensor]) -> list[Tensor]:
    """The terms of the paper's expansion for one or two layers, each by a table over the vocabulary."""
    terms = [(model.W_E @ model.W_U)[tokens]]
    terms += [patterns[h[0]][:, h[1]] @ ov_circuit(model, h).dense()[tokens] for h in model.heads]
    for early in heads_of(model, 0):
        for late in heads_of(model, 1):
            circuit = model.W_E @ (W_OV(model, early) @ W_OV(model, late)) @ model.W_U
            terms.append((patterns[1][:, late[1]] @ patterns[0][:, early[1]]) @ circuit.dense()[tokens])
    return terms


def terms_by_path(model: AttentionOnlyTransformer, tokens: Tensor, patterns: list[Tensor]) -> dict[tuple, Tensor]:
    return {path: path_logits(model, tokens, patterns, path) for path in paths(model)}


@given(models(1))
def test_identity_06_logits_of_one_layer_are_the_direct_path_and_a_term_for_each_head(model):
    tokens, logits, cache = run(model)
    terms = expanded(model, tokens, cache.patterns)
    assert len(terms) == 1 + model.config.n_heads and close(sum(terms), logits)
    ours = terms_by_path(model, tokens, cache.patterns)
    assert all(close(ours[path], term) for path, term in zip(paths(model), terms, strict=True))


def test_identity_06_thirteen_terms_in_the_trained_models(one_layer, text):
    logits, cache = one_layer.run_with_cache(text)
    terms = terms_by_path(one_layer, text, cache.patterns)
    assert len(terms) == 13 and close(sum(terms.values()), logits)


@given(models(2))
def test_identity_07_logits_of_two_layers_have_virtual_heads_besides(model):
    tokens, logits, cache = run(model)
    terms, n = expanded(model, tokens, cache.patterns), model.config.n_heads
    assert len(terms) == 1 + 2 * n + n**2 and close(sum(terms), logits)
    ours = terms_by_path(model, tokens, cache.patterns)
    assert sorted(map(len, ours)) == [0] + [1] * 2 * n + [2] * n**2
    assert close(sum(ours.values()), logits)
    virtual = [path for path in ours if len(path) == 2]
    assert all(close(ours[path], terms[1 + 2 * n + path[0][1] * n + path[1][1]]) for path in virtual)


def test_identity_07_169_terms_in_the_trained_models(two_layer, text):
    logits, cache = two_layer.run_with_cache(text)
    terms = terms_by_path(two_layer, text, cache.patterns)
    assert [sum(len(path) == order for path in terms) for order in range(3)] == [1, 24, 144]
    assert close(sum(terms.values()), logits)


@given(models(2))
def test_identity_08_scores_of_the_second_layer_by_what_queries_and_keys_are_made_of(model):
    tokens, _, cache = run(model, batch=1)
    dest = model.config.n_ctx - 1
    for head in heads_of(model, 1):
        QK = W_QK(model, head).dense()
        for src in range(dest + 1):
            terms = score_terms(model, cache, head, dest, src)
            assert close(terms.sum(), cache.scores[1][0, head[1], dest, src])
            assert close(terms[0, 0], qk_circuit(model, head).dense()[tokens[0, dest], tokens[0, src]])
            assert close(terms[1, 1], positional_scores(model, head)[dest, src])
            for i, early in enumerate(heads_of(model, 0)):
                A, composed = cache.patterns[0][0, early[1]], model.W_E @ W_OV(model, early).dense()
                by_query = (A @ composed[tokens[0]] @ QK @ model.W_E[tokens[0]].T)[dest, src]
                by_key = (A @ induction_circuit(model, head, early).dense()[tokens[0]][:, tokens[0]].T)[src, dest]
                assert close(terms[2 + i, 0], by_query) and close(terms[0, 2 + i], by_key)


def test_identity_08_169_terms_and_those_of_positions_in_the_trained_models(two_layer, text):
    _, cache = two_layer.run_with_cache(text)
    assert score_parts(two_layer, (1, 0)) == ["token", "position"] + [f"0:{h}" for h in range(12)]
    for head in two_layer.heads:
        for dest, src in ((11, 11), (11, 5), (7, 0)):
            terms = score_terms(two_layer, cache, head, dest, src)
            content = torch.arange(len(terms)) != 1
            assert terms[content][:, content].numel() == (169 if head[0] else 1)
            assert close(terms.sum(), cache.scores[head[0]][0, head[1], dest, src])


@given(models(1), st.integers(1, 9), SEEDS)
def test_identity_09_what_a_neuron_reads_expands_like_a_logit(model, d_mlp, seed):
    W_in = normal(model.config.d_model, d_mlp, seed=seed)
    tokens, _, cache = run(model)
    before = cache.residual[1] @ W_in
    direct = (model.W_E @ W_in)[tokens]
    heads = [cache.patterns[0][:, h] @ (model.W_E @ W_OV(model, (0, h)) @ W_in).dense()[tokens] for _, h in model.heads]
    assert close(direct + sum(heads), before)
    ours = terms_by_path(read_by(model, W_in), tokens, cache.patterns)
    assert close(sum(ours.values()), before) and close(ours[()], direct)


def test_identity_09_in_the_trained_models(one_layer, text):
    W_in = normal(384, 4 * 384, seed=0)
    _, cache = one_layer.run_with_cache(text)
    assert close(sum(terms_by_path(read_by(one_layer, W_in), text, cache.patterns).values()), cache.residual[1] @ W_in)


def folded(W: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """What a LayerNorm does besides dividing, moved into the matrix that reads: centring, gain and bias."""
    centring = torch.eye(len(W), dtype=torch.double) - 1 / len(W)
    return centring @ gain.diag() @ W, bias @ W


@given(models(2), SEEDS)
def test_identity_10_a_layer_norm_folds_into_its_reader_but_for_the_division(model, seed):
    gain, bias = normal(2, model.config.d_model, seed=seed)
    tokens, _, cache = run(model)
    x, W = cache.residual[2], model.W_U
    normed = F.layer_norm(x, x.shape[-1:], gain, bias, eps=1e-5) @ W
    scale = (x.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    W_eff, b_eff = folded(W, gain, bias)
    reader = read_by(model, W_eff)
    assert close(reader(tokens) / scale + b_eff, normed)
    ours = terms_by_path(reader, tokens, cache.patterns)
    assert close(sum(term / scale for term in ours.values()) + b_eff, normed)
    shifted = x + normal(*x.shape[:2], 1, seed=seed)  # along (1, …, 1), which the centring removes
    assert close(shifted @ W_eff, x @ W_eff)


@given(models(1), SEEDS)
def test_identity_10_a_head_behind_a_layer_norm_moves_by_reweighted_attention(model, seed):
    gain, bias = normal(2, model.config.d_model, seed=seed)
    _, _, cache = run(model)
    x = cache.residual[0]
    scale = (x.var(-1, correction=0) + 1e-5).sqrt()
    for h in range(model.config.n_heads):
        A, OV = cache.patterns[0][:, h], W_OV(model, (0, h)).dense()
        W_eff, b_eff = folded(OV, gain, bias)
        literal = A @ F.layer_norm(x, x.shape[-1:], gain, bias, eps=1e-5) @ OV
        assert close((A / scale[:, None, :]) @ x @ W_eff + b_eff, literal)


def test_identity_10_in_the_trained_models(two_layer, text):
    gain, bias = normal(2, 384, seed=0)
    _, cache = two_layer.run_with_cache(text)
    x, scale = cache.residual[2], (cache.residual[2].var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    W_eff, b_eff = folded(two_layer.W_U, gain, bias)
    expected = F.layer_norm(x, x.shape[-1:], gain, bias) @ two_layer.W_U
    terms = terms_by_path(read_by(two_layer, W_eff), text, cache.patterns)
    assert close(sum(terms.values()) / scale + b_eff, expected)


# ---- low-rank matrices ("Working with Low-Rank Matrices") --------------------------------------------------------


@given(st.integers(2, 10), st.integers(1, 4), st.integers(2, 10), st.integers(1, 4), SEEDS)
def test_identity_11_a_product_in_either_order_has_the_same_eigenvalues_but_for_zeros(n, rank, m, other_rank, seed):
    A, B = low_rank(n, rank, m, seed), low_rank(m, other_rank, n, seed + 1)
    there, back = A @ B, B @ A
    assert same_but_for_zeros(there.eigenvalues(), torch.linalg.eigvals(there.dense()), 1e-7)
    assert power_sums_agree(there.eigenvalues(), back.eigenvalues())
    assert power_sums_agree(there.eigenvalues(), torch.linalg.eigvals(back.dense()))


def power_sums_agree(one: Tensor, other: Tensor) -> bool:
    """Σλᵏ for the first few k: the same where the non-zero eigenvalues are, however sensitive each of them is."""
    scale = max(one.abs().max(), other.abs().max())
    powers = torch.arange(1, 5)[:, None]
    return close(((one / scale) ** powers).sum(1), ((other / scale) ** powers).sum(1))


def some_of(matrix: LowRank, tokens: Tensor) -> LowRank:
    """The rows and columns of a table over the vocabulary that belong to some tokens."""
    return LowRank(matrix.left[tokens], matrix.right[:, tokens])


def test_identity_11_for_the_circuits_of_the_trained_models(trained, vocabulary):
    for head in trained.heads[::5]:
        for circuit in (ov_circuit(trained, head), qk_circuit(trained, head)):
            part = some_of(circuit, vocabulary)
            assert same_but_for_zeros(part.eigenvalues(), torch.linalg.eigvals(part.dense()), 1e-8)


@given(st.integers(2, 10), st.integers(1, 12), SEEDS)
def test_identity_12_trace_is_sum_of_eigenvalues_and_of_the_diagonal_in_either_order(n, rank, seed):
    matrix = low_rank(n, rank, n, seed)
    values = matrix.eigenvalues()
    trace, scale = matrix.trace(), matrix.norm() + 1
    other_order = LowRank(matrix.right, matrix.left)
    for same in (values.sum().real, matrix.diagonal().sum(), matrix.dense().trace(), other_order.trace()):
        assert abs(float(same) - trace) < 1e-9 * scale
    assert abs(float(values.sum().imag)) < 1e-9 * scale


def test_identity_12_for_the_circuits_of_the_trained_models(trained, text):
    for head in trained.heads:
        ov = ov_circuit(trained, head)
        values = ov.eigenvalues()
        assert close(values.sum().real, ov.trace(), 1e-9 * float(values.abs().sum() / abs(ov.trace())))
        assert close(ov.diagonal()[text[0]], ov.rows(text[0]).gather(1, text.T).squeeze(1))


@given(st.integers(1, 10), st.integers(1, 4), st.integers(1, 10), SEEDS)
def test_identity_13_the_norm_of_a_product_needs_small_matrices_only(n, rank, m, seed):
    matrix = low_rank(n, rank, m, seed)
    A, B = matrix.left, matrix.right
    assert close(matrix.norm() ** 2, ((A.T @ A) @ (B @ B.T)).trace().item())
    assert close(matrix.norm(), matrix.dense().norm().item())


@given(SEEDS)
def test_identity_13_the_norm_changes_with_the_order_of_the_factors_as_no_trace_does(seed):
    there = low_rank(300, 8, 300, seed)
    back = LowRank(there.right, there.left)
    assert close(there.trace(), back.trace(), 1e-8)
    assert there.norm() > 3 * back.norm() and there.norm() == pytest.approx(300 * math.sqrt(8), rel=0.2)
    assert back.norm() == pytest.approx(back.dense().norm().item())


@given(st.integers(1, 10), st.integers(1, 5), st.integers(1, 10), SEEDS)
def test_identity_14_the_svd_of_a_product_from_those_of_its_factors(n, rank, m, seed):
    matrix = low_rank(n, rank, m, seed)
    (U_A, S_A, V_A), (U_B, S_B, V_B) = (torch.linalg.svd(f, full_matrices=False) for f in (matrix.left, matrix.right))
    U_C, S_C, V_C = torch.linalg.svd(S_A.diag() @ V_A @ U_B @ S_B.diag(), full_matrices=False)
    U, S, V = matrix.svd()
    assert close(U_A @ U_C @ S_C.diag() @ V_C @ V_B, matrix.dense())
    assert close(U @ S.diag() @ V.T, matrix.dense())
    k = min(n, rank, m)
    assert close(S[:k], S_C[:k]) and close(S[:k], torch.linalg.svdvals(matrix.dense())[:k])
    assert close(matrix.singular_values()[:k], S_C[:k])
    identity = torch.eye(len(S), dtype=torch.double)
    assert close(U.T @ U, identity) and close(V.T @ V, identity)
    assert (S.diff() <= 0).all()


@given(st.integers(2, 10), st.integers(1, 5), st.integers(1, 6), SEEDS)
def test_identity_14_principal_components_likewise(n, rank, m, seed):
    matrix = low_rank(n, rank, m, seed)
    _, S, V = matrix.T.centred().T.svd()  # each column less its mean over the rows, which are the samples
    covariance = torch.cov(matrix.dense().T, correction=0).reshape(m, m)
    assert close(V @ (S**2 / n).diag() @ V.T, covariance)


def test_identity_14_for_heads_of_the_trained_models(trained):
    for head in trained.heads[::6]:
        U, S, V = W_OV(trained, head).svd()
        assert close(U @ S.diag() @ V.T, W_OV(trained, head).dense())
        assert close(S, torch.linalg.svdvals(W_OV(trained, head).dense())[:32])


@given(models(2, d_model=st.sampled_from([4, 6, 8])))
def test_identity_15_no_circuit_has_a_higher_rank_than_its_narrowest_head(model):
    d_head, d_model = model.config.d_head, model.config.d_model
    virtual = W_OV(model, (0, 0)) @ W_OV(model, (1, 0))
    for matrix in (W_OV(model, (0, 0)), W_QK(model, (1, 0)), virtual, ov_circuit(model, (1, 0)),
                   induction_circuit(model, (1, 0), (0, 0))):
        assert matrix.left.shape[1] == d_head == matrix.right.shape[0]
        assert torch.linalg.matrix_rank(matrix.dense()) <= min(d_head, d_model)


def test_identity_15_for_the_trained_models(two_layer):
    virtual = W_OV(two_layer, (0, 3)) @ W_OV(two_layer, (1, 3))
    for matrix in (W_OV(two_layer, (0, 3)), W_QK(two_layer, (1, 3)), virtual):
        assert torch.linalg.matrix_rank(matrix.dense()) == 32


# ---- copying and matching ("Summarizing OV/QK Matrices") ---------------------------------------------------------


@given(models(1))
def test_identity_16_the_copying_score_is_the_diagonal_over_the_sizes_of_the_eigenvalues(model):
    for head in model.heads:
        ov = ov_circuit(model, head)
        values = torch.linalg.eigvals(model.W_O[head] @ model.W_U @ model.W_E @ model.W_V[head])
        assert same_but_for_zeros(values, values.conj(), 1e-9)
        assert -1 - 1e-9 <= copying_score(model, head) <= 1 + 1e-9
        assert close(copying_score(model, head), (ov.dense().trace() / values.abs().sum()).item(), 1e-8)


def test_identity_16_for_the_trained_models(trained):
    for head in trained.heads:
        ov = ov_circuit(trained, head)
        values = ov.eigenvalues()
        assert same_but_for_zeros(values, values.conj())
        assert abs(copying_score(trained, head) - ov.diagonal().sum().item() / values.abs().sum().item()) < 1e-9


@pytest.mark.parametrize("n_factors", [1, 2, 4])
def test_identity_17_eigenvalues_of_random_matrices_take_no_side(n_factors):
    """Ginibre's law: symmetric about 0, some exactly real and about √(2nm/π) of them in products of m, few beside."""
    n, samples = 64, 120
    factors = normal(n_factors, samples, n, n, seed=n_factors)
    values = torch.linalg.eigvals(reduce(torch.matmul, factors))
    assert abs((values.real > 0).double().mean() - 0.5) < 0.02
    n_real = (values.imag == 0).sum(1).double().mean().item()
    assert n_real == pytest.approx(math.sqrt(2 * n * n_factors / math.pi), rel=0.15)
    scores = torch.tensor([positivity(one) for one in values])
    assert abs(scores.mean()) < 0.01 and scores.std() < 0.05
    if n_factors == 1:  # the distance between neighbours is of order 1
        beside, farther = ((values.imag.abs() > low) & (values.imag.abs() < low + 0.25) for low in (0.0, 1.0))
        assert beside.sum() < 0.5 * farther.sum()


def test_identity_17_nor_do_those_of_untrained_heads():
    config = ModelConfig(n_layers=1, n_heads=60, d_model=256, d_head=32, d_vocab=600)
    model = AttentionOnlyTransformer(config, seed=3)
    scores = torch.tensor([copying_score(model, head) for head in model.heads])
    assert abs(scores.mean()) < 0.02 and scores.std() == pytest.approx(0.044, rel=0.3)


@given(models(1), st.integers(1, 5))
def test_identity_18_other_signs_of_copying(model, k):
    """Whether tokens raise themselves most, or among the k most, or more than others on average."""
    ov = ov_circuit(model, (0, 0))
    dense = ov.dense()
    ranks = ov.diagonal_ranks()
    by_sorting = [1 + dense[t].sort(descending=True).indices.tolist().index(t) for t in range(len(dense))]
    assert ranks.tolist() == by_sorting
    n_top = dense.topk(min(k, len(dense))).indices == torch.arange(len(dense))[:, None]
    assert n_top.any(1).sum() == (ranks <= k).sum()
    centred = ov.centred()
    assert torch.equal(centred.diagonal_ranks(), ranks)
    above_average = dense.diagonal() - dense.mean(1)
    assert close(centred.diagonal(), above_average)
    assert abs(above_average.sum() - centred.eigenvalues().sum().real) < 1e-9 * (1 + centred.norm())


@given(st.integers(3, 12))
def test_identity_18_copying_lowering_and_moving_on(n):
    one = torch.eye(n, dtype=torch.double)
    signs = {"copies": one, "lowers": -one, "moves on": one.roll(1, 1)}
    ranks = {name: LowRank(table, one).diagonal_ranks().tolist() for name, table in signs.items()}
    assert ranks["copies"] == [1] * n and ranks["lowers"] == [n] * n and 1 not in ranks["moves on"]
    scores = {name: positivity(LowRank(table, one).eigenvalues()) for name, table in signs.items()}
    assert list(scores.values()) == pytest.approx([1, -1, 0], abs=1e-9)


def test_identity_18_for_the_trained_models(one_layer, vocabulary):
    for head in one_layer.heads:
        ov = some_of(ov_circuit(one_layer, head), vocabulary)
        standardised = (ov.diagonal() - ov.dense().mean(1)) / ov.dense().std(1)
        raised = ov.diagonal_ranks() < (len(vocabulary) + 1) / 2
        assert ((standardised > 0) == raised).double().mean() > 0.9
        assert close(ov.centred().trace(), (standardised * ov.dense().std(1)).sum().item(), 1e-8)


def test_identity_19_positive_eigenvalues_do_not_make_a_positive_diagonal():
    matrix = LowRank(torch.tensor([[-1.0, -6.0], [2.0, 6.0]]), torch.eye(2))
    assert positivity(matrix.eigenvalues()) == pytest.approx(1)
    assert same_but_for_zeros(matrix.eigenvalues(), torch.tensor([2.0, 3.0]))
    assert matrix.diagonal().tolist() == [-1, 6]


@given(st.integers(2, 6), SEEDS)
def test_identity_19_unless_the_eigenvectors_are_orthogonal(n, seed):
    values = normal(n, seed=seed).abs() + 0.1
    basis = torch.linalg.qr(normal(n, n, seed=seed + 1)).Q
    upright = LowRank(basis * values, basis.T)
    assert positivity(upright.eigenvalues()) == pytest.approx(1) and (upright.diagonal() > 0).all()
    skew = torch.eye(n, dtype=torch.double)
    skew[0, 1] = skew[1, 0] = 1 - 1e-2  # two eigenvectors that are nearly the same
    skewed = LowRank(skew * values, torch.linalg.inv(skew))
    assert positivity(skewed.eigenvalues()) == pytest.approx(1)
    assert (skewed.diagonal() < 0).any() == (max(values[:2]) * 0.99**2 > min(values[:2]))


# ---- composition ("Two-Layer Attention-Only Transformers") -------------------------------------------------------


def dense_pair(model: AttentionOnlyTransformer, early: tuple, late: tuple, kind: str) -> tuple[Tensor, Tensor]:
    """What the early head writes and what the late one reads, in the order of the product of row vectors."""
    QK = model.W_Q[late] @ model.W_K[late].T
    reads = {"Q": QK, "K": QK.T, "V": model.W_V[late] @ model.W_O[late]}[kind]
    return model.W_V[early] @ model.W_O[early], reads


def untrained_pair(d_model: int, d_head: int) -> AttentionOnlyTransformer:
    """Two layers of untrained heads, of three each."""
    return AttentionOnlyTransformer(
        ModelConfig(n_layers=2, n_heads=3, d_model=d_model, d_head=d_head, d_vocab=2, n_ctx=2)
    )


@pytest.mark.parametrize("d_model, d_head, expected", [(128, 16, 0.089), (256, 32, 0.063), (512, 64, 0.0442),
                                                       (768, 64, 0.0361), (4096, 128, 0.0156)])
def test_identity_20_random_heads_compose_by_one_over_the_root_of_the_width(d_model, d_head, expected):
    model = untrained_pair(d_model, d_head)
    for kind in KINDS:
        scores = composition_scores(model, kind)
        assert scores.mean().item() == pytest.approx(d_model**-0.5, rel=0.04) == pytest.approx(expected, rel=0.04)
        assert scores.std() < 0.1 * scores.mean()


@pytest.mark.parametrize("kind", KINDS)
@given(models(2))
def test_identity_20_composition_is_at_most_one_and_with_flat_spectra_one_over_the_root_of_the_rank(kind, model):
    assert composition_scores(model, kind).max() <= 1 + 1e-9
    writes, reads = dense_pair(model, (0, 0), (1, 0), kind)
    expected = ((writes @ reads).norm() / writes.norm() / reads.norm()).item()
    assert close(composition_score(model, (0, 0), (1, 0), kind), expected)
    flat = torch.linalg.qr(normal(8, 4, seed=0)).Q
    one = LowRank(flat, flat.T)
    assert close((one @ one).norm() / one.norm() ** 2, 4**-0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_identity_20_for_the_trained_models(kind, two_layer):
    scores = composition_scores(two_layer, kind).double()
    for early, late in ((0, 3), (7, 11)):
        writes, reads = dense_pair(two_layer, (0, early), (1, late), kind)
        expected = ((writes @ reads).norm() / writes.norm() / reads.norm()).item()
        assert close(composition_score(two_layer, (0, early), (1, late), kind), expected)
        assert scores[early, late].item() == pytest.approx(expected, rel=1e-6)


def in_basis(model: AttentionOnlyTransformer, M: Tensor) -> AttentionOnlyTransformer:
    """The same model with its residual stream written in another basis: ``x`` becomes ``x @ M``."""
    other, inverse = deepcopy(model), torch.linalg.inv(M)
    for name in ("W_E", "W_O", "W_pos"):
        getattr(other, name).copy_(getattr(model, name) @ M)
    for name in ("W_Q", "W_K", "W_V", "W_U"):
        getattr(other, name).copy_(inverse @ getattr(model, name))
    return other


def invertible(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A random rotation (or reflection), and the same with its axes stretched from 1 to 10 times."""
    rotation = torch.linalg.qr(normal(n, n, seed=seed)).Q
    return rotation, torch.linspace(1, 10, n, dtype=torch.double).diag() @ rotation


@given(models(2, d_model=st.sampled_from([4, 6, 8])), SEEDS)
def test_identity_21_composition_scores_depend_on_the_basis_unless_it_is_only_rotated(model, seed):
    tokens, logits, _ = run(model)
    rotation, stretch = invertible(model.config.d_model, seed)
    for M in (rotation, stretch):  # what stands in tokens is the same in any basis
        other = in_basis(model, M)
        assert close(other(tokens), logits)
        assert close(copying_score(other, (1, 0)), copying_score(model, (1, 0)), 1e-7)
        assert close(matching_score(other, (1, 0), (0, 0)), matching_score(model, (1, 0), (0, 0)), 1e-7)

    def change(M: Tensor) -> float:
        other = in_basis(model, M)
        return max(abs(composition_score(other, (0, 0), (1, 0), kind) - composition_score(model, (0, 0), (1, 0), kind))
                   for kind in KINDS)

    assert change(rotation) < 1e-9 and change(stretch) > 1e-6


def test_identity_21_for_the_trained_models(two_layer, text):
    rotation, stretch = invertible(384, seed=0)
    rotated, stretched = in_basis(two_layer, rotation), in_basis(two_layer, stretch)
    logits = two_layer(text)
    assert close(rotated(text), logits) and close(stretched(text), logits, 1e-8)
    scores, same, others = (composition_scores(m, "K").double() for m in (two_layer, rotated, stretched))
    assert close(same, scores, 1e-6) and (others - scores).abs().max() > 0.01


def shifted_products(model: AttentionOnlyTransformer, early: tuple, late: tuple, kind: str) -> list[Tensor]:
    """The four factors of a composition, multiplied in the right order and then begun one factor later each time."""
    into, out_of = {"Q": (model.W_Q, model.W_K.mT), "K": (model.W_K, model.W_Q.mT), "V": (model.W_V, model.W_O)}[kind]
    factors = [model.W_V[early], model.W_O[early], into[late], out_of[late]]
    return [torch.linalg.multi_dot(factors[i:] + factors[:i]) for i in range(4)]


@pytest.mark.parametrize("kind", KINDS)
@given(models(2, d_model=st.sampled_from([6, 8]), d_head=st.integers(1, 3)))
def test_identity_22_the_bug_of_the_first_figure_was_a_product_begun_at_another_factor(kind, model):
    """The authors' correction: a trace may be taken in any cyclic order, a Frobenius norm may not."""
    early, late = (0, 0), (1, 0)
    right, *bugs = shifted_products(model, early, late, kind)
    writes, reads = dense_pair(model, early, late, kind)
    assert close(composition_score(model, early, late, kind), (right.norm() / writes.norm() / reads.norm()).item())
    for bug in bugs:
        assert abs(bug.trace() - right.trace()) < 1e-9 * (right.norm() + bug.norm())
    small = [bugs[0], bugs[2]]  # those between heads' inner dimensions, as in the library of the authors
    assert all(matrix.shape == (model.config.d_head,) * 2 for matrix in small)
    assert all(abs(matrix.norm() / right.norm() - 1) > 1e-6 for matrix in small)


@pytest.mark.parametrize("d_model, d_head, expected", [(256, 32, 0.022), (768, 64, 0.0105)])
def test_identity_22_the_bug_has_a_baseline_of_its_own(d_model, d_head, expected):
    model = untrained_pair(d_model, d_head)
    ratios = []
    for early, late, kind in itertools.product(range(3), range(3), KINDS):
        writes, reads = dense_pair(model, (0, early), (1, late), kind)
        _, bug, _, other_bug = shifted_products(model, (0, early), (1, late), kind)
        ratios += [b.norm() / writes.norm() / reads.norm() for b in (bug, other_bug)]
    assert torch.stack(ratios).mean().item() == pytest.approx(math.sqrt(d_head) / d_model, rel=0.03)
    assert math.sqrt(d_head) / d_model == pytest.approx(expected, rel=0.03)


def test_identity_22_for_the_trained_models(two_layer):
    factors = 0.0
    for kind in KINDS:
        for early, late in ((0, 3), (7, 11)):
            right, bug, *_ = shifted_products(two_layer, (0, early), (1, late), kind)
            writes, reads = dense_pair(two_layer, (0, early), (1, late), kind)
            ours = composition_score(two_layer, (0, early), (1, late), kind)
            assert close(ours, (right.norm() / writes.norm() / reads.norm()).item())
            factors = max(factors, abs(math.log(bug.norm() / right.norm())))
    assert factors > 0.1  # here too the wrong order is far off


# ---- positions ("Models with positional heads", and positions that enter queries and keys only) ------------------


@contextmanager
def double_by_default() -> Iterator[None]:
    """Sinusoids are made in the default precision."""
    torch.set_default_dtype(torch.double)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float)


def rotation_by(offset: float, angles: Tensor) -> Tensor:
    """What takes the sinusoids of every position to those ``offset`` positions earlier, by acting from the right."""
    C, S = (offset * angles).cos().diag(), (offset * angles).sin().diag()
    return torch.cat([torch.cat([C, S], dim=1), torch.cat([-S, C], dim=1)])


@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10), st.floats(0.3, 3), SEEDS)
def test_identity_23_a_shift_of_sinusoids_is_a_rotation_so_that_a_head_can_choose_an_offset(
    half, n_ctx, offset, amplitude, seed
):
    offset %= n_ctx
    with double_by_default():
        sizes = {"n_heads": 1, "d_model": 2 * half, "d_head": 2 * half, "n_ctx": n_ctx}
        model = random_model(1, **sizes, positional_amplitude=amplitude)
    angles = float(n_ctx) ** -(torch.arange(half, dtype=torch.double) / half)
    R = rotation_by(offset, angles)
    assert close(R @ R.T, torch.eye(2 * half, dtype=torch.double))
    assert close(model.W_pos[offset:] @ R, model.W_pos[: n_ctx - offset])
    weights = normal(half, seed=seed).abs() + 0.1
    model.W_Q[0, 0] = R @ torch.cat([weights, weights]).diag() * math.sqrt(2 * half)
    model.W_K[0, 0] = torch.eye(2 * half)
    scores = positional_scores(model, (0, 0))
    distance = torch.arange(n_ctx)[:, None] - torch.arange(n_ctx)
    expected = (weights * ((distance - offset)[..., None] * angles).cos()).sum(-1) * amplitude**2
    assert close(scores, expected)
    assert torch.equal(scores[offset:].argmax(1), torch.arange(n_ctx - offset))


@given(models(2))
def test_identity_24_a_score_has_four_parts_content_and_position_of_either_side(model):
    tokens, _, cache = run(model)
    past = torch.ones(tokens.shape[1], tokens.shape[1]).tril().bool()
    for layer, h in model.heads:
        x, p, QK = cache.residual[layer], model.W_pos[: tokens.shape[1]], W_QK(model, (layer, h)).dense()
        content = x @ QK @ x.mT
        total = content + x @ QK @ p.T + p @ QK @ x.mT + positional_scores(model, (layer, h))
        assert close(cache.scores[layer][:, h][:, past], total[:, past])
        if layer == 0:
            table = qk_circuit(model, (0, h)).dense()
            assert close(content, table[tokens[:, :, None], tokens[:, None, :]])


def test_identity_24_for_the_trained_models(trained, text):
    _, cache = trained.run_with_cache(text)
    p, past = trained.W_pos[:12], torch.ones(12, 12).tril().bool()
    for layer, h in trained.heads:
        x, QK = cache.residual[layer][0], W_QK(trained, (layer, h)).dense()
        total = x @ QK @ x.T + x @ QK @ p.T + p @ QK @ x.T + positional_scores(trained, (layer, h))[:12, :12]
        assert close(cache.scores[layer][0, h][past], total[past])


# ---- the order of terms ("Term Importance Analysis") -------------------------------------------------------------


def by_order(model: AttentionOnlyTransformer, tokens: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The paper's algorithm, to the letter: logits and losses with the terms of order 0, 0 and 1, and so on.

    All patterns are forced. Each time what the heads would write is saved, and what was saved the last time is added.
    """
    patterns = model.run_with_cache(tokens)[1].patterns
    saved = dict.fromkeys(model.heads, 0.0)
    for _ in range(model.config.n_layers + 1):
        logits, cache = model.run_with_cache(tokens, patterns=patterns, replace=saved)
        yield logits, loss_per_token(model, tokens, patterns=patterns, replace=saved).mean()
        written = [A @ v @ W_O for A, v, W_O in zip(patterns, cache.values, model.W_O, strict=True)]
        saved = {(layer, h): written[layer][:, h] for layer, h in model.heads}


def mean_loss(logits: Tensor, tokens: Tensor) -> Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def assert_orders_add_up(model: AttentionOnlyTransformer, tokens: Tensor) -> None:
    logits, cache = model.run_with_cache(tokens)
    terms = terms_by_path(model, tokens, cache.patterns)
    losses = []
    for order, (with_order, loss) in enumerate(by_order(model, tokens)):
        total = sum(term for path, term in terms.items() if len(path) <= order)
        assert close(with_order, total) and close(loss, mean_loss(total, tokens))
        losses.append(loss)
    assert close(with_order, logits) and close(loss, loss_per_token(model, tokens).mean())
    assert close(losses[0] + sum(b - a for a, b in zip(losses, losses[1:], strict=False)), mean_loss(logits, tokens))


@given(models(2, n_ctx=st.integers(2, 7)))
def test_identity_25_the_algorithm_keeps_the_paths_up_to_an_order_and_the_last_order_is_the_model(model):
    assert_orders_add_up(model, random_tokens(model))


@given(models(3, n_ctx=st.integers(2, 4), n_heads=st.integers(1, 2)))
def test_identity_25_with_three_layers(model):
    assert_orders_add_up(model, random_tokens(model))


def test_identity_25_for_the_trained_models(two_layer, text):
    assert_orders_add_up(two_layer, text)


@given(models(2, n_ctx=st.integers(2, 7)))
def test_identity_25_either_layer_first_and_then_the_other_makes_up_order_one(model):
    tokens, _, cache = run(model)
    terms = terms_by_path(model, tokens, cache.patterns)
    first, second = (sum(terms[head,] for head in heads_of(model, layer)) for layer in (0, 1))
    direct, one, two, both = (mean_loss(terms[()] + t, tokens) for t in (0, first, second, first + second))
    *_, (up_to_one, _), _ = by_order(model, tokens)
    order_one = mean_loss(up_to_one, tokens) - direct
    for layer_alone in (one, two):
        assert abs((layer_alone - direct) + (both - layer_alone) - order_one) < 1e-9


# ---- skip-trigrams ("Interpretation as Skip-Trigrams", "Skip-Trigram Bugs") --------------------------------------


def effects_of_source(
    model: AttentionOnlyTransformer, head: tuple, source: int, destinations: Tensor
) -> tuple[Tensor, Tensor]:
    """How much the source in ``<START> source destination`` moves every logit through one head, and the attention.

    Measured: the logits with that head alone, less the same with an embedding of zeros for the source, patterns kept.
    """
    tokens = torch.stack([torch.zeros_like(destinations), torch.full_like(destinations, source), destinations], dim=1)
    patterns = model.run_with_cache(tokens)[1].patterns
    without = deepcopy(model)
    without.W_E[source] = 0
    others = {other: 0.0 for other in model.heads if other != head}
    moved = model(tokens, patterns=patterns, replace=others) - without(tokens, patterns=patterns, replace=others)
    return moved[:, -1], patterns[0][:, head[1], -1, 1]


@given(models(1, n_ctx=st.just(3), d_vocab=st.integers(4, 10)))
def test_identity_26_a_skip_trigram_is_a_product_so_that_bugs_follow(model):
    source = 2
    destinations = torch.tensor([t for t in range(1, model.config.d_vocab) if t != source])
    for head in model.heads:
        moved, attention = effects_of_source(model, head, source, destinations)
        assert close(moved, attention[:, None] * ov_circuit(model, head).rows(source))
        assert torch.linalg.svdvals(moved)[1] < 1e-9 * moved.norm()  # of (destination, out): rank 1
        wanted, raised = moved[0, 0] * moved[1, 1], moved[0, 1] * moved[1, 0]
        assert abs(wanted - raised) < 1e-9 * moved.norm() ** 2  # two rules and their crossed ones


def test_identity_26_for_the_trained_models(one_layer):
    destinations = torch.arange(700, 720)
    for head in one_layer.heads[::4]:
        moved, attention = effects_of_source(one_layer, head, 900, destinations)
        assert close(moved, attention[:, None] * ov_circuit(one_layer, head).rows(900))
        assert torch.linalg.svdvals(moved)[1] < 1e-9 * moved.norm()


# ---- what a head moves ("Two-Layer Attention-Only Transformers") -------------------------------------------------


def in_head_basis(model: AttentionOnlyTransformer, M: Tensor) -> AttentionOnlyTransformer:
    """The same model with the values of its heads written in another basis: ``v`` becomes ``v @ M``."""
    other = deepcopy(model)
    other.W_V.copy_(model.W_V @ M)
    other.W_O.copy_(torch.linalg.inv(M) @ model.W_O)
    return other


@given(models(1), SEEDS)
def test_identity_27_value_weighted_attention_bounds_what_arrives_in_any_basis_of_the_values(model, seed):
    tokens, _, cache = run(model)
    weighted = value_weighted(cache.patterns[0], cache.values[0], model.W_O[0])
    arrived = cache.head_outputs[0].norm(dim=-1)
    assert (arrived <= weighted.sum(-1) * (1 + 1e-9)).all()
    assert close(weighted[:, :, 0, 0], arrived[:, :, 0])  # <START> attends to itself alone
    _, M = invertible(model.config.d_head, seed)
    _, changed = in_head_basis(model, M).run_with_cache(tokens)
    assert close(value_weighted(changed.patterns[0], changed.values[0], in_head_basis(model, M).W_O[0]), weighted)


@given(models(2, n_ctx=st.integers(2, 7)))
def test_identity_27_logit_effects_are_entries_of_ov_circuits_and_make_up_the_logit(model):
    tokens, logits, cache = run(model)
    following = tokens[:, 1:]
    for h in range(model.config.n_heads):
        by_source = cache.patterns[0][:, h] @ ov_circuit(model, (0, h)).centred().dense()[tokens]
        expected = by_source[:, :-1].gather(2, following[..., None]).squeeze(2)
        assert close(logit_effect(model, cache.head_outputs[0][:, h], tokens), expected)
    outputs = [cache.residual[0], *(cache.head_outputs[layer][:, h] for layer, h in model.heads)]
    raised = logits[:, :-1].gather(2, following[..., None]).squeeze(2) - logits[:, :-1].mean(-1)
    assert close(sum(logit_effect(model, output, tokens) for output in outputs), raised)


def test_identity_27_for_the_trained_models(trained, text):
    logits, cache = trained.run_with_cache(text)
    outputs = [cache.residual[0], *(cache.head_outputs[layer][:, h] for layer, h in trained.heads)]
    raised = logits[:, :-1].gather(2, text[:, 1:, None]).squeeze(2) - logits[:, :-1].mean(-1)
    assert close(sum(logit_effect(trained, output, text) for output in outputs), raised)
    for layer in range(trained.config.n_layers):
        weighted = value_weighted(cache.patterns[layer], cache.values[layer], trained.W_O[layer])
        assert (cache.head_outputs[layer].norm(dim=-1) <= weighted.sum(-1) * (1 + 1e-9)).all()
