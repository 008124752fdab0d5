"""Training, in one code path for the command line, the notebooks and the tests.

    python -m helpers.training --layers 2 --out runs/two_layer            # start
    python -m helpers.training --layers 2 --out runs/two_layer --resume   # go on after Ctrl-C, a kill, a power cut
    python -m helpers.training --recipe laptop --out runs/laptop          # induction heads in about a minute
    python -m helpers.training --all                                      # regrow every model of the book
    torchrun --nproc-per-node=2 -m helpers.training --layers 2 …          # the same on several processes

The loop is a generator: it yields after every step, so that a notebook can draw while it runs.
"""

import argparse
import copy
import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Int
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
from helpers.model import (
    AttentionOnlyTransformer,
    ModelConfig,
    load_model,
    save_model,
    save_weights,
    write_or_explain,
)
from helpers.tokens import Bigrams, EncodedCorpus, bigrams_of, contexts_at, load_encoded

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
    n_snapshots: int = 0  # of the weights, evenly spaced in steps
    precision: str = "auto"  # of the matrix products: float32, bfloat16, or auto: the faster on this machine

    def __post_init__(self):
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ReaderError(f"precision is {self.precision!r}: choose 'auto', 'float32' or 'bfloat16'.")
        whole = min(self.n_tokens, self.batch_size, self.n_measurements,
                    1 + self.warmup_steps, 1 + self.seed, 1 + self.n_snapshots)
        if whole < 1 or not 0 < self.learning_rate < math.inf:
            raise ReaderError(f"No training has these settings: {self}. Numbers are positive, warmup_steps, seed and "
                              "n_snapshots may be 0.")


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

    The same seed gives the same weights to the last bit, on the same machine with the same number of threads. On the
    GPU if there is one. Within ``torchrun`` each process takes its share of every batch, and the first one writes.

    With a ``folder``, a checkpoint is written there every few seconds and when the loop is left, however it is
    left; ``resume`` goes on from it as if nothing had happened, with any number of processes.

    Raises:
        ReaderError: the loss is no longer a number or above that of guessing, nothing to resume from, a full disk,
            too little text.
    """
    _tune_the_process()
    state = _start(model_config, config, corpus)
    if resume:
        _restore(state, folder, config)
    measured_at = {0} | measurement_steps(state.n_steps, config.n_measurements)
    kept_at = snapshot_steps(state.n_steps, config.n_snapshots)
    writes = bool(folder) and _rank() == 0
    last_saved = time.monotonic()
    try:
        while True:
            _measure_if_due(state, corpus, config, measured_at)
            if writes and state.step in kept_at:
                save_weights(state.model, Path(folder) / "snapshots" / f"{state.step:06}.safetensors")
            if writes and time.monotonic() - last_saved > SECONDS_BETWEEN_CHECKPOINTS:
                last_saved = _save(state, folder, config)
            yield state
            if state.step == state.n_steps:
                return
            _step(state, batch(corpus.train, state.step, config, model_config.n_ctx), config)
    except ReaderError:
        state.loss = math.nan  # not to be saved
        raise
    finally:
        if writes and math.isfinite(state.loss):
            _save(state, folder, config)


def _start(model_config: ModelConfig, config: TrainingConfig, corpus: EncodedCorpus) -> TrainingState:
    if model_config.n_ctx < LEAST_CONTEXT:
        raise ReaderError(f"A context of {model_config.n_ctx} tokens is too short: choose at least {LEAST_CONTEXT}.")
    if len(corpus.train) <= 2 * model_config.n_ctx or len(corpus.validation) <= model_config.n_ctx:
        raise ReaderError(f"{corpus.name} is too short to train on contexts of {model_config.n_ctx} tokens: add text.")
    n_steps = config.n_tokens // (config.batch_size * model_config.n_ctx)
    if not n_steps:
        raise ReaderError(f"{config.n_tokens:,} tokens are less than one step of {config.batch_size} contexts of "
                          f"{model_config.n_ctx}: train on more.")
    if config.batch_size % _n_processes():
        raise ReaderError(f"{config.batch_size} contexts cannot be shared out evenly among {_n_processes()} processes: "
                          "choose a batch size that can.")
    model = AttentionOnlyTransformer(model_config, config.seed).to(_device())
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay, fused=True
    )
    return TrainingState(model, optimizer, n_steps=n_steps)


def _step(state: TrainingState, tokens: Int[Tensor, "batch pos"], config: TrainingConfig) -> None:
    _set_learning_rate(state.optimizer, state.step, state.n_steps, config)
    state.optimizer.zero_grad()
    backward = _backward if state.model.config.n_layers else _backward_on_bigrams
    share = tokens[_rank() :: _n_processes()].to(_device())
    loss = _averaged(backward(state.model, share, matmul_dtype(config.precision)), state.model)
    gradient = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip).item()
    _must_be_healthy(loss, gradient, state.model.config.d_vocab)
    state.loss = math.nan  # until the update is complete: half of one must not be saved
    state.optimizer.step()
    state.step, state.loss = state.step + 1, loss


def _backward(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype) -> float:
    """Mean loss over the batch; its gradients are left in the weights' ``grad``."""
    with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    return loss.item()


