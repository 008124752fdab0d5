"""The exercises of chapter 08, and the answers that lie near."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction

# ---- 08.1 ---------------------------------------------------------------------------------------------------------


def smeared_keys(
    keys: Float[Tensor, "head pos d_head"], alpha: Float[Tensor, " head"]
) -> Float[Tensor, "head pos d_head"]:
    """Each key mixed with the one before it; σ(α) is the share of its own. The first key stays."""
    own = alpha.sigmoid()[:, None, None]
    before = torch.cat([keys[:, :1], keys[:, :-1]], dim=1)
    return own * keys + (1 - own) * before


def _keys() -> list[tuple[Tensor, Tensor]]:
    """Keys of a few heads, and a number for each head."""
    cases = []
    for seed, (n_heads, n_pos, d_head) in enumerate(((3, 6, 4), (2, 5, 3))):
        generator = torch.Generator().manual_seed(seed)
        keys = torch.randn(n_heads, n_pos, d_head, generator=generator)
        cases.append((keys, 1.5 * torch.randn(n_heads, generator=generator)))
    return cases


def _mixed_with(before, share=torch.sigmoid):
    """Keys mixed with ``before(keys)``, with ``share(alpha)`` of their own."""

    def mixed(keys: Tensor, alpha: Tensor) -> Tensor:
        own = share(alpha)[:, None, None]
        return own * keys + (1 - own) * before(keys)

    return mixed


def _before(keys: Tensor) -> Tensor:
    return torch.cat([keys[:, :1], keys[:, :-1]], dim=1)


def _one_after_the_other(keys: Tensor, alpha: Tensor) -> Tensor:
    mixed = [keys[:, 0]]
    for key in keys.unbind(1)[1:]:
        mixed.append(torch.lerp(mixed[-1], key, alpha.sigmoid()[:, None]))
    return torch.stack(mixed, 1)


write_smeared_keys = Function(
    number="08.1",
    title="Smear the keys",
    minutes=6,
    stub='''
def smeared_keys(
    keys: Float[Tensor, "head pos d_head"], alpha: Float[Tensor, " head"]
) -> Float[Tensor, "head pos d_head"]:
    """Each key mixed with the one before it; σ(α) is the share of its own. The first key stays."""
    ...
''',
    reference=smeared_keys,
    cases=_keys,
    wrong={
        "The shares are exchanged: σ(α) is the share of a key's own, and the rest goes to the key before.": (
            _mixed_with(_before, lambda alpha: 1 - alpha.sigmoid())
        ),
        "Each key is mixed with the one *after* it. Then a key would know what follows it, and not the token before.": (
            _mixed_with(lambda keys: torch.cat([keys[:, 1:], keys[:, -1:]], dim=1))
        ),
        "Each key is mixed with the one *after* it, and the last with the first: a shift by −1 goes the wrong way, and "
        "`roll` goes round in a circle.": _mixed_with(lambda keys: keys.roll(-1, 1)),
        "The first key gets a share of the last one: `roll` goes round in a circle, and so the start knows the end.": (
            _mixed_with(lambda keys: keys.roll(1, 1))
        ),
        "The first key is mixed with zeros, so it shrinks. There is no key before it: leave it as it is.": (
            _mixed_with(lambda keys: F.pad(keys, (0, 0, 1, 0))[:, :-1])
        ),
        "α itself is taken for the share. It may be any number: the sigmoid makes a share of it.": (
            _mixed_with(_before, lambda alpha: alpha)
        ),
        "All heads have the same share, the mean of theirs: each should have its own, so that one can specialise.": (
            _mixed_with(_before, lambda alpha: alpha.sigmoid().mean().expand_as(alpha))
        ),
        "The key before is already mixed when you use it. So a key has something of all keys up to its own, and not "
        "of two.": _one_after_the_other,
        "You mix along the entries of each key: positions are on the axis before the last.": (
            _mixed_with(lambda keys: torch.cat([keys[..., :1], keys[..., :-1]], dim=-1))
        ),
        "Each head's keys are mixed with those of the head before: positions are on the second axis.": (
            _mixed_with(lambda keys: keys.roll(1, 0))
        ),
        "Each head's keys are mixed with those of the head before, the first head's with themselves: positions are on "
        "the second axis.": _mixed_with(lambda keys: torch.cat([keys[:1], keys[:-1]])),
        "The key before comes in whole. It should get the rest of the share, 1 − σ(α).": (
            lambda keys, alpha: alpha.sigmoid()[:, None, None] * keys + _before(keys)
        ),
        "Both keys have the share σ(α), and the two do not sum to 1: the key before should have the rest.": (
            lambda keys, alpha: alpha.sigmoid()[:, None, None] * (keys + _before(keys))
        ),
        "The shares of the heads compete: a softmax makes them sum to 1 over the heads. Each head has a share of its "
        "own, σ(α), whatever the others have.": _mixed_with(_before, lambda alpha: alpha.softmax(0)),
        "The key before is added, but each key stays whole: its own share must shrink to σ(α).": (
            lambda keys, alpha: keys + (1 - alpha.sigmoid())[:, None, None] * _before(keys)
        ),
        "There are only the shares of the keys' own: add what comes from the key before.": (
            lambda keys, alpha: alpha.sigmoid()[:, None, None] * keys
        ),
    },
    hints=(
        "Make the keys before first: a tensor of the same shape, in which each place has the key of one place back.",
        "What stands at place 0 of it? If it is the first key itself, then any mixture leaves that key as it is.",
        "`before = torch.cat([keys[:, :1], keys[:, :-1]], dim=1)`, and a share of shape [head, 1, 1].",
    ),
    well_done="This is all that one layer was missing: with it a key knows the token before, and no second layer is "
    "needed.",
)


# ---- 08.2 ---------------------------------------------------------------------------------------------------------


def mixture() -> Float[Tensor, "pos pos"]:
    """Row j holds the shares of the plain keys in the smeared key at place j.

    The text is <START> a b c a b c. All keys are mixed in the same shares; the first one stays.
    Query and plain key have the product 1 if their tokens are equal, and 0 if not. In the second
    copy, the token after the earlier copy should have the largest score, by at least 0.2.
    """
    own = 0.25
    mixed = own * torch.eye(7) + (1 - own) * torch.eye(7).roll(1, 0)
    mixed[0] = torch.eye(7)[0]
    return mixed


def _banded(own: float, up: int = 1) -> Float[Tensor, "pos pos"]:
    """Keys mixed with those ``up`` places back, the first with none or, at -1, the last."""
    shifted = torch.diag(torch.ones(7 - abs(up)), -up)
    mixed = own * torch.eye(7) + (1 - own) * shifted
    return mixed + torch.diag(1 - mixed.sum(1))


def _scores(mixed: Float[Tensor, "pos pos"]) -> Float[Tensor, "dest src"]:
    """The scores of the second copy; -inf for the future."""
    text = torch.tensor([0, 1, 2, 3, 1, 2, 3])
    equal = (text[:, None] == text).double()
    scores = equal @ mixed.double().T
    return scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf)[4:]


def _beats(mixed: Float[Tensor, "pos pos"], by: float) -> bool:
    """Whether the token after the earlier copy, 2 places back, has the largest score by so much."""
    scores, places = _scores(mixed), torch.arange(3)
    of_target = scores[places, places + 2].clone()
    scores[places, places + 2] = -torch.inf
    return bool((of_target - scores.amax(1) >= by - 1e-6).all())


build_mixture = Built(
    number="08.2",
    title="How much must be smeared?",
    minutes=7,
    stub='''
def mixture() -> Float[Tensor, "pos pos"]:
    """Row j holds the shares of the plain keys in the smeared key at place j.

    The text is <START> a b c a b c. All keys are mixed in the same shares; the first one stays.
    Query and plain key have the product 1 if their tokens are equal, and 0 if not. In the second
    copy, the token after the earlier copy should have the largest score, by at least 0.2.
    """
    ...
''',
    shape=(7, 7),
    example=mixture,
    conditions={
        "A share is below 0 or above 1, which no sigmoid is.": lambda m: bool(((m >= 0) & (m <= 1)).all()),
        "The first key gets a share of the last one, and there is no key before it: `roll` goes round in a circle.": (
            lambda m: bool(m[0, -1].abs() < 1e-4)
        ),
        "There are shares above the diagonal, so some key takes from a later one. Row j is the smeared key at j, and "
        "column i says how much it takes of the plain key at i.": lambda m: bool(m.triu(1).abs().max() < 1e-4),
        "The first key does not stay as it is: there is no key before it, so row 0 should be 1, 0, 0, …": (
            lambda m: bool((m[0, 0] - 1).abs() < 1e-4)
        ),
        "A row does not sum to 1: what a key takes from the one before, it no longer has of its own.": (
            lambda m: torch.allclose(m.sum(1), torch.ones(7).double(), atol=1e-4)
        ),
        "Some key is made of others than itself and the one before: each row j has entries at j and j − 1 only.": (
            lambda m: bool((m - m.tril().triu(-1)).abs().max() < 1e-4)
        ),
        "The shares differ from place to place: a head has one α for all of its keys.": lambda m: bool(
            (m.diagonal()[1:] - m[1, 1]).abs().max() < 1e-4
        ),
        "The token after the earlier copy does not have the largest score: the query finds another place, whose own "
        "token it matches.": lambda m: _beats(m, 0.0),
        "The right place wins, but by less than 0.2.": lambda m: _beats(m, 0.2),
    },
    wrong={
        "These are plain keys. Each knows its own token only, so the query matches the earlier copy and itself.": (
            lambda: torch.eye(7)
        ),
        "At one half there is a tie: the place after the earlier copy matches by its share of the key before, the "
        "earlier copy by its share of its own. This is where training starts.": lambda: _banded(0.5),
        "The shares are exchanged: with three quarters of its own, a key matches by its own token.": (
            lambda: _banded(0.75)
        ),
        "Each key is mixed with the one after it. Then the query finds the token *before* the earlier copy.": (
            lambda: _banded(0.25, -1)
        ),
        "The first key gets its share from the last one: `roll` goes round in a circle.": (
            lambda: 0.25 * torch.eye(7) + 0.75 * torch.eye(7).roll(1, 0)
        ),
        "Keys are mixed with those two places back. The token that decides stands one place back.": (
            lambda: _banded(0.25, 2)
        ),
    },
    hints=(
        "Take the second a, at place 4. Which three places can have a score above 0? What is it there, with a "
        "share s of their own?",
        "Places 1 and 4 have s, since their own token is a; place 2, after the earlier copy, has 1 − s.",
        "So 1 − s must exceed s by 0.2. Put s on the diagonal and 1 − s just below it, but for row 0.",
    ),
    well_done="The larger share must come from the key before. Table 8.1 will show what a trained head has chosen.",
)


# ---- 08.3 ---------------------------------------------------------------------------------------------------------

what_the_parts_do = Value(
    number="08.3",
    title="Three parts, and what is missing",
    minutes=5,
    stub="""
