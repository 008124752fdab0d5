"""The explorer of neurons: its strongest places, what its input is made of, what it raises, what a click does."""

import html
import json
import re

import pytest
import torch.nn.functional as F

from helpers import ReaderError
from helpers.circuits import W_OV, centred_unembedding
from helpers.explorers import neuron_explorer
from helpers.explorers.neurons import N_CONTEXTS, explore_neuron, read_neurons
from helpers.neurons import inputs_by_source, share_of_variance
from helpers.standard import fold
from helpers.views import code
from tests.examples import random_tokens
from tests.test_explorers_features import WORDS, Shown, rows
from tests.test_standard import random_standard

NEURONS = [(layer, neuron) for layer in (0, 1) for neuron in range(0, 24, 5)]


@pytest.fixture(scope="module")
def parts():
    model = fold(random_standard()).float()
    return model, Shown(*WORDS), random_tokens(model, batch=20)


@pytest.fixture(scope="module")
def reading(parts):
    return read_neurons(*parts)


@pytest.fixture(scope="module")
def cache(parts):
    model, _, tokens = parts
    return model.cache(tokens)


@pytest.mark.parametrize("layer, neuron", NEURONS)
def test_the_strongest_place_of_each_context_comes_first(parts, reading, cache, layer, neuron):
    _, tokenizer, tokens = parts
    contexts, _, _ = explore_neuron(reading, layer, neuron)
    inputs = cache.inputs[layer][:, 1:, neuron]  # a place of <START> is never the strongest
    best = sorted(((top, i) for i, top in enumerate(inputs.amax(1).tolist())), reverse=True)[:N_CONTEXTS]
    assert len(rows(contexts)) == len(best) == N_CONTEXTS
    for (top, i), (shown, line) in zip(best, rows(contexts), strict=True):
        assert float(shown) == pytest.approx(top, abs=0.06)
        assert f"**{code(tokenizer.show(tokens[i, 1 + inputs[i].argmax()]))}**" in line
    said = [html.unescape(s) for s in re.findall('data-says="([^"]*)"', contexts.html)]
    first = best[0][1]
    assert said[1].startswith(f"{tokenizer.show(tokens[first, 1])}: input ")
    assert f"above 0 at {(inputs > 0).float().mean():.1%} of the places" in contexts.caption


@pytest.mark.parametrize("layer", [0, 1])
def test_each_source_has_its_share_and_its_tokens(parts, reading, cache, layer):
    model, tokenizer, tokens = parts
    _, sources, _ = explore_neuron(reading, layer, 5)
    inputs = inputs_by_source(model, model.cache(tokens[:8]), layer)
    whole = sum(inputs.values())[:, 1:]
    expected = {key: share_of_variance(part[:, 1:], whole)[5].item() for key, part in inputs.items()}
    heads = [row for row in sources.rows if re.match(r"a token through \d:\d", row[0])]
    assert sources.rows[0][1] == pytest.approx(expected["token", 0], abs=1e-4)
    assert sum(row[1] for row in heads) == pytest.approx(expected["token", 1], abs=1e-4)
    assert len(heads) == 2 * (layer + 1)
    if layer:
        (two,) = (row for row in sources.rows if row[0] == "a token through two heads")
        direct, through = (row for row in sources.rows if row[0].startswith("neurons of layer 0"))
        shares = [expected["token", 2], expected["MLP 0", 0], expected["MLP 0", 1]]
        assert [two[1], direct[1], through[1]] == pytest.approx(shares, abs=1e-4)
    w_in, here = model.W_in[layer][:, 5], cache.scales[2 * layer + 1].mean()
    own = model.W_E @ w_in / here
    assert sources.rows[0][2].startswith(f"{code(tokenizer.show(own.argmax()))} {own.max():+.1f}")
    through = model.W_E @ W_OV(model, (0, 1)).dense() @ w_in / here / cache.scales[0].mean()
    assert heads[1][2].startswith(f"{code(tokenizer.show(through.argmax()))} {through.max():+.1f}")


@pytest.mark.parametrize("layer, neuron", NEURONS)
def test_effects_are_those_of_its_mean_output(parts, reading, cache, layer, neuron):
    model, tokenizer, _ = parts
    _, _, effects = explore_neuron(reading, layer, neuron)
    active = F.gelu(cache.inputs[layer][:, 1:, neuron])
    if not (active > 0).any():
        assert [row[1] for row in effects.rows] == [0] * len(effects.rows)
        return
    written = active[active > 0].mean() * model.W_out[layer, neuron] / cache.scales[-1].mean()
    logits = written @ centred_unembedding(model)
    assert [effects.rows[0][0], effects.rows[0][2]] == [
        code(tokenizer.show(at)) for at in (logits.argmax(), logits.argmin())
    ]
    assert [effects.rows[0][1], effects.rows[0][3]] == pytest.approx([logits.max().item(), logits.min().item()], 1e-2)


def test_tokens_are_harmless_in_the_page(reading):
    for layer, neuron in NEURONS:
        contexts, *tables = explore_neuron(reading, layer, neuron)
        shown = contexts.html + contexts.caption + "".join(table.view.html for table in tables)
        assert "</script>" not in shown and not re.search(r"<b>(?!<code>)", contexts.html)


@pytest.mark.parametrize("layer, neuron", [(2, 0), (-1, 0), (0, 24), (1, -1)])
def test_no_such_neuron(parts, reading, layer, neuron):
    for call in (lambda: explore_neuron(reading, layer, neuron), lambda: neuron_explorer(*parts, layer, neuron)):
        with pytest.raises(ReaderError, match=f"no neuron {layer}.{neuron}: choose a layer below 2 and one of its 24"):
            call()


def test_a_model_without_neurons_and_one_that_is_not_folded_are_refused(parts):
    _, tokenizer, tokens = parts
    with pytest.raises(ReaderError, match="has no neurons: take one that was trained with --mlp"):
        read_neurons(fold(random_standard(parts=("layer_norm",))), tokenizer, tokens)
    with pytest.raises(ReaderError, match="begin with model = fold"):
        read_neurons(random_standard(), tokenizer, tokens)


def test_a_click_goes_to_a_neuron_of_the_first_layer(parts, reading):
    explorer, model = neuron_explorer(*parts, layer=1, neuron=3), parts[0]
    buttons = re.findall('data-choose="([^"]*)"', explorer.shown[1].body.html)
    strongest = int((model.W_out[0] @ model.W_in[1][:, 3]).argmax())
    assert json.loads(html.unescape(buttons[0])) == {"layer": "0", "neuron": strongest}
    explorer.shown[1].body.chosen = html.unescape(buttons[0])
    assert (explorer.controls["layer"].value, explorer.controls["neuron"].value) == (0, strongest)
    assert explorer.shown[0].body.html == explore_neuron(reading, 0, strongest)[0].html
    assert explorer.message.value == ""
