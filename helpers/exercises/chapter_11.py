"""The exercises of chapter 11, and the answers that lie near."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, einsum

from helpers.exercises.kinds import Built, Function, Value
from helpers.exercises.predictions import NumberPrediction, Prediction, SignsPrediction


def _random(seed: int, *shapes: tuple[int, ...]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


# ---- biases -------------------------------------------------------------------------------------------------------


def one_bias(
    b_V: Float[Tensor, "head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    b_O: Float[Tensor, " d_model"],  # of the layer
) -> Float[Tensor, " d_model"]:
    """The b_O of a layer that writes the same although its values have no bias."""
    return b_O + einsum("he,hed->d", b_V, W_O)


def _layers() -> list[tuple[Tensor, ...]]:
    """Layers of heads that divide the width of the stream among them, as in the book's models."""
    sizes = enumerate(((3, 2), (2, 4)))
    return [_random(seed, (n, d), (n, d, n * d), (n * d,)) for seed, (n, d) in sizes]


def _each_head(b_V: Tensor, W_O: Tensor) -> Float[Tensor, "head d_model"]:
    """What the values' bias of each head writes."""
    return einsum("he,hed->hd", b_V, W_O)


put_values_bias = Function(
    number="11.1",
    title="Where the bias of the values goes",
    minutes=5,
    stub='''
def one_bias(
    b_V: Float[Tensor, "head d_head"],
    W_O: Float[Tensor, "head d_head d_model"],
    b_O: Float[Tensor, " d_model"],  # of the layer
) -> Float[Tensor, " d_model"]:
    """The b_O of a layer that writes the same although its values have no bias."""
    ...
''',
    reference=one_bias,
    cases=_layers,
    wrong={
        "You leave `b_O` as it is. But a bias of the values does not vanish: attention sums to 1, so each head writes "
        "the whole of it, at every place.": lambda b_V, W_O, b_O: b_O,
        "The layer's own `b_O` is lost: what comes from the values is added to it.": lambda b_V, W_O, b_O: _each_head(
            b_V, W_O
        ).sum(0),
        "The heads' biases, laid end to end, are added to `b_O` as they are. They are values, and a value is written "
        "with `W_O`.": lambda b_V, W_O, b_O: b_O + b_V.flatten(),
        "You average over heads. Each writes to the same stream, so what they write is added up.": (
            lambda b_V, W_O, b_O: b_O + _each_head(b_V, W_O).mean(0)
        ),
        "Every head's bias goes through every head's `W_O`. A plain `b_V @ W_O` pairs them all, and so do two sums "
        "over heads: multiply head by head.": lambda b_V, W_O, b_O: b_O + b_V.sum(0) @ W_O.sum(0),
        "`b_V @ W_O` takes every head's bias through every head's `W_O`, so your result has two axes of heads. "
        "Multiply head by head, and add up.": lambda b_V, W_O, b_O: b_O + b_V @ W_O,
        "Every head's bias goes through every head's `W_O`, and one axis of heads is left. Multiply head by head, then "
        "add up.": lambda b_V, W_O, b_O: b_O + (b_V @ W_O).sum(0),
        "`b_V @ W_O` takes every head's bias through every head's `W_O`. Multiply head by head, and then add up the "
        "heads.": lambda b_V, W_O, b_O: b_O + (b_V @ W_O).sum(1),
        "This keeps the heads apart, with all of `b_O` in each. A layer has one bias: add up what the heads write, and "
        "`b_O` once.": lambda b_V, W_O, b_O: b_O + _each_head(b_V, W_O),
        "`b_O` is in it once for each head. It belongs to the layer, so it counts once.": (
            lambda b_V, W_O, b_O: len(b_V) * b_O + _each_head(b_V, W_O).sum(0)
        ),
        "You subtract. The values lose their bias, so the layer's bias has to gain what it wrote.": (
            lambda b_V, W_O, b_O: b_O - _each_head(b_V, W_O).sum(0)
        ),
        "`b_O` has gone through `W_O` as well. It is added to the stream behind `W_O`.": (
            lambda b_V, W_O, b_O: (b_O + b_V.flatten()) @ W_O.flatten(0, 1)
        ),
        "`W_O` is transposed. Values are rows, and `W_O` multiplies them from the right as it is.": (
            lambda b_V, W_O, b_O: b_O + b_V.flatten() @ W_O.flatten(0, 1).T
        ),
        "The values' biases are in the wrong order: those of one head come first, then those of the next, as in "
        "`b_V.flatten()`.": lambda b_V, W_O, b_O: b_O + b_V.T.flatten() @ W_O.flatten(0, 1),
        "This counts one head only. Every head of the layer has a bias of its values.": (
            lambda b_V, W_O, b_O: b_O + b_V[0] @ W_O[0]
        ),
    },
    laws={
        "If each `W_O` doubles and each `b_V` is halved, the heads write the same. Your result changes.": (
            lambda b_V, W_O, b_O: (b_V / 2, 2 * W_O, b_O),
            1.0,
        ),
        "With the heads in another order the layer writes the same. Your result changes: does every head count, with "
        "its own `W_O`?": (lambda b_V, W_O, b_O: (b_V.flip(0), W_O.flip(0), b_O), 1.0),
    },
    hints=(
        "A head writes A @ (x W_V + b_V) W_O. Multiply it out. What does a row of A, which sums to 1, make of the same "
        "b_V at every source?",
        "At every place, whatever the text, the head writes b_V W_O. All heads of the layer do.",
        '`b_O + einsum("he,hed->d", b_V, W_O)`.',
    ),
    well_done="Where the head looks does not matter, so this part of what it writes is no path but a constant.",
)


