"""A dictionary of the stream: what it writes and reads, its training, its files, and rules as names of its features."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import ReaderError
from helpers import dictionary as module
from helpers.dictionary import (
    SILENT,
    Dictionary,
    DictionaryConfig,
    DictionaryState,
    active_features,
    best_matches,
    feature_qk,
    is_live,
    load_book_dictionary,
    load_dictionary,
    loss_recovered,
    new_dictionary,
    save_dictionary,
    stream_between,
    train_dictionary,
)
from helpers.feature_rules import LEAST_ON, Rule, features_on, find_rules, rule_families
from helpers.files import DATA
from helpers.heads import loss_per_token
from helpers.model import AttentionOnlyTransformer
from helpers.tokens import load_encoded
from helpers.weights import load_book_model
from tests.examples import Words, close, random_model, random_tokens

SMALL = DictionaryConfig(n_features=20, k=3, n_steps=30, batch_size=4)
TEXT = np.random.default_rng(0).integers(0, 11, 3000).astype(np.uint16)


def random_dictionary(d_model: int = 6, n_features: int = 10, k: int = 3, seed: int = 0) -> Dictionary:
    dictionary = Dictionary(d_model, n_features, k)
    generator = torch.Generator().manual_seed(seed)
    for weight in dictionary.parameters():
        weight.data.normal_(generator=generator)
    return dictionary.requires_grad_(False)


@pytest.fixture(scope="module")
def small_model() -> AttentionOnlyTransformer:
    return random_model().float()


def last(states):
    for state in states:  # noqa: B007
        pass
    return state


# ---- encode and decode ------------------------------------------------------------------------------------------


def test_the_largest_readings_are_the_values_and_the_stream_is_their_sum():
    dictionary, stream = random_dictionary(), torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(1))
    values, features = dictionary.encode(stream)
    rebuilt = dictionary(stream)
    for place in itertools.product(range(4), range(5)):
        readings = [
            sum(x * w for x, w in zip(stream[place].tolist(), dictionary.W_enc[:, f].tolist(), strict=True))
            + dictionary.b_enc[f].item()
            for f in range(10)
        ]
        largest = sorted(range(10), key=lambda f: -readings[f])[:3]
        assert features[place].tolist() == largest
        assert torch.allclose(values[place], torch.tensor([max(0.0, readings[f]) for f in largest]), atol=1e-5)
        by_hand = dictionary.b_dec + sum(max(0.0, readings[f]) * dictionary.W_dec[f] for f in largest)
        assert torch.allclose(rebuilt[place], by_hand, atol=1e-5)
    assert (values > 0).any()


def test_a_reading_below_zero_is_no_activity():
    dictionary = random_dictionary()
    dictionary.b_enc.fill_(-100.0)
    stream = torch.ones(2, 6)
    assert dictionary.encode(stream)[0].eq(0).all()
    assert torch.equal(dictionary(stream), dictionary.b_dec.expand(2, 6))
    assert not is_live(dictionary.encode(stream), 10).any()


def test_a_feature_is_live_if_it_is_active_anywhere():
    active = torch.tensor([[[2.0, 0.0]], [[1.0, 0.5]]]), torch.tensor([[[3, 1]], [[0, 3]]])
    assert is_live(active, 5).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize("sizes", [(6, 4, 5), (6, 4, 0), (0, 4, 2)])
def test_sizes_that_no_dictionary_has(sizes):
    with pytest.raises(ReaderError, match="choose"):
        Dictionary(*sizes)


# ---- the model, cut in two --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [2, 3])
def test_the_stream_is_that_of_the_model_and_the_losses_from_it_as_well(n_layers):
    model = random_model(n_layers)
    tokens = random_tokens(model, batch=3)
    stream = stream_between(model, tokens)
    assert close(stream, model.cache(tokens).residual[1])
    assert close(module.losses_from(model, stream, tokens), loss_per_token(model, tokens).mean())


def test_loss_recovered_is_1_for_the_stream_itself_and_0_for_its_mean_and_what_the_losses_say_between():
    model = random_model()
    tokens = random_tokens(model, batch=2 * module.AT_ONCE + 1)  # batches of unequal size
    assert loss_recovered(model, lambda stream: stream, tokens) == 1.0
    assert loss_recovered(model, lambda s: s.mean((0, 1)).expand_as(s), tokens) == 0.0
    mean = stream_between(model, tokens).mean((0, 1))
    ablated, halfway, intact = (
        module.losses_from(model, mean + share * (stream_between(model, tokens) - mean), tokens)
        for share in (0, 0.5, 1)
    )
    found = loss_recovered(model, lambda s: (s + mean) / 2, tokens)
    assert close(found, (ablated - halfway) / (ablated - intact)) and abs(found) > 0.01


def test_active_features_of_many_contexts_are_those_of_each(small_model):
    dictionary, tokens = random_dictionary(), random_tokens(small_model, batch=module.AT_ONCE + 3)
    values, features = active_features(small_model, dictionary, tokens)
    for i in (0, module.AT_ONCE, len(tokens) - 1):
        expected = dictionary.encode(stream_between(small_model, tokens[[i]]))
        assert torch.allclose(values[[i]], expected[0], atol=1e-5) and torch.equal(features[[i]], expected[1])


# ---- training ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["tokens", "random"])
def test_training_explains_more_and_more_and_keeps_directions_at_length_1(small_model, start):
    config = DictionaryConfig(n_features=20, k=3, n_steps=80, batch_size=32, learning_rate=0.02, start=start)
    losses = []
    for state in train_dictionary(small_model, TEXT, config):
        losses.append(state.loss)
        assert state.step == len(losses)
    assert len(losses) == 80 and max(losses[-5:]) < 0.7 * losses[0] and math.isfinite(sum(losses))
    assert torch.allclose(state.dictionary.W_dec.norm(dim=1), torch.ones(20))
    tokens = torch.from_numpy(TEXT[1000:1320].astype(np.int64)).view(40, 8)
    stream = stream_between(small_model, tokens)
    left = (state.dictionary(stream) - stream).square().sum() / (stream - stream.mean((0, 1))).square().sum()
    assert 0.5 < left / np.mean(losses[-5:]) < 2  # the loss is the share that is left unexplained


def test_the_same_seed_trains_the_same_dictionary_and_another_another(small_model):
    one, same, other = (
        last(train_dictionary(small_model, TEXT, DictionaryConfig(20, 3, 5, 4, seed=seed))).dictionary.W_dec
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_a_start_at_tokens_reads_the_commonest_the_first_place_and_what_layer_0_adds(small_model):
    tokens = torch.tensor([[0, 5, 5, 5, 7, 7, 2, 5]])
    dictionary = new_dictionary(small_model, tokens, DictionaryConfig(n_features=6, k=2))
    vectors = F.normalize(small_model.W_E - small_model.W_E.mean(0))
    assert torch.allclose(dictionary.W_dec[:2], vectors[[5, 7]], atol=1e-6)
    stream = stream_between(small_model, tokens)[0]
    mean, added = stream.mean(0), stream - small_model.W_E[tokens[0]]
    assert torch.allclose(dictionary.W_dec[4], F.normalize(stream[0] - mean, dim=0), atol=1e-6)
    assert torch.allclose(best_matches(dictionary.W_dec[5:], added - added.mean(0)), torch.ones(1))
    assert torch.allclose(dictionary.b_dec, mean, atol=1e-6)
    of_tokens = (small_model.W_E - small_model.W_E.mean(0))[[5, 7]]
    vectors, off = torch.cat([of_tokens, (stream[0] - mean)[None]]), module.TAKEN_OFF
    off = torch.tensor([off, off, module.TAKEN_OFF_START])
    at_mean, at_own = dictionary.readings(mean), dictionary.readings(mean + vectors)
    assert torch.allclose(at_mean[[0, 1, 4]], -off * vectors.norm(dim=1), atol=1e-4)
    assert torch.allclose(at_own[range(3), [0, 1, 4]], vectors.norm(dim=1), atol=1e-4)


def test_only_features_that_are_silent_learn_from_what_the_others_leave(small_model):
    dictionary = random_dictionary().requires_grad_()
    dictionary.b_enc.data[:3] = 30.0  # the three that are active everywhere
    dictionary.W_enc.data[:, 7:] = 0.0
    dictionary.b_enc.data[7:] = 0.5  # read more than nothing
    stream = stream_between(small_model, random_tokens(small_model)).flatten(0, 1)
    for silent_for, learns in ((SILENT - 1, False), (SILENT, True)):
        dictionary.zero_grad()
        ages = torch.zeros(10, dtype=torch.long).index_fill(0, torch.tensor([0, 7]), silent_for)
        state = DictionaryState(dictionary, 1.0, ages)
        module._loss(state, stream, torch.float32).backward()
        assert state.silent_for[[0, 7, 8]].tolist() == [0, silent_for + 1, 1]
        moved = dictionary.W_dec.grad.any(1)
        assert moved.tolist() == [*[True] * 3, *[False] * 4, learns, False, False]


def test_what_cannot_be_trained_on(small_model):
    for model, text, sentence in (
        (random_model(1).float(), TEXT, "two layers"),
        (small_model, TEXT[:8], "give more than the 8"),
    ):
        with pytest.raises(ReaderError, match=sentence):
            next(train_dictionary(model, text, SMALL))


# ---- files ------------------------------------------------------------------------------------------------------


def test_a_saved_dictionary_comes_back_with_each_weight_within_half_a_step(tmp_path):
    dictionary, file = random_dictionary(16, 40), tmp_path / "there" / "d.safetensors"
    dictionary.W_dec[3] = 0.0
    save_dictionary(dictionary, file)
    loaded = load_dictionary(file)
    assert loaded.k == 3 and torch.equal(loaded.b_enc, dictionary.b_enc) and torch.equal(loaded.b_dec, dictionary.b_dec)
    for name, dim in (("W_enc", 0), ("W_dec", 1)):
        weight, back = getattr(dictionary, name), getattr(loaded, name)
        step = weight.abs().amax(dim, keepdim=True) / 127
        assert ((weight - back).abs() <= 0.501 * step).all() and not torch.equal(weight, back)
    assert file.stat().st_size < 2 * 16 * 40 + 4 * 4 * 40 + 1000  # a byte a weight
    assert not any(weight.requires_grad for weight in loaded.parameters())


def test_a_damaged_file_is_told_in_one_sentence(tmp_path):
    file, other = tmp_path / "d.safetensors", tmp_path / "other.safetensors"
    save_dictionary(random_dictionary(), file)
    whole = file.read_bytes()
    damages = [b"", whole[:-1], whole[: len(whole) // 2], whole.replace(b"W_dec_step", b"W_dec_stop")]
    damages += [whole.replace(b'"k":"3"', b'"k":"x"'), whole.replace(b'"k":"3"', b'"k":"0"')]
    assert len({*damages, whole}) == 7
    for damaged in damages:
        other.write_bytes(damaged)
        with pytest.raises(ReaderError, match=r"^The dictionary .*other\.safetensors is missing or damaged .*\.$"):
            load_dictionary(other)
    with pytest.raises(ReaderError, match="missing or damaged"):
        load_dictionary(tmp_path / "none.safetensors")


# ---- what features do -------------------------------------------------------------------------------------------


def test_the_command_trains_a_dictionary_of_a_model(tmp_path, monkeypatch, capsys):
    steps = train_dictionary
    monkeypatch.setattr("helpers.dictionary.train_dictionary", lambda *given: itertools.islice(steps(*given), 2))
    module.main([str(DATA / "models" / "laptop"), str(tmp_path / "two_steps.safetensors"), "--seed", "1"])
    assert load_dictionary(tmp_path / "two_steps.safetensors").W_dec.shape == (4096, 192)
    assert "of the loss recovered" in capsys.readouterr().out


def test_two_features_move_a_score_by_their_entry():
    model, dictionary = random_model(), random_dictionary().double()
    stream, (dest, src) = stream_between(model, random_tokens(model, batch=1)), (5, 2)

    def score(head, asks, is_asked):
        changed = stream.clone()
        changed[0, dest] += asks * dictionary.W_dec[1]
        changed[0, src] += is_asked * dictionary.W_dec[6]
        return model.attention(changed, 1)[0][0, head, dest, src]

    for layer, h in model.layer_heads(1):
        together = score(h, 1, 1) - score(h, 1, 0) - score(h, 0, 1) + score(h, 0, 0)
        assert close(together, feature_qk(model, dictionary, (layer, h)).dense()[1, 6])


def test_best_matches():
    some = torch.tensor([[2.0, 0.0], [0.0, -1.0], [3.0, 3.0]])
    others = torch.tensor([[0.0, 5.0], [1.0, 0.0]])
    assert torch.allclose(best_matches(some, others), torch.tensor([1.0, 0.0, 0.5**0.5]))


# ---- rules as names ---------------------------------------------------------------------------------------------


class Shown(Words):
    """Words that are shown as the book shows tokens."""

    def show(self, token) -> str:
        return self.words[int(token)].replace(" ", "␣").replace("\n", "↵")


WORDS = Shown("<START>", " a", "b", "#", "\n", "(", ")", "Cat", " if", '"', "'", "=", "7", "_x", " B")


@pytest.fixture(scope="module")
def reader() -> AttentionOnlyTransformer:
    return random_model(d_vocab=len(WORDS.words), n_ctx=24).float()


def tokens_of(reader, seed: int, batch: int = 60) -> torch.Tensor:
    return random_tokens(reader, batch=batch, seed=seed)


def written(tokens: torch.Tensor, holds) -> list[list[bool]]:
    """Whether something holds at each place, given the words up to it."""
    words = [[WORDS.words[t] for t in row] for row in tokens.tolist()]
    return [[bool(holds(row[: i + 1])) for i in range(len(row))] for row in words]


def line(words: list[str]) -> list[str]:
    """The words of the last line; the end of a line belongs to none."""
    return words[max((i + 1 for i, w in enumerate(words) if w == "\n"), default=0) :]


RULES = {
    "this token is Cat": lambda w: w[-1] == "Cat",
    "this token is an opening bracket": lambda w: w[-1] == "(",
    "the token before is ␣if": lambda w: w[-2:-1] == [" if"],
    "the token two before is b": lambda w: w[-3:-2] == ["b"],
    "the last two tokens are ␣a (": lambda w: w[-2:] == [" a", "("],
    "among the 4 tokens before is #": lambda w: "#" in w[-5:-1],
    "among the 16 tokens before is _x": lambda w: "_x" in w[-17:-1],
    "within the first 3 places": lambda w: len(w) <= 3,
    "after a # on its line": lambda w: "#" in line(w),
    'within "…" on its line': lambda w: line(w).count('"') % 2,
    "within brackets": lambda w: w.count("(") > w.count(")"),
    "within two brackets": lambda w: w.count("(") > w.count(")") + 1,
}
SAME = {"this token is an opening bracket": "this token is ("}  # where only one token is of a class


def active_by(tokens: torch.Tensor, rules) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that are active where the rules hold, each with the value 1."""
    holds = torch.tensor([written(tokens, rule) for rule in rules])
    return holds.movedim(0, -1).float(), torch.arange(len(rules)).expand(*tokens.shape, -1)


