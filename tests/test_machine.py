"""What training changes in the process, a notebook's kernel for instance, is undone when it ends."""

import ctypes
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from helpers import ReaderError
from helpers.training import loop, machine, run, train
from tests.tiny import CONFIG, sizes_for

DENORMAL = torch.full((1_000_000,), 1e-40)  # enough numbers for two threads


@pytest.fixture(autouse=True)
def two_threads(monkeypatch) -> Iterator[None]:
    """Little for them to do but what is tested; and no training that another test has left open."""
    monkeypatch.setattr(loop, "measure", lambda *_: {})
    monkeypatch.setattr(machine, "_n_trainings", 0)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def share_flushed() -> float:
    """Of some denormal numbers, how many are taken for 0, by whatever thread."""
    return (DENORMAL * 1.0 == 0).float().mean().item()


class MallInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in "arena ordblks smblks hblks hblkhd usmblks fsmblks".split()]
    _fields_ += [(name, ctypes.c_size_t) for name in "uordblks fordblks keepcost".split()]


def is_mapped_alone(n_bytes: int) -> bool:
    """Whether a block of that size is mapped by itself, so that it goes back to the system when it is freed."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = MallInfo
    before = libc.mallinfo2().hblks
    block = torch.empty(n_bytes, dtype=torch.uint8)
    return libc.mallinfo2().hblks > before and block.numel() == n_bytes


BLOCKS = """
from helpers.training.machine import tuned_process
from tests.test_machine import is_mapped_alone
with tuned_process():
    print(is_mapped_alone(100 * 2**20))
print(is_mapped_alone(100 * 2**20))
"""


def has_glibc() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallinfo2")


@pytest.fixture
def sizes(corpus):
    return sizes_for(corpus)


def in_the_middle(corpus, sizes) -> Iterator:
    states = train(sizes, CONFIG, corpus)
    next(states)
    assert share_flushed() == 1
    return states


def test_denormal_numbers_count_again_when_a_training_has_ended(corpus, sizes):
    run(sizes, CONFIG, corpus, watch=lambda state: state.step != 3 or share_flushed() == 1 or 1 / 0)
    assert share_flushed() == 0


def test_denormal_numbers_count_again_when_a_training_is_closed_or_forgotten(corpus, sizes):
    in_the_middle(corpus, sizes).close()
    assert share_flushed() == 0
    states = in_the_middle(corpus, sizes)
    del states
    assert share_flushed() == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, ReaderError])
def test_denormal_numbers_count_again_when_a_training_breaks_off(corpus, sizes, monkeypatch, error):
    def break_off(*_):
        raise error

    states = in_the_middle(corpus, sizes)
    monkeypatch.setattr(loop, "take_step", break_off)
    with pytest.raises(error):
        next(states)
    assert share_flushed() == 0


def test_denormal_numbers_count_again_when_a_training_cannot_start(corpus, sizes):
    with pytest.raises(ReaderError):
        next(train(sizes, CONFIG, corpus, "nowhere", resume=True))
    assert share_flushed() == 0


def test_the_last_of_several_trainings_undoes_it(corpus, sizes):
    one, other = in_the_middle(corpus, sizes), in_the_middle(corpus, sizes)
    one.close()
    assert share_flushed() == 1
    other.close()
    assert share_flushed() == 0


@pytest.mark.slow
@pytest.mark.skipif(not has_glibc(), reason="this is about glibc")
def test_large_blocks_are_kept_during_training_and_go_back_to_the_system_afterwards():
    """In a process of its own: what earlier tests have left on the heap may serve a large block too."""
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
