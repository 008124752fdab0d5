"""The residual stream as a channel ("Transformer Overview"): what is put into it, its other forms, the room in it.

The part in the middle changes the weights of a model but nothing that it computes: another basis of the stream, other
keys and values, biases as one more dimension. Whatever such a change does not preserve has no meaning of its own. The
last part measures how much of the stream is used, by whom, and how far what lies in it overlaps.
"""

import copy
import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, einsum, nn
from torch.nn.functional import pad

from helpers.circuits import W_OV
from helpers.model import AttentionOnlyTransformer, Cache, Head, head_name

# ---- the stream is a sum ("Virtual Weights and the Residual Stream as a Communication Channel") -----------------


def component_outputs(cache: Cache) -> Float[Tensor, "component batch pos d_model"]:
    """What each component adds to the stream: the embedding first, then every head in the order of ``model.heads``."""
    return torch.stack([cache.residual[0], *(output for layer in cache.head_outputs for output in layer.unbind(1))])


def component_names(model: AttentionOnlyTransformer) -> list[str]:
    """The names of ``component_outputs``: "token", then "0:0" and so on."""
    return ["token", *map(head_name, model.heads)]


# ---- the same model in another form (no privileged basis; "Attention Heads are Independent and Additive") --------


def random_rotation(size: int, seed: int = 0) -> Float[Tensor, "size size"]:
    """A random orthogonal matrix, all equally likely, in float64: QR with the signs that make it unique."""
    generator = torch.Generator().manual_seed(seed)
    Q, R = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.double))
    return Q * R.diagonal().sign()


def rotation_of_tokens(embeddings: Float[Tensor, "d_vocab d_model"], seed: int) -> Float[Tensor, "d_model d_model"]:
    """A rotation as good as random and the same in any basis: it carries each token nearest to another, drawn one."""
    others = torch.randperm(len(embeddings), generator=torch.Generator().manual_seed(seed))
    U, _, Vh = torch.linalg.svd(embeddings[others].T @ embeddings)
    return U @ Vh


def with_weights(model: AttentionOnlyTransformer, **weights: Float[Tensor, "..."]) -> AttentionOnlyTransformer:
    """A copy of a model with some weights replaced, by name; the others are shared with the model.

    ``W_pos`` may be among them, but is not saved with the model.
    """
    shared = [*model.parameters(), *model.buffers()]
    changed = copy.deepcopy(model, memo={id(weight): weight for weight in shared})
    for name, weight in weights.items():
        if name == "W_pos":
            changed.W_pos = weight
        else:
            setattr(changed, name, nn.Parameter(weight, requires_grad=False))
    return changed


def in_basis(model: AttentionOnlyTransformer, basis: Float[Tensor, "d_model d_model"]) -> AttentionOnlyTransformer:
    """The same model with another basis of its stream: ``x`` becomes ``x @ basis``, for any invertible ``basis``.

    What writes (W_E, W_O, the positions) writes in the new basis; what reads (W_Q, W_K, W_V, W_U) undoes it first.
    """
    basis = basis.to(model.W_E)
    undo = torch.linalg.inv(basis)
    writers = {name: getattr(model, name) @ basis for name in ("W_E", "W_O", "W_pos")}
    readers = {name: undo @ getattr(model, name) for name in ("W_Q", "W_K", "W_V", "W_U")}
    return with_weights(model, **writers, **readers)


def with_other_keys_and_values(
    model: AttentionOnlyTransformer, keys: Float[Tensor, "d_head d_head"], values: Float[Tensor, "d_head d_head"]
) -> AttentionOnlyTransformer:
    """The same model with every head's keys multiplied by ``keys`` and its values by ``values``, both invertible.

    Queries and W_O compensate, so W_QK and W_OV stay as they were.
    """
    keys, values = keys.to(model.W_E), values.to(model.W_E)
    return with_weights(
        model,
        W_K=model.W_K @ keys,
        W_Q=model.W_Q @ torch.linalg.inv(keys).T,
        W_V=model.W_V @ values,
        W_O=torch.linalg.inv(values) @ model.W_O,
    )


