"""Toy models: what features are like, that training reaches each optimum that is known, and what the explorer shows."""

import html
import itertools
import json
import math

import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.colors import to_hex
from matplotlib.text import Annotation

from helpers import ReaderError
from helpers.explorers.superposition import explore_superposition, superposition_explorer
from helpers.figures import COLOURS, arrow_planes
from helpers.superposition import (
    PRESENCE,
    Features,
    Sweep,
    expected_loss,
    feature_sets,
    heard,
    linear_optimum,
    loss_of_keeping,
    loss_of_opposite_pair,
    sharing_pays_below,
    train_sweep,
)

SPARSE = (0.01, 0.05, 0.1, 0.3)


def losses_of_draws(
    W: torch.Tensor, b: torch.Tensor, x: torch.Tensor, importance: torch.Tensor, linear: bool = False
) -> torch.Tensor:
    """As the definition says it: sum over features of importance times squared error, for each input."""
    read = x @ W @ W.T + b
    return ((x - (read if linear else read.clamp(min=0))) ** 2 * importance).sum(1)


def drawn(features: Features, p: float, n: int) -> torch.Tensor:
    """Inputs drawn at random, by coins of their own: not the code under test."""
    g = torch.Generator().manual_seed(1)
    values, coins = torch.rand(n, features.n, generator=g).double(), torch.rand(n, features.n, generator=g)
    if features.come == "independently":
        present = coins < p
    elif features.come == "one at a time":
        present = (coins[:, :1] / p).floor() == torch.arange(features.n)
    else:
        first = coins[:, ::2].repeat_interleave(2, 1)
        second = torch.arange(features.n) % 2 == 1
        present = first < p if features.come == "pairs together" else (first < p) ^ (second & (first < 2 * p))
    return present * values


# ---- features -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("come", PRESENCE)
def test_sets_have_the_probabilities_and_the_covariance_of_drawn_features(come):
    features, p = Features(4, come), 0.2
    probabilities, x = features.probabilities(p), drawn(features, p, 400_000)
    assert probabilities.min() >= 0 and math.isclose(probabilities.sum(), 1)
    for present, probability in zip(feature_sets(4), probabilities, strict=True):
        assert abs(((x > 0) == present).all(1).double().mean() - probability) < 0.005
    assert torch.allclose(features.covariance(p), x.T.cov(), atol=0.001)
    assert torch.allclose((x > 0).double().mean(0), torch.full((4,), p).double(), atol=0.005)


