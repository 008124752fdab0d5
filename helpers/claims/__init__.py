"""Every claim of the paper that the book checks: one function each, measured on every seed and on a control.

    python -m helpers.claims        # the whole ledger
    python -m helpers.claims 03     # that of a chapter

A module for each chapter says and measures its claims; what the paper prints of each, and what our number is, stands
in ``data/claims``. What would count as reproduced was decided before looking, and is not adjusted to results: a
claim that our models do not show stays, with what we think is the reason.
"""

from helpers.claims import (  # noqa: F401
    chapter_01,
    chapter_02,
    chapter_03,
    chapter_03_rules,
    chapter_04,
    chapter_05,
    chapter_06,
    chapter_07,
    chapter_08,
    chapter_08_training,
    chapter_10,
    chapter_11,
    chapter_12,
)
from helpers.claims.ledger import CLAIMS, Claim, Evidence, Finding
from helpers.claims.report import Ledger, check

__all__ = ["CLAIMS", "Claim", "Evidence", "Finding", "Ledger", "check"]
