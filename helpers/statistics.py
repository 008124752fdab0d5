"""Correlations, of values and of ranks, and how sure a number is: its interval, by resampling."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
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


# ---- intervals ----------------------------------------------------------------------------------------------------

N_RESAMPLES = 500


@dataclass(frozen=True)
class Estimate:
    """A number and its 95 % interval."""

    value: float
    low: float
    high: float


def resampled(
    statistic: Callable[..., Tensor | float], *samples: Shaped[Tensor, "unit ..."], n: int = N_RESAMPLES
) -> Estimate:
    """``statistic(*samples)`` and the middle 95 % of what it gives on ``n`` resamples (Efron's percentile bootstrap).

    A unit is what was drawn independently: a context, a pair of contexts, a rule, a word, a token. A resample draws as
    many units as there are, with replacement, the same ones of all ``samples``.

    Raises:
        ValueError: there is no unit.
    """
    if not (n_units := len(samples[0])):
        raise ValueError("There is nothing to resample.")
    generator = torch.Generator().manual_seed(0)
    again = (torch.randint(n_units, (n_units,), generator=generator) for _ in range(n))
    values = [float(statistic(*(sample[units] for sample in samples))) for units in again]
    low, high = (
        torch.tensor(values, dtype=torch.double).quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    )
    return Estimate(float(statistic(*samples)), low, high)


def mean_of(units: Shaped[Tensor, " unit"]) -> Estimate:
    """The mean over units, with its interval."""
    return resampled(torch.mean, units.double())


def ratio_of(numerators: Shaped[Tensor, " unit"], denominators: Shaped[Tensor, " unit"]) -> Estimate:
    """The sum of ``numerators`` over that of ``denominators``, with its interval."""
    return resampled(lambda above, below: above.sum() / below.sum(), numerators.double(), denominators.double())
