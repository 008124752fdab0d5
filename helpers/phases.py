"""When things happen in training, read off a history: half-way points, windows, slopes; and how sure a score is.

Tokens seen are counted on a logarithmic scale, as the rows of a history are. The score and the loss by position are
those of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022).
"""

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from helpers.measures import Pairs, paired_icl_scores
from helpers.model import AttentionOnlyTransformer, Head

N_LAST = 3  # rows at the end of a history whose mean is a "final" value: single rows are noisy


def after_warmup(history: Sequence[dict], warmup_steps: int) -> list[dict]:
    """The rows from the end of the warm-up on; before it, the scores jump with the growing learning rate."""
    return [row for row in history if row["step"] >= max(1, warmup_steps)]


def column(history: Sequence[dict], name: str) -> Float[Tensor, "row ..."]:
    """One quantity of every row: numbers, or a score for each layer and head, or a loss for each position."""
    return torch.tensor([row[name] for row in history], dtype=torch.double)


def best_head(history: Sequence[dict], name: str) -> Float[Tensor, " row"]:
    """Of a score that each head has, the largest of every row."""
    return column(history, name).flatten(1).amax(1)


def final(values: Float[Tensor, " row"]) -> float:
    """The mean of the last three rows."""
    return values[-N_LAST:].mean().item()


def passes(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"], level: float) -> float:
    """After how many tokens a curve is at or above ``level`` for good: its last crossing, between rows by their logs.

    The first row if the curve is never below, infinity if it ends below.
    """
    below = (values < level).nonzero().flatten().tolist()
    if not below:
        return tokens[0].item()
    if (last := below[-1]) == len(values) - 1:
        return float("inf")
    share = (level - values[last]) / (values[last + 1] - values[last])
    return (tokens[last] * (tokens[last + 1] / tokens[last]) ** share).item()


def half_way(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"]) -> float:
    """After how many tokens a curve has reached half of its final value for good; a falling one is turned over."""
    end = final(values)
    return passes(tokens, values * np.sign(end), abs(end) / 2)


def largest_share(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"], window: float) -> float:
    """The largest share of a final value that is gained within ``window`` of the training, a share of all tokens."""
    gain = (values[None, :] - values[:, None]) / final(values)
    wait = tokens[None, :] - tokens[:, None]
    return gain[(wait >= 0) & (wait <= window * tokens[-1])].max().item()


def slopes(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"], width: int = 5) -> Float[Tensor, " window"]:
    """Change for each e-fold of tokens, by least squares, in every window of ``width`` rows."""
    x = tokens.log().unfold(0, width, 1)
    y = values.unfold(0, width, 1)
    x = x - x.mean(1, keepdim=True)
    return (x * y).sum(1) / x.square().sum(1)


def resteepening(tokens: Float[Tensor, " row"], losses: Float[Tensor, " row"], width: int = 5) -> float:
    """How much faster a loss falls at some time than at some earlier time, nats for each e-fold of tokens.

    Speeds are those of windows of ``width`` rows. 0 for a curve that flattens all the way, which is what most losses
    do; a bump makes it large.
    """
    fall = -slopes(tokens, losses, width)
    return (fall - fall.cummin(0).values).max().item()


def position_slope(loss_by_position: Float[Tensor, " pos-1"], start: int) -> float:
    """Change of the loss for each e-fold of the position, from position ``start`` to the end, by least squares."""
    positions = torch.arange(1, len(loss_by_position) + 1, dtype=torch.double)
    return slopes(positions[start - 1 :], loss_by_position[start - 1 :], len(positions) - start + 1).item()


# ---- how sure ---------------------------------------------------------------------------------------------------


def icl_score_of_each_pair(
    model: AttentionOnlyTransformer, pairs: Pairs, removed: Mapping[Hashable, Sequence[Head]], width: int = 16
) -> dict[Hashable, Float[Tensor, " pair"]]:
    """``paired_icl_scores``, nats, of every pair by itself; their mean is that of all pairs."""
    long, short = pairs
    each = [paired_icl_scores(model, pair, removed, width) for pair in zip(long.split(1), short.split(1), strict=True)]
    return {name: torch.tensor([scores[name] for scores in each], dtype=torch.double) for name in removed}


def standard_error(values: Float[Tensor, " sample"]) -> float:
    """That of the mean of independent values."""
    return values.std().item() / len(values) ** 0.5


def resampled_means(
    values: Float[Tensor, "name sample"], n: int = 4000, seed: int = 0
) -> Float[Tensor, "name draw"]:
    """Means over samples drawn anew with replacement, ``n`` times, the same ones for every row (a bootstrap)."""
    size = values.shape[1]
    drawn = torch.randint(size, (n, size), generator=torch.Generator().manual_seed(seed))
    return values[:, drawn].mean(-1)
