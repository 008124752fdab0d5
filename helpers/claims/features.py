"""How many features of a dictionary a rule names, context by context, so that contexts can be drawn again."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.dictionary import Dictionary, active_features
from helpers.feature_rules import LEAST_ON, LEAST_PRECISION, Family, On, best_rules, features_on
from helpers.model import AttentionOnlyTransformer

Tokens = Int[Tensor, "context pos"]


@dataclass(frozen=True)
class Named:
    """The best rule of every feature on text that it was not found on."""

    on: Float[Tensor, "context feature"]  # places where the feature is on
    right: Float[Tensor, "context feature"]  # those of them where the rule holds
    beyond: Bool[Tensor, " feature"]  # whether the rule is of more than the present token


def how_many(on: Float[Tensor, "context feature"], right: Float[Tensor, "context feature"]) -> Float[Tensor, ""]:
    """How many features have a rule that is right often enough, at places enough."""
    on, right = on.sum(0), right.sum(0)
    return ((on >= LEAST_ON) & (right >= LEAST_PRECISION * on)).sum().double()


Read = tuple[list[Family], Tokens]  # the rules of a text, and the text


def named(model: AttentionOnlyTransformer, dictionary: Dictionary, sought_on: Read, held_out: Read) -> Named:
    """Find the best rule of every feature on one text, and count where it is right on the other.

    A feature is on where it is active at all.
    """
    (families, tokens), (others, unseen), n_features = sought_on, held_out, dictionary.n_features
    rules, _ = best_rules(families, _on(model, dictionary, tokens), n_features)
    places, features = on = _on(model, dictionary, unseen)
    of_context = places // unseen.shape[1] * n_features + features
    counts = (
        torch.bincount(some, minlength=len(unseen) * n_features).view(len(unseen), -1).float()
        for some in (of_context, of_context[holds(others, on, rules)])
    )
    is_present = torch.tensor([*(family.is_present for family in families), True])  # without a rule it is not beyond
    return Named(*counts, ~is_present[rules[:, 0]])


def _on(model: AttentionOnlyTransformer, dictionary: Dictionary, tokens: Tokens) -> On:
    active = active_features(model, dictionary, tokens)
    return features_on(*active, torch.zeros(dictionary.n_features))


def holds(families: list[Family], on: On, rules: Int[Tensor, "feature 2"]) -> Bool[Tensor, " _"]:
    """Whether the rule of each feature, by the numbers of its family and label, holds where the feature is on."""
    places, features = on
    is_so = torch.zeros(len(places), dtype=torch.bool)
    for number, family in enumerate(families):
        of_family = rules[features, 0] == number
        labels, wanted = family.labels[places[of_family]], rules[features[of_family], 1]
        is_so[of_family] = (labels == wanted[:, None]).any(1)
    return is_so


def random_dictionary(model: AttentionOnlyTransformer, like: Dictionary, mean: Float[Tensor, " d_model"]) -> Dictionary:
    """As many directions as ``like`` has, all equally likely, of which as many are active.

    They are drawn as mixtures of what remains of the embeddings once all directions of the stream are equally long in
    them, and so turn with the stream.
    """
    draw = np.random.default_rng(0).standard_normal((like.n_features, model.config.d_vocab))
    U, _, Vh = torch.linalg.svd(model.W_E.double(), full_matrices=False)
    directions = F.normalize(torch.from_numpy(draw) @ U @ Vh).to(model.W_E)
    dictionary = Dictionary(model.config.d_model, like.n_features, like.k).to(model.W_E).requires_grad_(False)
    dictionary.W_dec.copy_(directions)
    dictionary.W_enc.copy_(directions.T)
    dictionary.b_dec.copy_(mean)
    dictionary.b_enc.copy_(-mean @ dictionary.W_enc)
    return dictionary