def _must_be_healthy(loss: float, gradient: float, d_vocab: int) -> None:
    guessing = math.log(d_vocab)
    if not math.isfinite(loss + gradient):
        found = "is no longer a number"
    elif loss > 1.2 * guessing:
        found = f"has risen to {loss:.1f} nats, where guessing blindly has {guessing:.1f}"
    else:
        return
    raise ReaderError(f"The loss {found}: start again with a lower learning rate; the last checkpoint is unharmed.")


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


@lru_cache
def matmul_dtype(precision: str) -> torch.dtype:
    """bfloat16 where the GPU or the processor (AMX, AVX-512) multiplies it in hardware, unless told otherwise."""
    if precision == "auto":
        in_hardware = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
        precision = "bfloat16" if in_hardware or torch.cuda.is_available() else "float32"
    return getattr(torch, precision)


def _tune_the_process() -> None:
    """Two costs that have nothing to do with the arithmetic: denormal numbers, and memory given back and asked again.

    The tails of a softmax are denormal and slow to multiply. And glibc returns each large freed block to the
    system, so that every step pays for mapping the same pages anew, most of all for the logits. Once they are kept,
    ``cross_entropy`` of all logits at once is as fast as any way of doing it in chunks.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        m_trim_threshold, m_mmap_max = -1, -4
        libc.mallopt(m_mmap_max, 0)
        libc.mallopt(m_trim_threshold, 2**31 - 1)


# ---- several processes (torchrun), or a GPU --------------------------------------------------------------------


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _n_processes() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def _averaged(loss: float, model: AttentionOnlyTransformer) -> float:
    """The loss of the whole batch, of which each process has seen a share; likewise all gradients, in place."""
    n = _n_processes()
    if n == 1:
        return loss
    total = torch.tensor(loss, device=_device())
    for tensor in (total, *(weight.grad for weight in model.parameters() if weight.grad is not None)):
        dist.all_reduce(tensor)
        tensor /= n
    return total.item()


@contextmanager
def _process_group() -> Iterator[None]:
    """Join the other processes that ``torchrun`` has started, if it did."""
    if "WORLD_SIZE" not in os.environ:
        yield
        return
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


# ---- without layers: every bigram once ------------------------------------------------------------------------


def fit_bigrams(
    model: AttentionOnlyTransformer, counts: Bigrams, n_steps: int, learning_rate: float
) -> Iterator[float]:
    """Train a zero-layer model on all bigrams of a text in every step, yielding the loss before the step.

    This is ``train`` with the whole text in each batch. Adam, with ten steps of warm-up and half a cosine down to a
    hundredth.

    Raises:
        ReaderError: the model has layers.
    """
    if model.config.n_layers:
        raise ReaderError(f"The model has {model.config.n_layers} layers: only one without layers is a bigram model.")
    model.requires_grad_()
    config = TrainingConfig(learning_rate=learning_rate, warmup_steps=10, final_learning_rate=0.01)
    optimizer = torch.optim.Adam(model.parameters(), betas=config.betas, fused=True)
    dtype = matmul_dtype(config.precision) if model.W_E.dtype == torch.float32 else model.W_E.dtype
    for step in range(n_steps):
        _set_learning_rate(optimizer, step, n_steps, config)
        loss = _bigram_gradients(model, counts, dtype)
        optimizer.step()
        yield loss
    model.requires_grad_(False)
    model.zero_grad()


def _backward_on_bigrams(
    model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype
) -> float:
    """``_backward`` of a zero-layer model: the same loss and gradients, several times as fast."""
    return _bigram_gradients(model, bigrams_of(tokens, model.config.d_vocab), dtype)


def _bigram_gradients(model: AttentionOnlyTransformer, counts: Bigrams, dtype: torch.dtype) -> float:
    """Mean loss of a zero-layer model over all bigrams; its gradients are left in the weights' ``grad``.

    Such a model sees the present token alone, so a batch matters to it through its bigram counts only, and each
    different token is predicted once, however often it occurs: a step on a whole epoch costs no more than one on
    ``d_vocab`` tokens.
    """
    x, w = model.W_E.detach().to(dtype), model.W_U.detach().to(dtype)
    grad_E, grad_U, loss = torch.empty_like(model.W_E), torch.zeros_like(model.W_U), 0.0
    opened = counts.opened.to(grad_E.dtype) / counts.n
    for start in range(0, len(x), ROWS_PER_CHUNK):
        rows, here = slice(start, start + ROWS_PER_CHUNK), counts.rows(start, start + ROWS_PER_CHUNK)
        pairs = counts.first[here] - start, counts.second[here]
        share = counts.times[here].to(grad_E.dtype) / counts.n
        log_probs = (x[rows] @ w).to(grad_E.dtype).log_softmax(-1)
        loss -= (share * log_probs[pairs]).sum().item()
        error = log_probs.exp_().mul_(opened[rows, None])
        error[pairs] -= share
        error = error.to(dtype)
        grad_E[rows] = error @ w.T
        grad_U += x[rows].T @ error
    model.W_E.grad, model.W_U.grad = grad_E, grad_U
    return loss


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


def load_history(folder: Path) -> list[dict]:
    """The rows that training wrote of a run: see ``measure`` for what is in one.

    Raises:
        ReaderError: the file is missing or damaged.
    """
    return _card(folder)["history"]


def _card(folder: Path) -> dict:
    try:
        card = json.loads((Path(folder) / "history.json").read_text("utf8"))
        return {name: card[name] for name in ("training", "steps", "history")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReaderError(f"The history in {folder} is missing or damaged ({type(error).__name__}): "
                          "bring it back with 'git checkout data', or train the model again.") from error


def load_moments(folder: Path) -> dict[int, AttentionOnlyTransformer]:
    """The model at every step whose weights were kept, in order, the start and the end of the training included.

    The start is made anew from its seed. Snapshots may be kept in float8, which has three bits after the leading one;
    they come back as float32.

    Raises:
        ReaderError: a file is missing or damaged.
    """
    folder, card, end = Path(folder), _card(folder), load_model(folder)
    start = AttentionOnlyTransformer(end.config, card["training"]["seed"]).requires_grad_(False).eval()
    snapshots = {int(file.stem): load_model(folder, f"snapshots/{file.name}")
                 for file in sorted((folder / "snapshots").glob("*.safetensors"))}
    return dict(sorted({**snapshots, 0: start, card["steps"]: end}.items()))


def snapshot_steps(n_steps: int, n: int) -> set[int]:
    """``n`` steps from 0 to ``n_steps``, evenly spaced."""
    return {round(step) for step in np.linspace(0, n_steps, n)}


def _measure_if_due(
    state: TrainingState, corpus: EncodedCorpus, config: TrainingConfig, measured_at: set[int]
) -> None:
    """Add the row of this step to the history, if one is due and was not added before an interruption."""
    is_due = state.step in measured_at and (not state.history or state.history[-1]["step"] < state.step)
    if is_due and _rank() == 0:
        row = {"step": state.step, "n_tokens": state.step * config.batch_size * state.model.config.n_ctx}
        trained = {"train_loss": state.loss} if state.step else {}
        model = state.model if _device().type == "cpu" else copy.deepcopy(state.model).cpu()
        state.history.append(row | trained | measure(model, corpus))


def measure(model: AttentionOnlyTransformer, corpus: EncodedCorpus) -> dict:
    """One row of the history, on 32 fixed validation contexts and on 16 repeats of 20 random tokens."""
    tokens = corpus.contexts("validation", 32, model.config.n_ctx)
    losses = loss_per_token(model, tokens)
    _must_be_healthy(losses.mean().item(), 0.0, model.config.d_vocab)
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
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        if (checkpoint["config"], checkpoint["model_config"]) == (asdict(config), asdict(state.model.config)):
            state.step, state.loss, state.history = checkpoint["step"], checkpoint["loss"], checkpoint["history"]
            state.model.load_state_dict(checkpoint["model"])
            state.optimizer.load_state_dict(checkpoint["optimizer"])
            return
    except Exception as error:  # whatever torch says of a damaged file
        raise ReaderError(f"{file} is damaged ({type(error).__name__}): start without --resume.") from error
    raise ReaderError(f"{file} is of a run with other settings: resume it with the same ones, or use another folder.")


# ---- recipes --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """A model's sizes and how it is trained."""

    model: ModelConfig
    training: TrainingConfig


