"""Claims of chapter 05_two_layer_composition."""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.circuits import composition_excess, path_logits, paths, score_expansion, swapped_composition_score
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.measures import all_patterns, attention_by_offset, value_weighted
from helpers.model import Cache

SECTION = "Two-Layer Attention-Only Transformers"
ANALYSIS = "Analyzing a Two-Layer Model"


@claim("cl-3-compositions", section="Three Kinds of Composition", chapter="05", paper="Q, K and V", bar=EXACT,
       value="error of queries, keys and values of layer 1 as sums over what the stream holds")
def _queries_keys_and_values_read_earlier_heads(book: Book) -> float:
    """A head of the second layer reads the outputs of earlier heads in three ways: by its queries, keys and values."""
    model = book.double("two_layer")
    _, cache = model.run_with_cache(book.text[:1, :32])
    sources = [cache.residual[0][0], *cache.head_outputs[0][0]]
    return max(book.error(sum(source @ W for source in sources), cache.residual[1][0] @ W)
               for W in (model.W_Q[1], model.W_K[1], model.W_V[1]))


@claim("fig17-logits-2L", section="Path Expansion of Logits", chapter="05", paper="1 + 24 + 144 terms", bar=EXACT,
       value="error of the sum of all 169 paths")
def _logits_are_a_sum_of_paths(book: Book) -> float:
    """The logits of a two-layer model are the sum of the direct path, every head, and every pair of heads in a row."""
    model = book.double("two_layer")
    tokens = book.text[:1, :32]
    logits, cache = model.run_with_cache(tokens)
    return book.error(sum(path_logits(model, tokens, cache.patterns, path) for path in paths(model)), logits)


@claim("fig18-QK-2L", section="Path Expansion of Attention Scores QK Circuit", chapter="05",
       paper="1 + 12 + 12 + 144 terms", bar=EXACT, value="error of the sum of all terms, with those of positions")
def _scores_are_a_sum_of_terms(book: Book) -> float:
    """Attention scores of the second layer are a sum over what the query and what the key is made of."""
    model = book.double("two_layer")
    _, cache = model.run_with_cache(book.text[:1, :24])
    seen = ~model.future[:24, :24]
    return max(book.error(score_expansion(model, cache, (1, h)).sum((0, 1))[seen], cache.scores[1][0, h][seen])
               for h in range(model.config.n_heads))


@claim("eq-composition", section=ANALYSIS, chapter="05", paper="“most heads”", bar=at_least(0.5),
       value="share of the 432 scores below that of random matrices")
def _most_pairs_compose_less_than_random(book: Book) -> float:
    """Most pairs of heads compose less than random matrices of their shapes would."""
    scores = book.composition
    return torch.stack([scores[kind] < 0 for kind in "QKV"]).float().mean().item()


@claim("cl-most-not-composing", section=ANALYSIS, chapter="05", paper="“most heads”", bar=at_most(0.5, weaker=0.67),
       value="share of layer 1's heads with a composition score of twice random or more", also_untrained=True)
def _most_heads_do_not_compose(book: Book) -> float:
    """Most heads of the second layer take part in no substantive composition."""
    strongest = torch.stack([book.composition[kind].amax(0) for kind in "QKV"]).amax(0)
    return (strongest >= book.two_layer.config.d_model**-0.5).float().mean().item()


@claim("fig19-composition-original", section=ANALYSIS, chapter="05", paper="4 of 4 (1:8, 1:3, 1:0, 1:5)", digits=0,
       bar=at_least(4, weaker=3), value="of the four largest of all, how many are K, from the previous-token head",
       why_not="With seed 1 the fourth is K-composition too, but with a head that attends to the last few tokens.")
def _swapped_scores_show_one_source(book: Book) -> float:
    """With the norm taken of the wrong product, K-composition with the previous-token head is all that shows."""
    scores = {kind: composition_excess(book.two_layer, kind, swapped_composition_score) for kind in "QKV"}
    edges = [(value, kind, early) for kind in "QKV" for early, row in enumerate(scores[kind].tolist()) for value in row]
    return sum((kind, early) == ("K", book.previous_token_head[1]) for _, kind, early in sorted(edges)[-4:])


