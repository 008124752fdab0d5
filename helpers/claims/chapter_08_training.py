"""Claims of chapter 08_phase_change about how models form, of "In-context Learning and Induction Heads" (2022).

They are measured along whole trainings of the laptop's recipe (``formation``), and a unit is a training. *The turn* is
the time in which prefix matching of the best head grows from a tenth to nine tenths of its final value.
"""

import math
from dataclasses import replace

from helpers.claims.ledger import Evidence, at_least, at_most, claim
from helpers.claims.models import Models
from helpers.formation import FRESH_SEEDS, Curve, curve, repeats_curve, turn_of
from helpers.history import final, passes
from helpers.statistics import Estimate
from helpers.training import SEEDS


def _found(value: float, control: float) -> Evidence:
    """What one training says; how much trainings differ is the uncertainty."""
    return Evidence(Estimate(value, value, value), Estimate(control, control, control))


@claim("icl-window", at_least(0.75, weaker=0.5), control="mean of all doublings", needs="trained", of_runs=True)
def _forms_in_a_window(models: Models) -> Evidence:
    """In two-layer models most of the in-context learning forms within a short window of the training.

    The follow-up's window is from 2.5 to 5 billion tokens; ours is around the middle of the turn.
    """
    rows = models.formation("laptop")
    score, middle = curve(rows, "icl_score"), turn_of(rows).middle

    def while_doubling(start: float) -> float:
        return score.share(2 * start) - score.share(start)

    elsewhere = [while_doubling(start) for start in score.tokens.tolist() if 2 * start <= score.tokens[-1]]
    return _found(while_doubling(middle / math.sqrt(2)), sum(elsewhere) / len(elsewhere))


@claim("icl-score-before", at_most(0.375), control="mean of the whole training", needs="trained", of_runs=True)
def _little_before(models: Models) -> Evidence:
    """Before the turn a model of two layers hardly learns in context: beyond some 50 tokens its loss is flat."""
    rows = models.formation("laptop")
    score = curve(rows, "icl_score")
    shares = [score.share(n_tokens) for n_tokens in score.tokens.tolist()]
    return _found(score.share(turn_of(rows).start), sum(shares) / len(shares))


def _apart(one: Curve, other: Curve) -> float:
    """By which factor of tokens their half-way points differ, at least 1."""
    points = one.reaches(0.5), other.reaches(0.5)
    return max(points) / min(points)


def _comes_with_the_heads(rows: list[dict], grown: Curve) -> Evidence:
    """How far its half-way point is from that of prefix matching, and from that of the previous-token head."""
    heads = curve(rows, "prefix_matching"), curve(rows, "previous_token", layer=0)
    return _found(*(_apart(grown, head) for head in heads))


@claim("icl-co-occurrence", at_most(1.2), control="the previous-token head", needs="trained", of_runs=True)
def _together(models: Models) -> Evidence:
    """Induction heads and in-context learning come at the same time."""
    rows = models.formation("laptop")
    return _comes_with_the_heads(rows, curve(rows, "icl_score"))


@claim("icl-random-repeats", at_most(1.2), control="the previous-token head", needs="trained", of_runs=True)
def _repeats_are_learnt_with_them(models: Models) -> Evidence:
    """The ability to continue repeated random tokens comes with the induction heads."""
    rows = models.formation("laptop")
    return _comes_with_the_heads(rows, repeats_curve(rows))


@claim("icl-bump", at_least(1.0), control="one layer over the same tokens", needs="trained", of_runs=True)
def _bump(models: Models) -> Evidence:
    """The turn shows as a bump in the loss curve of two layers, which for a while falls faster than before."""
    start = turn_of(models.formation("laptop")).start
    before, around, after = (start * math.exp(e_folds) for e_folds in (-0.75, -0.25, 0.25))
    losses = (curve(models.formation(name), "validation_loss") for name in ("laptop", "laptop_one_layer"))
    return _found(*(loss.slope(around, after) / loss.slope(before, around) for loss in losses))


@claim("icl-previous-first", at_most(1.0), control="the two heads exchanged", needs="trained", of_runs=True)
def _previous_token_head_first(models: Models) -> Evidence:
    """The previous-token head, whose work the induction heads use, forms before them."""
    rows = models.formation("laptop")
    early, late = (
        curve(rows, name, layer).reaches(0.5) for layer, name in enumerate(("previous_token", "prefix_matching"))
    )
    return _found(early / late, late / early)


@claim("icl-smeared", at_least(0.5), control="one layer with plain keys", needs="trained", of_runs=True)
def _smeared_keys_let_one_layer_turn(models: Models) -> Evidence:
    """If each key may contain the key of the token before, a single layer forms induction heads."""
    two, smeared, plain = (
        final(curve(models.formation(name), "prefix_matching").values)
        for name in ("laptop", "laptop_smeared", "laptop_one_layer")
    )
    return _found(smeared / two, plain / two)


@claim("icl-smeared-earlier", at_most(1.0), control="two layers with plain keys", needs="trained", of_runs=True)
def _smeared_keys_let_two_layers_turn_earlier(models: Models) -> Evidence:
    """Two layers make the turn earlier with smeared keys than without."""
    plain, smeared = (
        curve(models.formation(name), "prefix_matching") for name in ("laptop", "laptop_two_layer_smeared")
    )
    half, start = final(plain.values) / 2, plain.reaches(0.1)
    return _found(*(passes(one.tokens, one.values, half) / start for one in (smeared, plain)))


def _how_much_later(models: Models, clamp: str) -> Evidence:
    """After how many tokens prefix matching is half formed under a clamp, by the final value of the free training.

    As a multiple of what the free training needs; and so for the free training of another seed.
    """
    group = SEEDS if models.seed in SEEDS else FRESH_SEEDS
    another = replace(models, seed=group[group.index(models.seed) - 1])
    free, clamped, other = (
        curve(of_seed.formation(name), "prefix_matching", layer=1)
        for of_seed, name in ((models, "laptop"), (models, clamp), (another, "laptop"))
    )
    half = final(free.values) / 2
    return _found(*(passes(one.tokens, one.values, half) / free.reaches(0.5) for one in (clamped, other)))


@claim("form-given", at_most(0.8), control="free, another seed", needs="clamped", of_runs=True)
def _earlier_with_looking_back_given(models: Models) -> Evidence:
    """If a head looks at the previous token from the start, induction heads form earlier."""
    return _how_much_later(models, "given")


@claim("form-no-copying", at_least(1.5), control="free, another seed", needs="clamped", of_runs=True)
def _later_without_copying(models: Models) -> Evidence:
    """If the heads of layer 1 cannot learn what to write, induction heads form later."""
    return _how_much_later(models, "no_copying")


@claim("form-withheld", at_most(0.1), control="a previous-token head given", needs="clamped", of_runs=True)
def _never_without_looking_back(models: Models) -> Evidence:
    """If no head of layer 0 may look at the previous token, no induction head forms."""
    free, withheld, given = (
        final(curve(models.formation(name), "prefix_matching", layer=1).values)
        for name in ("laptop", "withheld", "given")
    )
    return _found(withheld / free, given / free)
