"""Copying scores of all heads over a large vocabulary: thin factors against the matrix, and TransformerLens' factors.

    python -m tests.benchmarks.low_rank                                # vocabularies of 4,096, 16,384 and 50,000
    python -m tests.benchmarks.low_rank --vocabularies 4096 --repeats 3
    python -m tests.benchmarks.low_rank --dense-eigenvalues            # adds minutes: one head, once, at 4,096
    python -m pip install transformer-lens                             # optional: adds a row; no dependency of the book

One layer of 12 heads of 32, d_model 384, random weights, float32. Two tasks:

score: Σλ / Σ|λ| of W_E W_OV W_U for every head. The contestants with factors take the eigenvalues of a 32 × 32
    matrix. The dense matrix gives Σλ alone (its trace) in the time shown, which is a head start: its eigenvalues
    are another matter, shown with --dense-eigenvalues.
norm: its Frobenius norm for every head.

Each contestant has a process of its own, for its peak memory beyond the weights (Linux only), and they take turns;
medians over the repeats. A dense matrix is made only where three of them fit into the memory that is free.
"""

import argparse
import contextlib
import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch

from helpers.circuits import LowRank, eigenvalue_score, ov_circuit
from helpers.model import AttentionOnlyTransformer, ModelConfig

Tasks = dict[str, Callable[[], list[float]]]


def random_model(d_vocab: int) -> AttentionOnlyTransformer:
    return AttentionOnlyTransformer(ModelConfig(n_layers=1, d_vocab=d_vocab), seed=0).requires_grad_(False)


def ours(model: AttentionOnlyTransformer) -> Tasks:
    def over_heads(summary: Callable[[LowRank], float]) -> Callable[[], list[float]]:
        return lambda: [summary(ov_circuit(model, head)) for head in model.heads]

    return {"score": over_heads(lambda ov: eigenvalue_score(ov.eigenvalues())), "norm": over_heads(LowRank.norm)}


def transformer_lens(model: AttentionOnlyTransformer) -> Tasks:
    from transformer_lens import FactoredMatrix

    def over_heads(summary: Callable[[FactoredMatrix], float]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            return [
                summary(model.W_E @ FactoredMatrix(model.W_V[head], model.W_O[head]) @ model.W_U)
                for head in model.heads
            ]

        return run

    return {
        "score": over_heads(lambda ov: eigenvalue_score(ov.eigenvalues)),
        "norm": over_heads(lambda ov: ov.norm().item()),
    }


def dense(model: AttentionOnlyTransformer) -> Tasks:
    def over_heads(summary: Callable[[torch.Tensor], float]) -> Callable[[], list[float]]:
        def run() -> list[float]:
            return [summary((model.W_E @ model.W_V[head]) @ (model.W_O[head] @ model.W_U)) for head in model.heads]

        return run

    return {
        "score": over_heads(lambda ov: ov.trace().item()),
        "norm": over_heads(lambda ov: torch.linalg.vector_norm(ov, dtype=torch.double).item()),  # float32: 4 % off
    }


CONTESTANTS: dict[str, Callable[[AttentionOnlyTransformer], Tasks]] = {
    "LowRank": ours,
    "FactoredMatrix (TransformerLens)": transformer_lens,
    "dense (trace only, for the score)": dense,
}


def compete(name: str, task: str, d_vocab: int, threads: int, pipe: Connection) -> None:
    """Do the task whenever asked; answer with the seconds, the peak memory beyond the weights in MB, and the values."""
    torch.set_num_threads(threads)
    try:
        run = CONTESTANTS[name](random_model(d_vocab))[task]
    except ImportError:
        pipe.send(None)
        return
    CONTESTANTS[name](random_model(64))[task]()  # what libraries load on first use is loaded
    before = start_of_peak()
    pipe.send("ready")
    while pipe.recv():
        start = time.perf_counter()
        values = run()
        pipe.send((time.perf_counter() - start, peak() - before, values))


def start_of_peak() -> float:
    """Forget the process' peak memory so far, where Linux lets us; the memory it has now, in MB."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    return psutil.Process().memory_info().rss / 2**20


def peak() -> float:
    """The largest memory of the process since then, in MB; not a number where the system does not say."""
    try:
        return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 2**10
    except OSError:
        return math.nan


def race(task: str, d_vocab: int, repeats: int, threads: int) -> None:
    """Each contestant in its own process, one after the other in every round."""
    spawn, pipes = multiprocessing.get_context("spawn"), {}
    found: dict[str, list[tuple]] = {}
    for name in CONTESTANTS:
        if CONTESTANTS[name] is dense and 3 * 4 * d_vocab**2 > psutil.virtual_memory().available:
            print(f"  {task:5} {name:34} not run: too little free memory")
            continue
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=compete, args=(name, task, d_vocab, threads, theirs), daemon=True).start()
        if pipes[name].recv() is None:
            print(f"  {task:5} {name:34} not installed")
            del pipes[name]
    for _ in range(repeats):
        for name, pipe in pipes.items():
            pipe.send(True)
            found.setdefault(name, []).append(pipe.recv())
    for pipe in pipes.values():
        pipe.send(False)
    for name, rounds in found.items():
        seconds, megabytes, values = zip(*rounds, strict=True)
        only_trace = task == "score" and CONTESTANTS[name] is dense
        same = only_trace or agree(values[0], found["LowRank"][0][2])
        print(
            f"  {task:5} {name:34} {1e3 * statistics.median(seconds):9.1f} ms for 12 heads {max(megabytes):8,.0f} MB"
            f"{'' if same else '   DIFFERENT VALUES'}",
            flush=True,
        )


def report(d_vocab: int, repeats: int, threads: int) -> None:
    print(
        f"\nvocabulary {d_vocab:,}: a dense matrix takes {4 * d_vocab**2 / 1e9:.2f} GB, "
        f"its factors {4 * 2 * 32 * d_vocab / 1e6:.1f} MB"
    )
    for task in ("score", "norm"):
        race(task, d_vocab, repeats, threads)


def agree(values: list[float], reference: list[float]) -> bool:
    return torch.allclose(torch.tensor(values), torch.tensor(reference), rtol=1e-3, atol=1e-4)


def dense_eigenvalues(d_vocab: int = 4096) -> None:
    """One head, once: the eigenvalues of the whole matrix, and those of the small one."""
    ov = ov_circuit(random_model(d_vocab), (0, 0))
    start = time.perf_counter()
    slow = eigenvalue_score(torch.linalg.eigvals(ov.dense().double()))
    middle = time.perf_counter()
    fast = eigenvalue_score(ov.eigenvalues())
    end = time.perf_counter()
    print(
        f"\none head at {d_vocab:,}, all eigenvalues: dense {middle - start:.1f} s ({slow:+.4f}), "
        f"LowRank {1e3 * (end - middle):.1f} ms ({fast:+.4f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4_096, 16_384, 50_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dense-eigenvalues", action="store_true")
    a = parser.parse_args()
    print(f"one layer, 12 heads of 32, d_model 384, {a.threads} threads; medians of {a.repeats}")
    for d_vocab in a.vocabularies:
        report(d_vocab, a.repeats, a.threads)
    if a.dense_eigenvalues:
        dense_eigenvalues()


if __name__ == "__main__":
    main()
