"""The shape of the code: who may import whom, what stays light, how long things may be."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = sorted((ROOT / "imgprep").rglob("*.py"))
TRAIN = sorted((ROOT / "train").rglob("*.py"))
ALL_PYTHON = sorted(
    path
    for folder in ("imgprep", "train", "tests", "tools")
    for path in (ROOT / folder).rglob("*.py")
)

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 60
HEAVY = {"numpy", "PIL", "sklearn", "scipy", "simplejpeg"}
TRAINING_ONLY = {"torch", "torchvision", "nvidia", "train"}
READS = {  # what the training may use of imgprep: nothing that builds a dataset
    f"imgprep.{name}"
    for name in (
        *(
            "colour",
            "console",
            "dataset",
            "errors",
            "image.jpegfile",
            "order",
            "pages",
            "processors",
            "progress",
        ),
        *("storage", "verify", "wording", "__version__"),
    )
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


def imported_names(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names of what is imported; ``from a import b`` yields ``a`` and ``a.b``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots_imported(path: Path) -> set[str]:
    """First parts of all imports in a file, those inside functions too."""
    return {name.partition(".")[0] for name in imported_names(ast.walk(tree_of(path)))}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.mark.parametrize("path", PACKAGE, ids=relative)
def test_package_imports_nothing_of_training_tools_or_tests(path: Path) -> None:
    assert not roots_imported(path) & (TRAINING_ONLY | {"tools", "tests"})


@pytest.mark.parametrize("path", TRAIN, ids=relative)
def test_training_imports_of_imgprep_only_what_reads(path: Path) -> None:
    roots = roots_imported(path)
    assert not roots & {"tools", "tests"}
    names = set(imported_names(ast.walk(tree_of(path))))
    ours = {name for name in names if name.startswith("imgprep.")}
    allowed = {name for name in ours if any(f"{name}.".startswith(f"{read}.") for read in READS)}
    assert {name for name in ours - allowed if name != "imgprep.image"} == set()


@pytest.mark.parametrize("path", TRAIN, ids=relative)
def test_only_the_graph_imports_dali(path: Path) -> None:
    assert "nvidia" not in roots_imported(path) or path.name == "graph.py"


@pytest.mark.parametrize(
    "path", [path for path in TRAIN if path.name not in ("cli.py", "__main__.py")], ids=relative
)
def test_only_the_command_line_prints_or_exits(path: Path) -> None:
    calls = {
        ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)
    }
    assert not calls & {"print", "exit", "sys.exit", "os._exit", "quit"}


@pytest.mark.parametrize("path", ALL_PYTHON, ids=relative)
def test_nothing_imports_tools(path: Path) -> None:
    assert "tools" not in roots_imported(path)


def modules_imported(tree: ast.Module, modules: set[str]) -> set[str]:
    """Those of ``modules`` that are imported anywhere in a file, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & modules
            if inner - modules:  # something that the package itself defines
                found.add(node.module)
    return found & modules


@pytest.mark.parametrize("package", [PACKAGE, TRAIN], ids=["imgprep", "train"])
def test_modules_import_each_other_without_a_circle(package: list[Path]) -> None:
    names = {module_name(path) for path in package}
    graph = {
        module_name(path): modules_imported(tree_of(path), names) - {module_name(path)}
        for path in package
    }
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) == names


def test_only_the_entry_point_imports_the_command_line() -> None:
    importers = {
        module_name(path)
        for path in [*PACKAGE, *TRAIN]
        if {"imgprep.cli", "train.cli"} & set(imported_names(ast.walk(tree_of(path))))
    }
    assert importers <= {"imgprep.__main__", "train.__main__"}


@pytest.mark.parametrize(
    "action",
    [
        "import imgprep",
        "import imgprep.cli",
        *(
            f"sys.argv = {['imgprep', *words]!r}; import imgprep.cli; imgprep.cli.main()"
            for words in (
                ["--help"],
                ["--version"],
                ["scan", "--help"],
                ["build-shards", "--help"],
                ["stats", "--help"],
                ["verify", "--help"],
            )
        ),
    ],
)
def test_help_and_import_load_nothing_heavy(action: str) -> None:
    assert_loads_none_of(HEAVY | TRAINING_ONLY, action)


@pytest.mark.parametrize(
    "action",
    [
        "import train.config",
        "import train.cli",
        *(
            f"sys.argv = {['train', *words]!r}; import train.cli; train.cli.main()"
            for words in (["--help"], ["fit", "--help"], ["evaluate", "--help"])
        ),
    ],
)
def test_help_and_settings_load_neither_torch_nor_dali(action: str) -> None:
    assert_loads_none_of(TRAINING_ONLY - {"train"}, action)


def assert_loads_none_of(heavy: set[str], action: str) -> None:
    code = (
        "import atexit, sys\n"
        f"heavy = {heavy!r}\n"
        "atexit.register(lambda: print('LOADED', sorted(heavy & set(sys.modules))))\n"
        f"{action}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("path", ALL_PYTHON, ids=relative)
def test_module_has_a_docstring_and_is_short(path: Path) -> None:
    tree, lines = tree_of(path), len(path.read_text("utf-8").splitlines())
    assert ast.get_docstring(tree) or not tree.body, f"{relative(path)} has no docstring"
    assert lines <= MAX_MODULE_LINES, f"{relative(path)} has {lines} lines"


@pytest.mark.parametrize("path", ALL_PYTHON, ids=relative)
def test_functions_are_short(path: Path) -> None:
    too_long = {
        node.name: node.end_lineno - node.lineno + 1
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not too_long
