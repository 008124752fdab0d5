"""The exercises and predictions of chapter 10, and the answers that lie near."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction


def _random(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


# ---- when does sharing pay? ---------------------------------------------------------------------------------------


def pays_below(more: float, less: float) -> float:
    """The probability below which opposite ends lose less than keeping the more important one."""
    return less / (more + 2 * less)


write_pays_below = Function(
    number="10.1",
    title="When does sharing pay?",
    minutes=6,
    stub='''
def pays_below(more: float, less: float) -> float:
    """The probability below which opposite ends lose less than keeping the more important one."""
    ...
''',
    reference=pays_below,
    cases=lambda: [(1.0, 1.0), (1.0, 0.5), (3.0, 0.2), (2.0, 1.5)],
    wrong={
        "This is the border for values spread evenly between 0 and 1. Here a present feature is always 1: the variance "
        "is another, and so is what goes wrong if both are present.": lambda more, less: (
            4 * less / (2 * more + 5 * less)
        ),
        "Your losses give `less / (more + less)`. Either the other feature is guessed as 0 and not as its mean, which "
        "loses its whole mean square p; or only one of the two errors of the pair is counted.": lambda more, less: (
            less / (more + less)
        ),
        "You let the more important feature go. Its variance would count with its own, larger importance: keep it, and "
        "guess the other.": lambda more, less: more / (less + 2 * more),
        "With a border of 1 sharing would always pay. But a feature that is always there can be guessed without any "
        "error, and at p near 1 the pair is wrong nearly always.": lambda more, less: 1.0,
        "A third is right for equal importances only. The lesser feature is all that keeping one loses, but opposite "
        "ends cost both.": lambda more, less: 1 / 3,
        "One half comes out if both plans count the same importances. Keeping one loses the lesser feature only; at "
        "opposite ends, if both are present, both are missed.": lambda more, less: 0.5,
        "The importances have changed places in the denominator. `less` comes in twice: once in what the pair loses, "
        "and once because the variance is p − p².": lambda more, less: less / (2 * more + less),
        "What the pair loses is right. But p/3 − p²/4 is the variance of values spread between 0 and 1; what is the "
        "variance of something that is 1 with probability p, else 0?": lambda more, less: (
            4 * less / (12 * more + 15 * less)
        ),
        "What keeping one loses is right. But 1/6 is the mean square of the smaller of two values spread between 0 and "
        "1. Here both are 1.": lambda more, less: 6 * less / (more + 7 * less),
        "You took the mean of the two importances. If both are present there are two errors, each with an importance "
        "of its own: they add up.": lambda more, less: 2 * less / (more + 3 * less),
        "You took 1/3 for the mean square of an error. That is the mean square of a value spread between 0 and 1; here "
        "a feature that is missed is missed by 1.": lambda more, less: 3 * less / (more + 4 * less),
        "The other feature is guessed as 0 and not as its mean; and 1/6 is the mean square of the smaller of two "
        "values spread between 0 and 1, where here both are 1.": lambda more, less: 6 * less / (more + less),
        "You let the lesser feature be guessed as 0, and count only the more important one at opposite ends. Guess it "
        "by its mean, and count both.": lambda more, less: less / more,
        "You count each error of the pair twice. Both are present with probability p², and then each feature is "
        "missed once, by 1.": lambda more, less: less / (2 * more + 3 * less),
    },
    laws={
        "If both importances double, both losses do, and the border stays where it is. Yours moves.": (
            lambda more, less: (2 * more, 2 * less),
            1.0,
        )
    },
    hints=(
        "Write down two losses. Keep one: the variance of the other, times its importance. Opposite ends: what is read "
        "of each if both are present, and how often is that?",
        "Keeping one loses `less * (p - p²)`. At opposite ends both are read as ReLU(1 − 1) = 0 if both are present.",
        "`less * (p - p**2)` equals `(more + less) * p**2`. Divide by p and solve for it.",
    ),
    well_done="For equal importances it is 1/3, less than the 4/7 of values spread between 0 and 1: features that are "
    "always at their full strength disturb each other more.",
)


# ---- how many fit? ------------------------------------------------------------------------------------------------

how_many_fit = Value(
    number="10.2",
    title="How many fit?",
    minutes=4,
    stub="""
