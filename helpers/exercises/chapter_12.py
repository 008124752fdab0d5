"""The exercises of chapter 12, and the answers that lie near."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import NumberPrediction, Prediction

# ---- 12.1 ---------------------------------------------------------------------------------------------------------


def next_state(chain: Int[Tensor, " pos"], n_states: int) -> Float[Tensor, " state"]:
    """How likely each state is to come next, if all tables were equally likely at first."""
    followed = chain[1:][chain[:-1] == chain[-1]]
    counts = torch.bincount(followed, minlength=n_states)
    return (counts + 1) / (len(followed) + n_states)


def _chains() -> list[tuple[Tensor, int]]:
    """Chains of three to five states; in the third, the present state has never been there before."""
    chains = (
        ([0, 1, 0, 0, 2, 1, 0, 1, 2, 0, 1, 0, 0], 3),
        ([3, 1, 2, 1, 1, 0, 2, 1, 3, 1, 0, 1, 2, 2, 0, 3, 1], 4),
        ([1, 0, 1, 3, 0, 1, 1, 3, 0, 2], 4),
        ([4, 2, 2, 0, 2, 1, 4, 2, 2, 2, 3, 0, 1, 2], 5),
    )
    return [(torch.tensor(chain), n_states) for chain, n_states in chains]


def _followed(chain: Tensor) -> Tensor:
    """What has followed the present state so far."""
    return chain[1:][chain[:-1] == chain[-1]]


def _one_more(followed: Tensor, n_states: int) -> Float[Tensor, " state"]:
    return (torch.bincount(followed, minlength=n_states) + 1) / (len(followed) + n_states)


def _from_counts(change: Callable[[Tensor, int], Tensor]) -> Callable:
    """What ``change`` makes of the right counts."""
    return lambda chain, k: change(torch.bincount(_followed(chain), minlength=k).float(), k)


def _count_of(places: Callable[[Tensor], Tensor]) -> Callable:
    """The rule, applied to what ``places`` takes from the chain."""
    return lambda chain, k: _one_more(places(chain), k)


def _whole_counts(chain: Tensor, k: int) -> Float[Tensor, "state next"]:
    """How often each state has followed each, and one more."""
    return 1 + torch.stack([torch.bincount(chain[1:][chain[:-1] == state], minlength=k) for state in range(k)]).float()


def _whole_table(chain: Tensor, k: int) -> Float[Tensor, "state next"]:
    return _whole_counts(chain, k) / _whole_counts(chain, k).sum(1, keepdim=True)


def _other_states_first(chain: Tensor, k: int) -> tuple[Tensor, int]:
    """The chain after some places at which the present state never stood."""
    other = (chain[-1:] + 1) % k
    return torch.cat([other, other, other, chain]), k


write_next_state = Function(
    number="12.1",
    title="Write the best predictor",
    minutes=6,
    stub='''
def next_state(chain: Int[Tensor, " pos"], n_states: int) -> Float[Tensor, " state"]:
    """How likely each state is to come next, if all tables were equally likely at first."""
    ...
''',
    reference=next_state,
    cases=_chains,
    wrong={
        "These are counts of states, whatever came before them: one row for the whole table. Count only what followed "
        "the present state.": _count_of(lambda chain: chain),
        "Only the last successor is counted. That is literal induction; the chain has shown more than this.": (
            _count_of(lambda chain: _followed(chain)[-1:])
        ),
        "These are plain shares, without the +1. A state that has not followed yet gets probability 0, so its loss "
        "would be infinite; and before anything has followed, this is 0 / 0.": (
            _from_counts(lambda counts, k: counts / counts.sum())
        ),
        "These are the states that came *before* the present one. What has followed it stands one place after each of "
        "its earlier visits.": _count_of(lambda chain: chain[:-1][chain[1:] == chain[-1]]),
        "You divide by the number of *visits* plus the number of states, and the present visit is one of them. Nothing "
        "has followed it yet, so the result does not sum to 1.": lambda chain, k: (
            (torch.bincount(_followed(chain), minlength=k) + 1) / ((chain == chain[-1]).sum() + k)
        ),
        "Each state gets one more, but the sum only one more in all: it should grow by the number of states, or the "
        "result does not sum to 1.": _from_counts(lambda counts, k: (counts + 1) / (counts.sum() + 1)),
        "Each state gets two more here: were the counts begun at 1, and 1 added once more?": (
            _from_counts(lambda counts, k: (counts + 2) / (counts.sum() + 2 * k))
        ),
        "The sum has grown by the number of states, but the counts have not. Add one to each, too.": (
            _from_counts(lambda counts, k: counts / (counts.sum() + k))
        ),
        "Each count is divided by itself plus the number of states. Divide all of them by the same: their sum, which "
        "has grown by one for each state.": _from_counts(lambda counts, k: (counts + 1) / (counts + k)),
        "You divide by the number of successors alone. Each state got one more, so the sum is larger by the number of "
        "states.": _from_counts(lambda counts, k: (counts + 1) / counts.sum()),
        "These are the counts: add one to each, and divide by the sum.": _from_counts(lambda counts, k: counts),
        "The last place is followed by the first here: something has been rolled round the end. What follows the last "
        "place is not known yet.": _count_of(lambda chain: chain.roll(-1)[chain == chain[-1]]),
        "This is a softmax of the counts. Then every further observation makes a state e times as likely, however many "
        "there were before.": _from_counts(lambda counts, k: counts.softmax(-1)),
        "You add one half to each count. That belongs to another idea of how tables are drawn: where all are equally "
        "likely, it is one.": _from_counts(lambda counts, k: (counts + 0.5) / (counts.sum() + k / 2)),
        "These are successors of the state *before* the present one. The next state depends on the present one.": (
            _count_of(lambda chain: chain[1:-1][chain[:-2] == chain[-2]])
        ),
        "The last step of the chain, onto the present place, is missing. It counts as well, if it started from the "
        "present state.": _count_of(lambda chain: chain[1:-1][chain[:-2] == chain[-1]]),
        "You count only where the *two* last states stood in this order. A Markov chain forgets all but the present "
        "state.": _count_of(lambda chain: chain[2:][(chain[1:-1] == chain[-1]) & (chain[:-2] == chain[-2])]),
        "You divide by how often each state has been reached, so this says where the next state comes from. Divide by "
        "what has left the present one.": lambda chain, k: (_whole_counts(chain, k) / _whole_counts(chain, k).sum(0))[
            chain[-1]
        ],
        "The likeliest state gets everything. But the loss punishes a sure mistake without bound: give every state its "
        "probability.": _from_counts(lambda counts, k: torch.nn.functional.one_hot(counts.argmax(), k).float()),
        "This is the whole table. Only one row is asked for, that of the present state.": _whole_table,
        "States beyond the largest that has followed are missing. Let `torch.bincount` count all of them: "
        "`minlength=n_states`.": lambda chain, k: (torch.bincount(_followed(chain)) + 1) / (len(_followed(chain)) + k),
    },
    laws={
        "Your result changes if other states stand before the chain. They say nothing about what follows the present "
        "one.": (_other_states_first, 1.0)
    },
    hints=(
        "Which is the present state, and where has it stood before? What stands right after those places?",
        "`chain[:-1] == chain[-1]` marks the earlier visits. The same marks, laid over `chain[1:]`, pick what followed "
        "them.",
        "`torch.bincount(followed, minlength=n_states)` counts. Add 1 to each count, and divide by their new sum.",
    ),
    well_done="No predictor has a lower expected loss on such chains. This is the line that the model has to reach.",
)


# ---- 12.2 ---------------------------------------------------------------------------------------------------------


def three_opinions() -> Int[Tensor, " pos"]:
    """A chain of the states 0, 1 and 2, at most ten places; its last state is the present one.

    Which state is the likeliest to come next? One predictor says the most frequent state so far
    (the present one counts), one what followed the present state the last time, one what has
    followed it most often. None of them is undecided, and each says something else.
    """
    return torch.tensor([0, 1, 0, 1, 0, 2, 0])


STRANGE = "The states are 0, 1 and 2: some entry is none of these."
LONG = "Your chain has more than ten places; seven are enough."
NEW = (
    "The present state, which is the last of your chain, has not stood there before, so nothing has followed it yet. "
    "(What comes next is not part of the chain.)"
)
TIED = (
    "Whoever counts what has followed the present state is undecided: two states have followed it equally often. The "
    "last one must be outvoted."
)
SAME = "The state that followed last is also the one that followed most often, so these two predictors agree."
BACKWARDS = (
    "Your opinions differ about what came *before* the present state. What has *followed* it is what predictors of the "
    "next state count."
)
LEVEL = "Whoever counts states is undecided: two or more of them have stood there equally often."
WITH_ALL = "Whoever counts states and whoever counts all successors of the present state agree here."
WITH_LAST = "Whoever counts states and whoever remembers the last successor agree here."


def _favourites(counted: Tensor) -> list[int]:
    """The most frequent of the states, or several."""
    counts = torch.bincount(counted.long(), minlength=3)
    return [state for state in range(3) if counts[state] == counts.max()]


def _disagree(followed: Tensor) -> bool:
    """Whether the last of these is outvoted by another state."""
    return len(followed) > 0 and len(_favourites(followed)) == 1 and _favourites(followed) != [int(followed[-1])]


def _says_before(chain: Tensor) -> bool:
    """Whether the chain would do if predictors looked at what came before the present state."""
    return not _disagree(_followed(chain)) and _disagree(chain[:-1][chain[1:] == chain[-1]])


build_three_opinions = Built(
    number="12.2",
    title="Three predictors, three opinions",
    minutes=5,
    stub='''
def three_opinions() -> Int[Tensor, " pos"]:
    """A chain of the states 0, 1 and 2, at most ten places; its last state is the present one.

    Which state is the likeliest to come next? One predictor says the most frequent state so far
    (the present one counts), one what followed the present state the last time, one what has
    followed it most often. None of them is undecided, and each says something else.
    """
    ...
''',
    shape=(None,),
    example=three_opinions,
    conditions={
        STRANGE: lambda chain: bool(torch.isin(chain, torch.tensor([0.0, 1.0, 2.0]).double()).all()),
        LONG: lambda chain: len(chain) <= 10,
        NEW: lambda chain: len(chain) > 1 and len(_followed(chain)) > 0,
        BACKWARDS: lambda chain: not _says_before(chain),
        TIED: lambda chain: len(_favourites(_followed(chain))) == 1,
        SAME: lambda chain: _disagree(_followed(chain)),
        LEVEL: lambda chain: len(_favourites(chain)) == 1,
        WITH_ALL: lambda chain: _favourites(chain) != _favourites(_followed(chain)),
        WITH_LAST: lambda chain: _favourites(chain) != [int(_followed(chain)[-1])],
    },
    wrong={
        STRANGE: torch.tensor([1, 2, 1, 2, 1, 3, 1]),
        LONG: torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 0, 2, 0]),
        NEW: torch.tensor([0, 1, 0, 1, 0, 2]),
        BACKWARDS: torch.tensor([1, 0, 1, 0, 2, 0]),
        TIED: torch.tensor([0, 1, 0, 2, 0]),
        SAME: torch.tensor([0, 2, 0, 1, 0, 1, 0]),
        LEVEL: torch.tensor([1, 1, 0, 1, 0, 1, 0, 2, 0]),
        WITH_ALL: torch.tensor([1, 1, 1, 0, 1, 0, 1, 0, 2, 0]),
        WITH_LAST: torch.tensor([2, 2, 2, 2, 0, 0, 0, 2, 0]),
    },
    hints=(
        "Let 0 be the present state. Which two states should have followed it, in what order, and how often?",
        "Most often 1, but the last time 2. How often must 1 have followed, so that nobody is undecided?",
        "Twice: `0 1 … 0 1 … 0 2 … 0`. Then see to it that the most frequent state is 0.",
    ),
    well_done="On such chains the three predictors can be told apart, and so can models that have become like them. "
    "Random tokens that come twice cannot do that: there every token has a single successor.",
)


# ---- 12.3 ---------------------------------------------------------------------------------------------------------


def share_of_latest(pattern: Float[Tensor, "dest src"], chain: Int[Tensor, " pos"]) -> float:
    """Of a head's attention on successors of the present state, the share on the latest of them.

    A successor is a place, up to the present one, right after an earlier visit to that state. The
    result is the mean over all places whose state has two successors or more.
    """
    shares = []
    for place, state in enumerate(chain):
        successors = [src for src in range(1, place + 1) if chain[src - 1] == state]
        if len(successors) > 1:
            shares.append(pattern[place, successors[-1]] / pattern[place, successors].sum())
    return torch.stack(shares).mean().item()


def _attended_chains() -> list[tuple[Tensor, Tensor]]:
    """Random causal attention on random chains of three states; some states follow themselves."""
    cases = []
    for seed, n_pos in enumerate((12, 15, 20)):
        generator = torch.Generator().manual_seed(seed)
        scores = 2 * torch.randn(n_pos, n_pos, generator=generator)
        cases.append((_causal(scores), torch.randint(3, (n_pos,), generator=generator)))
    return cases


def _causal(scores: Float[Tensor, "... dest src"]) -> Float[Tensor, "... dest src"]:
    return scores.masked_fill(torch.ones_like(scores).bool().triu(1), -torch.inf).softmax(-1)


def _successors(chain: Tensor, place: int) -> list[int]:
    return [src for src in range(1, place + 1) if chain[src - 1] == chain[place]]


def _over_places(share: Callable, sources: Callable = _successors, least: int = 2) -> Callable:
    """The mean of ``share(row, sources, chain)`` over places that have so many sources."""

    def answer(pattern: Tensor, chain: Tensor) -> float:
        found = [(pattern[place], sources(chain, place)) for place in range(len(chain))]
        return torch.stack([share(row, some, chain) for row, some in found if len(some) >= least]).mean().item()

    return answer


def _on_latest(row: Tensor, sources: list[int], chain: Tensor) -> Tensor:
    return row[sources[-1]] / row[sources].sum()


def _same_next(row: Tensor, sources: list[int], chain: Tensor) -> Tensor:
    """The share on all successors at which the same state stands as at the latest."""
    alike = [src for src in sources if chain[src] == chain[sources[-1]]]
    return row[alike].sum() / row[sources].sum()


def _sum_of_shares(pattern: Tensor, chain: Tensor) -> float:
    return share_of_latest(pattern, chain) * sum(len(_successors(chain, i)) > 1 for i in range(len(chain)))


def _share_of_sums(pattern: Tensor, chain: Tensor) -> float:
    found = [(pattern[i], some) for i in range(len(chain)) if len(some := _successors(chain, i)) > 1]
    return (sum(row[some[-1]] for row, some in found) / sum(row[some].sum() for row, some in found)).item()


write_share_of_latest = Function(
    number="12.3",
    title="Statistical or literal?",
    minutes=8,
    stub='''
def share_of_latest(pattern: Float[Tensor, "dest src"], chain: Int[Tensor, " pos"]) -> float:
    """Of a head's attention on successors of the present state, the share on the latest of them.

    A successor is a place, up to the present one, right after an earlier visit to that state. The
    result is the mean over all places whose state has two successors or more.
    """
    ...
''',
    reference=share_of_latest,
    cases=_attended_chains,
    wrong={
        "This is the latest successor's share of *all* attention. A head that looks at successors only now and then "
        "would seem to count, even if it looked at the latest alone: divide by what is on successors.": (
            _over_places(lambda row, some, chain: row[some[-1]])
        ),
        "This is the share on the *earliest* successor. Literal induction remembers the last one.": (
            _over_places(lambda row, some, chain: row[some[0]] / row[some].sum())
        ),
        "These are earlier visits to the present state itself. What has followed it stands one place further on.": (
            _over_places(_on_latest, lambda chain, i: [src for src in range(i) if chain[src] == chain[i]])
        ),
        "These are visits to the present state, the present one included. What has followed it stands one place after "
        "an earlier visit.": _over_places(
            _on_latest, lambda chain, i: [src for src in range(i + 1) if chain[src] == chain[i]]
        ),
        "These are the places *before* earlier visits. A successor stands right after one.": _over_places(
            _on_latest, lambda chain, i: [src for src in range(i) if chain[src + 1] == chain[i]]
        ),
        "Places with a single successor are in the mean. There every head has a share of 1, so they tell nothing.": (
            _over_places(_on_latest, least=1)
        ),
        "The present place is never a successor here. It is one if the same state stood there just before.": (
            _over_places(_on_latest, lambda chain, i: [src for src in range(1, i) if chain[src - 1] == chain[i]])
        ),
        "You sum attention over all places, and then divide. So places with more attention on successors count for "
        "more: take each place's share, and then the mean.": _share_of_sums,
        "You divide the sum of the shares by the length of the chain. Places with fewer than two successors have no "
        "share: leave them out of the mean.": lambda pattern, chain: _sum_of_shares(pattern, chain) / len(chain),
        "This is the *largest* share, on whichever successor. Is it on the latest?": (
            _over_places(lambda row, some, chain: row[some].max() / row[some].sum())
        ),
        "This is all the attention on successors. How much of it is on the latest?": (
            _over_places(lambda row, some, chain: row[some].sum())
        ),
        "This is 1 / number, what a head has that spreads its attention evenly over the successors. Look at this "
        "head's attention.": _over_places(lambda row, some, chain: torch.tensor(1 / len(some))),
        "All successors at which the same *state* stands as at the latest are taken together. Literal induction looks "
        "at one place.": _over_places(_same_next),
        "Place 0 is among the successors: `chain[src - 1]` is then `chain[-1]`, the last state of the chain. Begin at "
        "place 1.": (
            _over_places(_on_latest, lambda chain, i: [src for src in range(i + 1) if chain[src - 1] == chain[i]])
        ),
        "Two things at once: place 0 is among the successors, as `chain[-1]` is the last state of the chain, and the "
        "present place never is.": (
            _over_places(_on_latest, lambda chain, i: [src for src in range(i) if chain[src - 1] == chain[i]])
        ),
        "Two things at once: the present place is never a successor here, and places with a single successor, where "
        "every share is 1, are in the mean.": _over_places(
            _on_latest, lambda chain, i: [src for src in range(1, i) if chain[src - 1] == chain[i]], 1
        ),
        "Places with just two successors are missing: from two on, a head can look at one or at both.": (
            _over_places(_on_latest, least=3)
        ),
        "This says how often the latest successor gets more than each of the others. How large is its share?": (
            _over_places(lambda row, some, chain: (row[some].argmax() == len(some) - 1).float())
        ),
        "You divide by the *mean* attention on the successors, which makes 1 of an even spread. That is useful, too, "
        "but the share is asked for: divide by the sum.": (
            _over_places(lambda row, some, chain: row[some[-1]] / row[some].mean())
        ),
        "The result is no number (nan): somewhere you divide 0 by 0. A place without successors has no share, and what "
        "lies ahead of a place, where nobody looks, is none of its successors.": (
            _over_places(
                _on_latest, lambda chain, i: [src for src in range(1, len(chain)) if chain[src - 1] == chain[i]]
            )
        ),
    },
    laws={
        "Your result changes if each row of the pattern is multiplied by a number of its own. Shares do not: divide "
        "within each row.": (lambda pattern, chain: (pattern * torch.arange(1, len(chain) + 1)[:, None], chain), 1.0),
        "Your result changes if the states get other names. It should only matter which places hold the same.": (
            lambda pattern, chain: (pattern, 2 - chain),
            1.0,
        ),
    },
    hints=(
        "Take one place and its state. Which sources are successors: before which of them does the same state stand?",
        "`[src for src in range(1, place + 1) if chain[src - 1] == state]`. Which of these is the latest?",
        "Of each place with two successors or more take `pattern[place, successors[-1]]` over the sum of "
        "`pattern[place, successors]`; return the mean.",
    ),
    well_done="Literal induction has a share of 1. A head that counts them all alike has the mean of 1 / number, which "
    "goes to 0 as chains get longer.",
)


# ---- 12.4 ---------------------------------------------------------------------------------------------------------


def moved_in_three_steps(
    x: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "layer head dest src"],
    W_OV: Float[Tensor, "layer head d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What all chains of three heads, one in each layer, write; x are the embeddings."""
    moved = x
    for patterns, matrices in zip(pattern, W_OV, strict=True):
        moved = (patterns @ moved @ matrices).sum(0)
    return moved


