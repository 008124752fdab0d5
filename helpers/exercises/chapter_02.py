"""The exercises of chapter 02, and the answers that lie near."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction

SIZES = ((3, 5), (4, 2), (2, 7))  # of tables with some present tokens, and all that follows them


def _counts(seed: int, shape: tuple[int, int]) -> Int[Tensor, "token next"]:
    return torch.randint(1, 12, shape, generator=torch.Generator().manual_seed(seed))


# ---- what should stand in the table -------------------------------------------------------------------------------


def ideal_table(counts: Int[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """log p(b | a) from how often a (row) is followed by b (column); every pair occurs."""
    return (counts / counts.sum(1, keepdim=True)).log()


write_ideal_table = Function(
    number="02.1",
    title="Write the ideal table",
    minutes=4,
    stub='''
def ideal_table(counts: Int[Tensor, "a b"]) -> Float[Tensor, "a b"]:
    """log p(b | a) from how often a (row) is followed by b (column); every pair occurs."""
    ...
''',
    reference=ideal_table,
    cases=lambda: [(_counts(seed, size),) for seed, size in enumerate(SIZES)],
    wrong={
        "This is the log of p(a, b), the share of the pair in the whole text. The softmax would turn each of its rows "
        "into the right prediction, but log p(b | a) asks what comes *given* a.": (
            lambda counts: (counts / counts.sum()).log()
        ),
        "You divided by how often the *next* token occurs. This is log p(a | b): it guesses the present token from the "
        "next one.": lambda counts: (counts / counts.sum(0)).log(),
        "These are probabilities. The model puts its table through a softmax, so the table must hold their "
        "logarithms.": lambda counts: counts / counts.sum(1, keepdim=True),
        "As logits these would do: each row is off by a constant only. But a log-likelihood is the log of a "
        "probability, and the probabilities in a row sum to 1.": lambda counts: counts.log(),
        "You took the mean off each row of logs. As logits these would do, but the probabilities in a row do not sum "
        "to 1 yet.": lambda counts: counts.log() - counts.log().mean(1, keepdim=True),
        "You used the counts as logits. A softmax of counts makes a token e times as likely for every further time "
        "that it occurred; probabilities should be proportional to the counts.": lambda counts: (
            counts.float().log_softmax(1)
        ),
        "The frequency of the next token is taken off: this is the log of p(b | a) / p(b), how far a *lifts* b. A "
        "model without layers must know the frequencies as well.": (
            lambda counts: (counts * counts.sum() / counts.sum(1, keepdim=True) / counts.sum(0)).log()
        ),
        "You added 1 to every count. Such smoothing helps on text not seen before; on this text it costs a little.": (
            lambda counts: ((counts + 1) / (counts + 1).sum(1, keepdim=True)).log()
        ),
        "This is in bits. The book uses natural logarithms, as PyTorch's cross-entropy does.": (
            lambda counts: (counts / counts.sum(1, keepdim=True)).log2()
        ),
        "These are the shares p(a, b) of the pairs in the whole text. The task asks for what comes *given* a, and for "
        "its logarithm.": lambda counts: counts / counts.sum(),
        "You used the probabilities as logits. The softmax undoes a logarithm, and here there is none: all next tokens "
        "come out nearly equally likely.": (lambda counts: (counts / counts.sum(1, keepdim=True)).log_softmax(1)),
        "All rows are the same: this table knows how frequent each next token is, but ignores the present one.": (
            lambda counts: (counts.sum(0) / counts.sum()).log().expand(counts.shape)
        ),
        "You divided each row by its mean, not by its sum, so the probabilities in a row do not sum to 1.": (
            lambda counts: (counts / counts.float().mean(1, keepdim=True)).log()
        ),
        "You divided each row by its largest count. The likeliest next token gets the probability 1, and the row sums "
        "to more than that.": lambda counts: (counts / counts.amax(1, keepdim=True)).log(),
        "This is a quotient of two logarithms. What is asked for is the logarithm of a quotient.": (
            lambda counts: counts.log() / counts.sum(1, keepdim=True).log()
        ),
        "These are the counts as they were given. The table holds logarithms of probabilities.": lambda counts: counts,
    },
    laws={
        "Your result changes when all counts double. But p(b | a) is a share: it stays.": (
            lambda counts: (2 * counts,),
            1.0,
        )
    },
    hints=(
        "p(b | a) asks: of all the places where a stands, in what share does b follow?",
        "Divide each row by its own sum. With `keepdim=True` the sums stay a column beside their rows.",
    ),
    well_done="This is the table that the derivation asks of W_E W_U.",
)

constants = Value(
    number="02.2",
    title="Which changes does the loss see?",
    minutes=4,
    stub="""
