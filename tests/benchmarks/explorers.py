"""How long every control of every explorer takes to answer: in the kernel, and in a real JupyterLab in a browser.

python -m tests.benchmarks.explorers              # median and 95th percentile, milliseconds
python -m tests.benchmarks.explorers --kernel     # in the kernel alone

In the kernel, from a control's new value until everything below it has been handed over. In the browser, from the event
of the mouse or the keyboard until the page below the controls has changed for the last time. Explorers, models and
texts are those of the chapters. Do not run it beside other work.
"""

import argparse
import random
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
from nbformat.v4 import new_code_cell, new_notebook

from helpers.explorers import Explorer
from tests.browser.lab import browser, jupyter_lab, new_page, open_notebook, run_all

MODELS = """
import torch
from helpers import explorers
from helpers.bigrams import count_bigrams
from helpers.circuits import composition_excess
from helpers.dictionary import active_features, load_book_dictionary
from helpers.edges import KINDS, cut_edges
from helpers.feature_rules import features_on, find_rules, rule_families
from helpers.files import book_folder
from helpers.formation import load_formation
from helpers.history import load_checkpoints
from helpers.markov import bayes_optimal
from helpers.standard import StandardTransformer, fold
from helpers.weights import load_book_model
from helpers.superposition import Features, train_sweep
from helpers.text import frequent_tokens, shelf_text
from helpers.tokens import load_encoded
zero, one, two, chains = map(load_book_model, ("zero_layer", "one_layer", "two_layer", "markov"))
trainings = {name: load_formation(name) for name in ("laptop", "laptop_one_layer", "laptop_smeared")}
checkpoints, small = load_checkpoints(book_folder("laptop")), load_encoded(d_vocab=512).tokenizer
small_texts = load_encoded(d_vocab=512).contexts("validation", n=64, n_ctx=128, seed=99)
standard = fold(load_book_model("laptop_standard", kind=StandardTransformer))
corpus = load_encoded()
tokenizer = corpus.tokenizer
bigrams = count_bigrams(corpus.train, tokenizer.d_vocab)
common = frequent_tokens(corpus.train, tokenizer.d_vocab, len(corpus.train) // 40_000)
often = frequent_tokens(corpus.train, tokenizer.d_vocab, 5000)
text = tokenizer.decode(corpus.validation[5000:5060])
_, moved = cut_edges(two, corpus.contexts("validation", n=8, n_ctx=256), torch.tensor([126, 252]))
excess, effects = {kind: composition_excess(two, kind) for kind in KINDS}, dict(zip(KINDS, moved.edges.mean(0)))
dictionary, held_out = load_book_dictionary(), corpus.contexts("validation", n=64, n_ctx=256)
families = rule_families(two, tokenizer, held_out, (0, 6))
on = features_on(*active_features(two, dictionary, held_out), torch.zeros(dictionary.n_features))
rules = find_rules(families, on, families, on, dictionary.n_features)
sweeps = {come: train_sweep(Features(4, come), 2, (0.01, 0.05, 0.1, 0.2)) for come in ('independently', 'pairs apart')}
"""
EXPLORERS = {
    "text_explorer": "explorers.text_explorer(two, tokenizer, text, (1, 9))",
    "component_explorer": "explorers.component_explorer(two, tokenizer, text, 14)",
    "stream_explorer": "explorers.stream_explorer(two, tokenizer, text, (1, 9))",
    "superposition_explorer": "explorers.superposition_explorer(sweeps, 0.1)",
    "chain_explorer": "explorers.chain_explorer(chains, 'abacabbacabaab', 13, {'counts': bayes_optimal})",
    "bigram_explorer": "explorers.bigram_explorer(zero, tokenizer, '␣import', bigrams, ['self', 'def'])",
    "head_explorer": "explorers.head_explorer(one, shelf_text(), ' plt', (0, 11))",
    "copying_explorer": "explorers.copying_explorer(one, tokenizer, (0, 5), common)",
    "ablation_explorer": "explorers.ablation_explorer(two, tokenizer, text, [(0, 6)])",
    "edge_explorer": "explorers.edge_explorer(two, tokenizer, excess, effects, often, (0, 6), (1, 9))",
    "feature_explorer": "explorers.feature_explorer(two, dictionary, tokenizer, held_out, rules, 100)",
    "neuron_explorer": "explorers.neuron_explorer(standard, small, small_texts, 1, 630)",
    "path_explorer": "explorers.path_explorer(two, tokenizer, text, 35)",
    "checkpoint_explorer": "explorers.checkpoint_explorer(checkpoints, small, text[:120], (1, 0), 878)",
    "training_explorer": "explorers.training_explorer(trainings, 560)",
}