# ---- LayerNorm ----------------------------------------------------------------------------------------------------


def folded(
    gain: Float[Tensor, " d_model"],
    offset: Float[Tensor, " d_model"],
    W: Float[Tensor, "d_model out"],
    b: Float[Tensor, " out"],
) -> Float[Tensor, "d_model+1 out"]:
    """The weight and, as its last row, the bias with which a reader of x / scale gets the same
    as ((x - x.mean()) / scale * gain + offset) @ W + b, for any x and its scale.
    """
    weight = gain[:, None] * W
    return torch.cat([weight - weight.mean(0), (b + offset @ W)[None]])


def _readers() -> list[tuple[Tensor, ...]]:
    """Gains, offsets, weights and biases of readers of two streams."""
    cases = []
    for seed, (d_model, out) in enumerate(((5, 3), (4, 6))):
        gain, offset, W, b = _random(seed, (d_model,), (d_model,), (d_model, out), (out,))
        cases.append((gain.exp(), offset, W, b))
    return cases


def _centred(W: Tensor) -> Tensor:
    """``W`` as it reads a stream that has lost its mean."""
    return W - W.mean(0)


def _weight(gain: Tensor, W: Tensor) -> Tensor:
    return _centred(gain[:, None] * W)


def _with_weight(weight):
    """The right bias below ``weight(gain, W)``."""
    return lambda gain, offset, W, b: torch.cat([weight(gain, W), (b + offset @ W)[None]])


def _with_bias(bias):
    """``bias(gain, offset, W, b)`` below the right weight."""
    return lambda gain, offset, W, b: torch.cat([_weight(gain, W), bias(gain, offset, W, b)[None]])


def _other_row(gain: Tensor, offset: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, ...]:
    """The same reader: one vector is added to all rows of ``gain * W``, and the bias makes up for it."""
    return gain, offset, W + W[:1] / gain[:, None], b - (offset / gain).sum() * W[0]


fold_one_read = Function(
    number="11.2",
    title="Fold a LayerNorm into what reads it",
    minutes=8,
    stub='''
def folded(
    gain: Float[Tensor, " d_model"],
    offset: Float[Tensor, " d_model"],
    W: Float[Tensor, "d_model out"],
    b: Float[Tensor, " out"],
) -> Float[Tensor, "d_model+1 out"]:
    """The weight and, as its last row, the bias with which a reader of x / scale gets the same
    as ((x - x.mean()) / scale * gain + offset) @ W + b, for any x and its scale.
    """
    ...
''',
    reference=folded,
    cases=_readers,
    wrong={
        "The mean is taken off the columns of `W` before the gain. LayerNorm centres the stream first and multiplies "
        "by the gain afterwards, so the columns of gain times `W` are what must lose their mean.": (
            _with_weight(lambda gain, W: gain[:, None] * _centred(W))
        ),
        "Nothing takes the mean away. Add 1 to all entries of x: LayerNorm does not notice, and your reader does.": (
            _with_weight(lambda gain, W: gain[:, None] * W)
        ),
        "The mean is taken along the outputs. LayerNorm takes the mean over the entries of the stream, which are the "
        "rows of `W`.": _with_weight(lambda gain, W: (rows := gain[:, None] * W) - rows.mean(1, keepdim=True)),
        "One mean over all entries is taken off. Each output reads with its own column, so each column loses its own "
        "mean.": _with_weight(lambda gain, W: (rows := gain[:, None] * W) - rows.mean()),
        "The mean is taken off twice, before the gain and after it. LayerNorm centres once, before the gain.": (
            _with_weight(lambda gain, W: _weight(gain, _centred(W)))
        ),
        "The sum of each column is taken off in place of its mean.": _with_weight(
            lambda gain, W: (rows := gain[:, None] * W) - rows.sum(0)
        ),
        "The gain is missing from the weight.": _with_weight(lambda gain, W: _centred(W)),
        "You divide by the gain. LayerNorm multiplies by it, and so must the weight.": _with_weight(
            lambda gain, W: _centred(W / gain[:, None])
        ),
        "Each column is divided by its spread as well. The division belongs to x, which has its scale already: weights "
        "only lose their mean.": _with_weight(lambda gain, W: _weight(gain, W) / (gain[:, None] * W).std(0)),
        "The weight is right. In the bias the offset is multiplied by the gain, but LayerNorm adds the offset after "
        "the gain.": _with_bias(lambda gain, offset, W, b: b + (gain * offset) @ W),
        "The weight is right. But the bias reads the offset with the new weight, and so the gain and the mean come in "
        "again: LayerNorm adds the offset after both.": _with_bias(
            lambda gain, offset, W, b: b + offset @ _weight(gain, W)
        ),
        "The weight is right. But the offset is lost: it is read with `W` at every place, as a constant.": _with_bias(
            lambda gain, offset, W, b: b
        ),
        "The weight is right. But the old bias `b` is lost: what comes from the offset is added to it.": _with_bias(
            lambda gain, offset, W, b: offset @ W
        ),
        "The weight is right. But the offset has lost its mean. LayerNorm adds it when the mean has been taken off "
        "already.": _with_bias(lambda gain, offset, W, b: b + (offset - offset.mean()) @ W),
        "Nothing takes the mean of x away, and the offset is multiplied by the gain although it comes after it.": (
            lambda gain, offset, W, b: torch.cat([gain[:, None] * W, (b + (gain * offset) @ W)[None]])
        ),
        "The mean is taken off before the gain, and the bias reads the offset with the new weight. Go through "
        "LayerNorm step by step: mean, scale, gain, offset.": (
            lambda gain, offset, W, b: torch.cat(
                [gain[:, None] * _centred(W), (b + offset @ (gain[:, None] * _centred(W)))[None]]
            )
        ),
        "The mean is taken off before the gain, and the bias reads the offset with a weight that has lost its mean. Go "
        "through LayerNorm step by step: mean, scale, gain, offset.": (
            lambda gain, offset, W, b: torch.cat([gain[:, None] * _centred(W), (b + offset @ _centred(W))[None]])
        ),
        "The bias stands above the weight. It should be the last row.": lambda gain, offset, W, b: torch.cat(
            [(b + offset @ W)[None], _weight(gain, W)]
        ),
        "This is the new weight alone. The new bias is missing: put it below, as a last row.": (
            lambda gain, offset, W, b: _weight(gain, W)
        ),
    },
    laws={
        "One vector is added to all rows of gain times `W`, and the bias makes up for it: the reader gets the same, "
        "since a centred x sums to 0. Your result changes. Does the weight lose its means after the gain?": (
            _other_row,
            1.0,
        ),
        "If `W` is halved while gain and offset double, the reader gets the same. Your result changes.": (
            lambda gain, offset, W, b: (2 * gain, 2 * offset, W / 2, b),
            1.0,
        ),
    },
    hints=(
        "Multiply out. Which of the four steps act on x, and which add a constant? The constants are the bias.",
        "Bias: `b + offset @ W`. Multiplying x by the gain and then by `W` is multiplying by `gain[:, None] * W`.",
        "Taking the mean off x, and then reading it with a column, is reading x with the column less its own mean: "
        "`weight - weight.mean(0)`.",
    ),
    well_done="Each column of the weight sums to 0 now: what is the same in all entries of the stream is read by "
    "nobody. Only the division by the scale is left of LayerNorm.",
)


