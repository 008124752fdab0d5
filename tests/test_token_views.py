"""Views of tokens and charts without a browser: what goes in is harmless and right, and is saved as a picture."""

import base64
import io
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from bs4 import BeautifulSoup, NavigableString, Tag
from matplotlib import colormaps
from PIL import Image

from helpers import ReaderError, token_views
from helpers.figures import BLUE, COLOURS, RED, eigenvalue_planes
from helpers.token_views import attention_view, bar_view, eigenvalue_view, token_view
from helpers.views import LIVE, View, code

HELPERS = Path(token_views.__file__).parent
NASTY = ["<START>", "</script>", "<script>alert(1)</script>", "<b", "<!--", "&lt;", "&amp", "😀", "\\x00", "\0", "␣",
         "↵", '"', "'", "\\", "$x$", "`", "*", "|", "%s", "${a}", "]]>", "\u2028", "</span><i>", '" onload="x',
         "'><img src=x>", "data-choose", "</output>", "<![CDATA["]  # fmt: skip
OF_TOKENS = {
    "div": {"class", "role", "aria-label", "data-weights", "data-from"},
    "span": {"class", "role", "style", "tabindex", "data-at", "data-says", "data-choose"},
    "output": {"class"},
    "img": {"class", "src", "alt"},
    "small": set(),
}
OF_BARS = {
    **{"table": {"class"}, "thead": set(), "tbody": set(), "tr": set(), "td": {"class"}},
    **{"th": {"scope", "style"}, "i": {"style"}, "code": set()},
}


def parsed(html: str, may_have: dict[str, set[str]] | None = None) -> BeautifulSoup:
    """The page that a browser makes of ``html``; every tag and attribute must be one of ``may_have``."""
    page = BeautifulSoup(html, "html.parser", on_duplicate_attribute=_refuse)
    for part in page.descendants:
        assert isinstance(part, Tag) or type(part) is NavigableString, f"a comment or declaration: {part!r}"
        if may_have is not None and isinstance(part, Tag):
            assert set(part.attrs) <= may_have[part.name], part
    return page


def _refuse(_attributes, name: str, _value) -> None:
    raise AssertionError(f"an attribute twice: {name}")


def row_of(view: View) -> Tag:
    """The tokens of a view."""
    return parsed(view.html).select_one(".book-tokens")


def tokens_of(view: View) -> list[str]:
    return [token.get_text() for token in row_of(view)]


def weights_of(view: View) -> torch.Tensor:
    """The attention that a view shows, ``[dest, src]``, 0 where it has none."""
    rows = json.loads(row_of(view)["data-weights"])
    assert [len(row) for row in rows] == list(range(1, len(rows) + 1)), "a row reaches beyond its own token"
    return torch.tensor([row + [0.0] * (len(rows) - len(row)) for row in rows], dtype=torch.double)


def numbers_of(view: View) -> list[float]:
    """The number that is said of each token, and with it the token and its place."""
    said = [(token["data-says"], f"{token.get_text()} ({i}): ") for i, token in enumerate(row_of(view))]
    assert all(words.startswith(start) for words, start in said)
    return [float(words.removeprefix(start).split()[0]) for words, start in said]


def bars_of(view: View) -> dict[str, dict[str, float]]:
    """The numbers that stand beside the bars, by series and name; the bars themselves must be as long."""
    head, *rows = parsed(view.html).select("tr")
    series = [cell.get_text().removeprefix("■ ") for cell in head.select("th")[2:]]
    names = [row.th.get_text() for row in rows]
    numbers = [[float(cell.get_text()) for cell in row.select("td:not(.book-bar)")] for row in rows]
    _check_lengths([row.select("i") for row in rows], numbers)
    columns = zip(*numbers, strict=True)
    return {one: dict(zip(names, column, strict=True)) for one, column in zip(series, columns, strict=True)}


