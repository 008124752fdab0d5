"""Training, in one code path for the command line, the notebooks and the tests.

    python -m helpers.training --layers 2 --out runs/two_layer            # start
    python -m helpers.training --layers 2 --out runs/two_layer --resume   # go on after Ctrl-C, a kill, a power cut

The loop is a generator: it yields after every step, so that a notebook can draw while it runs.
"""

import argparse
import ctypes
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.circuits import copying_score
from helpers.measures import (
    in_context_learning_score,
    loss_per_token,
    prefix_matching_scores,
    previous_token_scores,
    repeated_random_loss,
)
from helpers.model import AttentionOnlyTransformer, ModelConfig, save_model, write_or_explain
from helpers.tokens import Bigrams, EncodedCorpus, contexts_at, load_encoded

SECONDS_BETWEEN_CHECKPOINTS = 5.0
LEAST_CONTEXT = 64  # tokens; a shorter one does not hold what is measured during training
ROWS_PER_CHUNK = 512


@dataclass(frozen=True)
class TrainingConfig:
    """The recipe: AdamW, warm-up, cosine decay to a tenth, clipped gradients. The book's own by default."""

    n_tokens: int = 32_000_000  # to train on, in all; more than the corpus has means several epochs
    batch_size: int = 8  # contexts in a step
    learning_rate: float = 2e-3
    warmup_steps: int = 300
    final_learning_rate: float = 0.1  # as a share of learning_rate
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    n_measurements: int = 40  # rows of the history, evenly spaced in the logarithm of the step
    precision: str = "auto"  # of the matrix products: float32, bfloat16, or auto: the faster on this machine

    def __post_init__(self):
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ReaderError(f"precision is {self.precision!r}: choose 'auto', 'float32' or 'bfloat16'.")
        whole = min(self.n_tokens, self.batch_size, self.n_measurements, 1 + self.warmup_steps, 1 + self.seed)
        if whole < 1 or not 0 < self.learning_rate < math.inf:
            raise ReaderError(f"No training has these settings: {self}. Numbers are positive, warmup_steps and seed "
                              "may be 0.")


@dataclass
class TrainingState:
    """Where a run stands. ``history`` has a row per measurement; see ``measure`` for what is in one."""

    model: AttentionOnlyTransformer
    optimizer: torch.optim.Optimizer
    step: int = 0  # steps done
    n_steps: int = 0
    loss: float = math.nan  # of the last step, nats per token
    history: list[dict] = field(default_factory=list)


def train(
    model_config: ModelConfig,
    config: TrainingConfig,
    corpus: EncodedCorpus,
    folder: Path | None = None,
    resume: bool = False,
) -> Iterator[TrainingState]:
    """Train a model, yielding the state at the start and after every step.

    The same seed gives the same weights to the last bit, on the same machine with the same number of threads.

    With a ``folder``, a checkpoint is written there every few seconds and when the loop is left, however it is
    left; ``resume`` goes on from it as if nothing had happened.

    Raises:
        ReaderError: the loss is no longer a number, nothing to resume from, a full disk, too little text.
    """
    _tune_the_process()
    state = _start(model_config, config, corpus)
    if resume:
        _restore(state, folder, config)
    measured_at = {0} | measurement_steps(state.n_steps, config.n_measurements)
    dtype = matmul_dtype(config.precision)
    last_saved = time.monotonic()
    try:
        _measure_if_due(state, corpus, config, measured_at)
        yield state
        while state.step < state.n_steps:
            _step(state, batch(corpus.train, state.step, config, model_config.n_ctx), config, dtype)
            _measure_if_due(state, corpus, config, measured_at)
            if folder and time.monotonic() - last_saved > SECONDS_BETWEEN_CHECKPOINTS:
                last_saved = _save(state, folder, config)
            yield state
    except ReaderError:
        state.loss = math.nan  # not to be saved
        raise
    finally:
        if folder and math.isfinite(state.loss):
            _save(state, folder, config)


