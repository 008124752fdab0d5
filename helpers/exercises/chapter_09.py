"""The exercises of chapter 09, and the answers that lie near; and the weights with which the chapter goes on."""

import inspect
import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from helpers.by_hand import PLACE, ROOM, TOKEN, token_vectors
from helpers.exercises import exercise
from helpers.exercises.kinds import Built, Exercise, Function, Value
from helpers.exercises.predictions import NumberPrediction, Prediction
from helpers.heads import random_repeats
from helpers.model import sinusoids


def go_on_with(number: str, answer: Any) -> Any:
    """The reader's answer to an exercise if it is right, and ours if not; a line says which.

    What is to be built comes as a tensor in float32, also if the answer is a function that builds it; and so does what
    a function of the reader's returns.
    """
    one = exercise(number)
    is_right = answer is not _ours(one) and one.check(answer).is_right
    if is_right:
        print(f"Exercise {number}: your answer is right, and the chapter goes on with it.")
    else:
        print(f"Exercise {number}: the chapter goes on with our answer, until yours is right.")
    return _in_use(one, answer if is_right else _ours(one))


def _ours(one: Exercise) -> Any:
    """Our answer to an exercise."""
    match one:
        case Function():
            return one.reference
        case Built():
            return one.example
        case Value():
            return one.right


def _in_use(one: Exercise, answer: Any) -> Any:
    """An answer as the chapter uses it: what was built as a tensor, words of a list in small letters."""
    if isinstance(one, Built):
        return torch.as_tensor(answer() if callable(answer) else answer).float()
    if isinstance(one, Value):
        return [word.strip().lower() for word in answer]
    return answer if answer is _ours(one) else _in_float32(answer, like=one.reference)


def _in_float32(function: Callable, like: Callable) -> Callable:
    """A function of the reader's that returns float32 or a plain number, and may be called with our names."""

    @wraps(function)
    def used(*arguments: Any, **named: Any) -> Any:
        in_order = inspect.signature(like).bind(*arguments, **named).args
        result = torch.as_tensor(function(*in_order))
        return result.float() if result.ndim else result.item()

    return used


# ---- a virtual head -------------------------------------------------------------------------------------------------


def second_values() -> Float[Tensor, "16 4"]:
    """W_V of 1:0: three numbers of the token before, and one of the token two places back."""
    W_V = torch.zeros(16, 4)
    W_V[[4, 5, 6], [0, 1, 2]] = 1
    W_V[8, 3] = 1
    return W_V


def _reading(*dimensions: int) -> Tensor:
    """Values that read one dimension each."""
    W_V = torch.zeros(16, 4)
    W_V[list(dimensions), range(4)] = 1
    return W_V


