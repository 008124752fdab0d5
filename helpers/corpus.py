"""Where text comes from: the shelf of Python sources on the reader's own disk, or any text of the reader's own.

The *shelf* is the Python source of the packages that ``requirements.txt`` pins: real text that every reader has on
disk once the book is installed, byte for byte the same. ``data/shelf.tsv``, the manifest, lists each file with its
SHA-256 and says whether it is for training or for validation. None of it is copied here.

    python -m helpers.corpus            # how much of the shelf is on this machine?
    python -m helpers.corpus --rewrite  # rebuild the manifest after changing the pins
"""

import argparse
import hashlib
import importlib.metadata
import os
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from helpers import ReaderError
from helpers.files import DATA, how_to_restore, write_or_explain

MANIFEST = DATA / "shelf.tsv"
REQUIREMENTS = DATA.parent / "requirements.txt"
TEXT_ENDINGS = (".txt", ".md", ".py")
VALIDATION_SHARE = 0.05
LEAST_CHARACTERS = 10_000

Split = Literal["train", "validation"]
Source = str | Path | Iterable[str] | None


@dataclass(frozen=True)
class Corpus:
    """Documents for training and others for validation, read when they are needed.

    ``fingerprint`` changes whenever the text may have changed. ``notes`` are sentences for the reader, for
    instance about missing files; reading may add to them.
    """

    name: str
    fingerprint: str
    read: Callable[[Split], Iterator[str]]
    notes: list[str]


def open_corpus(source: Source = None) -> Corpus:
    """The corpus that ``source`` names: None for the shelf, the path of a folder or file, or the texts themselves.

    Raises:
        ReaderError: the folder does not exist, or there is too little text in ``source``.
    """
    if source is None:
        return _open_shelf()
    if isinstance(source, str | Path):
        return _open_folder(Path(source))
    return _corpus_of("your texts", list(source))


def _open_folder(folder: Path) -> Corpus:
    if not os.path.exists(folder):
        raise ReaderError(
            f"There is no file or folder {str(folder)[:100]!r}: name a folder that holds .txt, .md or "
            ".py files, or give texts as a list of strings."
        )
    texts, unreadable = [], 0
    for file in _text_files(folder):
        try:
            texts.append(file.read_text("utf8"))
        except (UnicodeDecodeError, OSError):
            unreadable += 1
    notes = [f"{unreadable} files are not readable as UTF-8 and were left out."] if unreadable else []
    return _corpus_of(folder.resolve().name, texts, notes)


def _text_files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in TEXT_ENDINGS and p.is_file())


def _corpus_of(name: str, documents: list[str], notes: Iterable[str] = ()) -> Corpus:
    """Deal documents out to the two splits; if there are fewer than twenty, each is first cut into twenty pieces."""
    documents = list(dict.fromkeys(without_surrogates(document) for document in documents if document.strip()))
    if (size := sum(map(len, documents))) < LEAST_CHARACTERS:
        raise ReaderError(
            f"{name} holds {size:,} characters of UTF-8 text: give at least {LEAST_CHARACTERS:,} (four pages)."
        )
    if len(documents) < 20:
        documents = [piece for document in documents for piece in _pieces(document, 20)]
    random.Random(0).shuffle(documents)
    n_validation = max(1, round(VALIDATION_SHARE * len(documents)))
    splits = {"validation": documents[:n_validation], "train": documents[n_validation:]}
    digests = "".join(_digest(document.encode()) for document in documents)
    return Corpus(name, _digest(digests.encode()), lambda split: iter(splits[split]), list(notes))


def without_surrogates(text: str) -> str:
    """``text`` with a question mark for each lone surrogate, which UTF-8 cannot express."""
    return text.encode("utf8", "replace").decode("utf8")