def two_parts() -> Float[Tensor, "2 4"]:
    """Two parts of a stream with four entries; a reader gets entry 0 of the stream, less the mean
    of its entries, divided by the scale.

    Divided by the scale of the sum of both, what the second part adds to the reading is positive.
    Yet the first part alone, divided by its own scale, gives more than twice the reading of the
    sum.
    """
    return torch.tensor([[3.0, -1.0, -1.0, -1.0], [1.0, 20.0, -20.0, -1.0]])


def _push(part: Tensor) -> float:
    """Entry 0 less the mean, before any scale."""
    return (part[0] - part.mean()).item()


def _scale(stream: Tensor) -> float:
    return stream.std(correction=0).item()


def _is_level(part: Tensor) -> bool:
    """Whether all entries are the same, so that LayerNorm leaves nothing of it."""
    return _scale(part) < 1e-9


def _reading(stream: Tensor) -> float:
    return 0.0 if _is_level(stream) else _push(stream) / _scale(stream)


def _is_parallel(parts: Tensor) -> bool:
    centred = parts - parts.mean(1, keepdim=True)
    return bool(torch.cosine_similarity(*centred, dim=0) > 1 - 1e-9)


LEVEL = "All entries of the first part are the same. LayerNorm takes off the mean, and nothing is left to be read."
BELOW = (
    "Entry 0 of the first part is not above the mean of its entries. Alone it is read as 0 or less, and less than that "
    "is not asked for: what counts is the entry less the mean."
)
SECOND_LEVEL = (
    "All entries of the second part are the same, so LayerNorm takes it away as a part of the mean: both readings are "
    "equal."
)
SILENT = "What the second part adds is exactly 0. It should add something positive, however little."
MEAN_FORGOTTEN = (
    "Entry 0 of the second part is positive but below the mean of its entries. LayerNorm takes off the mean, so this "
    "part adds something negative."
)
PUSHES_DOWN = (
    "The second part adds something negative, so it is no surprise that the reading falls. It should push the reading "
    "up and still make it fall."
)
PARALLEL = (
    "The second part points where the first one does. The sum is longer, but LayerNorm divides by the length, and so "
    "both readings are equal."
)
RISES = (
    "The reading of the sum is not below that of the first part. The second part should push up a little, and make the "
    "stream much longer where this reader does not look."
)
NOT_HALF = (
    "The reading falls, but not to less than half. The scale of the sum must be larger: let the second part write more "
    "into entries 1 to 3."
)

