"""What claims are measured on: the models of one seed, and the text."""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.circuits import HeadReading, composition_excess, copying_score, read_telling_sources
from helpers.corpus import DATA
from helpers.measures import (
    Pairs,
    Places,
    SkipTrigramBug,
    SkipTrigramCount,
    all_patterns,
    frequent_rules,
    frequent_tokens,
    layer_importance,
    paired_icl_scores,
    pairs_of_contexts,
    prefix_matching_scores,
    previous_token_scores,
    skip_trigram_bugs,
    standard_ranks,
    term_importance,
)
from helpers.model import AttentionOnlyTransformer, Head, load_model
from helpers.tokens import START, Bigrams, EncodedCorpus, count_bigrams, load_encoded
from helpers.training import RECIPES, SEEDS, load_history, run_name

INDUCTION_LINE = 0.3  # prefix matching at repeat length 50 above which a head counts as an induction head


@dataclass(frozen=True)
class Book:
    """The three models of one seed, loaded when first asked for; ``seed`` None is the untrained control.

    Measurements that several claims share are made once.
    """

    seed: int | None

    @cached_property
    def zero_layer(self) -> AttentionOnlyTransformer:
        return self.loaded("zero_layer")

    @cached_property
    def one_layer(self) -> AttentionOnlyTransformer:
        return self.loaded("one_layer")

    @cached_property
    def two_layer(self) -> AttentionOnlyTransformer:
        return self.loaded("two_layer")

    def loaded(self, name: str) -> AttentionOnlyTransformer:
        """One of the models, loaded anew and not kept: for what looks at it once, since a chapter's memory is small."""
        if self.seed is None:
            return AttentionOnlyTransformer(RECIPES[name].model, seed=1).requires_grad_(False).eval()
        return load_model(DATA / "models" / run_name(name, self.seed))

    def double(self, name: str) -> AttentionOnlyTransformer:
        """A copy of one of the models in float64, for identities."""
        return self.loaded(name).double()

    @staticmethod
    def error(one: Float[Tensor, "..."], other: Float[Tensor, "..."]) -> float:
        """Largest difference, relative to the largest entry of ``other``."""
        return ((one - other).abs().max() / other.abs().max()).item()

    def history(self, name: str) -> list[dict] | None:
        """The rows of a training history; None for the control, which has none.

        Of some runs of the laptop recipe only the history is kept, not the model.
        """
        if self.seed is None:
            return None
        with_model, alone = (DATA / kept / run_name(name, self.seed) for kept in ("models", "histories"))
        return load_history(alone if alone.exists() else with_model)

    @property
    def corpus(self) -> EncodedCorpus:
        return _corpus()

    @property
    def text(self) -> Int[Tensor, "16 256"]:
        """Sixteen validation contexts, the same for every seed."""
        return _text()

    @property
    def counts(self) -> Bigrams:
        """Bigrams of the training text."""
        return _counts()

    @property
    def frequent(self) -> Int[Tensor, " token"]:
        """The tokens, ``<START>`` aside, that occur at least 1,000 times in the training text."""
        return _frequent()

    @property
    def places(self) -> Places:
        """Where each token stands in the first 8 million tokens of the training text."""
        return _places()

    @cached_property
    def telling(self) -> list[HeadReading]:
        """Each head of the one-layer model on the eight sources with its strongest skip-trigrams, head by head."""
        model, among = self.one_layer, self.frequent
        return [reading for head in model.heads for reading in read_telling_sources(model, head, among)]

    @cached_property
    def real_rules(self) -> list[tuple[HeadReading, int, int, SkipTrigramCount]]:
        """The rules of ``telling`` that the text has: (reading, destination, out, count), as ``frequent_rules``."""
        return [(reading, d, out, count) for reading in self.telling
                for d, out, count in frequent_rules(self.places, reading, self.reach)]

    @cached_property
    def copying(self) -> Float[Tensor, " head"]:
        """Copying scores of the one-layer model."""
        return torch.tensor([copying_score(self.one_layer, head) for head in self.one_layer.heads])

    @property
    def often(self) -> Float[Tensor, " token"]:
        """The share of each token among the tokens that follow any token in the training text."""
        return _often()

    @cached_property
    def bugs(self) -> list[list[SkipTrigramBug]]:
        """Bugs of each head's two strongest sources in 2 million tokens: a list for each source."""
        strongest = [reading for i, reading in enumerate(self.telling) if i % 8 < 2]
        stream = self.places.stream[:2_000_000]
        return [skip_trigram_bugs(self.one_layer, r.head, r.source, stream, least=10) for r in strongest]

    @property
    def next_token_ranks(self) -> Float[Tensor, "dest src"]:
        """How the frequent tokens rank as what comes after every twentieth of them (rows of ``standard_ranks``)."""
        return _next_token_ranks()

    @property
    def reach(self) -> int:
        """How many tokens back a source may be."""
        return self.one_layer.config.n_ctx - 1

    @cached_property
    def one_layer_patterns(self) -> Float[Tensor, "batch head dest src"]:
        """Attention of the one-layer model on ``text``."""
        return all_patterns(self.one_layer, self.text)[0]

    @cached_property
    def previous_token(self) -> Float[Tensor, "layer head"]:
        """Previous-token scores of the two-layer model on ``text``."""
        chunks = self.text.split(2)  # of equal size, and no patterns are kept
        return torch.stack([previous_token_scores(self.two_layer, chunk) for chunk in chunks]).mean(0)

    @cached_property
    def matching(self) -> Float[Tensor, "layer head"]:
        """Prefix-matching scores of the two-layer model at repeat length 50."""
        return prefix_matching_scores(self.two_layer, length=50)

    @cached_property
    def composition(self) -> dict[str, Float[Tensor, "early late"]]:
        """Q-, K- and V-composition scores of the two-layer model above those of random matrices."""
        return {kind: composition_excess(self.two_layer, kind) for kind in "QKV"}

    @cached_property
    def loss_by_order(self) -> list[float]:
        """Loss of the two-layer model on ``text`` with its terms up to each order."""
        return term_importance(self.two_layer, self.text)

    @cached_property
    def loss_by_layers(self) -> dict[tuple[int, ...], float]:
        """Loss on ``text`` with the direct path and the single heads of some layers of the two-layer model."""
        return layer_importance(self.two_layer, self.text)

    @cached_property
    def previous_token_head(self) -> Head:
        """The head of layer 0 that attends most to the previous token."""
        return 0, int(self.previous_token[0].argmax())

    @cached_property
    def induction_head(self) -> Head:
        """The head of layer 1 with the largest prefix-matching score."""
        return 1, int(self.matching[1].argmax())

    @cached_property
    def induction_heads(self) -> list[Head]:
        """Heads of layer 1 above ``INDUCTION_LINE``; none in an untrained model."""
        return [(1, head) for head, score in enumerate(self.matching[1].tolist()) if score > INDUCTION_LINE]

    @cached_property
    def icl_scores(self) -> dict[Hashable, float]:
        """Paired in-context-learning scores: of "one layer", of two ("none" removed), without "induction heads"."""
        removed = {"none": (), "induction heads": self.induction_heads}
        one_layer = paired_icl_scores(self.one_layer, _pairs(), width=8)["none"]
        return {"one layer": one_layer, **paired_icl_scores(self.two_layer, _pairs(), removed, width=8)}

    @cached_property
    def icl_scores_without(self) -> dict[Head, float]:
        """The same score of the two-layer model without each single head, patterns kept."""
        return paired_icl_scores(self.two_layer, _pairs(), {head: [head] for head in self.two_layer.heads}, width=8)


