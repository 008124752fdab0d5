"""Claims of chapter 01_residual_stream."""

import torch
from torch import Tensor

from helpers.circuits import W_OV, W_QK, positivity
from helpers.claims.book import Book
from helpers.claims.ledger import EXACT, at_least, at_most, claim
from helpers.measures import all_patterns, attention_by_offset
from helpers.model import AttentionOnlyTransformer, Cache
from helpers.stream import (
    biased_logits,
    dimensions_for,
    fold_biases,
    in_basis,
    messages,
    principal_variances,
    random_biases,
    random_rotation,
    reads,
    with_other_keys_and_values,
    writes,
)

ERROR = "largest relative error"


def _tokens(book: Book) -> Tensor:
    """A short piece of text: identities hold for any."""
    return book.text[:2, :24]


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


@claim("S-take", section="Summary of Results", chapter="01", paper="stated", value=ERROR, bar=EXACT)
def _end_to_end_paths(book: Book) -> float:
    """Nothing but W_E, W_U, the positions and each head's W_QK and W_OV is needed: at given attention the two-layer
    model is the sum of 169 paths from token to logit, and its attention scores are sums over pairs of such paths, the
    position being one more.

    Exercises the paper's list of take-aways together: heads add up, paths run from end to end, QK and OV are
    separate, keys, queries and values do not appear, and the second layer composes with the first in all three ways.
    """
    model, tokens = book.double("two_layer"), _tokens(book)[:1, :16]
    streams, everything = [model.W_E[tokens[0]]], []
    for layer in range(2):
        parts = torch.stack([*streams, model.W_pos[:16]])
        patterns = [_pattern(model, (layer, h), parts) for h in range(model.config.n_heads)]
        moved = [A @ x @ W_OV(model, (layer, h)).dense() for h, A in enumerate(patterns) for x in streams]
        streams += moved
        everything.append(len(streams))
    assert everything == [13, 169]
    return book.error(torch.stack(streams).sum(0) @ model.W_U, model(tokens)[0])


def _pattern(model: AttentionOnlyTransformer, head: tuple[int, int], parts: Tensor) -> Tensor:
    """Attention from the sum, over all pairs of parts of the stream, of ``query part @ W_QK @ key part``."""
    n = parts.shape[1]
    by_pair = torch.einsum("apd,bqd->abpq", parts @ W_QK(model, head).dense(), parts)
    return by_pair.sum((0, 1)).masked_fill(model.future[:n, :n], -torch.inf).softmax(-1)


@claim("fig1-arch", section="High-Level Architecture", chapter="01",
       paper="x₀ = W_E t, x_{i+1} = x_i + Σ h(x_i), T = W_U x", value=ERROR, bar=EXACT)
def _architecture(book: Book) -> float:
    """The model does three things: embed the token, add to the stream what every head of every layer writes, unembed.
    """
    model, tokens = book.double("two_layer"), _tokens(book)
    x = model.W_E[tokens]
    for layer in range(model.config.n_layers):
        _, A = model.attention(x, layer)
        x = x + sum(A[:, h] @ (x @ model.W_V[layer, h]) @ model.W_O[layer, h] for h in range(model.config.n_heads))
    return book.error(x @ model.W_U, model(tokens))


@claim("fig2-residual", section="Virtual Weights and the Residual Stream as a Communication Channel", chapter="01",
       paper="drawn", value=ERROR, bar=EXACT)
def _sum_of_messages(book: Book) -> float:
    """The stream is a sum of messages, the embedding and the outputs of all heads, so the logits are the sum of what
    each message alone is worth."""
    model, tokens = book.double("two_layer"), _tokens(book)
    return book.error((messages(model, tokens) @ model.W_U).sum(0), model(tokens))


@claim("fig3-virtual-weights", section="Virtual Weights and the Residual Stream as a Communication Channel",
       chapter="01", paper="drawn", value=ERROR, bar=EXACT)
def _virtual_weights(book: Book) -> float:
    """What a head of layer 1 reads from the stream is, message by message, what the embedding or a head of layer 0
    wrote times a virtual weight, the product of the writer's output and the reader's input matrix."""
    model, tokens = book.double("two_layer"), _tokens(book)
    _, cache = model.run_with_cache(tokens)
    errors = []
    for W in (model.W_Q[1, 3], model.W_K[1, 3], model.W_V[1, 3]):
        mixed = cache.patterns[0] @ cache.values[0]
        terms = torch.einsum("bhpe,hef->bhpf", mixed, model.W_O[0] @ W)  # virtual weights: [head, d_head, d_head]
        errors.append(book.error((model.W_E @ W)[tokens] + terms.sum(1), cache.residual[1] @ W))
    return max(errors)


@claim("cl-no-privileged-basis", section="Virtual Weights and the Residual Stream as a Communication Channel",
       chapter="01", paper="stated", value=ERROR + " of the logits in a random basis", bar=EXACT)
