"""The exercises of chapter 04, and the answers that lie near."""

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction


def _doubled(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product, from other factors: the first column of one doubled, the first row of the other halved."""
    column = torch.ones(left.shape[1]).to(left)
    column[0] = 2
    return left * column, right / column[:, None]


# ---- scores by hand -----------------------------------------------------------------------------------------------

two_scores = Value(
    number="04.1",
    title="Two scores by hand",
    minutes=6,
    stub="""
# Three tokens. In the first table each token raises the next one by 1, and the last one the first:
#     ring = [[0, 1, 0], [0, 0, 1], [1, 0, 0]]
# In the second each token raises itself and the next one, both by 1:
#     both = [[1, 1, 0], [0, 1, 1], [1, 0, 1]]
# What is the score Σλ / Σ|λ| of each table, as it stands here?
answer = ...  # a list of two real numbers: ring, both
""",
    right=[0.0, 0.75],
    wrong={
        "0.5 is the share of what a token adds that goes to itself. The score is not computed from the entries: its "
        "denominator is Σ|λ|, and two eigenvalues of the second table are complex.": [0.0, 0.5],
        "A score of 1 needs real and positive eigenvalues only. Two of the second table's lie in the right half, but "
        "off the axis: they count in Σ|λ| with their full length, in Σλ only with their real part.": [0.0, 1.0],
        "In your second score each eigenvalue has one vote, whatever its size. One of the three is longer than the two "
        "others and weighs more.": [0.0, 2 / 3],
        "Your second score is right. All eigenvalues of the ring have length 1, but they point in three directions. "
        "Add them up as arrows, for the numerator.": [1.0, 0.75],
        "Σ|λ| / Σ|λ| is always 1. In the numerator the eigenvalues are added as they are, and can cancel.": [1.0, 1.0],
        "The score is −1 for a table that *lowers* each token when it is attended to. The ring does not touch the "
        "token itself: its diagonal is 0.": [-1.0, 0.0],
        "The ring does not lower the token that it attends to; it does not touch it at all. The second score is "
        "right.": [-1.0, 0.75],
        "You counted eigenvalues: one of three is real and positive in both tables. The score adds up all three, with "
        "their sizes.": [1 / 3, 1 / 3],
        "You counted the eigenvalues in the right half: one of three, then all three. The score weighs them by their "
        "size and direction.": [1 / 3, 1.0],
        "These are the sums of the eigenvalues, or of the diagonals. Divide them by Σ|λ|.": [0.0, 3.0],
        "You took the mean off each row first. Take the tables as they stand.": [-0.5, 0.5],
        "These are the two denominators, Σ|λ|. Divide the sums of the eigenvalues by them.": [3.0, 4.0],
        "The diagonal of the ring is 0, and so is its Σλ. It cannot score that much.": [0.75, 0.0],
        "You took √3 for the length of the two complex eigenvalues. Draw each as two arrows of length 1, end to end: "
        "one to the right, one at ±120°.": [0.0, 3 / (2 + 2 * 3**0.5)],
        "One of the ring's three eigenvalues is 1, and you counted it alone. The numerator adds up all three.": [
            1 / 3,
            0.75,
        ],
    },
    hints=(
        "The sum of the eigenvalues is the sum of the diagonal. Only Σ|λ| takes the eigenvalues themselves.",
        "Three steps round the ring lead back to the start, so each of its eigenvalues has λ³ = 1: they are the three "
        "cube roots of 1. The second table is the ring plus the identity, so each of its eigenvalues is 1 more.",
        "The cube roots of 1 lie at 0° and ±120°. Add 1 to each: 2, and two numbers at ±60°. How long are these?",
    ),
    well_done="A head that says the *next* token scores 0, not −1. A head that says a token and its neighbour alike "
    "scores below 1, although it raises every token: part of it rotates.",
)

# ---- the norm of a thin product -----------------------------------------------------------------------------------


def norm_of_product(A: Float[Tensor, "n rank"], B: Float[Tensor, "rank n"]) -> Float[Tensor, ""]:
    """The Frobenius norm of A B, from matrices of size [rank, rank] only."""
    return ((A.T @ A) @ (B @ B.T)).trace().sqrt()


def _factors() -> list[tuple[Tensor, Tensor]]:
    """Two pairs of thin factors, of rank 3 and 5."""
    cases = []
    for seed, (n, rank) in enumerate(((9, 3), (14, 5))):
        generator = torch.Generator().manual_seed(seed)
        A, B = torch.randn(n, rank, generator=generator), torch.randn(rank, n, generator=generator)
        cases.append((A, B + 0.5 * A.T))
    return cases


write_norm = Function(
    number="04.2",
    title="The norm of a table that is never formed",
    minutes=6,
    stub='''
def norm_of_product(A: Float[Tensor, "n rank"], B: Float[Tensor, "rank n"]) -> Float[Tensor, ""]:
    """The Frobenius norm of A B, from matrices of size [rank, rank] only."""
    ...
''',
    reference=norm_of_product,
    cases=_factors,
    wrong={
        "This is the norm of B A. Eigenvalues and trace survive the exchange of the factors; the norm does not.": (
            lambda A, B: (B @ A).norm()
        ),
        "The product of the two norms is only an upper bound. It ignores the angles between the columns of A, and "
        "between the rows of B.": lambda A, B: A.norm() * B.norm(),
        "You used the diagonals of Aᵀ A and B Bᵀ alone, as if the columns of A, or the rows of B, were orthogonal.": (
            lambda A, B: ((A**2).sum(0) * (B**2).sum(1)).sum().sqrt()
        ),
        "You added up all entries of the product of AᵀA and BBᵀ. The norm needs its trace, the diagonal only.": (
            lambda A, B: ((A.T @ A) @ (B @ B.T)).sum().abs().sqrt()
        ),
        "This is the largest singular value, the most that A B can stretch a vector. The Frobenius norm is the root of "
        "the sum of *all* their squares.": lambda A, B: torch.linalg.svdvals(A @ B)[0],
        "This is the sum of the singular values. Square them before you add, and take the root.": (
            lambda A, B: torch.linalg.svdvals(A @ B).sum()
        ),
        "You squared and added eigenvalues. The norm needs singular values; the two agree only if the eigenvectors "
        "are orthogonal.": lambda A, B: torch.linalg.eigvals(B @ A).abs().square().sum().sqrt(),
        "This is the trace, the sum of the diagonal. The norm adds the squares of *all* entries.": (
            lambda A, B: (B @ A).trace()
        ),
        "This is the norm of the product of AᵀA and BBᵀ. You need the trace of that product, not its norm.": (
            lambda A, B: ((A.T @ A) @ (B @ B.T)).norm()
        ),
        "This is the root of the norm of the product of AᵀA and BBᵀ. The root is right, but which number of that "
        "product adds up the squares of the entries of A B?": lambda A, B: ((A.T @ A) @ (B @ B.T)).norm().sqrt(),
        "This adds up the sizes of the eigenvalues. They belong to B A as well, and the norm does not.": (
            lambda A, B: torch.linalg.eigvals(B @ A).abs().sum()
        ),
        "This is tr(M M) for the table M: it adds up the squares of the eigenvalues. To add up the squares of the "
        "*entries*, one of the two must be transposed.": lambda A, B: (B @ A @ B @ A).trace().abs().sqrt(),
        "This is the root of the trace of B A. The squared norm is a trace as well, but of four factors: the table "
        "times its own transpose.": lambda A, B: (B @ A).trace().abs().sqrt(),
        "You multiplied the norms of AᵀA and BBᵀ. These two numbers do not tell how the two matrices fit together: "
        "combine the matrices first.": (lambda A, B: ((A.T @ A).norm() * (B @ B.T).norm()).sqrt()),
        "You multiplied AᵀA and BBᵀ entry by entry and took the norm of that. Its entries are to be added as they are, "
        "not squared once more.": lambda A, B: ((A.T @ A) * (B @ B.T)).norm(),
        "You took the root of each diagonal entry and added then. Add first.": (
            lambda A, B: ((A.T @ A) @ (B @ B.T)).diagonal().clamp(min=0).sqrt().sum()
        ),
        "This is the root of the mean of the squared entries of A B. The norm adds them up.": (
            lambda A, B: (A @ B).square().mean().sqrt()
        ),
    },
    laws={
        "If A doubles, A B and its norm double. Your result does not: is there a root or a square too few or too "
        "many?": (lambda A, B: (2 * A, B), 2.0),
        "Your result changes if a column of A doubles and the row of B that meets it halves. But A B stays as it is, "
        "and so does its norm.": (_doubled, 1.0),
        "Your result changes if the columns of B are put in another order. Then the columns of A B only change places, "
        "so its norm stays.": (lambda A, B: (A, B.roll(1, 1)), 1.0),
    },
    hints=(
        "The squared norm of any matrix M is tr(M Mᵀ). Write it down for M = A B.",
        "tr(A B Bᵀ Aᵀ): a factor may move from the end of a trace to its front. Which matrices stand side by side "
        "then?",
        "tr((Aᵀ A)(B Bᵀ)), and the root of it.",
    ),
    well_done="The small matrices AᵀA and BBᵀ hold the angles between the columns of A and between the rows of B, and "
    "the norm depends on both.",
)

# ---- the copying score --------------------------------------------------------------------------------------------


def copying_score(
    W_E: Float[Tensor, "d_vocab d_model"],
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
) -> Float[Tensor, ""]:
    """Σλ / Σ|λ| of a head's OV circuit, a real number that no shift of all logits can change."""
    W_U = W_U - W_U.mean(1, keepdim=True)
    values = torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)
    return values.sum().real / values.abs().sum()