push_up_and_bring_down = Built(
    number="11.3",
    title="It pushes up and brings down",
    minutes=6,
    stub='''
def two_parts() -> Float[Tensor, "2 4"]:
    """Two parts of a stream with four entries; a reader gets entry 0 of the stream, less the mean
    of its entries, divided by the scale.

    Divided by the scale of the sum of both, what the second part adds to the reading is positive.
    Yet the first part alone, divided by its own scale, gives more than twice the reading of the
    sum.
    """
    ...
''',
    shape=(2, 4),
    example=two_parts,
    conditions={
        LEVEL: lambda parts: not _is_level(parts[0]),
        BELOW: lambda parts: _push(parts[0]) > 1e-9,
        SECOND_LEVEL: lambda parts: not _is_level(parts[1]),
        SILENT: lambda parts: abs(_push(parts[1])) > 1e-9,
        MEAN_FORGOTTEN: lambda parts: not (parts[1, 0] > 0 > _push(parts[1])),
        PUSHES_DOWN: lambda parts: _push(parts[1]) > 0,
        PARALLEL: lambda parts: not _is_parallel(parts),
        RISES: lambda parts: _reading(parts.sum(0)) < _reading(parts[0]),
        NOT_HALF: lambda parts: 2 * _reading(parts.sum(0)) < _reading(parts[0]),
    },
    wrong={
        LEVEL: torch.tensor([[1.0, 1, 1, 1], [1, 10, -10, 0]]),
        BELOW: torch.tensor([[1.0, 2, 2, 2], [1, 10, -10, 0]]),
        SECOND_LEVEL: torch.tensor([[1.0, 0, 0, 0], [5, 5, 5, 5]]),
        SILENT: torch.tensor([[1.0, 0, 0, 0], [0, 10, -10, 0]]),
        MEAN_FORGOTTEN: torch.tensor([[1.0, 0, 0, 0], [1, 10, 0, 0]]),
        "The second part takes away all of the first, so it pushes down, and nothing is left. It should push up.": (
            torch.tensor([[1.0, 0, 0, 0], [-1, 0, 0, 0]])
        ),
        PUSHES_DOWN: torch.tensor([[1.0, 0, 0, 0], [0, 10, 0, 0]]),
        PARALLEL: torch.tensor([[1.0, 0, 0, 0], [10, 0, 0, 0]]),
        RISES: torch.tensor([[2.0, 1, -1, -2], [1, -1, 0, 0]]),
        NOT_HALF: torch.tensor([[3.0, -1, -1, -1], [1, 2, -2, -1]]),
    },
    hints=(
        "The first part alone is divided by its own scale, and the sum by another. What makes a scale large?",
        "The scale grows with all entries, and the reader gets one of them. Let the second part be large where the "
        "reader does not look.",
        "Take `[3, -1, -1, -1]` and `[1, c, -c, -1]`, and raise c.",
    ),
    well_done="With the scale held fixed the second part is worth something positive; without it, the reading is more "
    "than twice as large. Both are true, so whoever says what a part is worth must say which scale it was divided by.",
)


# ---- what switches a neuron on ------------------------------------------------------------------------------------


def from_each_source(
    x: Float[Tensor, "pos d_model"],
    A: Float[Tensor, "dest src"],
    W_OV: Float[Tensor, "d_model d_model"],
    w_in: Float[Tensor, " d_model"],
    head_scale: Float[Tensor, " pos"],
    neuron_scale: Float[Tensor, " pos"],
) -> Float[Tensor, "dest src"]:
    """What each source adds to a neuron's input at each destination, through one head.

    The head reads ``x``, divided by ``head_scale``; ``w_in`` is the neuron's column of W_in. What
    the neuron reads is divided by ``neuron_scale``. LayerNorm is folded, all scales are fixed.
    """
    of_source = (x / head_scale[:, None]) @ W_OV @ w_in
    return A * of_source / neuron_scale[:, None]


def _heads_before_neurons() -> list[tuple[Tensor, ...]]:
    """Streams, attention and weights of a head, what a neuron reads, and the scales of both reads."""
    cases = []
    for seed, (n_pos, d_model) in enumerate(((5, 4), (6, 3))):
        x, scores, W_OV, w_in = _random(seed, (n_pos, d_model), (n_pos, n_pos), (d_model, d_model), (d_model,))
        hidden = torch.ones(n_pos, n_pos, dtype=torch.bool).triu(1)
        A = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        head_scale, neuron_scale = _random(seed + 100, (2, n_pos))[0].exp()
        cases.append((x, A, W_OV, w_in, head_scale, neuron_scale))
    return cases


def _scaled(by):
    """The right result, with ``by(head_scale, neuron_scale)`` in place of the division by the two scales."""
    return lambda x, A, W, w, hs, ns: A * (x @ W @ w) * by(hs, ns)


def _rotated(x: Tensor, A: Tensor, W: Tensor, w: Tensor, hs: Tensor, ns: Tensor) -> tuple[Tensor, ...]:
    """The same model in another basis of the stream."""
    R = torch.linalg.qr(_random(0, W.shape)[0]).Q
    return x @ R, A, R.T @ W @ R, R.T @ w, hs, ns


