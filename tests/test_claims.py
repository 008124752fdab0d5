"""The ledger: how a claim is judged; and that the README and the chapters show one and the same ledger.

Nothing is measured here: the chapters measure every claim when they are run, and their outputs are compared with those
that are saved in them. Here the saved ones are held against the words of the claims and against the README.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import ReaderError
from helpers.claims import CLAIMS, Claim, Evidence, Finding, Ledger, check, ledger, measure
from helpers.claims.__main__ import ROWS, main, write_pages
from helpers.claims.fresh import load_fresh, save_fresh
from helpers.claims.ledger import EXACT, NOT_SEEN, REPRODUCED, UNDECIDED, WEAKER, Bar, Measure, at_least, at_most, claim
from helpers.claims.measure import measured_on
from helpers.claims.models import Models
from helpers.claims.report import not_asked, page
from helpers.statistics import Estimate
from helpers.training import RECIPES
from tests import criteria

REPOSITORY = Path(__file__).resolve().parent.parent
USUAL = at_least(0.8, weaker=0.5)


def a_claim(bar: Bar = USUAL, slug: str = "a", measure: Measure = lambda _: 1.0, **other) -> Claim:
    words = {"chapter": "03", "section": "A section", "paper": "shown", "value": "its size"}
    return Claim(slug, "It is so.", **(words | other), bar=bar, measure=measure)


def about(value: float, error: float = 0.0) -> Estimate:
    return Estimate(value, value - error, value + error)


def found(*values: float, control: float | None = None, error: float = 0.01) -> dict[int, Evidence]:
    """Evidence on seeds 0, 1, …"""
    against = None if control is None else about(control)
    return {seed: Evidence(about(value, error), against) for seed, value in enumerate(values)}


# ---- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bar", "low", "high", "grade"),
    [
        (USUAL, 0.8, 0.9, REPRODUCED),
        (USUAL, 0.79, 0.9, UNDECIDED),
        (USUAL, 0.5, 0.79, WEAKER),
        (USUAL, 0.49, 0.6, UNDECIDED),
        (USUAL, 0.3, 0.49, NOT_SEEN),
        (USUAL, 0.3, 0.9, UNDECIDED),
        (USUAL, math.nan, math.nan, NOT_SEEN),
        (at_least(0.8), 0.1, 0.79, NOT_SEEN),
        (at_most(0.3, weaker=0.6), 0.1, 0.3, REPRODUCED),
        (at_most(0.3, weaker=0.6), 0.31, 0.6, WEAKER),
        (at_most(0.3, weaker=0.6), 0.25, 0.35, UNDECIDED),
    ],
)
def test_a_seed_is_decided_only_if_its_whole_interval_is_on_one_side(bar, low, high, grade):
    assert bar.grade(Estimate((low + high) / 2, low, high)) == grade


@pytest.mark.parametrize(
    ("values", "control", "verdict"),
    [
        ([0.9, 0.85, 0.85], 0.1, REPRODUCED),
        ([0.9, 0.85, 0.85], None, REPRODUCED),
        ([0.9, 0.9, 0.9], 0.9, NOT_SEEN),  # its control passes
        ([0.7, 0.6, 0.6], 0.1, WEAKER),
        ([0.9, 0.7, 0.9], 0.1, WEAKER),
        ([0.9, 0.1, 0.9], 0.1, UNDECIDED),
        ([0.6, 0.4, 0.6], 0.1, UNDECIDED),
        ([0.9, 0.795, 0.9], 0.1, UNDECIDED),
        ([0.4, 0.1, 0.2], 0.1, NOT_SEEN),
    ],
)
def test_the_verdict_is_what_every_seed_says(values, control, verdict):
    assert Finding(a_claim(), found(*values, control=control), {}).verdict == verdict


def test_a_control_that_passes_on_one_seed_alone_is_enough():
    evidence = found(0.9, 0.9, 0.9, control=0.1)
    evidence[1] = Evidence(about(0.9), about(0.8))
    assert Finding(a_claim(), evidence, {}).verdict == NOT_SEEN
    assert Finding(a_claim(geometry=True), evidence, {}).verdict == REPRODUCED


def test_of_trainings_the_mean_is_judged():
    claim = a_claim(of_runs=True)
    assert Finding(claim, found(0.9, 0.79, 0.95, 0.9, control=0.1), {}).verdict == REPRODUCED
    assert Finding(claim, found(0.9, 0.5, 0.95, 0.9, control=0.1), {}).verdict == UNDECIDED


def test_of_trainings_the_mean_of_the_controls_must_not_pass():
    evidence = found(0.9, 0.9, 0.9, control=0.1)
    evidence[1] = Evidence(about(0.9), about(0.85))
    assert Finding(a_claim(of_runs=True), evidence, {}).verdict == REPRODUCED
    assert Finding(a_claim(of_runs=True), found(0.9, 0.9, 0.9, control=0.85), {}).verdict == NOT_SEEN


def test_fresh_seeds_are_judged_by_themselves():
    finding = Finding(a_claim(), found(0.9, 0.9, 0.9), {3: Evidence(about(0.6)), 4: Evidence(about(0.7))})
    assert (finding.verdict, finding.confirmed) == (REPRODUCED, WEAKER)
    assert Finding(a_claim(), found(0.9), {}).confirmed == ""


def test_identities_are_judged_by_their_error():
    assert Finding(a_claim(EXACT), found(1e-15, 1e-14, error=0), {}).verdict == REPRODUCED
    assert Finding(a_claim(EXACT), found(1e-15, 1e-3, error=0), {}).verdict == UNDECIDED


def test_values_are_shown_with_their_intervals_and_errors_as_exact_or_not():
    assert [a_claim(digits=1).show(e) for e in (about(0.25), about(-3.0, 0.5), None)] == [
        "0.2",
        "−3.0 [−3.5, −2.5]",
        "–",
    ]
    assert [a_claim(EXACT).show(about(v)) for v in (1e-12, 2e-3)] == ["exact", "off by 2e-03"]


def test_criteria_are_shown_with_their_direction():
    assert [str(bar) for bar in (USUAL, at_most(410.0), EXACT)] == [
        "≥ 0.8 (weaker: ≥ 0.5)",
        "≤ 410",
        "equal to rounding",
    ]


# ---- entering and measuring claims --------------------------------------------------------------------------------


def test_a_claim_has_a_name_of_its_own_and_its_docstring_is_the_sentence(monkeypatch):
    words = {"chapter": "07", "section": "A section", "paper": "shown", "value": "its size, nats"}
    monkeypatch.setattr(ledger, "CLAIMS", {})
    monkeypatch.setattr(ledger, "WORDS", {"new": words})

    def measure(models):
        """It
        is.

        Not this."""

    assert claim("new", at_least(1.0), needs="trained")(measure) is measure
    entered = ledger.CLAIMS["new"]
    assert (entered.value, entered.sentence, entered.chapter) == ("its size, nats", "It is.", "07")
    assert entered.kind == "finding" and entered.needs == "trained"
    with pytest.raises(ValueError, match="Two claims"):
        claim("new", at_least(1.0))(measure)


def test_there_are_three_kinds_of_claims():
    assert [one.kind for one in (a_claim(), a_claim(geometry=True), a_claim(EXACT))] == [
        "finding",
        "geometry",
        "identity",
    ]


def test_every_claim_has_words_and_all_words_a_claim_or_a_reason():
    assert list(CLAIMS) == [slug for slug in ledger.WORDS if slug not in not_asked()]
    assert {one.chapter for one in CLAIMS.values()} == {f"{number:02}" for number in range(1, 13)} - {"09"}
    assert not [slug for slug, words in ledger.WORDS.items() if "|" in str(words)]
    assert not [one.slug for one in CLAIMS.values() if "|" in one.sentence + one.control]


def test_every_finding_names_a_control():
    assert all(one.control for one in CLAIMS.values() if one.kind == "finding")


def test_words_that_are_gone_are_missed_with_a_sentence(tmp_path):
    with pytest.raises(ReaderError, match="words of the claims are missing"):
        ledger.load_words(tmp_path)
    (tmp_path / "01.toml").write_text("[", "utf8")
    with pytest.raises(ReaderError, match="words of the claims are damaged"):
        ledger.load_words(tmp_path)


def test_what_models_lack_is_not_measured():
    only_trained = a_claim(needs="trained")
    assert only_trained.measured(Models(None)) is None
    assert only_trained.measured(Models(0)) == Evidence(about(1.0))


def test_the_untrained_control_is_measured_once_and_only_where_there_is_no_other(monkeypatch):
    asked = []

    def measure(models: Models) -> Estimate:
        asked.append(models.seed)
        return about(1.0 if models.trained else 0.0)

    claims = [a_claim(measure=measure), a_claim(slug="b", measure=measure, control="another")]
    columns = measured_on(claims, [Models(0), Models(1)])
    assert asked == [None, 0, 0, 1, 1]
    assert [column["a"] for column in columns] == [Evidence(about(1.0), about(0.0))] * 2
    assert columns[0]["b"] == Evidence(about(1.0))


def test_memory_is_released_after_each_claim_of_each_seed(monkeypatch):
    log = []
    monkeypatch.setattr("helpers.claims.measure.release_memory", lambda: log.append("released"))
    measured_on(
        [a_claim(slug=slug, measure=lambda models: log.append(models.seed) or 1.0) for slug in "ab"], [Models(0)]
    )
    assert log == [None, "released", None, "released", 0, "released", 0, "released"]


def test_the_control_is_untrained_and_its_identities_are_asked_in_float64():
    model, tokens = Models(None).exact("zero_layer", n=3, length=7)
    assert model.config == RECIPES["zero_layer"].model and str(model.W_E.dtype) == "torch.float64"
    assert tokens.shape == (3, 7) and (model.W_E.float() == Models(None).load("zero_layer").W_E).all()
    assert (model.W_E.float() != Models(0).load("zero_layer").W_E).any()


def test_no_two_seeds_read_the_same_texts():
    texts = [Models(seed).contexts for seed in range(6)]
    assert len(torch.cat(texts).unique(dim=0)) == 6 * len(texts[0])
    assert (Models(None).contexts == texts[0]).all()
    assert len({tuple(Models(seed).pairs[0][0].tolist()) for seed in range(3)}) == 3
    assert (Models(0).random_repeats(20) != Models(1).random_repeats(20)).any()


def test_an_unknown_claim_is_refused_with_a_sentence():
    with pytest.raises(ReaderError, match="no claim 'nonsense'"):
        check("nonsense")


def test_only_claims_of_the_asked_chapter_or_name_are_measured(monkeypatch):
    claims = {slug: a_claim(slug=slug, chapter=chapter) for slug, chapter in {"a": "03", "b": "03", "c": "04"}.items()}
    monkeypatch.setattr(measure, "CLAIMS", claims)
    assert [len(check(*asked).findings) for asked in ((), ("03",), ("a",), ("a", "04"))] == [3, 2, 1, 2]
    assert [one.value.value for one in check("a").findings[0].discovery.values()] == [1.0] * 3


# ---- fresh seeds --------------------------------------------------------------------------------------------------


def test_what_was_found_on_fresh_seeds_is_kept_in_a_file(tmp_path):
    file = tmp_path / "fresh.json"
    fresh = {"a": {3: Evidence(Estimate(0.9, 0.8, 1.0), about(0.1)), 4: Evidence(about(0.5))}, "b": {3: None}}
    save_fresh(fresh, file)
    assert load_fresh(file) == {"a": fresh["a"], "b": {}}
    file.write_text("{", "utf8")
    with pytest.raises(ReaderError, match="is damaged"):
        load_fresh(file)
    assert load_fresh(tmp_path / "none.json") == {}


def test_fresh_seeds_without_trainings_are_asked_for(tmp_path):
    with pytest.raises(ReaderError, match="no trainings"):
        main(["--fresh", str(tmp_path)])


# ---- tables -------------------------------------------------------------------------------------------------------


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a table, without its header."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def notes_of(markdown: str) -> dict[str, str]:
    """What stands below the table of a ledger: why claims are not reproduced."""
    return dict(re.findall(r"^\*(\S+)\*: (.+)$", markdown, re.MULTILINE))


def test_a_ledger_can_be_read_back_and_says_why():
    claims = [a_claim(), a_claim(slug="b", why_not="Too small."), a_claim(EXACT, slug="c")]
    evidence = [found(0.9, 0.9, 0.9, control=0.1), found(0.1, 0.2, 0.3), found(0.0, 0.0, 0.0, error=0)]
    made_up = Ledger([Finding(one, some, {}) for one, some in zip(claims, evidence, strict=True)])
    assert rows_of(repr(made_up)) == made_up.table.rows and notes_of(repr(made_up)) == {"b": "Too small."}
    assert (
        rows_of(made_up._repr_markdown_()) == made_up.table.rows[:2]
        and "but for rounding: c." in made_up._repr_markdown_()
    )
    shown = ["0.90 [0.89, 0.91]"] * 3
    control = "an untrained model: 0.10"
    assert made_up.table.rows[0] == [
        "**a** It is so.", "*A section:* shown", "its size", str(USUAL), *shown, control, "–", "**reproduced**"
    ]  # fmt: skip


def test_fresh_seeds_stand_beside_the_others():
    finding = Finding(a_claim(), found(0.9, 0.9, 0.9), {3: Evidence(about(0.6)), 4: Evidence(about(0.7))})
    assert Ledger([finding]).table.rows[0][-2:] == ["0.60; 0.70", "**reproduced**, fresh: weaker"]


def test_the_headline_keeps_identities_apart_and_counts_every_verdict():
    claims = [a_claim(), a_claim(slug="b", section="beyond the paper"), a_claim(EXACT, slug="c"), a_claim(slug="d")]
    fresh = {3: Evidence(about(0.9))}
    evidence = [found(*[0.9] * 3), found(*[0.9] * 3), found(*[0.0] * 3, error=0), found(0.1, 0.9, 0.9)]
    of_all = [fresh, fresh, {}, fresh]
    made_up = Ledger([Finding(*one) for one in zip(claims, evidence, of_all, strict=True)])
    assert made_up.headline.startswith(
        "1 identities hold. Of 2 findings of the paper and its follow-up that these models can be asked, "
        "1 are reproduced, 0 are weaker, 0 are not seen, 1 are undecided; 1 more go beyond it. "
        "On fresh seeds 2 of 3 have the same verdict."
    )
    assert made_up.summary.rows == [["03", "1", "3", "2", "0", "0", "1", "2 of 3"]]
    assert all(row in rows_of(page(made_up)) for row in made_up.table.rows)


def test_the_page_and_the_readme_are_written_together(tmp_path):
    (tmp_path / "chapters").mkdir()
    (tmp_path / "README.md").write_text(f"{ROWS.begin}\nold\n{ROWS.end}", "utf8")
    made_up = Ledger([Finding(a_claim(), found(0.9, 0.9, 0.9), {})])
    write_pages(tmp_path, made_up)
    assert ROWS.between(tmp_path / "README.md") == repr(made_up.summary).strip()
    assert (tmp_path / "chapters" / "ledger.md").read_text("utf8") == page(made_up)


def test_the_readme_is_rewritten_between_its_marks_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{ROWS.begin}\nold | table\n{ROWS.end}\nafter", "utf8")
    ROWS.write(readme, "new | table")
    assert readme.read_text("utf8") == f"before\n{ROWS.begin}\nnew | table\n{ROWS.end}\nafter"
    readme.write_text("nothing", "utf8")
    with pytest.raises(ReaderError, match="marks"):
        ROWS.write(readme, "new")


def test_the_command_line_shows_what_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(measure, "CLAIMS", {"a": a_claim()})
    main(["a"])
    assert rows_of(capsys.readouterr().out)[0][0] == "**a** It is so."
    main(["--help"])
    assert "--write" in capsys.readouterr().out


# ---- the book's own ledger, as it is saved ------------------------------------------------------------------------

HEADER = repr(Ledger([])).splitlines()[0]


def saved_ledgers(chapter: Path) -> Iterator[str]:
    """What the cells of a chapter have shown that check claims, identities and all."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        shown = [output.get("data", {}).get("text/plain", "") for output in cell.get("outputs", [])]
        yield from (markdown for markdown in shown if markdown.startswith(HEADER))


