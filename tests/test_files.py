"""Files are whole or not there, and whoever misses one is told what to do."""

from pathlib import Path

import pytest

from helpers import ReaderError
from helpers.files import DATA, book_folder, how_to_restore, write_atomically, write_or_explain


def test_writing_replaces_the_file_and_leaves_nothing_else(tmp_path):
    file = tmp_path / "file"
    for content in (b"old", b"new"):
        write_atomically(file, lambda f, content=content: f.write(content))
        assert file.read_bytes() == content
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, ValueError])
def test_writing_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error):
    file = tmp_path / "file"
    file.write_bytes(b"old")

    def write(f):
        f.write(b"half of the new")
        raise error

    with pytest.raises(error):
        write_atomically(file, write)
    assert file.read_bytes() == b"old" and list(tmp_path.iterdir()) == [file]


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    write_atomically(tmp_path / "ours", lambda f: f.write(b""))
    (tmp_path / "ordinary").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_folder_is_made_and_where_that_is_impossible_the_reader_is_told(tmp_path):
    file = tmp_path / "deep" / "deeper" / "file"
    write_or_explain(file, lambda f: f.write(b"content"))
    assert file.read_bytes() == b"content"
    with pytest.raises(ReaderError, match="could not be written .*: free some space or choose another folder"):
        write_or_explain(file / "below", lambda f: f.write(b"content"))


@pytest.mark.parametrize("name, seed, folder", [
    ("two_layer", 0, "models/two_layer"),
    ("two_layer", 2, "models/two_layer_seed2"),
    ("laptop", 0, "models/laptop"),
    ("laptop", 1, "histories/laptop_seed1"),
])  # fmt: skip
def test_a_book_folder_is_named_after_recipe_and_seed(name, seed, folder):
    assert book_folder(name, seed) == DATA / folder and (DATA / folder / "history.json").exists()


def test_a_file_of_the_book_comes_back_with_git_and_one_of_the_readers_own_does_not(tmp_path):
    assert how_to_restore(DATA / "tokenizer.json") == "bring it back with 'git checkout data/tokenizer.json'"
    for path in (tmp_path / "runs" / "mine", tmp_path / "tokenizer.json", Path("runs/mine")):
        assert "git" not in how_to_restore(path)
    assert str(tmp_path / "runs" / "mine") in how_to_restore(tmp_path / "runs" / "mine")
