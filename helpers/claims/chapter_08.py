"""Claims of chapter 08_phase_change.

Most are of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022), measured on the
book's models; those about trainings are in ``chapter_08_training``.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import LowRank, matching_circuit
from helpers.claims.ledger import Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.in_context import paired_icl_scores, raised_by_context, shuffled_texts
from helpers.model import AttentionOnlyTransformer
from helpers.statistics import Estimate, mean_of, pearson, ratio_of, resampled
from helpers.stream import with_weights
from helpers.terms import logits_without_composition

# ---- two algorithms -----------------------------------------------------------------------------------------------

Raised = tuple[Float[Tensor, " text"], Float[Tensor, " text"]]  # any token of the context; the successor above that


@claim("S-diff", at_least(0.5), needs="trained", control="two layers without K-composition")
def _two_algorithms(models: Models) -> Evidence:
    """One and two layers learn in context by different algorithms: one layer makes any token of the context likelier,
    two layers the one that followed the present token before.
    """
    one = _raised(models, models.one_layer)
    two, control = (_raised(models, models.two_layer, without=kinds) for kinds in ("", "K"))
    return Evidence(resampled(_each_its_own, *one, *two), resampled(_each_its_own, *one, *control))


def _raised(models: Models, model: AttentionOnlyTransformer, without: str = "") -> Raised:
    """What a model makes of contexts whose tokens stand in random order."""
    texts = shuffled_texts(models.contexts)[:, :128]
    chunks = zip(texts.split(2), texts.roll(1, 0).split(2), strict=True)
    sums = [raised_by_context(logits_without_composition(model, text, without), text, other) for text, other in chunks]
    any_token, successor = (torch.cat(of_chunks) for of_chunks in zip(*sums, strict=True))
    return any_token, successor


def _each_its_own(
    any_of_one: Float[Tensor, " text"],
    successor_of_one: Float[Tensor, " text"],
    any_of_two: Float[Tensor, " text"],
    successor_of_two: Float[Tensor, " text"],
) -> float:
    """The smaller of copying's share in what one layer does for a successor, and induction's in what two layers do."""
    copying = any_of_one.sum() / (any_of_one + successor_of_one).sum()
    induction = successor_of_two.sum() / (any_of_two + successor_of_two).sum()
    return min(copying, induction).item()


# ---- in-context learning, in pairs --------------------------------------------------------------------------------


@claim("icl-one-layer-never", at_most(0.5), needs="matching_heads", control="two layers, their other heads gone")
def _one_layer_never(models: Models) -> Evidence:
    """A model of one layer gains much less from a longer context than one of two."""
    return Evidence(_of_intact(models, "one layer"), _of_intact(models, "no other heads of layer 1"))


@claim("icl-ablation", at_least(0.85), needs="matching_heads", control="without all other heads of layer 1")
def _it_is_the_induction_heads(models: Models) -> Evidence:
    """Almost all in-context learning of a small attention-only model comes from its induction heads."""
    return Evidence(_lost(models, "no matching heads"), _lost(models, "no other heads of layer 1"))


@claim("icl-others-raise", at_least(0.15), needs="matching_heads", control="logits halved")
def _the_others_stand_in_the_way(models: Models) -> Evidence:
    """The other heads of the second layer together weaken in-context learning."""
    intact, pairs = models.icl_scores["two layers"], tuple(contexts[:250] for contexts in models.pairs)
    poorer = with_weights(models.two_layer, W_U=models.two_layer.W_U / 2)
    halved = paired_icl_scores(poorer, pairs, {"halved": ()}, width=8)["halved"]
    growth = models.icl_scores["no other heads of layer 1"] - intact
    return Evidence(ratio_of(growth, intact), ratio_of(halved - intact[:250], intact[:250]))


def _of_intact(models: Models, name: str) -> Estimate:
    """A score as a share of that of the intact two layers."""
    return ratio_of(models.icl_scores[name], models.icl_scores["two layers"])


def _lost(models: Models, name: str) -> Estimate:
    """The share of that score which is gone."""
    intact = models.icl_scores["two layers"]
    return ratio_of(intact - models.icl_scores[name], intact)


# ---- from weights -------------------------------------------------------------------------------------------------


@claim("icl-qk-trace", at_least(0.5), needs="trained", control="tokens paired at random", digits=3)
def _trace_from_weights(models: Models) -> Evidence:
    """Which heads match prefixes, and how well, can be told from weights: by a trace of QK circuits."""
    model, scores = models.two_layer, models.prefix_matching[1]
    circuits = [matching_circuit(model, head, models.previous_token[0]) for head in model.layer_heads(1)]

    def explained(parts: Float[Tensor, "token head"]) -> float:
        return max(0.0, pearson(parts.sum(0), scores)) ** 2

    n = model.config.d_vocab
    at_random = [torch.randperm(n, generator=torch.Generator().manual_seed(i)) for i in range(50)]
    control = torch.tensor([explained(_parts_of_traces(circuits, other)) for other in at_random])
    return Evidence(resampled(explained, _parts_of_traces(circuits, torch.arange(n)), n=200), mean_of(control))


def _parts_of_traces(circuits: list[LowRank], paired: Int[Tensor, " token"]) -> Float[Tensor, "token head"]:
    """What each token, with the one that it is ``paired`` with, adds to the trace of each circuit.

    Less what all embeddings have in common, which matches any two tokens.
    """
    left = [circuit.left - circuit.left.mean(0) for circuit in circuits]
    right = [(circuit.right - circuit.right.mean(1, keepdim=True)).T[paired] for circuit in circuits]
    return torch.stack([(one * other).sum(1) for one, other in zip(left, right, strict=True)], dim=1).double()
