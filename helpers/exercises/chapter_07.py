"""The exercises of chapter 07, and the answers that lie near."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import Prediction

# ---- 07.1 ---------------------------------------------------------------------------------------------------------


def next_run(
    x: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "layer dest src"],
    W_OV: Float[Tensor, "layer d_model d_model"],
    saved: Float[Tensor, "layer pos d_model"],
) -> Float[Tensor, "layer pos d_model"]:
    """What the head of each layer writes in a run; ``saved`` is what it wrote in the last one."""
    stream, fresh = x, []
    for layer in range(len(saved)):
        fresh.append(pattern[layer] @ stream @ W_OV[layer])
        stream = stream + saved[layer]
    return torch.stack(fresh)


def _runs() -> list[tuple[Tensor, ...]]:
    """Models of three and four layers with one head each: embeddings, attention, OV matrices, saved outputs."""
    cases = []
    for seed, (n_layers, n_pos, d_model) in enumerate(((3, 6, 4), (4, 7, 5))):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(n_pos, d_model, generator=generator)
        pattern = _random_attention(n_layers, n_pos, generator)
        W_OV = torch.randn(n_layers, d_model, d_model, generator=generator)
        cases.append((x, pattern, W_OV, torch.randn(n_layers, n_pos, d_model, generator=generator)))
    return cases


def _random_attention(n: int, n_pos: int, generator: torch.Generator) -> Float[Tensor, "n pos pos"]:
    hidden = torch.ones(n_pos, n_pos, dtype=torch.bool).triu(1)
    return torch.randn(n, n_pos, n_pos, generator=generator).masked_fill(hidden, -torch.inf).softmax(-1)


def _each_reads(streams):
    """A run in which the head of each layer reads what ``streams(x, saved, layer)`` says."""
    return lambda x, A, W, saved: torch.stack([A[i] @ streams(x, saved, i) @ W[i] for i in range(len(W))])


def _live(x: Tensor, A: Tensor, W: Tensor, saved: Tensor) -> Tensor:
    fresh = []
    for pattern, W_OV in zip(A, W, strict=True):
        fresh.append(pattern @ (x + sum(fresh)) @ W_OV)
    return torch.stack(fresh)


def _live_and_saved(x: Tensor, A: Tensor, W: Tensor, saved: Tensor) -> Tensor:
    fresh = []
    for layer, (pattern, W_OV) in enumerate(zip(A, W, strict=True)):
        fresh.append(pattern @ (x + sum(fresh) + saved[:layer].sum(0)) @ W_OV)
    return torch.stack(fresh)


write_next_run = Function(
    number="07.1",
    title="Write one run of the algorithm",
    minutes=8,
    stub='''
def next_run(
    x: Float[Tensor, "pos d_model"],
    pattern: Float[Tensor, "layer dest src"],
    W_OV: Float[Tensor, "layer d_model d_model"],
    saved: Float[Tensor, "layer pos d_model"],
) -> Float[Tensor, "layer pos d_model"]:
    """What the head of each layer writes in a run; ``saved`` is what it wrote in the last one."""
    ...
''',
    reference=next_run,
    cases=_runs,
    wrong={
        "Each layer reads what the layers below write in this very run. That is the intact model: paths of every "
        "length come in at once, and the orders cannot be told apart.": _live,
        "Each head reads its own saved output as well. No head of the model reads itself: a layer reads what the "
        "layers below have written.": _each_reads(lambda x, saved, i: x + saved[: i + 1].sum(0)),
        "Each head reads the embeddings and its own saved output. No head of the model reads itself, and the layers "
        "below are missing.": _each_reads(lambda x, saved, i: x + saved[i]),
        "The stream gets both what was saved and what was written just now. Fresh outputs should wait until the next "
        "run.": _live_and_saved,
        "No attention is used: each place keeps to itself, and nothing is moved.": lambda x, A, W, saved: next_run(
            x, torch.eye(len(x)).expand(len(W), -1, -1), W, saved
        ),
        "All that was saved is in the stream from the start, so a layer also reads what the layers above it wrote. "
        "In the model information only flows upwards.": _each_reads(lambda x, saved, i: x + saved.sum(0)),
        "Every head reads the embeddings alone. That is the second run again, and what was saved is never used.": (
            _each_reads(lambda x, saved, i: x)
        ),
        "The embeddings are missing from the stream. Then each run has paths of one length only; the paper's run "
        "has all shorter ones, too.": _each_reads(lambda x, saved, i: saved[:i].sum(0)),
        "Each layer reads only the layer right below it. The stream keeps everything: layer 2 reads layer 0 as "
        "well.": _each_reads(lambda x, saved, i: x + saved[i - 1] if i else x),
        "`W_OV` is missing: a head does not hand on the stream as it is.": lambda x, A, W, saved: next_run(
            x, A, torch.eye(x.shape[1]).expand(len(W), -1, -1), saved
        ),
        "The attention is transposed. Its rows are destinations already, so it multiplies the stream as it "
        "is.": lambda x, A, W, saved: next_run(x, A.mT, W, saved),
        "`W_OV` is transposed. The vectors of the stream are rows, and weights multiply rows from the right as they "
        "are.": (lambda x, A, W, saved: next_run(x, A, W.mT, saved)),
        "You add what was saved to what each head writes. A run should return only what is written in it, or the same "
        "paths are counted twice.": lambda x, A, W, s: next_run(x, A, W, s) + s,
        "You return the stream after each layer. What is asked for is what each head writes, since that is what gets "
        "saved.": lambda x, A, W, saved: x + saved.cumsum(0),
        "What was saved replaces the stream, and is not added to it: from layer 1 on, the embeddings are lost.": (
            _each_reads(lambda x, saved, i: saved[i - 1] if i else x)
        ),
        "You add up what all heads write. Keep it apart, one entry for each layer: the next run adds each in its own "
        "layer.": lambda x, A, W, saved: next_run(x, A, W, saved).sum(0),
    },
    laws={
        "Your result changes with what the head of the top layer has saved, although no head reads it.": (
            lambda x, A, W, saved: (x, A, W, torch.cat([saved[:-1], 2 * saved[-1:]])),
            1.0,
        ),
        "If all of `W_OV` doubles, so does what each head writes. Your result does not: something in it has gone "
        "through no head, or through more than one.": (lambda x, A, W, saved: (x, A, 2 * W, saved), 2.0),
    },
    hints=(
        "Go through the layers in order with one variable, the stream. What is in it when layer 0 reads? When layer "
        "1 does?",
        "Two things happen in each layer: its head reads the stream, and then the stream gets something. What it gets "
        "is not what the head has just written.",
        "`fresh.append(pattern[layer] @ stream @ W_OV[layer])`, then `stream = stream + saved[layer]`.",
    ),
    well_done="Start with nothing saved and call it again and again: each run lets in paths that are one head longer.",
)


# ---- 07.2 ---------------------------------------------------------------------------------------------------------


def losses_of_path_and_pairs(
    up_to: Float[Tensor, "order pos d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    following_tokens: Int[Tensor, " pos"],
) -> Float[Tensor, " pos"]:
    """The loss at each place with the direct path and the pairs, but no single heads.

    ``up_to[n]`` is the stream with all paths of at most n heads, n = 0, 1, 2.
    """
    stream = up_to[0] + (up_to[2] - up_to[1])
    log_probs = (stream @ W_U).log_softmax(-1)
    return -log_probs.gather(-1, following_tokens[:, None]).squeeze(-1)


def _streams() -> list[tuple[Tensor, ...]]:
    """Streams with more and more paths, an unembedding, and the tokens that follow."""
    cases = []
    for seed, (n_pos, d_model, d_vocab) in enumerate(((6, 4, 9), (5, 3, 7))):
        generator = torch.Generator().manual_seed(seed)
        up_to = torch.randn(3, n_pos, d_model, generator=generator).cumsum(0)
        W_U = torch.randn(d_model, d_vocab, generator=generator)
        cases.append((up_to, W_U, torch.randint(d_vocab, (n_pos,), generator=generator)))
    return cases


def _losses(stream: Tensor, W_U: Tensor, following: Tensor, softmax_over: int = -1) -> Tensor:
    return -(stream @ W_U).log_softmax(softmax_over).gather(-1, following[:, None]).squeeze(-1)


def _of(stream):
    """The losses of a stream made from ``up_to``."""
    return lambda up_to, W_U, following: _losses(stream(up_to), W_U, following)


write_path_and_pairs = Function(
    number="07.2",
    title="Let the pairs in before the single heads",
    minutes=6,
    stub='''
def losses_of_path_and_pairs(
    up_to: Float[Tensor, "order pos d_model"],
    W_U: Float[Tensor, "d_model d_vocab"],
    following_tokens: Int[Tensor, " pos"],
) -> Float[Tensor, " pos"]:
    """The loss at each place with the direct path and the pairs, but no single heads.

    ``up_to[n]`` is the stream with all paths of at most n heads, n = 0, 1, 2.
    """
    ...
''',
    reference=losses_of_path_and_pairs,
    cases=_streams,
    wrong={
        "You add and subtract losses. Paths add up in the stream and in the logits, but after the softmax nothing "
        "adds up any more.": lambda up_to, W_U, following: sum(
            sign * _losses(up_to[n], W_U, following) for n, sign in ((0, 1), (1, -1), (2, 1))
        ),
        "These are the pairs without the direct path: what the embeddings say by themselves is missing.": _of(
            lambda up_to: up_to[2] - up_to[1]
        ),
        "`up_to[2]` has everything up to the pairs, so this is the intact model, single heads included.": _of(
            lambda up_to: up_to[2]
        ),
        "`up_to[2]` is not the pairs alone: added to `up_to[0]` it brings the single heads with it and the direct path "
        "for a second time.": _of(lambda up_to: up_to[0] + up_to[2]),
        "This takes away the direct path and keeps the single heads. It should be the other way round.": _of(
            lambda up_to: up_to[2] - up_to[0]
        ),
        "`up_to[1]` has the direct path in it, too. So you take it away twice, once with the single heads and once by "
        "itself.": _of(lambda up_to: up_to[2] - up_to[1] - up_to[0]),
        "These are the direct path and the single heads: the pairs are what is missing.": _of(lambda up_to: up_to[1]),
        "This is the direct path alone: it should have the pairs beside it.": _of(lambda up_to: up_to[0]),
        "The losses of all places are averaged. Keep them apart: one for each place.": lambda up_to, W_U, following: (
            _losses(up_to[0] + up_to[2] - up_to[1], W_U, following).mean()
        ),
        "The pairs have the wrong sign: order 1 minus order 2 is the wrong way round.": _of(
            lambda up_to: up_to[0] + up_to[1] - up_to[2]
        ),
        "The tokens are shifted once too often: `following_tokens` already has the token that comes after each "
        "place.": (lambda up_to, W_U, following: losses_of_path_and_pairs(up_to, W_U, following.roll(-1))),
        "These are probabilities of the tokens that follow. The loss is minus the logarithm.": (
            lambda *case: (-losses_of_path_and_pairs(*case)).exp()
        ),
        "The softmax goes over the positions. The tokens of the vocabulary compete, and they are on the last axis.": (
            lambda up_to, W_U, following: _losses(up_to[0] + up_to[2] - up_to[1], W_U, following, 0)
        ),
        "This is minus the logit: the softmax, which makes log-probabilities of logits, is missing.": (
            lambda up_to, W_U, following: (
                -((up_to[0] + up_to[2] - up_to[1]) @ W_U).gather(-1, following[:, None]).squeeze(-1)
            )
        ),
        "This takes the direct path away and has the single heads twice: count the orders in what you add and "
        "subtract.": _of(lambda up_to: up_to[2] + up_to[1] - up_to[0]),
        "This is one loss for the direct path plus another for the pairs. Sum the streams first; then there is one "
        "softmax, and one loss.": lambda up_to, W_U, following: (
            _losses(up_to[0], W_U, following) + _losses(up_to[2] - up_to[1], W_U, following)
        ),
    },
    laws={
        "Your result changes when one vector is added to all columns of `W_U`, although no probability does: is there "
        "no softmax over the vocabulary?": (lambda up_to, W_U, following: (up_to, W_U + W_U[:, :1], following), 1.0),
        "Your result changes when single heads write more, that is when the same is added to `up_to[1]` and "
        "`up_to[2]`. They should not be in it.": (
            lambda up_to, W_U, following: (torch.cat([up_to[:1], up_to[1:] + up_to[:1]]), W_U, following),
            1.0,
        ),
    },
    hints=(
        "What do the pairs by themselves write into the stream? You have the stream with them and the stream without.",
        "The pairs are `up_to[2] - up_to[1]`. What else belongs in?",
        "Unembed `up_to[0] + up_to[2] - up_to[1]`, take `log_softmax(-1)`, and gather the entries of the tokens that "
        "follow.",
    ),
    well_done="What the pairs are worth depends on what is there already: streams add up, and losses do not.",
)


# ---- 07.3 ---------------------------------------------------------------------------------------------------------


def same_work() -> Float[Tensor, "head token"]:
    """What two heads add to the logits of three tokens, of which the first comes next.

    Nothing else adds to the logits. Without one of the heads, whichever it is, the loss rises by
    less than 0.05 nats. Without both it rises by more than 1 nat.
    """
    return torch.tensor([[10.0, 0.0, 0.0], [10.0, 0.0, 0.0]])


def _loss(logits: Float[Tensor, " token"]) -> float:
    return -logits.log_softmax(-1)[0].item()


def _rise_without(logits: Float[Tensor, "head token"], *heads: int) -> float:
    kept = [head for head in (0, 1) if head not in heads]
    return _loss(logits[kept].sum(0)) - _loss(logits.sum(0))


def _is_flat(logits: Float[Tensor, " token"]) -> bool:
    """Whether all logits are the same, so that the softmax does not see them."""
    return (logits.max() - logits.min()).item() < 1e-6


def _one_does_it_all(logits: Float[Tensor, "head token"]) -> bool:
    return _rise_without(logits, 0, 1) > 1 and any(_is_flat(head) for head in logits)


IDLE = "These heads do nothing: nothing is lost without one of them, but nothing without both, either."
UNSEEN = "The softmax is blind to what is added to all tokens alike: these heads raise token 0 no more than the others."
UNDONE = (
    "The two heads undo each other: whatever one writes, the other takes back, so with both the model has to guess."
)
MISLED = "With both heads token 0 is less likely than for a blind guess: together they help the other tokens."
RIVALLED = "With both heads token 0 is not the likeliest: some other token is raised as much, or more."
ALONE = "One head does it all. Without the other nothing is lost, but without this one everything is."

do_the_same_work = Built(
    number="07.3",
    title="Worthless one by one, and not together",
    minutes=5,
    stub='''
def same_work() -> Float[Tensor, "head token"]:
    """What two heads add to the logits of three tokens, of which the first comes next.

    Nothing else adds to the logits. Without one of the heads, whichever it is, the loss rises by
    less than 0.05 nats. Without both it rises by more than 1 nat.
    """
    ...
''',
    shape=(2, 3),
    example=same_work,
    conditions={
        IDLE: lambda logits: bool(logits.any()),
        UNSEEN: lambda logits: not all(_is_flat(head) for head in logits),
        UNDONE: lambda logits: not _is_flat(logits.sum(0)),
        MISLED: lambda logits: _loss(logits.sum(0)) < math.log(3) + 1e-6,
        RIVALLED: lambda logits: bool((logits.sum(0)[0] > logits.sum(0)[1:] + 1e-6).all()),
        ALONE: lambda logits: not _one_does_it_all(logits),
        "Without both heads the loss rises by less than 1 nat. Without them it is ln 3 = 1.10 nats, a blind guess, so "
        "with both it must be nearly 0.": lambda logits: _rise_without(logits, 0, 1) > 1,
        "Without the first head the loss rises by 0.05 nats or more: the second cannot do the work alone.": (
            lambda logits: _rise_without(logits, 0) < 0.05
        ),
        "Without the second head the loss rises by 0.05 nats or more: the first cannot do the work alone.": (
            lambda logits: _rise_without(logits, 1) < 0.05
        ),
    },
    wrong={
        IDLE: torch.zeros(2, 3),
        UNSEEN: torch.full((2, 3), 10.0),
        ALONE: torch.tensor([[10.0, 0, 0], [0, 0, 0]]),
        UNDONE: torch.tensor([[10.0, 0, 0], [-10, 0, 0]]),
        MISLED: torch.tensor([[0, 10.0, 0], [0, 10, 0]]),
        RIVALLED: torch.tensor([[10.0, 0, 0], [0, 10, 0]]),
        "These heads share the work: each lowers one of the rivals, so token 0 needs both of them.": torch.tensor(
            [[0, -10.0, 0], [0, 0, -10]]
        ),
    },
    hints=(
        "A loss cannot fall below 0. If the first head has brought it there, what is left for the second?",
        "So each head alone should make token 0 nearly certain.",
        "Try `[[c, 0, 0], [c, 0, 0]]` and raise c.",
    ),
    well_done="Each head is worth nothing when it comes last and 1.1 nats when it comes first: in the same way the "
    "pairs were worth four times as much before the single heads as after them.",
)


# ---- 07.4 ---------------------------------------------------------------------------------------------------------


def _each(letters: str) -> list[str]:
    """An answer to each of five questions, by its first letter."""
    return [{"s": "same", "l": "lost"}[letter] for letter in letters]


where_it_looks = Value(
    number="07.4",
    title="Does it still look there?",
    minutes=5,
    stub="""
