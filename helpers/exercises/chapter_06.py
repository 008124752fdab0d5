"""The exercises of chapter 06, and the answers that lie near."""

from itertools import permutations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction, SignsPrediction

# ---- where an induction head looks ----------------------------------------------------------------------------------


def prefix_matching(pattern: Float[Tensor, "head dest src"], n: int) -> Float[Tensor, " head"]:
    """Each head's mean attention to the induction target, over the second copy of n tokens."""
    places = torch.arange(n + 1, 2 * n + 1)  # of the second copy
    return pattern[:, places, places - n + 1].mean(1)


def _patterns() -> list[tuple[Tensor, int]]:
    """Attention of three heads on 1 + 2n tokens: each row a random distribution over the places so far."""
    cases = []
    for seed, n in enumerate((4, 7)):
        generator = torch.Generator().manual_seed(seed)
        scores = 2 * torch.randn(3, 2 * n + 1, 2 * n + 1, generator=generator)
        hidden = torch.ones(2 * n + 1, 2 * n + 1, dtype=torch.bool).triu(1)
        cases.append((scores.masked_fill(hidden, -torch.inf).softmax(-1), n))
    return cases


def _at(offset: int, begin: int = 1, end: int = 1):
    """A score that looks ``offset`` places after the earlier copy, from places n + begin on to before 2n + end."""

    def score(pattern: Tensor, n: int) -> Tensor:
        places = torch.arange(n + begin, 2 * n + end)
        return pattern[:, places, places + offset - n].mean(1)

    return score


def _on_targets(pattern: Tensor, n: int) -> Tensor:
    """Each head's attention to each target."""
    return pattern[:, range(n + 1, 2 * n + 1), range(2, n + 2)]


write_prefix_matching = Function(
    number="06.1",
    title="Write the prefix-matching score",
    minutes=8,
    stub='''
def prefix_matching(pattern: Float[Tensor, "head dest src"], n: int) -> Float[Tensor, " head"]:
    """Each head's mean attention to the induction target, over the second copy of n tokens."""
    ...
''',
    reference=prefix_matching,
    cases=_patterns,
    wrong={
        "This is attention to the earlier copy of the present token itself: a duplicate-token head would score 1. An "
        "induction head looks at the token that came *after* it.": _at(0),
        "This is attention to the token *before* the earlier copy: the offset goes the other way.": _at(-1),
        "Two things at once: you counted the places as if there were no `<START>`, and you look at the earlier copy of "
        "the present token itself.": _at(0, 0, 0),
        "You follow the right diagonal, but from its first entry on. So the mean also covers places of the first copy, "
        "where there is nothing to match yet.": lambda pattern, n: pattern.diagonal(1 - n, 1, 2).mean(1),
        "You counted the places as if there were no `<START>`. It has place 0, so every token stands one place further "
        "on.": _at(1, 0, 0),
        "The mean begins one place too early, at the last token of the first copy: `<START>` has place 0.": _at(
            1, 0, 1
        ),
        "The last place of the second copy is missing. It has a target, too.": _at(1, 1, 0),
        "The first token of the second copy is missing. The model could not predict this token, but once it has read "
        "it, there is an earlier copy to find.": _at(1, 2, 1),
        "You read the pattern above its diagonal, where all is 0, since nobody looks ahead. Rows are destinations, "
        "columns are sources.": lambda pattern, n: _at(1)(pattern.mT, n),
        "You divide by the number of all places, 2n + 1. The mean is over the n places of the second copy only: a "
        "perfect head scores 1.": lambda pattern, n: n / (2 * n + 1) * _at(1)(pattern, n),
        "This is a mean over the heads, one for each place. Keep the axis of the heads, and average over the places.": (
            lambda pattern, n: _on_targets(pattern, n).mean(0)
        ),
        "Without `dim1` and `dim2`, `diagonal` runs along the first two axes, heads and destinations. You want that of "
        "destinations and sources.": lambda pattern, n: torch.full((2 * n + 1,), torch.nan),
        "You follow the diagonal n places back. There stands the earlier copy of the present token itself. And the "
        "first entry of this diagonal still lies in the first copy.": lambda pattern, n: pattern.diagonal(
            -n, 1, 2
        ).mean(1),
        "Each place of the second copy gets its attention to *all* targets together. It has only one of its own.": (
            lambda pattern, n: pattern[:, n + 1 :, 2 : n + 2].sum(2).mean(1)
        ),
        "Every place of the second copy is paired with every target. Each place has only *one* target.": (
            lambda pattern, n: pattern[:, n + 1 :, 2 : n + 2].mean((1, 2))
        ),
        "This is all attention to the first copy, wherever in it. An induction head must look at one place of it.": (
            lambda pattern, n: pattern[:, n + 1 :, 1 : n + 1].sum(2).mean(1)
        ),
    },
    hints=(
        "Write down a text for n = 3: `<START> a b c a b c`, with its places 0 to 6. At place 4 stands the second a. "
        "Where should an induction head look?",
        "At the token after the earlier copy, place 2. That is 2 places back, or n − 1 in general.",
        "Take `pattern[:, places, places - n + 1]` for the places of the second copy, and the mean over them.",
    ),
    well_done="A head that always looks there scores 1. One that spreads its attention evenly over all places so far "
    "scores about 1 / (1.5 n).",
)

