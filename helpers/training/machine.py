"""Getting the most out of the machine: the precision of matrix products, denormal numbers, memory."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from helpers import release_memory

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # the parameters of glibc's mallopt
MB = 2**20

_n_trainings = 0  # that have tuned the process and have not ended yet


@lru_cache
def matmul_dtype(precision: str) -> torch.dtype:
    """bfloat16 where the GPU or the processor (AMX, AVX-512) multiplies it in hardware, unless told otherwise."""
    if precision == "auto":
        in_hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if in_hardware or torch.cuda.is_available() else "float32"
    return getattr(torch, precision)


@contextmanager
def tuned_process() -> Iterator[None]:
    """Treat denormal numbers as 0 and hold on to freed memory, until the last training of the process has ended.

    The tails of a softmax are denormal and slow to multiply. And glibc returns each large block to the system when it
    is freed, so that every step pays for mapping the same pages again, most of all for the logits. Once they are kept,
    ``cross_entropy`` of all logits at once is as fast as any way of doing it in chunks.

    At the end denormal numbers count again, in this thread and in OpenMP's; the memory that was held goes back to the
    system; and large blocks are mapped and returned one by one, from 32 MB on. That is where glibc's own adjustment
    leads in a process with large tensors; the adjustment itself cannot be switched on again.
    """
    global _n_trainings
    _n_trainings += 1
    if _n_trainings == 1:
        _flush_denormals(True)
        _set_memory(mmap_max=0, trim_threshold=2**31 - 1)
    try:
        yield
    finally:
        _n_trainings -= 1
        if not _n_trainings:
            _flush_denormals(False)
            _set_memory(mmap_max=65_536, trim_threshold=64 * MB)
            release_memory()


def _flush_denormals(flush: bool) -> None:
    """For this thread and for OpenMP's, which take it over when they start: so those that are there are let go."""
    torch.set_flush_denormal(flush)
    _call_c("omp_pause_resource_all", 1)


def _set_memory(mmap_max: int, trim_threshold: int) -> None:
    _call_c("mallopt", M_MMAP_MAX, mmap_max)
    _call_c("mallopt", M_MMAP_THRESHOLD, 32 * MB)
    _call_c("mallopt", M_TRIM_THRESHOLD, trim_threshold)


def _call_c(name: str, *arguments: int) -> None:
    """Call a function of the C or the OpenMP library; without effect where there is none of that name."""
    if sys.platform == "linux" and (function := getattr(ctypes.CDLL(None), name, None)):
        function(*arguments)
