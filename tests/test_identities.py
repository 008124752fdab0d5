"""The mathematics of the paper: each equation holds for random sizes and weights in float64, and each can fail.

Those of ``helpers.identities`` are seen to fail when one of their ingredients is wrong; the chapters hold them to the
trained models, as claims. The others are about matrices and scores. What single functions do with small examples stands
in the tests of their modules.
"""

import inspect
import math
import pkgutil
from dataclasses import replace
from functools import reduce

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import identities
from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    centred_unembedding,
    composition_score,
    composition_scores,
    copying_score,
    eigenvalue_score,
    induction_circuit,
    ov_circuit,
    positional_scores,
    qk_circuit,
    qk_eigenvalue_score,
    score_expansion,
    swapped_composition_score,
)
from helpers.heads import direct_logit_attribution, value_weighted_pattern
from helpers.model import AttentionOnlyTransformer, Cache, ModelConfig
from helpers.stream import component_outputs, in_basis, random_rotation, with_other_keys_and_values, with_weights
from helpers.weights import load_book_model
from tests import test_standard
from tests.examples import close, random_model, random_tokens, same_but_for_zeros

SEEDS = st.integers(0, 2**32)
SIZES = st.integers(1, 7)
KINDS = ("Q", "K", "V")


def models(n_layers: int | st.SearchStrategy[int], **sizes: st.SearchStrategy[int]) -> st.SearchStrategy:
    """Models with random weights and sizes."""
    drawn = {
        "n_heads": st.integers(1, 3),
        "d_model": st.sampled_from([2, 4, 6, 8]),
        "d_head": st.integers(1, 4),
        "d_vocab": st.integers(3, 10),
        "n_ctx": st.integers(2, 7),
    }
    n_layers = st.just(n_layers) if isinstance(n_layers, int) else n_layers
    return st.builds(random_model, n_layers, seed=SEEDS, **(drawn | sizes))


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def run(model: AttentionOnlyTransformer) -> tuple[Tensor, Tensor, Cache]:
    """Two texts of random tokens as long as the context allows, the logits after them, and the cache."""
    tokens = random_tokens(model, 2)
    return tokens, *model.run_with_cache(tokens)


# ---- equations that have a function -------------------------------------------------------------------------------

EQUATIONS = {  # and the fewest and the most layers that it is asked of
    "tensor_products": (0, 3),
    "virtual_heads": (2, 3),
    "forward_by_hand": (0, 3),
    "sum_of_outputs": (0, 3),
    "linear_when_frozen": (0, 3),
    "sum_of_paths": (0, 4),
    "ensemble_of_tables": (1, 1),
    "sum_of_scores": (1, 3),
    "virtual_weights": (1, 3),
    "low_rank_heads": (1, 3),
    "change_of_basis": (0, 3),
    "biases_folded": (0, 3),
    "orders_of_terms": (0, 3),
    "information_movement": (1, 3),
}


def error_of(name: str, model: AttentionOnlyTransformer) -> float:
    return getattr(identities, name)(model, random_tokens(model, 2))


def test_every_equation_is_tested():
    functions = inspect.getmembers(identities, lambda f: getattr(f, "__module__", "") == identities.__name__)
    assert {name for name, _ in functions if not name.startswith("_")} == {
        *EQUATIONS,
        *test_standard.EQUATIONS,
        "identity",
    }


@pytest.mark.parametrize("name", EQUATIONS)
@given(st.data())
def test_identity_holds_for_random_models(name, data):
    assert error_of(name, data.draw(models(st.integers(*EQUATIONS[name])))) < 1e-9


def test_what_is_not_a_number_equals_nothing():
    model = random_model()
    model.W_V[1, 1, 0, 0] = math.nan
    assert error_of("sum_of_paths", model) == math.inf


def transposed(real):
    """What makes a matrix, making its transpose."""
    return lambda *arguments: real(*arguments).T


def with_cache(**changes):
    """Change what the model's cache holds of every layer."""

    def change(real):
        def cache(model, tokens):
            kept = real(model, tokens)
            for name, what in changes.items():
                setattr(kept, name, [what(tensor) for tensor in getattr(kept, name)])
            return kept

        return cache

    return change


def ignoring(intervention: str):
    return lambda real: lambda *a, **others: real(*a, **{name: x for name, x in others.items() if name != intervention})


