"""The training loop, a generator: it yields after every step, so that a notebook can draw while it runs."""

import copy
import io
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from helpers import ReaderError
from helpers.files import write_or_explain
from helpers.history import measure, refuse_divergence
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.tokens import EncodedCorpus, Tokenizer, contexts_at
from helpers.training.config import TrainingConfig, checkpoint_steps, measurement_steps, set_learning_rate
from helpers.training.machine import matmul_dtype, tuned_process
from helpers.training.optimizers import new_optimizers
from helpers.training.parallel import average, device, is_first, n_processes, share_of
from helpers.training.zero_layer import zero_layer_gradients
from helpers.weights import save_model, save_weights

SECONDS_BETWEEN_SAVES = 5.0
LEAST_CONTEXT = 64  # tokens; a shorter one does not hold what is measured during training

Build = Callable[[ModelConfig, int], AttentionOnlyTransformer]


@dataclass
class TrainingState:
    """Where a training stands. ``history`` has a row per measurement; see ``history.measure`` for what is in one."""

    model: AttentionOnlyTransformer
    optimizers: list[torch.optim.Optimizer]
    tokenizer: Tokenizer
    n_steps: int
    step: int = 0  # steps done
    loss: float = math.nan  # of the last step, nats per token; NaN before the first step and in the middle of one
    history: list[dict] = field(default_factory=list)


def train(
    model_config: ModelConfig,
    config: TrainingConfig,
    corpus: EncodedCorpus,
    folder: Path | str | None = None,
    resume: bool = False,
    build: Build | None = None,
) -> Iterator[TrainingState]:
    """Train a model, yielding the state at the start and after every step.

    The same seed gives the same weights to the last bit, on the same machine with the same number of threads. On the
    GPU if there is one. Within ``torchrun`` each process takes its share of every batch, and the first one writes.

    With a ``folder``, the tokenizer is written there at the start and everything else every few seconds and when the
    loop is left, however it is left: the model for ``load_model``, the history, and the state from which ``resume``
    goes on as if nothing had happened, with any number of processes. Weights that ``config`` asks to keep are in its
    subfolder "checkpoints".

    ``build`` makes the model of its sizes and its seed; see ``clamping`` for others than the usual one.

    From the first step until the generator ends or is closed, the process is tuned for training; see ``tuned_process``.

    Raises:
        ReaderError: the loss is no longer a number or above that of guessing, there is nothing to resume from, the
            disk is full, there is too little text.
    """
    with tuned_process():
        state = new_state(model_config, config, corpus, build)
        if resume:
            _restore(state, config, folder)
        yield from _steps(state, config, corpus, Path(folder) if folder and is_first() else None)


def _steps(
    state: TrainingState, config: TrainingConfig, corpus: EncodedCorpus, folder: Path | None
) -> Iterator[TrainingState]:
    measured_at = measurement_steps(state.n_steps, config.n_measurements)
    kept_at = checkpoint_steps(state.n_steps, config.n_checkpoints)
    last_saved = time.monotonic()
    if folder:
        state.tokenizer.save(folder / "tokenizer.json")
    try:
        while True:
            if state.step in measured_at and is_first():
                _measure(state, corpus, config)
            if folder and state.step in kept_at:
                save_weights(state.model, folder / "checkpoints" / f"{state.step:06}.safetensors")
            if folder and state.step and time.monotonic() - last_saved > SECONDS_BETWEEN_SAVES:
                save(state, config, folder)
                last_saved = time.monotonic()
            yield state
            if state.step == state.n_steps:
                return
            take_step(state, batch(corpus.train, state.step, config, state.model.config.n_ctx), config)
    except ReaderError:
        state.loss = math.nan  # not to be saved
        raise
    finally:
        if folder and math.isfinite(state.loss):
            save(state, config, folder)


def new_state(
    model_config: ModelConfig, config: TrainingConfig, corpus: EncodedCorpus, build: Build | None = None
) -> TrainingState:
    """A training before its first step.

    Raises:
        ReaderError: the settings do not fit each other, the text or the number of processes.
    """
    _check_sizes(model_config, config, corpus)
    model = (build or type(model_config).build)(model_config, config.seed).to(device())
    return TrainingState(model, new_optimizers(model, config), corpus.tokenizer, config.n_steps(model_config.n_ctx))