def _three_layers() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Embeddings, attention and OV matrices of three layers; more dimensions or more places."""
    cases = []
    for seed, (n_heads, n_pos, d_model) in enumerate(((2, 4, 6), (4, 7, 3))):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n_pos, d_model, generator=generator)
        pattern = _causal(torch.randn(3, n_heads, n_pos, n_pos, generator=generator))
        cases.append((x, pattern, torch.randn(3, n_heads, d_model, d_model, generator=generator)))
    return cases


def _layer(x: Tensor, A: Tensor, W: Tensor) -> Float[Tensor, "pos d_model"]:
    """What all heads of a layer make of a stream."""
    return (A @ x @ W).sum(0)


def _up_to_three(x: Tensor, A: Tensor, W: Tensor) -> Float[Tensor, "pos d_model"]:
    """The stream of the intact model."""
    for patterns, matrices in zip(A, W, strict=True):
        x = x + _layer(x, patterns, matrices)
    return x


def _through(*layers: int) -> Callable:
    """What paths with a head in each of these layers, and in no other, add to the stream."""

    def answer(x: Tensor, A: Tensor, W: Tensor) -> Tensor:
        for layer in layers:
            x = _layer(x, A[layer], W[layer])
        return x

    return answer


def _all_in(*groups: tuple[int, ...]) -> Callable:
    """The sum over several such groups of layers."""
    return lambda *case: sum(_through(*layers)(*case) for layers in groups)


def _orders(pattern_order: tuple[int, ...], matrix_order: tuple[int, ...], mixed: bool = False) -> Callable:
    """Every chain with its patterns, or its matrices, in another order; the first acts first.

    If ``mixed``, matrices are those of the heads in the reverse order of their numbers.
    """

    def answer(x: Tensor, A: Tensor, W: Tensor) -> Tensor:
        total, heads = torch.zeros_like(x), range(A.shape[1])
        for chain in ((i, j, k) for i in heads for j in heads for k in heads):
            moved = x
            for a, w in zip(pattern_order, matrix_order, strict=True):
                moved = A[a, chain[a]] @ moved @ W[w, chain[2 - w] if mixed else chain[w]]
            total = total + moved
        return total

    return answer


def _with_idle_heads(x: Tensor, A: Tensor, W: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One more head in each layer, which looks where the first one does and writes nothing."""
    return x, torch.cat([A, A[:, :1]], 1), torch.cat([W, torch.zeros_like(W[:, :1])], 1)