def next_values(control: ipywidgets.ValueWidget, texts: list[str], tokens: list[str]) -> Iterator:
    """Values that a reader might give a control, one after the other, each different from the one before."""
    draw = random.Random(0)
    while True:
        if isinstance(control, ipywidgets.ToggleButton):
            yield not control.value
            continue
        if isinstance(control, ipywidgets.Textarea):
            choices = texts
        elif control.description == "Chain":
            choices = ["".join("abc"[ord(c) % 3] for c in text)[:60] for text in texts]
        elif isinstance(control, ipywidgets.Text):
            choices = tokens
        elif isinstance(control, ipywidgets.IntSlider):
            choices = range(control.min, control.max + 1)
        else:
            choices = [value for _, value in control._options_full]
        yield draw.choice([value for value in choices if value != control.value])


def in_the_kernel(explorer: Explorer, texts: list[str], tokens: list[str], n: int) -> dict[str, list[float]]:
    """Milliseconds of ``n`` moves of each control."""
    times = defaultdict(list)
    for control, value in moves(explorer, texts, tokens, n):
        start = time.perf_counter()
        control.value = value
        times[_name(control)].append(1000 * (time.perf_counter() - start))
        assert not explorer.message.value, explorer.message.value
    return times


def moves(
    explorer: Explorer, texts: list[str], tokens: list[str], n: int
) -> Iterator[tuple[ipywidgets.ValueWidget, object]]:
    """``n`` values for each control, and for all buttons together."""
    n_buttons = sum(isinstance(control, ipywidgets.ToggleButton) for control in explorer.controls.values())
    for control in explorer.controls.values():
        values = next_values(control, texts, tokens)
        is_button = isinstance(control, ipywidgets.ToggleButton)
        for _ in range(max(2, n // n_buttons) if is_button else n):
            yield control, next(values)


def _name(control: ipywidgets.ValueWidget) -> str:
    return "Buttons" if isinstance(control, ipywidgets.ToggleButton) else control.description


# Gives a control its next value as the mouse or the keyboard would; resolves to the milliseconds until the last change
# of what is shown below has been painted, or to null if nothing changed.
MOVE = """async ([index, description, kind, value]) => {
  const notebook = jupyterapp.shell.currentWidget.content, cell = notebook.widgets[index].node;
  await notebook.scrollToItem(index);
  await new Promise(done => setTimeout(done, 100));
  const named = [...cell.querySelectorAll('label, button')].find(e => e.textContent.trim() === description);
  const control = named.tagName === 'BUTTON' ? named : named.parentElement;
  const input = control.querySelector('select, textarea, input');
  const moves = {
    Dropdown: () => { input.selectedIndex = value; input.dispatchEvent(new Event('change', {bubbles: true})); },
    Text: () => { input.value = value; input.dispatchEvent(new Event('change', {bubbles: true})); },
    Slider: () => control.querySelector('.noUi-handle').dispatchEvent(
      new KeyboardEvent('keydown', {key: value, bubbles: true, cancelable: true})),
    ToggleButton: () => control.click(),
  };
  let last = null;
  const painted = () => requestAnimationFrame(() => { last = performance.now(); });
  const observer = new MutationObserver(painted);
  cell.querySelectorAll('.book-view').forEach(
    view => observer.observe(view, {subtree: true, childList: true, characterData: true}));
  const start = performance.now();
  moves[kind]();
  for (let at = start; at - Math.max(start, last ?? 0) < 300; at = performance.now())
    await new Promise(done => setTimeout(done, 50));
  observer.disconnect();
  return last && last - start;
}"""


def in_the_browser(
    page, index: int, explorer: Explorer, texts: list[str], tokens: list[str], n: int
) -> dict[str, list[float]]:
    """Milliseconds of ``n`` moves of each control of the explorer in a cell of the page."""
    times = defaultdict(list)
    for i, (control, value) in enumerate(moves(explorer, texts, tokens, n)):
        control.value = value
        took = page.evaluate(MOVE, [index, control.description, *_in_the_page(control, i)])
        times[_name(control)] += [took] if took else []
    assert all(len(of_control) > 1 for of_control in times.values()), f"moves that change nothing: {times}"
    return times


def _in_the_page(control: ipywidgets.ValueWidget, i: int) -> tuple[str, str | int | None]:
    """How to give a control its value in the page; a slider goes a step or two to and fro."""
    match control:
        case ipywidgets.IntSlider() | ipywidgets.SelectionSlider():
            return "Slider", "ArrowLeft" if i % 6 < 3 else "ArrowRight"
        case ipywidgets.Dropdown():
            return "Dropdown", control.index
        case ipywidgets.ToggleButton():
            return "ToggleButton", None
    return "Text", control.value


def line(name: str, times: list[float]) -> str:
    return f"{name:42} {np.median(times):7.0f} {np.percentile(times, 95):7.0f} {max(times):7.0f}"


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.benchmarks.explorers", description=__doc__.splitlines()[0])
    parser.add_argument("explorers", nargs="*", choices=[[], *EXPLORERS], help="all by default")
    parser.add_argument("--kernel", action="store_true", help="leave the browser out")
    parser.add_argument("-n", type=int, default=40, help="moves of each control")
    a = parser.parse_args()
    chosen = {name: EXPLORERS[name] for name in a.explorers or EXPLORERS}
    space: dict = {}
    exec(MODELS, space)
    tokenizer, validation = space["tokenizer"], space["corpus"].validation
    texts = [2 * tokenizer.decode(validation[start : start + 24]) for start in range(0, 60_000, 1000)]
    tokens = [t for t in tokenizer.show_all(space["common"]) if "\\x" not in t and "▯" not in t]
    print(f"{'in the kernel, ms':42} {'median':>7} {'p95':>7} {'largest':>7}")
    for name, source in chosen.items():
        for control, times in in_the_kernel(eval(source, space), texts, tokens, a.n).items():
            print(line(f"{name}, {control}", times), flush=True)
    if not a.kernel:
        measure_in_the_browser(chosen, space, texts, tokens, a.n)


def measure_in_the_browser(chosen: dict[str, str], space: dict, texts: list[str], tokens: list[str], n: int) -> None:
    with tempfile.TemporaryDirectory() as folder, jupyter_lab(Path(folder)) as url, browser() as chromium:
        file, root = Path(folder) / "explorers.ipynb", Path(folder) / "root"
        notebook = new_notebook(cells=[new_code_cell(source) for source in (MODELS, *chosen.values())])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, file)
        with new_page(chromium) as page:
            open_notebook(page, url, root, file)
            assert not (errors := run_all(page)), errors
            page.wait_for_timeout(3000)
            print(f"{'in the browser, ms':42} {'median':>7} {'p95':>7} {'largest':>7}")
            for index, (name, source) in enumerate(chosen.items(), start=1):
                for control, times in in_the_browser(page, index, eval(source, space), texts, tokens, n).items():
                    print(line(f"{name}, {control}", times), flush=True)
            assert page.complaints == [] and page.refused == [], (page.complaints, page.refused)


if __name__ == "__main__":
    main()
