"""The exercises of chapter 03, and the answers that lie near."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction

# ---- one head's path ----------------------------------------------------------------------------------------------


def logits_without(
    logits: Float[Tensor, "pos d_vocab"],
    x_0: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "head dest src"],
    W_V: Float[Tensor, "head d_model d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    head: int,
) -> Float[Tensor, "pos d_vocab"]:
    """The logits without the path through one head, from those of the whole model."""
    moved = pattern[head] @ x_0
    return logits - moved @ W_V[head] @ W_O[head] @ W_U


def _one_layer() -> list[tuple]:
    """A text in two random one-layer models of different sizes, and the head to delete."""
    cases = []
    for seed, (n, n_heads, d_model, d_head, d_vocab, head) in enumerate(((5, 3, 6, 2, 9, 1), (7, 4, 8, 3, 11, 2))):
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=generator) / shape[-2] ** 0.5

        x_0, W_U = normal(n, d_model), normal(d_model, d_vocab)
        W_V, W_O = normal(n_heads, d_model, d_head), normal(n_heads, d_head, d_model)
        pattern = _softmax_of_past(4 * normal(n_heads, n, n))
        logits = (x_0 + (pattern @ x_0 @ W_V @ W_O).sum(0)) @ W_U
        cases.append((logits, x_0, pattern, W_V, W_O, W_U, head))
    return cases


def _masked(scores: Tensor, first: int) -> Tensor:
    """Scores without the sources from ``first`` places after the destination on."""
    return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(first), -torch.inf)


def _softmax_of_past(scores: Tensor) -> Tensor:
    return _masked(scores, 1).softmax(-1)


def _path(x_0: Tensor, pattern: Tensor, W_V: Tensor, W_O: Tensor, W_U: Tensor, head: int) -> Tensor:
    return pattern[head] @ x_0 @ W_V[head] @ W_O[head] @ W_U


delete_a_head = Function(
    number="03.1",
    title="Delete a head on paper",
    minutes=6,
    stub='''
def logits_without(
    logits: Float[Tensor, "pos d_vocab"],
    x_0: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "head dest src"],
    W_V: Float[Tensor, "head d_model d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    head: int,
) -> Float[Tensor, "pos d_vocab"]:
    """The logits without the path through one head, from those of the whole model."""
    ...
''',
    reference=logits_without,
    cases=_one_layer,
    wrong={
        "This is the path through the head. It is what should be gone; return what is left.": lambda logits, *rest: (
            _path(*rest)
        ),
        "You added the path to logits that contain it already, so the head now counts twice.": (
            lambda logits, *rest: logits + _path(*rest)
        ),
        "Your W_OV is transposed. Vectors of the stream are rows, so the weights multiply them from the right, in the "
        "order in which the data meets them.": (
            lambda logits, x_0, pattern, W_V, W_O, W_U, head: (
                logits - pattern[head] @ x_0 @ (W_V[head] @ W_O[head]).T @ W_U
            )
        ),
        "The pattern is transposed. Its rows are destinations and must sum to 1.": (
            lambda logits, x_0, pattern, W_V, W_O, W_U, head: logits - _path(x_0, pattern.mT, W_V, W_O, W_U, head)
        ),
        "The pattern is missing. This is right only for a head that gives all of its attention to the present token.": (
            lambda logits, x_0, pattern, W_V, W_O, W_U, head: logits - x_0 @ W_V[head] @ W_O[head] @ W_U
        ),
        "W_OV is missing: you took off the attended embeddings as they are, but the head passes them through its W_V "
        "and W_O.": (lambda logits, x_0, pattern, W_V, W_O, W_U, head: logits - pattern[head] @ x_0 @ W_U),
        "These are the logits with all heads gone: only the direct path is left. Delete one head.": (
            lambda logits, x_0, pattern, W_V, W_O, W_U, head: x_0 @ W_U
        ),
        "This keeps the head and deletes all the others: the direct path and the path of this head are left.": (
            lambda logits, x_0, *rest: x_0 @ rest[3] + _path(x_0, *rest)
        ),
        "The direct path is gone as well: only the other heads are left.": (
            lambda logits, x_0, *rest: logits - x_0 @ rest[3] - _path(x_0, *rest)
        ),
        "This deletes another head: heads are counted from 0.": (
            lambda logits, *rest: logits - _path(*rest[:-1], rest[-1] - 1)
        ),
        "You took the path off the direct path alone. The other heads are still there, so keep their paths.": (
            lambda logits, x_0, *rest: x_0 @ rest[3] - _path(x_0, *rest)
        ),
        "The head is still there and looks at its own place: the present embedding goes through its W_V and W_O. A "
        "head that is gone writes nothing.": lambda logits, x_0, pattern, W_V, W_O, W_U, head: (
            logits - (pattern[head] @ x_0 - x_0) @ W_V[head] @ W_O[head] @ W_U
        ),
        "Only the last place is changed. The head has written at every place, so take its path off each row.": (
            lambda logits, *rest: torch.cat([logits[:-1], (logits - _path(*rest))[-1:]])
        ),
        "The pattern is that of one head, but the weights are those of all heads, added up. Each head has its own W_V "
        "and W_O.": lambda logits, x_0, pattern, W_V, W_O, W_U, head: (
            logits - pattern[head] @ x_0 @ (W_V @ W_O).sum(0) @ W_U
        ),
        "Here the head goes on writing its mean over this text. That is a good way to remove a head, and a different "
        "one: now its whole path should be gone.": (lambda logits, *rest: logits - _path(*rest) + _path(*rest).mean(0)),
        "These are probabilities. Leave out the softmax: only the logits are a sum of paths.": (
            lambda logits, *rest: (logits - _path(*rest)).softmax(-1)
        ),
    },
    hints=(
        "The logits are a sum of 1 + n_heads paths. To delete one, you need its value and nothing else.",
        "The path of a head: fetch (its pattern times x_0), then W_V, W_O and W_U from the right.",
        "`logits - pattern[head] @ x_0 @ W_V[head] @ W_O[head] @ W_U`",
    ),
    well_done="In one layer a head can be deleted with a single subtraction, since no other head reads what it writes. "
    "With a second layer this is no longer so.",
)

# ---- what a softmax sees ------------------------------------------------------------------------------------------

what_softmax_sees = Value(
    number="03.2",
    title="What the pattern does not notice",
    minutes=5,
    stub="""