def with_shifted_logits(model: AttentionOnlyTransformer, shift: Float[Tensor, " d_model"]) -> AttentionOnlyTransformer:
    """The same model with ``shift`` added to every column of W_U: all logits of a place change by the same amount."""
    return with_weights(model, W_U=model.W_U + shift.to(model.W_U)[:, None])


@dataclass(frozen=True)
class Biases:
    """A bias for every matrix of a model that may have one."""

    Q: Float[Tensor, "layer head d_head"]
    K: Float[Tensor, "layer head d_head"]
    V: Float[Tensor, "layer head d_head"]
    O: Float[Tensor, "layer d_model"]  # noqa: E741
    U: Float[Tensor, " d_vocab"]


def random_biases(model: AttentionOnlyTransformer) -> Biases:
    """Biases with independent entries of standard deviation 1, in the model's precision."""
    c, generator = model.config, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.double).to(model.W_E)

    heads = (c.n_layers, c.n_heads, c.d_head)
    return Biases(normal(*heads), normal(*heads), normal(*heads), normal(c.n_layers, c.d_model), normal(c.d_vocab))


def biased_logits(
    model: AttentionOnlyTransformer, biases: Biases, tokens: Int[Tensor, "batch pos"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits of the model if it had these biases."""
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
    """A model without biases that computes the same as ``model`` with them.

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
    return with_weights(
        wider, W_E=W_E, W_Q=W_Q * wider_root, W_K=W_K, W_V=W_V, W_O=W_O, W_U=W_U, W_pos=pad(model.W_pos, (0, 2))
    )


# ---- bandwidth ("Subspaces and Residual Stream Bandwidth") ------------------------------------------------------


def read_basis(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "d_model d_head"]:
    """An orthonormal basis, as columns, of the directions from which a head's W_OV reads; strongest first."""
    return W_OV(model, head).svd()[0]


def write_basis(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "d_model d_head"]:
    """An orthonormal basis, as columns, of the directions into which a head's W_OV writes; strongest first."""
    return W_OV(model, head).svd()[2]


def principal_cosines(one: Float[Tensor, "d_model a"], other: Float[Tensor, "d_model b"]) -> Float[Tensor, " min(a,b)"]:
    """Cosines of the principal angles of the column spaces of two matrices, largest first."""
    bases = (torch.linalg.qr(matrix.double()).Q for matrix in (one, other))
    return torch.linalg.svdvals(next(bases).T @ next(bases))


def dimensions_for(variances: Float[Tensor, " dimension"]) -> int:
    """How many of the largest variances make up nine tenths of their sum."""
    cumulative = variances.sort(descending=True).values.cumsum(0)
    return int((cumulative < 0.9 * cumulative[-1]).sum()) + 1


def principal_variances(rows: Float[Tensor, "row d_model"]) -> Float[Tensor, " d_model"]:
    """Variances of the rows along their principal components, largest first."""
    centred = (rows - rows.mean(0)).double()
    return torch.linalg.eigvalsh(centred.T @ centred / len(rows)).flip(0).clamp(min=0)


def joint_spectrum(
    one: Float[Tensor, "row d_model"], other: Float[Tensor, "other_row d_model"]
) -> tuple[Float[Tensor, " d_model"], Float[Tensor, " d_model"]]:
    """Principal components of two sets of vectors at once: the variance along each, and the share that is ``one``'s.

    The largest variance is first. Each set is centred and scaled to a total variance of 1/2, so that both count alike:
    a share of 1/2 is a dimension that they use in common, one of 0 or 1 is used by one of them only.
    """
    covariances = [(rows - rows.mean(0)).double().T.cov(correction=0) for rows in (one, other)]
    first, second = (covariance / (2 * covariance.trace()) for covariance in covariances)
    variances, directions = torch.linalg.eigh(first + second)
    shares = ((first @ directions) * directions).sum(0) / variances
    return variances.flip(0), shares.flip(0)
