"""The tokenizer, tokens as a human sees them, and the encoded corpus with its cache."""

import errno
import os

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from helpers import ReaderError, tokens
from helpers.corpus import Corpus
from helpers.files import DATA
from helpers.tokens import START, EncodedCorpus, Tokenizer, contexts_at, load_encoded, taken_apart
from tests.examples import texts

NASTY = ["<START>", "</script>", "🧑‍🔬 naïve 日本語", "\0", "a\0b\x07", "&amp; &lt;", "\r\n\t ", "\ufeff", "$x$", "\\n"]
SHIPPED = Tokenizer.load()
LONG = Tokenizer.train(texts(20), 300)


# ---- the tokenizer ----------------------------------------------------------------------------------------------


@given(st.text())
@example("".join(NASTY))
def test_any_text_comes_back_and_never_holds_the_start_token(text):
    ids = SHIPPED.encode(text)
    assert SHIPPED.decode(ids) == text and START not in ids


@pytest.mark.parametrize("text", NASTY)
def test_nasty_text_comes_back_alone_and_in_company(text):
    for written in (text, f"x{text}", f" {text}\n", text * 3):
        assert SHIPPED.decode(SHIPPED.encode(written)) == written
        assert START not in SHIPPED.encode(written)
    assert SHIPPED.encode_many([text, "x"]) == [SHIPPED.encode(text), SHIPPED.encode("x")]


def test_a_lone_surrogate_becomes_a_question_mark(tmp_path):
    assert SHIPPED.decode(SHIPPED.encode("a\ud800b")) == "a?b"
    encoded = load_encoded([*texts(), "a\ud800b"], tmp_path)
    assert "a?b" in encoded.tokenizer.decode(np.concatenate([encoded.train, encoded.validation]))


def test_decoding_skips_the_start_token_and_marks_broken_utf8():
    assert SHIPPED.decode([START, *SHIPPED.encode("hi"), START]) == "hi"
    first_byte_of_the_emoji = torch.tensor(SHIPPED.encode("🧑")[:1])
    assert SHIPPED.decode(first_byte_of_the_emoji) == "�"


def test_the_shipped_tokenizer_is_of_the_promised_size_and_shows_every_token():
    assert SHIPPED.d_vocab == 4096
    shown = SHIPPED.show_all(range(SHIPPED.d_vocab))
    assert all(text.isprintable() and " " not in text and text for text in shown)


def test_training_is_deterministic_and_survives_saving(tmp_path):
    trained = Tokenizer.train(texts())
    assert Tokenizer.train(texts()).fingerprint == trained.fingerprint
    trained.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == trained.fingerprint and loaded.d_vocab == trained.d_vocab
    assert loaded.encode(texts()[0]) == trained.encode(texts()[0])


@given(st.integers(257, 300))
def test_a_shortened_tokenizer_is_the_one_that_a_smaller_vocabulary_gives(d_vocab):
    long, short = Tokenizer.train(texts(20), 300), Tokenizer.train(texts(20), d_vocab)
    assert long.shortened(d_vocab).fingerprint == short.fingerprint
    text = texts(21)[-1] + " Übermut ∀"
    assert long.shortened(d_vocab).encode(text) == short.encode(text)


@given(st.integers(257, 300), st.text("abdegiklmnoprtu .\n", max_size=80))
def test_taking_tokens_apart_is_encoding_anew_with_the_smaller_vocabulary(d_vocab, text):
    pieces = LONG.pieces(d_vocab)
    ids = np.array([START, *LONG.encode(text)], dtype=np.uint16)
    assert taken_apart(ids, pieces).tolist() == [START, *LONG.shortened(d_vocab).encode(text)]


