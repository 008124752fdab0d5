"""The ledger: how a claim is judged; and that the README and the chapters show one and the same ledger.

Nothing is measured here: the chapters measure every claim when they are run, and their outputs are compared with those
that are saved in them. Here the saved ones are held against the words of the claims and against the README.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
import torch

from helpers import ReaderError
from helpers.claims import CLAIMS, Claim, Finding, Ledger, check, ledger
from helpers.claims.__main__ import BEGIN, END, main, table_in, write_table
from helpers.claims.chapter_03 import finishes_another_word, within_word
from helpers.claims.chapter_06 import repeated_bigrams
from helpers.claims.ledger import EXACT, NOT_SEEN, REPRODUCED, UNSTABLE, WEAKER, Bar, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.text import Text
from helpers.training import RECIPES
from tests.examples import Words, corpus_of

REPOSITORY = Path(__file__).resolve().parent.parent
USUAL = at_least(0.8, weaker=0.5)


def a_claim(bar: Bar = USUAL, slug: str = "a", chapter: str = "03", **other) -> Claim:
    return Claim(slug, chapter, "A section", "It is so.", "shown", "its size", bar, lambda _: 1.0, **other)


# ---- verdicts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "control", "verdict"),
    [
        ([0.9, 0.8, 0.85], 0.1, REPRODUCED),
        ([0.9, 0.8, 0.85], None, REPRODUCED),
        ([0.9, 0.9, 0.9], 0.9, NOT_SEEN),  # training has nothing to do with it
        ([0.79, 0.5, 0.6], 0.1, WEAKER),
        ([0.9, 0.79, 0.9], 0.1, UNSTABLE),
        ([0.9, 0.1, 0.9], 0.1, UNSTABLE),
        ([0.6, 0.4, 0.6], 0.1, UNSTABLE),
        ([0.4, 0.1, 0.2], 0.1, NOT_SEEN),
        ([math.nan] * 3, 0.1, NOT_SEEN),
    ],
)
def test_the_verdict(values, control, verdict):
    assert Finding(a_claim(), values, control).verdict == verdict


def test_the_verdict_of_upper_bounds_of_single_bars_and_of_identities():
    assert Finding(a_claim(at_most(0.3, weaker=0.6)), [0.3, 0.1, 0.2], 0.9).verdict == REPRODUCED
    assert Finding(a_claim(at_most(0.3, weaker=0.6)), [0.5, 0.4, 0.6], 0.9).verdict == WEAKER
    assert Finding(a_claim(at_least(0.8)), [0.7, 0.7, 0.7], 0.0).verdict == NOT_SEEN
    assert Finding(a_claim(EXACT, also_untrained=True), [1e-15] * 3, 1e-15).verdict == REPRODUCED
    assert Finding(a_claim(EXACT, also_untrained=True), [1e-15, 1e-3, 1e-15], 1e-15).verdict == UNSTABLE


def test_values_are_shown_with_their_digits_and_errors_as_exact_or_not():
    assert [a_claim(digits=1).show(v) for v in (0.25, -3.0, None)] == ["0.2", "−3.0", "–"]
    assert [a_claim(EXACT).show(v) for v in (1e-12, 2e-3)] == ["exact", "off by 2e-03"]


def test_criteria_are_shown_with_their_direction():
    assert [str(bar) for bar in (USUAL, at_most(410.0), EXACT)] == [
        "≥ 0.8 (weaker: ≥ 0.5)",
        "≤ 410",
        "equal to rounding",
    ]


# ---- entering and measuring claims --------------------------------------------------------------------------------


@pytest.fixture
def empty_ledger(monkeypatch):
    monkeypatch.setattr(ledger, "CLAIMS", {})
    monkeypatch.setattr(ledger, "WORDS", {"new": {"section": "A section", "paper": "shown", "value": "its size, nats"}})


def test_a_claim_has_a_name_of_its_own_and_its_docstring_is_the_sentence(empty_ledger):
    def measure(models):
        """It
        is.

        Not this."""

    measure.__module__ = "chapters.chapter_07"
    assert claim("new", at_least(1.0), needs="trained")(measure) is measure
    entered = ledger.CLAIMS["new"]
    assert (entered.value, entered.sentence, entered.chapter) == ("its size, nats", "It is.", "07")
    assert not entered.also_untrained and entered.needs == "trained"
    with pytest.raises(ValueError, match="Two claims"):
        claim("new", at_least(1.0))(measure)


def test_an_identity_holds_for_untrained_models_too(empty_ledger):
    @claim("new", EXACT)
    def measure(models):
        """Error."""

    assert ledger.CLAIMS["new"].also_untrained


def test_every_claim_has_words_and_all_words_a_claim():
    assert list(CLAIMS) == list(ledger.WORDS)
    assert {one.chapter for one in CLAIMS.values()} == {f"0{number}" for number in range(1, 9)}
    assert not [slug for slug, words in ledger.WORDS.items() if "|" in CLAIMS[slug].sentence + str(words)]


def test_words_that_are_gone_are_missed_with_a_sentence(tmp_path):
    with pytest.raises(ReaderError, match="words of the claims .* train again|name the folder"):
        ledger.load_words(tmp_path / "claims.toml")


def test_what_models_lack_is_not_measured():
    induction = a_claim(needs="induction_heads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Models, "induction_heads", [])
        assert induction.measured(Models(0)) is None
        patch.setattr(Models, "induction_heads", [(1, 3)])
        assert induction.measured(Models(0)) == 1
    assert a_claim(needs="trained").measured(Models(None)) is None


def test_the_control_is_untrained_and_its_identities_are_asked_in_float64():
    model, tokens = Models(None).exact("zero_layer", n=3, length=7)
    assert model.config == RECIPES["zero_layer"].model and str(model.W_E.dtype) == "torch.float64"
    assert tokens.shape == (3, 7) and (model.W_E.float() == Models(None).load("zero_layer").W_E).all()
    assert (model.W_E.float() != Models(0).load("zero_layer").W_E).any()


def test_an_unknown_claim_is_refused_with_a_sentence():
    with pytest.raises(ReaderError, match="no claim 'nonsense'"):
        check("nonsense")


def test_only_claims_of_the_asked_chapter_or_name_are_measured(monkeypatch):
    claims = {slug: a_claim(slug=slug, chapter=chapter) for slug, chapter in {"a": "03", "b": "03", "c": "04"}.items()}
    monkeypatch.setattr(ledger, "CLAIMS", claims)
    assert [len(check(*asked).findings) for asked in ((), ("03",), ("a",), ("a", "04"))] == [3, 2, 1, 2]
    assert check("a").findings[0].values == [1.0] * 3 and check("a").findings[0].control == 1.0


# ---- single claims ------------------------------------------------------------------------------------------------

WORDS = Words("<START>", " plot", " plots", "co", "mp", "uter", " computer", " comic", " of", ".", " zen")


def test_within_a_word_there_is_a_letter_on_both_sides_of_the_seam():
    pairs = [("co", "mp"), ("co", " of"), (".", "mp"), (" plot", ".")]
    assert [within_word(WORDS, *(WORDS.words.index(part) for part in pair)) for pair in pairs] == [True, *[False] * 3]


@pytest.mark.parametrize(
    "source, max_gap, finishes",
    [
        (" zen", 9, True),
        ("uter", 9, False),  # not a whole word
        (" comic", 9, False),  # shares its beginning
        (" of", 9, False),  # too short
        (" computer", 9, False),
        (" zen", 1, False),  # stands right before it whenever it stands before it
    ],
)
def test_another_word_is_a_whole_one_that_is_not_alike(source, max_gap, finishes):
    source = WORDS.words.index(source)
    text = Text(corpus_of([source, 3, 4] + [source, 9, 9, 3, 4] * 2, WORDS))
    assert finishes_another_word(text, source, 3, 4, max_gap) == finishes
    assert not finishes_another_word(text, source, 9, 4, max_gap)


def test_repeated_bigrams_come_after_the_same_token_again():
    tokens = torch.tensor([[0, 1, 2, 3, 1, 2, 2, 1, 3]])
    assert repeated_bigrams(tokens).nonzero()[:, 1].tolist() == [4]


# ---- tables -------------------------------------------------------------------------------------------------------


def rows_of(markdown: str) -> list[list[str]]:
    """The cells of a table, without its header."""
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    return [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in lines[2:]]


def notes_of(markdown: str) -> dict[str, str]:
    """What stands below the table of a ledger: why claims are not reproduced."""
    return dict(re.findall(r"^\*(\S+)\*: (.+)$", markdown, re.MULTILINE))


def short(row: list[str]) -> list[str]:
    """What a row of a chapter is in the README."""
    (slug, _, sentence), (paper, value, criterion, *ours, control, verdict) = row[0].partition(" "), row[1:]
    measured = ours[0] if len(set(ours)) == 1 else ", ".join(ours)
    what = "" if criterion == str(EXACT) else f" ({value})"
    chapter = CLAIMS[slug.strip("*")].chapter
    return [chapter, sentence, paper.partition(":* ")[2], measured + what, control, verdict.strip("*")]


def test_a_ledger_can_be_read_back_and_says_why_a_claim_is_not_reproduced(monkeypatch):
    claims = [a_claim(slug="a"), a_claim(slug="b", why_not="Too small."), a_claim(EXACT, slug="c", also_untrained=True)]
    values = [[0.9] * 3, [0.1, 0.2, 0.3], [0.0] * 3]
    made_up = Ledger([Finding(one, some, None) for one, some in zip(claims, values, strict=True)])
    assert rows_of(repr(made_up)) == made_up.table.rows and rows_of(repr(made_up.summary)) == made_up.summary.rows
    assert made_up._repr_markdown_() == repr(made_up) and notes_of(repr(made_up)) == {"b": "Too small."}
    for name in "abc":
        monkeypatch.setitem(CLAIMS, name, a_claim(slug=name))
    assert [short(row) for row in made_up.table.rows] == made_up.summary.rows
    assert made_up.summary.rows[0] == ["03", "It is so.", "shown", "0.90 (its size)", "–", REPRODUCED]
    assert made_up.summary.rows[1][3] == "0.10, 0.20, 0.30 (its size)" and made_up.summary.rows[2][3] == "exact"
    assert "*3 claims: 2 reproduced, 0 weaker, 0 unstable across seeds, 1 not seen.*" in repr(made_up.summary)
    assert made_up.table.rows[0][1] == "*A section:* shown"


def test_the_readme_is_rewritten_between_its_marks_only(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold | table\n{END}\nafter", "utf8")
    write_table(readme, "new | table")
    assert readme.read_text("utf8") == f"before\n{BEGIN}\nnew | table\n{END}\nafter"
    readme.write_text("nothing", "utf8")
    with pytest.raises(ReaderError, match="marks"):
        write_table(readme, "new")


def test_the_command_line_shows_what_is_asked(monkeypatch, capsys):
    monkeypatch.setattr(ledger, "CLAIMS", {"a": a_claim()})
    main(["a"])
    assert rows_of(capsys.readouterr().out)[0][0] == "**a** It is so."
    main(["--help"])
    assert "--readme" in capsys.readouterr().out


# ---- the book's own ledger, as it is saved ------------------------------------------------------------------------

HEADER = repr(Ledger([])).splitlines()[0]


def saved_ledgers(chapter: Path) -> Iterator[str]:
    """What the cells of a chapter have shown that check claims."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        shown = [output.get("data", {}).get("text/markdown", "") for output in cell.get("outputs", [])]
        yield from (markdown for markdown in shown if markdown.startswith(HEADER))


