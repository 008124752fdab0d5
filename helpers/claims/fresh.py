"""What was measured on fresh seeds: kept in a file, since their weights do not come with the book.

The models of seeds 3, 4 and 5 were trained after all criteria had been committed, each by a command such as
``python -m helpers.training --recipe two_layer --seed 3 --threads 1 --out runs/two_layer_seed3``;
``python -m helpers.claims --fresh runs`` measures them.

Of trainings of the laptop's recipe, ``data/formations`` has what was measured along them (see ``formation``): those of
seeds 0, 1 and 2, and of ten fresh ones, on which claims about trainings are confirmed.
"""

import json
from collections.abc import Iterable
from dataclasses import astuple
from pathlib import Path

from helpers import ReaderError
from helpers.claims.ledger import Claim, Evidence, Measured
from helpers.claims.models import Models
from helpers.files import DATA, how_to_restore, write_atomically
from helpers.formation import FRESH_SEEDS
from helpers.statistics import Estimate

FILE = DATA / "claims" / "fresh_seeds.json"


def load_fresh(file: Path = FILE) -> dict[str, Measured]:
    """The evidence of each claim on each fresh seed; nothing before any was measured.

    Raises:
        ReaderError: the file is damaged.
    """
    if not file.exists():
        return {}
    try:
        saved = json.loads(file.read_text("utf8"))
        return {slug: {int(seed): _evidence(*one) for seed, one in seeds.items()} for slug, seeds in saved.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ReaderError(f"{file} is damaged: {how_to_restore(file)}.") from error


def measured_on_fresh_runs(claims: Iterable[Claim]) -> dict[str, Measured]:
    """Those of ``claims`` that are about trainings, on each fresh one."""
    found = {c.slug: {seed: c.measured(Models(seed)) for seed in FRESH_SEEDS} for c in claims if c.of_runs}
    return {slug: {seed: one for seed, one in seeds.items() if one} for slug, seeds in found.items()}


def save_fresh(fresh: dict[str, Measured], file: Path = FILE) -> None:
    """Write what ``load_fresh`` reads, a line for each claim and seed."""
    lines = []
    for slug, seeds in fresh.items():
        rows = [f"  {json.dumps(str(seed))}: {json.dumps(_numbers(one))}" for seed, one in sorted(seeds.items()) if one]
        lines.append(f" {json.dumps(slug)}: {{\n" + ",\n".join(rows) + "\n }")
    write_atomically(file, lambda f: f.write(("{\n" + ",\n".join(lines) + "\n}\n").encode()))


def _numbers(one: Evidence) -> list:
    return [astuple(one.value), one.control and astuple(one.control)]


def _evidence(value: list[float], control: list[float] | None) -> Evidence:
    return Evidence(Estimate(*value), Estimate(*control) if control else None)