def test_taking_apart_the_shipped_tokens_is_encoding_anew():
    python = "    def __init__(self, callback=None):\n        return np.zeros(3)\n"
    text = "".join(texts(20)) + "\n".join(NASTY) + 4 * python
    ids = np.array(SHIPPED.encode(text), dtype=np.uint16)
    for d_vocab in (257, 512, 1000, 4096):
        apart = taken_apart(ids, SHIPPED.pieces(d_vocab))
        assert apart.dtype == np.uint16 and apart.tolist() == SHIPPED.shortened(d_vocab).encode(text)


@pytest.mark.parametrize("d_vocab", [256, 4097])
def test_a_vocabulary_that_cannot_be_had_is_answered_with_a_sentence(d_vocab):
    with pytest.raises(ReaderError, match=f"cannot be cut to a vocabulary of {d_vocab:,}: choose 257 to 4,096."):
        SHIPPED.shortened(d_vocab)


def test_a_vocabulary_that_cannot_be_stored_is_answered_with_a_sentence():
    with pytest.raises(ReaderError, match="A vocabulary of 65,537 is too large: choose at most 65,536."):
        Tokenizer.train([], 65_537)


def test_text_that_spells_the_start_token_is_only_letters_even_if_trained_on():
    trained = Tokenizer.train([*texts(), "<START> " * 1000])
    ids = trained.encode("<START><START> START")
    assert START not in ids and trained.decode(ids) == "<START><START> START"


@pytest.mark.parametrize("content", [None, "", "{}", "[1, 2]", "no json", '{"model": {"type": "BPE"}}'])
def test_a_missing_or_damaged_tokenizer_of_the_readers_own_is_not_to_be_had_from_git(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    if content is not None:
        file.write_text(content, "utf8")
    with pytest.raises(ReaderError, match=f"^The tokenizer {file} is missing or damaged: ") as caught:
        Tokenizer.load(file)
    assert "git" not in str(caught.value)


def test_the_books_own_tokenizer_comes_back_with_git():
    with pytest.raises(ReaderError, match="is missing or damaged: bring it back with 'git checkout data/nowhere.json'"):
        Tokenizer.load(DATA / "nowhere.json")


def test_a_tokenizer_is_loaded_by_the_name_of_its_file_too():
    assert Tokenizer.load(str(DATA / "tokenizer.json")).fingerprint == Tokenizer.load().fingerprint


def test_the_command_trains_the_tokenizer_of_the_shelf_again(tmp_path, monkeypatch):
    shelf = Corpus("the shelf", "0", lambda split: iter(texts() if split == "train" else ["unseen " * 100]), [])
    monkeypatch.setattr(tokens, "open_corpus", lambda: shelf)
    monkeypatch.setattr(tokens, "TOKENIZER", tmp_path / "tokenizer.json")
    tokens.main()
    assert Tokenizer.load(tmp_path / "tokenizer.json").fingerprint == Tokenizer.train(texts()).fingerprint


@pytest.mark.parametrize(
    "text, shown",
    [
        (" ", "␣"),
        (" the", "␣the"),
        ("\n", "↵"),
        ("\t", "→"),
        ("\r", "␍"),
        ("\0", "\\x00"),
        ("\x7f", "\\x7f"),
        ("<", "<"),
        ("def", "def"),
    ],
)
def test_a_token_as_a_human_sees_it(text, shown):
    assert SHIPPED.show(SHIPPED.token(text)) == shown


def test_a_byte_that_is_no_character_is_shown_as_an_escape():
    assert SHIPPED.show_all(SHIPPED.encode("\U0010ffff")) == ["\\xf4", "\\x8f", "\\xbf", "\\xbf"]
    assert SHIPPED.show(START) == "<START>"


def test_a_token_is_found_by_its_text_spaces_included():
    assert SHIPPED.token("<START>") == START
    assert SHIPPED.token(" self") != SHIPPED.token("self")
    for i in (1, 300, 4095):
        text = SHIPPED.decode([i])
        assert "�" in text or SHIPPED.token(text) == i


def test_an_unknown_token_is_answered_with_similar_ones():
    with pytest.raises(ReaderError, match=r"' reutrn' is not one token of the vocabulary: similar .*'.?return'"):
        SHIPPED.token(" reutrn")


@pytest.mark.parametrize("text", ["", "🧑‍🔬", "x" * 100_000, "\ud800\ud800", "<START><START>"])
def test_an_unknown_token_without_similar_ones_is_one_short_sentence(text):
    with pytest.raises(ReaderError, match="is not one token of the vocabulary: .*[.]$") as caught:
        SHIPPED.token(text)
    assert len(str(caught.value)) < 300


# ---- prompts ----------------------------------------------------------------------------------------------------


def test_a_prompt_begins_with_start_and_may_fill_the_context():
    assert SHIPPED.prompt("a b c", n_ctx=4).tolist() == [[START, *SHIPPED.encode("a b c")]]


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("", "The text is empty: type at least one character."),
        ("a " * 50_000, "The text has 100,000 characters: shorten it to at most 7 tokens."),
        ("a b c d e f g h", "The text has 8 tokens, the context holds 7: shorten it."),
    ],
)
def test_a_prompt_that_does_not_fit_is_answered_with_a_sentence(text, sentence):
    with pytest.raises(ReaderError) as caught:
        SHIPPED.prompt(text, n_ctx=8)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("text", NASTY)