def _start(model_config: ModelConfig, config: TrainingConfig, corpus: EncodedCorpus) -> TrainingState:
    model = AttentionOnlyTransformer(model_config, config.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    if model_config.n_ctx < LEAST_CONTEXT:
        raise ReaderError(f"A context of {model_config.n_ctx} tokens is too short: choose at least {LEAST_CONTEXT}.")
    if len(corpus.train) <= 2 * model_config.n_ctx or len(corpus.validation) <= model_config.n_ctx:
        raise ReaderError(f"{corpus.name} is too short to train on contexts of {model_config.n_ctx} tokens: add text.")
    n_steps = config.n_tokens // (config.batch_size * model_config.n_ctx)
    if not n_steps:
        raise ReaderError(f"{config.n_tokens:,} tokens are less than one step of {config.batch_size} contexts of "
                          f"{model_config.n_ctx}: train on more.")
    return TrainingState(model, optimizer, n_steps=n_steps)


def _step(state: TrainingState, tokens: Int[Tensor, "batch pos"], config: TrainingConfig, dtype: torch.dtype) -> None:
    _set_learning_rate(state.optimizer, state.step, state.n_steps, config)
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        residual = state.model.residual_stream(tokens[:, :-1])
        loss = ChunkedCrossEntropy.apply(residual.flatten(0, 1), state.model.W_U, tokens[:, 1:].flatten(), dtype)
    value, state.loss = loss.item(), math.nan  # until the update is complete: half of one must not be saved
    state.optimizer.zero_grad()
    loss.backward()
    gradient = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip)
    _must_be_finite(value, gradient.item())
    state.optimizer.step()
    state.step, state.loss = state.step + 1, value


def _must_be_finite(*losses_or_gradients: float) -> None:
    if not math.isfinite(sum(losses_or_gradients)):
        raise ReaderError("The loss is no longer a number: start again with a lower learning rate; the last checkpoint "
                          "is unharmed.")


def _set_learning_rate(optimizer: torch.optim.Optimizer, step: int, n_steps: int, config: TrainingConfig) -> None:
    for group in optimizer.param_groups:
        group["lr"] = config.learning_rate * schedule(step, n_steps, config)


def schedule(step: int, n_steps: int, config: TrainingConfig) -> float:
    """Share of the full learning rate at ``step``: linear warm-up, then half a cosine down to the final share."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, n_steps - config.warmup_steps)
    return config.final_learning_rate + (1 - config.final_learning_rate) * 0.5 * (1 + math.cos(math.pi * done))


def batch(stream: np.ndarray, step: int, config: TrainingConfig, n_ctx: int) -> Int[Tensor, "batch n_ctx+1"]:
    """The contexts of a step, a function of seed and step alone; an epoch sees each place of the text once.

    The text is cut at every ``n_ctx`` tokens, counted from an offset that changes with the epoch, and the pieces
    are dealt out in random order. One token more than the context holds, since the last has a target too.
    """
    n_pieces = (len(stream) - n_ctx - 1) // n_ctx
    pieces = []
    for i in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, position = divmod(i, n_pieces)
        offset, order = _deal(config.seed, epoch, n_pieces, n_ctx)
        pieces.append(offset + n_ctx * order[position])
    return contexts_at(stream, pieces, n_ctx + 1)


@lru_cache(maxsize=2)
def _deal(seed: int, epoch: int, n_pieces: int, n_ctx: int) -> tuple[int, np.ndarray]:
    generator = np.random.default_rng([seed, epoch])
    return int(generator.integers(n_ctx)), generator.permutation(n_pieces)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of ``residual @ W_U``, a few hundred rows at a time, with its gradient on the way.

    The logits of a whole batch are never in memory at once: at vocabulary 4,096 writing and reading them back
    would cost more time than the arithmetic.
    """

    @staticmethod
    def forward(ctx, residual: Float[Tensor, "n d_model"], W_U: Float[Tensor, "d_model d_vocab"],
                target: Int[Tensor, " n"], dtype: torch.dtype) -> Float[Tensor, ""]:
        x, w = residual.to(dtype), W_U.to(dtype)
        grad_x, grad_w, loss = torch.empty_like(residual), torch.zeros_like(W_U), 0.0
        for start in range(0, len(x), ROWS_PER_CHUNK):
            rows = slice(start, start + ROWS_PER_CHUNK)
            answer = target[rows, None]
            log_probs = (x[rows] @ w).float().log_softmax(-1)
            loss -= log_probs.gather(1, answer).sum()
            error = log_probs.exp_().scatter_add_(1, answer, log_probs.new_full(answer.shape, -1)).to(dtype)
            grad_x[rows] = error @ w.T
            grad_w += x[rows].T @ error
        ctx.save_for_backward(grad_x / len(x), grad_w / len(x))
        return loss / len(x)

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_w = ctx.saved_tensors
        return grad * grad_x, grad * grad_w, None, None


def matmul_dtype(precision: str) -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware (AMX, AVX-512), unless the reader says otherwise."""
    if precision == "auto":
        in_hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if in_hardware else "float32"
    return getattr(torch, precision)


def _tune_the_process() -> None:
    """Two costs that have nothing to do with the arithmetic: denormal numbers, and memory given back and asked again.

    The tails of a softmax are denormal and slow to multiply. And glibc returns each large freed block to the
    system, so that every step pays for mapping the same pages anew; keeping them made a step 1.4 times as fast.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


# ---- every bigram at once -------------------------------------------------------------------------------------