def heads_swapped(tensor: Tensor) -> Tensor:
    return tensor.flip(1)


MODEL, HERE = "helpers.model.AttentionOnlyTransformer", "helpers.identities"
WRONG = [  # an equation, an ingredient of it, and what is wrong with that
    ("tensor_products", f"{HERE}.W_OV", transposed),
    ("tensor_products", f"{MODEL}.cache", with_cache(patterns=heads_swapped)),
    ("virtual_heads", f"{HERE}.W_OV", transposed),
    ("virtual_heads", f"{HERE}.path_logits", lambda real: lambda m, t, A, path: real(m, t, A, path[::-1])),
    ("virtual_heads", f"{MODEL}.cache", with_cache(patterns=lambda A: 2 * A)),
    ("forward_by_hand", f"{MODEL}.attention", lambda real: lambda *a: tuple(map(heads_swapped, real(*a)))),
    ("forward_by_hand", f"{MODEL}.attention", lambda real: lambda m, x, layer: real(m, 2 * x, layer)),
    ("sum_of_outputs", f"{HERE}.component_outputs", lambda real: lambda *a: real(*a)[:-1]),
    ("sum_of_outputs", f"{MODEL}.cache", with_cache(values=heads_swapped)),
    ("linear_when_frozen", f"{MODEL}.residual_stream", ignoring("patterns")),
    ("sum_of_paths", f"{HERE}.paths", lambda real: lambda m: real(m)[:-1]),
    ("sum_of_paths", "math.comb", lambda real: lambda n, k: real(n, k) + 1),
    ("sum_of_paths", f"{MODEL}.cache", with_cache(patterns=heads_swapped)),
    ("ensemble_of_tables", "helpers.circuits.positional_scores", lambda real: lambda *a: 0 * real(*a)),
    ("ensemble_of_tables", "helpers.circuits.ov_circuit", transposed),
    ("sum_of_scores", f"{HERE}.score_expansion", lambda real: lambda *a: real(*a)[1:]),
    ("sum_of_scores", "helpers.circuits.W_QK", lambda real: lambda *a: LowRank(2 * real(*a).left, real(*a).right)),
    ("virtual_weights", f"{MODEL}.cache", with_cache(patterns=heads_swapped)),
    ("virtual_weights", f"{MODEL}.cache", with_cache(residual=lambda x: x + 1)),
    ("low_rank_heads", f"{HERE}.read_basis", lambda real: lambda *a: real(*a)[:, :-1]),
    ("low_rank_heads", f"{HERE}.W_OV", transposed),
    ("change_of_basis", f"{HERE}.in_basis", lambda real: lambda m, M: with_weights(real(m, M), W_pos=m.W_pos)),
    ("change_of_basis", "torch.linalg.inv", transposed),
    ("change_of_basis", f"{HERE}.with_other_keys_and_values", lambda _: lambda m, *_: with_weights(m, W_V=2 * m.W_V)),
    ("biases_folded", f"{HERE}.biased_logits", lambda real: lambda m, biases, tokens: m(tokens)),
    ("biases_folded", f"{HERE}.fold_biases", lambda real: lambda m, b: real(m, replace(b, O=0 * b.O))),
    ("orders_of_terms", f"{HERE}.term_importance", lambda real: lambda *a: real(*a)[::-1]),
    ("orders_of_terms", "helpers.terms.written_by_layer", lambda real: lambda *a: 0.9 * real(*a)),
    ("orders_of_terms", f"{HERE}.layer_importance", lambda real: lambda *a: dict.fromkeys(real(*a), real(*a)[0,])),
    ("information_movement", f"{HERE}.ov_circuit", transposed),
    ("information_movement", f"{MODEL}.residual_stream", ignoring("replace")),
]


def test_every_equation_can_fail():
    assert {name for name, *_ in WRONG} == {*EQUATIONS}


@pytest.mark.parametrize("name, ingredient, wrong", WRONG)
def test_identity_fails_with_a_wrong_ingredient(name, ingredient, wrong, monkeypatch):
    model = random_model(1 if name == "ensemble_of_tables" else 2)
    assert error_of(name, model) < 1e-9
    monkeypatch.setattr(ingredient, wrong(pkgutil.resolve_name(ingredient)))
    assert error_of(name, model) > 1e-3


