"""Training: the same seed gives the same bits, whatever happens on the way, and what it leaves can be loaded."""

import math
import multiprocessing
import os
import random
import re
import signal
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from helpers import START, ReaderError
from helpers.heads import loss_per_token
from helpers.history import load_card
from helpers.model import ModelConfig
from helpers.tokens import Tokenizer, load_encoded
from helpers.training import TrainingConfig, TrainingState, __main__, loop, run, train
from helpers.training.config import measurement_steps, schedule
from helpers.training.loop import batch
from helpers.training.machine import matmul_dtype
from helpers.weights import load_model
from tests.examples import texts
from tests.tiny import CONFIG, N_STEPS, same, same_tensors, sizes_for

KEPT = {"state.pt", "config.json", "model.safetensors", "history.json", "tokenizer.json"}


@pytest.fixture(scope="module")
def sizes(corpus) -> ModelConfig:
    return sizes_for(corpus)


@pytest.fixture(scope="module")
def finished(corpus, sizes) -> TrainingState:
    """A training that nobody disturbed."""
    return run(sizes, CONFIG, corpus)


# ---- the same bits ----------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(corpus, sizes, finished):
    assert same(run(sizes, CONFIG, corpus), finished)
    assert not same(run(sizes, replace(CONFIG, seed=1), corpus), finished)


def test_the_same_seed_gives_the_same_bits_on_several_threads_too(corpus):
    threads, config = torch.get_num_threads(), replace(CONFIG, n_tokens=5 * 8 * 64, batch_size=8)
    states = [loop.new_state(sizes_for(corpus, d_model=64), config, corpus) for _ in range(2)]
    torch.set_num_threads(2)
    try:
        for state in states:
            for step in range(5):
                loop.take_step(state, batch(corpus.train, step, config, 64), config)
    finally:
        torch.set_num_threads(threads)
    assert same(*states)


def test_a_training_learns_and_says_so(corpus, sizes, finished):
    assert finished.step == finished.n_steps == N_STEPS
    steps = [row["step"] for row in finished.history]
    assert steps == sorted(measurement_steps(N_STEPS, CONFIG.n_measurements)) and steps[-1] == N_STEPS
    first, last = finished.history[0], finished.history[-1]
    assert last["n_tokens"] == CONFIG.n_tokens and last["train_loss"] == finished.loss and "train_loss" not in first
    assert first["validation_loss"] == pytest.approx(math.log(sizes.d_vocab), abs=0.2)
    assert first["validation_loss"] > last["validation_loss"]
    tokens = corpus.contexts("validation", 32, 64)
    assert last["validation_loss"] == pytest.approx(loss_per_token(finished.model, tokens).mean().item(), abs=1e-4)


def test_every_state_is_seen_from_the_start_on(corpus, sizes):
    seen = []
    run(sizes, CONFIG, corpus, watch=lambda state: seen.append((state.step, len(state.history))))
    assert [step for step, _ in seen] == list(range(N_STEPS + 1)) and seen[0] == (0, 1)


def test_the_progress_bar_shows_no_loss_before_there_is_one(corpus, sizes, capsys):
    run(sizes, CONFIG, corpus, watch=lambda state: time.sleep(0.15 if state.step < 3 else 0))
    bar = capsys.readouterr().err
    assert "nan" not in bar and re.search(r"loss \d\.\d{3}", bar)


@pytest.mark.parametrize("stops", [[0], [1], [11], [12], [2, 3, 9]])
def test_a_training_that_was_stopped_and_resumed_gives_the_same_bits(corpus, sizes, finished, tmp_path, stops):
    for i, stop in enumerate(stops):
        for state in train(sizes, CONFIG, corpus, tmp_path, resume=i > 0):
            if state.step == stop:
                break
    resume = (tmp_path / "state.pt").exists()
    assert resume == (stops != [0])  # there is nothing to keep before the first step
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume), finished)