@pytest.fixture(scope="module")
def saved() -> dict[str, list[str]]:
    """The ledgers of every chapter, by its number; its companion's among them."""
    ledgers: dict[str, list[str]] = {}
    for path in sorted((REPOSITORY / "chapters").glob("*.ipynb")):
        ledgers.setdefault(path.name[:2], []).extend(saved_ledgers(path))
    return ledgers


@pytest.fixture(scope="module")
def rows(saved) -> dict[str, list[str]]:
    """The row of each claim in its own chapter, by the name of the claim."""
    return {
        one.slug: row
        for one in CLAIMS.values()
        for shown in saved[one.chapter]
        for row in rows_of(shown)
        if row[0].startswith(f"**{one.slug}** ")
    }


def test_every_claim_is_shown_once_in_its_chapter_and_no_other_way_elsewhere(saved, rows):
    assert list(rows) == list(CLAIMS)
    for number, ledgers in saved.items():
        names = [row[0].split("**")[1] for shown in ledgers for row in rows_of(shown)]
        assert len(names) == len(set(names)), number
        assert [row for shown in ledgers for row in rows_of(shown)] == [rows[name] for name in names], number


def test_the_chapters_use_the_words_and_criteria_of_the_claims(rows):
    as_written = [Ledger([Finding(one, {}, {})]).table.rows[0][:4] for one in CLAIMS.values()]
    assert [rows[slug][:4] for slug in CLAIMS] == as_written


