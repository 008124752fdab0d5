"""From text to numbers and back: a byte-level BPE tokenizer, the encoded corpus, and tokens that a human can read.

    python -m helpers.tokens  # train the shelf's tokenizer anew and write it to data/tokenizer.json
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import platformdirs
import torch
from jaxtyping import Int
from tokenizers import Tokenizer as BPE
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.corpus import DATA, Corpus, Source, open_corpus, without_surrogates

TOKENIZER = DATA / "tokenizer.json"
START = 0  # the id of <START>, which opens every context
N_WITHOUT_MERGES = 257  # <START> and the 256 bytes
LONGEST_TEXT = 100_000  # characters; a prompt longer than this is refused before it is encoded


class Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenisation: any string can be encoded and comes back unchanged.

    Id 0 is ``<START>``. Text never produces it: a reader who types ``<START>`` gets the tokens of those letters.
    """

    def __init__(self, bpe: BPE):
        self._bpe = bpe
        self._bpe.encode_special_tokens = True
        alphabet = _byte_alphabet()
        self._bytes = [bytes(alphabet.get(c, 0) for c in bpe.id_to_token(i)) for i in range(bpe.get_vocab_size())]
        self._bytes[START] = b"<START>"
        self._ids = {content: i for i, content in enumerate(self._bytes) if i != START}

    @classmethod
    def train(cls, texts: Iterable[str], d_vocab: int = 4096) -> "Tokenizer":
        """Learn the merges from ``texts``: ``<START>``, the 256 bytes, then the most frequent pairs."""
        bpe = BPE(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=d_vocab, special_tokens=["<START>"], initial_alphabet=alphabet)
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path = TOKENIZER) -> "Tokenizer":
        """Raises ReaderError when the file is missing or is not a tokenizer."""
        try:
            return cls(BPE.from_str(Path(path).read_text("utf8")))
        except Exception as error:  # tokenizers raises a bare Exception for a damaged file
            raise ReaderError(
                f"The tokenizer {path} is missing or damaged: bring it back with 'git checkout data/tokenizer.json'."
            ) from error

    def shortened(self, d_vocab: int) -> "Tokenizer":
        """The tokenizer that the same training gives with a smaller vocabulary: merges are learned one by one.

        Raises:
            ReaderError: ``d_vocab`` is larger than the vocabulary, or too small for ``<START>`` and the bytes.
        """
        if not N_WITHOUT_MERGES <= d_vocab <= self.d_vocab:
            raise ReaderError(f"A vocabulary of {d_vocab:,} cannot be had from this tokenizer: choose "
                              f"{N_WITHOUT_MERGES} to {self.d_vocab:,}.")
        bpe = json.loads(self._bpe.to_str())
        bpe["model"]["vocab"] = {token: i for token, i in bpe["model"]["vocab"].items() if i < d_vocab}
        bpe["model"]["merges"] = bpe["model"]["merges"][: d_vocab - N_WITHOUT_MERGES]
        return Tokenizer(BPE.from_str(json.dumps(bpe)))

    def pieces(self, d_vocab: int) -> list[list[int]]:
        """For each token, the tokens of ``shortened(d_vocab)`` that the same text has there.

        A token above ``d_vocab`` is one merge of two, which are taken apart in turn. That gives what encoding the
        text anew would: the merges that both vocabularies have are made first, so the others start from them.
        """
        bpe = json.loads(self._bpe.to_str())["model"]
        pieces = [[token] for token in range(N_WITHOUT_MERGES)]
        for token, pair in enumerate(bpe["merges"], start=N_WITHOUT_MERGES):
            left, right = (bpe["vocab"][part] for part in pair)
            pieces.append([token] if token < d_vocab else pieces[left] + pieces[right])
        return pieces

    def save(self, path: Path = TOKENIZER) -> None:
        Path(path).write_text(self._bpe.to_str(pretty=True) + "\n", "utf8")

    @property
    def d_vocab(self) -> int:
        return len(self._bytes)

    @property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._bpe.to_str().encode()).hexdigest()

    def encode(self, text: str) -> list[int]:
        """The ids of ``text``, without ``<START>``."""
        return self._bpe.encode(without_surrogates(text)).ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._bpe.encode_batch_fast(texts)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ``ids``; ``<START>`` becomes nothing, broken UTF-8 becomes �."""
        return b"".join(self._bytes[i] for i in map(int, ids) if i != START).decode("utf8", "replace")

    def prompt(self, text: str, n_ctx: int) -> Int[Tensor, "1 pos"]:
        """``<START>`` and the tokens of ``text``, as a batch of one that fits into a context of ``n_ctx``.

        Raises:
            ReaderError: the text is empty, or longer than the context.
        """
        if not text:
            raise ReaderError("The text is empty: type at least one character.")
        if len(text) > LONGEST_TEXT - 1:
            raise ReaderError(f"The text has {len(text):,} characters: shorten it to at most {n_ctx - 1} tokens.")
        ids = [START, *self.encode(text)]
        if len(ids) > n_ctx:
            raise ReaderError(f"The text has {len(ids) - 1:,} tokens, the context holds {n_ctx - 1}: shorten it.")
        return torch.tensor([ids])

    def token(self, text: str) -> int:
        """The id of the one token that is exactly ``text``; spaces count.

        Raises:
            ReaderError: no such token; the sentence names similar ones.
        """
        if text == "<START>":
            return START
        content = text.encode("utf8", "replace")
        if content not in self._ids:
            near = get_close_matches(text, [c.decode("utf8", "ignore") for c in self._ids], n=4, cutoff=0.5)
            hint = f"similar tokens are {', '.join(map(repr, near))}" if near else "choose another one"
            raise ReaderError(f"{text[:50]!r} is not one token of the vocabulary: {hint}.")
        return self._ids[content]

    def show(self, token: int) -> str:
        """The token as a human should see it: ␣ for a space, ␣×7 for seven, ↵ a new line, → a tab, \\x escapes."""
        return _visible(self._bytes[int(token)])

    def show_all(self, ids: Iterable[int]) -> list[str]:
        return [self.show(i) for i in ids]


def _visible(content: bytes) -> str:
    text = content.decode("utf8", "backslashreplace")
    text = re.sub(" {4,}", lambda run: f"␣×{len(run[0])}", text)
    text = text.replace(" ", "␣").replace("\r", "␍").replace("\n", "↵").replace("\t", "→")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _byte_alphabet() -> dict[str, int]:
    """The printable character by which GPT-2's byte-level BPE writes each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


