"""The explorer of a Markov chain: what is expected, where the model looks, which chains it takes."""

import re

import pytest
import torch

from helpers import ReaderError
from helpers.explorers import Explorer, chain_explorer
from helpers.explorers.chains import explore_chain, read_chain
from helpers.markov import bayes_optimal, literal_optimal, predicted_by, unigram_optimal
from helpers.model import AttentionOnlyTransformer
from tests.examples import random_model

TEXT = "abacabbacab"
PREDICTORS = {
    "counts states": unigram_optimal,
    "remembers the last successor": literal_optimal,
    "counts successors": bayes_optimal,
}


@pytest.fixture(scope="module")
def model() -> AttentionOnlyTransformer:
    return random_model(2, d_vocab=3, n_ctx=16)


@pytest.fixture
def explorer(model) -> Explorer:
    return chain_explorer(model, TEXT, 10, PREDICTORS)


def bars_of(explorer: Explorer) -> dict[str, list[float]]:
    """What each predictor is shown to expect, rounded."""
    rows = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', explorer.shown[1].body.html)
    return {name: [float(number) for number in re.findall(r"<td>([\d.]+)</td>", cells)] for name, cells in rows}


def tokens_of(explorer: Explorer) -> str:
    return "".join(re.findall(r"> (\w) </span>", explorer.shown[0].body.html))


def test_expectations_are_those_of_the_predictors_and_of_the_model(model, explorer):
    states = torch.tensor([["abc".index(letter) for letter in TEXT]])
    shown = bars_of(explorer)
    assert shown["counts successors"] == [round(p, 2) for p in bayes_optimal(states, 3)[0, -1].tolist()]
    assert shown["the model"] == [round(p, 2) for p in predicted_by(model, states)[0, -1].tolist()]
    assert shown["counts states"] == [0.43, 0.36, 0.21]  # of a, b, c: 5, 4, 2 and one each, of 14
    assert shown["remembers the last successor"] == [0.5, 0.25, 0.25]  # after the last b came an a


def test_successors_are_capitals_and_the_caption_says_what_they_get(model, explorer):
    assert tokens_of(explorer) == "abAcabBAcab"  # of b
    patterns = model.cache(read_chain(model, PREDICTORS, TEXT).states).patterns[-1][0].mean(0)
    share = patterns[10, [2, 6, 7]].sum()
    assert f"They get {share:.0%} of the attention." in explorer.shown[0].caption.html
    explorer.controls["place"].value = 0
    assert tokens_of(explorer) == "a" and "It has none yet." in explorer.shown[0].caption.html


def test_a_new_chain_takes_the_place_with_it(explorer):
    explorer.controls["chain"].value = "a b c"
    assert explorer.controls["place"].value == explorer.controls["place"].max == 2
    assert tokens_of(explorer) == "abc" and not explorer.message.value


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("abd", "'d' is no state of this model: write a chain of a, b, c"),
        ("", "has 0 states"),
        ("ab" * 9, "has 18 states"),
    ],
)
def test_chains_that_are_none_are_refused(model, text, sentence):
    with pytest.raises(ReaderError, match=sentence):
        read_chain(model, PREDICTORS, text)


def test_no_place_behind_the_end(model):
    with pytest.raises(ReaderError, match="ends at place 10"):
        explore_chain(read_chain(model, PREDICTORS, TEXT), 11)


def test_a_letter_that_is_markup_is_escaped(explorer):
    explorer.controls["chain"].value = "<b>"
    assert "&lt;" in explorer.message.value and "'<'" not in explorer.message.value
