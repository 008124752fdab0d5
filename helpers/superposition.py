"""More features than dimensions: the smallest model that can share its directions, trained in a second or so.

Row vectors: ``n`` features ``x``, each 0 if absent and spread evenly between 0 and 1 if present, go into ``d`` < ``n``
dimensions as ``x @ W`` and are read back as ``ReLU(x @ W @ W.T + b)``, or without the ReLU. The loss is the mean
squared error, summed over features, each with its importance. After Elhage et al., "Toy Models of Superposition", 2022.

No features are drawn: a training goes through every set of features that can be present, weighted by its probability,
and evenly spread values for each. So losses hardly have noise, however rare features are.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.quasirandom import SobolEngine

from helpers import ReaderError, one_core

MOST_FEATURES = 8  # there are 2 to this power of sets

Probabilities = Float[Tensor, " set"]
Presence = Callable[[Bool[Tensor, "set feature"], float], Probabilities]


# ---- features -----------------------------------------------------------------------------------------------------


def feature_sets(n: int) -> Bool[Tensor, "set {n}"]:
    """Every set of ``n`` features, one a row; the empty set first.

    Raises:
        ReaderError: too many, or none.
    """
    if not 1 <= n <= MOST_FEATURES:
        raise ReaderError(f"{n} features are not possible here: choose 1 to {MOST_FEATURES}.")
    return (torch.arange(2**n)[:, None] >> torch.arange(n)) % 2 == 1


def _independently(sets: Bool[Tensor, "set feature"], p: float) -> Probabilities:
    return torch.tensor([1 - p, p], dtype=torch.double)[sets.long()].prod(1)


def _one_at_a_time(sets: Bool[Tensor, "set feature"], p: float) -> Probabilities:
    n = sets.shape[1]
    return torch.tensor([1 - n * p, p] + [0.0] * (n - 1), dtype=torch.double)[sets.sum(1)]


def _by_pairs(sets: Bool[Tensor, "set feature"], chances: Sequence[float]) -> Probabilities:
    """``chances`` of none, one certain one, and both of the features 0 and 1, and likewise of 2 and 3, …"""
    n_present = sets.unflatten(1, (-1, 2)).sum(2)
    return torch.tensor(chances, dtype=torch.double)[n_present].prod(1)


PRESENCE: dict[str, Presence] = {
    "independently": _independently,
    "one at a time": _one_at_a_time,
    "pairs together": lambda sets, p: _by_pairs(sets, (1 - p, 0.0, p)),
    "pairs apart": lambda sets, p: _by_pairs(sets, (1 - 2 * p, p, 0.0)),
}


@dataclass(frozen=True)
class Features:
    """Features of a toy model, each present with the same probability.

    Args:
        n: how many.
        come: how, a name from ``PRESENCE``. Pairs are features 0 and 1, 2 and 3, …: those that come together are
            present together or not at all (with values of their own), those that are kept apart never meet.
        importance: what a squared error of each costs; 1 by default.

    Raises:
        ReaderError: these features are not possible.
    """

    n: int
    come: str = "independently"
    importance: tuple[float, ...] = ()

    def __post_init__(self):
        feature_sets(self.n)
        if self.come not in PRESENCE:
            raise ReaderError(f"Features do not come {self.come!r}: choose one of {', '.join(PRESENCE)}.")
        if self.come.startswith("pairs") and self.n % 2:
            raise ReaderError(f"{self.n} features do not make pairs: choose an even number.")
        if self.importance and (len(self.importance) != self.n or min(self.importance) <= 0):
            raise ReaderError(f"Give {self.n} importances, all above 0, or none.")

    @property
    def most_frequent(self) -> float:
        """The largest probability that each feature can have."""
        return {"one at a time": 1 / self.n, "pairs apart": 0.5}.get(self.come, 1.0)

    @property
    def importances(self) -> Float[Tensor, " feature"]:
        return torch.tensor(self.importance or (1.0,) * self.n, dtype=torch.double)

    def probabilities(self, p: float) -> Probabilities:
        """Of every set of features, if each feature is present with probability ``p``.

        Raises:
            ReaderError: ``p`` is not possible.
        """
        if not 0 < p <= self.most_frequent:
            raise ReaderError(
                f"Each of {self.n} features that come {self.come} can be present with a probability above 0 and up to "
                f"{self.most_frequent:.3g}, but not with {p:g}."
            )
        return PRESENCE[self.come](feature_sets(self.n), p)

    def covariance(self, p: float) -> Float[Tensor, "feature feature"]:
        """Of the features: present ones have mean 1/2 and mean square 1/3, independently of each other."""
        sets = feature_sets(self.n).double()
        both = sets.T @ (self.probabilities(p)[:, None] * sets)  # how often two features are present together
        products = torch.where(torch.eye(self.n, dtype=torch.bool), both / 3, both / 4)
        return products - p * p / 4

    def examples(
        self, ps: Sequence[float], n_values: int
    ) -> tuple[Float[Tensor, "row feature"], Float[Tensor, "p row"]]:
        """Inputs and, for each probability of a feature, their weights, which sum to 1; evenly spread values."""
        sets, weights = feature_sets(self.n), torch.stack([self.probabilities(p) for p in ps])
        possible = weights.sum(0) > 0
        ranks = SobolEngine(self.n, scramble=True, seed=0).draw(n_values).argsort(0).argsort(0)
        rows = (sets[possible][:, None] * (ranks + 0.5) / n_values).flatten(0, 1)
        return rows, (weights[:, possible, None] / n_values).expand(-1, -1, n_values).flatten(1).float()


# ---- training -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sweep:
    """Toy models trained for some probabilities of a feature, the best of some starts for each."""

    features: Features
    linear: bool
    ps: tuple[float, ...]
    W: Float[Tensor, "p feature d"]
    b: Float[Tensor, "p feature"]
    loss: Float[Tensor, " p"]  # on other values than those of the training

    @property
    def d(self) -> int:
        return self.W.shape[-1]


@one_core()
def train_sweep(
    features: Features,
    d: int,
    ps: Sequence[float],
    *,
    linear: bool = False,
    n_starts: int = 8,
    n_steps: int = 700,
    seed: int = 0,
) -> Sweep:
    """Train models of ``d`` dimensions for all probabilities ``ps`` and from ``n_starts`` starts each, all at once.

    Raises:
        ReaderError: no features, or more dimensions than features.
    """
    if not 1 <= d <= features.n:
        raise ReaderError(f"{features.n} features do not go into {d} dimensions: choose 1 to {features.n}.")
    generator = torch.Generator().manual_seed(seed)
    W = 0.5 * torch.randn(n_starts, features.n, d, generator=generator)
    W, b = W.repeat(len(ps), 1, 1, 1).requires_grad_(), torch.zeros(len(ps), n_starts, features.n, requires_grad=True)
    x, weights = features.examples(ps, 32)
    scale = 1 / torch.tensor(ps)[:, None]  # so that rare features learn as fast as others
    optimizer = torch.optim.Adam([W, b], lr=0.03, betas=(0.9, 0.99), eps=1e-12)
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step / n_steps))
    for _ in range(n_steps):
        loss = _losses(W, b, x, weights, features, linear)
        optimizer.zero_grad()
        (scale * loss).sum().backward()
        optimizer.step()
        decay.step()
    best = loss.argmin(1)
    W, b = (parameter.detach()[torch.arange(len(ps)), best] for parameter in (W, b))
    return Sweep(features, linear, tuple(ps), W, b, expected_loss(W, b, features, ps, linear))


def _rate(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress)) + 1e-3


def _losses(
    W: Float[Tensor, "p start feature d"],
    b: Float[Tensor, "p start feature"],
    x: Float[Tensor, "row feature"],
    weights: Float[Tensor, "p row"],
    features: Features,
    linear: bool,
) -> Float[Tensor, "p start"]:
    read = x @ (W @ W.mT) + b[..., None, :]
    errors = ((read if linear else read.relu()) - x).square() @ features.importances.to(x)
    return (errors @ weights[:, :, None]).squeeze(-1)


@torch.no_grad()
def expected_loss(
    W: Float[Tensor, "p feature d"],
    b: Float[Tensor, "p feature"],
    features: Features,
    ps: Sequence[float],
    linear: bool = False,
) -> Float[Tensor, " p"]:
    """The loss of a model for each probability of a feature, on 1,024 values for each set of features."""
    x, weights = features.examples(ps, 1024)
    models = zip(W.double(), b.double(), weights.double(), strict=True)
    return torch.cat(
        [_losses(V[None, None], c[None, None], x.double(), w[None], features, linear)[0] for V, c, w in models]
    )


# ---- what is best -------------------------------------------------------------------------------------------------


def linear_optimum(features: Features, d: int, p: float) -> float:
    """The least loss without a ReLU: of the variances along principal components, the smallest ``n - d`` together.

    With ``C`` the covariance and ``D`` the importances, these are eigenvalues of ``D^½ C D^½``. No model, even one that
    reads by another matrix than ``W.T``, is better; this one reaches it if importances are equal or C is diagonal.
    """
    root = features.importances.sqrt()
    variances = torch.linalg.eigvalsh(root[:, None] * features.covariance(p) * root)
    return variances[: features.n - d].sum().item()


def loss_of_keeping(features: Features, d: int, p: float) -> float:
    """The loss if the ``d`` most important features have a dimension each, and of the others only the mean is known."""
    return features.importances.sort().values[: features.n - d].sum().item() * (p / 3 - p * p / 4)


def loss_of_opposite_pair(p: float, importance: tuple[float, float] = (1.0, 1.0)) -> float:
    """The loss of two independent features in one dimension, at 1 and at -1, without biases.

    If one is present, it is read exactly, and the ReLU cuts the other off. If both are, the larger is read too small by
    the smaller, which is not read at all: two errors whose mean square is 1/6.
    """
    return sum(importance) * p * p / 6


def sharing_pays_below(importance: tuple[float, float] = (1.0, 1.0)) -> float:
    """The probability below which an opposite pair loses less than keeping the more important of two features."""
    less, more = sorted(importance)
    return 4 * less / (2 * more + 5 * less)


# ---- interference -------------------------------------------------------------------------------------------------


def heard(W: Float[Tensor, "*p feature d"], linear: bool = False) -> Float[Tensor, "*p feature feature"]:
    """How much of another feature is heard in the reading of each (row): their product, 0 where a ReLU cuts it off.

    It stays the same under every rotation of the ``d`` dimensions. The diagonal is 0.
    """
    products = W @ W.mT
    products = products - torch.diag_embed(products.diagonal(dim1=-2, dim2=-1))
    return products if linear else products.relu()
