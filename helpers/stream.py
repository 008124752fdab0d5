"""The residual stream as a channel ("Transformer Overview"): its messages, its other forms, and the room in it.

The part in the middle changes the weights of a model and nothing of what it computes: another basis of the stream,
other keys and values, biases as one more dimension. What such a change does not keep means nothing by itself. The last
part measures how much of the stream is used, by whom, and how far what lies in it overlaps.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, einsum, nn
from torch.nn.functional import pad

from helpers.circuits import W_OV, LowRank
from helpers.model import AttentionOnlyTransformer, Cache, Head

# ---- the stream is a sum ("Virtual Weights and the Residual Stream as a Communication Channel") -----------------


def messages(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "message batch pos d_model"]:
    """What each component adds to the stream: the embedding first, then every head in the order of ``model.heads``."""
    cache = Cache()
    model.residual_stream(tokens, cache=cache)
    return torch.stack([model.W_E[tokens], *(output for layer in cache.head_outputs for output in layer.unbind(1))])


def message_names(model: AttentionOnlyTransformer) -> list[str]:
    """The names of ``messages``: "token", then "0:0" and so on."""
    return ["token", *(f"{layer}:{head}" for layer, head in model.heads)]


def message_logits(
    model: AttentionOnlyTransformer, at: Float[Tensor, "... d_model"], token: int
) -> Float[Tensor, "..."]:
    """What a message is worth to the logit of ``token``, in nats above its average over the vocabulary."""
    return at @ (model.W_U[:, token] - model.W_U.mean(1))


# ---- the same model in another form (no privileged basis; "Attention Heads are Independent and Additive") --------


def random_rotation(size: int, seed: int = 0) -> Float[Tensor, "size size"]:
    """A random orthogonal matrix, all equally likely, in float64: QR with the signs that make it unique."""
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.double))
    return Q * R.diagonal().sign()


def with_weights(model: AttentionOnlyTransformer, **weights: Float[Tensor, "..."]) -> AttentionOnlyTransformer:
    """A copy of a model with some weights replaced, by name; it shares the others with the model.

    ``W_pos`` may be among them. Files do not keep it.
    """
    shared = [*model.parameters(), *model.buffers()]
    changed = copy.deepcopy(model, memo={id(weight): weight for weight in shared})
    for name, weight in weights.items():
        if name == "W_pos":
            changed.W_pos = weight
        else:
            setattr(changed, name, nn.Parameter(weight, requires_grad=False))
    return changed


def in_basis(
    model: AttentionOnlyTransformer, basis: Float[Tensor, "d_model d_model"]
) -> AttentionOnlyTransformer:
    """The same model with another basis of its stream: ``x`` becomes ``x @ basis``, for any invertible ``basis``.

    Who writes (W_E, W_O, the positions) writes in the new basis; who reads (W_Q, W_K, W_V, W_U) undoes it first.
    """
    basis = basis.to(model.W_E)
    undo = torch.linalg.inv(basis)
    writers = {name: getattr(model, name) @ basis for name in ("W_E", "W_O", "W_pos")}
    readers = {name: undo @ getattr(model, name) for name in ("W_Q", "W_K", "W_V", "W_U")}
    return with_weights(model, **writers, **readers)


def with_other_keys_and_values(
    model: AttentionOnlyTransformer,
    keys: Float[Tensor, "d_head d_head"],
    values: Float[Tensor, "d_head d_head"],
) -> AttentionOnlyTransformer:
    """The same model with every head's keys multiplied by ``keys`` and its values by ``values``, both invertible.

    Queries and W_O make up for it, so W_QK and W_OV stay what they were.
    """
    keys, values = keys.to(model.W_E), values.to(model.W_E)
    return with_weights(model, W_K=model.W_K @ keys, W_Q=model.W_Q @ torch.linalg.inv(keys).T,
                        W_V=model.W_V @ values, W_O=torch.linalg.inv(values) @ model.W_O)


def rms_norm(x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Each vector divided by the root mean square of its coordinates; no gain."""
    return x / x.square().mean(-1, keepdim=True).sqrt()


def layer_norm(x: Float[Tensor, "... d_model"]) -> Float[Tensor, "... d_model"]:
    """Each vector less the mean of its coordinates, then ``rms_norm``; no gain and no bias."""
    return rms_norm(x - x.mean(-1, keepdim=True))