write_three_steps = Function(
    number="12.4",
    title="What chains of three heads move",
    minutes=6,
    stub='''
def moved_in_three_steps(
    x: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "layer head dest src"],
    W_OV: Float[Tensor, "layer head d_model d_model"],
) -> Float[Tensor, "pos d_model"]:
    """What all chains of three heads, one in each layer, write; x are the embeddings."""
    ...
''',
    reference=moved_in_three_steps,
    cases=_three_layers,
    wrong={
        "This is the whole stream at the end: all paths with no head, with one and with two are in it as well.": (
            _up_to_three
        ),
        "This is all that heads write, singly and in twos as well. Each layer should read only what the layer below "
        "has made, without what went past it.": lambda x, A, W: _up_to_three(x, A, W) - x,
        "This is all that layer 2 writes in the intact model. Its heads read the embeddings and the single heads, too, "
        "and those paths are shorter.": lambda x, A, W: _layer(_up_to_three(x, A[:2], W[:2]), A[2], W[2]),
        "Each head reads only the head of its own number in the layer below, which gives one chain for each number. A "
        "head reads what all heads of the layer below wrote.": (
            lambda x, A, W: (A[2] @ A[1] @ A[0] @ x @ W[0] @ W[1] @ W[2]).sum(0)
        ),
        "Patterns and OV matrices are summed apart, so each pattern also moves what belongs to other heads. Keep the "
        "two of one head together, and then sum.": lambda x, A, W: (
            A[2].sum(0) @ A[1].sum(0) @ A[0].sum(0) @ x @ W[0].sum(0) @ W[1].sum(0) @ W[2].sum(0)
        ),
        "The layers act in the reverse order: here layer 2 reads the embeddings, and layer 0 acts last.": (
            _through(2, 1, 0)
        ),
        "The patterns stand in the reverse order. They act from the left, so that of layer 0 stands next to `x`.": (
            _orders((2, 1, 0), (0, 1, 2))
        ),
        "The OV matrices stand in the reverse order. They act from the right, so that of layer 0 stands next to "
        "`x`.": _orders((0, 1, 2), (2, 1, 0)),
        "The OV matrices are transposed. That is right where the stream is a column, as in the paper; here it is a "
        "row.": lambda x, A, W: _through(0, 1, 2)(x, A, W.mT),
        "The patterns are transposed. Their rows are destinations already.": (
            lambda x, A, W: _through(0, 1, 2)(x, A.mT, W)
        ),
        "Both patterns and OV matrices are transposed. Rows of a pattern are destinations already, and the vectors of "
        "this stream are rows.": lambda x, A, W: _through(0, 1, 2)(x, A.mT, W.mT),
        "This is one chain, that of the first head of each layer. All heads of a layer read what all of those below "
        "wrote.": lambda x, A, W: _through(0, 1, 2)(x, A[:, :1], W[:, :1]),
        "All chains are here, but with mixed parts: the patterns of one chain meet the OV matrices of another. The "
        "numbers of the heads have come in another order.": _orders((0, 1, 2), (0, 1, 2), mixed=True),
        "These are chains of two heads, in layers 0 and 1. The third step is missing.": _through(0, 1),
        "These are all chains of two heads, from three pairs of layers. Three heads in a row are asked for.": (
            _all_in((0, 1), (0, 2), (1, 2))
        ),
        "These are the single heads, side by side. In a chain each head moves what the one before has moved.": (
            _all_in((0,), (1,), (2,))
        ),
        "The embeddings are in it as well. They reach the end without any head.": (
            lambda x, A, W: x + _through(0, 1, 2)(x, A, W)
        ),
        "This is the mean over the heads of each layer. Their outputs add up in the stream: sum them.": (
            lambda x, A, W: _through(0, 1, 2)(x, A, W) / A.shape[1] ** 3
        ),
        "The patterns are multiplied entry by entry. But the second head may look at a place from which the first one "
        "looks elsewhere: multiply them as matrices.": lambda x, A, W: (
            (A[2] * A[1] * A[0]) @ x @ W[0] @ W[1] @ W[2]
        ).sum(0),
    },
    laws={
        "Your result does not double when `x` does. Each chain carries the embeddings exactly once, and nothing is "
        "added.": (lambda x, A, W: (2 * x, A, W), 2.0),
        "If all of `W_OV` doubles, a chain of three heads moves eight times as much. Your result does not: something "
        "in it has passed fewer heads, or more.": (lambda x, A, W: (x, A, 2 * W), 8.0),
        "Your result changes if every layer gets one more head whose OV matrix is zero. Such a head writes nothing: "
        "its pattern should move only what its own OV matrix writes.": (_with_idle_heads, 1.0),
    },
    hints=(
        "You need no loop over the chains. What do all heads of layer 0 together write?",
        "`(pattern[0] @ x @ W_OV[0]).sum(0)`. Let layer 1 read exactly this, without `x`; and so on.",
    ),
    well_done="Three steps stand for all chains: 64 of them if each layer has four heads. This is what is left out "
    "when the loss is taken with all paths of at most two heads.",
)