def test_nasty_prompts_are_ordinary_text(text):
    prompt = SHIPPED.prompt(text, n_ctx=256)
    assert prompt[0, 0] == START and (prompt[0, 1:] != START).all()


# ---- the encoded corpus -----------------------------------------------------------------------------------------


def test_both_splits_hold_their_documents_with_a_start_before_each(corpus):
    for split, n in (("train", 57), ("validation", 3)):
        ids = getattr(corpus, split)
        assert ids.dtype == np.uint16 and ids[0] == START and (ids == START).sum() == n
    documents = corpus.tokenizer.decode(np.concatenate([corpus.train, corpus.validation]))
    assert sorted(documents.split("\n")) == sorted("".join(texts()).split("\n"))


def test_contexts_are_pieces_of_the_text_after_a_start(corpus):
    contexts = corpus.contexts("train", 5, 16, seed=1)
    assert contexts.shape == (5, 16) and (contexts[:, 0] == START).all()
    assert (corpus.contexts("train", 5, 16, seed=1) == contexts).all()
    assert (corpus.contexts("train", 5, 16, seed=2) != contexts).any()
    text = corpus.train.tobytes()
    assert all(row[1:].numpy().astype(np.uint16).tobytes() in text for row in contexts)
    assert contexts_at(np.arange(10, dtype=np.uint16), [2, 6], 4).tolist() == [[0, 2, 3, 4], [0, 6, 7, 8]]


def test_a_context_longer_than_the_text_is_answered_with_a_sentence(corpus):
    with pytest.raises(ReaderError, match="The validation text of your texts has .* tokens: give more than 10000"):
        corpus.contexts("validation", 1, 10_000)


def same(one: EncodedCorpus, other: EncodedCorpus) -> bool:
    return (
        np.array_equal(one.train, other.train)
        and np.array_equal(one.validation, other.validation)
        and one.tokenizer.fingerprint == other.tokenizer.fingerprint
        and one.notes == other.notes
    )


def test_the_cache_gives_back_what_was_encoded(tmp_path, monkeypatch, corpus):
    first = load_encoded(texts(), tmp_path / "made" / "here")
    monkeypatch.setattr(Tokenizer, "encode_many", None)
    again = load_encoded(texts(), tmp_path / "made" / "here")
    assert same(again, first) and same(first, corpus)
    for split in ("train", "validation"):
        one, other = getattr(first, split), getattr(again, split)
        assert isinstance(one, np.memmap) and np.shares_memory(one, other)  # one copy, and that on the disk