# ---- the encoded corpus ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedCorpus:
    """Both splits as one long row of ids each, ``<START>`` before every document, and notes for the reader."""

    name: str
    tokenizer: Tokenizer
    train: np.ndarray  # uint16 [n_train_tokens]
    validation: np.ndarray  # uint16 [n_validation_tokens]
    notes: list[str]

    def contexts(self, split: str, n: int, n_ctx: int, seed: int = 0) -> Int[Tensor, "n n_ctx"]:
        """``n`` contexts from random places of a split: ``<START>`` and the ``n_ctx`` - 1 tokens that stand there.

        Raises:
            ReaderError: the split is shorter than one context.
        """
        stream = getattr(self, split)
        if len(stream) <= n_ctx:
            raise ReaderError(f"The {split} text of {self.name} has {len(stream):,} tokens: give more than {n_ctx}.")
        places = np.random.default_rng(seed).integers(0, len(stream) - n_ctx, n)
        return contexts_at(stream, places, n_ctx)


def contexts_at(stream: np.ndarray, places: Iterable[int], n_ctx: int) -> Int[Tensor, "n n_ctx"]:
    """Contexts of ``stream`` that begin at ``places``, each opened by ``<START>``."""
    rows = np.stack([stream[place : place + n_ctx - 1] for place in places]).astype(np.int64)
    return torch.from_numpy(np.insert(rows, 0, START, axis=1))


