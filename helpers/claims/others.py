"""The ledger on a model that is none of the book's: what it can be asked, what is found, and why not the rest."""

import copy
import inspect
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import CodeType, FunctionType

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError, markov, release_memory
from helpers.claims.ledger import UNTRAINED, Claim, Evidence, verdict
from helpers.claims.measure import find
from helpers.claims.models import Models
from helpers.dictionary import Dictionary
from helpers.heads import random_repeats
from helpers.lens import load_either
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.text import Text, shelf_text
from helpers.tokens import Tokenizer, load_encoded
from helpers.training import RECIPES
from helpers.views import Table

LACKS = {"induction_heads": "No head of its layer 1 matches prefixes well enough to be called an induction head."}
OF_TRAININGS = "It is about trainings, and this is a model."
OF_TOYS = "It is about toy models, whatever the model."
OF_CHAINS = "It is about models that have learned Markov chains."
NO_DICTIONARY = "It takes a dictionary of the stream, and this model comes without one."


@dataclass(frozen=True)
class Others(Models):
    """A model of somebody else in the place of the book's model with as many layers; there are no others beside it.

    Whatever it cannot be asked raises ReaderError with the reason.
    """

    seed: int | None = 0
    model: AttentionOnlyTransformer | None = None
    reads_the_shelf: bool = False  # whether its tokens are those of the book's text
    reads_the_laptops_text: bool = False  # or those of the laptop's models

    @property
    def clamped(self) -> bool:
        """There are no trainings of it."""
        return False

    def load(self, name: str) -> AttentionOnlyTransformer:
        """A copy of the model, if it is of the kind that is wanted. Raises ReaderError if not."""
        if name in markov.RECIPES:
            raise ReaderError(OF_CHAINS)
        wanted, found = (kind_of(config) for config in (RECIPES[name].model, self.model.config))
        if wanted != found:
            raise ReaderError(f"It takes a model of {wanted}, and this one has {found}.")
        if name.startswith("laptop") and not self.reads_the_laptops_text:
            raise ReaderError("It takes the book's text in 512 tokens, and this model has another vocabulary.")
        return copy.deepcopy(self.model)

    def exact(
        self, name: str, n: int = 2, length: int = 24
    ) -> tuple[AttentionOnlyTransformer, Int[Tensor, "text pos"]]:
        """The model in float64 and some texts: of random tokens, since an identity holds for any.

        What holds of two layers holds of more.
        """
        c = self.model.config
        deeper = name == "two_layer" and kind_of(c) == kind_of(ModelConfig(n_layers=c.n_layers)) and c.n_layers > 2
        model, n_tokens = copy.deepcopy(self.model) if deeper else self.load(name), min(length, c.n_ctx, c.d_vocab - 1)
        return model.double(), random_repeats(c.d_vocab, n_tokens, 1, n)[:, :n_tokens]

    def formation(self, name: str) -> list[dict]:
        """Always raises ReaderError: nothing was measured along its training."""
        raise ReaderError(OF_TRAININGS)

    @property
    def dictionary(self) -> Dictionary:
        """Always raises ReaderError: no dictionary was trained for it."""
        raise ReaderError(NO_DICTIONARY)

    @property
    def toy_seed(self) -> int:
        """Always raises ReaderError: toy models are none of its own."""
        raise ReaderError(OF_TOYS)

    @property
    def text(self) -> Text:
        """The shelf's. Raises ReaderError if the model has other tokens."""
        if not self.reads_the_shelf:
            raise ReaderError("It takes the book's text, and this model has another vocabulary.")
        return shelf_text()

    @cached_property
    def untrained(self) -> "Others":
        """The control: a model of the same sizes before its training, with the book's positions."""
        config = replace(self.model.config, positional_amplitude=1.0)
        return replace(self, seed=None, model=config.build(seed=1).requires_grad_(False).eval())


def load_others(folder: Path) -> Others:
    """The model in a folder. Its tokens are the shelf's if its ``tokenizer.json`` is, or if it has none and as many.

    Raises:
        ReaderError: a file is missing or damaged, or no model of the book computes the same.
    """
    model, theirs, d_vocab = load_either(folder), folder / "tokenizer.json", RECIPES["laptop"].model.d_vocab

    def same(ours: Tokenizer) -> bool:
        if theirs.exists():
            return Tokenizer.load(theirs).fingerprint == ours.fingerprint
        return model.config.d_vocab == ours.d_vocab

    return Others(
        model=model,
        reads_the_shelf=same(Tokenizer.load()),
        reads_the_laptops_text=model.config.d_vocab == d_vocab and same(load_encoded(d_vocab=d_vocab).tokenizer),
    )


