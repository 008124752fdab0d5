"""What a cell shows: pictures with captions, tables, and whatever else has a live and a still form.

The live form is there while the kernel runs: HTML in a widget, which draws it at once and answers to the mouse and the
keyboard (page.js). The still form stands in its place everywhere else: on GitHub, in print, in a notebook not yet run.
Both are one output of the cell, so a front end shows the live form if it can; a saved notebook keeps the still form
alone.
"""

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ipywidgets
from anywidget import AnyWidget
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image
from traitlets import Bool, Unicode

from helpers.corpus import without_surrogates

LIVE = "application/vnd.jupyter.widget-view+json"
Mime = dict[str, str]  # the content of one output, by MIME type


@dataclass(frozen=True)
class View:
    """Something to show, and below it, in an output of its own, its caption.

    Args:
        still: makes what is saved in the notebook.
        caption: in Markdown.
        html: what a running notebook shows instead of ``still``, if anything; whatever a reader typed is escaped in it.
    """

    still: Callable[[], Mime]
    caption: str = ""
    html: str = ""

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
    return {"image/png": base64.b64encode(small.getvalue()).decode(), "text/plain": as_text(caption)}


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
        return self._markdown() + (f"\n\n*{self.caption}*" if self.caption else "")

    def _repr_markdown_(self) -> str:
        return repr(self)

    def _cells(self) -> list[list[str]]:
        return [[_cell(v, spec) for v, spec in zip(row, self.columns.values(), strict=True)] for row in self.rows]

    def _markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self._cells()]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)

    def _html(self) -> str:
        head = "".join(f'<th scope="col">{as_html(column)}</th>' for column in self.columns)
        rows = ["".join(f"<td>{as_html(cell)}</td>" for cell in row) for row in self._cells()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    @property
    def view(self) -> View:
        return View(lambda: text_output(self._markdown()), self.caption, self._html())


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


def as_html(markdown: str) -> str:
    """Markdown within a line, as captions and cells of tables have it: code, bold and emphasis. HTML stays HTML."""
    for mark, tag in ((r"`", "code"), (r"\*\*", "b"), (r"\*", "em")):
        markdown = re.sub(rf"{mark}(.+?){mark}", rf"<{tag}>\1</{tag}>", markdown)
    return markdown


def as_text(markdown: str) -> str:
    """The same without its marks."""
    return html.unescape(re.sub(r"</?code>|[*`]", "", markdown))


# ---- in widgets -------------------------------------------------------------------------------------------------


class Page(AnyWidget):
    """HTML in the page. ``chosen`` is what the reader has clicked; a screen reader speaks what is ``spoken``."""

    _esm, _css = (Path(__file__).with_name(f"page.{kind}") for kind in ("js", "css"))
    html = Unicode().tag(sync=True)
    chosen = Unicode().tag(sync=True)
    spoken = Bool().tag(sync=True)


class _Typed:
    """A text box that takes whatever is typed: half of a character, which no message could carry, becomes a "?"."""

    def set_state(self, sync_data: dict) -> None:
        typed = {"value": without_surrogates(sync_data["value"])} if "value" in sync_data else {}
        super().set_state(sync_data | typed)


class Field(_Typed, ipywidgets.Text):
    """One line to type in."""


class Area(_Typed, ipywidgets.Textarea):
    """Some lines to type in."""


class ViewWidget:
    """A view whose place another can take while the kernel runs; what is saved is the first."""

    def __init__(self, view: View):
        self._first = view
        self.body, self.caption = Page(), Page(spoken=True)
        self.update(view)

    def update(self, view: View | None) -> None:
        """Show ``view``, or nothing. What is unchanged is not sent again."""
        self.body.html = view.html or _image(view.still()) if view else ""
        self.caption.html = f"<em>{as_html(view.caption)}</em>" if view else ""

    def _ipython_display_(self) -> None:
        show_output(self._first.still(), self.body)
        if self._first.caption:
            show_output(text_output(f"*{self._first.caption}*"), self.caption)


def _image(still: Mime) -> str:
    return f'<img src="data:image/png;base64,{still["image/png"]}" alt="{html.escape(still["text/plain"])}">'


def show_output(still: Mime, widget: ipywidgets.DOMWidget | None = None) -> None:
    """Display one output: ``widget`` while the kernel runs, ``still`` in the saved notebook."""
    live = {LIVE: widget.get_view_spec()} if widget else {}
    metadata = {"image/png": {"alt": still["text/plain"]}} if "image/png" in still else {}
    display(live | still, metadata=metadata, raw=True)


def text_output(markdown: str) -> Mime:
    """Markdown as the content of an output."""
    return {"text/markdown": markdown, "text/plain": markdown}


def alert(sentence: str) -> str:
    """A sentence to the reader as HTML, which a screen reader speaks at once; nothing if it is empty."""
    return f'<p role="alert"><b>{html.escape(sentence)}</b></p>' if sentence else ""