# ---- tensor products and expansions -------------------------------------------------------------------------------


@given(SIZES, st.integers(1, 4), st.sampled_from([2, 4]), SEEDS)
def test_heads_that_attend_to_fixed_offsets_are_a_convolution(n, width, d_model, seed):
    model = random_model(1, seed=seed, n_heads=width, d_model=d_model, d_head=d_model, n_ctx=n)
    tokens = random_tokens(model, batch=1)
    shifts = torch.stack([torch.eye(n).roll(offset, 0).tril(-offset) for offset in range(width)]).double()
    stream = model.residual_stream(tokens, patterns=[shifts[None]])
    kernel = torch.stack([W_OV(model, (0, offset)).dense().T for offset in reversed(range(width))], dim=-1)
    x = model.W_E[tokens]
    assert close(stream - x, F.conv1d(x.mT, kernel, padding=width - 1)[..., :n].mT)


@given(models(2))
def test_terms_of_a_score_are_tables_with_attention_on_either_side(model):
    tokens, _, cache = run(model)
    text = tokens[0]
    for head in model.layer_heads(1):
        terms, W = score_expansion(model, cache, head), W_QK(model, head).dense()
        assert close(terms[0, 0], qk_circuit(model, head).rows(text)[:, text])
        assert close(terms[1, 1], positional_scores(model, head)[: len(text), : len(text)])
        for i, early in enumerate(model.layer_heads(0)):
            A, composed = cache.patterns[0][0, early[1]], model.W_E @ W_OV(model, early)
            assert close(terms[0, 2 + i], induction_circuit(model, head, early).rows(text)[:, text] @ A.T)
            assert close(terms[2 + i, 0], A @ (composed @ W @ model.W_E.T).rows(text)[:, text])


# ---- low-rank matrices ("Working with Low-Rank Matrices") ---------------------------------------------------------


@pytest.mark.parametrize("head", [(0, 0), (1, 3)])
def test_circuits_of_a_trained_model_are_known_by_small_matrices(head):
    """Eigenvalues, trace, norm and singular value decomposition of a square product."""
    model, some = load_book_model("two_layer").double(), torch.arange(300, 400)
    for circuit in (ov_circuit(model, head), qk_circuit(model, head)):
        matrix = LowRank(circuit.left[some], circuit.right[:, some])
        dense, values = matrix.dense(), matrix.eigenvalues()
        assert same_but_for_zeros(values, torch.linalg.eigvals(dense), 1e-7)
        assert close(values.sum().real, dense.trace()) and close(matrix.trace(), dense.trace().item())
        assert close(matrix.norm(), dense.norm().item())
        U, S, V = matrix.svd()
        assert close((U * S) @ V.T, dense) and close(U.T @ U, torch.eye(len(S)).double()) and close(V.T @ V, U.T @ U)
        assert close(S, torch.linalg.svdvals(dense)[: len(S)])


# ---- copying and matching ("Summarizing OV/QK Matrices") ----------------------------------------------------------


@given(models(1))
def test_the_copying_score_is_the_diagonal_over_the_sizes_of_the_eigenvalues(model):
    for head in model.heads:
        values = torch.linalg.eigvals(model.W_O[head] @ centred_unembedding(model) @ model.W_E @ model.W_V[head])
        assert same_but_for_zeros(values, values.conj()) and abs(copying_score(model, head)) <= 1 + 1e-9
        trace = ov_circuit(model, head).dense().trace()
        assert close(copying_score(model, head), (trace / values.abs().sum()).item(), 1e-8)


@pytest.mark.parametrize("n_factors", [1, 2, 4])
def test_eigenvalues_of_random_matrices_take_no_side(n_factors):
    """Ginibre's law: symmetric about 0, and about √(2nm/π) of them real in products of m; so scores are near 0."""
    n, samples = 64, 120
    values = torch.linalg.eigvals(reduce(torch.matmul, normal(n_factors, samples, n, n, seed=n_factors)))
    assert abs((values.real > 0).double().mean() - 0.5) < 0.02
    n_real = (values.imag == 0).sum(1).double().mean().item()
    assert n_real == pytest.approx(math.sqrt(2 * n * n_factors / math.pi), rel=0.15)
    scores = torch.tensor([eigenvalue_score(one) for one in values])
    assert abs(scores.mean()) < 0.01 and scores.std() < 0.05