write_sources = Function(
    number="11.4",
    title="Which earlier token switches it on?",
    minutes=8,
    stub='''
def from_each_source(
    x: Float[Tensor, "pos d_model"],
    A: Float[Tensor, "dest src"],
    W_OV: Float[Tensor, "d_model d_model"],
    w_in: Float[Tensor, " d_model"],
    head_scale: Float[Tensor, " pos"],
    neuron_scale: Float[Tensor, " pos"],
) -> Float[Tensor, "dest src"]:
    """What each source adds to a neuron's input at each destination, through one head.

    The head reads ``x``, divided by ``head_scale``; ``w_in`` is the neuron's column of W_in. What
    the neuron reads is divided by ``neuron_scale``. LayerNorm is folded, all scales are fixed.
    """
    ...
''',
    reference=from_each_source,
    cases=_heads_before_neurons,
    wrong={
        "This is the sum over sources: all that the head brings. Keep the sources apart, or you cannot tell which "
        "token did it.": lambda x, A, W, w, hs, ns: A @ (x / hs[:, None]) @ W @ w / ns,
        "You multiply each row of the attention by what the *destination* holds. A head moves what the sources hold, "
        "so each column has its own number.": lambda x, A, W, w, hs, ns: A * (x @ W @ w / hs / ns)[:, None],
        "The two scales are exchanged: the head divides by `head_scale` at the source, and the neuron by "
        "`neuron_scale` at the destination.": _scaled(lambda hs, ns: 1 / ns / hs[:, None]),
        "`head_scale` is that of the destination. The head reads the source, so the source's scale counts.": _scaled(
            lambda hs, ns: 1 / hs[:, None] / ns[:, None]
        ),
        "`neuron_scale` is that of the source. The neuron reads the stream at the destination, so the destination's "
        "scale counts.": _scaled(lambda hs, ns: 1 / hs / ns),
        "No scale is used. Folding leaves the division: at each read, by the scale of what is read there.": _scaled(
            lambda hs, ns: 1
        ),
        "What the neuron reads is not divided by its scale. The head's scale does not stand in for it: the stream has "
        "grown in between.": _scaled(lambda hs, ns: 1 / hs),
        "What the head reads is not divided by its scale. Each read has its own.": _scaled(
            lambda hs, ns: 1 / ns[:, None]
        ),
        "You divide by `neuron_scale` at both reads. When the head reads, the stream is a different one.": _scaled(
            lambda hs, ns: 1 / ns / ns[:, None]
        ),
        "You divide by `head_scale` at both reads. When the neuron reads, more has been written.": _scaled(
            lambda hs, ns: 1 / hs / hs[:, None]
        ),
        "You multiply by the scales. LayerNorm divides.": _scaled(lambda hs, ns: hs * ns[:, None]),
        "No attention is used, so every source counts in full, later ones too.": lambda x, A, W, w, hs, ns: (
            (x @ W @ w / hs) / ns[:, None]
        ),
        "`W_OV` is missing: the neuron reads what the source holds as it is. It should read what the head makes of "
        "it.": lambda x, A, W, w, hs, ns: A * (x @ w / hs) / ns[:, None],
        "`W_OV` is transposed. Vectors of the stream are rows, and weights multiply them from the right as they "
        "are.": lambda x, A, W, w, hs, ns: A * (x @ W.T @ w / hs) / ns[:, None],
        "The attention is transposed. Its rows are destinations already.": lambda x, A, W, w, hs, ns: (
            A.T * (x @ W @ w / hs) / ns[:, None]
        ),
        "This has the direct path in it as well: what a token at the neuron's own place adds without a head.": (
            lambda x, A, W, w, hs, ns: from_each_source(x, A, W, w, hs, ns) + (x @ w / ns).diag()
        ),
        "You apply the GELU. The input is asked for. Sources can be told apart there because it is a sum; behind the "
        "GELU they cannot.": lambda *case: F.gelu(from_each_source(*case)),
        "You apply a ReLU. The input is asked for, and what a source takes away counts as much as what it adds.": (
            lambda *case: from_each_source(*case).relu()
        ),
    },
    laws={
        "A stream twice as large with a scale twice as large is read as the same. Your result changes when `x` and "
        "`head_scale` double.": (lambda x, A, W, w, hs, ns: (2 * x, A, W, w, 2 * hs, ns), 1.0),
        "If `w_in` and `neuron_scale` double, the input stays. Yours changes.": (
            lambda x, A, W, w, hs, ns: (x, A, W, 2 * w, hs, 2 * ns),
            1.0,
        ),
        "If `W_OV` doubles, so does what goes through the head. Your result does not: something in it has taken "
        "another way.": (lambda x, A, W, w, hs, ns: (x, A, 2 * W, w, hs, ns), 2.0),
        "In another basis of the stream the model is the same, but your result is not. Are `x`, `W_OV` and `w_in` "
        "multiplied in this order?": (_rotated, 1.0),
    },
    hints=(
        "What one source holds becomes one number: divide it by the head's scale, take it through `W_OV`, and read it "
        "with `w_in`.",
        "A head moves this number to a destination with the weight `A[dest, src]`, so `A` is multiplied column by "
        "column, not as a matrix.",
        "The neuron's scale is that of the destination: `A * of_source / neuron_scale[:, None]`.",
    ),
    well_done="Each entry is one pair of tokens: the table W_E W_OV W_in at the source's token, weighted by the "
    "attention between the two places. Added up over sources it is all that this head does to the neuron.",
)