# On random tokens that come twice, 1:1 looks at the token after the earlier copy.
# Does it still look there ("same"), or does it not any more ("lost"), if
# 1. the attention is frozen, and the pairs are left out
# 2. the attention is frozen, and the previous-token head 0:6 writes nothing
# 3. the attention is computed anew, and 0:6 writes nothing
# 4. the attention is computed anew, and all keys read the embeddings alone
# 5. the attention is computed anew, and all values read the embeddings alone
answers = ...
""",
    right=["same", "same", "lost", "lost", "same"],
    choices=("same", "lost"),
    wrong={
        "You have the second and the third the wrong way round: frozen attention stays, whatever is removed.": _each(
            "slsls"
        ),
        "Mind the second and the last. A frozen pattern stays as it was saved, and values have no say in where a head "
        "looks.": _each("sllll"),
        "Mind the second: the pattern was saved from the intact model, in which 0:6 had done its work. Frozen, it "
        "stays as it is.": _each("sllls"),
        "Mind the third: here the pattern is made from what is in the stream now, and the keys miss what 0:6 used to "
        "write.": _each("sssls"),
        "Mind the fourth: a key that reads the embedding alone knows its own token, but not the one before.": _each(
            "sslss"
        ),
        "Mind the last: values are what a head fetches. Where it looks, queries and keys decide.": _each("sslll"),
        "Mind the first: a pair is what one head moves of what another has moved. Without it all patterns stay.": _each(
            "lslls"
        ),
        "Not all of these reach the queries and keys. Frozen patterns stay whatever is removed, and values have no say "
        "in where a head looks.": _each("lllll"),
        "A frozen pattern stays. But where attention is computed anew, the keys decide, and in two cases what the "
        "induction head looks for is gone from them.": _each("sssss"),
        "Frozen means that the pattern stays as it was. You have it the other way round.": _each("llssl"),
        "Frozen patterns stay, whatever is left out: in the first two only what is moved changes.": _each("lllls"),
        "Three and four both take the previous token out of the keys: one removes who writes it, the other keeps the "
        "keys from reading it.": _each("ssssl"),
    },
    hints=(
        "Ask two questions of each: is the pattern made anew at all? If so, do queries or keys read something else?",
        "The pattern of a head of layer 1 depends on what its queries and its keys read, and on nothing else.",
    ),
    well_done="Freezing shows what is moved, and cutting the keys shows what decides where heads look. Table 7.1 has "
    "only the former, and hides what layer 0 is for.",
)


# ---- 07.5 ---------------------------------------------------------------------------------------------------------


def pattern_without_in_keys(
    x: Float[Tensor, "pos d_model"],
    written: Float[Tensor, "pos d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    W_K: Float[Tensor, "d_model d_head"],
) -> Float[Tensor, "dest src"]:
    """Attention of a head of layer 1 whose keys (not its queries) miss what one head has written.

    ``x`` is the stream that layer 1 reads, with all that layer 0 wrote, ``written`` included.
    Leave positions aside.
    """
    scores = (x @ W_Q) @ ((x - written) @ W_K).T / math.sqrt(W_Q.shape[1])
    hidden = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


def _reads() -> list[tuple[Tensor, ...]]:
    """What a head of layer 1 reads, what one head of layer 0 has written of that, and the former's weights."""
    cases = []
    for seed, (n_pos, d_model, d_head) in enumerate(((5, 6, 3), (7, 5, 2))):
        generator = torch.Generator().manual_seed(seed)
        x, written = torch.randn(2, n_pos, d_model, generator=generator)
        W_Q, W_K = torch.randn(2, d_model, d_head, generator=generator)
        cases.append((x + written, written, W_Q, W_K))
    return cases