RECIPES = {
    "zero_layer": Recipe(ModelConfig(n_layers=0), TrainingConfig(200_000_000, batch_size=256, learning_rate=1e-2)),
    "one_layer": Recipe(ModelConfig(n_layers=1), TrainingConfig()),
    "two_layer": Recipe(ModelConfig(n_layers=2), TrainingConfig()),
    "laptop": Recipe(
        ModelConfig(n_layers=2, n_heads=4, d_model=192, d_head=64, d_vocab=512, n_ctx=128),
        TrainingConfig(6_000_000, batch_size=16, learning_rate=5e-3, warmup_steps=100, final_learning_rate=0.3),
    ),
}
RECIPES["laptop_one_layer"] = replace(RECIPES["laptop"], model=replace(RECIPES["laptop"].model, n_layers=1))
RECIPES["laptop_smeared"] = replace(
    RECIPES["laptop"], model=replace(RECIPES["laptop"].model, n_layers=1, smeared_keys=True)
)
RECIPES["laptop_two_layer_smeared"] = replace(
    RECIPES["laptop"], model=replace(RECIPES["laptop"].model, smeared_keys=True)
)
BOOK = ("zero_layer", "one_layer", "two_layer")
PHASES = ("laptop", "laptop_one_layer", "laptop_smeared", "laptop_two_layer_smeared")  # of chapter 08
SEEDS = (0, 1, 2)  # of all of these
SNAPSHOTS = {("laptop", 0): 40}  # of the weights, for one run


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
              tqdm(total=total, unit=" tokens", unit_scale=True, desc=f"{model_config.n_layers} layers",
                   disable=_rank() > 0) as bar):
            for state in steps:
                bar.update(state.step * tokens_per_step - bar.n)
                bar.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
                if watch:
                    watch(state)
    except KeyboardInterrupt:
        n_steps = state.step if state else 0
        where = f" Go on with --resume: everything is kept in {folder}." if folder and n_steps else ""
        if _rank() == 0:
            print(f"Interrupted after {n_steps} steps.{where}", file=sys.stderr)
    if state:
        state.model.cpu()
    return state