@pytest.mark.parametrize("n_layers, muon_learning_rate", [(0, 0.0), (2, 0.0), (0, 0.02), (2, 0.02)])
def test_other_depths_and_optimizers_resume_too(corpus, sizes, tmp_path, n_layers, muon_learning_rate):
    sizes, config = replace(sizes, n_layers=n_layers), replace(CONFIG, muon_learning_rate=muon_learning_rate)
    next(steps := train(sizes, config, corpus, tmp_path))
    next(steps)
    steps.close()
    assert same(run(sizes, config, corpus, tmp_path, resume=True), run(sizes, config, corpus))


# ---- what a training leaves behind --------------------------------------------------------------------------------


def agrees(folder: Path, state: TrainingState) -> bool:
    """Whether the files in ``folder`` are those of a training that has come to ``state``."""
    model, weights = load_model(folder), dict(state.model.named_parameters())
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return (
        {file.name for file in folder.iterdir()} == KEPT
        and model.config == state.model.config
        and all(torch.equal(weight, weights[name].half().float()) for name, weight in model.named_parameters())
        and tokenizer.fingerprint == state.tokenizer.fingerprint
        and load_card(folder)["steps"] == state.step
        and load_card(folder)["history"] == state.history
    )


def test_a_finished_training_can_be_loaded(corpus, sizes, finished, tmp_path):
    run(sizes, CONFIG, corpus, folder=str(tmp_path / "runs" / "mine"))
    assert agrees(tmp_path / "runs" / "mine", finished)
    assert same(run(sizes, CONFIG, corpus, tmp_path / "runs" / "mine", resume=True), finished)  # and changes nothing


def test_a_training_that_was_closed_can_be_loaded(corpus, sizes, tmp_path):
    for state in train(sizes, CONFIG, corpus, tmp_path):
        if state.step == 5:
            break
    assert agrees(tmp_path, state)


