"""Several processes train as one does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import ReaderError
from helpers.history import load_history
from helpers.training import __main__, loop, run
from helpers.weights import load_model
from tests.tiny import ARGUMENTS, CONFIG, sizes_for

SETTINGS = ["--layers", "1", *ARGUMENTS, "--tokens", "2000"]


def torchrun(n_processes: int, text_folder: Path, out: Path, *more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "XDG_CACHE_HOME": str(out.parent / "cache")}
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1",
         f"--nproc-per-node={n_processes}", "-m", "helpers.training", *SETTINGS, "--text", str(text_folder),
         "--out", str(out), *more], capture_output=True, text=True, env=environment,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the name of the loopback differs")
def test_two_processes_train_as_one_does_and_take_over_from_one(text_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    __main__.main([*SETTINGS, "--text", str(text_folder), "--out", str(tmp_path / "one")])
    batch = loop.batch

    def interrupt(tokens, step, *rest):
        if step == 8:
            raise KeyboardInterrupt
        return batch(tokens, step, *rest)

    monkeypatch.setattr(loop, "batch", interrupt)
    __main__.main([*SETTINGS, "--text", str(text_folder), "--out", str(tmp_path / "resumed")])
    for name, more in (("two", []), ("resumed", ["--resume"])):
        done = torchrun(2, text_folder, tmp_path / name, *more)
        assert done.returncode == 0, done.stderr

    def curve(name: str) -> list[float]:
        return [row["train_loss"] for row in load_history(tmp_path / name)[1:]]

    assert len(curve("one")) == 15 and curve("resumed")[:8] == curve("one")[:8]
    for name in ("two", "resumed"):
        assert curve(name) == pytest.approx(curve("one"), abs=2e-4)
        weights = (load_model(tmp_path / folder).parameters() for folder in (name, "one"))
        assert all(torch.allclose(weight, other, atol=1e-3) for weight, other in zip(*weights, strict=True))


def test_contexts_that_cannot_be_shared_out_evenly_are_refused(corpus, monkeypatch):
    monkeypatch.setattr(loop, "n_processes", lambda: 3)
    with pytest.raises(ReaderError, match="2 contexts cannot be shared out evenly among 3 processes"):
        run(sizes_for(corpus), CONFIG, corpus)