def argument_parser() -> argparse.ArgumentParser:
    """What the command line takes; what is not given there stays None and comes from a recipe."""
    parser = argparse.ArgumentParser(prog="python -m helpers.training", description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="train every model of the book into --out")
    parser.add_argument("--recipe", choices=RECIPES, help="where all settings come from that are not given")
    parser.add_argument("--layers", type=int, dest="n_layers",
                        help="without --recipe: that of the book's model with so many layers")
    parser.add_argument("--heads", type=int, dest="n_heads", help="per layer")
    parser.add_argument("--d-model", type=int)
    parser.add_argument("--d-head", type=int)
    parser.add_argument("--d-vocab", type=int)
    parser.add_argument("--context", type=int, dest="n_ctx")
    parser.add_argument("--positional-amplitude", type=float)
    parser.add_argument("--tokens", type=_count, dest="n_tokens", help="to train on, such as 30e6")
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--snapshots", type=int, dest="n_snapshots", help="of the weights, evenly spaced")
    parser.add_argument("--precision", help="float32, bfloat16 or auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--text", help="a folder of .txt, .md or .py files in place of the shelf")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder for checkpoints, history and the model")
    parser.add_argument("--resume", action="store_true")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """The command line. Raises ReaderError for whatever ``train`` and ``load_encoded`` do."""
    a = argument_parser().parse_args(arguments)
    if a.threads is not None:
        torch.set_num_threads(max(1, a.threads))
    with _process_group():
        if a.all:
            _train_all(a.out, a.text)
        else:
            _train_one(_recipe(a), a.text, a.out, a.resume)


