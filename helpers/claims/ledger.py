"""What a claim is and how it is judged: by its criterion, with an interval, against a control."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from helpers import ReaderError
from helpers.claims.models import Models
from helpers.files import DATA, how_to_restore
from helpers.statistics import Estimate, mean_of

REPRODUCED, WEAKER, NOT_SEEN, UNDECIDED = "reproduced", "weaker", "not seen", "undecided"
UNTRAINED = "an untrained model"


# ---- criteria -----------------------------------------------------------------------------------------------------


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

    def grade(self, estimate: Estimate) -> str:
        """The verdict on one model: *undecided* if the interval reaches across a line, or is no interval."""
        for line, verdict in ((self.bar, REPRODUCED), (self.weaker, WEAKER)):
            if line is not None:
                ends = {self._beyond(end, line) for end in (estimate.low, estimate.high, estimate.value)}
                if ends == {True}:
                    return verdict
                if len(ends) == 2:
                    return UNDECIDED
        return NOT_SEEN

    def _beyond(self, value: float, line: float) -> bool:
        return value >= line if self.at_least else value <= line  # false for a value that is no number

    def __str__(self) -> str:
        if self.exact:
            return "equal to rounding"
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bar:.3g}" + ("" if self.weaker is None else f" (weaker: {sign} {self.weaker:.3g})")


def at_least(bar: float, weaker: float | None = None) -> Bar:
    return Bar(bar, at_least=True, weaker=weaker)


def at_most(bar: float, weaker: float | None = None) -> Bar:
    return Bar(bar, at_least=False, weaker=weaker)


EXACT = Bar(1e-9, at_least=False, exact=True)  # relative error, in float64


# ---- claims -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """What was measured of a claim on the models of one seed, and of its control."""

    value: Estimate
    control: Estimate | None = None


Measure = Callable[[Models], Evidence | Estimate | float]


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: what it says, where, what would count as seeing it here, and how to measure that.

    Its kind is *identity* (exact, for any weights), *geometry* (true of any model of these sizes) or *finding*.
    """

    slug: str
    sentence: str  # in our words
    chapter: str  # the chapter of this book that makes it, "03"
    section: str  # the paper's heading
    paper: str  # what the paper prints or says of it
    value: str  # what is measured, with its unit
    bar: Bar
    measure: Measure
    control: str = UNTRAINED  # what must not meet the bar; the measure returns it unless it is the untrained model
    needs: str = ""  # what ``Models`` must have for the claim to make sense: "trained", "induction_heads", …
    geometry: bool = False
    of_runs: bool = False  # about trainings: the verdict is that of their mean, and a unit is a training
    digits: int = 2
    why_not: str = ""  # what we think is the reason, for a claim that our models do not show, or not all

    @property
    def kind(self) -> str:
        return "identity" if self.bar.exact else "geometry" if self.geometry else "finding"

    def measured(self, models: Models) -> Evidence | None:
        """What is found on the models of a seed; None if they lack what the claim is about."""
        if self.needs and not getattr(models, self.needs):
            return None
        found = self.measure(models)
        if isinstance(found, float):
            found = Estimate(found, found, found)
        return Evidence(found) if isinstance(found, Estimate) else found

    def show(self, estimate: Estimate | None) -> str:
        """The value with its interval; of an identity, whether it holds."""
        if estimate is None:
            return "–"
        if self.bar.exact:
            return "exact" if self.bar.met(estimate.value) else f"off by {estimate.value:.0e}"
        value, low, high = (f"{x:.{self.digits}f}" for x in (estimate.value, estimate.low, estimate.high))
        return (value if low == high else f"{value} [{low}, {high}]").replace("-", "−")


# ---- entering claims ----------------------------------------------------------------------------------------------


def load_words(folder: Path) -> dict[str, dict[str, str]]:
    """The words of every claim: "section", "paper", "value", and "why_not" where that is needed; and its "chapter".

    The names of the files begin with the number of the chapter. What the models of this book cannot be asked has a
    "sentence" and "not_asked", the reason, in place of a value.

    Raises:
        ReaderError: a file is missing or damaged.
    """
    try:
        files = {file.stem: tomllib.loads(file.read_text("utf8")) for file in sorted(folder.glob("*.toml"))}
    except (OSError, ValueError) as error:
        raise ReaderError(f"The words of the claims are damaged: {how_to_restore(folder)}.") from error
    if not files:
        raise ReaderError(f"The words of the claims are missing: {how_to_restore(folder)}.")
    return {slug: words | {"chapter": name[:2]} for name, claims in files.items() for slug, words in claims.items()}


WORDS = load_words(DATA / "claims")
CLAIMS: dict[str, Claim] = {}


def claim(slug: str, bar: Bar, **about) -> Callable[[Measure], Measure]:
    """Enter the decorated function, which measures a claim, into the ledger; ``about`` are other fields of ``Claim``.

    The first paragraph of its docstring is the claim in our words.
    """

    def enter(measure: Measure) -> Measure:
        """Put ``measure`` into ``CLAIMS`` and hand it back as it is. Raises ValueError if the slug is taken."""
        if slug in CLAIMS:
            raise ValueError(f"Two claims are called {slug!r}.")
        CLAIMS[slug] = Claim(
            slug, " ".join(measure.__doc__.split("\n\n")[0].split()), **WORDS[slug], bar=bar, measure=measure, **about
        )
        return measure

    return enter


# ---- findings -----------------------------------------------------------------------------------------------------

Measured = Mapping[int, Evidence | None]  # by seed


@dataclass(frozen=True)
class Finding:
    """A claim, measured: on the seeds with which its criterion was found, and on fresh ones that nobody had seen."""

    claim: Claim
    discovery: Measured
    confirmation: Measured

    @property
    def verdict(self) -> str:
        return verdict(self.claim, list(self.discovery.values()))

    @property
    def confirmed(self) -> str:
        """The verdict on the fresh seeds alone; empty where there are none."""
        return verdict(self.claim, list(self.confirmation.values())) if self.confirmation else ""


def verdict(claim: Claim, evidence: Sequence[Evidence | None]) -> str:
    """What several seeds say together: what each of them says, or the weaker of two neighbouring verdicts.

    *Undecided* if an interval reaches across a line on any seed, or if the seeds contradict each other. A control that
    meets the bar on any seed leaves nothing to be reproduced: *not seen*.
    """
    found = [one for one in evidence if one is not None]
    if claim.of_runs and found:
        found = [on_average(found)]
    if claim.kind == "finding" and any(one.control and claim.bar.met(one.control.value) for one in found):
        return NOT_SEEN
    grades = {claim.bar.grade(one.value) for one in found}
    if len(grades) == 1:
        return grades.pop()
    return WEAKER if grades == {REPRODUCED, WEAKER} else UNDECIDED if grades else NOT_SEEN


def on_average(evidence: Sequence[Evidence]) -> Evidence:
    """The mean over trainings, of the value and of the control; how much they differ is the uncertainty."""
    columns = zip(*((one.value, one.control) for one in evidence), strict=True)
    return Evidence(*(mean_of(torch.tensor([one.value for one in column])) for column in columns))
