"""A kernel gives back what it has freed, so that a class fits into one machine; and how its memory is measured."""

import asyncio
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

import helpers
from tests.benchmarks.classroom import busy_jobs, hold_class, memory_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this is about Linux and glibc"
)

# Of many blocks on the heap every fortieth stays, so that what is freed between them stays, too, unless it is released.
CELLS = """
import sys
from IPython.core.interactiveshell import InteractiveShell
from tests.benchmarks.classroom import _megabytes, Path

shell = InteractiveShell.instance()
shell.user_ns["resident"] = resident = lambda: _megabytes(Path("/proc/self/status"))["RssAnon"]
shell.run_cell("import helpers")
if "without" in sys.argv:
    shell.events.callbacks["post_run_cell"].clear()
before = resident()
cell = "blocks = [b'x' * 2**16 for _ in range(4000)]; kept = blocks[::40]; full = resident(); del blocks"
assert shell.run_cell(cell).success
print(round(shell.user_ns["full"] - before), round(resident() - before))
"""


@pytest.mark.slow
@pytest.mark.parametrize("arguments, least, most", [([], 0, 50), (["without"], 200, 300)])
def test_what_a_cell_has_freed_goes_back_to_the_system(arguments, least, most):
    done = subprocess.run([sys.executable, "-c", CELLS, *arguments], capture_output=True, text=True, check=True)
    full, left = map(int, done.stdout.split())
    assert 240 < full < 300 and least <= left < most


def test_nothing_is_released_where_there_is_no_glibc(monkeypatch):
    monkeypatch.setattr(helpers.sys, "platform", "darwin")
    monkeypatch.setattr(helpers.ctypes, "CDLL", lambda _: 1 / 0)
    helpers.release_memory()


# ---- the measurement ----------------------------------------------------------------------------------------------


HOLD = """
import mmap, sys
block = b"x" * int(sys.argv[2])
file = open(sys.argv[1], "rb")
pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
print(sum(pages[:: mmap.PAGESIZE]), flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(file: Path, megabytes: int) -> Iterator[int]:
    """The id of a process that has read a mapped file, and holds so much beside it."""
    command = [sys.executable, "-c", HOLD, file, str(megabytes * 2**20)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert int(process.stdout.readline()) > 0
        yield process.pid
        process.stdin.close()


def test_what_kernels_share_is_not_their_own(tmp_path):
    (tmp_path / "ids").write_bytes(b"1" * 64 * 2**20)
    with holder(tmp_path / "ids", 128) as pid:
        alone = memory_of(pid)
        with holder(tmp_path / "ids", 0) as other:
            together, small = memory_of(pid), memory_of(other)
        again = memory_of(pid)
    assert alone.own - together.own == pytest.approx(64, abs=10)
    assert together.own - small.own == pytest.approx(128, abs=10)
    assert again.own == pytest.approx(alone.own, abs=10)
    assert alone.pss - together.pss == pytest.approx(32, abs=10)
    assert alone.peak >= alone.own


def notebook(folder: Path, *sources: str) -> Path:
    file = folder / "chapter.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell(source) for source in sources]), file)
    return file


@pytest.mark.slow
def test_a_class_waits_for_all_and_measures_them_alive(tmp_path):
    """What each of two kernels holds is measured after the slower one has finished."""
    hold = "block = b'x' * 2**27"
    slow = "import os, time, pathlib\ntry: os.mkdir('first')\nexcept OSError: time.sleep(2)"
    done = "pathlib.Path(str(os.getpid())).touch()"
    found = asyncio.run(hold_class(notebook(tmp_path, hold, slow, done), 2))
    assert found.complaints == [] and len(found.memory) == 2 and found.seconds > 2
    assert len([file for file in tmp_path.iterdir() if file.name.isdigit()]) == 2
    assert all(128 < memory.own <= memory.pss <= memory.peak + 1 for memory in found.memory)


@pytest.mark.slow
def test_a_class_says_who_has_not_finished(tmp_path):
    killed = asyncio.run(hold_class(notebook(tmp_path, "import os", "os.kill(os.getpid(), 9)"), 1))
    failed = asyncio.run(hold_class(notebook(tmp_path, "1 / 0"), 1))
    assert killed.complaints == ["was killed"] and failed.complaints == ["ZeroDivisionError: division by zero"]
    assert killed.memory == failed.memory == []


@pytest.mark.slow
def test_busy_jobs_end_with_the_class():
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = {*children.read_text().split()}
    with busy_jobs(2):
        jobs = {*children.read_text().split()} - before
        assert len(jobs) == 2
    assert not jobs & {*children.read_text().split()}


def test_work_on_one_core_leaves_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), helpers.one_core():
        assert torch.get_num_threads() == 1
        _ = 1 / 0
    assert torch.get_num_threads() == before
