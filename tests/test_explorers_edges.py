"""The explorer of edges: its numbers against slow ones, its grid, its clicks, what it refuses."""

import json
import re

import pytest
import torch
from bs4 import Tag
from matplotlib import colormaps
from matplotlib.colors import to_hex
from torch import Tensor

from helpers import ReaderError
from helpers.edges import KINDS
from helpers.explorers import edge_explorer
from helpers.explorers.edges import Grid, circuit_through, explore_edge
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.tokens import Tokenizer
from helpers.views import View, as_text
from tests.examples import close, random_model
from tests.test_explorers import check_clicks
from tests.test_token_views import parsed

N = 7  # heads of a layer: more edges than are marked, and rows that are no columns
OF_GRID = {
    "div": {"class", "style", "role", "aria-label", "data-from", "data-columns"},
    "button": {"data-at", "data-choose", "data-says", "aria-label", "aria-pressed", "tabindex", "style"},
    "span": set(),
    "small": set(),
    "output": {"class"},
    "th": {"scope"},
} | dict.fromkeys(("table", "thead", "tbody", "tr", "td"), set())
READERS = {"Q": "queries", "K": "keys", "V": "values"}


@pytest.fixture(scope="module")
def tokenizer(corpus) -> Tokenizer:
    return corpus.tokenizer


@pytest.fixture(scope="module")
def model(tokenizer) -> AttentionOnlyTransformer:
    return random_model(2, n_heads=N, d_head=4, d_model=10, d_vocab=tokenizer.d_vocab)


def tables(seed: int) -> dict[str, Tensor]:
    """Numbers of both signs for every edge, of another size by each kind."""
    drawn = (
        torch.randn(3, N, N, generator=torch.Generator().manual_seed(seed)) * torch.tensor([1, 0.3, 2])[:, None, None]
    )
    return dict(zip(KINDS, drawn, strict=True))


EXCESS, EFFECTS = tables(0), {kind: table.square() for kind, table in tables(1).items()}
AMONG = torch.arange(3, 60, 2)


def explore(model, tokenizer, writer=(0, 2), reader=(1, 5), kind="K", among=AMONG):
    return explore_edge(model, tokenizer, EXCESS, EFFECTS, among, writer, reader, kind)


def buttons(view: View) -> list[Tag]:
    return parsed(view.html, OF_GRID).select("[data-columns] > button")


def cells(view: View) -> list[list[str]]:
    """The rows of a table as it is in the page."""
    return [[cell.get_text() for cell in row.select("td")] for row in parsed(view.html).select("tbody tr")]


def in_order(table: Tensor) -> list[float]:
    return sorted(table.flatten().tolist(), reverse=True)


# ---- the grid -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_each_edge_has_its_button_its_number_and_its_colour(model, tokenizer, kind):
    grid = explore(model, tokenizer, kind=kind)[0]
    top = max(table.abs().max() for table in EXCESS.values())
    found = buttons(grid)
    assert len(found) == N * N
    for i, button in enumerate(found):
        early, late = divmod(i, N)
        score, effect = EXCESS[kind][early, late].item(), EFFECTS[kind][early, late].item()
        assert json.loads(button["data-choose"]) == {"writer": f"0:{early}", "reader": f"1:{late}"}
        assert button["data-says"] == button["aria-label"]
        name, *numbers = re.match(r"(.*): (\S+) above random; its cut (\S+) nats$", button["data-says"]).groups()
        assert name == f"0:{early} → 1:{late}" and button["data-at"] == str(i)
        assert [float(number) for number in numbers] == pytest.approx([score, effect], abs=0.00051)
        assert button["style"] == f"background: {to_hex(colormaps['RdBu_r'](float((score / top + 1) / 2)))}"


def test_red_is_above_0(model, tokenizer):
    grounds = {float(b["data-says"].split()[3]): b["style"][-6:] for b in buttons(explore(model, tokenizer)[0])}
    red, blue = grounds[max(grounds)], grounds[min(grounds)]
    assert int(red[:2], 16) > int(red[4:], 16) and int(blue[:2], 16) < int(blue[4:], 16)


@pytest.mark.parametrize("kind", KINDS)
def test_the_edges_that_matter_most_have_dots_and_are_compared_with_the_scores(model, tokenizer, kind):
    grid = explore(model, tokenizer, kind=kind)[0]
    effects, scores = EFFECTS[kind].flatten(), EXCESS[kind].flatten()
    dotted = {i for i, button in enumerate(buttons(grid)) if button.get_text() == "●"}
    assert dotted == {i for i in range(N * N) if effects[i] >= in_order(effects)[4]}
    common = sum(bool(scores[i] >= in_order(scores)[4]) for i in dotted)
    assert f"the 5 edges whose cuts do most; {common} of them have one of the 5 largest scores" in grid.caption


