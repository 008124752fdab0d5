"""Where text comes from: texts of the reader's own, and the shelf."""

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ReaderError, corpus, files
from helpers.corpus import Corpus, open_corpus
from tests.examples import texts


def splits(opened: Corpus) -> tuple[list[str], list[str]]:
    return list(opened.read("train")), list(opened.read("validation"))


# ---- texts of the reader's own ----------------------------------------------------------------------------------


def test_a_folder_is_read_by_file_into_disjoint_splits(text_folder):
    train, validation = splits(open_corpus(text_folder))
    assert sorted(train + validation) == sorted(texts())
    assert len(validation) == 3 and not set(train) & set(validation)


def test_a_folder_as_a_string_and_the_strings_themselves_give_the_same_documents(text_folder):
    from_folder, from_strings = open_corpus(str(text_folder)), open_corpus(texts())
    assert sorted(sum(splits(from_folder), [])) == sorted(sum(splits(from_strings), []))


def test_texts_may_come_from_a_generator_and_can_be_read_again():
    opened = open_corpus(text for text in texts())
    assert splits(opened) == splits(opened)


def test_subfolders_are_read_and_other_files_are_not(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "folder.txt").mkdir()
    for name in ("a.txt", "deep/b.md", "deep/deeper/c.py", "d.TXT"):
        (tmp_path / name).write_text(f"{name} " * 2000, "utf8")
    (tmp_path / "e.csv").write_text("left out", "utf8")
    opened = open_corpus(tmp_path)
    everything = "".join(sum(splits(opened), []))
    assert all(name in everything for name in ("a.txt", "b.md", "c.py", "d.TXT")) and "left out" not in everything
    assert opened.notes == []


def test_a_single_file_is_cut_into_pieces_that_make_it_up(tmp_path):
    file = tmp_path / "novel.txt"
    file.write_text("".join(texts()), "utf8")
    train, validation = splits(open_corpus(file))
    assert (len(train), len(validation)) == (19, 1)
    assert sorted("".join(train + validation)) == sorted("".join(texts()))
    assert all(piece in "".join(texts()) for piece in train + validation)


def test_repeated_and_empty_documents_are_dropped():
    assert splits(open_corpus([*texts(), *texts(), "", " \n"])) == splits(open_corpus(texts()))


def test_the_fingerprint_follows_the_text():
    assert open_corpus(texts()).fingerprint == open_corpus(texts()).fingerprint
    assert open_corpus([*texts(), "more"]).fingerprint != open_corpus(texts()).fingerprint


def test_files_that_are_not_utf8_are_left_out_and_counted(tmp_path):
    for i, text in enumerate(texts()):
        (tmp_path / f"{i}.txt").write_text(text, "utf8")
    (tmp_path / "latin.txt").write_bytes("naïve café".encode("latin-1"))
    opened = open_corpus(tmp_path)
    assert opened.notes == ["1 files are not readable as UTF-8 and were left out."]
    assert sorted(sum(splits(opened), [])) == sorted(texts())


@pytest.mark.parametrize(
    "source",
    [
        pytest.param(lambda folder: folder / "nowhere", id="missing"),
        pytest.param(lambda folder: "the text itself, not a path " * 5000, id="text in place of a path"),
        pytest.param(lambda folder: "nul\0byte", id="NUL"),
    ],
)
def test_a_missing_folder_is_named_in_one_short_sentence(tmp_path, source):
    with pytest.raises(ReaderError, match=r"^There is no file or folder .*: name a folder that holds .txt") as caught:
        open_corpus(source(tmp_path))
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("content", [b"", b"short", "é".encode("latin-1") * 20_000])
def test_too_little_text_says_how_much_is_needed(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ReaderError, match="holds .* characters of UTF-8 text: give at least 10,000"):
        open_corpus(tmp_path)


def test_an_empty_folder_and_no_strings_are_too_little(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReaderError, match=f"{tmp_path.name} holds 0 characters"):
        open_corpus(".")
    with pytest.raises(ReaderError, match="your texts holds 0 characters"):
        open_corpus([])


# ---- the shelf --------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shelf of ten files in a folder of packages of its own; the last is for validation."""
    packages = tmp_path / "site-packages"
    packages.mkdir()
    rows = ["# a comment"]
    for i in range(10):
        content = f"x = {i}\n".encode()
        (packages / f"{i}.py").write_bytes(content)
        rows.append(f"{'validation' if i == 9 else 'train'}\t{hashlib.sha256(content).hexdigest()}\t{i}.py")
    (tmp_path / "shelf.tsv").write_text("\n".join(rows) + "\n", "utf8")
    monkeypatch.setattr(corpus, "MANIFEST", tmp_path / "shelf.tsv")
    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(sys, "path", [str(packages), *(p for p in sys.path if not p.endswith("-packages"))])
    return packages


def test_the_shelf_is_read_in_the_order_of_its_manifest(shelf):
    opened = open_corpus()
    train, validation = splits(opened)
    assert train == [f"x = {i}\n" for i in range(9)] and validation == ["x = 9\n"]
    assert opened.notes == []


def test_missing_and_changed_files_are_counted_and_the_rest_is_read(shelf):
    (shelf / "0.py").unlink()
    (shelf / "1.py").write_text("changed", "utf8")
    (shelf / "2.py").write_bytes(b"\xff")
    opened = open_corpus()
    train = list(opened.read("train"))
    assert len(train) == 8 and train[:2] == ["changed", "�"]
    assert len(opened.notes) == 1 and "1 are missing and 2 differ" in opened.notes[0]