def _no_privileged_basis(book: Book) -> float:
    """Rotate every matrix that writes to or reads from the stream, positions included, and the model says the same."""
    model, tokens = book.double("two_layer"), _tokens(book)
    return book.error(in_basis(model, random_rotation(model.config.d_model))(tokens), model(tokens))


@claim("cl-bias-fold", section="Model Simplifications", chapter="01", paper="stated", value=ERROR, bar=EXACT)
def _biases_fold(book: Book) -> float:
    """A model with biases is a model without them whose stream has a dimension that is always 1."""
    model, tokens = book.double("two_layer"), _tokens(book)
    biases = random_biases(model)
    return book.error(fold_biases(model, biases)(tokens), biased_logits(model, biases, tokens))


@claim("cl-pca-embed", section="Subspaces and Residual Stream Bandwidth", chapter="01",
       paper="“quickly decayed”, for large d_model",
       value="share of d_model that holds 90 % of the variance of W_E, or of W_U if that is more",
       bar=at_most(0.5, weaker=0.75),
       why_not="The paper says it of large d_model, and ours is narrow for its 4,096 tokens. W_E has also kept most of "
               "its random start, which fills all dimensions; what training added to it, or W_U alone, would count as "
               "weaker.")
def _embedding_spectrum(book: Book) -> float:
    """The embedding and the unembedding use few of the stream's dimensions: their spectra decay quickly."""
    model = book.two_layer
    return max(dimensions_for(principal_variances(W)) for W in (model.W_E, model.W_U.T)) / model.config.d_model


@claim("cl-bandwidth", section="Subspaces and Residual Stream Bandwidth", chapter="01",
       paper="far more dimensions are computed than d_model",
       value="directions that hold 90 % of what the embedding and each head write on 2,048 tokens, summed, per d_model",
       bar=at_least(1), also_untrained=True)
def _bandwidth(book: Book) -> float:
    """The stream is in demand: together its writers use more directions than it has dimensions. This is mostly
    arithmetic of the sizes, so an untrained model shows it too."""
    model, mixed = book.two_layer, []
    for chunk in book.text[:8].split(2):
        cache = Cache()
        model.residual_stream(chunk, cache=cache)
        before_W_O = torch.cat([A @ v for A, v in zip(cache.patterns, cache.values, strict=True)], dim=1)
        mixed.append(before_W_O.transpose(0, 1).flatten(1, 2))  # [head of either layer, token, d_head]
    heads = zip(torch.cat(mixed, dim=1), model.W_O.flatten(0, 1), strict=True)
    used = [dimensions_for(_variances_written(rows, W_O)) for rows, W_O in heads]
    used.append(dimensions_for(principal_variances(model.W_E[book.text[:8]].flatten(0, 1))))
    return sum(used) / model.config.d_model


def _variances_written(mixed: Tensor, W_O: Tensor) -> Tensor:
    """``principal_variances`` of ``mixed @ W_O``, but for zeros, from a small matrix with the same eigenvalues."""
    centred = (mixed - mixed.mean(0)).double()
    return torch.linalg.eigvals(centred.T @ centred / len(mixed) @ W_O.double() @ W_O.double().T).real.clamp(min=0)


@claim("cl-memory-management", section="Subspaces and Residual Stream Bandwidth", chapter="01",
       paper="some heads",
       value="best head of the one- and two-layer models: the smaller of −Σλ/Σ|λ| of W_OV and attention to itself",
       bar=at_least(0.5, weaker=0.25),
       why_not="A model of at most two layers without MLPs has little to tidy up: nothing that was written early lies "
               "around for long. And MLP neurons, of which the paper says the same, are not there.")
def _memory_management(book: Book) -> float:
    """Some heads delete: they attend mainly to the present token and write what stands there with its sign reversed."""
    best = []
    for model in (book.one_layer, book.two_layer):
        for layer, pattern in enumerate(all_patterns(model, book.text[:2])):
            to_itself = attention_by_offset(pattern, 0)[:, 0].tolist()
            best += [min(-positivity(W_OV(model, (layer, h)).eigenvalues()), a) for h, a in enumerate(to_itself)]
    return max(best)


@claim("eq-heads-additive", section="Attention Heads are Independent and Additive", chapter="01",
       paper="W_O [r¹; r²; …] = Σ W_Oⁱ rⁱ", value=ERROR, bar=EXACT)
def _heads_add(book: Book) -> float:
    """Concatenating the results of the heads and multiplying by one large output matrix adds up what each head writes
    with its own part of it."""
    model, tokens = book.double("two_layer"), _tokens(book)
    _, cache = model.run_with_cache(tokens)
    mixed = cache.patterns[1] @ cache.values[1]
    concatenated = mixed.transpose(1, 2).flatten(2)  # [batch, pos, n_heads * d_head]
    return book.error(concatenated @ model.W_O[1].flatten(0, 1), cache.head_outputs[1].sum(1))


