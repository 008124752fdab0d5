"""LayerNorm, biases and neurons: against PyTorch's own, folded, taken apart, trained and loaded."""

import pkgutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import ReaderError, identities
from helpers.circuits import LowRank
from helpers.heads import loss_per_token
from helpers.history import load_card
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.neurons import input_output_cosines, inputs_by_source, neurons_on_logits, share_left, share_of_variance
from helpers.standard import (
    EPSILON,
    PARTS,
    StandardConfig,
    StandardTransformer,
    fold,
    losses_by_order,
    stream_terms,
    term_losses,
    with_frozen_scales,
)
from helpers.stream import in_basis, random_rotation, with_weights
from helpers.training import TrainingConfig, train
from helpers.training.__main__ import argument_parser, chosen_recipe, main
from helpers.weights import load_book_model, load_model, save_model
from tests.examples import SMALL, random_tokens
from tests.tiny import ARGUMENTS, same, sizes_for

PARTS_ALONE_AND_TOGETHER = [(), *((part,) for part in PARTS), ("layer_norm", "biases"), PARTS]
COMBINATIONS = pytest.mark.parametrize("parts", PARTS_ALONE_AND_TOGETHER, ids="+".join)
EQUATIONS = {  # and what has to be missing from the model
    "folded": "",
    "linear_when_scales_are_frozen": "mlp",
    "sum_of_standard_paths": "",
    "sum_of_neuron_inputs": "",
    "orders_of_standard_terms": "",
}


def random_standard(n_layers: int = 2, seed: int = 0, parts: tuple[str, ...] = PARTS, **sizes) -> StandardTransformer:
    """A small model in float64 in which whatever it has is large: no gain is 1, no offset and no bias 0."""
    config = StandardConfig(n_layers=n_layers, **(SMALL | sizes), **dict.fromkeys(parts, True))
    model, generator = config.build().double(), torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data.normal_(0, 0.5, generator=generator)
    return model.requires_grad_(False).eval()


# ---- the model ----------------------------------------------------------------------------------------------------


def logits_by_pytorch(model: StandardTransformer, tokens: Tensor) -> Tensor:
    """The same by ``layer_norm``, ``linear`` and ``scaled_dot_product_attention``."""
    c, x = model.config, model.W_E[tokens]

    def read(i: int) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], model.gain[i], model.offset[i], EPSILON) if c.layer_norm else x

    for layer in range(c.n_layers):
        here = read(2 * layer)
        placed = here + model.W_pos[: tokens.shape[1]]
        for head in model.layer_heads(layer):
            q, k, v = (
                F.linear(source, W[head].T, b[head][0])
                for source, W, b in (
                    (placed, model.W_Q, model.b_Q),
                    (placed, model.W_K, model.b_K),
                    (here, model.W_V, model.b_V),
                )
            )
            x = x + F.scaled_dot_product_attention(q, k, v, is_causal=True) @ model.W_O[head]
        x = x + model.b_O[layer]
        hidden = F.gelu(F.linear(read(2 * layer + 1), model.W_in[layer].T, model.b_in[layer]))
        x = x + F.linear(hidden, model.W_out[layer].T, model.b_out[layer])
    return F.linear(read(2 * c.n_layers), model.W_U.T, model.b_U)


@COMBINATIONS
@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_the_model_is_what_pytorch_makes_of_its_parts(n_layers, parts):
    model = random_standard(n_layers, parts=parts)
    tokens = random_tokens(model)
    expected = logits_by_pytorch(model, tokens)
    assert expected.std() > 0.1
    torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.run_with_cache(tokens)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("part", PARTS)
def test_each_part_matters(part):
    model = random_standard()
    without = replace(model.config, **{part: False}).build().double().requires_grad_(False)
    names = [name for name, weight in without.named_parameters() if weight.shape == model.get_parameter(name).shape]
    constants = {"biases": "b_", "layer_norm": ("gain", "offset"), "mlp": ("W_in", "W_out", "b_in")}[part]
    kept = {name: model.get_parameter(name) for name in names if not name.startswith(constants)}
    assert not torch.allclose(with_weights(without, **kept)(random_tokens(model)), model(random_tokens(model)))