def test_neither_do_those_of_untrained_heads():
    model = AttentionOnlyTransformer(ModelConfig(n_layers=1, n_heads=60, d_model=256, d_head=32, d_vocab=600), seed=3)
    scores = torch.tensor([copying_score(model, head) for head in model.heads])
    assert abs(scores.mean()) < 0.02 and scores.std() == pytest.approx(0.044, rel=0.3)


@given(models(1))
def test_the_diagonal_above_its_rows_averages_sums_to_the_centred_eigenvalues(model):
    ov = ov_circuit(model, (0, 0))
    dense, centred = ov.dense(), ov.centred()
    above_average = dense.diagonal() - dense.mean(1)
    assert close(centred.diagonal(), above_average) and torch.equal(centred.diagonal_ranks(), ov.diagonal_ranks())
    assert abs(above_average.sum() - centred.eigenvalues().sum().real) < 1e-9 * (1 + centred.norm())


@given(st.integers(2, 6), SEEDS)
def test_positive_eigenvalues_make_a_positive_diagonal_only_where_eigenvectors_are_orthogonal(n, seed):
    values = normal(n, seed=seed).abs() + 0.1
    basis = random_rotation(n, seed)
    upright = LowRank(basis * values, basis.T)
    assert eigenvalue_score(upright.eigenvalues()) == pytest.approx(1) and (upright.diagonal() > 0).all()
    skew = torch.eye(n, dtype=torch.double)
    skew[0, 1] = skew[1, 0] = 1 - 1e-2  # two eigenvectors that are nearly the same
    skewed = LowRank(skew * values, torch.linalg.inv(skew))
    assert eigenvalue_score(skewed.eigenvalues()) == pytest.approx(1)
    assert (skewed.diagonal() < 0).any() == (max(values[:2]) * 0.99**2 > min(values[:2]))


# ---- composition ("Two-Layer Attention-Only Transformers") --------------------------------------------------------


def untrained_pair(d_model: int, d_head: int) -> AttentionOnlyTransformer:
    sizes = {"n_heads": 3, "d_model": d_model, "d_head": d_head, "d_vocab": 2, "n_ctx": 2}
    return AttentionOnlyTransformer(ModelConfig(n_layers=2, **sizes)).requires_grad_(False)


@pytest.mark.parametrize("d_model, d_head", [(128, 16), (256, 32), (512, 64), (768, 64)])
@pytest.mark.parametrize("kind", KINDS)
def test_random_heads_compose_by_one_over_the_root_of_the_width(kind, d_model, d_head):
    """And with the wrong product by √d_head / d_model."""
    model = untrained_pair(d_model, d_head)
    scores = composition_scores(model, kind)
    assert scores.mean().item() == pytest.approx(d_model**-0.5, rel=0.04) and scores.std() < 0.1 * scores.mean()
    swapped = composition_scores(model, kind, swapped_composition_score)
    assert swapped.mean().item() == pytest.approx(d_head**0.5 / d_model, rel=0.06)


