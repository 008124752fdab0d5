"""An explorer of one Markov chain: who expects what to come next, and where a model looks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from string import ascii_lowercase

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.explorers.shell import WIDE_NAME, Explorer, position_slider, remembered
from helpers.heads import induction_targets
from helpers.model import AttentionOnlyTransformer
from helpers.token_views import bar_view, token_view
from helpers.views import Field, View

Predictors = Mapping[str, Callable[[Int[Tensor, "chain pos"], int], Float[Tensor, "chain pos state"]]]


@dataclass(frozen=True)
class Chain:
    """A chain of letters, what predictors and a model expect after each place, and where the model looks."""

    letters: str
    states: Int[Tensor, "1 pos"]
    expected: dict[str, Float[Tensor, "pos state"]]
    attention: Float[Tensor, "dest src"]  # of the last layer, the mean over its heads


@torch.no_grad()
def read_chain(model: AttentionOnlyTransformer, predictors: Predictors, text: str) -> Chain:
    """The chain that is written in ``text``, one letter for each state; spaces do not count.

    ``predictors`` take a chain and the number of states, as those of ``helpers.markov`` do.

    Raises:
        ReaderError: it has no states, too many for the context, or letters that are none.
    """
    letters, config = "".join(text.split()), model.config
    names = ascii_lowercase[: config.d_vocab]
    if strange := sorted({*letters} - {*names}):
        raise ReaderError(f"{strange[0]!r} is no state of this model: write a chain of {', '.join(names)}.")
    if not 0 < len(letters) <= config.n_ctx:
        raise ReaderError(f"The chain has {len(letters)} states: write one to {config.n_ctx} of them.")
    states = torch.tensor([[names.index(letter) for letter in letters]])
    cache = model.cache(states)
    expected = {name: predictor(states, config.d_vocab)[0] for name, predictor in predictors.items()}
    expected["the model"] = (cache.residual[-1] @ model.W_U).softmax(-1)[0]
    return Chain(letters, states, expected, cache.patterns[-1][0].mean(0))


def explore_chain(chain: Chain, place: int) -> tuple[View, View]:
    """Where the last layer looks from a place, successors of the present state as capitals; and who expects what.

    Raises:
        ReaderError: the chain has no such place.
    """
    if not 0 <= place < len(chain.letters):
        raise ReaderError(f"The chain ends at place {len(chain.letters) - 1}: choose one from 0 to there.")
    here, successors = chain.letters[place], induction_targets(chain.states)[0, place, : place + 1]
    letters = (letter.upper() if is_one else letter for letter, is_one in zip(chain.letters, successors, strict=False))
    looks = chain.attention[place, : place + 1]
    on_them = f"They get {looks[successors].sum():.0%} of the attention." if successors.any() else "It has none yet."
    caption = f"The present state is {here}, at place {place}; its successors so far are capitals. {on_them}"
    expected = torch.stack([of_places[place] for of_places in chain.expected.values()])
    names = ascii_lowercase[: expected.shape[1]]
    said = ", ".join(f"{p:.2f} for {name}" for name, p in zip(names, expected[-1], strict=True))
    series = {name: of_state.tolist() for name, of_state in zip(names, expected.T, strict=True)}
    return (
        token_view([f" {letter} " for letter in letters], looks, "share of attention", caption),
        bar_view(series, [*chain.expected], "probability", f"What comes next? The model says {said}.", (0.0, 1.0)),
    )


def chain_explorer(model: AttentionOnlyTransformer, text: str, place: int, predictors: Predictors) -> Explorer:
    """Write a chain and go through it: what predictors and the model expect, and where the last layer looks.

    Raises:
        ReaderError: as in ``read_chain`` and ``explore_chain``.
    """
    read, slider = remembered(model, partial(read_chain, model, predictors)), position_slider(model, place)

    def show(chain: str, place: int) -> tuple[View, View]:
        slider.max = len(read(chain).letters) - 1
        return explore_chain(read(chain), slider.value)

    field = Field(text, description="Chain", continuous_update=False, style=WIDE_NAME, layout={"width": "98%"})
    return Explorer(show, {"chain": field, "place": slider})
