"""The explorer of a whole training: what it says of every training of the book, and what its curves and bars show."""

import html
import itertools
import json
import re

import numpy as np
import pytest
from bs4 import BeautifulSoup
from matplotlib.colors import to_hex

from helpers import ReaderError, formation, token_views
from helpers.explorers import Explorer, training_explorer
from helpers.explorers.trainings import FAINT, explore_training, head_parts, what_has_formed
from helpers.files import DATA
from helpers.formation import half_formed, load_formation
from helpers.history import column, final

NAMES = sorted(file.stem for file in (DATA / "formations").glob("*.json"))
KINDS = ("At least half formed", "Not yet", "Never in this training")
SCORES = ("previous_token", "copying", "prefix_matching")


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return load_formation("laptop")


@pytest.fixture
def explorer(rows) -> Explorer:
    return training_explorer({"free": rows, "withheld": load_formation("withheld")}, 400)


def soup(view) -> BeautifulSoup:
    return BeautifulSoup(view.html, "html.parser")


def said(sentence: str) -> dict[str, list[str]]:
    """The parts that are named under each kind, without the heads in brackets."""
    found = dict(re.findall(rf"({'|'.join(KINDS)}): (.*?)\.(?= [A-Z]|$)", sentence))
    assert " ".join(f"{kind}: {names}." for kind, names in found.items()) == sentence
    return {kind: re.findall(r"([a-z]+(?: token| matching)?) \(\d", found.get(kind, "")) for kind in KINDS}


# ---- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_what_has_formed_is_what_the_book_calls_half_formed(name):
    rows = load_formation(name)
    parts = head_parts(rows)
    whole = "matching" in rows[0]
    halves = half_formed(rows) if whole else {}
    for i, row in enumerate(rows):
        found = said(what_has_formed(parts, i))
        formed, coming, never = (found[kind] for kind in KINDS)
        assert sorted(formed + coming + never) == sorted(part.split(" (")[0] for part in parts)
        for part in set(halves) - set(never) if i else ():
            assert (part in formed) == (row["n_tokens"] >= halves[part]), (part, row["step"])
    assert formed and not coming


@pytest.mark.parametrize("name", [name for name in NAMES if "matching" in load_formation(name)[0]])
def test_the_parts_of_two_layers_are_those_of_the_chapter(name):
    rows = load_formation(name)
    expected = formation.circuit_parts(rows)
    for part, values in head_parts(rows).items():
        curve = expected.pop(part.split(" (")[0])
        assert np.allclose(values[1:], curve.values) and len(values) == len(rows)
    assert not expected


def test_the_heads_of_a_part_are_named_after_what_they_do_in_the_end(rows):
    assert list(head_parts(rows)) == [
        "previous token (0:3)",
        "copying (1:0)",
        "matching (1:0 through 0:3)",
        "prefix matching (1:0)",
    ]
    one_layer = load_formation("laptop_one_layer")
    for (part, values), key in zip(head_parts(one_layer).items(), SCORES, strict=True):
        ends = column(one_layer, key)[-3:].mean(0)[0]
        assert part.endswith(f"(0:{int(ends.argmax())})") and np.isclose(values[-3:].mean(), ends.max())