def n_standing_out(scores: dict[str, Float[Tensor, "early late"]]) -> int:
    """How many pairs, of all three kinds, reach at least a quarter of the largest excess."""
    every = torch.stack([*scores.values()])
    return int((every >= 0.25 * every.max()).sum())


@claim("erratum-bug", section="Author's correction (comments)", chapter="05", paper="“more … than it seemed”",
       bar=at_least(1.5, weaker=1.0), digits=1,
       value="pairs above a quarter of the largest excess, right norm for each with the wrong one")
def _more_composition_than_it_seemed(book: Book) -> float:
    """There is more composition of heads than the figure with the wrong norm showed."""
    wrong = {kind: composition_excess(book.two_layer, kind, swapped_composition_score) for kind in "QKV"}
    return n_standing_out(book.composition) / n_standing_out(wrong)


@claim("fig26-composition-corrected", section="Author's correction (comments)", chapter="05",
       paper="1:3 and 1:8, mostly 0:7", bar=at_least(1.0, weaker=0.5),
       value="share of the induction heads whose strongest K-composition is with the previous-token head",
       why_not="With seed 2 one induction head of five reads a head that attends to the last few tokens a little more "
               "than the previous-token head.")
def _induction_heads_read_the_previous_token_head(book: Book) -> float | None:
    """Induction heads K-compose with a previous-token head more than with any other head."""
    if not book.induction_heads:
        return None
    strongest = book.composition["K"].argmax(0).tolist()
    agree = [strongest[head] == book.previous_token_head[1] for _, head in book.induction_heads]
    return sum(agree) / len(agree)


@claim("fig26-other-source", section="Author's correction (comments)", chapter="05",
       paper="0:0, “the last several tokens”", bar=at_least(0.5, weaker=0.35),
       value="attention to the last five tokens of the induction heads' second source")
def _second_source_is_local(book: Book) -> float | None:
    """Induction heads also K-compose with a head that attends to the last several tokens."""
    if not book.induction_heads:
        return None
    into = book.composition["K"][:, [head for _, head in book.induction_heads]].sum(1)
    into[book.previous_token_head[1]] = -torch.inf
    pattern = all_patterns(book.two_layer, book.text[:4])[0]
    local = attention_by_offset(pattern, 4)[into.argmax()].sum().item()
    return local if into.max() > 0 else 0.0


@claim("fig26-V-flat", section="Author's correction (comments)", chapter="05", paper="near zero",
       bar=at_most(0.5), value="largest V-composition above random, as a share of the largest K-composition",
       why_not="A few pairs do V-compose, about half as strongly as the strongest pair K-composes: chapter 07 finds "
               "that pairs of heads are worth about 0.35 nats here, a little more than in the paper.")
def _v_composition_is_weak(book: Book) -> float:
    """V-composition stays far below K-composition."""
    return (book.composition["V"].max() / book.composition["K"].max()).item()


@claim("cl-0:7", section=ANALYSIS, chapter="05", paper="head 0:7, “primarily”", bar=at_least(0.6, weaker=0.4),
       value="attention of one head of layer 0 to the previous token")
def _previous_token_head(book: Book) -> float:
    """One head of the first layer attends mainly to the previous token."""
    return book.previous_token[0].max().item()


@claim("int-HP", section=ANALYSIS, chapter="05", paper="shown", bar=at_most(0.5, weaker=0.8),
       value="share of <code>&lt;START&gt;</code> in what induction heads move, over its share of their attention",
       why_not="With every seed less arrives from there than is looked at, but not always less than half: the value of "
               "the first token has not shrunk quite to nothing.")
def _start_is_a_resting_place(book: Book) -> float | None:
    """Induction heads rest on the first token, and move much less from there than they attend to it."""
    if not (heads := [head for _, head in book.induction_heads]):
        return None
    tokens, cache = book.text[:4], Cache()
    book.two_layer.residual_stream(tokens, cache=cache)
    pattern = cache.patterns[1][:, heads, 20:]
    moved = value_weighted(cache.patterns[1], cache.values[1], book.two_layer.W_O[1])[:, heads, 20:]
    share = moved[..., 0] / moved.sum(-1)
    return (share.mean() / pattern[..., 0].mean()).item()
