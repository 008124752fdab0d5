"""How a model forms: what is measured of the many checkpoints of a training, and when its heads turn.

``python -m helpers.training --recipe laptop --seed 30 --out runs/laptop_seed30`` keeps the weights every forty steps.
Then::

    python -m helpers.formation runs/laptop_seed30                          # measure all that it kept
    python -m helpers.formation runs/laptop_smeared --heads                 # only its heads, not its losses on text
    python -m helpers.formation runs/laptop_seed30 --out data/formations    # write laptop_seed30.json there

A row of a history is quick to measure and comes while the model trains. A row here is measured on 2,000 contexts and
takes some three seconds on one thread; after an interruption the same command goes on. Claims about trainings rest on
these rows, which the book keeps in ``data/formations``, and not on the weights.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.circuits import copying_score, qk_eigenvalue_score
from helpers.files import DATA, book_folder, how_to_restore, write_or_explain
from helpers.heads import next_token_losses, prefix_matching_score, previous_token_scores, random_repeats
from helpers.history import N_LAST, after_warmup, column, final, load_card, load_checkpoints, passes, rounded, slopes
from helpers.in_context import WIDTH, Pairs, pairs_of_contexts
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import EncodedCorpus, load_encoded
from helpers.training.machine import matmul_dtype, tuned_process

FRESH_SEEDS: Sequence[int] = range(30, 40)  # of the laptop's recipes; trained after the criteria had been set
CLAMPED_SEEDS: Sequence[int] = (0, 1, 2)  # of which there are trainings under a clamp, too
REPEAT_LENGTH = 50
BANDS = (1, 2, 4, 8, 16, 32, 64)  # positions at which a band of ``loss_by_band`` begins; the last goes to the end


# ---- measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """What all checkpoints of a training are measured on; every seed has its own."""

    repeats: Int[Tensor, "sample pos"]  # random tokens, repeated once
    contexts: Int[Tensor, "context n_ctx"]  # few, for where heads attend
    pairs: Pairs  # the long ones of them serve for the loss as well

    @classmethod
    def draw(cls, corpus: EncodedCorpus, model: ModelConfig, seed: int, n_pairs: int = 2000) -> "Texts":
        """From the validation text of ``corpus``, for a training with ``seed``."""
        seed += 1000
        return cls(
            random_repeats(model.d_vocab, REPEAT_LENGTH, n_samples=32, seed=seed),
            corpus.contexts("validation", 32, model.n_ctx, seed),
            pairs_of_contexts(corpus.validation, n_pairs, model.n_ctx, WIDTH, seed),
        )


@torch.no_grad()
def head_scores(model: AttentionOnlyTransformer, texts: Texts) -> dict:
    """What every head does, ``[layer][head]``, and the losses on the first and second copy of random tokens.

    "matching" is of every head of layer 1 through every head of layer 0, ``[late][early]``: see
    ``circuits.qk_eigenvalue_score``.
    """
    cache = model.cache(texts.repeats)
    losses = next_token_losses((cache.residual[-1] @ model.W_U)[:, :-1], texts.repeats)
    by_layer = [model.layer_heads(layer) for layer in range(model.config.n_layers)]
    scores = {
        "prefix_matching": [prefix_matching_score(pattern, texts.repeats) for pattern in cache.patterns],
        "previous_token": previous_token_scores(model, texts.contexts),
        "copying": [[copying_score(model, head) for head in heads] for heads in by_layer],
        "random_first_copy": losses[:, :REPEAT_LENGTH].mean(),
        "random_second_copy": losses[:, REPEAT_LENGTH + 1 :].mean(),
    }
    if len(by_layer) == 2 and model.smear is None:
        early, late = by_layer
        scores["matching"] = [[qk_eigenvalue_score(model, head, writer) for writer in early] for head in late]
    return scores


def text_scores(model: AttentionOnlyTransformer, texts: Texts) -> dict:
    """The paired in-context-learning score with its standard error, and the loss: mean, and by bands of position."""
    late, early = (losses(model, tokens) for tokens in texts.pairs)
    of_pairs = late[:, -WIDTH:].mean(1) - early[:, -WIDTH:].mean(1)
    return {
        "validation_loss": late.mean(),
        "loss_by_band": [band.mean() for band in late.tensor_split([b - 1 for b in BANDS[1:]], dim=1)],
        "icl_score": of_pairs.mean(),
        "icl_score_error": of_pairs.std() / len(of_pairs) ** 0.5,
    }


@torch.no_grad()
def losses(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
    """``heads.loss_per_token`` in the precision of a training, bfloat16 where that is faster: right to 1e-3 on average.

    Single tokens are off by a hundredth of a nat, this way or that.
    """
    dtype = matmul_dtype("auto")
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        logits = ((model(chunk)[:, :-1].to(model.W_U.dtype), chunk) for chunk in tokens.split(32))
        return torch.cat([next_token_losses(of_chunk, chunk) for of_chunk, chunk in logits])


def measured(
    checkpoints: Iterable[tuple[int, AttentionOnlyTransformer]], texts: Texts, tokens_per_step: int, heads_alone: bool
) -> Iterable[dict]:
    """A row for each (step, model)."""
    for step, model in checkpoints:
        scores = head_scores(model, texts) | ({} if heads_alone else text_scores(model, texts))
        yield as_row(step, tokens_per_step, scores)


def as_row(step: int, tokens_per_step: int, scores: dict) -> dict:
    """As in a history, to four digits."""
    return {"step": step, "n_tokens": step * tokens_per_step} | {name: rounded(score) for name, score in scores.items()}


def measure_run(folder: Path, file: Path, corpus: EncodedCorpus, heads_alone: bool = False) -> list[dict]:
    """Measure every checkpoint that a training left in ``folder``, and keep the rows in ``file`` as they come.

    Rows that ``file`` has of the same training are not measured again.

    Raises:
        ReaderError: the training's files or ``file`` are damaged, or ``file`` cannot be written.
    """
    checkpoints, settings = load_checkpoints(folder), load_card(folder)["training"]
    model = next(iter(checkpoints.values())).config
    head = {"model": asdict(model), "training": settings, "heads_alone": heads_alone}
    kept = _load(file) if file.exists() else {}
    rows = kept["rows"] if {name: kept.get(name) for name in head} == head else []
    done = {row["step"] for row in rows}
    missing = [(step, checkpoints[step]) for step in checkpoints if step not in done]
    texts = Texts.draw(corpus, model, settings["seed"])
    with tuned_process():
        new = measured(missing, texts, settings["batch_size"] * model.n_ctx, heads_alone)
        for row in tqdm(new, total=len(missing), desc=folder.name, unit=" checkpoints"):
            rows = sorted([*rows, row], key=lambda one: one["step"])
            save_rows(rows, file, **head)
    return rows


def save_rows(rows: list[dict], file: Path, **about) -> None:
    """Write ``rows`` one to a line, and before them what else is known of the training."""
    mark = json.dumps({**about, "rows": []})
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    write_or_explain(file, lambda f: f.write(f"{mark[:-2]}\n{lines}\n{mark[-2:]}\n".encode()))


def load_formation(name: str, seed: int = 0) -> list[dict]:
    """The rows of a training that come with the book, such as "laptop" with seed 30.

    Raises:
        ReaderError: the book has none of it, or the file is damaged.
    """
    return _load(DATA / "formations" / f"{book_folder(name, seed).name}.json")["rows"]


def _load(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text("utf8")))
    except (OSError, ValueError) as error:
        raise ReaderError(f"{file} is missing or damaged: {how_to_restore(file)}.") from error


# ---- curves -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """A quantity along a training. Its *share* at some time is what it has then of its final value."""

    tokens: Float[Tensor, " row"]
    values: Float[Tensor, " row"]

    def share(self, n_tokens: float) -> float:
        """The share after so many tokens, on the straight line between two rows."""
        return float(np.interp(n_tokens, self.tokens, self.values)) / final(self.values)

    def reaches(self, share: float) -> float:
        """After how many tokens it has this share for good."""
        end = final(self.values)
        return passes(self.tokens, self.values / end, share)

    def slope(self, start: float, end: float) -> float:
        """Change per e-fold of tokens between two times, by least squares."""
        here = (self.tokens >= start) & (self.tokens <= end)
        return slopes(self.tokens[here], self.values[here], int(here.sum())).item()


def curve(rows: list[dict], name: str, layer: int | None = None) -> Curve:
    """One quantity from the first step on; the best head's, perhaps of one layer only, where every head has one."""
    rows = after_warmup(rows, 0)
    values = column(rows, name)
    if layer is not None:
        values = values[:, layer]
    return Curve(column(rows, "n_tokens"), values if values.ndim == 1 else values.flatten(1).amax(1))