@dataclass(frozen=True)
class Bigrams:
    """Which token follows which in a text: each different pair of neighbours once, by first and second token."""

    first: Int[Tensor, " pair"]
    second: Int[Tensor, " pair"]
    times: Int[Tensor, " pair"]  # how often the pair occurs
    d_vocab: int

    @property
    def pairs(self) -> tuple[Int[Tensor, " pair"], Int[Tensor, " pair"]]:
        """What picks the pairs out of a table with a row for the first and a column for the second token."""
        return self.first, self.second

    @property
    def n(self) -> int:
        """How many bigrams there are, each counted as often as it occurs."""
        return int(self.times.sum())

    @property
    def opened(self) -> Int[Tensor, " token"]:
        """How many bigrams each token opens."""
        return self.times.new_zeros(self.d_vocab).index_add_(0, self.first, self.times)

    @property
    def closed(self) -> Int[Tensor, " token"]:
        """How many bigrams each token closes."""
        return self.times.new_zeros(self.d_vocab).index_add_(0, self.second, self.times)

    @property
    def likeliest(self) -> Int[Tensor, " token"]:
        """What comes most often after each token, of several the one with the smallest id; -1 where nothing follows."""
        most = self.times.new_zeros(self.d_vocab).scatter_reduce(0, self.first, self.times, "amax")
        best = self.times == most[self.first]
        following = torch.full_like(most, self.d_vocab).scatter_reduce(0, self.first[best], self.second[best], "amin")
        return torch.where(most > 0, following, -1)

    def rows(self, start: int, stop: int) -> slice:
        """Where the pairs stand whose first token is one of ``start`` to ``stop`` - 1."""
        return slice(*torch.searchsorted(self.first, self.first.new_tensor([start, stop])).tolist())

    def row(self, token: int) -> Int[Tensor, " next"]:
        """How often each token comes after ``token``."""
        here = self.rows(token, token + 1)
        return self.times.new_zeros(self.d_vocab).index_put_((self.second[here],), self.times[here])


def count_bigrams(stream: np.ndarray, d_vocab: int) -> Bigrams:
    """Count the neighbours in a row of ids, a few million at a time."""
    parts = []
    for start in range(0, max(1, len(stream) - 1), 1 << 22):
        part = stream[start : start + (1 << 22) + 1].astype(np.uint32)
        parts.append(np.unique(part[:-1] * np.uint32(d_vocab) + part[1:], return_counts=True))
    codes, times = (np.concatenate(column) for column in zip(*parts, strict=True))
    codes, place = np.unique(codes, return_inverse=True)
    times = np.bincount(place, weights=times).astype(np.int64)
    first, second = divmod(codes.astype(np.int64), d_vocab)
    return Bigrams(torch.from_numpy(first), torch.from_numpy(second), torch.from_numpy(times), d_vocab)