@claim("fig5-info-movement", section="Attention Heads as Information Movement", chapter="01", paper="drawn",
       value=ERROR, bar=EXACT)
def _information_movement(book: Book) -> float:
    """With attention held, a change of the stream at source j changes what a head writes at destination i by
    A_ij times the change through W_OV: the pattern says where, W_OV says what."""
    model, tokens = book.double("two_layer"), _tokens(book)
    _, cache = model.run_with_cache(tokens)
    layer, head, source = 1, 3, 5
    nudge, x, A = _normal(model.config.d_model), cache.residual[layer], cache.patterns[layer][:, head]
    nudged = x.index_add(1, torch.tensor([source]), nudge.expand(len(x), 1, -1))
    change = A @ nudged @ model.W_V[layer, head] @ model.W_O[layer, head] - cache.head_outputs[layer][:, head]
    written = nudge @ model.W_V[layer, head] @ model.W_O[layer, head]
    return book.error(change, A[:, :, source, None] * written)


@claim("eq-head-tensor", section="Attention Heads as Information Movement", chapter="01",
       paper="h(x) = (A ⊗ W_O W_V) x", value=ERROR, bar=EXACT)
def _head_is_a_tensor_product(book: Book) -> float:
    """A head is the tensor product of its pattern and its W_OV: one large matrix that acts on all positions and all
    dimensions at once."""
    model, tokens = book.double("two_layer"), _tokens(book)[:1, :4]
    _, cache = model.run_with_cache(tokens)
    W = W_OV(model, (1, 3)).dense().T.contiguous()  # the paper's, for columns
    h = torch.kron(cache.patterns[1][0, 3], W) @ cache.residual[1][0].flatten()
    return book.error(h.view(4, -1), cache.head_outputs[1][0, 3])


@claim("cl-lowrank-readwrite", section="Observations about Attention Heads", chapter="01", paper="stated",
       value=ERROR, bar=EXACT)
def _low_rank(book: Book) -> float:
    """What a head moves, its values read from d_head directions and its output lies in d_head directions; inside, its
    keys, queries and values may be written in any other basis without any effect."""
    model, tokens = book.double("two_layer"), _tokens(book)
    d_head = model.config.d_head
    logits, cache = model.run_with_cache(tokens)
    other = with_other_keys_and_values(model, _normal(d_head, d_head), _normal(d_head, d_head, seed=1))
    head, out = (1, 3), cache.head_outputs[1][:, 3]
    R, S = reads(model, head), writes(model, head)
    through = cache.patterns[1][:, 3] @ (cache.residual[1] @ R @ R.T) @ W_OV(model, head).dense() @ S @ S.T
    return max(book.error(other(tokens), logits), book.error(through, out))


@claim("cl-half-linear", section="Observations about Attention Heads", chapter="01", paper="stated", value=ERROR,
       bar=EXACT)
def _half_linear(book: Book) -> float:
    """With its attention held fixed, a whole model is linear in the stream."""
    model, tokens = book.double("two_layer"), _tokens(book)
    _, cache = model.run_with_cache(tokens)
    one, other = model.W_E[tokens], _normal(*tokens.shape, model.config.d_model)

    def frozen(x: Tensor) -> Tensor:
        for layer, A in enumerate(cache.patterns):
            x = x + sum(A[:, h] @ x @ model.W_V[layer, h] @ model.W_O[layer, h] for h in range(A.shape[1]))
        return x @ model.W_U

    return book.error(frozen(0.3 * one - 2 * other), 0.3 * model(tokens) - 2 * frozen(other))


@claim("eq-virtual-head", section="Observations about Attention Heads", chapter="01",
       paper="(A^h₂ ⊗ W^h₂)(A^h₁ ⊗ W^h₁) = (A^h₂ A^h₁) ⊗ (W^h₂ W^h₁)", value=ERROR, bar=EXACT)
def _virtual_head(book: Book) -> float:
    """Two heads in a row act as one: the product of their patterns is a pattern again, causal and with rows that sum
    to 1, and the product of their W_OV is its W_OV."""
    model, tokens = book.double("two_layer"), _tokens(book)
    _, cache = model.run_with_cache(tokens)
    x, (first, second) = cache.residual[0], (cache.patterns[0][:, 2], cache.patterns[1][:, 3])
    in_turn = second @ (first @ x @ W_OV(model, (0, 2)).dense()) @ W_OV(model, (1, 3)).dense()
    pattern, virtual = second @ first, W_OV(model, (0, 2)) @ W_OV(model, (1, 3))
    not_causal = (pattern * model.future[: x.shape[1], : x.shape[1]]).abs().max().item()
    return max(book.error(pattern @ x @ virtual.dense(), in_turn),
               book.error(pattern.sum(-1), torch.ones_like(pattern[..., 0])), not_causal)
