"""The equations of the paper, one function each: by how much do the two sides differ, on a given model and text?

Each works out both sides, independently of one another, and returns the largest difference relative to the largest
entry: rounding, about 1e-15 in float64 and 1e-6 in float32. They hold for weights and sizes of any kind, with ordinary
keys, not smeared ones; so the tests ask random models and the ledger of claims the trained ones.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from functools import wraps

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import W_OV, logits_by_tables, ov_circuit, path_logits, paths, score_expansion
from helpers.heads import loss_per_token, next_token_losses
from helpers.model import AttentionOnlyTransformer, Cache, Head
from helpers.neurons import neurons_on_tokens, neurons_through_head
from helpers.standard import StandardTransformer, fold, stream_terms, term_losses, with_frozen_scales
from helpers.stream import (
    biased_logits,
    component_outputs,
    fold_biases,
    in_basis,
    random_biases,
    random_rotation,
    read_basis,
    with_other_keys_and_values,
    with_weights,
    write_basis,
)
from helpers.terms import layer_importance, term_importance

Tokens = Int[Tensor, "batch pos"]
BothSides = Iterator[tuple[Tensor, Tensor]]


def identity(sides: Callable[..., BothSides]) -> Callable[..., float]:
    """Make a function that yields pairs of equal tensors into one that returns their largest relative error.

    Infinity where something is not a number.
    """

    @wraps(sides)
    def error(model: AttentionOnlyTransformer, tokens: Tokens) -> float:
        pairs = list(sides(model, tokens))
        assert all(one.shape == other.shape for one, other in pairs)
        errors = [((one - other).abs().max() / other.abs().max()).item() for one, other in pairs]
        return max(math.inf if math.isnan(error) else error for error in errors)

    return error


# ---- the stream and its other forms ("Transformer Overview") ----------------------------------------------------


@identity
def forward_by_hand(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """``x_0 = W_E t``, ``x_{i+1} = x_i + Σ h(x_i)``, ``T = W_U x``: the whole model, written out head by head.

    Without layers that is ``T = W_U W_E``, a matrix over the vocabulary.
    """
    x, n = model.W_E[tokens], tokens.shape[1]

    def output(head: Head) -> Tensor:
        read = x + model.W_pos[:n]
        scores = (read @ model.W_Q[head]) @ (read @ model.W_K[head]).mT / math.sqrt(model.config.d_head)
        return scores.masked_fill(model.future[:n, :n], -torch.inf).softmax(-1) @ x @ model.W_V[head] @ model.W_O[head]

    for layer in range(model.config.n_layers):
        x = x + sum(map(output, model.layer_heads(layer)))
    yield x @ model.W_U, model(tokens)


@identity
def sum_of_outputs(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """The logits are a sum over components; and ``W_O [r¹; r²; …] = Σ W_Oⁱ rⁱ``: concatenated heads add up as well."""
    yield (component_outputs(model.cache(tokens)) @ model.W_U).sum(0), model(tokens)
    cache = model.cache(tokens)
    for layer, (pattern, values) in enumerate(zip(cache.patterns, cache.values, strict=True)):
        concatenated = (pattern @ values).transpose(1, 2).flatten(2)  # [batch, pos, n_heads * d_head]
        yield concatenated @ model.W_O[layer].flatten(0, 1), cache.head_outputs[layer].sum(1)


@identity
def virtual_weights(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """Queries, keys and values are sums over what wrote to the stream before: the embedding, and each earlier head.

    Each is read through virtual weights, the product of the writer's output and the reader's input matrix.
    """
    cache = model.cache(tokens)
    results = {(layer, h): cache.patterns[layer][:, h] @ cache.values[layer][:, h] for layer, h in model.heads}
    for reader, W in itertools.product(model.heads, (model.W_Q, model.W_K, model.W_V)):
        earlier = (results[head] @ (model.W_O[head] @ W[reader]) for head in model.heads if head[0] < reader[0])
        yield (model.W_E @ W[reader])[tokens] + sum(earlier), cache.residual[reader[0]] @ W[reader]


@identity
def change_of_basis(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """No basis is privileged: the model says the same with its stream rotated, and with its axes stretched as well.

    Nor is one of the keys and values inside the heads.
    """
    rotation, inside = random_rotation(model.config.d_model), random_rotation(model.config.d_head)
    stretched, keys, values = (torch.linspace(2, 4, len(R)).double().diag() @ R for R in (rotation, inside, inside.T))
    for basis in (rotation, stretched):
        yield in_basis(model, basis)(tokens), model(tokens)
    yield with_other_keys_and_values(model, keys, values)(tokens), model(tokens)


@identity
def low_rank_heads(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """A head reads from the d_head directions of one basis, and what it writes lies in those of another."""
    cache = model.cache(tokens)
    for layer, h in model.heads:
        reads, writes = (basis(model, (layer, h)).to(model.W_E) for basis in (read_basis, write_basis))
        moved = cache.patterns[layer][:, h] @ (cache.residual[layer] @ reads @ reads.T)
        yield moved @ W_OV(model, (layer, h)).dense() @ writes @ writes.T, cache.head_outputs[layer][:, h]


@identity
def biases_folded(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """A model with biases is one without them whose stream has a dimension that is always 1."""
    biases = random_biases(model)
    yield fold_biases(model, biases)(tokens), biased_logits(model, biases, tokens)


# ---- heads as tensors ("Attention Heads as Information Movement") -----------------------------------------------


@identity
def tensor_products(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """``h(x) = (A ⊗ W_OV) x``, and ``T = (Id ⊗ W_U) · Π (Id + Σ A ⊗ W_OV) · (Id ⊗ W_E)``, a factor for each layer.

    All Kronecker products are multiplied out, for the first four places of the first text.
    """
    tokens = tokens[:1, :4]
    cache, x = model.cache(tokens), model.W_E[tokens].flatten()
    for layer, pattern in enumerate(cache.patterns):
        factors = [(A.contiguous(), W_OV(model, (layer, h)).dense().T.contiguous()) for h, A in enumerate(pattern[0])]
        outputs = torch.stack([torch.kron(A, W) @ x for A, W in factors])
        yield outputs.view(cache.head_outputs[layer][0].shape), cache.head_outputs[layer][0]
        x = x + outputs.sum(0)
    yield x.view(cache.residual[-1].shape) @ model.W_U, model(tokens)


@identity
def virtual_heads(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """``(A² ⊗ W²)(A¹ ⊗ W¹) = (A² A¹) ⊗ (W² W¹)``: two heads in a row are one, and ``A² A¹`` is attention again."""
    tokens, patterns, bare = tokens[:1], model.cache(tokens[:1]).patterns, _bare(model)
    for early, late in (path for path in paths(model) if len(path) == 2):
        pattern = patterns[late[0]][0, late[1]] @ patterns[early[0]][0, early[1]]
        moved = model.W_E[tokens[0]] @ (W_OV(model, early) @ W_OV(model, late))
        yield pattern @ moved.dense(), path_logits(bare, tokens, patterns, (early, late))[0]
        yield pattern.tril(), pattern
        yield pattern.sum(-1), torch.ones_like(pattern[0])


def _bare(model: AttentionOnlyTransformer) -> AttentionOnlyTransformer:
    """The model without its unembedding: what it says is its residual stream."""
    return with_weights(model, W_U=torch.eye(model.config.d_model).to(model.W_U))


def _above_mean(logits: Float[Tensor, "... d_vocab"]) -> Float[Tensor, "... d_vocab"]:
    """All that a model says by its logits: a constant more or less at any place changes no probability."""
    return logits - logits.mean(-1, keepdim=True)


@identity
def information_movement(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """The pattern says from where to where, W_OV what: a token at j moves the logits at i by ``A_ij`` times OV.

    The first token stands alone in the stream, the others are zero there, and acts through one head at a time. The
    second factor is its row of the OV circuit, whatever the destination is: equal attention moves alike.
    """
    patterns, source = model.cache(tokens).patterns, tokens[0, 0]
    here, is_source = tokens == source, torch.arange(model.config.d_vocab) == source
    alone = with_weights(model, W_E=model.W_E * is_source[:, None])
    for head in model.heads:
        moved = alone(tokens, patterns=patterns, replace={other: 0.0 for other in model.heads if other != head})
        attention = patterns[head[0]][:, head[1]] @ here.to(model.W_E)[..., None]
        yield _above_mean(moved)[~here], (attention * ov_circuit(model, head).rows(source))[~here]


@identity
def linear_when_frozen(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """With the attention of a text frozen, the logits of a mixture of two streams are the mixture of their logits.

    The second stream is that of other tokens at the same places.
    """
    frozen, one, other = model.cache(tokens).patterns, model.W_E, model.W_E.flip(0)
    of_one, of_other, of_both = (
        with_weights(model, W_E=embedding)(tokens, patterns=frozen) for embedding in (one, other, 0.3 * one - 2 * other)
    )
    yield of_one, model(tokens)
    yield of_both, 0.3 * of_one - 2 * of_other


# ---- expansions ("The Path Expansion Trick", "Splitting Attention Head Terms into Circuits") --------------------


@identity
def sum_of_paths(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """``T = Id ⊗ W_U W_E + Σ A ⊗ (W_U W_OV W_E) + …``: the logits are a sum over all paths through the model.

    Of L layers of H heads, ``C(L, n) Hⁿ`` paths go through n heads: there are many virtual heads.
    """
    patterns, lengths, c = model.cache(tokens).patterns, [len(path) for path in paths(model)], model.config
    yield sum(path_logits(model, tokens, patterns, path) for path in paths(model)), model(tokens)
    counted = [(lengths.count(n), math.comb(c.n_layers, n) * c.n_heads**n) for n in range(c.n_layers + 2)]
    yield tuple(torch.tensor(counted).double().T)


@identity
def sum_of_scores(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """A score is a sum over pairs of what its query and its key are made of: token, position, and earlier heads."""
    cache, seen = model.cache(tokens[:1]), ~model.future[: tokens.shape[1], : tokens.shape[1]]
    for head in model.heads:
        yield score_expansion(model, cache, head).sum((0, 1))[seen], cache.scores[head[0]][0, head[1]][seen]


@identity
def ensemble_of_tables(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """One layer is a bigram table and skip-trigram tables: what it says of the first text can be looked up in them."""
    looked_up, logits = logits_by_tables(model, tokens[0]), model(tokens[:1])[0]
    yield looked_up, _above_mean(logits)
    yield looked_up.log_softmax(-1), logits.log_softmax(-1)


# ---- orders of terms ("Term Importance Analysis") ---------------------------------------------------------------


@identity
def orders_of_terms(model: AttentionOnlyTransformer, tokens: Tokens) -> BothSides:
    """The paper's algorithm keeps the paths through n heads or fewer in its nth run, and the model in the last.

    The single heads of no layer are the terms of order 0; those of all layers, with them, of orders 0 and 1.
    """
    patterns, bare, L = model.cache(tokens).patterns, _bare(model), model.config.n_layers
    moved = {path: path_logits(bare, tokens, patterns, path)[:, :-1] for path in paths(model)}
    up_to = [sum(moved[path] for path in moved if len(path) <= order) @ model.W_U for order in range(L + 1)]
    losses = [next_token_losses(logits, tokens).mean() for logits in up_to]
    orders, of_layers = term_importance(model, tokens), layer_importance(model, tokens)
    found = [*orders, orders[-1], of_layers[()], of_layers[tuple(range(L))]]
    expected = [*losses, loss_per_token(model, tokens).mean(), losses[0], losses[min(1, L)]]
    yield torch.tensor(found, dtype=torch.double), torch.stack(expected).double()


# ---- LayerNorm, biases and neurons (the paper's appendix), for a StandardTransformer --------------------------------


@identity
def folded(model: StandardTransformer, tokens: Tokens) -> BothSides:
    """LayerNorm but for its division, and the biases of values, are parts of the weights around them.

    The folded model says the same and divides by the same; what it writes to the stream has the mean 0.
    """
    (logits, cache), (same, of_folded) = model.run_with_cache(tokens), fold(model).run_with_cache(tokens)
    yield same, logits
    for scale, other in zip(of_folded.scales, cache.scales, strict=True):
        yield scale, other
    if model.config.layer_norm:
        for stream, other in zip(of_folded.residual, cache.residual, strict=True):
            yield stream, other - other.mean(-1, keepdim=True)


@identity
def linear_when_scales_are_frozen(model: StandardTransformer, tokens: Tokens) -> BothSides:
    """With attention and scales frozen, a mixture of streams has the mixture of their logits, if there are no neurons.

    The biases say what they say without any tokens; so mixed is what the logits have beyond that.
    """
    patterns, frozen = model.cache(tokens).patterns, with_frozen_scales(fold(model), tokens)
    one, other = frozen.W_E, frozen.W_E.flip(0)
    of_one, of_other, of_both, of_none = (
        with_weights(frozen, W_E=embedding)(tokens, patterns=patterns)
        for embedding in (one, other, 0.3 * one - 2 * other, 0 * one)
    )
    yield of_one, model(tokens)
    yield of_both - of_none, 0.3 * (of_one - of_none) - 2 * (of_other - of_none)


@identity
def sum_of_standard_paths(model: StandardTransformer, tokens: Tokens) -> BothSides:
    """The logits are a sum over paths that begin at a token, at a bias, or at a layer of neurons, scales held fixed."""
    model_folded, L = fold(model), model.config.n_layers
    terms = stream_terms(model_folded, model_folded.cache(tokens), 2 * L)
    yield sum(terms.values()) @ model_folded.W_U + model_folded.b_U, model(tokens)
    yield torch.tensor([float(len(terms))]), torch.tensor([float(_number_of_terms(L, model.config.n_heads))])


def _number_of_terms(n_layers: int, n_heads: int) -> int:
    """A path of ``n_heads + 1`` choices in each layer: from the token, and from two things in each layer on its way."""
    return (n_heads + 1) ** n_layers + 2 * sum((n_heads + 1) ** later for later in range(n_layers))


@identity
def sum_of_neuron_inputs(model: StandardTransformer, tokens: Tokens) -> BothSides:
    """``W_E W_in + Σ A ⊗ (W_E W_OV W_in) + …``: what switches neurons on is a sum over paths, as the logits are.

    The tokens' part is looked up in tables: one for the direct path, one for each head, products for chains of two
    (no model with more than two layers is asked). Biases and earlier neurons are sources of their own.
    """
    model_folded, frozen = fold(model), model.cache(tokens)
    cache = model_folded.cache(tokens)
    for layer in range(model.config.n_layers):
        terms = stream_terms(model_folded, cache, 2 * layer + 1)
        others = sum(term for (source, _), term in terms.items() if source != "token")
        looked_up = _inputs_from_tables(model_folded, cache, tokens, layer) / frozen.scales[2 * layer + 1]
        yield looked_up + others @ model_folded.W_in[layer] + model_folded.b_in[layer], frozen.inputs[layer]


def _inputs_from_tables(model: StandardTransformer, cache: Cache, tokens: Tokens, layer: int) -> Tensor:
    moving = [A / scale.unsqueeze(1).mT for A, scale in zip(cache.patterns, cache.scales[:-1:2], strict=True)]
    inputs = neurons_on_tokens(model, layer).rows(tokens)
    for head in model.heads[: (layer + 1) * model.config.n_heads]:
        inputs = inputs + moving[head[0]][:, head[1]] @ neurons_through_head(model, layer, head).rows(tokens)
    if layer == 1:
        for early, late in itertools.product(model.layer_heads(0), model.layer_heads(1)):
            table = model.W_E @ (W_OV(model, early) @ W_OV(model, late)) @ model.W_in[layer]
            inputs = inputs + moving[1][:, late[1]] @ moving[0][:, early[1]] @ table.rows(tokens)
    return inputs


@identity
def orders_of_standard_terms(model: StandardTransformer, tokens: Tokens) -> BothSides:
    """The paper's algorithm with scales held fixed keeps the paths through n heads or fewer in its nth run.

    Biases belong to order 0. Asked of a model without neurons; with them the last run is the model all the same.
    """
    model_folded, L = fold(model), model.config.n_layers
    found = torch.tensor(term_losses(model_folded, tokens), dtype=torch.double)
    yield found[-1:], loss_per_token(model, tokens).mean()[None].double()
    if not model.config.mlp:
        terms = stream_terms(model_folded, model_folded.cache(tokens), 2 * L)
        up_to = [sum(term for (_, path), term in terms.items() if len(path) <= n) for n in range(L + 1)]
        logits = [(read @ model_folded.W_U + model_folded.b_U)[:, :-1] for read in up_to]
        yield found, torch.stack([next_token_losses(of_order, tokens).mean() for of_order in logits]).double()