build_values = Built(
    number="09.1",
    title="Read one number that has been moved before",
    minutes=5,
    stub='''
def second_values() -> Float[Tensor, "16 4"]:
    """W_V of 1:0: three numbers of the token before, and one of the token two places back."""
    ...
''',
    shape=(16, 4),
    example=second_values,
    wrong={
        "All values are 0: this head moves nothing.": torch.zeros(16, 4),
        "The last number comes from *one* place back: this head, too, looks back one place only. Where in the stream "
        "does a number lie that has been moved once already?": _reading(4, 5, 6, 0),
        "This repeats the first head: dimensions 0 to 3 of the token before.": _reading(0, 1, 2, 3),
        "All four numbers come from the token before. The last one should come from two places back.": (
            _reading(4, 5, 6, 7)
        ),
        "The last one is right. The others are dimensions 0 to 2 of the token before, which the first head has moved "
        "already: 4 to 6 are asked for.": _reading(0, 1, 2, 8),
        "The three numbers of the token before are 5 to 7: 4 to 6 are asked for.": _reading(5, 6, 7, 8),
        "These are the right four dimensions in another order: the number from two places back goes last, into "
        "dimension 15.": _reading(8, 4, 5, 6),
    },
    conditions={
        "Dimensions 12 to 15 are where this head will write. When it reads, nothing is there yet.": (
            lambda W_V: not W_V[12:].any()
        ),
        "Dimensions 8 to 11 hold what the first head has moved, from two places back. The first three numbers should "
        "come from one place back.": lambda W_V: not W_V[8:12, :3].any(),
        "The first three columns should read dimensions 4, 5 and 6 in this order, one each, and nothing else.": (
            lambda W_V: bool(torch.equal(W_V[:, :3] != 0, second_values()[:, :3] != 0))
        ),
        "The first three columns are right. The last one is empty: no number comes from two places back.": (
            lambda W_V: bool(W_V[:, 3].any())
        ),
        "The first three columns are right. The last one reads from dimensions 0 to 7, where the token of *one* place "
        "back lies.": lambda W_V: not W_V[:8, 3].any(),
        "The last number comes from two places back, but it is not dimension 0 of that token, or not that alone.": (
            lambda W_V: not W_V[9:12, 3].any()
        ),
        "The right dimensions are read, but not as they are: some are multiplied by a factor.": (
            lambda W_V: bool(torch.equal(W_V, second_values().double()))
        ),
    },
    hints=(
        "Row i, column k of W_V says how much of dimension i of the stream goes into number k of the value. Which rows "
        "are needed for the first three columns?",
        "The head looks one place back. What stands in the stream *there* after the first head? In dimensions 8 to 11, "
        "something that came from one place further back.",
        "Dimension 0 of the token two back lies in dimension 8 of the place one back.",
    ),
    well_done="The second head's one place back and the first head's make two.",
)

find_ranks = Value(
    number="09.2",
    title="How much does each of them move?",
    minutes=4,
    stub="""
# W0 and W1 are the two heads' W_V W_O, 16 by 16. What is the rank of
# W0, of W1, of W0 @ W1, of W1 @ W0, of W0 + W1?
answer = [..., ..., ..., ..., ...]
""",
    right=[4, 4, 1, 0, 8],
    wrong={
        "A product of two matrices has *at most* the rank of each. What passes through it is only what one head reads "
        "of what the other has written.": [4, 4, 4, 4, 8],
        "What passes through W0 @ W1 is only what the second head reads of what the first has written, in dimensions "
        "8 to 11. Does it read all of that?": [4, 4, 4, 0, 8],
        "The order counts. In W1 @ W0 the first head would have to read what the second writes: does it read any of "
        "dimensions 12 to 15?": [4, 4, 1, 1, 8],
        "In W1 @ W0 the first head would have to read what the second writes, in dimensions 12 to 15. Which ones does "
        "it read?": [4, 4, 1, 4, 8],
        "The two products are exchanged. Rows are multiplied from the right, so in W0 @ W1 the stream meets the first "
        "head first.": [4, 4, 0, 1, 8],
        "One of the numbers that the sum moves has been moved before, but a matrix does not know that. How many "
        "dimensions do the two heads read together, and how many do they write?": [4, 4, 1, 0, 7],
        "W1 has four columns that read four different dimensions, whatever lies in these.": [4, 3, 1, 0, 7],
        "The sum is no larger in size, 16 by 16, but it moves what the first head moves *and* what the second moves.": (
            [4, 4, 1, 0, 4]
        ),
        "16 is the size of the sum. Its rank is at most the sum of the two ranks.": [4, 4, 1, 0, 16],
        "16 is the size of the matrices. Their rank says how many independent numbers pass: how many can one head "
        "move?": [16, 16, 16, 16, 16],
        "Does nothing that the first head writes get through the second?": [4, 4, 0, 0, 8],
        "Ranks do not multiply: what has passed through one head can only lose in the other.": [4, 4, 16, 0, 8],
        "Ranks do not add up in a product: what has passed through one head can only lose in the other.": [
            4,
            4,
            8,
            0,
            8,
        ],
        "You count the dimensions that are read and those that are written. A number is read in one and written in "
        "another, and that is one number.": [8, 8, 1, 0, 8],
        "What goes through both heads, the first one first, is what you built into the last column, not the first "
        "three: how many numbers is that?": [4, 4, 3, 0, 8],
    },
    hints=(
        "The rank of W_V W_O is the number of independent numbers that the head moves.",
        "What does the second head read of dimensions 8 to 11? And the first of dimensions 12 to 15?",
    ),
    well_done="The pair moves eight numbers. Seven come from one place back; the eighth has gone through both heads.",
)

