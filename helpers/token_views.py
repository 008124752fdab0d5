"""Views of tokens that answer to the mouse, drawn by circuitsvis (Cooney and Nanda, 2022); no other module imports it.

The live form of a view is HTML that circuitsvis draws into, the still form a picture. The program of circuitsvis
(1.3 MB) travels to the browser once for a kernel, in a widget of its own, not once for a view; neither it nor a live
form is ever part of a saved notebook. Nothing here uses the network.
"""

import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import circuitsvis.utils.render
import ipywidgets
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from helpers import ReaderError
from helpers.figures import BLUE, RED, Numbers, heatmaps, token_strip
from helpers.views import View, code, outputs, render

LONGEST = 128  # tokens in a view; every pair of them is a thing to draw
BOX = "background: white; color: black; color-scheme: light; padding: 4px 12px 12px; overflow-x: auto"
DRAW = """(() => {
  const box = document.currentScript.previousElementSibling;
  let waits = 0;
  const draw = () => {
    if (window.CircuitsVis && box.isConnected) {
      box.id = "view-" + Math.random().toString(36).slice(2);
      CircuitsVis.render(box.id, CircuitsVis.%s, %s);
    } else if (++waits < 600) {
      setTimeout(draw, 50);
    } else {
      box.textContent = "This view could not be drawn: run the cell again.";
    }
  };
  draw();
})()"""

# circuitsvis asks google.com whether there is a network whenever it shows something. The book never does.
circuitsvis.utils.render.internet_on = lambda: False


def attention_view(
    tokens: Sequence[str], pattern: Float[Tensor, "..."], head_names: Sequence[str], caption: str = ""
) -> View:
    """Who attends to whom: hover a token to see where it looks, hover a head to see it alone, click to hold it.

    Args:
        tokens: as ``Tokenizer.show_all`` gives them.
        pattern: attention ``[head, dest, src]``, each entry between 0 and 1.

    Raises:
        ReaderError: shapes that do not fit each other, entries outside 0 to 1, more than 128 tokens.
    """
    pattern = pattern.detach().float()
    if pattern.shape != (len(head_names), len(tokens), len(tokens)) or not pattern.numel():
        needed = [len(head_names), len(tokens), len(tokens)]
        raise ReaderError(
            f"The pattern has shape {list(pattern.shape)}, but these heads and tokens need {needed}: "
            "choose one text of the batch and one layer."
        )
    if not ((pattern >= -1e-4) & (pattern <= 1 + 1e-4)).all():
        raise ReaderError("Attention lies between 0 and 1: divide a weighted pattern by its largest entry.")
    _check_length(tokens, LONGEST)
    return _view(
        f"{caption} {_strongest(tokens, pattern, head_names)}".strip(),
        lambda: _attention_maps(tokens, pattern, head_names),
        "AttentionPatterns",
        270 + _text_height(tokens),
        tokens=_harmless(tokens),
        attention=_rounded(pattern, 3),
        headLabels=_harmless(head_names),
    )


def _attention_maps(
    tokens: Sequence[str], pattern: Float[Tensor, "head dest src"], head_names: Sequence[str]
) -> Figure:
    few = len(head_names) <= 2
    size = min(9, 1.5 + 0.16 * len(tokens)) if few else 2.2
    names = tokens if few else [""] * len(tokens)
    maps = dict(zip(head_names, pattern, strict=True))
    shape = {"width": size, "height": size, "per_row": 1 if few else 6}
    return heatmaps(maps, names, names, "source", "destination", limit=1.0, **shape)


def _strongest(tokens: Sequence[str], pattern: Float[Tensor, "head dest src"], head_names: Sequence[str]) -> str:
    """The text equivalent of a view: where the heads look hardest, the first token left aside."""
    beyond = pattern[:, :, 1:].flatten(1)
    if not beyond.numel():
        return ""
    peaks = []
    for head in beyond.amax(1).argsort(descending=True, stable=True)[:3].tolist():
        dest, src = divmod(int(beyond[head].argmax()), len(tokens) - 1)
        places = f"from {code(tokens[dest])} ({dest}) to {code(tokens[src + 1])} ({src + 1})"
        peaks.append(f"{code(head_names[head])} {places}, {beyond[head].max():.2f}")
    return f"Strongest attention, the first token aside: {'; '.join(peaks)}."