def _pieces(document: str, n: int) -> list[str]:
    size = -(-len(document) // n)
    return [document[start : start + size] for start in range(0, len(document), size)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# ---- the shelf --------------------------------------------------------------------------------------------------


class ShelfFile(NamedTuple):
    """A line of the manifest."""

    split: Split
    sha256: str
    path: str  # relative to site-packages


def _open_shelf() -> Corpus:
    """The shelf of this environment; its fingerprint changes with the manifest and with any package's version."""
    read_manifest()
    versions = [f"{package}=={_version(package)}" for package in pinned_packages()]
    fingerprint = _digest(MANIFEST.read_bytes() + "\n".join(versions).encode())
    notes: list[str] = []
    return Corpus("the shelf", fingerprint, lambda split: _read_shelf(split, notes), notes)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _read_shelf(split: Split, notes: list[str]) -> Iterator[str]:
    files = [file for file in read_manifest() if file.split == split]
    missing = changed = 0
    for file in files:
        if (found := locate(file.path)) is None:
            missing += 1
            continue
        content = found.read_bytes()
        changed += _digest(content) != file.sha256
        yield content.decode("utf8", "replace")
    if missing > len(files) // 2:
        raise ReaderError(
            f"{missing:,} of the shelf's {len(files):,} {split} files are missing: "
            "run 'python -m pip install -r requirements.txt' in the environment that runs this book."
        )
    if missing or changed:
        notes.append(
            f"Of the shelf's {len(files):,} {split} files {missing:,} are missing and {changed:,} differ "
            "from the manifest, so measured numbers may differ a little from those printed in the book."
        )


def read_manifest() -> list[ShelfFile]:
    """The shelf's files, in their order.

    Raises:
        ReaderError: the manifest is missing or damaged.
    """
    try:
        lines = MANIFEST.read_text("utf8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    if not rows or any(len(row) != 3 or row[0] not in get_args(Split) for row in rows):
        raise ReaderError(f"{MANIFEST} is missing or damaged: {how_to_restore(MANIFEST)}.")
    return [ShelfFile(*row) for row in rows]


def locate(path: str) -> Path | None:
    """Where the shelf's file ``path`` lies in this environment; None if it does not."""
    for folder in sys.path:
        if folder.endswith("-packages") and (file := Path(folder, path)).is_file():
            return file
    return None


def pinned_packages() -> list[str]:
    """The names that ``requirements.txt`` pins with ``==``: the packages whose sources make up the shelf."""
    return re.findall(r"^([\w.-]+)==", REQUIREMENTS.read_text("utf8"), flags=re.MULTILINE)


def write_manifest() -> None:
    """Filter, deduplicate, shuffle and split the sources of the pinned packages; list them in the manifest."""
    kept: dict[str, str] = {}
    for path in sorted(set(_python_files())):
        content = locate(path).read_bytes()
        if _is_worth_reading(path, content):
            kept.setdefault(_digest(content), path)
    rows = list(kept.items())
    random.Random(0).shuffle(rows)
    n_validation = round(VALIDATION_SHARE * len(rows))
    lines = ["# split\tSHA-256\tpath, relative to site-packages; one line per document of the default corpus"]
    for i, (digest, path) in enumerate(rows):
        lines.append(f"{'validation' if i < n_validation else 'train'}\t{digest}\t{path}")
    content = "\n".join(lines) + "\n"
    write_or_explain(MANIFEST, lambda f: f.write(content.encode()))


def _python_files() -> Iterator[str]:
    for package in pinned_packages():
        for file in importlib.metadata.files(package) or ():
            if file.suffix == ".py" and ".." not in file.parts and locate(file.as_posix()):
                yield file.as_posix()


def _is_worth_reading(path: str, content: bytes) -> bool:
    """UTF-8 of 300 to 200,000 characters, no line over 1,000, under 15 % digits, not made by an installer."""
    if re.search(r"(^|/)(_?version|__config__|setup)\.py$", path):
        return False
    try:
        text = content.decode("utf8")
    except UnicodeDecodeError:
        return False
    digits = sum(map(str.isdigit, text))
    return 300 <= len(text) <= 200_000 and max(map(len, text.splitlines())) <= 1_000 and digits < 0.15 * len(text)


def main(arguments: list[str] | None = None) -> None:
    """Count what is on the shelf, missing or changed; with ``--rewrite``, rebuild the manifest first."""
    parser = argparse.ArgumentParser(prog="python -m helpers.corpus", description=__doc__.splitlines()[0])
    parser.add_argument("--rewrite", action="store_true", help="rebuild the manifest from the installed packages")
    if parser.parse_args(arguments).rewrite:
        write_manifest()
    corpus = open_corpus()
    for split in ("train", "validation"):
        sizes = [len(document) for document in corpus.read(split)]
        print(f"{corpus.name}, {split}: {len(sizes):,} files, {sum(sizes) / 1e6:.1f} million characters")
    print(*corpus.notes or ["Every file is as the manifest says."], sep="\n")


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
