"""Training: the same seed gives the same bits, whatever happens on the way."""

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from helpers import ReaderError, training
from helpers.corpus import DATA
from helpers.measures import loss_per_token, prefix_matching_scores
from helpers.model import AttentionOnlyTransformer, ModelConfig, load_model, save_model
from helpers.tokens import START, Tokenizer
from helpers.training import (
    RECIPES,
    Recipe,
    TrainingConfig,
    TrainingState,
    batch,
    load_history,
    load_moments,
    measurement_steps,
    run,
    schedule,
)

N_STEPS = 12
CONFIG = TrainingConfig(n_tokens=N_STEPS * 2 * 64, batch_size=2, warmup_steps=3, n_measurements=6, precision="float32")


TINY = ["--heads", "2", "--d-model", "16", "--d-head", "8", "--context", "64", "--batch-size", "2", "--tokens", "1e3"]


@pytest.fixture(scope="module")
def sizes(corpus) -> ModelConfig:
    return ModelConfig(n_layers=1, n_heads=2, d_model=16, d_head=8, d_vocab=corpus.tokenizer.d_vocab, n_ctx=64)


@pytest.fixture(scope="module")
def finished(corpus, sizes) -> TrainingState:
    """A run that nobody disturbed."""
    return run(sizes, CONFIG, corpus)


def same(one: TrainingState, other: TrainingState) -> bool:
    """Bit by bit: weights, optimizer, history."""
    ours, theirs = (state.optimizer.state_dict()["state"] for state in (one, other))
    return (one.step == other.step and one.loss == other.loss and one.history == other.history
            and same_tensors(one.model.state_dict(), other.model.state_dict())
            and all(same_tensors(ours[i], theirs[i]) for i in ours))


def same_tensors(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# ---- the same bits ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(corpus, sizes, finished):
    assert same(run(sizes, CONFIG, corpus), finished)
    assert not same(run(sizes, replace(CONFIG, seed=1), corpus), finished)


def test_a_run_learns_and_says_so(corpus, sizes, finished):
    assert finished.step == finished.n_steps == N_STEPS
    steps = [row["step"] for row in finished.history]
    assert steps == sorted({0} | measurement_steps(N_STEPS, CONFIG.n_measurements)) and steps[-1] == N_STEPS
    first, last = finished.history[0], finished.history[-1]
    assert last["n_tokens"] == CONFIG.n_tokens and last["train_loss"] == finished.loss
    assert first["validation_loss"] == pytest.approx(math.log(sizes.d_vocab), abs=0.2)
    assert first["validation_loss"] > last["validation_loss"]
    tokens = corpus.contexts("validation", 32, 64)
    assert last["validation_loss"] == pytest.approx(loss_per_token(finished.model, tokens).mean().item(), abs=1e-4)
    assert len(last["loss_by_position"]) == 63
    assert [len(last[name]) for name in ("previous_token", "prefix_matching", "copying")] == [1, 1, 1]


def test_every_state_is_seen_from_the_start_on(corpus, sizes):
    seen = []
    run(sizes, CONFIG, corpus, watch=lambda state: seen.append((state.step, len(state.history))))
    assert [step for step, _ in seen] == list(range(N_STEPS + 1)) and seen[0] == (0, 1)


@pytest.mark.parametrize("stops", [[0], [1], [5], [11], [12], [2, 3, 9]])
def test_a_run_that_was_stopped_and_resumed_gives_the_same_bits(corpus, sizes, finished, tmp_path, stops):
    for i, stop in enumerate(stops):
        for state in training.train(sizes, CONFIG, corpus, tmp_path, resume=i > 0):
            if state.step == stop:
                break
    resume = (tmp_path / "checkpoint.pt").exists()
    assert resume == (stops != [0])  # there is nothing to keep before the first step
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume), finished)