@pytest.mark.parametrize("n_layers", [0, 1, 2])
def test_without_any_part_it_is_the_model_of_the_other_chapters(n_layers):
    model = random_standard(n_layers, parts=())
    plain = AttentionOnlyTransformer(ModelConfig(n_layers=n_layers, **SMALL)).double().requires_grad_(False)
    for name, weight in plain.named_parameters():
        weight.copy_(model.get_parameter(name))
    torch.testing.assert_close(model(random_tokens(model)), plain(random_tokens(model)), rtol=1e-12, atol=1e-12)
    fresh = StandardConfig(n_layers=n_layers, **SMALL).build(seed=4)
    begins_alike = AttentionOnlyTransformer(ModelConfig(n_layers=n_layers, **SMALL), seed=4).state_dict()
    assert all(torch.equal(fresh.state_dict()[name], weight) for name, weight in begins_alike.items())


def test_what_a_model_does_not_have_it_does_not_learn():
    def learns(**parts: bool) -> set[str]:
        model = StandardConfig(**SMALL, **parts).build()
        model(random_tokens(model)).square().sum().backward()
        changing = {name for name, weight in model.named_parameters() if weight.grad is not None}
        assert changing == {name for name, weight in model.named_parameters() if weight.requires_grad}
        return changing

    plain, biases = learns(), {"b_Q", "b_K", "b_V", "b_O", "b_U"}
    assert plain == {"W_E", "W_Q", "W_K", "W_V", "W_O", "W_U"}
    assert learns(layer_norm=True) - plain == {"gain", "offset"} and learns(biases=True) - plain == biases
    assert learns(mlp=True) - plain == {"W_in", "W_out"}
    assert learns(mlp=True, biases=True) - plain == {"W_in", "W_out", "b_in", "b_out"} | biases


def test_heads_can_be_replaced_and_patterns_frozen_as_in_any_model():
    model, tokens = random_standard(), random_tokens(random_standard())
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(model(tokens, patterns=cache.patterns), logits)
    without = with_weights(
        model, W_O=model.W_O.index_put([torch.tensor([0]), torch.tensor([1])], torch.tensor(0.0).double())
    )
    torch.testing.assert_close(model(tokens, replace={(0, 1): 0.0}), without(tokens))
    assert not torch.allclose(without(tokens), logits)


def test_a_standard_model_has_no_smeared_keys():
    with pytest.raises(ReaderError, match="Keys are smeared in models of attention alone"):
        StandardConfig(smeared_keys=True)


# ---- files ----------------------------------------------------------------------------------------------------------


@COMBINATIONS
def test_it_comes_back_from_its_files(tmp_path, parts):
    model = random_standard(parts=parts)
    save_model(model, tmp_path)
    loaded = load_model(tmp_path, kind=StandardTransformer)
    assert loaded.config == model.config and type(loaded) is StandardTransformer
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight.half().float())


def test_the_wrong_kind_of_model_is_named(tmp_path):
    save_model(random_standard(), tmp_path)
    sentence = "AttentionOnlyTransformer has no .*layer_norm.*Load it as the kind that was trained, such as kind=Stand"
    with pytest.raises(ReaderError, match=sentence) as error:
        load_model(tmp_path)
    assert str(tmp_path / "config.json") not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_model_of_the_book_can_be_loaded_as_a_standard_one_without_any_part():
    plain, standard = load_book_model("laptop"), load_book_model("laptop", kind=StandardTransformer)
    tokens = random_tokens(plain)
    assert not any(getattr(standard.config, part) for part in PARTS)
    torch.testing.assert_close(standard(tokens), plain(tokens), rtol=1e-4, atol=1e-4)


def test_learned_weights_may_not_be_missing(tmp_path):
    save_model(AttentionOnlyTransformer(ModelConfig(**SMALL)), tmp_path)
    (tmp_path / "config.json").write_text('{"n_heads": 2, "d_model": 6, "d_head": 3, "d_vocab": 11, "biases": true}')
    with pytest.raises(ReaderError, match="do not fit their config.json: b_Q is None"):
        load_model(tmp_path, kind=StandardTransformer)


# ---- training -------------------------------------------------------------------------------------------------------


