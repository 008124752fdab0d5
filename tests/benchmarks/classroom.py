"""A class: many kernels that run the same chapter at the same time, on one machine with Linux.

python -m tests.benchmarks.classroom                       # twelve kernels run chapter 06
python -m tests.benchmarks.classroom 20 --chapter 03       # twenty run chapter 03
python -m tests.benchmarks.classroom 1 --busy 2            # one runs chapter 06 beside two busy jobs

It takes as long as the chapter alone, once for each kernel and twice more. Do not run it beside other work.

Seconds are from the start of a kernel to the end of its last cell. One kernel runs the chapter alone, before all
others and once more after them; so many kernels "one after another" take so many times the shorter of both. A busy job
multiplies matrices, with as many threads as there are cores, for as long as the kernels run.

Memory is read from /proc/PID/smaps_rollup when the last kernel has run its last cell and all are still alive. A
kernel's *own* memory is that of its private pages, Private_Clean + Private_Dirty + Swap: what the machine needs for
one kernel more. What kernels share, such as the libraries and the mapped corpus, belongs to none of them. (In a class
of one nothing is shared, so that its own memory holds all that.) *Pss* adds to it the kernel's part of what is shared,
divided among those that share it. *Peak* is VmHWM, the most that was resident at any time, shared or not. Every second
it is noted, too, how much of the machine's memory all of it takes: MemTotal − MemAvailable, beyond what it was before.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

CHAPTERS = Path(__file__).resolve().parent.parent.parent / "chapters"
MULTIPLY = """
import os, torch
torch.set_num_threads(os.cpu_count())
matrix = torch.randn(2000, 2000)
print(flush=True)
while os.getppid() == {parent}:
    matrix @ matrix
"""


@dataclass(frozen=True)
class Memory:
    """Of one kernel, in MB."""

    own: float
    pss: float
    peak: float


@dataclass(frozen=True)
class Class:
    """What became of the kernels of a class."""

    seconds: float  # until the last of them had finished
    memory: Sequence[Memory]  # of those that finished
    complaints: Sequence[str]  # one for each that did not
    machine: float  # MB that all of it took of the machine at most


def memory_of(pid: int) -> Memory:
    pages = _megabytes(Path(f"/proc/{pid}/smaps_rollup"))
    own = pages["Private_Clean"] + pages["Private_Dirty"] + pages["Swap"]
    return Memory(own, pages["Pss"], _megabytes(Path(f"/proc/{pid}/status"))["VmHWM"])


def _megabytes(file: Path) -> dict[str, float]:
    """What a file of /proc lists in kB, by name."""
    rows = [line.split() for line in file.read_text().splitlines()]
    return {row[0].removesuffix(":"): int(row[1]) / 1024 for row in rows if row[-1] == "kB"}


def _taken() -> float:
    machine = _megabytes(Path("/proc/meminfo"))
    return machine["MemTotal"] - machine["MemAvailable"]


# ---- kernels ----------------------------------------------------------------------------------------------------


class Kernel:
    """A kernel that runs a notebook once, and stays alive until ``stack`` is closed."""

    def __init__(self, file: Path, stack: AsyncExitStack):
        self._stack = stack
        self.client = NotebookClient(
            nbformat.read(file, as_version=4),
            timeout=None,
            startup_timeout=300,
            kernel_name="python3",
            store_widget_state=False,
            resources={"metadata": {"path": str(file.parent)}},
        )

    @property
    def pid(self) -> int:
        return self.client.km.provisioner.pid

    async def run_all(self) -> str:
        """An empty string, or why the kernel has not finished."""
        try:
            await self._stack.enter_async_context(self.client.async_setup_kernel(stderr=subprocess.DEVNULL))
            for i, cell in enumerate(self.client.nb.cells):
                await self.client.async_execute_cell(cell, i)
        except DeadKernelError:
            return "was killed"
        except (CellExecutionError, RuntimeError) as error:
            return re.sub(r"\x1b\[[\d;]*m", "", str(error).strip().splitlines()[-1])
        return ""


async def hold_class(file: Path, n: int) -> Class:
    """``n`` kernels that run a notebook at the same time."""
    before, start = _taken(), time.perf_counter()
    async with AsyncExitStack() as stack:
        kernels = [Kernel(file, stack) for _ in range(n)]
        highest = asyncio.create_task(_highest(before))
        complaints = await asyncio.gather(*(kernel.run_all() for kernel in kernels))
        seconds = time.perf_counter() - start
        highest.cancel()
        memory = [memory_of(kernel.pid) for kernel, why in zip(kernels, complaints, strict=True) if not why]
        return Class(seconds, memory, [why for why in complaints if why], await highest)


async def _highest(before: float) -> float:
    """The most of the machine's memory that is taken at any second, beyond what was ``before``; until cancelled."""
    most = 0.0
    with suppress(asyncio.CancelledError):
        while True:
            most = max(most, _taken() - before)
            await asyncio.sleep(1)
    return most


@contextmanager
def busy_jobs(n: int) -> Iterator[None]:
    """``n`` processes that multiply matrices on all cores."""
    command = [sys.executable, "-c", MULTIPLY.format(parent=os.getpid())]
    jobs = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(n)]
    try:
        for job in jobs:
            job.stdout.readline()  # it has begun
        yield
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


# ---- what is printed ----------------------------------------------------------------------------------------------


def report(name: str, found: Class) -> None:
    n = len(found.memory) + len(found.complaints)
    print(f"{name}: {found.seconds:.1f} s; {len(found.memory)} of {n} finished", *found.complaints, sep="\n  ")
    for what in ("own", "pss", "peak"):
        if sizes := [getattr(memory, what) for memory in found.memory]:
            print(f"  {what:4} median {statistics.median(sizes):5.0f} MB, largest {max(sizes):5.0f} MB")
    print(f"  all of it took at most {found.machine:,.0f} MB of the machine", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.classroom", description=__doc__.splitlines()[0])
    parser.add_argument("n", nargs="?", type=int, default=12, help="kernels at once (default: 12)")
    parser.add_argument("--chapter", default="06", help="the first letters of its file (default: 06)")
    parser.add_argument("--busy", type=int, default=0, help="busy jobs beside them (default: 0)")
    a = parser.parse_args()
    file = next(iter(sorted(CHAPTERS.glob(f"{a.chapter}*.ipynb"))), None) or parser.error("there is no such chapter")
    if not 1 <= a.n or a.busy < 0:
        parser.error("give at least one kernel, and no fewer than 0 busy jobs")
    print(f"{file.stem} on {len(os.sched_getaffinity(0))} cores", flush=True)
    first = asyncio.run(hold_class(file, 1))
    report("alone", first)
    with busy_jobs(a.busy):
        at_once = asyncio.run(hold_class(file, a.n))
    report(f"{a.n} at once" + (f", beside {a.busy} busy jobs" if a.busy else ""), at_once)
    last = asyncio.run(hold_class(file, 1))
    report("alone again", last)
    in_turn = a.n * min(first.seconds, last.seconds)
    print(f"{a.n} one after another: {in_turn:.1f} s; ratio {at_once.seconds / in_turn:.2f}")


if __name__ == "__main__":
    main()
