"""The paper's algebra, from weights alone: QK and OV circuits, composition, eigenvalues.

All matrices over the vocabulary have rank d_head at most, so they are kept as two thin factors (``LowRank``) and
never formed unless a cell of the book asks for a few rows. Row vectors: ``ov[source, out]`` is the paper's
``W_U W_OV W_E`` transposed, and ``qk[destination, source]`` its ``W_E^T W_QK W_E``.
"""

import heapq
import math
from dataclasses import dataclass

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.model import AttentionOnlyTransformer, Cache, Head, sinusoids


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

    def entry(self, row: int, column: int) -> float:
        return (self.left[row] @ self.right[:, column]).item()

    def diagonal(self) -> Float[Tensor, " row"]:
        return (self.left * self.right.T).sum(1)

    def dense(self) -> Float[Tensor, "row column"]:
        return self.left @ self.right

    def centred(self) -> "LowRank":
        """Each row less its own mean: a softmax over the row cannot see the mean, so rows are compared without it."""
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

    def top_entries(self, k: int, rows_at_once: int = 256) -> list[tuple[int, int, float]]:
        """The ``k`` largest entries as ``(row, column, value)``, largest first; only some rows exist at a time."""
        best: list[tuple[float, int, int]] = []
        for start, rows in zip(range(0, self.shape[0], rows_at_once), self.left.split(rows_at_once), strict=True):
            values, columns = (rows @ self.right).topk(min(k, self.shape[1]), dim=1)
            values, places = values.flatten().topk(min(k, values.numel()))
            at = zip(values.tolist(), places.tolist(), columns.flatten()[places].tolist(), strict=True)
            best = heapq.nlargest(k, best + [(value, start + i // columns.shape[1], column) for value, i, column in at])
        return [(row, column, value) for value, row, column in best]

    def diagonal_ranks(self, rows_at_once: int = 256) -> Int[Tensor, " row"]:
        """The place of each diagonal entry in its own row, 1 for the largest; only some rows exist at a time."""
        ranks = []
        for start, rows in zip(range(0, self.shape[0], rows_at_once), self.left.split(rows_at_once), strict=True):
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
    """``[d_model, d_model]``: attention score as a bilinear form of destination and source, 1/√d_head included."""
    return LowRank(model.W_Q[head] / math.sqrt(model.config.d_head), model.W_K[head].T)


def ov_circuit(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[source token, out token]``: how a token, when attended to, moves the logit of every token."""
    return model.W_E @ W_OV(model, head) @ model.W_U


def qk_circuit(model: AttentionOnlyTransformer, head: Head) -> LowRank:
    """``[destination token, source token]``: how much the content of one token asks for another."""
    return model.W_E @ W_QK(model, head) @ model.W_E.T


def positional_scores(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "dest src"]:
    """The part of a head's attention scores that depends on the two positions alone, unmasked."""
    return model.W_pos @ W_QK(model, head).dense() @ model.W_pos.T


def offset_scores(
    n_ctx: int, d_model: int, offset: int, n_waves: int, steepness: float = 1.0
) -> Float[Tensor, "dest src"]:
    """Position-only scores of a head made by hand that asks for the token ``offset`` places back.

    ``p @ offset_W_QK(...) @ p.T`` for the sinusoids ``p``: a sum of cosines of ``distance - offset``, largest where
    the distance is ``offset``.
    """
    positions = sinusoids(n_ctx, d_model)
    return positions @ offset_W_QK(n_ctx, d_model, offset, n_waves, steepness).dense() @ positions.T


def offset_W_QK(n_ctx: int, d_model: int, offset: int, n_waves: int, steepness: float = 1.0) -> LowRank:
    """``W_QK`` from rotations alone: each of the ``n_waves`` shortest waves is turned by ``offset`` positions.

    A pair (sin, cos) of a wave with frequency f becomes that of the position ``offset`` places back when it is
    turned by the angle f·offset, wherever it stands ("Interpreting as Skip-Trigrams", footnote on positional heads).
    Two dimensions for each wave: a head of width d_head has room for d_head / 2 of them.
    """
    turned = float(n_ctx) ** (-torch.arange(0, 2 * n_waves, 2) / d_model) * offset
    read = torch.eye(d_model)[[*range(n_waves), *range(d_model // 2, d_model // 2 + n_waves)]]
    cos, sin = turned.cos().diag(), turned.sin().diag()
    rotation = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)])
    return LowRank(steepness * read.T @ rotation, read)


@dataclass(frozen=True)
class HeadReading:
    """What one head does with one source token: who attends to it most, and what that makes likelier.

    ``wanted[i]`` is the centred QK entry of ``destinations[i]`` (nats of attention score), ``raised[i]`` the
    centred OV entry of ``outs[i]`` (nats of logit, at full attention).
    """

    head: Head
    source: int
    destinations: list[int]
    wanted: list[float]
    outs: list[int]
    raised: list[float]


def read_head(
    model: AttentionOnlyTransformer, head: Head, source: int, among: Int[Tensor, " token"], n: int = 4
) -> HeadReading:
    """The paper's recipe for its tables: fix a source token, take the largest QK and the largest OV entries.

    Only the tokens of ``among`` are considered: the embeddings of tokens that hardly occur are left-over noise.
    """
    return _reading(head, *_centred_circuits(model, head), source, among, n)


def telling_sources(
    model: AttentionOnlyTransformer, head: Head, among: Int[Tensor, " token"], n: int = 8
) -> list[int]:
    """The sources with the strongest skip-trigrams of a head, by largest QK entry times largest OV entry."""
    return _telling(*_centred_circuits(model, head), among, n)


def read_telling_sources(
    model: AttentionOnlyTransformer, head: Head, among: Int[Tensor, " token"], n_sources: int = 8, n: int = 4
) -> list[HeadReading]:
    """``read_head`` for each of the ``telling_sources`` of a head, strongest first."""
    qk, ov = _centred_circuits(model, head)
    return [_reading(head, qk, ov, source, among, n) for source in _telling(qk, ov, among, n_sources)]


def _centred_circuits(model: AttentionOnlyTransformer, head: Head) -> tuple[LowRank, LowRank]:
    return qk_circuit(model, head).centred(), ov_circuit(model, head).centred()


def _reading(head: Head, qk: LowRank, ov: LowRank, source: int, among: Int[Tensor, " token"], n: int) -> HeadReading:
    wanted, raised = qk.columns(source)[among].topk(n), ov.rows(source)[among].topk(n)
    return HeadReading(head, source, among[wanted.indices].tolist(), wanted.values.tolist(),
                       among[raised.indices].tolist(), raised.values.tolist())


def _telling(qk: LowRank, ov: LowRank, among: Int[Tensor, " token"], n: int) -> list[int]:
    wishes, rises = qk.left[among], ov.right[:, among]
    strongest_wish = torch.cat([(qk.right.T[chunk] @ wishes.T).amax(1) for chunk in among.split(512)])
    strongest_rise = torch.cat([(ov.left[chunk] @ rises).amax(1) for chunk in among.split(512)])
    return among[(strongest_wish * strongest_rise).topk(n).indices].tolist()


def entry_places(
    model: AttentionOnlyTransformer, rules: Int[Tensor, "rule 3"], among: Int[Tensor, " token"]
) -> Float[Tensor, "rule head 2"]:
    """How far from the top a rule's two entries stand in every head of layer 0, as shares of the tokens ``among``.

    A rule is (source, destination, out). The first share counts the destinations that want the source more than the
    rule's own (its QK column), the second the outs that the source raises more (its OV row): 0 is the very top.
    """
    sources, destinations, outs = rules.T
    shares = []
    for head in range(model.config.n_heads):
        qk, ov = _centred_circuits(model, (0, head))
        larger = [(entries[:, among] > entries.gather(1, own[:, None])).double().mean(1)
                  for entries, own in ((qk.columns(sources).T, destinations), (ov.rows(sources), outs))]
        shares.append(torch.stack(larger, dim=1))
    return torch.stack(shares, dim=1)


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
    """What one path adds to the logits: ``A ⊗ (W_U W_OV W_E)`` for a head, and longer products for chains of heads."""
    moved = model.W_E[tokens]
    for layer, head in path:
        moved = patterns[layer][:, head] @ (moved @ model.W_V[layer, head]) @ model.W_O[layer, head]
    return moved @ model.W_U


def logits_by_tables(model: AttentionOnlyTransformer, tokens: Int[Tensor, " pos"]) -> Float[Tensor, "pos d_vocab"]:
    """The logits of a one-layer model, looked up: no stream, no keys, no values, only tables over tokens and positions.

    Scores are entries of the QK circuits and of their tables with positions; their softmax weighs rows of the OV
    circuits; the direct path is added. Equal to ``model(tokens)``, but for rounding.

    Raises:
        ReaderError: the model has more layers, or none, or smears its keys.
    """
    if model.config.n_layers != 1 or model.smear is not None:
        raise ReaderError("Only a one-layer model without smeared keys is a few tables: load data/models/one_layer.")
    n = len(tokens)
    logits = model.W_E[tokens] @ model.W_U
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
    ``score_parts``; the sum of all entries is the score. It is of the first text of the batch that ``cache`` is of.
    """
    query, key = (torch.stack(_parts(model, cache, head[0], position)) for position in (dest, src))
    return query @ W_QK(model, head).dense() @ key.T


def score_expansion(
    model: AttentionOnlyTransformer, cache: Cache, head: Head
) -> Float[Tensor, "part part dest src"]:
    """``score_terms`` of every destination and source of the first text at once: each term of the paper's expansion.

    Its terms ``A^q ⊗ A^k ⊗ (W_E^T W_OV^T W_QK W_OV W_E)`` are indexed by what the query (first) and the key (second) is
    made of; summed over both, the scores before the mask ("Path Expansion of Attention Scores QK Circuit").
    """
    n_pos = cache.residual[0].shape[1]
    parts = torch.stack([torch.stack(_parts(model, cache, head[0], i)) for i in range(n_pos)], dim=1)
    queries, keys = parts @ model.W_Q[head] / math.sqrt(model.config.d_head), parts @ model.W_K[head]
    return torch.einsum("qde,kse->qkds", queries, keys)


def score_by_token(
    model: AttentionOnlyTransformer, cache: Cache, head: Head, dest: int, src: int
) -> Float[Tensor, "pos+1 pos+1"]:
    """One attention score of a head of layer 1, split by the tokens that its query (rows) and its key (columns) see.

    A token counts wherever its information comes from: it stands at the place itself, or a head of layer 0 has moved
    it there. The last row and column are the positions'; the sum of all entries is the score ("How Induction Heads
    Work"). It is of the first text of the batch that ``cache`` is of.
    """
    query, key = (_by_token(model, cache, place) for place in (dest, src))
    return query @ W_QK(model, head).dense() @ key.T


def _by_token(model: AttentionOnlyTransformer, cache: Cache, place: int) -> Float[Tensor, "pos+1 d_model"]:
    """What the second layer reads at a place, as a sum over the tokens that it comes from; the position is last."""
    tokens, weights = cache.residual[0][0], cache.patterns[0][0, :, place]
    moved = torch.einsum("hp,pd,hde,hef->pf", weights, tokens, model.W_V[0], model.W_O[0])
    moved[place] += tokens[place]
    return torch.cat([moved, model.W_pos[place][None]])


def score_parts(model: AttentionOnlyTransformer, head: Head) -> list[str]:
    """The names of the rows and columns of ``score_terms``."""
    return ["token", "position"] + [f"{layer}:{h}" for layer, h in model.heads if layer < head[0]]


def _parts(model: AttentionOnlyTransformer, cache: Cache, layer: int, position: int) -> list[Float[Tensor, " d_model"]]:
    earlier = [output for outputs in cache.head_outputs[:layer] for output in outputs[0, :, position]]
    return [cache.residual[0][0, position], model.W_pos[position], *earlier]


# ---- eigenvalues ("Summarizing OV/QK Matrices") ----------------------------------------------------------------


def positivity(eigenvalues: Complex[Tensor, " rank"]) -> float:
    """``Σλ / Σ|λ|``, between -1 and 1: 1 when every eigenvalue is a positive real number."""
    return (eigenvalues.sum().real / eigenvalues.abs().sum()).item()


def copying_score(model: AttentionOnlyTransformer, head: Head) -> float:
    """Eigenvalue positivity of the OV circuit: does attending to a token raise that token itself?"""
    return positivity(ov_circuit(model, head).eigenvalues())


@dataclass(frozen=True)
class Copying:
    """How far a matrix over the vocabulary copies, by the eigenvalues and by four readings of its diagonal.

    A diagonal entry is standardised by its row: less the row's mean, over the row's standard deviation.
    """

    eigenvalues: float  # Σλ / Σ|λ|
    mean: float  # of the standardised diagonal
    median: float
    first: float  # share of tokens that raise no other token as much as themselves
    top_k: float  # share of tokens that are among the k that they raise most


def copying_summary(circuit: LowRank, k: int = 10) -> Copying:
    """The paper's score and its alternatives, for an OV circuit ``[source token, out token]`` or a QK circuit."""
    diagonal = circuit.standardised_diagonal()
    ranks = circuit.diagonal_ranks()
    return Copying(positivity(circuit.eigenvalues()), diagonal.mean().item(), diagonal.median().item(),
                   (ranks == 1).float().mean().item(), (ranks <= k).float().mean().item())


def feature_contrasts(
    circuit: LowRank, plain: Int[Tensor, " pair"], marked: Int[Tensor, " pair"]
) -> Float[Tensor, "source_pair out_pair"]:
    """Does a circuit hand on what tells ``marked`` tokens from ``plain`` ones, such as being plural? In nats.

    Entry ``[i, j]``: how much more the marked token of pair j is raised over its plain one after the marked token
    of pair i than after its plain one. Off the diagonal this is not the copying of any token.
    """
    return (circuit.left[marked] - circuit.left[plain]) @ (circuit.right[:, marked] - circuit.right[:, plain])


def feature_share(circuit: LowRank, plain: Int[Tensor, " pair"], marked: Int[Tensor, " pair"]) -> float:
    """Share of positive ``feature_contrasts`` between two different pairs; one half where nothing is handed on."""
    positive = feature_contrasts(circuit, plain, marked) > 0
    n = len(plain)
    return ((positive.sum() - positive.diagonal().sum()) / (n * (n - 1))).item()


# ---- composition ("Two-Layer Attention-Only Transformers") -----------------------------------------------------


def induction_circuit(model: AttentionOnlyTransformer, head: Head, previous_token_head: Head) -> LowRank:
    """``[destination token, token before the source]``: the QK circuit of ``head``, its keys read through another.

    The term ``Id ⊗ A ⊗ (W_E^T W_QK W_OV W_E)`` of the paper's expansion of second-layer scores: with A attending
    to the previous token, positive eigenvalues mean "attend to where the *previous* token is the same as me".
    """
    return model.W_E @ W_QK(model, head) @ (W_OV(model, previous_token_head).T) @ model.W_E.T


def matching_score(model: AttentionOnlyTransformer, head: Head, previous_token_head: Head) -> float:
    """Eigenvalue positivity of the QK circuit through a previous-token head (vertical axis of the paper's 2D plot)."""
    return positivity(induction_circuit(model, head, previous_token_head).eigenvalues())


def matching_trace(
    model: AttentionOnlyTransformer, head: Head, previous_token: Float[Tensor, " head"]
) -> float:
    """Trace of the QK circuit of ``head``, its keys read through all heads of layer 0, each as far as it looks back.

    ``W = Σ_e s(e) W_E W_QK W_OV(e)ᵀ W_Eᵀ``, the sum over the heads e of layer 0 with their previous-token scores
    ``s(e)`` as weights ("trace of QK eigenvalues" in Olsson et al., 2022). A large one matches equal tokens.
    """
    through = sum(score * W_OV(model, (0, early)).dense() for early, score in enumerate(previous_token.tolist()))
    return (W_QK(model, head).dense() @ through.T * (model.W_E.T @ model.W_E)).sum().item()


def composition_score(model: AttentionOnlyTransformer, early: Head, late: Head, kind: str) -> float:
    """How much of what ``early`` writes the ``kind`` ("Q", "K" or "V") side of ``late`` reads: ``‖AB‖/(‖A‖‖B‖)``.

    Frobenius norms of the products in their true order; the paper's first version of its figure used ``‖BA‖``.
    """
    writes, reads = W_OV(model, early), _reads(model, late, kind)
    return (writes @ reads).norm() / (writes.norm() * reads.norm())


def composition_scores(
    model: AttentionOnlyTransformer, kind: str, layers: tuple[int, int] = (0, 1), score=composition_score
) -> Float[Tensor, "early late"]:
    """``score`` of every head of a layer with every head of a later one: ``composition_score`` or its swapped form."""
    early, late = layers
    heads = range(model.config.n_heads)
    return torch.tensor([[score(model, (early, e), (late, h), kind) for h in heads] for e in heads])


def composition_excess(
    model: AttentionOnlyTransformer, kind: str, score=composition_score
) -> Float[Tensor, "early late"]:
    """``composition_scores`` less what random matrices have: their mean in an untrained model of the same shape."""
    random = AttentionOnlyTransformer(model.config, seed=100).requires_grad_(False)
    return composition_scores(model, kind, score=score) - composition_scores(random, kind, score=score).mean()


def swapped_composition_score(model: AttentionOnlyTransformer, early: Head, late: Head, kind: str) -> float:
    """The mistake of the paper's first figure, kept as a lesson: ``‖BA‖/(‖A‖‖B‖)`` for a product that is ``AB``.

    Eigenvalues and the trace allow such a cyclic change, the Frobenius norm does not (the authors' correction).
    """
    writes, reads = W_OV(model, early), _reads(model, late, kind)
    product = writes @ reads
    return torch.linalg.matrix_norm(product.right @ product.left).item() / (writes.norm() * reads.norm())


def _reads(model: AttentionOnlyTransformer, head: Head, kind: str) -> LowRank:
    """The matrix through which a head's queries, keys or values read the residual stream."""
    return {"Q": W_QK(model, head), "K": W_QK(model, head).T, "V": W_OV(model, head)}[kind]