def test_a_training_can_be_loaded_while_it_runs(corpus, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    run(
        sizes,
        CONFIG,
        corpus,
        tmp_path,
        watch=lambda state: state.step and agrees(tmp_path, state) or 1 / (not state.step),
    )


def test_ctrl_c_ends_the_training_and_what_was_trained_can_be_loaded_and_resumed(
    corpus, sizes, finished, tmp_path, capsys
):
    def interrupt(state: TrainingState) -> None:
        if state.step == 5:
            raise KeyboardInterrupt

    state = run(sizes, CONFIG, corpus, tmp_path, watch=interrupt)
    assert state.step == 5 and agrees(tmp_path, state)
    sentence = f"Interrupted after 5 steps. Everything is kept in {tmp_path}: go on with resume=True, or --resume "
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_weights_are_kept_on_the_way(corpus, sizes, tmp_path):
    kept = {}

    def keep(state: TrainingState) -> None:
        kept[state.step] = state.model.W_U.detach().half().float()

    run(sizes, replace(CONFIG, n_checkpoints=4), corpus, tmp_path, watch=keep)
    files = sorted((tmp_path / "checkpoints").iterdir())
    assert [file.name for file in files] == [f"{step:06}.safetensors" for step in (0, 4, 8, 12)]
    for file in files:
        assert torch.equal(load_model(tmp_path, f"checkpoints/{file.name}").W_U, kept[int(file.stem)])


# ---- interruptions ----------------------------------------------------------------------------------------------


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def test_ctrl_c_in_the_middle_of_a_measurement_does_not_lose_its_row(corpus, sizes, finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        run(sizes, CONFIG, corpus, tmp_path,
            watch=lambda state: state.step == 3 and patch.setattr(loop, "measure", interrupt))  # fmt: skip
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_ctrl_c_in_the_middle_of_an_update_does_not_keep_half_of_it(corpus, sizes, finished, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)
    step = torch.optim.AdamW.step

    def half_a_step(optimizer):
        step(optimizer)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        run(sizes, CONFIG, corpus, tmp_path,
            watch=lambda state: state.step == 4 and patch.setattr(torch.optim.AdamW, "step", half_a_step))  # fmt: skip
    assert torch.load(tmp_path / "state.pt")["step"] == load_card(tmp_path)["steps"] == 4
    assert same(run(sizes, CONFIG, corpus, tmp_path, resume=True), finished)


def test_ctrl_c_before_the_first_state_returns_none(corpus, sizes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "measure", interrupt)
    assert run(sizes, CONFIG, corpus, tmp_path) is None
    assert capsys.readouterr().err.endswith("Interrupted after 0 steps.\n")
    assert [file.name for file in tmp_path.iterdir()] == ["tokenizer.json"]


def train_in_a_process_of_its_own(text_folder: Path, out: Path, *more: str) -> None:
    """The command line, slowed down, saving every twentieth of a second."""
    loop.SECONDS_BETWEEN_SAVES = 0.05
    loop.batch = lambda *step: time.sleep(0.005) or batch(*step)
    os.environ["XDG_CACHE_HOME"] = str(out.parent)
    __main__.main(["--layers", "1", "--heads", "2", "--d-model", "16", "--d-head", "8", "--context", "64", "--threads",
                   "1", "--precision", "float32", "--batch-size", "2", "--tokens", str(2 * 64 * 500),
                   "--text", str(text_folder), "--out", str(out), *more])  # fmt: skip


def disturb(process: BaseProcess, file: Path, seconds: float, how: int) -> None:
    """Send a signal some time after the process has written ``file`` itself."""
    before = file.stat().st_mtime_ns if file.exists() else 0
    while process.is_alive() and not (file.exists() and file.stat().st_mtime_ns != before):
        time.sleep(0.005)
    time.sleep(seconds)
    with suppress(ProcessLookupError):
        os.kill(process.pid, how)
    process.join()


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_training_that_was_killed_again_and_again_can_be_loaded_and_ends_in_the_same_bits(text_folder, tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["helpers.training.__main__", "torch._dynamo"])  # imported by every optimizer

    def start(out: Path, *more: str) -> BaseProcess:
        process = server.Process(target=train_in_a_process_of_its_own, args=(text_folder, out, *more))
        process.start()
        return process

    whole = start(undisturbed)
    dice, ends = random.Random(), []
    for how in (*[signal.SIGKILL] * 10, signal.SIGINT, *[signal.SIGKILL] * 10):
        process = start(killed, *["--resume"] * bool(ends))
        disturb(process, killed / "history.json", dice.uniform(0, 0.1), how)
        ends.append(process.exitcode)
        assert load_model(killed).config.d_vocab == Tokenizer.load(killed / "tokenizer.json").d_vocab
        assert load_card(killed)["steps"] > 0
    assert ends.count(-signal.SIGKILL) == 20
    for process in (whole, start(killed, "--resume")):
        process.join()
        assert process.exitcode == 0
    for name in KEPT - {"state.pt"}:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()


# ---- what goes wrong --------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_ends_the_training_and_leaves_what_was_saved(corpus, sizes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "SECONDS_BETWEEN_SAVES", 0)

    def spoil(state: TrainingState) -> None:
        if state.step == 7:
            state.model.W_U.data[0, 0] = math.inf

    with pytest.raises(ReaderError, match="^The loss is no longer a number: start again with a lower learning rate; "):
        run(sizes, CONFIG, corpus, tmp_path, watch=spoil)
    saved = torch.load(tmp_path / "state.pt")
    assert saved["step"] == 7 and all(weight.isfinite().all() for weight in saved["model"].values())
    assert load_model(tmp_path).W_U.isfinite().all()


def test_a_gradient_that_is_no_number_does_not_reach_the_weights(corpus, sizes, monkeypatch):
    clip = torch.nn.utils.clip_grad_norm_
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda weights, norm: math.inf * clip(weights, norm))
    states = train(sizes, CONFIG, corpus)
    state = next(states)
    before = state.model.W_E.clone()
    with pytest.raises(ReaderError, match="no longer a number"):
        next(states)
    assert torch.equal(state.model.W_E, before)


@pytest.mark.parametrize("learning_rate, found", [(1e30, "is no longer a number"), (10.0, "has risen to .* nats")])
def test_a_far_too_high_learning_rate_ends_with_a_sentence(corpus, sizes, learning_rate, found):
    with pytest.raises(ReaderError, match=f"^The loss {found}.*: start again with a lower learning rate; "):
        run(sizes, replace(CONFIG, learning_rate=learning_rate), corpus)


@pytest.mark.parametrize("settings", [
    {"precision": "float16"}, {"n_tokens": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan},
    {"warmup_steps": -1}, {"seed": -1}, {"n_measurements": 0}, {"n_checkpoints": -1},
])  # fmt: skip
def test_impossible_settings_are_answered_with_a_sentence(settings):
    with pytest.raises(ReaderError, match="No training has these settings|choose 'auto'"):
        TrainingConfig(**settings)


@pytest.mark.parametrize("changed, settings, sentence", [
    ({"n_ctx": 63}, {}, "A context of 63 tokens is too short: choose at least 64."),
    ({"n_ctx": 10_000}, {}, "is too short to train on contexts of 10000 tokens: add text."),
    ({"d_vocab": 300}, {}, "your texts has a vocabulary of .*: give the model d_vocab="),
    ({}, {"n_tokens": 127}, "127 tokens are less than one step of 2 contexts of 64: train on more."),
])  # fmt: skip
def test_settings_that_do_not_fit_are_answered_with_a_sentence(corpus, sizes, changed, settings, sentence):
    with pytest.raises(ReaderError, match=sentence):
        run(replace(sizes, **changed), replace(CONFIG, **settings), corpus)


@pytest.fixture
def stopped(corpus, sizes, tmp_path) -> Path:
    """The folder of a training that was stopped after two steps."""
    for state in train(sizes, CONFIG, corpus, tmp_path):
        if state.step == 2:
            break
    return tmp_path


def test_resuming_with_other_settings_or_another_text_is_refused(corpus, sizes, stopped):
    before = (stopped / "state.pt").read_bytes()
    other_text = load_encoded(texts(80), stopped / "cache", d_vocab=300)
    for other in (
        (replace(sizes, d_model=18), CONFIG, corpus),
        (sizes, replace(CONFIG, learning_rate=1e-3), corpus),
        (sizes, CONFIG, other_text),
    ):
        with pytest.raises(ReaderError, match=f"{stopped}.* is of a training with other settings or another text"):
            run(*other, stopped, resume=True)
    assert (stopped / "state.pt").read_bytes() == before


@pytest.mark.parametrize("folder", [None, "nowhere"])
def test_resuming_without_a_state_is_refused(corpus, sizes, tmp_path, folder):
    with pytest.raises(ReaderError, match=f"There is no training to resume in .*{folder or 'no folder'}: start one"):
        run(sizes, CONFIG, corpus, folder and tmp_path / folder, resume=True)


@pytest.mark.parametrize("damage", [
    lambda content: b"",
    lambda content: b"not a state",
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1000],
])  # fmt: skip
def test_a_damaged_state_is_refused(corpus, sizes, stopped, damage):
    file = stopped / "state.pt"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ReaderError, match=f"{file} is damaged .*: start again without resume."):
        run(sizes, CONFIG, corpus, stopped, resume=True)