# ---- what a perfect score does not prove ----------------------------------------------------------------------------

judge_evidence = Value(
    number="06.2",
    title="A perfect score",
    minutes=5,
    stub="""
# On 20 random tokens, twice, some head has a prefix-matching score of 1. Does this follow?
# 1. On these texts it attends, in the second copy, to the token after the earlier copy.
# 2. It raises the logit of the token that it attends to.
# 3. It would do as well on 50 random tokens, twice.
# 4. Without it, the model would predict the second copy less well.
answer = ...  # a list of four of "follows", "open"
""",
    right=["follows", "open", "open", "open"],
    choices=("follows", "open"),
    wrong={
        "Statement 2 asks what the head writes. That depends on its OV circuit, and the score is made of attention "
        "alone.": ["follows", "follows", "open", "open"],
        "Statement 3 is of another length. Think of a head that always looks 19 places back, whatever stands there: on "
        "20 tokens, twice, it scores 1, too.": ["follows", "open", "follows", "open"],
        "Statement 4 is about the whole model. The head may write nothing of use, or other heads may do the same "
        "work.": ["follows", "open", "open", "follows"],
        "Where a head looks is one thing. What it writes, what it compares, and whether anything depends on it are "
        "three others.": ["follows"] * 4,
        "A head that looks somewhere need not write about what it finds there. And the score is of one length only.": [
            "follows",
            "follows",
            "follows",
            "open",
        ],
        "The score does not show what the head writes. And a head that copies can still have a twin.": [
            "follows",
            "follows",
            "open",
            "follows",
        ],
        "One length does not show that the head matches tokens. And a head that matches may still be dispensable.": [
            "follows",
            "open",
            "follows",
            "follows",
        ],
        "Something does follow: the score is by definition the attention that those places get.": ["open"] * 4,
    },
    hints=(
        "For each statement, try to imagine a head with a score of 1 for which it is false.",
        "A head with W_O = 0; a head that looks 19 places back, whatever stands there; a head with a twin.",
    ),
    well_done="Hence the chapter's other tests: three lengths, the OV circuit, and a cut.",
)

# ---- what the head says ---------------------------------------------------------------------------------------------


