"""Code of one style, held by ruff with the settings of pyproject.toml and chapters/.ruff.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("command", [["check"], ["format", "--check"]], ids=["check", "format"])
def test_ruff_has_nothing_to_say(command):
    options = ["--no-cache", "--output-format=concise"]
    ruff = [sys.executable, "-m", "ruff", *command, *options, "helpers", "tests", "chapters"]
    done = subprocess.run(ruff, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
