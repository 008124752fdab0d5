"""Claims of chapter 06_two_layer_induction."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    copying_score,
    eigenvalue_score,
    qk_eigenvalue_score,
    score_by_token,
    score_expansion,
)
from helpers.claims.ledger import at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import (
    all_patterns,
    direct_logit_attribution,
    induction_targets,
    prefix_matching_score,
    prefix_matching_scores,
    random_repeats,
)
from helpers.statistics import spearman
from helpers.stream import random_rotation


@claim("S-2L", at_least(0.35, weaker=0.2))
def _two_layers_have_induction_heads(models: Models) -> float:
    """Two-layer models form induction heads."""
    return prefix_matching_scores(models.two_layer, length=100, n_samples=8).max().item()


@claim("cl-induction-function", at_least(0.5, weaker=0.25), needs="induction_heads")
def _without_a_copy_induction_heads_rest(models: Models) -> float:
    """An induction head that finds no earlier copy of the present token attends to the first token."""
    first_copy = random_repeats(models.two_layer.config.d_vocab, 50, n_copies=1)
    return all_patterns(models.two_layer, first_copy)[1][:, models.induction_head[1], 1:, 0].mean().item()


@claim("fig20-examples", at_least(1.0, weaker=0.3), digits=4)
def _they_raise_what_followed_before(models: Models) -> float:
    """On real text, where a pair of tokens comes again, the induction head raises the logit of its second token."""
    tokens = models.contexts[:8]
    output = models.two_layer.cache(tokens).head_outputs[1][:, models.induction_head[1], :-1]
    return direct_logit_attribution(models.two_layer, output, tokens[:, 1:])[repeated_bigrams(tokens)].mean().item()


def repeated_bigrams(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos-1"]:
    """Where the token that comes next came right after an earlier copy of the present token as well."""
    same_next = (tokens[:, None, :] == tokens[:, 1:, None]) & induction_targets(tokens)[:, :-1]
    return same_next.any(-1)


@claim("int-random", at_least(0.4, weaker=0.2))
def _it_works_on_random_tokens(models: Models) -> float:
    """Induction heads work far from the training text, on random tokens that are repeated."""
    tokens = random_repeats(models.two_layer.config.d_vocab, 20, n_copies=3)
    return prefix_matching_score(all_patterns(models.two_layer, tokens)[1], tokens).max().item()


@claim("fig21-mechanism", at_least(0.8, weaker=0.5))
def _keys_come_from_the_previous_token(models: Models) -> float:
    """Taken apart by tokens, an induction head's key comes from the token before the source, its query from its own."""
    hits = []
    for tokens in random_repeats(models.two_layer.config.d_vocab, 20, n_samples=2):
        cache = models.two_layer.cache(tokens[None])
        for dest in range(21, 41):
            score = score_by_token(models.two_layer, cache, models.induction_head, dest, dest - 19)
            hits.append(bool(score.sum(0).argmax() == dest - 20 and score.sum(1).argmax() == dest))
    return sum(hits) / len(hits)


@claim("cl-minimal-induction", at_least(0.5, weaker=0.25), needs="induction_heads")
def _one_term_is_enough(models: Models) -> float:
    """Most of the score is one term: the query's token with what a previous-token head left in the key."""
    cache = models.two_layer.cache(random_repeats(models.two_layer.config.d_vocab, 20, n_samples=1))
    terms = score_expansion(models.two_layer, cache, models.induction_head)
    above = sum(terms[:, :, dest, dest - 19] - terms[:, :, dest, : dest + 1].mean(-1) for dest in range(21, 41))
    return (above[0, 2 + models.previous_token_head[1]] / above.sum()).item()


@claim("fig22-2D", at_least(0.85, weaker=0.6), needs="induction_heads")
def _induction_heads_are_in_the_corner(models: Models) -> float:
    """All induction heads are at the extreme of the eigenvalue scores of both circuits: OV, and QK through previous
    tokens.
    """
    return min(corner(models, head) for _, head in models.induction_heads)


def corner(models: Models, head: int) -> float:
    """The smaller of a second-layer head's two scores: of its OV circuit, and of QK through previous tokens."""
    matching = qk_eigenvalue_score(models.two_layer, (1, head), models.previous_token_head)
    return min(copying_score(models.two_layer, (1, head)), matching)


@claim("fig22-rank", at_least(0.6, weaker=0.3))
def _weights_rank_heads_as_behaviour_does(models: Models) -> float:
    """The weights alone put heads in nearly the order in which they match prefixes."""
    return spearman(torch.tensor([corner(models, head) for head in range(12)]), models.prefix_matching[1])


@claim("cl-not-circular", at_most(0.3), also_untrained=True)
def _composition_does_not_imply_matching(models: Models) -> float:
    """Large K-composition does not make the eigenvalues positive: that the head matches is a finding of its own."""
    model = models.two_layer
    early = W_OV(model, models.previous_token_head)
    reads = model.W_E @ W_QK(model, models.induction_head)

    def score(seed: int) -> float:
        rotation = random_rotation(model.config.d_model, seed).float()
        return eigenvalue_score((reads @ LowRank(rotation @ early.left, early.right).T @ model.W_E.T).eigenvalues())

    return sum(abs(score(seed)) for seed in range(10)) / 10