def test_every_claim_is_measured_on_every_seed_and_every_identity_holds(rows):
    number = r"−?\d+(\.\d+)?"
    for slug, row in rows.items():
        assert all(re.fullmatch(rf"exact|{number}( \[{number}, {number}\])?", value) for value in row[4:7]), slug
        assert (row[4:7] == ["exact"] * 3 and row[-1] == f"**{REPRODUCED}**") or not CLAIMS[slug].bar.exact, slug
        assert row[7] != "–" or CLAIMS[slug].kind != "finding", slug  # a control


def test_a_claim_that_is_not_reproduced_says_why(rows):
    missing = [slug for slug in CLAIMS if not rows[slug][-1].startswith(f"**{REPRODUCED}**")]
    assert all(CLAIMS[slug].why_not for slug in missing)


def test_the_page_of_the_ledger_shows_what_the_chapters_show(rows):
    page = (REPOSITORY / "chapters" / "ledger.md").read_text("utf8")
    assert [row for row in rows_of(page) if row[0].startswith("**")] == [rows[slug] for slug in CLAIMS]


def test_the_readme_has_the_headline_of_the_page():
    page = (REPOSITORY / "chapters" / "ledger.md").read_text("utf8")
    headline = ROWS.between(REPOSITORY / "README.md").rpartition("\n\n*")[2].removesuffix("*")
    assert headline in page


# ---- criteria -----------------------------------------------------------------------------------------------------


def test_no_criterion_has_changed_since_the_fresh_seeds_were_trained():
    recorded = json.loads(criteria.FILE.read_text("utf8"))
    now = criteria.criteria()
    changed = [name for name in recorded | now if recorded.get(name) != now.get(name)]
    assert not changed, f"the criteria of {changed} are not those that were recorded: see tests/criteria.py"


def test_a_digest_notices_a_moved_bar_another_measure_and_other_words():
    def other(models):
        return 2.0

    same, *changed = [
        criteria.digest(one)
        for one in (
            a_claim(),
            a_claim(at_least(0.79, weaker=0.5)),
            a_claim(measure=other),
            a_claim(value="its length"),
            a_claim(control="another"),
            a_claim(geometry=True),
        )
    ]
    assert criteria.digest(a_claim()) == same and len({same, *changed}) == 6