def repeats_curve(rows: list[dict]) -> Curve:
    """How far the loss falls from the first to the second copy of random tokens."""
    first, second = (curve(rows, f"random_{which}_copy") for which in ("first", "second"))
    return Curve(first.tokens, first.values - second.values)


@dataclass(frozen=True)
class Turn:
    """When the best head's prefix matching has a tenth, half and nine tenths of its final value, tokens."""

    start: float
    middle: float
    end: float


def turn_of(rows: list[dict]) -> Turn:
    """The turn of a training."""
    return Turn(*map(curve(rows, "prefix_matching").reaches, (0.1, 0.5, 0.9)))


# ---- which part forms first ---------------------------------------------------------------------------------------


def half_formed(rows: list[dict], free: list[dict] | None = None) -> dict[str, float]:
    """After how many tokens each part of the induction circuit has half of its final strength for good.

    With the rows of a ``free`` training, half of what the part has at the end of that: infinite if it never does.

    The parts are the attention of the best "previous token" head of layer 0, the "copying" of the OV circuit of the
    best induction head of layer 1, and the "matching" of its QK circuit through the former; the whole is its
    "prefix matching".
    """
    ends = {part: final(of_part.values) for part, of_part in circuit_parts(free or rows).items()}
    return {part: passes(c.tokens, c.values / ends[part], 0.5) for part, c in circuit_parts(rows).items()}