count_terms = Value(
    number="11.5",
    title="How many terms does its input have?",
    minutes=4,
    stub="""
# Two layers of 4 heads, with neurons behind the heads of each. Scales and attention are fixed,
# biases are left aside. How many terms of the input of a neuron in layer 1
# 1. begin with the token's embedding?
# 2. begin in the neurons of layer 0? (What all of these write counts as one vector.)
answer = ...  # a list of two numbers
""",
    right=[25, 5],
    wrong={
        "Besides the direct path and single heads there are pairs: a head of layer 1 reads what a head of layer 0 has "
        "moved.": [9, 5],
        "The first counts single heads and pairs. The direct path is missing: the neuron reads the embedding itself, "
        "too.": [24, 5],
        "You let the token pass one layer of heads only. The neurons of layer 1 stand behind both.": [5, 5],
        "You count pairs of heads alone. A path may also pass one head, or none.": [16, 5],
        "You count the direct path and the pairs. Paths through a single head are missing.": [17, 5],
        "The direct path and the pairs are right. A single head may be of layer 0 or of layer 1, so there are 8.": [
            21,
            5,
        ],
        "These are the terms of both kinds together. The first question is about those that begin with the token.": [
            30,
            5,
        ],
        "These are all terms, those that begin in a bias of heads included.": [36, 5],
        "For each layer a path may also stay in the stream: 1 + 4 ways, not 4. That holds for both counts.": [16, 4],
        "You left out the direct paths, both from the embedding and from the neurons of layer 0: both lie in the "
        "stream when layer 1 reads.": [24, 4],
        "What the neurons of layer 0 write also lies in the stream itself: the direct way is a term, too.": [25, 4],
        "The neurons of layer 1 do not only read the neurons of layer 0 directly. The heads of layer 1 stand in "
        "between, and move what those have written.": [25, 1],
        "What the neurons of layer 0 have written cannot pass the heads of layer 0, which come before them.": [25, 25],
        "What the neurons of layer 0 write lies in the stream when layer 1 reads, so it is in the input of its "
        "neurons.": [25, 0],
        "Single heads of both layers: 8, but what the neurons of layer 0 write can only pass those of layer 1.": [
            25,
            9,
        ],
        "You count each of the 768 neurons by itself. That is right as a count, but what they write was to be one "
        "vector.": [25, 3840],
        "You let the token pass the neurons of layer 0, too. A term cannot be followed through a GELU: it begins anew "
        "there.": [50, 5],
        "The neurons of layer 1 stand behind the heads of layer 1, and these move things as well: both from the "
        "embedding and from the neurons of layer 0.": [5, 1],
    },
    hints=(
        "From the embedding on: in each layer a path stays in the stream or passes one of 4 heads.",
        "What the neurons of layer 0 write meets the heads of layer 1, and no others. It may also stay in the stream.",
    ),
    well_done="25 terms can be read as tables of tokens. Five cannot, and in the chapter's models it is these five "
    "that bring most of the input.",
)


# ---- a neuron that erases -----------------------------------------------------------------------------------------


def eraser() -> Float[Tensor, " 5"]:
    """One neuron: two entries of W_in, b_in, then two entries of W_out.

    The stream is (a, s), with a anywhere from 0 to 1, and s either 0 or 1. The neuron adds to it
    relu((a, s) @ W_in + b_in) * W_out. Where s is 1, this leaves (0, 1); where s is 0, (a, 0).
    """
    return torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])


SIZES = torch.linspace(0, 1, 21).double()  # of a


def _on(neuron: Tensor, s: int) -> Float[Tensor, " size"]:
    """How far the neuron is on for every size of a."""
    return (neuron[0] * SIZES + neuron[1] * s + neuron[2]).relu()


def _left(neuron: Tensor, s: int) -> Float[Tensor, " size"]:
    """What is left of a, for every size of it."""
    return SIZES + _on(neuron, s) * neuron[3]


def _small(values: Tensor) -> bool:
    return bool(values.abs().max() < 0.01)


def _erases(neuron: Tensor, s: int) -> bool:
    return _small(_left(neuron, s))


def _leaves(neuron: Tensor, s: int) -> bool:
    return _small(_left(neuron, s) - SIZES)


OFF = "This neuron is off for every a and s, so it changes nothing."
MUTE = "This neuron is on, but it writes nothing: its W_out is 0."
WRITES_S = "It also writes to s, which should stay as it is."
DOUBLES = "W_out is positive along a, so the neuron makes a larger. To take something away is to add its opposite."
EVERYWHERE = "It erases a whether s is there or not: nothing in its input depends on s in a way that matters."
REVERSED = "It erases a where s is 0 and leaves it where s is 1: it should be the other way round."
CONSTANT = (
    "It does not read a, so it takes away the same amount whatever a is. That is right for one size of a and wrong for "
    "all others."
)
NOT_OFF = "Where s is 0, a should stay, but the neuron is on for some a. The bias has to keep it off, even if a is 1."
TOO_MUCH = (
    "Where s is 1, it takes away more than a, so something negative is left. When s is there, the bias has to cancel "
    "what s adds, and no more than a should come out."
)
TOO_LITTLE = (
    "Where s is 1, something is left of a. Either the bias keeps the neuron off for small a, or what it writes is too "
    "small for what it reads."
)