# ---- where a head looks -----------------------------------------------------------------------------------------


def turn(frequencies: Float[Tensor, " wave"], steps: int) -> Float[Tensor, "2*wave 2*wave"]:
    """Takes the vector of any place n to that of place n + steps: p[n] @ turn = p[n + steps]."""
    cos, sin = (frequencies * steps).cos().diag(), (frequencies * steps).sin().diag()
    return torch.cat([torch.cat([cos, -sin], dim=1), torch.cat([sin, cos], dim=1)])


def _blocks(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Four diagonal blocks, from their diagonals, in reading order."""
    return torch.cat([torch.cat([a.diag(), b.diag()], dim=1), torch.cat([c.diag(), d.diag()], dim=1)])


def _turned_by(angles) -> Any:
    """A rotation of every wave by an angle that is found in another way."""

    def turned(frequencies: Tensor, steps: int) -> Tensor:
        angle = angles(frequencies, steps)
        return _blocks(angle.cos(), -angle.sin(), angle.sin(), angle.cos())

    return turned


def _made_of(blocks) -> Any:
    """A matrix of other blocks than a rotation's, from cosines and sines."""
    return lambda frequencies, steps: _blocks(*blocks((frequencies * steps).cos(), (frequencies * steps).sin()))


def _side_by_side(frequencies: Tensor, steps: int) -> Tensor:
    """The rotation for an order in which each sine stands beside its cosine."""
    order = torch.arange(2 * len(frequencies)).reshape(2, -1).T.flatten()
    return turn(frequencies, steps)[order][:, order]


write_turn = Function(
    number="09.3",
    title="Turn a place into its neighbour",
    minutes=9,
    stub='''
def turn(frequencies: Float[Tensor, " wave"], steps: int) -> Float[Tensor, "2*wave 2*wave"]:
    """Takes the vector of any place n to that of place n + steps: p[n] @ turn = p[n + steps]."""
    ...
''',
    reference=turn,
    cases=lambda: [(torch.tensor([1.0, 0.3, 0.05]), -1), (torch.tensor([0.9, 0.7, 0.4, 0.2]), 3)],
    wrong={
        "This turns the other way: `p[n] @ turn` is the place *earlier* by so many steps. Is it written for columns, "
        "`turn @ p`, or for cosines that stand before the sines? Or is the minus at the wrong sine?": _turned_by(
            lambda f, steps: -f * steps
        ),
        "Right for positive steps. For negative ones nothing is turned: does a loop run `steps` times?": _turned_by(
            lambda f, steps: f * max(steps, 0)
        ),
        "Right for positive steps. Negative ones turn the same way as positive ones: where does the sign get lost?": (
            _turned_by(lambda f, steps: f * abs(steps))
        ),
        "The frequencies are in radians a place already: there is a factor of 2π too many.": (
            _turned_by(lambda f, steps: 2 * math.pi * f * steps)
        ),
        "The cosines and sines of one step are multiplied by `steps`. It is the angle that grows with the steps.": (
            lambda f, steps: steps * turn(f, 1)
        ),
        "The waves are made smaller, not turned: the blocks with the sines are missing.": (
            _made_of(lambda c, s: (c, 0 * s, 0 * s, c))
        ),
        "The second column of blocks, which makes the new cosines, is upside down: which old wave goes with cos b, and "
        "which with sin b?": _made_of(lambda c, s: (c, c, s, -s)),
        "The first column of blocks, which makes the new sines, is upside down: which old wave goes with cos b, and "
        "which with sin b?": _made_of(lambda c, s: (s, -s, c, c)),
        "The minus stands at a cosine, so this is a reflection: for 0 steps it would turn half of the signs.": (
            _made_of(lambda c, s: (c, s, s, -c))
        ),
        "Both sines have the same sign, so this is no rotation and changes lengths. Write out sin(a + b) and "
        "cos(a + b).": _made_of(lambda c, s: (c, s, s, c)),
        "Both sines have a minus, so this is no rotation and changes lengths. Write out sin(a + b) and cos(a + b).": (
            _made_of(lambda c, s: (c, -s, -s, c))
        ),
        "Sines and cosines are exchanged: for 0 steps the matrix must be the identity.": (
            _made_of(lambda c, s: (s, -c, c, s))
        ),
        "This is for vectors in which each sine stands beside its cosine. Ours have all sines first, then all "
        "cosines.": _side_by_side,
        "This is for vectors in which each cosine stands beside its sine. Ours have all sines first, then all "
        "cosines.": lambda f, steps: _side_by_side(f, steps).T,
        "This changes nothing: it takes every place to itself.": lambda f, steps: torch.eye(2 * len(f)),
        "Sines stand where cosines should be, on the diagonal: for 0 steps the matrix must be the identity, without "
        "a minus.": _made_of(lambda c, s: (s, c, c, -s)),
    },
    hints=(
        "sin(a + b) = sin a cos b + cos a sin b, and cos(a + b) = cos a cos b − sin a sin b, with a = f n and "
        "b = f · steps. The second factors do not depend on n: they are the entries of the matrix.",
        "Four diagonal blocks. The first column of blocks makes the new sines: from the old sines (upper block) by "
        "cos b, and from the old cosines (lower block) by sin b.",
        "The second column of blocks makes the new cosines: −sin b above, cos b below.",
    ),
    well_done="One matrix for all places: that is why sines are a good way to write positions.",
)


def gain(share: float, n: int, cosine: float, length: float, d_head: int) -> float:
    """The factor of W_Q and W_K that gives a match this share of the attention among n places."""
    score = math.log(share * (n - 1) / (1 - share)) / (1 - cosine)
    return math.sqrt(score * math.sqrt(d_head)) / length


def _score(share: float, n: int, cosine: float) -> float:
    """The score that a match needs."""
    return math.log(share * (n - 1) / (1 - share)) / (1 - cosine)


def _loudness(score: float, d_head: int) -> float:
    """Gain times length, for a match to have this score."""
    return math.sqrt(score * math.sqrt(d_head))


write_gain = Function(
    number="09.4",
    title="Loud enough",
    minutes=8,
    stub='''
def gain(share: float, n: int, cosine: float, length: float, d_head: int) -> float:
    """The factor of W_Q and W_K that gives a match this share of the attention among n places."""
    ...
''',
    reference=gain,
    cases=lambda: [(0.99, 128, 0.5, 1.0, 64), (0.9, 20, 0.2, 3.0, 16), (0.6, 5, 0.1, 0.5, 9)],
    wrong={
        "A root is taken of a negative number. Are the odds upside down, or divided by the number of rivals where they "
        "should be multiplied?": lambda p, n, c, length, d: math.nan,
        "You count n rivals: the match is not its own, so there are n − 1.": (
            lambda p, n, c, length, d: _loudness(math.log(p * n / (1 - p)) / (1 - c), d) / length
        ),
        "This grows with √d_head. The model divides a score by √d_head, but the gain enters a score twice.": (
            lambda p, n, c, length, d: math.sqrt(_score(p, n, c) * d) / length
        ),
        "You have divided by √d_head once more. The model does that: the gain must make up for it.": (
            lambda p, n, c, length, d: math.sqrt(_score(p, n, c) / math.sqrt(d)) / length
        ),
        "The rivals' scores are not 0: each is `cosine` times the match's. Softmax sees the difference only.": (
            lambda p, n, c, length, d: _loudness(_score(p, n, 0.0), d) / length
        ),
        "You divide by `cosine`, as if the rivals' score alone counted. Softmax sees how far the match is above it.": (
            lambda p, n, c, length, d: _loudness(_score(p, n, 0.0) / c, d) / length
        ),
        "You multiply by 1 − cosine. The nearer the rivals, the louder the head must be: divide.": (
            lambda p, n, c, length, d: _loudness(_score(p, n, 0.0) * (1 - c), d) / length
        ),
        "You divide by 1 − cosine outside the root. It belongs to the score, and so to the square of the gain.": (
            lambda p, n, c, length, d: _loudness(_score(p, n, 0.0), d) / (1 - c) / length
        ),
        "A cosine is no score yet: the rivals' products are length² · cosine, not `cosine`.": (
            lambda p, n, c, length, d: _loudness(_score(p, n, 0.0) / (length**2 - c), d)
        ),
        "A score has the length of the query *and* that of the key, so it has the square of `length`.": (
            lambda p, n, c, length, d: gain(p, n, c, 1.0, d) / math.sqrt(length)
        ),
        "You divide by the square of `length`, outside the root. It is the square of the gain that is to be divided "
        "by this.": lambda p, n, c, length, d: gain(p, n, c, 1.0, d) / length**2,
        "You multiply by `length`. Long queries and keys are loud already, so they need less gain.": (
            lambda p, n, c, length, d: gain(p, n, c, 1.0, d) * length
        ),
        "A softmax compares exponentials of scores, so the odds are the exponential of a difference: a logarithm is "
        "missing.": lambda p, n, c, length, d: _loudness(p * (n - 1) / (1 - p) / (1 - c), d) / length,
        "The odds are upside down: these are the odds against the match.": (
            lambda p, n, c, length, d: _loudness(math.log((1 - p) * (n - 1) / p) / (1 - c), d) / length
        ),
        "You ask for odds of `share` to 1. The rivals together get 1 − share.": (
            lambda p, n, c, length, d: _loudness(math.log(p * (n - 1)) / (1 - c), d) / length
        ),
        "You ask for odds of 1 to 1 − share. The match gets `share`, not everything.": (
            lambda p, n, c, length, d: _loudness(math.log((n - 1) / (1 - p)) / (1 - c), d) / length
        ),
    },
    hints=(
        "Let the match have the score s. Each of the n − 1 others has s · cosine. Write down the softmax and ask for "
        "`share`.",
        "share / (1 − share) = exp(s − s · cosine) / (n − 1). Solve it for s.",
        "s = gain² · length² / √d_head: solve that for the gain.",
    ),
    well_done="Attention is never all or nothing: how sharp it is comes from the size of weights, and only there.",
)

# ---- pointer arithmetic -----------------------------------------------------------------------------------------

N_CTX = 128  # longest wave of the places
LENGTHS = 12, 20, 30  # different tokens, twice: no fixed distance may take the place of a comparison of tokens


def elsewhere() -> Float[Tensor, "192 96"]:
    """W_Q of a head that attends to the present token's earlier copy, and not to itself."""
    W_Q = torch.zeros(4 * ROOM, 2 * ROOM)
    W_Q[TOKEN, :ROOM] = 200 * torch.eye(ROOM)
    W_Q[PLACE, ROOM:] = -5 * torch.eye(ROOM)
    return W_Q


def _stream(length: int) -> Float[Tensor, "text pos 192"]:
    """Random tokens twice, each with its place in the stream."""
    tokens = random_repeats(512, length, n_samples=4)
    stream = torch.zeros(*tokens.shape, 4 * ROOM, dtype=torch.double)
    stream[..., TOKEN] = token_vectors(512).double()[tokens]
    stream[..., PLACE] = sinusoids(N_CTX, ROOM).double()[: tokens.shape[1]]
    return stream


def _seen(W_Q: Tensor, length: int) -> Float[Tensor, "text dest src"]:
    """The attention of the places of the second copy; keys have the token, then the place."""
    stream = _stream(length)
    keys = torch.cat([stream[..., TOKEN], stream[..., PLACE]], dim=-1)
    scores = stream @ W_Q @ keys.mT / math.sqrt(2 * ROOM)
    hidden = torch.ones_like(scores).bool().triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)[:, length + 1 :]