def attribution(
    output: Float[Tensor, "pos d"], W_U: Float[Tensor, "d vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, " pos-1"]:
    """How far a head raises the logit of the token that comes next, above the vocabulary's mean."""
    logits = output[:-1] @ W_U
    of_next = logits[torch.arange(len(logits)), tokens[1:]]
    return of_next - logits.mean(-1)


def _outputs() -> list[tuple[Tensor, Tensor, Tensor]]:
    """A head's outputs, an unembedding whose mean column is not 0, and different tokens.

    The last output, which has no answer, is the mean of the others: so a mean over places is the same with it or
    without it.
    """
    cases = []
    for seed, (pos, d_model, d_vocab) in enumerate([(6, 4, 9), (5, 8, 11)]):
        generator = torch.Generator().manual_seed(seed)
        output = torch.randn(pos, d_model, generator=generator)
        output[-1] = output[:-1].mean(0)
        W_U = torch.randn(d_model, d_vocab, generator=generator) + torch.randn(d_model, 1, generator=generator)
        cases.append((output, W_U, torch.randperm(d_vocab, generator=generator)[:pos]))
    return cases


def _of(scores: Tensor, tokens: Tensor) -> Tensor:
    """The score of one token at each place."""
    return scores.gather(-1, tokens[:, None])[:, 0]


def _above_their_mean(output: Tensor, W_U: Tensor, tokens: Tensor) -> Tensor:
    """The logits of the next tokens above their own mean."""
    chosen = _of(output[:-1] @ W_U, tokens[1:])
    return chosen - chosen.mean()


def _without_stream_mean(output: Tensor, W_U: Tensor, tokens: Tensor) -> Tensor:
    """As it is if the mean is taken over the coordinates of the stream."""
    centred = output - output.mean(-1, keepdim=True)
    return _of(centred[:-1] @ W_U, tokens[1:])


write_attribution = Function(
    number="06.3",
    title="Write the direct logit attribution",
    minutes=6,
    stub='''
def attribution(
    output: Float[Tensor, "pos d"], W_U: Float[Tensor, "d vocab"], tokens: Int[Tensor, " pos"]
) -> Float[Tensor, " pos-1"]:
    """How far a head raises the logit of the token that comes next, above the vocabulary's mean."""
    ...
''',
    reference=attribution,
    cases=_outputs,
    wrong={
        "The mean over the vocabulary is still in it. What raises all logits alike changes no probability.": (
            lambda o, U, t: _of(o[:-1] @ U, t[1:])
        ),
        "This is the logit of the token *at* each place, which the model has just read. It predicts the next one.": (
            lambda o, U, t: _of(o[:-1] @ U, t[:-1]) - (o[:-1] @ U).mean(-1)
        ),
        "The outputs are shifted the wrong way: this is the logit of the token *before* each place.": (
            lambda o, U, t: _of(o[1:] @ U, t[:-1]) - (o[1:] @ U).mean(-1)
        ),
        "You dropped the first output and the first token. So each token is still paired with the output at its own "
        "place, after it was read.": lambda o, U, t: _of(o[1:] @ U, t[1:]) - (o[1:] @ U).mean(-1),
        "The mean is over the places. Subtract, at each place, the mean over the vocabulary.": (
            lambda o, U, t: (
                _of(o[:-1] @ U, t[1:]) - _of((o[:-1] @ U).mean(0, keepdim=True).expand(len(o) - 1, -1), t[1:])
            )
        ),
        "The mean is one number, over places and vocabulary. Each place has a mean of its own.": (
            lambda o, U, t: _of(o[:-1] @ U, t[1:]) - (o[:-1] @ U).mean()
        ),
        "You subtract the mean of the chosen logits. The mean asked for is that of each place, over the vocabulary.": (
            _above_their_mean
        ),
        "You subtract a mean over the coordinates of the stream. The mean asked for is one of logits, over the "
        "vocabulary.": _without_stream_mean,
        "You rolled the tokens, so the last place is paired with the first token. The last place has no next token.": (
            lambda o, U, t: _of(o @ U, t.roll(-1)) - (o @ U).mean(-1)
        ),
        "You paired each place with the token that stands there, and so there is one result too many.": (
            lambda o, U, t: _of(o @ U, t) - (o @ U).mean(-1)
        ),
        "Two things at once: this is the logit of the token *at* each place, which the model has just read, and the "
        "mean over the vocabulary is still in it.": lambda o, U, t: _of(o[:-1] @ U, t[:-1]),
        "These are log-probabilities. One head alone has none: the softmax needs the sum over *all* paths.": (
            lambda o, U, t: _of((o[:-1] @ U).log_softmax(-1), t[1:])
        ),
        "These are probabilities. One head alone has none: the softmax needs the sum over *all* paths.": (
            lambda o, U, t: _of((o[:-1] @ U).softmax(-1), t[1:])
        ),
        "Your logits have an axis of length 1 that your means have not, so every logit meets every mean. Drop this "
        "axis before you subtract.": lambda o, U, t: _of(o[:-1] @ U, t[1:])[:, None] - (o[:-1] @ U).mean(-1),
        "Your means have an axis of length 1 that your logits have not, so every mean meets every logit. Drop this "
        "axis before you subtract.": lambda o, U, t: _of(o[:-1] @ U, t[1:]) - (o[:-1] @ U).mean(-1, keepdim=True),
        "You subtract the mean of the *next* place's logits. Logit and mean must come from the same output.": (
            lambda o, U, t: _of(o[:-1] @ U, t[1:]) - (o[1:] @ U).mean(-1)
        ),
    },
    hints=(
        "The unembedding is linear: how do you get the part of the logits that comes from one head's output?",
        "At place i the answer is token i + 1. So the last output has no answer, and the first token is nobody's.",
        "From `logits = output[:-1] @ W_U` pick the entries of `tokens[1:]`, and subtract `logits.mean(-1)`.",
    ),
    well_done="The logits are a sum over paths, so each head has a part of its own. Figure 6.4 shows that of 1:9.",
)

# ---- the matching, built by hand ------------------------------------------------------------------------------------

D_VOCAB = 5  # <START> and four tokens
N = D_VOCAB - 1


def matching() -> Float[Tensor, "10 10"]:
    """W_QK of an induction head; each place holds the token, one-hot, then the token before it."""
    W_QK = torch.zeros(10, 10)
    W_QK[:5, 5:] = 10 * torch.eye(5)
    return W_QK


def _texts() -> Float[Tensor, "text pos 10"]:
    """The stream on <START> and the other four tokens, in every order, twice; <START> has no token before it."""
    tokens = torch.tensor([[0, *order, *order] for order in permutations(range(1, D_VOCAB))])
    token = torch.nn.functional.one_hot(tokens, D_VOCAB).double()
    before = torch.cat([torch.zeros_like(token[:, :1]), token[:, :-1]], dim=1)
    return torch.cat([token, before], dim=-1)


def _scores(W_QK: Tensor) -> Tensor:
    """The scores on each text, before the mask: ``[text, dest, src]``."""
    stream = _texts()
    return stream @ W_QK @ stream.mT


def _attention(W_QK: Tensor) -> Tensor:
    """The attention on each text: ``[text, dest, src]``."""
    scores = _scores(W_QK)
    return scores.masked_fill(torch.ones_like(scores).bool().triu(1), -torch.inf).softmax(-1)


def _back(matrix: Tensor, n: int) -> Tensor:
    """What stands n places back from each place of the second copy: ``[text, dest]``."""
    return matrix[:, range(N + 1, 2 * N + 1), range(N + 1 - n, 2 * N + 1 - n)]


def _avoids_target(W_QK: Tensor) -> bool:
    """Whether, at every place of the second copy, the target has the smallest score of all tokens but `<START>`."""
    scores = _scores(W_QK)[:, N + 1 :, 1:]
    ahead = torch.ones(2 * N, 2 * N, dtype=torch.bool).triu(1)[N:]
    on_target = _back(_scores(W_QK), N - 1)[..., None]
    return bool(((scores <= on_target + 1e-9) & ~ahead).sum(-1).eq(1).all())


def _filled(W_QK: Tensor) -> list[tuple[int, int]]:
    """Those of the four blocks that are not 0: which half of the destination, and which half of the source."""
    blocks = {(i, j): W_QK[5 * i : 5 * i + 5, 5 * j : 5 * j + 5].abs().max() for i in range(2) for j in range(2)}
    return [block for block, largest in blocks.items() if largest > 1e-3 * max(blocks.values())]


def _looks_elsewhere(*back: int):
    """A condition: the head does not prefer the places that lie so far back, mostly, to the target."""

    def holds(W_QK: Tensor) -> bool:
        scores = _scores(W_QK)
        liked = max(_back(scores, n).mean() for n in back)
        return bool(liked <= _back(scores, N - 1).mean() or liked < 0.5 * scores.max())

    return holds


def _target_first(W_QK: Tensor) -> bool:
    """Whether the target alone has the largest weight, at every place of the second copy."""
    attention = _attention(W_QK)
    on_target = _back(attention, N - 1)[..., None]
    return bool(((attention[:, N + 1 :] >= on_target - 1e-9).sum(-1) == 1).all())


build_matching = Built(
    number="06.4",
    title="Build the matching by hand",
    minutes=10,
    stub='''
def matching() -> Float[Tensor, "10 10"]:
    """W_QK of an induction head; each place holds the token, one-hot, then the token before it."""
    ...
''',
    shape=(2 * D_VOCAB, 2 * D_VOCAB),
    example=matching,
    wrong={
        "All scores are 0: the softmax spreads the attention evenly.": torch.zeros(10, 10),
        "This is the identity. Token is compared with token, and predecessor with predecessor, so each place matches "
        "itself best.": torch.eye(10),
    },
    conditions={
        "All entries are the same, so every token matches every other.": lambda W: bool((W != W[0, 0]).any()),
        "Your head avoids the target more than any other place: it prefers tokens that are *not* equal.": (
            lambda W: not _avoids_target(W)
        ),
        "Your head looks at the present token and its copies: it is a duplicate-token head. It compares token with "
        "token, or predecessor with predecessor. Which half of the destination must meet which half of the source?": (
            _looks_elsewhere(0, N)
        ),
        "Your head looks at the token before the present one, and at its copies: query and key are exchanged. Rows of "
        "W_QK belong to the destination, columns to the source.": _looks_elsewhere(1),
        "You compare the right halves. But in this block a token does not match itself better than all others.": (
            lambda W: _target_first(W) or _filled(W) != [(0, 1)]
        ),
        "More than one of the four blocks of 5 × 5 is filled. So your head compares several things at once, and other "
        "places get as much attention as the target, or more.": lambda W: _target_first(W) or len(_filled(W)) == 1,
        "In some text, at some place of the second copy, another source gets as much attention as the token after the "
        "earlier copy, or more.": _target_first,
        "The target comes first, but other places keep more than a tenth of the attention. The softmax depends on "
        "differences of scores: how large must they be?": lambda W: bool(_back(_attention(W), N - 1).min() > 0.9),
    },
    hints=(
        "A score is `x_dest @ W_QK @ x_src`. Cut W_QK into four blocks of 5 × 5: each compares one half of the "
        "destination's stream with one half of the source's. Which block compares what the head should compare?",
        "The destination's *token* (the first five rows) with what came *before* the source (the last five columns). "
        "What must stand in this block, so that equal tokens have a large score?",
        "A multiple of the identity: 1 is too little against eight other places, 10 is enough.",
    ),
    well_done="In the model, K-composition makes this block: the previous-token head fills the second half of the "
    "stream. All eigenvalues of the block are positive. Figure 6.5 asks the same of the model.",
)

# ---- what a score can see -------------------------------------------------------------------------------------------

judge_scores = Value(
    number="06.5",
    title="What a score can see",
    minutes=4,
    stub="""
# Change the weights of the previous-token head, and nothing else. What becomes of
# 1. its composition score with the induction head's keys, if W_O changes its sign?
# 2. the QK eigenvalue score through it, if W_O changes its sign?
# 3. the copying score of the induction head, if W_O changes its sign?
# 4. the QK eigenvalue score through it, if W_O becomes three times as large?
answer = ...  # a list of four of "the same", "minus as much", "near 0", "larger"
""",
    right=["the same", "minus as much", "the same", "the same"],
    choices=("the same", "minus as much", "near 0", "larger"),
    wrong={
        "The composition score is made of norms, and a norm has no sign.": [
            "minus as much",
            "minus as much",
            "the same",
            "the same",
        ],
        "You let no score notice the sign. But −A has the eigenvalues of A with the other sign, and one score is made "
        "of eigenvalues.": ["the same"] * 4,
        "The copying score is that of the induction head's own OV circuit, and what the previous-token head writes is "
        "no part of it.": ["the same", "minus as much", "minus as much", "the same"],
        "The QK eigenvalue score divides by the sum of |λ|, so a factor cancels. (In the attention it does count.)": [
            "the same",
            "minus as much",
            "the same",
            "larger",
        ],
        "A change of sign is not like a random rotation: it turns all eigenvalues round *together*, so they do not "
        "cancel.": ["the same", "near 0", "the same", "the same"],
        "Not everything turns round: norms have no sign, and nobody touched the induction head's own OV circuit.": [
            "minus as much",
            "minus as much",
            "minus as much",
            "the same",
        ],
        "A norm is not 0 because signs turn round: ‖−A‖ = ‖A‖. The composition score is made of norms.": [
            "near 0",
            "minus as much",
            "the same",
            "the same",
        ],
        "Whatever is done to the previous-token head, the induction head's own OV circuit stays as it is. Its copying "
        "score is made of nothing else.": ["the same", "minus as much", "near 0", "the same"],
        "You exchanged the first two scores: one is made of norms, the other of eigenvalues.": [
            "minus as much",
            "the same",
            "the same",
            "the same",
        ],
    },
    hints=(
        "Write down the three formulas. In which of them does W_O of the previous-token head stand?",
        "‖−A‖ = ‖A‖, but the eigenvalues of −A are those of A with the other sign. And what do Σλ and Σ|λ| become if "
        "A is tripled?",
    ),
    well_done="A large composition score says that two heads talk, the eigenvalues say what they talk about. Neither "
    "says how loud: whether it wins the softmax.",
)

# ---- a tie ----------------------------------------------------------------------------------------------------------

tie = Value(
    number="06.6",
    title="Several targets",
    minutes=4,
    stub="""
# A head stands at the last b. Which token gets most of its attention, if matching alone decides?
# 1. a b c … a b d … a b    The simple head compares its token with the one before each place.
# 2. a b c … x b d … a b    The same head.
# 3. a b c … x b d … a b    This one compares the last two tokens with the two before each place.
answer = ...  # a list of three of "c", "d", "both"
""",
    right=["both", "both", "c"],
    choices=("c", "d", "both"),
    wrong={
        "You took the latest place. The head compares tokens, and nothing in this comparison prefers late places.": [
            "d",
            "d",
            "d",
        ],
        "You took the earliest place. The simple head compares one token, b, and finds it in front of c and of d "
        "alike.": ["c", "c", "c"],
        "In the second text, the simple head cannot see that one of the b's follows an x: it compares one token.": [
            "both",
            "c",
            "c",
        ],
        "Text 3: this head also sees what stood before each b. Does x match the a?": ["both", "both", "both"],
        "Text 3: this head compares two tokens. Which of the two places comes after the pair that ends the text?": [
            "both",
            "both",
            "d",
        ],
        "Texts 1 and 2: where one token decides, both b's match equally well, and matching does not prefer late "
        "places.": ["d", "d", "c"],
        "You exchanged the two heads: the one that compares a single token has the ties.": ["c", "c", "both"],
        "Nothing in the first text tells the two places apart, whatever a head compares: late is not better.": [
            "d",
            "both",
            "c",
        ],
        "Nothing in the first text tells the two places apart, whatever a head compares: early is not better.": [
            "c",
            "both",
            "c",
        ],
        "In the second text, the simple head finds its token, b, in front of c and of d alike. Nothing in the "
        "comparison prefers the late one.": ["both", "d", "c"],
    },
    hints=(
        "What does the head compare with its present token: the token at each place, or the one before that place?",
        "Write under each of c and d what stands just before it, and for the third head the two tokens before it. "
        "Which of them equal the end of the text?",
    ),
    well_done="So the simple circuit finds candidates and cannot choose among them. That takes more tokens of context, "
    "as in Table 6.2.",
)

# ---- predictions ----------------------------------------------------------------------------------------------------

how_many_heads = Prediction(
    number="06.A",
    question="The second layer has twelve heads. We repeat 20, 50 and 100 random tokens. How many of the heads look "
    "at the place after the earlier copy?",
    right="Several, at every length.",
    choices={
        "One: a circuit has each of its parts once.": "A function need not sit in one head. Training goes on to a "
        "second one as long as the loss gains by it. Here five heads of layer 1 look there.",
        "Some at length 20, but none at 100: a head learns a distance.": "Such a head would look 19 places back at "
        "every length. Ours compare tokens, and the distance matters little: at length 100 three of them still have "
        "about half of their attention on the target.",
        "Several, at every length.": "Five of them: 1:0, 1:1, 1:6, 1:9 and, most weakly, 1:7. They find the place "
        "by what stands there, so the length matters little. Only 1:0 loses half of its score between 20 and 100.",
        "All twelve: they were trained on the same text.": "They share the text, but also the stream. What some heads "
        "already do, the others gain little by doing as well. Seven of the twelve have a score of almost 0.",
    },
)

what_is_needed = SignsPrediction(
    number="06.B",
    question="On 20 random tokens the loss falls by 3.8 nats from the first copy to the second. For each row: if "
    "these heads are silenced, is less than half of the fall left (−), more than half (0), or does it grow (+)?",
    right="0--00",
    choices={
        "the strongest induction head, 1:9, alone": "2.7 of the 3.8 nats are left. The largest score is not a "
        "monopoly: the other induction heads do the same work.",
        "all 4 induction heads": "0.2 nats are left. In these models nothing else predicts a second copy of random "
        "tokens.",
        "the previous-token head, 0:6": "0.6 nats are left, although 0:6 predicts nothing of it by itself: the "
        "induction heads find their place by its notes.",
        "0:6, while all heads go on looking where they looked": "3.8 nats are left. With the places fixed, nobody "
        "needs the notes any more, and what else 0:6 says is of little use here.",
        "4 other heads of layer 1": "3.5 nats are left. To silence heads does some harm, whichever they are, but the "
        "fall belongs to a few.",
    },
)