# (1) 5 added to all entries of one row, (2) to all entries of one column,
# (3) to all entries of the table, (4) all entries doubled
answer = ...  # a list of four, each "same" or "changes"
""",
    right=["same", "changes", "same", "changes"],
    choices=("same", "changes"),
    wrong={
        "The softmax cannot see a constant that all its entries share, and its entries are those of a row. A constant "
        "on a column makes one next token likelier after everything.": ["same", "same", "same", "changes"],
        "It is the other way round: rows are present tokens, and the softmax runs along a row, over the next tokens.": [
            "changes",
            "same",
            "same",
            "changes",
        ],
        "Take one row and make all of it 5 higher. Write down its softmax: where does the factor e⁵ appear?": (
            ["changes", "changes", "same", "changes"]
        ),
        "Doubling is not adding a constant. The differences within a row double, so the model becomes surer of "
        "everything it says.": ["same", "changes", "same", "same"],
        "The softmax removes some changes, but not all. What makes one next token likelier than the others?": ["same"]
        * 4,
        "Every number in the table counts, but only in comparison with the others in its row.": ["changes"] * 4,
        "If all entries of the table are 5 higher, so are all entries of each row. What does a softmax make of that?": (
            ["same", "changes", "changes", "changes"]
        ),
    },
    hints=(
        "The loss sees the table only through a softmax over each row.",
        "e^(x + 5) = e⁵ e^x. When does the same e⁵ stand in the numerator and in the whole denominator?",
    ),
    well_done="Only differences within a row mean anything.",
)


# ---- how near -----------------------------------------------------------------------------------------------------

alternating = Value(
    number="02.3",
    title="The best loss on a small text",
    minutes=5,
    stub="answer = ...  # in nats per token",
    right=math.log(2) / 2,
    tolerance=0.005,
    wrong={
        "That is the loss after `a` alone. Every second token is `b` or `c`, and after those nothing is left to guess. "
        "The loss is a mean over all places.": math.log(2),
        "You took the mean over the three rows. A row counts as often as its token occurs, and half of the text is "
        "`a`.": math.log(2) / 3,
        "You counted one uncertain place in four. A period, a b a c, has two places that come after `a`.": (
            math.log(2) / 4
        ),
        "The text is periodic, so a model that looks back further would have nothing left to guess. This one sees `a` "
        "alone, and after `a` both `b` and `c` occur.": 0.0,
        "That is the entropy of the unigrams. The model does look at the present token.": 1.5 * math.log(2),
        "That is the loss of knowing nothing: three tokens, all equally likely.": math.log(3),
        "That is in bits; the book uses nats, so ln and not log₂.": 0.5,
        "That is a mean of probabilities, not a loss. Take −ln at each place first, then the mean.": 0.75,
        "You took the mean of the probabilities first and the logarithm afterwards. The loss is the mean of the "
        "logarithms.": -math.log(0.75),
        "That is the loss after `a` alone, and in bits. The task asks for the mean over all places, in nats.": 1.0,
        "That is the entropy of the unigrams, in bits. The model does look at the present token, and the book uses "
        "nats.": 1.5,
        "That is the entropy of whole pairs, each of which has p = ¼. The model is told the first token of a pair and "
        "has to predict the second only.": math.log(4),
        "A quarter is how often the best guess is wrong. The loss does not count errors: it is the mean of −ln p of "
        "what came.": 0.25,
        "That is with logarithms to the base 10. A nat belongs to the natural logarithm.": math.log10(2) / 2,
    },
    hints=(
        "What comes after `b`, and how surely? After `c`? After `a`?",
        "Write down −ln p(next | present) at each place of one period, a b a c, and take the mean.",
    ),
    well_done="That is the entropy of the text's bigrams. To get below it a model must look back.",
)


def surplus(counts: Int[Tensor, "a b"], logits: Float[Tensor, "a b"]) -> Float[Tensor, " a"]:
    """What each row of a table adds to the loss above the entropy, in nats; every pair occurs."""
    log_p = (counts / counts.sum(1, keepdim=True)).log()
    log_q = logits.log_softmax(1)
    return (counts * (log_p - log_q)).sum(1) / counts.sum()


def _tables() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [(_counts(seed, size), torch.randn(size, generator=generator)) for seed, size in enumerate(SIZES)]


def _log_p(counts: Tensor, dim: int = 1) -> Tensor:
    return (counts / counts.sum(dim, keepdim=True)).log()


def _share(counts: Tensor, values: Tensor) -> Tensor:
    """What each row adds to the mean over the text."""
    return (counts * values).sum(1) / counts.sum()


def _first_one_split(counts: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The first next token becomes two, each of them half as likely, in the text as in the table."""
    other_counts, other_logits = 2 * counts[:, 1:], logits[:, 1:] + math.log(2)
    first_counts, first_logits = counts[:, :1], logits[:, :1]
    return (
        torch.cat([first_counts, first_counts, other_counts], dim=1),
        torch.cat([first_logits, first_logits, other_logits], dim=1),
    )


