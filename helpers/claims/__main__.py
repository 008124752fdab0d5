"""The command line of the ledger.

python -m helpers.claims                # every claim, measured
python -m helpers.claims 03 int-HP      # those of a chapter, or single ones
python -m helpers.claims --write        # every claim; writes chapters/ledger.md and the README's rows anew
python -m helpers.claims --fresh RUNS   # on the fresh seeds whose trainings are in RUNS; kept in data/claims
python -m helpers.claims --model FOLDER [03 …]  # on a model of yours, in the book's form or in that of TransformerLens
"""

import re
import sys
from pathlib import Path

import torch

from helpers import ReaderError
from helpers.claims import check
from helpers.claims.fresh import load_fresh, save_fresh
from helpers.claims.measure import find, measured_on
from helpers.claims.models import Models
from helpers.claims.others import asked_of
from helpers.claims.report import Ledger, page
from helpers.files import DATA, Marks, write_atomically

ROWS = Marks("<!-- ledger: python -m helpers.claims --write -->", "<!-- end of the ledger -->")


def write_pages(book: Path, ledger: Ledger) -> None:
    """The page of the whole ledger, and a row for each chapter in the README."""
    ROWS.write(book / "README.md", repr(ledger.summary))
    write_atomically(book / "chapters" / "ledger.md", lambda f: f.write(page(ledger).encode()))


def measure_fresh(runs: Path) -> None:
    """Measure every finding on the fresh seeds that have both models in ``runs``, and keep what is found.

    Raises:
        ReaderError: there are none.
    """
    seeds = sorted(int(re.search(r"\d+$", folder.name)[0]) for folder in runs.glob("two_layer_seed*"))
    seeds = [seed for seed in seeds if (runs / f"one_layer_seed{seed}" / "model.safetensors").exists()]
    if not seeds:
        raise ReaderError(f"There are no trainings in {runs}: helpers/claims/fresh.py says how to make them.")
    claims = [claim for claim in find(()) if claim.kind == "finding" and not claim.of_runs]
    fresh = load_fresh()
    columns = measured_on(claims, (Models(seed, runs) for seed in seeds), at_once())
    for seed, column in zip(seeds, columns, strict=True):
        for slug, evidence in column.items():
            fresh[slug] = fresh.get(slug, {}) | {seed: evidence}
    save_fresh(fresh)


def at_once() -> int:
    """A thread of torch for each seed, and a seed for each thread: as many as torch would have used for one."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    return n_threads


def main(arguments: list[str]) -> None:
    """The command line. Raises ReaderError for an unknown claim, or a README without its marks."""
    match arguments:
        case ["-h" | "--help", *_]:
            print(__doc__)
        case ["--write"]:
            write_pages(DATA.parent, check(at_once=at_once()))
        case ["--fresh", runs]:
            measure_fresh(Path(runs))
        case ["--model", folder, *slugs]:
            print(asked_of(Path(folder), slugs))
        case _:
            print(check(*arguments, at_once=at_once()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except ReaderError as error:
        sys.exit(str(error))
