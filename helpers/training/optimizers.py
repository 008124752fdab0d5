"""What updates the weights: AdamW for all of them, or Muon for the attention heads and AdamW for the rest.

A step along the gradient is mostly a step along its few largest singular values. Muon sets them all to about 1
(Jordan et al., 2024, https://kellerjordan.github.io/posts/muon). It does so for all heads of a layer together, so that
no two of them are moved in the same direction: heads that would share a task between them come to differ.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.model import AttentionOnlyTransformer
from helpers.training.config import TrainingConfig
from helpers.training.machine import matmul_dtype

QUINTIC = 3.4445, -4.7750, 2.0315  # a·s + b·s³ + c·s⁵ takes any s in (0, 1] close to 1 when it is repeated
N_ITERATIONS = 5
HEADS = ("W_Q", "W_K", "W_V", "W_O")


def new_optimizers(model: AttentionOnlyTransformer, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a training before its first step, each of some of the weights."""
    reading, writing = [model.W_Q, model.W_K, model.W_V], [model.W_O]
    learned = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    by_adamw = {n: w for n, w in learned.items() if not config.muon_learning_rate or n not in HEADS}
    decaying = [w for n, w in by_adamw.items() if n.startswith("W_")]
    others = [w for n, w in by_adamw.items() if not n.startswith("W_")]  # which have no reason to go to 0
    groups = [{"params": decaying}] + ([{"params": others, "weight_decay": 0.0}] if others else [])
    adamw = torch.optim.AdamW(
        groups, lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    if not config.muon_learning_rate:
        return [adamw]
    groups = [{"params": reading, "writes": False}, {"params": writing, "writes": True}]
    return [adamw, Muon(groups, config.muon_learning_rate, dtype=matmul_dtype(config.precision))]


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal for each layer: ``torch.optim.Muon`` takes single matrices only.

    Nothing decays. A group of weights that "writes" has the shape ``[layer, head, d_head, d_model]``, any other
    ``[layer, head, d_model, d_head]``. ``dtype`` is that of the matrix products.
    """

    def __init__(self, groups: list[dict], lr: float, momentum: float = 0.95, dtype: torch.dtype = torch.float32):
        super().__init__(groups, {"lr": lr, "momentum": momentum})
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
                ahead = weight.grad.lerp(mean, group["momentum"]).to(self.dtype)
                step = of_layers(ahead) if group["writes"] else of_layers(ahead.mT).mT
                weight.sub_(group["lr"] * step)


def of_layers(weight: Float[Tensor, "layer head d_head d_model"]) -> Float[Tensor, "layer head d_head d_model"]:
    """``orthogonalised`` for all heads of a layer as one matrix, ``[head and d_head, d_model]``."""
    return orthogonalised(weight.flatten(1, 2)).reshape(weight.shape)


def orthogonalised(weight: Float[Tensor, "layer a b"], n_iterations: int = N_ITERATIONS) -> Float[Tensor, "layer a b"]:
    """Each matrix with the same singular vectors and with singular values near 1, by Newton–Schulz iteration."""
    x = weight.mT if (is_tall := weight.shape[1] > weight.shape[2]) else weight
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    a, b, c = QUINTIC
    for _ in range(n_iterations):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
