"""Claims of chapter 02_zero_layer_bigrams."""

from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_most, claim
from helpers.measures import bigram_log_probs, bigram_loss, direct_path

SECTION = "Zero-Layer Transformers"


@claim("eq-0L", section=SECTION, chapter="02", paper="T = W_U W_E", value="largest relative error", bar=EXACT)
def _logits_are_one_product(book: Book) -> float:
    """A transformer without layers is one matrix, W_E W_U: its rows are the logits after each token."""
    model = book.double("zero_layer")
    tokens = book.text[:2]
    table = model.W_E @ model.W_U
    return book.error(model(tokens), table[tokens])


@claim("cl-0L-bigram", section=SECTION, chapter="02", paper="stated",
       value="training loss above the entropy of the text's bigrams, nats", bar=at_most(0.05, weaker=0.3))
def _bigram_statistics(book: Book) -> float:
    """The best such a model can do is to hold the log-likelihoods of the bigrams, as far as its rank allows."""
    counts = book.counts
    table = direct_path(book.zero_layer)
    return bigram_loss(table[counts.pairs], counts) - bigram_loss(bigram_log_probs(counts), counts)
