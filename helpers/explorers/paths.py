"""An explorer of one path: an induction head, and the head that tells it what came before."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import ipywidgets
import torch

from helpers import ReaderError
from helpers.circuits import W_QK
from helpers.explorers.shell import WIDE_NAME, Explorer, position_slider, remembered, text_box
from helpers.explorers.texts import Reading, fit, read
from helpers.figures import BLUE, GREEN, GREY, ORANGE, RED, SKY, tokens_and_bars
from helpers.heads import direct_logit_attribution
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.token_views import token_row
from helpers.tokens import Tokenizer
from helpers.views import View, as_html, code, render


@dataclass(frozen=True)
class Step:
    """What came of the token at ``dest``: where an induction head looks, and where it should.

    Scores are in nats above their mean over the tokens before ``dest``, ``<START>`` left aside.
    """

    dest: int
    looks: int  # where the head looks most
    looks_with: float  # its attention there
    source: int | None  # after an earlier occurrence: where it looks, or most nearly; None if there is none
    one_back: float = 0.0  # attention of the previous-token head, from the source to the token before
    score: float = 0.0  # of the source
    by_previous: float = 0.0  # the part of the score that comes by what the previous-token head wrote
    by_token: float = 0.0  # of that, what the token at dest asks for, without position and other heads
    attention: float = 0.0  # on the source
    raised: float = 0.0  # what the head adds to the logit of the token at the source, above the vocabulary's mean
    probability: float = 0.0  # of that token


@torch.no_grad()
def induction_step(reading: Reading, dest: int, previous_head: Head, induction_head: Head) -> Step:
    """Where a head looks from ``dest``, and each link from the previous-token head to the logit, exactly.

    Raises:
        ReaderError: no such position or heads, the previous-token head is not in an earlier layer, or the model smears
            its keys.
    """
    model, cache, tokens = reading.model, reading.cache, reading.tokens[0]
    reading.check(dest)
    _check_heads(model, previous_head, induction_head)
    layer, h = induction_head
    attention, qk = cache.patterns[layer][0, h, dest, : dest + 1], W_QK(model, induction_head)
    looks = int(attention.argmax())
    sources = [i for i in range(1, dest + 1) if tokens[i - 1] == tokens[dest]]
    if not sources:
        return Step(dest, looks, attention[looks].item(), None)
    source = looks if looks in sources else max(sources, key=lambda i: attention[i])
    written = cache.head_outputs[previous_head[0]][0, previous_head[1]] @ qk.right.T
    query = cache.residual[layer][0, dest] + model.W_pos[dest]

    def above(scores: torch.Tensor) -> float:
        return (scores[source] - scores[1:dest].mean()).item()

    return Step(
        dest,
        looks,
        attention[looks].item(),
        source,
        cache.patterns[previous_head[0]][0, previous_head[1], source, source - 1].item(),
        above(cache.scores[layer][0, h, dest]),
        above(written @ (query @ qk.left)),
        above(written @ (cache.residual[0][0, dest] @ qk.left)),
        attention[source].item(),
        direct_logit_attribution(model, cache.head_outputs[layer][0, h, dest], int(tokens[source])).item(),
        reading.logits[dest].softmax(-1)[tokens[source]].item(),
    )


def _check_heads(model: AttentionOnlyTransformer, previous_head: Head, induction_head: Head) -> None:
    model.check_heads([previous_head, induction_head])
    if previous_head[0] >= induction_head[0]:
        raise ReaderError(
            f"Head {head_name(induction_head)} cannot read what {head_name(previous_head)} writes: "
            "choose a previous-token head of an earlier layer."
        )


# ---- what is shown ----------------------------------------------------------------------------------------------


def explore_path(reading: Reading, dest: int, previous_head: Head, induction_head: Head) -> tuple[View]:
    """The tokens with the places of an induction step marked; below them its links with their numbers.

    The caption tells the step in a sentence, or says that there is none: no earlier occurrence, or the head looks
    elsewhere.

    Raises:
        ReaderError: as in ``induction_step``.
    """
    step, names = induction_step(reading, dest, previous_head, induction_head), reading.names
    heads, marks = (head_name(previous_head), head_name(induction_head)), _marks(step, reading)
    links = partial(_links, step, names, *heads)
    caption = _caption(step, reading, *heads)
    row = token_row(
        names,
        grounds=[f"{marks[i][1]}66" if i in marks else "" for i in range(len(names))],
        names=[marks[i][0] if i in marks else "" for i in range(len(names))],
        choices=[f'{{"position": {i}}}' for i in range(len(names))],
    )

    def still():
        light = {place: (f"{name}: {names[place]} ({place})", f"{colour}66") for place, (name, colour) in marks.items()}
        return render(tokens_and_bars(names, light, _bars(links(str))), caption)

    return (View(still, caption, row + _chain(links(code))),)


def _marks(step: Step, reading: Reading) -> dict[int, tuple[str, str]]:
    """Name and colour of each place of the step; a place of two has both names."""
    places = [(step.dest, "destination [a]", RED)]
    if step.source is not None:
        places += [(step.source - 1, "earlier [a]", SKY), (step.source, "source [b]", BLUE)]
    if step.looks != step.source:
        places.append((step.looks, "looks here", GREY))
    elif step.dest + 1 < len(reading.names):
        came = reading.tokens[0, step.dest + 1] == reading.tokens[0, step.source]
        places.append((step.dest + 1, "predicted [b]" if came else "[b] was predicted", ORANGE))
    marks: dict[int, tuple[str, str]] = {}
    for place, name, colour in places:
        marks[place] = (f"{marks[place][0]}, {name}", marks[place][1]) if place in marks else (name, colour)
    return marks


Link = tuple[str, float, bool]  # what is measured, how much, and whether it is a share; otherwise it is in nats


def _links(step: Step, names: list[str], previous: str, induction: str, quote: Callable[[str], str]) -> list[Link]:
    """The numbers of a step from the token to the logit, in the order in which the model computes them."""
    if step.source is None:
        return []
    a, b = quote(names[step.dest]), quote(names[step.source])
    return [
        (f"{previous} at {b} looks one back, at {a}", step.one_back, True),
        (f"↓ score of {induction} on {b}, above the mean of the tokens before", step.score, False),
        (f"of this, by what {previous} wrote at {b}", step.by_previous, False),
        (f"of that, asked for by the token {a} alone", step.by_token, False),
        (f"↓ attention of {induction} on {b}", step.attention, True),
        (f"↓ {induction} raises the logit of {b} by", step.raised, False),
        (f"↓ probability of {b}", step.probability, True),
    ]


def _bars(links: list[Link]) -> list[tuple[str, float, str, str]]:
    """Each link, the length of its bar, its number and a colour: blue for shares, green or below 0 red for nats.

    The longest bar of nats has length 1, as a share of 1 has.
    """
    longest = max((abs(value) for _, value, is_share in links if not is_share), default=1.0) or 1.0
    return [
        (name, value, f"{value:.2f}", BLUE)
        if is_share
        else (name, abs(value) / longest, f"{value:+.1f} nats", RED if value < 0 else GREEN)
        for name, value, is_share in links
    ]


def _chain(links: list[Link]) -> str:
    rows = [
        f'<tr><th scope="row">{as_html(name)}</th><td class="book-bar"><i style="width: {100 * length:.1f}%; '
        f'background: {colour}"></i></td><td>{number}</td></tr>'
        for name, length, number, colour in _bars(links)
    ]
    return f'<table class="book-bars"><tbody>{"".join(rows)}</tbody></table>' if rows else ""


def _caption(step: Step, reading: Reading, previous: str, induction: str) -> str:
    def at(place: int) -> str:
        return f"{code(reading.names[place])} ({place})"

    where = f"{at(step.looks)}, with {step.looks_with:.2f}"
    if step.source is None:
        return f"{at(step.dest)} has not come before: there is no step to take. Head {induction} looks most at {where}."
    before = f"{at(step.dest)} came before, at {step.source - 1}"
    if step.looks != step.source:
        return (
            f"{before}, but head {induction} looks most at {where}. At what followed then, {at(step.source)}, it looks "
            f"with {step.attention:.2f} only: the step fails."
        )
    weak = f" Head {previous} carried little of this: it looks one back with {step.one_back:.2f} only."
    moves = f"{'raises' if step.raised > 0 else 'lowers'} its logit by {abs(step.raised):.1f} nats"
    return (
        f"{before}: head {induction} looks most at what followed, {where}, and "
        f"{moves if abs(step.raised) >= 0.05 else 'hardly moves its logit'}; the model gives it "
        f"{step.probability:.1%}.{weak if step.one_back < 0.5 else ''} {_continuation(step, reading)}"
    )


def _continuation(step: Step, reading: Reading) -> str:
    if step.dest + 1 == len(reading.names):
        return "Here the text ends."
    came = reading.tokens[0, step.dest + 1] == reading.tokens[0, step.source]
    follows = code(reading.names[step.dest + 1])
    return "The text goes on with it." if came else f"The text goes on with {follows}."


# ---- the controls -----------------------------------------------------------------------------------------------


def path_explorer(
    model: AttentionOnlyTransformer,
    tokenizer: Tokenizer,
    text: str,
    position: int,
    previous_head: Head = (0, 6),
    induction_head: Head = (1, 9),
) -> Explorer:
    """Choose a place of a text: the path of an induction step that begins there, link by link.

    Raises:
        ReaderError: as in ``induction_step``, or the text is empty or longer than the context.
    """
    _check_heads(model, previous_head, induction_head)
    reading, slider = remembered(model, partial(read, model, tokenizer)), position_slider(model, position)

    def show(text: str, position: int, previous: Head, induction: Head) -> tuple[View]:
        return explore_path(reading(text), fit(slider, reading(text)), previous, induction)

    menus = {
        "previous": _menu(model, previous_head, "Previous-token head"),
        "induction": _menu(model, induction_head, "Induction head"),
    }
    return Explorer(show, {"text": text_box(text), "position": slider} | menus)


def _menu(model: AttentionOnlyTransformer, head: Head, name: str) -> ipywidgets.Dropdown:
    """The heads of one layer to choose from."""
    options = [(head_name(h), h) for h in model.layer_heads(head[0])]
    return ipywidgets.Dropdown(options=options, value=tuple(head), description=name, style=WIDE_NAME)