# How many features fit into 384 dimensions without any loss,
# read by the matrix that wrote them (W and W.T), if
# 1. no two are ever present together, and they are read with a ReLU
# 2. no two are ever present together, and they are read without a ReLU
# 3. each is present independently of the others, and they are read with a ReLU
# 4. the two of a pair are never present together, but one pair is independent of another; ReLU
answers = ...  # a list of four numbers
""",
    right=[768, 384, 384, 768],
    tolerance=1e-6,
    wrong={
        "A dimension for each feature is what is needed without a ReLU. With one, two that never meet can take the two "
        "ends of a dimension.": [384, 384, 384, 384],
        "Mind the second. Without a ReLU the feature at the other end is read as −x, which is an error. Nothing is "
        "silenced.": [768, 768, 384, 768],
        "Mind the third. Independent features do meet, if seldom. Then those at opposite ends disturb each other, and "
        "the loss is small but not 0.": [768, 384, 768, 768],
        "Mind the fourth. The two that never meet can take the two ends of a dimension; those that do meet, which are "
        "of different pairs, are at right angles.": [768, 384, 384, 384],
        "Mind the first. 385 directions can have negative products with all others, the corners of a simplex. But "
        "products of 0 are silent as well, and then more fit.": [385, 384, 384, 768],
        "Mind the first. Thousands of directions can be *nearly* at right angles, but a product above 0, however "
        "small, is heard. The question is for no loss at all.": [4096, 384, 384, 768],
        "Mind the fourth. 384 pairs fit, and each has two features; to have 768 *pairs* in 384 dimensions, some that "
        "do meet would have to share one.": [768, 384, 384, 1536],
        "Mind the first. With a ReLU two that never meet can take the two ends of a dimension.": [384, 384, 384, 768],
        "Mind the second. The mean takes no dimension: the bias can hold it.": [768, 383, 384, 768],
        "Mind the first and the second: which of them can silence what points the other way?": [384, 768, 384, 768],
        "Mind the third and the fourth: in which of them do those at the two ends of a dimension never meet?": (
            [768, 384, 768, 384]
        ),
        "Who shares a dimension must never meet, and there must be a ReLU. Two of the four cases have both.": (
            [768, 768, 768, 768]
        ),
        "Mind the fourth. A pair takes one dimension, and has two features in it.": [768, 384, 384, 192],
    },
    hints=(
        "Take two dimensions in place of 384. Which of four directions at opposite ends and right angles hear each "
        "other, and when?",
        "Without a ReLU two features cannot share a dimension, whoever meets. With one they can if they never meet.",
    ),
    well_done="A ReLU doubles what fits, but only among those that never meet. All else that is gained is paid for.",
)


# ---- what is heard ------------------------------------------------------------------------------------------------


def readings(W: Float[Tensor, "n d"], b: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """Entry i, j: what is read of feature i if feature j alone is present, with the value 1."""
    return (W @ W.mT + b[:, None]).relu()


def _toys() -> list[tuple[Tensor, Tensor]]:
    """Directions of more features than dimensions, and biases of both signs, most of them negative."""
    cases = []
    for seed, (n, d) in enumerate(((5, 2), (7, 4))):
        W, b = _random(seed, (n, d), (n,))
        cases.append((W, 0.5 * b - 0.2))
    return cases


def _of_products(change):
    """A table that ``change`` makes of the products of directions and of the biases, a column."""
    return lambda W, b: change(W @ W.mT, b[:, None])


write_readings = Function(
    number="10.3",
    title="What is heard",
    minutes=5,
    stub='''
def readings(W: Float[Tensor, "n d"], b: Float[Tensor, " n"]) -> Float[Tensor, "n n"]:
    """Entry i, j: what is read of feature i if feature j alone is present, with the value 1."""
    ...
''',
    reference=readings,
    cases=_toys,
    wrong={
        "There is no ReLU: what points the other way, or stays below the threshold, counts as heard. A reader "
        "with a ReLU ignores it.": _of_products(lambda products, b: products + b),
        "The bias is missing. A negative one silences small products, which is how the pentagon keeps its neighbours "
        "down.": _of_products(lambda products, b: products.relu()),
        "Bias and ReLU are both missing: these are the products of the directions, before anybody reads.": (
            _of_products(lambda products, b: products)
        ),
        "The bias comes after the ReLU. It belongs inside: only then is it a threshold.": _of_products(
            lambda products, b: products.relu() + b
        ),
        "The bias is that of the feature that is present, or rows and columns are exchanged. Row i is who reads, and "
        "the bias is the reader's: a column, `b[:, None]`.": lambda W, b: readings(W, b).mT,
        "There is no ReLU, and the bias is that of the feature that is present. Row i is who reads, and the bias is "
        "the reader's: a column.": lambda W, b: W @ W.mT + b,
        "The diagonal is left out. It belongs in: a feature should be heard as itself, and this says how loudly.": (
            lambda W, b: readings(W, b).fill_diagonal_(0)
        ),
        "Each row is divided by its diagonal. How loudly a feature is heard as itself is not 1 in general: leave it as "
        "it is.": lambda W, b: readings(W, b) / (W.square().sum(1) + b).relu()[:, None],
        "You took cosines. Lengths matter: a longer direction is heard louder, and hears others louder, too.": (
            lambda W, b: readings(normalize(W), b)
        ),
        "You took cosines, and no bias. Lengths matter, and the bias makes a threshold.": (
            lambda W, b: readings(normalize(W), 0 * b)
        ),
        "You square the products, as a bound on interference does. Then those at opposite ends count as much as those "
        "that point the same way, and a ReLU hears only the latter.": _of_products(
            lambda products, b: (products.square() + b).relu()
        ),
        "You take absolute values. What points the other way is silent after a ReLU; it is not heard as positive.": (
            _of_products(lambda products, b: (products.abs() + b).relu())
        ),
        "You subtract what is read if nothing is present, the ReLU of the bias. What is asked for is all that is "
        "read.": _of_products(lambda products, b: (products + b).relu() - b.relu()),
        "The bias is subtracted. It is added: a negative one makes a threshold.": _of_products(
            lambda products, b: (products - b).relu()
        ),
        "Product and bias have a ReLU each. One number is read, product plus bias, and the ReLU acts on that.": (
            _of_products(lambda products, b: products.relu() + b.relu())
        ),
        "This is WᵀW, a table of dimensions. Features are rows of W, so the products between them are in W Wᵀ.": (
            lambda W, b: (W.mT @ W).relu()
        ),
        "All features are present at once here. Let each be present alone: a column of W Wᵀ for each.": (
            lambda W, b: (W @ W.sum(0) + b).relu()
        ),
    },
    laws={
        "If all directions are turned alike, nothing that is read changes. Your result does.": (
            lambda W, b: (-W.roll(1, 1), b),
            1.0,
        ),
        "If `W` doubles and `b` becomes four times as large, so does everything that is read. Yours does not.": (
            lambda W, b: (2 * W, 4 * b),
            4.0,
        ),
    },
    hints=(
        "If feature j alone is present, and x_j = 1, the stream holds the row W_j. What does the reading of i make of "
        "it?",
        "ReLU(W_i · W_j + b_i), for all i and j at once: a product of W with its transpose, and a bias for each row.",
        "`W @ W.mT + b[:, None]`, and then the ReLU.",
    ),
    well_done="Try it on `five.W[0], five.b[0]`, the pentagon: a feature is heard as itself with 1.08, its neighbours "
    "with 0.14. Without the bias it would be 1.36 and 0.42.",
)


# ---- a dictionary at work -----------------------------------------------------------------------------------------


def rebuilt(
    x: Float[Tensor, "place d_model"],
    W_enc: Float[Tensor, "d_model feature"],
    b_enc: Float[Tensor, " feature"],
    W_dec: Float[Tensor, "feature d_model"],
    b_dec: Float[Tensor, " d_model"],
    k: int,
) -> Float[Tensor, "place d_model"]:
    """The stream as the dictionary writes it, with the k largest readings of each place."""
    largest, features = (x @ W_enc + b_enc).topk(k)
    values = torch.zeros(len(x), len(W_dec)).scatter(1, features, largest.relu())
    return values @ W_dec + b_dec


def _dictionaries() -> list[tuple]:
    """Streams, and dictionaries with rows of length 1; at some places fewer than k readings are above 0."""
    cases = []
    for seed, (n, d_model, n_features, k) in enumerate(((9, 4, 8, 3), (11, 5, 12, 4))):
        x, W_enc, b_enc, W_dec, b_dec = _random(
            seed, (n, d_model), (d_model, n_features), (n_features,), (n_features, d_model), (d_model,)
        )
        cases.append((x, W_enc, b_enc - 0.7, normalize(W_dec), b_dec, k))
    return cases


def _decoded(values):
    """A stream from ``values(readings, k)``, a value of each feature at each place."""
    return lambda x, W_enc, b_enc, W_dec, b_dec, k: values(x @ W_enc + b_enc, k) @ W_dec + b_dec


def _largest_only(readings: Tensor, k: int, by: Tensor | None = None, dim: int = -1) -> Tensor:
    """The readings, 0 where they are not among the ``k`` largest along ``dim``, judged ``by`` something else."""
    chosen = (readings if by is None else by).topk(k, dim=dim).indices
    return torch.zeros_like(readings).scatter(dim, chosen, readings.gather(dim, chosen))


def _largest_of_all(readings: Tensor, k: int) -> Tensor:
    least = readings.flatten().topk(k * len(readings)).values[-1]
    return torch.where(readings >= least, readings, 0).relu()


def _above_the_last(readings: Tensor, k: int) -> Tensor:
    least = readings.topk(k).values[:, -1:]
    return torch.where(readings > least, readings, 0).relu()


def _written_back(x: Tensor, W_enc: Tensor, b_enc: Tensor, W_dec: Tensor, b_dec: Tensor, k: int) -> Tensor:
    return rebuilt(x, W_enc, b_enc, W_enc.T, b_dec, k)


write_rebuilt = Function(
    number="10.4",
    title="A stream from a few features",
    minutes=8,
    stub='''
def rebuilt(
    x: Float[Tensor, "place d_model"],
    W_enc: Float[Tensor, "d_model feature"],
    b_enc: Float[Tensor, " feature"],
    W_dec: Float[Tensor, "feature d_model"],
    b_dec: Float[Tensor, " d_model"],
    k: int,
) -> Float[Tensor, "place d_model"]:
    """The stream as the dictionary writes it, with the k largest readings of each place."""
    ...
''',
    reference=rebuilt,
    cases=_dictionaries,
    wrong={
        "All readings above 0 are kept. There is no limit then to how many features are active at a place; only the k "
        "largest count.": _decoded(lambda readings, k: readings.relu()),
        "Nothing is chosen: every feature writes, at every place, and a reading below 0 takes something away. Only the "
        "k largest count.": _decoded(lambda readings, k: readings),
        "Readings below 0 are written if they are among the k largest. A feature is there or not there; a value below "
        "0 counts as 0.": _decoded(_largest_only),
        "You choose by absolute value, so that strongly negative readings count as active. A reading far below 0 says "
        "that the feature is *not* there.": _decoded(lambda readings, k: _largest_only(readings, k, readings.abs())),
        "You choose by absolute value and then drop what is below 0. Negative readings have taken the places of "
        "features that are there.": _decoded(lambda readings, k: _largest_only(readings, k, readings.abs()).relu()),
        "You choose the k places at which each feature is largest. It should be the k features that are largest at "
        "each place.": _decoded(lambda readings, k: _largest_only(readings, k, dim=0).relu()),
        "You choose the largest readings of all places together, so that some places get more than k features and "
        "others fewer. Choose at each place.": _decoded(_largest_of_all),
        "You keep what is *above* the k-th largest reading, and so lose that one: k − 1 features are left.": (
            _decoded(_above_the_last)
        ),
        "You take the smallest readings: `topk` with `largest=False`, or a sort the other way round.": (
            _decoded(lambda readings, k: -_largest_only(-readings, k))
        ),
        "`b_dec` is missing. The features say how a place differs from it.": lambda x, W_enc, b_enc, W_dec, b_dec, k: (
            rebuilt(x, W_enc, b_enc, W_dec, 0 * b_dec, k)
        ),
        "`b_enc` is missing. Without it a feature cannot be silent at most places: it is its threshold.": (
            lambda x, W_enc, b_enc, W_dec, b_dec, k: rebuilt(x, W_enc, 0 * b_enc, W_dec, b_dec, k)
        ),
        "You take `b_dec` off the stream before it is read. Many dictionaries are made so, but here the features read "
        "the stream as it is.": lambda x, W_enc, b_enc, W_dec, b_dec, k: rebuilt(
            x - b_dec, W_enc, b_enc, W_dec, b_dec, k
        ),
        "You write with the transpose of `W_enc`. A feature reads and writes in different directions: rows of `W_dec` "
        "are what it writes.": _written_back,
        "You read with the transpose of `W_dec`. A feature reads and writes in different directions: columns of "
        "`W_enc` are what it reads.": lambda x, W_enc, b_enc, W_dec, b_dec, k: rebuilt(
            x, W_dec.T, b_enc, W_dec, b_dec, k
        ),
        "Every active feature writes its direction with the value 1. How strongly it is there is lost.": _decoded(
            lambda readings, k: (_largest_only(readings, k).relu() > 0).float()
        ),
        "You turn the k largest readings into shares with a softmax. Features do not compete for a sum of 1: each "
        "writes its reading.": _decoded(
            lambda readings, k: torch.zeros_like(readings).scatter(
                1, readings.topk(k).indices, readings.topk(k).values.softmax(-1)
            )
        ),
        "You average over the active features. What they write adds up in the stream: take the sum.": _decoded(
            lambda readings, k: _largest_only(readings, k).relu() / k
        ),
        "You add `b_dec` once for each active feature. It comes in once at each place.": lambda *case: (
            rebuilt(*case) + (case[-1] - 1) * case[-2]
        ),
        "You multiply the chosen values by the first k rows of `W_dec`. Each value belongs to a feature, and `topk` "
        "says to which: take the rows of these.": lambda x, W_enc, b_enc, W_dec, b_dec, k: (
            (x @ W_enc + b_enc).topk(k).values.relu() @ W_dec[:k] + b_dec
        ),
        "These are the values of the features. The stream is asked for: multiply by `W_dec`, and add `b_dec`.": (
            lambda x, W_enc, b_enc, W_dec, b_dec, k: _largest_only(x @ W_enc + b_enc, k).relu()
        ),
        "This is what the dictionary leaves out, the stream minus what is rebuilt.": (
            lambda x, W_enc, b_enc, W_dec, b_dec, k: x - rebuilt(x, W_enc, b_enc, W_dec, b_dec, k)
        ),
    },
    laws={
        "If the features are numbered in another order, what they write together stays. Yours changes.": (
            lambda x, W_enc, b_enc, W_dec, b_dec, k: (x, W_enc.flip(1), b_enc.flip(0), W_dec.flip(0), b_dec, k),
            1.0,
        ),
        "If the stream and both biases double, so does what is rebuilt. Yours does not: is a value squared, or cut at "
        "some fixed size?": (
            lambda x, W_enc, b_enc, W_dec, b_dec, k: (2 * x, W_enc, 2 * b_enc, W_dec, 2 * b_dec, k),
            2.0,
        ),
    },
    hints=(
        "Read first: `x @ W_enc + b_enc` has a reading for each place and feature. `topk` gives the largest of each "
        "row and where they stand.",
        "Make a table of zeros with a row for each place and a column for each feature, and `scatter` the chosen "
        "readings into it. None of them may be below 0.",
        "`values = torch.zeros(len(x), len(W_dec)).scatter(1, features, largest.relu())`, then multiply by `W_dec` and "
        "add `b_dec`.",
    ),
    well_done="With k = 32 this is all that the dictionary of the book keeps of 384 numbers: at most 32 values, and "
    "whose they are.",
)


# ---- what a head asks of features ---------------------------------------------------------------------------------


def feature_scores(
    W_dec: Float[Tensor, "n_features d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    W_K: Float[Tensor, "d_model d_head"],
) -> Float[Tensor, "dest_feature src_feature"]:
    """What one unit of a feature here and one of a feature there add to a head's score."""
    return (W_dec @ W_Q) @ (W_dec @ W_K).T / W_Q.shape[1] ** 0.5


