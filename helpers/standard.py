"""The transformer with what the first nine chapters leave out: LayerNorm, biases, MLPs (the paper's appendices).

Each of the three can be had or not. Without any of them this is the model of the other chapters; with all of them it is
an ordinary transformer, but for positions, which only queries and keys read here as well. ``fold`` rewrites a model so
that LayerNorm does nothing but divide by a length. With these lengths held fixed, everything but attention and the
neurons is linear again.
"""

import copy
import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, einsum, nn

from helpers import ReaderError
from helpers.heads import next_token_losses
from helpers.model import Attention, AttentionOnlyTransformer, Cache, Head, ModelConfig, Replacements, Stream
from helpers.stream import with_weights

EPSILON = 1e-5  # added to the mean square by whose root LayerNorm divides
PARTS = ("layer_norm", "biases", "mlp")
Scales = list[Float[Tensor, "batch pos 1"]]


@dataclass(frozen=True)
class StandardConfig(ModelConfig):
    """Sizes of a model, and which of the three it has."""

    layer_norm: bool = False  # with a gain and an offset, before every read from the stream
    biases: bool = False  # of queries, keys and values, of what heads and neurons write, of neurons, of logits
    mlp: bool = False  # behind the heads of each layer

    def __post_init__(self):
        super().__post_init__()
        if self.smeared_keys:
            raise ReaderError("Keys are smeared in models of attention alone: leave out LayerNorm, biases and MLPs.")

    @property
    def d_mlp(self) -> int:
        """Neurons in a layer."""
        return 4 * self.d_model if self.mlp else 0

    def build(self, seed: int = 0) -> "StandardTransformer":
        return StandardTransformer(self, seed)


@dataclass
class StandardCache(Cache):
    """What a forward pass computed on its way, a tensor for each layer; of ``scales``, one for each read."""

    scales: Scales = field(default_factory=list)  # what LayerNorm divides by for heads, neurons, heads, …, and logits
    inputs: list[Float[Tensor, "batch pos neuron"]] = field(default_factory=list)  # of neurons
    mlp_outputs: list[Stream] = field(default_factory=list)


class StandardTransformer(AttentionOnlyTransformer):
    """In each layer ``x += heads(norm(x))``, then ``x += neurons(norm(x))``; at the end ``norm(x) @ W_U + b_U``.

    What a configuration does not have is there but does nothing and learns nothing: biases of 0, a gain of 1.
    """

    Config, new_cache = StandardConfig, StandardCache

    def __init__(self, config: StandardConfig, seed: int = 0):
        super().__init__(config, seed)
        c, generator = config, torch.Generator().manual_seed(seed + 1_000_000)

        def normal(*shape: int, std: float) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape, generator=generator) * std)

        def constant(*shape: int, value: float = 0.0, learned: bool = c.biases) -> nn.Parameter:
            return nn.Parameter(torch.full(shape, value), requires_grad=learned)

        reads, heads = (2 * c.n_layers + 1, c.d_model), (c.n_layers, c.n_heads, 1, c.d_head)
        self.gain = constant(*reads, value=1.0, learned=c.layer_norm)
        self.offset = constant(*reads, learned=c.layer_norm)
        self.b_Q, self.b_K, self.b_V = constant(*heads), constant(*heads), constant(*heads)
        self.b_O, self.b_U = constant(c.n_layers, c.d_model), constant(c.d_vocab)
        self.W_in = normal(c.n_layers, c.d_model, c.d_mlp, std=c.d_model**-0.5)
        self.W_out = normal(c.n_layers, c.d_mlp, c.d_model, std=(8 * max(1, c.n_layers) * c.d_model) ** -0.5)
        self.b_in, self.b_out = constant(c.n_layers, c.d_mlp), constant(c.n_layers, c.d_model)
        if not c.mlp:
            for of_neurons in (self.W_in, self.W_out, self.b_in, self.b_out):
                of_neurons.requires_grad_(False)
        self.frozen_scales: Scales | None = None

    def residual_stream(
        self,
        tokens: Int[Tensor, "batch pos"],
        *,
        patterns: list[Attention] | None = None,
        replace: Replacements | None = None,
        cache: StandardCache | None = None,
    ) -> Stream:
        """The residual stream after the last layer; fills ``cache`` if one is given."""
        self._check(tokens, replace or {})
        residual = F.embedding(tokens, self.W_E)
        for layer in range(self.config.n_layers):
            pattern = None if patterns is None else patterns[layer]
            read, attn_scale = self.normalised(residual, 2 * layer)
            attn_out = self.attn_out(read, layer, pattern, replace, cache) + self.b_O[layer]
            read, mlp_scale = self.normalised(residual + attn_out, 2 * layer + 1)
            inputs = read @ self.W_in[layer] + self.b_in[layer]
            mlp_out = F.gelu(inputs) @ self.W_out[layer] + self.b_out[layer]
            if cache is not None:
                cache.residual.append(residual)
                cache.scales += [attn_scale, mlp_scale]
                cache.inputs.append(inputs)
                cache.mlp_outputs.append(mlp_out)
            residual = residual + attn_out + mlp_out
        if cache is not None:
            cache.residual.append(residual)
            cache.scales.append(self.normalised(residual, 2 * self.config.n_layers)[1])
        return residual

    def normalised(self, stream: Stream, i: int) -> tuple[Stream, Float[Tensor, "batch pos 1"]]:
        """What the ``i``th reader gets of the stream, and what LayerNorm divided by."""
        if not self.config.layer_norm:
            return stream, torch.ones_like(stream[..., :1])
        centred = stream - stream.mean(-1, keepdim=True)
        scale = (centred.square().mean(-1, keepdim=True) + EPSILON).sqrt()
        if self.frozen_scales is not None:
            if scale.shape != self.frozen_scales[i].shape:
                raise ReaderError(
                    "Scales are frozen for the texts they were taken on: run the model on these, all at once."
                )
            scale = self.frozen_scales[i]
        return centred / scale * self.gain[i] + self.offset[i], scale

    def attention(self, residual: Stream, layer: int, keys_read: Stream | None = None) -> tuple[Attention, Attention]:
        """Scores and pattern of a layer's heads, of what they read."""
        n = residual.shape[1]
        keys_read = residual if keys_read is None else keys_read
        queries = einsum("bpd,hde->bhpe", residual + self.W_pos[:n], self.W_Q[layer]) + self.b_Q[layer, :, :n]
        keys = einsum("bpd,hde->bhpe", keys_read + self.W_pos[:n], self.W_K[layer]) + self.b_K[layer, :, :n]
        scores = einsum("bhqe,bhke->bhqk", queries / math.sqrt(self.config.d_head), keys)
        scores = scores.masked_fill(self.future[:n, :n], -torch.inf)
        return scores, scores.softmax(dim=-1)

    def values(self, read: Stream, layer: int) -> Float[Tensor, "batch head pos d_head"]:
        """What the heads of a layer move."""
        return super().values(read, layer) + self.b_V[layer]

    def unembed(self, residual: Stream) -> Float[Tensor, "batch pos d_vocab"]:
        """The logits of a residual stream."""
        return self.normalised(residual, 2 * self.config.n_layers)[0] @ self.W_U + self.b_U