def found_for(reader, rules, n: int | None = None) -> dict[int, Rule]:
    texts = [tokens_of(reader, seed) for seed in (0, 1)]
    families = [rule_families(reader, WORDS, tokens, (0, 1)) for tokens in texts]
    on = [features_on(*active_by(tokens, rules), torch.zeros(n or len(rules))) for tokens in texts]
    return find_rules(families[0], on[0], families[1], on[1], n or len(rules))


def test_a_feature_that_follows_a_rule_gets_it_as_its_name(reader):
    found = found_for(reader, [*RULES.values()])
    assert [found[i].name for i in range(len(RULES))] == [SAME.get(name, name) for name in RULES]
    for i, rule in found.items():
        assert (rule.f1, rule.precision, rule.recall, rule.is_present) == (1.0, 1.0, 1.0, i < 2)
        n = sum(map(sum, written(tokens_of(reader, 1), [*RULES.values()][i])))
        assert rule.n == n and rule.is_name == (n >= LEAST_ON)


def test_a_feature_that_follows_a_head_is_named_after_what_it_looks_at(reader):
    texts = [tokens_of(reader, seed) for seed in (0, 1)]
    families = [rule_families(reader, WORDS, tokens, (0, 1)) for tokens in texts]
    on = []
    for tokens in texts:
        looks_at = tokens.gather(1, reader.cache(tokens).patterns[0][:, 1].argmax(-1))
        on.append(features_on((looks_at == 7)[..., None].float(), torch.zeros(*tokens.shape, 1).long(), torch.zeros(1)))
    rule = find_rules(families[0], on[0], families[1], on[1], 1)[0]
    assert (rule.name, rule.precision, rule.recall) == ("head 0:1 looks at Cat", 1.0, 1.0)


