"""What the ledger says is said of a model, not of how its weights happen to be written.

A model has exact symmetries: other weights with the very same probabilities. Every number of the ledger is measured on
the book's models and on copies that are rewritten by all of them at once, in float64.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property

import pytest
import torch

from helpers.circuits import swapped_composition_score
from helpers.claims import CLAIMS, Claim, Evidence, models
from helpers.claims.models import Models
from helpers.dictionary import Dictionary
from helpers.model import AttentionOnlyTransformer
from helpers.standard import StandardTransformer, fold
from helpers.stream import in_basis, random_rotation, with_other_keys_and_values, with_shifted_logits, with_weights

Symmetry = Callable[[AttentionOnlyTransformer], AttentionOnlyTransformer]
TOLERANCE = 1e-6  # relative, or absolute below 1


def rotated(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    return in_basis(model, random_rotation(model.config.d_model, seed=1))


def in_other_head_bases(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    d_head, generator = model.config.d_head, torch.Generator().manual_seed(2)
    keys, values = (torch.randn(d_head, d_head, generator=generator).double() for _ in "KV")
    return with_other_keys_and_values(model, keys, values)


def shifted(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    shift = torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(3))
    return with_shifted_logits(model, shift.double() * 0.7 * model.W_U.norm(dim=0).mean() / shift.norm())


def order(n_heads: int) -> torch.Tensor:
    return torch.randperm(n_heads, generator=torch.Generator().manual_seed(4))


def reordered(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    per_head = {name: weight for name, weight in model.named_parameters() if name not in ("W_E", "W_U")}
    return with_weights(model, **{name: weight[:, order(model.config.n_heads)] for name, weight in per_head.items()})


def reordered_row(of_heads: list[float]) -> list[float]:
    return [of_heads[head] for head in order(len(of_heads)).tolist()]


SYMMETRIES = (rotated, in_other_head_bases, shifted, reordered)


# ---- the same of models with LayerNorm, biases and neurons -----------------------------------------------------------


def leaving_the_mean(rotation: torch.Tensor) -> torch.Tensor:
    """A rotation of one dimension more, which leaves (1, 1, …) in place."""
    n = len(rotation) + 1
    axes = torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.eye(n)[:, 1:]], dim=1).double()).Q
    return axes @ torch.block_diag(torch.ones(1, 1).double(), rotation.double()) @ axes.T


def folded_and_rotated(model: StandardTransformer) -> StandardTransformer:
    model, rotation = fold(model), leaving_the_mean(random_rotation(model.config.d_model - 1, seed=1))
    writers = {name: getattr(model, name) @ rotation for name in ("b_O", "W_out", "b_out")}
    return with_weights(in_basis(model, rotation), **writers, W_in=rotation.T @ model.W_in)


def in_other_head_bases_with_biases(model: StandardTransformer) -> StandardTransformer:
    d_head, generator = model.config.d_head, torch.Generator().manual_seed(2)
    keys, values = (torch.randn(d_head, d_head, generator=generator).double() for _ in "KV")
    biases = {"b_K": model.b_K @ keys, "b_Q": model.b_Q @ torch.linalg.inv(keys).T, "b_V": model.b_V @ values}
    return with_weights(with_other_keys_and_values(model, keys, values), **biases)


def heads_and_neurons_reordered(model: StandardTransformer) -> StandardTransformer:
    heads, neurons = order(model.config.n_heads), order(model.config.d_mlp)
    of_heads = {name: getattr(model, name)[:, heads] for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")}
    reads = {name: getattr(model, name)[..., neurons] for name in ("W_in", "b_in")}
    return with_weights(model, **of_heads, **reads, W_out=model.W_out[:, neurons])


WITH_ALL_PARTS = {
    rotated: folded_and_rotated,
    in_other_head_bases: in_other_head_bases_with_biases,
    shifted: shifted,
    reordered: heads_and_neurons_reordered,
}


def rewritten(model: AttentionOnlyTransformer, symmetry: Symmetry) -> AttentionOnlyTransformer:
    return (WITH_ALL_PARTS[symmetry] if isinstance(model, StandardTransformer) else symmetry)(model)


@dataclass(frozen=True)
class Rewritten(Models):
    """The models of a seed in float64, rewritten by some symmetries."""

    by: tuple = field(default=())

    def load(self, name: str) -> AttentionOnlyTransformer:
        model = super().load(name).double()
        for symmetry in self.by:
            model = rewritten(model, symmetry)
        return model

    @cached_property
    def dictionary(self) -> Dictionary:
        """The dictionary, whose features are where they were in the rewritten stream."""
        dictionary = super().dictionary.double()
        if rotated not in self.by:
            return dictionary
        basis = random_rotation(dictionary.W_dec.shape[1], seed=1)
        reads, writes = {"W_enc": basis.T @ dictionary.W_enc}, {"W_dec": dictionary.W_dec @ basis}
        dictionary.load_state_dict(dictionary.state_dict() | reads | writes | {"b_dec": dictionary.b_dec @ basis})
        return dictionary

    def formation(self, name: str) -> list[dict]:
        """What was measured along a training, with the heads of every row in the order of the rewritten model."""
        rows = super().formation(name)
        if reordered not in self.by:
            return rows
        per_head = [key for key, value in rows[0].items() if isinstance(value, list) and isinstance(value[0], list)]
        return [row | {key: [reordered_row(layer) for layer in row[key]] for key in per_head} for row in rows]


def numbers(evidence: Evidence | None) -> list[float]:
    """All that the ledger reports of a claim on one seed."""
    parts = [] if evidence is None else [part for part in (evidence.value, evidence.control) if part]
    return [number for part in parts for number in (part.value, part.low, part.high)]


def same(one: list[float], other: list[float]) -> bool:
    close = [abs(a - b) <= TOLERANCE * max(1, abs(a)) for a, b in zip(one, other, strict=True)]
    return len(one) == len(other) and all(close)


def measured(claim: Claim, on: Models) -> list[float]:
    return numbers(claim.measured(on))


@cache
def of_chapter(chapter: str) -> tuple[Models, Models]:
    """The models as they are and rewritten; kept for the claims of one chapter, which share what is measured."""
    return Rewritten(0), Rewritten(0, by=SYMMETRIES)


@pytest.fixture(autouse=True)
def small_samples(monkeypatch):
    monkeypatch.setattr(models, "N_CONTEXTS", 6)
    monkeypatch.setattr(models, "N_PAIRS", 24)


@pytest.fixture(scope="module", autouse=True)
def let_go():
    yield
    of_chapter.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", SYMMETRIES)
@pytest.mark.parametrize("name", ["one_layer", "two_layer", "laptop", "laptop_standard"])
def test_a_symmetry_changes_the_weights_and_no_probability(name, symmetry):
    model = Models(0).load(name).double()
    tokens = torch.randint(1, model.config.d_vocab, (2, 40), generator=torch.Generator().manual_seed(0))
    other = rewritten(model, symmetry)
    assert any(
        (a - b).abs().max() > 1e-3 for a, b in zip(model.parameters(), other.parameters(), strict=True) if a.numel()
    )
    assert (model(tokens).log_softmax(-1) - other(tokens).log_softmax(-1)).abs().max() < 1e-9


@pytest.mark.slow
@pytest.mark.parametrize("slug", CLAIMS)
def test_every_number_of_the_ledger_is_the_same_on_a_rewritten_copy(slug):
    claim = CLAIMS[slug]
    plain, rewritten = of_chapter(claim.chapter)
    one, other = measured(claim, plain), measured(claim, rewritten)
    assert one
    if not same(one, other):
        moved = [
            symmetry.__name__ for symmetry in SYMMETRIES if not same(one, measured(claim, Rewritten(0, by=(symmetry,))))
        ]
        pytest.fail(f"{slug} is moved by {moved}: {one} against {other}")


# ---- gauges that are none -----------------------------------------------------------------------------------------


def uncentred(model: AttentionOnlyTransformer) -> torch.Tensor:
    return model.W_U


def centred_over_the_stream(model: AttentionOnlyTransformer) -> torch.Tensor:
    return model.W_U - model.W_U.mean(0)


def weighted_by_values_alone(pattern: torch.Tensor, values: torch.Tensor, W_O: torch.Tensor) -> torch.Tensor:
    """As the paper writes it, ``A_ij ‖v_j‖``."""
    return pattern * values.norm(dim=-1)[:, :, None, :]


def variances_of_coordinates(rows: torch.Tensor) -> torch.Tensor:
    return (rows - rows.mean(0)).square().mean(0).sort(descending=True).values


def swapped_scores(model: AttentionOnlyTransformer) -> torch.Tensor:
    pairs = [[(early, late) for late in model.layer_heads(1)] for early in model.layer_heads(0)]
    scores = [[[swapped_composition_score(model, *p, kind) for p in row] for row in pairs] for kind in "QKV"]
    return torch.tensor(scores, dtype=torch.double)


def of_the_first_head(models: Models) -> tuple[int, int]:
    return 0, 0


WRONG_GAUGES = [  # what is planted, in whose place, a claim that rests on it, and the symmetry that shows it
    ("helpers.circuits.centred_unembedding", uncentred, "fig15-eig-scatter", shifted),
    ("helpers.claims.chapter_06.centred_unembedding", uncentred, "fig20-examples", shifted),
    ("helpers.circuits.centred_unembedding", centred_over_the_stream, "cl-copying-alternatives", rotated),
    ("helpers.claims.chapter_05.value_weighted_pattern", weighted_by_values_alone, "int-HP", in_other_head_bases),
    ("helpers.claims.chapter_01.principal_variances", variances_of_coordinates, "cl-pca-embed", rotated),
    ("helpers.claims.models.of_all_kinds", swapped_scores, "eq-composition", in_other_head_bases),
    ("helpers.claims.models.Models.previous_token_head", property(of_the_first_head), "fig22-2D", reordered),
]


@pytest.mark.slow
@pytest.mark.parametrize("place, wrong, slug, symmetry", WRONG_GAUGES)
def test_a_wrong_gauge_is_caught(monkeypatch, place, wrong, slug, symmetry):
    monkeypatch.setattr(place, wrong)
    one, other = (measured(CLAIMS[slug], Rewritten(0, by=by)) for by in ((), (symmetry,)))
    assert not same(one, other)