def fit_bigrams(
    model: AttentionOnlyTransformer, counts: Bigrams, n_steps: int, learning_rate: float
) -> Iterator[float]:
    """Train a zero-layer model on all bigrams of a text in every step, yielding the loss before the step.

    Such a model sees the present token alone, so the loss of ``train``, averaged over the text, depends on the text
    through its bigram counts only (but for the opening ``<START>`` of a context). A step costs about as much as
    one on ``d_vocab`` tokens. Adam, with ten steps of warm-up and half a cosine down to a hundredth.

    Raises:
        ReaderError: the model has layers.
    """
    if model.config.n_layers:
        raise ReaderError(f"The model has {model.config.n_layers} layers: only one without layers is a bigram model.")
    weights = [model.W_E.requires_grad_(), model.W_U.requires_grad_()]
    config = TrainingConfig(learning_rate=learning_rate, warmup_steps=10, final_learning_rate=0.01)
    optimizer = torch.optim.Adam(weights, betas=config.betas, fused=True)
    for step in range(n_steps):
        _set_learning_rate(optimizer, step, n_steps, config)
        loss, model.W_E.grad, model.W_U.grad = _bigram_gradients(model.W_E.detach(), model.W_U.detach(), counts)
        optimizer.step()
        yield loss
    model.requires_grad_(False)
    model.zero_grad()


def _bigram_gradients(
    W_E: Float[Tensor, "token d_model"], W_U: Float[Tensor, "d_model next"], counts: Bigrams
) -> tuple[float, Float[Tensor, "token d_model"], Float[Tensor, "d_model next"]]:
    """Mean cross-entropy over all bigrams and its gradients, a few hundred rows of the table at a time."""
    opened = counts.opened.to(W_E.dtype) / counts.n
    loss, grad_E, grad_U = 0.0, torch.empty_like(W_E), torch.zeros_like(W_U)
    for start in range(0, len(W_E), ROWS_PER_CHUNK):
        rows, here = slice(start, start + ROWS_PER_CHUNK), counts.rows(start, start + ROWS_PER_CHUNK)
        pairs = counts.first[here] - start, counts.second[here]
        share = counts.times[here].to(W_E.dtype) / counts.n
        log_probs = (W_E[rows] @ W_U).log_softmax(-1)
        loss -= (share * log_probs[pairs]).sum().item()
        error = log_probs.exp_().mul_(opened[rows, None])
        error[pairs] -= share
        grad_E[rows] = error @ W_U.T
        grad_U += W_E[rows].T @ error
    return loss, grad_E, grad_U


def widened(model: AttentionOnlyTransformer, d_model: int) -> AttentionOnlyTransformer:
    """A zero-layer model with more dimensions in its residual stream: the old weights, and beside them fresh ones."""
    wider = AttentionOnlyTransformer(replace(model.config, d_model=d_model)).requires_grad_(False)
    wider.W_E[:, : model.config.d_model] = model.W_E.detach()
    wider.W_U[: model.config.d_model] = model.W_U.detach()
    return wider


# ---- history --------------------------------------------------------------------------------------------------


def measurement_steps(n_steps: int, n: int) -> set[int]:
    """About ``n`` steps from 1 to ``n_steps``, evenly spaced in their logarithm."""
    return {round(step) for step in np.geomspace(1, max(1, n_steps), n)}


def _measure_if_due(
    state: TrainingState, corpus: EncodedCorpus, config: TrainingConfig, measured_at: set[int]
) -> None:
    """Add the row of this step to the history, if one is due and was not added before an interruption."""
    if state.step in measured_at and (not state.history or state.history[-1]["step"] < state.step):
        row = {"step": state.step, "n_tokens": state.step * config.batch_size * state.model.config.n_ctx}
        trained = {"train_loss": state.loss} if state.step else {}
        state.history.append(row | trained | measure(state.model, corpus))