@COMBINATIONS
@pytest.mark.parametrize("muon", [0.0, 0.01])
def test_a_training_goes_on_where_it_stopped(tmp_path, corpus, parts, muon):
    sizes = StandardConfig(**vars(sizes_for(corpus)), **dict.fromkeys(parts, True))
    config = TrainingConfig(4 * 2 * sizes.n_ctx, batch_size=2, muon_learning_rate=muon, warmup_steps=1)
    *_, whole = train(sizes, config, corpus, tmp_path / "whole")
    for state in train(sizes, config, corpus, tmp_path / "parts"):
        if state.step == 2:
            break
    *_, resumed = train(sizes, config, corpus, tmp_path / "parts", resume=True)
    assert whole.step == resumed.step == 4 and same(whole, resumed)
    start, loaded = sizes.build(), load_model(tmp_path / "parts", kind=StandardTransformer)
    for name, weight in start.named_parameters():
        changed = not torch.equal(weight, whole.model.get_parameter(name))
        assert changed == (weight.requires_grad and weight.numel() > 0), name
        assert torch.equal(loaded.get_parameter(name), whole.model.get_parameter(name).half().float())


@pytest.mark.parametrize("arguments", ["--layer-norm", "--mlp --no-biases", "--layer-norm --biases --mlp", "--no-mlp"])
def test_the_command_line_trains_and_resumes_any_of_them(text_folder, tmp_path, monkeypatch, arguments):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    settings = ["--layers", "1", *ARGUMENTS, "--text", str(text_folder), "--out", str(tmp_path / "run")]
    main([*settings, *arguments.split()])
    model = load_model(tmp_path / "run", kind=StandardTransformer)
    given = {part: f"--{part.replace('_', '-')}" in arguments.split() for part in PARTS}
    assert {part: getattr(model.config, part) for part in PARTS} == given and load_card(tmp_path / "run")["steps"] == 7
    main([*settings, *arguments.split(), "--resume"])
    with pytest.raises(ReaderError, match="of a training with other settings"):
        main([*settings, "--resume"])


def test_without_any_of_the_three_a_recipe_is_of_an_ordinary_model():
    assert type(chosen_recipe(argument_parser().parse_args(["--recipe", "laptop"])).model) is ModelConfig


def test_without_layers_layer_norm_is_trained_by_its_own_gradient(corpus):
    """Bigram counts give the gradients of a table of logits; with a LayerNorm there is none."""
    sizes = StandardConfig(**(vars(sizes_for(corpus)) | {"n_layers": 0}), layer_norm=True, biases=True)
    *_, state = train(sizes, TrainingConfig(2 * sizes.n_ctx, batch_size=1, warmup_steps=1), corpus)
    for name in ("gain", "offset", "b_U"):
        assert not torch.equal(state.model.get_parameter(name), sizes.build().get_parameter(name))


# ---- equations ------------------------------------------------------------------------------------------------------


def error_of(name: str, model: StandardTransformer) -> float:
    return getattr(identities, name)(model, random_tokens(model, 2))


def asked(name: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part for part in parts if part != EQUATIONS[name])


@pytest.mark.parametrize("name", EQUATIONS)
@given(
    st.sampled_from(PARTS_ALONE_AND_TOGETHER),
    st.integers(0, 2),
    st.integers(0, 2**32),
    st.sampled_from([4, 6, 8]),
    st.integers(1, 3),
)
def test_identity_holds_for_random_models(name, parts, n_layers, seed, d_model, n_heads):
    sizes = {"d_model": d_model, "d_head": 5 - n_heads, "n_heads": n_heads}
    n_layers = max(n_layers, 1) if name == "sum_of_neuron_inputs" else n_layers
    parts = ("mlp", *parts) if name == "sum_of_neuron_inputs" else asked(name, parts)
    assert error_of(name, random_standard(n_layers, seed, parts, **sizes)) < 1e-9


def without(name: str):
    return lambda real: lambda m: with_weights(real(m), **{name: 0 * getattr(real(m), name)})


def fold_keeping(name: str):
    return lambda real: lambda m: with_weights(real(m), **{name: getattr(m, name)})