def _recipe(a: argparse.Namespace) -> Recipe:
    """The recipe that is named, or that of the book's model with as many layers, changed as the arguments say."""
    n_layers = 2 if a.n_layers is None else a.n_layers
    recipe = RECIPES[a.recipe or BOOK[max(0, min(n_layers, 2))]]
    given = {name: value for name, value in vars(a).items() if value is not None}

    def changed(config):
        return replace(config, **{name: given[name] for name in asdict(config) if name in given})

    return Recipe(changed(recipe.model), changed(recipe.training))


def _train_all(out: Path, text: str | None) -> None:
    """Every model of the book, each in a folder of its own; what is there already is not trained again."""
    for name, seed in [(name, seed) for name in (*BOOK, *PHASES) for seed in SEEDS]:
        folder, recipe = out / run_name(name, seed), RECIPES[name]
        print(f"{folder}: {'done' if (done := (folder / 'model.safetensors').exists()) else 'training'}")
        if not done:
            training = replace(recipe.training, seed=seed, n_snapshots=SNAPSHOTS.get((name, seed), 0))
            seeded = replace(recipe, training=training)
            if not _train_one(seeded, text, folder, resume=(folder / "checkpoint.pt").exists()):
                return


def run_name(name: str, seed: int) -> str:
    """The folder of a book model; the chapters use those of seed 0, named after the recipe alone."""
    return name if seed == 0 else f"{name}_seed{seed}"


def _train_one(recipe: Recipe, text: str | None, out: Path, resume: bool) -> bool:
    """Train a model into its folder. Returns whether it came to the end."""
    corpus = _load_once(text, recipe.model.d_vocab)
    model_config = replace(recipe.model, d_vocab=corpus.tokenizer.d_vocab)
    state = run(model_config, recipe.training, corpus, out, resume)
    if state is None or state.step < state.n_steps:
        return False
    if _rank() == 0:
        save_model(state.model, out)
        if text:
            corpus.tokenizer.save(out / "tokenizer.json")
    if _n_processes() > 1:
        dist.barrier()  # nobody leaves while the first process still measures and writes
    return True


def _load_once(text: str | None, d_vocab: int) -> EncodedCorpus:
    """The encoded corpus; of several processes the first one makes it, the others wait and find it in the cache."""
    if _rank() > 0:
        dist.barrier()
    corpus = load_encoded(text, d_vocab=d_vocab)
    if _rank() == 0 and _n_processes() > 1:
        dist.barrier()
    return corpus


def _count(text: str) -> int:
    """A whole number, as 30000000 or as 30e6."""
    return int(float(text))


if __name__ == "__main__":
    try:
        main()
    except ReaderError as error:
        sys.exit(str(error))