def measure(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> dict:
    """One row of the history, on 32 fixed validation contexts and on 16 repeats of 20 random tokens."""
    tokens = corpus.contexts("validation", 32, model.config.n_ctx)
    losses = loss_per_token(model, tokens)
    _must_be_finite(losses.mean().item())
    first, second = repeated_random_loss(model)
    row = {
        "validation_loss": losses.mean().item(),
        "loss_by_position": losses.mean(0),
        "in_context_learning_score": in_context_learning_score(losses),
        "random_first_copy": first,
        "random_second_copy": second,
        "previous_token": previous_token_scores(model, tokens[:8]),
        "prefix_matching": prefix_matching_scores(model, length=20),
        "copying": [[copying_score(model, (layer, head)) for head in range(model.config.n_heads)]
                    for layer in range(model.config.n_layers)],
    }
    return {name: _rounded(value) for name, value in row.items()}


def _rounded(value):
    if isinstance(value, Tensor):
        value = value.tolist()
    return [_rounded(v) for v in value] if isinstance(value, list) else round(value, 4)


# ---- checkpoints ----------------------------------------------------------------------------------------------


def _save(state: TrainingState, folder: Path, config: TrainingConfig) -> float:
    checkpoint = {
        "step": state.step,
        "loss": state.loss,
        "history": state.history,
        "config": asdict(config),
        "model_config": asdict(state.model.config),
        "model": state.model.state_dict(),
        "optimizer": state.optimizer.state_dict(),
    }
    write_or_explain(Path(folder) / "checkpoint.pt", lambda f: torch.save(checkpoint, f))
    card = {"training": asdict(config), "steps": state.step, "history": state.history}
    write_or_explain(Path(folder) / "history.json", lambda f: f.write(json.dumps(card).encode()))
    return time.monotonic()


def _restore(state: TrainingState, folder: Path, config: TrainingConfig) -> None:
    if folder is None or not (file := Path(folder) / "checkpoint.pt").exists():
        raise ReaderError(f"There is no checkpoint in {folder or 'no folder'}: start without --resume.")
    try:
        checkpoint = torch.load(file, weights_only=True)
        if (checkpoint["config"], checkpoint["model_config"]) == (asdict(config), asdict(state.model.config)):
            state.step, state.loss, state.history = checkpoint["step"], checkpoint["loss"], checkpoint["history"]
            state.model.load_state_dict(checkpoint["model"])
            state.optimizer.load_state_dict(checkpoint["optimizer"])
            return
    except Exception as error:  # whatever torch says of a damaged file
        raise ReaderError(f"{file} is damaged ({type(error).__name__}): start without --resume.") from error
    raise ReaderError(f"{file} is of a run with other settings: resume it with the same ones, or use another folder.")


# ---- front ends -----------------------------------------------------------------------------------------------


def run(
    model_config: ModelConfig,
    config: TrainingConfig,
    corpus: EncodedCorpus,
    folder: Path | None = None,
    resume: bool = False,
    watch: Callable[[TrainingState], None] | None = None,
) -> TrainingState | None:
    """``train`` to its end under a progress bar with loss, tokens/s and time left; ``watch`` sees every step.

    Ctrl-C, or *Interrupt kernel* in a notebook, ends the training and returns what has been trained so far: None if
    that is not even the start.
    """
    tokens_per_step = config.batch_size * model_config.n_ctx
    total = config.n_tokens - config.n_tokens % tokens_per_step
    state = None
    try:
        with (closing(train(model_config, config, corpus, folder, resume)) as steps,
              tqdm(total=total, unit=" tokens", unit_scale=True, desc=f"{model_config.n_layers} layers") as bar):
            for state in steps:
                bar.update(state.step * tokens_per_step - bar.n)
                bar.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
                if watch:
                    watch(state)
    except KeyboardInterrupt:
        n_steps = state.step if state else 0
        where = f" Go on with --resume: everything is kept in {folder}." if folder and n_steps else ""
        print(f"Interrupted after {n_steps} steps.{where}", file=sys.stderr)
    return state


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m helpers.training", description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=ModelConfig.n_heads, help="per layer")
    parser.add_argument("--d-model", type=int, default=ModelConfig.d_model)
    parser.add_argument("--d-head", type=int, default=ModelConfig.d_head)
    parser.add_argument("--context", type=int, default=ModelConfig.n_ctx)
    parser.add_argument("--positional-amplitude", type=float, default=ModelConfig.positional_amplitude)
    parser.add_argument("--tokens", type=_count, default=TrainingConfig.n_tokens, help="to train on, such as 30e6")
    parser.add_argument("--batch-size", type=int, default=TrainingConfig.batch_size)
    parser.add_argument("--learning-rate", type=float, default=TrainingConfig.learning_rate)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="auto", help="float32, bfloat16 or auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--text", default=None, help="a folder of .txt, .md or .py files in place of the shelf")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, history and the model")
    parser.add_argument("--resume", action="store_true")
    a = parser.parse_args(arguments)
    if a.threads is not None:
        torch.set_num_threads(max(1, a.threads))
    corpus = load_encoded(a.text)
    model_config = ModelConfig(a.layers, a.heads, a.d_model, a.d_head, corpus.tokenizer.d_vocab, a.context,
                               a.positional_amplitude)
    config = TrainingConfig(n_tokens=a.tokens, batch_size=a.batch_size, learning_rate=a.learning_rate,
                            seed=a.seed, precision=a.precision)
    state = run(model_config, config, corpus, a.out, a.resume)
    if state is None:
        return
    save_model(state.model, a.out)
    if a.text:
        corpus.tokenizer.save(a.out / "tokenizer.json")


def _count(text: str) -> int:
    """A whole number, as 30000000 or as 30e6."""
    return int(float(text))


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
