"""Claims of chapter 03_one_layer_skip_trigrams: the algebra, attention, heads that share work, and bugs.

What it means that a model supports a rule, and that a text has one, is said in ``helpers.skip_trigrams``.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import LowRank, qk_circuit
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import attention_by_offset, boosts_beyond_mean
from helpers.identities import (
    ensemble_of_tables,
    forward_by_hand,
    information_movement,
    linear_when_frozen,
    low_rank_heads,
    sum_of_paths,
    tensor_products,
)
from helpers.model import AttentionOnlyTransformer
from helpers.skip_trigrams import SkipTrigramBug, bugs_of_heads, contexts_after, followers, source_effects
from helpers.statistics import Estimate, ratio_of, resampled
from helpers.stream import with_weights
from helpers.text import TokenPositions, shelf_text

# ---- the algebra -------------------------------------------------------------------------------------------------


@claim("S-1L", EXACT)
def _readable_from_weights(models: Models) -> float:
    """A one-layer model is an ensemble of a bigram table and of one skip-trigram table for each head, which can be read
    from the weights: with these tables and those of the positions one predicts without running the model.
    """
    return ensemble_of_tables(*models.exact("one_layer", length=128))


@claim("fig6-1L", EXACT)
def _one_layer(models: Models) -> float:
    """The stream after the layer is the embedding plus what every head adds by itself, and the logits are its image
    under the unembedding.
    """
    return forward_by_hand(*models.exact("one_layer", length=48))


@claim("fig7-product", EXACT)
def _product_of_tensors(models: Models) -> float:
    """The model is a product of three tensors: embed, then the identity plus a Kronecker product for each head, then
    unembed.
    """
    return tensor_products(*models.exact("one_layer"))


@claim("fig8-expansion", EXACT)
def _sum_of_paths(models: Models) -> float:
    """Multiplied out, the logits are a direct path and one path through each head: 13 terms."""
    return sum_of_paths(*models.exact("one_layer", length=48))


@claim("fig9-QKOV", EXACT)
def _two_circuits(models: Models) -> float:
    """Two tables over the vocabulary, of rank d_head at most, say all that a head does with tokens: QK where it looks,
    positions aside, and OV what that does to the logits.
    """
    model, tokens = models.exact("one_layer", length=48)
    blind = with_weights(model, W_pos=torch.zeros_like(model.W_pos))
    return max(ensemble_of_tables(blind, tokens), low_rank_heads(model, tokens))


@claim("cl-src-only-effect", EXACT)
def _source_alone(models: Models) -> float:
    """Once the attention is fixed, what a head does to the logits depends on the source token alone: destinations that
    attend equally are moved equally.
    """
    return information_movement(*models.exact("one_layer"))


@claim("cl-freeze", EXACT)
def _linear_when_frozen(models: Models) -> float:
    """With the attention patterns of one run frozen, the logits are a linear function of the tokens."""
    return linear_when_frozen(*models.exact("one_layer", length=48))


# ---- attention ---------------------------------------------------------------------------------------------------


@claim("cl-QK-norm", at_most(0.85), control="the same heads, blind to positions")
def _no_right_normalisation(models: Models) -> Evidence:
    """There is no clear right answer as to how to normalise the rows of the QK circuit: no way is the best in almost
    all heads.

    Best is the way whose columns are likest to the attention that sources get in text. (There is a right answer for
    heads that see no positions: to take off what the softmax does, on average over a text.)
    """
    model, contexts = models.one_layer, models.contexts[:16]
    blind = with_weights(model, W_pos=torch.zeros_like(model.W_pos))
    circuits = [qk_circuit(model, head) for head in model.heads]
    ways = [_ways_to_normalise(qk) for qk in circuits]

    def most_often_best(a_model: AttentionOnlyTransformer) -> Estimate:
        fits = torch.stack([_fits(circuits, ways, a_model.cache(text[None]).scores[0][0], text) for text in contexts])
        return resampled(lambda fits: fits.mean(0).argmax(1).bincount().max() / len(circuits), fits)

    return Evidence(most_often_best(model), most_often_best(blind))


def _ways_to_normalise(qk: LowRank) -> Float[Tensor, "way d_vocab"]:
    """What several ways to normalise the rows of a QK circuit take off each row.

    Nothing; its mean; the logarithm of the sum of its exponentials, over frequent tokens, each of them once, and over
    tokens as frequent as in text.
    """
    train = shelf_text().corpus.train
    of_text = torch.from_numpy(train[:: len(train) // 1024].astype(int))
    log_sums = [qk.columns(tokens).logsumexp(1) for tokens in (shelf_text().frequent[::4], of_text)]
    return torch.stack([torch.zeros_like(log_sums[0]), qk.left @ qk.right.mean(1), *log_sums])


def _fits(
    circuits: Sequence[LowRank],
    ways: Sequence[Float[Tensor, "way d_vocab"]],
    scores: Float[Tensor, "head dest src"],
    tokens: Int[Tensor, " pos"],
) -> Float[Tensor, "head way"]:
    """How well the QK circuit of each head, normalised in several ways, says what attention sources get in a text:
    its correlation with the logarithm of attention, above that of an even pattern.
    """
    even = torch.arange(1, len(tokens) + 1).log()[:, None]
    fits = []
    for qk, taken_off, attention in zip(circuits, ways, scores.log_softmax(-1) + even, strict=True):
        entries = qk.rows(tokens)[:, tokens]
        fits.append(_correlations(entries - taken_off[:, tokens, None], attention))
    return torch.stack(fits)


def _correlations(x: Float[Tensor, "way dest src"], y: Float[Tensor, "dest src"]) -> Float[Tensor, " way"]:
    """The correlation of each column with the same one of ``y``, over the destinations after the source; their mean.

    For the sources that have 50 such destinations, ``<START>`` aside.
    """
    sources = slice(1, len(y) - 50)
    later = torch.ones_like(y).tril(-1)[:, sources]

    def standard(z: Float[Tensor, "... dest src"]) -> Float[Tensor, "... dest some"]:
        z = z[..., sources].masked_fill(later == 0, 0)
        return F.normalize((z - z.sum(-2, keepdim=True) / later.sum(0)) * later, dim=-2)

    return (standard(x) * standard(y)).sum(-2).mean(-1)


@claim("cl-positional", at_least(0.5), control="the median head")
def _a_positional_head(models: Models) -> Evidence:
    """Some head is mainly positional: most of its attention goes to the present and the previous token, on text as well
    as where the tokens that it may attend to are those of another text.
    """
    model, contexts = models.one_layer, models.contexts[:32]
    shares = []
    for text, other in zip(contexts, contexts.roll(1, 0), strict=True):
        queries, keys = model.W_E[text][None], model.W_E[other][None]
        patterns = [model.attention(queries, 0, keys_read)[1] for keys_read in (queries, keys)]
        shares.append(torch.stack([attention_by_offset(pattern, 1).sum(1) for pattern in patterns]))
    shares = torch.stack(shares)  # [context, same or other text, head]
    most_local = shares[:, 0].mean(0).argmax()
    return Evidence(
        resampled(lambda shares: shares.mean(0)[:, most_local].min(), shares),
        resampled(lambda shares: shares.mean(0)[1].median(), shares),
    )


@claim("cl-QK-plausible", at_least(2.0), control="the destinations exchanged")
def _sources_would_fit(models: Models) -> Evidence:
    """Copying heads attend to tokens that could plausibly come next: the sources that a destination asks for most
    follow it in text twice as often as other tokens do.
    """
    model, text = models.one_layer, shelf_text()
    destinations = text.frequent[::12]
    plausible = torch.stack([followers(text, destination) for destination in destinations.tolist()]).double()
    weights = models.copying_scores.double().clamp(min=0)
    asked = torch.zeros_like(plausible)
    for head, weight in zip(model.heads, weights / weights.sum(), strict=True):
        entries = qk_circuit(model, head).rows(destinations)[:, text.frequent]
        most = entries.topk(len(text.frequent) // 100).indices
        asked.scatter_add_(1, most, weight.expand(most.shape))
    return Evidence(_enrichment(asked, plausible), _enrichment(asked, plausible.roll(len(plausible) // 2, 0)))


def _enrichment(asked: Float[Tensor, "dest src"], plausible: Float[Tensor, "dest src"]) -> Estimate:
    """How many times as often sources are plausible where they are asked for as anywhere."""
    return ratio_of((asked * plausible).sum(1) / asked.sum(1), plausible.mean(1))


# ---- heads that share work ---------------------------------------------------------------------------------------


@claim("cl-fungible", at_most(0.5), control="every head's boosts from another text, its right token renamed")
def _heads_do_each_others_work(models: Models) -> Evidence:
    """Heads stand in for one another: one may seem to do nothing because another does the same job. Where the others
    are at work, a head is worth half of what it is worth alone, or less.
    """
    contexts, places = models.contexts, slice(15, -1, 24)
    logits, boosts = boosts_beyond_mean(models.one_layer, contexts, places)
    answers = contexts[:, 1:][:, places]
    last, alone = _worths(logits, boosts, answers)
    by_worth = last.sum(0).argsort(descending=True).tolist()
    apart = torch.stack([_from_other_texts(boosts[h], answers, shift) for shift, h in enumerate(by_worth, start=1)])
    control = _worths(logits - boosts.sum(0) + apart.sum(0), apart, answers)
    return Evidence(ratio_of(last.sum(1), alone.sum(1)), ratio_of(*(worths.sum(1) for worths in control)))


def _worths(
    logits: Float[Tensor, "context place d_vocab"],
    boosts: Float[Tensor, "head context place d_vocab"],
    answers: Int[Tensor, "context place"],
) -> tuple[Float[Tensor, "context head"], Float[Tensor, "context head"]]:
    """By how much each head lowers the loss in each context: in the company of all others, and alone."""

    def loss(logits: Float[Tensor, "context place d_vocab"]) -> Float[Tensor, " context"]:
        return F.cross_entropy(logits.transpose(1, 2), answers, reduction="none").mean(1)

    bare = logits - boosts.sum(0)
    last = torch.stack([loss(logits - boost) for boost in boosts], dim=1) - loss(logits)[:, None]
    alone = loss(bare)[:, None] - torch.stack([loss(bare + boost) for boost in boosts], dim=1)
    return last, alone


def _from_other_texts(
    boosts: Float[Tensor, "context place d_vocab"], answers: Int[Tensor, "context place"], shift: int
) -> Float[Tensor, "context place d_vocab"]:
    """A head's boosts in the contexts some further on, with the token that is right there exchanged for the one here:
    so it is worth something again, but where it is worth much has nothing to do with the other heads.
    """
    moved = boosts.roll(shift, 0)
    here, there = answers[..., None], answers.roll(shift, 0)[..., None]
    exchanged = moved.scatter(-1, here, moved.gather(-1, there))
    return exchanged.scatter(-1, there, moved.gather(-1, here))


# ---- bugs --------------------------------------------------------------------------------------------------------


@claim("tab-bugs", at_least(0.25), control="the tables of other tokens")
def _bugs_are_frequent(models: Models) -> Evidence:
    """Heads often hold two rules of the text with one source, and with them a crossed rule that the text does not have:
    for at least a quarter of their strongest sources.
    """
    frequent = shelf_text().frequent
    shuffled = frequent[torch.randperm(len(frequent), generator=torch.Generator().manual_seed(0))]
    read_as = dict(zip(frequent.tolist(), shuffled.tolist(), strict=True))
    of_others = bugs_of_heads(models.one_layer, models.readings, shelf_text(), read_as)
    return Evidence(_share_with_bugs(models, models.bugs), _share_with_bugs(models, of_others))


def _share_with_bugs(models: Models, bugs: list[list[SkipTrigramBug]]) -> Estimate:
    """How many of the strong sources have a bug; the unit is a source, with all heads of which it is one."""
    sources = torch.tensor([reading.source for reading in models.readings])
    _, unit, n_heads = sources.unique(return_inverse=True, return_counts=True)
    have = torch.tensor([bool(found) for found in bugs]).double()
    return ratio_of(torch.zeros(len(n_heads)).double().index_add_(0, unit, have), n_heads)


@claim("cl-bugs", at_least(0.25), control="crossed with the outs of other sources")
def _bugs_show(models: Models) -> Evidence:
    """A head's product form f₁(source, destination) f₂(source, out) forces the crossed rules on the model: the source
    raises the wrong token at least a quarter as much as the right one, by all heads together.
    """
    bugs = sorted({(bug.source, *bug.first, bug.second[1]) for found in models.bugs for bug in found})
    effects = _effects_on_text(models, {bug[:2] for bug in bugs})
    bugs = torch.tensor([bug for bug in bugs if bug[:2] in effects])
    others = bugs.roll(len(bugs) // 2, 0)[:, 3]
    raised = torch.stack(
        [
            effects[source, destination][[right, wrong, other]]
            for (source, destination, right, wrong), other in zip(bugs.tolist(), others.tolist(), strict=True)
        ]
    )
    right, wrong, other = _means_by(bugs[:, 0], raised.double()).T
    return Evidence(ratio_of(wrong, right), ratio_of(other, right))


def _effects_on_text(models: Models, pairs: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Tensor]:
    """What a source does to the log-probabilities after a destination: the mean of up to eight validation texts.

    By source and destination; of those that the validation text has.
    """
    effects = {}
    for source, destination in pairs:
        contexts = contexts_after(_validation_positions(), source, destination, models.one_layer.config.n_ctx, n=8)
        if len(contexts):
            effects[source, destination] = source_effects(models.one_layer, contexts, source).mean(0)
    return effects


def _means_by(unit: Int[Tensor, " row"], rows: Float[Tensor, "row n"]) -> Float[Tensor, "unit n"]:
    """The mean of the rows of each unit."""
    _, place, n = unit.unique(return_inverse=True, return_counts=True)
    return rows.new_zeros(len(n), rows.shape[1]).index_add_(0, place, rows) / n[:, None]


@cache
def _validation_positions() -> TokenPositions:
    corpus = shelf_text().corpus
    return TokenPositions.of(corpus.validation, corpus.tokenizer.d_vocab)
