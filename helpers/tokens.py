"""From text to numbers and back: a byte-level BPE tokenizer, the encoded corpus, and tokens that a human can read.

To train the shelf's tokenizer again and write it to data/tokenizer.json::

    python -m helpers.tokens
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from pathlib import Path

import numpy as np
import platformdirs
import torch
from jaxtyping import Int
from tokenizers import Tokenizer as BPE
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm

from helpers import START, ReaderError
from helpers.corpus import Corpus, Source, Split, open_corpus, without_surrogates
from helpers.files import DATA, how_to_restore, write_atomically, write_or_explain

TOKENIZER = DATA / "tokenizer.json"
N_WITHOUT_MERGES = 257  # <START> and the 256 bytes
LARGEST_VOCABULARY = 2**16  # the corpus is stored as uint16
LONGEST_TEXT = 100_000  # characters; a prompt of so many or more is refused before it is encoded

Ids = Iterable[int] | Tensor | np.ndarray  # token ids: any row of them


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
        """Learn a vocabulary from ``texts``: ``<START>``, the 256 bytes, then merges of the most frequent pairs.

        Raises:
            ReaderError: ``d_vocab`` is larger than 65,536.
        """
        if d_vocab > LARGEST_VOCABULARY:
            raise ReaderError(f"A vocabulary of {d_vocab:,} is too large: choose at most {LARGEST_VOCABULARY:,}.")
        bpe = BPE(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(vocab_size=d_vocab, special_tokens=["<START>"], initial_alphabet=alphabet)
        bpe.train_from_iterator(texts, trainer)
        return cls(bpe)

    @classmethod
    def load(cls, path: Path | str = TOKENIZER) -> "Tokenizer":
        """The tokenizer that ``save`` or a training wrote; by default the shelf's, which the book's models use.

        Raises:
            ReaderError: the file is missing or is not a tokenizer.
        """
        try:
            return cls(BPE.from_str(Path(path).read_text("utf8")))
        except Exception as error:  # tokenizers raises a bare Exception for a damaged file
            raise ReaderError(f"The tokenizer {path} is missing or damaged: {how_to_restore(Path(path))}.") from error

    def shortened(self, d_vocab: int) -> "Tokenizer":
        """The tokenizer that training with a smaller vocabulary would give: the first merges are the same.

        Raises:
            ReaderError: ``d_vocab`` is larger than the vocabulary, or too small for ``<START>`` and the bytes.
        """
        if not N_WITHOUT_MERGES <= d_vocab <= self.d_vocab:
            raise ReaderError(
                f"This tokenizer cannot be cut to a vocabulary of {d_vocab:,}: choose {N_WITHOUT_MERGES} to "
                f"{self.d_vocab:,}."
            )
        bpe = json.loads(self._bpe.to_str())
        bpe["model"]["vocab"] = {token: i for token, i in bpe["model"]["vocab"].items() if i < d_vocab}
        bpe["model"]["merges"] = bpe["model"]["merges"][: d_vocab - N_WITHOUT_MERGES]
        return Tokenizer(BPE.from_str(json.dumps(bpe)))

    def pieces(self, d_vocab: int) -> list[list[int]]:
        """For each token, the tokens of ``shortened(d_vocab)`` that spell it.

        A token from ``d_vocab`` on is a merge of two others, which are taken apart in turn. The result is what encoding
        the text with the smaller vocabulary gives, since the merges that both have are made before all others.
        """
        bpe = json.loads(self._bpe.to_str())["model"]
        pieces = [[token] for token in range(N_WITHOUT_MERGES)]
        for token, pair in enumerate(bpe["merges"], start=N_WITHOUT_MERGES):
            left, right = (bpe["vocab"][part] for part in pair)
            pieces.append([token] if token < d_vocab else pieces[left] + pieces[right])
        return pieces

    def save(self, path: Path | str) -> None:
        """Write the tokenizer as JSON. Raises ReaderError if that is not possible."""
        content = self._bpe.to_str(pretty=True) + "\n"
        write_or_explain(Path(path), lambda f: f.write(content.encode()))

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

    def decode(self, ids: Ids) -> str:
        """The text of ``ids``; ``<START>`` becomes nothing, broken UTF-8 becomes �."""
        return b"".join(self._bytes[i] for i in map(int, ids) if i != START).decode("utf8", "replace")

    def prompt(self, text: str, n_ctx: int) -> Int[Tensor, "1 pos"]:
        """``<START>`` and the tokens of ``text``, as a batch of one that fits in a context of ``n_ctx``.

        Raises:
            ReaderError: the text is empty, or longer than the context.
        """
        if not text:
            raise ReaderError("The text is empty: type at least one character.")
        if len(text) >= LONGEST_TEXT:
            raise ReaderError(f"The text has {len(text):,} characters: shorten it to at most {n_ctx - 1} tokens.")
        ids = [START, *self.encode(text)]
        if len(ids) > n_ctx:
            raise ReaderError(f"The text has {len(ids) - 1:,} tokens, the context holds {n_ctx - 1}: shorten it.")
        return torch.tensor([ids])

    def token(self, text: str) -> int:
        """The id of the token that is exactly ``text``; spaces count.

        Raises:
            ReaderError: there is no such token; the sentence names similar ones.
        """
        if text == "<START>":
            return START
        content = text.encode("utf8", "replace")
        if content not in self._ids:
            near = get_close_matches(text, [c.decode("utf8", "ignore") for c in self._ids], n=4, cutoff=0.5)
            hint = f"similar tokens are {', '.join(map(repr, near))}" if near else "choose another one"
            raise ReaderError(f"{text[:50]!r} is not one token of the vocabulary: {hint}.")
        return self._ids[content]

    def show(self, token: int | np.integer | Tensor) -> str:
        """The token as people should see it: ␣ a space, ␣×7 seven of them, ↵ a new line, → a tab, \\x escapes."""
        return _visible(self._bytes[int(token)])

    def show_all(self, ids: Ids) -> list[str]:
        return [self.show(i) for i in ids]


def _visible(content: bytes) -> str:
    text = content.decode("utf8", "backslashreplace")
    text = re.sub(" {4,}", lambda run: f"␣×{len(run[0])}", text)
    text = text.replace(" ", "␣").replace("\r", "␍").replace("\n", "↵").replace("\t", "→")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _byte_alphabet() -> dict[str, int]:
    """The printable character that stands for each byte in GPT-2's byte-level BPE."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