# Does the pattern stay the "same" for every text, or can it "change", if in the QK circuit …
# 1. every row loses its mean?       (a row: one destination token)
# 2. every column loses its mean?    (a column: one source token)
# 3. all entries grow by 5?
# 4. all entries are doubled?
answer = ...  # a list of four words
""",
    right=["same", "change", "same", "change"],
    choices=("same", "change"),
    wrong={
        "Question 2: the means of the columns differ from source to source, and the softmax runs over sources. Taking "
        "them off makes some sources more attractive to every destination.": ["same", "same", "same", "change"],
        "Rows and columns are exchanged. Which index does the softmax sum over: the destination or the source?": (
            ["change", "same", "same", "change"]
        ),
        "Question 4: a softmax ignores what is *added* to all scores, not what they are multiplied by. Doubled scores "
        "make attention sharper.": ["same", "change", "same", "same"],
        "Question 3: adding one number to every entry adds it to every entry of each row, as in question 1.": (
            ["same", "change", "change", "change"]
        ),
        "A number that is added to all scores of a destination does not show. Look at e^(s + c) / Σ e^(s + c): what "
        "becomes of c?": ["change"] * 4,
        "Question 1: each row may have a mean of its own, since each destination has a softmax of its own. Nothing "
        "compares two rows.": ["change", "change", "same", "change"],
    },
    hints=(
        "A softmax does not notice a number that is added to all of its inputs. For each question, write down what is "
        "added to the scores of *one* destination.",
        "For one destination, question 1 adds one number to all of its sources. Question 2 adds a different one to "
        "each.",
    ),
    well_done="So the mean of a row says nothing about the head, and the mean of a column does: it says how attractive "
    "a source is to everyone.",
)

# ---- from tables to boosts ----------------------------------------------------------------------------------------


def boosts_by_tables(
    qk: Float[Tensor, "dest src"], ov: Float[Tensor, "src out"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "pos out"]:
    """What a head that is blind to positions adds to the logits at each place."""
    scores = qk[tokens][:, tokens]
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(future, -torch.inf).softmax(-1)
    return pattern @ ov[tokens]


def _tables() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Tables over 9 and 12 tokens, OV less its row means, with texts of 5 and 7 tokens."""
    cases = []
    for seed, (n, d_vocab) in enumerate(((5, 9), (7, 12))):
        generator = torch.Generator().manual_seed(seed)
        qk, ov = torch.randn(2, d_vocab, d_vocab, generator=generator)
        tokens = torch.randint(d_vocab, (n,), generator=generator)
        cases.append((2 * qk, ov - ov.mean(1, keepdim=True), tokens))
    return cases


