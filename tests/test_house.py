"""Who imports whom: nothing upward, nothing in a circle, and no file too long to read in one go."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "opefo_trl"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
# What a room, or a file beside the rooms, may import of the others; a table of CONTRIBUTING.md says the same
MAY_IMPORT = {
    "entropy_flow": set(),
    "grading": set(),
    "plotting": set(),
    "citation": set(),
    "hanging": set(),
    "guards": {"hanging"},
    "config": set(),
    "data": {"grading"},
    "evaluation": {"data", "grading"},
    "identity": set(),
    "writing": {"guards"},
    "watching": {"plotting"},
    "checkpoints": {"identity", "writing"},
    "seam": {"entropy_flow", "config", "guards"},
    "metrics": {"config", "guards", "seam"},
    "trainer": {"entropy_flow", "config", "citation", "guards", "checkpoints", "seam", "metrics", "watching"},
    "inspection": {"data", "entropy_flow", "trainer"},
    "commands": {
        "trainer",
        "config",
        "guards",
        "identity",
        "checkpoints",
        "data",
        "grading",
        "evaluation",
        "plotting",
        "inspection",
    },
}


def imports(name: str) -> set[str]:
    """Modules of the package that one of them imports, wherever in its code."""
    path = MODULES[name]
    package = name.removesuffix(".__init__").split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    found = {f"{module}.__init__" if f"{module}.__init__" in MODULES else module for module in found}
    return (found & MODULES.keys()) - {name}


def room(module: str) -> str:
    return module.split(".")[1]


def test_imports_are_seen():
    assert imports("opefo_trl.commands.train") >= {"opefo_trl.trainer", "opefo_trl.commands.arguments"}, (
        "lazy ones, too"
    )
    assert imports("opefo_trl.seam") >= {"opefo_trl.__init__", "opefo_trl.entropy_flow.weights"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"opefo_trl.__init__"}))
def test_nothing_is_imported_upward(name):
    own = room(name)
    rooms = {room(module) for module in imports(name) if module != "opefo_trl.__init__"}
    assert rooms - {own} <= MAY_IMPORT[own]


def test_nothing_is_imported_in_a_circle():
    # The package's own `__init__` imports the public classes when they are asked for
    graph = {name: imports(name) - {"opefo_trl.__init__"} for name in MODULES if name != "opefo_trl.__init__"}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES) - 1  # raises on a circle
    order = list(TopologicalSorter(MAY_IMPORT).static_order())
    assert order[-1] == "commands" and set(order) == {room(name) for name in graph}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_the_package_imports_neither_examples_nor_tests_nor_benchmarks(name):
    tree = ast.parse(MODULES[name].read_text())
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module.split(".")[0] for module in modules} & {"examples", "tests", "benchmarks"}


def test_no_file_is_long():
    files = [
        path for folder in ("opefo_trl", "examples", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")
    ]
    assert [str(path) for path in files if len(path.read_text().splitlines()) > 350] == []
    assert len(MODULES["opefo_trl.trainer"].read_text().splitlines()) <= 200


def test_every_room_is_in_the_table_for_contributors():
    table = (ROOT / "CONTRIBUTING.md").read_text()
    assert [name for name in MAY_IMPORT if f"`{name}" not in table] == []
