"""An explorer of a head's place in the stream: whom it can read, and who can read it."""

import json
from collections.abc import Mapping
from functools import partial

import ipywidgets
import torch
from jaxtyping import Float
from torch import Tensor

from helpers.explorers.shell import WIDE_NAME, Explorer, chooser, head_menu, remembered, text_box
from helpers.figures import BLUE, RED
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.stream import component_names, component_outputs
from helpers.tokens import Tokenizer
from helpers.views import Table, View

Written = Mapping[
    str, Float[Tensor, "row d_model"]
]  # vectors of the stream, by the name of the component that wrote them


@torch.no_grad()
def written_on(model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str) -> Written:
    """What each component adds to the stream, at every position of a text.

    Raises:
        ReaderError: the text is empty or longer than the context.
    """
    outputs = component_outputs(model.cache(tokenizer.prompt(text, model.config.n_ctx)))
    return dict(zip(component_names(model), outputs[:, 0], strict=True))


@torch.no_grad()
def writable(model: AttentionOnlyTransformer) -> Written:
    """What each component can add: the vectors of all tokens, and an orthonormal basis of what each head writes."""
    bases = torch.linalg.qr(model.W_O.flatten(0, 1).mT).Q.mT
    return dict(zip(component_names(model), [model.W_E, *bases], strict=True))


@torch.no_grad()
def read_directions(model: AttentionOnlyTransformer, head: Head) -> Float[Tensor, "3 d_model d_head"]:
    """Orthonormal bases of what a head's queries, its keys and its values read."""
    return torch.linalg.qr(torch.stack([W[head] for W in (model.W_Q, model.W_K, model.W_V)])).Q


def shares_read(
    written: Float[Tensor, "row d_model"], directions: Float[Tensor, "kind d_model d_head"]
) -> Float[Tensor, " kind"]:
    """How much of the squared length of some vectors lies in what is read, as a share for each kind of reading."""
    return (written @ directions).square().sum((1, 2)) / written.square().sum()


def explore_stream(model: AttentionOnlyTransformer, written: Written, head: Head, of: str) -> tuple[View]:
    """What a head can read of every earlier component, and what every later head can read of it.

    A click on a row, or below the table on a head of the same layer, chooses that head.

    Args:
        of: what ``written`` is, in words for the caption.

    Raises:
        ReaderError: no such head.
    """
    model.check_heads([head])
    c, name = model.config, head_name(head)
    earlier = ["token", *(head_name(h) for h in model.heads if h[0] < head[0])]
    later = {head_name(h): read_directions(model, h) for h in model.heads if h[0] > head[0]}
    own = read_directions(model, head)
    rows = [("from", other, shares_read(written[other], own)) for other in earlier]
    rows += [("to", other, shares_read(written[name], directions)) for other, directions in later.items()]
    chance = c.d_head / c.d_model
    caption = (
        f"Head {name}: what it can read of earlier components (from), what later heads can read of it (to). Shares of "
        f"the squared length of {of}, in the {c.d_head} of {c.d_model} directions that a reader reads. Bold is more "
        f"than twice chance, which is {chance:.3f}."
    )
    columns = dict.fromkeys(["", "by queries", "by keys", "by values"], "")
    still = [[f"{way} {other}", *(_number(share, chance) for share in shares.tolist())] for way, other, shares in rows]
    live = [
        [f"{way} {_chooser(other)}", *(_bar(share, chance, other) for share in shares.tolist())]
        for way, other, shares in rows
    ]
    others = " ".join(
        chooser(head_name(h), {"head": head_name(h)}, pressed=h == tuple(head)) for h in model.layer_heads(head[0])
    )
    beside = f"<p>A line marks chance. In the same layer, where no head reads another: {others}</p>"
    return (View(Table(columns, still).view.still, caption, Table(columns, live).view.html + beside),)


def _number(share: float, chance: float) -> str:
    return f"**{share:.2f}**" if share > 2 * chance else f"{share:.2f}"


def _chooser(component: str) -> str:
    return component if component == "token" else chooser(component, {"head": component})


def _bar(share: float, chance: float, component: str) -> str:
    """A bar with its number, and a mark where chance is; a click chooses the component, if it is a head."""
    room, colour = 7.0, RED if share > 2 * chance else BLUE  # em
    choice = "" if component == "token" else f"data-choose='{json.dumps({'head': component})}'"
    return (
        f'<div class="book-share" {choice} style="--chance: {room * chance:.2f}em"><i style="width: '
        f'{room * share:.2f}em; background: {colour}"></i>{_number(share, chance)}</div>'
    )


def stream_explorer(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, text: str, head: Head, by_weights: bool = False
) -> Explorer:
    """Choose a head, or click on one: whom it can read and who can read it, on a text or by the weights alone."""
    on_text = remembered(model, partial(written_on, model, tokenizer))
    by_the_weights = remembered(model, partial(writable, model))
    options = [("the text", False), ("the weights", True)]
    measure = ipywidgets.Dropdown(options=options, value=by_weights, description="Measured on", style=WIDE_NAME)

    def show(text: str, head: Head, by_weights: bool) -> tuple[View]:
        if by_weights:
            return explore_stream(model, by_the_weights(), head, "all directions that it can write (of all tokens)")
        return explore_stream(model, on_text(text), head, "what is written on the text")

    return Explorer(show, {"text": text_box(text), "head": head_menu(model, head), "by_weights": measure})