def _check_lengths(bars: list[list[Tag]], numbers: list[list[float]]) -> None:
    """Bars begin or end at one zero, lie to the side of their sign, and one unit has one length."""
    places = [[[float(n) for n in re.findall(r"(-?[\d.]+)%", bar["style"])] for bar in row] for row in bars]
    flat = [
        (*place, value) for row, of in zip(places, numbers, strict=True) for place, value in zip(row, of, strict=True)
    ]
    zero = next(start + (width if value < 0 else 0) for start, width, value in flat)
    unit = max(width for _, width, _ in flat) / (max(abs(value) for *_, value in flat) or 1)
    for start, width, value in flat:
        assert -0.01 <= start and start + width <= 100.2, "a bar leaves its cell"
        assert abs(start + (width if value < 0 else 0) - zero) < 0.3 or not value
        assert abs(width - unit * abs(value)) < 0.2 + 0.011 * unit  # numbers are rounded


def dots_of(view: View) -> torch.Tensor:
    """Where the eigenvalues are drawn, as points of a plane whose y goes up and whose outer ring has the radius 1."""
    dots = [dot for dot in parsed(view.html).select("circle") if dot.get("cx")]
    return torch.tensor([[float(dot["cx"]), -float(dot["cy"])] for dot in dots])


def alt_of(caption: str) -> str:
    return parsed(caption).get_text()


def uniform(n: int) -> torch.Tensor:
    return torch.ones(n, n).tril() / torch.arange(1, n + 1)[:, None]


# ---- tokens -----------------------------------------------------------------------------------------------------

MAKE = {
    "attention": lambda: attention_view(NASTY, uniform(len(NASTY)), "<b>0:1</b>", chooses="position"),
    "numbers": lambda: token_view(NASTY, torch.arange(len(NASTY)), "nats"),
    "numbers of both signs": lambda: token_view(NASTY, torch.arange(len(NASTY)) - 5.0, '<i>"nats"</i>', "Said."),
}


@pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)
def test_tokens_are_harmless_and_unchanged(make):
    view = make()
    page = parsed(view.html, OF_TOKENS)
    assert tokens_of(view) == NASTY and len(page.select("span")) == len(NASTY)
    assert page.get_text().startswith("".join(NASTY)) and page.output.get_text() == ""
    assert [int(token["data-at"]) for token in row_of(view)] == list(range(len(NASTY)))
    parsed(view.caption, {"code": set()})


def test_what_is_said_of_a_token_is_the_token_itself():
    assert numbers_of(MAKE["numbers"]()) == list(range(len(NASTY)))
    for token, word in zip(row_of(MAKE["numbers of both signs"]()), NASTY, strict=True):
        assert token["data-says"].startswith(f"{word} (") and token["data-says"].endswith(' (<i>"nats"</i>)')


def test_a_page_with_a_token_that_is_not_escaped_would_be_seen():
    view = MAKE["numbers"]()
    for escaped, raw in (("&lt;b", "<b"), ("&quot;", '"'), ("&lt;!--", "<!-- -->"), ("&lt;/span&gt;", "</span>")):
        assert escaped in view.html
        with pytest.raises((AssertionError, KeyError, ValueError)):
            broken = View(view.still, html=view.html.replace(escaped, raw))
            parsed(broken.html, OF_TOKENS)
            assert tokens_of(broken) == NASTY and numbers_of(broken)


def test_lines_of_a_text_end_where_they_ended():
    row = row_of(token_view(["a", "↵", "b;↵", "↵c"], [0.0] * 4, ""))
    assert [token.get("class") for token in row] == [None, ["book-end"], ["book-end"], None]


def test_the_keyboard_enters_a_row_once():
    for make in MAKE.values():
        assert [token["tabindex"] for token in row_of(make())] == ["0"] + ["-1"] * (len(NASTY) - 1)


def test_a_token_is_a_button_only_where_a_click_does_something():
    tokens, pattern = ["a", "b"], uniform(2)
    for token in row_of(attention_view(tokens, pattern, "h")):
        assert not {"data-choose", "role"} & set(token.attrs)
    row = row_of(attention_view(tokens, pattern, "h", chooses="position"))
    assert [json.loads(token["data-choose"]) for token in row] == [{"position": 0}, {"position": 1}]
    assert [token["role"] for token in row] == ["button"] * 2


def test_attention_is_rounded_and_small():
    pattern = torch.rand(64, 64, dtype=torch.double).tril()
    view = attention_view([f"t{i}" for i in range(64)], pattern, "h", at=7)
    given = weights_of(view)
    assert len(row_of(view)["data-weights"]) < 64 * 65 / 2 * 7.2 and torch.equal(
        given, given.mul(1000).round().div(1000)
    )
    assert (given - pattern).abs().max() <= 0.000501  # of each destination and source
    assert row_of(view)["data-from"] == "7"


