"""The transformer of the paper: attention and nothing else ("Model Simplifications" and "Transformer Overview").

Row vectors throughout: a residual stream ``x`` is ``[batch, pos, d_model]`` and a weight acts as ``x @ W``. The
paper writes columns, so each of its matrices is the transpose of ours. There is no LayerNorm and no bias, and
positions enter the queries and the keys only; so once the attention patterns are fixed, the logits are a linear
function of the tokens, exactly.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, einsum, nn

from helpers import ReaderError

Head = tuple[int, int]  # (layer, head), both counted from 0
Replacements = Mapping[Head, Tensor | float]
Stream = Float[Tensor, "batch pos d_model"]
Attention = Float[Tensor, "batch head dest src"]


def head_name(head: Head) -> str:
    """As the paper writes it: "0:7"."""
    return f"{head[0]}:{head[1]}"


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of a model; those of the book's models by default."""

    n_layers: int = 2
    n_heads: int = 12  # per layer
    d_model: int = 384  # width of the residual stream
    d_head: int = 32
    d_vocab: int = 4096
    n_ctx: int = 256  # tokens in a context, <START> included
    positional_amplitude: float = 1.0
    smeared_keys: bool = False  # each key mixed with that of the token before (Olsson et al., 2022)

    def __post_init__(self):
        sizes = self.n_layers + 1, self.n_heads, self.d_model, self.d_head, self.d_vocab, self.n_ctx
        if min(sizes) < 1 or self.d_model % 2:
            raise ReaderError(f"No model has these sizes: {self}. All are positive, n_layers may be 0, d_model even.")

    def build(self, seed: int = 0) -> "AttentionOnlyTransformer":
        """A model of these sizes before its training."""
        return AttentionOnlyTransformer(self, seed)


@dataclass
class Cache:
    """What a forward pass computed on its way, a tensor for each layer."""

    residual: list[Float[Tensor, "batch pos d_model"]] = field(default_factory=list)  # n_layers + 1 of them
    scores: list[Float[Tensor, "batch head dest src"]] = field(default_factory=list)  # before the softmax
    patterns: list[Float[Tensor, "batch head dest src"]] = field(default_factory=list)
    values: list[Float[Tensor, "batch head pos d_head"]] = field(default_factory=list)
    head_outputs: list[Float[Tensor, "batch head pos d_model"]] = field(default_factory=list)