def normalised_logits(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], norm: Callable[[Tensor], Tensor]
) -> Float[Tensor, "batch pos d_vocab"]:
    """What the model would say if ``norm`` stood before every read from the stream; positions are added after it."""
    x = model.W_E[tokens]
    for layer in range(model.config.n_layers):
        read = norm(x)
        _, pattern = model.attention(read, layer)
        values = einsum("bpd,hde->bhpe", read, model.W_V[layer])
        x = x + einsum("bhqe,hed->bqd", pattern @ values, model.W_O[layer])
    return norm(x) @ model.W_U


def change_by_basis(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    basis: Float[Tensor, "d_model d_model"],
    norm: Callable[[Tensor], Tensor],
) -> float:
    """Largest change of the ``normalised_logits`` if the model is put into another basis and ``norm`` is not.

    Relative to the largest logit; 0 but for rounding if normalising and changing the basis may be swapped.
    """
    said = normalised_logits(model, tokens, norm)
    changed = normalised_logits(in_basis(model, basis), tokens, norm)
    return ((changed - said).abs().max() / said.abs().max()).item()


def fold_layer_norm(
    model: AttentionOnlyTransformer, gain: Float[Tensor, " d_model"]
) -> AttentionOnlyTransformer:
    """A model that says with ``rms_norm`` before its reads what ``model`` says with ``gain * layer_norm``.

    Who writes into the stream writes vectors of mean 0, who reads from it multiplies by the gain, none of which is 0.
    """
    writers = {name: W - W.mean(-1, keepdim=True) for name, W in (("W_E", model.W_E), ("W_O", model.W_O))}
    readers = {name: gain[:, None] * getattr(model, name) for name in ("W_Q", "W_K", "W_V", "W_U")}
    return with_weights(model, **writers, **readers, W_pos=model.W_pos / gain)


@dataclass(frozen=True)
class Biases:
    """A bias for every matrix of a model that may have one."""

    Q: Float[Tensor, "layer head d_head"]
    K: Float[Tensor, "layer head d_head"]
    V: Float[Tensor, "layer head d_head"]
    O: Float[Tensor, "layer d_model"]  # noqa: E741
    U: Float[Tensor, " d_vocab"]


def random_biases(model: AttentionOnlyTransformer, seed: int = 0) -> Biases:
    """Biases with independent entries of standard deviation 1, in the model's precision."""
    c, generator = model.config, torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double).to(model.W_E)

    heads = (c.n_layers, c.n_heads, c.d_head)
    return Biases(normal(*heads), normal(*heads), normal(*heads), normal(c.n_layers, c.d_model), normal(c.d_vocab))