def _feature_heads() -> list[tuple[Tensor, ...]]:
    """Directions of length 1, and random queries and keys."""
    cases = []
    for seed, (n_features, d_model, d_head) in enumerate(((7, 5, 3), (9, 6, 2))):
        W_dec, W_Q, W_K = _random(seed, (n_features, d_model), (d_model, d_head), (d_model, d_head))
        cases.append((normalize(W_dec), W_Q, W_K))
    return cases


def _of_scores(change):
    """What ``change`` makes of the right scores."""
    return lambda W_dec, W_Q, W_K: change(feature_scores(W_dec, W_Q, W_K))


def _scaled(factor):
    """The products of queries and keys times ``factor(W_Q)``."""
    return lambda W_dec, W_Q, W_K: (W_dec @ W_Q) @ (W_dec @ W_K).T * factor(W_Q)


def _four_times_as_wide(W_dec: Tensor, W_Q: Tensor, W_K: Tensor) -> tuple[Tensor, ...]:
    """Other weights with the same scores: four times as many columns, most of them 0, and twice the queries."""
    zeros = W_Q.new_zeros(W_Q.shape[0], 3 * W_Q.shape[1])
    return W_dec, torch.cat([2 * W_Q, zeros], 1), torch.cat([W_K, zeros], 1)