def test_examples_have_the_moments_of_even_values():
    features = Features(5)
    x, weights = features.examples([0.3, 0.05], 32)
    for p, w in zip((0.3, 0.05), weights, strict=True):
        mean = w @ x
        assert math.isclose(w.sum(), 1, rel_tol=1e-5) and torch.allclose(mean, torch.full((5,), p / 2), rtol=1e-4)
        covariance = (x - mean).T @ (w[:, None] * (x - mean))
        assert torch.allclose(covariance.double(), features.covariance(p), atol=0.002)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Features(9), "9 features are not possible"),
        (lambda: Features(0), "0 features are not possible"),
        (lambda: Features(3, "in a row"), "do not come 'in a row': choose one of independently"),
        (lambda: Features(3, "pairs apart"), "choose an even number"),
        (lambda: Features(2, importance=(1.0,)), "Give 2 importances"),
        (lambda: Features(2, importance=(1.0, 0.0)), "all above 0"),
        (lambda: Features(4, "one at a time").probabilities(0.3), r"up to 0\.25, but not with 0\.3"),
        (lambda: Features(4, "pairs apart").probabilities(0.6), r"up to 0\.5"),
        (lambda: Features(4).probabilities(0.0), "above 0"),
        (lambda: train_sweep(Features(2), 3, [0.1]), "do not go into 3 dimensions"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(ReaderError, match=sentence):
        make()


# ---- losses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("come", PRESENCE)
def test_the_expected_loss_is_the_mean_over_draws_of_any_model(come, linear):
    features, p = Features(4, come, (1.0, 2.0, 0.5, 1.5)), 0.2
    W, b = torch.randn(2, 1, 4, 2, generator=torch.Generator().manual_seed(0))[0], torch.tensor([[0.1, -0.2, 0.0, 0.3]])
    found = expected_loss(W, b, features, [p], linear).item()
    losses = losses_of_draws(W[0].double(), b[0].double(), drawn(features, p, 400_000), features.importances, linear)
    assert abs(found - losses.mean()) < 4 * losses.std() / len(losses) ** 0.5 + 1e-3 * found


def test_the_loss_of_an_opposite_pair_and_of_keeping_one():
    for p, importance in itertools.product((0.05, 0.4, 0.9), ((1.0, 1.0), (2.0, 0.5))):
        features = Features(2, importance=importance)
        pair = expected_loss(torch.tensor([[[1.0], [-1.0]]]), torch.zeros(1, 2), features, [p]).item()
        keep = expected_loss(torch.tensor([[[1.0], [0.0]]]), torch.tensor([[0.0, p / 2]]), features, [p]).item()
        assert math.isclose(pair, loss_of_opposite_pair(p, importance), rel_tol=2e-3)
        assert math.isclose(keep, loss_of_keeping(features, 1, p), rel_tol=2e-3)


@pytest.mark.parametrize("importance", [(1.0, 1.0), (1.0, 0.5), (0.2, 1.0)])
def test_sharing_pays_exactly_below_the_threshold(importance):
    threshold, features = sharing_pays_below(importance), Features(2, importance=importance)
    gains = {
        p: loss_of_keeping(features, 1, p) - loss_of_opposite_pair(p, importance)
        for p in (0.9 * threshold, threshold, 1.1 * threshold)
    }
    below, at, above = gains.values()
    assert below > 0 > above and abs(at) < 1e-12
    assert sharing_pays_below() == pytest.approx(4 / 7)


@pytest.mark.parametrize("come", PRESENCE)
def test_no_linear_model_beats_the_linear_optimum(come):
    """Of 200 random models, even ones that read by another matrix, each with its best bias."""
    features, p = Features(4, come), 0.2
    C, g = features.covariance(p), torch.Generator().manual_seed(0)
    for _ in range(200):
        M = torch.randn(4, 2, generator=g).double() @ torch.randn(2, 4, generator=g).double()
        left = torch.eye(4) - M
        assert (left.T @ C @ left).trace() > linear_optimum(features, 2, p)
    components = torch.linalg.eigh(C).eigenvectors[:, 2:]
    left = torch.eye(4) - components @ components.T
    assert (left.T @ C @ left).trace().item() == pytest.approx(linear_optimum(features, 2, p))


# ---- training reaches what is best --------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "features",
    [
        Features(5),
        Features(5, importance=(1.0, 0.8, 0.6, 0.4, 0.2)),
        Features(4, "pairs together"),
        Features(4, "pairs apart"),
        Features(4, "one at a time"),
    ],
    ids=lambda features: f"{features.come} {features.importance}",
)
def test_without_a_relu_training_ends_within_2_percent_of_the_optimum(features):
    ps = [p for p in (0.01, 0.1, 0.25, 0.5, 0.9) if p <= features.most_frequent]
    sweep = train_sweep(features, 2, ps, linear=True)
    for p, loss in zip(ps, sweep.loss.tolist(), strict=True):
        assert 0.999 < loss / linear_optimum(features, 2, p) < 1.02


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "d"),
    [
        (Features(2, "one at a time"), 1),
        (Features(4, "one at a time"), 2),
        (Features(6, "one at a time"), 3),
        (Features(4, "pairs apart"), 2),
    ],
    ids=str,
)
def test_training_finds_the_solution_without_any_loss(features, d):
    sweep = train_sweep(features, d, [0.01, 0.1])
    for p, loss in zip(sweep.ps, sweep.loss.tolist(), strict=True):
        assert 0 <= loss < 0.02 * loss_of_keeping(features, d, p)
        assert linear_optimum(features, d, p) > 0.5 * loss_of_keeping(features, d, p)  # it is the ReLU that does it
    assert heard(sweep.W).max() < 0.05 < heard(sweep.W, linear=True).abs().max()


@pytest.mark.slow
def test_five_features_one_at_a_time_do_not_fit_into_two_dimensions_without_loss():
    sweep = train_sweep(Features(5, "one at a time"), 2, [0.1], n_starts=16)
    assert sweep.loss.item() > 0.05 * loss_of_keeping(sweep.features, 2, 0.1)


def fourth_powers(alpha: float, beta: float, c: torch.Tensor, k: int) -> torch.Tensor:
    """The mean of ``(alpha u + beta v + c)₊^k`` over the unit square, exactly; alpha and beta are not 0."""
    terms = [(1, alpha + beta), (-1, alpha), (-1, beta), (1, 0)]
    return sum(s * (c + t).clamp(min=0) ** (k + 2) for s, t in terms) / ((k + 1) * (k + 2) * alpha * beta)