def _on_copies(W_Q: Tensor) -> Float[Tensor, " place"]:
    """Attention to the earlier copy, from each place of all texts."""
    return torch.cat([_seen(W_Q, n).diagonal(1, 1, 2)[:, :n].flatten() for n in LENGTHS])


def _near(W_Q: Tensor, *back: int) -> float:
    """Mean attention to the places so many back, together."""
    seen = {n: _seen(W_Q, n) for n in LENGTHS}
    return sum(seen[n].diagonal(n + 1 - k, 1, 2).mean().item() for n in LENGTHS for k in back) / len(LENGTHS)


def _is_sure(W_Q: Tensor) -> bool:
    return bool(_on_copies(W_Q).min() > 0.9)


def _mostly_itself(W_Q: Tensor) -> bool:
    """Whether more than half of what the copies do not get stays at the place itself."""
    return _near(W_Q, 0) > (1 - _on_copies(W_Q).mean().item()) / 2


def _finds_copies(W_Q: Tensor) -> bool:
    return all(bool((_seen(W_Q, n).argmax(-1) == torch.arange(1, n + 1)).all()) for n in LENGTHS)


def _finds_with_less_of_place(W_Q: Tensor) -> bool:
    """Whether the head would find copies if the place counted for less."""
    less = W_Q.clone()
    for _ in range(6):
        less[PLACE] /= 2
        if _finds_copies(less):
            return True
    return False


