"""Models as files: ``config.json`` beside the weights, in float16 or in 8 bits."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from helpers import ReaderError
from helpers.files import DATA, book_folder, how_to_restore, write_or_explain
from helpers.model import AttentionOnlyTransformer

STEP = "_step"


def save_model(model: AttentionOnlyTransformer, folder: Path | str, bits: Literal[8, 16] = 16) -> None:
    """Write ``config.json`` and ``model.safetensors`` into ``folder``, each atomically.

    Raises:
        ReaderError: the disk is full, or the folder cannot be written to.
    """
    folder, config = Path(folder), json.dumps(asdict(model.config), indent=1) + "\n"
    write_or_explain(folder / "config.json", lambda f: f.write(config.encode()))
    save_weights(model, folder / "model.safetensors", bits)


def save_weights(model: AttentionOnlyTransformer, file: Path, bits: Literal[8, 16] = 16) -> None:
    """Write the weights alone into a safetensors file, in float16 or as ``in_8_bits``, atomically."""
    weights = {name: weight.detach().cpu() for name, weight in model.named_parameters()}
    if bits == 8:
        weights = in_8_bits(weights)
    content = to_safetensors({name: _halved(weight).contiguous() for name, weight in weights.items()})
    write_or_explain(file, lambda f: f.write(content))


def _halved(weight: Tensor) -> Tensor:
    return weight.half() if weight.is_floating_point() else weight


def in_8_bits(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each row of a matrix in whole numbers from -127 to 127, and beside it what 1 stands for; the rest as it is."""
    tensors = {}
    for name, weight in weights.items():
        if weight.ndim < 2 or not weight.numel():
            tensors[name] = weight
        else:
            step = weight.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 127
            tensors |= {name: (weight / step).round().to(torch.int8), name + STEP: step}
    return tensors


def from_8_bits(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What was written ``in_8_bits``, in float32; weights that have no step are only converted."""
    return {
        name: tensor.float() * tensors.get(name + STEP, torch.ones(())).float()
        for name, tensor in tensors.items()
        if not name.endswith(STEP)
    }


def load_model(
    folder: Path | str,
    weights_file: str = "model.safetensors",
    kind: type[AttentionOnlyTransformer] = AttentionOnlyTransformer,
) -> AttentionOnlyTransformer:
    """The model that ``save_model`` or a training wrote to ``folder``, in float32 and ready to be used.

    ``weights_file`` may name weights that were kept during training, such as "checkpoints/000225.safetensors". ``kind``
    is the class of the model. What a model of this kind has but does not learn may be missing from the file.

    Raises:
        ReaderError: a file is missing or damaged or of another kind of model, or the weights have other shapes than
            ``config.json`` says.
    """
    folder = Path(folder)
    try:
        settings = json.loads((folder / "config.json").read_text("utf8"))
        saved = from_8_bits(load_file(folder / weights_file))
        unknown = ", ".join(settings.keys() - {setting.name for setting in fields(kind.Config)})
        model = kind(kind.Config(**({} if unknown else settings)))
    except (OSError, ValueError, TypeError, AttributeError, SafetensorError) as error:
        raise ReaderError(
            f"The model in {folder} is missing or damaged ({type(error).__name__}): {how_to_restore(folder)}."
        ) from error
    if unknown:
        raise ReaderError(
            f"The config.json in {folder} does not fit: {kind.__name__} has no {unknown}. Load it as the kind that "
            "was trained, such as kind=StandardTransformer."
        )
    weights = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad} | saved
    _check_shapes(model, weights, folder)
    model.load_state_dict(weights)
    return model.requires_grad_(False).eval()


def _check_shapes(model: AttentionOnlyTransformer, weights: Mapping[str, Tensor], folder: Path) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(weight.shape) for name, weight in weights.items()}
    if expected != found:
        name = next(n for n in (expected | found) if expected.get(n) != found.get(n))
        raise ReaderError(
            f"The weights in {folder} do not fit their config.json: {name} is {found.get(name)}, not "
            f"{expected.get(name)}. For both files, {how_to_restore(folder)}."
        )


def load_book_model(
    name: str, seed: int = 0, kind: type[AttentionOnlyTransformer] = AttentionOnlyTransformer
) -> AttentionOnlyTransformer:
    """One of the models that come with the book: "zero_layer", "one_layer", "two_layer", "laptop", …

    Raises:
        ReaderError: the book has no such model, or its files are damaged.
    """
    folder, models = book_folder(name, seed), DATA / "models"
    if folder.name not in (there := sorted(model.name for model in models.glob("*/"))):
        raise ReaderError(
            f"The book has no model {folder.name!r}: it has {', '.join(there)}. "
            f"If you deleted one, {how_to_restore(models)}."
        )
    return load_model(folder, kind=kind)