def circuit_parts(rows: list[dict]) -> dict[str, Curve]:
    """The curve of each part of the induction circuit: see ``half_formed``."""
    rows = after_warmup(rows, 0)
    previous, prefixes = column(rows, "previous_token")[:, 0], column(rows, "prefix_matching")[:, 1]
    early, late = (int(scores[-N_LAST:].mean(0).argmax()) for scores in (previous, prefixes))
    parts = {
        "previous token": previous[:, early],
        "copying": column(rows, "copying")[:, 1, late],
        "matching": column(rows, "matching")[:, late, early],
        "prefix matching": prefixes[:, late],
    }
    return {part: Curve(column(rows, "n_tokens"), values) for part, values in parts.items()}


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``measure_run`` does."""
    parser = argparse.ArgumentParser("python -m helpers.formation", description="Measure a training's checkpoints.")
    parser.add_argument("folder", type=Path, help="of a training that kept checkpoints")
    parser.add_argument("--out", type=Path, help="folder for the rows, in place of that of the training")
    parser.add_argument("--heads", action="store_true", help="measure the heads alone, which is quick")
    parser.add_argument("--threads", type=int, default=1)
    a = parser.parse_args(arguments)
    torch.set_num_threads(a.threads)
    d_vocab = load_checkpoints(a.folder)[0].config.d_vocab
    file = a.out / f"{a.folder.name}.json" if a.out else a.folder / "formation.json"
    measure_run(a.folder, file, load_encoded(d_vocab=d_vocab), a.heads)


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