def _in_another_basis(W_dec: Tensor, W_Q: Tensor, W_K: Tensor) -> tuple[Tensor, ...]:
    """The stream's first axis twice as long, and read half as loud."""
    stretch = torch.ones(len(W_Q))
    stretch[0] = 2
    return W_dec * stretch, W_Q / stretch[:, None], W_K / stretch[:, None]


write_feature_scores = Function(
    number="10.5",
    title="What a head asks of features",
    minutes=5,
    stub='''
def feature_scores(
    W_dec: Float[Tensor, "n_features d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    W_K: Float[Tensor, "d_model d_head"],
) -> Float[Tensor, "dest_feature src_feature"]:
    """What one unit of a feature here and one of a feature there add to a head's score."""
    ...
''',
    reference=feature_scores,
    cases=_feature_heads,
    wrong={
        "The root of `d_head` is missing. These are products of queries and keys; a score, which the softmax sees, is "
        "that divided by √d_head.": _scaled(lambda W_Q: 1),
        "You divide by the root of `d_model`. A score is a sum over `d_head` products.": _scaled(
            lambda W_Q: W_Q.shape[0] ** -0.5
        ),
        "You divide by `d_head`, not by its root.": _scaled(lambda W_Q: 1 / W_Q.shape[1]),
        "You multiply by the root of `d_head`. A score is *divided* by it.": _scaled(lambda W_Q: W_Q.shape[1] ** 0.5),
        "Rows and columns are exchanged, or `W_Q` and `W_K` are. The destination asks with `W_Q`, and its features are "
        "the rows.": _of_scores(lambda scores: scores.T),
        "Rows and columns are exchanged, and the root of `d_head` is missing.": lambda W_dec, W_Q, W_K: (
            (W_dec @ W_K) @ (W_dec @ W_Q).T
        ),
        "Both sides ask: `W_Q` is used twice. What is found at the source is read with `W_K`.": (
            lambda W_dec, W_Q, W_K: feature_scores(W_dec, W_Q, W_Q)
        ),
        "Both sides answer: `W_K` is used twice. What the destination asks is read with `W_Q`.": (
            lambda W_dec, W_Q, W_K: feature_scores(W_dec, W_K, W_K)
        ),
        "A softmax makes attention out of scores, but over the *places* of a text. Features do not compete with one "
        "another: leave the scores as they are.": _of_scores(lambda scores: scores.softmax(-1)),
        "This is only each feature with itself. Where one feature is, a head may ask for any other: that is a table.": (
            _of_scores(lambda scores: scores.diagonal())
        ),
        "These are cosines of queries and keys. Their lengths belong to the score.": lambda W_dec, W_Q, W_K: (
            normalize(W_dec @ W_Q) @ normalize(W_dec @ W_K).T
        ),
        "This is how much directions overlap in the stream. The head has not been asked: put its W_QK between.": (
            lambda W_dec, W_Q, W_K: W_dec @ W_dec.T
        ),
        "This is the head's W_QK: what directions of the stream ask of one another, not yet what features do.": (
            lambda W_dec, W_Q, W_K: W_Q @ W_K.T / W_Q.shape[1] ** 0.5
        ),
        "You stop half-way: features at the destination, directions of the stream at the source. Multiply by `W_dec` "
        "on the other side as well.": lambda W_dec, W_Q, W_K: W_dec @ W_Q @ W_K.T / W_Q.shape[1] ** 0.5,
        "These are the queries of the features. The keys they meet are missing.": lambda W_dec, W_Q, W_K: W_dec @ W_Q,
        "Scores below 0 are set to 0. But a head can also ask *not* to see a feature, and the softmax hears that.": (
            _of_scores(lambda scores: scores.relu())
        ),
        "You averaged the two orders. A feature here that asks for another there is not the same as that other asking "
        "for it.": _of_scores(lambda scores: (scores + scores.T) / 2),
    },
    laws={
        "A score is linear on both sides, so if all features are twice as long it is four times as large. Yours is "
        "not.": (lambda W_dec, W_Q, W_K: (2 * W_dec, W_Q, W_K), 4.0),
        "Look at the scale: products of queries and keys should be divided by the root of `d_head`. (There may be "
        "another mistake.)": (_four_times_as_wide, 1.0),
        "In another basis of the stream the same features get the same scores from the same head. Yours do not.": (
            _in_another_basis,
            1.0,
        ),
    },
    hints=(
        "One unit of a feature is its row of `W_dec`, a vector of the stream. What is its query? What is its key?",
        "The score of a place with vector x and a place with vector y is (x W_Q) · (y W_K) / √d_head. Take rows of "
        "`W_dec` for x and y, all at once.",
        "`(W_dec @ W_Q) @ (W_dec @ W_K).T`, divided by `W_Q.shape[1] ** 0.5`.",
    ),
    well_done="It can be tried on text: add a feature at the destination, at the source, and at both. What both change "
    "beyond the sum of what each changes is this number.",
)