def _by(pattern_of_scores):
    """The boosts where the scores of the text are turned into a pattern in another way."""
    return lambda qk, ov, tokens: pattern_of_scores(qk[tokens][:, tokens]) @ ov[tokens]


def _pattern(qk: Tensor, tokens: Tensor) -> Tensor:
    return _softmax_of_past(qk[tokens][:, tokens])


predict_from_tables = Function(
    number="03.3",
    title="A head from its two tables",
    minutes=8,
    stub='''
def boosts_by_tables(
    qk: Float[Tensor, "dest src"], ov: Float[Tensor, "src out"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, "pos out"]:
    """What a head that is blind to positions adds to the logits at each place."""
    ...
''',
    reference=boosts_by_tables,
    cases=_tables,
    wrong={
        "Every place sees the whole text here, later tokens too. A destination may look only at itself and back.": (
            _by(lambda scores: scores.softmax(-1))
        ),
        "The mask lets each place see one token too many: the one that comes next.": (
            _by(lambda scores: _masked(scores, 2).softmax(-1))
        ),
        "The mask hides each place from itself as well, so nothing is left for the first one, and its softmax is nan. "
        "A destination may look at itself.": _by(lambda scores: _masked(scores, 0).softmax(-1)),
        "Every entry is nan. A mask of zeros and ones that is multiplied by −inf does that, since 0 · (−inf) is no "
        "number; `masked_fill` writes −inf only where you want it.": (
            lambda qk, ov, tokens: torch.full_like(ov[tokens], torch.nan)
        ),
        "The mask came after the softmax: later tokens have taken their share of the attention, and what is left sums "
        "to less than 1.": _by(lambda scores: scores.softmax(-1).tril()),
        "Later tokens got the score 0 here. That is a score like any other: to have no attention takes −inf.": (
            _by(lambda scores: scores.tril().softmax(-1))
        ),
        "The softmax runs over destinations: the attention that a *source* gets sums to 1. It is each destination that "
        "has one unit of attention to give.": _by(lambda scores: _masked(scores, 1).softmax(0)),
        "You divided by the right sums, but along the wrong axis: without `keepdim=True` the sum of each destination "
        "lands on a *column* of the table.": _by(lambda scores: scores.exp().tril() / scores.exp().tril().sum(-1)),
        "The exponentials of the scores must be divided by their sum, for each destination: that makes them shares.": (
            _by(lambda scores: scores.exp().tril())
        ),
        "These are raw scores, without a softmax: attention must be positive, and sum to 1 for each destination.": (
            _by(lambda scores: scores.tril())
        ),
        "You took the softmax over the vocabulary and then looked up the text's tokens. The competition for attention "
        "is among the tokens of this text, one score for each place.": (
            lambda qk, ov, tokens: qk.softmax(-1)[tokens][:, tokens].tril() @ ov[tokens]
        ),
        "You read the scores in the first rows and columns of the QK table. Its rows and columns are tokens of the "
        "vocabulary, not places: look up those that the text has.": (
            lambda qk, ov, tokens: _pattern(qk, torch.arange(len(tokens))) @ ov[tokens]
        ),
        "The attention is right, but it mixes the first rows of the OV table. Its rows are tokens of the vocabulary, "
        "not places: look up those that the text has.": lambda qk, ov, tokens: _pattern(qk, tokens) @ ov[: len(tokens)],
        "You took the OV row of the *destination*. What a head writes depends on what it finds, so on the source.": (
            lambda qk, ov, tokens: ov[tokens]
        ),
        "The pattern is transposed: what stands at a place is handed to earlier places in it. Its rows are "
        "destinations.": (lambda qk, ov, tokens: _pattern(qk, tokens).mT @ ov[tokens]),
        "You divided the scores by the root of a width. W_QK has that in it already: the entries of QK are scores as "
        "they stand.": lambda qk, ov, tokens: _pattern(qk / qk.shape[-1] ** 0.5, tokens) @ ov[tokens],
    },
    hints=(
        "First the scores: a square table with one row and one column for each place of the text. Then the attention. "
        "Then a weighted mean of rows of OV.",
        "`qk[tokens][:, tokens]` has a destination in each row and a source in each column. Hide what comes later.",
        "Scores of later tokens become -inf, then `.softmax(-1)`; that pattern, times `ov[tokens]`.",
    ),
    well_done="No stream, no queries, keys or values: two tables hold a head, as far as tokens go. The positions add "
    "three more tables to the score.",
)

