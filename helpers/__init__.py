"""The tools of the book: a corpus, a tokenizer, a small transformer, its training, and the circuit algebra.

Each module imports only from those before it in this list::

    files  corpus  tokens  model  weights  circuits  heads  statistics  stream  terms  standard  neurons  edges
    bystanders  superposition  scrubbing  in_context  bigrams  text  skip_trigrams  mined_rules  copying  history
    training  dictionary  feature_rules  formation  clamping  markov  by_hand  figures  views  token_views  head_views
    explorers  live  identities  lens  claims  exercises  handout  export  edition

A student of the paper needs three of them: model, circuits and heads.
"""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

START = 0  # the id of <START>, the token that opens every context

# Read by torch and tokenizers when they are first imported: never more threads than the cores we may use, and none that
# waits in a busy loop, which would keep other kernels, such as those of a class, off the cores.
_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
os.environ.setdefault("OMP_NUM_THREADS", str(min(4, _cores)))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


class ReaderError(ValueError):
    """Something the reader can put right, told in one sentence that says how.

    A notebook shows the sentence alone, without a traceback; the command line prints it and ends with status 1.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def release_memory() -> None:
    """Give back to the system what has been freed: glibc keeps most of it, half a gigabyte after some chapters.

    It takes about a millisecond, after much work a few hundredths of a second. Without effect where there is no glibc.
    """
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


@contextmanager
def one_core() -> Iterator[None]:
    """Let torch compute on one core: many small steps wait longer for a second core than it saves them."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# In a notebook after every cell, so that the kernels of a class fit into one machine.
if "IPython" in sys.modules and (_shell := sys.modules["IPython"].get_ipython()):
    _shell.events.register("post_run_cell", lambda _result: release_memory())