def _check_sizes(model_config: ModelConfig, config: TrainingConfig, corpus: EncodedCorpus) -> None:
    n_ctx, d_vocab = model_config.n_ctx, corpus.tokenizer.d_vocab
    if n_ctx < LEAST_CONTEXT:
        raise ReaderError(f"A context of {n_ctx} tokens is too short: choose at least {LEAST_CONTEXT}.")
    if model_config.d_vocab < d_vocab:
        raise ReaderError(f"{corpus.name} has a vocabulary of {d_vocab:,}: give the model d_vocab={d_vocab}.")
    if len(corpus.train) <= 2 * n_ctx or len(corpus.validation) <= n_ctx:
        raise ReaderError(f"{corpus.name} is too short to train on contexts of {n_ctx} tokens: add text.")
    if not config.n_steps(n_ctx):
        raise ReaderError(
            f"{config.n_tokens:,} tokens are less than one step of {config.batch_size} contexts of {n_ctx}: "
            "train on more."
        )
    if config.batch_size % n_processes():
        raise ReaderError(
            f"{config.batch_size} contexts cannot be shared out evenly among {n_processes()} processes: "
            "choose a batch size that can."
        )


# ---- a step -----------------------------------------------------------------------------------------------------


def take_step(state: TrainingState, tokens: Int[Tensor, "batch pos"], config: TrainingConfig) -> None:
    """Gradients, averaged over all processes and clipped, and one update of the weights.

    Raises:
        ReaderError: loss or gradients are no longer numbers, or the loss is above that of guessing.
    """
    for optimizer in state.optimizers:
        set_learning_rate(optimizer, state.step, state.n_steps, config)
        optimizer.zero_grad()
    is_bigram_model = type(state.model.config) is ModelConfig and not state.model.config.n_layers
    gradients = zero_layer_gradients if is_bigram_model else _gradients
    loss = average(gradients(state.model, share_of(tokens), matmul_dtype(config.precision)), state.model)
    norm = torch.nn.utils.clip_grad_norm_(state.model.parameters(), config.clip).item()
    refuse_divergence(loss, state.model.config.d_vocab, norm)
    state.loss = math.nan  # until the update is complete: half of one must not be saved
    for optimizer in state.optimizers:
        optimizer.step()
    state.step, state.loss = state.step + 1, loss


def _gradients(model: AttentionOnlyTransformer, tokens: Int[Tensor, "batch pos"], dtype: torch.dtype) -> float:
    """Mean loss over the batch; its gradients are left in the weights' ``grad``."""
    with torch.autocast(tokens.device.type, dtype, enabled=dtype != torch.float32):
        logits = model(tokens[:, :-1])
    loss = F.cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    return loss.item()


def batch(
    tokens: np.ndarray, step: int, config: TrainingConfig, n_ctx: int
) -> Int[Tensor, "{config.batch_size} {n_ctx+1}"]:
    """The contexts of a step, a function of seed and step alone; an epoch sees each place of the text once.

    The text is cut at every ``n_ctx`` tokens, counted from an offset that changes with the epoch, and the pieces
    are dealt out in random order. One token more than the context holds, since the last has a target too.
    """
    n_pieces = (len(tokens) - n_ctx - 1) // n_ctx
    places = []
    for i in range(step * config.batch_size, (step + 1) * config.batch_size):
        epoch, position = divmod(i, n_pieces)
        offset, order = _deal(config.seed, epoch, n_pieces, n_ctx)
        places.append(offset + n_ctx * int(order[position]))
    return contexts_at(tokens, places, n_ctx + 1)


@lru_cache(maxsize=2)
def _deal(seed: int, epoch: int, n_pieces: int, n_ctx: int) -> tuple[int, np.ndarray]:
    generator = np.random.default_rng([seed, epoch])
    return int(generator.integers(n_ctx)), generator.permutation(n_pieces)