# ---- 12.5 ---------------------------------------------------------------------------------------------------------


def _each(letters: str) -> list[str]:
    """An answer to each of five statements, by its first letter."""
    return [{"f": "follows", "d": "does not"}[letter] for letter in letters]


judge_layers = Value(
    number="12.5",
    title="What do six cuts tell?",
    minutes=5,
    stub="""
# Queries, keys or values of one layer read the embeddings alone. What share of the fall
# on random repeats is left? (rounded means, three seeds)
#                    Q     K     V
# layer 1 of three  1.0   1.0   0.2
# layer 2 of three  0.1   0.2   0.2
# Does it follow for these models?
# 1. The fall needs no head of layer 1 whose keys know the token before.
# 2. Layer 1 is not needed: two of its cuts cost nothing.
# 3. Most of the fall rests on what layer 1 moves of layer 0.
# 4. What layer 1 moves is read by the keys of layer 2 alone.
# 5. Trained without V-composition, it would not learn induction.
answers = ...  # a list of five of "follows", "does not"
""",
    right=_each("fdfdd"),
    choices=("follows", "does not"),
    wrong={
        "Mind the first: a key of layer 1 can know the token before from layer 0 alone. The cut of its keys takes that "
        "away, and nothing is lost.": _each("ddfdd"),
        "Mind the second: the third cut takes four fifths of the fall away. A layer may be needed for what it moves, "
        "wherever it looks.": _each("fffdd"),
        "Mind the third: this is what the cut of the values of layer 1 measures. Without what they take from layer 0, "
        "a fifth of the fall is left.": _each("fdddd"),
        "Mind the fourth: the cut changes what layer 1 writes, for everybody who reads it. To single out the keys, "
        "only they may read the changed layer 1.": _each("fdffd"),
        "Mind the last: the cut is made in a model that has learned to rely on it. Trained without it, another way may "
        "be found; two layers do without.": _each("fdfdf"),
        "Not all of it follows. A cut shows what this model uses, and neither which reader needs it nor what another "
        "training would find.": _each("fffff"),
        "Something does follow: each cut shows whether these models use what it takes away.": _each("ddddd"),
        "The first two are the wrong way round: the cut of its keys shows that layer 1 need not match, but not that it "
        "does nothing.": _each("dffdd"),
        "Mind the last two. The cut changes what layer 1 writes for all who read it, and it says nothing about another "
        "training.": _each("fdfff"),
    },
    hints=(
        "For each statement, imagine a model with these six numbers for which it is false.",
        "From where can a key of layer 1 know the token before? Which cut takes this away?",
        "Who reads what layer 1 writes? The cut of its values changes it for the queries, keys and values of layer 2.",
    ),
    well_done="Layer 1 moves, layer 2 matches. For statement 4 the chapter makes a purer cut: only the keys of layer 2 "
    "read a layer 1 that has missed layer 0.",
)


