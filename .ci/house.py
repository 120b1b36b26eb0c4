"""The rules of the house that no linter knows, held against every module of the three packages; `make check-house`.

It finds import circles between files, two modules of one name, long modules and functions, modules that nobody imports, and
public names without a docstring. Import arrows between packages are lint-imports' task.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("susc_pipeline", "resources", "assets")
MODULE_LINES = 300
FUNCTION_LINES = 50
# Modules that a command, Dagster or a reader begins with, so that no module need import them.
ENTRY_POINTS = (
    "assets.definitions",  # workspace.yaml
    "assets.cli",  # the commands of susc-pipeline
    "resources.ray_launcher",  # deploy/ray/dagster.yaml
    *("resources.columns", "resources.configuration", "resources.notebook"),  # make columns, or by hand
    *("resources.development", "resources.postgres", "resources.train_tiny"),  # make development, postgres, tiny-model
    "susc_pipeline.__main__",  # the command susc-pipeline itself
    *("susc_pipeline.quickstart", "susc_pipeline.store"),  # README, As a library
    *(
        f"susc_pipeline.patterning.{name}"
        for name in ("datamodeling", "group_losses", "reweighting", "weighted_corpus")
    ),
)
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class Module(NamedTuple):
    """A file, its dotted name, and what Python reads in it."""

    path: Path
    name: str
    text: str
    tree: ast.Module


def modules(root: Path) -> list[Module]:
    """Every module of the three packages below a folder, a package's `__init__` under the name of the package."""
    found = []
    for path in sorted(path for package in PACKAGES for path in (root / package).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Module(path.relative_to(root), name, text, ast.parse(text)))
    return found


def imported(module: Module, names: set[str]) -> set[str]:
    """The modules among `names` that a module names in its imports, those inside functions too.

    `from package import module` names the module; the package around a module that is named does not count.
    """
    found = set()
    if "registry.collected(" in module.text:  # it imports what lies beside it
        found |= {name for name in names if name.rpartition(".")[0] == module.name}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in names else node.module for each in whole.values()}
    return (found & names) - {module.name}


def circles(graph: dict[str, set[str]]) -> Iterator[str]:
    """Each set of modules that reach one another by imports."""
    reached = {name: _reached(graph, name) for name in graph}
    circle = {frozenset(other for other in reached[name] if name in reached[other]) for name in graph}
    for members in sorted(map(sorted, circle - {frozenset()})):
        yield f"{' and '.join(members)} import one another"


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found, waiting = set(), list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting.extend(graph[name])
    return found


def same_names(found: list[Module]) -> Iterator[str]:
    """Files of one name, wherever they lie: who hears `corpus.py` shall find one file. A folder's name may be a file's too."""
    counts = Counter(module.path.name for module in found if module.path.name != "__init__.py")
    for name in sorted(name for name, count in counts.items() if count > 1):
        yield f"{' and '.join(str(module.path) for module in found if module.path.name == name)} have one name"


def long_parts(module: Module) -> Iterator[str]:
    """The module, if it is too long, and each function that is, from `def` on, without its docstring."""
    n_lines = module.text.count("\n")
    if n_lines > MODULE_LINES:
        yield f"{module.path} has {n_lines} lines, more than {MODULE_LINES}"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if ast.get_docstring(node):
                length -= (node.body[0].end_lineno or 0) - node.body[0].lineno + 1
            if length > FUNCTION_LINES:
                yield f"{module.path}: {node.name} has {length} lines, more than {FUNCTION_LINES}"


def undocumented(module: Module) -> Iterator[str]:
    """The module, and public classes and functions at its top or in a public class, that have no docstring."""
    if not ast.get_docstring(module.tree):
        yield f"{module.path} has no docstring"
    waiting: list[Definition] = [node for node in module.tree.body if isinstance(node, Definition)]
    for node in waiting:
        if not node.name.startswith("_"):
            waiting.extend(inner for inner in getattr(node, "body", []) if _is_member(node, inner))
            if not ast.get_docstring(node):
                yield f"{module.path}: {node.name} has no docstring"


def _is_member(outer: ast.AST, inner: ast.AST) -> bool:
    return isinstance(outer, ast.ClassDef) and isinstance(inner, Definition)


def findings(root: Path) -> list[str]:
    """All that is against the rules below a folder, a line each."""
    found = modules(root)
    names = {module.name for module in found}
    graph = {module.name: imported(module, names) for module in found}
    wanted = {name for reads in graph.values() for name in reads} | set(ENTRY_POINTS)
    nobody = [module for module in found if module.name not in wanted and module.path.name != "__init__.py"]
    return [
        *circles(graph),
        *same_names(found),
        *(f"nobody imports {module.path}, and it is no entry point" for module in nobody),
        *(f"entry point {name} does not exist" for name in ENTRY_POINTS if name not in names),
        *(line for module in found for line in (*long_parts(module), *undocumented(module))),
    ]


def main() -> int:
    """Print what was found; 1 where there is something."""
    found = findings(Path(__file__).resolve().parents[1])
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