def _backwards(counts: Tensor, logits: Tensor) -> Tensor:
    """KL(q ‖ p) of each row, where KL(p ‖ q) would be right."""
    return (logits.softmax(1) * (logits.log_softmax(1) - _log_p(counts))).sum(1)


write_surplus = Function(
    number="02.4",
    title="What does each row cost?",
    minutes=8,
    stub='''
def surplus(counts: Int[Tensor, "a b"], logits: Float[Tensor, "a b"]) -> Float[Tensor, " a"]:
    """What each row of a table adds to the loss above the entropy, in nats; every pair occurs."""
    ...
''',
    reference=surplus,
    cases=_tables,
    wrong={
        "This is each row's part of the whole loss. It still contains the entropy of the bigrams, which no table can "
        "avoid.": lambda counts, logits: -_share(counts, logits.log_softmax(1)),
        "This is the divergence of each row by itself. How much it adds to the loss also depends on how often the "
        "row's token occurs.": lambda counts, logits: (
            (counts * (_log_p(counts) - logits.log_softmax(1))).sum(1) / counts.sum(1)
        ),
        "You gave all rows the same weight, one over their number. A row should count as often as its token occurs.": (
            lambda counts, logits: (
                (counts * (_log_p(counts) - logits.log_softmax(1))).sum(1) / counts.sum(1) / len(counts)
            )
        ),
        "This is the divergence the wrong way round, weighted by what the *model* says. Pairs occur as often as the "
        "text has them, so the weights must come from p, not from q.": lambda counts, logits: (
            counts.sum(1) / counts.sum() * _backwards(counts, logits)
        ),
        "This is the divergence the wrong way round, weighted by what the *model* says, and how often the row's token "
        "occurs is left out.": lambda counts, logits: _backwards(counts, logits),
        "This is the cross-entropy of each row by itself. It still contains the entropy, which no table can avoid, and "
        "how often the row's token occurs is left out.": lambda counts, logits: (
            -(counts * logits.log_softmax(1)).sum(1) / counts.sum(1)
        ),
        "The softmax runs along the wrong axis. After each present token, so in each row, the probabilities sum to "
        "1.": lambda counts, logits: _share(counts, _log_p(counts) - logits.log_softmax(0)),
        "You divided the counts by the sums of the columns, which gives p(a | b). The entropy needs p(b | a), what "
        "comes *after* a row's token.": lambda counts, logits: _share(
            counts, _log_p(counts, 0) - logits.log_softmax(1)
        ),
        "Logits are not log-probabilities yet: without a softmax the probabilities in a row do not sum to 1.": (
            lambda counts, logits: _share(counts, _log_p(counts) - logits)
        ),
        "You took the logarithm of the counts. The entropy needs the logarithm of p(b | a), so divide by the row's sum "
        "first.": lambda counts, logits: _share(counts, counts.log() - logits.log_softmax(1)),
        "How often the row's token occurs is counted twice: it is in p(a, b) already.": lambda counts, logits: (
            _share(counts, _log_p(counts) - logits.log_softmax(1)) * counts.sum(1) / counts.sum()
        ),
        "This is the sum over the whole text. The loss is a mean over its places.": (
            lambda counts, logits: (counts * (_log_p(counts) - logits.log_softmax(1))).sum(1)
        ),
        "You took the entropy of the whole text off every row. The sum of your numbers is right, but each row has an "
        "entropy of its own.": lambda counts, logits: _share(
            counts, _share(counts, _log_p(counts)).sum() - logits.log_softmax(1)
        ),
        "You compared the model with the joint p(a, b). A row of its table is a distribution *given* a.": (
            lambda counts, logits: _share(counts, (counts / counts.sum()).log() - logits.log_softmax(1))
        ),
        "These are shares of loss − entropy: their sum is 1. The task asks for nats.": (
            lambda counts, logits: surplus(counts, logits) / surplus(counts, logits).sum()
        ),
        "You summed over the present tokens, so you have one number for each *next* token. The task asks for one for "
        "each row.": lambda counts, logits: (counts * (_log_p(counts) - logits.log_softmax(1))).sum(0) / counts.sum(),
    },
    laws={
        "Your result changes if every logit of a row becomes 5 larger, which no softmax over the row would see. Where "
        "do you get q(b | a) from?": (
            lambda counts, logits: (counts, logits + 5.0 * torch.eye(len(counts))[:, :1]),
            1.0,
        ),
        "Your result changes if all counts double. But a text of twice the length with the same shares costs the same "
        "per token.": (lambda counts, logits: (2 * counts, logits), 1.0),
        "Your result changes if one next token is split into two, each half as likely in the text and in the table. "
        "But then p / q stays everywhere, and so does what a row adds.": (_first_one_split, 1.0),
    },
    hints=(
        "Write down loss − entropy. Both are means over the text, in which each pair counts as often as it occurs.",
        "The loss needs log q(b | a), from the logits by a softmax; the entropy needs log p(b | a), from the counts.",
        "Weight log p − log q by the counts, sum along each row, and divide by the number of all bigrams.",
    ),
    well_done="This is p(a) times the divergence of row a; the rows add up to loss − entropy.",
)


