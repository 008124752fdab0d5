"""What a cell shows: pictures with captions, tables, and whatever else has a live and a still form.

The live form is there while the kernel runs. The still form stands in its place everywhere else: on GitHub, in print,
in a notebook not yet run. Both are one output of the cell, so a front end shows the live form if it can; a saved
notebook keeps the still form alone.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import ipywidgets
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image

LIVE = "application/vnd.jupyter.widget-view+json"
Mime = dict[str, str]  # the content of one output, by MIME type


@dataclass(frozen=True)
class View:
    """Something to show, and below it, in an output of its own, its caption.

    Args:
        still: makes what is saved in the notebook.
        caption: in Markdown.
        html: what a running notebook shows instead of ``still``, if anything.
        scripts: a widget that brings to the page what ``html`` needs.
    """

    still: Callable[[], Mime]
    caption: str = ""
    html: str = ""
    scripts: ipywidgets.Widget | None = None

    @property
    def live(self) -> Mime:
        """What a running notebook shows."""
        return {"text/html": self.html} if self.html else self.still()

    def _ipython_display_(self) -> None:
        if self.html:
            ViewWidget(self)._ipython_display_()
        else:
            show_output(self.still())
            if self.caption:
                display(Markdown(f"*{self.caption}*"))


# ---- pictures and tables ----------------------------------------------------------------------------------------


def picture(figure: Figure, caption: str, title: str = "") -> View:
    """The figure, rendered once and for all under its message as ``title``, and its caption."""
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", wrap=True)
    mime = render(figure, f"{title}. {caption}" if title else caption)
    return View(lambda: mime, caption)


def render(figure: Figure, caption: str) -> Mime:
    """The figure as a PNG in 255 colours, which makes it a third as large; for screen readers the plain caption."""
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    Image.open(buffer).convert("RGB").quantize(255).save(small, format="png", optimize=True)
    alt = html.unescape(re.sub(r"</?code>|[*`]", "", caption))
    return {"image/png": base64.b64encode(small.getvalue()).decode(), "text/plain": alt}


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of numbers and text under a header; numbers are formatted only when the table is shown.

    Args:
        columns: the header of each column, and how its numbers are formatted: ``{"model": "", "loss, nats": ".2f"}``.
        rows: a string is shown as it is, so that ``code`` can show a token; None is shown as a dash.
        caption: in Markdown.
    """

    columns: Mapping[str, str]
    rows: Sequence[Sequence[object]]
    caption: str = ""

    def __repr__(self) -> str:
        specs = self.columns.values()
        cells = [[_cell(value, spec) for value, spec in zip(row, specs, strict=True)] for row in self.rows]
        lines = [self.columns, ["---"] * len(self.columns), *cells]
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + (f"\n\n*{self.caption}*" if self.caption else "")

    def _repr_markdown_(self) -> str:
        return repr(self)

    @property
    def view(self) -> View:
        """The table, caption included, as one output."""
        return View(lambda: text_output(repr(self)))


def _cell(value: object, spec: str) -> str:
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    shown = format(value, spec)
    rounds_to_minus_zero = shown.startswith("-") and not re.search("[1-9]|inf", shown)
    return format(abs(value), spec) if rounds_to_minus_zero else shown


def code(*tokens: str) -> str:
    """Tokens for a table or a Markdown text, in code type, every special character made harmless."""
    return " ".join(f"<code>{''.join(c if c.isalnum() else f'&#{ord(c)};' for c in token)}</code>" for token in tokens)


# ---- in widgets -------------------------------------------------------------------------------------------------


class ViewWidget:
    """A view whose place another can take while the kernel runs; what is saved is the first."""

    def __init__(self, view: View):
        self._first = view
        self.body, self.caption = ipywidgets.Output(), ipywidgets.Output()
        self._panel = ipywidgets.VBox([view.scripts, self.body]) if view.scripts else self.body
        self.update(view)

    def update(self, view: View | None) -> None:
        """Show ``view``, or nothing. What is unchanged is not sent again."""
        self.body.outputs = outputs(view.live) if view else ()
        self.caption.outputs = outputs(text_output(f"*{view.caption}*")) if view and view.caption else ()

    def _ipython_display_(self) -> None:
        show_output(self._first.still(), self._panel)
        if self._first.caption:
            show_output(text_output(f"*{self._first.caption}*"), self.caption)


def show_output(still: Mime, widget: ipywidgets.Widget | None = None) -> None:
    """Display one output: ``widget`` while the kernel runs, ``still`` in the saved notebook."""
    live = {LIVE: widget._repr_mimebundle_()[LIVE]} if widget else {}
    metadata = {"image/png": {"alt": still["text/plain"]}} if "image/png" in still else {}
    display(live | still, metadata=metadata, raw=True)


def text_output(markdown: str) -> Mime:
    """Markdown as the content of an output."""
    return {"text/markdown": markdown, "text/plain": markdown}


def alert(sentence: str) -> str:
    """A sentence to the reader as HTML, which a screen reader speaks at once; nothing if it is empty."""
    return f'<p role="alert"><b>{html.escape(sentence)}</b></p>' if sentence else ""


def outputs(data: Mime) -> tuple[dict]:
    """One output, in the form in which ipywidgets' ``Output`` takes it."""
    return ({"output_type": "display_data", "data": data, "metadata": {}},)
