"""Measuring claims: which ones, on which models, and against the untrained control."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tqdm.auto import tqdm

from helpers import ReaderError, release_memory
from helpers.claims.ledger import CLAIMS, UNTRAINED, Claim, Evidence
from helpers.claims.models import Models


def find(slugs: Sequence[str]) -> list[Claim]:
    """The claims of these names, and all of the chapters of these numbers; without any, all of the book.

    Raises:
        ReaderError: there is no such claim.
    """
    known = set(CLAIMS) | {claim.chapter for claim in CLAIMS.values()}
    if unknown := [slug for slug in slugs if slug not in known]:
        raise ReaderError(f"There is no claim {unknown[0]!r} in the ledger: 'python -m helpers.claims' lists them all.")
    return [claim for claim in CLAIMS.values() if not slugs or claim.slug in slugs or claim.chapter in slugs]


def measured_on(claims: Sequence[Claim], seeds: Iterable[Models], at_once: int = 1) -> list[dict[str, Evidence | None]]:
    """What is found of each claim on each seed; where the control is the untrained model, with what that has.

    So many seeds ``at_once``, and the models of one are let go of before those of the next are loaded.
    """
    untrained = _column([claim for claim in claims if _needs_untrained(claim)], Models(None))
    with ThreadPoolExecutor(at_once) as pool:
        return [_against(column, untrained) for column in pool.map(partial(_column, claims), seeds)]


def _needs_untrained(claim: Claim) -> bool:
    return claim.kind == "finding" and claim.control == UNTRAINED


def _column(claims: Sequence[Claim], models: Models) -> dict[str, Evidence | None]:
    found = {}
    for claim in tqdm(claims, desc="claims", leave=False):
        found[claim.slug] = claim.measured(models)
        release_memory()
    return found


def _against(column: dict[str, Evidence | None], untrained: dict[str, Evidence | None]) -> dict[str, Evidence | None]:
    """``column`` with the values of the untrained model as controls."""
    controls = {slug: control.value for slug, control in untrained.items() if control and column[slug]}
    return column | {slug: Evidence(column[slug].value, value) for slug, value in controls.items()}