def _is_flat(block: Tensor) -> bool:
    """Whether one number fills half of a block, or all of it."""
    return any(bool(half.any()) and len(half.unique()) == 1 for half in (block[:, :ROOM], block[:, ROOM:]))


def _pairs_up(W_Q: Tensor) -> bool:
    """Whether what the query says of token and place meets what keys say of it; or it reads but one of the two."""
    one_of_two = not W_Q[TOKEN].any() or not W_Q[PLACE].any()
    return one_of_two or bool(W_Q[TOKEN, :ROOM].any() and W_Q[PLACE, ROOM:].any())


build_elsewhere = Built(
    number="09.5",
    title="Like me, but elsewhere",
    minutes=10,
    stub='''
def elsewhere() -> Float[Tensor, "192 96"]:
    """W_Q of a head that attends to the present token's earlier copy, and not to itself."""
    ...
''',
    shape=(4 * ROOM, 2 * ROOM),
    example=elsewhere,
    wrong={"All scores are 0: the softmax spreads the attention evenly.": torch.zeros(4 * ROOM, 2 * ROOM)},
    conditions={
        "Your query does not read the place. So the token itself matches just as well as its copy: what tells one "
        "from the other?": lambda W: bool(W[PLACE].any()),
        "Your query does not read the token. So it cannot know a copy from anything else.": (
            lambda W: bool(W[TOKEN].any())
        ),
        "A block is filled with one number, so the query has the same 48 times. What takes each dimension to itself?": (
            lambda W: not any(_is_flat(W[room]) for room in (TOKEN, PLACE))
        ),
        "Token and place do not meet their like: keys have the token in their first half and the place in the second, "
        "and a score multiplies first half with first half.": _pairs_up,
        "Your head avoids what it should find: with all signs turned round it would be right.": (
            lambda W: not _finds_copies(-W)
        ),
        "The copy comes first, but too much of the attention stays at the place itself: what counts against this place "
        "must count for more.": lambda W: not _finds_copies(W) or _is_sure(W) or not _mostly_itself(W),
        "The copy comes first, but not everywhere with nine tenths of the attention. Is the head loud enough?": (
            lambda W: not _finds_copies(W) or _is_sure(W)
        ),
        "Most of the attention stays at the place itself. What is most similar to me in token *and* in place am I: one "
        "of the two parts must count against, and enough.": lambda W: _near(W, 0) < 0.3,
        "Your head looks at near places: likeness of places wins over likeness of tokens.": (
            lambda W: _near(W, 1, 2, 3) < 0.5
        ),
        "Being elsewhere wins over likeness of tokens: the place counts for too much.": (
            lambda W: _finds_copies(W) or not _finds_with_less_of_place(W)
        ),
        "Somewhere in the second copy, another place than the earlier copy has the largest weight. (We try several "
        "distances between the copies.)": _finds_copies,
    },
    hints=(
        "Two blocks are enough: the token's room into the first 48 columns, the place's into the last 48. Which sign "
        "does each need?",
        "Token plus, place minus. The place's vectors have a length of √24, so a place meets itself with 24 times the "
        "factor, divided by √96. That must take back most of what the token gains by meeting itself.",
        "A factor of 200 gives a match of tokens a score of 20. With −5 for the place, the place itself loses 12, the "
        "copy at most 2.",
    ),
    well_done="Content counts for, place against: the paper writes this second factor as −β.",
)