def token_view(tokens: Sequence[str], values: Numbers, unit: str, caption: str = "") -> View:
    """A number for each token as its colour: red above 0, and blue below, if any is. Hover a token to read the number.

    Args:
        tokens: as ``Tokenizer.show_all`` gives them.
        values: one finite number for each token, such as its loss in nats.
        unit: what the numbers are, for the legend: "loss, nats".

    Raises:
        ReaderError: not one finite value for each token, or more than 1,024 tokens.
    """
    numbers = torch.as_tensor(values).detach()
    if numbers.shape != (len(tokens),) or not len(tokens) or not numbers.isfinite().all():
        raise ReaderError(
            f"There are {len(tokens)} tokens and values of shape {list(numbers.shape)}: "
            "give one finite value for each token."
        )
    _check_length(tokens, 8 * LONGEST)
    values = _rounded(numbers, 2)
    top = max(map(abs, values)) or 1.0
    peak = max(range(len(values)), key=lambda i: abs(values[i]))
    furthest, signs = ("Furthest from 0", "+") if min(values) < 0 else ("Largest", "")
    return _view(
        f"{caption} {furthest}: {code(tokens[peak])} ({peak}), {values[peak]:{signs}.2f}.".strip(),
        lambda: token_strip(tokens, values, unit),
        "ColoredTokens",
        _text_height(tokens),
        tokens=_harmless(tokens),
        values=values,
        minValue=-top if min(values) < 0 else 0,
        maxValue=top,
        negativeColor=BLUE,
        positiveColor=RED,
    )


def _check_length(tokens: Sequence[str], longest: int) -> None:
    if len(tokens) > longest:
        raise ReaderError(f"This view shows at most {longest} tokens, and there are {len(tokens):,}: shorten the text.")


def _rounded(values: Tensor, digits: int) -> list:
    return values.double().mul(10**digits).round().div(10**digits).add(0.0).tolist()  # adding 0 makes -0 a 0


# ---- HTML -------------------------------------------------------------------------------------------------------


def _view(caption: str, draw: Callable[[], Figure], component: str, height: int, **properties) -> View:
    """A component of circuitsvis that is drawn as soon as the bundle is there; its still form is what ``draw`` makes.

    Until then it is ``height`` pixels high, so that a page does not jump when one view follows another.
    """
    script = DRAW % (component, _script_safe(json.dumps(properties)))
    html = f'<div style="{BOX}; min-height: {height}px"></div><script>{script}</script>'
    return View(lambda: render(draw(), caption), caption, html, bundle())


def _text_height(tokens: Sequence[str]) -> int:
    return 26 * -(-sum(map(len, tokens)) // 110)


def _harmless(tokens: Sequence[str]) -> list[str]:
    """Tokens that mean the same as HTML and as plain text: circuitsvis writes them as either.

    An invisible word joiner after ``<`` and ``&`` keeps the browser from reading a tag or a character reference.
    """
    return [token.replace("<", "<\u2060").replace("&", "&\u2060") for token in tokens]


def _script_safe(text: str) -> str:
    return text.replace("</", "<\\/")


@cache
def bundle() -> ipywidgets.Output:
    """The widget that brings circuitsvis to the browser; all views of a kernel share it. It shows nothing."""
    folder = Path(circuitsvis.utils.render.__file__).parent.parent
    program = _script_safe((folder / "dist" / "cdn" / "iife.js").read_text("utf8"))
    html = (
        "<style>.tokens button, .colored-tokens > span { margin-right: 2px }</style>"
        "<script>if (!window.CircuitsVis) window.CircuitsVis = (() => {" + program + "\nreturn CircuitsVis; })();"
        "document.currentScript.remove();</script>"
    )
    return ipywidgets.Output(outputs=outputs({"text/html": html}), layout={"display": "none"})