# Random tokens, twice. In the second copy a head of layer 1 does one of three things: "neither" (it
# does not look at the token after the earlier copy), "looks" (it does, but does not raise that
# token), "predicts" (it looks there and raises that token). Its QK circuit matches
# 1. the output of a head below that looks one back; its own OV circuit writes noise
# 2. the output of a head below that looks at its own place; its own OV circuit copies
# 3. the tokens themselves, though a head below looks one back; its own OV circuit copies
# 4. smeared keys, three quarters from one place back, no head below; its own OV circuit copies
answers = ...
""",
    right=["looks", "neither", "neither", "predicts"],
    choices=("neither", "looks", "predicts"),
    wrong={
        "Mind the first: where a head looks and what it writes are two circuits, and the second of them only makes "
        "noise here.": ["predicts", "neither", "neither", "predicts"],
        "Mind the first: copying is not needed in order to look. Queries and keys have all that they ask for.": [
            "neither",
            "neither",
            "neither",
            "predicts",
        ],
        "Mind the second: the QK circuit gets what the head below moves. If that looks at its own place, the key knows "
        "its own token and not the one before.": ["looks", "looks", "neither", "predicts"],
        "Mind the second: without a look back, equal tokens are matched, and the head finds the earlier copy itself. "
        "It copies that, which is not what comes next.": ["looks", "predicts", "neither", "predicts"],
        "Mind the third: matching the tokens themselves finds the earlier copy. The look one back is there, but nobody "
        "reads it.": ["looks", "neither", "looks", "predicts"],
        "Mind the third: it is not enough that a head below looks back and that this one copies. The keys must read "
        "what was brought.": ["looks", "neither", "predicts", "predicts"],
        "Mind the last: induction does not need a second layer, it needs keys that know the token before. These do.": [
            "looks",
            "neither",
            "neither",
            "neither",
        ],
        "Mind the last: its OV circuit copies, so once it looks at the right place it raises the right token.": [
            "looks",
            "neither",
            "neither",
            "looks",
        ],
        "Two parts of three do not make half a head. Ask first what each key knows; only then what is written.": [
            "predicts",
            "predicts",
            "predicts",
            "neither",
        ],
    },
    hints=(
        "Ask of each: which token does the key of the right place know, its own or the one before?",
        "The look back and the matching decide where the head looks. The copying decides what comes of it.",
    ),
    well_done="Prefix matching can be perfect and yet worth nothing, so the score alone does not show that a model "
    "learns in context.",
)


# ---- 08.4 ---------------------------------------------------------------------------------------------------------


def paired_score(
    late: Float[Tensor, "pair long"], early: Float[Tensor, "pair short"], width: int
) -> Float[Tensor, " 2"]:
    """The in-context-learning score in pairs, and its standard error.

    ``late`` are the losses in long contexts, ``early`` those in short ones. In each pair the last
    ``width`` tokens are the same.
    """
    of_pairs = late[:, -width:].mean(1) - early[:, -width:].mean(1)
    return torch.stack([of_pairs.mean(), of_pairs.std() / len(of_pairs) ** 0.5])


def _losses() -> list[tuple[Tensor, Tensor, int]]:
    """Losses in contexts of unequal lengths; some texts are hard, and so are some tokens, in both alike."""
    cases = []
    for seed, (n_pairs, long, short, width) in enumerate(((6, 19, 11, 4), (9, 26, 12, 3))):
        generator = torch.Generator().manual_seed(seed)
        hard = 2 + torch.randn(n_pairs, 1, generator=generator) + torch.randn(n_pairs, width, generator=generator)
        late = 2 + torch.randn(n_pairs, long, generator=generator)
        early = 2.5 + torch.randn(n_pairs, short, generator=generator)
        late[:, -width:] = hard + 0.3 * torch.randn(n_pairs, width, generator=generator)
        early[:, -width:] = hard + 0.1 + 0.3 * torch.randn(n_pairs, width, generator=generator)
        cases.append((late, early, width))
    return cases


def _with_error(values: Tensor, error: Tensor | None = None) -> Tensor:
    return torch.stack([values.mean(), values.std() / len(values) ** 0.5 if error is None else error])


def _score_with(error):
    """The right score with another error, that of the differences ``of_pairs``."""
    return lambda late, early, width: torch.stack([(d := _of_pairs(late, early, width)).mean(), error(d)])


def _of_pairs(late: Tensor, early: Tensor, width: int) -> Tensor:
    return late[:, -width:].mean(1) - early[:, -width:].mean(1)


def _as_if_independent(late: Tensor, early: Tensor, width: int) -> Tensor:
    ends = [losses[:, -width:].mean(1) for losses in (late, early)]
    return _with_error(ends[0] - ends[1], (sum(end.var() for end in ends) / len(late)) ** 0.5)


def _token_by_token(late: Tensor, early: Tensor, width: int) -> Tensor:
    return _with_error((late[:, -width:] - early[:, -width:]).flatten())


def _other_starts(late: Tensor, early: Tensor, width: int) -> tuple[Tensor, Tensor, int]:
    """Contexts with other losses before the last ``width`` places."""
    return *(torch.cat([2 * losses[:, :-width], losses[:, -width:]], 1) for losses in (late, early)), width


def _other_order(late: Tensor, early: Tensor, width: int) -> tuple[Tensor, Tensor, int]:
    """Contexts whose last ``width`` places have moved on by one, in a circle."""
    moved = (torch.cat([losses[:, :-width], losses[:, -width:].roll(1, 1)], 1) for losses in (late, early))
    return *moved, width


def _harder(late: Tensor, early: Tensor, width: int) -> tuple[Tensor, Tensor, int]:
    """Pairs some of which are harder, in both contexts alike."""
    by = torch.arange(len(late))[:, None] / 4
    return late + by, early + by, width


write_paired_score = Function(
    number="08.4",
    title="Write the in-context-learning score in pairs",
    minutes=8,
    stub='''
def paired_score(
    late: Float[Tensor, "pair long"], early: Float[Tensor, "pair short"], width: int
) -> Float[Tensor, " 2"]:
    """The in-context-learning score in pairs, and its standard error.

    ``late`` are the losses in long contexts, ``early`` those in short ones. In each pair the last
    ``width`` tokens are the same.
    """
    ...
''',
    reference=paired_score,
    cases=_losses,
    wrong={
        "The error is that of two independent groups of texts. Here each text is its own control: what makes it hard "
        "is in both losses, so take the difference before you ask how it spreads.": _as_if_independent,
        "You averaged over the pairs first, so the error is that of places in a context. Average within each pair, and "
        "ask how the pairs spread.": lambda late, early, width: _with_error(
            (late[:, -width:] - early[:, -width:]).mean(0)
        ),
        "You compare places of the same long context, and so different tokens: the trap that the pairs avoid.": (
            lambda late, early, width: _with_error(
                late[:, -width:].mean(1) - late[:, early.shape[1] - width : early.shape[1]].mean(1)
            )
        ),
        "The sign is the wrong way round: learning in context means that late tokens are *easier*, and counts as "
        "negative.": lambda late, early, width: paired_score(early, late, width),
        "This is the spread of single pairs. The error of their mean is smaller, and falls with their number.": (
            _score_with(lambda d: d.std())
        ),
        "The spread is divided by the number of pairs: the error of a mean falls with the root of it.": (
            _score_with(lambda d: d.std() / len(d))
        ),
        "This is the variance of the mean, not its standard error: take the root.": (
            _score_with(lambda d: d.var() / len(d))
        ),
        "The spread is taken about the mean of the same few pairs, so divide the sum of squares by n − 1 and not by n: "
        "that is what `std` does unless told otherwise.": _score_with(lambda d: d.std(correction=0) / len(d) ** 0.5),
        "Only the late losses are in it: subtract those of the same tokens with less context.": (
            lambda late, early, width: _with_error(late[:, -width:].mean(1))
        ),
        "The long context is taken at its end and the short one at its start. The tokens that are the same stand at "
        "the end of both.": lambda late, early, width: _with_error(late[:, -width:].mean(1) - early[:, :width].mean(1)),
        "The root is that of the number of tokens. The tokens of a pair have been averaged already: pairs are what you "
        "count.": lambda late, early, width: _with_error(
            of_pairs := _of_pairs(late, early, width), of_pairs.std() / (width * len(late)) ** 0.5
        ),
        "Every token counts as a trial of its own. Tokens of one text are not independent: the pairs are, so average "
        "within each first.": _token_by_token,
        "The differences have lost their signs, so every pair counts as a change in the same direction. Pairs in which "
        "the context did harm should count against it.": lambda late, early, width: _with_error(
            _of_pairs(late, early, width).abs()
        ),
        "The error is that of the late losses alone: it holds how unlike the texts are. Ask how the *differences* "
        "spread.": lambda late, early, width: _with_error(
            _of_pairs(late, early, width), late[:, -width:].mean(1).std() / len(late) ** 0.5
        ),
        "`std` divides by n − 1 already. The root below it is that of n, the number of pairs.": (
            _score_with(lambda d: d.std() / (len(d) - 1) ** 0.5)
        ),
        "You took the first `width` losses: the tokens that are the same stand at the end of both contexts.": (
            lambda late, early, width: _with_error(late[:, :width].mean(1) - early[:, :width].mean(1))
        ),
    },
    laws={
        "Your result changes when losses before the last `width` places do. Only the last `width` tokens are the same "
        "in both contexts, so nothing else should be in it.": (_other_starts, 1.0),
        "Your result changes when the last `width` places are put in another order, the same in both contexts. The "
        "mean over them stays.": (_other_order, 1.0),
        "Your result changes when a pair gets harder, by the same number of nats in both contexts. The difference of "
        "two losses stays.": (_harder, 1.0),
    },
    hints=(
        "Which of the losses are those of the same tokens? Make one number of each pair first.",
        "One difference for each pair: the mean of the last `width` losses, late minus early.",
        "The score is the mean of these differences, and its error their `std()` over the root of their number.",
    ),
    well_done="What makes a token hard cancels before the error is computed. What is left is how much the worth of the "
    "context differs from text to text.",
)


# ---- 08.5 ---------------------------------------------------------------------------------------------------------

without_previous_head = Value(
    number="08.5",
    title="A head whose removal changes little",
    minutes=4,
    stub="""
