"""What the tests share: annotations that are checked at run time, settings of hypothesis, and a small corpus."""

from pathlib import Path

import pytest
from hypothesis import settings
from IPython.display import Markdown
from jaxtyping import install_import_hook

install_import_hook("helpers", "beartype.beartype")  # of use only before the first import of helpers

from helpers.tokens import EncodedCorpus, load_encoded  # noqa: E402
from tests.examples import texts  # noqa: E402

settings.register_profile("book", deadline=None, derandomize=True, max_examples=50, database=None)
settings.load_profile("book")


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


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict, dict]]:
    """The outputs that views display, each as its data and its metadata."""
    outputs = []

    def display(data: dict | Markdown, metadata: dict | None = None, raw: bool = False) -> None:
        outputs.append((data if raw else {"text/markdown": data.data}, metadata or {}))

    monkeypatch.setattr("helpers.views.display", display)
    return outputs
