"""A thousand texts that nobody should have to fear, typed into every text box of the book in a real browser."""

import json
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from nbformat import write
from nbformat.v4 import new_code_cell, new_notebook

from helpers import ReaderError
from helpers.corpus import without_surrogates
from helpers.exercises.chapter_09 import loss_by_hand
from helpers.explorers import token_of
from helpers.tokens import Tokenizer
from tests.benchmarks.explorers import EXPLORERS
from tests.browser.lab import CHROMIUM, CURRENT, browser, jupyter_lab, new_page, open_notebook, run_all

pytest.importorskip("playwright.sync_api", reason="these tests need a browser: pip install playwright")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium here: install one, or set CHROMIUM=/path/to/it")

N_TEXTS, AT_A_TIME, N_CTX = 1000, 20, 64
TEXT = "def f(self):\n    return self.f(self)\n"
WITHOUT_BOXES = {"copying_explorer", "edge_explorer", "training_explorer"}
ELSEWHERE = {
    "superposition_explorer",
    "feature_explorer",
    "neuron_explorer",
    "chain_explorer",
}  # of models of their own;
# only chains are typed, as a, b and c alone: tests/test_explorers_chains.py types the rest
FUZZED = {name: source for name, source in EXPLORERS.items() if name not in ELSEWHERE}
SMALL_MODELS = f"""
import torch
from helpers import explorers
from helpers.bigrams import count_bigrams
from helpers.circuits import composition_excess
from helpers.edges import KINDS, cut_edges
from helpers.exercises import predict
from helpers.formation import load_formation
from helpers.model import AttentionOnlyTransformer, ModelConfig
from helpers.text import Text
from helpers.tokens import EncodedCorpus, Tokenizer
sizes = [ModelConfig(n_layers, 12, 32, 2, n_ctx={N_CTX}) for n_layers in range(3)]
zero, one, two = (AttentionOnlyTransformer(size).requires_grad_(False) for size in sizes)
trainings, checkpoints = {{"laptop": load_formation("laptop")}}, {{0: two, 878: two}}
tokenizer = small = Tokenizer.load()
text = {TEXT!r}
ids = tokenizer.prompt(text, {N_CTX})[0].repeat(1100).numpy().astype("uint16")
corpus = EncodedCorpus("small", tokenizer, ids, ids, [])
shelf_text, bigrams = lambda: Text(corpus), count_bigrams(ids, tokenizer.d_vocab)
common = often = torch.arange(1, 40)
_, moved = cut_edges(two, corpus.contexts("train", n=2, n_ctx=20), torch.tensor([9, 18]))
excess, effects = {{kind: composition_excess(two, kind) for kind in KINDS}}, dict(zip(KINDS, moved.edges.mean(0)))
"""
LEAKS = [
    """
import ipywidgets
box, shown = ipywidgets.Text(continuous_update=False), ipywidgets.HTML()
ipywidgets.dlink((box, "value"), (shown, "value"))
ipywidgets.VBox([box, shown])""",
    """
box = ipywidgets.Text(continuous_update=False)
box.observe(lambda change: 1 / 0, names="value")
box""",
]

# ---- the texts --------------------------------------------------------------------------------------------------

