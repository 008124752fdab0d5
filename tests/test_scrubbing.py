"""Causal scrubbing, against the model itself and against runs on mixed streams worked out by hand."""

import pytest
import torch
from torch import Tensor

from helpers import ReaderError
from helpers.heads import loss_per_token
from helpers.model import AttentionOnlyTransformer
from helpers.scrubbing import (
    Reads,
    Story,
    brought,
    induction_stories,
    loss_recovered,
    read_by_distance,
    scrubbed_output,
    scrubbed_stream,
    scrubbing_costs,
)
from tests.examples import close, random_model, random_tokens

HEADS = [(1, 1)]


def everything(model: AttentionOnlyTransformer) -> Reads:
    return Reads(heads=model.layer_heads(0), back=range(model.config.n_ctx))


def story_of(reads: Reads) -> Story:
    return Story(queries=reads, keys=reads, values=reads)


def costs_of(story: Story, tokens: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
    of_stories, of_heads = scrubbing_costs(random_model(), tokens, HEADS, {"it": story}, places)
    return of_stories["it"], of_heads


def test_a_story_of_everything_costs_nothing_and_recovers_all():
    model = random_model()
    tokens = random_tokens(model, 19)
    cost, of_heads = costs_of(story_of(everything(model)), tokens)
    assert close(cost, torch.zeros(19).double()) and (of_heads.abs() > 1e-6).all()
    recovered = loss_recovered(model, tokens, HEADS, {"all": story_of(everything(model))})["all"]
    assert (recovered.value, recovered.low, recovered.high) == pytest.approx((1, 1, 1))


def test_texts_that_are_all_alike_have_nothing_to_lend():
    tokens = random_tokens(random_model(), 1).expand(6, -1)
    for cost in costs_of(story_of(Reads(token=False)), tokens):
        assert close(cost, torch.zeros(6).double())


def test_what_the_story_leaves_out_is_that_of_another_text():
    model = random_model()
    cache = model.cache(random_tokens(model, 5))
    embedded, stream = cache.residual[:2]
    assert close(scrubbed_stream(model, cache, Reads(token=False), 2), stream.roll(2, 0))
    assert close(scrubbed_stream(model, cache, Reads(), 1), embedded + (stream - embedded).roll(1, 0))
    one = Reads(heads=[(0, 1)], back=range(8))
    own = embedded + cache.head_outputs[0][:, 1]
    assert close(scrubbed_stream(model, cache, one, 1), own + cache.head_outputs[0][:, 0].roll(1, 0))


def test_queries_keys_and_values_borrow_from_different_texts():
    model = random_model()
    cache = model.cache(random_tokens(model, 5))
    queries, keys, values = (cache.residual[1].roll(n_away, 0) for n_away in (1, 2, 3))
    _, pattern = model.attention(queries, 1, keys_read=keys)
    by_hand = pattern[:, 1] @ values @ model.W_V[1, 1] @ model.W_O[1, 1]
    assert close(scrubbed_output(model, cache, HEADS, story_of(Reads(token=False))), by_hand)


def test_costs_are_losses_at_the_places_less_those_of_the_model():
    model, generator = random_model(), torch.Generator().manual_seed(0)
    tokens = random_tokens(model, 7)
    places = torch.rand(7, 7, generator=generator) < 0.5
    cache, story = model.cache(tokens), story_of(Reads())
    outputs = scrubbed_output(model, cache, HEADS, story), cache.head_outputs[1][:, 1].roll(4, 0)
    for found, output in zip(costs_of(story, tokens, places), outputs, strict=True):
        added = loss_per_token_with(model, tokens, output) - loss_per_token(model, tokens)
        assert close(found, (added * places).sum(1))


def loss_per_token_with(model: AttentionOnlyTransformer, tokens: Tensor, output: Tensor) -> Tensor:
    texts = zip(tokens.split(1), output.split(1), strict=True)
    return torch.cat([loss_per_token(model, text, replace={HEADS[0]: written}) for text, written in texts])


def test_what_is_brought_adds_up_over_heads_and_distances():
    model = random_model()
    cache = model.cache(random_tokens(model))
    assert close(brought(model, cache, [(0, 1)], range(8)), cache.head_outputs[0][:, 1])
    one_back = cache.patterns[0][:, 0].diagonal(-1, dim1=1, dim2=2)[..., None] * cache.residual[0][:, :-1]
    found = brought(model, cache, [(0, 0)], [1])
    assert close(found[:, 1:], one_back @ model.W_V[0, 0] @ model.W_O[0, 0]) and not found[:, 0].any()
    parts = read_by_distance(model, cache, 3)
    assert close(parts.sum(0), cache.residual[1] + model.W_pos[:8])
    assert close(parts[0], cache.residual[0] + brought(model, cache, model.layer_heads(0), [0]))
    assert close(parts[2], brought(model, cache, model.layer_heads(0), [2]))


def test_the_ladder_leads_from_one_token_to_all_that_is_near():
    stories = induction_stories(random_model(), (0, 1), furthest=2)
    naive, rich, blind = (stories[name] for name in ("naive", "rich", "blind keys"))
    assert naive.keys == Reads(token=False, heads=[(0, 1)], back=[1]) and naive.queries == naive.values == Reads()
    assert {*rich.keys.back} == {0, 1, 2} and rich.queries == rich.keys == rich.values
    assert blind.queries == rich.queries and {*blind.keys.back} == {0, 2}


def test_too_few_texts_and_wrong_heads_are_refused():
    model = random_model()
    with pytest.raises(ReaderError, match="five or more"):
        scrubbing_costs(model, random_tokens(model, 4), HEADS, {})
    for some_model, heads in ((model, [(0, 1)]), (random_model(1), [(0, 1)])):
        with pytest.raises(ReaderError, match="heads of layer 1"):
            scrubbing_costs(some_model, random_tokens(some_model, 6), heads, {})