def every_book() -> list[Book]:
    """A fresh one for each seed, and the untrained control at the end."""
    return [*(Book(seed) for seed in SEEDS), Book(None)]


@cache
def _corpus() -> EncodedCorpus:
    return load_encoded()


@cache
def _text() -> Int[Tensor, "16 256"]:
    return _corpus().contexts("validation", n=16, n_ctx=256, seed=3)


@cache
def _frequent() -> Int[Tensor, " token"]:
    frequent = frequent_tokens(_corpus().train, _corpus().tokenizer.d_vocab, least=1000)
    return frequent[frequent != START]


@cache
def _places() -> Places:
    return Places.of(_corpus().train[:8_000_000], _corpus().tokenizer.d_vocab)


@cache
def _next_token_ranks() -> Float[Tensor, "dest src"]:
    among, counts = _frequent(), _counts()
    prior = 10 * _often()[among]  # as if ten tokens more, of the usual kinds, had followed each
    return standard_ranks(torch.stack([counts.row(d)[among] + prior for d in among[::20].tolist()]))


@cache
def _often() -> Float[Tensor, " token"]:
    return _counts().closed.double() / _counts().n


@cache
def _counts() -> Bigrams:
    return count_bigrams(_corpus().train, _corpus().tokenizer.d_vocab)


@cache
def _pairs() -> Pairs:
    return pairs_of_contexts(_corpus().validation, n=64, n_ctx=256, width=8, seed=3)