MARK = "window.__hit=1"  # what a script would do, if one came through
HARMFUL = [
    "</script>",
    f"<script>{MARK}</script>",
    f"</textarea></code></p></output><script>{MARK}</script>",
    "<img src=x onerror=alert(1)>",
    f"<img src=fuzz-hit onerror={MARK}>",
    f'"><svg onload={MARK}>',
    f"'><svg/onload={MARK}//",
    f'" onmouseover="{MARK}" data-x="',
    f"\"{{}}]}}' autofocus onfocus={MARK} tabindex=0 ",
    "<iframe src=http://example.org/fuzz-hit></iframe>",
    f"<iframe srcdoc='<script>parent.{MARK}</script>'>",
    "<link rel=stylesheet href=//example.org/fuzz-hit.css>",
    "<style>*{display:none}</style>",
    f"<a href=javascript:{MARK}>a</a>",
    f"<details open ontoggle={MARK}>",
    f"<math><mtext></form><img src=fuzz-hit onerror={MARK}>",
    "<base href=http://example.org/fuzz-hit/>",
    f"javascript:{MARK}",
    f"![a](fuzz-hit) [a](javascript:{MARK})",
    "<!--",
    "--><!--]]>",
    "<![CDATA[",
    "&lt;b&gt; &#60;b&#62; &amp;amp; &",
    "&#0; &#x110000;",
]
ODD = [
    "",
    " ",
    "\n",
    "\r\n\r",
    "\t\t",
    "\0",
    "a\0b",
    "".join(map(chr, range(32))),
    "".join(map(chr, range(127, 160))),
    "\ud800",
    "\udfff\ud800",
    "a\udc80b",
    "\ufeff\ufffe\uffff",
    "\u202eobacht\u202c \u2066x\u2069",
    "שלום עולם",
    "مرحبا بالعالم 123",
    "a" + "\u0301" * 40,
    "Z\u0351\u036b\u0343a\u0321\u0353l",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈🇩🇪👍🏽",
    "😀" * 20,
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ﷽",
    "\u200b\u200d\u2028\u2029",
    "永和九年，歲在癸丑",
    "**bold** *em* `code` | a | b |",
    "```\n# heading\n- item",
    "$x^2$ $$\\frac{1}{2}$$ \\(a\\) \\begin{matrix}",
    '{"position": 1, "a": [null, true]}',
    '{"position": ' + "[" * 40,
    '{"__proto__": {"a": 1}}',
    "<START>",
    "<START><START> a",
    "␣self",
    "␣×7",
    "↵→␍▯",
    "\\x00\\u202e\\ud800",
    "%s %(name)s {0} {name!r} ${x} #{x}",
    "'; DROP TABLE tokens; --",
    "../../etc/passwd",
    "__import__('os').abort()",
    "None",
    "1e400",
    "nan",
    "-inf",
    "0x10",
    "1_0",
    "٣",
    "1,000.5",
    "5.0",
    "def",
    "return",
]
LONG = [
    "x" * 100_000,
    "<b>" * 30_000,
    "\ud800" * 100_000,
    "ab " * 500,
    "x" * 101,
    "Donaudampfschifffahrt" * 40,
    "9" * 5000,
]
RANGES = [(0, 32), (32, 127), (127, 256), (0x300, 0x370), (0x590, 0x700), (0x2000, 0x2070), (0x4E00, 0x9FFF)]
RANGES += [(0xD800, 0xE000), (0xFE00, 0x10000), (0x1F000, 0x1FAFF), (0xE0000, 0xE0080)]