def test_one_edge_is_framed_and_reached_by_tab(model, tokenizer):
    grid = explore(model, tokenizer, (0, 2), (1, 5))[0]
    found = buttons(grid)
    assert [i for i, button in enumerate(found) if button["aria-pressed"] == "true"] == [2 * N + 5]
    assert [i for i, button in enumerate(found) if button["tabindex"] == "0"] == [2 * N + 5]
    group = found[0].parent
    assert (group["data-from"], group["data-columns"]) == (str(2 * N + 5), str(N))
    assert group.find_next_sibling().name == "output"


def test_rows_are_writers_and_columns_are_readers(model, tokenizer):
    page = parsed(explore(model, tokenizer)[0].html)
    columns, rows = ([span.get_text() for span in page.select(f".book-{side} span")] for side in ("columns", "rows"))
    assert rows == [head_name((0, i)) for i in range(N)] and columns == [head_name((1, i)) for i in range(N)]


def test_the_still_has_the_same_dots_and_frame(model, tokenizer):
    grid = Grid(EXCESS["K"], EFFECTS["K"], list("abcdefg"), list("tuvwxyz"), 1.0, 2 * N + 5)
    axes = grid.picture().axes[0]
    (image,), (dots,), (frame,) = axes.images, axes.collections, axes.patches
    assert torch.equal(torch.tensor(image.get_array()), EXCESS["K"])
    assert {round(y) * N + round(x) for x, y in dots.get_offsets().tolist()} == grid.marked
    assert frame.get_xy() == (4.5, 1.5)
    labels = ([label.get_text() for label in axis.get_ticklabels()] for axis in (axes.yaxis, axes.xaxis))
    assert [*map("".join, labels)] == ["abcdefg", "tuvwxyz"]
    view = explore(model, tokenizer)[0]
    assert view.still()["text/plain"] == as_text(view.caption)


def test_scores_that_are_all_0_are_drawn_too(model, tokenizer):
    zeros = {kind: torch.zeros(N, N) for kind in KINDS}
    grid, *_ = explore_edge(model, tokenizer, zeros, zeros, AMONG, (0, 0), (1, 0), "Q")
    assert len({button["style"] for button in buttons(grid)}) == 1


# ---- one edge -----------------------------------------------------------------------------------------------------


