"""What TransformerLens itself computes; run by a Python that has it, which need not have the book's packages.

    python in_transformer_lens.py run FOLDER …     # of the model in each folder
    python in_transformer_lens.py make FOLDER …    # of a random model with biases, after the settings in each folder

A folder holds ``config.json`` and ``tokens.safetensors``. ``run`` reads ``model.safetensors`` there, ``make`` writes
it. Logits and patterns go to ``computed.safetensors``. The version is printed. Everything is in float64
and on the CPU.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

VERSION = version("transformer-lens")
ON_THE_CPU = {"dtype": torch.double, "device": "cpu"}


def model_of(config: dict) -> torch.nn.Module:
    if VERSION.startswith("3."):
        from transformer_lens import HookedTransformer, HookedTransformerConfig

        return HookedTransformer(HookedTransformerConfig(**config, **ON_THE_CPU))
    from transformer_lens.model_bridge import TransformerBridge

    return TransformerBridge.boot_native(config, **ON_THE_CPU)


def load(model: torch.nn.Module, state: dict) -> None:
    """As the docstring of ``helpers.lens`` says; nothing may be left over, and nothing missing but masks."""
    if VERSION.startswith("3."):
        left = model.load_state_dict(state, strict=False)
    else:
        from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

        left = model.load_state_dict(convert_tl_checkpoint(state, model.cfg))
    assert not left.unexpected_keys, left
    assert all(key.endswith((".mask", ".IGNORE")) for key in left.missing_keys), left


def randomise(model: torch.nn.Module) -> None:
    """Large random weights and biases. Positions in the stream have a half that values and logits do not read."""
    state, generator = model.state_dict(), torch.Generator().manual_seed(0)
    for key, weight in state.items():
        if not key.endswith((".mask", ".IGNORE")):
            weight.normal_(0, 0.5, generator=generator)
    if model.cfg.positional_embedding_type == "standard":
        half = model.cfg.d_model // 2
        for key, weight in state.items():
            if key.startswith("pos_embed"):
                weight[:, :half] = 0
            elif key.endswith((".W_V", ".v.weight", "unembed.weight")):
                weight[:, half:] = 0
            elif key.endswith("unembed.W_U"):
                weight[half:] = 0
    model.load_state_dict(state)


def main(command: str, folders: list[Path]) -> None:
    for folder in folders:
        model = model_of(json.loads((folder / "config.json").read_text("utf8")))
        if command == "make":
            randomise(model)
            save_file(model.state_dict(), folder / "model.safetensors")  # as the docstring of helpers.lens says
            with open(folder / "config.json", "w") as f:
                json.dump(model.cfg.to_dict(), f, default=str)
        else:
            load(model, load_file(folder / "model.safetensors"))
        with torch.no_grad():
            logits, cache = model.run_with_cache(load_file(folder / "tokens.safetensors")["tokens"])
        patterns = {f"pattern.{i}": cache[f"blocks.{i}.attn.hook_pattern"] for i in range(model.cfg.n_layers)}
        save_file(
            {k: x.contiguous() for k, x in ({"logits": logits} | patterns).items()}, folder / "computed.safetensors"
        )
    print(VERSION)


if __name__ == "__main__":
    main(sys.argv[1], [Path(folder) for folder in sys.argv[2:]])