@given(models(2, d_model=st.sampled_from([4, 6, 8])), SEEDS)
def test_composition_scores_depend_on_the_basis_unless_it_is_only_rotated(model, seed):
    rotation = random_rotation(model.config.d_model, seed)
    stretch = torch.linspace(1, 10, model.config.d_model, dtype=torch.double).diag() @ rotation
    rotated, stretched = (in_basis(model, basis) for basis in (rotation, stretch))
    for other in (rotated, stretched):  # what stands in tokens is the same in any basis
        assert close(copying_score(other, (1, 0)), copying_score(model, (1, 0)), 1e-7)
        assert close(qk_eigenvalue_score(other, (1, 0), (0, 0)), qk_eigenvalue_score(model, (1, 0), (0, 0)), 1e-7)
    scores, same, others = (
        [composition_score(m, (0, 0), (1, 0), k) for k in KINDS] for m in (model, rotated, stretched)
    )
    assert same == pytest.approx(scores, rel=1e-9) and others != pytest.approx(scores, rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@given(models(2, d_model=st.sampled_from([6, 8]), d_head=st.integers(1, 3)))
def test_the_bug_of_the_first_figure_was_a_product_begun_at_another_factor(kind, model):
    """The authors' correction: a trace may be taken in any cyclic order, a Frobenius norm may not."""
    early, late = (0, 0), (1, 0)
    W = {"Q": (model.W_Q, model.W_K.mT), "K": (model.W_K, model.W_Q.mT), "V": (model.W_V, model.W_O)}[kind]
    factors = [model.W_V[early], model.W_O[early], W[0][late], W[1][late]]
    right, bug = (torch.linalg.multi_dot(factors[start:] + factors[:start]) for start in (0, 1))
    sizes = (factors[0] @ factors[1]).norm() * (factors[2] @ factors[3]).norm()
    assert abs(bug.trace() - right.trace()) < 1e-9 * (right.norm() + bug.norm())
    assert close(composition_score(model, early, late, kind), (right.norm() / sizes).item())
    assert close(swapped_composition_score(model, early, late, kind), (bug.norm() / sizes).item())
    assert abs(bug.norm() / right.norm() - 1) > 1e-6


# ---- positions ("Models with positional heads", and positions that enter queries and keys only) --------------------


@pytest.fixture
def double_by_default():
    """Sinusoids are made in the default precision."""
    torch.set_default_dtype(torch.double)
    yield
    torch.set_default_dtype(torch.float)


@pytest.mark.usefixtures("double_by_default")
@given(st.integers(1, 6), st.integers(2, 40), st.integers(0, 10), st.floats(0.3, 3), SEEDS)
def test_a_shift_of_sinusoids_is_a_rotation_so_heads_can_choose_an_offset(half, n, offset, size, seed):
    offset %= n
    sizes = {"n_heads": 1, "d_model": 2 * half, "d_head": 2 * half, "n_ctx": n}
    model = random_model(1, **sizes, positional_amplitude=size)
    angles = float(n) ** -(torch.arange(half) / half)
    C, S = (offset * angles).cos().diag(), (offset * angles).sin().diag()
    R = torch.cat([torch.cat([C, S], dim=1), torch.cat([-S, C], dim=1)])  # back by the offset, from the right
    assert close(R @ R.T, torch.eye(2 * half)) and close(model.W_pos[offset:] @ R, model.W_pos[: n - offset])
    weights = normal(half, seed=seed).abs() + 0.1
    W_Q = R @ torch.cat([weights, weights]).diag() * math.sqrt(2 * half)
    scores = positional_scores(with_weights(model, W_Q=W_Q[None, None], W_K=torch.eye(2 * half)[None, None]), (0, 0))
    distance = torch.arange(n)[:, None] - torch.arange(n)
    assert close(scores, size**2 * (weights * ((distance - offset)[..., None] * angles).cos()).sum(-1))
    assert torch.equal(scores[offset:].argmax(1), torch.arange(n - offset))


# ---- what a head moves --------------------------------------------------------------------------


@given(models(st.integers(1, 2)))
def test_value_weighted_attention_bounds_what_arrives_in_any_basis_of_the_values(model):
    tokens, _, cache = run(model)
    one = torch.eye(model.config.d_head, dtype=torch.double)
    other = with_other_keys_and_values(model, one, 3 * random_rotation(model.config.d_head) + one.tril())
    changed = other.cache(tokens)
    for layer in range(model.config.n_layers):
        weighted = value_weighted_pattern(cache.patterns[layer], cache.values[layer], model.W_O[layer])
        arrived = cache.head_outputs[layer].norm(dim=-1)
        assert (arrived <= weighted.sum(-1) * (1 + 1e-9)).all()
        assert close(weighted[:, :, 0, 0], arrived[:, :, 0])  # <START> attends to itself alone
        assert close(value_weighted_pattern(changed.patterns[layer], changed.values[layer], other.W_O[layer]), weighted)


@given(models(st.integers(0, 2)))
def test_direct_logit_attributions_of_all_components_make_up_the_logit(model):
    tokens, logits, _ = run(model)
    raised = logits.gather(2, tokens[..., None]).squeeze(2) - logits.mean(-1)
    outputs = component_outputs(model.cache(tokens))
    assert close(sum(direct_logit_attribution(model, output, tokens) for output in outputs), raised)