def test_a_shelf_that_is_mostly_missing_asks_for_the_installation(shelf):
    for i in range(5):
        (shelf / f"{i}.py").unlink()
    with pytest.raises(ReaderError, match="5 of the shelf's 9 train files are missing: run 'python -m pip install"):
        list(open_corpus().read("train"))


@pytest.mark.parametrize("content", [None, b"", b"# a comment\n", b"train\tabc\n", b"test\tabc\ta.py\n", b"\xff\xfe"])
def test_a_missing_or_damaged_manifest_says_how_to_bring_it_back(shelf, content):
    corpus.MANIFEST.unlink()
    if content is not None:
        corpus.MANIFEST.write_bytes(content)
    with pytest.raises(
        ReaderError, match="shelf.tsv is missing or damaged: bring it back with 'git checkout .*shelf.tsv'"
    ):
        open_corpus()


def test_the_fingerprint_follows_the_manifest(shelf):
    before = open_corpus().fingerprint
    assert open_corpus().fingerprint == before
    corpus.MANIFEST.write_text(corpus.MANIFEST.read_text("utf8") + "train\tabc\t10.py\n", "utf8")
    assert open_corpus().fingerprint != before


def test_the_splits_of_the_shipped_manifest_are_disjoint_by_file_and_by_content():
    shelf = corpus.read_manifest()
    assert len({file.path for file in shelf}) == len({file.sha256 for file in shelf}) == len(shelf)
    validation = [file for file in shelf if file.split == "validation"]
    assert len(validation) == round(corpus.VALIDATION_SHARE * len(shelf))


def test_the_shipped_manifest_names_files_that_are_here_unchanged():
    sample = random.Random(0).sample(corpus.read_manifest(), 200)
    found = [(corpus.locate(file.path), file.sha256) for file in sample]
    unchanged = [path and hashlib.sha256(path.read_bytes()).hexdigest() == digest for path, digest in found]
    assert sum(map(bool, unchanged)) >= 198  # a package may leave a file out on one platform or another


def test_every_package_of_the_shelf_is_pinned():
    names = corpus.pinned_packages()
    assert len(names) == len(set(names)) > 40 and {"torch", "numpy", "sympy"} <= set(names)


def test_the_command_line_tells_the_state_of_the_shelf(shelf, capsys):
    corpus.main([])
    assert capsys.readouterr().out.splitlines() == [
        "the shelf, train: 9 files, 0.0 million characters",
        "the shelf, validation: 1 files, 0.0 million characters",
        "Every file is as the manifest says.",
    ]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An environment with one package, which ``requirements.txt`` pins, of forty modules worth reading and others."""
    folder = tmp_path / "site-packages" / "alpha"
    (folder / "deep").mkdir(parents=True)
    module = "def f(x):\n    return x\n" * 20
    for i in range(40):
        (folder / "deep" / f"m{i:02}.py").write_text(f"N = {i}\n{module}", "utf8")
    others = {"z_copy.py": f"N = 7\n{module}", "_version.py": module, "short.py": module[:299], "long.py": module * 500}
    others |= {"wide.py": "x" * 1001, "digits.py": "1234567890\n" * 100, "data.txt": module, "latin.py": "\xff" * 400}
    for name, text in others.items():
        (folder / name).write_bytes(text.encode("latin-1"))
    info = tmp_path / "site-packages" / "alpha-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: alpha\nVersion: 1.0\n", "utf8")
    listed = sorted(path.relative_to(tmp_path / "site-packages").as_posix() for path in folder.rglob("*.*"))
    (info / "RECORD").write_text(
        "".join(f"{path},,\n" for path in [*listed, "../bin/alpha.py", "alpha/gone.py"]), "utf8"
    )
    (tmp_path / "requirements.txt").write_text("-e .\n# alpha==0\nalpha==1.0\n", "utf8")
    monkeypatch.setattr(corpus, "REQUIREMENTS", tmp_path / "requirements.txt")
    monkeypatch.setattr(corpus, "MANIFEST", tmp_path / "shelf.tsv")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site-packages")])
    return folder


def test_rewriting_lists_what_is_worth_reading_once_and_the_result_can_be_read(package, capsys):
    corpus.main(["--rewrite"])
    assert capsys.readouterr().out.splitlines()[-1] == "Every file is as the manifest says."
    manifest, shelf = corpus.MANIFEST.read_bytes(), corpus.read_manifest()
    assert sorted(file.path for file in shelf) == [f"alpha/deep/m{i:02}.py" for i in range(40)]
    assert [file.split for file in shelf] == ["validation"] * 2 + ["train"] * 38
    for file in shelf:
        assert hashlib.sha256((package.parent / file.path).read_bytes()).hexdigest() == file.sha256
    train, validation = splits(open_corpus())
    assert len(train) == 38 and len(validation) == 2 and not set(train) & set(validation)
    corpus.main(["--rewrite"])
    assert corpus.MANIFEST.read_bytes() == manifest


def test_a_bad_argument_on_the_command_line_ends_with_one_sentence():
    done = subprocess.run([sys.executable, "-m", "helpers.corpus", "--wrong"], capture_output=True, text=True)
    assert done.returncode == 2 and "unrecognized arguments: --wrong" in done.stderr.splitlines()[-1]
