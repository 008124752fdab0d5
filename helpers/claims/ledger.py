"""What a claim is, how it is judged, and the ledger that shows it."""

import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.claims.models import Models
from helpers.files import DATA, how_to_restore
from helpers.training import SEEDS
from helpers.views import Table

REPRODUCED, WEAKER, NOT_SEEN, UNSTABLE = "reproduced", "weaker", "not seen", "unstable across seeds"

Measure = Callable[[Models], float]


@dataclass(frozen=True)
class Bar:
    """What counts as reproduced, decided before looking: a value on the right side of ``bar``; of ``weaker``, weaker.

    ``weaker`` None means that there is no half-way: the claim holds or it does not.
    """

    bar: float
    at_least: bool
    weaker: float | None = None
    exact: bool = False  # an identity: the value is an error, 0 but for rounding

    def met(self, value: float) -> bool:
        return self._beyond(value, self.bar)

    def nearly_met(self, value: float) -> bool:
        return self._beyond(value, self.bar if self.weaker is None else self.weaker)

    def _beyond(self, value: float, line: float) -> bool:
        return value >= line if self.at_least else value <= line  # false for a value that is no number

    def __str__(self) -> str:
        if self.exact:
            return "equal to rounding"
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bar:g}" + ("" if self.weaker is None else f" (weaker: {sign} {self.weaker:g})")


def at_least(bar: float, weaker: float | None = None) -> Bar:
    return Bar(bar, at_least=True, weaker=weaker)


def at_most(bar: float, weaker: float | None = None) -> Bar:
    return Bar(bar, at_least=False, weaker=weaker)


EXACT = Bar(1e-9, at_least=False, exact=True)  # relative error, in float64


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: what it says, where, what would count as seeing it here, and how to measure that."""

    slug: str
    chapter: str  # the chapter of this book that makes it, "03"
    section: str  # the paper's heading
    sentence: str  # in our words
    paper: str  # what the paper prints or says of it
    value: str  # what is measured, with its unit
    bar: Bar
    measure: Measure
    needs: str = ""  # what ``Models`` must have for the claim to make sense: "trained", "induction_heads", …
    also_untrained: bool = False  # true of untrained models too: an identity, geometry, the absence of something
    digits: int = 2
    why_not: str = ""  # what we think is the reason, for a claim that our models do not show, or not all

    def measured(self, models: Models) -> float | None:
        """The value for the models of a seed; None if they lack what the claim is about."""
        return None if self.needs and not getattr(models, self.needs) else self.measure(models)

    def show(self, value: float | None) -> str:
        if value is None:
            return "–"
        if self.bar.exact:
            return "exact" if self.bar.met(value) else f"off by {value:.0e}"
        return f"{value:.{self.digits}f}".replace("-", "−")


# ---- entering claims --------------------------------------------------------------------------------------------


def load_words(file: Path) -> dict[str, dict[str, str]]:
    """The "section" and "paper" of every claim, the "value" in words, and "why_not" where that needs saying.

    Raises:
        ReaderError: the file is missing or damaged.
    """
    try:
        return tomllib.loads(file.read_text("utf8"))
    except (OSError, ValueError) as error:
        raise ReaderError(f"The words of the claims are missing or damaged: {how_to_restore(file)}.") from error


WORDS = load_words(DATA / "claims.toml")
CLAIMS: dict[str, Claim] = {}


def claim(slug: str, bar: Bar, also_untrained: bool = False, **about) -> Callable[[Measure], Measure]:
    """Enter the decorated function, which measures a claim, into the ledger; ``about`` are other fields of ``Claim``.

    The first paragraph of its docstring is the claim in our words, its module's name ends in the number of the chapter.
    """

    def enter(measure: Measure) -> Measure:
        """Put ``measure`` into ``CLAIMS`` and hand it back as it is. Raises ValueError if the slug is taken."""
        if slug in CLAIMS:
            raise ValueError(f"Two claims are called {slug!r}.")
        CLAIMS[slug] = Claim(
            slug,
            chapter=measure.__module__[-2:],
            sentence=" ".join(measure.__doc__.split("\n\n")[0].split()),
            **WORDS[slug],
            bar=bar,
            measure=measure,
            also_untrained=bar.exact or also_untrained,
            **about,
        )
        return measure

    return enter


# ---- findings ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finding:
    """A claim, measured: on each seed, and on the untrained control (None where a value makes no sense)."""

    claim: Claim
    values: Sequence[float | None]
    control: float | None

    @property
    def verdict(self) -> str:
        """Reproduced if every seed meets the bar, weaker if every seed at least nearly does, unstable if only some do.

        Not seen otherwise, and also where the control meets the bar of what only training should bring about.
        """
        bar = self.claim.bar
        met, nearly = [bar.met(v) for v in self.values], [bar.nearly_met(v) for v in self.values]
        if self.control is not None and not self.claim.also_untrained and bar.met(self.control):
            return NOT_SEEN  # nothing that training has to do with
        if all(met):
            return REPRODUCED
        if any(met) or (any(nearly) and not all(nearly)):
            return UNSTABLE
        return WEAKER if all(nearly) else NOT_SEEN

    @property
    def shown(self) -> list[str]:
        """The values of the seeds, and then that of the control."""
        return [self.claim.show(value) for value in (*self.values, self.control)]


@dataclass(frozen=True)
class Ledger:
    """Findings, as a table: the claim, the paper's words and figure, ours on each seed, the control and the verdict."""

    findings: Sequence[Finding]

    @cached_property
    def table(self) -> Table:
        seeds = [f"seed {seed}" for seed in SEEDS]
        header = ["claim", "the paper", "measured", "criterion", *seeds, "untrained", "verdict"]
        return Table(dict.fromkeys(header, ""), [_row(finding) for finding in self.findings])

    @cached_property
    def summary(self) -> Table:
        """The same in fewer columns, for the README."""
        header = ["chapter", "claim", "the paper", "here, seeds 0, 1, 2", "untrained", "verdict"]
        verdicts = [finding.verdict for finding in self.findings]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in (REPRODUCED, WEAKER, UNSTABLE, NOT_SEEN))
        rows = [_short_row(finding) for finding in self.findings]
        return Table(dict.fromkeys(header, ""), rows, f"{len(verdicts)} claims: {counts}.")

    def __repr__(self) -> str:
        notes = [f"*{f.claim.slug}*: {f.claim.why_not}" for f in self.findings if f.verdict != REPRODUCED]
        return "\n\n".join([repr(self.table), *notes])

    def _repr_markdown_(self) -> str:
        return repr(self)


