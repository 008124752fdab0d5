"""All heads of a layer on one text, drawn by circuitsvis (Cooney and Nanda, 2022); no other module imports it.

The program of circuitsvis travels to the browser with each view when it is shown, and is never part of a saved
notebook. Nothing here uses the network: what of circuitsvis would ask for it is never called.
Tokens are drawn on a canvas, and names of heads are text: neither is ever read as HTML.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import circuitsvis
import ipywidgets
from anywidget import AnyWidget
from jaxtyping import Float
from torch import Tensor
from traitlets import Dict, Int

from helpers import ReaderError
from helpers.figures import BLUE, heatmaps, plain
from helpers.token_views import attention_row, check_attention, rounded
from helpers.views import Mime, Page, render, show_output, text_output

LONGEST = 64  # tokens: a browser draws a field for each entry of each head's pattern

# circuitsvis looks for its place in the document by name. A click on a head tells the menu, and the other way round.
DRAW = """
function render({ model, el }) {
  const box = document.createElement("div");
  box.id = `book-heads-${Math.random().toString(36).slice(2)}`;
  document.body.append(box);
  CircuitsVis.render(box.id, CircuitsVis.AttentionHeads, model.get("shown"));
  el.classList.add("book-view", "book-heads");
  el.append(box);
  const heads = () => [...box.querySelectorAll("h4")].map(name => name.parentElement);
  box.addEventListener("click", event => {
    const chosen = heads().findIndex(head => head.contains(event.target));
    if (chosen < 0 || chosen === model.get("head")) return;
    model.set("head", chosen);
    model.save_changes();
  });
  model.on("change:head", () => heads()[model.get("head")].click());
}

export default { render };
"""

STYLE = """
.book-heads > div { max-width: 600px; margin: 0 }
.book-heads div:has(> div > div > h4) { flex: 0 0 16.6% !important; max-width: 16.6% !important }
.book-heads h4 { font-size: 11px }
"""


class Heads(AnyWidget):
    """What circuitsvis draws of all heads, the one of number ``head`` enlarged."""

    _program = Path(circuitsvis.__file__).with_name("dist") / "cdn" / "iife.js"
    _esm = f"{_program.read_text('utf8').split('//# sourceMappingURL')[0]}\n{DRAW}"
    _css = STYLE
    shown = Dict().tag(sync=True)
    head = Int().tag(sync=True)


def heads_view(
    tokens: Sequence[str], pattern: Float[Tensor, "..."], head_names: Sequence[str], caption: str = ""
) -> "HeadsView":
    """Who attends to whom, head by head: a click or the menu enlarges one; hover a token to see where it looks there.

    A browser takes half a second to draw 64 tokens, as long as five answers of an explorer: explorers use
    ``attention_view``.

    Args:
        tokens: as ``Tokenizer.show_all`` gives them.
        pattern: attention ``[head, dest, src]``, each entry between 0 and 1.

    Raises:
        ReaderError: shapes that do not fit each other, entries outside 0 to 1, more than 64 tokens.
    """
    pattern, needed = pattern.detach().float(), [len(head_names), len(tokens), len(tokens)]
    if list(pattern.shape) != needed or not pattern.numel():
        raise ReaderError(
            f"The pattern has shape {list(pattern.shape)}, but these heads and tokens need {needed}: "
            "choose one text of the batch and one layer."
        )
    check_attention(tokens, pattern, LONGEST)
    return HeadsView(tokens, pattern, head_names, caption)


@dataclass(frozen=True)
class HeadsView:
    """What ``heads_view`` makes: widgets in a running notebook, small maps in a saved one."""

    tokens: Sequence[str]
    pattern: Float[Tensor, "head dest src"]
    head_names: Sequence[str]
    caption: str

    def _ipython_display_(self) -> None:
        show_output(self.still(), self.panel())
        if self.caption:
            show_output(text_output(f"*{self.caption}*"))

    def panel(self) -> ipywidgets.VBox:
        """All heads, a menu of them, and the tokens, which show where the chosen head looks."""
        shown = {
            "tokens": list(self.tokens),
            "attention": rounded(self.pattern, 3),
            "attentionHeadNames": list(self.head_names),
            "minValue": 0,
            "maxValue": 1,
            "positiveColor": BLUE,
        }
        heads, row = Heads(shown=shown), Page()
        options = [(name, i) for i, name in enumerate(self.head_names)]
        menu = ipywidgets.Dropdown(options=options, description="Head")

        def show_row(_change=None) -> None:
            row.html = attention_row(self.tokens, self.pattern[menu.value], len(self.tokens) - 1)

        menu.observe(show_row, names="value")
        show_row()
        ipywidgets.link((menu, "value"), (heads, "head"))
        return ipywidgets.VBox([heads, menu, row])

    def still(self) -> Mime:
        """A map for each head, with the tokens at its sides where there are one or two."""
        few = len(self.head_names) <= 2
        size = min(9, 1.5 + 0.16 * len(self.tokens)) if few else 1.8
        names = self.tokens if few else [""] * len(self.tokens)
        maps = {plain(name): of_head for name, of_head in zip(self.head_names, self.pattern, strict=True)}
        shape = {"width": size, "height": size, "per_row": 1 if few else 6}
        figure = heatmaps(maps, names, names, "source", "destination", limit=1.0, **shape)
        return render(figure, f"{self.caption} {self._strongest()}".strip())

    def _strongest(self) -> str:
        """The text equivalent: where the heads look hardest, the first token left aside."""
        beyond = self.pattern[:, :, 1:].flatten(1)
        if not beyond.numel():
            return ""
        peaks = []
        for head in beyond.amax(1).argsort(descending=True, stable=True)[:3].tolist():
            dest, src = divmod(int(beyond[head].argmax()), len(self.tokens) - 1)
            places = f"from {self.tokens[dest]} ({dest}) to {self.tokens[src + 1]} ({src + 1})"
            peaks.append(f"{self.head_names[head]} {places}, {beyond[head].max():.2f}")
        return f"Strongest attention, the first token aside: {'; '.join(peaks)}."