def kind_of(config: ModelConfig) -> str:
    """What decides which claims a model can be asked: "1 layer", "2 layers with LayerNorm and MLPs"."""
    words = {"layer_norm": "LayerNorm", "biases": "biases", "mlp": "MLPs", "smeared_keys": "smeared keys"}
    parts = [word for part, word in words.items() if getattr(config, part, False)]
    layers = f"{config.n_layers} layer" + "s" * (config.n_layers != 1)
    return layers + (" with " + " and ".join(", ".join(parts).rsplit(", ", 1)) if parts else "")


# ---- asking -------------------------------------------------------------------------------------------------------


def reads_text(function: FunctionType, seen: frozenset[str] = frozenset()) -> bool:
    """Whether a function names the shelf's text itself, or a function of its module that does."""
    function = inspect.unwrap(function)
    names = named(function.__code__)
    here = (
        inspect.unwrap(function.__globals__[name]) for name in names - seen if callable(function.__globals__.get(name))
    )
    ours = [other for other in here if getattr(other, "__module__", "") == function.__module__]
    followed = (other for other in ours if isinstance(other, FunctionType))
    return "shelf_text" in names or any(reads_text(other, seen | names) for other in followed)


def named(code: CodeType) -> set[str]:
    """Every global name and attribute in a function and in those inside it."""
    inner = (named(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)


def ask(claim: Claim, others: Others) -> Evidence | str:
    """What is found of a claim, with what the untrained model has if that is its control; or why it cannot be asked."""
    if claim.of_runs:
        return OF_TRAININGS
    try:
        if reads_text(claim.measure):
            _ = others.text  # or why not
        found = claim.measured(others)
        if found is None:
            return LACKS.get(claim.needs, OF_TRAININGS)
        if claim.kind == "finding" and claim.control == UNTRAINED:
            control = claim.measured(others.untrained)
            return Evidence(found.value, control and control.value)
        return found
    except ReaderError as reason:
        return str(reason)


@dataclass(frozen=True)
class Answers:
    """What a model was asked: a table of claims with values, controls and verdicts, and one of what it was not."""

    of: Sequence[tuple[Claim, Evidence | str]]

    @property
    def asked(self) -> list[tuple[Claim, Evidence]]:
        return [(claim, found) for claim, found in self.of if isinstance(found, Evidence)]

    @property
    def table(self) -> Table:
        """A row for each claim that could be asked."""
        header = ["claim", "measured", "criterion", "found", "control", "verdict"]
        return Table(dict.fromkeys(header, ""), [_row(claim, found) for claim, found in self.asked], self.headline)

    @property
    def not_asked(self) -> Table:
        """A row for each reason."""
        by_reason: dict[str, list[str]] = {}
        for claim, found in self.of:
            if isinstance(found, str):
                by_reason.setdefault(found, []).append(claim.slug)
        rows = [[reason, str(len(slugs)), ", ".join(slugs)] for reason, slugs in by_reason.items()]
        return Table({"not asked, since": "", "claims": "", "which": ""}, rows)

    @property
    def headline(self) -> str:
        """How many claims were asked, and with what verdicts."""
        counts = Counter(verdict(claim, [found]) for claim, found in self.asked)
        verdicts = ", ".join(f"{n} {name}" for name, n in counts.items())
        return f"{len(self.asked)} of {len(self.of)} claims can be asked of this model" + (
            verdicts and f": {verdicts}."
        )

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, (self.table, self.not_asked)))


def _row(claim: Claim, found: Evidence) -> list[str]:
    control = f"{claim.control}: {claim.show(found.control)}" if found.control else "–"
    sentence = f"**{claim.slug}** {claim.sentence}"
    return [sentence, claim.value, str(claim.bar), claim.show(found.value), control, f"**{verdict(claim, [found])}**"]


def asked_of(folder: Path, slugs: Iterable[str] = ()) -> Answers:
    """Ask the model in ``folder`` the named claims, all of some chapters, or all.

    Raises:
        ReaderError: there is no such claim, or the model cannot be read.
    """
    claims, others, answers = find([*slugs]), load_others(folder), []
    for claim in tqdm(claims, desc="claims", leave=False):
        answers.append((claim, ask(claim, others)))
        release_memory()
    return Answers(answers)
