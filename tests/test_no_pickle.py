"""No code that reads a file can execute its content: no pickle, no eval, no unpacking, no shell.

Worker processes and Ray exchange pickled messages of our own, so ``multiprocessing`` and ``ray``
may be imported. Whoever can write to those channels can run code anyway. No file is read that way.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.conftest import REPOSITORY

SOURCES = sorted(
    path for package in ("imgprep", "train") for path in (REPOSITORY / package).rglob("*.py")
)
MODULES = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml",
    "tarfile", "runpy", "imp",
}  # fmt: skip
"""None is needed; ``pickletools`` only lists the names in a pickle."""
CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
METHODS = {"extractall", "extract", "unpack_archive", "system", "popen", "hub", "read_pickle"}


def faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from (f"import {name}" for name in names & MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from _call(node)


def _call(node: ast.Call) -> Iterator[str]:
    keywords = {each.arg: each.value for each in node.keywords if each.arg}
    function = node.func
    if isinstance(function, ast.Name) and function.id in CALLS:
        yield f"{function.id}()"
    if "shell" in keywords and not _is(keywords, "shell", False):
        yield "shell="
    if "allow_pickle" in keywords and not _is(keywords, "allow_pickle", False):
        yield "allow_pickle="
    if not isinstance(function, ast.Attribute):
        return
    owner = function.value.id if isinstance(function.value, ast.Name) else ""
    if function.attr in METHODS and owner != "platform":
        yield f".{function.attr}()"
    if owner in ("np", "numpy") and function.attr in ("load", "loads", "fromregex"):
        yield "numpy.load: use read_npy or map_npy"
    if owner == "torch" and function.attr == "load" and not _is(keywords, "weights_only", True):
        yield "torch.load without weights_only=True"
    if owner == "torch" and function.attr in ("jit", "package"):
        yield f"torch.{function.attr}"


def _is(keywords: dict[str, ast.expr], name: str, value: bool) -> bool:
    found = keywords.get(name)
    return isinstance(found, ast.Constant) and found.value is value


def test_no_module_can_run_what_it_reads() -> None:
    found = {str(path): list(faults(ast.parse(path.read_text("utf-8")))) for path in SOURCES}
    assert {path: what for path, what in found.items() if what} == {}


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from joblib import load",
        "import tarfile as t",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "load(path, allow_pickle=maybe)",
        "module.load(path, allow_pickle=maybe)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "archive.extractall(there)",
        "subprocess.run(command, shell=True)",
        "os.system(command)",
        "def f():\n    eval(text)",
    ],
)
def test_forbidden_code_is_found(code: str) -> None:
    assert list(faults(ast.parse(code)))


def test_allowed_code_is_not_reported() -> None:
    code = "torch.load(p, weights_only=True)\nre.compile('x')\nnp.save(f, a, allow_pickle=False)"
    assert not list(faults(ast.parse(code)))
