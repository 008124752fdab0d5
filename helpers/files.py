"""Where the book's data lies, and how a file is written so that it is whole or not there."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from helpers import ReaderError

DATA = Path(__file__).resolve().parent.parent / "data"


def book_folder(name: str, seed: int = 0) -> Path:
    """The folder of a training that comes with the book, such as "two_layer" with seed 1.

    Of some runs only the history is kept, in ``data/histories``; all others have their weights in ``data/models``.
    """
    folder = name if seed == 0 else f"{name}_seed{seed}"
    history_alone = DATA / "histories" / folder
    return history_alone if history_alone.exists() else DATA / "models" / folder


def how_to_restore(path: Path) -> str:
    """What a reader can do about a missing or damaged file, as the second half of a sentence."""
    path = Path(path).resolve()
    if path.is_relative_to(DATA):
        return f"bring it back with 'git checkout {path.relative_to(DATA.parent).as_posix()}'"
    return f"name the folder that holds it, or train again with --out {path if path.suffix == '' else path.parent}"


def write_atomically(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let ``write(open_file)`` fill a temporary file beside ``file``, flush it to the disk, then rename it.

    Whatever happens in between, ``file`` is either what it was or complete.
    """
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as f:
            write(f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_or_explain(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """``write_atomically`` in a folder made for it.

    Raises:
        ReaderError: the disk is full, or the folder cannot be written to.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, write)
    except OSError as error:
        raise ReaderError(
            f"{file} could not be written ({error.strerror}): free some space or choose another folder; "
            "what was there before is unharmed."
        ) from error


@dataclass(frozen=True)
class Marks:
    """Two marks in a Markdown file, around what a command writes there."""

    begin: str
    end: str

    def between(self, file: Path) -> str:
        """What stands between the marks.

        Raises:
            ReaderError: the marks are not there.
        """
        text = file.read_text("utf8")
        if text.count(self.begin) != 1 or text.count(self.end) != 1:
            raise ReaderError(f"{file.name} has lost its marks '{self.begin}' and '{self.end}': put them back.")
        return text.split(self.begin)[1].split(self.end)[0].strip()

    def write(self, file: Path, new: str) -> None:
        """Put ``new`` between the marks. Raises ReaderError if they are not there."""
        old, text = self.between(file), file.read_text("utf8")
        marked = f"{self.begin}\n{new}\n{self.end}"
        whole = re.sub(rf"{re.escape(self.begin)}\s*{re.escape(old)}\s*{re.escape(self.end)}", lambda _: marked, text)
        write_atomically(file, lambda f: f.write(whole.encode()))
