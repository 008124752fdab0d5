"""The digest of every criterion: of what a claim says, its bar, and how it is measured.

    python -m tests.criteria    # write the digests anew

The file that this writes was committed before the fresh seeds were trained. Whoever changes a criterion afterwards must
write it again, and so the change shows in the history, claim by claim.
"""

import hashlib
import inspect
import json
from dataclasses import astuple
from pathlib import Path

from helpers.claims import CLAIMS, Claim, models

FILE = Path(__file__).with_suffix(".json")


def digest(claim: Claim) -> str:
    """Of all that decides a verdict, but for the layout of the code."""
    code = " ".join(inspect.getsource(claim.measure).split())
    words = claim.sentence, claim.value, claim.control, claim.kind, claim.needs, claim.of_runs
    return hashlib.sha256(json.dumps([claim.slug, astuple(claim.bar), words, code]).encode()).hexdigest()[:16]


def criteria() -> dict[str, str]:
    """The digests of all claims, and of the sizes of the samples."""
    sizes = {name: getattr(models, name) for name in ("N_CONTEXTS", "N_PAIRS")}
    return sizes | {slug: digest(claim) for slug, claim in CLAIMS.items()}


def main() -> None:
    FILE.write_text(json.dumps(criteria(), indent=1) + "\n", "utf8")


if __name__ == "__main__":
    main()
