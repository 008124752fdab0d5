"""Models of the book in the form of TransformerLens, and models of TransformerLens in the book's.

    python -m helpers.lens export data/models/two_layer OUT                            # for TransformerLens 3 and 4
    python -m helpers.lens export data/models/two_layer OUT --positions shortformer    # for TransformerLens 3 alone
    python -m helpers.lens heads OUT                                                   # the book's scores of its heads

``OUT`` holds ``model.safetensors`` and ``config.json``: a dictionary of tensors and one of settings, which we write and
read without TransformerLens. With them loaded as ``state`` and ``config``, TransformerLens 3 takes both forms by ::

    model = HookedTransformer(HookedTransformerConfig(**config))
    model.load_state_dict(state, strict=False)  # what is missing are its masks

and TransformerLens 4 the first by ::

    bridge = TransformerBridge.boot_native(config)
    bridge.load_state_dict(convert_tl_checkpoint(state, bridge.cfg))

Their models come to us, from 3 and 4, by ::

    save_file(model.state_dict(), "OUT/model.safetensors")  # of safetensors.torch
    json.dump(model.cfg.to_dict(), open("OUT/config.json", "w"), default=str)

In the book only queries and keys read positions, which TransformerLens 3 calls "shortformer" and TransformerLens 4 has
no longer. But positions are one more subspace: in a stream of twice the width, tokens and what heads write have the
first half, positions the second. Queries and keys read both halves by the same matrix, one below the other; values and
unembedding have zeros for the second. That is the same model with "standard" positions, those that lie in the stream.

Of the other direction only this much is possible. In a model of the book, a text of one token repeated has the same
values everywhere, so every head writes the same at each place whatever it attends to, and so all places have the same
logits. A model whose values or logits depend on the place is therefore none of the book's, for any weights and widths.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor
from torch.nn.functional import pad

from helpers import ReaderError
from helpers.circuits import copying_score
from helpers.files import write_or_explain
from helpers.heads import prefix_matching_scores, previous_token_scores, random_repeats
from helpers.model import AttentionOnlyTransformer, Head, ModelConfig, head_name, sinusoids
from helpers.standard import StandardTransformer
from helpers.stream import Biases, fold_biases, with_weights
from helpers.weights import load_model

State = dict[str, Tensor]  # by the names of TransformerLens
Weights = dict[str, Tensor]  # by ours, the layers of a matrix in one tensor
POSITIONS = ("standard", "shortformer")

OF_THE_MODEL = {"W_E": "embed.W_E", "W_pos": "pos_embed.W_pos", "W_U": "unembed.W_U", "b_U": "unembed.b_U"}
OF_A_LAYER = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V", "b_O")
SHAPES = {  # there; of a layer, where that has one
    "W_E": "d_vocab d_model",
    "W_pos": "n_ctx d_model",
    "W_U": "d_model d_vocab_out",
    "b_U": "d_vocab_out",
    **dict.fromkeys(("W_Q", "W_K", "W_V"), "n_heads d_model d_head"),
    "W_O": "n_heads d_head d_model",
    **dict.fromkeys(("b_Q", "b_K", "b_V"), "n_heads d_head"),
    "b_O": "d_model",
}
IN_VERSION_4 = {
    "embed.weight": "embed.W_E",
    "pos_embed.weight": "pos_embed.W_pos",
    "unembed.weight": "unembed.W_U",
    "unembed.bias": "unembed.b_U",
}
NO_WEIGHTS = (".mask", ".IGNORE")  # how the names of TransformerLens' masks end
ONLY = {  # the settings in which a model may differ from those of the book, and the values that make no difference
    "attn_only": (True,),
    "normalization_type": (None,),
    "attention_dir": ("causal",),
    "use_attn_scale": (True,),
    **dict.fromkeys(("attn_scores_soft_cap", "output_logits_soft_cap"), (-1.0, 0.0, None)),
    **dict.fromkeys(
        (
            "scale_attn_by_inverse_layer_idx", "use_local_attn", "use_qk_norm", "use_attention_sinks", "use_logn_attn",
            "final_rms", "post_embedding_ln", "use_normalization_before_and_after", "scale_embedding", "clip_qkv",
        ),
        (False, None),
    ),
}  # fmt: skip
UNSAID = {"attn_only": False, "normalization_type": "LN"}  # what TransformerLens takes where a config does not say it


# ---- from the book to TransformerLens ---------------------------------------------------------------------------


def to_lens(model: AttentionOnlyTransformer, positions: str = "standard") -> tuple[State, dict[str, Any]]:
    """The state and the settings of the same model in TransformerLens, its biases all zero.

    ``positions`` is "standard", in a stream of twice the width, or "shortformer". Tensors are copies, in the precision
    of the model; the settings do not name it.

    Raises:
        ReaderError: TransformerLens has no such model (smeared keys, a forward pass of its own), nor such positions.
    """
    _check_exportable(model, positions)
    weights = _without_biases(model)
    weights = _doubled(weights) if positions == "standard" else weights
    config = {
        "n_layers": model.config.n_layers,
        "n_heads": model.config.n_heads,
        "d_model": weights["W_E"].shape[1],
        "d_head": model.config.d_head,
        "d_vocab": model.config.d_vocab,
        "d_vocab_out": weights["W_U"].shape[1],
        "n_ctx": model.config.n_ctx,
        "positional_embedding_type": positions,
        "attn_only": True,
        "normalization_type": None,
        "attention_dir": "causal",
        "init_weights": False,
    }
    return {key: _slice(weights, name, layer).clone() for key, name, layer in _keys(model.config.n_layers)}, config


def _check_exportable(model: AttentionOnlyTransformer, positions: str) -> None:
    if positions not in POSITIONS:
        raise ReaderError(f"There are no positions {positions!r}: choose one of {', '.join(POSITIONS)}.")
    if model.smear is not None:
        raise ReaderError("TransformerLens has no smeared keys: export a model without them.")
    if type(model) is not AttentionOnlyTransformer:
        raise ReaderError(
            f"A {type(model).__name__} computes in a way of its own, which its weights do not tell: "
            "export an AttentionOnlyTransformer."
        )


def _without_biases(model: AttentionOnlyTransformer) -> Weights:
    """The model's weights, its positions among them, and a zero for every bias of TransformerLens."""
    c, zeros = model.config, model.W_E.new_zeros
    heads = (c.n_layers, c.n_heads, c.d_head)
    biases = {"b_Q": zeros(heads), "b_K": zeros(heads), "b_V": zeros(heads), "b_O": zeros(c.n_layers, c.d_model)}
    weights = {name: getattr(model, name).detach() for name in ("W_E", "W_pos", "W_Q", "W_K", "W_V", "W_O", "W_U")}
    return weights | biases | {"b_U": zeros(model.W_U.shape[1])}