count_terms = Value(
    number="09.6",
    title="What changes in the expansion?",
    minutes=4,
    stub="""
# Two layers of 12 heads, positions in queries and keys only: 169 paths to the logits,
# a score has 2 · 2 = 4 terms in layer 0 and 14 · 14 = 196 in layer 1.
# With positions in the stream: how many paths, terms in layer 0, terms in layer 1?
answer = [..., ..., ...]
""",
    right=[338, 4, 676],
    wrong={
        "The position does not add *one* path: whatever a head moves from the stream, it moves the position along with "
        "the token.": [170, 4, 676],
        "What the logits are made of changes, too: whatever begins in a token can begin in a position.": [169, 4, 676],
        "In layer 1 the outputs of the 12 heads are in two parts now as well: what they moved of tokens, and of "
        "positions.": [338, 4, 196],
        "You count both kinds for each head, and the position a third time: it is one of the two things in the stream "
        "already.": [338, 4, 729],
        "You have doubled all 14 parts. Two of them, the token and the position themselves, stay as they are.": [
            338,
            4,
            784,
        ],
        "You count only what the heads have written. Each side still reads the token and the position themselves.": (
            [338, 4, 576]
        ),
        "In layer 0 each side of a score has a token and a position, as before. Does anything else get in there?": (
            [338, 16, 676]
        ),
        "This doubles the 196 terms. A score has two sides, and the parts of both are doubled.": [338, 4, 392],
        "Only one side of the score has more parts here. Queries and keys read the same stream.": [338, 4, 364],
        "The position is one of the 14 parts already. What becomes more is what the heads have written.": [338, 4, 225],
        "Each side still reads the token *and* the position themselves, beside what the heads have written.": (
            [338, 4, 625]
        ),
        "These are the parts on one side of a score. A term has one part from either side.": [338, 4, 26],
        "Nothing of this stays: values read positions now, so heads move them on.": [169, 4, 196],
        "One more path and one more part on each side would be so if positions came in at the end. They come in at the "
        "beginning, and go along every path.": [170, 4, 225],
        "A path begins once, with a token or with a position: it has no second side to be doubled.": [676, 4, 676],
    },
    hints=(
        "A path begins in W_E. What stands in its place now?",
        "The query of layer 1 reads the stream: what W_E has put there, and what each of 12 heads has moved. Each of "
        "these 13 has two parts.",
    ),
    well_done="Every term of the book's expansion becomes two on the way to the logits, and up to four in a score.",
)

