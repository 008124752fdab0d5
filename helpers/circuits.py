"""The paper's algebra, from weights alone: QK and OV circuits, composition, eigenvalues.

All matrices over the vocabulary have rank d_head at most, so they are kept as two thin factors (``LowRank``), and only
the rows or columns that are asked for are multiplied out. Row vectors: ``ov[source, out]`` is the paper's
``W_U W_OV W_E`` transposed, and ``qk[destination, source]`` its ``W_E^T W_QK W_E``.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.model import AttentionOnlyTransformer, Cache, Head, head_name

ROWS_AT_ONCE = 256  # of a large matrix, when all of its entries must be seen


@dataclass(frozen=True)
class LowRank:
    """The matrix ``left @ right``, never multiplied out ("Working with Low-Rank Matrices" in the paper)."""

    left: Float[Tensor, "row rank"]
    right: Float[Tensor, "rank column"]

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def T(self) -> "LowRank":
        return LowRank(self.right.T, self.left.T)

    def __matmul__(self, other: "LowRank | Tensor") -> "LowRank":
        """``self @ other``; a product of two keeps the smaller rank."""
        if isinstance(other, Tensor):
            return LowRank(self.left, self.right @ other)
        middle = self.right @ other.left
        if other.left.shape[1] < self.left.shape[1]:
            return LowRank(self.left @ middle, other.right)
        return LowRank(self.left, middle @ other.right)

    def __rmatmul__(self, other: Tensor) -> "LowRank":
        return LowRank(other @ self.left, self.right)

    def rows(self, index: int | Tensor) -> Float[Tensor, "... column"]:
        return self.left[index] @ self.right

    def columns(self, index: int | Tensor) -> Float[Tensor, "row ..."]:
        return self.left @ self.right[:, index]

    def diagonal(self) -> Float[Tensor, " row"]:
        return (self.left * self.right.T).sum(1)

    def dense(self) -> Float[Tensor, "row column"]:
        return self.left @ self.right

    def centred(self) -> "LowRank":
        """Each row less its mean, which a softmax over the row cannot see: only then can rows be compared."""
        return LowRank(self.left, self.right - self.right.mean(1, keepdim=True))

    def trace(self) -> float:
        return self.diagonal().sum().item()

    def norm(self) -> float:
        """Frobenius norm, from ``‖AB‖² = tr((AᵀA)(BBᵀ))``. Note that it differs from ``‖BA‖``."""
        squares = _inner(self.left.T, self.left) * _inner(self.right, self.right.T)
        return squares.sum().clamp(min=0).sqrt().item()

    def row_stds(self) -> Float[Tensor, " row"]:
        """The standard deviation of each row about its own mean, from the covariance of the columns of ``right``."""
        right = self.centred().right
        return ((self.left @ (right @ right.T)) * self.left).sum(1).clamp(min=0).sqrt() / math.sqrt(self.shape[1])

    def eigenvalues(self) -> Complex[Tensor, " rank"]:
        """The non-zero eigenvalues: those of the small matrix ``BA``, since AB and BA share them."""
        return torch.linalg.eigvals(_inner(self.right, self.left))

    def singular_values(self) -> Float[Tensor, " rank"]:
        """The non-zero singular values, largest first, by two thin QR decompositions."""
        r_left = torch.linalg.qr(self.left.double()).R
        r_right = torch.linalg.qr(self.right.T.double()).R
        return torch.linalg.svdvals(r_left @ r_right.T)

    def svd(self) -> tuple[Float[Tensor, "row rank"], Float[Tensor, " rank"], Float[Tensor, "column rank"]]:
        """``U, S, V`` with ``U @ diag(S) @ V.T`` the matrix: columns of U and V orthonormal, S largest first."""
        q_left, r_left = torch.linalg.qr(self.left.double())
        q_right, r_right = torch.linalg.qr(self.right.T.double())
        U, S, Vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
        return q_left @ U, S, q_right @ Vh.T

    def standardised_diagonal(self) -> Float[Tensor, " row"]:
        """Each diagonal entry less its row's mean, over its row's standard deviation."""
        return self.centred().diagonal() / self.row_stds()

    def diagonal_ranks(self) -> Int[Tensor, " row"]:
        """The place of each diagonal entry in its own row, 1 for the largest; only some rows exist at a time."""
        ranks = []
        for start, rows in zip(range(0, self.shape[0], ROWS_AT_ONCE), self.left.split(ROWS_AT_ONCE), strict=True):
            entries = rows @ self.right
            ranks.append(1 + (entries > entries.diagonal(start)[:, None]).sum(1))
        return torch.cat(ranks)


def _inner(wide: Float[Tensor, "row n"], tall: Float[Tensor, "n column"]) -> Float[Tensor, "row column"]:
    """``wide @ tall`` in float64, some of the long dimension at a time: no float64 copy of a whole factor is made."""
    parts = zip(wide.split(4096, dim=1), tall.split(4096), strict=True)
    return sum(some.double() @ others.double() for some, others in parts)


# ---- a head's two circuits ("Splitting Attention Head Terms into Circuits") ------------------------------------


def W_OV(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[d_model, d_model]``: what a head writes, as a function of the stream at the token that it attends to."""
    return LowRank(model.W_V[head], model.W_O[head])