@pytest.mark.parametrize("key", ["step", "history", "model", "optimizers", "config", "tokenizer"])
def test_a_state_that_lacks_something_is_refused(corpus, sizes, stopped, key):
    saved = torch.load(stopped / "state.pt")
    del saved[key]
    torch.save(saved, stopped / "state.pt")
    with pytest.raises(ReaderError, match="is damaged"):
        run(sizes, CONFIG, corpus, stopped, resume=True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(corpus, sizes, tmp_path):
    (tmp_path / "file").write_text("in the way", "utf8")
    with pytest.raises(ReaderError, match=f"{tmp_path}.* could not be written .*: free some space or choose another"):
        next(train(sizes, CONFIG, corpus, tmp_path / "file"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limits")
def test_a_full_disk_ends_the_training_with_a_sentence_and_leaves_what_was_saved(corpus, sizes, stopped):
    import resource

    before = {file.name: file.read_bytes() for file in stopped.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before["state.pt"]) // 2, limits[1]))
        with pytest.raises(ReaderError, match="state.pt could not be written .*: free some space"):
            run(sizes, CONFIG, corpus, stopped, resume=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {file.name: file.read_bytes() for file in stopped.iterdir()} == before and set(before) == KEPT


# ---- the parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_layers", [0, 1])
@pytest.mark.parametrize("precision, tolerance", [("float32", 1e-5), ("bfloat16", 0.03)])
def test_a_step_descends_the_mean_cross_entropy(corpus, sizes, n_layers, precision, tolerance):
    """Loss and gradients, against those of torch on the logits of the whole batch."""
    config = replace(CONFIG, precision=precision, clip=1e9)
    state = loop.new_state(replace(sizes, n_layers=n_layers), config, corpus)
    tokens = batch(corpus.train, 0, config, sizes.n_ctx)
    expected = F.cross_entropy(state.model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    weights = {"W_E": state.model.W_E, "W_U": state.model.W_U} if not n_layers else dict(state.model.named_parameters())
    gradients = torch.autograd.grad(expected, list(weights.values()))
    norm = sum(gradient.square().sum() for gradient in gradients).sqrt().item()
    loop.take_step(state, tokens, config)
    assert state.loss == pytest.approx(expected.item(), rel=tolerance)
    for weight, gradient in zip(weights.values(), gradients, strict=True):
        assert (weight.grad - gradient).norm() <= tolerance * norm


@given(length=st.integers(150, 2000), n_ctx=st.integers(4, 64), batch_size=st.integers(1, 5), seed=st.integers(0, 9))
def test_an_epoch_sees_every_place_of_the_text_once(length, n_ctx, batch_size, seed):
    text = np.arange(1, length + 1, dtype=np.uint16)
    config = replace(CONFIG, batch_size=batch_size, seed=seed)
    n_pieces = (length - n_ctx - 1) // n_ctx
    rows = torch.cat([batch(text, step, config, n_ctx) for step in range(-(-2 * n_pieces // batch_size))])
    assert rows.shape[1] == n_ctx + 1 and (rows[:, 0] == START).all()
    for epoch in (rows[:n_pieces], rows[n_pieces : 2 * n_pieces]):
        seen = epoch[:, 1:].flatten().tolist()
        assert len(set(seen)) == len(seen) > length - 2 * n_ctx - 1
        assert max(seen) - min(seen) == len(seen) - 1
    assert (rows[:, 2:] == rows[:, 1:-1] + 1).all()


def test_a_batch_depends_on_seed_and_step_alone(corpus):
    alone = batch(corpus.train, 17, CONFIG, 64)
    for step in range(20):
        again = batch(corpus.train, step, CONFIG, 64)
        assert torch.equal(again, alone) == (step == 17)
    assert not torch.equal(batch(corpus.train, 17, replace(CONFIG, seed=1), 64), alone)


def test_the_order_changes_from_epoch_to_epoch():
    text, config = np.arange(1, 1000, dtype=np.uint16), replace(CONFIG, batch_size=1)
    first, second = ([batch(text, step, config, 64)[0, 1].item() for step in steps]
                     for steps in (range(14), range(14, 28)))  # fmt: skip
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
def test_measurements_go_from_the_start_to_the_last_step_without_too_many(n_steps, n):
    steps = measurement_steps(n_steps, n)
    assert len(steps) <= n + 1 and {0, 1} <= steps and max(steps) <= n_steps
    assert n == 1 or n_steps in steps
    assert Counter(type(step) for step in steps) == {int: len(steps)}


def test_bfloat16_trains_too(corpus, sizes, finished):
    assert matmul_dtype("float32") == torch.float32 and matmul_dtype("bfloat16") == torch.bfloat16
    assert matmul_dtype("auto") in (torch.float32, torch.bfloat16)
    state = run(sizes, replace(CONFIG, precision="bfloat16"), corpus)
    assert state.loss == pytest.approx(finished.loss, rel=0.02) and state.model.W_E.dtype == torch.float32
    assert not same_tensors(state.model.state_dict(), finished.model.state_dict())
