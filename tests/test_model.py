"""The model against an implementation that shares nothing with it, its interventions, and its files."""

import errno
import json
import math
import os
import shutil
from copy import deepcopy

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import ReaderError
from helpers.corpus import DATA
from helpers.model import AttentionOnlyTransformer, Head, ModelConfig, load_model, save_model, save_weights, sinusoids
from tests.examples import SMALL, random_model, random_tokens

LAYERS = pytest.mark.parametrize("n_layers", [0, 1, 2, 3])


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
                pattern = naive_pattern(w, positions, stream, layer, head, t)
                for j, share in enumerate(pattern):
                    moved = times(times(stream[j], w["W_V"][layer][head]), w["W_O"][layer][head])
                    written[t] = plus(written[t], [share * m for m in moved])
        stream = written
    return [times(x, w["W_U"]) for x in stream]


def naive_pattern(w: dict, positions: list, stream: list, layer: int, head: int, t: int) -> list[float]:
    query = times(plus(stream[t], positions[t]), w["W_Q"][layer][head])
    scores = []
    for j in range(t + 1):
        key = times(plus(stream[j], positions[j]), w["W_K"][layer][head])
        scores.append(sum(q * k for q, k in zip(query, key, strict=True)) / math.sqrt(len(query)))
    weights = [math.exp(score - max(scores)) for score in scores]
    return [weight / sum(weights) for weight in weights]


@LAYERS
def test_the_model_is_what_the_equations_say(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    expected = torch.tensor([naive_logits(model, row) for row in tokens.tolist()], dtype=torch.double)
    assert expected.std() > 0.5
    torch.testing.assert_close(model(tokens), expected, rtol=1e-10, atol=1e-10)


def test_attention_is_neither_uniform_nor_on_one_token_in_these_tests():
    _, cache = random_model(3).run_with_cache(random_tokens(random_model(3)))
    for pattern in cache.patterns:
        assert 0.2 < pattern[:, :, -1].max(-1).values.median() < 0.9


def test_positions_are_sinusoids_whose_longest_wave_is_of_the_order_of_the_context():
    table = sinusoids(n_ctx=5, d_model=6)
    assert table.shape == (5, 6)
    for t in range(5):
        for i in range(3):
            angle = t / 5 ** (2 * i / 6)
            assert table[t, i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 3 + i].item() == pytest.approx(math.cos(angle), abs=1e-6)


@LAYERS
def test_transformer_lens_computes_the_same_logits(n_layers):
    lens = pytest.importorskip("transformer_lens.HookedTransformer", reason="needs TransformerLens before 4.0",
                               exc_type=ImportError)
    model = random_model(n_layers)
    config = lens.HookedTransformerConfig(
        n_layers=n_layers, n_heads=SMALL["n_heads"], d_model=SMALL["d_model"], d_head=SMALL["d_head"],
        d_vocab=SMALL["d_vocab"], n_ctx=SMALL["n_ctx"], attn_only=True, normalization_type=None,
        positional_embedding_type="shortformer", dtype=torch.double, device="cpu",
    )
    theirs = lens.HookedTransformer(config)
    state = {name: weight.zero_() if "b_" in name else weight for name, weight in theirs.state_dict().items()}
    state |= {"embed.W_E": model.W_E, "pos_embed.W_pos": model.W_pos, "unembed.W_U": model.W_U}
    state |= {f"blocks.{layer}.attn.{name}": getattr(model, name)[layer]
              for layer in range(n_layers) for name in ("W_Q", "W_K", "W_V", "W_O")}
    theirs.load_state_dict(state)
    tokens = random_tokens(model)
    torch.testing.assert_close(theirs(tokens), model(tokens), rtol=1e-9, atol=1e-9)


# ---- the cache and the interventions ----------------------------------------------------------------------------


@LAYERS
def test_the_cache_adds_up_to_the_residual_stream_and_changes_nothing(n_layers):
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
        moved = cache.patterns[layer] @ cache.values[layer] @ model.W_O[layer]
        torch.testing.assert_close(moved, cache.head_outputs[layer])
    torch.testing.assert_close(cache.residual[-1] @ model.W_U, logits)


def assert_causal(model: AttentionOnlyTransformer) -> None:
    """Another token changes what is said at its own position or later, and nothing before."""
    tokens = random_tokens(model)
    for t in range(1, model.config.n_ctx):
        changed = tokens.clone()
        changed[:, t] = 1 + changed[:, t] % (model.config.d_vocab - 1)
        assert torch.equal(model(changed)[:, :t], model(tokens)[:, :t])
        assert not torch.equal(model(changed)[:, t:], model(tokens)[:, t:])


@LAYERS
def test_no_position_sees_a_later_token(n_layers):
    assert_causal(random_model(n_layers))


@LAYERS
def test_a_shorter_text_has_the_logits_of_the_beginning_of_the_longer_one(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model)
    for n in range(1, model.config.n_ctx):
        torch.testing.assert_close(model(tokens[:, :n]), model(tokens)[:, :n], rtol=1e-12, atol=1e-12)


def test_start_is_a_token_like_any_other():
    model = random_model(2)
    logits = model(torch.zeros(1, 1, dtype=torch.long))
    expected = model.W_E[0]
    for layer in range(2):  # alone in its context, a token attends to itself
        expected = expected + torch.einsum("d,hde,hef->f", expected, model.W_V[layer], model.W_O[layer])
    torch.testing.assert_close(logits[0, 0], expected @ model.W_U)


@LAYERS
def test_frozen_patterns_reproduce_the_logits_and_make_them_linear_in_the_tokens(n_layers):
    model = random_model(n_layers)
    tokens, others = random_tokens(model, seed=1), random_tokens(model, seed=2)
    logits, cache = model.run_with_cache(tokens)
    torch.testing.assert_close(model(tokens, patterns=cache.patterns), logits, rtol=1e-12, atol=1e-12)

    def frozen(embeddings: torch.Tensor) -> torch.Tensor:
        """The logits of texts whose tokens are embedded as ``embeddings``, with the attention of ``tokens``."""
        stand_in = deepcopy(model)
        stand_in.W_E = torch.nn.Parameter(embeddings.flatten(0, 1), requires_grad=False)
        return stand_in(torch.arange(tokens.numel()).view(tokens.shape), patterns=cache.patterns)

    one, other = model.W_E[tokens], model.W_E[others]
    torch.testing.assert_close(frozen(one), logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(frozen(2 * one - 3 * other), 2 * frozen(one) - 3 * frozen(other), rtol=1e-9, atol=1e-9)


HEADS = pytest.mark.parametrize("head", [(0, 1), (1, 0)])


@HEADS
def test_replacing_a_head_by_its_own_output_changes_nothing(head):
    model = random_model(2)
    tokens = random_tokens(model)
    logits, cache = model.run_with_cache(tokens)
    own = cache.head_outputs[head[0]][:, head[1]]
    torch.testing.assert_close(model(tokens, replace={head: own}), logits, rtol=1e-12, atol=1e-12)


@HEADS
def test_replacing_a_head_by_zero_is_a_model_without_it(head):
    model, without = random_model(2), random_model(2)
    without.W_O[head] = 0
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens, replace={head: 0.0}), without(tokens), rtol=1e-12, atol=1e-12)


