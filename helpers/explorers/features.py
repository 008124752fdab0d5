"""The explorer of a dictionary's features: where one is active, its rule, what it raises and which heads read it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import ipywidgets
import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers import ReaderError
from helpers.circuits import centred_unembedding
from helpers.dictionary import Dictionary, active_features
from helpers.explorers.shell import WIDE_NAME, Explorer, chooser
from helpers.feature_rules import Rule
from helpers.figures import RED
from helpers.model import AttentionOnlyTransformer, head_name
from helpers.token_views import token_row
from helpers.tokens import Tokenizer
from helpers.views import Table, View, code

N_CONTEXTS, BEFORE, AFTER = 6, 20, 5  # strongest places, and tokens shown around each
NO_FEATURE = -1  # in the menu of names
N_EFFECTS = 8  # tokens that a feature raises most, and that it lowers most
HEAD_COLUMNS = {"head": "", "as a query, nats": "+.1f", "asks for": "", "as a key, nats": "+.1f", "is asked for by": ""}
HEAD_COLUMNS |= {"as a value, nats": "+.1f", "raises": ""}


@dataclass(frozen=True)
class FeatureReading:
    """What the features of a dictionary do on some texts and, at their mean values, to the heads of layer 1."""

    tokenizer: Tokenizer
    tokens: Int[Tensor, "batch pos"]
    values: Float[Tensor, "batch pos k"]
    features: Int[Tensor, "batch pos k"]
    rules: Mapping[int, Rule]
    n_active: Int[Tensor, " feature"]
    mean_value: Float[Tensor, " feature"]  # where it is active
    direct: Float[Tensor, "feature d_model"]  # what is written at the mean value
    unembedding: Float[Tensor, "d_model d_vocab"]
    queries: Float[Tensor, "head feature d_head"]
    keys: Float[Tensor, "head feature d_head"]
    moved: Float[Tensor, "head feature d_head"]
    W_O: Float[Tensor, "head d_head d_model"]

    @property
    def n_features(self) -> int:
        return len(self.mean_value)

    def check(self, feature: int) -> None:
        """Raises ReaderError if the dictionary has no such feature."""
        if not 0 <= feature < self.n_features:
            raise ReaderError(f"There is no feature {feature}: choose one of 0 to {self.n_features - 1:,}.")

    def name(self, feature: int) -> str:
        """Its number and its rule, if one is right about it four times out of five."""
        rule = self.rules.get(feature)
        return f"{feature}: {rule.name}" if rule and rule.is_name else str(feature)


@torch.no_grad()
def read_features(
    model: AttentionOnlyTransformer,
    dictionary: Dictionary,
    tokenizer: Tokenizer,
    tokens: Int[Tensor, "batch pos"],
    rules: Mapping[int, Rule],
) -> FeatureReading:
    """Run a model and a dictionary on texts; ``rules`` are those that ``find_rules`` has found."""
    values, features = active_features(model, dictionary, tokens)
    n_active = torch.bincount(features[values > 0], minlength=dictionary.n_features)
    total = torch.bincount(features.flatten(), values.flatten(), minlength=dictionary.n_features)
    mean_value = (total / n_active.clamp(min=1)).to(values.dtype)
    direct = dictionary.W_dec * mean_value[:, None]
    scale = model.config.d_head**-0.5
    projections = [torch.einsum("fd,hde->hfe", direct, w) for w in (model.W_Q[1] * scale, model.W_K[1], model.W_V[1])]
    unembedding = centred_unembedding(model)
    return FeatureReading(
        tokenizer,
        tokens,
        values,
        features,
        rules,
        n_active,
        mean_value,
        direct,
        unembedding,
        *projections,
        model.W_O[1],
    )


def explore_feature(reading: FeatureReading, feature: int) -> tuple[View, Table, Table]:
    """Where a feature is most active, what it raises and lowers past all heads, and how each head of layer 1 reads it.

    A click on another feature goes there.

    Raises:
        ReaderError: the dictionary has no such feature.
    """
    reading.check(feature)
    return _contexts(reading, feature), _effects(reading, feature), _heads(reading, feature)


def _contexts(reading: FeatureReading, feature: int) -> View:
    """Its strongest place in each of the contexts where it is strongest; the colour is its value."""
    values = (reading.values * (reading.features == feature)).sum(-1)
    strongest, places = values.max(1)
    order = strongest.argsort(descending=True, stable=True)[:N_CONTEXTS].tolist()
    contexts = [(context, int(places[context])) for context in order if strongest[context] > 0]
    caption, top = _about(reading, feature), float(values.max())
    lines, rows = [], []
    for context, place in contexts:
        start = max(0, place - BEFORE)
        shown = reading.tokenizer.show_all(reading.tokens[context, start : place + AFTER + 1])
        around = values[context, start : place + AFTER + 1].tolist()
        lines.append(token_row(shown, grounds=[_ground(v, top) for v in around], said=_said(shown, around)))
        at = place - start
        words = [code("".join(part)) if part else "" for part in (shown[:at], shown[at : at + 1], shown[at + 1 :])]
        rows.append([around[at], f"{words[0]} **{words[1]}** {words[2]}"])
    still = Table({"value": ".1f", "where": ""}, rows).view
    return View(still.still, caption, "".join(lines) or still.html)


def _ground(value: float, top: float) -> str:
    return f"{RED}{round(178 * value / top):02x}"


def _said(tokens: Sequence[str], values: Sequence[float]) -> list[str]:
    return [f"{token}: {value:.1f}" for token, value in zip(tokens, values, strict=True)]


def _about(reading: FeatureReading, feature: int) -> str:
    """How often a feature is active, and its rule."""
    n, rule = int(reading.n_active[feature]), reading.rules.get(feature)
    if not n:
        return f"Feature {feature} is active nowhere in this text."
    share, mean = n / reading.tokens.numel(), reading.mean_value[feature]
    about = f"Feature {feature} is active at {share:.2%} of the places, with a mean value of {mean:.1f}."
    if not rule:
        return about
    return (
        f"{about} Its rule: {code(rule.name)}. On other text it holds at {rule.precision:.0%} of the places where the "
        f"feature is active, and the feature is active at {rule.recall:.0%} of those where it holds."
    )


def _effects(reading: FeatureReading, feature: int) -> Table:
    logits = reading.direct[feature] @ reading.unembedding
    raised, lowered = (logits.topk(min(N_EFFECTS, len(logits)), largest=largest) for largest in (True, False))
    show = reading.tokenizer.show
    rows = [
        [code(show(up)), more, code(show(down)), less]
        for up, more, down, less in zip(
            raised.indices.tolist(),
            raised.values.tolist(),
            lowered.indices.tolist(),
            lowered.values.tolist(),
            strict=True,
        )
    ]
    columns = {"raises": "", "by, nats": "+.2f", "lowers": "", "by, nats ": "+.2f"}
    return Table(columns, rows, "What it writes to the logits past all heads, at its mean value.")


def _heads(reading: FeatureReading, feature: int) -> Table:
    """For each head of layer 1, the strongest partner of the feature as a query, as a key and as a value."""
    q, k, v = (part[:, feature] for part in (reading.queries, reading.keys, reading.moved))
    asked = torch.einsum("he,hfe->hf", q, reading.keys).max(1)
    asking = torch.einsum("he,hfe->hf", k, reading.queries).max(1)
    raised = (torch.einsum("he,hed->hd", v, reading.W_O) @ reading.unembedding).max(1)
    rows = []
    for h in range(len(q)):
        features = [
            chooser(code(reading.name(i)), {"feature": i}) for i in (int(asked.indices[h]), int(asking.indices[h]))
        ]
        numbers = [part.values[h].item() for part in (asked, asking, raised)]
        token = code(reading.tokenizer.show(raised.indices[h]))
        rows.append([head_name((1, h)), numbers[0], features[0], numbers[1], features[1], numbers[2], token])
    caption = (
        "Read by each head of layer 1: the feature that it asks for most as a query, the one that asks most for it as "
        "a key, and the token that it raises most as a value; all at their mean values."
    )
    return Table(HEAD_COLUMNS, rows, caption)


def feature_explorer(
    model: AttentionOnlyTransformer,
    dictionary: Dictionary,
    tokenizer: Tokenizer,
    tokens: Int[Tensor, "batch pos"],
    rules: Mapping[int, Rule],
    feature: int,
) -> Explorer:
    """Choose a feature by its number, or one that has a name: where it is active, and what it does.

    Raises:
        ReaderError: the dictionary has no such feature.
    """
    reading = read_features(model, dictionary, tokenizer, tokens, rules)
    reading.check(feature)
    slider = ipywidgets.IntSlider(feature, 0, reading.n_features - 1, description="Feature", layout={"width": "98%"})
    named = sorted((f for f, rule in rules.items() if rule.is_name), key=lambda f: (rules[f].name, f))
    options = [("choose one …", NO_FEATURE), *((f"{rules[f].name} ({f})", f) for f in named)]
    menu = ipywidgets.Dropdown(options=options, value=NO_FEATURE, description="Named", style=WIDE_NAME)
    ipywidgets.dlink(
        (menu, "value"), (slider, "value"), lambda chosen: slider.value if chosen == NO_FEATURE else chosen
    )
    ipywidgets.dlink((slider, "value"), (menu, "value"), lambda number: number if number in named else NO_FEATURE)
    return Explorer(partial(explore_feature, reading), {"feature": slider}, ipywidgets.VBox([menu, slider]))