# ---- the encoded corpus -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EncodedCorpus:
    """Each split as one long row of token ids, ``<START>`` before every document, and notes for the reader."""

    name: str
    tokenizer: Tokenizer
    train: np.ndarray  # uint16 [n_train_tokens]
    validation: np.ndarray  # uint16 [n_validation_tokens]
    notes: list[str]

    def contexts(self, split: Split, n: int, n_ctx: int, seed: int = 0) -> Int[Tensor, "{n} {n_ctx}"]:
        """``n`` contexts from random places of a split: ``<START>`` and the ``n_ctx`` - 1 tokens that follow there.

        Raises:
            ReaderError: the split is shorter than one context.
        """
        tokens = self.train if split == "train" else self.validation
        if len(tokens) <= n_ctx:
            raise ReaderError(f"The {split} text of {self.name} has {len(tokens):,} tokens: give more than {n_ctx}.")
        places = np.random.default_rng(seed).integers(0, len(tokens) - n_ctx, n)
        return contexts_at(tokens, places, n_ctx)


def contexts_at(tokens: np.ndarray, places: Iterable[int] | np.ndarray, n_ctx: int) -> Int[Tensor, "context {n_ctx}"]:
    """The ``n_ctx`` - 1 tokens from each of ``places`` on, each row prefixed with ``<START>``."""
    rows = np.stack([tokens[place : place + n_ctx - 1] for place in places]).astype(np.int64)
    return torch.from_numpy(np.insert(rows, 0, START, axis=1))