# ---- what may be concluded ----------------------------------------------------------------------------------------

what_two_cuts_say = Value(
    number="03.4",
    title="Two small losses and a large one",
    minutes=4,
    stub="""
# Delete one head of a one-layer model, and the loss rises by 0.02 nats; delete another instead, and
# it rises by 0.02, too. Delete both, and it rises by 0.50. What may be concluded?
# "unimportant":  neither head does much for the model
# "add up":       the two together are worth 0.04 nats
# "stand in":     each does much of what the other does
# "feeds":        one head reads what the other writes
answer = ...
""",
    right="stand in",
    choices=("unimportant", "add up", "stand in", "feeds"),
    wrong={
        "That is what the single deletions seem to say. But each was made while the other head was at work, and "
        "without both half a nat is lost.": "unimportant",
        "If single costs added up, deleting both would cost 0.04. It costs twelve times as much.": "add up",
        "In one layer no head reads another: all of them read the embeddings, and their paths only add up in the "
        "logits. They meet in the softmax at the end.": "feeds",
    },
    hints=(
        "Both together cost 0.46 nats more than the two single costs. While one head was gone, who did its work?",
        "Heads add up in the logits, and not in the loss: once the right token has most of the probability, a second "
        "boost of it gains little.",
    ),
    well_done="A small cost of one head, in the company of the others, never means that nothing in the model depends "
    "on what it does. Ask all heads, or their sum.",
)

# ---- bugs ---------------------------------------------------------------------------------------------------------


def no_bug() -> Float[Tensor, "head 2 2"]:
    """For each head: attention to `keep` from [in, at], then its boosts of [mind, bay]."""
    first = [[0.9, 0.1], [2.0, -0.5]]  # mostly from ` in`, for ` mind`
    second = [[0.1, 0.9], [-0.5, 2.0]]  # mostly from ` at`, for ` bay`
    return torch.tensor([first, second])


def _sum_of_products(heads: Tensor) -> Tensor:
    """``[destination, out]``: what the heads add to the logits together."""
    return torch.einsum("hd,ho->do", heads[:, 0], heads[:, 1])


def _does_it(heads: Tensor) -> bool:
    """Whether the heads raise both rules by 1 nat or more and neither crossed pair, with attention that may be."""
    raised = _sum_of_products(heads)
    fits = (raised.diagonal() >= 1 - 1e-6).all() and (raised[[0, 1], [1, 0]] <= 1e-6).all()
    return bool(fits and (heads[:, 0] >= 0.1 - 1e-6).all() and (heads[:, 0] <= 1).all())


