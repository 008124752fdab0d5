"""Explorers of a training."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from helpers import ReaderError
from helpers.explorers.shell import Explorer, head_menu, text_box
from helpers.explorers.texts import Reading, loss_view, read
from helpers.heads import prefix_matching_scores, previous_token_score
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.token_views import attention_view, bar_view, curve_view
from helpers.tokens import Tokenizer
from helpers.views import View

# ---- the course of training -------------------------------------------------------------------------------------


RANDOM_LENGTH = 20


@dataclass(frozen=True)
class Snapshot:
    """A model at one step of its training: a text, and what its heads do."""

    step: int
    reading: Reading
    scores: dict[str, Float[Tensor, " head"]]


def take_snapshot(
    checkpoints: Mapping[int, AttentionOnlyTransformer], tokenizer: Tokenizer, step: int, text: str
) -> Snapshot:
    """Raises ReaderError if the text is empty or longer than the context."""
    model = checkpoints[step]
    reading = read(model, tokenizer, text)
    scores = {
        "previous token": torch.cat([previous_token_score(pattern) for pattern in reading.cache.patterns]),
        "prefix matching": prefix_matching_scores(model, RANDOM_LENGTH).flatten(),
    }
    return Snapshot(step, reading, scores)


def explore_checkpoint(snapshot: Snapshot, head: Head) -> tuple[View, View, View]:
    """A model at one step of its training: a head's attention in a text, each token's loss, and what its heads do.

    Raises:
        ReaderError: no such head.
    """
    reading, step, (layer, h) = snapshot.reading, snapshot.step, head
    reading.model.check_heads([head])
    mean = f"Mean loss at step {step:,}: {reading.losses.mean():.2f} nats a token."
    names = [head_name(head) for head in reading.model.heads]
    best = {name: int(scores.argmax()) for name, scores in snapshot.scores.items()}
    peaks = [f"{name} {snapshot.scores[name][i]:.2f} (head {names[i]})" for name, i in best.items()]
    caption = (
        f"Heads at step {step:,}: attention to the previous token in this text, and to the induction target "
        f"in repeated random tokens. Largest: {', '.join(peaks)}."
    )
    scores = {name: values.tolist() for name, values in snapshot.scores.items()}
    pattern, last = reading.cache.patterns[layer][0, h], len(reading.names) - 1
    return (
        attention_view(reading.names, pattern, head_name(head), last, f"Step {step:,}."),
        loss_view(reading.names, reading.losses, "loss, nats", mean),
        bar_view(scores, names, "share of attention", caption),
    )


def checkpoint_explorer(
    checkpoints: Mapping[int, AttentionOnlyTransformer], tokenizer: Tokenizer, text: str, head: Head, step: int
) -> Explorer:
    """Go through a training by a slider: a head's attention in a text, each token's loss, and what all heads do.

    ``checkpoints`` has the model after each of some steps.
    """
    options = [(f"{s:,}", s) for s in checkpoints]
    slider = ipywidgets.SelectionSlider(options=options, value=step, description="Step", layout={"width": "98%"})
    snapshot = lru_cache(len(checkpoints))(partial(take_snapshot, checkpoints, tokenizer))

    def show(step: int, head: Head, text: str) -> tuple[View, View, View]:
        return explore_checkpoint(snapshot(step, text), head)

    return Explorer(show, {"step": slider, "head": head_menu(checkpoints[step], head), "text": text_box(text)})


# ---- a training, row by row -------------------------------------------------------------------------------------


LOSSES = {"text": "validation_loss", "random tokens": "random_first_copy", "their repetition": "random_second_copy"}
SCORES = {"previous token": "previous_token", "copying": "copying", "prefix matching": "prefix_matching"}
N_LAST = 3  # rows whose mean is the end of a curve
FAINT = 0.1  # a part that ends below has not formed


def explore_training(rows: Sequence[dict], step: int) -> tuple[View, View]:
    """A training at one of its steps: losses and the parts of an induction head with a cursor, and what all heads do.

    Args:
        rows: as ``formation.load_formation`` gives them, two at least; losses on text may be missing.

    Raises:
        ReaderError: there is no row for this step.
    """
    steps = [row["step"] for row in rows]
    if step not in steps:
        raise ReaderError(f"Nothing was measured at step {step:,}: choose one that is a row, such as {steps[-1]:,}.")
    i, parts = steps.index(step), head_parts(rows)
    losses = {name: [row[key] for row in rows] for name, key in LOSSES.items() if key in rows[0]}
    curves = {"loss, nats a token": losses, "parts of an induction head": {p: v.tolist() for p, v in parts.items()}}
    fall = rows[i]["random_first_copy"] - rows[i]["random_second_copy"]
    more_or_less = "more" if fall < -0.005 else "less"
    caption = (
        f"Step {step:,}, after {rows[i]['n_tokens'] / 1e6:.2f} million tokens: random tokens cost {abs(fall):.2f} nats "
        f"{more_or_less} when they come again. Parts are those of the heads that end best."
    )
    choices = [json.dumps({"step": f"{other:,}"}) for other in steps]
    series = {name: [score for layer in rows[i][key] for score in layer] for name, key in SCORES.items()}
    names = [head_name((layer, h)) for layer, heads in enumerate(rows[i]["copying"]) for h in range(len(heads))]
    lowest = min(score for row in rows for layer in row["copying"] for score in layer)
    return (
        curve_view(steps, curves, "step", i, caption, choices),
        bar_view(series, names, "score", what_has_formed(parts, i), (min(0.0, lowest), 1.0)),
    )


def head_parts(rows: Sequence[dict]) -> dict[str, Float[Tensor, " row"]]:
    """How strong each part of an induction head is in each row. The name of a part says which heads it is measured on.

    In two layers these are the head of layer 0 that looks back best in the end, and the head of layer 1 that matches
    prefixes best. Where no head reads another (one layer), or it need not (smeared keys), each part has its own best.
    """
    scores = {name: torch.tensor([row[key] for row in rows]) for name, key in SCORES.items()}
    ends = {name: of_heads[-N_LAST:].mean(0) for name, of_heads in scores.items()}
    if "matching" not in rows[0]:
        best = {name: divmod(int(end.argmax()), end.shape[1]) for name, end in ends.items()}
        return {f"{name} ({head_name(h)})": scores[name][:, h[0], h[1]] for name, h in best.items()}
    early, late = int(ends["previous token"][0].argmax()), int(ends["prefix matching"][1].argmax())
    below, head = head_name((0, early)), head_name((1, late))
    return {
        f"previous token ({below})": scores["previous token"][:, 0, early],
        f"copying ({head})": scores["copying"][:, 1, late],
        f"matching ({head} through {below})": torch.tensor([row["matching"][late][early] for row in rows]),
        f"prefix matching ({head})": scores["prefix matching"][:, 1, late],
    }


def what_has_formed(parts: Mapping[str, Float[Tensor, " row"]], i: int) -> str:
    """Which parts have half of their final strength at row ``i`` and from then on, which not yet, and which never."""
    found: dict[str, list[str]] = {"At least half formed": [], "Not yet": [], "Never in this training": []}
    formed, coming, never = found.values()
    for name, values in parts.items():
        end = values[-N_LAST:].mean()
        kind = never if end < FAINT else formed if (values[i:] >= end / 2).all() else coming
        kind.append(name)
    return " ".join(f"{kind}: {', '.join(names)}." for kind, names in found.items() if names)


def training_explorer(trainings: Mapping[str, Sequence[dict]], step: int) -> Explorer:
    """Go through one of some trainings row by row, by a slider or by a click on its curves.

    Args:
        trainings: the rows of each, by its name, as ``explore_training`` takes them.
        step: where to begin, or near it.
    """
    first = next(iter(trainings))
    slider = ipywidgets.SelectionSlider(options=_steps(trainings[first]), description="Step", layout={"width": "98%"})
    slider.value = _nearest(trainings[first], step)

    def show(training: str, step: int) -> tuple[View, View]:
        rows = trainings[training]
        if slider.options != _steps(rows):
            slider.options = _steps(rows)
            slider.value = step = _nearest(rows, step)
        return explore_training(rows, step)

    return Explorer(
        show, {"training": ipywidgets.Dropdown(options=[*trainings], description="Training"), "step": slider}
    )


def _steps(rows: Sequence[dict]) -> tuple[tuple[str, int], ...]:
    return tuple((f"{row['step']:,}", row["step"]) for row in rows)


def _nearest(rows: Sequence[dict], step: int) -> int:
    return min((row["step"] for row in rows), key=lambda other: abs(other - step))