HERE = "helpers.identities"
WRONG = [  # an equation, an ingredient of it, and what is wrong with that
    *(("folded", f"{HERE}.fold", fold_keeping(W)) for W in ("W_E", "W_V", "W_in", "W_U", "b_O", "b_in", "b_U", "gain")),
    ("linear_when_scales_are_frozen", f"{HERE}.with_frozen_scales", lambda real: lambda m, tokens: m),
    ("linear_when_scales_are_frozen", f"{HERE}.fold", without("b_O")),
    ("sum_of_standard_paths", f"{HERE}.stream_terms", lambda real: lambda *a: dict(list(real(*a).items())[1:])),
    (
        "sum_of_standard_paths",
        "helpers.standard._moved",
        lambda real: lambda m, c, h, x: c.scales[2 * h[0]] * real(m, c, h, x),
    ),
    ("sum_of_standard_paths", f"{HERE}.fold", without("b_U")),
    (
        "sum_of_neuron_inputs",
        f"{HERE}.neurons_through_head",
        lambda real: lambda *a: LowRank(-real(*a).left, real(*a).right),
    ),
    ("sum_of_neuron_inputs", f"{HERE}.neurons_on_tokens", lambda real: lambda m, layer: real(m, 0)),
    ("sum_of_neuron_inputs", "helpers.standard._sources", lambda real: lambda *a: dict(list(real(*a).items())[:2])),
    ("sum_of_neuron_inputs", "itertools.product", lambda real: lambda *a: []),
    ("orders_of_standard_terms", f"{HERE}.term_losses", lambda real: lambda *a: real(*a, live_scales=True)),
    ("orders_of_standard_terms", f"{HERE}.term_losses", lambda real: lambda *a: real(*a)[::-1]),
]


def test_every_equation_can_fail():
    assert {name for name, *_ in WRONG} == {*EQUATIONS}


@pytest.mark.parametrize("name, ingredient, wrong", WRONG)
def test_identity_fails_with_a_wrong_ingredient(name, ingredient, wrong, monkeypatch):
    parts = ("layer_norm", "biases") if name == "orders_of_standard_terms" else asked(name, PARTS)
    model = random_standard(parts=parts)
    assert error_of(name, model) < 1e-9
    monkeypatch.setattr(ingredient, wrong(pkgutil.resolve_name(ingredient)))
    assert error_of(name, model) > 1e-3


def test_live_scales_are_those_of_the_stream_of_each_run():
    model = fold(random_standard(parts=("layer_norm",)))
    tokens = random_tokens(model)
    direct = with_weights(model, W_O=0 * model.W_O)
    live, fixed = term_losses(model, tokens, live_scales=True), term_losses(model, tokens)
    assert live[0] == pytest.approx(loss_per_token(direct, tokens).mean().item())
    assert fixed[0] != pytest.approx(live[0], rel=1e-3)
    assert live[-1] == pytest.approx(fixed[-1]) == pytest.approx(loss_per_token(model, tokens).mean().item())


def test_losses_of_the_last_order_are_the_models_place_by_place():
    model = fold(random_standard())
    tokens = random_tokens(model, batch=5)
    for live_scales in (False, True):
        losses = losses_by_order(model, tokens, live_scales)
        assert losses.shape == (5, 5, tokens.shape[1] - 1)  # two layers, of heads and of neurons each
        torch.testing.assert_close(losses[-1], loss_per_token(model, tokens))
        assert losses.mean((1, 2)).tolist() == term_losses(model, tokens, live_scales)
        assert not torch.allclose(losses[0], losses[1])


def test_a_folded_model_has_no_privileged_basis_and_one_with_a_gain_has():
    """Its LayerNorm divides by a length alone; only means must stay 0, so the rotation leaves (1, 1, …) in place."""
    model = random_standard(parts=("layer_norm",))
    tokens, n = random_tokens(model), model.config.d_model
    axes = torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.eye(n)[:, 1:]], dim=1).double()).Q
    turn = torch.eye(n).double()
    turn[1:, 1:] = random_rotation(n - 1)
    rotation = axes @ turn @ axes.T
    rotated = in_basis(fold(model), rotation)
    torch.testing.assert_close(with_weights(rotated, b_O=fold(model).b_O @ rotation)(tokens), model(tokens))
    assert not torch.allclose(in_basis(model, rotation)(tokens), model(tokens))


