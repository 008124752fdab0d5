"""Figures are pictures with captions; tables show any token as it is."""

import html
import io

import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from helpers import figures
from helpers.figures import Table, code

PLATES = {
    "lines": lambda caption: figures.lines({"a$b": ([1, 2, 3], [3, 2, 1])}, "x", "y", caption, guides={"floor": 1.0}),
    "line panels": lambda caption: figures.line_panels(
        {"one": {"a$b": ([1, 10], [1, 2])}, "two": {"a$b": ([1, 10], [2, 1]), "c": ([1, 10], [0, 1])}}, "x",
        ["nats", "share"], caption, marks={"here": 3.0}, xticks=[1, 4, 10], share_y=True),
    "heatmaps": lambda caption: figures.heatmaps(
        {"one": torch.rand(3, 2), "two": torch.rand(3, 2)}, ["$", "<b>", "_"], ["x", "^"], "row", "column", caption,
        numbers=True),
    "signed heatmap": lambda caption: figures.heatmaps(
        {"one": torch.randn(2, 2)}, ["a", "b"], ["c", "d"], "row", "column", caption, signed=True, numbers=True),
    "bars": lambda caption: figures.bars(["$x", "y"], {"zero": [1, 2], "mean": [2, 1]}, "nats", caption),
    "histograms": lambda caption: figures.histograms({"a": [0.1, 0.2], "b": [0.0]}, (-1, 1), 5, "score", "n", caption),
    "histograms on a logarithmic scale": lambda caption: figures.histograms(
        {"a": [0.1, 0.2], "b": [0.0]}, (-1, 1), 5, "score", "n", caption, log=True),
    "architecture": lambda caption: figures.architecture(2, 12, caption),
    "architecture without layers": lambda caption: figures.architecture(0, 12, caption),
    "scatter": lambda caption: figures.scatter(
        {"heads": ([0, 1], [1, 0])}, "x", "y", caption, {"heads": ["0:0", "0:1"]}),
    "composition graph": lambda caption: figures.composition_graph(
        {"Q": torch.tensor([[0.1, -0.2], [0.3, 0.0]]), "K": torch.zeros(2, 2)}, [0.1, 1.0], [0.0, 0.5], caption),
    "scatter with its legend beside": lambda caption: figures.scatter(
        {"heads": ([0, 1], [1, 0])}, "x", "y", caption, legend_beside=True),
    "eigenvalues": lambda caption: figures.eigenvalue_planes(
        {"0:0": torch.tensor([1 + 0j, -1j, -2 + 0j]), "0:1": torch.tensor([1e-9 + 0j, 1 + 1j])}, caption, columns=3),
    "complex planes": lambda caption: figures.complex_planes(
        {"disc": torch.polar(torch.rand(300), torch.rand(300) * 6), "line": torch.rand(300) + 0j}, caption),
}


def test_every_figure_is_a_white_png_with_its_caption():
    for name, draw in PLATES.items():
        plate = draw(f"caption of {name}")
        picture = Image.open(io.BytesIO(plate.png)).convert("RGB")
        assert plate.caption == f"caption of {name}"
        assert picture.getpixel((0, 0)) == (255, 255, 255)  # readable on a dark page too
        assert len(set(picture.resize((60, 60)).get_flattened_data())) > 3


def test_figures_do_not_touch_pyplot():
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    for draw in PLATES.values():
        draw("")
    assert plt.get_fignums() == before


@given(st.text(min_size=1, max_size=8))
def test_code_brings_every_character_and_none_that_markdown_or_html_reads(text):
    shown = code(text)
    inner = shown.removeprefix("<code>").removesuffix("</code>")
    assert all(c.isalnum() or c in "&#;" for c in inner)
    if all(c.isprintable() and ord(c) > 31 for c in text):
        assert html.unescape(inner) == text


def test_a_table_has_one_line_a_row_whatever_its_tokens():
    table = Table(["token", "n"], [[code("|"), 1], [code("a`b", "$"), 2]], "what it says")._repr_markdown_()
    lines = table.split("\n")
    assert [line.count("|") for line in lines[:4]] == [3, 3, 3, 3]
    assert lines[-1] == "*what it says*"
