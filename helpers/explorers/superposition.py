"""An explorer of the smallest models that share their dimensions: how many features they hold, and at what price."""

import json
from collections.abc import Mapping

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from helpers import ReaderError
from helpers.explorers.shell import WIDE_NAME, Explorer
from helpers.figures import COLOURS, arrow_planes, beside_tips
from helpers.superposition import Sweep, heard, linear_optimum, loss_of_keeping
from helpers.token_views import curve_view
from helpers.views import View, render

HELD = 0.5  # a feature whose vector is longer counts as held
TICKS = 0.01, 0.1, 0.9


def explore_superposition(sweep: Sweep, p: float) -> tuple[View, View]:
    """The directions of a model's features if each is present with probability ``p``, and losses for every ``p``.

    A click on the curves chooses another ``p``.

    Raises:
        ReaderError: no model was trained for ``p``, or the models have more than two dimensions.
    """
    if p not in sweep.ps:
        raise ReaderError(f"No model was trained for p = {p:g}: choose one of {_in_words(sweep)}.")
    if sweep.d > 2:
        raise ReaderError(f"Directions in {sweep.d} dimensions cannot be drawn: choose models of one or two.")
    i = sweep.ps.index(p)
    return plane_view(sweep, i), price_view(sweep, i)


def plane_view(sweep: Sweep, i: int) -> View:
    """The directions of the ``i``-th model's features as arrows."""
    W, n, p = sweep.W[i], sweep.features.n, sweep.ps[i]
    held = int((W.norm(dim=1) > HELD).sum())
    opposite = int((_cosines(W).triu(1) < -0.95).sum())
    caption = (
        f"Each of {n} features is present with probability {p:g}: {held} of them are held in {sweep.d} "
        f"dimension{'s' * (sweep.d > 1)}, {opposite} pair{'s' * (opposite != 1)} at opposite ends. The circle has "
        f"length 1."
    )
    plane = pad(W, (0, 2 - sweep.d))
    return View(lambda: render(arrow_planes({f"p = {p:g}": plane}), caption), caption, _arrows(plane, caption))


def _cosines(W: Float[Tensor, "feature d"]) -> Float[Tensor, "feature feature"]:
    """Between features that are held; 0 for all others."""
    held = (W.norm(dim=1) > HELD).to(W)
    unit = W / W.norm(dim=1, keepdim=True).clamp(min=1e-9) * held[:, None]
    return unit @ unit.T


def _arrows(W: Float[Tensor, "feature 2"], said: str) -> str:
    parts = ['<circle r="1" fill="none" stroke="#777" stroke-width=".01"/>']
    for j, ((x, y), (beside, above)) in enumerate(zip(W.tolist(), beside_tips(W), strict=True)):
        colour = COLOURS[j % 7]
        parts.append(
            f'<path d="M0 0L{x:.3f} {-y:.3f}" stroke="{colour}" stroke-width=".03"/>'
            f'<circle cx="{x:.3f}" cy="{-y:.3f}" r=".05" fill="{colour}"/>'
            f'<text x="{beside:.3f}" y="{0.05 - above:.3f}" fill="{colour}" text-anchor="middle">{j + 1}</text>'
        )
    return (
        f'<svg viewBox="-1.6 -1.5 3.2 3" width="280" role="img" aria-label="{said}" font-size=".16">'
        f"{''.join(parts)}</svg>"
    )


def price_view(sweep: Sweep, i: int) -> View:
    """Losses and interference of all models, with a cursor at the ``i``-th."""
    of_all = [(sweep.features, sweep.d, p) for p in sweep.ps]
    keeping = torch.tensor([loss_of_keeping(*one) for one in of_all])
    linear = torch.tensor([linear_optimum(*one) for one in of_all])
    losses = {"trained": sweep.loss / keeping, "best without ReLU": linear / keeping}
    products = {"all": heard(sweep.W, linear=True).square().sum((1, 2)), "above 0": heard(sweep.W).square().sum((1, 2))}
    panels = {"loss, if no sharing is 1": losses, "squared products of different features": products}
    curves = {title: {name: y.tolist() for name, y in series.items()} for title, series in panels.items()}
    caption = (
        f"p = {sweep.ps[i]:g}: the loss is {losses['trained'][i]:.2f} times that of keeping {sweep.d} of "
        f"{sweep.features.n} features, the best possible without a ReLU {losses['best without ReLU'][i]:.2f} times. "
        "A ReLU without a bias lets only products above 0 through."
    )
    choices = [json.dumps({"p": _label(p)}) for p in sweep.ps]
    ticks = [p for p in sweep.ps if p in TICKS] or [sweep.ps[0], sweep.ps[-1]]
    return curve_view(sweep.ps, curves, "p", i, caption, choices, log_ticks=ticks)


def superposition_explorer(sweeps: Mapping[str, Sweep], p: float) -> Explorer:
    """Make features rarer by a slider, and see how they share their dimensions.

    Args:
        sweeps: by name, each with probabilities in increasing order.
        p: where to begin, or near it.
    """
    first = next(iter(sweeps.values()))
    slider = ipywidgets.SelectionSlider(options=_options(first), description="p", layout={"width": "98%"})
    slider.value = _nearest(first, p)
    menu = ipywidgets.Dropdown(options=[*sweeps], description="Features come", style=WIDE_NAME)

    def show(features: str, p: float) -> tuple[View, View]:
        sweep = sweeps[features]
        if slider.options != _options(sweep):
            slider.options = _options(sweep)
            slider.value = p = _nearest(sweep, p)
        return explore_superposition(sweep, p)

    return Explorer(show, {"features": menu, "p": slider})


def _label(p: float) -> str:
    return f"{p:g}"


def _options(sweep: Sweep) -> tuple[tuple[str, float], ...]:
    return tuple((_label(p), p) for p in sweep.ps)


def _nearest(sweep: Sweep, p: float) -> float:
    return min(sweep.ps, key=lambda other: abs(other - p))


def _in_words(sweep: Sweep) -> str:
    return ", ".join(map(_label, sweep.ps))