# ---- K-composition ----------------------------------------------------------------------------------------------

ROOMS = "token", "noted", "answer", "place"

wire_induction = Value(
    number="09.7",
    title="Wire the induction head",
    minutes=5,
    stub="""
# Head 1:0 of an induction circuit: from which room does each of W_Q, W_K, W_V read,
# and into which does W_O write?
answer = [..., ..., ..., ...]  # of "token", "noted", "answer", "place"
""",
    right=["token", "noted", "token", "answer"],
    choices=ROOMS,
    wrong={
        "Query and key are exchanged: this head looks for places whose *token* is the one before me. It would find "
        "the token before, and its copies.": ["noted", "token", "token", "answer"],
        "A query from `noted` asks for the token *before* me. On the second `a` of `a b … a`, is that what you know of "
        "the place you want?": ["noted", "noted", "token", "answer"],
        "A query from `place` says where I am. How far back the copy stands is different each time.": (
            ["place", "noted", "token", "answer"]
        ),
        "Query and key compare places. How far back the copy stands is different each time: this head matches "
        "content.": ["place", "place", "token", "answer"],
        "The answer's room is empty when the query is made.": ["answer", "noted", "token", "answer"],
        "The answer's room is empty when the keys are made.": ["token", "answer", "token", "answer"],
        "A key from `token` says what stands at a place. Asked with my token, it finds me and my copies. What says of "
        "a place that it comes *after* a copy?": ["token", "token", "token", "answer"],
        "A key from `place` says where it is. No token can be compared with that.": (
            ["token", "place", "token", "answer"]
        ),
        "That is the pointer: a place that was noted is compared with places. Here head 0:0 has noted a token.": (
            ["noted", "place", "token", "answer"]
        ),
        "What the head copies is the note at the place it finds: the token *before* it, the one that you have "
        "already.": ["token", "noted", "noted", "answer"],
        "The head would copy *where* the token is that it finds, not which one.": (
            ["token", "noted", "place", "answer"]
        ),
        "The values read the answer's room, which is empty when this head reads.": (
            ["token", "noted", "answer", "answer"]
        ),
        "The head writes where the present token stands, and W_U does not read that room.": (
            ["token", "noted", "token", "token"]
        ),
        "The head writes among the notes. No later head would read them, and W_U does not.": (
            ["token", "noted", "token", "noted"]
        ),
        "The head writes among the places, and W_U does not read that room.": ["token", "noted", "token", "place"],
        "That is the first head of this circuit: it notes the token before.": ["place", "place", "token", "noted"],
    },
    hints=(
        "Stand on the second `a` of `a b … a`. What do you have? What does the place that you want know of you?",
        "The `b` has noted that an `a` came before it. The query is my token, the key its note.",
        "What should be said next is the token of that place: W_V reads the same room as W_Q.",
    ),
    well_done="The keys read what the first head wrote: K-composition. Queries and values read the stream as it began.",
)

