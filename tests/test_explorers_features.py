"""The explorer of features: its strongest places, its tokens and heads, its names, what a click does."""

import html
import json
import re

import pytest
import torch

from helpers import ReaderError
from helpers.circuits import W_OV, W_QK, centred_unembedding
from helpers.dictionary import Dictionary, stream_between
from helpers.explorers import feature_explorer
from helpers.explorers.features import AFTER, N_CONTEXTS, explore_feature, read_features
from helpers.feature_rules import Rule
from helpers.views import code
from tests.examples import Words, random_model, random_tokens

WORDS = ["<START>", "a", "</script>", "|", "`x`", '"', "<b>", "$y$", "&amp;", "**", "plain"]
RULE = Rule("this token is </script>", True, 0.9, 0.875, 0.75, 40)
RULES = {2: RULE, 5: Rule("within brackets", False, 0.5, 0.4, 0.3, 100), 7: Rule("a digit", False, 0.9, 0.9, 0.1, 30)}
DEAD = 9


class Shown(Words):
    def show(self, token) -> str:
        return self.words[int(token)]


@pytest.fixture(scope="module")
def parts():
    model = random_model().float()
    dictionary = Dictionary(6, 12, 3)
    generator = torch.Generator().manual_seed(0)
    for weight in dictionary.parameters():
        weight.data.normal_(generator=generator)
    dictionary.b_enc.data[DEAD] = -100.0
    return model, dictionary.requires_grad_(False), Shown(*WORDS), random_tokens(model, batch=20)


@pytest.fixture(scope="module")
def reading(parts):
    return read_features(*parts, RULES)


@pytest.fixture
def explorer(parts):
    return feature_explorer(*parts, RULES, 3)


def values_of(parts, feature: int) -> torch.Tensor:
    """A feature's value at every place, one place at a time."""
    model, dictionary, _, tokens = parts
    values = torch.zeros(tokens.shape)
    stream = stream_between(model, tokens)
    for i, j in torch.cartesian_prod(*map(torch.arange, tokens.shape)).tolist():
        found, which = dictionary.encode(stream[i, j])
        values[i, j] = found[which == feature].sum()
    return values


def rows(view) -> list[list[str]]:
    lines = view.still()["text/markdown"].split("\n")
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def test_the_strongest_place_of_each_context_comes_first(parts, reading):
    largest = {feature: values_of(parts, feature).amax(1).sort(descending=True).values for feature in range(12)}
    apart = [feature for feature, top in largest.items() if top[1] and (-top[: N_CONTEXTS + 1].diff() > 1e-4).all()]
    assert len(apart) > 1
    for feature in apart:
        check_contexts(parts, reading, feature)


def check_contexts(parts, reading, feature: int) -> None:
    _, _, tokenizer, tokens = parts
    contexts, _, _ = explore_feature(reading, feature)
    values = values_of(parts, feature)
    best = sorted(((v, i) for i, v in enumerate(values.max(1).values.tolist()) if v), reverse=True)[:N_CONTEXTS]
    assert 1 < len(best) == len(rows(contexts))
    for (value, i), (shown, line) in zip(best, rows(contexts), strict=True):
        word = tokenizer.show(tokens[i, values[i].argmax()])
        assert float(shown) == pytest.approx(value, abs=0.051) and f"**{code(word)}**" in line
    said = [html.unescape(s) for s in re.findall('data-says="([^"]*)"', contexts.html)]
    expected = [
        f"{tokenizer.show(tokens[i, j])}: {values[i, j]:.1f}"
        for _, i in best
        for j in range(min(tokens.shape[1], int(values[i].argmax()) + 1 + AFTER))  # few tokens, so all before
    ]
    assert said == expected
    n = int((values > 0).sum())
    share, mean = n / values.numel(), values.sum() / n
    assert f"at {share:.2%} of the places" in contexts.caption and f"value of {mean:.1f}." in contexts.caption


def mean_write(parts, feature: int) -> torch.Tensor:
    values = values_of(parts, feature)
    return parts[1].W_dec[feature] * values.sum() / (values > 0).sum().clamp(min=1)


