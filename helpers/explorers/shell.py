"""Controls and what they change, and the controls themselves."""

import json
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import ipywidgets

from helpers import ReaderError
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.tokens import Tokenizer
from helpers.views import Area, Field, Table, View, ViewWidget, alert, code, show_output, text_output

LOCK = threading.RLock()  # held by whoever runs a model: a front end may call back in another thread
WIDE_NAME = {"description_width": "initial"}  # room for all of a control's name


class Explorer:
    """Controls, and below them what ``show`` makes of their values; one sentence instead if they make no sense.

    A click on a part of what is shown may set controls as well: that part has their values in ``data-choose``.

    Args:
        show: called with the controls' values by name, returns what to show, always the same number of things. It may
            adjust the controls, such as the end of a slider; that does not call it again.
        controls: widgets with a value, in the order of ``show``'s arguments.
        arrangement: a widget that lays the controls out; one below the other by default.

    Raises:
        ReaderError: the initial values are invalid.
    """

    def __init__(
        self,
        show: Callable[..., Sequence[View | Table]],
        controls: Mapping[str, ipywidgets.ValueWidget],
        arrangement: ipywidgets.Widget | None = None,
    ):
        self._show, self.controls, self._is_refreshing = show, controls, False
        self.message = ipywidgets.HTML()
        with LOCK:
            self.shown = [ViewWidget(view) for view in self._views()]
        self._settings = self._in_words()
        self._panel = ipywidgets.VBox([arrangement or ipywidgets.VBox([*controls.values()]), self.message])
        for control in controls.values():
            control.observe(self._refresh, names="value")
        for widget in self.shown:
            widget.body.observe(self._choose, names="chosen")

    def _views(self) -> list[View]:
        found = self._show(**{name: control.value for name, control in self.controls.items()})
        return [it.view if isinstance(it, Table) else it for it in found]

    def _choose(self, change) -> None:
        """What was clicked becomes the value of its controls; of a menu, it is the label."""
        if change["new"]:
            change["owner"].chosen = ""  # so that the same can be chosen once more
            for name, value in json.loads(change["new"]).items():
                control = self.controls[name]
                setattr(control, "label" if hasattr(control, "label") else "value", value)

    def _refresh(self, _change=None) -> None:
        with LOCK:
            if self._is_refreshing:
                return
            self._is_refreshing = True
            try:
                views, self.message.value = self._views(), ""
            except ReaderError as error:
                views, self.message.value = [None] * len(self.shown), alert(str(error))
            except Exception as error:
                sentence = f"This did not work ({type(error).__name__}: {error}): choose something else."
                self.message.value = alert(sentence)
                raise
            finally:
                self._is_refreshing = False
            for widget, view in zip(self.shown, views, strict=True):
                widget.update(view)

    def _in_words(self) -> str:
        """The settings of the controls, for the saved page. Buttons that are not pressed go without saying."""
        settings = []
        for control in self.controls.values():
            if isinstance(control, ipywidgets.ToggleButton):
                settings += [f"{control.description} pressed"] * control.value
            else:
                value = getattr(control, "label", control.value)
                settings.append(f"{control.description.lower()} {code(textwrap.shorten(str(value), 60) or '…')}")
        return f"**Explorer**, as saved with {', '.join(settings)}. Run this cell to change that."

    def _ipython_display_(self) -> None:
        show_output(text_output(self._settings), self._panel)
        for widget in self.shown:
            widget._ipython_display_()


def remembered(model: AttentionOnlyTransformer, function: Callable, n: int = 4) -> Callable:
    """``function`` with its last ``n`` results, as long as nothing writes into the weights of ``model``."""

    @lru_cache(n)
    def call(_state: tuple[tuple[int, float], ...], *arguments):
        return function(*arguments)

    return lambda *arguments: call(_state_of(model), *arguments)


def _state_of(model: AttentionOnlyTransformer) -> tuple[tuple[int, float], ...]:
    """Another one after each write: PyTorch counts most of them; fused optimizers, which it does not, change sums."""
    return tuple((weight._version, weight.detach().sum().item()) for weight in model.parameters())


# ---- controls ---------------------------------------------------------------------------------------------------


def text_box(text: str) -> Area:
    hints = {"placeholder": "Type a text", "tooltip": "Type, then press Tab or click elsewhere"}
    layout = {"width": "98%", "height": "6em"}
    return Area(text, description="Text", continuous_update=False, layout=layout, **hints)


def token_box(token: str, description: str) -> Field:
    """A field for one token; ␣, ↵ and → may be typed for a space, a new line and a tab."""
    hints = {"placeholder": "one token, such as ␣self", "tooltip": "Type, then press Enter"}
    return Field(token, description=description, continuous_update=False, style=WIDE_NAME, **hints)


def head_menu(model: AttentionOnlyTransformer, head: Head) -> ipywidgets.Dropdown:
    """Raises ReaderError if the model has no such head."""
    model.check_heads([head])
    return ipywidgets.Dropdown(options=[(head_name(h), h) for h in model.heads], value=tuple(head), description="Head")


def position_slider(model: AttentionOnlyTransformer, position: int) -> ipywidgets.IntSlider:
    """A slider for a position of a text; ``fit`` lets it end with the text."""
    return ipywidgets.IntSlider(position, 0, model.config.n_ctx - 1, description="Position")


def chooser(shown: str, choice: Mapping[str, object], name: str = "", pressed: bool | None = None) -> str:
    """A button, as HTML for a cell of a table, whose click sets controls: of a menu the label.

    ``shown`` is HTML; a screen reader says ``name`` in its place, if there is one.
    """
    attributes = {"data-choose": json.dumps(choice)} | ({"aria-label": name, "title": name} if name else {})
    if pressed is not None:
        attributes["aria-pressed"] = str(pressed).lower()
    written = [f'{key}="{code(value)[6:-7]}"' for key, value in attributes.items()]
    return f"<button {' '.join(written)}>{shown}</button>"


def token_of(tokenizer: Tokenizer, text: str) -> int:
    """The one token that ``text`` is, written as it is or as the book shows it (␣self, ↵).

    Raises:
        ReaderError: it is not one token of the vocabulary.
    """
    if len(text) > 100:
        raise ReaderError(f"A text of {len(text):,} letters is not one token of the vocabulary: type a shorter one.")
    if len(tokenizer.encode(text)) != 1 and text in (shown := _tokens_as_shown(tokenizer)):
        return shown[text]
    return tokenizer.token(text)


@lru_cache(4)
def _tokens_as_shown(tokenizer: Tokenizer) -> dict[str, int]:
    return {tokenizer.show(token): token for token in range(tokenizer.d_vocab)}
