"""Every claim of the paper that the book checks: one function each, measured on every seed and on a control.

    python -m helpers.claims        # the whole ledger
    python -m helpers.claims 03     # that of a chapter

A module for each chapter holds its claims. What would count as reproduced was decided before looking, and is not
adjusted to results: a claim that our models do not show stays, with what we think is the reason.
"""

from helpers.claims import stream, zero_layer, one_layer, copying, two_layers, induction, terms, training  # noqa: F401, I001
from helpers.claims.ledger import CLAIMS, Claim, Finding, Ledger, check

__all__ = ["CLAIMS", "Claim", "Finding", "Ledger", "check"]