# ---- low rank -----------------------------------------------------------------------------------------------------

FOLLOWS = torch.tensor([[0, 1, 1], [1, 0, 0], [1, 0, 0]], dtype=torch.double)  # in a b a c a b a c …
UNIGRAMS = 1.5 * math.log(2)


def rank_one_table() -> Float[Tensor, "a b"]:
    """Logits for the text a b a c a b a c …, of rank 1, whose loss is below 0.5 nats."""
    W_E = torch.tensor([[-1.0], [1.0], [1.0]])
    W_U = torch.tensor([[5.0, 0.0, 0.0]])
    return W_E @ W_U


def _loss(logits: Tensor) -> float:
    return -_share(FOLLOWS, logits.log_softmax(1)).sum().item()


def _expects_what_comes(logits: Tensor) -> Tensor:
    """For each row whether none of the tokens that never come next has the highest logit alone."""
    comes, never = (logits.masked_fill(FOLLOWS != is_there, -torch.inf).amax(1) for is_there in (1, 0))
    return comes >= never


def _has_rank_one(table: Tensor) -> bool:
    strengths = torch.linalg.svdvals(table)
    return bool(strengths[1] <= 1e-4 * strengths[0])


one_direction = Built(
    number="02.5",
    title="What one direction is good for",
    minutes=7,
    stub='''
def rank_one_table() -> Float[Tensor, "a b"]:
    """Logits for the text a b a c a b a c …, of rank 1, whose loss is below 0.5 nats."""
    return ...
''',
    shape=(3, 3),
    conditions={
        "The rank is above 1: the rows are not all multiples of a single row. In a stream of one dimension each token "
        "has one number in W_E and one in W_U, and each entry is the product of two such numbers.": _has_rank_one,
        "All rows are the same, so the present token makes no difference. The best such table has the loss of the "
        "unigrams, 1.04. One direction can do more: rows may be *different* multiples of one row.": lambda table: bool(
            (table - table[0]).abs().max() > 1e-6
        ),
        "After every token the table expects what does *not* come: `a` after `a`, and `b` or `c` after these two. Are "
        "the signs the wrong way round?": lambda table: bool(_expects_what_comes(table).any()),
        "After `a` the table is far surer of one of `b` and `c` than of the other. Both come, each half of the time.": (
            lambda table: bool((table[0, 1] - table[0, 2]).abs() < 2) or _loss(table) < 0.5
        ),
        "The rows differ, but the loss is still above that of the unigrams (1.04). Does the table expect the "
        "wrong token after one of them, or are all its numbers near 0?": lambda table: _loss(table) < UNIGRAMS,
        "Better than the unigrams, but not yet below 0.5. Is one row still undecided, or are the numbers too small for "
        "the softmax to be sure?": lambda table: _loss(table) < 0.5,
    },
    wrong={
        "All logits are equal: this table knows nothing, and its loss is ln 3 = 1.10 nats.": lambda: torch.zeros(3, 3),
        "These are the probabilities in the text. Their rank is 2, and the task asks for logits of rank 1.": (
            lambda: torch.tensor([[0, 0.5, 0.5], [1, 0, 0], [1, 0, 0]])
        ),
        "These are the counts. Their rank is 2: the row of `a` is not a multiple of the row of `b`.": lambda: FOLLOWS,
        "This is the unigram table. It has rank 1, and its loss is 1.04. But rows may be different multiples of one, "
        "and the factors need not all be positive.": lambda: torch.tensor([[0.5, 0.25, 0.25]]).log().repeat(3, 1),
    },
    example=rank_one_table,
    hints=(
        "Choose a column W_E with one number for each token and a row W_U likewise; the table is `W_E @ W_U`.",
        "After `b` and `c` the logit of `a` should be highest, after `a` lowest. What sign must W_E have for `a`?",
        "The rows of b and c may be the same, and the row of a may be the negative of that row.",
    ),
    well_done="The softmax comes after the rank: with larger numbers one direction comes ever nearer to the entropy.",
)


