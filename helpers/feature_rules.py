"""Names for features by rule: which simple rule over the tokens says best where a feature is active.

No one looks at examples and thinks of a name. Every rule of some families is tried on one text, the one with the best
F1 is kept, and another text says how often it is right.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from helpers.mined_rules import is_keyword
from helpers.model import AttentionOnlyTransformer, Head, head_name
from helpers.tokens import Tokenizer

CLASSES: dict[str, Callable[[str], bool]] = {
    "<START>": lambda s: s == "",
    "indentation": lambda s: bool(re.fullmatch(r"\n? +|\s*\n *", s)),
    "a new line": lambda s: "\n" in s,
    "an opening bracket": lambda s: bool(re.search(r"[(\[{]$", s)),
    "a closing bracket": lambda s: bool(re.match(r"\s*[)\]}]", s)),
    "a quotation mark": lambda s: bool(re.search("[\"']", s)),
    "a digit": lambda s: bool(re.fullmatch(r" ?\d+", s)),
    "a keyword": lambda s: is_keyword(s),
    "capitalised": lambda s: bool(re.fullmatch(r" ?[A-Z][a-z]+", s)),
    "all capitals": lambda s: bool(re.fullmatch(r" ?[A-Z]+", s)),
    "a word after a space": lambda s: bool(re.fullmatch(r" [a-z]+", s)),
    "letters without a space": lambda s: bool(re.fullmatch(r"[a-z]+", s)),
    "with an underscore": lambda s: "_" in s,
    "punctuation": lambda s: bool(re.fullmatch(r"\s*[^\w\s]+\s*", s)),
    "an operator": lambda s: bool(re.fullmatch(r" ?[-+*/%<>=!&|]+", s)),
}
PLACES = "this token", "the token before", "the token two before"
LEAST_PRECISION, LEAST_ON = 0.8, 20  # of a rule that counts as a feature's name
WINDOWS = 4, 16  # tokens
FIRST = 1, 2, 3, 5, 9, 17, 33, 65  # places, <START> included
MANY = 1 << 26  # more keys than that are sorted, not given a counter each
NONE = -1  # in place of a label, where there is none

On = tuple[Int[Tensor, "_"], Int[Tensor, "_"]]  # places, numbered through all contexts, and the features on there


@dataclass(frozen=True)
class Family:
    """Rules of one kind, by number: at each place those hold that are among its labels, none of them twice."""

    name: Callable[[int], str]
    n_rules: int
    labels: Int[Tensor, "place label"]
    is_present: bool = False  # whether its rules are of the present token alone


@dataclass(frozen=True)
class Rule:
    """The best rule of a feature. On text that it was not found on, how often it holds where the feature is on."""

    name: str
    is_present: bool
    f1: float  # on the text that it was found on
    precision: float  # of the places where the feature is on, the share where the rule holds
    recall: float  # of the places where the rule holds, the share where the feature is on
    n: int  # places where the feature is on

    @property
    def is_name(self) -> bool:
        """Whether the rule is right about the feature four times out of five, seen often enough to say so."""
        return self.precision >= LEAST_PRECISION and self.n >= LEAST_ON


# ---- families of rules ------------------------------------------------------------------------------------------


@torch.no_grad()
def rule_families(
    model: AttentionOnlyTransformer, tokenizer: Tokenizer, tokens: Int[Tensor, "batch pos"], head: Head
) -> list[Family]:
    """Every family of rules on ``tokens``: of the tokens just here, of those before, of the place, of the line.

    One is of what ``head``, of layer 0, attends to most. Of two rules that do equally well, the one in the family that
    comes first is taken.
    """
    names, d_vocab = tokenizer.show_all(range(tokenizer.d_vocab)), tokenizer.d_vocab
    before = [_shifted(tokens, n) for n in range(max(WINDOWS) + 1)]
    classes = _classes(tokenizer)
    attended = [model.attention(model.W_E[part], head[0])[1][:, head[1]].argmax(-1) for part in tokens.split(4)]
    sources = tokens.gather(1, torch.cat(attended))
    pairs = torch.where(before[1] == NONE, NONE, before[1] * d_vocab + tokens)
    families = []
    for n, place in enumerate(PLACES):
        families.append(_family(lambda t, place=place: f"{place} is {names[t]}", d_vocab, before[n], n == 0))
        of_token = _labels(classes[:, before[n]] & (before[n] != NONE))
        families.append(Family(lambda c, place=place: f"{place} is {[*CLASSES][c]}", len(CLASSES), of_token, n == 0))
    families.append(
        _family(lambda p: f"the last two tokens are {names[p // d_vocab]} {names[p % d_vocab]}", d_vocab**2, pairs)
    )
    for n in WINDOWS:
        among = _without_repetition(torch.stack([b.flatten() for b in before[1 : n + 1]], 1))
        families.append(Family(lambda t, n=n: f"among the {n} tokens before is {names[t]}", d_vocab, among))
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    early = _labels([places < n for n in FIRST])
    families.append(Family(lambda i: f"within the first {FIRST[i]} places", len(FIRST), early))
    lines = _lines(tokenizer, tokens)
    families.append(Family(lambda i: [*lines][i], len(lines), _labels([*lines.values()])))
    families.append(_family(lambda t: f"head {head_name(head)} looks at {names[t]}", d_vocab, sources))
    return families


def _shifted(tokens: Int[Tensor, "batch pos"], n: int) -> Int[Tensor, "batch pos"]:
    """The token ``n`` before each."""
    return F.pad(tokens, (n, 0), value=NONE)[:, : tokens.shape[1]]


def _family(
    name: Callable[[int], str], n_rules: int, labels: Int[Tensor, "batch pos"], is_present: bool = False
) -> Family:
    """One label at each place, at most."""
    return Family(name, n_rules, labels.reshape(-1, 1), is_present)


def _labels(holds: Sequence[Bool[Tensor, "batch pos"]] | Bool[Tensor, "rule batch pos"]) -> Int[Tensor, "place rule"]:
    """The number of each rule where it holds."""
    return torch.stack([torch.where(h, i, NONE).flatten() for i, h in enumerate(holds)], 1)


def _without_repetition(labels: Int[Tensor, "place label"]) -> Int[Tensor, "place label"]:
    ordered = labels.sort(1).values
    return torch.cat([ordered[:, :1], torch.where(ordered[:, 1:] == ordered[:, :-1], NONE, ordered[:, 1:])], 1)


def _classes(tokenizer: Tokenizer) -> Bool[Tensor, "class token"]:
    strings = [tokenizer.decode([token]) for token in range(tokenizer.d_vocab)]
    return torch.tensor([[test(string) for string in strings] for test in CLASSES.values()])


def _lines(tokenizer: Tokenizer, tokens: Int[Tensor, "batch pos"]) -> dict[str, Bool[Tensor, "batch pos"]]:
    """What holds of the line, or of the brackets, in which a token stands. The token itself counts."""
    strings = [tokenizer.decode([token]) for token in range(tokenizer.d_vocab)]

    def count(characters: str) -> Int[Tensor, "batch pos"]:
        return torch.tensor([sum(map(s.count, characters)) for s in strings])[tokens].cumsum(1)

    ends = torch.tensor(["\n" in s for s in strings])[tokens]

    def on_line(so_far: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        return so_far - torch.where(ends, so_far, 0).cummax(1).values

    depth = count("([{") - count(")]}")
    return {
        "after a # on its line": on_line(count("#")) > 0,
        'within "…" on its line': on_line(count('"')) % 2 == 1,
        "within '…' on its line": on_line(count("'")) % 2 == 1,
        "within brackets": depth > 0,
        "within two brackets": depth > 1,
        "after a = on its line": on_line(count("=")) > 0,
    }


# ---- the search -------------------------------------------------------------------------------------------------


def features_on(
    values: Float[Tensor, "batch pos k"], features: Int[Tensor, "batch pos k"], least: Float[Tensor, " feature"]
) -> On:
    """Where each feature is on: its value is above ``least``."""
    places, slots = (values > least[features]).flatten(0, 1).nonzero(as_tuple=True)
    return places, features.flatten(0, 1)[places, slots]


def best_rules(
    families: Sequence[Family], on: On, n_features: int
) -> tuple[Int[Tensor, "feature 2"], Float[Tensor, " feature"]]:
    """The rule with the best F1 for each feature, as numbers of its family and label, and that F1."""
    f1s, where = torch.zeros(n_features), torch.full((n_features, 2), NONE)  # family and label of the best
    for number, family in enumerate(families):
        feature, label, f1, _, _ = _fit(family, on, n_features)
        best = f1s.scatter_reduce(0, feature, f1, "amax")
        first = ((f1 == best[feature]) & (f1 > f1s[feature])).nonzero()[:, 0].flip(0)
        where[feature[first]] = torch.stack([torch.full_like(label[first], number), label[first]], 1)
        f1s = best
    return where, f1s


def find_rules(
    families: Sequence[Family], on: On, held_out: Sequence[Family], on_held_out: On, n_features: int
) -> dict[int, Rule]:
    """The rule with the best F1 for each feature that is on anywhere in both texts.

    Args:
        families, on: the rules and the features on the text that rules are sought on.
        held_out, on_held_out: the same on other text, from which precision and recall are.
    """
    where, f1s = best_rules(families, on, n_features)
    n_on, rules = torch.bincount(on_held_out[1], minlength=n_features), {}
    for number, family in enumerate(held_out):
        is_mine = (where[:, 0] == number) & (n_on > 0)
        fits = _fit(family, tuple(t[is_mine[on_held_out[1]]] for t in on_held_out), n_features)
        is_best = fits[1] == where[fits[0], 1]
        found = {feature: both for feature, _, _, *both in zip(*(t[is_best].tolist() for t in fits), strict=True)}
        for feature in is_mine.nonzero()[:, 0].tolist():
            name, both = family.name(int(where[feature, 1])), found.get(feature, (0.0, 0.0))
            rules[feature] = Rule(name, family.is_present, f1s[feature].item(), *both, int(n_on[feature]))
    return dict(sorted(rules.items()))


Fit = tuple[
    Int[Tensor, " pair"], Int[Tensor, " pair"], Float[Tensor, " pair"], Float[Tensor, " pair"], Float[Tensor, " pair"]
]


def _fit(family: Family, on: On, n_features: int) -> Fit:
    """Every feature and rule that are ever together, in order, and F1, precision and recall of the rule."""
    places, features = on
    labels = family.labels[places]
    keys = (features[:, None] * family.n_rules + labels)[labels != NONE]
    keys, together = _counted(keys, n_features * family.n_rules)
    feature, rule = keys // family.n_rules, keys % family.n_rules
    rules, n_holds = _counted(family.labels[family.labels != NONE], family.n_rules)
    n_on = torch.bincount(features, minlength=n_features)[feature]
    n_holds = n_holds[torch.searchsorted(rules, rule)]
    return feature, rule, 2 * together / (n_on + n_holds), together / n_on, together / n_holds


def _counted(keys: Int[Tensor, " key"], n: int) -> tuple[Int[Tensor, " found"], Int[Tensor, " found"]]:
    """Which of ``n`` keys there are, in order, and how often each."""
    if n > MANY:
        return keys.unique(return_counts=True)
    counts = torch.bincount(keys, minlength=n)
    found = counts.nonzero()[:, 0]
    return found, counts[found]