def _measure(state: TrainingState, corpus: EncodedCorpus, config: TrainingConfig) -> None:
    """Add the row of this step to the history, unless that was done before an interruption."""
    if state.history and state.history[-1]["step"] == state.step:
        return
    row = {"step": state.step, "n_tokens": state.step * config.batch_size * state.model.config.n_ctx}
    trained = {"train_loss": state.loss} if state.step else {}
    model = state.model if device().type == "cpu" else copy.deepcopy(state.model).cpu()
    state.history.append(row | trained | measure(model, corpus))


# ---- files ------------------------------------------------------------------------------------------------------


def save(state: TrainingState, config: TrainingConfig, folder: Path) -> None:
    """Write everything that changes in the course of a training: its state, its model and its history.

    Each file is whole whatever happens in between. The history comes last: if it says that a training is done, the
    model is that of the last step.
    """
    resumable = _settings(state, config) | {
        "step": state.step,
        "loss": state.loss,
        "history": state.history,
        "model": state.model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
    }
    card = {"training": asdict(config), "steps": state.step, "history": state.history}
    write_or_explain(folder / "state.pt", lambda f: f.write(_serialised(resumable)))
    save_model(state.model, folder)
    write_or_explain(folder / "history.json", lambda f: f.write(json.dumps(card).encode()))


def _serialised(content: dict) -> memoryview:
    """The bytes of a file for ``torch.load``: when it writes them itself, a full disk may end in a RuntimeError."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getbuffer()


def _restore(state: TrainingState, config: TrainingConfig, folder: Path | str | None) -> None:
    if folder is None or not (file := Path(folder) / "state.pt").exists():
        raise ReaderError(f"There is no training to resume in {folder or 'no folder'}: start one without resume.")
    settings = _settings(state, config)
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
        if same := {name: saved[name] for name in settings} == settings:
            state.step, state.loss, state.history = saved["step"], saved["loss"], saved["history"]
            state.model.load_state_dict(saved["model"])
            for optimizer, numbers in zip(state.optimizers, saved["optimizers"], strict=True):
                optimizer.load_state_dict(numbers)
    except Exception as error:  # whatever torch says of a damaged file
        raise ReaderError(f"{file} is damaged ({type(error).__name__}): start again without resume.") from error
    if not same:
        raise ReaderError(
            f"{file} is of a training with other settings or another text: resume it with the same ones, or choose "
            "another folder."
        )


def _settings(state: TrainingState, config: TrainingConfig) -> dict:
    """What has to be the same when a training is resumed."""
    return {
        "config": asdict(config),
        "model_config": asdict(state.model.config),
        "tokenizer": state.tokenizer.fingerprint,
    }


# ---- to the end -------------------------------------------------------------------------------------------------


def run(
    model_config: ModelConfig,
    config: TrainingConfig,
    corpus: EncodedCorpus,
    folder: Path | str | None = None,
    resume: bool = False,
    watch: Callable[[TrainingState], object] | None = None,
) -> TrainingState | None:
    """``train`` to its end under a progress bar with loss, tokens/s and time left; ``watch`` sees every state.

    Ctrl-C, or *Interrupt kernel* in a notebook, ends the training and returns what has been trained so far: None if
    that is not even the start.
    """
    tokens_per_step = config.batch_size * model_config.n_ctx
    total = config.n_steps(model_config.n_ctx) * tokens_per_step
    title, state = f"{model_config.n_layers} layers", None
    try:
        with (
            closing(train(model_config, config, corpus, folder, resume)) as states,
            tqdm(total=total, unit=" tokens", unit_scale=True, desc=title, disable=not is_first()) as bar,
        ):
            for state in states:
                if state.step:
                    bar.set_postfix_str(f"loss {state.loss:.3f}", refresh=False)
                bar.update(state.step * tokens_per_step - bar.n)
                if watch:
                    watch(state)
    except KeyboardInterrupt:
        _say_where_it_stopped(state, folder)
    if state:
        state.model.cpu()
    return state


def _say_where_it_stopped(state: TrainingState | None, folder: Path | str | None) -> None:
    n_steps = state.step if state else 0
    sentence = f"Interrupted after {n_steps} steps."
    if folder and n_steps:
        sentence += f" Everything is kept in {folder}: go on with resume=True, or --resume on the command line."
    if is_first():
        print(sentence, file=sys.stderr)