# ---- in larger models ---------------------------------------------------------------------------------------------

direct_path_alone = Value(
    number="02.6",
    title="What may be concluded from 7.3 nats?",
    minutes=4,
    stub="answer = ...  # one of the four choices",
    right="not on its own",
    choices=("bigrams unlearned", "no use", "not on its own", "too early"),
    wrong={
        "The whole model has a lower loss than any bigram table, which is hard to reach without the bigrams. It can "
        "hold them elsewhere than in the direct path.": "bigrams unlearned",
        "Alone it is of little use. But its logits are *added* to those of the heads, and may supply just what the "
        "heads lack.": "no use",
        "If training had stopped too early, the loss of the whole model would be high as well. It is far below "
        "4.28.": "too early",
    },
    hints=(
        "One term of a sum is put through a softmax by itself. Which question does its loss answer?",
        "What else is added to the same logits, and what was the direct path trained together with?",
    ),
    well_done="All terms were trained together, so the loss of one alone does not say what it adds to the others.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

rows_far_off = Prediction(
    number="02.A",
    question="Which rows of the model's table will be furthest from the corpus, in nats of divergence?",
    choices={
        "Rows of frequent tokens: so much can follow them.": "Many continuations give a row a high *entropy*, but the "
        "divergence has the entropy taken off. For tokens that occur 10,000 times or more its median is 0.04 nats.",
        "All rows about equally: training lasted until the loss stopped falling.": "Training would treat "
        "all rows alike if they mattered equally to the loss. But each is weighted by how often its token occurs.",
        "Rows of rare tokens.": "The weight of a row in the loss is p(a), so a rare row hardly pulls on the weights. "
        "The median is 0.27 nats for tokens that occur fewer than 1,000 times, and 0.04 for those with 10,000 or more.",
    },
    right="Rows of rare tokens.",
)

kept_by_kind = Prediction(
    number="02.B",
    question="With two layers of heads, for which pairs will the direct path keep the largest share of the work?",
    choices={
        "A token followed by itself, such as ==== ====: the simplest rule there is.": "The simplest rule need not stay "
        "with the simplest path. Copying is what heads do well, and the direct path keeps 4 % of this work.",
        "The same for all pairs: the heads take over all of it alike.": "All parts are trained together, so the direct "
        "path can stay useful where the heads have little to offer. Its share ranges from 4 % to 53 % by kind.",
        "Words cut in two, such as At + tributeError.": "The direct path keeps 53 % of this work. A likely "
        "reason: no general rule yields such words, so they have to be known by heart, and a table is made for that.",
    },
    right="Words cut in two, such as At + tributeError.",
)