def test_what_it_raises_and_lowers(parts, reading):
    model, _, tokenizer, _ = parts
    _, effects, _ = explore_feature(reading, 2)
    logits = mean_write(parts, 2) @ centred_unembedding(model)
    order = logits.argsort(descending=True).tolist()
    for row, high, low in zip(effects.rows, order[:8], order[::-1][:8], strict=True):
        assert [row[0], row[2]] == [code(tokenizer.show(high)), code(tokenizer.show(low))]
        assert [row[1], row[3]] == pytest.approx([logits[high].item(), logits[low].item()], abs=1e-5)


def test_how_heads_read_it(parts, reading):
    model, _, tokenizer, _ = parts
    _, _, heads = explore_feature(reading, 2)
    writes = torch.stack([mean_write(parts, feature) for feature in range(12)])
    for head, row in zip(model.layer_heads(1), heads.rows, strict=True):
        scores = writes @ W_QK(model, head).dense() @ writes.T
        raised = writes[2] @ W_OV(model, head).dense() @ centred_unembedding(model)
        expected = [scores[2].max().item(), scores[:, 2].max().item(), raised.max().item()]
        assert [row[1], row[3], row[5]] == pytest.approx(expected, abs=1e-4)
        partners = [json.loads(html.unescape(re.search('data-choose="([^"]*)"', row[i])[1])) for i in (2, 4)]
        assert partners == [{"feature": scores[2].argmax().item()}, {"feature": scores[:, 2].argmax().item()}]
        assert row[6] == code(tokenizer.show(raised.argmax()))


def test_a_rule_is_a_name_only_if_it_is_right_often_enough(reading):
    assert reading.name(2) == "2: this token is </script>" and reading.name(5) == "5" and reading.name(0) == "0"
    captions = {feature: explore_feature(reading, feature)[0].caption for feature in (0, 2, 5)}
    assert "Its rule" not in captions[0]
    assert code(RULE.name) in captions[2] and "at 88% of" in captions[2] and "at 75% of" in captions[2]
    assert code("within brackets") in captions[5]


def test_a_dead_feature_says_so(parts, reading):
    assert not values_of(parts, DEAD).any()
    contexts, effects, heads = explore_feature(reading, DEAD)
    assert contexts.caption == f"Feature {DEAD} is active nowhere in this text." and rows(contexts) == []
    assert all(row[1] == row[3] == 0 for row in effects.rows) and len(heads.rows) == 2


def test_tokens_are_harmless_in_the_page(reading):
    for feature in range(12):
        contexts, *tables = explore_feature(reading, feature)
        shown = contexts.html + contexts.caption + "".join(table.view.html for table in tables)
        assert "</script>" not in shown and not re.search(r"<b>(?!<code>)", contexts.html)


@pytest.mark.parametrize("feature", [-1, 12])
def test_no_such_feature(parts, reading, feature):
    for call in (lambda: explore_feature(reading, feature), lambda: feature_explorer(*parts, RULES, feature)):
        with pytest.raises(ReaderError, match=f"no feature {feature}: choose one of 0 to 11"):
            call()


def test_a_click_and_the_menu_go_to_a_feature(explorer, reading):
    slider, menu = explorer.controls["feature"], explorer._panel.children[0].children[0]
    button = json.loads(html.unescape(re.search('data-choose="([^"]*)"', explorer.shown[2].body.html)[1]))
    explorer.shown[2].body.chosen = json.dumps(button)
    assert slider.value == button["feature"]
    for name, feature in menu.options[1:]:
        menu.label = name
        assert slider.value == feature and f"Feature {feature} is" in html.unescape(explorer.shown[0].caption.html)
    assert [feature for _, feature in menu.options[1:]] == [7, 2]  # in the alphabet of their names; 5 has none
    slider.value = 4
    assert menu.index == 0 and slider.value == 4 and explorer.message.value == ""
    assert explore_feature(reading, 4)[0].html == explorer.shown[0].body.html