def _row(finding: Finding) -> list[str]:
    claim = finding.claim
    sentence, paper = f"**{claim.slug}** {claim.sentence}", f"*{claim.section}:* {claim.paper}"
    return [sentence, paper, claim.value, str(claim.bar), *finding.shown, f"**{finding.verdict}**"]


def _short_row(finding: Finding) -> list[str]:
    claim, (*ours, control) = finding.claim, finding.shown
    measured = ours[0] if len(set(ours)) == 1 else ", ".join(ours)
    what = "" if claim.bar.exact else f" ({claim.value})"
    return [claim.chapter, claim.sentence, claim.paper, measured + what, control, finding.verdict]


# ---- measuring --------------------------------------------------------------------------------------------------


def check(*slugs: str) -> Ledger:
    """Measure the named claims, or all of one chapter (``check("03")``), or all of the book (``check()``).

    Raises:
        ReaderError: there is no such claim.
    """
    wanted = [claim for claim in CLAIMS.values() if not slugs or claim.slug in slugs or claim.chapter in slugs]
    known = set(CLAIMS) | {claim.chapter for claim in CLAIMS.values()}
    if unknown := [slug for slug in slugs if slug not in known]:
        raise ReaderError(f"There is no claim {unknown[0]!r} in the ledger: 'python -m helpers.claims' lists them all.")
    columns = [  # seed after seed, so that the models of one are let go of before those of the next are loaded
        [claim.measured(models) for claim in tqdm(wanted, desc="claims", leave=False)]
        for models in map(Models, (*SEEDS, None))
    ]
    return Ledger([Finding(claim, values, control) for claim, *values, control in zip(wanted, *columns, strict=True)])
