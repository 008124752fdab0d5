"""Claims of chapter 02_zero_layer_bigrams."""

from helpers.circuits import LowRank
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.measures import bigram_log_probs, bigram_loss, direct_path, pearson

SECTION = "Zero-Layer Transformers"
ENOUGH_TOKENS = 1000  # occurrences of a token that has had some training
ENOUGH_PAIRS = 100  # occurrences of a pair whose log-likelihood is known to a tenth of a nat


@claim("S-0L", section="Summary of Results", chapter="02", paper="stated",
       value=f"share of tokens (seen {ENOUGH_TOKENS:,} times) after which weights and text have the same likeliest one",
       bar=at_least(0.8, weaker=0.5))
def _table_is_in_the_weights(book: Book) -> float:
    """A transformer without layers models bigram statistics that can be read from its weights: after most tokens the
    largest logit of W_E W_U is that of the token which follows most often."""
    counts = book.counts
    common = counts.opened >= ENOUGH_TOKENS
    by_weights = direct_path(book.loaded("zero_layer")).argmax(1)
    return (by_weights == counts.likeliest)[common].double().mean().item()


@claim("eq-0L", section=SECTION, chapter="02", paper="T = W_U W_E", value="largest relative error", bar=EXACT)
def _logits_are_one_product(book: Book) -> float:
    """A transformer without layers is one matrix, W_E W_U: its rows are the logits after each token."""
    model = book.double("zero_layer")
    tokens = book.text[:2]
    distinct, place = tokens.unique(return_inverse=True)
    rows = model.W_E[distinct] @ model.W_U  # those of the table that the text needs
    return book.error(model(tokens), rows[place])


@claim("cl-0L-bigram", section=SECTION, chapter="02", paper="stated",
       value="training loss above the entropy of the text's bigrams, nats", bar=at_most(0.05, weaker=0.3))
def _bigram_statistics(book: Book) -> float:
    """The best such a model can do is to hold the log-likelihoods of the bigrams, as far as its rank allows, and
    training comes near."""
    counts = book.counts
    table = direct_path(book.loaded("zero_layer"))
    return bigram_loss(table[counts.pairs], counts) - bigram_loss(bigram_log_probs(counts), counts)


@claim("cl-direct-residual", section=SECTION, chapter="02", paper="stated",
       value=f"correlation with the log-likelihood of pairs (seen {ENOUGH_PAIRS} times): that of zero layers, less the "
             "larger of the direct paths of one and two", bar=at_least(0.1, weaker=0.02))
def _direct_path_keeps_a_residual(book: Book) -> float:
    """In a model with layers the direct path holds only a residual of the bigram statistics: it agrees with them less
    than a model without layers does."""
    counts = book.counts
    enough = counts.times >= ENOUGH_PAIRS
    in_text = bigram_log_probs(counts)[enough]
    pairs = counts.first[enough], counts.second[enough]
    alone, *with_heads = (pearson(in_text, direct_path(book.loaded(name))[pairs])
                          for name in ("zero_layer", "one_layer", "two_layer"))
    return alone - max(with_heads)


@claim("cl-WU-not-inverse", section=SECTION, chapter="02", paper="stated",
       value=f"median rank of a token (seen {ENOUGH_TOKENS:,} times) in its own row: 1 for the likeliest of 4,096",
       bar=at_least(410, weaker=41), also_untrained=True, digits=0)
def _unembedding_is_not_the_inverse(book: Book) -> float:
    """The unembedding is not the inverse of the embedding: a token does not predict itself. Random matrices are no
    inverses either, so an untrained model passes too."""
    common = book.counts.opened >= ENOUGH_TOKENS
    model = book.loaded("zero_layer")
    return LowRank(model.W_E, model.W_U).diagonal_ranks()[common].median().item()