# ---- 12.6 ---------------------------------------------------------------------------------------------------------


def two_back() -> Float[Tensor, "layer dest src"]:
    """Attention of a head of layer 0 and of one of layer 1, on six places.

    Neither looks at the place two back. From place 1 on, neither has more than 0.8 of its
    attention on any single place. From place 2 on, the virtual head of the two has at least 0.6
    of its attention two back.
    """
    pattern = 0.8 * torch.ones(5).diag(-1) + 0.2 * torch.eye(6)
    pattern[0, 0] = 1
    return torch.stack([pattern, pattern])


def _virtual(patterns: Tensor) -> Float[Tensor, "dest src"]:
    early, late = patterns
    return late @ early


def _back(pattern: Tensor, n: int) -> Tensor:
    """What places have n back; of one pattern or of several."""
    return pattern.diagonal(-n, -2, -1)


def _pair(early: Tensor, late: Tensor) -> Float[Tensor, "layer dest src"]:
    return torch.stack([early, late]).double()


def _one_back(share: float, first: float = 1.0) -> Float[Tensor, "dest src"]:
    """So much attention one back, and the rest on the place itself; ``first`` on place 0."""
    pattern = share * torch.ones(5).diag(-1) + (1 - share) * torch.eye(6)
    pattern[0, 0] = first
    return pattern