def _scores(asking: Tensor, asked: Tensor, W_Q: Tensor, W_K: Tensor) -> Float[Tensor, "dest src"]:
    return (asking @ W_Q) @ (asked @ W_K).T / math.sqrt(W_Q.shape[1])


def _masked(scores: Float[Tensor, "dest src"], fill: float = -math.inf) -> Float[Tensor, "dest src"]:
    return scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), fill)


def _attention(asking: Tensor, asked: Tensor, W_Q: Tensor, W_K: Tensor) -> Float[Tensor, "dest src"]:
    return _masked(_scores(asking, asked, W_Q, W_K)).softmax(-1)


def _from_scores(change):
    """A pattern that ``change`` makes of the right scores."""
    return lambda x, w, Q, K: change(_scores(x, x - w, Q, K))


def _four_times_as_wide(x: Tensor, w: Tensor, Q: Tensor, K: Tensor) -> tuple[Tensor, ...]:
    """Other weights with the same scores: four times as many columns, most of them 0, and twice the queries."""
    zeros = Q.new_zeros(Q.shape[0], 3 * Q.shape[1])
    return x, w, torch.cat([2 * Q, zeros], 1), torch.cat([K, zeros], 1)


def _scaled_by(factor):
    """Attention whose scores ``factor(W_Q)`` multiplies in place of 1 / √d_head."""
    return lambda x, w, Q, K: _masked((x @ Q) @ ((x - w) @ K).T * factor(Q)).softmax(-1)