def test_terms_are_read_off_a_folded_model():
    model = random_standard()
    for function in (
        lambda: stream_terms(model, model.cache(random_tokens(model)), 0),
        lambda: term_losses(model, random_tokens(model)),
    ):
        with pytest.raises(ReaderError, match=r"begin with model = fold\(model\)"):
            function()


def test_frozen_scales_belong_to_their_texts():
    model, tokens = random_standard(), random_tokens(random_standard())
    frozen = with_frozen_scales(model, tokens)
    torch.testing.assert_close(frozen(tokens), model(tokens))
    doubled = with_weights(frozen, W_E=2 * model.W_E)
    assert not torch.allclose(doubled(tokens), with_weights(model, W_E=2 * model.W_E)(tokens))
    assert model.frozen_scales is None
    with pytest.raises(ReaderError, match="Scales are frozen for the texts"):
        frozen(tokens[:1])


# ---- neurons --------------------------------------------------------------------------------------------------------


def test_a_neuron_that_takes_away_what_it_reads_has_the_cosine_minus_one():
    model = random_standard()
    erasing = with_weights(model, W_out=-3 * model.W_in.mT)
    torch.testing.assert_close(input_output_cosines(erasing, 1), -torch.ones(model.config.d_mlp).double())
    assert input_output_cosines(erasing, 1, seed=0).abs().max() < 0.999
    turned = input_output_cosines(erasing, 1, seed=0)
    assert torch.equal(turned, input_output_cosines(erasing, 1, seed=0)) and turned.min() > -0.999


def test_what_is_left_of_what_was_written():
    written = torch.randn(6, 5, 4, dtype=torch.double)
    assert share_left(written, -written + 7) == pytest.approx(0)
    assert share_left(written + 3, written / 2) == pytest.approx(1.5)
    assert share_left(written, torch.zeros_like(written)) == 1
    assert 0.5 < share_left(written, -written, shift=1) < 1.5


def test_what_neurons_say_is_above_the_mean_of_the_logits():
    model = random_standard()
    says = neurons_on_logits(model, 0).dense()
    torch.testing.assert_close(says.mean(1), torch.zeros(model.config.d_mlp).double())
    torch.testing.assert_close(says[:, 1] - says[:, 0], model.W_out[0] @ (model.W_U[:, 1] - model.W_U[:, 0]))


# ---- where inputs of neurons begin ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layer, begin", [(0, {("token", 1)}), (1, {("token", 1), ("token", 2), ("MLP 0", 0)})])
def test_inputs_are_the_sum_of_what_begins_at_each_source(layer, begin):
    model = fold(random_standard())
    cache = model.cache(random_tokens(model))
    inputs = inputs_by_source(model, cache, layer)
    torch.testing.assert_close(sum(inputs.values()), cache.inputs[layer])
    assert begin | {("token", 0), ("biases", 0)} <= {*inputs} and all(part.std() > 0 for part in inputs.values())
    direct = cache.residual[0] @ model.W_in[layer] / cache.scales[2 * layer + 1]
    torch.testing.assert_close(inputs["token", 0], direct)
    if layer:
        torch.testing.assert_close(inputs["MLP 0", 0], cache.mlp_outputs[0] @ model.W_in[1] / cache.scales[3])


def test_a_token_reaches_the_first_neurons_directly_and_by_one_head_at_most():
    model = fold(random_standard())
    assert {*inputs_by_source(model, model.cache(random_tokens(model)), 0)} == {
        ("token", 0),
        ("token", 1),
        ("biases", 0),
    }


def test_shares_of_the_variance_add_up_and_one_that_counteracts_is_negative():
    generator = torch.Generator().manual_seed(0)
    large, small = (torch.randn(50, 40, 3, generator=generator) * size + 7 for size in (2.0, 1.0))
    shares = share_of_variance(large, large + small), share_of_variance(small, large + small)
    torch.testing.assert_close(sum(shares), torch.ones(3))
    assert (shares[0] - 0.8).abs().max() < 0.05  # 4 to 1
    torch.testing.assert_close(share_of_variance(-large, large), -torch.ones(3))
    torch.testing.assert_close(share_of_variance(0.25 * large + 3, large), torch.full((3,), 0.25))
