"""Claims of chapter 11_layernorm_biases_mlps, measured on the laptop's model with all three.

Circuits are those of the folded model. Scores of heads are taken on random tokens that come twice.
"""

from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.circuits import copying_score, qk_eigenvalue_score
from helpers.claims.ledger import EXACT, Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.heads import all_patterns, induction_targets, loss_per_token, previous_token_scores, random_repeats
from helpers.identities import folded, linear_when_scales_are_frozen, sum_of_neuron_inputs, sum_of_standard_paths
from helpers.model import Head
from helpers.neurons import input_output_cosines, inputs_by_source
from helpers.standard import StandardTransformer, fold, losses_by_order
from helpers.statistics import Estimate, mean_of, resampled
from helpers.stream import with_weights

LENGTH = 20  # of what comes twice


def standard(models: Models) -> StandardTransformer:
    """The model with all three, folded."""
    return fold(models.load("laptop_standard"))


def repeats(models: Models, n_copies: int = 2) -> Int[Tensor, "sample pos"]:
    """Random tokens; one copy is as long as two together."""
    return random_repeats(512, 2 * LENGTH // n_copies, n_copies, 64, seed=1000 + models.text_seed)


def exact(models: Models) -> tuple[StandardTransformer, Int[Tensor, "text pos"]]:
    """What ``Models.exact`` is for the larger models."""
    return models.load("laptop_standard").double(), models.laptop_contexts[:2, :24]


# ---- equations ----------------------------------------------------------------------------------------------------


@claim("standard-fold", EXACT)
def _layer_norm_folds_into_the_weights(models: Models) -> float:
    """LayerNorm is linear but for one division: subtracting the mean, its gain and its offset fold into the weights
    around it, and the bias of the values into that of the output.
    """
    return folded(*exact(models))


@claim("standard-paths", EXACT)
def _with_scales_held_fixed_it_is_a_sum_of_paths(models: Models) -> float:
    """With attention and scales held fixed, the logits are a sum over paths again, which begin at tokens, biases and
    layers of neurons; without neurons the model is linear in its embedding.
    """
    model, tokens = exact(models)
    without = with_weights(model, W_out=0 * model.W_out)
    return max(sum_of_standard_paths(model, tokens), linear_when_scales_are_frozen(without, tokens))


@claim("neuron-expansion", EXACT)
def _inputs_of_neurons_expand_over_paths(models: Models) -> float:
    """What switches a neuron on is a sum over paths: a table over tokens for the direct path, one for each head, one
    for each pair of heads; and a term for what earlier neurons and biases wrote.
    """
    return sum_of_neuron_inputs(*exact(models))


# ---- heads --------------------------------------------------------------------------------------------------------


@claim("standard-prefix", at_least(0.5), needs="trained", control="its attention to the earlier copy itself")
def _heads_still_match_prefixes(models: Models) -> Evidence:
    """With LayerNorm, biases and MLPs a two-layer model still forms a head with most of its attention on what followed
    before.
    """
    tokens = repeats(models)
    pattern = all_patterns(models.load("laptop_standard"), tokens)[1]
    found, copies = (_attention_on(pattern, places) for places in (induction_targets(tokens), _earlier_copies(tokens)))
    head = found.mean(0).argmax()
    return Evidence(mean_of(found[:, head]), mean_of(copies[:, head]))


@claim("standard-copying", at_least(0.5), needs="trained", control="the other heads of layer 1, on average")
def _the_induction_head_still_copies(models: Models) -> Evidence:
    """The folded OV circuit of its best induction head copies, as in a model of attention alone."""
    model = standard(models)
    best = _induction_head(model, repeats(models))
    others = [copying_score(model, head) for head in model.layer_heads(1) if head != best]
    return Evidence(_mean([copying_score(model, best)]), _mean(others))


@claim("mlp-kcomp", at_least(0.5), needs="trained", control="all other pairs of heads, on average")
def _induction_is_still_k_composed(models: Models) -> Evidence:
    """Models with MLPs and LayerNorm form induction heads by K-composition, too: through the previous-token head, the
    folded QK circuit of the best induction head matches tokens with themselves.
    """
    model = standard(models)
    late = _induction_head(model, repeats(models))
    early = 0, int(previous_token_scores(model, models.laptop_contexts)[0].argmax())
    pairs = {(one, two) for one in model.layer_heads(0) for two in model.layer_heads(1)} - {(early, late)}
    others = [qk_eigenvalue_score(model, two, one) for one, two in sorted(pairs)]
    return Evidence(_mean([qk_eigenvalue_score(model, late, early)]), _mean(others))


@claim("standard-repeats", at_least(1.0), needs="trained", control="new tokens in place of the second copy")
def _the_second_copy_is_still_easier(models: Models) -> Evidence:
    """With LayerNorm, biases and MLPs, a two-layer model still predicts random tokens better where they come again."""
    model = models.load("laptop_standard")
    falls = (_falls(model, repeats(models, n_copies)) for n_copies in (2, 1))
    return Evidence(*map(mean_of, falls))


def _attention_on(
    pattern: Float[Tensor, "sample head dest src"], places: Bool[Tensor, "sample dest src"]
) -> Float[Tensor, "sample head"]:
    """Mean attention to ``places`` over destinations in the second copy, all of which have one."""
    return (pattern * places[:, None]).sum(-1)[..., -LENGTH:].mean(-1)


def _earlier_copies(tokens: Int[Tensor, "sample pos"]) -> Bool[Tensor, "sample dest src"]:
    return (tokens[:, :, None] == tokens[:, None, :]).tril(-1)


def _induction_head(model: StandardTransformer, tokens: Int[Tensor, "sample pos"]) -> Head:
    """The head of layer 1 with the highest prefix matching."""
    found = _attention_on(all_patterns(model, tokens)[1], induction_targets(tokens))
    return 1, int(found.mean(0).argmax())


def _mean(values: list[float]) -> Estimate:
    mean = sum(values) / len(values)
    return Estimate(mean, mean, mean)


def _falls(model: StandardTransformer, tokens: Int[Tensor, "sample pos"]) -> Float[Tensor, " sample"]:
    """How much lower the loss is in the second half, in nats, but for its first token."""
    losses = loss_per_token(model, tokens)
    return losses[:, :LENGTH].mean(1) - losses[:, LENGTH + 1 :].mean(1)


# ---- scales -------------------------------------------------------------------------------------------------------


@claim("frozen-scale-matters", at_least(0.05), needs="trained", control="with the terms of all orders")
def _a_frozen_scale_is_a_choice(models: Models) -> Evidence:
    """What terms are worth depends on whether LayerNorm divides by the length of the whole stream or by that of what is
    left in it.
    """
    model, tokens = standard(models), models.laptop_contexts[:16]
    live, frozen = (losses_by_order(model, tokens, live_scales=live).mean(-1).double() for live in (True, False))
    apart = (live - frozen).T  # [context, order]
    return Evidence(
        resampled(lambda some: some.mean(0)[:-1].abs().max(), apart), resampled(lambda some: some.mean(0)[-1], apart)
    )


# ---- neurons ------------------------------------------------------------------------------------------------------

N_ROTATIONS = 20


@claim("neurons-erase", at_least(0.01), needs="trained", control="their outputs rotated at random, once more", digits=3)
def _some_neurons_write_against_what_they_read(models: Models) -> Evidence:
    """Some neurons of layer 1 write against the direction that switches them on: ten times as many as by chance lie
    where one in a thousand would.
    """
    model = standard(models)
    draws = [input_output_cosines(model, 1, seed) for seed in range(N_ROTATIONS + 1)]
    line = torch.cat(draws[:-1]).quantile(0.001)
    both = input_output_cosines(model, 1), draws[-1]
    return Evidence(*(_mean([(cosines < line).double().mean().item()]) for cosines in both))


@claim("neurons-clear-memory", at_most(-0.1), needs="trained", control="the neurons of other texts")
def _neurons_clear_memory(models: Models) -> Evidence:
    """Neurons manage memory: some layer of them takes away a tenth or more of what an earlier component wrote to the
    stream.
    """
    products, shuffled, squares = _overlaps(standard(models), models.laptop_contexts[:32])

    def smallest(of: Float[Tensor, "context pair"], size: Float[Tensor, "context pair"]) -> Tensor:
        return (of.sum(0) / size.sum(0)).min()

    return Evidence(resampled(smallest, products, squares), resampled(smallest, shuffled, squares))


def _overlaps(
    model: StandardTransformer, tokens: Int[Tensor, "context pos"]
) -> tuple[Float[Tensor, "context pair"], Float[Tensor, "context pair"], Float[Tensor, "context pair"]]:
    """For each layer of neurons and each component before it: ``Σ⟨out, written⟩`` over a text, the same with what the
    neurons write on the next text, and ``Σ‖written‖²``. All less their means over places, ``<START>`` left out.
    """
    cache, written, found = model.cache(tokens), [], []
    written = [cache.residual[0]]
    for layer in range(model.config.n_layers):
        written += cache.head_outputs[layer].unbind(1)
        before = [_centred(one) for one in written]
        out = _centred(cache.mlp_outputs[layer])
        for one in before:
            found.append(torch.stack([(other * one).sum((1, 2)) for other in (out, out.roll(1, 0), one)]))
        written.append(cache.mlp_outputs[layer])
    return torch.stack(found, dim=-1).double().unbind(0)


def _centred(stream: Float[Tensor, "context pos d_model"]) -> Float[Tensor, "context pos-1 d_model"]:
    return stream[:, 1:] - stream[:, 1:].mean((0, 1))


@claim("neurons-first-layer-input", at_least(0.5), needs="trained", control="from tokens, past all neurons")
def _later_neurons_read_earlier_ones(models: Models) -> Evidence:
    """Most of what switches the neurons of layer 1 on begins at the neurons of layer 0, where the expansion over tokens
    ends. (Thought of after a look at two of these models.)
    """
    model, moments = standard(models), []
    for chunk in models.laptop_contexts[:32].split(4):
        inputs = inputs_by_source(model, model.cache(chunk), 1)
        whole = sum(inputs.values())
        for_each = [whole, whole.square()]
        for name in ("MLP 0", "token"):
            part = sum(part for (source, _), part in inputs.items() if source == name)
            for_each += [part, part * whole]
        moments.append(torch.stack(for_each, dim=1)[:, :, 1:].mean(2).double())  # [context, moment, neuron]
    found = torch.cat(moments)
    return Evidence(*(resampled(partial(_share_of_variance, i), found, n=100) for i in (2, 4)))


def _share_of_variance(i: int, moments: Float[Tensor, "context moment neuron"]) -> Tensor:
    """Of the inputs, mean over neurons; the part whose moments begin at ``i``."""
    m = moments.mean(0)
    return ((m[i + 1] - m[i] * m[0]) / (m[1] - m[0].square())).mean()