def biased_logits(
    model: AttentionOnlyTransformer, biases: Biases, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """What the model would say if it had these biases."""
    n = tokens.shape[1]
    stream = model.W_E[tokens]
    for layer in range(model.config.n_layers):
        positioned = stream + model.W_pos[:n]
        queries = einsum("bpd,hde->bhpe", positioned, model.W_Q[layer]) + biases.Q[layer][:, None]
        keys = einsum("bpd,hde->bhpe", positioned, model.W_K[layer]) + biases.K[layer][:, None]
        values = einsum("bpd,hde->bhpe", stream, model.W_V[layer]) + biases.V[layer][:, None]
        scores = queries @ keys.mT / math.sqrt(model.config.d_head)
        pattern = scores.masked_fill(model.future[:n, :n], -torch.inf).softmax(-1)
        stream = stream + einsum("bhqe,hed->bqd", pattern @ values, model.W_O[layer]) + biases.O[layer]
    return stream @ model.W_U + biases.U


def fold_biases(model: AttentionOnlyTransformer, biases: Biases) -> AttentionOnlyTransformer:
    """A model without biases that says the same as ``model`` with them.

    One more dimension of the stream always holds 1, so that a bias is one more row of a matrix. (Two are added, since
    d_model must be even; the other stays 0.) The first head of each layer gets one more dimension that carries the 1
    from the values to W_O, where its row is the output bias; the other heads leave theirs empty.
    """
    c = model.config
    wider = AttentionOnlyTransformer(replace(c, d_model=c.d_model + 2, d_head=c.d_head + 1)).to(model.W_E)
    one = c.d_model  # the dimension that holds 1
    W_Q, W_K, W_V = (pad(W, (0, 1, 0, 2)) for W in (model.W_Q, model.W_K, model.W_V))
    for W, bias in ((W_Q, biases.Q), (W_K, biases.K), (W_V, biases.V)):
        W[:, :, one, : c.d_head] = bias
    W_V[:, 0, one, c.d_head] = 1
    W_O = pad(model.W_O, (0, 2, 0, 1))
    W_O[:, 0, c.d_head, : c.d_model] = biases.O
    W_E, W_U = pad(model.W_E, (0, 2)), pad(model.W_U, (0, 0, 0, 2))
    W_E[:, one], W_U[one] = 1, biases.U
    wider_root = math.sqrt(c.d_head + 1) / math.sqrt(c.d_head)  # scores are now divided by √(d_head + 1)
    return with_weights(wider, W_E=W_E, W_Q=W_Q * wider_root, W_K=W_K, W_V=W_V, W_O=W_O, W_U=W_U,
                        W_pos=pad(model.W_pos, (0, 2)))


# ---- bandwidth ("Subspaces and Residual Stream Bandwidth") ------------------------------------------------------


def reads(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "d_model d_head"]:
    """An orthonormal basis, as columns, of the directions from which a head's W_OV reads; strongest first."""
    return W_OV(model, head).svd()[0]


def writes(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "d_model d_head"]:
    """An orthonormal basis, as columns, of the directions into which a head's W_OV writes; strongest first."""
    return W_OV(model, head).svd()[2]


def principal_cosines(
    one: Float[Tensor, "d_model a"], other: Float[Tensor, "d_model b"]
) -> Float[Tensor, " min(a,b)"]:
    """Cosines of the principal angles of the column spaces of two matrices, largest first."""
    bases = (torch.linalg.qr(matrix.double()).Q for matrix in (one, other))
    return torch.linalg.svdvals(next(bases).T @ next(bases))


def overlap(one: Float[Tensor, "d_model a"], other: Float[Tensor, "d_model b"]) -> float:
    """Mean squared cosine of the principal angles of the column spaces of two matrices.

    1 if the smaller lies in the larger, 0 if they are orthogonal; for random ones max(a, b) / d_model on average.
    """
    return principal_cosines(one, other).square().mean().item()


def wiring(
    model: AttentionOnlyTransformer, side: str, layers: tuple[int, int] = (0, 1)
) -> Float[Tensor, "early late"]:
    """``overlap`` of what every head of one layer writes with what every head of a later one reads.

    ``side`` is "Q", "K" or "V": the read is that of its queries, keys or values.
    """
    early, late = layers
    written = [writes(model, (early, head)) for head in range(model.config.n_heads)]
    read = getattr(model, f"W_{side}")[late]
    return torch.tensor([[overlap(space, weight) for weight in read] for space in written])


def dimensions_for(variances: Float[Tensor, " dimension"], share: float = 0.9) -> int:
    """How many of the largest variances it takes to hold this share of their sum."""
    cumulative = variances.sort(descending=True).values.cumsum(0)
    return int((cumulative < share * cumulative[-1]).sum()) + 1


def principal_variances(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " d_model"]:
    """Variances of the rows along their principal components, largest first."""
    centred = (rows - rows.mean(0)).double()
    return torch.linalg.eigvalsh(centred.T @ centred / len(rows)).flip(0).clamp(min=0)


# ---- superposition ----------------------------------------------------------------------------------------------


def _unit(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    return rows / rows.norm(dim=1, keepdim=True)


def pair_cosines(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " pair"]:
    """The cosine of every pair of different rows, each pair once: (0, 1), (0, 2), … in order of the first."""
    unit = _unit(rows)
    places = range(0, len(unit), 128)  # the square of all cosines never exists as a whole
    blocks = ((unit[i : i + 128] @ unit.T, torch.ones(128, len(unit), dtype=torch.bool).triu(i + 1)) for i in places)
    return torch.cat([block[above[: len(block)]] for block, above in blocks])


def closest_pairs(rows: Float[Tensor, "row d_model"], n: int) -> list[tuple[int, int, float]]:
    """The ``n`` pairs of different rows with the largest cosines, as ``(row, other row, cosine)``, largest first.

    Needs rows that are no copies of each other.
    """
    unit = _unit(rows)
    entries = LowRank(unit, unit.T).top_entries(len(unit) + 2 * n)  # the diagonal, and each pair twice
    return [(i, j, cosine) for i, j, cosine in entries if i < j][:n]


def found_in_sums(
    directions: Float[Tensor, "feature d_model"], n_active: int, n_samples: int = 200, seed: int = 0
) -> float:
    """Of ``n_active`` random directions, added up: the share that is among the ``n_active`` closest to their sum.

    All directions are taken with length 1. The share is a mean over ``n_samples`` sums.
    """
    unit = _unit(directions)
    generator = torch.Generator().manual_seed(seed)
    active = torch.stack([torch.randperm(len(unit), generator=generator)[:n_active] for _ in range(n_samples)])
    read = unit[active].sum(1) @ unit.T
    found = read.topk(n_active, dim=1).indices
    return (found[:, :, None] == active[:, None, :]).any(2).float().mean().item()