write_pattern_without_in_keys = Function(
    number="07.5",
    title="Cut one head out of the keys",
    minutes=8,
    stub='''
def pattern_without_in_keys(
    x: Float[Tensor, "pos d_model"],
    written: Float[Tensor, "pos d_model"],
    W_Q: Float[Tensor, "d_model d_head"],
    W_K: Float[Tensor, "d_model d_head"],
) -> Float[Tensor, "dest src"]:
    """Attention of a head of layer 1 whose keys (not its queries) miss what one head has written.

    ``x`` is the stream that layer 1 reads, with all that layer 0 wrote, ``written`` included.
    Leave positions aside.
    """
    ...
''',
    reference=pattern_without_in_keys,
    cases=_reads,
    wrong={
        "Queries and keys both miss it. This happens if the head is removed from the stream altogether, and then Q- "
        "and K-composition cannot be told apart.": lambda x, w, Q, K: _attention(x - w, x - w, Q, K),
        "You have cut it out of the queries, and the keys still read it.": (
            lambda x, w, Q, K: _attention(x - w, x, Q, K)
        ),
        "Nothing is cut: this is the attention of the intact head.": lambda x, w, Q, K: _attention(x, x, Q, K),
        "The keys read nothing *but* what this head has written. It should be the one thing they miss.": (
            lambda x, w, Q, K: _attention(x, w, Q, K)
        ),
        "You add what the head has written, so the keys now read it twice.": (
            lambda x, w, Q, K: _attention(x, x + w, Q, K)
        ),
        "`W_Q` and `W_K` are exchanged: destinations ask with `W_Q`, and sources answer with `W_K`.": (
            lambda x, w, Q, K: _attention(x, x - w, K, Q)
        ),
        "The scores are not divided by the root of `d_head`, so the softmax is sharper than the head's own.": (
            _scaled_by(lambda Q: 1)
        ),
        "The scores are divided by the root of `d_model`. A score is a sum of `d_head` products.": (
            _scaled_by(lambda Q: Q.shape[0] ** -0.5)
        ),
        "There is no mask: each place looks at later ones as well.": _from_scores(lambda scores: scores.softmax(-1)),
        "Scores of the future are set to 0, but for the softmax 0 is a score like any other. The future should get no "
        "attention at all.": _from_scores(lambda scores: _masked(scores, 0.0).softmax(-1)),
        "The mask comes after the softmax, so rows do not sum to 1: the future has taken its share already.": (
            _from_scores(lambda scores: scores.softmax(-1).tril())
        ),
        "These are the scores before mask and softmax. The pattern is asked for.": _from_scores(lambda scores: scores),
        "These are the masked scores. What a head attends to is their softmax.": _from_scores(_masked),
        "The keys read `written - x`, and the difference is the wrong way round: every score has the wrong sign.": (
            lambda x, w, Q, K: _attention(x, w - x, Q, K)
        ),
        "The softmax goes over the destinations. Each destination divides its attention among sources, so rows should "
        "sum to 1.": _from_scores(lambda scores: _masked(scores).softmax(0)),
        "You subtract one pattern from another. A softmax stands between scores and attention, so the cut must come "
        "before it.": lambda x, w, Q, K: _attention(x, x, Q, K) - _attention(x, w, Q, K),
    },
    laws={
        "Look at the scale: products of queries and keys should be divided by the root of `d_head`, before the "
        "softmax. (There may be another mistake.)": (_four_times_as_wide, 1.0),
        "One vector added to `written` at all places lowers the scores of a row alike, so attention should stay. Yours "
        "changes. Do the keys alone miss `written`, and does the softmax go over sources?": (
            lambda x, w, Q, K: (x, w + w[:1], Q, K),
            1.0,
        ),
    },
    hints=(
        "Queries and keys need not read the same: give each its own stream.",
        "The queries read `x`, the keys `x - written`. The rest is ordinary attention: scale, mask, softmax.",
        "`scores = (x @ W_Q) @ ((x - written) @ W_K).T / math.sqrt(W_Q.shape[1])`, then the mask and `softmax(-1)`.",
    ),
    well_done="Applied to the previous-token head, this cut shows what it does for induction, whatever else it does.",
)