def _heads() -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Three random heads, two of a negative score, in models whose W_U has a mean column."""
    cases = []
    for seed, d_vocab, d_model, d_head in ((2, 12, 6, 3), (3, 15, 8, 4), (6, 17, 9, 5)):
        generator = torch.Generator().manual_seed(seed)
        shapes = (d_vocab, d_model), (d_model, d_head), (d_head, d_model), (d_model, d_vocab), (d_model, 1)
        W_E, W_V, W_O, W_U, mean = (torch.randn(*shape, generator=generator) for shape in shapes)
        cases.append((W_E, W_V, W_O, W_U + mean))
    return cases


def _score(values: Tensor) -> Tensor:
    return values.sum().real / values.abs().sum()


def _eigenvalues(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    return torch.linalg.eigvals(W_O @ (W_U - W_U.mean(1, keepdim=True)) @ W_E @ W_V)


def _raw(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    return W_E @ W_V @ W_O @ W_U


def _circuit(W_E: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor) -> Tensor:
    return W_E @ W_V @ W_O @ (W_U - W_U.mean(1, keepdim=True))


write_copying_score = Function(
    number="04.3",
    title="A copying score that belongs to the model",
    minutes=8,
    stub='''
def copying_score(
    W_E: Float[Tensor, "d_vocab d_model"],
    W_V: Float[Tensor, "d_model d_head"],
    W_O: Float[Tensor, "d_head d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
) -> Float[Tensor, ""]:
    """Σλ / Σ|λ| of a head's OV circuit, a real number that no shift of all logits can change."""
    ...