# ---- predictions ------------------------------------------------------------------------------------------------

loss_by_hand = NumberPrediction(
    number="09.A",
    question="On random repeats, the hand-made circuit is right nearly every time. What is its mean loss on real text, "
    "in nats, with the factor 8? (A blind guess has 6.2, the trained laptop model about 2.4.)",
    right="between 4.5 and 6.2: a little better than a blind guess",
    upper=(2.4, 4.5, 6.2, 20.0),
    choices={
        "below 2.4: better than the trained model": "That would be so if most of a text were repetition. What the "
        "circuit knows is what came after the present token last time; of which tokens are frequent it knows nothing.",
        "between 2.4 and 4.5: nearly as good as the trained model": "A good part of the tokens in a context have come "
        "before, and yet what followed them last time follows again in fewer than half of the cases. And when it does "
        "not, the circuit has nothing else to say.",
        "between 4.5 and 6.2: a little better than a blind guess": "So it is, by about a nat. Where a pair of "
        "tokens comes again, the circuit gains nearly five nats on a blind guess. But that is less than a third of the "
        "places, and it loses on the others: more than a nat where something else follows.",
        "above 6.2: worse than a blind guess": "It can happen: a circuit that is sure of itself loses more by a "
        "mistake than it gains by being right. It depends on how loud the answer is, as Table 9.2 shows.",
    },
)

what_training_keeps = Prediction(
    number="09.B",
    question="The hand-made circuit has a loss of 0.3 nats on the second copy of random tokens. Now come 300 steps of "
    "training on real text. What becomes of this loss?",
    right="It rises by several nats, although the head goes on looking at the right place.",
    choices={
        "It falls further: training improves what is there.": "Training improves the loss on *text*. Random repeats do "
        "not occur in it, so nobody asks for this loss.",
        "It stays where it is: the circuit is right already, so there is nothing to learn.": "The circuit is right on "
        "repeats. On text it is often wrong, and each time all of its weights are moved.",
        "It rises to that of a blind guess: training on something else destroys the circuit.": "The weights move, but "
        "the circuit is of use in text as well, so that it is not given up: the heads still do what they did.",
        "It rises by several nats, although the head goes on looking at the right place.": "Who looks where stays, "
        "how much it counts does not: in text, what came last time is one piece of evidence among others.",
    },
)
