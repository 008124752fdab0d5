"""Execute chapters from top to bottom and write them back clean: outputs in, widget state and timings out.

python -m tests.execute                     # every chapter
python -m tests.execute chapters/02_*.ipynb # some of them
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

CHAPTERS = Path(__file__).resolve().parent.parent / "chapters"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def execute(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(path.parent)}},
    ).execute()
    clean(notebook)
    nbformat.write(notebook, path)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop progress bars and everything that would differ from run to run; of a widget keep its still form, if any."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if stays(output)]


def stays(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return output.name != "stderr"
    data = output.get("data", {})
    return data.pop(WIDGET_VIEW, None) is None or set(data) > {"text/plain"}


if __name__ == "__main__":
    for path in [Path(p) for p in sys.argv[1:]] or sorted(CHAPTERS.glob("*.ipynb")):
        print(path.name, flush=True)
        execute(path)
