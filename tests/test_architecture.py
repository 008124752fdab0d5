"""The promises of the package about itself: checked types, who imports whom, what a student reads, no dead code."""

import ast
import importlib.util
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import jaxtyping
import pytest
import torch

import helpers
from helpers.heads import previous_token_score
from helpers.model import sinusoids

REPOSITORY = Path(__file__).resolve().parent.parent
FLOORS = " ".join(re.findall(r"^ {4}(.+)$", helpers.__doc__, re.MULTILINE)).split()  # lowest first
STUDENTS_PATH = ("model", "circuits", "heads")
LINES_OF_THE_STUDENTS_PATH = 900
LONGEST_FUNCTION, MEDIAN_FUNCTION = 40, 6  # lines


def dotted(file: Path) -> str:
    name = ".".join(file.relative_to(REPOSITORY).with_suffix("").parts)
    return name.removesuffix(".__init__")


MODULES = {dotted(file): file for file in sorted((REPOSITORY / "helpers").rglob("*.py"))}
PARTS = [module for module in MODULES if module != "helpers"]
TREES = {name: ast.parse(file.read_text("utf8")) for name, file in MODULES.items()}


def floor(module: str) -> str:
    return module.split(".")[1]


def code_of(notebook: Path) -> ast.Module:
    """The code cells of a notebook, without commands to IPython."""
    cells = [cell for cell in json.loads(notebook.read_text("utf8"))["cells"] if cell["cell_type"] == "code"]
    lines = "\n".join("".join(cell["source"]) for cell in cells).splitlines()
    return ast.parse("\n".join(line for line in lines if not re.match(r"\s*[%!]", line)))


CHAPTERS = {file.name: code_of(file) for file in sorted((REPOSITORY / "chapters").glob("*.ipynb"))}


