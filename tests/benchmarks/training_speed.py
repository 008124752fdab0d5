"""How fast the book trains, against the same model written plainly, TransformerLens, and the bare matrix products.

    python -m tests.benchmarks.training_speed                  # d_model 128, 4 heads of 32, 8 contexts of 256
    python -m tests.benchmarks.training_speed --d-model 384    # the book's models: 12 heads of 32
    python -m pip install transformer-lens                     # optional: adds a row; no dependency of the book

Each contestant lives in a process of its own, since memory settings and peaks are a process' own. In every round each
takes a few steps, one after the other; medians over the rounds are printed.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from helpers.model import ModelConfig
from helpers.tokens import EncodedCorpus, Tokenizer
from helpers.training import TrainingConfig, loop
from helpers.training.machine import tuned_process

BATCH = 8
STEPS_PER_ROUND = 4
Step = Callable[[], None]


def random_tokens(c: ModelConfig) -> torch.Tensor:
    return torch.randint(1, c.d_vocab, (BATCH, c.n_ctx + 1))


def our_step(c: ModelConfig, precision: str) -> Step:
    """One step of ``helpers.training``, all of it: batch, loss, gradients, clipping, AdamW."""
    tokens = np.random.default_rng(0).integers(1, c.d_vocab, 1_000_000).astype(np.uint16)
    corpus = EncodedCorpus("random tokens", Tokenizer.load(), tokens, tokens, [])
    config = TrainingConfig(batch_size=BATCH, precision=precision)
    state = loop.new_state(c, config, corpus)
    return lambda: loop.take_step(state, loop.batch(tokens, state.step, config, c.n_ctx), config)


class PlainAttention(nn.Module):
    def __init__(self, c: ModelConfig):
        super().__init__()
        self.n_heads = c.n_heads
        self.q, self.k, self.v = (nn.Linear(c.d_model, c.n_heads * c.d_head, bias=False) for _ in range(3))
        self.o = nn.Linear(c.n_heads * c.d_head, c.d_model, bias=False)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        batch, n = x.shape[:2]
        q, k, v = (
            project(y).view(batch, n, self.n_heads, -1).transpose(1, 2)
            for project, y in ((self.q, x + positions), (self.k, x + positions), (self.v, x))
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(mixed.transpose(1, 2).reshape(batch, n, -1))


class PlainModel(nn.Module):
    """The same model as one writes it without a second thought."""

    def __init__(self, c: ModelConfig):
        super().__init__()
        self.embed, self.unembed = nn.Embedding(c.d_vocab, c.d_model), nn.Linear(c.d_model, c.d_vocab, bias=False)
        self.layers = nn.ModuleList([PlainAttention(c) for _ in range(c.n_layers)])
        self.register_buffer("positions", torch.randn(c.n_ctx, c.d_model))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x, self.positions[: x.shape[1]])
        return self.unembed(x)


def descend(model: nn.Module, tokens: torch.Tensor, loss_of: Callable) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss_of(model, tokens).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def plain_step(c: ModelConfig) -> Step:
    return descend(
        PlainModel(c),
        random_tokens(c),
        lambda model, tokens: F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten()),
    )


def transformer_lens_step(c: ModelConfig) -> Step:
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=c.n_layers,
        n_heads=c.n_heads,
        d_model=c.d_model,
        d_head=c.d_head,
        d_vocab=c.d_vocab,
        n_ctx=c.n_ctx + 1,
        attn_only=True,
        normalization_type=None,
        positional_embedding_type="shortformer",
        device="cpu",
    )
    return descend(HookedTransformer(config), random_tokens(c), lambda model, tokens: model(tokens, return_type="loss"))


def matrix_products(c: ModelConfig, dtype: torch.dtype) -> Step:
    """The matrix products of a step at exactly its shapes and nothing else: forward, and twice as many backward."""
    n, width, heads = BATCH * c.n_ctx, c.n_heads * c.d_head, BATCH * c.n_heads
    dense = [(n, c.d_model, width)] * 3 + [(n, width, c.d_model)]
    square, thin = (heads, c.n_ctx, c.n_ctx), (heads, c.n_ctx, c.d_head)
    products = []
    for rows, inner, columns in [(n, c.d_model, c.d_vocab), *dense * c.n_layers]:
        x, w, y = (torch.randn(*shape).to(dtype) for shape in ((rows, inner), (inner, columns), (rows, columns)))
        products += [(x, w, torch.empty_like(y)), (y, w.T, torch.empty_like(x)), (x.T, y, torch.empty_like(w))]
    pattern, rows = torch.randn(*square).to(dtype), torch.randn(*thin).to(dtype)
    for _ in range(c.n_layers):
        products += 2 * [(rows, rows.mT, torch.empty_like(pattern))]
        products += 4 * [(pattern, rows, torch.empty_like(rows))]

    def step() -> None:
        for a, b, out in products:
            torch.matmul(a, b, out=out)

    return step


TUNED = ("ours", "matrix products")  # like training itself; see helpers.training.machine.tuned_process
CONTESTANTS: dict[str, Callable[[ModelConfig], Step]] = {
    "ours, float32": lambda c: our_step(c, "float32"),
    "ours, bfloat16": lambda c: our_step(c, "bfloat16"),
    "plain PyTorch": plain_step,
    "TransformerLens": transformer_lens_step,
    "matrix products alone, float32": lambda c: matrix_products(c, torch.float32),
    "matrix products alone, bfloat16": lambda c: matrix_products(c, torch.bfloat16),
}


def compete(name: str, c: ModelConfig, threads: int, pipe: Connection) -> None:
    """Take a round of steps whenever asked; answer with seconds a step and the process' peak memory in MB."""
    torch.set_num_threads(threads)
    with tuned_process() if name.startswith(TUNED) else nullcontext():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            step = CONTESTANTS[name](c)
        except ImportError:
            pipe.send(None)
            return
        for _ in range(3):
            step()
        pipe.send("ready")
        while pipe.recv():
            start = time.perf_counter()
            for _ in range(STEPS_PER_ROUND):
                step()
            seconds = (time.perf_counter() - start) / STEPS_PER_ROUND
            pipe.send((seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--d-model", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    a = parser.parse_args()
    c = ModelConfig(n_layers=a.layers, n_heads=a.d_model // 32, d_model=a.d_model)
    spawn, pipes = multiprocessing.get_context("spawn"), {}
    for name in CONTESTANTS:
        pipes[name], theirs = spawn.Pipe()
        spawn.Process(target=compete, args=(name, c, a.threads, theirs), daemon=True).start()
        if pipes[name].recv() is None:
            print(f"{name}: not installed")
            del pipes[name]
    seconds: dict[str, list[float]] = {name: [] for name in pipes}
    memory: dict[str, float] = {}
    for _ in range(a.rounds):
        for name, pipe in pipes.items():
            pipe.send(True)
            took, memory[name] = pipe.recv()
            seconds[name].append(took)
    for pipe in pipes.values():
        pipe.send(False)
    report(c, a.threads, {name: statistics.median(times) for name, times in seconds.items()}, memory)


def report(c: ModelConfig, threads: int, seconds: dict[str, float], memory: dict[str, float]) -> None:
    tokens = BATCH * c.n_ctx
    print(
        f"{c.n_layers} layers, d_model {c.d_model}, {c.n_heads} heads of {c.d_head}, vocabulary {c.d_vocab}, "
        f"{BATCH} × {c.n_ctx} tokens a step, {threads} threads; medians"
    )
    for name, took in seconds.items():
        print(f"{name:32} {1e3 * took:7.1f} ms {tokens / took:9,.0f} tokens/s {memory[name]:7,.0f} MB")
    for precision in ("float32", "bfloat16"):
        ours = seconds[f"ours, {precision}"]
        others = [name for name in ("plain PyTorch", "TransformerLens") if name in seconds]
        rivals = ", ".join(f"{seconds[name] / ours:.2f} × {name}" for name in others)
        bound = seconds[f"matrix products alone, {precision}"] / ours
        print(f"ours in {precision}: {rivals}; {bound:.0%} of its time is matrix products")


if __name__ == "__main__":
    main()
