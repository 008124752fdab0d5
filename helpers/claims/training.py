"""Claims of chapter 08_phase_change.

Most are of the follow-up paper, "In-context Learning and Induction Heads" (Olsson et al., 2022), measured on the
histories of the book's models and of the laptop recipe.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import matching_trace
from helpers.claims.book import Book
from helpers.claims.ledger import at_least, at_most, claim
from helpers.measures import pearson, prefix_matching_scores
from helpers.phases import (
    after_warmup,
    best_head,
    column,
    final,
    half_way,
    largest_share,
    passes,
    position_slope,
    resteepening,
)
from helpers.training import RECIPES

SUMMARY, FOLLOW_UP = "Summary of Results", "follow-up (Olsson et al., 2022)"
TURN = 0.1  # prefix matching of the best head above which a model has begun to turn
ROUNDING = 1e-4  # nats; differences below it may come out otherwise on another processor


def _rows(book: Book, name: str) -> list[dict] | None:
    history = book.history(name)
    return history and after_warmup(history, RECIPES[name].training.warmup_steps)


def _tokens(rows: list[dict]) -> Float[Tensor, " row"]:
    return column(rows, "n_tokens")


def _fall(rows: list[dict]) -> Float[Tensor, " row"]:
    """Of the loss, from the first to the second copy of random tokens."""
    return column(rows, "random_first_copy") - column(rows, "random_second_copy")


def _apart(one: float, other: float) -> float:
    """By which factor two numbers of tokens differ, at least 1."""
    return max(one, other) / min(one, other)


@claim("S-diff", section=SUMMARY, chapter="08", paper="stated",
       value="best prefix matching at repeat length 50: two layers minus one layer", bar=at_least(0.3, weaker=0.1))
def _induction_heads_need_two_layers(book: Book) -> float:
    """One and two layers learn in context by different algorithms: only two layers have induction heads."""
    return (book.matching.max() - prefix_matching_scores(book.one_layer, length=50).max()).item()


@claim("icl-window", section=FOLLOW_UP, chapter="08", paper="> 0.75",
       value="share of the final in-context-learning score of the history formed within a quarter of the training",
       bar=at_least(0.75, weaker=0.5),
       why_not="Before the turn the histories' score has on average 45 to 61% of its final size already, for the "
               "reason given at icl-score-before. And the turn itself is slow in runs of 32 million tokens: prefix "
               "matching too gains only 0.57 to 0.62 of its final value within any quarter of them.")
def _forms_in_a_window(book: Book) -> float | None:
    """In two-layer models most of the in-context learning forms within a short window of the training."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    return largest_share(_tokens(rows), column(rows, "in_context_learning_score"), 0.25)


@claim("icl-score-before", section=FOLLOW_UP, chapter="08", paper="> −0.15",
       value="in-context-learning score of the history in its last row before any head's prefix matching is 0.1, nats",
       bar=at_least(-0.15, weaker=-0.25),
       why_not="The histories' score compares different tokens of only 32 contexts, whose late tokens happen to be "
               "easier. Measured in pairs, seed 0, trained again up to that row (step 1,683), had −0.07 ± 0.02, and "
               "the laptop model had nothing that differs from 0.")
def _little_before(book: Book) -> float | None:
    """Before the turn a model of two layers hardly learns in context."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    before = [row for row, score in zip(rows, best_head(rows, "prefix_matching"), strict=True) if score < TURN]
    return before[-1]["in_context_learning_score"] if before else None


@claim("icl-score-after", section=FOLLOW_UP, chapter="08", paper="≈ −0.4",
       value="in-context-learning score at the end of training, in pairs, nats",
       bar=at_most(-0.4, weaker=-0.25),
       why_not="Our contexts have 256 tokens in place of 512, and source code repeats itself already within 50 tokens.")
def _much_after(book: Book) -> float:
    """At the end of the training the score is near −0.4 nats."""
    return book.icl_scores["none"]


@claim("icl-one-layer-never", section=FOLLOW_UP, chapter="08", paper="never",
       value="in-context-learning score of one layer at the end, in pairs, as a share of that of two",
       bar=at_most(0.5, weaker=0.75))
def _one_layer_never(book: Book) -> float | None:
    """A model of one layer gains much less from a longer context than one of two."""
    return None if book.seed is None else book.icl_scores["one layer"] / book.icl_scores["none"]


@claim("icl-co-occurrence", section=FOLLOW_UP, chapter="08", paper="same window",
       value="half-way points of prefix matching and of the history's in-context learning, tokens: factor between them",
       bar=at_most(2, weaker=4),
       why_not="What the histories' score has from its 32 contexts alone puts it half-way long before the turn. In "
               "pairs, on the laptop model, the score follows the heads.")
def _together(book: Book) -> float | None:
    """Induction heads and in-context learning come at the same time."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    heads = half_way(_tokens(rows), best_head(rows, "prefix_matching"))
    return _apart(heads, half_way(_tokens(rows), column(rows, "in_context_learning_score")))


@claim("icl-random-repeats", section=FOLLOW_UP, chapter="08", paper="same window",
       value="half-way points of prefix matching and of the fall of the loss on random repeats: factor between them",
       bar=at_most(2, weaker=4))
def _repeats_are_learnt_with_them(book: Book) -> float | None:
    """The ability to continue repeated random tokens comes with the induction heads."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    return _apart(half_way(_tokens(rows), best_head(rows, "prefix_matching")), half_way(_tokens(rows), _fall(rows)))


@claim("icl-bump", section=FOLLOW_UP, chapter="08", paper="the only non-convex stretch",
       value="how much faster the loss falls over five rows than over five earlier ones, nats per e-fold of tokens: "
             "two layers minus one",
       bar=at_least(0.05, weaker=0.0),
       why_not="Our turn is slow, and few rows are kept of it; what there is of a bump is near our line of 0.05.")
def _bump(book: Book) -> float | None:
    """The turn shows as a bump in the loss curve of two layers, which for a while falls faster than before."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    two, one = (resteepening(_tokens(r), column(r, "validation_loss")) for r in (rows, _rows(book, "one_layer")))
    return two - one