def _doubled(weights: Weights) -> Weights:
    """The same model with standard positions, in the second half of a stream of twice the width."""
    d = weights["W_E"].shape[1]
    writing = {name: pad(weights[name], (0, d)) for name in ("W_E", "W_O", "b_O")}
    reading = {name: pad(weights[name], (0, 0, 0, d)) for name in ("W_V", "W_U")}
    positioned = {name: torch.cat([weights[name]] * 2, dim=-2) for name in ("W_Q", "W_K")}
    return weights | writing | reading | positioned | {"W_pos": pad(weights["W_pos"], (d, 0))}


def _keys(n_layers: int) -> Iterator[tuple[str, str, int | None]]:
    """For every tensor of a state: its name there, its name here, and its layer if it is of one."""
    yield from ((key, name, None) for name, key in OF_THE_MODEL.items())
    yield from ((f"blocks.{layer}.attn.{name}", name, layer) for layer in range(n_layers) for name in OF_A_LAYER)


def _slice(weights: Weights, name: str, layer: int | None) -> Tensor:
    return weights[name] if layer is None else weights[name][layer]


# ---- from TransformerLens to the book ---------------------------------------------------------------------------


def from_lens(state: Mapping[str, Any], config: Mapping[str, Any]) -> AttentionOnlyTransformer:
    """The same model in the book's form, from a ``state_dict()`` and a config of TransformerLens 3 or 4.

    Float64 stays what it is, everything else becomes float32. What ``to_lens`` made comes back as it was. Biases that
    are not all zero become rows of the matrices (``fold_biases``): the stream gets two dimensions more, each head one,
    and the first head of each layer writes the output bias. An odd stream gets one dimension more.

    A model's files have no room for positions that are no sinusoids. Such a model has the ``positional_amplitude`` nan,
    so that it gives nan, and nothing worse, if it is saved by ``save_model`` and read again.

    Raises:
        ReaderError: no model of the book computes this, or the state is damaged or does not fit the config.
    """
    if "W_E" in state:
        raise ReaderError("This is a model in the book's own form: read it by load_model, or export it first.")
    _check_settings(config)
    state = {key: tensor for key, tensor in state.items() if not key.endswith(NO_WEIGHTS)}
    _check_numbers(state)
    state = _from_version_4(state, config) if IN_VERSION_4.keys() & state.keys() else state
    sizes = _checked_sizes(state, config)
    weights = _stacked(state, sizes)
    if config.get("positional_embedding_type", "standard") == "standard":
        weights = _positions_out_of_the_stream(weights)
    return _built(_even(weights))


