"""Correlations, of values and of ranks."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor


def pearson(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Linear correlation."""
    return torch.corrcoef(torch.stack([x, y]).double())[0, 1].item()


def spearman(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> float:
    """Correlation of ranks: 1 for any increasing relation. Equal values share the mean of their ranks."""
    return pearson(_ranks(x), _ranks(y))


def _ranks(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    _, place, ties = x.unique(return_inverse=True, return_counts=True)
    return (ties.cumsum(0) - (ties - 1) / 2)[place]


def standard_ranks(rows: Float[Tensor, "row n"]) -> Float[Tensor, "row n"]:
    """The ranks within each row, centred and of length 1: the dot product of two rows is their rank correlation.

    Equal values are ranked in the order in which they stand, so rows should hardly have any.
    """
    ranks = rows.argsort(dim=1, stable=True).argsort(dim=1).double()
    return F.normalize(ranks - ranks.mean(1, keepdim=True), dim=1)


def preference(values: Float[Tensor, "row n"], chosen: Bool[Tensor, "row n"]) -> float:
    """How often a chosen entry is larger than one that is not, of all such pairs within a row; 0.5 is chance.

    The mean over the rows that have entries of both kinds (the area under a ROC curve).
    """
    rows = chosen.any(1) & ~chosen.all(1)
    chosen, ranks = chosen[rows], values[rows].argsort(dim=1, stable=True).argsort(dim=1)
    n = chosen.sum(1).double()
    below = (ranks * chosen).sum(1) - n * (n - 1) / 2
    return (below / (n * (chosen.shape[1] - n))).mean().item()