def _rows_sum_to_one(patterns: Tensor) -> bool:
    return bool((patterns.sum(-1) - 1).abs().max() < 1e-3)


def _is_causal(patterns: Tensor) -> bool:
    return bool(patterns.triu(1).abs().max() < 1e-6)


def _goes_round(patterns: Tensor) -> bool:
    """Whether place 0 looks at the last place, and nobody else looks ahead."""
    ahead = patterns.triu(1)
    return bool(ahead[:, 0, -1].max() > 1e-6 and ahead.abs().sum() - ahead[:, 0, -1].abs().sum() < 1e-6)


def _late_first() -> Float[Tensor, "layer dest src"]:
    """Two patterns that look two back together only if that of layer 0 comes last."""
    late, early = _one_back(0.8), _one_back(0.8)
    late[1], early[5] = early[1].flip(0).roll(2), torch.tensor([0, 0, 0, 0, 0.2, 0.8])
    return _pair(late, early)


def _alone() -> Float[Tensor, "dest src"]:
    """A head that looks two back by itself."""
    pattern = 0.8 * torch.ones(4).diag(-2) + 0.2 * torch.eye(6)
    pattern[:2, :2] = torch.eye(2)
    return pattern


def _reaches(virtual: Tensor) -> bool:
    return bool(_back(virtual, 2).min() > 0.6 - 1e-6)