# ---- the same model in another form -----------------------------------------------------------------------------


@torch.no_grad()
def fold(model: StandardTransformer) -> StandardTransformer:
    """The same model, with LayerNorm that only divides by a length: no gain, no offset, and no mean to subtract.

    What writes to the stream writes vectors of mean 0, and what reads from it reads nothing of a mean. A gain is
    multiplied into the matrix that reads next; an offset becomes a bias there, and so do positions, which are read
    without the gain (so that b_Q and b_K get a row for each place). Values lose their bias: attention sums to 1, so it
    is always written, as a part of b_O. Without LayerNorm only these two things are done.
    """
    centred = model.config.layer_norm
    gain, offset = (model.gain, model.offset) if centred else (torch.ones_like(model.gain), 0 * model.offset)
    for_heads, for_neurons, heads_offset, neurons_offset = gain[:-1:2], gain[1::2], offset[:-1:2], offset[1::2]
    placed = heads_offset[:, None] + model.W_pos
    b_O = model.b_O + einsum("lhe,lhed->ld", model.b_V.squeeze(2), model.W_O)
    b_O = b_O + einsum("ld,lhde,lhef->lf", heads_offset, model.W_V, model.W_O)
    writers = {name: getattr(model, name) for name in ("W_E", "W_O", "W_out", "b_out")} | {"b_O": b_O}
    readers = {name: for_heads[:, None, :, None] * getattr(model, name) for name in ("W_Q", "W_K", "W_V")}
    readers |= {"W_in": for_neurons[:, :, None] * model.W_in, "W_U": gain[-1][:, None] * model.W_U}
    return with_weights(
        model,
        **{name: _of_mean_0(W, -1) if centred else W for name, W in writers.items()},
        **{name: _of_mean_0(W, -2) if centred else W for name, W in readers.items()},
        gain=torch.ones_like(model.gain),
        offset=torch.zeros_like(model.offset),
        W_pos=torch.zeros_like(model.W_pos),
        b_Q=model.b_Q + einsum("lpd,lhde->lhpe", placed, model.W_Q),
        b_K=model.b_K + einsum("lpd,lhde->lhpe", placed, model.W_K),
        b_V=torch.zeros_like(model.b_V),
        b_in=model.b_in + einsum("ld,ldn->ln", neurons_offset, model.W_in),
        b_U=model.b_U + offset[-1] @ model.W_U,
    )


def _of_mean_0(weight: Float[Tensor, "..."], stream: int) -> Float[Tensor, "..."]:
    """``weight`` less its mean along the dimension of the stream."""
    return weight - weight.mean(stream, keepdim=True)


