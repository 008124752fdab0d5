"""Claims of chapter 02_zero_layer_bigrams."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from helpers.bigrams import (
    Bigrams,
    bigram_log_probs,
    bigram_losses,
    direct_path,
    frequent_pairs,
    interaction,
    next_in_frequency,
)
from helpers.circuits import LowRank
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.copying import common_tokens
from helpers.identities import forward_by_hand
from helpers.statistics import Estimate, mean_of, ratio_of, resampled
from helpers.text import shelf_text
from helpers.tokens import Tokenizer

REPAIRED = "each row given to the token next in frequency"
COMPARED = (("one_layer", "two_layer"), ("zero_layer",))  # the claim is about the first, the second is its control


@claim("S-0L", at_least(0.85), control=REPAIRED)
def _table_is_in_the_weights(models: Models) -> Evidence:
    """A transformer without layers models bigram statistics that can be read from its weights: after almost all tokens
    the largest logit of W_E W_U is that of the token which follows most often.
    """
    bigrams = shelf_text().bigrams
    by_weights, common = direct_path(models.load("zero_layer")).argmax(1), common_tokens(bigrams)
    rows = (by_weights, by_weights[next_in_frequency(bigrams)])
    return Evidence(*(mean_of((row == bigrams.likeliest)[common]) for row in rows))


@claim("eq-0L", EXACT)
def _logits_are_one_product(models: Models) -> float:
    """A transformer without layers is one matrix, W_E W_U: its rows are the logits after each token."""
    return forward_by_hand(*models.exact("zero_layer", length=256))


@claim("cl-0L-bigram", at_least(0.95), control=REPAIRED)
def _bigram_statistics(models: Models) -> Evidence:
    """The best such a model can do is to hold the log-likelihoods of the bigrams, as far as its rank allows, and
    training comes near.
    """
    text = shelf_text()
    bigrams, table = text.bigrams, direct_path(models.load("zero_layer"))
    by_frequency = bigram_losses(text.unigram_probs.log()[bigrams.second], bigrams)
    to_gain = by_frequency - bigram_losses(bigram_log_probs(bigrams), bigrams)

    def gained(table: Float[Tensor, "token next"]) -> Estimate:
        gain = by_frequency - bigram_losses(table[bigrams.pairs], bigrams)
        return ratio_of(bigrams.first_counts * gain, bigrams.first_counts * to_gain)

    return Evidence(gained(table), gained(table[next_in_frequency(bigrams)]))


# ---- the direct path of models with layers ------------------------------------------------------------------------


@claim("cl-direct-residual", at_most(0.5), control="the model without layers")
def _direct_path_keeps_a_residual(models: Models) -> Evidence:
    """In a model with layers the direct path holds only a residual of the bigram statistics: of what is particular to
    pairs of tokens it explains less than half.
    """

    def explained(*of_models: Float[Tensor, "token kind 3"]) -> float:
        sums = (products.sum((0, 1)) for products in of_models)
        return max((xy**2 / (xx * yy)).item() for xx, yy, xy in sums)

    return Evidence(*(resampled(explained, *(products(models, name) for name in names)) for names in COMPARED))


@claim("cl-direct-idiosyncratic", at_least(1.5), control="the model without layers")
def _direct_path_keeps_idiosyncratic_pairs(models: Models) -> Evidence:
    """What the direct path keeps are above all idiosyncratic pairs, such as the two parts of a name: where a word goes
    on from one token to the next, it holds more of the bigram statistics than elsewhere.
    """

    def advantage(*of_models: Float[Tensor, "token kind 3"]) -> float:
        slopes = (products.sum(0)[:, 2] / products.sum(0)[:, 0] for products in of_models)
        return min((within / elsewhere).item() for elsewhere, within in slopes)

    return Evidence(*(resampled(advantage, *(products(models, name) for name in names)) for names in COMPARED))


def products(models: Models, name: str) -> Float[Tensor, "token kind 3"]:
    """Of text and of a model's direct path, sums over pairs of xx, yy and xy, by first token and kind of pair.

    x is what is particular to a pair in the text, y in the direct path. The second kind are pairs within a word.
    """
    text = shelf_text()
    pairs = frequent_pairs(text.bigrams)
    x = interaction(bigram_log_probs(text.bigrams, pairs), pairs)
    y = interaction(direct_path(models.load(name))[pairs.pairs], pairs)
    within = within_words(text.tokenizer, pairs).long()
    sums = x.new_zeros(2 * pairs.d_vocab, 3)
    sums.index_add_(0, 2 * pairs.first + within, torch.stack([x * x, y * y, x * y], dim=1))
    return sums.unflatten(0, (-1, 2))


def within_words(tokenizer: Tokenizer, bigrams: Bigrams) -> Bool[Tensor, " pair"]:
    """Has the pair a letter on both sides of its seam?"""
    texts = [tokenizer.decode([token]) for token in range(bigrams.d_vocab)]
    ends, begins = (torch.tensor([text[side].isalpha() for text in texts]) for side in (slice(-1, None), slice(1)))
    return ends[bigrams.first] & begins[bigrams.second]


@claim("cl-WU-not-inverse", at_least(410.0), geometry=True, digits=0)
def _unembedding_is_not_the_inverse(models: Models) -> Estimate:
    """The unembedding is not the inverse of the embedding: a token does not predict itself. Random matrices are no
    inverses either, so an untrained model passes too.
    """
    model = models.load("zero_layer")
    ranks = LowRank(model.W_E, model.W_U).diagonal_ranks()[common_tokens(shelf_text().bigrams)]
    return resampled(lambda some: some.double().median(), ranks)