def fuzzed(n: int, tokens: Sequence[str], seed: int = 0) -> list[str]:
    """The texts above, some of ``tokens``, and mixtures of all of them and of random characters."""
    draw = random.Random(seed)
    texts = [*HARMFUL, *ODD, *LONG, *draw.choices(tokens, k=n // 20)]
    while len(texts) < n:
        parts = draw.choices([*HARMFUL, *ODD], k=draw.randint(1, 3)) + draw.choices(tokens, k=draw.randint(0, 3))
        parts += ["".join(chr(draw.randrange(*draw.choice(RANGES))) for _ in range(draw.randint(0, 8)))]
        draw.shuffle(parts)
        texts.append(draw.choice(["", " ", "\n", '"']).join(parts))
    draw.shuffle(texts)
    return texts


# ---- what the page should say -----------------------------------------------------------------------------------


def expected(tokenizer: Tokenizer, text: str) -> dict:
    """The text, and for each kind of box what a page is to show: tokens, a token, or a sentence."""
    read = without_surrogates(json.loads(json.dumps(text)))  # two halves may be one character
    area, field = read.replace("\r\n", "\n").replace("\r", "\n"), read.replace("\n", "").replace("\r", "")
    return {
        "text": text,
        "area": _or_sentence(lambda: {"tokens": tokenizer.show_all(tokenizer.prompt(area, N_CTX)[0])}),
        "field": _or_sentence(lambda: {"token": tokenizer.show(token_of(tokenizer, field))}),
        "guess": _or_sentence(lambda: {"kept": bool(loss_by_hand.reply([field]))})
        if field
        else {"sentence": "Choose first, then commit."},
    }


def _or_sentence(show) -> dict:
    try:
        return show()
    except ReaderError as error:
        assert str(error).endswith(".") and "\n" not in str(error) and len(str(error)) < 1000, str(error)[:300]
        return {"sentence": str(error)}


# ---- in the page ------------------------------------------------------------------------------------------------

# Notes whatever should never happen. An element is foreign if it is of a kind that no cell had at first, or
# has a script in an attribute.
WATCH = f"""() => {{
  const cells = {CURRENT}.content.widgets.map(w => w.outputArea.node);
  const boxes = node => [...node.querySelectorAll('.widget-textarea textarea, .widget-text input')];
  const full = node => [...node.querySelectorAll('.book-view')].filter(view => view.firstElementChild.innerHTML);
  const count = (node, tag) => node.querySelectorAll(tag).length;
  const fuzz = window.fuzz = {{problems: [], boxes, full, cells: cells.flatMap((node, index) => boxes(node).length ? [{{
    node, index, n: full(node).length, pictures: count(node, 'img, svg'),
  }}] : [])}};
  const kinds = new Set(['P', 'B', ...cells.flatMap(node => [...node.querySelectorAll('*')]).map(e => e.tagName)]);
  const scripted = e => [...e.attributes].some(a => /^on|^srcdoc$/.test(a.name) || /fuzz-hit|__hit/.test(
    ['src', 'href', 'action', 'data'].includes(a.name) ? a.value : ''));
  const strange = e => scripted(e) || ['IFRAME', 'OBJECT', 'EMBED', 'BASE'].includes(e.tagName);
  fuzz.foreign = cell => [...cell.node.querySelectorAll('*')].filter(e => !kinds.has(e.tagName) || scripted(e))
    .map(e => e.outerHTML.slice(0, 200)).concat(count(cell.node, 'img, svg') > cell.pictures ? ['more pictures'] : []);
  new MutationObserver(records => records.flatMap(r => r.type === 'attributes' ? [r.target] : [...r.addedNodes]
    .filter(e => e.attributes).flatMap(e => [e, ...e.querySelectorAll('*')])).filter(strange)
    .forEach(e => fuzz.problems.push('foreign: ' + e.outerHTML.slice(0, 200)))
  ).observe(document, {{subtree: true, childList: true, attributes: true}});
  fuzz.kernel = {CURRENT}.sessionContext.session.kernel;
  fuzz.kernel.anyMessage.connect((_, {{msg}}) => {{
    if (['stream', 'error'].includes(msg.header.msg_type))
      fuzz.problems.push(msg.header.msg_type + ': ' + JSON.stringify(msg.content).slice(0, 2000));
  }});
  return fuzz.cells.map(cell => cell.index);
}}"""

# Gives every box every text as one who types it and goes on would; returns what is not as it should be.
TYPE = """async ([texts, patience]) => {
  const {cells, boxes, full, kernel, foreign, problems} = window.fuzz;
  const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
  const type = (box, text) => {
    box.value = text;
    for (const kind of ['input', 'change']) box.dispatchEvent(new Event(kind, {bubbles: true}));
  };
  const button = cell => [...cell.node.querySelectorAll('button')].find(b => b.textContent === 'Commit');
  const kind = cell => button(cell) ? 'guess' : boxes(cell.node)[0].tagName === 'TEXTAREA' ? 'area' : 'field';
  const due = (cell, text) => text[kind(cell)];
  const look = cell => cell.node.querySelectorAll('.book-tokens > :last-child').forEach(
    token => token.dispatchEvent(new PointerEvent('pointerover', {bubbles: true})));
  const wrong = (cell, text) => {
    const alerts = [...cell.node.querySelectorAll('[role=alert]')].map(a => a.textContent), seen = full(cell.node);
    const {sentence, tokens, token, kept} = due(cell, text);
    const rows = [...cell.node.querySelectorAll('.book-tokens')].map(row => [...row.children].map(t => t.textContent));
    const codes = [...cell.node.querySelectorAll('.book-view code')].map(c => c.textContent);
    if (sentence) return same(alerts, [sentence]) && !seen.length ? '' : 'not this sentence alone: ' + alerts;
    if (alerts.length) return 'a sentence: ' + alerts;
    if (kept) return cell.node.textContent.includes('Kept.') ? '' : 'the guess was not kept';
    if (seen.length !== cell.n) return `${seen.length} of ${cell.n} views`;
    if (token) return codes.includes(token) ? '' : 'another token: ' + codes[0];
    return rows.length ? (rows.every(row => same(row, tokens)) ? '' : 'other tokens: ' + rows[0])
      : !codes.length || codes.some(c => tokens.includes(c)) ? '' : 'another text: ' + codes;
  };
  const unclear = cell => {
    const alerts = cell.node.querySelectorAll('[role=alert]').length, seen = full(cell.node).length;
    return alerts ? (alerts > 1 || seen ? 'more than a sentence' : '') : seen === cell.n ? '' : 'fewer views';
  };
  const found = [];
  const settle = async (cell, text, complain) => {
    const start = performance.now();
    while (complain(cell, text) && performance.now() - start < patience) await new Promise(done => setTimeout(done, 5));
    look(cell);
    const complaints = [complain(cell, text), ...foreign(cell)].filter(Boolean);
    found.push(...complaints.map(complaint => [cell.index, text.text.slice(0, 300), complaint]));
  };
  const idle = () => kernel.requestCommInfo({target_name: 'none'});
  for (const text of JSON.parse(texts)) {
    for (const cell of cells) {
      const [first, ...others] = boxes(cell.node);
      others.forEach(box => type(box, ''));
      type(first, text.text);
      button(cell)?.click();
    }
    await idle();
    for (const cell of cells) {
      await settle(cell, text, wrong);
      const [first, ...others] = boxes(cell.node);
      if (due(cell, text).kept) {
        jupyterapp.shell.currentWidget.content.activeCellIndex = cell.index;
        await jupyterapp.commands.execute('notebook:run-cell');
      } else if (others.length) {
        type(first, 'def');
        others.forEach(box => type(box, text.text));
        await idle();
        await settle(cell, text, unclear);
      }
    }
  }
  if (window.__hit) problems.push('a script ran');
  return JSON.stringify(found.concat(problems.splice(0)));
}"""


def watched(chromium_page, url: str, folder: Path, cells: Sequence[str]) -> list[int]:
    """Run a notebook of these cells, and watch from now on; returns the cells that have a text box."""
    notebook = new_notebook(cells=[new_code_cell(source.strip()) for source in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    write(notebook, folder / "fuzz.ipynb")
    chromium_page.on("dialog", lambda dialog: (chromium_page.complaints.append(dialog.type), dialog.dismiss()))
    chromium_page.on("request", lambda request: _note(chromium_page, request.url))
    open_notebook(chromium_page, url, folder / "root", folder / "fuzz.ipynb")
    assert run_all(chromium_page) == []
    chromium_page.wait_for_timeout(2000)
    return chromium_page.evaluate(WATCH)


def _note(page, url: str) -> None:
    if "fuzz-hit" in url or url.endswith("/x"):
        page.refused.append(url)


def problems_with(page, texts: Sequence[dict], patience: int = 10_000) -> list:
    """What went wrong with these texts, where each cell has some milliseconds to show what it should."""
    return json.loads(page.evaluate(TYPE, [json.dumps(texts), patience]))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(the server's URL, the folder with its log)"""
    folder = tmp_path_factory.mktemp("lab")
    with jupyter_lab(folder) as url:
        yield url, folder


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


def complaints_of(log: Path) -> list[str]:
    """What the server and its kernels say of errors."""
    return [line for line in log.read_text("utf8").splitlines() if "Traceback" in line or "Error" in line]


def test_no_text_does_harm(lab, chromium):
    url, folder = lab
    tokenizer = Tokenizer.load()
    cells = [SMALL_MODELS, *FUZZED.values(), f'predict("{loss_by_hand.number}")']
    normal = expected(tokenizer, TEXT)
    texts = [expected(tokenizer, text) for text in fuzzed(N_TEXTS, tokenizer.show_all(range(tokenizer.d_vocab)))]
    shown, refused = (sum(kind in text["area"] for text in texts) for kind in ("tokens", "sentence"))
    assert len(texts) == N_TEXTS and shown > N_TEXTS / 2 and refused > N_TEXTS / 20
    with new_page(chromium) as page:
        with_boxes = watched(page, url, folder, cells)
        names = [*FUZZED, "prediction"]
        assert {names[index - 1] for index in with_boxes} == {*names} - WITHOUT_BOXES
        for start in range(0, N_TEXTS, AT_A_TIME):
            assert problems_with(page, texts[start : start + AT_A_TIME]) == []
        assert problems_with(page, [expected(tokenizer, "def"), normal]) == []
        assert page.complaints == [] and page.refused == []
    assert complaints_of(folder / "server.log") == []


def test_harm_is_seen(lab, chromium):
    url, folder = lab
    with new_page(chromium) as page:
        assert watched(page, url, folder, LEAKS) == [0, 1]
        texts = [expected(Tokenizer.load(), text) | {"field": {"token": ""}} for text in HARMFUL[3:6]]
        found = str(problems_with(page, texts, patience=500))
        assert all(sign in found for sign in ("foreign: <img", "foreign: <svg", "a script ran", "ZeroDivisionError"))
        assert "alert" in page.complaints and any("fuzz-hit" in url for url in page.refused)