@HEADS
def test_replacing_a_head_by_a_mean_writes_the_mean_everywhere(head):
    model = random_model(2)
    tokens = random_tokens(model)
    _, cache = model.run_with_cache(tokens)
    mean = cache.head_outputs[head[0]][:, head[1]].mean(dim=(0, 1))
    logits, replaced = model.run_with_cache(tokens, replace={head: mean})
    torch.testing.assert_close(replaced.head_outputs[head[0]][:, head[1]], mean.expand(*tokens.shape, -1))
    torch.testing.assert_close(model(tokens, replace={head: mean}), logits, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(logits, model(tokens))


def test_replacing_every_head_by_zero_leaves_the_direct_path():
    model = random_model(3)
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens, replace=dict.fromkeys(model.heads, 0.0)), model.W_E[tokens] @ model.W_U)


@pytest.mark.parametrize("head", [(2, 0), (0, 2), (0, -1)])
def test_replacing_a_head_that_is_not_there_is_answered_with_a_sentence(head: Head):
    model = random_model(2)
    with pytest.raises(ReaderError, match=r"no head \(.*\): name heads as \(layer, head\), from \(0, 0\) to \(1, 1\)"):
        model(random_tokens(model), replace={head: 0.0})


def test_a_patterns_gradient_reaches_the_weights():
    model = random_model(2).requires_grad_(True)
    model(random_tokens(model)).square().sum().backward()
    assert all(weight.grad.abs().sum() > 0 for weight in model.parameters())


