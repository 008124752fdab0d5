"""The exercises of chapter 05, and the answers that lie near."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction


def _random(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    """A random matrix of each shape."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for shape in shapes]


def _masked(scores: Tensor) -> Tensor:
    """Scores after the mask: nobody looks ahead."""
    return scores.masked_fill(torch.ones_like(scores).bool().triu(1), -torch.inf)


def _pattern(scores: Tensor) -> Tensor:
    """The attention that follows from scores: rows sum to 1, nobody looks ahead."""
    return _masked(scores).softmax(-1)


# ---- all virtual heads at once --------------------------------------------------------------------------------------


def virtual_heads(
    X: Float[Tensor, "pos d_model"],
    A_0: Float[Tensor, "head pos pos"],
    OV_0: Float[Tensor, "head d_model d_model"],
    A_1: Float[Tensor, "head pos pos"],
    OV_1: Float[Tensor, "head d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What all paths with two heads add to the stream; X are the embeddings."""
    written_by_layer_0 = (A_0 @ X @ OV_0).sum(0)
    return (A_1 @ written_by_layer_0 @ OV_1).sum(0)


def _two_layers() -> list[tuple[Tensor, ...]]:
    """Embeddings, and patterns and OV matrices of two layers; more dimensions or more places."""
    cases = []
    for seed, (n, pos, d_model) in enumerate([(3, 4, 6), (2, 7, 5)], start=10):
        X, early, OV_0, late, OV_1 = _random(seed, (pos, d_model), *[(n, pos, pos), (n, d_model, d_model)] * 2)
        cases.append((X, _pattern(early), OV_0, _pattern(late), OV_1))
    return cases


def _with_idle_head(patterns: Tensor, OV: Tensor) -> tuple[Tensor, Tensor]:
    """A layer, and one more head that looks where the first one does and writes nothing."""
    return torch.cat([patterns, patterns[:1]]), torch.cat([OV, torch.zeros_like(OV[:1])])


def _over_pairs(term: Callable) -> Callable:
    """The sum of ``term(X, A_0, OV_0, A_1, OV_1)`` over all pairs of a head of layer 0 and one of layer 1."""
    return lambda X, A, U, B, W: sum(
        term(X, a, u, b, w) for a, u in zip(A, U, strict=True) for b, w in zip(B, W, strict=True)
    )


write_virtual_heads = Function(
    number="05.1",
    title="All virtual heads at once",
    minutes=7,
    stub='''
def virtual_heads(
    X: Float[Tensor, "pos d_model"],
    A_0: Float[Tensor, "head pos pos"],
    OV_0: Float[Tensor, "head d_model d_model"],
    A_1: Float[Tensor, "head pos pos"],
    OV_1: Float[Tensor, "head d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What all paths with two heads add to the stream; X are the embeddings."""
    ...
''',
    reference=virtual_heads,
    cases=_two_layers,
    wrong={
        "Each late head reads only the early head of its own number here, which gives 12 of the 144 paths. A late head "
        "reads what all early heads wrote.": lambda X, A, U, B, W: (B @ A @ X @ U @ W).sum(0),
        "Patterns and OV matrices are summed apart, so each pattern also moves what belongs to other heads. A sum of "
        "products is not the product of the sums: keep A and OV of one head together.": (
            lambda X, A, U, B, W: B.sum(0) @ A.sum(0) @ X @ U.sum(0) @ W.sum(0)
        ),
        "Layer 0 is right. In layer 1, patterns and OV matrices are summed apart, so each pattern also moves what "
        "belongs to other heads.": lambda X, A, U, B, W: B.sum(0) @ (A @ X @ U).sum(0) @ W.sum(0),
        "Layer 1 is right. In layer 0, patterns and OV matrices are summed apart, so each pattern also moves what "
        "belongs to other heads.": lambda X, A, U, B, W: (B @ (A.sum(0) @ X @ U.sum(0)) @ W).sum(0),
        "The layers are exchanged: here layer 1 reads the embeddings, and layer 0 reads what layer 1 wrote.": (
            lambda X, A, U, B, W: (A @ (B @ X @ W).sum(0) @ U).sum(0)
        ),
        "The patterns stand in the wrong order: the attention of layer 1 acts on the text first.": (
            _over_pairs(lambda X, a, u, b, w: a @ b @ X @ u @ w)
        ),
        "The OV matrices stand in the wrong order. Weights multiply rows from the right, so the one that acts first "
        "stands next to X.": _over_pairs(lambda X, a, u, b, w: b @ a @ X @ w @ u),
        "The OV matrices are transposed. That is right where the stream is a column, as in the paper; here it is a "
        "row.": _over_pairs(lambda X, a, u, b, w: b @ a @ X @ u.T @ w.T),
        "This is all that layer 1 writes. Its heads also read the embeddings themselves, and those are paths with one "
        "head.": lambda X, A, U, B, W: (B @ (X + (A @ X @ U).sum(0)) @ W).sum(0),
        "These are the paths with *one* head, of both layers. In a virtual head the second head moves what the first "
        "one wrote.": lambda X, A, U, B, W: (A @ X @ U).sum(0) + (B @ X @ W).sum(0),
        "This is the whole stream at the end: the direct path and the paths with one head are in it, too.": (
            lambda X, A, U, B, W: X + (A @ X @ U).sum(0) + (B @ (X + (A @ X @ U).sum(0)) @ W).sum(0)
        ),
        "The patterns are transposed. Their rows are destinations, so A X mixes places as it stands.": (
            lambda X, A, U, B, W: (B.mT @ (A.mT @ X @ U).sum(0) @ W).sum(0)
        ),
        "This is what layer 1 makes of the embeddings: paths with one head. Let it read what layer 0 wrote.": (
            lambda X, A, U, B, W: (B @ X @ W).sum(0)
        ),
        "The embeddings are in it, too. They reach the end by the direct path, which has no head on it.": (
            lambda X, A, U, B, W: X + (B @ (A @ X @ U).sum(0) @ W).sum(0)
        ),
        "What layer 0 writes is in it, too. That reaches the end by paths with one head.": (
            lambda X, A, U, B, W: (A @ X @ U).sum(0) + (B @ (A @ X @ U).sum(0) @ W).sum(0)
        ),
        "All pairs of heads are here, but with mixed parts: the two patterns of a pair meet the OV matrices of another "
        "pair. In one of your products the two axes of heads are exchanged.": (
            lambda X, A, U, B, W: (B[:, None] @ A @ X @ (U[:, None] @ W)).sum((0, 1))
        ),
    },
    laws={
        "Your result does not double when X does. Every path carries the embeddings exactly once.": (
            lambda X, A, U, B, W: (2 * X, A, U, B, W),
            2.0,
        ),
        "Your result does not double when OV_0 does. A path with two heads goes through layer 0 exactly once.": (
            lambda X, A, U, B, W: (X, A, 2 * U, B, W),
            2.0,
        ),
        "Your result does not double when OV_1 does. A path with two heads goes through layer 1 exactly once.": (
            lambda X, A, U, B, W: (X, A, U, B, 2 * W),
            2.0,
        ),
        "Your result changes if layer 0 gets one more head whose OV matrix is zero. Such a head writes nothing: its "
        "pattern should move only what its own OV matrix writes.": (
            lambda X, A, U, B, W: (X, *_with_idle_head(A, U), B, W),
            1.0,
        ),
        "Your result changes if layer 1 gets one more head whose OV matrix is zero. Such a head writes nothing: its "
        "pattern should move only what its own OV matrix writes.": (
            lambda X, A, U, B, W: (X, A, U, *_with_idle_head(B, W)),
            1.0,
        ),
    },
    hints=(
        "You need no loop over pairs. Each late head reads the stream, and the stream is a sum.",
        "Layer 0 writes `(A_0 @ X @ OV_0).sum(0)`. What does layer 1 make of exactly this?",
    ),
    well_done="Two matrix products in place of 144: reading is linear as long as the patterns are given. Chapter 07 "
    "measures what these paths are worth in just this way.",
)

# ---- a term of the scores -------------------------------------------------------------------------------------------


def k_term(
    X: Float[Tensor, "pos d_model"],
    A: Float[Tensor, "pos pos"],
    W_OV: Float[Tensor, "d_model d_model"],
    W_QK: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, "dest src"]:
    """The K term of an early head (A, W_OV) in the scores of a late one (W_QK)."""
    fetched_there = A @ X @ W_OV
    return X @ W_QK @ fetched_there.T


def _early_and_late() -> list[tuple[Tensor, ...]]:
    """Embeddings, pattern and OV matrix of an early head, QK matrix of a late one; more dimensions or more places."""
    cases = []
    for seed, (pos, d_model) in enumerate([(5, 7), (8, 3)]):
        X, scores, W_OV, W_QK = _random(seed, (pos, d_model), (pos, pos), (d_model, d_model), (d_model, d_model))
        cases.append((X, _pattern(scores), W_OV, W_QK))
    return cases


write_k_term = Function(
    number="05.2",
    title="Write one K term of the scores",
    minutes=8,
    stub='''
def k_term(
    X: Float[Tensor, "pos d_model"],
    A: Float[Tensor, "pos pos"],
    W_OV: Float[Tensor, "d_model d_model"],
    W_QK: Float[Tensor, "d_model d_model"],
) -> Float[Tensor, "dest src"]:
    """The K term of an early head (A, W_OV) in the scores of a late one (W_QK)."""
    ...
''',
    reference=k_term,
    cases=_early_and_late,
    wrong={
        "This is the Q term: the query has read the early head, and the key is the bare token.": (
            lambda X, A, OV, QK: A @ X @ OV @ QK @ X.T
        ),
        "The pattern stands on the query's side, where it mixes destinations. The early head fetched something for the "
        "place of the *key*.": lambda X, A, OV, QK: A @ X @ QK @ OV.T @ X.T,
        "The pattern is not transposed. Transposing the product A X W_OV turns round each factor, A too.": (
            lambda X, A, OV, QK: X @ QK @ OV.T @ X.T @ A
        ),
        "W_OV is not transposed, so the embeddings enter the early head at its output. Transpose the whole of what was "
        "fetched.": lambda X, A, OV, QK: X @ QK @ OV @ X.T @ A.T,
        "A, X and W_OV stand in the reverse order, but only X is transposed. Transposing their product turns round "
        "each factor.": lambda X, A, OV, QK: X @ QK @ OV @ X.T @ A,
        "W_QK is the wrong way round: queries belong on its left, keys on its right.": (
            lambda X, A, OV, QK: X @ QK.T @ (A @ X @ OV).T
        ),
        "The early head's pattern is missing: here each key holds its own token, passed through W_OV, and nothing was "
        "fetched.": (lambda X, A, OV, QK: X @ QK @ (X @ OV).T),
        "W_OV is missing: the early head moves embeddings here without changing them. It writes them through W_OV.": (
            lambda X, A, OV, QK: X @ QK @ (A @ X).T
        ),
        "The term without composition is in it as well: leave the bare token out of the key.": (
            lambda X, A, OV, QK: X @ QK @ (X + A @ X @ OV).T
        ),
        "This is the term with Q and K. In the K term, the query is the bare token.": (
            lambda X, A, OV, QK: A @ X @ OV @ QK @ (A @ X @ OV).T
        ),
        "These are all four kinds of terms together: X is added to what was fetched, on both sides.": (
            lambda X, A, OV, QK: (X + A @ X @ OV) @ QK @ (X + A @ X @ OV).T
        ),
        "W_OV stands on the query's side. What it writes is in the key.": (
            lambda X, A, OV, QK: X @ OV @ QK @ (A @ X).T
        ),
        "The pattern multiplies the scores entry by entry. But the early head fetches with it: A mixes the rows of X, "
        "as a matrix.": lambda X, A, OV, QK: A * (X @ QK @ (X @ OV).T),
        "This is after a softmax. The terms are those of the scores before it.": (
            lambda X, A, OV, QK: (X @ QK @ (A @ X @ OV).T).softmax(-1)
        ),
        "There is a mask in it. The terms are those of the scores before mask and softmax.": (
            lambda X, A, OV, QK: _masked(X @ QK @ (A @ X @ OV).T)
        ),
        "You divide by √d_model. No factor is missing: W_QK holds 1/√d_head, and d_model does not come into it.": (
            lambda X, A, OV, QK: X @ QK @ (A @ X @ OV).T / len(QK) ** 0.5
        ),
    },
    laws={
        "Your result does not double when A does. In a K term the early head has fetched something once, for the key, "
        "and nothing else is added.": (lambda X, A, OV, QK: (X, 2 * A, OV, QK), 2.0),
        "Your result does not become four times as large when X doubles. The embeddings are in a K term twice: in the "
        "query, and in what was fetched for the key.": (lambda X, A, OV, QK: (2 * X, A, OV, QK), 4.0),
    },
    hints=(
        "Scores are queries times keys: a row for each destination, a column for each source. What is the query made "
        "of in a K term, and what is the key made of?",
        "The query is made of `X`, the token itself. The key is made of what the early head fetched: `A @ X @ W_OV`, "
        "a row for each place.",
        "Put the two on either side of `W_QK`, and transpose the right one as a whole.",
    ),
    well_done="Row i and column j compare token i with whatever the early head fetched for place j: a score that "
    "depends on more than two tokens.",
)

# ---- counting -------------------------------------------------------------------------------------------------------

count = Value(
    number="05.3",
    title="Three layers of four heads",
    minutes=5,
    stub="""
# A model has three layers of four heads. How many
# 1. paths do its logits have, and how many
# 2. terms do the scores of a head of the third layer have, if its query and its key
#    are split, as in the table above, by who wrote to the stream (no positions)?
answer = ...  # [paths, terms]
""",
    right=[125, 81],
    wrong={
        "You have one path with no head, 12 with one and 48 with two. Those with three heads in a row are missing.": [
            61,
            81,
        ],
        "Your paths are those of two layers of twelve heads: with three layers there is one factor more, and fewer "
        "heads in each.": [169, 81],
        "Your paths are those with a head in *every* layer. A path may also pass a layer by, in the stream.": [64, 81],
        "Your paths are the direct path and the single heads: heads in a row are paths as well.": [13, 81],
        "Your paths are those of two layers of four heads. Each layer has a bracket of its own.": [25, 81],
        "You multiply heads, but not the ways to choose their layers: two heads in a row can stand in more than one "
        "pair of layers.": [85, 81],
        "The direct path, which has no head on it, is missing among your paths.": [124, 81],
        "The two numbers are exchanged.": [81, 125],
        "A path has a factor for each layer. A score has two factors however many layers there are: one for the query "
        "and one for the key.": [125, 125],
        "Your terms count one earlier layer. A head of the third layer reads the outputs of two: those of the first "
        "are still in the stream.": [125, 25],
        "Your terms are those of a head that reads twelve others. A head of the third layer does not read its own "
        "layer.": [125, 169],
        "Each part of the query meets each part of the key: take the product, not the sum.": [125, 18],
        "You count the parts of one side. A term pairs a part of the query with a part of the key.": [125, 9],
        "Among your terms, those with something fetched on both sides are missing: each early head of the query meets "
        "each early head of the key.": [125, 17],
        "Your terms have heads alone on both sides: the token itself is a part of query and key, too.": [125, 64],
        "You split query and key further, by paths. Only the token and the earlier heads write to the stream, and each "
        "is one part, however its output came about.": [125, 625],
    },
    hints=(
        "Write the formula of the logits as a product, with one bracket for each layer: the identity and its heads. "
        "How many summands has a bracket?",
        "Each bracket has 1 + 4 summands. For the scores, count the parts of the query: the token and the heads of "
        "*both* earlier layers.",
        "5 × 5 × 5 paths; 1 + 8 parts of the query, and as many of the key.",
    ),
    well_done="Paths have a factor for each layer, scores one for each side: only with two layers do both make 13².",
)

# ---- judging the parts of a score -----------------------------------------------------------------------------------

judge_parts = Value(
    number="05.4",
    title="Which composition does the work?",
    minutes=4,
    stub="""
# The scores of a head you do not know, for one destination, in nats:
#                     none      Q      K   Q and K   in all
# right source         2.0   30.0    5.0       1.0     38.0
# strongest rival      2.5   30.2    1.5       0.2     34.4
# mean of sources      1.0   10.0    1.0       0.1     12.1
# Which kind of terms does most to put the right source above
# 1. its strongest rival, 2. the mean of the sources?
answer = ...  # a list of two of "none", "Q", "K", "Q and K"
""",
    right=["K", "Q"],
    choices=("none", "Q", "K", "Q and K"),
    wrong={
        "Q has the largest part, but the strongest rival has as much of it. The softmax sees only differences between "
        "sources, so a large part need not be a used part.": ["Q", "Q"],
        "The mean of the sources is another opponent than the rival: compare with its own row.": ["K", "K"],
        "The two opponents are exchanged.": ["Q", "K"],
        "These parts differ by the largest *ratio*. Scores are exponents: what counts are differences, in nats.": [
            "Q and K",
            "Q and K",
        ],
        "Against the rival you took the largest ratio: scores are exponents, so what counts are differences.": [
            "Q and K",
            "Q",
        ],
        "Against the mean you took the largest ratio: scores are exponents, so what counts are differences.": [
            "K",
            "Q and K",
        ],
        "Without composition the rival would even win: the right source has less of these terms.": ["none", "Q"],
        "Without composition the rival would win, and the mean would lose by one nat only: look for more.": [
            "none",
            "none",
        ],
    },
    hints=(
        "The softmax does not change when all scores get the same constant. So what may you subtract?",
        "Subtract the rival's row from the row of the right source, kind by kind; then the row of the mean.",
    ),
    well_done="The opponent decides which composition seems to do the work. The strongest rival counts: it is the one "
    "that must be beaten for the attention to arrive.",
)

# ---- the composition score ------------------------------------------------------------------------------------------


def k_composition(
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_Q: Float[Tensor, "late d_model d_head"],
    W_K: Float[Tensor, "late d_model d_head"],
) -> Float[Tensor, " late"]:
    """The K-composition scores of an early head (W_V, W_O) with late ones (W_Q, W_K)."""
    writes = W_V @ W_O
    reads = W_K @ W_Q.mT
    return (writes @ reads).norm(dim=(1, 2)) / (writes.norm() * reads.norm(dim=(1, 2)))


def _factors() -> list[tuple[Tensor, ...]]:
    """W_V and W_O of an early head, W_Q and W_K of late ones."""
    cases = []
    for seed, (d_model, d_head, late) in enumerate([(7, 2, 3), (5, 3, 4)], start=20):
        shapes = (d_model, d_head), (d_head, d_model), (late, d_model, d_head), (late, d_model, d_head)
        cases.append(tuple(_random(seed, *shapes)))
    return cases


def _norm(matrices: Tensor) -> Tensor:
    """The Frobenius norm of each matrix."""
    return matrices.norm(dim=(-2, -1))


def _score(first: Tensor, second: Tensor) -> Tensor:
    """The composition score of matrices in this order."""
    return _norm(first @ second) / (_norm(first) * _norm(second))


def _upper(n: int) -> Tensor:
    """Another basis of n dimensions, which is neither a rotation nor a change of units."""
    return torch.ones(n, n).triu()


def _turn(reader: Tensor) -> Tensor:
    """A rotation of the stream that a matrix reads."""
    return torch.linalg.qr(_random(0, (len(reader), len(reader)))[0]).Q


def _by_norm(norm):
    """The score with another norm."""
    return lambda v, o, q, k: norm(v @ o @ k @ q.mT) / (norm(v @ o) * norm(k @ q.mT))


write_composition = Function(
    number="05.5",
    title="Write the composition score",
    minutes=10,
    stub='''
def k_composition(
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_Q: Float[Tensor, "late d_model d_head"],
    W_K: Float[Tensor, "late d_model d_head"],
) -> Float[Tensor, " late"]:
    """The K-composition scores of an early head (W_V, W_O) with late ones (W_Q, W_K)."""
    ...
''',
    reference=k_composition,
    cases=_factors,
    wrong={
        "This is Q-composition: what the early head writes meets W_Q. Which side of W_QK does a key read?": (
            lambda v, o, q, k: _score(v @ o, q @ k.mT)
        ),
        "The late head comes first in the product. What the early one writes must meet what the late one reads: the "
        "data flow from left to right.": lambda v, o, q, k: _score(k @ q.mT, v @ o),
        "Here the late head meets W_V, where the early head *reads*: a factor is transposed or in the wrong order. An "
        "early head writes through W_O.": (lambda v, o, q, k: _score(q @ k.mT, v @ o)),
        "The numerator is a small matrix, with the factors moved round in a circle. A trace allows that, the Frobenius "
        "norm does not.": (lambda v, o, q, k: _norm(o @ k @ q.mT @ v) / (_norm(v @ o) * _norm(k @ q.mT))),
        "All three norms are those of small matrices, with the factors moved round in a circle. A trace allows that, "
        "the Frobenius norm does not.": (lambda v, o, q, k: _norm(o @ k @ q.mT @ v) / (_norm(o @ v) * _norm(q.mT @ k))),
        "You divide by the early head's norm and then multiply by the late head's: put the denominator in brackets.": (
            lambda v, o, q, k: _norm(v @ o @ k @ q.mT) / _norm(v @ o) * _norm(k @ q.mT)
        ),
        "This is the norm of the product alone, which grows with the size of the weights. Divide by the norms of the "
        "two matrices.": lambda v, o, q, k: _norm(v @ o @ k @ q.mT),
        "You divide by the norm of the early head's matrix alone: a late head of large weights scores more.": (
            lambda v, o, q, k: _norm(v @ o @ k @ q.mT) / _norm(v @ o)
        ),
        "You divide by the norm of the late heads' matrices alone: early heads of large weights score more.": (
            lambda v, o, q, k: _norm(v @ o @ k @ q.mT) / _norm(k @ q.mT)
        ),
        "The norms are over all late heads at once. Each head has its own: say over which axes.": (
            lambda v, o, q, k: (v @ o @ k @ q.mT).norm() / ((v @ o).norm() * (k @ q.mT).norm())
        ),
        "The norm of the late heads in the denominator is one norm over all of them. Each head has its own: say over "
        "which axes.": (lambda v, o, q, k: _norm(v @ o @ k @ q.mT) / (_norm(v @ o) * (k @ q.mT).norm())),
        "W_Q is missing. Keys are read through W_K, but how much each of their entries counts is up to W_Q.": (
            lambda v, o, q, k: _score(v @ o, k)
        ),
        "W_V is missing: what the early head writes is W_V W_O of the stream, not W_O alone.": (
            lambda v, o, q, k: _score(o, k @ q.mT)
        ),
        "The denominator has the norms of the four factors. W_V and W_O may be scaled and turned against each other; "
        "only their product belongs to the model.": (
            lambda v, o, q, k: _norm(v @ o @ k @ q.mT) / (_norm(v) * _norm(o) * _norm(k) * _norm(q))
        ),
        "These are spectral norms, the largest singular values. A Frobenius norm is the root of all squares, added.": (
            _by_norm(lambda x: torch.linalg.matrix_norm(x, 2))
        ),
        "The level of random matrices, 1/√d_model, has been subtracted. The score itself starts at 0.": (
            lambda v, o, q, k: _score(v @ o, k @ q.mT) - len(v) ** -0.5
        ),
    },
    laws={
        "Your score changes when W_O changes its sign. A norm knows no signs, so neither does the score.": (
            lambda v, o, q, k: (v, -o, q, k),
            1.0,
        ),
        "Your score changes when W_O doubles. A head that writes twice as much fits others no better: the norms in the "
        "denominator should take that out.": (lambda v, o, q, k: (v, 2 * o, q, k), 1.0),
        "Your score changes when W_K doubles. A head of large weights fits others no better: the norms in the "
        "denominator should take that out.": (lambda v, o, q, k: (v, o, q, 2 * k), 1.0),
        "Your score changes if the values of the early head are kept in another basis, although W_V W_O is the same.": (
            lambda v, o, q, k: (v @ _upper(o.shape[0]), torch.linalg.inv(_upper(o.shape[0])) @ o, q, k),
            1.0,
        ),
        "Your score changes when the stream is rotated. Frobenius norms of the three matrices would not.": (
            lambda v, o, q, k: (_turn(v) @ v, o @ _turn(v).T, _turn(v) @ q, _turn(v) @ k),
            1.0,
        ),
    },
    hints=(
        "Two matrices of size d_model times d_model are needed: what the early head does to a row of the stream, and "
        "how a late head's *keys* read such a row.",
        "The first is `W_V @ W_O`. The second starts with `W_K`, since keys read the stream through it.",
        "Take the norm of `W_V @ W_O @ W_K @ W_Q.mT` over the last two axes, and divide by the norms of both halves.",
    ),
    well_done="One early head with all late ones: these are the lines that start at one dot of Figure 5.3.",
)

# ---- a norm that is no property of the model ------------------------------------------------------------------------

BA = torch.tensor([[1.0, 2.0], [0.0, 3.0]], dtype=torch.float64)


def new_basis() -> Float[Tensor, "2 2"]:
    """An R for which the norm of R⁻¹ @ BA @ R is over ten times that of BA = [[1, 2], [0, 3]]."""
    return torch.diag(torch.tensor([1.0, 100.0]))


def _grows(R: Tensor) -> float:
    """By which factor the norm grows."""
    return ((torch.linalg.inv(R) @ BA @ R).norm() / BA.norm()).item()


def _is_rotation(R: Tensor) -> bool:
    """Whether R is orthogonal, up to a factor."""
    gram = R.T @ R
    return torch.allclose(gram, gram[0, 0] * torch.eye(2).double(), atol=1e-6 * gram.norm().item())


def _is_diagonal(R: Tensor) -> bool:
    """Whether R only stretches."""
    return not (R - R.diag().diag()).any()


build_basis = Built(
    number="05.6",
    title="A norm of one's own choosing",
    minutes=6,
    stub='''
def new_basis() -> Float[Tensor, "2 2"]:
    """An R for which the norm of R⁻¹ @ BA @ R is over ten times that of BA = [[1, 2], [0, 3]]."""
    ...
''',
    shape=(2, 2),
    example=new_basis,
    wrong={
        "With R = Id nothing is rewritten.": torch.eye(2),
        "This R is BA itself. It commutes with BA, so that R⁻¹ BA R is BA again.": BA,
    },
    conditions={
        "This R has no inverse, or none that numbers can hold: it loses a direction of the values, so the model would "
        "change.": (lambda R: torch.linalg.cond(R).item() < 1e9),
        "A rotation, a reflection or a multiple of one changes no norm: its factors cancel between R⁻¹ and R. R must "
        "treat two directions differently.": lambda R: not _is_rotation(R),
        "R stretches the wrong one of the two directions: the entry off the diagonal becomes smaller, not larger.": (
            lambda R: not _is_diagonal(R) or R[0, 0].abs() <= R[1, 1].abs()
        ),
        "With this R the norm does not grow. The eigenvalues 1 and 3 stay whatever you do; look for an R that makes "
        "the rest larger.": lambda R: _grows(R) > 1,
        "The norm grows, but not by a factor of ten yet.": lambda R: _grows(R) > 10,
    },
    hints=(
        "Try R with r and s on its diagonal and zeros elsewhere. What becomes of the four entries of BA?",
        "The diagonal stays, and the 2 becomes 2 s / r.",
    ),
    well_done="The same model, another ‖BA‖, and as large as you like; its trace and its eigenvalues have not moved, "
    "and neither has ‖AB‖.",
)

# ---- predictions ----------------------------------------------------------------------------------------------------

carries_the_score = Prediction(
    number="05.A",
    question="An induction head must look right after the first copy. Which terms put the score of this source above "
    "that of its strongest rival?",
    right="Those with layer 0 on the key's side: K, and Q and K together.",
    choices={
        "Those of Q-composition alone: the query must know more than its own token.": "The query is "
        "looking for its own token, and it has that without fetching anything. In Table 5.1 the Q terms take 0.6 nats "
        "away.",
        "Those without composition: the head compares two tokens.": "The token at the source is random and says "
        "nothing of what stood before it. By tokens and positions alone the right source would lose by 2.8 nats.",
        "Those with layer 0 on the key's side: K, and Q and K together.": "Only these let a key say what came "
        "before its place: +2.1 and +2.8 nats. The other two kinds are against the right source.",
    },
)

large_scores = Prediction(
    number="05.B",
    question="We cut the connections between heads one by one. Do those with the largest composition scores matter "
    "most?",
    right="In K they do; in Q and V much less.",
    choices={
        "Yes, in Q, K and V alike.": "This mistakes fit for use. In Q and V the five edges of largest score have only "
        "22 % and 35 % of the effect of the five that matter most. Five drawn at random would have 15 % and 20 %.",
        "No, nowhere.": "Weights do say something. In K the five edges of largest score have 99 % of the effect of the "
        "five that matter most. Five drawn at random would have 6 %.",
        "In K they do; in Q and V much less.": "In K the five edges of largest score have 99 % of the effect of the "
        "five that matter most, in Q 22 %, in V 35 %. In the two other models it is 99 and 100 % in K, 38 to 64 % in Q "
        "and V.",
    },
)
