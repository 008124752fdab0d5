"""Claims of chapter 08_phase_change about how models form, of "In-context Learning and Induction Heads" (2022).

Measured on the histories of the book's models and of the laptop recipe; a unit is a training.
"""

from jaxtyping import Float
from torch import Tensor

from helpers.claims.ledger import at_least, at_most, claim
from helpers.claims.models import Models
from helpers.history import best_head, column, final, half_way, largest_share, passes, position_slope, resteepening

TURN = 0.1  # prefix matching of the best head above which a model has begun to turn

Curve = tuple[Float[Tensor, " row"], Float[Tensor, " row"]]  # tokens seen, and a quantity


def _curve(rows: list[dict], name: str) -> Curve:
    """A quantity of a history over the tokens seen; the best head's where every head has one."""
    values = column(rows, name)
    return column(rows, "n_tokens"), values if values.ndim == 1 else best_head(rows, name)


def _apart(one: float, other: float) -> float:
    """By which factor two numbers of tokens differ, at least 1."""
    return max(one, other) / min(one, other)


@claim("icl-window", at_least(0.75, weaker=0.5), needs="trained", of_runs=True)
def _forms_in_a_window(models: Models) -> float:
    """In two-layer models most of the in-context learning forms within a short window of the training."""
    return largest_share(*_curve(models.rows("two_layer"), "in_context_learning_score"), 0.25)


@claim("icl-score-before", at_least(-0.15, weaker=-0.25), needs="trained", of_runs=True)
def _little_before(models: Models) -> float:
    """Before the turn a model of two layers hardly learns in context."""
    rows = models.rows("two_layer")
    return column(rows, "in_context_learning_score")[best_head(rows, "prefix_matching") < TURN][-1].item()


@claim("icl-co-occurrence", at_most(2.0, weaker=4.0), needs="trained", of_runs=True)
def _together(models: Models) -> float:
    """Induction heads and in-context learning come at the same time."""
    rows = models.rows("two_layer")
    return _apart(*(half_way(*_curve(rows, name)) for name in ("prefix_matching", "in_context_learning_score")))


@claim("icl-random-repeats", at_most(2.0, weaker=4.0), needs="trained", of_runs=True)
def _repeats_are_learnt_with_them(models: Models) -> float:
    """The ability to continue repeated random tokens comes with the induction heads."""
    rows = models.rows("two_layer")
    tokens, heads = _curve(rows, "prefix_matching")
    fall = column(rows, "random_first_copy") - column(rows, "random_second_copy")
    return _apart(half_way(tokens, heads), half_way(tokens, fall))


@claim("icl-bump", at_least(0.05, weaker=0.0), needs="trained", of_runs=True)
def _bump(models: Models) -> float:
    """The turn shows as a bump in the loss curve of two layers, which for a while falls faster than before."""
    two, one = (resteepening(*_curve(models.rows(name), "validation_loss")) for name in ("two_layer", "one_layer"))
    return two - one


@claim("icl-one-by-one", at_least(1.5, weaker=1.2), needs="induction_heads", of_runs=True)
def _one_by_one(models: Models) -> float:
    """The induction heads of a model do not turn all at once but one after the other."""
    rows = models.rows("two_layer")
    tokens, scores = column(rows, "n_tokens"), column(rows, "prefix_matching")
    points = [half_way(tokens, scores[:, layer, head]) for layer, head in models.induction_heads]
    return max(points) / min(points)


@claim("icl-previous-first", at_most(1.0, weaker=1.3), needs="trained", of_runs=True)
def _previous_token_head_first(models: Models) -> float:
    """The previous-token head, whose work the induction heads use, forms before them or with them."""
    rows = models.rows("two_layer")
    heads = {"previous_token": models.previous_token_head, "prefix_matching": models.induction_head}
    early, late = (half_way(column(rows, "n_tokens"), column(rows, name)[:, *head]) for name, head in heads.items())
    return early / late


@claim("icl-loss-by-position", at_most(-0.1, weaker=-0.05), needs="trained", of_runs=True)
def _late_tokens_get_easier(models: Models) -> float:
    """Beyond some 50 tokens of context the loss falls more steeply after the turn than before it."""
    rows = models.rows("two_layer")
    losses = column(rows, "loss_by_position")
    before = losses[best_head(rows, "prefix_matching") < TURN]
    return position_slope(losses[-3:].mean(0), 50) - position_slope(before[-3:].mean(0), 50)


@claim("icl-smeared", at_least(0.3, weaker=0.1), needs="trained", of_runs=True)
def _smeared_keys_let_one_layer_turn(models: Models) -> float:
    """If each key may contain the key of the token before, a single layer forms induction heads."""
    runs = [models.rows(name) for name in ("laptop_smeared", "laptop_one_layer")]
    smeared, ordinary = (final(best_head(rows, "prefix_matching")) for rows in runs)
    return smeared - ordinary


@claim("icl-smeared-earlier", at_most(0.67, weaker=1.0), needs="trained", of_runs=True)
def _smeared_keys_let_two_layers_turn_earlier(models: Models) -> float:
    """Two layers make the turn earlier with smeared keys than without."""
    runs = [models.rows(name) for name in ("laptop_two_layer_smeared", "laptop")]
    smeared, ordinary = (_curve(rows, "prefix_matching") for rows in runs)
    half = final(ordinary[1]) / 2
    return passes(*smeared, half) / passes(*ordinary, half)
