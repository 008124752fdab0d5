"""What is measured during a training, and how its history is read.

Tokens seen are counted on a logarithmic scale, as the rows of a history are. Scores and the loss by position are those
of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import copying_score
from helpers.files import how_to_restore
from helpers.heads import loss_per_token, prefix_matching_scores, previous_token_scores, repeated_random_loss
from helpers.in_context import in_context_learning_score
from helpers.model import AttentionOnlyTransformer
from helpers.tokens import EncodedCorpus
from helpers.weights import load_model

N_LAST = 3  # rows at the end of a history whose mean is a "final" value: single rows are noisy


# ---- measuring --------------------------------------------------------------------------------------------------


def measure(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> dict:
    """A row of the history, on 32 fixed validation contexts and on 16 repeats of 20 random tokens.

    Raises:
        ReaderError: the training has diverged.
    """
    tokens = corpus.contexts("validation", 32, model.config.n_ctx)
    losses = loss_per_token(model, tokens)
    refuse_divergence(losses.mean().item(), model.config.d_vocab)
    first, second = repeated_random_loss(model)
    row = {
        "validation_loss": losses.mean().item(),
        "loss_by_position": losses.mean(0),
        "in_context_learning_score": in_context_learning_score(losses),
        "random_first_copy": first,
        "random_second_copy": second,
        "previous_token": previous_token_scores(model, tokens[:8]),
        "prefix_matching": prefix_matching_scores(model, length=20),
        "copying": [
            [copying_score(model, head) for head in model.layer_heads(layer)] for layer in range(model.config.n_layers)
        ],
    }
    return {name: rounded(value) for name, value in row.items()}


def rounded(value: Tensor | list | float, digits: int = 4) -> list | float:
    """A number, or all numbers of a tensor or a list, as few characters in a file."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return [rounded(v, digits) for v in value] if isinstance(value, list) else round(value, digits)


def refuse_divergence(loss: float, d_vocab: int, gradient: float = 0.0) -> None:
    """Raise ReaderError if loss or gradient are no longer numbers, or the loss is well above that of guessing."""
    guessing = math.log(d_vocab)
    if not math.isfinite(loss + gradient):
        found = "is no longer a number"
    elif loss > 1.2 * guessing:
        found = f"has risen to {loss:.1f} nats, where guessing blindly has {guessing:.1f}"
    else:
        return
    raise ReaderError(f"The loss {found}: start again with a lower learning rate; what was saved before is unharmed.")


# ---- what a training has left in its folder -----------------------------------------------------------------------


def load_history(folder: Path | str) -> list[dict]:
    """The rows that a training wrote, from its start on: "step", "n_tokens" and what ``measure`` returns.

    Raises:
        ReaderError: the file is missing or damaged.
    """
    return load_card(folder)["history"]


def load_card(folder: Path | str) -> dict:
    """All of ``history.json``: the settings ("training"), the "steps" done when it was saved, and the "history".

    Raises:
        ReaderError: the file is missing or damaged.
    """
    try:
        card = json.loads((Path(folder) / "history.json").read_text("utf8"))
        return {name: card[name] for name in ("training", "steps", "history")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReaderError(
            f"The history in {folder} is missing or damaged ({type(error).__name__}): {how_to_restore(Path(folder))}."
        ) from error


def load_checkpoints(folder: Path | str) -> dict[int, AttentionOnlyTransformer]:
    """The model at every step whose weights were kept, in order, the first and the last step included.

    The first is initialised again from its seed. Checkpoints may be kept in float8, which has three bits after the
    leading one; they come back as float32.

    Raises:
        ReaderError: a file is missing or damaged.
    """
    folder, card, end = Path(folder), load_card(folder), load_model(folder)
    start = AttentionOnlyTransformer(end.config, card["training"]["seed"]).requires_grad_(False).eval()
    files = sorted((folder / "checkpoints").glob("*.safetensors"))
    kept = {int(file.stem): load_model(folder, f"checkpoints/{file.name}") for file in files}
    return dict(sorted({**kept, 0: start, card["steps"]: end}.items()))


# ---- reading a history ------------------------------------------------------------------------------------------


def after_warmup(history: Sequence[dict], warmup_steps: int) -> list[dict]:
    """The rows from the end of the warm-up on; before it, the scores jump with the growing learning rate."""
    return [row for row in history if row["step"] >= max(1, warmup_steps)]


def column(history: Sequence[dict], name: str) -> Float[Tensor, "row ..."]:
    """One quantity of every row: numbers, or a score for each layer and head, or a loss for each position."""
    return torch.tensor([row[name] for row in history], dtype=torch.double)


def best_head(history: Sequence[dict], name: str) -> Float[Tensor, " row"]:
    """The highest score of any head in each row."""
    return column(history, name).flatten(1).amax(1)


def final(values: Float[Tensor, " row"]) -> float:
    """The mean of the last three rows."""
    return values[-N_LAST:].mean().item()


def passes(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"], level: float) -> float:
    """After how many tokens a curve stays at or above ``level``: its last crossing, interpolated in log tokens.

    The first row's tokens if the curve is never below, infinity if it ends below.
    """
    below = (values < level).nonzero().flatten().tolist()
    if not below:
        return tokens[0].item()
    if (last := below[-1]) == len(values) - 1:
        return float("inf")
    share = (level - values[last]) / (values[last + 1] - values[last])
    return (tokens[last] * (tokens[last + 1] / tokens[last]) ** share).item()


def slopes(tokens: Float[Tensor, " row"], values: Float[Tensor, " row"], width: int = 5) -> Float[Tensor, " window"]:
    """Change per e-fold of tokens, by least squares, in every window of ``width`` rows."""
    x = tokens.log().unfold(0, width, 1)
    y = values.unfold(0, width, 1)
    x = x - x.mean(1, keepdim=True)
    return (x * y).sum(1) / x.square().sum(1)
