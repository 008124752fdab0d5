"""Claims of chapter 02_zero_layer_bigrams."""

from helpers.bigrams import bigram_log_probs, bigram_loss, direct_path
from helpers.circuits import LowRank
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.copying import common_tokens
from helpers.identities import forward_by_hand
from helpers.statistics import pearson
from helpers.text import shelf_text


@claim("S-0L", at_least(0.8, weaker=0.5))
def _table_is_in_the_weights(models: Models) -> float:
    """A transformer without layers models bigram statistics that can be read from its weights: after most tokens the
    largest logit of W_E W_U is that of the token which follows most often.
    """
    bigrams = shelf_text().bigrams
    by_weights = direct_path(models.load("zero_layer")).argmax(1)
    return (by_weights == bigrams.likeliest)[common_tokens(bigrams)].double().mean().item()


@claim("eq-0L", EXACT)
def _logits_are_one_product(models: Models) -> float:
    """A transformer without layers is one matrix, W_E W_U: its rows are the logits after each token."""
    return forward_by_hand(*models.exact("zero_layer", length=256))


@claim("cl-0L-bigram", at_most(0.05, weaker=0.3))
def _bigram_statistics(models: Models) -> float:
    """The best such a model can do is to hold the log-likelihoods of the bigrams, as far as its rank allows, and
    training comes near.
    """
    bigrams = shelf_text().bigrams
    table = direct_path(models.load("zero_layer"))
    return bigram_loss(table[bigrams.pairs], bigrams) - bigram_loss(bigram_log_probs(bigrams), bigrams)


@claim("cl-direct-residual", at_least(0.1, weaker=0.02))
def _direct_path_keeps_a_residual(models: Models) -> float:
    """In a model with layers the direct path holds only a residual of the bigram statistics: it agrees with them less
    than a model without layers does.
    """
    bigrams = shelf_text().bigrams
    enough = bigrams.counts >= 100  # so that their log-likelihood is known to a tenth of a nat
    in_text, pairs = bigram_log_probs(bigrams)[enough], (bigrams.first[enough], bigrams.second[enough])
    alone, *with_heads = (
        pearson(in_text, direct_path(models.load(name))[pairs]) for name in ("zero_layer", "one_layer", "two_layer")
    )
    return alone - max(with_heads)


@claim("cl-WU-not-inverse", at_least(410.0, weaker=41.0), also_untrained=True, digits=0)
def _unembedding_is_not_the_inverse(models: Models) -> float:
    """The unembedding is not the inverse of the embedding: a token does not predict itself. Random matrices are no
    inverses either, so an untrained model passes too.
    """
    model = models.load("zero_layer")
    ranks = LowRank(model.W_E, model.W_U).diagonal_ranks()[common_tokens(shelf_text().bigrams)]
    return float(ranks.median())
