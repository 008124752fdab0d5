"""Models in the form of TransformerLens: against a forward pass written here, and against TransformerLens itself.

The tests against TransformerLens need a Python that has it, in an environment of its own:

    python -m venv lens3 && lens3/bin/pip install transformer-lens==3.9.0    # and lens4 with 4.3.0
    TRANSFORMER_LENS_3=lens3/bin/python TRANSFORMER_LENS_4=lens4/bin/python python -m pytest tests/test_lens.py
"""

import ast
import json
import math
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close

from helpers import ReaderError, lens
from helpers.by_hand import PlacesInStream
from helpers.circuits import ov_circuit
from helpers.files import DATA
from helpers.heads import prefix_matching_scores
from helpers.lens import from_lens, head_scores, load_lens, main, save_lens, to_lens
from helpers.model import AttentionOnlyTransformer
from helpers.stream import random_rotation, with_weights
from helpers.weights import load_book_model, load_model, save_model
from tests.examples import random_model, random_tokens, same_but_for_zeros

LAYERS = pytest.mark.parametrize("n_layers", [0, 1, 3])
POSITIONS = pytest.mark.parametrize("positions", ["standard", "shortformer"])
BIASES = ("b_Q", "b_K", "b_V", "b_O", "b_U")
EXACT = {"rtol": 1e-11, "atol": 1e-11}


# ---- TransformerLens' definition of such a model, one head at a time ----------------------------------------------