def test_precision_and_recall_are_those_of_the_other_text(reader):
    seen = lambda w: w[-1] in ("Cat", "b") and len(w) % 3 or w[-1] == "Cat"  # noqa: E731
    rule = found_for(reader, [seen])[0]
    assert rule.name == "this token is Cat"
    both, on, holds = (
        sum(map(sum, written(tokens_of(reader, 1), test)))
        for test in (lambda w: seen(w) and w[-1] == "Cat", seen, RULES["this token is Cat"])
    )
    assert (rule.precision, rule.recall, rule.n) == pytest.approx((both / on, both / holds, on))
    assert rule.precision < 0.8 and not rule.is_name


def test_a_rule_that_chance_has_found_is_right_no_more_often_than_chance_on_other_text(reader):
    draw = torch.Generator().manual_seed(0)
    texts = [tokens_of(reader, seed) for seed in (0, 1)]
    families = [rule_families(reader, WORDS, tokens, (0, 1)) for tokens in texts]
    n = 40
    on = []
    for tokens in texts:
        values = (torch.rand(*tokens.shape, n, generator=draw) < 0.05).float()
        on.append(features_on(values, torch.arange(n).expand_as(values), torch.zeros(n)))
    rules = find_rules(families[0], on[0], families[1], on[1], n)
    assert len(rules) == n and not any(rule.is_name for rule in rules.values())