@claim("icl-one-by-one", section=FOLLOW_UP, chapter="08", paper="seen in its figures",
       value="half-way points of the last and of the first induction head, tokens: factor between them",
       bar=at_least(1.5, weaker=1.2),
       why_not="With seed 0 all four turn within one row of the history, and rows are a factor of 1.28 apart.")
def _one_by_one(book: Book) -> float | None:
    """The induction heads of a model do not turn all at once but one after the other."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    scores = column(rows, "prefix_matching")
    points = [half_way(_tokens(rows), scores[:, layer, head]) for layer, head in book.induction_heads]
    return max(points) / min(points) if points else None


@claim("icl-previous-first", section=FOLLOW_UP, chapter="08", paper="implied by K-composition",
       value="half-way point of the best previous-token head over that of the best induction head, tokens",
       bar=at_most(1.0, weaker=1.3))
def _previous_token_head_first(book: Book) -> float | None:
    """The previous-token head, whose work the induction heads use, forms before them or with them."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    early, late = book.previous_token_head, book.induction_head
    points = [half_way(_tokens(rows), column(rows, name)[:, layer, head])
              for name, (layer, head) in (("previous_token", early), ("prefix_matching", late))]
    return points[0] / points[1]


@claim("icl-loss-by-position", section=FOLLOW_UP, chapter="08", paper="flat beyond token 50 before, falling after",
       value="slope of the loss beyond position 50, after the turn minus before, nats per e-fold of position",
       bar=at_most(-0.1, weaker=-0.05))
def _late_tokens_get_easier(book: Book) -> float | None:
    """Beyond some 50 tokens of context the loss falls more steeply after the turn than before it."""
    if (rows := _rows(book, "two_layer")) is None:
        return None
    losses = column(rows, "loss_by_position")
    before = losses[best_head(rows, "prefix_matching") < TURN]
    return position_slope(losses[-3:].mean(0), 50) - position_slope(before[-3:].mean(0), 50) if len(before) else None


@claim("icl-smeared", section=FOLLOW_UP, chapter="08", paper="one layer turns",
       value="best prefix matching of one layer of the laptop recipe: with smeared keys minus without",
       bar=at_least(0.3, weaker=0.1))
def _smeared_keys_let_one_layer_turn(book: Book) -> float | None:
    """If each key may contain the key of the token before, a single layer forms induction heads."""
    if (rows := _rows(book, "laptop_smeared")) is None:
        return None
    smeared, ordinary = (final(best_head(r, "prefix_matching")) for r in (rows, _rows(book, "laptop_one_layer")))
    return smeared - ordinary


@claim("icl-smeared-earlier", section=FOLLOW_UP, chapter="08", paper="earlier",
       value="tokens until the best prefix matching has half its final value of the ordinary two layers: "
             "smeared over ordinary", bar=at_most(0.67, weaker=1.0))
def _smeared_keys_let_two_layers_turn_earlier(book: Book) -> float | None:
    """Two layers make the turn earlier with smeared keys than without."""
    if (rows := _rows(book, "laptop")) is None:
        return None
    smeared = _rows(book, "laptop_two_layer_smeared")
    half = final(best_head(rows, "prefix_matching")) / 2
    return (passes(_tokens(smeared), best_head(smeared, "prefix_matching"), half)
            / passes(_tokens(rows), best_head(rows, "prefix_matching"), half))


@claim("icl-ablation", section=FOLLOW_UP, chapter="08", paper="almost all",
       value="share of the in-context-learning score, in pairs, lost without the induction heads, patterns kept",
       bar=at_least(0.75, weaker=0.5))
def _it_is_the_induction_heads(book: Book) -> float | None:
    """Almost all in-context learning of a small attention-only model comes from its induction heads."""
    if not book.induction_heads:
        return None
    return 1 - book.icl_scores["induction heads"] / book.icl_scores["none"]


@claim("icl-others-raise", section=FOLLOW_UP, chapter="08", paper="most",
       value="share of the other heads without which, patterns kept, the in-context-learning score is larger in size",
       bar=at_least(0.5),
       why_not="One at a time, most of the other heads move the score by a hundredth of a nat or less, about as much "
               "as chance does, so about half go either way.")
def _the_others_stand_in_the_way(book: Book) -> float | None:
    """Most of the other heads weaken in-context learning."""
    if not book.induction_heads:
        return None
    others = [head for head in book.two_layer.heads if head not in book.induction_heads]
    line = book.icl_scores["none"] - ROUNDING
    return sum(book.icl_scores_without[head] < line for head in others) / len(others)


@claim("icl-qk-trace", section=FOLLOW_UP, chapter="08", paper="correlated",
       value="correlation, over the heads of layer 1, of prefix matching with the trace of the QK circuit through all "
             "heads of layer 0, each weighted by its previous-token score on text", bar=at_least(0.8, weaker=0.5))
def _trace_from_weights(book: Book) -> float:
    """Which heads match prefixes can be told from weights and from what layer 0 looks at: by a trace of QK circuits."""
    model, scores = book.two_layer, book.matching[1]
    traces = [matching_trace(model, (1, head), book.previous_token[0]) for head in range(len(scores))]
    return pearson(torch.tensor(traces), scores)