without_a_bug = Built(
    number="03.5",
    title="Two rules and no bug",
    minutes=8,
    stub='''
def no_bug() -> Float[Tensor, "head 2 2"]:
    """For each head: attention to `keep` from [in, at], then its boosts of [mind, bay]."""
    return ...
''',
    shape=(None, 2, 2),
    example=no_bug,
    wrong={
        "This is the bug itself: one head that attends from both and raises both. Its four products are all positive, "
        "so ` mind` rises after ` at`, too.": torch.ones(1, 2, 2),
        "This doubles the bug: two heads that do the same add up to one that does twice as much.": torch.ones(2, 2, 2),
        "That would do, if attention could be 0. A softmax leaves some for every source: give each destination 0.1 at "
        "least, and see what that lets through.": torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]]),
    },
    conditions={
        "Without a head there is no rule.": lambda heads: len(heads) > 0,
        "The two rows of each head are exchanged: its attention comes first, then its boosts.": lambda heads: (
            not _does_it(heads.flip(1))
        ),
        "Attention is a share, between 0 and 1. Only the boosts can be negative, or above 1.": lambda heads: bool(
            ((heads[:, 0] >= 0) & (heads[:, 0] <= 1)).all()
        ),
        "A softmax never gives exactly 0: every attention here should be 0.1 or more.": lambda heads: bool(
            (heads[:, 0] >= 0.1 - 1e-6).all()
        ),
        "Every head here has the same ratio of attention from ` in` to attention from ` at`. Then their sum is still "
        "one product, as from a single head: what raises ` mind` after ` in` raises it after ` at`.": lambda heads: (
            torch.linalg.matrix_rank(heads[:, 0], atol=1e-6).item() == 2
        ),
        "The boosts are exchanged: these heads raise ` bay` after ` in` and ` mind` after ` at`.": lambda heads: (
            not _does_it(torch.stack([heads[:, 0], heads[:, 1].flip(1)], dim=1))
        ),
        "Both rules are raised, but not by 1 nat or more: add up attention times boost over all heads.": lambda heads: (
            not 0 < _sum_of_products(heads).diagonal().min() < 1 - 1e-6
        ),
        "A rule is missing: together the heads should raise mind after in, and bay after at, by 1 nat or more.": (
            lambda heads: bool((_sum_of_products(heads).diagonal() >= 1 - 1e-6).all())
        ),
        "There is a bug left: a crossed pair is raised. A head acts wherever it has some attention; who could lower "
        "again what it must not raise?": _does_it,
    },
    hints=(
        "Write the boosts of one head as a table, destinations by outs: a column times a row. What must the sum look "
        "like?",
        "The sum should be positive on the diagonal, and 0 or less beside it. No single head does that: its attention "
        "is positive, so if its table is positive on the diagonal, it is positive everywhere.",
        "Take two heads, one mostly for ` in`, the other mostly for ` at`. Each lowers a little what the other raises.",
    ),
    well_done="A head is one product and cannot avoid its bugs. A sum of heads can, if one takes off what another "
    "adds. So a bug of a head is a matter of form, and a bug of the model is an observation.",
)

# ---- one wave -----------------------------------------------------------------------------------------------------


def three_back() -> Float[Tensor, "2 2"]:
    """W_QK that asks for the token three back; place i has the row (sin 0.4 i, cos 0.4 i)."""
    angle = 3 * 0.4
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, sin], [-sin, cos]])


def _turn(angle: float) -> Tensor:
    return torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])


def _wave_scores(W: Tensor) -> Tensor:
    """``[place, place]``: the scores of 20 places by one wave."""
    places = 0.4 * torch.arange(20).double()
    rows = torch.stack([places.sin(), places.cos()], dim=1)
    return rows @ W @ rows.T


def _only_distance(W: Tensor) -> bool:
    scores = _wave_scores(W)
    return bool((scores[1:, 1:] - scores[:-1, :-1]).abs().max() < 0.01 * scores.abs().max())


def _angle(W: Tensor) -> float:
    return math.atan2(W[0, 1] - W[1, 0], W[0, 0] + W[1, 1])


OTHER_TURNS = {
    "Without a turn the query meets its own key: this head asks for the present token.": 0.0,
    "This turns the other way: the head asks for the token three *ahead*, which is hidden from it.": -1.2,
    "This turns by one step of the wave, and so asks for the previous token.": 0.4,
    "This turns by two steps of the wave, and so asks for the token two back.": 0.8,
    "This turns by four steps of the wave, and so asks for the token four back.": 1.6,
    "You turned by 3, the distance. One token back is a turn by the frequency, 0.4.": 3.0,
    "The turn is right and the sign is not: the score is smallest three back.": 1.2 - math.pi,
    "You divided the distance by the frequency. Each step turns by 0.4, so three steps turn by their product.": (
        3 / 0.4 - 2 * math.pi
    ),
    "This turns by 1.2 degrees. `math.sin` and `math.cos` want radians, and 0.4 is in radians.": math.radians(1.2),
    "The sine and the cosine of your matrix have changed places: with an angle of 0 it would turn by a right angle.": (
        math.pi / 2 - 1.2
    ),
}