# Without 0:6 the in-context-learning score hardly changes, if patterns are kept. So
# A. learning in context does not need 0:6
# B. other heads took over what 0:6 did
# C. what 0:6 writes is hardly read as a value or a logit; of its use in keys this says nothing
# D. 0:6 is not a previous-token head in this model
answer = ...  # "A", "B", "C" or "D"
""",
    right="C",
    choices=("A", "B", "C", "D"),
    wrong={
        "A head may also serve by telling others where to look. Here they go on looking as if 0:6 were there, so this "
        "service was never taken away.": "A",
        "Nobody can take over anything here: all patterns are kept, and no head adapts to what is missing.": "B",
        "Whether it looks one back is seen in its pattern, and the ablation did not touch that. It tells what the "
        "output is worth, not where the head looks.": "D",
    },
    hints=(
        "What of 0:6 has been removed, and what of it is still there?",
        "The patterns of layer 1 were made with the help of 0:6, and they were kept.",
    ),
    well_done="An ablation only tests the way that it cuts: with patterns kept, that is values and logits.",
)


# ---- 08.6 ---------------------------------------------------------------------------------------------------------


def centred_matching_trace(
    W_E: Float[Tensor, "token d_model"],
    W_OV: Float[Tensor, "head d_model d_model"],
    looks_back: Float[Tensor, " head"],
    W_QK: Float[Tensor, "late d_model d_model"],
) -> Float[Tensor, " late"]:
    """The matching trace of each head of layer 1, without what all embeddings have in common.

    ``W_OV`` are the heads of layer 0, ``looks_back`` how much each attends to the token before,
    and ``W_QK`` the heads of layer 1. Vectors are rows.
    """
    through = torch.einsum("h,hde->de", looks_back, W_OV)
    own = W_E - W_E.mean(0)
    circuits = (own @ W_QK) @ (own @ through).T
    return circuits.diagonal(dim1=-2, dim2=-1).sum(-1)


def _circuits() -> list[tuple[Tensor, ...]]:
    """Embeddings with much in common, heads of layer 0 with their previous-token scores, and QK matrices.

    All are whole numbers, so is the mean embedding, and scores are in eighths: so nothing is rounded, and what is 0 in
    theory is 0.
    """
    cases = []
    for seed, (n_tokens, n_heads, n_late, d_model) in enumerate(((7, 3, 2, 4), (9, 2, 4, 5))):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int, generator: torch.Generator = generator) -> Tensor:
            return torch.randint(-4, 5, shape, generator=generator).float()

        W_E = draw(n_tokens, d_model) + draw(d_model)
        W_E[0] -= W_E.sum(0) % n_tokens
        looks_back = torch.tensor([0.625, 0.125, 0.25])[:n_heads]
        cases.append((W_E, draw(n_heads, d_model, d_model), looks_back, draw(n_late, d_model, d_model)))
    return cases


def _through(W_OV: Tensor, looks_back: Tensor) -> Float[Tensor, "d_model d_model"]:
    return torch.einsum("h,hde->de", looks_back, W_OV)


def _circuits_of(E: Tensor, W: Tensor) -> Float[Tensor, "late query key"]:
    """Tables of tokens by tokens, of embeddings less their mean, with matrices ``W`` between them."""
    own = E - E.mean(0)
    return own @ W @ own.T


def _trace(tables: Float[Tensor, "late query key"]) -> Float[Tensor, " late"]:
    return tables.diagonal(dim1=-2, dim2=-1).sum(-1)


def _of_circuits(number):
    """What ``number`` makes of the right circuits."""
    return lambda E, V, s, W: number(_circuits_of(E, W @ _through(V, s).T))


def _eigenvalue_scores(tables: Float[Tensor, "late query key"]) -> Float[Tensor, " late"]:
    values = torch.linalg.eigvals(tables)
    return values.real.sum(-1) / values.abs().sum(-1)


def _trace_with(change):
    """The trace with other weights of the heads: ``change`` makes them of ``looks_back``."""
    return lambda E, V, looks_back, W: centred_matching_trace(E, V, change(looks_back), W)


write_centred_matching_trace = Function(
    number="08.6",
    title="Write the matching trace",
    minutes=10,
    stub='''
def centred_matching_trace(
    W_E: Float[Tensor, "token d_model"],
    W_OV: Float[Tensor, "head d_model d_model"],
    looks_back: Float[Tensor, " head"],
    W_QK: Float[Tensor, "late d_model d_model"],
) -> Float[Tensor, " late"]:
    """The matching trace of each head of layer 1, without what all embeddings have in common.

    ``W_OV`` are the heads of layer 0, ``looks_back`` how much each attends to the token before,
    and ``W_QK`` the heads of layer 1. Vectors are rows.
    """
    ...
''',
    reference=centred_matching_trace,
    cases=_circuits,
    wrong={
        "What all embeddings have in common is still in it. That part matches any two tokens, and the trace counts it "
        "once for each token.": lambda E, V, s, W: _trace(E @ W @ _through(V, s).T @ E.T),
        "The mean is taken over each embedding's own entries. What they have in common is a vector: their mean.": (
            lambda E, V, s, W: _trace((own := E - E.mean(1, keepdim=True)) @ W @ _through(V, s).T @ own.T)
        ),
        "This sums the whole table, any token with any other. Equal tokens are on its diagonal.": (
            lambda E, V, s, W: (E @ W @ _through(V, s).T @ E.T).sum((-2, -1))
        ),
        "This is 0, as the sum of a whole centred table always is. Equal tokens are on its diagonal.": (
            _of_circuits(lambda tables: tables.sum((-2, -1)))
        ),
        "The heads of layer 0 stand on the side of the query, or `W_QK` stands the wrong way round; the trace is the "
        "same. It is the key, to the right of `W_QK`, that must know the token before.": (
            lambda E, V, s, W: _trace(_circuits_of(E, _through(V, s) @ W))
        ),
        "Queries and keys both come through layer 0. The query is the present token itself: only the key is to know "
        "the token before.": lambda E, V, s, W: _trace(_circuits_of(E, _through(V, s) @ W @ _through(V, s).T)),
        "The `W_OV` of the heads below are transposed. The key is an embedding that has gone through one of them: "
        "embedding times `W_OV`.": lambda E, V, s, W: _trace(_circuits_of(E, W @ _through(V, s))),
        "Nothing of layer 0 is in it: this asks whether the head matches the tokens themselves.": (
            lambda E, V, s, W: _trace(_circuits_of(E, W))
        ),
        "The embeddings are missing: this is a trace over directions of the stream, all of them alike, and not over "
        "tokens.": lambda E, V, s, W: _trace(W @ _through(V, s).T),
        "All heads of layer 0 count alike: those that look back should weigh more.": _trace_with(torch.ones_like),
        "Only the head that looks back most is in it, as if it did nothing else. The others look back as well: each "
        "should weigh as much as it does so.": _trace_with(lambda s: F.one_hot(s.argmax(), len(s)).float()),
        "Only the head that looks back most is in it: the others look back as well, less strongly.": (
            _trace_with(lambda s: F.one_hot(s.argmax(), len(s)).float() * s.max())
        ),
        "The weights are made to sum to 1. Then a model whose heads hardly look back scores as high as one in which "
        "they do.": _trace_with(lambda s: s / s.sum()),
        "You divided by the number of tokens: the trace is a sum over them.": _of_circuits(
            lambda tables: _trace(tables) / tables.shape[-1]
        ),
        "This is the size of the whole circuit. A head may be strong without matching equal tokens.": _of_circuits(
            lambda tables: tables.norm(dim=(-2, -1))
        ),
        "This is the eigenvalue score of chapter 06, in which the size has been divided out. The trace keeps it.": (
            _of_circuits(_eigenvalue_scores)
        ),
    },
    laws={
        "Your result changes when one vector is added to all embeddings. That is something which they have in common, "
        "and it should drop out.": (lambda E, V, s, W: (E + E[:1], V, s, W), 1.0),
        "Your result changes when every `W_OV` doubles and every `W_QK` halves. The key goes through exactly one head "
        "of layer 0, so the trace should stay.": (lambda E, V, s, W: (E, 2 * V, s, W / 2), 1.0),
        "Your result changes when `looks_back` doubles and every `W_QK` halves. The weights should enter as they are, "
        "once.": (lambda E, V, s, W: (E, V, 2 * s, W / 2), 1.0),
        "Your result changes when `W_E` doubles and every `W_QK` is divided by 4. Query and key have one embedding "
        "each, so the trace should stay: has a length been divided out?": (
            lambda E, V, s, W: (2 * E, V, s, W / 4),
            1.0,
        ),
    },
    hints=(
        "Write the circuit as a table of tokens by tokens first: rows for the query, columns for the token before the "
        "key. What does each side read?",
        "The query is an embedding, the key an embedding that has gone through the weighted sum of the `W_OV`.",
        "With `own = W_E - W_E.mean(0)`: the diagonal of `(own @ W_QK) @ (own @ through).T`, summed for each head.",
    ),
    well_done="This number never looks at attention of the head itself, and yet it tells which heads of the finished "
    "models match prefixes.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

first_to_turn = Prediction(
    number="08.A",
    question="Four models are trained on the same tokens: one layer and two, with plain keys and with smeared ones. "
    "Which is the first whose best head comes to match prefixes?",
    right="two layers with smeared keys",
    choices={
        "two layers with plain keys": "They have one part more to build than either model with smeared keys: a head "
        "that looks one back. They have half of their final prefix matching after 0.56 million tokens, and so come "
        "third.",
        "one layer with smeared keys": "It has the fewest parts, and it does turn before two layers with plain keys: "
        "it is half-way after 0.40 million tokens, they after 0.56. But smeared keys save two layers that part as "
        "well, and two layers have twice as many heads: they are half-way after 0.24 million.",
        "two layers with smeared keys": "No head has to learn to look back first, and there are two layers of heads to "
        "choose from. They are half-way after 0.24 million tokens, one layer with smeared keys after 0.40, two with "
        "plain keys after 0.56.",
        "one layer with plain keys": "It never turns at all: its keys know their own tokens only.",
    },
)

first_part = Prediction(
    number="08.B",
    question="An induction head needs a head below that looks back, a QK circuit that matches, and an OV circuit that "
    "copies. Which of the three has half of its final strength first?",
    right="copying",
    choices={
        "looking back": "This is where the mechanism starts when it runs, but training need not build it in that "
        "order. Looking back is half formed after 0.34 million tokens, copying after 0.07.",
        "matching": "It hardly pays before some head has begun to look back. Matching is half formed after 0.27 "
        "million tokens, copying after 0.07.",
        "copying": "It pays by itself: whatever a text has had is more likely to come again, wherever a head looks. "
        "Copying is half formed after 0.07 million tokens, matching after 0.27, looking back after 0.34.",
        "all at the same time": "The whole does need all three, but each can grow before the others are there: copying "
        "is half formed after 0.07 million tokens, matching after 0.27, looking back after 0.34.",
    },
)

without_learning_to_copy = Prediction(
    number="08.C",
    question="In a third training the heads of layer 1 cannot learn what to write: their OV circuits stay as random as "
    "at the start. Will one of them still come to match prefixes?",
    right="yes, but later",
    choices={
        "no: where a head looks pays only if it copies what it finds": "Something must be copied, but not by the OV "
        "circuit alone. A random OV circuit still tells different tokens apart, and the embedding and unembedding can "
        "adapt to it. Half of the free training's prefix matching is there after 1.20 million tokens, in place of "
        "0.56.",
        "yes, but later": "The embedding and the unembedding adapt to the random OV circuit, and this takes time: half "
        "of the free training's prefix matching is there after 1.20 million tokens, in place of 0.56.",
        "yes, as early as before: looking and writing are separate circuits": "Separate in the formula, but not in "
        "training: where a head looks is rewarded through what it writes. Half of the free training's prefix "
        "matching is there after 1.20 million tokens, in place of 0.56.",
    },
)