def test_the_map_has_destinations_downwards_and_sources_to_the_right():
    pattern = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.0, 0.1, 0.9]])
    picture = parsed(attention_view(list("abc"), pattern, '0:1"<').html).img
    dots = Image.open(io.BytesIO(base64.b64decode(picture["src"].removeprefix("data:image/png;base64,"))))
    assert dots.size == (3, 3) and '0:1"<' in picture["alt"]
    for dest, src in itertools.product(range(3), repeat=2):
        wanted = colormaps["cividis"](pattern[dest, src].item(), bytes=True)[:3]
        assert max(abs(a - b) for a, b in zip(dots.getpixel((src, dest)), map(int, wanted), strict=True)) <= 1


def test_the_caption_names_the_strongest_attention():
    pattern = torch.zeros(4, 4)
    pattern[:, 0] = 1
    pattern[3] = torch.tensor([0.1, 0.0, 0.9, 0.0])
    assert attention_view(list("abcd"), pattern, "<one>", caption="Look.").caption == (
        f"Look. Strongest attention of {code('<one>')}, the first token aside: from <code>d</code> (3) "
        "to <code>c</code> (2), 0.90."
    )
    assert attention_view(["a"], uniform(1), "h").caption == ""


def test_numbers_of_tokens_are_signed_about_zero():
    view = token_view(["a", "b", "c"], [0.5, -2.004, -0.001], "nats")
    assert [token["data-says"] for token in row_of(view)] == [
        "a (0): +0.50 (nats)",
        "b (1): -2.00 (nats)",
        "c (2): +0.00 (nats)",
    ]
    grounds = [token["style"].removeprefix("background: ") for token in row_of(view)]
    assert [ground[:7] for ground in grounds] == [RED, BLUE, BLUE]
    strengths = [int(ground[7:], 16) for ground in grounds]
    assert strengths[2] == 0 < strengths[0] and abs(strengths[0] * 4 - strengths[1]) <= 4 and strengths[1] < 200
    assert view.caption == "Furthest from 0: <code>b</code> (1), -2.00."
    assert token_view(["a"], [0.0], "nats").caption == "Largest: <code>a</code> (0), 0.00."


def test_numbers_that_are_never_negative_have_no_sign():
    view = token_view(["a", "b"], [0.0, 2.5], "nats", "Said.")
    assert [token["data-says"] for token in row_of(view)] == ["a (0): 0.00 (nats)", "b (1): 2.50 (nats)"]
    assert view.caption == "Said. Largest: <code>b</code> (1), 2.50."


