"""The ledger as a whole: measured on the book's seeds, with what was measured on fresh ones, and as tables."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from helpers.claims.fresh import load_fresh, measured_on_fresh_runs
from helpers.claims.ledger import NOT_SEEN, REPRODUCED, UNDECIDED, WEAKER, WORDS, Finding, on_average
from helpers.claims.measure import find, measured_on
from helpers.claims.models import Models
from helpers.training import SEEDS
from helpers.views import Table

VERDICTS = (REPRODUCED, WEAKER, NOT_SEEN, UNDECIDED)
BEYOND = "beyond the paper"


@dataclass(frozen=True)
class Ledger:
    """Findings, as a table: the claim, the paper's words and figure, ours on each seed, the control and the verdict."""

    findings: Sequence[Finding]

    def of_kind(self, kind: str) -> list[Finding]:
        """The *identity*, *geometry* or *finding* ones."""
        return [finding for finding in self.findings if finding.claim.kind == kind]

    @cached_property
    def table(self) -> Table:
        seeds = [f"seed {seed}" for seed in SEEDS]
        header = ["claim", "the paper", "measured", "criterion", *seeds, "control", "fresh seeds", "verdict"]
        return Table(dict.fromkeys(header, ""), [_row(finding) for finding in self.findings])

    @property
    def headline(self) -> str:
        """The whole in three sentences, identities apart from findings."""
        findings = self.of_kind("finding")
        asked = [finding for finding in findings if finding.claim.section != BEYOND]
        fresh = [finding for finding in findings if finding.confirmation]
        same = sum(finding.verdict == finding.confirmed for finding in fresh)
        confirmed = f"On fresh seeds {same} of {len(fresh)} have the same verdict." if fresh else "No fresh seed yet."
        return (
            f"{len(self.of_kind('identity'))} identities hold. Of {len(asked)} findings of the paper and its follow-up "
            f"that these models can be asked, {_counted(asked)}; {len(findings) - len(asked)} more go beyond it. "
            f"{confirmed} {len(self.of_kind('geometry'))} claims hold for any model of these sizes, and "
            f"{len(not_asked())} cannot be asked of these models."
        )

    @cached_property
    def summary(self) -> Table:
        """A row for each chapter, for the README."""
        header = ["chapter", "identities", "findings", *VERDICTS, "same verdict on fresh seeds"]
        chapters = sorted({finding.claim.chapter for finding in self.findings})
        return Table(dict.fromkeys(header, ""), [self._summed_up(chapter) for chapter in chapters], self.headline)

    def _summed_up(self, chapter: str) -> list[str]:
        of_chapter = Ledger([finding for finding in self.findings if finding.claim.chapter == chapter])
        findings = of_chapter.of_kind("finding")
        counts, fresh = Counter(f.verdict for f in findings), [f for f in findings if f.confirmation]
        same = sum(finding.verdict == finding.confirmed for finding in fresh)
        numbers = [len(of_chapter.of_kind("identity")), len(findings), *(counts[verdict] for verdict in VERDICTS)]
        return [chapter, *map(str, numbers), f"{same} of {len(fresh)}" if fresh else "–"]

    def __repr__(self) -> str:
        notes = [f"*{f.claim.slug}*: {f.claim.why_not}" for f in self.findings if f.claim.why_not]
        return "\n\n".join([repr(self.table), *notes])

    def _repr_markdown_(self) -> str:
        """As a chapter shows it: findings as rows, identities in one sentence."""
        rows = [f for f in self.findings if not (f.claim.kind == "identity" and f.verdict == REPRODUCED)]
        exact = [f.claim.slug for f in self.findings if f not in rows]
        table = [repr(Ledger(rows))] if rows else []
        return "\n\n".join(table + ([f"Exact on every seed, but for rounding: {', '.join(exact)}."] if exact else []))


def _counted(findings: Iterable[Finding]) -> str:
    counts = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counts[verdict]} are {verdict}" for verdict in VERDICTS)


def _row(finding: Finding) -> list[str]:
    claim = finding.claim
    sentence, paper = f"**{claim.slug}** {claim.sentence}", f"*{claim.section}:* {claim.paper}"
    seeds = [claim.show(one and one.value) for one in finding.discovery.values()]
    verdict = f"**{finding.verdict}**" + (f", fresh: {finding.confirmed}" if finding.confirmation else "")
    return [sentence, paper, claim.value, str(claim.bar), *seeds, _control(finding), _fresh(finding), verdict]


def _control(finding: Finding) -> str:
    """What the control had on each seed; of the untrained model, which is one, its single value."""
    controls = [one.control for one in finding.discovery.values() if one and one.control]
    shown = list(dict.fromkeys(finding.claim.show(control) for control in controls))
    return f"{finding.claim.control}: {'; '.join(shown)}" if shown else "–"


def _fresh(finding: Finding) -> str:
    """What fresh seeds have; of trainings, which are many, the mean."""
    claim, found = finding.claim, list(finding.confirmation.values())
    if claim.of_runs and found:
        return f"{claim.show(on_average(found).value)}, the mean of {len(found)}"
    return "; ".join(claim.show(one and one.value) for one in found) or "–"


def not_asked() -> dict[str, dict[str, str]]:
    """The words of what the paper claims and these models cannot be asked."""
    return {slug: words for slug, words in WORDS.items() if "not_asked" in words}


# ---- the whole ----------------------------------------------------------------------------------------------------


def check(*slugs: str, at_once: int = 1) -> Ledger:
    """Measure the named claims, or all of one chapter (``check("03")``), or all of the book (``check()``).

    So many seeds ``at_once``: with one thread of torch for each, that is faster, and takes more memory.

    Raises:
        ReaderError: there is no such claim.
    """
    wanted = find(slugs)
    fresh = load_fresh() | measured_on_fresh_runs(wanted)
    columns = dict(zip(SEEDS, measured_on(wanted, map(Models, SEEDS), at_once), strict=True))
    return Ledger(
        [
            Finding(claim, {seed: column[claim.slug] for seed, column in columns.items()}, fresh.get(claim.slug, {}))
            for claim in wanted
        ]
    )


INTRODUCTION = """\
# The ledger

Every claim of the paper that this book checks. `python -m helpers.claims --write` measures it all and writes this page.

A finding has a *criterion*, decided before its fresh seeds were trained. On each seed, which has models and texts of \
its own, the measured value has a 95 % interval from resampling what it averages over. It is *reproduced* if the whole \
interval meets the criterion on every seed and its control, the strongest that we could think of, does not; *weaker* \
if it meets the weaker criterion only; *not seen* if it meets neither; *undecided* if an interval reaches across a \
line or the seeds contradict each other. Seeds 0, 1 and 2 were known when the criteria were chosen; the fresh seeds \
were not.
"""


def page(ledger: Ledger) -> str:
    """The full ledger as a Markdown page: findings and identities by chapter, and what could not be asked."""
    parts = [INTRODUCTION, ledger.headline]
    for chapter in sorted({finding.claim.chapter for finding in ledger.findings}):
        of_chapter = [finding for finding in ledger.findings if finding.claim.chapter == chapter]
        parts += [f"## Chapter {chapter}", repr(Ledger(of_chapter))]
    rows = [
        [
            words["chapter"],
            f"**{slug}** {words['sentence']}",
            f"*{words['section']}:* {words['paper']}",
            words["not_asked"],
        ]
        for slug, words in not_asked().items()
    ]
    parts += ["## Not asked", repr(Table(dict.fromkeys(["chapter", "claim", "the paper", "why not"], ""), rows))]
    return "\n\n".join(parts) + "\n"
