"""Claims of chapter 06_two_layer_induction."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from helpers.circuits import (
    W_OV,
    W_QK,
    LowRank,
    copying_score,
    matching_score,
    positivity,
    score_by_token,
    score_expansion,
)
from helpers.claims.book import Book
from helpers.claims.ledger import at_least, at_most, claim
from helpers.measures import (
    all_patterns,
    induction_targets,
    logit_effect,
    prefix_matching_score,
    prefix_matching_scores,
    random_repeats,
    spearman,
)
from helpers.model import Cache
from helpers.stream import random_rotation

SECTION = "Induction Heads"
MECHANISM = "How Induction Heads Work"
CHECKING = "Checking the mechanistic theory"


@claim("S-2L", section="Summary of Results", chapter="06", paper="stated", bar=at_least(0.35, weaker=0.2),
       value="prefix matching of the best head at repeat length 100")
def _two_layers_have_induction_heads(book: Book) -> float:
    """Two-layer models form induction heads."""
    return prefix_matching_scores(book.two_layer, length=100, n_samples=8).max().item()


@claim("cl-induction-function", section="Function of Induction Heads", chapter="06", paper="shown",
       bar=at_least(0.5, weaker=0.25),
       value="attention to the first token where no token has come before, strongest head")
def _without_a_copy_induction_heads_rest(book: Book) -> float | None:
    """An induction head that finds no earlier copy of the present token attends to the first token."""
    if not book.induction_heads:
        return None
    first_copy = random_repeats(book.two_layer.config.d_vocab, 50, n_copies=1)
    return all_patterns(book.two_layer, first_copy)[1][:, book.induction_head[1], 1:, 0].mean().item()


def repeated_bigrams(tokens: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos-1"]:
    """Where the token that comes next came right after an earlier copy of the present token as well."""
    same_next = (tokens[:, None, :] == tokens[:, 1:, None]) & induction_targets(tokens)[:, :-1]
    return same_next.any(-1)


@claim("fig20-examples", section="Function of Induction Heads", chapter="06", paper="two examples",
       bar=at_least(1.0, weaker=0.3), digits=4,
       value="logit effect on the next token where a pair of tokens comes again, nats",
       why_not="With seed 0 the head that attends best is not the one that writes most: two other induction heads of "
               "the same model raise that token by 1.5 nats.")
def _they_raise_what_followed_before(book: Book) -> float:
    """On real text, where a pair of tokens comes again, the induction head raises the logit of its second token."""
    tokens, cache = book.text[:8], Cache()
    book.two_layer.residual_stream(tokens, cache=cache)
    effect = logit_effect(book.two_layer, cache.head_outputs[1][:, book.induction_head[1]], tokens)
    return effect[repeated_bigrams(tokens)].mean().item()


@claim("int-random", section="Function of Induction Heads", chapter="06", paper="shown", bar=at_least(0.4, weaker=0.2),
       value="attention to the tokens after earlier copies, 20 random tokens three times")
def _it_works_on_random_tokens(book: Book) -> float:
    """Induction heads work far from the training text, on random tokens that are repeated."""
    tokens = random_repeats(book.two_layer.config.d_vocab, 20, n_copies=3)
    return prefix_matching_score(all_patterns(book.two_layer, tokens)[1], tokens).max().item()


@claim("fig21-mechanism", section=MECHANISM, chapter="06", paper="two examples", bar=at_least(0.8, weaker=0.5),
       value="share of repeated random tokens where the key's largest part is of the token before the source, and the "
             "query's of its own")
def _keys_come_from_the_previous_token(book: Book) -> float:
    """Taken apart by tokens, an induction head's key comes from the token before the source, its query from its own."""
    hits = []
    for tokens in random_repeats(book.two_layer.config.d_vocab, 20, n_samples=2):
        cache = Cache()
        book.two_layer.residual_stream(tokens[None], cache=cache)
        for dest in range(21, 41):
            score = score_by_token(book.two_layer, cache, book.induction_head, dest, dest - 19)
            hits.append(score.sum(0).argmax() == dest - 20 and score.sum(1).argmax() == dest)
    return sum(map(bool, hits)) / len(hits)


@claim("cl-minimal-induction", section=MECHANISM, chapter="06", paper="Id ⊗ A ⊗ W", bar=at_least(0.5, weaker=0.25),
       value="share of the score on the right source (above other sources) that this one term has",
       why_not="The heads match with more than the minimal circuit: about half of the score has layer 0 on both sides "
               "(chapter 05).")
def _one_term_is_enough(book: Book) -> float | None:
    """Most of the score is one term: the query's token with what a previous-token head left in the key."""
    if not book.induction_heads:
        return None
    tokens, cache = random_repeats(book.two_layer.config.d_vocab, 20, n_samples=1), Cache()
    book.two_layer.residual_stream(tokens, cache=cache)
    terms = score_expansion(book.two_layer, cache, book.induction_head)
    above = sum(terms[:, :, dest, dest - 19] - terms[:, :, dest, : dest + 1].mean(-1) for dest in range(21, 41))
    return (above[0, 2 + book.previous_token_head[1]] / above.sum()).item()


def corner(book: Book, head: int) -> float:
    """The smaller of a second-layer head's two positivities: of its OV circuit, and of QK through previous token."""
    return min(copying_score(book.two_layer, (1, head)),
               matching_score(book.two_layer, (1, head), book.previous_token_head))


@claim("fig22-2D", section=CHECKING, chapter="06", paper="5 heads, 0.89 to 0.99", bar=at_least(0.85, weaker=0.6),
       value="smallest of both positivities over all induction heads")
def _induction_heads_are_in_the_corner(book: Book) -> float | None:
    """All induction heads are at the extreme of positivity of both circuits: OV, and QK through previous tokens."""
    return min((corner(book, head) for _, head in book.induction_heads), default=None)


@claim("fig22-rank", section=CHECKING, chapter="06", paper="–", bar=at_least(0.6, weaker=0.3),
       value="rank correlation of the smaller positivity with prefix matching, over 12 heads")
def _weights_rank_heads_as_behaviour_does(book: Book) -> float:
    """The weights alone put heads in nearly the order in which they match prefixes."""
    return spearman(torch.tensor([corner(book, head) for head in range(12)]), book.matching[1])


@claim("cl-not-circular", section=CHECKING, chapter="06", paper="argued", bar=at_most(0.3), also_untrained=True,
       value="mean size of the matching score after random rotations, which leave the composition score as it was")
def _composition_does_not_imply_matching(book: Book) -> float:
    """Large K-composition does not make the eigenvalues positive: that the head matches is a finding of its own."""
    model = book.two_layer
    early = W_OV(model, book.previous_token_head)
    reads = model.W_E @ W_QK(model, book.induction_head)

    def score(seed: int) -> float:
        rotation = random_rotation(model.config.d_model, seed).float()
        return positivity((reads @ LowRank(rotation @ early.left, early.right).T @ model.W_E.T).eigenvalues())

    return sum(abs(score(seed)) for seed in range(10)) / 10
