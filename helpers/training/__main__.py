"""Train a model on the command line."""

import argparse
import sys
from dataclasses import Field, asdict, fields, replace
from pathlib import Path

import torch

from helpers import ReaderError, training
from helpers.history import load_card
from helpers.standard import PARTS, StandardConfig
from helpers.tokens import load_encoded
from helpers.training.config import TrainingConfig
from helpers.training.loop import run
from helpers.training.parallel import first_goes_ahead, process_group, wait_for_all
from helpers.training.recipes import BOOK, RECIPES, Recipe, book_trainings

HELP = {
    "layer_norm": "before every read from the stream",
    "biases": "of all matrices but the embedding",
    "mlp": "neurons behind the heads of each layer",
    "n_layers": "without --recipe: as the book's model with so many layers",
    "n_heads": "per layer",
    "n_ctx": "tokens in a context",
    "n_tokens": "to train on, such as 30e6",
    "batch_size": "contexts in a step",
    "n_measurements": "rows of the history",
    "n_checkpoints": "of the weights, evenly spaced",
    "precision": "float32, bfloat16 or auto",
}


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``train`` and ``load_encoded`` do."""
    a = argument_parser().parse_args(arguments)
    if a.threads is not None:
        torch.set_num_threads(max(1, a.threads))
    with process_group():
        if a.all:
            train_all(a.out, a.text)
        else:
            train_one(chosen_recipe(a), a.out, a.text, a.resume)


def argument_parser() -> argparse.ArgumentParser:
    """What the command line takes; settings that are not given stay None and come from a recipe."""
    parser = argparse.ArgumentParser(
        prog="python -m helpers.training",
        description=training.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--all", action="store_true", help="train every model of the book, each in a folder of --out")
    parser.add_argument("--recipe", choices=RECIPES, help="where all settings come from that are not given")
    for field in (*fields(StandardConfig), *fields(TrainingConfig)):
        if field.type in ARGUMENTS:
            _add_setting(parser, field)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--text", help="a folder of .txt, .md or .py files in place of the shelf")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for the model and all that is kept")
    parser.add_argument("--resume", action="store_true", help="go on with the training in --out")
    return parser


def whole_number(text: str) -> int:
    """A number such as 30000000 or 30e6. Raises ValueError if it is not whole."""
    if not (number := float(text)).is_integer():
        raise ValueError(text)
    return int(number)


ARGUMENTS = {  # by the type of a field
    int: {"type": whole_number},
    float: {"type": float},
    str: {},
    bool: {"action": argparse.BooleanOptionalAction},
}


def _add_setting(parser: argparse.ArgumentParser, field: Field) -> None:
    """An argument for a field, named after it: "n_layers" becomes --layers, "n_ctx" --context."""
    name = "context" if field.name == "n_ctx" else field.name.removeprefix("n_").replace("_", "-")
    parser.add_argument(f"--{name}", dest=field.name, help=HELP.get(field.name), **ARGUMENTS[field.type])


def chosen_recipe(a: argparse.Namespace) -> Recipe:
    """The recipe that is named, or that of the book's model with as many layers, changed as the arguments say."""
    n_layers = 2 if a.n_layers is None else a.n_layers
    recipe = RECIPES[a.recipe or BOOK[max(0, min(n_layers, 2))]]
    given = {name: value for name, value in vars(a).items() if value is not None}

    def changed(config):
        return replace(config, **{name: given[name] for name in asdict(config) if name in given})

    model = StandardConfig(**asdict(recipe.model)) if any(part in given for part in PARTS) else recipe.model
    return Recipe(changed(model), changed(recipe.training))


def train_one(recipe: Recipe, out: Path, text: str | None, resume: bool) -> bool:
    """Train a model into its folder, on the shelf or on a folder of text. Returns whether it came to the end."""
    with first_goes_ahead():  # it encodes the corpus, the others find it in the cache
        corpus = load_encoded(text, d_vocab=recipe.model.d_vocab)
    model_config = replace(recipe.model, d_vocab=corpus.tokenizer.d_vocab)
    state = run(model_config, recipe.training, corpus, out, resume)
    finished = state is not None and state.step == state.n_steps
    if finished:
        wait_for_all()  # nobody leaves while the first process still measures and writes
    return finished


def train_all(out: Path, text: str | None) -> None:
    """Every model of the book, each in a folder of its own; goes on where it was interrupted."""
    for name, recipe in book_trainings().items():
        folder = out / name
        print(f"{folder}: {'done' if (done := is_done(folder, recipe)) else 'training'}")
        if not done and not train_one(recipe, folder, text, resume=(folder / "state.pt").exists()):
            return


def is_done(folder: Path, recipe: Recipe) -> bool:
    """Whether a training in ``folder`` has taken all steps of the recipe."""
    try:
        return load_card(folder)["steps"] == recipe.n_steps
    except ReaderError:
        return False


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
