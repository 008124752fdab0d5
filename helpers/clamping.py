"""Trainings in which a part of the induction circuit is given from the start, or withheld to the end.

After "What needs to go right for an induction head?" (Singh et al., 2024), who clamp activations along a training to
find which part waits for which. Each clamp is a model of its own here. With the same seed it begins with the same
weights as the free model and reads the same contexts in the same order::

    python -m helpers.clamping given --recipe laptop --seed 0 --out runs/given
"""

import argparse
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.files import book_folder
from helpers.formation import Texts, as_row, half_formed, head_scores, save_rows
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import EncodedCorpus, load_encoded
from helpers.training import RECIPES, train
from helpers.training.recipes import Recipe

Attention = tuple[Float[Tensor, "batch head dest src"], Float[Tensor, "batch head dest src"]]  # scores and pattern


class PreviousTokenGiven(AttentionOnlyTransformer):
    """The first head of layer 0 attends to the previous token, whatever its weights say; ``<START>`` to itself."""

    def attention(self, residual: Tensor, layer: int, keys_read: Tensor | None = None) -> Attention:
        """As of any model, but for that head."""
        scores, pattern = super().attention(residual, layer, keys_read)
        if layer == 0:
            given = previous_token_places(pattern.shape[-1]).to(pattern)
            given[0, 0] = 1
            pattern = torch.cat([given.expand_as(pattern[:, :1]), pattern[:, 1:]], dim=1)
        return scores, pattern


class PreviousTokenWithheld(AttentionOnlyTransformer):
    """No head of layer 0 can attend to the previous token."""

    def attention(self, residual: Tensor, layer: int, keys_read: Tensor | None = None) -> Attention:
        """As of any model, but with one more place masked in layer 0."""
        scores, pattern = super().attention(residual, layer, keys_read)
        if layer == 0:
            scores = scores.masked_fill(previous_token_places(scores.shape[-1]).to(scores.device), -torch.inf)
            pattern = scores.softmax(dim=-1)
        return scores, pattern


class CopyingWithheld(AttentionOnlyTransformer):
    """What the heads of layer 1 write of what they attend to stays as it was initialised: they never learn to copy."""

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__(config, seed)
        for weight in (self.W_V, self.W_O):
            weight.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([1], device=gradient.device), 0))


CLAMPS = {
    "free": AttentionOnlyTransformer,
    "given": PreviousTokenGiven,
    "withheld": PreviousTokenWithheld,
    "no_copying": CopyingWithheld,
}


def previous_token_places(n: int) -> Bool[Tensor, "dest src"]:
    """True where the source is the token right before the destination."""
    return torch.ones(n - 1, dtype=torch.bool).diag(-1)


def grow(clamp: str, recipe: Recipe, corpus: EncodedCorpus, every: int = 20) -> list[dict]:
    """Train a model under one of ``CLAMPS`` and measure its heads every so many steps.

    Raises:
        ReaderError: for whatever ``train`` does.
    """
    texts, rows = Texts.draw(corpus, recipe.model, recipe.training.seed), []
    tokens_per_step = recipe.training.batch_size * recipe.model.n_ctx
    steps = train(recipe.model, recipe.training, corpus, build=CLAMPS[clamp])
    for state in tqdm(steps, total=recipe.n_steps + 1, desc=clamp, unit=" steps"):
        if state.step % every == 0 or state.step == state.n_steps:
            rows.append(as_row(state.step, tokens_per_step, head_scores(state.model, texts)))
    return rows


def main(arguments: list[str] | None = None) -> None:
    """The command line: train under a clamp, write the rows, say which part formed when.

    Raises:
        ReaderError: for whatever ``grow`` does.
    """
    parser = argparse.ArgumentParser("python -m helpers.clamping", description="Train under a clamp.")
    parser.add_argument("clamp", choices=CLAMPS)
    parser.add_argument("--recipe", choices=RECIPES, default="laptop")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for the rows")
    a = parser.parse_args(arguments)
    torch.set_num_threads(1)
    recipe = RECIPES[a.recipe]
    recipe = replace(recipe, training=replace(recipe.training, seed=a.seed))
    rows = grow(a.clamp, recipe, load_encoded(d_vocab=recipe.model.d_vocab))
    print(*(f"{part} half formed after {tokens:,.0f} tokens" for part, tokens in half_formed(rows).items()), sep="\n")
    about = {"clamp": a.clamp, "model": asdict(recipe.model), "training": asdict(recipe.training), "heads_alone": True}
    save_rows(rows, a.out / f"{book_folder(a.clamp, a.seed).name}.json", **about)


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