@pytest.mark.parametrize(
    "ending, damage",
    [
        (".npy", lambda content: content[:100]),
        (".npy", lambda content: content[:-100] + bytes(100)),
        (".npy", lambda content: b""),
        (".npy", None),
        (".json", lambda content: b""),
        (".json", lambda content: b"[]"),
        (".json", lambda content: b"{}"),
        (".json", lambda content: b'"\xff'),
        (".json", lambda content: content.replace(b'"n_train": ', b'"n_train": 1')),
        (".json", None),
    ],
)
def test_a_damaged_cache_is_rebuilt(tmp_path, corpus, ending, damage):
    load_encoded(texts(), tmp_path)
    (file,) = tmp_path.glob(f"*{ending}")
    content = file.read_bytes()
    file.unlink() if damage is None else file.write_bytes(damage(content))
    assert same(load_encoded(texts(), tmp_path), corpus)
    assert file.read_bytes() == content


def test_a_cache_that_cannot_be_written_costs_only_a_sentence(tmp_path, capsys, corpus):
    (tmp_path / "file").write_text("in the way of a folder", "utf8")
    assert same(load_encoded(texts(), tmp_path / "file" / "cache"), corpus)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("The encoded corpus could not be kept in") and error.endswith(
        "it is encoded again next time."
    )


def test_a_full_disk_costs_only_a_sentence(tmp_path, capsys, monkeypatch, corpus):
    monkeypatch.setattr(os, "fsync", disk_full)
    assert same(load_encoded(texts(), tmp_path), corpus)
    assert "(No space left on device): it is encoded again next time." in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def disk_full(_) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_notes_of_the_corpus_are_kept_in_the_cache(tmp_path):
    for i, text in enumerate(texts()):
        (tmp_path / f"{i}.txt").write_text(text, "utf8")
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    for _ in range(2):
        assert load_encoded(tmp_path, tmp_path / "cache").notes == [
            "1 files are not readable as UTF-8 and were left out."
        ]


def test_own_text_takes_the_vocabulary_that_is_asked_for(tmp_path):
    corpus = load_encoded(texts(), tmp_path, d_vocab=280)
    assert corpus.tokenizer.d_vocab == 280 and corpus.train.max() < 280
    assert load_encoded(texts(), tmp_path).tokenizer.d_vocab > 280


def test_the_shelf_is_encoded_with_the_shipped_tokenizer(tmp_path, monkeypatch):
    documents = {"train": ["def f(x):\n    return x\n"], "validation": ["import os\n"]}
    monkeypatch.setattr(
        "helpers.tokens.open_corpus", lambda source: Corpus("the shelf", "0", lambda split: iter(documents[split]), [])
    )
    encoded = load_encoded(cache=tmp_path)
    assert encoded.tokenizer.fingerprint == SHIPPED.fingerprint
    assert encoded.train.tolist() == [START, *SHIPPED.encode(documents["train"][0])]


def test_a_smaller_vocabulary_of_the_shelf_is_derived_from_the_full_encoding(tmp_path, monkeypatch):
    reads = []

    def read(split):
        reads.append(split)
        return iter({"train": texts(5), "validation": ["import os\n"]}[split])

    monkeypatch.setattr("helpers.tokens.open_corpus", lambda source: Corpus("the shelf", "0", read, []))
    full = load_encoded(cache=tmp_path)
    reads.clear()
    small = load_encoded(cache=tmp_path, d_vocab=512)
    assert not reads and small.tokenizer.d_vocab == 512 and full.tokenizer.d_vocab == 4096
    expected = [i for text in texts(5) for i in [START, *SHIPPED.shortened(512).encode(text)]]
    assert small.train.tolist() == expected
    assert small.validation.tolist() == [START, *SHIPPED.shortened(512).encode("import os\n")]
    monkeypatch.setattr("helpers.tokens.taken_apart", None)
    assert load_encoded(cache=tmp_path, d_vocab=512).train.tolist() == expected  # from the cache
