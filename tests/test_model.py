"""The model against an implementation that shares nothing with it, its interventions, and its files."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import ReaderError
from helpers.files import DATA
from helpers.model import AttentionOnlyTransformer, Head, ModelConfig, head_name, sinusoids
from helpers.standard import StandardTransformer
from helpers.weights import load_book_model, load_model, save_model
from tests.examples import SMALL, random_model, random_tokens

LAYERS = pytest.mark.parametrize("n_layers", [0, 1, 2, 3])
SMEARED = pytest.mark.parametrize("smeared_keys", [False, True], ids=["plain", "smeared"])


# ---- the equations, written out once more in plain Python -------------------------------------------------------


def times(x: list[float], matrix: list[list[float]]) -> list[float]:
    return [sum(x[i] * matrix[i][j] for i in range(len(x))) for j in range(len(matrix[0]))]


def plus(x: list[float], y: list[float]) -> list[float]:
    return [a + b for a, b in zip(x, y, strict=True)]


def naive_logits(model: AttentionOnlyTransformer, tokens: list[int]) -> list[list[float]]:
    """One text, one position and one head at a time, lists and floats only."""
    w = {name: weight.tolist() for name, weight in model.named_parameters()}
    positions = model.W_pos.tolist()
    stream = [w["W_E"][token] for token in tokens]
    for layer in range(model.config.n_layers):
        written = [list(x) for x in stream]
        for head in range(model.config.n_heads):
            for t in range(len(tokens)):
                for j, share in enumerate(naive_pattern(w, positions, stream, layer, head, t)):
                    moved = times(times(stream[j], w["W_V"][layer][head]), w["W_O"][layer][head])
                    written[t] = plus(written[t], [share * m for m in moved])
        stream = written
    return [times(x, w["W_U"]) for x in stream]


def naive_pattern(w: dict, positions: list, stream: list, layer: int, head: int, t: int) -> list[float]:
    query = times(plus(stream[t], positions[t]), w["W_Q"][layer][head])
    keys = [times(plus(stream[j], positions[j]), w["W_K"][layer][head]) for j in range(t + 1)]
    if "smear" in w:
        own = 1 / (1 + math.exp(-w["smear"][layer][head]))
        smeared = [
            [own * k + (1 - own) * b for k, b in zip(keys[j], keys[j - 1], strict=True)] for j in range(1, t + 1)
        ]
        keys = [keys[0], *smeared]
    scores = [sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)) for key in keys]
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


@LAYERS
@SMEARED
def test_the_model_is_what_the_equations_say(n_layers, smeared_keys):
    model = random_model(n_layers, smeared_keys=smeared_keys)
    tokens = random_tokens(model)
    expected = torch.tensor([naive_logits(model, row) for row in tokens.tolist()], dtype=torch.double)
    assert expected.std() > 0.5
    torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)


def test_positions_are_sinusoids_whose_longest_wave_is_of_the_order_of_the_context():
    table = sinusoids(n_ctx=5, d_model=6)
    assert table.shape == (5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 5 ** (2 * i / 6)
            assert table[t, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 3 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


@LAYERS
@SMEARED
def test_no_position_sees_a_later_token(n_layers, smeared_keys):
    model = random_model(n_layers, smeared_keys=smeared_keys)
    tokens = random_tokens(model)
    logits = model(tokens)
    for t in range(1, model.config.n_ctx):
        changed = tokens.clone()
        changed[:, t] = 1 + changed[:, t] % (model.config.d_vocab - 1)
        assert torch.equal(model(changed)[:, :t], logits[:, :t])
        assert not torch.equal(model(changed)[:, t:], logits[:, t:])
        torch.testing.assert_close(model(tokens[:, :t]), logits[:, :t], rtol=1e-12, atol=1e-12)


# ---- the cache and the interventions ----------------------------------------------------------------------------


@LAYERS
def test_the_cache_holds_every_step_and_changes_nothing(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(logits, model(tokens), rtol=1e-12, atol=1e-12)
    assert len(cache.residual) == n_layers + 1
    assert [len(kept) for kept in (cache.scores, cache.patterns, cache.values, cache.head_outputs)] == [n_layers] * 4
    torch.testing.assert_close(cache.residual[0], model.W_E[tokens])
    for layer in range(n_layers):
        torch.testing.assert_close(cache.residual[layer] + cache.head_outputs[layer].sum(1), cache.residual[layer + 1])
        torch.testing.assert_close(cache.scores[layer].softmax(-1), cache.patterns[layer])
        torch.testing.assert_close(
            cache.patterns[layer] @ cache.values[layer] @ model.W_O[layer], cache.head_outputs[layer]
        )


def test_a_run_can_be_differentiated_and_the_cache_alone_builds_no_graph():
    model = random_model(2).requires_grad_(True)
    tokens = random_tokens(model)
    logits, with_gradients = model.run_with_cache(tokens)
    logits.square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())
    cache = model.cache(tokens)
    for name, kept in vars(cache).items():
        for one, other in zip(kept, getattr(with_gradients, name), strict=True):
            assert torch.equal(one, other) and other.requires_grad and not one.requires_grad


@LAYERS
def test_frozen_patterns_reproduce_the_logits_and_make_them_linear_in_the_tokens(n_layers):
    model, tokens = random_model(n_layers), random_tokens(random_model(0))
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(model(tokens, patterns=cache.patterns), logits, rtol=1e-12, atol=1e-12)
    doubled = random_model(n_layers)
    doubled.W_E.mul_(2)
    torch.testing.assert_close(doubled(tokens, patterns=cache.patterns), 2 * logits, rtol=1e-12, atol=1e-12)
    assert n_layers == 0 or not torch.allclose(doubled(tokens), 2 * logits)


@pytest.mark.parametrize("head", [(0, 1), (1, 0)])
def test_a_head_can_be_replaced_by_anything_that_broadcasts(head: Head):
    model, without = random_model(2), random_model(2)
    without.W_O[head] = 0
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    own = cache.head_outputs[head[0]][:, head[1]]
    torch.testing.assert_close(model(tokens, replace={head: own}), logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(model(tokens, replace={head: 0.0}), without(tokens), rtol=1e-12, atol=1e-12)
    mean = own.mean(dim=(0, 1))
    replaced, cache = model.run_with_cache(tokens, replace={head: mean})
    torch.testing.assert_close(cache.head_outputs[head[0]][:, head[1]], mean.expand(*tokens.shape, -1))
    torch.testing.assert_close(model(tokens, replace={head: mean}), replaced, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(replaced, logits)


@pytest.mark.parametrize("head, name", [((2, 0), "2:0"), ((0, 2), "0:2"), ((0, -1), "0:-1")])
def test_a_head_that_is_not_there_is_named(head: Head, name):
    model = random_model(2)
    sentence = f"This model has no head {name}: it has 2 layers of 2 heads"
    with pytest.raises(ReaderError, match=sentence):
        model(random_tokens(model), replace={head: 0.0})
    with pytest.raises(ReaderError, match=sentence):
        model.check_heads([(0, 0), head])


def test_heads_have_names_and_stand_in_layers():
    model = random_model(2)
    assert model.heads == [(0, 0), (0, 1), (1, 0), (1, 1)] and random_model(0).heads == []
    assert model.layer_heads(1) == [(1, 0), (1, 1)] and model.check_heads(model.heads) is None
    assert [head_name(head) for head in model.heads] == ["0:0", "0:1", "1:0", "1:1"]


def test_smearing_is_trained_and_starts_at_one_half():
    fresh = AttentionOnlyTransformer(ModelConfig(**SMALL, smeared_keys=True))
    assert torch.equal(fresh.smear.sigmoid(), torch.full((2, 2), 0.5))
    fresh(random_tokens(fresh)).square().sum().backward()
    assert (fresh.smear.grad != 0).all() and random_model(2).smear is None


# ---- sizes and seeds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 9), (1, 0)])
def test_tokens_of_another_shape_are_answered_with_a_sentence(shape):
    with pytest.raises(ReaderError, match=r"do not fit: the model takes \[batch, pos\] with 1 to 8 positions"):
        random_model(1)(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize(
    "sizes",
    [{"n_layers": -1}, {"n_heads": 0}, {"d_model": 7}, {"d_model": 0}, {"d_head": 0}, {"d_vocab": 0}, {"n_ctx": 0}],
)
def test_impossible_sizes_are_answered_with_a_sentence(sizes):
    with pytest.raises(ReaderError, match="No model has these sizes"):
        ModelConfig(**sizes)


def test_the_same_seed_gives_the_same_weights():
    config = ModelConfig(**SMALL)
    one, same, other = (AttentionOnlyTransformer(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)
    shapes = {name: tuple(weight.shape) for name, weight in one.items()}
    reading, writing = (2, 2, 6, 3), (2, 2, 3, 6)
    per_head = {"W_Q": reading, "W_K": reading, "W_V": reading, "W_O": writing}
    assert shapes == {"W_E": (11, 6), **per_head, "W_U": (6, 11)}


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path) -> Path:
    save_model(random_model(2), tmp_path / "model")
    return tmp_path / "model"


@LAYERS
@SMEARED
def test_a_model_comes_back_from_its_files(tmp_path, n_layers, smeared_keys):
    model = random_model(n_layers, smeared_keys=smeared_keys)
    save_model(model, tmp_path / "new" / "folder")
    loaded = load_model(tmp_path / "new" / "folder")
    assert loaded.config == model.config and not loaded.training
    assert all(not weight.requires_grad and weight.dtype == torch.float32 for weight in loaded.parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(loaded.get_parameter(name), weight.half().float())
    torch.testing.assert_close(loaded(random_tokens(model)), model.float()(random_tokens(model)), rtol=0.01, atol=0.05)


def test_weights_in_steps_come_back_within_half_a_step_of_each_row(tmp_path):
    model = random_model(2)
    save_model(model, tmp_path, bits=8)
    for name, weight in load_model(tmp_path).named_parameters():
        wanted = model.get_parameter(name)
        half_a_step = wanted.abs().amax(-1, keepdim=True) / 254
        assert weight.dtype == torch.float32 and ((weight - wanted).abs() <= 1.1 * half_a_step).all()
        assert weight.abs().max() > 0.9 * wanted.abs().max()


def test_weights_in_float8_come_back_as_float32_and_nearly_the_same(saved):
    model = random_model(2)
    eight_bits = {name: weight.to(torch.float8_e4m3fn) for name, weight in model.named_parameters()}
    (saved / "checkpoints").mkdir()
    save_file(eight_bits, saved / "checkpoints" / "000001.safetensors")
    loaded, halves = load_model(saved, "checkpoints/000001.safetensors"), load_model(saved)
    for name, weight in loaded.named_parameters():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.double(), model.get_parameter(name), rtol=2**-4, atol=2**-9)
        torch.testing.assert_close(halves.get_parameter(name).double(), model.get_parameter(name), rtol=2**-11, atol=0)
    assert not torch.equal(loaded.W_E, halves.W_E)


def truncate(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


DAMAGES = {
    "no folder": lambda folder: shutil.rmtree(folder),
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "truncated weights": lambda folder: truncate(folder / "model.safetensors", 200),
    "truncated header": lambda folder: truncate(folder / "model.safetensors", 5),
    "empty weights": lambda folder: truncate(folder / "model.safetensors", 0),
    "truncated config": lambda folder: truncate(folder / "config.json", 20),
    "not JSON": lambda folder: (folder / "config.json").write_text("n_layers = 2", "utf8"),
    "not UTF-8": lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"),
    "a list": lambda folder: (folder / "config.json").write_text("[2]", "utf8"),
    "a word for a number": lambda folder: (folder / "config.json").write_text('{"n_heads": "two"}', "utf8"),
    "an impossible size": lambda folder: (folder / "config.json").write_text('{"n_heads": 0}', "utf8"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_missing_or_damaged_model_of_the_readers_own_is_named(saved, damage):
    damage(saved)
    with pytest.raises(ReaderError, match="is missing or damaged .*: name the folder that holds it, or train") as error:
        load_model(saved)
    assert str(saved) in str(error.value) and "git" not in str(error.value)


def test_a_config_with_settings_that_the_model_does_not_have_is_named(saved):
    (saved / "config.json").write_text('{"n_layers": 2, "layers": 2}', "utf8")
    with pytest.raises(
        ReaderError, match=f"config.json in {saved} does not fit: AttentionOnlyTransformer has no layers."
    ):
        load_model(saved)


def test_a_damaged_model_of_the_book_comes_back_from_git(saved, monkeypatch):
    monkeypatch.setattr("helpers.files.DATA", saved.parent)
    truncate(saved / "model.safetensors", 200)
    with pytest.raises(ReaderError, match=f": bring it back with 'git checkout {saved.parent.name}/model'"):
        load_model(saved)


def test_weights_that_do_not_fit_the_config_are_named(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(weights | {"b_U": torch.zeros(11)}, saved / "model.safetensors")
    with pytest.raises(ReaderError, match=r"b_U is \(11,\), not None"):
        load_model(saved)
    del weights["W_K"]
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(ReaderError, match="W_K is None, not"):
        load_model(saved)
    config = json.loads((saved / "config.json").read_text("utf8"))
    (saved / "config.json").write_text(json.dumps(config | {"d_vocab": 12}), "utf8")
    with pytest.raises(
        ReaderError, match=r"do not fit .*config.json: W_E is \(11, 6\), not \(12, 6\)\. .* train again"
    ):
        load_model(saved)


@pytest.mark.parametrize("name, seed", [("three_layer", 0), ("two_layer", 9), ("laptop", 1)])
def test_a_model_that_the_book_does_not_have_is_answered_with_those_that_it_has(name, seed):
    with pytest.raises(
        ReaderError, match=f"no model '.*{name}.*': it has laptop, .*, zero_layer_seed2.*git checkout data/models"
    ):
        load_book_model(name, seed)


def test_a_folder_that_cannot_be_written_is_answered_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way", "utf8")
    with pytest.raises(ReaderError, match="could not be written .*: free some space or choose another folder"):
        save_model(random_model(1), tmp_path / "file" / "model")


@pytest.mark.parametrize("folder", sorted((DATA / "models").glob("*/")), ids=lambda folder: folder.name)
def test_the_shipped_models_load_and_compute(folder):
    has_parts = "mlp" in json.loads((folder / "config.json").read_text("utf8"))
    model = load_model(folder, kind=StandardTransformer if has_parts else AttentionOnlyTransformer)
    logits = model(torch.arange(64)[None] % model.config.d_vocab)
    assert logits.shape == (1, 64, model.config.d_vocab) and logits.isfinite().all()