class AttentionOnlyTransformer(nn.Module):
    """``logits = (x + sum of all heads) @ W_U`` with ``x = W_E[tokens]``; any number of layers, including zero."""

    Config, new_cache = ModelConfig, Cache

    def __init__(self, config: ModelConfig, seed: int = 0):
        super().__init__()
        self.config = c = config
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        per_head = (c.n_layers, c.n_heads)
        self.W_E = normal(c.d_vocab, c.d_model, std=0.5)
        self.W_Q = normal(*per_head, c.d_model, c.d_head, std=c.d_model**-0.5)
        self.W_K = normal(*per_head, c.d_model, c.d_head, std=c.d_model**-0.5)
        self.W_V = normal(*per_head, c.d_model, c.d_head, std=c.d_model**-0.5)
        self.W_O = normal(*per_head, c.d_head, c.d_model, std=(2 * max(1, c.n_layers) * c.n_heads * c.d_head) ** -0.5)
        self.W_U = normal(c.d_model, c.d_vocab, std=0.02)
        self.smear = nn.Parameter(torch.zeros(per_head)) if c.smeared_keys else None
        self.register_buffer("W_pos", c.positional_amplitude * sinusoids(c.n_ctx, c.d_model), persistent=False)
        self.register_buffer("future", torch.ones(c.n_ctx, c.n_ctx, dtype=torch.bool).triu(1), persistent=False)

    def forward(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        patterns: list[Attention] | None = None,
        replace: Replacements | None = None,
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits of the next token at every position.

        Args:
            patterns: attention to use in each layer in place of the model's own ("freezing" it).
            replace: for some heads, what they write in place of their output: anything that broadcasts to
                ``[batch, pos, d_model]``. ``{(1, 3): 0.0}`` ablates head 1:3; its mean output mean-ablates it.
        """
        return self.unembed(self.residual_stream(tokens, patterns=patterns, replace=replace))

    def run_with_cache(
        self, tokens: Int[Tensor, "batch pos"], **interventions
    ) -> tuple[Float[Tensor, "batch pos d_vocab"], Cache]:
        """The logits and everything computed on the way; takes the same interventions as calling the model."""
        cache = self.new_cache()
        return self.unembed(self.residual_stream(tokens, cache=cache, **interventions)), cache

    @torch.no_grad()
    def cache(self, tokens: Int[Tensor, "batch pos"]) -> Cache:
        """Everything computed on the way, without the logits, which take more memory than all the rest."""
        cache = self.new_cache()
        self.residual_stream(tokens, cache=cache)
        return cache

    def residual_stream(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        patterns: list[Attention] | None = None,
        replace: Replacements | None = None,
        cache: Cache | None = None,
    ) -> Stream:
        """The residual stream after the last layer; fills ``cache`` if one is given."""
        self._check(tokens, replace or {})
        residual = F.embedding(tokens, self.W_E)
        for layer in range(self.config.n_layers):
            if cache is not None:
                cache.residual.append(residual)
            pattern = None if patterns is None else patterns[layer]
            residual = residual + self.attn_out(residual, layer, pattern, replace, cache)
        if cache is not None:
            cache.residual.append(residual)
        return residual

    def unembed(self, residual: Stream) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of a residual stream."""
        return residual @ self.W_U

    def attn_out(
        self, read: Stream, layer: int, pattern: Attention | None, replace: Replacements | None, cache: Cache | None
    ) -> Stream:
        """What the heads of a layer write together if they read ``read``; fills ``cache`` if one is given."""
        scores, pattern = (None, pattern) if pattern is not None else self.attention(read, layer)
        values = self.values(read, layer)
        mixed = einsum("bhqk,bhke->bhqe", pattern, values)
        if cache is None and not replace:
            return einsum("bhqe,hed->bqd", mixed, self.W_O[layer])
        head_outputs = einsum("bhqe,hed->bhqd", mixed, self.W_O[layer])
        for (at_layer, head), output in (replace or {}).items():
            if at_layer == layer:
                head_outputs[:, head] = output
        if cache is not None:
            cache.scores.append(scores)
            cache.patterns.append(pattern)
            cache.values.append(values)
            cache.head_outputs.append(head_outputs)
        return head_outputs.sum(1)

    def values(self, read: Stream, layer: int) -> Float[Tensor, "batch head pos d_head"]:
        """What the heads of a layer move."""
        return einsum("bpd,hde->bhpe", read, self.W_V[layer])

    def attention(self, residual: Stream, layer: int, keys_read: Stream | None = None) -> tuple[Attention, Attention]:
        """Scores and pattern of a layer's heads: who attends to whom, the only non-linear step of the model.

        ``keys_read`` is what the keys are computed from, where that differs from what the queries are computed from.
        """
        n = residual.shape[1]
        keys_read = residual if keys_read is None else keys_read
        queries = einsum("bpd,hde->bhpe", residual + self.W_pos[:n], self.W_Q[layer] / math.sqrt(self.config.d_head))
        keys = einsum("bpd,hde->bhpe", keys_read + self.W_pos[:n], self.W_K[layer])
        if self.smear is not None:
            keys = _smeared(keys, self.smear[layer])
        scores = einsum("bhqe,bhke->bhqk", queries, keys).masked_fill(self.future[:n, :n], -torch.inf)
        return scores, scores.softmax(dim=-1)

    def _check(self, tokens: Int[Tensor, "..."], replace: Replacements) -> None:
        self.check_heads(replace)
        if tokens.ndim != 2 or not 1 <= tokens.shape[1] <= self.config.n_ctx:
            raise ReaderError(
                f"Tokens of shape {list(tokens.shape)} do not fit: "
                f"the model takes [batch, pos] with 1 to {self.config.n_ctx} positions."
            )

    def check_heads(self, heads: Iterable[Head]) -> None:
        """Raises ReaderError if the model lacks one of ``heads``."""
        if missing := {tuple(head) for head in heads} - set(self.heads):
            c = self.config
            raise ReaderError(
                f"This model has no head {head_name(min(missing))}: it has {c.n_layers} layers of {c.n_heads} heads. "
                "Name heads as (layer, head), both counted from 0."
            )

    @property
    def heads(self) -> list[Head]:
        """Every head of the model, layer by layer."""
        return [head for layer in range(self.config.n_layers) for head in self.layer_heads(layer)]

    def layer_heads(self, layer: int) -> list[Head]:
        """The heads of one layer."""
        return [(layer, head) for head in range(self.config.n_heads)]


def _smeared(
    keys: Float[Tensor, "batch head pos d_head"], smear: Float[Tensor, " head"]
) -> Float[Tensor, "batch head pos d_head"]:
    """Each key but the first mixed with the one before it: ``sigmoid(smear)`` is the share of its own."""
    own = smear.sigmoid()[:, None, None]
    return torch.cat([keys[:, :, :1], own * keys[:, :, 1:] + (1 - own) * keys[:, :, :-1]], dim=2)


def sinusoids(n_ctx: int, d_model: int) -> Float[Tensor, "n_ctx d_model"]:
    """Sines in the first half of the dimensions, cosines in the second, wavelengths from 2π to 2π·n_ctx positions.

    Waves longer than the context would hardly change within it, so none are spent on them.
    """
    frequencies = float(n_ctx) ** (-torch.arange(0, d_model, 2) / d_model)
    angles = torch.arange(n_ctx)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
