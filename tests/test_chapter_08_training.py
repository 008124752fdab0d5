"""Claims about trainings, on trainings that are made up: one that is as the paper says, and others that are not."""

from dataclasses import dataclass

import pytest
import torch

from helpers.claims import CLAIMS
from helpers.claims.models import Models

TOKENS = torch.linspace(0, 3e6, 301, dtype=torch.double)
SLUGS = [slug for slug, claim in CLAIMS.items() if claim.measure.__module__.endswith("chapter_08_training")]


@dataclass(frozen=True)
class MadeUp(Models):
    """Models of which only the runs are known."""

    runs: dict[str, list[dict]] | None = None

    def formation(self, name: str) -> list[dict]:
        return self.runs[name]


def grown(middle: float, sharpness: float = 8.0) -> torch.Tensor:
    """From 0 to 1, half of it after ``middle`` tokens."""
    return torch.sigmoid(sharpness * (TOKENS.clamp(min=1).log() - torch.tensor(middle).log()))


def rows_of(heads: torch.Tensor, previous: torch.Tensor, score: torch.Tensor, loss: torch.Tensor) -> list[dict]:
    scores = zip(TOKENS.tolist(), heads.tolist(), previous.tolist(), score.tolist(), loss.tolist(), strict=True)
    return [
        {
            "step": i,
            "n_tokens": tokens,
            "prefix_matching": [[0.01, 0.01], [0.01, 0.01 + 0.5 * head]],
            "previous_token": [[0.1 + 0.8 * back, 0.1], [0.1, 0.9]],
            "icl_score": -0.2 * gain,
            "random_first_copy": 9.0,
            "random_second_copy": 9.0 - 3 * gain,
            "validation_loss": bits,
        }
        for i, (tokens, head, back, gain, bits) in enumerate(scores)
    ]


def training(
    heads=1e6, previous=2e5, score=1e6, smeared=5e5, bump=0.5, sharpness=8.0, given=4e5, withheld=1e9, no_copying=2e6
) -> MadeUp:
    """Models whose runs turn after so many tokens."""
    fall = 2 + 4 * (TOKENS / 1e4 + 1) ** -0.3  # slower and slower
    nothing = torch.zeros_like(TOKENS)
    runs = {
        "laptop": rows_of(
            grown(heads, sharpness),
            grown(previous, 2.0),
            grown(score, sharpness),
            fall - bump * grown(heads, sharpness),
        ),
        "laptop_one_layer": rows_of(nothing, grown(previous, 2.0), nothing, fall),
        "laptop_smeared": rows_of(grown(smeared), nothing, nothing, fall),
        "laptop_two_layer_smeared": rows_of(grown(smeared), nothing, nothing, fall),
    }
    clamps = {"given": given, "withheld": withheld, "no_copying": no_copying}
    runs |= {name: rows_of(grown(middle), nothing, nothing, fall) for name, middle in clamps.items()}
    return MadeUp(0, runs=runs)


def met(slug: str, models: MadeUp) -> bool:
    return CLAIMS[slug].bar.met(CLAIMS[slug].measure(models).value.value)


@pytest.mark.parametrize("slug", SLUGS)
def test_a_training_as_the_paper_describes_it_meets_every_bar_and_no_control_does(slug):
    claim, found = CLAIMS[slug], CLAIMS[slug].measured(training())
    assert claim.of_runs and claim.bar.met(found.value.value)
    assert found.control is not None and not claim.bar.met(found.control.value)


@pytest.mark.parametrize(
    ("slug", "changes"),
    [
        ("icl-window", {"score": 5e5}),
        ("icl-window", {"score": 2e6}),
        ("icl-window", {"sharpness": 3.0}),
        ("icl-score-before", {"score": 5e5}),
        ("icl-co-occurrence", {"score": 3e5}),
        ("icl-co-occurrence", {"score": 2e6}),
        ("icl-random-repeats", {"score": 3e5}),
        ("icl-bump", {"bump": 0.0}),
        ("icl-previous-first", {"previous": 1.5e6}),
        ("icl-smeared-earlier", {"smeared": 1e6}),
        ("form-given", {"given": 9e5}),
        ("form-given", {"given": 1e9}),
        ("form-withheld", {"withheld": 2e6}),
        ("form-no-copying", {"no_copying": 1.2e6}),
        ("form-no-copying", {"no_copying": 5e5}),
    ],
)
def test_a_training_that_is_not_so_does_not_meet_the_bar(slug, changes):
    assert not met(slug, training(**changes))


def test_a_layer_that_does_not_turn_with_smeared_keys_does_not_meet_the_bar():
    runs = training().runs
    assert not met("icl-smeared", MadeUp(0, runs=runs | {"laptop_smeared": runs["laptop_one_layer"]}))
