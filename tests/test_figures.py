"""What a figure shows is what it was given: the data of its artists, their places, colours and names."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

from helpers import figures
from helpers.figures import BLUE, COLOURS, GREEN, GREY, LINE_STYLES, MARKERS, RED, plain
from helpers.statistics import Estimate


def points(axes: Axes, i: int) -> list[tuple[float, float]]:
    """The points of the i-th line."""
    return list(zip(*axes.lines[i].get_data(), strict=True))


def dots(axes: Axes, i: int = 0) -> np.ndarray:
    return np.asarray(axes.collections[i].get_offsets())


def names(axes: Axes) -> dict[str, tuple]:
    """What is written in the axes, and the point that it names."""
    return {text.get_text(): text.xy for text in axes.texts}


def tick_names(axis) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.get_legend().get_texts()] if axes.get_legend() else []


def titles(figure: Figure) -> list[str]:
    return [axes.get_title() for axes in figure.axes]


def labels(axes: Axes) -> tuple[str, str]:
    return axes.get_xlabel(), axes.get_ylabel()


# ---- lines and points -------------------------------------------------------------------------------------------

FALLING, RISING = ([1, 2, 4], [9.0, 5.0, 3.0]), (range(3), torch.tensor([0.0, 0.5, 2.0]))


def test_lines_go_through_their_points_under_their_names():
    (axes,) = figures.lines({"falling": FALLING, "rising": RISING}, "step", "nats").axes
    assert points(axes, 0) == [(1, 9), (2, 5), (4, 3)] and points(axes, 1) == [(0, 0), (1, 0.5), (2, 2)]
    assert [line.get_color() for line in axes.lines] == [BLUE, RED]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--"]
    assert [line.get_marker() for line in axes.lines] == ["None", "None"]
    assert legend(axes) == ["falling", "rising"] and labels(axes) == ("step", "nats")
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("linear", "linear", "")
    assert not axes.xaxis_inverted() and not axes.yaxis_inverted()


def test_few_points_are_marked_and_their_ticks_are_written_as_they_are():
    figure = figures.lines({"loss": ([16, 64, 384], [3, 2, 1])}, "d_model", "nats", xscale="log", xticks=[16, 64, 384])
    (axes,) = figure.axes
    figure.canvas.draw()
    assert axes.get_xscale() == "log" and axes.lines[0].get_marker() == "o"
    assert axes.get_xticks().tolist() == [16, 64, 384] and tick_names(axes.xaxis) == ["16", "64", "384"]
    assert len(axes.get_xticks(minor=True)) == 0


def test_guides_are_level_lines_at_their_height():
    for axes in (
        *figures.lines({"loss": FALLING}, "step", "nats", guides={"floor": 2.5, "ceiling": 8.0}).axes,
        *figures.line_panels({"": {"loss": FALLING}}, "", [""], guides={"floor": 2.5, "ceiling": 8.0}).axes,
        *figures.bars({"loss": [1, 2]}, ["a", "b"], "nats", guides={"floor": 2.5, "ceiling": 8.0}).axes,
    ):
        flat = [line for line in axes.lines if line.get_color() == GREY]
        assert [line.get_ydata() for line in flat] == [[2.5, 2.5], [8, 8]] and names(axes) == {
            "floor": (0, 2.5),
            "ceiling": (0, 8.0),
        }
        assert legend(axes) in ([], ["loss"])


def test_panels_of_lines_stand_in_order_and_share_looks_and_legend():
    first, second = {"b": FALLING}, {"a": RISING, "b": ([7, 8], [1, 2])}
    figure = figures.line_panels({"one": first, "two": second}, "step", ["nats", "share"])
    left, right = figure.axes
    assert titles(figure) == ["one", "two"] and left.get_position().x0 < right.get_position().x0
    assert [labels(axes) for axes in figure.axes] == [("step", "nats"), ("step", "share")]
    assert points(left, 0) == [(1, 9), (2, 5), (4, 3)] and points(right, 1) == [(7, 1), (8, 2)]
    assert points(right, 0) == [(0, 0), (1, 0.5), (2, 2)]
    assert (left.lines[0].get_color(), left.lines[0].get_linestyle()) == (BLUE, "-")
    assert [(line.get_color(), line.get_linestyle()) for line in right.lines] == [(RED, "--"), (BLUE, "-")]
    assert legend(left) == ["b"] and legend(right) == ["a"]
    assert [axes.get_xscale() for axes in figure.axes] == ["log", "log"] and left.get_ylim() != right.get_ylim()


def test_panels_of_lines_have_marks_ticks_and_a_common_scale_if_asked():
    curves = {"one": {"a": ([1, 10], [1, 2])}, "two": {"a": ([1, 10], [0, 90])}}
    figure = figures.line_panels(
        curves, "", ["", ""], xscale="linear", marks={"here": 3.0}, xticks=[1, 10], share_y=True
    )
    for axes in figure.axes:
        assert axes.lines[1].get_xdata() == [3, 3] and names(axes) == {"here": (3.0, 1)}
        assert axes.get_xscale() == "linear" and tick_names(axes.xaxis) == ["1", "10"]
        assert axes.lines[0].get_marker() == "None"
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    with pytest.raises(ValueError):
        figures.line_panels(curves, "", ["one label for two panels"])


def test_more_series_than_colours_are_all_drawn():
    many = [f"series {i}" for i in range(9)]
    (axes,) = figures.lines({name: ([0, 1], [i, i]) for i, name in enumerate(many)}, "", "").axes
    assert legend(axes) == many and [points(axes, i)[0][1] for i in range(9)] == list(range(9))
    (axes,) = figures.scatter({name: ([i], [i]) for i, name in enumerate(many)}, "", "").axes
    assert legend(axes) == many and [dots(axes, i)[0][0] for i in range(9)] == list(range(9))
    (axes,) = figures.bars({name: [i] for i, name in enumerate(many)}, ["only"], "").axes
    assert legend(axes) == many and [patch.get_height() for patch in axes.patches] == list(range(9))
    figure = figures.histograms({name: [0.5] * i for i, name in enumerate(many)}, "", "", bounds=(0, 1), bins=1)
    assert titles(figure) == many and [axes.patches[0].get_height() for axes in figure.axes] == list(range(9))
    assert len(set(zip(COLOURS, LINE_STYLES, strict=True))) == len(set(COLOURS)) == len(set(MARKERS)) == 7


def test_scatter_puts_points_and_their_names_where_they_belong():
    groups = {"heads": ([0.1, 0.2, 0.3], [1.0, -1.0, 0.5]), "untrained": (torch.tensor([5.0]), torch.tensor([6.0]))}
    figure = figures.scatter(groups, "copying", "matching", labels={"heads": ["0:0", "", "0:2"]})
    (axes,) = figure.axes
    assert dots(axes).tolist() == [[0.1, 1.0], [0.2, -1.0], [0.3, 0.5]] and dots(axes, 1).tolist() == [[5, 6]]
    assert [to_hex(c.get_facecolor()[0]).upper() for c in axes.collections] == [BLUE, RED]
    assert len(axes.collections[0].get_paths()[0].vertices) != len(axes.collections[1].get_paths()[0].vertices)
    assert [(text.get_text(), text.xy) for text in axes.texts] == [
        ("0:0", (0.1, 1)),
        ("", (0.2, -1)),
        ("0:2", (0.3, 0.5)),
    ]
    assert legend(axes) == ["heads", "untrained"] and labels(axes) == ("copying", "matching")
    assert axes.lines[0].get_ydata() == [0, 0] and axes.lines[1].get_xdata() == [0, 0]


def test_the_legend_of_a_scatter_can_stand_beside_it():
    groups = {"heads": ([0, 1], [1, 0])}
    for beside in (False, True):
        figure = figures.scatter(groups, "", "", legend_beside=beside)
        figure.canvas.draw()
        box = figure.axes[0].get_legend().get_window_extent()
        assert (box.x0 >= figure.axes[0].get_window_extent().x1) == beside


def test_intervals_stand_in_their_rows_downwards_from_their_low_to_their_high_end():
    ours = {"$naive": Estimate(0.4, 0.3, 0.6), "rich": Estimate(0.9, 0.85, 0.95)}
    figure = figures.intervals(
        {"ours": ours, "theirs": {"rich": Estimate(0.8, 0.8, 0.8)}}, "share", "More", bounds=(0, 1)
    )
    (axes,) = figure.axes
    dots, bars = zip(*((container[0], container[2][0]) for container in axes.containers), strict=True)
    assert [list(zip(*line.get_data(), strict=True)) for line in dots] == [
        [(0.4, pytest.approx(-0.11)), (0.9, pytest.approx(0.89))],
        [(0.8, pytest.approx(1.11))],
    ]
    ends = [[(left[0], right[0]) for left, right in bar.get_segments()] for bar in bars]
    assert ends == [[pytest.approx((0.3, 0.6)), pytest.approx((0.85, 0.95))], [pytest.approx((0.8, 0.8))]]
    assert [line.get_color() for line in dots] == [BLUE, RED] and len({line.get_marker() for line in dots}) == 2
    assert [to_hex(bar.get_color()[0]).upper() for bar in bars] == [BLUE, RED]
    assert [len(container[1]) for container in axes.containers] == [2, 0]  # ends are marked where there are some
    assert tick_names(axes.yaxis) == [r"\$naive", "rich"] and axes.get_yticks().tolist() == [0, 1]
    assert axes.yaxis_inverted() and not axes.xaxis_inverted() and axes.get_xscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["ours", "theirs"]
    assert titles(figure) == ["More"] and labels(axes) == ("share", "") and axes.get_xlim() == (0, 1)


def test_scatters_side_by_side_share_a_logarithmic_scale():
    groups = {"others": ([0.1, 0.2], [1e-4, 1e-3]), "largest": ([0.3, 0.4], [0.1, 0.01])}
    swapped = {"others": ([0.5], [0.2]), "largest": ([0.6], [0.3])}
    figure = figures.scatter_panels({"Q": groups, "K": swapped}, "score", "effect", "They differ")
    q, k = figure.axes
    assert dots(q).tolist() == [[0.1, 1e-4], [0.2, 1e-3]] and dots(q, 1).tolist() == [[0.3, 0.1], [0.4, 0.01]]
    assert dots(k).tolist() == [[0.5, 0.2]] and dots(k, 1).tolist() == [[0.6, 0.3]]
    for axes in figure.axes:
        assert [to_hex(c.get_facecolor()[0]).upper() for c in axes.collections] == [BLUE, RED]
        others, largest = (c.get_paths()[0].vertices for c in axes.collections)
        assert len(others) != len(largest)
        assert axes.get_yscale() == "log" and axes.get_ylim() == q.get_ylim()
    (both,) = figure.legends
    assert [text.get_text() for text in both.get_texts()] == ["others", "largest"] and titles(figure) == ["Q", "K"]
    assert labels(q) == ("score", "effect") and labels(k) == ("score", "") and figure.get_suptitle() == "They differ"


def test_density_counts_points_where_they_fall():
    x, y = torch.tensor([0.0, 0.1, 0.1, 2.0]), torch.tensor([1.0, 1.0, 1.0, 3.0])
    figure = figures.density(x, y, "corpus", "model", unit="bigrams", bins=2, diagonal=True)
    axes, colours = figure.axes
    (image,) = axes.collections[:1]
    corners = image.get_coordinates()
    assert corners[0, 0].tolist() == [0, 1] and corners[0, -1].tolist() == [2, 1] and corners[-1, 0].tolist() == [0, 3]
    assert np.ma.filled(image.get_array(), 0).reshape(2, 2).tolist() == [[3, 0], [0, 1]]  # a row for each y, upwards
    assert image.norm.__class__.__name__ == "LogNorm" and image.get_cmap().name == "cividis"
    assert points(axes, 0) == [(1, 1), (2, 2)]  # where both have values
    assert labels(axes) == ("corpus", "model") and colours.get_ylabel() == "bigrams"
    assert not figures.density(x, y, "", "", unit="").axes[0].lines


# ---- bars -------------------------------------------------------------------------------------------------------


def test_bars_stand_at_their_names_with_their_heights():
    figure = figures.bars({"zero": [1.0, -2.0], "mean": [0.5, 4.0], "none": [0.0, 3.0]}, ["$x", "y\nz"], "nats")
    (axes,) = figure.axes
    assert [patch.get_height() for patch in axes.patches] == [1, -2, 0.5, 4, 0, 3]
    middles = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert middles == pytest.approx([-0.8 / 3, 1 - 0.8 / 3, 0, 1, 0.8 / 3, 1 + 0.8 / 3])
    assert [patch.get_width() for patch in axes.patches] == pytest.approx([0.8 / 3] * 6)
    assert all(patch.get_y() == 0 for patch in axes.patches)
    assert [to_hex(patch.get_facecolor()).upper() for patch in axes.patches] == [BLUE, BLUE, RED, RED, GREEN, GREEN]
    assert len({patch.get_hatch() for patch in axes.patches}) == 3
    assert axes.get_xticks().tolist() == [0, 1] and tick_names(axes.xaxis) == [r"\$x", "y\nz"]
    assert legend(axes) == ["zero", "mean", "none"] and labels(axes) == ("", "nats")
    assert axes.lines[-1].get_ydata() == [0, 0] and not axes.yaxis_inverted()


def test_one_series_of_bars_needs_no_legend_and_long_names_are_turned():
    (axes,) = figures.bars({"fall": [1, 2, 3]}, ["0:0", "0:1", "0:2"], "nats").axes
    assert not legend(axes) and all(label.get_rotation() == 0 for label in axes.get_xticklabels())
    (axes,) = figures.bars({"fall": [1, 2, 3]}, ["a very long name of a bar"] * 3, "nats").axes
    assert all(label.get_rotation() == 90 for label in axes.get_xticklabels())


def test_stacked_bars_lie_end_to_end_and_say_their_sizes():
    rows = {"x": {"one": 2, "two": 30}, "y": {"two": 10, "one": 4, "three": 60}}
    figure = figures.stacked_bars(rows, "terms")
    (axes,) = figure.axes
    places = [(patch.get_x(), patch.get_width(), round(patch.get_y() + 0.35)) for patch in axes.patches]
    assert places == [(0, 2, 0), (2, 30, 0), (0, 10, 1), (10, 4, 1), (14, 60, 1)]
    colours = [to_hex(patch.get_facecolor()) for patch in axes.patches]
    assert colours[0] == colours[3] and colours[1] == colours[2] and len(set(colours)) == 3
    written = {text.get_text(): text.get_position() for text in axes.texts}
    assert written == {"30": (17, 0), "10": (5, 1), "4": (12, 1), "60": (44, 1)}  # 2 has no room
    assert tick_names(axes.yaxis) == ["x", "y"] and axes.yaxis_inverted() and labels(axes) == ("terms", "")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]


def test_histograms_count():
    series = {"a": [0.1, 0.2, 0.9, 0.95, 0.99], "b": torch.tensor([-0.5, 7.0])}  # 7 lies outside
    figure = figures.histograms(series, "score", "heads", bounds=(-1, 1), bins=4)
    upper, lower = figure.axes
    assert [patch.get_height() for patch in upper.patches] == [0, 0, 2, 3]
    assert [patch.get_height() for patch in lower.patches] == [0, 1, 0, 0]
    assert [patch.get_x() for patch in upper.patches] == [-1, -0.5, 0, 0.5]
    assert titles(figure) == ["a", "b"] and upper.get_position().y0 > lower.get_position().y0
    assert [labels(axes) for axes in figure.axes] == [("", "heads"), ("score", "heads")]
    assert [to_hex(axes.patches[0].get_facecolor()).upper() for axes in figure.axes] == [BLUE, RED]
    assert upper.get_yscale() == "linear" and upper.get_xlim() == lower.get_xlim()
    assert all(tick == round(tick) for axes in figure.axes for tick in axes.get_yticks())


# ---- matrices and tokens ----------------------------------------------------------------------------------------

MATRIX = torch.tensor([[0.0, 0.2, 0.4], [0.6, 0.8, -1.0]])


def test_a_heatmap_has_its_rows_downwards_and_its_columns_to_the_right():
    figure = figures.heatmaps({"one": MATRIX}, ["$", "b"], ["x", "y", "z"], "source", "destination")
    axes, colours = figure.axes
    (image,) = axes.images
    assert np.array_equal(image.get_array(), MATRIX) and image.origin == "upper" and axes.yaxis_inverted()
    assert not axes.xaxis_inverted() and image.get_extent() == [-0.5, 2.5, 1.5, -0.5]
    assert axes.get_xticks().tolist() == [0, 1, 2] and tick_names(axes.xaxis) == ["x", "y", "z"]
    assert axes.get_yticks().tolist() == [0, 1] and tick_names(axes.yaxis) == [r"\$", "b"]
    assert labels(axes) == ("source", "destination") and axes.get_title() == "one"
    assert image.get_clim() == (0, 1) and image.get_cmap().name == "cividis" and image.get_interpolation() == "nearest"
    assert colours.get_ylim() == (0, 1) and not axes.texts


@pytest.mark.parametrize(
    "options, limits, colour_map",
    [
        ({}, (0, 4), "cividis"),
        ({"limit": 2.0}, (0, 2), "cividis"),
        ({"signed": True}, (-4, 4), "RdBu_r"),
        ({"signed": True, "limit": 2.0}, (-2, 2), "RdBu_r"),
    ],
)
def test_heatmaps_have_one_scale_symmetric_if_signed(options, limits, colour_map):
    figure = figures.heatmaps({"a": MATRIX, "b": -4 * MATRIX}, ["", ""], ["x"] * 3, "", "", **options)
    *panels, colours = figure.axes
    assert [axes.images[0].get_clim() for axes in panels] == [limits, limits] and colours.get_ylim() == limits
    assert {axes.images[0].get_cmap().name for axes in panels} == {colour_map}
    assert np.array_equal(panels[1].images[0].get_array(), -4 * MATRIX)


def test_red_is_above_zero_blue_below_and_white_between():
    figure = figures.heatmaps({"": torch.tensor([[-1.0, 0.0, 1.0]])}, ["a"], ["x"] * 3, "", "", signed=True)
    image = figure.axes[0].images[0]
    blue, white, red = image.to_rgba(image.get_array().data)[0, :, :3]
    assert blue[2] > 2 * blue[0] and red[0] > 2 * red[2] and min(white) > 0.95


def test_heatmaps_are_read_row_by_row_and_name_the_y_axis_once():
    matrices = {str(i): torch.full((2, 3), float(i)) for i in range(5)}
    figure = figures.heatmaps(matrices, ["a", "b"], ["long name"] * 3, "x", "y", per_row=2)
    panels, spare, colours = figure.axes[:5], figure.axes[5], figure.axes[6]
    figure.canvas.draw()
    assert [axes.get_title() for axes in panels] == list("01234")
    assert [axes.images[0].get_array()[0, 0] for axes in panels] == [0, 1, 2, 3, 4]
    assert not spare.get_visible() and all(axes.get_visible() for axes in [*panels, colours])
    assert [axes.get_ylabel() for axes in panels] == ["y", "", "y", "", "y"]
    assert {axes.get_xlabel() for axes in panels} == {"x"}
    corners = [(round(-axes.get_position().y0, 2), round(axes.get_position().x0, 2)) for axes in panels]
    assert corners == sorted(corners) and len(set(corners)) == 5
    assert all(label.get_rotation() == 90 for label in panels[0].get_xticklabels())


def test_numbers_stand_in_their_cells_and_can_be_read():
    for signed in (False, True):
        axes = figures.heatmaps({"": MATRIX}, ["a", "b"], ["x"] * 3, "", "", numbers=True, signed=signed).axes[0]
        written = {text.get_position(): text.get_text() for text in axes.texts}
        assert written == {(j, i): f"{MATRIX[i, j]:.2f}" for i in range(2) for j in range(3)}
        for text in axes.texts:
            j, i = text.get_position()
            ground = np.dot(axes.images[0].to_rgba(MATRIX.numpy())[i, j, :3], [0.3, 0.6, 0.1])
            assert abs(ground - (text.get_color() == "white")) > 0.35


def test_of_many_rows_some_are_named():
    rows = [str(i) for i in range(150)]
    axes = figures.heatmaps({"": torch.rand(150, 2)}, rows, ["x", "y"], "", "").axes[0]
    assert tick_names(axes.yaxis) == rows[::8] and axes.get_yticks().tolist() == list(range(0, 150, 8))


def test_a_strip_of_tokens_reads_like_the_text(monkeypatch):
    monkeypatch.setattr(figures, "STRIP_WIDTH", 20)
    tokens, values = ["ab", "c↵", "defg", "$"], [2.0, -1.6, 0.0, 1.0]
    figure = figures.token_strip(tokens, values, "nats")
    axes, colours = figure.axes
    boxes = [(*patch.get_xy(), patch.get_width(), patch.get_height()) for patch in axes.patches]
    assert boxes == [(0, 0, 2, 1), (2, 0, 2, 1), (0, 1, 4, 1), (4, 1, 1, 1)]
    assert axes.get_xlim() == (0, 20) and axes.get_ylim() == (2, 0)  # downwards
    assert [text.get_text() for text in axes.texts] == ["ab", "c↵", "defg", r"\$"]
    assert [text.get_position() for text in axes.texts] == [(1, 0.5), (3, 0.5), (2, 1.5), (4.5, 1.5)]
    red, blue, white, pink = (patch.get_facecolor()[:3] for patch in axes.patches)
    assert red[0] > 2 * red[2] and blue[2] > 2 * blue[0] and min(white) > 0.95 and red[1] < pink[1] < white[1]
    assert [text.get_color() for text in axes.texts] == ["white", "white", "black", "black"]
    assert colours.get_xlim() == (-2, 2) and colours.get_xlabel() == "nats"


def test_a_strip_breaks_before_the_token_that_does_not_fit(monkeypatch):
    monkeypatch.setattr(figures, "STRIP_WIDTH", 6)
    axes = figures.token_strip(["abc", "de", "f", "gh"], [0.0] * 4, "").axes[0]
    assert [patch.get_xy() for patch in axes.patches] == [(0, 0), (3, 0), (5, 0), (0, 1)]


@given(st.text())
def test_plain_text_has_no_formula_and_no_letter_that_the_font_lacks(text):
    shown = plain(text)
    assert shown.count("$") == shown.count(r"\$") == text.count("$")
    assert len(shown.replace(r"\$", "$")) == len(text)
    assert all(new in (old, "▯") for old, new in zip(text, shown.replace(r"\$", "$"), strict=True))


def test_plain_keeps_what_the_font_has():
    assert plain("def ␣↵→ Σλ é\n") == "def ␣↵→ Σλ é\n" and plain("😀\0a") == "▯▯a"


# ---- complex numbers and composition ----------------------------------------------------------------------------


def test_eigenvalues_are_drawn_by_angle_and_logarithm_of_their_size():
    planes = {"0:0": torch.tensor([10 + 0j, -1j, -0.1 + 0j, 1e-9 + 0j]), "0:1": torch.tensor([-2 + 2j])}
    figure = figures.eigenvalue_planes(planes, columns=3)
    first, second, spare = figure.axes
    angles, radii = dots(first).T
    assert angles.tolist() == pytest.approx([0, -np.pi / 2, np.pi, 0]) and radii.tolist() == pytest.approx([3, 2, 1, 0])
    assert dots(second).tolist() == [pytest.approx([3 * np.pi / 4, 3])]
    colours = [to_hex(colour).upper() for colour in first.collections[0].get_facecolor()]
    assert colours == [BLUE, RED, RED, BLUE] and first.name == "polar"
    assert titles(figure)[:2] == ["0:0", "0:1"] and not spare.get_visible() and second.get_visible()
    assert first.get_ylim() == (0, 3.2) and list(first.get_yticks()) == [1, 2, 3]
    assert tick_names(first.xaxis) == ["+", "", "−", ""]
    assert list(first.get_xticks()) == pytest.approx([0, np.pi / 2, np.pi, 3 * np.pi / 2])
    assert first.get_theta_direction() == 1 and first.get_theta_offset() == 0


def test_complex_planes_have_the_same_square_axes():
    figure = figures.complex_planes({"one": torch.tensor([1 + 2j, -0.5j]), "two": torch.tensor([0.5 + 0j])})
    one, two = figure.axes
    assert dots(one).tolist() == [[1, 2], [0, -0.5]] and dots(two).tolist() == [[0.5, 0]]
    assert all(axes.get_xlim() == axes.get_ylim() == (-1.3, 1.3) and axes.get_aspect() == 1 for axes in figure.axes)
    assert titles(figure) == ["one", "two"] and labels(one) == ("real part", "imaginary part")
    assert labels(two) == ("real part", "")


def test_a_composition_graph_joins_early_and_late_heads():
    scores = {
        "Q": torch.tensor([[0.1, -0.2, 0.0], [0.0, 0.0, 0.2]]),
        "K": torch.tensor([[0.0, 0.4, 0.0], [0.001, 0, 0]]),
    }
    figure = figures.composition_graph(scores, early=[0.1, 1.0], late=[0.0, 0.5, 0.25])
    q, k = figure.axes
    assert [points(q, i) for i in range(2)] == [[(0, 0), (1, 0)], [(0, 1), (1, 2)]] and len(q.lines) == 2
    assert [line.get_linewidth() for line in q.lines] == pytest.approx([1.5, 3])
    assert [line.get_alpha() for line in q.lines] == pytest.approx([0.4, 0.6])
    assert points(k, 0) == [(0, 0), (1, 1)] and k.lines[0].get_linewidth() == 6 and len(k.lines) == 1
    for axes in figure.axes:
        assert dots(axes, 0).tolist() == [[0, 0], [0, 1]] and dots(axes, 1).tolist() == [[1, 0], [1, 1], [1, 2]]
        (light, dark), (lightest, darkest, middle) = (c.to_rgba(c.get_array())[:, :3].sum(1) for c in axes.collections)
        assert light > dark and lightest > middle > darkest
        assert [c.get_cmap().name for c in axes.collections] == ["Oranges", "Greens"]
        assert [c.get_clim() for c in axes.collections] == [(-0.1, 1)] * 2
        assert axes.yaxis_inverted() and not axes.xaxis_inverted() and tick_names(axes.xaxis) == ["layer 0", "layer 1"]
        assert axes.get_xticks().tolist() == [0, 1] and axes.get_yticks().tolist() == [0, 1]
    assert titles(figure) == ["Q-composition", "K-composition"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["head", ""]


# ---- all of them ------------------------------------------------------------------------------------------------


def test_a_figure_is_white_and_leaves_pyplot_alone():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure, axes = figures.panels(2, 3, width=2, height=1)
    assert figure.get_size_inches().tolist() == [6, 2] and len(axes) == 6
    assert figure.get_facecolor() == axes[0].get_facecolor() == to_rgba("white")  # readable on a dark page too
    assert plt.get_fignums() == before


def test_corners_of_tables_say_what_does_not_round_to_nothing():
    tables = {"corpus": torch.tensor([[0.7, 0.004], [0.0, 0.2]]), "model": torch.tensor([[0.65, 0.1], [0.03, 0.25]])}
    left, right = figures.table_corners(tables, ["a", "$b"], ["c", "d"], "next", "present").axes
    written = {text.get_position(): text.get_text() for text in left.texts}
    assert written == {(0, 0): "70%", (1, 1): "20%"} and len(right.texts) == 4
    assert left.images[0].get_array().tolist() == tables["corpus"].tolist()
    assert left.images[0].get_clim() == right.images[0].get_clim() == (0, 1)
    assert tick_names(left.xaxis) == ["c", "d"] and tick_names(left.yaxis) == ["a", r"\$b"]
    assert labels(left) == ("next", "present") and (left.get_title(), right.get_title()) == ("corpus", "model")


def test_the_runs_of_two_heads_draw_what_the_algorithm_computes():
    """With numbers for x, h(x), g(x) and g(h(x)): run k + 2 ends in all terms of at most k heads."""
    heads = {"h": lambda v: {f"h({term})" for term in v}, "g": lambda v: {f"g({term})" for term in v}}
    saved = {"h": set(), "g": set()}  # run 1 saves patterns only
    for streams, kept in figures.RUNS:
        stream, steps, found = {"x"}, [{"x"}], []
        for name, head in heads.items():
            found.append(head(stream))
            stream = stream | saved[name]
            steps.append(stream)
        assert [set(shown.split(" + ")) for shown in streams] == steps
        assert [set(shown.split(" + ")) for shown in kept] == found[: len(kept)]
        saved = dict(zip(heads, found, strict=True))
    (axes,) = figures.runs_of_two_heads().axes
    written = [text.get_text() for text in axes.texts]
    assert [f"run {i}" in written for i in (1, 2, 3, 4, 5)] == [False, True, True, True, False]
    assert sum(text in ("g", "h") for text in written) == sum(len(kept) for _, kept in figures.RUNS)


def test_what_is_not_linear_in_a_standard_layer_is_red():
    (axes,) = figures.standard_layer().axes
    boxes = {text.get_text(): text.get_bbox_patch() for text in axes.texts if text.get_bbox_patch()}
    red = {name for name, box in boxes.items() if to_hex(box.get_edgecolor()) == figures.RED.lower()}
    assert red == {"÷ scale", "softmax", "GELU"} and len(boxes) == 3 + 3 + 3 + 2  # three reads look alike
    assert [sum(text.get_text() == name for text in axes.texts) for name in ("− mean", "heads", "logits")] == [3, 1, 1]
