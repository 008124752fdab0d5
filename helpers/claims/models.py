"""What claims are measured on: the models of one seed, and a text."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers import markov
from helpers.bystanders import edge_divergences, main_sources
from helpers.claims.features import Named, named, random_dictionary
from helpers.copying import copying_scores
from helpers.dictionary import Dictionary, load_book_dictionary, load_dictionary, stream_between
from helpers.edges import Effects, cut_edges, of_all_kinds, rotated_writers
from helpers.feature_rules import rule_families
from helpers.files import book_folder
from helpers.formation import CLAMPED_SEEDS, load_formation
from helpers.heads import induction_targets, prefix_matching_scores, previous_token_scores, random_repeats
from helpers.in_context import Pairs, paired_icl_scores, pairs_ending_at
from helpers.model import AttentionOnlyTransformer, Head
from helpers.scrubbing import induction_stories, loss_recovered
from helpers.skip_trigrams import HeadReading, SkipTrigramBug, bugs_of_heads, read_strongest_sources
from helpers.standard import StandardConfig, StandardTransformer
from helpers.statistics import Estimate
from helpers.terms import Layers, losses_by_layers
from helpers.text import Text, shelf_text
from helpers.tokens import contexts_at, load_encoded
from helpers.training import RECIPES
from helpers.weights import load_book_model, load_model

INDUCTION_LINE = 0.3  # prefix matching at repeat length 50 above which a head counts as an induction head
MATCHING_LINE = 0.05  # above which it matches prefixes at all: four times what even attention would have


N_CONTEXTS, N_PAIRS = 64, 1000  # of each seed; of pairs the validation text has no more than seven times as many


@dataclass(frozen=True)
class Models:
    """The models of one seed, its texts, and what several claims measure of them, once.

    ``seed`` None is the untrained control. The models of the book come with it; those of fresh seeds are in ``folder``,
    where ``python -m helpers.training --all`` has put them.
    """

    seed: int | None
    folder: Path | None = None

    @property
    def trained(self) -> bool:
        return self.seed is not None

    @property
    def clamped(self) -> bool:
        """Whether the book has this seed's trainings under a clamp."""
        return self.seed in CLAMPED_SEEDS

    @cached_property
    def one_layer(self) -> AttentionOnlyTransformer:
        return self.load("one_layer")

    @cached_property
    def two_layer(self) -> AttentionOnlyTransformer:
        return self.load("two_layer")

    def load(self, name: str) -> AttentionOnlyTransformer:
        """One of the models, loaded again and not kept: for a claim that alone uses it, so that memory stays small."""
        config = (RECIPES | markov.RECIPES)[name].model
        if self.seed is None:
            return config.build(seed=1).requires_grad_(False).eval()
        kind = StandardTransformer if isinstance(config, StandardConfig) else AttentionOnlyTransformer
        if self.folder is None:
            return load_book_model(name, self.seed, kind)
        return load_model(self.folder / book_folder(name, self.seed).name, kind=kind)

    @cached_property
    def dictionary(self) -> Dictionary:
        """The dictionary of the two-layer model's stream; that of a fresh seed lies beside its weights."""
        if self.folder is None:
            return load_book_dictionary(self.seed)
        return load_dictionary(self.folder / book_folder("two_layer", self.seed).name / "dictionary.safetensors")

    @cached_property
    def random_directions(self) -> Dictionary:
        """As many random directions, about the stream's mean on some of ``contexts``."""
        mean = stream_between(self.two_layer, self.contexts[:8]).mean((0, 1))
        return random_dictionary(self.two_layer, self.dictionary, mean)

    @cached_property
    def named_features(self) -> dict[str, Named]:
        """What rules say of the features of the dictionary, and of random directions."""
        corpus, head = self.text.corpus, self.previous_token_head
        texts = corpus.contexts("train", N_CONTEXTS, 256, seed=11 + self.text_seed), self.contexts
        read = [(rule_families(self.two_layer, corpus.tokenizer, text, head), text) for text in texts]
        dictionaries = {"dictionary": self.dictionary, "random": self.random_directions}
        return {name: named(self.two_layer, one, *read) for name, one in dictionaries.items()}

    @cached_property
    def main_sources(self) -> Bool[Tensor, "writer reader"]:
        """Of every reader of the two-layer model's middle stream, as ``helpers.bystanders`` has them."""
        tokens = self.text.corpus.contexts("train", 12, 256, seed=100 + self.text_seed)
        return main_sources(edge_divergences(self.two_layer, tokens, torch.arange(31, 255, 32)))

    @property
    def toy_seed(self) -> int:
        """Every seed of a model has toy models with starts of their own."""
        return self.text_seed

    def exact(
        self, name: str, n: int = 2, length: int = 24
    ) -> tuple[AttentionOnlyTransformer, Int[Tensor, "text pos"]]:
        """One of the models in float64 and the beginnings of some contexts, for an identity, which holds for any."""
        return self.load(name).double(), self.contexts[:n, :length]

    def formation(self, name: str) -> list[dict]:
        """What was measured along a training of the laptop's recipes; the control has none."""
        return load_formation(name, self.seed)

    # ---- texts ------------------------------------------------------------------------------------------------------

    @property
    def text(self) -> Text:
        """The text that the models were trained on."""
        return shelf_text()

    @property
    def text_seed(self) -> int:
        """Every seed of a model has texts of its own; the control reads those of seed 0."""
        return self.seed or 0

    @cached_property
    def contexts(self) -> Int[Tensor, "context 256"]:
        """Contexts of the validation text; no other seed has any of them."""
        tokens = self.text.corpus.validation
        order = np.random.default_rng(0).permutation(len(tokens) // 256)
        return contexts_at(tokens, 256 * order[self.text_seed * N_CONTEXTS :][:N_CONTEXTS], 256)

    @cached_property
    def laptop_contexts(self) -> Int[Tensor, "context 128"]:
        """The same in the tokens of the laptop's recipe."""
        tokens = load_encoded(d_vocab=512).validation
        order = np.random.default_rng(0).permutation(len(tokens) // 128)
        return contexts_at(tokens, 128 * order[self.text_seed * N_CONTEXTS :][:N_CONTEXTS], 128)

    def random_repeats(self, length: int, n_copies: int = 2, n_samples: int = 64) -> Int[Tensor, "sample pos"]:
        """``heads.random_repeats`` over the two-layer model's vocabulary, other ones for each seed."""
        d_vocab = self.two_layer.config.d_vocab
        return random_repeats(d_vocab, length, n_copies, n_samples, seed=1000 + self.text_seed)

    @cached_property
    def pairs(self) -> Pairs:
        """Pairs of contexts of the validation text that do not overlap; no other seed has any of them."""
        tokens = self.text.corpus.validation
        order = np.random.default_rng(1).permutation(len(tokens) // 256)
        last = 256 * order[self.text_seed * N_PAIRS :][:N_PAIRS] + 255
        return pairs_ending_at(tokens, last, n_ctx=256, width=8)

    # ---- one layer --------------------------------------------------------------------------------------------------

    @cached_property
    def copying_scores(self) -> Float[Tensor, " head"]:
        """Copying scores of the one-layer model."""
        return copying_scores(self.one_layer)

    @cached_property
    def long_lists(self) -> list[list[HeadReading]]:
        """Each head of the one-layer model on the 32 sources with its strongest skip-trigrams: a list for each head."""
        model, among = self.one_layer, self.text.frequent
        return [read_strongest_sources(model, head, among, n=32) for head in model.heads]

    @property
    def readings(self) -> list[HeadReading]:
        """The strongest eight of each head, head by head."""
        return [reading for of_head in self.long_lists for reading in of_head[:8]]

    @cached_property
    def bugs(self) -> list[list[SkipTrigramBug]]:
        """The bugs of each of ``readings``."""
        return bugs_of_heads(self.one_layer, self.readings, self.text)

    # ---- two layers -------------------------------------------------------------------------------------------------

    @cached_property
    def previous_token(self) -> Float[Tensor, "layer head"]:
        """Previous-token scores of the two-layer model on ``contexts``."""
        chunks = self.contexts.split(2)  # of equal size, and no patterns are kept
        return torch.stack([previous_token_scores(self.two_layer, chunk) for chunk in chunks]).mean(0)

    @cached_property
    def prefix_matching(self) -> Float[Tensor, "layer head"]:
        """Prefix-matching scores of the two-layer model at repeat length 50."""
        return prefix_matching_scores(self.two_layer, length=50)

    @cached_property
    def induction_weights(self) -> Float[Tensor, " head"]:
        """How far each head of layer 1 is an induction head: its share of their prefix-matching scores."""
        matching = self.prefix_matching[1].double()
        return matching / matching.sum()

    @cached_property
    def other_weights(self) -> Float[Tensor, " head"]:
        """How far it is none: its share of what all of them lack to the largest score."""
        lack = self.prefix_matching[1].max() - self.prefix_matching[1].double()
        return lack / lack.sum()

    @cached_property
    def composition(self) -> Float[Tensor, "kind early late"]:
        """Q-, K- and V-composition scores of the two-layer model."""
        return of_all_kinds(self.two_layer)

    @cached_property
    def rotated_composition(self) -> Float[Tensor, "draw kind early late"]:
        """The same after what heads write has been rotated, three times at random."""
        return torch.stack([of_all_kinds(rotated_writers(self.two_layer, draw)) for draw in range(3)])

    @cached_property
    def divergence_without(self) -> Effects:
        """How far predictions move without each edge between heads, at four places in each of ``contexts``."""
        return cut_edges(self.two_layer, self.contexts, torch.arange(63, 255, 63))[1]

    @cached_property
    def loss_by_layers(self) -> dict[Layers, Float[Tensor, " context"]]:
        """Loss on each of ``contexts``, every fourth token, with the direct path and single heads of some layers."""
        losses = losses_by_layers(self.two_layer, self.contexts, every=4)
        return {layers: of_choice.mean(-1).double() for layers, of_choice in losses.items()}

    @cached_property
    def loss_by_layers_elsewhere(self) -> dict[Layers, Float[Tensor, " context"]]:
        """The same on the first 32 contexts if all heads look where they look in another of these."""
        contexts = self.contexts[:32]
        losses = losses_by_layers(self.two_layer, contexts, contexts.roll(1, 0), every=4)
        return {layers: of_choice.mean(-1).double() for layers, of_choice in losses.items()}

    @cached_property
    def previous_token_head(self) -> Head:
        """The head of layer 0 that attends most to the previous token."""
        return 0, int(self.previous_token[0].argmax())

    @cached_property
    def induction_head(self) -> Head:
        """The head of layer 1 with the largest prefix-matching score."""
        return 1, int(self.prefix_matching[1].argmax())

    @cached_property
    def induction_heads(self) -> list[Head]:
        """Heads of layer 1 above ``INDUCTION_LINE``; none in an untrained model."""
        return [(1, head) for head, score in enumerate(self.prefix_matching[1].tolist()) if score > INDUCTION_LINE]

    @cached_property
    def stories_recover(self) -> dict[str, Estimate]:
        """How much of the induction heads' worth each of their stories recovers; cheaply, at every other place.

        Of the places where the present token has come before.
        """
        model, contexts = self.two_layer, self.contexts
        copied = induction_targets(contexts).any(-1)[:, :-1]
        copied[:, ::2] = False
        stories = induction_stories(model, self.previous_token_head)
        wanted = {name: stories[name] for name in ("naive", "rich", "blind keys")}
        return loss_recovered(model, contexts, self.induction_heads, wanted, copied)

    # ---- in-context learning ----------------------------------------------------------------------------------------

    @cached_property
    def matching_heads(self) -> list[Head]:
        """Heads of layer 1 above ``MATCHING_LINE``: all induction heads, weak ones too."""
        return [(1, head) for head, score in enumerate(self.prefix_matching[1].tolist()) if score > MATCHING_LINE]

    @cached_property
    def icl_scores(self) -> dict[str, Float[Tensor, " pair"]]:
        """Paired in-context-learning scores of one layer, of two, and of two without some heads, patterns kept."""
        rest = [head for head in self.two_layer.layer_heads(1) if head not in self.matching_heads]
        removed = {"two layers": (), "no matching heads": self.matching_heads, "no other heads of layer 1": rest}
        one_layer = paired_icl_scores(self.one_layer, self.pairs, {"one layer": ()}, width=8)
        return one_layer | paired_icl_scores(self.two_layer, self.pairs, removed, width=8)
