"""Solutions that stay closed in the folder of a handout, until the teacher says a word."""

import hashlib
import json
import secrets
from pathlib import Path

from helpers.files import write_or_explain

NAME = "solutions.lock"


def lock(folder: Path, key: str = "") -> None:
    """Close the solutions for notebooks in ``folder``, for good or until they are asked for with ``key``.

    Raises:
        ReaderError: the folder cannot be written to.
    """
    salt = secrets.token_hex(8)
    content = {"salt": salt, "digest": _digest(salt, key) if key else ""}
    write_or_explain(folder / NAME, lambda f: f.write(json.dumps(content).encode()))


def is_closed(folder: Path, key: str = "") -> bool:
    """Whether the solutions are closed to a notebook in ``folder`` that gives this key. A damaged lock stays closed."""
    file = folder / NAME
    if not file.exists():
        return False
    try:
        content = json.loads(file.read_text("utf8"))
        return not key or _digest(content["salt"], key) != content["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _digest(salt: str, key: str) -> str:
    return hashlib.sha256(f"{salt}{key.strip().lower()}".encode()).hexdigest()