def imports(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """What is imported anywhere in a piece of code: module and name, which is empty for ``import module``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports within helpers are written out"
            yield from ((node.module, alias.name) for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of helpers that one of them imports, but for the package itself."""
    found = {f"{name}.{part}" if f"{name}.{part}" in MODULES else name for name, part in imports(TREES[module])}
    return found & set(PARTS)


# ---- types ------------------------------------------------------------------------------------------------------


def test_a_wrong_shape_and_a_wrong_type_are_errors_in_every_test():
    with pytest.raises(jaxtyping.TypeCheckError):
        previous_token_score(torch.ones(2, 5, 5))  # no heads
    with pytest.raises(jaxtyping.TypeCheckError):
        sinusoids(n_ctx=5, d_model="6")


@pytest.mark.parametrize("module", MODULES)
def test_annotations_of_every_module_are_checked(module):
    assert type(importlib.util.find_spec(module).loader).__module__.startswith("jaxtyping")


# ---- floors -----------------------------------------------------------------------------------------------------


def test_the_list_of_modules_is_complete():
    assert sorted(FLOORS) == sorted({floor(module) for module in PARTS})


@pytest.mark.parametrize("module", PARTS)
def test_a_module_imports_only_from_those_before_it_in_the_list(module):
    below = FLOORS[: FLOORS.index(floor(module))]
    packages = {floor(module)} if MODULES[module].parent.name != "helpers" else set()
    assert {floor(name) for name in imported_modules(module)} <= {*below, *packages}


@pytest.mark.parametrize("package", ["training", "claims", "explorers"])
def test_no_modules_of_a_package_import_each_other_in_a_circle(package):
    inside = [module for module in MODULES if module.startswith(f"helpers.{package}")]
    assert len(inside) > 1
    TopologicalSorter({module: imported_modules(module) & set(inside) for module in inside}).prepare()


def test_nothing_that_explorers_need_trains():
    needed, new = set(), {"helpers.explorers"}
    while new:
        needed |= new
        new = set().union(*map(imported_modules, new)) - needed
    assert not {"training", "history", "live"} & {floor(module) for module in needed}


def test_one_module_knows_circuitsvis():
    importers = [name for name, tree in (TREES | CHAPTERS).items() if any("circuitsvis" in m for m, _ in imports(tree))]
    assert importers == ["helpers.head_views"]


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_chapters_take_nothing_from_claims_but_their_check(chapter):
    taken = [(module, name) for module, name in imports(CHAPTERS[chapter]) if module.startswith("helpers.claims")]
    assert set(taken) <= {("helpers.claims", "check"), ("helpers.claims.others", "asked_of")}


# ---- what a student reads and loads ------------------------------------------------------------------------------


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after it ran ``code``."""
    command = [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"]
    return set(subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split())


@pytest.mark.slow
def test_a_model_loads_without_widgets_figures_or_tokenizers():
    bare = loaded_by("import torch, safetensors.torch, jaxtyping")
    ours = loaded_by(
        "from helpers import circuits, heads\nfrom helpers.weights import load_book_model\nload_book_model('two_layer')"
    )
    expected = {"helpers", "helpers.files", "helpers.weights", *(f"helpers.{name}" for name in STUDENTS_PATH)}
    assert {module for module in ours if module.split(".")[0] == "helpers"} == expected
    unwanted = {"tokenizers", "platformdirs", "matplotlib", "IPython", "ipywidgets", "anywidget", "circuitsvis"}
    assert not {module for module in ours if module.split(".")[0] in unwanted}
    assert not {module for module in ours - bare if re.match(r"tqdm|torch\.distributed", module)}


def test_the_students_path_can_be_read_in_one_sitting():
    lines = [len(MODULES[f"helpers.{name}"].read_text("utf8").splitlines()) for name in STUDENTS_PATH]
    assert sum(lines) <= LINES_OF_THE_STUDENTS_PATH


FUNCTIONS = [
    (module, node)
    for module, tree in TREES.items()
    for node in ast.walk(tree)
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
]


def test_functions_are_short():
    sizes = {f"{module}.{node.name}": node.end_lineno - node.lineno + 1 for module, node in FUNCTIONS}
    assert not {name: size for name, size in sizes.items() if size > LONGEST_FUNCTION}
    assert statistics.median(node.end_lineno - node.lineno + 1 for _, node in FUNCTIONS) <= MEDIAN_FUNCTION


# ---- nothing that only tests use ---------------------------------------------------------------------------------

USED_INDIRECTLY = {
    "forward",  # by calling a torch.nn.Module
    "set_state",  # by ipywidgets, for what a page sends
    "solution",  # by readers, in cells of their own
    "markdown2html",  # by nbconvert, whose settings in data/jupyter name it
    *("inline_math", "latex_environment"),  # by mistune, for what it finds
}


def uses(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name and attribute in a piece of code, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)):
            yield (node.id if isinstance(node, ast.Name) else node.attr), node.lineno


USES = {where: list(uses(tree)) for where, tree in (TREES | CHAPTERS).items()}


def is_claim(node: ast.AST) -> bool:
    """Whether a function is registered by ``@claim(...)``, which is how the ledger finds it."""
    return any(isinstance(d, ast.Call) and getattr(d.func, "id", "") == "claim" for d in node.decorator_list)


def is_used(module: str, node: ast.AST) -> bool:
    """Whether a definition is named anywhere but in itself. Python and IPython call names that end in an underscore."""
    if re.fullmatch(r"_.*_", node.name) or node.name in USED_INDIRECTLY or is_claim(node):
        return True
    inside = range(node.lineno, node.end_lineno + 1)
    return any(
        name == node.name and not (where == module and line in inside)
        for where, names in USES.items()
        for name, line in names
    )


def test_every_function_method_and_class_is_used_in_helpers_or_in_a_chapter():
    classes = [(m, node) for m, tree in TREES.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert [f"{module}.{node.name}" for module, node in FUNCTIONS + classes if not is_used(module, node)] == []