''',
    reference=copying_score,
    cases=_heads,
    tolerance=1e-3,
    wrong={
        "This takes W_U as it stands. Add one vector to all of its columns: no probability changes, but your score "
        "does.": lambda W_E, W_V, W_O, W_U: _score(torch.linalg.eigvals(W_O @ W_U @ W_E @ W_V)),
        "You took off a mean along the wrong axis. The shift adds the same *column* to every token, so the mean over "
        "tokens has to go.": lambda W_E, W_V, W_O, W_U: _score(
            torch.linalg.eigvals(W_O @ (W_U - W_U.mean(0)) @ W_E @ W_V)
        ),
        "You took one number off all of W_U. Each dimension of the stream has its own mean over tokens.": (
            lambda W_E, W_V, W_O, W_U: _score(torch.linalg.eigvals(W_O @ (W_U - W_U.mean()) @ W_E @ W_V))
        ),
        "A log_softmax over each row removes the shift, but it also takes off a different number in each row, which "
        "is not the row's average. The table is no longer a product of the weights.": lambda W_E, W_V, W_O, W_U: _score(
            torch.linalg.eigvals((W_E @ W_V @ W_O @ W_U).log_softmax(-1))
        ),
        "This counts the eigenvalues in the right half. The score adds them up, so a small one weighs little.": (
            lambda *weights: (_eigenvalues(*weights).real > 0).double().mean()
        ),
        "The denominator adds up the sizes of the real parts. Take |λ|, the distance from 0: an eigenvalue that "
        "rotates must not count as pure copying.": lambda *weights: (
            _eigenvalues(*weights).real.sum() / _eigenvalues(*weights).real.abs().sum()
        ),
        "The denominator is the size of the sum, so this can only be 1 or −1. Take the sum of the sizes.": (
            lambda *weights: _eigenvalues(*weights).sum().real / _eigenvalues(*weights).sum().abs()
        ),
        "The denominator adds up the sizes of the diagonal entries, not Σ|λ|. That asks of each token whether it is "
        "raised, which is another good question.": lambda *weights: (
            _circuit(*weights).trace() / _circuit(*weights).diagonal().abs().sum()
        ),
        "This is the sum of the eigenvalues. It doubles for a head that writes twice as much: divide by Σ|λ|.": (
            lambda *weights: _circuit(*weights).trace()
        ),
        "`eigvalsh` is for symmetric matrices: it reads one triangle of yours and takes the other for its mirror "
        "image. This product is not symmetric.": lambda W_E, W_V, W_O, W_U: _score(
            torch.linalg.eigvalsh(W_O @ (W_U - W_U.mean(1, keepdim=True)) @ W_E @ W_V)
        ),
        "You divided by the sum of the singular values. They measure size in another way, and a head whose eigenvalues "
        "are all positive would not score 1.": (
            lambda *weights: _circuit(*weights).trace() / torch.linalg.svdvals(_circuit(*weights)).sum()
        ),
        "You took the mean of each row, but took it off a column: without `keepdim=True` the means lie across the "
        "table. Give them the shape [d_vocab, 1].": lambda *weights: _score(
            torch.linalg.eigvals(_raw(*weights) - _raw(*weights).mean(1))
        ),
        "Your result is 1 for every head: sizes stand above the fraction bar as well as below it. Eigenvalues can "
        "cancel; their sizes, or singular values, cannot.": lambda *weights: torch.tensor(1.0),
        "`eigvalsh` is for symmetric matrices: of your table it reads one triangle only.": lambda *weights: _score(
            torch.linalg.eigvalsh(_circuit(*weights))
        ),
        "You divided by the root of the sum of the squares of |λ|. The sizes themselves are added, or else the score "
        "could exceed 1.": lambda *weights: (
            _eigenvalues(*weights).sum().real / _eigenvalues(*weights).abs().square().sum().sqrt()
        ),
        "You count every logit from that of token 0. No shift changes this, but it is not the average of all logits.": (
            lambda W_E, W_V, W_O, W_U: _score(torch.linalg.eigvals(W_O @ (W_U - W_U[:, :1]) @ W_E @ W_V))
        ),
    },
    laws={
        "Your score changes when one vector is added to all columns of W_U, although no probability does.": (
            lambda W_E, W_V, W_O, W_U: (W_E, W_V, W_O, W_U + W_U[:, :1]),
            1.0,
        ),
        "Your score changes when W_O doubles. A head that writes twice as much should keep its score.": (
            lambda W_E, W_V, W_O, W_U: (W_E, W_V, 2 * W_O, W_U),
            1.0,
        ),
        "Your score changes if a column of W_V doubles and the row of W_O that meets it halves. But W_V W_O stays as "
        "it is, and so do the eigenvalues of the circuit.": (
            lambda W_E, W_V, W_O, W_U: (W_E, *_doubled(W_V, W_O), W_U),
            1.0,
        ),
    },
    hints=(
        "Three steps: make W_U independent of the shift; find the eigenvalues other than 0; divide their sum by the "
        "sum of their sizes.",
        "W_U is [d_model, d_vocab]. Its mean column is `W_U.mean(1, keepdim=True)`.",
        "W_E W_V is tall and W_O W_U is wide, so the small product the other way round has all the eigenvalues: give "
        "it to `torch.linalg.eigvals`. Their sum is real but has a complex type: take `.real`.",
    ),
    well_done="Every way of writing the same model gives the same number. (Taking the mean row off W_E instead gives "
    "it, too: with the projection P that removes a mean, P W and W P share their eigenvalues.)",
)

# ---- an unseen seed -----------------------------------------------------------------------------------------------

an_unseen_seed = Value(
    number="04.4",
    title="Five heads of an unseen seed",
    minutes=4,
    stub="""
# Before a new seed was trained, this was written down:
#     "Most of its twelve heads copy: more than half score above 0.8."
# Five of the twelve scores are known so far: 0.95, 0.91, 0.83, 0.79, 0.12. What may be concluded?
# "yes":             most heads copy, since three of five do
# "no":              only three heads of twelve are above 0.8
# "undecided":       it depends on the seven others
# "yes, from 0.75":  0.79 is as good as 0.8, and four of five are above 0.75
answer = ...
""",
    right="undecided",
    choices=("yes", "no", "undecided", "yes, from 0.75"),
    wrong={
        "Three of five may become three of twelve. A claim about all twelve heads is not decided by five.": "yes",
        "That counts seven heads as heads that do not copy, although nobody has looked at them.": "no",
        "This moves the threshold after the scores are known. Some threshold always makes the claim come true; this "
        "one was fixed beforehand so that the claim could fail.": "yes, from 0.75",
    },
    hints=(
        "How many heads above 0.8 can the model have in the end, at least and at most?",
        "Between 3 and 10 of twelve. The claim needs 7.",
    ),
    well_done="Between three and ten heads of twelve can still score above 0.8. A claim with a fixed threshold may be "
    "undecided, and the missing scores settle it; a threshold that follows the data can no longer fail.",
)

# ---- positive eigenvalues, negative entry -------------------------------------------------------------------------


def lowers_token_0() -> Float[Tensor, "source out"]:
    """A table with real, positive eigenvalues; attending to token 0 lowers token 0 by 1 or more."""
    return torch.tensor([[-2.0, -4.0], [4.0, 6.5]])


a_copier_that_lowers = Built(
    number="04.5",
    title="A perfect score that lowers a token",
    minutes=8,
    stub='''
