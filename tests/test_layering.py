"""The house rules, read from the source: which module may import which, what is never imported, sizes, docstrings."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "mlxr"
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 80

# Part -> parts it may import, bottom first. A part is a file or folder of mlxr/.
# cli, server -> engine -> scheduler | runner -> models -> kernels, pages. The weights and the tokenizer
# know no other part, except that a tokenizer may be read from a GGUF file.
BOTTOM = {"errors", "home", "_version", "_blas"}
DATA = BOTTOM | {"config", "sequence", "output", "memory"}
BELOW_ENGINE = DATA | {"weights", "tokenizer", "kernels", "pages", "models", "batch", "sampler", "scheduler", "runner", "pace", "persistence"}
BELOW_CLI = BELOW_ENGINE | {"engine", "quality", "api", "inspection", "inspection_gguf", "conversion", "guides", "calibration", "caldera"}
MAY_IMPORT = {
    "errors": set(),
    "home": {"errors"},
    "_version": set(),
    "_blas": set(),
    "config": {"errors"},
    "sequence": BOTTOM | {"config"},
    "output": BOTTOM | {"config", "sequence"},
    "memory": BOTTOM | {"config"},
    "weights": BOTTOM,
    "tokenizer": BOTTOM | {"weights"},
    "kernels": DATA | {"pages", "weights"},  # weights: how blocks decode
    "pages": DATA | {"kernels"},
    "models": DATA | {"kernels", "pages", "weights"},
    "batch": DATA,
    "sampler": DATA | {"kernels"},
    "scheduler": DATA | {"pages"},
    "runner": DATA | {"batch", "sampler", "models", "kernels", "pages"},
    "guides": BOTTOM,
    "pace": set(),
    "persistence": {"pages"},
    "calibration": DATA | {"weights", "pages"},
    "rehearsal": DATA | {"kernels", "models", "scheduler"},
    "trial": DATA | {"kernels", "scheduler"},
    "engine": BELOW_ENGINE | {"rehearsal", "trial", "calibration"},
    "charts": set(),
    "quality": BELOW_ENGINE | {"engine", "charts", "calibration"},
    "doctor": BELOW_ENGINE | {"engine", "benchmarks"},
    "planning": BELOW_ENGINE | {"engine", "charts"},
    "inspection": BELOW_ENGINE | {"engine"},
    "inspection_gguf": BELOW_ENGINE | {"inspection"},
    "caldera": BOTTOM,
    "conversion": BELOW_ENGINE | {"caldera"},
    "api": BELOW_ENGINE | {"engine", "quality"},
    "benchmarks": BELOW_ENGINE | {"engine", "calibration", "charts"},
    "cli": BELOW_CLI | {"server", "benchmarks", "planning", "doctor"},
    "server": BELOW_CLI,
    "": BELOW_CLI,  # mlxr/__init__.py
    "__main__": {"cli"},
}
# Parts that may import mlxr's own modules inside functions, to start fast: commands; the hub, which a local path does not
# need (huggingface_hub takes 0.3 s); chat templates, which a plain prompt does not need (jinja2 takes 50 ms).
LATE_IMPORTS = {"cli", "tokenizer", "weights"}
DYNAMIC_IMPORTS = {"mlxr", "mlxr.cli.main", "mlxr.kernels", "mlxr.models.zoo", "mlxr.pages.formats",
                   "mlxr.weights.quants"}  # the public names, the registries, and the seam to mlx-lm
WITHOUT_MLX = {"mlxr", "mlxr.errors", "mlxr.config", "mlxr.sequence", "mlxr.scheduler", "mlxr.pages.allocator",
               "mlxr.pages.prefix_cache", "mlxr.pages.store", "mlxr.pace", "mlxr.cli.main"}
NEVER = {"transformers", "torch", "mlx_lm"}  # mlx_lm's own __init__ brings transformers: models.zoo goes around it


def read_modules():
    """{dotted name: syntax tree} of the package; the tree of a package's __init__ has the package's name."""
    modules = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("mlxr", *path.relative_to(PACKAGE).with_suffix("").parts)
        is_package = parts[-1] == "__init__"
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        tree.is_package, tree.lines = is_package, len(path.read_text(encoding="utf-8").splitlines())
        modules[".".join(parts[:-1] if is_package else parts)] = tree
    return modules


def part_of(module):
    """The part of the house a dotted name belongs to ("" for mlxr itself)."""
    name = (module.split(".") + [""])[1]
    return name


def imports_of(module, tree, known):
    """[(imported dotted name, line, inside a function?)]; `from x import y` names x.y where that is a module."""
    found = []

    def visit(node, in_function):
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                anchor = module.split(".")[: (1 if tree.is_package else 0) + len(module.split(".")) - node.level]
                base = ".".join([*anchor, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.append((inner if inner in known else base, node.lineno, in_function))
        for child in ast.iter_child_nodes(node):
            visit(child, in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)))

    visit(tree, False)
    return found


def is_own(name):
    return name == "mlxr" or name.startswith("mlxr.")


def import_problems(module, tree, known):
    """One line for each import that breaks a rule."""
    problems, part = [], part_of(module)
    allowed = MAY_IMPORT.get(part, set())
    for name, line, in_function in sorted(set(imports_of(module, tree, known))):
        at = f"{module}:{line} imports {name}"
        if name.split(".")[0] in NEVER:
            problems.append(f"{at}: never at run time")
        if not is_own(name):
            continue
        if in_function and part not in LATE_IMPORTS:
            problems.append(f"{at} inside a function: only {', '.join(LATE_IMPORTS)} may")
        if name == "mlxr":
            problems.append(f"{at}, the public face; import the module that defines the name")
        elif part_of(name) != part and part_of(name) not in allowed:
            problems.append(f"{at}: {part or 'mlxr'} may import only {', '.join(sorted(allowed))}")
    for node in ast.walk(tree):
        if "TYPE_CHECKING" in (getattr(node, "id", ""), getattr(node, "attr", ""), getattr(node, "name", "")):
            problems.append(f"{module}:{getattr(node, 'lineno', '?')} uses TYPE_CHECKING")
        called = getattr(node, "func", None)
        if {getattr(called, "attr", ""), getattr(called, "id", "")} & {"import_module", "__import__"}:
            if module not in DYNAMIC_IMPORTS:
                problems.append(f"{module}:{node.lineno} imports by name; only the modules in DYNAMIC_IMPORTS may")
    return problems


def shape_problems(module, tree):
    """One line for a missing docstring, a long file, each long function."""
    problems = []
    if ast.get_docstring(tree) is None or tree.body[0].lineno != 1:
        problems.append(f"{module}: the first line must be a docstring that says what the module is for")
    if tree.lines >= MAX_FILE_LINES:
        problems.append(f"{module}: {tree.lines} lines; files stay under {MAX_FILE_LINES}")
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = node.end_lineno - node.lineno + 1
            if lines >= MAX_FUNCTION_LINES:
                problems.append(f"{module}:{node.lineno} {node.name}: {lines} lines; stay under {MAX_FUNCTION_LINES}")
    return problems


def find_cycle(graph):
    """A list of names that import each other in a ring, or None."""
    state = {}

    def walk(name, trail):
        state[name] = "open"
        for target in sorted(graph.get(name, ())):
            if state.get(target) == "open":
                return [*trail[trail.index(target):], target]
            if target not in state:
                ring = walk(target, [*trail, target])
                if ring:
                    return ring
        state[name] = "done"
        return None

    for name in sorted(graph):
        ring = None if name in state else walk(name, [name])
        if ring:
            return ring
    return None


def top_level_graph(modules):
    """{module: mlxr modules that its import runs, without the packages around them}."""
    graph = {}
    for module, tree in modules.items():
        graph[module] = {name for name, _, late in imports_of(module, tree, modules) if is_own(name) and not late}
        graph[module].discard(module)
    return graph


def brings(module, library, modules):
    """The chain of modules by which importing `module` imports `library`, or None. Parent packages are run too."""
    graph, chains, todo = top_level_graph(modules), {module: [module]}, [module]
    while todo:
        name = todo.pop()
        outside = [n for n, _, late in imports_of(name, modules[name], modules) if not late and not is_own(n)]
        if any(n.split(".")[0] == library for n in outside):
            return chains[name]
        pieces = name.split(".")
        parents = {".".join(pieces[:i]) for i in range(1, len(pieces))}
        for target in (graph[name] | parents) & modules.keys():
            if target not in chains:
                chains[target] = [*chains[name], target]
                todo.append(target)
    return None


def report(problems):
    """Fail with these lines and nothing else, when there are any."""
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


MODULES = read_modules()


def test_every_part_has_its_place():
    parts = {part_of(module) for module in MODULES}
    assert {"errors", "pages", "models"} <= parts
    assert not parts - MAY_IMPORT.keys(), "give the new part a row in MAY_IMPORT"
    assert set().union(*MAY_IMPORT.values()) <= MAY_IMPORT.keys()


def test_parts_form_layers():
    """Only kernels and pages, which are one layer, may import each other."""
    graph = {part: allowed - ({"kernels"} if part == "pages" else set()) for part, allowed in MAY_IMPORT.items()}
    assert find_cycle(graph) is None


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports(module):
    report(import_problems(module, MODULES[module], MODULES))


@pytest.mark.parametrize("module", sorted(MODULES))
def test_shape(module):
    report(shape_problems(module, MODULES[module]))


def test_no_modules_import_each_other_in_a_ring():
    assert find_cycle(top_level_graph(MODULES)) is None


@pytest.mark.parametrize("module", sorted(WITHOUT_MLX & MODULES.keys()))
def test_plain_modules_do_not_bring_mlx(module):
    assert brings(module, "mlx", MODULES) is None


# The rules themselves, on source that breaks them.


def tree_of(source, is_package=False):
    tree = ast.parse(source)
    tree.is_package, tree.lines = is_package, len(source.splitlines())
    return tree


@pytest.mark.parametrize("module, source, expected", [
    ("mlxr.kernels.a", "from ..engine import x", "mlxr.kernels.a:1 imports mlxr.engine: kernels may import only"),
    ("mlxr.kernels.a", "from .. import engine", "imports mlxr.engine: kernels"),
    ("mlxr.kernels.a", "import mlxr.engine", "imports mlxr.engine: kernels"),
    ("mlxr.pages.a", "from .. import LLM", "the public face"),
    ("mlxr.runner", "from .scheduler import Plan", "imports mlxr.scheduler: runner"),
    ("mlxr.weights.gguf", "from ..tokenizer import y", "imports mlxr.tokenizer: weights"),
    ("mlxr.engine", "def f():\n    from .runner import Runner", "mlxr.engine:2 imports mlxr.runner inside a function"),
    ("mlxr.engine", "class A:\n    def f(self):\n        if 1:\n            from . import runner", "inside a function"),
    ("mlxr.engine", "def f():\n    import transformers.models", "never at run time"),
    ("mlxr.engine", "from mlx_lm.models import llama", "never at run time"),
    ("mlxr.engine", "from typing import TYPE_CHECKING", "uses TYPE_CHECKING"),
    ("mlxr.engine", "import typing\nif typing.TYPE_CHECKING: pass", "uses TYPE_CHECKING"),
    ("mlxr.engine", "import importlib\nimportlib.import_module('mlxr.cli')", "imports by name"),
    ("mlxr.unknown", "from .errors import MlxrError", "unknown may import only"),
])
def test_the_rules_find_bad_imports(module, source, expected):
    known = {"mlxr", "mlxr.engine", "mlxr.runner", "mlxr.scheduler", "mlxr.weights", "mlxr.errors"}
    problems = import_problems(module, tree_of(source), known)
    assert len(problems) == 1 and expected in problems[0], problems


@pytest.mark.parametrize("module, source, is_package", [
    ("mlxr.engine", "import json\nfrom .runner import Runner\nfrom .errors import MlxrError", False),
    ("mlxr.engine", "def f():\n    import huggingface_hub", False),
    ("mlxr.cli.chat", "def run():\n    from ..api import LLM", False),
    ("mlxr.pages", "from .pool import x\nfrom ..errors import y", True),
    ("mlxr.pages.formats", "from ..record import x\nfrom ...errors import y\nfrom . import plain", True),
])
def test_the_rules_let_good_imports_pass(module, source, is_package):
    assert not import_problems(module, tree_of(source, is_package), {"mlxr.pages.formats.plain", *MODULES})


def test_the_rules_find_bad_shapes():
    assert shape_problems("m", tree_of('"""Doc."""\nx = 1')) == []
    assert "docstring" in shape_problems("m", tree_of("x = 1"))[0]
    assert "docstring" in shape_problems("m", tree_of('\n# comment\n"""Doc."""'))[0]
    assert "400 lines" in shape_problems("m", tree_of('"""Doc."""' + "\n#" * 399))[0]
    assert "f: 80 lines" in shape_problems("m", tree_of('"""Doc."""\ndef f():' + "\n    x = 1" * 79))[0]


def test_the_rules_find_rings_and_mlx():
    modules = {"mlxr": tree_of("", True), "mlxr.a": tree_of("from . import b"), "mlxr.b": tree_of("from .p.c import x"),
               "mlxr.p": tree_of("import mlx.core", True), "mlxr.p.c": tree_of("def f():\n    from .. import a")}
    assert find_cycle(top_level_graph(modules)) is None  # an import inside a function closes no ring
    assert brings("mlxr.a", "mlx", modules) == ["mlxr.a", "mlxr.b", "mlxr.p.c", "mlxr.p"]
    modules["mlxr.p.c"] = tree_of("from .. import a")
    assert find_cycle(top_level_graph(modules)) == ["mlxr.a", "mlxr.b", "mlxr.p.c", "mlxr.a"]