def test_what_never_forms_is_said_to_the_end():
    for name, never in {
        "laptop": [],
        "laptop_one_layer": ["prefix matching"],
        "laptop_smeared": [],
        "withheld": ["previous token", "matching", "prefix matching"],
    }.items():
        rows = load_formation(name)
        parts = head_parts(rows)
        assert never == [part.split(" (")[0] for part, values in parts.items() if final(values) < FAINT]
        for i in (0, len(rows) // 2, -1):
            assert said(what_has_formed(parts, i % len(rows)))[KINDS[2]] == never


def test_a_part_that_has_half_and_loses_it_again_is_not_called_formed(rows):
    values = head_parts(rows)["copying (1:0)"].clone()
    values[20] = 0.1
    assert said(what_has_formed({"copying (1:0)": values}, 19))["Not yet"] == ["copying"]
    assert said(what_has_formed({"copying (1:0)": values}, 21))["Not yet"] == []


def test_the_caption_has_step_tokens_and_the_fall_on_random_tokens(rows):
    for row in rows:
        caption = explore_training(rows, row["step"])[0].caption
        fall = row["random_first_copy"] - row["random_second_copy"]
        assert caption.startswith(f"Step {row['step']:,}, after {row['n_tokens'] / 1e6:.2f} million tokens: ")
        assert f"cost {abs(fall):.2f} nats {'more' if fall < -0.005 else 'less'} when" in caption


# ---- curves -------------------------------------------------------------------------------------------------------


def points(line) -> np.ndarray:
    return np.array([pair.split(",") for pair in line["points"].split()], dtype=float)


@pytest.mark.parametrize("name", ["laptop", "laptop_one_layer", "laptop_smeared", "withheld"])
def test_every_curve_is_drawn_to_scale_with_a_dot_and_a_number_at_the_cursor(name):
    rows = load_formation(name)
    at = len(rows) // 3
    page = soup(explore_training(rows, rows[at]["step"])[0])
    losses = [key for key in ("validation_loss", "random_first_copy", "random_second_copy") if key in rows[0]]
    panels = [[column(rows, key).numpy() for key in losses], [v.numpy() for v in head_parts(rows).values()]]
    steps = column(rows, "step").numpy()
    for panel, series in zip(page.select(".book-curves > div"), panels, strict=True):
        lines = [points(line) for line in panel.select("polyline")]
        dots = [[float(dot["cx"]), float(dot["cy"])] for dot in panel.select("circle")]
        numbers = [b.get_text() for b in panel.select(":scope > div b")]
        assert numbers == [f"{values[at]:.2f}" for values in series]
        assert dots == [line[at].tolist() for line in lines]
        across = np.polyfit(steps, lines[0][:, 0], 1)
        up = np.polyfit(np.concatenate(series), np.concatenate(lines)[:, 1], 1)
        assert across[0] > 0 > up[0]
        for line, values in zip(lines, series, strict=True):
            assert np.allclose(line[:, 0], np.polyval(across, steps), atol=0.15)
            assert np.allclose(line[:, 1], np.polyval(up, values), atol=0.15)
        cursor = panel.select_one("path[stroke=black]")["d"]
        assert cursor.startswith(f"M{dots[0][0]:g} ") or cursor.startswith(f"M{dots[0][0]} ")
        low, high = (float(tick["d"].split()[1].split("H")[0]) for tick in panel.select("path[stroke='#ddd']")[:2])
        first, second = (float(text.get_text()) for text in panel.select("text[text-anchor=end]")[:2])
        assert np.allclose([low, high], np.polyval(up, [first, second]), atol=0.2)


def test_a_click_anywhere_on_a_panel_chooses_the_nearest_step(rows):
    for panel in soup(explore_training(rows, 1757)[0]).select(".book-curves > div"):
        rects, x = panel.select("rect"), points(panel.polyline)[:, 0]
        chosen = [json.loads(rect["data-choose"]) for rect in rects]
        assert chosen == [{"step": f"{row['step']:,}"} for row in rows]
        edges = [(float(r["x"]), float(r["x"]) + float(r["width"])) for r in rects]
        assert all(abs(b - c) < 0.11 for (_, b), (c, _) in itertools.pairwise(edges))
        middles = (x[1:] + x[:-1]) / 2
        assert np.allclose([end for _, end in edges[:-1]], middles, atol=0.16)
        assert abs(edges[0][0] - x[0]) < 0.11 and abs(edges[-1][1] - x[-1]) < 0.11


def test_the_still_has_the_same_lines_in_the_same_colours_and_a_mark_at_the_step(rows, monkeypatch):
    figures = []
    monkeypatch.setattr(token_views, "render", lambda figure, caption: figures.append(figure) or {})
    view = explore_training(rows, 799)[0]
    view.still()
    panels = soup(view).select(".book-curves > div")
    for axes, panel in zip(figures[0].axes, panels, strict=True):
        *drawn, mark = axes.lines
        assert set(mark.get_xdata()) == {799} and axes.get_xscale() == "linear"
        assert [to_hex(line.get_color()).upper() for line in drawn] == [p["stroke"] for p in panel.select("polyline")]
        assert all(len(line.get_xdata()) == len(rows) for line in drawn)
        assert axes.get_title() == panel.b.get_text()


# ---- bars ---------------------------------------------------------------------------------------------------------


def test_bars_are_the_scores_of_the_row_on_one_scale_for_the_whole_training(rows):
    widths, numbers = [], []
    for row in rows[::4]:
        page = soup(explore_training(rows, row["step"])[1])
        assert [th.get_text() for th in page.select("th[scope=row]")] == [f"{i}:{j}" for i in (0, 1) for j in range(4)]
        shown = [[td.get_text() for td in tr.select("td:not(.book-bar)")] for tr in page.select("tbody tr")]
        expected = np.array([row[key] for key in SCORES]).reshape(3, 8).T
        assert shown == [[f"{value:+.2f}" for value in of_head] for of_head in expected]
        widths += [float(re.search(r"; width: ([\d.]+)%", bar["style"])[1]) for bar in page.select("i")]
        numbers += expected.flatten().tolist()
    assert max(widths) <= 100
    assert np.allclose(widths, np.abs(numbers) * 100 / (1 - column(rows, "copying").min().item()), atol=0.06)


def test_bars_of_the_still_have_that_scale_too(rows, monkeypatch):
    figures = []
    monkeypatch.setattr(token_views, "render", lambda figure, caption: figures.append(figure) or {})
    for step in (40, 1757):
        explore_training(rows, step)[1].still()
    assert figures[0].axes[0].get_ylim() == figures[1].axes[0].get_ylim() == (column(rows, "copying").min(), 1.0)


# ---- the shell ----------------------------------------------------------------------------------------------------


def test_the_slider_goes_through_every_row_and_follows_while_it_is_dragged(explorer, rows):
    slider = explorer.controls["step"]
    assert [step for _, step in slider.options] == [row["step"] for row in rows]
    assert slider.continuous_update and slider.value == 399
    for row in rows:
        slider.value = row["step"]
        assert f"Step {row['step']:,}," in explorer.shown[0].caption.html and not explorer.message.value


def test_another_training_keeps_the_step_or_the_nearest(explorer):
    explorer.controls["step"].value = 799
    explorer.controls["training"].value = "withheld"
    assert explorer.controls["step"].value == 800 and "Step 800," in explorer.shown[0].caption.html
    assert len(explorer.controls["step"].options) == 89 and "Never" in explorer.shown[1].caption.html
    explorer.controls["training"].value = "free"
    assert explorer.controls["step"].value == 799 and "Never" not in explorer.shown[1].caption.html


def test_a_click_moves_the_slider(explorer):
    last = soup(explorer.shown[0].body).select("rect")[-1]
    explorer.shown[0].body.chosen = html.unescape(last["data-choose"])
    assert explorer.controls["step"].value == 1757 and "Step 1,757," in explorer.shown[0].caption.html


def test_a_step_that_was_not_measured_is_refused_with_a_sentence(rows):
    with pytest.raises(ReaderError, match=r"Nothing was measured at step 1,000: choose .*, such as 1,757\.$"):
        explore_training(rows, 1000)