# ---- exact, sparse, and not the causes ----------------------------------------------------------------------------


def three_directions() -> Float[Tensor, "feature d_model"]:
    """Directions of length 1 by which a dictionary with k = 1 rebuilds 0, a, b and a + b exactly.

    a = (2, 0) and b = (0, 1). Each feature reads by the direction that it writes; no biases.
    """
    directions = torch.tensor([[2.0, 0.0], [0.0, 1.0], [2.0, 1.0]])
    return directions / directions.norm(dim=1, keepdim=True)


CAUSES = torch.tensor([[2.0, 0.0], [0.0, 1.0]])  # a and b


def _is_rebuilt(x: Tensor):
    """Whether one feature at a time, the one that reads most, writes ``x`` again."""

    def holds(directions: Tensor) -> bool:
        W = directions.float()
        return bool((rebuilt(x[None], W.T, torch.zeros(3), W, torch.zeros(2), 1) - x).norm() < 0.01)

    return holds


def _third(x: float, y: float) -> Tensor:
    """The directions of a and b, and a third."""
    return torch.tensor([[1.0, 0.0], [0.0, 1.0], [x, y]])


HALF_WAY = "One direction lies half-way between those of a and b. But a is twice as long, so a + b lies nearer to it."

find_no_causes = Built(
    number="10.6",
    title="Exact, sparse, and not the causes",
    minutes=4,
    stub='''
def three_directions() -> Float[Tensor, "feature d_model"]:
    """Directions of length 1 by which a dictionary with k = 1 rebuilds 0, a, b and a + b exactly.

    a = (2, 0) and b = (0, 1). Each feature reads by the direction that it writes; no biases.
    """
    ...
''',
    shape=(3, 2),
    example=three_directions,
    conditions={
        "Some direction does not have length 1: divide each by its length. How much of a feature there is, is said by "
        "its value.": lambda directions: bool((directions.norm(dim=1) - 1).abs().max() < 1e-3),
        HALF_WAY: lambda directions: bool(((directions - 0.5**0.5).norm(dim=1) > 1e-3).all()),
        "The stream a + b is not rebuilt. Only one feature is active at a time, so those of a and b cannot do it "
        "together: which single direction has a + b?": _is_rebuilt(CAUSES.sum(0)),
        "The stream a is not rebuilt: no direction points where a does.": _is_rebuilt(CAUSES[0]),
        "The stream b is not rebuilt: no direction points where b does.": _is_rebuilt(CAUSES[1]),
    },
    wrong={
        "These are the causes and nothing else. But k = 1, so where both are there, b is lost: a reads 2, and b only "
        "1.": lambda: _third(0.0, 0.0),
        HALF_WAY: lambda: normalize(_third(1.0, 1.0)),
        "The directions are right, but two of them are not of length 1. Such a feature reads and writes too much.": (
            lambda: torch.tensor([[2.0, 0], [0, 1], [2, 1]])
        ),
        "The first two are right. The third points where a + b does, but it is not of length 1: divide it by its "
        "length.": lambda: _third(2.0, 1.0),
        "The first two are right. The third points where a + b would if a were as long as b, and it is too long.": (
            lambda: _third(1.0, 1.0)
        ),
        "The third stands opposite the first. Values are not below 0, so it would be for streams that do not occur; "
        "a + b is still not rebuilt.": lambda: _third(-1.0, 0.0),
        "The third is the difference of a and b. The streams are sums: nothing ever lies where it points.": (
            lambda: normalize(_third(2.0, -1.0))
        ),
        "Three directions at 120° share two dimensions evenly. A dictionary goes by what occurs: three streams besides "
        "0, each with a direction of its own.": lambda: torch.tensor(
            [[1.0, 0], [-0.5, 0.75**0.5], [-0.5, -(0.75**0.5)]]
        ),
    },
    hints=(
        "With k = 1 each stream must be a multiple of a single direction. Which three streams are not 0?",
        "a + b = (2, 1), whose length is √5.",
        "Put a, b and a + b into the rows of a tensor and divide each row by its length.",
    ),
    well_done="Nothing is lost, and no dictionary has fewer features active. Yet none of them says that a is there: "
    "one says a *without* b, another both. What a sparse dictionary finds are not always the causes.",
)