def test_a_feature_that_is_never_on_has_no_rule(reader):
    found = found_for(reader, [RULES["this token is Cat"], lambda w: False], n=3)
    assert [*found] == [0]


def test_a_feature_is_on_where_its_value_is_above_its_least():
    values, features = torch.tensor([[[3.0, 1.0], [2.0, 0.0]]]), torch.tensor([[[1, 0], [0, 1]]])
    assert [t.tolist() for t in features_on(values, features, torch.zeros(2))] == [[0, 0, 1], [1, 0, 0]]
    assert [t.tolist() for t in features_on(values, features, torch.tensor([1.5, 3.0]))] == [[1], [0]]


# ---- the book's own ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_books_dictionaries_keep_nine_tenths_of_what_the_stream_is_good_for(seed):
    dictionary, corpus = load_book_dictionary(seed), load_encoded()
    assert (dictionary.n_features, dictionary.k) == (4096, 32)
    tokens = corpus.contexts("validation", n=8, n_ctx=256, seed=21)
    assert 0.9 < loss_recovered(load_book_model("two_layer", seed), dictionary, tokens) < 0.99


def test_the_books_dictionaries_are_small_files():
    sizes = [file.stat().st_size for file in (DATA / "dictionaries").glob("*.safetensors")]
    assert len(sizes) == 3 and sum(sizes) < 12e6
