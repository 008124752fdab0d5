"""Run a chapter in a real JupyterLab and take pictures of it from top to bottom.

python -m tests.browser.look chapters/03_one_layer_skip_trigrams.ipynb OUTDIR
python -m tests.browser.look chapters/03_one_layer_skip_trigrams.ipynb OUTDIR --as-saved --dark
"""

import argparse
import tempfile
from pathlib import Path

from tests.browser.lab import browser, jupyter_lab, new_page, open_notebook, run_all

SCROLLER = ".jp-Notebook .jp-WindowedPanel-outer"
SCROLL = """(scroller, top) => {
  scroller.scrollTop = top;
  const end = Array.from(scroller.querySelectorAll('.jp-Cell')).at(-1).getBoundingClientRect().bottom;
  return [scroller.scrollTop, scroller.clientHeight, end - scroller.getBoundingClientRect().bottom];
}"""


def look(notebook: Path, out: Path, run: bool = True, dark: bool = False, height: int = 1400) -> list[Path]:
    """Pictures of ``notebook`` in ``out``, in slices as high as the window; prints what went wrong, if anything."""
    with (
        tempfile.TemporaryDirectory() as folder,
        jupyter_lab(Path(folder)) as url,
        browser() as chromium,
        new_page(chromium, 1100, height) as page,
    ):
        open_notebook(page, url, Path(folder) / "root", notebook)
        if dark:
            page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
        for error in run_all(page) if run else []:
            print(error)
        page.wait_for_timeout(3000)  # for pictures alone: whatever is still being drawn
        pictures = take_slices(page, out, notebook.stem)
        print(*page.complaints, *(f"refused: {address}" for address in page.refused), sep="\n")
    return pictures


def take_slices(page, out: Path, name: str) -> list[Path]:
    """Scroll from the top to the end of the last cell, a picture at each stop."""
    out.mkdir(parents=True, exist_ok=True)
    scroller, pictures, wanted, below = page.locator(SCROLLER).first, [], 0, 1
    while below > 0:
        scroller.evaluate(SCROLL, wanted)
        page.wait_for_timeout(700)
        top, seen, below = scroller.evaluate(SCROLL, wanted)
        pictures.append(out / f"{name}-{len(pictures):02}.png")
        page.screenshot(path=pictures[-1])
        wanted = top + seen - 60
    return pictures


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.browser.look", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--as-saved", action="store_true", help="do not run it: how a reader finds it")
    parser.add_argument("--dark", action="store_true")
    parser.add_argument("--height", type=int, default=1400, help="of a slice, in pixels")
    a = parser.parse_args()
    print(*look(a.notebook, a.out, not a.as_saved, a.dark, a.height), sep="\n")