def bigrams_of(contexts: Int[Tensor, "batch pos"], d_vocab: int) -> Bigrams:
    """Count the neighbours within each of several contexts."""
    codes, times = torch.unique(contexts[:, :-1] * d_vocab + contexts[:, 1:], return_counts=True)
    return Bigrams(codes // d_vocab, codes % d_vocab, times, d_vocab)


def load_encoded(source: Source = None, cache: Path | None = None, d_vocab: int = 4096) -> EncodedCorpus:
    """The corpus that ``source`` names, encoded; from the cache where it is already there.

    The shelf (None) is encoded with the tokenizer in data/, any other text with one that is trained on it. A
    smaller vocabulary of the shelf is had in seconds from the encoding with the full one. The cache is a folder of
    the platform's own, outside the repository. A damaged cache is made anew; where nothing can be written, the book
    goes on without one.
    """
    corpus = open_corpus(source)
    own = source is not None
    tokenizer = Tokenizer.train(corpus.read("train"), d_vocab) if own else Tokenizer.load().shortened(d_vocab)
    key = hashlib.sha256((corpus.fingerprint + tokenizer.fingerprint).encode()).hexdigest()[:16]
    file = (cache or platformdirs.user_cache_path("transformer-circuits-book")) / f"{key}.npy"
    if (version := _version_of(file)) not in _read:
        encoded = _read_cache(file, corpus, tokenizer)
        if encoded is None:
            encoded = _write_cache(file, _encoded_anew(corpus, tokenizer, own, cache))
        if not (version := _version_of(file)):
            return encoded
        _read[version] = encoded
    return _read[version]


_read: dict[tuple, EncodedCorpus] = {}  # what this process has read already, so that it is in memory once


def _version_of(file: Path) -> tuple:
    """Which state of which files of the cache; empty if they are not there."""
    try:
        return file, *(path.stat().st_mtime_ns for path in (file, file.with_suffix(".json")))
    except OSError:
        return ()


def _encoded_anew(corpus: Corpus, tokenizer: Tokenizer, own: bool, cache: Path | None) -> EncodedCorpus:
    if own or tokenizer.d_vocab == (full := Tokenizer.load()).d_vocab:
        train, validation = (_encode_split(corpus, split, tokenizer) for split in ("train", "validation"))
    else:
        fine, pieces = load_encoded(cache=cache), full.pieces(tokenizer.d_vocab)
        train, validation = (taken_apart(stream, pieces) for stream in (fine.train, fine.validation))
        corpus.notes.extend(fine.notes)
    return EncodedCorpus(corpus.name, tokenizer, train, validation, corpus.notes)


def taken_apart(stream: np.ndarray, pieces: list[list[int]]) -> np.ndarray:
    """Every token of a row of ids replaced by its ``Tokenizer.pieces``, a million tokens at a time."""
    length = np.array([len(p) for p in pieces])
    first = length.cumsum() - length
    flat = np.array([piece for p in pieces for piece in p], dtype=stream.dtype)
    parts = []
    for start in range(0, len(stream), 1 << 20):
        tokens = stream[start : start + (1 << 20)]
        n = length[tokens]
        within = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n)
        parts.append(flat[np.repeat(first[tokens], n) + within])
    return np.concatenate(parts)


def _read_cache(file: Path, corpus: Corpus, tokenizer: Tokenizer) -> EncodedCorpus | None:
    try:
        card = json.loads(file.with_suffix(".json").read_text("utf8"))
        ids = np.load(file, mmap_mode="r")
        n = card["n_train"]
        if hashlib.sha256(ids).hexdigest() != card["sha256"] or ids[n] != START:
            return None
        ids = np.load(file, mmap_mode="r")  # mapped afresh: what was read for the hash need not stay in memory
        return EncodedCorpus(corpus.name, tokenizer, ids[:n], ids[n:], card["notes"])
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None


def _write_cache(file: Path, encoded: EncodedCorpus) -> EncodedCorpus:
    ids = np.concatenate([encoded.train, encoded.validation])
    card = {"sha256": hashlib.sha256(ids).hexdigest(), "n_train": len(encoded.train), "notes": encoded.notes}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda f: np.save(f, ids))
        write_atomically(file.with_suffix(".json"), lambda f: f.write(json.dumps(card).encode()))
    except OSError as error:
        print(f"The encoded corpus could not be kept in {file.parent} ({error.strerror}): it is made anew next time.",
              file=sys.stderr)
    return encoded


def _encode_split(corpus: Corpus, split: str, tokenizer: Tokenizer) -> np.ndarray:
    parts = []
    for texts in _batched(tqdm(corpus.read(split), desc=f"encoding {corpus.name}, {split}", unit=" files"), 64):
        for ids in tokenizer.encode_many(texts):
            parts.append(np.array([START, *ids], dtype=np.uint16))
    return np.concatenate(parts)


def _batched(items: Iterable[str], size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write_atomically(file: Path, write) -> None:
    """Let ``write(open_file)`` fill a temporary file beside ``file``, bring it to the disk, then rename it.

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


if __name__ == "__main__":
    Tokenizer.train(open_corpus().read("train")).save()
