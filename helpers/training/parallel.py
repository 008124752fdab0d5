"""Training on several processes that ``torchrun`` has started, or on one; on the GPU if there is one.

Each process takes its share of every batch, and the gradients are averaged. Only this module asks which process it is.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn


def n_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that measures, writes and talks to the reader."""
    return _rank() == 0


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def device() -> torch.device:
    """The GPU of this process, or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def share_of(batch: Int[Tensor, "batch pos"]) -> Int[Tensor, "share pos"]:
    """The contexts that this process trains on, on its device."""
    return batch[_rank() :: n_processes()].to(device())


def average(loss: float, model: nn.Module) -> float:
    """The mean of ``loss`` over all processes; the gradients of ``model`` are averaged likewise, in place."""
    n = n_processes()
    if n == 1:
        return loss
    total = torch.tensor(loss, device=device())
    for tensor in (total, *(weight.grad for weight in model.parameters() if weight.grad is not None)):
        dist.all_reduce(tensor)
        tensor /= n
    return total.item()


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that ``torchrun`` has started, if it has."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextmanager
def first_goes_ahead() -> Iterator[None]:
    """The first process runs the block while the others wait; then they do."""
    if not is_first():
        wait_for_all()
    yield
    if is_first():
        wait_for_all()


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if n_processes() > 1:
        dist.barrier()
