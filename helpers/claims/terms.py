"""Claims of chapter 07_term_importance."""

import math

from helpers.circuits import paths
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.measures import (
    attention_by_offset,
    layer_importance,
    loss_per_token,
    losses_without_composition,
    random_repeats,
    term_importance,
)
from helpers.model import AttentionOnlyTransformer, Cache, ModelConfig

SECTION = "Term Importance Analysis"
VIRTUAL = "Virtual Attention Heads"


@claim("alg-term-importance", section=SECTION, chapter="07", paper="by construction", bar=EXACT,
       value="error of the loss with all orders of terms")
def _all_orders_are_the_model(book: Book) -> float:
    """Keeping all orders of terms gives back the model's loss."""
    model, tokens = book.double("two_layer"), book.text[:2, :64]
    return abs(term_importance(model, tokens)[-1] / loss_per_token(model, tokens).mean().item() - 1)


def _times(gain: float, other: float) -> float | None:
    """How many times ``other`` a gain is; None where neither is a hundredth of a nat, as in an untrained model."""
    return None if max(abs(gain), abs(other)) < 0.01 else gain / max(other, 1e-9)


@claim("tab-term-order", section=SECTION, chapter="07", paper="5.2 / 0.3 = 17", bar=at_least(5, weaker=2), digits=1,
       value="gain of single heads over the direct path, for each nat that pairs add")
def _pairs_add_little(book: Book) -> float | None:
    """Of all terms, single heads are worth by far the most, pairs of heads very little."""
    direct, heads, pairs = book.loss_by_order
    return _times(direct - heads, heads - pairs)


@claim("tab-term-order-direct", section=SECTION, chapter="07", paper="5.2 / 1.8 = 2.9", bar=at_least(2, weaker=1),
       digits=1, value="gain of single heads over the direct path, for each nat that it gains over guessing")
def _heads_beat_the_direct_path(book: Book) -> float | None:
    """Single heads are worth more than the direct path."""
    direct, heads, _ = book.loss_by_order
    return _times(direct - heads, math.log(book.two_layer.config.d_vocab) - direct)


@claim("tab-term-order-each", section=SECTION, chapter="07", paper="0.2 / 0.002 = 100", bar=at_least(20, weaker=10),
       digits=0, value="gain of a single head, on average, over that of a pair")
def _a_pair_adds_less_than_a_head(book: Book) -> float | None:
    """For each term the difference is larger still, since there are many more pairs than heads."""
    direct, heads, pairs = book.loss_by_order
    if (times := _times(direct - heads, heads - pairs)) is None:
        return None
    return times * 144 / 24


@claim("tab-term-layer", section=SECTION, chapter="07", paper="4.0 / 0.05 = 80", digits=1,
       bar=at_least(10, weaker=2), value="marginal gain of layer 1's heads over that of layer 0's")
def _the_second_layer_speaks_to_the_logits(book: Book) -> float | None:
    """As single terms the second layer's heads are worth far more than the first layer's."""
    loss = book.loss_by_layers
    return _times(loss[0,] - loss[0, 1], loss[1,] - loss[0, 1])


@claim("tab-term-sums", section=SECTION, chapter="07", paper="1.3 + 4.0 = 5.2 + 0.05", bar=EXACT,
       value="error of either way to add up the gains of the single heads")
def _marginal_gains_telescope(book: Book) -> float:
    """What layers add one after the other sums to the same in either order, the gain of all single heads."""
    model, tokens = book.double("two_layer"), book.text[:2, :64]
    loss, (direct, heads, _) = layer_importance(model, tokens), term_importance(model, tokens)
    ways = [(loss[()] - loss[first,]) + (loss[first,] - loss[0, 1]) for first in (0, 1)]
    return max(abs(way - (direct - heads)) for way in ways) / direct


@claim("variant", section=SECTION, chapter="07", paper="not made", bar=at_most(0.3, weaker=0.6),
       value="fall of the loss on repeated random tokens without K-composition, as a share of the intact one")
def _k_composition_carries_induction(book: Book) -> float | None:
    """A variant of the algorithm can isolate one kind of composition: without K, induction is gone."""
    if book.seed is None:
        return None
    return _fall(book, "K") / _fall(book, "")


def _fall(book: Book, sides: str) -> float:
    tokens = random_repeats(book.two_layer.config.d_vocab, length=20, n_samples=8)
    losses = losses_without_composition(book.two_layer, tokens, sides)
    return (losses[:, :20].mean() - losses[:, 21:].mean()).item()


@claim("cl-virtual-count", section=VIRTUAL, chapter="07", paper="L·H, C(L,2)·H², C(L,3)·H³", bar=EXACT,
       value="error of the formulas against counted paths, 2 to 4 layers")
def _there_are_many_virtual_heads(book: Book) -> float:
    """Heads grow in number with the layers, virtual heads of two with their square, of three with their cube."""
    errors = []
    for n_layers, n_heads in ((2, book.two_layer.config.n_heads), (3, 4), (4, 3)):
        small = AttentionOnlyTransformer(ModelConfig(n_layers, n_heads, d_model=2, d_head=1, d_vocab=2, n_ctx=1))
        lengths = [len(path) for path in paths(small)]
        errors += [abs(lengths.count(n) - math.comb(n_layers, n) * n_heads**n) for n in range(4)]
    return float(max(errors))


@claim("cl-two-back", section=VIRTUAL, chapter="07", paper="suggested", bar=at_least(1.0),
       value="attention two tokens back: the best virtual head's, over the best single head's",
       why_not="Layer 1 has no previous-token head, so there is no chain of two. A head of layer 0 looks two back by "
               "itself, with about two fifths of its attention.")
def _virtual_heads_look_two_back(book: Book) -> float:
    """Virtual heads may serve ends that no single head does, such as attending two tokens back."""
    cache = Cache()
    book.two_layer.residual_stream(book.text[:2], cache=cache)
    single = max(attention_by_offset(pattern, 2)[:, 2].max().item() for pattern in cache.patterns)
    early, late = cache.patterns
    virtual = max(attention_by_offset(late @ early[:, [head]], 2)[:, 2].max().item() for head in range(early.shape[1]))
    return virtual / single
