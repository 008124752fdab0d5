"""What the tests share: settings of hypothesis, and a small corpus."""

from pathlib import Path

import pytest
import torch
from hypothesis import settings

from helpers.tokens import EncodedCorpus, load_encoded
from tests.examples import texts

settings.register_profile("book", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("book")


@pytest.fixture(autouse=True)
def ordinary_arithmetic():
    """Training makes the processor treat denormal numbers as 0, a setting of the whole process: undo it."""
    yield
    torch.set_flush_denormal(False)


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of sixty small .txt files."""
    folder = tmp_path_factory.mktemp("texts")
    for i, text in enumerate(texts()):
        (folder / f"{i:02}.txt").write_text(text, "utf8")
    return folder


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> EncodedCorpus:
    """The same texts, encoded with a tokenizer of their own."""
    return load_encoded(texts(), tmp_path_factory.mktemp("cache"))
