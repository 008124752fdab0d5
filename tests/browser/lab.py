"""A JupyterLab of its own for a test, and one of its notebooks open in a headless browser."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
TOKEN = "test"
PATIENCE = 120  # seconds to wait for one thing, on a machine that is busy with others
CURRENT = "jupyterapp.shell.currentWidget"

# What the page itself can tell.
KERNEL_IS_IDLE = f"() => window.jupyterapp && {CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'"
RUN_ALL = """seconds => Promise.race([
  jupyterapp.commands.execute('notebook:run-all-cells').then(() => true),
  new Promise(done => setTimeout(done, 1000 * seconds, false))
])"""
ERRORS = f"""() => Array.from({CURRENT}.content.model.cells).filter(c => c.type === 'code')
  .flatMap(c => c.outputs.toJSON()).filter(o => o.output_type === 'error').map(o => o.ename + ': ' + o.evalue)"""


@contextmanager
def jupyter_lab(folder: Path) -> Iterator[str]:
    """Serve ``folder/root`` with the settings that this environment gives every reader; yields the server's URL.

    Configuration, workspaces and IPython's own files are apart from the user's, in ``folder``.
    """
    (folder / "root").mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = {
        name: str(folder / name.lower())
        for name in (
            "JUPYTER_CONFIG_DIR",
            "JUPYTER_DATA_DIR",
            "JUPYTER_RUNTIME_DIR",
            "JUPYTERLAB_SETTINGS_DIR",
            "JUPYTERLAB_WORKSPACES_DIR",
            "IPYTHONDIR",
        )
    }
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--notebook-dir={folder / 'root'}",
        f"--IdentityProvider.token={TOKEN}",
        "--LabApp.expose_app_in_browser=True",
    ]
    with open(folder / "server.log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | home)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for_server(server, url, folder / "server.log")
            yield url
        finally:
            server.terminate()
            server.wait(30)


def _wait_for_server(server: subprocess.Popen, url: str, log: Path, seconds: float = PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(f"{url}/api/status?token={TOKEN}", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


def setting(url: str, plugin: str) -> dict:
    """A plugin's settings as the server hands them to every reader: its schema's defaults with the overrides."""
    with urllib.request.urlopen(f"{url}/lab/api/settings/{plugin}?token={TOKEN}") as answer:
        return {name: entry.get("default") for name, entry in json.load(answer)["schema"]["properties"].items()}


@contextmanager
def browser():
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@contextmanager
def new_page(chromium, width: int = 1200, height: int = 1000):
    """A page that may talk to this machine only. ``refused`` lists what it may not, ``complaints`` its errors."""
    page = chromium.new_page(viewport={"width": width, "height": height})
    page.refused, page.complaints = [], []
    page.route("**/*", lambda route: _only_local(page, route))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.set_default_timeout(1000 * PATIENCE)
    yield page
    page.close()


def _only_local(page, route) -> None:
    if route.request.url.startswith(("http://127.0.0.1", "data:", "blob:")):
        route.continue_()
    else:
        page.refused.append(route.request.url)
        route.abort()


def open_notebook(page, url: str, root: Path, notebook: Path) -> None:
    """Copy ``notebook`` below the server's ``root``, open it alone on the page and wait for its kernel."""
    (root / "chapters").mkdir(exist_ok=True)
    shutil.copy(notebook, root / "chapters")
    page.goto(f"{url}/doc/tree/chapters/{notebook.name}?token={TOKEN}&reset")
    page.wait_for_selector(".jp-Notebook")
    page.wait_for_function(KERNEL_IS_IDLE)


def run_all(page, seconds: float = 300) -> list[str]:
    """Run every cell and wait for the last; returns the errors."""
    if not page.evaluate(RUN_ALL, seconds):
        raise TimeoutError(f"The notebook was still running after {seconds} seconds.")
    return page.evaluate(ERRORS)