def lowers_token_0() -> Float[Tensor, "source out"]:
    """A table with real, positive eigenvalues; attending to token 0 lowers token 0 by 1 or more."""
    return ...
''',
    shape=(2, 2),
    example=lowers_token_0,
    wrong={
        "The identity has eigenvalues 1 and 1, and raises both tokens: there is no negative entry on its diagonal.": (
            torch.eye(2)
        ),
        "Here the eigenvalues are the diagonal entries themselves, so one is negative.": torch.diag(
            torch.tensor([-1.0, 2.0])
        ),
    },
    conditions={
        "Attending to token 0 should lower token 0: which entry is that, and is it −1 or less?": lambda W: (
            W[0, 0] <= -1 + 1e-9
        ),
        "With a 0 beside the diagonal the eigenvalues are the diagonal entries, so one of them is "
        "negative.": lambda W: (W[0, 1] * W[1, 0]).abs() > 1e-9,
        "A symmetric table cannot do it: its eigenvectors are orthogonal, and then every diagonal entry is a weighted "
        "average of the eigenvalues.": lambda W: (W[0, 1] - W[1, 0]).abs() > 1e-9,
        "The diagonal and the eigenvalues have the same sum, so it must be positive: token 1 must be raised more than "
        "token 0 is lowered.": lambda W: W.trace() > 1e-9,
        "The product of the eigenvalues is the determinant, and yours is not positive: one eigenvalue is negative or "
        "0. The product of the diagonal entries is negative. Which signs must the two others have?": lambda W: (
            torch.linalg.det(W) > 1e-9
        ),
        "The eigenvalues are a complex pair: the table rotates. Make the entries beside the diagonal smaller, or the "
        "trace larger.": lambda W: W.trace() ** 2 >= 4 * torch.linalg.det(W) - 1e-9,
    },
    hints=(
        "For two tokens the eigenvalues are real and positive if the trace T and the determinant D are positive, and "
        "T² ≥ 4 D.",
        "Take −2 for the entry [0, 0] and, say, 6.5 for [1, 1]. Their product is −13. What must the product of the two "
        "other entries be, to bring the determinant above 0?",
        "The product of the two other entries must be below −13, so they have opposite signs: T = 4.5 leaves room for "
        "a D of up to 5.06.",
    ),
    well_done="The score is about mixtures, and a single token may be a difference of two of them.",
)

# ---- what a score says --------------------------------------------------------------------------------------------

what_a_score_says = Value(
    number="04.6",
    title="A score of 1.00",
    minutes=5,
    stub="""
# With W_U less its mean column, a head has the copying score 1, exactly. Does it follow that
# 1. there is a token that it raises when it attends to it?
# 2. every eigenvalue that is not 0 is real and positive?
# 3. it raises what it attends to more strongly than a head with the score 0.5 does?
# 4. it attends to earlier copies of the present token?
answer = ...  # a list of four: "yes" or "no"
""",
    right=["yes", "yes", "no", "no"],
    choices=("yes", "no"),
    wrong={
        "Question 1: this token or that may be lowered. But can all of them be? Think of the trace.": [
            "no",
            "yes",
            "no",
            "no",
        ],
        "Question 2: Σλ = Σ|λ| leaves no room. A single eigenvalue off the positive axis adds less to the left side "
        "than to the right.": ["yes", "no", "no", "no"],
        "Question 3: multiply W_O by 100. What happens to the score, and what to the logits?": (
            ["yes", "yes", "yes", "no"]
        ),
        "Question 4: the score is about what the head does with a source that it attends to. The QK circuit decides "
        "which source that is.": ["yes", "yes", "no", "yes"],
        "Questions 3 and 4: the score divides by Σ|λ|, so it cannot see how much the head writes; and it is made from "
        "OV alone, so it cannot see where the head looks.": ["yes", "yes", "yes", "yes"],
        "Questions 1 and 2: look at what Σλ = Σ|λ| asks of each eigenvalue, and at what the trace is.": (
            ["no", "no", "no", "no"]
        ),
        "Questions 1 and 3: by the trace, not every token can be lowered; and the score divides by Σ|λ|, so it cannot "
        "see how much the head writes.": ["no", "yes", "yes", "no"],
        "Questions 1 and 4: by the trace, not every token can be lowered; and where the head looks is a matter of its "
        "QK circuit.": ["no", "yes", "no", "yes"],
    },
    hints=(
        "The score says Σλ = Σ|λ|. What does that mean for one λ? And what is Σλ, in terms of the diagonal?",
        "The score is made from W_E, W_V, W_O and W_U. Which matrices decide where a head looks? And what does the "
        "score do if W_O doubles?",
    ),
    well_done="So the score says something about mixtures and about the average token. It does not say which tokens "
    "are raised, how strongly, or where the head looks.",
)

# ---- predictions --------------------------------------------------------------------------------------------------

by_chance = Prediction(
    number="04.A",
    question="Where do the eigenvalues of an untrained head lie, and what does it score?",
    choices={
        "All close to 0, so there is no score to speak of.": "A random matrix is not a small one. Besides, the score "
        "divides by the sizes of the eigenvalues, so it does not see them.",
        "Mostly on the right, with small positive scores.": "That would need a W_O and a W_U that know of each other. "
        "At the start they are independent: what a head writes points nowhere in particular.",
        "On all sides, with scores anywhere between −0.5 and 0.5.": "The sides are right, but a score averages over "
        "32 eigenvalues, and their accidents cancel: untrained heads score 0 ± 0.05.",
        "On all sides, with scores very close to 0.": "Nothing in a random matrix prefers right to left, and over 32 "
        "eigenvalues the accidents cancel: untrained heads score 0 ± 0.05.",
    },
    right="On all sides, with scores very close to 0.",
)

what_copying_heads_want = Prediction(
    number="04.B",
    question="A head copies what it attends to. What does its QK circuit score?",
    choices={
        "Positive: it attends to the token that it copies.": "It does attend to what it copies, but positive means "
        "more than that: the source is the same token as the *destination*, the token at which the head stands. "
        "Copying heads score −0.27 on average.",
        "About 0: QK and OV are different matrices.": "They are, but they were trained together for one task. Of 23 "
        "copying heads 18 score below −0.1.",
        "Negative: it avoids copies of the token at which it stands.": "Every place sees itself among its sources. A "
        "copying head that attended to itself would predict the same token again, and text rarely says a word twice in "
        "a row. Of 23 copying heads 18 score below −0.1.",
    },
    right="Negative: it avoids copies of the token at which it stands.",
)