@pytest.mark.parametrize("n_layers", [0, 2])
def test_other_depths_resume_too(corpus, sizes, tmp_path, n_layers):
    sizes = replace(sizes, n_layers=n_layers)
    next(steps := training.train(sizes, CONFIG, corpus, tmp_path))
    next(steps)
    steps.close()
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), run(sizes, CONFIG, corpus))


def test_resuming_a_finished_run_changes_nothing(corpus, sizes, finished, tmp_path):
    run(sizes, CONFIG, corpus, tmp_path)
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


# ---- interruptions ----------------------------------------------------------------------------------------------


def test_ctrl_c_ends_the_run_and_keeps_everything(corpus, sizes, finished, tmp_path, capsys):
    def interrupt(state: TrainingState) -> None:
        if state.step == 5:
            raise KeyboardInterrupt

    state = run(sizes, CONFIG, corpus, tmp_path, watch=interrupt)
    assert state.step == 5
    sentence = f"Interrupted after 5 steps. Go on with --resume: everything is kept in {tmp_path}.\n"
    assert capsys.readouterr().err.endswith(sentence)
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_ctrl_c_in_the_middle_of_a_measurement_does_not_lose_its_row(corpus, sizes, finished, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        run(sizes, CONFIG, corpus, tmp_path,
            watch=lambda state: state.step == 3 and patch.setattr(training, "measure", interrupt))
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_ctrl_c_in_the_middle_of_an_update_does_not_keep_half_of_it(corpus, sizes, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0)
    step = torch.optim.AdamW.step

    def half_a_step(optimizer):
        step(optimizer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        run(sizes, CONFIG, corpus, tmp_path,
            watch=lambda state: state.step == 4 and patch.setattr(torch.optim.AdamW, "step", half_a_step))
    assert torch.load(tmp_path / "checkpoint.pt")["step"] == 4
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_ctrl_c_before_the_first_state_returns_none(corpus, sizes, tmp_path, monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "measure", interrupt)
    assert run(sizes, CONFIG, corpus, tmp_path) is None
    assert capsys.readouterr().err.endswith("Interrupted after 0 steps.\n") and not list(tmp_path.iterdir())


def train_in_a_process_of_its_own(text_folder: Path, out: Path, *more: str) -> None:
    """The command line, slowed down, with a checkpoint every twentieth of a second."""
    training.SECONDS_BETWEEN_CHECKPOINTS = 0.05
    training.batch = lambda *step: time.sleep(0.005) or batch(*step)
    os.environ["XDG_CACHE_HOME"] = str(out.parent)
    training.main(["--layers", "1", "--heads", "2", "--d-model", "16", "--d-head", "8", "--context", "64", "--threads",
                   "1", "--precision", "float32", "--batch-size", "2", "--tokens", str(2 * 64 * 500),
                   "--text", str(text_folder), "--out", str(out), *more])


def disturb(process: BaseProcess, checkpoint: Path, seconds: float, how: int) -> None:
    """Send a signal some time after the process has written a checkpoint of its own."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    while process.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns != before):
        time.sleep(0.005)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(process.pid, how)
    process.join()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_run_that_was_killed_again_and_again_gives_the_same_bits(text_folder, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["helpers.training"])

    def start(out: Path, *more: str) -> BaseProcess:
        process = server.Process(target=train_in_a_process_of_its_own, args=(text_folder, out, *more))
        process.start()
        return process

    whole = start(undisturbed)
    dice, ends = random.Random(), []
    for how in (*[signal.SIGKILL] * 10, signal.SIGINT, *[signal.SIGKILL] * 10):
        process = start(killed, *["--resume"] * bool(ends))
        disturb(process, killed / "checkpoint.pt", dice.uniform(0, 0.1), how)
        ends.append(process.exitcode)
    assert ends.count(-signal.SIGKILL) == 20
    for process in (whole, start(killed, "--resume")):
        process.join()
        assert process.exitcode == 0
    for name in ("model.safetensors", "config.json", "history.json", "tokenizer.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


# ---- what goes wrong --------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint(corpus, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "SECONDS_BETWEEN_CHECKPOINTS", 0)

    def spoil(state: TrainingState) -> None:
        if state.step == 7:
            state.model.W_U.data[0, 0] = math.inf

    with pytest.raises(ReaderError, match="^The loss is no longer a number: start again with a lower learning rate; "):
        run(sizes, CONFIG, corpus, tmp_path, watch=spoil)
    checkpoint = torch.load(tmp_path / "checkpoint.pt")
    assert checkpoint["step"] == 7 and all(weight.isfinite().all() for weight in checkpoint["model"].values())


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(corpus, sizes, monkeypatch):
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, norm: math.inf * clip(weights, norm))
    states = training.train(sizes, CONFIG, corpus)
    state = next(states)
    before = state.model.W_E.clone()
    with pytest.raises(ReaderError, match="no longer a number"):
        next(states)
    assert torch.equal(state.model.W_E, before)


@pytest.mark.parametrize("learning_rate, found", [(1e30, "is no longer a number"), (10.0, "has risen to .* nats")])
def test_a_far_too_high_learning_rate_ends_with_a_sentence(corpus, sizes, tmp_path, learning_rate, found):
    with pytest.raises(ReaderError, match=f"^The loss {found}.*: start again with a lower learning rate; "):
        run(sizes, replace(CONFIG, learning_rate=learning_rate), corpus, tmp_path)


@pytest.mark.parametrize("settings", [
    {"precision": "float16"}, {"n_tokens": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan},
    {"warmup_steps": -1}, {"seed": -1}, {"n_measurements": 0},
])
def test_impossible_settings_are_answered_with_a_sentence(settings):
    with pytest.raises(ReaderError, match="No training has these settings|choose 'auto'"):
        TrainingConfig(**settings)


def test_too_little_of_anything_is_answered_with_a_sentence(corpus, sizes):
    for changed, config, sentence in (
        (replace(sizes, n_ctx=63), CONFIG, "A context of 63 tokens is too short: choose at least 64."),
        (replace(sizes, n_ctx=10_000), CONFIG, "is too short to train on contexts of 10000 tokens: add text."),
        (sizes, replace(CONFIG, n_tokens=127), "127 tokens are less than one step of 2 contexts of 64: train on more."),
    ):
        with pytest.raises(ReaderError, match=sentence):
            run(changed, config, corpus)


@pytest.fixture
def stopped(corpus, sizes, tmp_path) -> Path:
    """The folder of a run that was stopped after two steps."""
    for state in training.train(sizes, CONFIG, corpus, tmp_path):
        if state.step == 2:
            break
    return tmp_path


def test_resuming_with_other_settings_is_refused(corpus, sizes, stopped):
    before = (stopped / "checkpoint.pt").read_bytes()
    for other in ((replace(sizes, d_model=18), CONFIG), (sizes, replace(CONFIG, learning_rate=1e-3))):
        with pytest.raises(ReaderError, match="is of a run with other settings: resume it with the same ones"):
            run(*other, corpus, stopped, resume=True)
    assert (stopped / "checkpoint.pt").read_bytes() == before


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_resuming_without_a_checkpoint_is_refused(corpus, sizes, tmp_path, folder):
    with pytest.raises(ReaderError, match="There is no checkpoint in .*: start without --resume."):
        run(sizes, CONFIG, corpus, folder and tmp_path / folder, resume=True)


@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: b"not a checkpoint",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1000],
])
def test_a_damaged_checkpoint_is_refused(corpus, sizes, stopped, damage):
    file = stopped / "checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ReaderError, match="checkpoint.pt is damaged .*: start without --resume."):
        run(sizes, CONFIG, corpus, stopped, resume=True)


@pytest.mark.parametrize("key", ["step", "history", "model", "optimizer", "config"])
def test_a_checkpoint_that_lacks_something_is_refused(corpus, sizes, stopped, key):
    checkpoint = torch.load(stopped / "checkpoint.pt")
    del checkpoint[key]
    torch.save(checkpoint, stopped / "checkpoint.pt")
    with pytest.raises(ReaderError, match="is damaged"):
        run(sizes, CONFIG, corpus, stopped, resume=True)


def test_a_folder_that_cannot_be_written_is_answered_with_a_sentence(corpus, sizes, tmp_path):
    (tmp_path / "file").write_text("in the way", "utf8")
    with pytest.raises(ReaderError, match="could not be written .*: free some space or choose another folder"):
        run(sizes, CONFIG, corpus, tmp_path / "file")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_full_disk_ends_the_run_with_a_sentence_and_leaves_the_last_checkpoint(corpus, sizes, stopped):
    import resource

    before = (stopped / "checkpoint.pt").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        with pytest.raises(ReaderError, match="checkpoint.pt could not be written .*: free some space"):
            run(sizes, CONFIG, corpus, stopped, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (stopped / "checkpoint.pt").read_bytes() == before
    assert {file.name for file in stopped.iterdir()} == {"checkpoint.pt", "history.json"}


# ---- several processes ------------------------------------------------------------------------------------------

ON_EVERY_STEP = ["--layers", "1", *TINY, "--precision", "float32", "--tokens", "2000"]


def torchrun(n_processes: int, text_folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "XDG_CACHE_HOME": str(out.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
         f"--nproc-per-node={n_processes}", "-m", "helpers.training", *ON_EVERY_STEP, "--text", str(text_folder),
         "--out", str(out), *more], capture_output=True, text=True, env=environment,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="the name of the loopback differs")
def test_two_processes_train_as_one_does_and_take_over_from_one(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    training.main([*ON_EVERY_STEP, "--text", str(text_folder), "--out", str(tmp_path / "one")])

    def interrupt(stream, step, *rest):
        if step == 8:
            raise KeyboardInterrupt
        return batch(stream, step, *rest)

    monkeypatch.setattr(training, "batch", interrupt)
    training.main([*ON_EVERY_STEP, "--text", str(text_folder), "--out", str(tmp_path / "resumed")])
    for name, more in (("two", []), ("resumed", ["--resume"])):
        done = torchrun(2, text_folder, tmp_path / name, *more)
        assert done.returncode == 0, done.stderr

    def curve(name: str) -> list[float]:
        history = json.loads((tmp_path / name / "history.json").read_text("utf8"))["history"]
        return [row["train_loss"] for row in history[1:]]

    assert len(curve("one")) == 15
    for name in ("two", "resumed"):
        assert curve(name) == pytest.approx(curve("one"), abs=2e-4)
        for weight, other in zip(load_model(tmp_path / name).parameters(), load_model(tmp_path / "one").parameters(),
                                 strict=True):
            assert torch.allclose(weight, other, atol=1e-3)
    assert curve("resumed")[:8] == curve("one")[:8]


def test_contexts_that_cannot_be_shared_out_evenly_are_refused(corpus, sizes, monkeypatch):
    monkeypatch.setattr(training, "_n_processes", lambda: 3)
    with pytest.raises(ReaderError, match="2 contexts cannot be shared out evenly among 3 processes"):
        run(sizes, CONFIG, corpus)


# ---- the parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 1])
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", 0.03)])
def test_a_step_descends_the_mean_cross_entropy(corpus, sizes, n_layers, precision, tolerance):
    """Loss and gradients, against those of torch on the logits of the whole batch."""
    state = next(training.train(replace(sizes, n_layers=n_layers), replace(CONFIG, precision=precision), corpus))
    tokens = batch(corpus.train, 0, CONFIG, sizes.n_ctx)
    expected = F.cross_entropy(state.model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    weights = {"W_E": state.model.W_E, "W_U": state.model.W_U} if not n_layers else dict(state.model.named_parameters())
    gradients = torch.autograd.grad(expected, list(weights.values()))
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt().item()
    training._step(state, tokens, replace(CONFIG, precision=precision, clip=1e9))
    assert state.loss == pytest.approx(expected.item(), rel=tolerance)
    for weight, gradient in zip(weights.values(), gradients, strict=True):
        assert (weight.grad - gradient).norm() <= tolerance * norm


@given(length=st.integers(150, 2000), n_ctx=st.integers(4, 64), batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_sees_every_place_of_the_text_once(length, n_ctx, batch_size, seed):
    stream = np.arange(1, length + 1, dtype=np.uint16)
    config = replace(CONFIG, batch_size=batch_size, seed=seed)
    n_pieces = (length - n_ctx - 1) // n_ctx
    rows = torch.cat([batch(stream, step, config, n_ctx) for step in range(-(-2 * n_pieces // batch_size))])
    assert rows.shape[1] == n_ctx + 1 and (rows[:, 0] == START).all()
    for epoch in (rows[:n_pieces], rows[n_pieces : 2 * n_pieces]):
        seen = epoch[:, 1:].flatten().tolist()
        assert len(set(seen)) == len(seen) > length - 2 * n_ctx - 1
        assert max(seen) - min(seen) == len(seen) - 1
    assert (rows[:, 2:] == rows[:, 1:-1] + 1).all()


def test_snapshots_are_kept_on_the_way(corpus, sizes, tmp_path):
    state = run(sizes, replace(CONFIG, n_snapshots=4), corpus, tmp_path)
    save_model(state.model, tmp_path, torch.float32)
    assert sorted(file.name for file in (tmp_path / "snapshots").iterdir()) == [
        f"{step:06}.safetensors" for step in (0, 4, 8, 12)]
    last, first = (load_model(tmp_path, f"snapshots/{step:06}.safetensors") for step in (12, 0))
    assert torch.allclose(last.W_E, state.model.W_E, atol=2e-3) and not torch.allclose(last.W_U, first.W_U, atol=2e-3)


def test_a_batch_depends_on_seed_and_step_alone(corpus):
    alone = batch(corpus.train, 17, CONFIG, 64)
    for step in range(20):
        again = batch(corpus.train, step, CONFIG, 64)
        assert torch.equal(again, alone) == (step == 17)
    assert not torch.equal(batch(corpus.train, 17, replace(CONFIG, seed=1), 64), alone)


def test_the_order_changes_from_epoch_to_epoch():
    stream = np.arange(1, 1000, dtype=np.uint16)
    config = replace(CONFIG, batch_size=1)
    first, second = ([batch(stream, step, config, 64)[0, 1].item() for step in steps]
                     for steps in (range(14), range(14, 28)))
    assert first != second and first != sorted(first)


def test_the_learning_rate_warms_up_and_falls_to_its_final_share():
    config = replace(CONFIG, warmup_steps=10)
    shares = [schedule(step, 110, config) for step in range(110)]
    assert shares[:10] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert shares[10] == 1 and shares[60] == pytest.approx(0.55)
    assert all(one > other for one, other in zip(shares[10:], shares[11:], strict=False))
    assert schedule(110, 110, config) == pytest.approx(0.1)
    assert schedule(0, 5, replace(CONFIG, warmup_steps=0)) == 1


@given(st.integers(1, 100_000), st.integers(1, 100))
def test_measurements_go_from_the_first_step_to_the_last_without_too_many(n_steps, n):
    steps = measurement_steps(n_steps, n)
    assert len(steps) <= n and 1 in steps and max(steps) <= n_steps
    assert n == 1 or n_steps in steps
    assert Counter(type(step) for step in steps) == {int: len(steps)}


def test_precision_is_what_was_asked_for():
    assert training.matmul_dtype("float32") == torch.float32 and training.matmul_dtype("bfloat16") == torch.bfloat16
    assert training.matmul_dtype("auto") in (torch.float32, torch.bfloat16)


def test_bfloat16_trains_too(corpus, sizes, finished):
    state = run(sizes, replace(CONFIG, precision="bfloat16"), corpus)
    assert state.loss == pytest.approx(finished.loss, rel=0.02) and state.model.W_E.dtype == torch.float32


# ---- the command line -------------------------------------------------------------------------------------------

def test_the_command_line_trains_on_a_folder_of_text(text_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    training.main(["--layers", "1", "--text", str(text_folder), "--out", str(tmp_path / "run"), *TINY])
    model = load_model(tmp_path / "run")
    assert (model.config.n_layers, model.config.d_model, model.config.n_ctx) == (1, 16, 64)
    assert Tokenizer.load(tmp_path / "run" / "tokenizer.json").d_vocab == model.config.d_vocab
    card = json.loads((tmp_path / "run" / "history.json").read_text("utf8"))
    assert card["steps"] == 7 and card["history"][-1]["step"] == 7 and card["training"]["n_tokens"] == 1000


def test_arguments_change_a_recipe_and_leave_the_rest_as_it_is():
    def recipe(*arguments: str) -> Recipe:
        return training._recipe(training.argument_parser().parse_args(list(arguments)))

    assert [recipe("--layers", str(n)).model.n_layers for n in range(4)] == [0, 1, 2, 3]
    assert recipe() == recipe("--layers", "2") == RECIPES["two_layer"]
    assert recipe("--layers", "0", "--seed", "1").training == replace(RECIPES["zero_layer"].training, seed=1)
    laptop = recipe("--recipe", "laptop", "--heads", "3", "--context", "64")
    assert laptop.model == replace(RECIPES["laptop"].model, n_heads=3, n_ctx=64)


def test_all_models_of_the_book_are_regrown_and_none_twice(text_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    small = {"n_heads": 2, "d_model": 16, "d_head": 8, "d_vocab": 300, "n_ctx": 64}
    recipes = {name: Recipe(replace(recipe.model, **small), replace(recipe.training, n_tokens=512, batch_size=2))
               for name, recipe in RECIPES.items()}
    monkeypatch.setattr(training, "RECIPES", recipes)
    for verb in ("training", "done"):
        training.main(["--all", "--text", str(text_folder), "--out", str(tmp_path / "runs")])
        assert capsys.readouterr().out.count(f": {verb}") == 21
    runs = {folder.name: load_model(folder).config for folder in (tmp_path / "runs").iterdir()}
    shipped = {folder.name: folder for kind in ("models", "histories") for folder in (DATA / kind).iterdir()}
    assert set(runs) == set(shipped)
    assert {name for name, config in runs.items() if config.smeared_keys} == {n for n in shipped if "smeared" in n}
    assert [runs[name].n_layers for name in ("zero_layer_seed2", "laptop_one_layer_seed1", "laptop")] == [0, 1, 2]
    one, other = (load_model(tmp_path / "runs" / name) for name in ("one_layer", "one_layer_seed1"))
    assert not torch.equal(one.W_E, other.W_E)
    assert sorted((tmp_path / "runs").glob("*/snapshots")) == [tmp_path / "runs" / "laptop" / "snapshots"]


@pytest.mark.parametrize("arguments, sentence", [
    (["--text", "nowhere"], "There is no file or folder 'nowhere'"),
    (["--layers", "-1"], "No model has these sizes"),
    (["--d-model", "15"], "No model has these sizes"),
    (["--batch-size", "0"], "No training has these settings"),
    (["--learning-rate", "-1"], "No training has these settings"),
    (["--tokens", "10"], "less than one step"),
    (["--context", "9"], "choose at least 64"),
    (["--precision", "half"], "choose 'auto', 'float32' or 'bfloat16'"),
    (["--resume"], "start without --resume"),
])
def test_bad_arguments_are_answered_with_a_sentence(text_folder, tmp_path, monkeypatch, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("platformdirs.user_cache_path", lambda _: tmp_path / "cache")
    with pytest.raises(ReaderError, match=sentence):
        training.main(["--out", "run", "--text", str(text_folder), *TINY, *arguments])


@pytest.mark.parametrize("arguments", [["--tokens", "many"], ["--tokens", "nan"], ["--layers", "two"], ["--wrong"],
                                       ["--recipe", "x"]])
def test_arguments_that_cannot_be_read_end_with_the_usage(tmp_path, arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        training.main(["--out", str(tmp_path), *arguments])
    assert caught.value.code == 2 and "python -m helpers.training: error: " in capsys.readouterr().err.splitlines()[-1]


def test_the_command_itself_prints_the_sentence_and_no_traceback(tmp_path):
    done = subprocess.run([sys.executable, "-m", "helpers.training", "--text", "nowhere", "--out", str(tmp_path)],
                          capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("There is no file or folder 'nowhere'")


# ---- what is kept of a run --------------------------------------------------------------------------------------


def test_the_history_comes_back_as_it_was_written(corpus, sizes, tmp_path):
    state = run(sizes, CONFIG, corpus, tmp_path)
    assert load_history(tmp_path) == state.history


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"history": []}', "\xff"])
def test_a_missing_or_damaged_history_says_how_to_bring_it_back(tmp_path, content):
    if content is not None:
        (tmp_path / "history.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ReaderError, match=r"^The history in .* is missing or damaged .*: bring it back with 'git"):
        load_history(tmp_path)


def test_the_moments_of_a_run_are_its_start_its_snapshots_and_its_end(corpus, sizes, tmp_path):
    config = replace(CONFIG, n_snapshots=4, seed=5)
    kept = {state.step: {name: w.clone() for name, w in state.model.state_dict().items()}
            for state in training.train(sizes, config, corpus, tmp_path)}
    save_model(state_of(sizes, kept[N_STEPS]), tmp_path)
    moments = load_moments(tmp_path)
    assert list(moments) == [0, 4, 8, 12]
    for step, model in moments.items():
        assert not any(weight.requires_grad for weight in model.parameters())
        for name, weight in model.state_dict().items():
            torch.testing.assert_close(weight, kept[step][name], rtol=2e-3, atol=1e-6)
    assert torch.equal(moments[0].W_E, kept[0]["W_E"])


def state_of(sizes: ModelConfig, weights: dict) -> AttentionOnlyTransformer:
    model = AttentionOnlyTransformer(sizes)
    model.load_state_dict(weights)
    return model


def test_the_shipped_moments_are_those_of_the_laptop_recipe():
    moments = load_moments(DATA / "models" / "laptop")
    assert list(moments)[0] == 0 and list(moments)[-1] == 2929 and len(moments) == 12
    assert all(model.config == RECIPES["laptop"].model for model in moments.values())
    history = {row["step"]: row for row in load_history(DATA / "models" / "laptop")}
    for step in (0, 2929):  # the two that have a row of the history
        scores = prefix_matching_scores(moments[step], length=20)
        assert torch.allclose(scores, torch.tensor(history[step]["prefix_matching"]), atol=2e-3)


def test_the_recipes_for_the_laptop_differ_in_layers_and_keys_alone():
    laptop = RECIPES["laptop"]
    variants = {"laptop": (2, False), "laptop_one_layer": (1, False), "laptop_smeared": (1, True),
                "laptop_two_layer_smeared": (2, True)}
    for name, (n_layers, smeared) in variants.items():
        assert RECIPES[name] == Recipe(replace(laptop.model, n_layers=n_layers, smeared_keys=smeared), laptop.training)
    for name in ("laptop_one_layer", "laptop_smeared"):
        assert load_model(DATA / "models" / name).config == RECIPES[name].model
