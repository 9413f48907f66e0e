"""The shape of the code: who may import whom, what stays light, how long things may be."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import cache
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
# What the training may use of imgprep: nothing that builds a dataset.
READS = [
    *("colour", "console", "dataset", "errors", "order", "pages", "processors", "progress"),
    *("spec", "storage", "verify", "wording", "__version__"),
]


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), filename=str(path))


@cache
def imported_names(path: Path) -> frozenset[str]:
    """Dotted names of all imports, also inside functions; ``from a import b``: ``a``, ``a.b``."""
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(path)}: a relative import"
            found.add(str(node.module))
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(found)


def roots_imported(path: Path) -> set[str]:
    """First parts of all imports in a file."""
    return {name.partition(".")[0] for name in imported_names(path)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def offenders(paths: Iterable[Path], fault: Callable[[Path], object]) -> dict[str, object]:
    """What ``fault`` finds wrong, by file."""
    return {relative(path): found for path in paths if (found := fault(path))}


def test_the_package_imports_nothing_of_training_tools_or_tests() -> None:
    banned = TRAINING_ONLY | {"tools", "tests"}
    assert offenders(PACKAGE, lambda path: roots_imported(path) & banned) == {}


def test_the_training_imports_of_imgprep_only_what_reads() -> None:
    def other_imports(path: Path) -> set[str]:
        ours = {name for name in imported_names(path) if name.startswith("imgprep.")}
        return {name for name in ours if name.split(".")[1] not in READS}

    assert offenders(TRAIN, other_imports) == {}


def test_nothing_imports_tools_and_the_training_does_not_import_tests() -> None:
    assert offenders(ALL_PYTHON, lambda path: roots_imported(path) & {"tools"}) == {}
    assert offenders(TRAIN, lambda path: roots_imported(path) & {"tests"}) == {}


def test_only_the_graph_imports_dali() -> None:
    others = [path for path in TRAIN if path.name != "graph.py"]
    assert offenders(others, lambda path: roots_imported(path) & {"nvidia"}) == {}


def test_only_the_command_line_of_the_training_prints_or_exits() -> None:
    banned = {"print", "exit", "sys.exit", "os._exit", "quit"}

    def banned_calls(path: Path) -> set[str]:
        calls = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
        return {ast.unparse(call.func) for call in calls} & banned

    libraries = [path for path in TRAIN if path.name not in ("cli.py", "__main__.py")]
    assert offenders(libraries, banned_calls) == {}


def imports_between(package: list[Path]) -> dict[str, set[str]]:
    """For each module of a package, the others that it imports, also inside functions."""
    names = {module_name(path) for path in package}

    def modules_imported(path: Path) -> set[str]:
        found: set[str] = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= inner
                if inner - names:  # something that the folder's own module defines
                    found.add(str(node.module))
        return (found & names) - {module_name(path)}

    return {module_name(path): modules_imported(path) for path in package}


def folder_of(module: str) -> str:
    """``imgprep.image`` of ``imgprep.image.decode``."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("package", [PACKAGE, TRAIN], ids=["imgprep", "train"])
def test_modules_and_folders_import_each_other_without_a_circle(package: list[Path]) -> None:
    modules = imports_between(package)
    folders: dict[str, set[str]] = defaultdict(set)
    for module, imported in modules.items():
        folders[folder_of(module)] |= set(map(folder_of, imported)) - {folder_of(module)}
    for graph in (modules, folders):
        assert set(graphlib.TopologicalSorter(graph).static_order()) == set(graph)


def test_only_the_entry_points_import_the_command_lines() -> None:
    libraries = [path for path in (*PACKAGE, *TRAIN) if path.name != "__main__.py"]
    command_lines = {"imgprep.cli", "train.cli"}
    assert offenders(libraries, lambda path: imported_names(path) & command_lines) == {}


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


def test_every_module_has_a_docstring() -> None:
    def lacks_docstring(path: Path) -> bool:
        return bool(tree_of(path).body) and not ast.get_docstring(tree_of(path))

    assert offenders(ALL_PYTHON, lacks_docstring) == {}


def test_modules_and_functions_are_short() -> None:
    def too_many_lines(path: Path) -> int:
        lines = len(path.read_text("utf-8").splitlines())
        return lines if lines > MAX_MODULE_LINES else 0

    def long_functions(path: Path) -> dict[str, int]:
        return {
            node.name: lines
            for node in ast.walk(tree_of(path))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and node.end_lineno is not None
            and (lines := node.end_lineno - node.lineno + 1) > MAX_FUNCTION_LINES
        }

    assert offenders(ALL_PYTHON, too_many_lines) == {}
    assert offenders(ALL_PYTHON, long_functions) == {}