# ---- smeared keys ------------------------------------------------------------------------------------------------


def smeared_model(alpha: float, n_layers: int = 2) -> AttentionOnlyTransformer:
    """A random model whose keys are smeared, by the same ``alpha`` for every head."""
    model = random_model(n_layers, smeared_keys=True)
    model.smear.fill_(alpha)
    return model


def without_smear(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    ordinary = random_model(model.config.n_layers)
    ordinary.load_state_dict({name: weight for name, weight in model.state_dict().items() if name != "smear"})
    return ordinary


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_key_that_is_all_its_own_gives_the_ordinary_model(n_layers):
    model = smeared_model(60.0, n_layers)
    tokens = random_tokens(model)
    torch.testing.assert_close(model(tokens), without_smear(model)(tokens), rtol=1e-10, atol=1e-10)


def test_a_key_that_is_all_of_the_token_before_scores_as_that_token_does():
    model = smeared_model(-60.0, n_layers=1)
    tokens = random_tokens(model)
    residual = model.W_E[tokens]
    positioned = residual + model.W_pos
    queries, keys = (torch.einsum("bpd,hde->bhpe", positioned, w[0]) for w in (model.W_Q, model.W_K))
    expected = queries @ keys.mT / math.sqrt(SMALL["d_head"])
    scores, _ = model.attention(residual, 0)
    for source in range(1, model.config.n_ctx):
        torch.testing.assert_close(scores[:, :, source:, source], expected[:, :, source:, source - 1])
    torch.testing.assert_close(scores[:, :, :, 0], expected[:, :, :, 0])  # the first token has none before it


def test_each_head_smears_by_its_own_share():
    model = smeared_model(0.0)
    model.smear[0, 1] = math.log(3)  # a share of three quarters
    tokens = random_tokens(model)
    scores, _ = model.attention(model.W_E[tokens], 0)
    own, before = (smeared_model(alpha).attention(model.W_E[tokens], 0)[0] for alpha in (60.0, -60.0))
    for head, share in ((0, 0.5), (1, 0.75)):
        mixed = share * own[:, head] + (1 - share) * before[:, head]
        seen = mixed.isfinite()
        torch.testing.assert_close(scores[:, head][seen], mixed[seen], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("alpha", [-60.0, 0.0, 1.0])
def test_smeared_keys_do_not_let_a_position_see_a_later_token(alpha):
    assert_causal(smeared_model(alpha))


def test_smeared_keys_are_trained_start_at_one_half_and_survive_saving(tmp_path):
    fresh = AttentionOnlyTransformer(ModelConfig(**SMALL, smeared_keys=True))
    assert torch.equal(fresh.smear.sigmoid(), torch.full((2, 2), 0.5))
    fresh(random_tokens(fresh)).square().sum().backward()
    assert (fresh.smear.grad != 0).all()
    model = smeared_model(0.5)
    save_model(model, tmp_path, dtype=torch.float64)
    tokens = random_tokens(model)
    torch.testing.assert_close(load_model(tmp_path)(tokens), model.float()(tokens))
    assert random_model(2).smear is None


# ---- sizes and seeds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 9), (1, 0), (3,), (1, 2, 3)])
def test_tokens_of_another_shape_are_answered_with_a_sentence(shape):
    with pytest.raises(ReaderError, match=r"do not fit: the model takes \[batch, pos\] with 1 to 8 positions"):
        random_model(1)(torch.zeros(shape, dtype=torch.long))


@pytest.mark.parametrize("sizes", [{"n_layers": -1}, {"n_heads": 0}, {"d_model": 7}, {"d_model": 0}, {"d_model": -2},
                                   {"d_head": 0}, {"d_vocab": 0}, {"n_ctx": 0}])
def test_impossible_sizes_are_answered_with_a_sentence(sizes):
    with pytest.raises(ReaderError, match="No model has these sizes"):
        ModelConfig(**sizes)


def test_the_same_seed_gives_the_same_weights():
    config = ModelConfig(**SMALL)
    one, same, other = (AttentionOnlyTransformer(config, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(one[name], same[name]) and not torch.equal(one[name], other[name]) for name in one)


def test_weights_have_the_names_and_shapes_of_the_field():
    shapes = {name: tuple(weight.shape) for name, weight in random_model(2).named_parameters()}
    assert shapes == {"W_E": (11, 6), "W_Q": (2, 2, 6, 3), "W_K": (2, 2, 6, 3), "W_V": (2, 2, 6, 3),
                      "W_O": (2, 2, 3, 6), "W_U": (6, 11)}
    assert random_model(2).heads == [(0, 0), (0, 1), (1, 0), (1, 1)] and random_model(0).heads == []


# ---- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    save_model(random_model(2), tmp_path / "model")
    return tmp_path / "model"


@LAYERS
def test_a_model_comes_back_from_its_files(tmp_path, n_layers):
    model = random_model(n_layers)
    save_model(model, tmp_path / "new" / "folder", dtype=torch.float64)
    loaded = load_model(tmp_path / "new" / "folder")
    assert loaded.config == model.config and not loaded.training
    assert all(not weight.requires_grad and weight.dtype == torch.float32 for weight in loaded.parameters())
    tokens = random_tokens(model)
    torch.testing.assert_close(loaded(tokens), model.float()(tokens))


def test_half_precision_changes_the_logits_little(saved):
    model = random_model(2)
    tokens = random_tokens(model)
    torch.testing.assert_close(load_model(saved)(tokens).double(), model(tokens), rtol=0.02, atol=0.1)


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
    "an unknown setting": lambda folder: (folder / "config.json").write_text('{"layers": 2}', "utf8"),
    "a word for a number": lambda folder: (folder / "config.json").write_text('{"n_heads": "two"}', "utf8"),
    "an impossible size": lambda folder: (folder / "config.json").write_text('{"n_heads": 0}', "utf8"),
}


def truncate(file, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_missing_or_damaged_model_says_how_to_bring_it_back(saved, damage):
    damage(saved)
    with pytest.raises(ReaderError, match="is missing or damaged .*: bring it back with 'git checkout data', or train"):
        load_model(saved)


def test_weights_that_do_not_fit_the_config_are_named(saved):
    config = json.loads((saved / "config.json").read_text("utf8"))
    (saved / "config.json").write_text(json.dumps(config | {"d_vocab": 12}), "utf8")
    with pytest.raises(ReaderError, match=r"do not fit their config.json: W_E is \(11, 6\), not \(12, 6\)"):
        load_model(saved)


def test_a_weight_too_many_or_too_few_is_named(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(weights | {"b_U": torch.zeros(11)}, saved / "model.safetensors")
    with pytest.raises(ReaderError, match=r"b_U is \(11,\), not None"):
        load_model(saved)
    del weights["W_K"]
    save_file(weights, saved / "model.safetensors")
    with pytest.raises(ReaderError, match="W_K is None, not"):
        load_model(saved)


def test_weights_of_eight_bits_come_back_as_float32_and_nearly_the_same(saved):
    model = random_model(2)
    save_weights(model, saved / "snapshots" / "000001.safetensors", torch.float8_e4m3fn)
    loaded = load_model(saved, "snapshots/000001.safetensors")
    for name, weight in loaded.named_parameters():
        assert weight.dtype == torch.float32
        torch.testing.assert_close(weight.double(), model.get_parameter(name), rtol=2**-4, atol=2**-9)
    assert not torch.equal(loaded.W_E, load_model(saved).W_E)


def test_a_folder_that_cannot_be_written_is_answered_with_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way", "utf8")
    with pytest.raises(ReaderError, match="could not be written .*: free some space or choose another folder"):
        save_model(random_model(1), tmp_path / "file" / "model")


def test_a_read_only_folder_is_answered_with_a_sentence(tmp_path):
    tmp_path.chmod(0o500)
    if os.access(tmp_path, os.W_OK):
        pytest.skip("the superuser may write anywhere")
    with pytest.raises(ReaderError, match=r"could not be written \(Permission denied\)"):
        save_model(random_model(1), tmp_path)


def test_a_full_disk_is_answered_with_a_sentence_and_leaves_the_old_model(saved, monkeypatch):
    def disk_full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(ReaderError, match=r"could not be written \(No space left on device\).*is unharmed"):
        save_model(random_model(2, seed=1), saved)
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before


@pytest.mark.parametrize("folder", sorted((DATA / "models").glob("*/")), ids=lambda folder: folder.name)
def test_the_shipped_models_load_and_compute(folder):
    model = load_model(folder)
    logits = model(torch.arange(64)[None])
    assert logits.shape == (1, 64, model.config.d_vocab) and logits.isfinite().all()
