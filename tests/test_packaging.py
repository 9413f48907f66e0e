"""Declared and pinned packages, console scripts, and that pillow-simd is the installed Pillow."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import PIL
import pytest
from PIL import features

import imgprep
from tests.environments import readers_python

ROOT = Path(__file__).resolve().parents[1]
# Each of these requires pillow, which would overwrite pillow-simd in the same folder.
BRINGS_PILLOW = {"matplotlib", "torchvision", "tensorboard", "scikit-image", "imageio", "timm"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(requirement: str) -> str:
    return canonical(re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0])


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return table


def pins_in(name: str) -> dict[str, str]:
    """Map canonical names to versions; fail on anything but exact pins."""
    found: dict[str, str] = {}
    for line in (ROOT / "tools" / name).read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact, f"{line!r} is not an exact pin"
            assert re.fullmatch(r"[0-9a-z.]+", version), f"{line!r} would match only one build"
            assert canonical(name) not in found, f"{name} is pinned twice"
            found[canonical(name)] = version
    return found


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    return pins_in("constraints.txt")


def direct_requirements(project: dict[str, Any]) -> list[str]:
    extras = [each for extra in project["optional-dependencies"].values() for each in extra]
    return [*project["dependencies"], *extras]


def test_nothing_declared_or_pinned_brings_pillow(
    project: dict[str, Any], pins: dict[str, str]
) -> None:
    declared = {requirement_name(each) for each in direct_requirements(project)}
    assert not (declared | pins.keys()) & BRINGS_PILLOW
    assert "pillow" not in pins
    plain = [each for each in direct_requirements(project) if requirement_name(each) == "pillow"]
    assert all("platform_machine != 'x86_64'" in each for each in plain)


def test_every_direct_requirement_is_pinned(project: dict[str, Any], pins: dict[str, str]) -> None:
    declared = {requirement_name(each) for each in direct_requirements(project)} - {"pillow"}
    assert declared <= pins.keys()


def test_the_project_states_ranges_not_pins(project: dict[str, Any]) -> None:
    assert not [each for each in direct_requirements(project) if "==" in each.partition(";")[0]]


def test_imgprep_itself_needs_neither_torch_nor_dali(project: dict[str, Any]) -> None:
    needed = {requirement_name(each) for each in project["dependencies"]}
    assert not [name for name in needed if name.startswith(("torch", "nvidia"))]


def test_the_environment_is_the_pinned_one(pins: dict[str, str]) -> None:
    differing = {}
    for name, version in pins.items():
        try:
            installed = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            continue  # a build tool, or for another platform
        if installed != version:
            differing[name] = f"{installed} installed, {version} pinned"
    assert not differing


def test_the_readers_environment_adds_pinned_packages_and_replaces_none(
    pins: dict[str, str],
) -> None:
    readers = pins_in("readers.txt")
    assert "torchvision" in readers
    assert "torch" not in readers
    assert {name: pins[name] for name in readers.keys() & pins} == {
        name: readers[name] for name in readers.keys() & pins
    }
    code = (
        "import PIL, imgprep, torch, torchvision; print(PIL.__file__, torch.__file__, "
        "imgprep.__file__, torchvision.transforms.RandomResizedCrop(8).scale)"
    )
    shown = subprocess.run(
        [readers_python(), "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    pillow, torch, ours, scale = shown.stdout.split(maxsplit=3)
    assert Path(pillow).is_relative_to(ROOT / ".readers")
    assert not Path(torch).is_relative_to(ROOT / ".readers")
    assert Path(ours) == Path(imgprep.__file__)
    assert scale.strip() == "(0.08, 1.0)"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="pillow-simd is for x86_64")
def test_pillow_simd_is_installed_and_intact() -> None:
    installed = {canonical(each.metadata["Name"]) for each in importlib.metadata.distributions()}
    assert "pillow-simd" in installed
    assert "pillow" not in installed
    assert re.search(r"\.post\d+$", PIL.__version__)
    assert features.check("jpg")
    assert features.check("zlib")


def test_version_and_commands_are_those_of_the_package(project: dict[str, Any]) -> None:
    assert importlib.metadata.version("imgprep") == imgprep.__version__
    assert set(project["scripts"]) == {"imgprep", "imgprep-train"}
    for name, function in project["scripts"].items():
        (command,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        assert command.value == function


@pytest.mark.parametrize(
    "script",
    [f"tools/{name}" for name in ("setup", "setup_readers", "demo", "test", "train")] + [".ci/run"],
)
def test_scripts_are_executable_and_parse(script: str) -> None:
    path = ROOT / script
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_setup_names_every_extension_that_did_not_build(tmp_path: Path) -> None:
    """Its functions run on a tree where one extension is missing and another is not a library."""
    config = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = [each["name"] for each in config["tool"]["setuptools"]["ext-modules"]]
    assert declared == [
        *("imgprep.image._kernel", "imgprep.image._jpeg"),
        *("train.net._cpu", "train.feed._resize", "train.feed._pread"),
    ]
    for folder in ("tools", "imgprep/image", "train/net", "train/feed", ".venv/bin"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").symlink_to(ROOT / "pyproject.toml")
    for folder in ("imgprep", "imgprep/image"):
        (tmp_path / folder / "__init__.py").touch()
    (tmp_path / "imgprep" / "image" / "_jpeg.abi3.so").write_text("not a library")
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    functions = (ROOT / "tools" / "setup").read_text("utf-8").removesuffix('main "$@"\n')
    ran = subprocess.run(
        ["bash", "-c", functions + "broken_extensions", str(tmp_path / "tools" / "setup")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.split() == declared
    log = (tmp_path / ".venv" / "setup.log").read_text()
    assert "No module named 'imgprep.image._kernel'" in log
    assert "file too short" in log or "invalid ELF header" in log