@pytest.mark.parametrize(
    "make",
    [
        lambda: attention_view(list("ab"), uniform(3), "h"),
        lambda: attention_view(list("ab"), uniform(2)[:1], "h"),
        lambda: attention_view([], uniform(0), "h"),
        lambda: attention_view(list("ab"), 2 * uniform(2), "h"),
        lambda: attention_view(list("ab"), uniform(2) - 1, "h"),
        lambda: attention_view(list("ab"), uniform(2) * torch.nan, "h"),
        lambda: attention_view(["a"] * 129, uniform(129), "h"),
        lambda: token_view([], [], "nats"),
        lambda: token_view(["a"], [1.0, 2.0], "nats"),
        lambda: token_view(["a"], torch.tensor([[1.0]]), "nats"),
        lambda: token_view(["a"], [float("inf")], "nats"),
        lambda: token_view(["a"] * 1025, [0.0] * 1025, "nats"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_one_sentence(make):
    with pytest.raises(ReaderError, match=r"^[A-Z][^\n]*\.$"):
        make()


def test_128_tokens_are_shown():
    assert len(tokens_of(attention_view(["a"] * 128, uniform(128), "h"))) == 128


# ---- charts -----------------------------------------------------------------------------------------------------


def test_bars_have_their_number_beside_them():
    series = {"intact": [1.0, 2.5, 0.0], "now": [0.004, 5.0, 3.333]}
    view = bar_view(series, ["a", code("<b>"), "c"], "nats", "Said.")
    page = parsed(view.html, OF_BARS)
    assert bars_of(view) == {"intact": {"a": 1, "<b>": 2.5, "c": 0}, "now": {"a": 0, "<b>": 5, "c": 3.33}}
    assert page.select("th")[1].get_text() == "nats" and page.get_text().count("<b>") == 1
    assert [cell["style"] for cell in page.select("th[style]")] == [f"color: {colour}" for colour in COLOURS[:2]]
    assert [bar["style"].split("background: ")[1] for bar in page.select("i")] == [*COLOURS[:2]] * 3
    assert [re.findall(r"([\d.]+)%", bar["style"]) for bar in page.select("i")[3:4]] == [["0.0", "100.0"]]


def test_bars_below_zero_lie_to_the_left_of_it():
    view = bar_view({"logit": [-1.0, 3.0, -0.25]}, ["a", "b", "c"], "nats", "Said.")
    assert bars_of(view) == {"logit": {"a": -1, "b": 3, "c": -0.25}}
    styles = [re.findall(r"([\d.]+)%", bar["style"]) for bar in parsed(view.html).select("i")]
    assert styles == [["0.0", "25.0"], ["25.0", "75.0"], ["18.8", "6.2"]]
    assert [cell.get_text() for cell in parsed(view.html).select("td:not(.book-bar)")] == ["-1.00", "+3.00", "-0.25"]


def test_bars_that_are_all_zero_have_no_length():
    view = bar_view({"share": [0.0, 0.0]}, ["a", "b"], "", "")
    assert bars_of(view) == {"share": {"a": 0, "b": 0}}


def test_a_bar_that_is_drawn_wrong_would_be_seen():
    view = bar_view({"logit": [-1.0, 3.0, -0.25]}, ["a", "b", "c"], "nats", "Said.")
    for right, wrong in (("width: 75.0", "width: 60.0"), ("margin-left: 18.8", "margin-left: 25.0")):
        assert view.html.count(right) == 1
        with pytest.raises(AssertionError):
            bars_of(View(view.still, html=view.html.replace(right, wrong)))


def test_eigenvalues_stand_where_the_picture_has_them():
    values = torch.tensor([4, -2, 1 + 3j, 1 - 3j, 0.04j, 1e-9, -1e-9 + 0j])
    view = eigenvalue_view("0:1", values, "Said.")
    (axes, *_) = eigenvalue_planes({"0:1": values}, columns=1).axes
    angle, radius = torch.tensor(axes.collections[0].get_offsets()).T
    wanted = torch.stack([angle.cos(), angle.sin()], dim=1) * radius[:, None] / 3
    assert (dots_of(view) - wanted).abs().max() < 0.002
    assert dots_of(view)[0].tolist() == [1, 0] and dots_of(view)[2, 1] > 0 > dots_of(view)[3, 1]
    page = parsed(view.html)
    fills = [dot["fill"] for dot in page.select("circle[cx]")]
    assert fills == [BLUE, RED, BLUE, BLUE, RED, BLUE, RED]
    rings = sorted(float(ring["r"]) for ring in page.select("circle:not([cx])"))
    assert rings == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-3) and page.svg["aria-label"] == "Eigenvalues of head 0:1"


# ---- what is saved ----------------------------------------------------------------------------------------------

CHARTS = {
    "bars": lambda: bar_view({"a": [1.0, -2.0]}, [code("<b>"), code("&amp")], "nats", f"Of {code(NASTY[2])}."),
    "eigenvalues": lambda: eigenvalue_view("0:1", torch.tensor([1 + 1j, -0.5]), f"Of {code('<i>')}."),
}


@pytest.mark.parametrize("make", (MAKE | CHARTS).values(), ids=MAKE | CHARTS)
@pytest.mark.filterwarnings("error::UserWarning")  # matplotlib's, for a letter that its font lacks
def test_a_view_is_saved_as_a_picture_and_its_caption(make, shown):
    view = make()
    view._ipython_display_()
    (picture, metadata), (caption, _) = shown
    assert set(picture) == {LIVE, "image/png", "text/plain"} and set(caption) == {LIVE, "text/markdown", "text/plain"}
    assert base64.b64decode(picture["image/png"]).startswith(b"\x89PNG")
    assert caption["text/markdown"] == f"*{view.caption}*"
    assert picture["text/plain"] == alt_of(view.caption) != ""
    assert metadata == {"image/png": {"alt": picture["text/plain"]}}


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The figures that are rendered."""
    figures = []
    monkeypatch.setattr(
        token_views, "render", lambda figure, caption: figures.append(figure) or {"text/plain": caption}
    )
    return figures


def test_no_picture_is_drawn_for_a_running_notebook(drawn):
    for make in (MAKE | CHARTS).values():
        assert make().html
    assert drawn == []


def test_the_picture_of_attention_has_sources_to_the_right_and_destinations_downwards(drawn):
    pattern = torch.tensor([[1.0, 0.0], [0.25, 0.75]])
    assert attention_view(["a", "b"], pattern, "0:0", caption="Look.").still()["text/plain"].startswith("Look. Str")
    axes = drawn[0].axes[0]
    assert axes.get_title() == "0:0"
    assert axes.images[0].get_array().tolist() == pattern.tolist() and axes.images[0].get_clim() == (0, 1)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("source", "destination")
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]


def test_the_picture_of_tokens_shows_the_same_numbers(drawn):
    token_view(["a", "b↵", "c"], [1.0, -2.0, 0.0], "loss, nats").still()
    axes, colours = drawn[0].axes
    assert [text.get_text() for text in axes.texts] == ["a", "b↵", "c"] and colours.get_xlabel() == "loss, nats"
    assert colours.get_xlim() == (-2, 2)


def test_the_picture_of_bars_shows_the_same_numbers(drawn):
    series = {"one": [1.0, -2.0], "other": [0.5, 0.0]}
    view = bar_view(series, [code("<b>"), "random tokens, second copy"], "nats", "Said.")
    assert view.still() == {"text/plain": "Said."}
    (axes,) = drawn[0].axes
    shown = {name: list(of.values()) for name, of in bars_of(view).items()}
    assert [bar.get_height() for bar in axes.patches] == [*shown["one"], *shown["other"]]
    labels = axes.get_xticklabels()
    assert axes.get_ylabel() == "nats" and [label.get_rotation() for label in labels] == [0, 0]
    assert [label.get_text() for label in labels] == ["<b>", "random tokens,\nsecond copy"]


# ---- the program of the page ------------------------------------------------------------------------------------

PROGRAM, STYLES = ((HELPERS / f"page.{kind}").read_text("utf8") for kind in ("js", "css"))
PYTHON = "\n".join(file.read_text("utf8") for file in sorted(HELPERS.rglob("*.py")))


@pytest.mark.skipif(not shutil.which("node"), reason="no node here, which knows what JavaScript is")
def test_the_program_of_the_page_can_be_read(tmp_path):
    def problem(program: str) -> str:
        (tmp_path / "page.mjs").write_text(program, "utf8")
        return subprocess.run(["node", "--check", tmp_path / "page.mjs"], capture_output=True, text=True).stderr

    assert problem(PROGRAM) == "" and "SyntaxError" in problem(PROGRAM + "}")


def data_names(program: str) -> set[str]:
    """Every ``data-`` attribute that JavaScript or CSS reads: ``dataset.fooBar`` is ``data-foo-bar``."""
    read = re.findall(r"dataset\.(\w+)\b(?! = )", program)
    in_selectors = re.findall(r"\[data-([\w-]+)|attr\(data-([\w-]+)\)", program)
    return {re.sub("[A-Z]", lambda c: f"-{c[0].lower()}", name) for name in read} | {a or b for a, b in in_selectors}


def test_every_attribute_that_the_page_reads_is_written():
    read = data_names(PROGRAM) | data_names(STYLES)
    assert {"choose", "at", "says", "weights", "from"} <= read
    assert {name for name in read if f'data-{name}="' not in PYTHON} == set()


def test_every_class_of_the_page_is_written():
    named = set(re.findall(r"\.(book-[\w-]+)", PROGRAM + STYLES))
    given = set(re.findall(r'class="(book-[\w-]+)"', PYTHON)) | set(re.findall(r'"(book-[\w-]+)"', PROGRAM))
    assert "book-tokens" in named and named <= given


def test_the_page_asks_for_nothing():
    assert not re.search(r"https?:|fetch|import |XMLHttp|url\(", PROGRAM + STYLES)