def with_frozen_scales(model: StandardTransformer, tokens: Int[Tensor, "batch pos"]) -> StandardTransformer:
    """The same model, whose LayerNorm divides by what it divides by on these tokens, whatever is in the stream."""
    frozen = copy.copy(model)
    frozen.frozen_scales = model.cache(tokens).scales
    return frozen


# ---- path expansion, scales held fixed -----------------------------------------------------------------------------

Terms = dict[tuple[str, tuple[Head, ...]], Stream]


def stream_terms(model: StandardTransformer, cache: StandardCache, reader: int) -> Terms:
    """What the ``reader``th read gets, taken apart: all that enters the stream before, moved along every path of heads.

    Readers are counted as ``cache.scales`` are, and each term is divided by the reader's scale. "token" enters first;
    "b_O 0" and "MLP 0", what a layer's neurons write, come later. The sum of all terms is the read, up to rounding.

    Raises:
        ReaderError: the model is not folded.
    """
    _check_folded(model)
    terms: Terms = {}
    for name, (enters, written) in _sources(model, cache).items():
        if enters <= reader:
            moved = {(): written}
            for layer in range((enters + 1) // 2, (reader + 1) // 2):
                for path in list(moved):
                    for head in model.layer_heads(layer):
                        moved[*path, head] = _moved(model, cache, head, moved[path])
            terms |= {(name, path): stream / cache.scales[reader] for path, stream in moved.items()}
    return terms


def _check_folded(model: StandardTransformer) -> None:
    if model.W_pos.any():
        raise ReaderError("Terms are read off a folded model: begin with model = fold(model).")


def _moved(model: StandardTransformer, cache: StandardCache, head: Head, stream: Stream) -> Stream:
    """What a head makes of a part of the stream: ``A ⊗ W_OV``, each source divided by its scale."""
    layer, h = head
    read = stream / cache.scales[2 * layer]
    return cache.patterns[layer][:, h] @ (read @ model.W_V[head]) @ model.W_O[head]


def _sources(model: StandardTransformer, cache: StandardCache) -> dict[str, tuple[int, Stream]]:
    """What enters the stream, but for heads, and the first read that gets it."""
    found = {"token": (0, cache.residual[0])}
    for layer, (b_O, of_neurons) in enumerate(zip(model.b_O, cache.mlp_outputs, strict=True)):
        found[f"b_O {layer}"] = 2 * layer + 1, b_O.expand_as(of_neurons)
        found[f"MLP {layer}"] = 2 * layer + 2, of_neurons
    return found


def term_losses(model: StandardTransformer, tokens: Int[Tensor, "batch pos"], live_scales: bool = False) -> list[float]:
    """``terms.term_importance`` of such a model: mean loss, in nats, with all terms up to each order.

    See ``losses_by_order``, of whose losses it is the mean.
    """
    return losses_by_order(model, tokens, live_scales).mean((1, 2)).tolist()


@torch.no_grad()
def losses_by_order(
    model: StandardTransformer, tokens: Int[Tensor, "batch pos"], live_scales: bool = False
) -> Float[Tensor, "order batch pos-1"]:
    """The loss of every token but the first, in nats, with all terms up to each order.

    A head or a layer of neurons is a step of a path; biases belong to order 0. In every run attention is that of the
    intact model, and so are the scales, unless they are to be those of what is in the stream of that run.

    Raises:
        ReaderError: the model is not folded.
    """
    _check_folded(model)
    losses = []
    for chunk in tokens.split(4):
        fixed, patterns = with_frozen_scales(model, chunk), model.cache(chunk).patterns
        run = model if live_scales else fixed
        streams = _streams_by_order(run, chunk, patterns)
        losses.append(torch.stack([next_token_losses(run.unembed(x)[:, :-1], chunk) for x in streams]))
    return torch.cat(losses, dim=1)


def _streams_by_order(
    model: StandardTransformer, tokens: Int[Tensor, "batch pos"], patterns: list[Attention]
) -> list[Stream]:
    steps, streams = model.config.n_layers * (1 + model.config.mlp), []
    saved = [torch.zeros(*tokens.shape, model.config.d_model).to(model.W_E)] * 2 * model.config.n_layers
    for _ in range(steps + 1):
        stream, fresh = model.W_E[tokens], []
        for layer, pattern in enumerate(patterns):
            read = model.normalised(stream, 2 * layer)[0]
            fresh.append(model.attn_out(read, layer, pattern, None, None))
            stream = stream + saved[2 * layer] + model.b_O[layer]
            read = model.normalised(stream, 2 * layer + 1)[0]
            fresh.append(F.gelu(read @ model.W_in[layer] + model.b_in[layer]) @ model.W_out[layer])
            stream = stream + saved[2 * layer + 1] + model.b_out[layer]
        saved = fresh
        streams.append(stream)
    return streams
