"""What updates the weights: AdamW for all of them, or Muon for the attention heads and AdamW for the rest.

A step along the gradient is mostly a step along its few largest singular values. Muon sets them all to about 1, so that
a head learns in every direction it can read or write at the same speed
(Jordan et al., 2024, https://kellerjordan.github.io/posts/muon).
"""

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from helpers.model import AttentionOnlyTransformer
from helpers.training.config import TrainingConfig
from helpers.training.machine import matmul_dtype

QUINTIC = 3.4445, -4.7750, 2.0315  # a·s + b·s³ + c·s⁵ takes any s in (0, 1] close to 1 when it is repeated
N_ITERATIONS = 3  # Jordan takes five; here heads form as fast with three


def new_optimizers(model: AttentionOnlyTransformer, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a training before its first step, each of some of the weights."""
    heads = [weight for weight in model.parameters() if weight.ndim == 4 and config.muon_learning_rate]
    others = [weight for weight in model.parameters() if weight.ndim != 4 or not config.muon_learning_rate]
    groups = [{"params": [weight for weight in others if weight is not model.smear]}]
    if model.smear is not None:
        groups.append({"params": [model.smear], "weight_decay": 0.0})  # a share, which has no reason to go to a half
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    return [adamw, Muon(heads, config.muon_learning_rate, dtype=matmul_dtype(config.precision))] if heads else [adamw]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal for each head by itself: ``torch.optim.Muon`` takes single matrices only.

    Nothing decays. ``dtype`` is that of the matrix products.
    """

    def __init__(
        self, weights: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32
    ):
        super().__init__(weights, {"lr": lr, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:
        """One update of every weight that has a gradient; the momentum looks one step ahead (Nesterov)."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                mean = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                mean.lerp_(weight.grad, 1 - group["momentum"])
                ahead = weight.grad.lerp(mean, group["momentum"])
                weight.sub_(group["lr"] * orthogonalised(ahead.to(self.dtype)))


def orthogonalised(
    weight: Float[Tensor, "layer head a b"], n_iterations: int = N_ITERATIONS
) -> Float[Tensor, "layer head a b"]:
    """Each head's matrix with the same singular vectors and with singular values near 1, by Newton–Schulz iteration."""
    is_tall = weight.shape[-2] > weight.shape[-1]
    x = (weight.mT if is_tall else weight).flatten(0, 1)
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    a, b, c = QUINTIC
    for _ in range(n_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).reshape(weight.shape)