def exact_pair_loss(w: torch.Tensor, b: torch.Tensor, p: float) -> torch.Tensor:
    """Of two features in one dimension, by integrals of powers instead of examples."""
    total = torch.zeros((), dtype=torch.double)
    for own, other in ((0, 1), (1, 0)):
        alpha, beta, c = w[own] ** 2, w[own] * w[other], b[own]

        def one(slope, with_own, c=c):  # one feature is present: Gauss's rule between the ReLU's corner and the ends
            corner = (-c / slope).clamp(0, 1)
            nodes, weights = GAUSS
            parts = [(torch.zeros_like(corner), corner), (corner, torch.ones_like(corner))]
            total = 0.0
            for low, high in parts:
                u = low + (high - low) * nodes
                target = u if with_own else 0.0
                total = total + (high - low) * (weights * ((slope * u + c).clamp(min=0) - target) ** 2).sum()
            return total

        # both: E[r²] − 2 E[u r] + 1/3, with E[u r] by parts: r's integral over v, then u from 0 to 1
        second = fourth_powers(alpha, beta, c, 2)
        u, weights = GAUSS_FINE
        inner = ((alpha * u + beta + c).clamp(min=0) ** 2 - (alpha * u + c).clamp(min=0) ** 2) / (2 * beta)
        both = second - 2 * (weights * u * inner).sum() + 1 / 3
        none = c.clamp(min=0) ** 2
        total = total + p * p * both + p * (1 - p) * (one(alpha, True) + one(beta, False)) + (1 - p) ** 2 * none
    return total