@pytest.fixture(scope="module")
def saved() -> dict[str, list[str]]:
    """The ledgers of every chapter, by its number."""
    return {path.name[:2]: list(saved_ledgers(path)) for path in sorted((REPOSITORY / "chapters").glob("*.ipynb"))}


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
    as_written = [Ledger([Finding(one, [math.nan] * 3, None)]).table.rows[0][:4] for one in CLAIMS.values()]
    assert [rows[slug][:4] for slug in CLAIMS] == as_written


def test_every_claim_is_measured_on_every_seed_and_every_identity_holds(rows):
    for slug, row in rows.items():
        assert all(re.fullmatch(r"exact|−?\d+(\.\d+)?", value) for value in row[4:7]), slug
        assert (row[4:8] == ["exact"] * 4 and row[8] == f"**{REPRODUCED}**") or not CLAIMS[slug].bar.exact, slug


def test_a_claim_that_is_not_reproduced_says_why(saved, rows):
    notes = {slug: why for ledgers in saved.values() for shown in ledgers for slug, why in notes_of(shown).items()}
    missing = [slug for slug in CLAIMS if rows[slug][-1] != f"**{REPRODUCED}**"]
    assert all(CLAIMS[slug].why_not for slug in missing)
    assert notes == {slug: CLAIMS[slug].why_not for slug in missing}


def test_the_readme_shows_what_the_chapters_show(rows):
    table = table_in((REPOSITORY / "README.md").read_text("utf8"))
    assert rows_of(table) == [short(rows[slug]) for slug in CLAIMS]
    verdicts = [rows[slug][-1].strip("*") for slug in CLAIMS]
    counts = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in (REPRODUCED, WEAKER, UNSTABLE, NOT_SEEN))
    assert table.endswith(f"*{len(CLAIMS)} claims: {counts}.*")
