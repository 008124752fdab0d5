"""The ledger: how a claim is judged, and that the README shows what the models of this checkout measure."""

import math
import re
from pathlib import Path

import pytest

from helpers import ReaderError
from helpers.claims import CLAIMS, Claim, Finding, Ledger, check
from helpers.claims.__main__ import BEGIN, END, table_in, write_table
from helpers.claims.ledger import EXACT, NOT_SEEN, REPRODUCED, UNSTABLE, WEAKER, Bar, at_least, at_most, claim

REPOSITORY = Path(__file__).resolve().parent.parent
NUMBER = re.compile(r"[−-]?\d+(?:\.\d+)?")


USUAL = at_least(0.8, weaker=0.5)


def a_claim(bar: Bar = USUAL, also_untrained: bool = False, slug: str = "a", **other) -> Claim:
    return Claim(slug, "A section", "03", "It is so.", "shown", "its size", bar, lambda _: 1.0, also_untrained, **other)


@pytest.mark.parametrize(("values", "control", "verdict"), [
    ([0.9, 0.8, 0.85], 0.1, REPRODUCED),
    ([0.9, 0.8, 0.85], None, REPRODUCED),
    ([0.9, 0.9, 0.9], 0.9, NOT_SEEN),  # training has nothing to do with it
    ([0.79, 0.5, 0.6], 0.1, WEAKER),
    ([0.9, 0.79, 0.9], 0.1, UNSTABLE),
    ([0.9, 0.1, 0.9], 0.1, UNSTABLE),
    ([0.6, 0.4, 0.6], 0.1, UNSTABLE),
    ([0.4, 0.1, 0.2], 0.1, NOT_SEEN),
    ([math.nan] * 3, 0.1, NOT_SEEN),
])
def test_the_verdict(values, control, verdict):
    assert Finding(a_claim(), values, control).verdict == verdict


def test_the_verdict_of_upper_bounds_of_single_bars_and_of_identities():
    assert Finding(a_claim(at_most(0.3, weaker=0.6)), [0.3, 0.1, 0.2], 0.9).verdict == REPRODUCED
    assert Finding(a_claim(at_most(0.3, weaker=0.6)), [0.5, 0.4, 0.6], 0.9).verdict == WEAKER
    assert Finding(a_claim(at_least(0.8)), [0.7, 0.7, 0.7], 0.0).verdict == NOT_SEEN
    assert Finding(a_claim(EXACT, also_untrained=True), [1e-15] * 3, 1e-15).verdict == REPRODUCED
    assert Finding(a_claim(EXACT, also_untrained=True), [1e-15, 1e-3, 1e-15], 1e-15).verdict == UNSTABLE


def test_values_are_shown_with_their_digits_and_errors_as_exact_or_not():
    assert [a_claim(digits=1).show(v) for v in (0.25, -3, None)] == ["0.2", "−3.0", "–"]
    assert [a_claim(EXACT).show(v) for v in (1e-12, 2e-3)] == ["exact", "off by 2e-03"]


def test_a_claim_has_a_name_of_its_own_and_its_docstring_is_the_sentence():
    def measure(book):
        """It is
        so.

        Not this."""

    about = {"section": "A", "chapter": "03", "paper": "", "value": "", "bar": at_least(1)}
    try:
        assert claim("only-for-this-test", **about)(measure) is measure
        assert CLAIMS["only-for-this-test"].sentence == "It is so."
        with pytest.raises(ValueError, match="Two claims"):
            claim("only-for-this-test", **about)(measure)
    finally:
        CLAIMS.pop("only-for-this-test")


def test_an_unknown_claim_is_refused_with_a_sentence():
    with pytest.raises(ReaderError, match="no claim 'nonsense'"):
        check("nonsense")


def test_only_claims_of_the_asked_chapter_or_name_are_measured(monkeypatch):
    monkeypatch.setattr("helpers.claims.ledger.CLAIMS", {slug: a_claim(slug=slug) for slug in "ab"})
    assert len(check().findings) == len(check("03").findings) == 2 and len(check("a").findings) == 1


def test_a_ledger_shows_every_finding_and_why_one_is_missing():
    seen, missing = Finding(a_claim(), [0.9] * 3, 0.1), Finding(a_claim(why_not="Too small."), [0.1] * 3, 0.1)
    shown = Ledger([seen, missing])._repr_markdown_()
    assert shown.count("It is so.") == 2 and shown.count("Too small.") == 1
    assert f"**{REPRODUCED}**" in shown and f"**{NOT_SEEN}**" in shown
    assert len(Ledger([seen]).summary.header) == len(Ledger([seen]).summary.rows[0])


def test_the_readme_is_rewritten_between_its_marks_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold | table\n{END}\nafter", "utf8")
    write_table(readme, "new | table")
    assert readme.read_text("utf8") == f"before\n{BEGIN}\nnew | table\n{END}\nafter"
    readme.write_text("nothing", "utf8")
    with pytest.raises(ReaderError, match="marks"):
        write_table(readme, "new")


# ---- the book's own ledger ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    return check()


def test_every_claim_is_measured_on_every_seed(ledger):
    assert len(ledger.findings) == len(CLAIMS)
    for finding in ledger.findings:
        assert len(finding.values) == 3 and all(math.isfinite(v) for v in finding.values), finding.claim.slug
        assert finding.claim.bar.exact <= (finding.verdict == REPRODUCED), finding.claim.slug


def test_a_claim_that_is_not_reproduced_says_why(ledger):
    silent = [f.claim.slug for f in ledger.findings if f.verdict != REPRODUCED and not f.claim.why_not]
    assert not silent


def test_every_claim_is_shown_in_its_chapter(ledger):
    for finding in ledger.findings:
        chapter, = (REPOSITORY / "chapters").glob(f"{finding.claim.chapter}_*.ipynb")
        assert f'\\"{finding.claim.slug}\\"' in chapter.read_text("utf8"), finding.claim.slug


def test_the_readme_shows_the_ledger(ledger):
    """Word for word; numbers may differ in their last digit, as another processor rounds differently."""
    shown = table_in((REPOSITORY / "README.md").read_text("utf8"))
    measured = ledger.summary._repr_markdown_()
    assert NUMBER.sub("#", shown) == NUMBER.sub("#", measured)
    for one, other in zip(NUMBER.findall(shown), NUMBER.findall(measured), strict=True):
        last_digit = 10.0 ** -len(one.partition(".")[2])
        assert abs(float(one.replace("−", "-")) - float(other.replace("−", "-"))) < 2.5 * last_digit, (one, other)