def W_QK(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[d_model, d_model]``: attention score as a bilinear form of destination and source, 1/√d_head included.

    Raises:
        ReaderError: the model smears its keys, so a score depends on the token before the source as well.
    """
    if model.smear is not None:
        raise ReaderError("This model smears its keys: no QK circuit gives its scores. Take one without smeared keys.")
    return LowRank(model.W_Q[head] / math.sqrt(model.config.d_head), model.W_K[head].T)


def centred_unembedding(model: AttentionOnlyTransformer) -> Float[Tensor, "d_model d_vocab"]:
    """``W_U`` less its mean column, so that logits are above their mean.

    The mean column moves all logits alike and so no probability: a model says nothing of it. Every circuit that ends in
    logits has it taken out here, or else its eigenvalues and norms would depend on it.
    """
    return model.W_U - model.W_U.mean(1, keepdim=True)


def ov_circuit(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[source token, out token]``: how a token, when attended to, moves the logit of every token above their mean."""
    return model.W_E @ W_OV(model, head) @ centred_unembedding(model)


def qk_circuit(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[destination token, source token]``: how much the content of one token asks for another."""
    return model.W_E @ W_QK(model, head) @ model.W_E.T


def positional_scores(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "dest src"]:
    """The part of a head's attention scores that depends on the two positions alone, unmasked."""
    return model.W_pos @ W_QK(model, head).dense() @ model.W_pos.T


# ---- path expansion ("The Path Expansion Trick") ---------------------------------------------------------------


def paths(model: AttentionOnlyTransformer) -> list[tuple[Head, ...]]:
    """Every way through the model from token to logits: the direct path, each head, each chain of heads."""
    found: list[tuple[Head, ...]] = [()]
    for layer in range(model.config.n_layers):
        found += [path + ((layer, head),) for path in found for head in range(model.config.n_heads)]
    return sorted(found, key=len)


def path_logits(
    model: AttentionOnlyTransformer,
    tokens: Int[Tensor, "batch pos"],
    patterns: list[Float[Tensor, "batch head dest src"]],
    path: tuple[Head, ...],
) -> Float[Tensor, "batch pos d_vocab"]:
    """What one path adds to the logits: ``A ⊗ (W_U W_OV W_E)`` for a head, longer products for chains of heads."""
    moved = model.W_E[tokens]
    for layer, head in path:
        moved = patterns[layer][:, head] @ (moved @ model.W_V[layer, head]) @ model.W_O[layer, head]
    return moved @ model.W_U


def logits_by_tables(model: AttentionOnlyTransformer, tokens: Int[Tensor, " pos"]) -> Float[Tensor, "pos d_vocab"]:
    """A one-layer model's logits above their mean, looked up in tables over tokens and positions.

    Scores are entries of the QK circuits and of their tables with positions; their softmax weighs rows of the OV
    circuits; the direct path is added. No stream, keys or values. Equal to ``model(tokens)`` less its mean over the
    vocabulary, up to rounding.

    Raises:
        ReaderError: the model has more layers, or none, or smears its keys.
    """
    if model.config.n_layers != 1:
        raise ReaderError('Only a one-layer model is a few tables: take load_book_model("one_layer").')
    n = len(tokens)
    logits = model.W_E[tokens] @ centred_unembedding(model)
    for head in model.heads:
        scores = qk_circuit(model, head).rows(tokens)[:, tokens] + positional_scores(model, head)[:n, :n]
        scores += (model.W_E @ W_QK(model, head) @ model.W_pos.T).rows(tokens)[:, :n]  # a token asks for a place
        scores += (model.W_pos @ W_QK(model, head) @ model.W_E.T).columns(tokens)[:n]  # a place asks for a token
        attention = scores.masked_fill(model.future[:n, :n], -torch.inf).softmax(-1)
        logits += attention @ ov_circuit(model, head).rows(tokens)
    return logits


def score_terms(
    model: AttentionOnlyTransformer, cache: Cache, head: Head, dest: int, src: int
) -> Float[Tensor, "part part"]:
    """One attention score of a head, split by what its query (rows) and its key (columns) are made of.

    The parts are the token, the position, and the output of every head of earlier layers, in the order of
    ``score_parts``; the sum of all entries is the score. Of a batch, the first text counts.

    Raises:
        ReaderError: the model smears its keys.
    """
    query, key = (_parts(model, cache, head[0])[:, position] for position in (dest, src))
    return query @ W_QK(model, head).dense() @ key.T


def score_expansion(model: AttentionOnlyTransformer, cache: Cache, head: Head) -> Float[Tensor, "part part dest src"]:
    """``score_terms`` of every destination and source at once: each term of the paper's expansion.

    Its terms ``A^q ⊗ A^k ⊗ (W_E^T W_OV^T W_QK W_OV W_E)`` are indexed by what the query (first) and the key (second)
    are made of; summed over both, the scores before the mask ("Path Expansion of Attention Scores QK Circuit").
    """
    parts, qk = _parts(model, cache, head[0]), W_QK(model, head)
    return torch.einsum("qde,kse->qkds", parts @ qk.left, parts @ qk.right.T)


def score_by_token(
    model: AttentionOnlyTransformer, cache: Cache, head: Head, dest: int, src: int
) -> Float[Tensor, "part part"]:
    """One attention score of a head of layer 1, split by the tokens that its query (rows) and its key (columns) see.

    A token counts wherever its information comes from: it stands at the place itself, or a head of layer 0 has moved
    it there. The last row and column are the positions'; the sum of all entries is the score ("How Induction Heads
    Work"). Of a batch, the first text counts.
    """
    query, key = (_by_token(model, cache, place) for place in (dest, src))
    return query @ W_QK(model, head).dense() @ key.T


def score_parts(model: AttentionOnlyTransformer, head: Head) -> list[str]:
    """The names of the rows and columns of ``score_terms``."""
    return ["token", "position", *(head_name(earlier) for earlier in model.heads if earlier[0] < head[0])]


def _parts(model: AttentionOnlyTransformer, cache: Cache, layer: int) -> Float[Tensor, "part pos d_model"]:
    """What the heads of a layer read of the first text, taken apart."""
    tokens = cache.residual[0][0]
    earlier = [output for outputs in cache.head_outputs[:layer] for output in outputs[0]]
    return torch.stack([tokens, model.W_pos[: len(tokens)], *earlier])


def _by_token(model: AttentionOnlyTransformer, cache: Cache, place: int) -> Float[Tensor, "part d_model"]:
    """What layer 1 reads at a place, as a sum over the tokens that it comes from; the position is last."""
    tokens, weights = cache.residual[0][0], cache.patterns[0][0, :, place]
    moved = torch.einsum("hp,pd,hde,hef->pf", weights, tokens, model.W_V[0], model.W_O[0])
    moved[place] += tokens[place]
    return torch.cat([moved, model.W_pos[place][None]])


# ---- eigenvalues ("Summarizing OV/QK Matrices") ----------------------------------------------------------------


def eigenvalue_score(eigenvalues: Complex[Tensor, " rank"]) -> float:
    """``Σλ / Σ|λ|``, between -1 and 1: 1 when every eigenvalue is a positive real number."""
    return (eigenvalues.sum().real / eigenvalues.abs().sum()).item()


def copying_score(model: AttentionOnlyTransformer, head: Head) -> float:
    """Eigenvalue score of the OV circuit: does attending to a token raise that token itself?"""
    return eigenvalue_score(ov_circuit(model, head).eigenvalues())


@dataclass(frozen=True)
class CopyingSummary:
    """How far a matrix over the vocabulary copies, by the eigenvalues and by four readings of its diagonal.

    A diagonal entry is standardised by its row: less the row's mean, over the row's standard deviation.
    """

    eigenvalues: float  # Σλ / Σ|λ|
    mean: float  # of the standardised diagonal
    median: float
    first: float  # share of tokens that raise no other token as much as themselves
    top_10: float  # share of tokens that are among the ten that they raise most


def copying_summary(circuit: LowRank) -> CopyingSummary:
    """The paper's score and its alternatives, for an OV circuit ``[source token, out token]`` or a QK circuit."""
    diagonal = circuit.standardised_diagonal()
    ranks = circuit.diagonal_ranks()
    return CopyingSummary(
        eigenvalues=eigenvalue_score(circuit.eigenvalues()),
        mean=diagonal.mean().item(),
        median=diagonal.median().item(),
        first=(ranks == 1).float().mean().item(),
        top_10=(ranks <= 10).float().mean().item(),
    )


# ---- composition ("Two-Layer Attention-Only Transformers") -----------------------------------------------------


def induction_circuit(model: AttentionOnlyTransformer, head: Head, previous_token_head: Head) -> LowRank:
    """``[destination token, token before the source]``: the QK circuit of ``head``, with keys read through another.

    The term ``Id ⊗ A ⊗ (W_E^T W_QK W_OV W_E)`` of the paper's expansion of second-layer scores: with A attending
    to the previous token, positive eigenvalues mean "attend to where the *previous* token is the same as me".
    """
    return model.W_E @ W_QK(model, head) @ (W_OV(model, previous_token_head).T) @ model.W_E.T


def qk_eigenvalue_score(model: AttentionOnlyTransformer, head: Head, previous_token_head: Head) -> float:
    """Eigenvalue score of the QK circuit through a previous-token head (vertical axis of the paper's 2D plot)."""
    return eigenvalue_score(induction_circuit(model, head, previous_token_head).eigenvalues())


def matching_circuit(model: AttentionOnlyTransformer, head: Head, previous_token: Float[Tensor, " head"]) -> LowRank:
    """The QK circuit of ``head``, its keys read through all heads of layer 0 in proportion to looking back.

    ``W = Σ_e s(e) W_E W_QK W_OV(e)ᵀ W_Eᵀ``, the sum over the heads e of layer 0 with their previous-token scores
    ``s(e)`` as weights.
    """
    through = sum(score * W_OV(model, (0, early)).dense() for early, score in enumerate(previous_token.tolist()))
    return model.W_E @ W_QK(model, head) @ through.T @ model.W_E.T


Score = Callable[[AttentionOnlyTransformer, Head, Head, str], float]


def composition_score(model: AttentionOnlyTransformer, early: Head, late: Head, kind: str) -> float:
    """How much of what ``early`` writes is read by the queries, keys or values of ``late``: ``‖AB‖/(‖A‖‖B‖)``.

    ``kind`` is "Q", "K" or "V". Frobenius norms of the products in their true order; the paper's first version of its
    figure used ``‖BA‖``.

    Raises:
        ReaderError: ``kind`` is another one, or the model smears its keys and ``kind`` is not "V".
    """
    writes, reads = W_OV(model, early), reading_matrix(model, late, kind)
    return (writes @ reads).norm() / (writes.norm() * reads.norm())


def composition_scores(
    model: AttentionOnlyTransformer, kind: str, score: Score = composition_score
) -> Float[Tensor, "early late"]:
    """``score`` of every head of layer 0 with every head of layer 1: ``composition_score`` or its swapped form."""
    early, late = model.layer_heads(0), model.layer_heads(1)
    return torch.tensor([[score(model, e, h, kind) for h in late] for e in early], dtype=model.W_E.dtype)


def composition_excess(
    model: AttentionOnlyTransformer, kind: str, score: Score = composition_score
) -> Float[Tensor, "early late"]:
    """``composition_scores`` less what random matrices have: their mean in an untrained model of the same shape."""
    random = AttentionOnlyTransformer(model.config, seed=100).requires_grad_(False)
    return composition_scores(model, kind, score=score) - composition_scores(random, kind, score=score).mean()


def swapped_composition_score(model: AttentionOnlyTransformer, early: Head, late: Head, kind: str) -> float:
    """The mistake of the paper's first figure, kept as a lesson: ``‖BA‖/(‖A‖‖B‖)`` for a product that is ``AB``.

    Eigenvalues and the trace allow such a cyclic change, the Frobenius norm does not (the authors' correction).
    """
    writes, reads = W_OV(model, early), reading_matrix(model, late, kind)
    product = writes @ reads
    return torch.linalg.matrix_norm(product.right @ product.left).item() / (writes.norm() * reads.norm())


def reading_matrix(model: AttentionOnlyTransformer, head: Head, kind: str) -> LowRank:
    """The matrix through which a head's queries, keys or values read the residual stream."""
    if kind not in ("Q", "K", "V"):
        raise ReaderError(f'{kind!r} is no kind of composition: choose "Q", "K" or "V".')
    if kind == "V":
        return W_OV(model, head)
    return W_QK(model, head) if kind == "Q" else W_QK(model, head).T