def _check_settings(config: Mapping[str, Any]) -> None:
    """Raises ReaderError if a setting is another than that of every model of the book."""
    kind, heads = config.get("positional_embedding_type", "standard"), config.get("n_heads")
    if kind not in POSITIONS:
        raise ReaderError(
            f"This model has {kind!r} positions, and no model of the book has those: "
            "take one that was trained with positional_embedding_type='shortformer'."
        )
    for name, accepted in (ONLY | {"n_key_value_heads": (None, heads)}).items():
        if (value := config.get(name, UNSAID.get(name, accepted[0]))) not in accepted:
            raise ReaderError(
                f"This model has {name}={value!r}{'' if name in config else ' by default'}, and no model of the book "
                f"has that: take one that was trained with {name}={accepted[0]!r}."
            )


def _check_numbers(state: Mapping[str, Any]) -> None:
    """Raises ReaderError if something in a state is no tensor of finite numbers."""
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ReaderError(f"{key} is no tensor of finite numbers: save the model's state_dict() once more.")


def _from_version_4(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> State:
    """A state of TransformerLens 4 by the names and shapes of TransformerLens 3, where heads have a dimension.

    Raises:
        ReaderError: the config does not say how many heads there are, or what cannot be.
    """
    renamed = {}
    for key, tensor in state.items():
        start, attn, end = key.rpartition(".attn.")
        name, _, kind = end.partition(".")
        if kind in ("weight", "bias") or key in IN_VERSION_4:
            _check_dimensions(key, tensor)
        if attn and name in (*"qkvo",) and kind in ("weight", "bias"):
            name_there = f"{start}.attn.{'W' if kind == 'weight' else 'b'}_{name.upper()}"
            renamed[name_there] = _by_head(tensor, f"{name}.{kind}", config.get("n_heads"))
        else:
            renamed[IN_VERSION_4.get(key, key)] = tensor.T if key == "unembed.weight" else tensor
    return renamed


def _check_dimensions(key: str, tensor: Tensor) -> None:
    """Raises ReaderError if a weight of TransformerLens 4 is no matrix, or a bias no vector."""
    if tensor.ndim != (1 if key.endswith("bias") else 2):
        raise ReaderError(f"{key} has the shape {list(tensor.shape)}: give the whole state_dict() of the model.")


def _by_head(tensor: Tensor, kind: str, n_heads: Any) -> Tensor:
    """A matrix or bias of all heads of a layer in TransformerLens 4, such as "q.weight", in the shape of version 3.

    W_Q, W_K and W_V are ``[n_heads d_head, d_model]`` there, W_O is ``[d_model, n_heads d_head]``.
    """
    if kind == "o.bias":
        return tensor
    rows = tensor.T if kind == "o.weight" else tensor
    if not isinstance(n_heads, int) or n_heads < 1 or len(rows) % n_heads:
        raise ReaderError(
            f"The config says n_heads={n_heads!r}, and {kind} of shape {list(tensor.shape)} cannot be divided so: "
            "give the config that belongs to the weights."
        )
    heads = rows.unflatten(0, (n_heads, -1))
    return heads.mT if kind in ("q.weight", "k.weight", "v.weight") else heads


def _checked_sizes(state: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, int]:
    """n_layers, n_heads, d_model, d_head, d_vocab, d_vocab_out and n_ctx, from the shapes of the weights.

    Raises:
        ReaderError: a tensor is missing, damaged or one too many, they do not fit together, or the config does not.
    """
    layers = [int(layer) for key in state if (layer := key.removeprefix("blocks.").split(".")[0]).isdecimal()]
    sizes = {"n_layers": min(1 + max(layers, default=-1), len(state))}
    keys = {key: SHAPES[name] for key, name, _ in _keys(sizes["n_layers"])}
    if unknown := sorted(state.keys() - keys.keys()):
        raise ReaderError(
            f"The state has {unknown[0]!r}, for which a model of attention alone has no place: "
            "take one that was trained with attn_only=True and normalization_type=None."
        )
    for key, shape in keys.items():
        _check_tensor(key, state.get(key), shape.split(), sizes)
    if not layers:
        said = {name: config.get(name) for name in ("n_heads", "d_head")}  # no weight tells
        sizes |= {name: size if isinstance(size, int) and size > 0 else 1 for name, size in said.items()}
    _check_config(config, sizes)
    return sizes


def _check_tensor(key: str, tensor: Tensor | None, shape: list[str], sizes: dict[str, int]) -> None:
    """Fills in those of ``sizes`` that were not known. Raises ReaderError if the tensor is not of this shape."""
    if tensor is None:
        raise ReaderError(
            f"{key} is missing: give the whole state_dict(), with zeros for a bias that the model has not."
        )
    found = list(tensor.shape)
    fits = len(found) == len(shape) and 0 not in found
    if not fits or any(sizes.setdefault(name, n) != n for name, n in zip(shape, found, strict=True)):
        expected = ", ".join(f"{name}={sizes[name]}" if name in sizes else name for name in shape)
        raise ReaderError(f"{key} has the shape {found}, not [{expected}]: give the whole state_dict() of one model.")


def _check_config(config: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Raises ReaderError if the config has other sizes than the weights, or divides scores by another number."""
    for name, size in sizes.items():
        if config.get(name, size) not in (size, -1, None):
            raise ReaderError(
                f"The config says {name}={config[name]!r}, and the weights have {size}: "
                "give the config that belongs to the weights."
            )
    scale, root = config.get("attn_scale", -1.0), math.sqrt(sizes["d_head"])
    if scale not in (-1.0, None) and not (isinstance(scale, float | int) and math.isclose(scale, root, rel_tol=1e-6)):
        raise ReaderError(
            f"This model divides its scores by attn_scale={scale!r}, and every model of the book by √d_head: "
            "multiply its W_Q and b_Q by √d_head/attn_scale, and leave attn_scale out of the config."
        )


def _stacked(state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Weights:
    """The tensors of a state by our names, in one precision."""
    dtype = torch.double if state["embed.W_E"].dtype == torch.double else torch.float32
    n_layers = sizes["n_layers"]
    weights = {name: state[key] for name, key in OF_THE_MODEL.items()}
    for name in OF_A_LAYER:
        layers = [state[f"blocks.{layer}.attn.{name}"] for layer in range(n_layers)]
        weights[name] = torch.stack(layers) if layers else torch.empty(0, *(sizes[n] for n in SHAPES[name].split()))
    return {name: weight.detach().to("cpu", dtype, copy=True) for name, weight in weights.items()}


def _positions_out_of_the_stream(weights: Weights) -> Weights:
    """The same model with positions that only queries and keys read.

    Raises:
        ReaderError: values or unembedding read them.
    """
    if (halved := _halved(weights)) is not None:
        return halved
    readers = torch.cat([weights["W_V"].movedim(2, 0).flatten(1), weights["W_U"]], dim=1)
    if not all(_unread(weights["W_pos"], some) for some in readers.split(4096, dim=1)):
        raise ReaderError(
            "The values or the logits of this model depend on positions, and in a model of the book they cannot, for "
            "any weights (on one token repeated, all places have the same logits): "
            "take a model that was trained with positional_embedding_type='shortformer'."
        )
    return weights


def _halved(weights: Weights) -> Weights | None:
    """What ``_doubled`` would double to these weights, bit for bit, if there is any."""
    d = weights["W_E"].shape[1] // 2
    half = weights | {name: weights[name][..., :d] for name in ("W_E", "W_O", "b_O")}
    half |= {name: weights[name][..., :d, :] for name in ("W_Q", "W_K", "W_V", "W_U")}
    half |= {"W_pos": weights["W_pos"][:, d:]}
    same = d > 0 and all(torch.equal(weight, weights[name]) for name, weight in _doubled(half).items())
    return half if same else None


def _unread(positions: Float[Tensor, "n_ctx d_model"], matrix: Float[Tensor, "d_model read"]) -> bool:
    """Whether a matrix reads nothing of the positions but rounding errors."""
    bound = 64 * torch.finfo(matrix.dtype).eps * (positions.abs() @ matrix.abs()).max()
    return bool((positions.double() @ matrix.double()).abs().max() <= bound)


def _even(weights: Weights) -> Weights:
    """The same model with one more dimension in a stream of odd width: our sinusoids come in pairs."""
    if weights["W_E"].shape[1] % 2 == 0:
        return weights
    writing = {name: pad(weights[name], (0, 1)) for name in ("W_E", "W_O", "b_O", "W_pos")}
    reading = {name: pad(weights[name], (0, 0, 0, 1)) for name in ("W_Q", "W_K", "W_V", "W_U")}
    return weights | writing | reading


def _built(weights: Weights) -> AttentionOnlyTransformer:
    """The model of these weights, without biases."""
    (n_layers, n_heads, d_model, d_head), (d_vocab, _) = weights["W_Q"].shape, weights["W_E"].shape
    sizes = {"n_layers": n_layers, "n_heads": n_heads, "d_model": d_model, "d_head": d_head, "d_vocab": d_vocab}
    blank = AttentionOnlyTransformer(ModelConfig(**sizes, n_ctx=len(weights["W_pos"]))).to(weights["W_E"])
    model = with_weights(blank, **{name: weight for name, weight in weights.items() if name.startswith("W_")})
    biases = [weights[f"b_{name}"] for name in "QKVOU"]
    if any(bias.any() for bias in biases):
        model = fold_biases(model, Biases(*biases))
    model.config = replace(model.config, positional_amplitude=_amplitude(model.W_pos))
    return model.requires_grad_(False).eval()


def _amplitude(positions: Float[Tensor, "n_ctx d_model"]) -> float:
    """That of our sinusoids, if these are they; nan otherwise."""
    n_ctx, d_model = positions.shape
    amplitude = positions[0, d_model // 2].item()  # of a cosine at 0
    return amplitude if torch.equal(positions, (amplitude * sinusoids(n_ctx, d_model)).to(positions)) else math.nan


# ---- files ------------------------------------------------------------------------------------------------------


def save_lens(model: AttentionOnlyTransformer, folder: Path, positions: str = "standard") -> None:
    """Write what ``to_lens`` makes of a model into ``folder``, each file atomically.

    Raises:
        ReaderError: TransformerLens has no such model, or the files cannot be written.
    """
    state, config = to_lens(model, positions)
    write_or_explain(folder / "config.json", lambda f: f.write((json.dumps(config, indent=1) + "\n").encode()))
    write_or_explain(folder / "model.safetensors", lambda f: f.write(to_safetensors(state)))


def load_lens(folder: Path) -> AttentionOnlyTransformer:
    """``from_lens`` of the ``model.safetensors`` and ``config.json`` in ``folder``.

    Raises:
        ReaderError: a file is missing or damaged, or no model of the book computes the same.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf8"))
        state = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as error:
        raise ReaderError(
            f"{folder} has no model.safetensors and config.json that can be read ({type(error).__name__}): "
            "save the model's state_dict() with safetensors, and its config's to_dict() with json.dump(…, default=str)."
        ) from error
    if not isinstance(config, dict):
        raise ReaderError(f"{folder / 'config.json'} holds no settings: save the config's to_dict() there.")
    return from_lens(state, config)


def load_either(folder: Path) -> AttentionOnlyTransformer:
    """A model in the form of the book or in that of TransformerLens, whichever its ``config.json`` has.

    Raises:
        ReaderError: a file is missing or damaged, or no model of the book computes the same.
    """
    try:
        settings = json.loads((folder / "config.json").read_text("utf8")).keys()
    except (OSError, ValueError, AttributeError):
        settings = {""}  # load_lens says what is wrong
    for kind in (AttentionOnlyTransformer, StandardTransformer):
        if settings <= {setting.name for setting in fields(kind.Config)}:
            return load_model(folder, kind=kind)
    return load_lens(folder)


# ---- the command ------------------------------------------------------------------------------------------------


def head_scores(model: AttentionOnlyTransformer) -> Iterator[tuple[Head, float, float, float]]:
    """Every head with its previous-token and prefix-matching score on random tokens and its copying score.

    The tokens, token 0 and then at most twenty others repeated once, are the same at every call. Copying is nan where
    the vocabulary of the logits is another than that of the tokens.

    Raises:
        ReaderError: the model has no room for three tokens.
    """
    c = model.config
    if (length := min(20, (c.n_ctx - 1) // 2, c.d_vocab - 1)) < 1:
        raise ReaderError("A context or a vocabulary of fewer than three tokens has no repeats: take a larger model.")
    previous = previous_token_scores(model, random_repeats(c.d_vocab, length))
    prefix = prefix_matching_scores(model, length)
    same_vocabulary = model.W_E.shape[0] == model.W_U.shape[1]
    for head in model.heads:
        copying = copying_score(model, head) if same_vocabulary else math.nan
        yield head, previous[head].item(), prefix[head].item(), copying


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``save_lens`` and ``load_lens`` do."""
    parser = argparse.ArgumentParser("python -m helpers.lens", description="Models in the form of TransformerLens.")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write a model of the book for TransformerLens")
    export.add_argument("model", type=Path, help="its folder, such as data/models/two_layer")
    export.add_argument("out", type=Path, help="the folder for config.json and model.safetensors")
    export.add_argument("--positions", choices=POSITIONS, default=POSITIONS[0], help="TransformerLens 4 needs standard")
    heads = commands.add_parser("heads", help="the scores of every head of a model of TransformerLens")
    heads.add_argument("folder", type=Path, help="the folder of its config.json and model.safetensors")
    a = parser.parse_args(arguments)
    if a.command == "export":
        save_lens(load_model(a.model), a.out, a.positions)
        print(f"{a.out / 'config.json'}\n{a.out / 'model.safetensors'}")
    else:
        scores = list(head_scores(load_lens(a.folder)))  # before anything is printed
        print("head  previous token  prefix matching  copying")
        for head, previous, prefix, copying in scores:
            print(f"{head_name(head):4}  {previous:14.3f}  {prefix:15.3f}  {copying:7.3f}")


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