# ---- 07.6 ---------------------------------------------------------------------------------------------------------

what_pairs_are_worth = Value(
    number="07.6",
    title="What may be concluded from Table 7.1?",
    minutes=4,
    stub="""
# In Table 7.1 the 144 pairs change the loss by -0.3 nats. So
# A. a model trained without V-composition would have a loss about 0.3 nats higher
# B. with frozen attention, leaving out the pairs costs this model about 0.3 nats on this text
# C. layer 1 has little use for what layer 0 writes
# D. every single pair is nearly idle
# E. virtual heads can be neglected in larger models, too
answer = ...  # "A", "B", "C", "D" or "E"
""",
    right="B",
    choices=("A", "B", "C", "D", "E"),
    wrong={
        "The other parts of this model were trained with the pairs beside them. Without the pairs they would have "
        "become something else. Think of the direct path, which does so much worse here than the model of chapter "
        "02.": "A",
        "The attention is frozen, so the table leaves out what layer 0 does for queries and keys. Table 7.3 shows that "
        "this is far from little.": "C",
        "A small sum does not mean small terms, since signs may cancel. For each pair by itself one has to look "
        "at Figure 7.3; the table cannot tell.": "D",
        "This is one small model with two layers. The number of pairs grows with the square of the number of heads, "
        "and nothing here says how their worth grows.": "E",
    },
    hints=(
        "What was held fixed when this number was measured, and what came before the pairs?",
        "Four of these speak of another model, of another kind of composition, or of single terms.",
    ),
    well_done="Such a number belongs to one model, one text, frozen attention, and what was there before the pairs.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

layer_0_last = Prediction(
    number="07.A",
    question="If the heads of layer 0 are let in right after the direct path, they take 1.2 nats off the loss. How "
    "much do they take off if they come last, after the direct path and the heads of layer 1?",
    right="much less than 1.2 nats",
    choices={
        "1.2 nats again": "Logits add up in any order, but losses do not. Layer 1 has done part of the same work "
        "already, and 0.4 nats are left.",
        "much less than 1.2 nats": "Heads of both layers read the same embeddings and raise partly the same tokens. "
        "Whichever comes second gets what is left: 0.4 nats.",
        "nothing at all: layer 0 only prepares what layer 1 reads": "A head can do both. Layer 0 writes to the logits, "
        "too, and after layer 1 this is still worth 0.4 nats. What it prepares does not show here, since attention is "
        "frozen and all heads read the embeddings only.",
        "more than 1.2 nats": "That happens where parts need each other. Here each head reads the embeddings only, and "
        "the two layers partly do the same work: 0.4 nats are left.",
    },
)

which_cut = Prediction(
    number="07.B",
    question="Which of the three cuts takes away most of the fall on the second copy?",
    right="the keys",
    choices={
        "the queries": "The query does start the search. But it only has to say which token stands here, and the "
        "embedding says so. This cut hurts, yet 0.9 of the 3.8 nats of the fall remain; without the keys, none.",
        "the keys": "Only the keys have to know a token that is not their own: the one before. Of the 3.8 nats of the "
        "fall nothing remains.",
        "the values": "A head that copies only needs the embedding of the token it looks at, and this cut leaves it. "
        "No pattern changes either. 2.7 of the 3.8 nats of the fall remain.",
    },
)