build_eraser = Built(
    number="11.6",
    title="A neuron that erases on one condition",
    minutes=6,
    stub='''
def eraser() -> Float[Tensor, " 5"]:
    """One neuron: two entries of W_in, b_in, then two entries of W_out.

    The stream is (a, s), with a anywhere from 0 to 1, and s either 0 or 1. The neuron adds to it
    relu((a, s) @ W_in + b_in) * W_out. Where s is 1, this leaves (0, 1); where s is 0, (a, 0).
    """
    ...
''',
    shape=(5,),
    example=eraser,
    conditions={
        OFF: lambda neuron: bool(_on(neuron, 0).any() or _on(neuron, 1).any()),
        MUTE: lambda neuron: bool(neuron[3:].any()),
        WRITES_S: lambda neuron: _small(torch.cat([_on(neuron, 0), _on(neuron, 1)]) * neuron[4]),
        DOUBLES: lambda neuron: neuron[3].item() <= 0,
        EVERYWHERE: lambda neuron: not (_erases(neuron, 0) and _erases(neuron, 1)),
        REVERSED: lambda neuron: not (_erases(neuron, 0) and _leaves(neuron, 1)),
        CONSTANT: lambda neuron: neuron[0].item() != 0,
        NOT_OFF: lambda neuron: _leaves(neuron, 0),
        TOO_MUCH: lambda neuron: _left(neuron, 1).min().item() > -0.01,
        TOO_LITTLE: lambda neuron: _erases(neuron, 1),
    },
    wrong={
        OFF: torch.zeros(5),
        "Where s is 1, the bias cancels it twice over, so the neuron is never on: what must the bias be if s adds 1?": (
            torch.tensor([1.0, 1, -2, -1, 0])
        ),
        MUTE: torch.tensor([1.0, 1, -1, 0, 0]),
        "It takes s away together with a. s should stay: only W_in has to know of it.": torch.tensor(
            [1.0, 1, -1, -1, -1]
        ),
        WRITES_S: torch.tensor([1.0, 1, -1, -1, 1]),
        DOUBLES: torch.tensor([1.0, 1, -1, 1, 0]),
        EVERYWHERE: torch.tensor([1.0, 0, 0, -1, 0]),
        REVERSED: torch.tensor([1.0, -1, 0, -1, 0]),
        CONSTANT: torch.tensor([0.0, 1, 0, -1, 0]),
        "There is no bias. Where s is 0, the neuron is on as well and erases a; where s is 1, it takes away a + 1.": (
            torch.tensor([1.0, 1, 0, -1, 0])
        ),
        NOT_OFF: torch.tensor([1.0, 0.5, -0.5, -1, 0]),
        TOO_MUCH: torch.tensor([1.0, 2, -1, -1, 0]),
        TOO_LITTLE: torch.tensor([1.0, 1, -1.2, -1, 0]),
        "Where s is 1, half of a is left: what is written must undo all of what is read.": torch.tensor(
            [1.0, 1, -1, -0.5, 0]
        ),
        "The neuron's input is negative for every a but 0, since it reads minus a. The minus belongs to W_out: a "
        "neuron has to be on to take something away.": torch.tensor([-1.0, 1, -1, 1, 0]),
    },
    hints=(
        "The neuron should be on by exactly a where s is 1, and off where s is 0. Begin with W_out: what must it be?",
        "Let s push the input up and the bias push it down by as much. How much is needed for a = 1 to stay off "
        "without s?",
        "W_in = (1, 1) and b_in = -1. What do a + s - 1 and its ReLU become for s = 1, and for s = 0?",
    ),
    well_done="It erases all of a, and yet its W_in and W_out have a cosine of -0.71 at best, since W_in must read s "
    "as well. So a cosine above -0.5 does not show that a neuron erases nothing.",
)


# ---- what follows -------------------------------------------------------------------------------------------------


def _each(letters: str) -> list[str]:
    """An answer to each of five questions, by its first letter."""
    return [{"f": "follows", "o": "open"}[letter] for letter in letters]