def gauss(n: int, pieces: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Gauss-Legendre nodes and weights on [0, 1], in some equal pieces."""
    k = torch.arange(1, n, dtype=torch.double)
    off = k / (4 * k * k - 1).sqrt()
    nodes, vectors = torch.linalg.eigh(torch.diag(off, 1) + torch.diag(off, -1))
    nodes, weights = (nodes + 1) / 2, vectors[0] ** 2
    starts = torch.arange(pieces, dtype=torch.double)[:, None]
    return ((starts + nodes) / pieces).flatten(), (weights / pieces).repeat(pieces)


GAUSS, GAUSS_FINE = gauss(4, 1), gauss(4, 64)


@pytest.mark.slow
def test_two_features_in_one_dimension_end_within_2_percent_of_what_exact_integrals_find():
    """The reference is minimised by another method, on integrals instead of examples, from starts of its own."""
    ps = (0.01, 0.1, 0.3, 0.5, 0.7)
    sweep = train_sweep(Features(2), 1, ps)
    g = torch.Generator().manual_seed(5)
    for i, p in enumerate(ps):
        at_trained = exact_pair_loss(sweep.W[i, :, 0].double(), sweep.b[i].double(), p)
        assert abs(at_trained / sweep.loss[i] - 1) < 0.01
        found = []
        for start in range(8):
            signs = torch.tensor([1.0, 1.0 if start == 0 else -1.0])
            theta = torch.cat([signs * (0.6 + 0.6 * torch.rand(2, generator=g)), 0.2 * torch.rand(2, generator=g)])
            theta = theta.double()
            theta.requires_grad_()
            optimizer = torch.optim.LBFGS([theta], max_iter=200, line_search_fn="strong_wolfe")

            def closure(theta=theta, optimizer=optimizer, p=p):
                optimizer.zero_grad()
                loss = exact_pair_loss(theta[:2], theta[2:], p) / p
                loss.backward()
                return loss

            optimizer.step(closure)
            found.append(exact_pair_loss(theta[:2], theta[2:], p).item())
        best = min(value for value in found if not math.isnan(value))
        assert sweep.loss[i] < 1.02 * best, (p, sweep.loss[i], best)
        assert best <= loss_of_opposite_pair(p) + 1e-9 and best < loss_of_keeping(Features(2), 1, p)


@pytest.mark.slow
def test_rare_features_lose_what_an_opposite_pair_loses():
    sweep = train_sweep(Features(2), 1, (0.01, 0.05))
    for p, loss in zip(sweep.ps, sweep.loss.tolist(), strict=True):
        assert 0.98 < loss / loss_of_opposite_pair(p) < 1.001


@pytest.fixture(scope="module")
def five() -> Sweep:
    return train_sweep(Features(5), 2, (*SPARSE, 0.9), n_steps=500)


@pytest.mark.slow
def test_five_features_are_four_at_right_angles_and_then_a_pentagon(five):
    norms = five.W.norm(dim=2)
    assert norms[0].min() > 1 and norms[3].min() < 0.2 and (norms[3] > 0.9).sum() == 4
    assert (five.loss[:4] < torch.tensor([linear_optimum(five.features, 2, p) for p in SPARSE])).all()
    angles = torch.atan2(*five.W[0].T).sort().values
    gaps = torch.cat([angles.diff(), (angles[0] - angles[-1] + 2 * math.pi)[None]])
    assert torch.allclose(gaps, torch.full((5,), 2 * math.pi / 5), atol=0.05)


# ---- interference ---------------------------------------------------------------------------------------------------


def test_a_pentagon_and_a_square_reach_welchs_bound_and_a_relu_hears_less():
    for n, above in ((4, 0.0), (5, 10 * math.cos(2 * math.pi / 5) ** 2)):
        angles = torch.arange(n).double() * 2 * math.pi / n
        W = torch.stack([angles.cos(), angles.sin()], 1)
        assert heard(W, linear=True).square().sum().item() == pytest.approx(n * (n - 2) / 2)
        assert heard(W).square().sum().item() == pytest.approx(above, abs=1e-9)
        turned = W @ torch.tensor([[0.6, 0.8], [-0.8, 0.6]]).double()
        assert torch.allclose(heard(turned), heard(W), atol=1e-9) and not heard(W).diagonal().any()
    random = torch.nn.functional.normalize(torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), dim=1)
    assert heard(random, linear=True).square().sum() > 7.6


# ---- figure and explorer --------------------------------------------------------------------------------------------


def test_arrows_end_where_the_directions_do():
    W = torch.tensor([[1.0, 0.5], [-0.3, 0.2]])
    figure = arrow_planes({"one": W, "two": 2 * W})
    for axes, vectors in zip(figure.axes, (W, 2 * W), strict=True):
        notes = [child for child in axes.get_children() if isinstance(child, Annotation)]
        arrows, names = notes[::2], notes[1::2]
        assert [arrow.xy for arrow in arrows] == [tuple(v) for v in vectors.tolist()]
        assert all(arrow.xyann == (0, 0) for arrow in arrows)
        assert [name.get_text() for name in names] == ["1", "2"]
        assert [to_hex(name.get_color()).upper() for name in names] == list(COLOURS[:2])
        assert axes.get_aspect() == 1


@pytest.fixture
def by_hand() -> Sweep:
    """Three features in two dimensions, not trained: two at opposite ends, the third not held."""
    W = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.1]]] * 2)
    return Sweep(Features(3), False, (0.1, 0.2), W, torch.zeros(2, 3), torch.tensor([0.01, 0.05]).double())


def test_the_explorer_counts_and_draws_what_is_held(by_hand):
    plane, prices = explore_superposition(by_hand, 0.2)
    assert "present with probability 0.2: 2 of them are held in 2 dimensions, 1 pair at" in plane.caption
    page = BeautifulSoup(plane.html, "html.parser")
    ends = [(float(dot["cx"]), float(dot["cy"])) for dot in page.select("circle[cx]")]
    assert ends == [(1, 0), (-1, 0), (0, -0.1)] and [text.get_text() for text in page.select("text")] == ["1", "2", "3"]
    keeping = loss_of_keeping(by_hand.features, 2, 0.2)
    assert f"the loss is {0.05 / keeping:.2f} times that of keeping 2 of 3 features" in prices.caption
    numbers = [b.get_text() for b in BeautifulSoup(prices.html, "html.parser").select("div > b")]
    assert "2.00" in numbers and "0.00" in numbers and f"{0.05 / keeping:.2f}" in numbers
    assert plane.still()["text/plain"] and prices.still()["image/png"]


def test_one_dimension_is_drawn_as_a_line(by_hand):
    one = Sweep(Features(3), False, by_hand.ps, by_hand.W[..., :1], by_hand.b, by_hand.loss)
    plane, _ = explore_superposition(one, 0.1)
    dots = BeautifulSoup(plane.html, "html.parser").select("circle[cx]")
    assert {float(dot["cy"]) for dot in dots} == {0} and "in 1 dimension," in plane.caption


def test_the_explorer_refuses_what_it_does_not_have(by_hand):
    with pytest.raises(ReaderError, match=r"No model was trained for p = 0\.3: choose one of 0\.1, 0\.2\."):
        explore_superposition(by_hand, 0.3)
    deep = Sweep(Features(3), False, by_hand.ps, torch.zeros(2, 3, 3), by_hand.b, by_hand.loss)
    with pytest.raises(ReaderError, match="3 dimensions cannot be drawn"):
        explore_superposition(deep, 0.1)


def test_slider_menu_and_click_choose_a_model(by_hand):
    other = Sweep(Features(3), False, (0.05, 0.15), by_hand.W, by_hand.b, by_hand.loss)
    explorer = superposition_explorer({"one": by_hand, "other": other}, 0.3)
    slider, menu = explorer.controls["p"], explorer.controls["features"]
    assert slider.value == 0.2 and slider.continuous_update
    menu.value = "other"
    assert slider.value == 0.15 and "probability 0.15:" in explorer.shown[0].caption.html
    rects = BeautifulSoup(explorer.shown[1].body.html, "html.parser").select("rect")
    assert [json.loads(rect["data-choose"]) for rect in rects[:2]] == [{"p": "0.05"}, {"p": "0.15"}]
    explorer.shown[1].body.chosen = html.unescape(rects[0]["data-choose"])
    assert slider.value == 0.05 and "probability 0.05:" in explorer.shown[0].caption.html
    assert not explorer.message.value