NEGATIVE = "Some entry is negative. Attention never is."
AHEAD = "Some place looks ahead: rows are destinations, columns are sources, so nothing stands right of the diagonal."
ROUND = "Place 0 looks at the last place: what is rolled comes back at the other end. Place 0 can only look at itself."
FIRST = "Row 0 does not sum to 1. Place 0 sees nothing but itself, so all its attention is there."
UNSPENT = "Some row does not sum to 1. Each place spends all its attention; what is left over may go to itself."
DIRECT = "One of the heads looks two back by itself, at some place at least. That is what neither should do."
SHARP = (
    "Some place after place 0 has more than 0.8 of its attention on one source. Trained heads are seldom so sharp: let "
    "it spend the rest elsewhere."
)
EXCHANGED = (
    "The two would do it in the other order. The head of layer 1 looks first, and from where it looks that of layer 0 "
    "goes on: its attention stands on the left."
)
UNMOVED = "The virtual head mostly looks *one* back: one head moves by one place, and the other hardly moves at all."
STILL = "The virtual head mostly looks at the present place: neither head moves much."
SOFT = (
    "Both heads look one back, but together they have less than 0.6 two back. The two shares are multiplied: how large "
    "must each be?"
)

build_two_back = Built(
    number="12.6",
    title="Two back, by two that look elsewhere",
    minutes=6,
    stub='''
def two_back() -> Float[Tensor, "layer dest src"]:
    """Attention of a head of layer 0 and of one of layer 1, on six places.

    Neither looks at the place two back. From place 1 on, neither has more than 0.8 of its
    attention on any single place. From place 2 on, the virtual head of the two has at least 0.6
    of its attention two back.
    """
    ...
''',
    shape=(2, 6, 6),
    example=two_back,
    conditions={
        NEGATIVE: lambda patterns: bool(patterns.min() >= -1e-9),
        ROUND: lambda patterns: not _goes_round(patterns),
        AHEAD: _is_causal,
        FIRST: lambda patterns: not _rows_sum_to_one(patterns[:, 1:]) or _rows_sum_to_one(patterns),
        UNSPENT: _rows_sum_to_one,
        DIRECT: lambda patterns: bool(_back(patterns, 2).max() < 1e-3),
        SHARP: lambda patterns: bool(patterns[:, 1:].max() < 0.8 + 1e-3),
        EXCHANGED: lambda patterns: _reaches(_virtual(patterns)) or not _reaches(_virtual(patterns.flip(0))),
        STILL: lambda patterns: _back(_virtual(patterns), 0)[1:].mean() < 0.5,
        UNMOVED: lambda patterns: _back(_virtual(patterns), 1)[1:].mean() < 0.5,
        SOFT: lambda patterns: _reaches(_virtual(patterns)) or not bool((_back(patterns, 1)[:, 1:] > 0.4).all()),
        "At some place the virtual head has less than 0.6 of its attention two back. Follow that place: where does the "
        "head of layer 1 look, and where does that of layer 0 look from there?": (
            lambda patterns: _reaches(_virtual(patterns))
        ),
    },
    wrong={
        NEGATIVE: _pair(1.2 * torch.ones(5).diag(-1) - 0.2 * torch.eye(6), torch.eye(6)),
        ROUND: lambda: (0.8 * torch.eye(6).roll(1, 0) + 0.2 * torch.eye(6)).expand(2, -1, -1),
        AHEAD: _pair(_one_back(0.8).T, _one_back(0.8).T),
        FIRST: _pair(_one_back(0.8, first=0.2), _one_back(0.8, first=0.2)),
        UNSPENT: _pair(0.8 * torch.ones(5).diag(-1), 0.8 * torch.ones(5).diag(-1)),
        DIRECT: lambda: _pair(_one_back(0.2), _alone()),
        SHARP: _pair(_one_back(1.0), _one_back(1.0)),
        STILL: _pair(_one_back(0.2), _one_back(0.2)),
        UNMOVED: _pair(_one_back(0.8), _one_back(0.2)),
        SOFT: _pair(_one_back(0.7), _one_back(0.7)),
        EXCHANGED: _late_first,
        "Attention is spread evenly over all places so far, so each head looks two back by itself, and the virtual "
        "head looks mostly at the start.": lambda: _causal(torch.zeros(2, 6, 6)),
    },
    hints=(
        "The attention of the virtual head is `late @ early`. From place 4 it should reach place 2: by way of which "
        "place, if neither head looks two back?",
        "Both look one back. If each has the share p there, the virtual head has p² two back.",
        "0.8 one back and 0.2 on the place itself give 0.64; place 0 has no choice.",
    ),
    well_done="Two heads that look 0.8 one back make one that looks 0.64 two back: shares are "
    "multiplied, and the rest goes elsewhere.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

worst_predictor = Prediction(
    number="12.A",
    question="Three states, 64 places, a fresh table in every chain. Each of three predictors adds 1 to every "
    "count. Which has the highest loss?",
    right="the one that remembers what followed the present state the last time",
    choices={
        "the one that counts how often each state has stood there": "It does not know what depends on what, but it has "
        "up to 64 places to count: 1.007 nats. A single memory of the right row is worth less: 1.024.",
        "the one that remembers what followed the present state the last time": "It looks into the right row of the "
        "table, but knows one draw from it: 1.024 nats. Whoever counts states has 1.007.",
        "the one that counts all that has followed the present state": "It knows all that the chain can tell of the "
        "right row. No predictor has a lower expected loss: 0.889 nats.",
    },
)

one_layer = Prediction(
    number="12.B",
    question="Train a model with one layer in the same way. The loss of guessing is 1.10 nats, that of counting states "
    "1.01, that of counting successors 0.89. Where does it end?",
    right="near 1.00: hardly further than counting states",
    choices={
        "near 1.10: it learns nothing": "Attention spread over everything so far counts states, and one layer is "
        "enough for that. It ends at 0.99.",
        "near 1.00: hardly further than counting states": "None of its keys knows which state stood before, so it "
        "cannot find successors. It ends at 0.99; of the way from counting states to the best, more than four fifths "
        "are left.",
        "near 0.95: half-way": "Counting successors takes keys that know which state stood before them. With one layer "
        "they do not, not even half, and it ends at 0.99.",
        "near 0.90: it only takes longer": "This is no matter of time. Counting successors takes keys that know the "
        "state before, and a key of the first layer reads its own state alone. It ends at 0.99.",
    },
)

worth_of_order_3 = NumberPrediction(
    number="12.C",
    question="A third layer of four heads makes 64 chains of three heads. The 48 pairs of these models (order 2) take "
    "about 1.4 nats off the loss. How many nats do the 64 chains (order 3) take off after them?",
    right="from 0.05 to 0.4",
    upper=(0.0, 0.05, 0.4, 1.2, 2.0, math.inf),
    choices={
        "nothing, or less": "The paths were trained together, the longest as well. On three seeds they take off 0.14 "
        "to 0.15 nats.",
        "at most 0.05: next to nothing": "Two layers are enough for induction, but a model that has three uses them: "
        "0.14 to 0.15 nats on three seeds, and no interval is near 0.",
        "from 0.05 to 0.4": "They take off 0.14 to 0.15 nats, a tenth of what the pairs do, on three seeds.",
        "from 0.4 to 1.2": "Each order does take off less than the one before, but the last step is steep: 2.0 nats, "
        "1.4, and then 0.14 to 0.15.",
        "from 1.2 to 2: about as much as the pairs": "There are more chains than pairs, but worth does not go by "
        "number: 0.14 to 0.15 nats. Most of the work is done already when they come.",
        "more than 2": "The chains come last, and find most of the work done: 0.14 to 0.15 nats, a tenth of what the "
        "pairs do.",
    },
)