judge_numbers = Value(
    number="11.7",
    title="What follows from these numbers?",
    minutes=5,
    stub="""
# 1. More of the neurons are set against what they read than chance would explain.
# 2. Those neurons take away a part of what the heads wrote.
# 3. No neuron of layer 1 erases anything.
# 4. With the scales of the intact model, order 0 predicts better than a blind guess.
# 5. In the intact model order 0 does harm: without it the loss would be lower.
answers = ...  # a list of five, each "follows" or "open"
""",
    right=_each("foofo"),
    choices=("follows", "open"),
    wrong={
        "Mind the first: 5 % is fifty times what the rotated control has. As a statement about weights this is safe.": (
            _each("ooofo")
        ),
        "Mind the second: cosines are of weights alone. They do not say when such a neuron is on, nor whether what "
        "lies along its W_in was written by a head.": _each("ffofo"),
        "Mind the third: what is left was measured for the whole layer, as a mean over places. One neuron may erase in "
        "a few places while others write more.": _each("foffo"),
        "Mind the fourth: 5.3 nats with frozen scales is below 6.2. What it does with a live scale does not matter "
        "here.": _each("foooo"),
        "Mind the last: 7.6 nats is the loss of order 0 *alone*, divided by its own small scale. In the intact model "
        "it never stands alone, and nobody has left it out.": _each("fooff"),
        "The second and the third cannot both be true, and neither follows: weights do not say what happens on texts, "
        "and a mean over a layer does not speak of each neuron.": _each("ffffo"),
        "From a mean over the whole layer you conclude that there is nothing. But the weights of some neurons are "
        "turned against what they read, whatever the mean is.": _each("ooffo"),
        "You let the live scale decide about order 0. It belongs to a run with nothing else in the stream; the intact "
        "model divides by more.": _each("fooof"),
        "Each of the five sounds as if it followed. Ask of each number what it was measured on: weights or texts, one "
        "neuron or all of them, alone or beside the rest.": _each("fffff"),
        "Two of them do follow. A share of the weights beside its control is a fact about weights, and a loss can be "
        "compared with a guess.": _each("ooooo"),
        "You have it the wrong way round in nearly all: what is said of weights and of one loss follows, what is said "
        "of causes does not.": _each("offof"),
    },
    hints=(
        "Ask of each number: is it of weights or of texts? Of one neuron or of a layer? Was anything left out of the "
        "intact model?",
        "Two of the five only repeat in words what was measured.",
    ),
    well_done="A cosine is of weights, a share that is left is a mean, and the worth of a part has its scale. What "
    "one neuron does in one place has to be looked at there.",
)


# ---- predictions --------------------------------------------------------------------------------------------------

what_helps = SignsPrediction(
    number="11.A",
    question="The same recipe is trained with one of the three added, or with all. For each row: is the loss more than "
    "0.03 nats below that of the plain model (−), within 0.03 nats of it (0), or more than 0.03 above it (+)?",
    right="+0--",
    choices={
        "LayerNorm alone": "0.07 to 0.08 nats higher, with three seeds. It is known for making deep models "
        "trainable. A model of two layers trains without it, and this recipe was chosen for models that have none; "
        "with another recipe it may come out otherwise.",
        "biases alone": "0.01 to 0.03 nats lower. A bias knows nothing of the text. It can say how frequent each token "
        "is, and the plain model has other ways to say that.",
        "MLPs alone": "0.09 to 0.12 nats lower. They also more than double the number of parameters, so this does not "
        "say that neurons are better than more heads would be.",
        "all three": "0.07 to 0.11 nats lower: on average less than with MLPs alone.",
    },
)

order_0_alone = Prediction(
    number="11.B",
    question="Let in order 0 alone: the token's embedding and the biases. Divided by the scales of the intact model, "
    "this has a loss of 5.2 nats, and a blind guess 6.2. What is its loss if LayerNorm divides by the scale of what "
    "is there?",
    right="higher than a blind guess",
    choices={
        "5.2 nats again: a scale is only a factor": "A factor changes no direction, but it does change a softmax: it "
        "makes it sharper or flatter. Here the loss is 7.3 to 7.8 nats, with three seeds.",
        "lower: the scale then fits what is in the stream": "To fit means to be divided by one's own length. Order 0 "
        "is short, so it is made four times as loud as in the intact model, and its guesses are much too sure: 7.3 to "
        "7.8 nats, with three seeds.",
        "higher, but below a blind guess": "The direction is right, the size is not. Order 0 is made four times as "
        "loud as it ever was in training, and who is loud and often wrong does worse than one who says nothing: 7.3 to "
        "7.8 nats, with three seeds.",
        "higher than a blind guess": "7.3 to 7.8 nats, with three seeds. Order 0 is short; divided by its own scale it "
        "is four times as loud as in the intact model, and much too sure.",
    },
)

where_inputs_begin = NumberPrediction(
    number="11.C",
    question="What switches on the neurons of layer 1? Divide the variance of their inputs among all terms. What share "
    "of it, in per cent, belongs to terms that begin in the neurons of layer 0?",
    right="from 75 to 95 %",
    choices={
        "less than 25 %": "That would be so if neurons mainly read tokens and what heads move of them. But the neurons "
        "of layer 0 write much more than is in the embeddings: about 85 % of the variance begins there.",
        "from 25 to 75 %": "More: about 85 %. Half of the variance comes from the neurons of layer 0 directly, and a "
        "third through the heads of layer 1.",
        "from 75 to 95 %": "84 to 87 %, with three seeds: half of it directly, and a third through the heads of "
        "layer 1. The 25 terms that can be read as tables of tokens share the rest.",
        "more than 95 %": "Not so much: about 85 %. Of the rest, half comes from tokens through a single head.",
    },
    upper=(25.0, 75.0, 95.0, math.inf),
)