one_wave = Built(
    number="03.6",
    title="Three tokens back, with one wave",
    minutes=8,
    stub='''
def three_back() -> Float[Tensor, "2 2"]:
    """W_QK that asks for the token three back; place i has the row (sin 0.4 i, cos 0.4 i)."""
    return ...
''',
    shape=(2, 2),
    example=three_back,
    wrong={
        **{text: lambda angle=angle: _turn(angle) for text, angle in OTHER_TURNS.items()},
        "This is a reflection, not a rotation: the score depends on the sum of the two places, so the head asks for "
        "something else at each.": lambda: torch.tensor(
            [[math.cos(1.2), math.sin(1.2)], [math.sin(1.2), -math.cos(1.2)]]
        ),
    },
    conditions={
        "All scores are 0: this head asks for nothing.": lambda W: W.abs().max() > 1e-6,
        "The score at a given distance changes along the text. Only a rotation (times a number) makes it depend on the "
        "distance alone.": _only_distance,
        **{text: lambda W, angle=angle: abs(_angle(W) - angle) > 0.01 for text, angle in OTHER_TURNS.items()},
        "The score depends on the distance alone, but it is not largest at three back.": lambda W: (
            round(_angle(W) / 0.4) == 3
        ),
        "Nearly: among whole distances three back wins, but the top of the wave lies beside it.": lambda W: (
            abs(_angle(W) - 1.2) < 0.01
        ),
    },
    hints=(
        "The score is (row of i) W (row of j)ᵀ. Choose W so that (row of i) W is the row of place i − 3.",
        "sin(a − b) = sin a cos b − cos a sin b, and cos(a − b) = cos a cos b + sin a sin b, with a = 0.4 i. What is "
        "b?",
    ),
    well_done="The score of one wave has a broad top, and it comes back every 16 tokens. Sixteen waves of "
    "different lengths agree on one distance only.",
)

# ---- predictions --------------------------------------------------------------------------------------------------

two_heads_gone = Prediction(
    number="03.A",
    question="Remove one head of our model and the loss rises a little. Now remove two together, for each of the 66 "
    "pairs. How does the cost of both compare with the two single costs, added?",
    choices={
        "It is the same for nearly all pairs.": "This takes the loss for linear in the logits. The logits are a sum "
        "over heads, but the loss is read off after a softmax.",
        "It is less for nearly all pairs.": "This takes heads for links of a chain: once one link is "
        "broken, nothing more can be lost. But these heads work side by side.",
        "It is more for nearly all pairs.": "63 of the 66 pairs cost more. Heads do a part of each other's work, and a "
        "softmax that is nearly sure gains little from one more boost: removing one head is cheap while the other is "
        "there.",
        "It is more for some pairs, and less for as many others.": "This takes the excess for chance. But two boosts "
        "of the right token that have nothing else to do with each other cost more together as well: after the first, "
        "the second gains less.",
    },
    right="It is more for nearly all pairs.",
)

do_bugs_come_through = Prediction(
    number="03.B",
    question="We hide the source from all twelve heads and compare. With the source in sight, the right token gains "
    "1.1 nats of log-probability, on average over our bugs. And the wrong token, the one of the crossed rule?",
    choices={
        "It loses: the source makes it less likely.": "Training could have used one head to take back "
        "what another should not raise. A sum of heads can do that; this one does not.",
        "It stays about where it is.": "This assumes that the other heads repair the bug. They could, as "
        "exercise 03.5 shows, but they do not.",
        "It gains, but less than a quarter as much as the right one.": "This assumes that the bug of one head drowns "
        "among twelve. But heads that attend to the same source often raise the same tokens.",
        "It gains about half as much, or more.": "It gains 0.9 nats on average. What one head is forced to raise, "
        "the others leave standing.",
    },
    right="It gains about half as much, or more.",
)
