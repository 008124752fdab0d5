"""What claims are measured on: the models of one seed, and a text."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import composition_excess
from helpers.copying import copying_scores
from helpers.files import book_folder
from helpers.heads import prefix_matching_scores, previous_token_scores
from helpers.history import after_warmup, load_history
from helpers.in_context import Pairs, paired_icl_scores, pairs_of_contexts
from helpers.model import AttentionOnlyTransformer, Head, load_book_model
from helpers.skip_trigrams import HeadReading, SkipTrigramBug, read_strongest_sources, skip_trigram_bugs
from helpers.terms import layer_importance, term_importance
from helpers.text import SkipTrigramCount, shelf_text
from helpers.training import RECIPES

INDUCTION_LINE = 0.3  # prefix matching at repeat length 50 above which a head counts as an induction head


@dataclass(frozen=True)
class Models:
    """The models of one seed, and what several claims measure of them, once; ``seed`` None is the untrained control."""

    seed: int | None

    @property
    def trained(self) -> bool:
        return self.seed is not None

    @cached_property
    def one_layer(self) -> AttentionOnlyTransformer:
        return self.load("one_layer")

    @cached_property
    def two_layer(self) -> AttentionOnlyTransformer:
        return self.load("two_layer")

    def load(self, name: str) -> AttentionOnlyTransformer:
        """One of the models, loaded again and not kept: for a claim that alone uses it, so that memory stays small."""
        if self.seed is None:
            return AttentionOnlyTransformer(RECIPES[name].model, seed=1).requires_grad_(False).eval()
        return load_book_model(name, self.seed)

    def exact(
        self, name: str, n: int = 2, length: int = 24
    ) -> tuple[AttentionOnlyTransformer, Int[Tensor, "text pos"]]:
        """One of the models in float64 and the beginnings of some contexts, for an identity, which holds for any."""
        return self.load(name).double(), self.contexts[:n, :length]

    def rows(self, name: str) -> list[dict]:
        """The history of a training from the end of its warm-up on; the control has none."""
        return after_warmup(load_history(book_folder(name, self.seed)), RECIPES[name].training.warmup_steps)

    @cached_property
    def contexts(self) -> Int[Tensor, "16 256"]:
        """Sixteen validation contexts, the same for every seed."""
        return shelf_text().corpus.contexts("validation", n=16, n_ctx=256, seed=3)

    # ---- one layer --------------------------------------------------------------------------------------------------

    @property
    def max_gap(self) -> int:
        """How many tokens back a source may be."""
        return self.one_layer.config.n_ctx - 1

    @cached_property
    def copying_scores(self) -> Float[Tensor, " head"]:
        """Copying scores of the one-layer model."""
        return copying_scores(self.one_layer)

    @cached_property
    def readings(self) -> list[HeadReading]:
        """Each head of the one-layer model on the eight sources with its strongest skip-trigrams, head by head."""
        model, among = self.one_layer, shelf_text().frequent
        return [reading for head in model.heads for reading in read_strongest_sources(model, head, among)]

    @cached_property
    def text_rules(self) -> list[tuple[HeadReading, int, int, SkipTrigramCount]]:
        """The rules of ``readings`` that the text has: (reading, destination, out, count)."""
        rules = shelf_text().positions.rules
        return [
            (reading, destination, out, count)
            for reading in self.readings
            for destination in reading.destinations
            for out, count in rules(reading.source, destination, reading.outs, self.max_gap)
        ]

    @cached_property
    def bugs(self) -> list[list[SkipTrigramBug]]:
        """Bugs of each head's two strongest sources in 2 million tokens: a list for each source."""
        strongest = [reading for i, reading in enumerate(self.readings) if i % 8 < 2]
        tokens = shelf_text().positions.tokens[:2_000_000]
        return [skip_trigram_bugs(self.one_layer, r.head, r.source, tokens) for r in strongest]

    @property
    def large_bugs(self) -> list[SkipTrigramBug]:
        """Those of one nat or more."""
        return [bug for of_source in self.bugs for bug in of_source if bug.effect >= 1]

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
    def composition(self) -> dict[str, Float[Tensor, "early late"]]:
        """Q-, K- and V-composition scores of the two-layer model above those of random matrices."""
        return {kind: composition_excess(self.two_layer, kind) for kind in "QKV"}

    @cached_property
    def loss_by_order(self) -> list[float]:
        """Loss of the two-layer model on ``contexts`` with its terms up to each order."""
        return term_importance(self.two_layer, self.contexts)

    @cached_property
    def loss_by_layers(self) -> dict[tuple[int, ...], float]:
        """Loss on ``contexts`` with the direct path and the single heads of some layers of the two-layer model."""
        return layer_importance(self.two_layer, self.contexts)

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

    # ---- in-context learning ----------------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> Pairs:
        return pairs_of_contexts(shelf_text().corpus.validation, n=64, n_ctx=256, width=8, seed=3)

    @cached_property
    def icl_scores(self) -> dict[Hashable, float]:
        """Paired in-context-learning scores: of "one layer", of two ("none" removed), without "induction heads"."""
        one_layer = self._icl_scores(self.one_layer, {"one layer": ()})
        return one_layer | self._icl_scores(self.two_layer, {"none": (), "induction heads": self.induction_heads})

    @cached_property
    def icl_scores_without(self) -> dict[Head, float]:
        """The same score of the two-layer model without each single head, patterns kept."""
        return self._icl_scores(self.two_layer, {head: [head] for head in self.two_layer.heads})

    def _icl_scores(
        self, model: AttentionOnlyTransformer, removed: Mapping[Hashable, Sequence[Head]]
    ) -> dict[Hashable, float]:
        scores = paired_icl_scores(model, self.pairs, removed, width=8)
        return {name: of_pairs.mean().item() for name, of_pairs in scores.items()}