def load_encoded(source: Source = None, cache: Path | None = None, d_vocab: int = 4096) -> EncodedCorpus:
    """The corpus that ``source`` names, encoded; from the cache if it has been encoded before.

    The shelf (None) is encoded with the tokenizer in data/, any other text with one that is trained on it. With a
    smaller vocabulary, the shelf is derived from the full encoding in seconds. The cache, by default a folder of the
    platform's own outside the repository, is mapped into memory once per process. A damaged cache is rebuilt; where
    nothing can be written, the book goes on without one.

    Raises:
        ReaderError: there is no such text or too little of it, or no such vocabulary.
    """
    corpus, own = open_corpus(source), source is not None
    tokenizer = Tokenizer.train(corpus.read("train"), d_vocab) if own else Tokenizer.load().shortened(d_vocab)
    key = hashlib.sha256((corpus.fingerprint + tokenizer.fingerprint).encode()).hexdigest()[:16]
    file = (cache or platformdirs.user_cache_path("transformer-circuits-book")) / f"{key}.npy"
    encoding = _read_cache(file)
    if encoding is None:
        derived = not own and d_vocab < Tokenizer.load().d_vocab
        encoding = _derive(load_encoded(cache=cache), d_vocab) if derived else _encode(corpus, tokenizer)
        _write_cache(file, *encoding)
        encoding = _read_cache(file) or encoding
    return EncodedCorpus(corpus.name, tokenizer, *encoding)


Encoding = tuple[np.ndarray, np.ndarray, list[str]]  # both splits, and notes for the reader


def _encode(corpus: Corpus, tokenizer: Tokenizer) -> Encoding:
    train, validation = (_encode_split(corpus, split, tokenizer) for split in ("train", "validation"))
    return train, validation, corpus.notes


def _encode_split(corpus: Corpus, split: Split, tokenizer: Tokenizer) -> np.ndarray:
    texts = iter(tqdm(corpus.read(split), desc=f"encoding {corpus.name}, {split}", unit=" files"))
    parts = []
    while batch := list(islice(texts, 64)):
        parts += [np.array([START, *ids], dtype=np.uint16) for ids in tokenizer.encode_many(batch)]
    return np.concatenate(parts)


def _derive(corpus: EncodedCorpus, d_vocab: int) -> Encoding:
    pieces = corpus.tokenizer.pieces(d_vocab)
    return taken_apart(corpus.train, pieces), taken_apart(corpus.validation, pieces), corpus.notes


def taken_apart(tokens: np.ndarray, pieces: list[list[int]]) -> np.ndarray:
    """``tokens`` with each replaced by its ``Tokenizer.pieces``, a million at a time."""
    length = np.array([len(p) for p in pieces])
    first = length.cumsum() - length
    flat = np.array([piece for p in pieces for piece in p], dtype=tokens.dtype)
    parts = []
    for start in range(0, len(tokens), 1 << 20):
        chunk = tokens[start : start + (1 << 20)]
        n = length[chunk]
        within = np.arange(n.sum()) - np.repeat(n.cumsum() - n, n)
        parts.append(flat[np.repeat(first[chunk], n) + within])
    return np.concatenate(parts)


def _read_cache(file: Path) -> Encoding | None:
    """What is kept in ``file`` and in the card beside it; None if they are missing or damaged."""
    try:
        return _mapped(file, *(path.stat().st_mtime_ns for path in (file, file.with_suffix(".json"))))
    except (OSError, ValueError, LookupError, TypeError, EOFError):
        return None


@lru_cache
def _mapped(file: Path, *written: int) -> Encoding:
    """The file, checked and mapped into memory: once for each time that it was written."""
    card = json.loads(file.with_suffix(".json").read_text("utf8"))
    ids, n_train = np.load(file, mmap_mode="r"), card["n_train"]
    if hashlib.sha256(ids).hexdigest() != card["sha256"] or ids[n_train] != START:
        raise ValueError("damaged")
    ids = np.load(file, mmap_mode="r")  # mapped again: what was read for the hash need not stay in memory
    return ids[:n_train], ids[n_train:], card["notes"]


def _write_cache(file: Path, train: np.ndarray, validation: np.ndarray, notes: list[str]) -> None:
    ids = np.concatenate([train, validation])
    card = {"sha256": hashlib.sha256(ids).hexdigest(), "n_train": len(train), "notes": notes}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, lambda f: np.save(f, ids))
        write_atomically(file.with_suffix(".json"), lambda f: f.write(json.dumps(card).encode()))
    except OSError as error:
        print(
            f"The encoded corpus could not be kept in {file.parent} ({error.strerror}): it is encoded again next time.",
            file=sys.stderr,
        )


def main() -> None:
    """Train the shelf's tokenizer. Raises ReaderError if the shelf is not on this machine."""
    Tokenizer.train(open_corpus().read("train")).save(TOKENIZER)


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
