"""Weights set by hand: a residual stream of four rooms, and heads that carry what lies in one into another.

A room is a block of dimensions with one purpose. A head that is made by hand reads whole rooms and writes a whole room,
so its four matrices are blocks of the identity, or of a rotation, in a field of zeros.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from helpers.model import AttentionOnlyTransformer, Head, ModelConfig

ROOM = 48  # dimensions
TOKEN, NOTED, ANSWER, PLACE = (slice(ROOM * i, ROOM * (i + 1)) for i in range(4))


def token_vectors(d_vocab: int, seed: int = 0) -> Float[Tensor, "{d_vocab} 48"]:
    """A random unit vector for each token, as long as a room: two of them are nearly orthogonal."""
    return normalize(torch.randn(d_vocab, ROOM, generator=torch.Generator().manual_seed(seed)), dim=1)


def frequencies(n_ctx: int) -> Float[Tensor, " wave"]:
    """Those of ``sinusoids(n_ctx, ROOM)``, in radians a place: first all sin(f n), then all cos(f n)."""
    return float(n_ctx) ** (-torch.arange(0, ROOM, 2) / ROOM)


def empty_model(config: ModelConfig, seed: int = 0) -> AttentionOnlyTransformer:
    """A model whose stream stays empty: W_E, W_O, W_U and W_pos are 0, and so is all of head 0 of each layer.

    The other heads read as those of an untrained model do, but write nothing. A training could put them to use.
    """
    model = AttentionOnlyTransformer(config, seed).requires_grad_(False)
    for weight in (model.W_E, model.W_O, model.W_U, model.W_pos):
        weight.zero_()
    for weight in (model.W_Q, model.W_K, model.W_V):
        weight[:, 0] = 0
    return model


def wire(
    model: AttentionOnlyTransformer,
    head: Head,
    *,
    query: slice,
    key: slice,
    value: slice,
    output: slice,
    gain: float = 1.0,
    turn: Float[Tensor, "48 48"] | None = None,
) -> None:
    """Set the four matrices of a head: from which room each of the first three reads, into which W_O writes.

    Scores are the products of the two rooms times ``gain`` squared, over √d_head; ``turn`` acts on the query's room.
    """
    same = torch.eye(ROOM)
    for weight in (model.W_Q, model.W_K, model.W_V, model.W_O):
        weight[head] = 0
    model.W_Q[head][query, :ROOM] = gain * (same if turn is None else turn)
    model.W_K[head][key, :ROOM] = gain * same
    model.W_V[head][value, :ROOM] = same
    model.W_O[head][:ROOM, output] = same


# ---- positions in the stream ------------------------------------------------------------------------------------


class PlacesInStream(AttentionOnlyTransformer):
    """A model with its positions in the stream: W_E has a row for each token at each place, and W_pos is 0.

    Row ``place * d_vocab + token`` of W_E is the token's vector and the place's. Everything else is as in any model.
    """

    def __init__(self, model: AttentionOnlyTransformer):
        super().__init__(model.config)
        for name in ("W_Q", "W_K", "W_V", "W_O", "W_U"):
            setattr(self, name, getattr(model, name))
        placed = model.W_pos[:, None] + model.W_E  # [place, token, d_model]
        self.W_E = nn.Parameter(placed.flatten(0, 1), requires_grad=False)
        self.W_pos = torch.zeros_like(model.W_pos)

    def residual_stream(self, tokens: Int[Tensor, "batch pos"], **options) -> Float[Tensor, "batch pos d_model"]:
        """Of the same tokens, renumbered: one that stands at another place is another token."""
        placed = tokens + self.config.d_vocab * torch.arange(tokens.shape[1])
        return super().residual_stream(placed, **options)