def forward(state: dict, config: dict, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and a pattern [head, batch, dest, src] for each layer."""
    n = tokens.shape[1]
    places, stream = state["pos_embed.W_pos"][:n], state["embed.W_E"][tokens]
    in_stream = config["positional_embedding_type"] == "standard"
    stream = stream + places if in_stream else stream
    patterns = []
    for layer in range(config["n_layers"]):
        w = {name: state[f"blocks.{layer}.attn.{name}"] for name in ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")}
        read, written = stream if in_stream else stream + places, state[f"blocks.{layer}.attn.b_O"]
        patterns.append([])
        for head in range(config["n_heads"]):
            query, key = read @ w["W_Q"][head] + w["b_Q"][head], read @ w["W_K"][head] + w["b_K"][head]
            scores = query @ key.mT / config["d_head"] ** 0.5
            weights = scores.exp().tril()
            patterns[-1].append(weights / weights.sum(-1, keepdim=True))
            written = written + patterns[-1][-1] @ (stream @ w["W_V"][head] + w["b_V"][head]) @ w["W_O"][head]
        stream = stream + written
    return stream @ state["unembed.W_U"] + state["unembed.b_U"], [torch.stack(layer) for layer in patterns]


def random_lens(positions: str = "shortformer", biases: tuple[str, ...] = (), **sizes: int) -> tuple[dict, dict]:
    """A state and a config of TransformerLens, all weights large; a bias is random if it is named, or else zero."""
    c = {"n_layers": 2, "n_heads": 3, "d_model": 6, "d_head": 4, "d_vocab": 11, "n_ctx": 8} | sizes
    c = {"d_vocab_out": c["d_vocab"]} | c
    shapes = {"embed.W_E": (c["d_vocab"], c["d_model"]), "pos_embed.W_pos": (c["n_ctx"], c["d_model"])}
    for at in [f"blocks.{layer}.attn." for layer in range(c["n_layers"])]:
        shapes |= {at + name: (c["n_heads"], c["d_model"], c["d_head"]) for name in ("W_Q", "W_K", "W_V")}
        shapes |= {at + name: (c["n_heads"], c["d_head"]) for name in ("b_Q", "b_K", "b_V")}
        shapes |= {at + "W_O": (c["n_heads"], c["d_head"], c["d_model"]), at + "b_O": (c["d_model"],)}
    shapes |= {"unembed.W_U": (c["d_model"], c["d_vocab_out"]), "unembed.b_U": (c["d_vocab_out"],)}
    generator = torch.Generator().manual_seed(0)
    state = {key: 0.5 * torch.randn(shape, generator=generator, dtype=torch.double) for key, shape in shapes.items()}
    zero = [key for key in state if ".b_" in key and key[-3:] not in biases]
    config = {"attn_only": True, "normalization_type": None, "positional_embedding_type": positions}
    return state | {key: torch.zeros_like(state[key]) for key in zero}, c | config


TOKENS = torch.tensor([[0, 3, 1, 3, 5, 2, 3, 1], [4, 4, 4, 10, 9, 0, 4, 10]])


def test_the_forward_pass_written_here_uses_every_tensor():
    state, config = random_lens(biases=BIASES)
    logits, _ = forward(state, config, TOKENS)
    for key in state:
        if not key.endswith(".b_K"):  # it raises all scores of a query alike
            assert not torch.allclose(forward(state | {key: 2 * state[key]}, config, TOKENS)[0], logits), key
    assert not torch.allclose(forward(state, config | {"positional_embedding_type": "standard"}, TOKENS)[0], logits)


# ---- from the book ----------------------------------------------------------------------------------------------


@LAYERS
@POSITIONS
def test_an_exported_model_computes_the_same_by_the_definition_of_transformerlens(n_layers, positions):
    model = random_model(n_layers, d_model=10)
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    there, patterns = forward(*to_lens(model, positions), tokens)
    assert logits.std() > 0.5
    assert_close(there, logits, **EXACT)
    for one, other in zip(patterns, cache.patterns, strict=True):
        assert_close(one.transpose(0, 1), other, **EXACT)


@pytest.mark.slow
@POSITIONS
def test_the_book_s_models_compute_the_same(positions):
    for name in ("zero_layer", "one_layer", "two_layer"):
        model = load_book_model(name).double()
        tokens = random_tokens(model, batch=1)
        assert (forward(*to_lens(model, positions), tokens)[0] - model(tokens)).abs().max() < 1e-12


def test_a_doubled_stream_has_a_half_for_tokens_and_a_half_for_positions():
    state, config = to_lens(random_model(2), "standard")
    assert {key: tuple(weight.shape) for key, weight in state.items() if "blocks.1" not in key} == {
        "embed.W_E": (11, 12), "pos_embed.W_pos": (8, 12), "unembed.W_U": (12, 11), "unembed.b_U": (11,),
        "blocks.0.attn.W_Q": (2, 12, 3), "blocks.0.attn.W_K": (2, 12, 3), "blocks.0.attn.W_V": (2, 12, 3),
        "blocks.0.attn.W_O": (2, 3, 12), "blocks.0.attn.b_Q": (2, 3), "blocks.0.attn.b_K": (2, 3),
        "blocks.0.attn.b_V": (2, 3), "blocks.0.attn.b_O": (12,),
    }  # fmt: skip
    assert len(state) == 4 + 2 * 8 and not any(weight.any() for key, weight in state.items() if ".b_" in key)
    assert not state["embed.W_E"][:, 6:].any() and not state["pos_embed.W_pos"][:, :6].any()
    assert config == {
        "n_layers": 2, "n_heads": 2, "d_model": 12, "d_head": 3, "d_vocab": 11, "d_vocab_out": 11, "n_ctx": 8,
        "positional_embedding_type": "standard", "attn_only": True, "normalization_type": None,
        "attention_dir": "causal", "init_weights": False,
    }  # fmt: skip
    assert json.loads(json.dumps(config)) == config


def test_the_single_stream_is_the_model_s_own():
    model = random_model(1)
    state, config = to_lens(model, "shortformer")
    assert torch.equal(state["blocks.0.attn.W_V"], model.W_V[0]) and torch.equal(state["unembed.W_U"], model.W_U)
    assert config["d_model"] == 6 and config["positional_embedding_type"] == "shortformer"
    for weight in state.values():
        weight.zero_()
    assert all(weight.any() for weight in model.parameters()), "the export is a copy"


@pytest.mark.parametrize(
    "model, positions, says",
    [
        (random_model(1, smeared_keys=True), "standard", "no smeared keys: export a model without"),
        (random_model(1), "rotary", "no positions 'rotary': choose one of standard, shortformer"),
        (PlacesInStream(random_model(1)), "standard", "A PlacesInStream computes in a way of its own.*: export an Att"),
    ],
)
def test_what_transformerlens_cannot_compute_is_said_in_a_sentence(model, positions, says):
    with pytest.raises(ReaderError, match=says):
        to_lens(model, positions)


# ---- to the book ------------------------------------------------------------------------------------------------


def same_weights(one: AttentionOnlyTransformer, other: AttentionOnlyTransformer) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return torch.equal(one.W_pos, other.W_pos) and all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)


@LAYERS
@POSITIONS
@pytest.mark.parametrize("precision", [torch.double, torch.float32])
def test_an_exported_model_comes_back_bit_for_bit(n_layers, positions, precision):
    model = random_model(n_layers, positional_amplitude=0.3).to(precision)
    back = from_lens(*to_lens(model, positions))
    assert same_weights(back, model) and back.W_E.dtype == precision and not back.training
    assert vars(back.config) | {"positional_amplitude": 0.3} == vars(model.config)
    assert back.config.positional_amplitude == pytest.approx(0.3)
    assert not any(weight.requires_grad for weight in back.parameters())


@POSITIONS
def test_positions_that_are_no_sinusoids_come_back_too_and_are_not_saved_as_something_else(positions, tmp_path):
    model = random_model(2)
    model = with_weights(model, W_pos=torch.randn(8, 6, dtype=torch.double))
    back = from_lens(*to_lens(model, positions))
    assert same_weights(back, model) and torch.equal(back(TOKENS), model(TOKENS))
    assert math.isnan(back.config.positional_amplitude)
    save_model(back, tmp_path)
    assert load_model(tmp_path)(TOKENS).isnan().all()


@pytest.mark.parametrize("biases", [(), *((bias,) for bias in BIASES), BIASES], ids="-".join)
@pytest.mark.parametrize("sizes", [{}, {"d_model": 7, "d_vocab_out": 5, "n_heads": 1}, {"n_layers": 0}], ids=str)
def test_a_model_of_transformerlens_computes_the_same_here(biases, sizes):
    state, config = random_lens(biases=biases, **sizes)
    expected, patterns = forward(state, config, TOKENS)
    logits, cache = from_lens(state, config).run_with_cache(TOKENS)
    assert expected.std() > 0.5
    assert_close(logits, expected, **EXACT)
    for one, other in zip(patterns, cache.patterns, strict=True):
        assert_close(one.transpose(0, 1), other, **EXACT)


def test_an_imported_model_is_a_copy_without_transformerlens_masks():
    state, config = random_lens()
    masks = {"blocks.0.attn.mask": torch.ones(8, 8, dtype=torch.bool), "blocks.0.attn.IGNORE": torch.tensor(-torch.inf)}
    model = from_lens(state | masks, config)
    logits = model(TOKENS)
    for weight in state.values():
        weight.zero_()
    assert torch.equal(model(TOKENS), logits) and logits.any()


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_half_precision_becomes_float32(half):
    state, config = random_lens()
    state = {key: weight.to(half) for key, weight in state.items()}
    model = from_lens(state, config)
    assert model.W_E.dtype == torch.float32 and torch.equal(model.W_E, state["embed.W_E"].float())


def version_4(state: dict, config: dict) -> dict:
    """The same state by the names and shapes of TransformerLens 4, one entry of a matrix at a time."""
    n_heads, d_head = config["n_heads"], config["d_head"]
    there = {"embed.weight": state["embed.W_E"], "pos_embed.weight": state["pos_embed.W_pos"]}
    there |= {"unembed.weight": state["unembed.W_U"].T, "unembed.bias": state["unembed.b_U"]}
    rows = [(head, i) for head in range(n_heads) for i in range(d_head)]
    for at in [f"blocks.{layer}.attn." for layer in range(config["n_layers"])]:
        for name in "QKV":
            there[f"{at}{name.lower()}.weight"] = torch.stack([state[f"{at}W_{name}"][h, :, i] for h, i in rows])
            there[f"{at}{name.lower()}.bias"] = torch.stack([state[f"{at}b_{name}"][h, i] for h, i in rows])
        there[f"{at}o.weight"] = torch.stack([state[f"{at}W_O"][h, i] for h, i in rows], dim=1)
        there[f"{at}o.bias"] = state[f"{at}b_O"]
    return there


def test_a_state_of_version_4_is_the_same_model():
    state, config = random_lens(biases=BIASES)
    assert same_weights(from_lens(version_4(state, config), config), from_lens(state, config))


def turned(state: dict, basis: Tensor) -> dict:
    """The same model of TransformerLens with its stream in another orthogonal basis."""
    reads = {key: basis.T @ weight for key, weight in state.items() if key.endswith(("W_Q", "W_K", "W_V", "W_U"))}
    writes = {key: weight @ basis for key, weight in state.items() if key.endswith(("W_E", "W_pos", "W_O", "b_O"))}
    return state | reads | writes


@LAYERS
def test_positions_in_the_stream_may_lie_in_any_subspace_that_values_and_logits_do_not_read(n_layers):
    model = random_model(n_layers)
    state, config = to_lens(model, "standard")
    back = from_lens(turned(state, random_rotation(12)), config)
    assert back.config.d_model == 12, "it is not recognised as a doubled one"
    assert_close(back(TOKENS), model(TOKENS), **EXACT)


# ---- what no model of the book computes ---------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_on_one_token_repeated_a_model_of_the_book_has_the_same_logits_everywhere_and_others_have_not(n_layers):
    repeated = torch.full((1, 8), 3)
    logits = random_model(n_layers, n_heads=4, d_model=12)(repeated)
    assert_close(logits, logits[:, :1].expand_as(logits), **EXACT)
    there, _ = forward(*random_lens("standard", n_layers=n_layers), repeated)
    assert (there - there[:, :1]).abs().max() > 0.5


@pytest.mark.parametrize("key", ["blocks.1.attn.W_V", "unembed.W_U"])
@pytest.mark.parametrize("size", [1.0, 1e-12])
def test_positions_that_values_or_logits_read_are_refused_however_little(key, size):
    state, config = to_lens(random_model(2), "standard")
    weight = state[key].clone()
    weight[..., -1, 0] += size
    with pytest.raises(ReaderError, match="depend on positions.* they cannot, .*: take .*_type='shortformer'"):
        from_lens(state | {key: weight}, config)
    with pytest.raises(ReaderError, match="depend on positions"):
        from_lens(*random_lens("standard"))


REFUSED = {
    "attn_only": False,
    "normalization_type": "LNPre",
    "positional_embedding_type": "rotary",
    "attention_dir": "bidirectional",
    "use_attn_scale": False,
    "attn_scale": 1.0,
    "scale_attn_by_inverse_layer_idx": True,
    "use_local_attn": True,
    "attn_scores_soft_cap": 50.0,
    "output_logits_soft_cap": 30.0,
    "n_key_value_heads": 1,
    "use_qk_norm": True,
    "use_attention_sinks": True,
    "use_logn_attn": True,
    "clip_qkv": 8.0,
    "final_rms": True,
    "post_embedding_ln": True,
    "use_normalization_before_and_after": True,
    "scale_embedding": True,
}


@pytest.mark.parametrize("name, value", REFUSED.items(), ids=REFUSED)
def test_another_computation_is_refused_with_what_to_do(name, value):
    state, config = random_lens()
    says = {
        "positional_embedding_type": "has 'rotary' positions, .*: take one .* positional_embedding_type='shortformer'",
        "attn_scale": "by attn_scale=1.0, .*: multiply its W_Q and b_Q by √d_head/attn_scale, and leave attn_scale out",
    }
    with pytest.raises(ReaderError, match=says.get(name, rf"has {name}={value!r}, .*: take one .* with {name}=")):
        from_lens(state, config | {name: value})


def test_what_the_sentence_on_another_scale_says_to_do_is_right():
    state, config = random_lens(biases=BIASES)
    scaled = {key: weight * (2 / 5 if key[-3:] in ("W_Q", "b_Q") else 1) for key, weight in state.items()}
    # scores of ``state`` over 5 are those of ``scaled`` over √4
    assert_close(forward(scaled, config, TOKENS)[0], forward(state, config | {"d_head": 25}, TOKENS)[0], **EXACT)
    assert_close(from_lens(scaled, config)(TOKENS), forward(state, config | {"d_head": 25}, TOKENS)[0], **EXACT)


@pytest.mark.parametrize("name, default", [("attn_only", "False"), ("normalization_type", "'LN'")])
def test_what_a_config_does_not_say_is_what_transformerlens_would_take(name, default):
    state, config = random_lens()
    with pytest.raises(ReaderError, match=rf"has {name}={default} by default, "):
        from_lens(state, {key: value for key, value in config.items() if key != name})
    said = ("attn_only", "normalization_type", "positional_embedding_type")
    assert from_lens(state, {name: config[name] for name in said}).config.n_heads == 3, "sizes are those of the weights"


@pytest.mark.parametrize("n_layers", [0, 2])
@pytest.mark.parametrize("name", ["n_layers", "n_heads", "d_model", "d_head", "d_vocab", "d_vocab_out", "n_ctx"])
def test_a_config_of_other_sizes_is_refused(name, n_layers):
    state, config = random_lens(n_layers=n_layers)
    for value in (config[name] + 1, "two"):
        if n_layers or name not in ("n_heads", "d_head") or value == "two":
            with pytest.raises(ReaderError, match=rf"says {name}={value!r}, and the weights have .*: give the config"):
                from_lens(state, config | {name: value})


def changed(key: str, new: Tensor | None = None, rename: str = "") -> dict:
    state, _ = random_lens()
    weight = state.pop(key)
    return state if new is None and not rename else state | {rename or key: weight if new is None else new}


DAMAGED = {
    "no weights": ({}, "embed.W_E is missing: give the whole"),
    "a missing weight": (changed("blocks.1.attn.W_K"), "blocks.1.attn.W_K is missing"),
    "a missing bias": (changed("unembed.b_U"), "unembed.b_U is missing: .* zeros for a bias that"),
    "a missing first layer": (
        {key: weight for key, weight in random_lens()[0].items() if "blocks.0" not in key},
        "blocks.0.attn.W_Q is missing",
    ),
    "an MLP": (random_lens()[0] | {"blocks.0.mlp.W_in": torch.ones(6, 6)}, "'blocks.0.mlp.W_in', for .*attn_only=True"),
    "LayerNorm": (random_lens()[0] | {"ln_final.w": torch.ones(6)}, "has 'ln_final.w', .*normalization_type=None"),
    "grouped keys": (changed("blocks.0.attn.W_K", rename="blocks.0.attn._W_K"), "has 'blocks.0.attn._W_K'"),
    "a layer too far": (changed("unembed.W_U", rename="blocks.99999999999.attn.W_V"), "has 'blocks.99999999999.attn"),
    "a transposed weight": (
        changed("unembed.W_U", torch.ones(11, 6)),
        r"W_U has the shape \[11, 6\], not \[d_model=6, d",
    ),
    "a flat weight": (changed("embed.W_E", torch.ones(66)), r"W_E has the shape \[66\], not \[d_vocab, d_model\]"),
    "an empty weight": (changed("pos_embed.W_pos", torch.ones(0, 6)), r"W_pos has the shape \[0, 6\], not \[n_ctx, "),
    "heads of two sizes": (
        changed("blocks.1.attn.W_V", torch.ones(3, 6, 5)),
        r"not \[n_heads=3, d_model=6, d_head=4\]",
    ),
    "nan": (changed("embed.W_E", torch.full((11, 6), torch.nan)), "embed.W_E is no tensor of finite numbers: save"),
    "integers": (changed("embed.W_E", torch.ones(11, 6, dtype=torch.int)), "embed.W_E is no tensor of finite numbers"),
    "a list": (random_lens()[0] | {"embed.W_E": [[1.0]]}, "embed.W_E is no tensor of finite numbers"),
}


@pytest.mark.parametrize("state, says", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_state_is_named(state, says):
    with pytest.raises(ReaderError, match=says):
        from_lens(state, random_lens()[1])


@pytest.mark.parametrize("n_heads", [None, 0, 5, "three"])
def test_a_state_of_version_4_needs_the_number_of_heads(n_heads):
    state, config = random_lens()
    with pytest.raises(ReaderError, match=r"n_heads=.*weight of shape \[12, 6\] cannot be divided so: give the config"):
        from_lens(version_4(state, config), config | {"n_heads": n_heads})


@pytest.mark.parametrize("key", ["embed.weight", "unembed.weight", "blocks.0.attn.o.weight", "blocks.0.attn.q.bias"])
@pytest.mark.parametrize("damage", ["missing", "scalar", "vector", "cube"])
def test_a_damaged_state_of_version_4_is_answered_with_a_sentence(key, damage):
    state, config = random_lens()
    there = version_4(state, config)
    del there[key]
    if damage != "missing":
        there[key] = torch.ones({"scalar": (), "vector": (7,), "cube": (3, 2, 2)}[damage])
    with pytest.raises(ReaderError, match="(is missing|has the shape .*|cannot be divided so): give the"):
        from_lens(there, config)


# ---- measures and the command -------------------------------------------------------------------------------------


def test_measures_of_an_imported_model_are_those_of_its_definition():
    state, config = random_lens(d_model=12)
    model = from_lens(state, config)
    scores = list(head_scores(model))
    assert [head for head, *_ in scores] == model.heads
    tokens = lens.random_repeats(11, 3)  # 1 + 3 + 3 tokens
    _, patterns = forward(state, config, tokens)
    for (layer, head), previous, prefix, copying in scores:
        pattern = patterns[layer][head]
        assert previous == pytest.approx(pattern.diagonal(-1, dim1=1, dim2=2).mean().item())
        after_earlier_copy = [pattern[:, t, t - 2].mean() for t in (4, 5, 6)]
        assert prefix == pytest.approx(sum(after_earlier_copy).item() / 3)
        W_V, W_O = (state[f"blocks.{layer}.attn.{name}"][head] for name in ("W_V", "W_O"))
        W_U = state["unembed.W_U"] - state["unembed.W_U"].mean(1, keepdim=True)
        eigenvalues = torch.linalg.eigvals(state["embed.W_E"] @ W_V @ W_O @ W_U)
        assert same_but_for_zeros(ov_circuit(model, (layer, head)).eigenvalues(), eigenvalues, 1e-7)
        assert copying == pytest.approx((eigenvalues.sum().real / eigenvalues.abs().sum()).item())


def test_the_command_shows_the_scores_of_what_it_exported(tmp_path, capsys):
    save_model(random_model(2), tmp_path / "model")
    main(["export", str(tmp_path / "model"), str(tmp_path / "out")])
    printed = capsys.readouterr().out.split()
    assert printed == [str(tmp_path / "out" / "config.json"), str(tmp_path / "out" / "model.safetensors")]
    assert json.loads((tmp_path / "out" / "config.json").read_text("utf8"))["positional_embedding_type"] == "standard"
    main(["heads", str(tmp_path / "out")])
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    model = load_model(tmp_path / "model")
    assert [row[0] for row in rows] == ["0:0", "0:1", "1:0", "1:1"]
    for row, (_, *scores) in zip(rows, head_scores(model), strict=True):
        assert [float(number) for number in row[1:]] == pytest.approx(scores, abs=1e-3)


def test_the_command_prints_nothing_of_what_cannot_be_read(tmp_path, capsys):
    save_model(random_model(1), tmp_path)
    with pytest.raises(ReaderError, match=r"in the book's own form: read it by load_model, or export it first\.$"):
        main(["heads", str(tmp_path)])
    save_lens(random_model(1, n_ctx=2), tmp_path)
    with pytest.raises(ReaderError, match="fewer than three tokens"):
        main(["heads", str(tmp_path)])
    assert capsys.readouterr().out == ""


def test_models_too_small_for_some_scores():
    assert list(head_scores(from_lens(*random_lens(n_layers=0)))) == []
    assert all(math.isnan(copying) for *_, copying in head_scores(from_lens(*random_lens(d_vocab_out=5))))
    with pytest.raises(ReaderError, match="fewer than three tokens .*: take a larger model"):
        next(head_scores(from_lens(*random_lens(n_ctx=2))))


@POSITIONS
def test_files_hold_the_model_of_the_book(positions, tmp_path):
    model = load_book_model("two_layer")
    save_lens(model, tmp_path, positions)
    back = load_lens(tmp_path)
    assert same_weights(back, model) and back.config == model.config
    assert torch.equal(prefix_matching_scores(back, 20, 1), prefix_matching_scores(model, 20, 1))
    assert prefix_matching_scores(back, 20, 1).max() > 0.2


@pytest.mark.parametrize(
    "file, content, says",
    [
        ("config.json", None, "has no model.safetensors and config.json .*FileNotFound.*: save the model's state_dict"),
        ("model.safetensors", None, "has no model.safetensors and config.json that can be read"),
        ("model.safetensors", b"1", "has no model.safetensors and config.json that can be read"),
        ("config.json", b"{", "has no model.safetensors and config.json that can be read .JSON"),
        ("config.json", b"\xff", "has no model.safetensors and config.json that can be read .Unicode"),
        ("config.json", b"[1]", "config.json holds no settings: save the config's to_dict"),
    ],
)
def test_missing_and_damaged_files_are_named(file, content, says, tmp_path):
    save_lens(random_model(1), tmp_path)
    (tmp_path / file).unlink()
    if content:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ReaderError, match=says):
        load_lens(tmp_path)


def test_the_module_does_not_import_transformerlens():
    tree = ast.parse(Path(lens.__file__).read_text("utf8"))
    modules = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    modules += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "torch" in modules and not [module for module in modules if module.startswith("transformer_lens")]


# ---- TransformerLens itself ---------------------------------------------------------------------------------------


def in_transformer_lens(version: int, command: str, folders: list[Path]) -> None:
    """Runs ``tests/in_transformer_lens.py`` in the Python that an environment variable names, or skips the test."""
    variable = f"TRANSFORMER_LENS_{version}"
    if not (python := os.environ.get(variable)):
        pytest.skip(
            f"set {variable} to a Python that has transformer-lens {version}: see the top of tests/test_lens.py"
        )
    script = [python, "-W", "ignore", str(Path(__file__).with_name("in_transformer_lens.py")), command]
    without_ours = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*script, *map(str, folders)], capture_output=True, text=True, env=without_ours)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1].startswith(f"{version}."), f"{python} has transformer-lens {done.stdout}"


def assert_same(folder: Path, model: AttentionOnlyTransformer, tokens: Tensor) -> None:
    """What TransformerLens computed in ``folder`` is what the model does, up to the rounding errors of float64."""
    computed = load_file(folder / "computed.safetensors")
    logits, cache = model.run_with_cache(tokens)
    assert logits.std() > 0.2 and len(computed) == 1 + model.config.n_layers
    assert (computed["logits"] - logits).abs().max() < 1e-12
    for layer, pattern in enumerate(cache.patterns):
        assert (computed[f"pattern.{layer}"] - pattern).abs().max() < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("version, positions", [(3, "standard"), (3, "shortformer"), (4, "standard")])
def test_transformerlens_computes_the_same_from_an_export(version, positions, tmp_path):
    models = {f"random{n_layers}": random_model(n_layers) for n_layers in (0, 3)}
    models |= {name: load_model(DATA / "models" / name).double() for name in ("one_layer", "two_layer")}
    tokens = {name: random_tokens(model, batch=2) for name, model in models.items()}
    for name, model in models.items():
        save_lens(model, tmp_path / name, positions)
        save_file({"tokens": tokens[name]}, tmp_path / name / "tokens.safetensors")
    in_transformer_lens(version, "run", [tmp_path / name for name in models])
    for name, model in models.items():
        assert_same(tmp_path / name, model, tokens[name])


@pytest.mark.slow
@pytest.mark.parametrize("version, positions", [(3, "standard"), (3, "shortformer"), (4, "standard")])
def test_a_model_that_transformerlens_made_computes_the_same_here(version, positions, tmp_path):
    _, config = random_lens(positions, d_model=12, d_vocab_out=7)
    (tmp_path / "config.json").write_text(json.dumps(config), "utf8")
    save_file({"tokens": TOKENS}, tmp_path / "tokens.safetensors")
    in_transformer_lens(version, "make", [tmp_path])
    model = load_lens(tmp_path)
    assert model.config.d_model == 12 + 2, "biases are random, so there are rows for them"
    assert_same(tmp_path, model, TOKENS)