def matrices(model: AttentionOnlyTransformer, early: int, late: int) -> tuple[Tensor, dict[str, Tensor]]:
    """What is written and what is read, multiplied out."""
    W_QK = model.W_Q[1, late] @ model.W_K[1, late].T
    reads = {"Q": W_QK, "K": W_QK.T, "V": model.W_V[1, late] @ model.W_O[1, late]}
    return model.W_V[0, early] @ model.W_O[0, early], reads


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_has_scores_effects_and_ranks_by_each_kind(model, tokenizer, kind):
    view = explore(model, tokenizer, (0, 2), (1, 5), kind)[0]
    written, reads = matrices(model, 2, 5)
    for one, (name, *shown) in zip(KINDS, cells(view), strict=True):
        score, effect = EXCESS[one][2, 5].item(), EFFECTS[one][2, 5].item()
        raw = (written @ reads[one]).norm() / written.norm() / reads[one].norm()
        assert name == READERS[one]
        assert shown == [
            f"{raw:.3f}",
            f"{score:+.3f}",
            str(1 + in_order(EXCESS[one]).index(score)),
            f"{effect:.4f}",
            str(1 + in_order(EFFECTS[one]).index(effect)),
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_caption_ranks_the_edge_among_those_of_all_kinds(model, tokenizer, kind):
    caption = explore(model, tokenizer, (0, 2), (1, 5), kind)[0].caption
    score, effect = (of[kind][2, 5].item() for of in (EXCESS, EFFECTS))
    by_score, by_cut = (
        1 + in_order(torch.stack([*of.values()])).index(of[kind][2, 5].item()) for of in (EXCESS, EFFECTS)
    )
    assert f"0:2 to the {READERS[kind]} of 1:5, {score:+.3f}, number {by_score} of all {3 * N * N} edges" in caption
    assert f"by {effect:.4f} nats, number {by_cut}." in caption


def test_the_chosen_kind_is_pressed(model, tokenizer):
    page = parsed(explore(model, tokenizer, kind="V")[0].html)
    kinds = page.select("table button")
    assert [json.loads(button["data-choose"])["kind"] for button in kinds] == [*KINDS]
    assert [button["aria-pressed"] for button in kinds] == ["false", "false", "true"]


# ---- tokens -------------------------------------------------------------------------------------------------------


def slow_entry(model: AttentionOnlyTransformer, early: int, late: int, kind: str, row: int) -> Tensor:
    """A row of the circuit through an edge, from queries, keys and logits, less its mean."""
    fetched = model.W_E @ model.W_V[0, early] @ model.W_O[0, early]
    query, key = model.W_Q[1, late] / model.config.d_head**0.5, model.W_K[1, late]
    if kind == "Q":
        entries = (model.W_E @ key) @ (fetched[row] @ query)
    elif kind == "K":
        entries = (fetched @ key) @ (model.W_E[row] @ query)
    else:
        entries = fetched[row] @ model.W_V[1, late] @ model.W_O[1, late] @ model.W_U
    return entries - entries.mean()


@pytest.mark.parametrize("kind", KINDS)
def test_the_circuit_through_an_edge(model, kind):
    found = circuit_through(model, (0, 2), (1, 5), kind).dense()
    slow = torch.stack([slow_entry(model, 2, 5, kind, row) for row in range(model.config.d_vocab)])
    assert close(found, slow)


@pytest.mark.parametrize("kind", KINDS)
def test_the_strongest_pairs_of_tokens(model, tokenizer, kind):
    table = explore(model, tokenizer, kind=kind)[1]
    slow = torch.stack([slow_entry(model, 2, 5, kind, row)[AMONG] for row in AMONG])
    best = sorted(((row.max().item(), i, int(row.argmax())) for i, row in enumerate(slow)), reverse=True)
    names = [tokenizer.show(int(token)) for token in AMONG]
    expected = [[names[i], names[j], f"{entry:+.1f}"] for entry, i, j in best[:8]]
    assert cells(table.view) == expected
    own = sum(i == j for _, i, j in best) / len(AMONG)
    assert f"Of {len(AMONG)} tokens, {own:.1%} find themselves" in table.caption
    assert ("0:2 and 1:5 each attended" if kind == "V" else "as if 0:2 attended") in table.caption


def test_a_pair_that_matches_tokens_is_seen_to(tokenizer):
    """Heads that pass tokens on unchanged, to a query that looks for its own."""
    d = tokenizer.d_vocab + tokenizer.d_vocab % 2
    model = random_model(2, n_heads=1, d_head=d, d_model=d, d_vocab=tokenizer.d_vocab)
    for weight in (model.W_E, model.W_V[0, 0], model.W_O[0, 0], model.W_Q[1, 0], model.W_K[1, 0]):
        weight.copy_(torch.eye(*weight.shape))
    one = {kind: torch.ones(1, 1) for kind in KINDS}
    table = explore_edge(model, tokenizer, one, one, AMONG, (0, 0), (1, 0), "K")[1]
    assert "100.0% find themselves" in table.caption
    assert all(first == second for first, second, _ in cells(table.view))


# ---- controls and refusals ----------------------------------------------------------------------------------------


def make(model, tokenizer, **changed):
    given = {"excess": EXCESS, "effects": EFFECTS, "among": AMONG, "writer": (0, 2), "reader": (1, 5), "kind": "K"}
    return edge_explorer(model, tokenizer, **(given | changed))


def test_every_click_is_valid(model, tokenizer):
    assert check_clicks(make(model, tokenizer)) == N * N + 3


def test_every_control_changes_what_is_shown(model, tokenizer):
    explorer = make(model, tokenizer)
    for name, label in (("writer", "0:4"), ("reader", "1:1"), ("kind", "V")):
        explorer.controls[name].label = label
    for widget, view in zip(explorer.shown, explore(model, tokenizer, (0, 4), (1, 1), "V"), strict=True):
        view = getattr(view, "view", view)
        assert widget.body.html == view.html and as_text(view.caption)[:40] in as_text(widget.caption.html)


def test_it_is_saved_with_its_settings_and_stills(model, tokenizer, shown):
    make(model, tokenizer)._ipython_display_()
    (settings, _), *rest = shown
    assert all(f"<code>{head.replace(':', '&#58;')}</code>" in settings["text/markdown"] for head in ("0:2", "1:5"))
    assert [("image/png" in body, "text/markdown" in body) for body, _ in rest[::2]] == [(True, False), (False, True)]
    assert rest[0][1]["image/png"]["alt"].startswith("K-composition above the level")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"writer": (1, 2)}, "choose the writer in layer 0"),
        ({"reader": (0, 2)}, "the reader in layer 1"),
        ({"writer": (0, N)}, "0:7"),
        ({"kind": "k"}, "'k' is no kind of composition"),
        ({"excess": {"K": EXCESS["K"]}}, "for each of Q, K and V a table"),
        ({"effects": EFFECTS | {"V": torch.zeros(N, N + 1)}}, "for each of Q, K and V a table"),
    ],
)
def test_what_makes_no_sense_is_refused(model, tokenizer, changed, sentence):
    with pytest.raises(ReaderError, match=sentence) as caught:
        make(model, tokenizer, **changed)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("n_layers", [1, 3])
def test_only_models_of_two_layers_have_edges(tokenizer, n_layers):
    with pytest.raises(ReaderError, match="load_book_model"):
        make(random_model(n_layers, n_heads=N, d_vocab=tokenizer.d_vocab), tokenizer)
