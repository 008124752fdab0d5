"""What a claim is, how it is judged, and the ledger that shows it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.claims.book import Book
from helpers.figures import Table
from helpers.training import SEEDS

REPRODUCED, WEAKER, NOT_SEEN, UNSTABLE = "reproduced", "weaker", "not seen", "unstable across seeds"


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
    section: str  # the paper's heading
    chapter: str  # the chapter of this book that makes it, "03"
    sentence: str  # in our words
    paper: str  # what the paper prints or says of it
    value: str  # what is measured, with its unit
    bar: Bar
    measure: Callable[[Book], float | None]
    also_untrained: bool = False  # true of untrained models too: an identity, geometry, the absence of something
    digits: int = 2
    why_not: str = ""  # what we think is the reason, for a claim that our models do not show, or not all

    def show(self, value: float | None) -> str:
        if value is None:
            return "–"
        if self.bar.exact:
            return "exact" if self.bar.met(value) else f"off by {value:.0e}"
        return f"{value:.{self.digits}f}".replace("-", "−")


CLAIMS: dict[str, Claim] = {}


def claim(slug: str, **about) -> Callable:
    """Enter the decorated function into the ledger; the first paragraph of its docstring is the claim's sentence."""

    def enter(measure: Callable[[Book], float | None]) -> Callable[[Book], float | None]:
        """Put ``measure`` into ``CLAIMS`` and hand it back as it is. Raises ValueError if the slug is taken."""
        if slug in CLAIMS:
            raise ValueError(f"Two claims are called {slug!r}.")
        sentence = " ".join(measure.__doc__.split("\n\n")[0].split())
        also_untrained = about.pop("also_untrained", about["bar"].exact)
        CLAIMS[slug] = Claim(slug, sentence=sentence, measure=measure, also_untrained=also_untrained, **about)
        return measure

    return enter


@dataclass(frozen=True)
class Finding:
    """A claim, measured: on each seed, and on the untrained control (None where a value makes no sense)."""

    claim: Claim
    values: Sequence[float]
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


@dataclass(frozen=True)
class Ledger:
    """Findings, as a table: the claim, the paper's figure, ours on each seed, the control and the verdict."""

    findings: Sequence[Finding]

    def __getitem__(self, slug: str) -> Finding:
        return next(finding for finding in self.findings if finding.claim.slug == slug)

    @cached_property
    def table(self) -> Table:
        header = ["claim", "paper", "measured", "criterion",
                  *(f"seed {seed}" for seed in SEEDS), "untrained", "verdict"]
        return Table(header, [_row(finding) for finding in self.findings])

    @cached_property
    def summary(self) -> Table:
        """The same in fewer columns, for the README."""
        header = ["chapter", "claim", "the paper", "here, seeds 0, 1, 2", "untrained", "verdict"]
        verdicts = [finding.verdict for finding in self.findings]
        counts = ", ".join(f"{verdicts.count(v)} {v}" for v in (REPRODUCED, WEAKER, UNSTABLE, NOT_SEEN))
        return Table(header, [_short_row(finding) for finding in self.findings], f"{len(verdicts)} claims: {counts}.")

    def _repr_markdown_(self) -> str:
        notes = [f"*{f.claim.slug}*: {f.claim.why_not}" for f in self.findings if f.verdict != REPRODUCED]
        return "\n\n".join([self.table._repr_markdown_(), *notes])

    def __repr__(self) -> str:
        return self._repr_markdown_()


def _row(finding: Finding) -> list[str]:
    claim = finding.claim
    return [f"**{claim.slug}** {claim.sentence}", claim.paper, claim.value,
            "equal to rounding" if claim.bar.exact else str(claim.bar),
            *map(claim.show, finding.values), claim.show(finding.control), f"**{finding.verdict}**"]


def _short_row(finding: Finding) -> list[str]:
    claim = finding.claim
    ours = [claim.show(value) for value in finding.values]
    measured = ours[0] if len(set(ours)) == 1 else ", ".join(ours)
    what = "" if claim.bar.exact else f" ({claim.value})"
    return [claim.chapter, claim.sentence, claim.paper, measured + what, claim.show(finding.control), finding.verdict]


def check(*slugs: str) -> Ledger:
    """Measure the named claims, or all of one chapter (``check("03")``), or all of the book (``check()``).

    Raises:
        ReaderError: there is no such claim.
    """
    wanted = [claim for claim in CLAIMS.values() if not slugs or claim.slug in slugs or claim.chapter in slugs]
    known = set(CLAIMS) | {claim.chapter for claim in CLAIMS.values()}
    if unknown := [slug for slug in slugs if slug not in known]:
        raise ReaderError(f"There is no claim {unknown[0]!r} in the ledger: 'python -m helpers.claims' lists them all.")
    with tqdm(total=len(wanted) * (len(SEEDS) + 1), desc="claims", leave=False) as bar:
        columns = [_measure(wanted, Book(seed), bar) for seed in (*SEEDS, None)]
    return Ledger([Finding(claim, values, control) for claim, *values, control in zip(wanted, *columns, strict=True)])


def _measure(claims: Sequence[Claim], book: Book, bar: tqdm) -> list[float | None]:
    """All claims of one book, then those of the next: what a book has loaded and measured is let go of in between."""
    values = []
    for claim in claims:
        values.append(claim.measure(book))
        bar.update()
    return values