# ---- what may be concluded ----------------------------------------------------------------------------------------


def _said(letters: str) -> list[str]:
    """An answer to each of seven questions, by its first letter."""
    return [{"y": "yes", "n": "no"}[letter] for letter in letters]


what_follows = Value(
    number="10.7",
    title="What may be concluded from a dictionary?",
    minutes=6,
    stub="""
# 1. the dictionary costs the model about 0.25 nats of loss
# 2. nearly two thirds of what it recovers could be had without training it
# 3. so much is recovered that its features must stand for something
# 4. where the rule of a named feature holds, the feature is active
# 5. a feature without a name stands for nothing
# 6. features that start at a token are found again from any start
# 7. what is said of a feature of the other kind may hold for this training only
answers = ...  # a list of seven, each "yes" if it follows, otherwise "no"
""",
    right=_said("yynnnny"),
    choices=("yes", "no"),
    wrong={
        "Mind the first. The share that is not recovered is 0.05, of the 5 nats between the stream's mean and the "
        "stream itself. That is 0.25 nats.": _said("nynnnny"),
        "Mind the second. Directions drawn at random recover 0.60, which is nearly two thirds of 0.95, and nobody "
        "trained them.": _said("ynnnnny"),
        "Mind the third. Random directions stand for nothing and recover 0.60. How much is recovered says how well "
        "streams are described, not in which terms.": _said("yyynnny"),
        "Mind the fourth. The rule holds at nine of ten places where the feature is active; it may hold at a hundred "
        "others where the feature is silent. Precision is given, recall is not.": _said("yynynny"),
        "Mind the fifth. Only simple rules over tokens were tried. What a feature stands for may need a rule that "
        "nobody has thought of.": _said("yynnyny"),
        "Mind the sixth. Both trainings started these features at the same vectors and found them where they had been "
        "put. From another start they may not be found at all.": _said("yynnnyy"),
        "Mind the last. Of the other features a second training finds two in ten again. The rest are that training's "
        "way of describing the stream, perhaps one of many.": _said("yynnnnn"),
        "A good number for the whole is not good news about each feature. Ask of every statement whether the report "
        "would look different if it were false.": _said("yyyyyyy"),
        "You doubt everything, and mostly you are right. But 1 and 2 only put the numbers of the report in other "
        "words, and 7 is a doubt itself.": _said("nnnnnnn"),
        "You take a name for all there is to a feature. It is a rule that mostly holds where the feature is active; it "
        "need not hold only there, and no name may be for want of a rule.": _said("yynyyny"),
        "You believe what was found twice, and doubt what was not. Mind the sixth: what both trainings start with, "
        "both will find.": _said("ynnnnyy"),
    },
    hints=(
        "For 1: the loss is 7.5 nats with the mean, and 2.5 with the stream itself. For 2 and 3: what do random "
        "directions stand for?",
        "For 4: what is the share a share of? For 6: what have the two trainings in common besides the model?",
        "Three of the seven follow: two that do sums with the report, and one that doubts.",
    ),
    well_done="A share recovered tests the dictionary as a whole, names test single features, and a second training "
    "tests whether features belong to the model. None of these replaces another.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

how_many_are_kept = Prediction(
    number="10.A",
    question="Five features go into two dimensions, and each is present once in a hundred inputs, whatever the others "
    "do. How many of them does the trained model keep?",
    right="all five",
    choices={
        "none: each is nearly always absent": "To guess “absent” is right 99 times out of 100. But all that is ever "
        "lost is lost where a feature is present, and then everything is: the sum is sixteen times what the trained "
        "model loses.",
        "two, one for each dimension": "This is the most for a reader without a ReLU, however rare features are. With "
        "a ReLU the trained model keeps all five, and loses a tenth of what keeping two would lose.",
        "four, two at the ends of each dimension": "This is what training finds at p = 0.3. The fifth is then not read "
        "at all. At p = 0.01 that alone would cost three times what the trained model loses in all.",
        "all five": "They form a pentagon. Neighbours are heard a little, and seldom; leaving one out would cost more.",
    },
)

who_stands_opposite = Prediction(
    number="10.B",
    question="Features 1 and 2 always come together, with values of their own, and so do 3 and 4; each pair is present "
    "once in ten inputs. Four features, two dimensions: who will stand at opposite ends?",
    right="1 and 2 each stand opposite one of 3 and 4",
    choices={
        "1 stands opposite 2, and 3 opposite 4": "Those who belong together seem to belong on one line. But then they "
        "would disturb each other every time they come. Opposite ends are for those who seldom meet.",
        "1 and 2 each stand opposite one of 3 and 4": "They meet only by chance, once in a hundred inputs. Those who "
        "always meet stand at right angles, where they do not disturb each other.",
        "nobody: 1 and 2 share one direction, 3 and 4 another": "A reader without a ReLU does this: it keeps what the "
        "two have in common, and loses p/6. Opposite ends lose 2p²/3, which is less as long as p is below 1/4.",
        "anybody: all four are equally rare": "Being rare helps only because it keeps features from meeting. And 1 and "
        "2 meet whenever one of them is present.",
    },
)

without_bystanders = Prediction(
    number="10.C",
    question="All 37 readers now hear their main sources only, nine tenths of what moves them; of everybody else they "
    "hear the mean. What does the loss do?",
    right="It rises by some tenths of a nat.",
    choices={
        "It falls: what is left out was noise.": "This is what one expects if a reader wants its main sources and all "
        "else disturbs it. But the loss rises by about 0.4 nats: what is heard besides is worth something. No single "
        "reader is clearly better off without it.",
        "It stays, within 0.05 nats: only a tenth is left out.": "It is a tenth of what moves *each* reader, and there "
        "are 37. Together they lose about 0.4 nats.",
        "It rises by some tenths of a nat.": "By 0.36, 0.43 and 0.38 nats, in three models and on 64 texts. Bystanders "
        "are signal, and many small pieces of it add up.",
        "It rises by more than a nat: every reader needs everybody.": "So it would, by about 1.7 nats, if only *half* "
        "of what moves a reader were kept. Nine tenths do most of the work, but not all: the loss rises by about 0.4 "
        "nats.",
    },
)
