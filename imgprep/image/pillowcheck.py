"""Find which Pillow ``import PIL`` would load, from its files alone, without importing it.

pillow-simd and pillow install into the same ``PIL`` folder. The last one installed silently
overwrites the other but leaves its metadata, so the version is not enough: the files are hashed.
"""

from __future__ import annotations

import base64
import hashlib
import os
import platform
import shlex
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

SIMD, PLAIN, UNKNOWN = "pillow-simd", "pillow", "PIL"
Problem = Literal["missing", "plain", "mixed", "overwritten", "shadowed"]
# Both distributions have these files, and their content differs from release to release.
_VERSIONED_FILES = ("PIL/__init__.py", "PIL/_version.py", "PIL/Image.py")
_VERSIONED_BINARY = "PIL/_imaging."
BUILD_STAMP = Path(sys.prefix) / "pillow-simd.stamp"
"""Where tools/setup records the compiler flags of pillow-simd and the hash of its library."""


@dataclass(frozen=True, slots=True)
class PillowInstall:
    """The Pillow that an import would load, and what is wrong with it."""

    folder: Path | None
    """The ``PIL`` folder that an import would load; None if there is none."""
    name: str
    """The distribution its files come from: ``pillow-simd``, ``pillow``; ``PIL`` if unknown."""
    version: str
    """Empty if unknown."""
    problem: Problem | None
    """None if the right distribution is installed and intact."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    @property
    def why(self) -> str:
        """The problem in one sentence; empty if there is none."""
        return {
            None: "",
            "missing": "a build cannot start without it",
            "plain": "pillow is installed instead of pillow-simd: slower, and other codecs (a "
            "build that was started with one cannot be resumed with the other)",
            "mixed": "pillow and pillow-simd are installed in the same folder: uninstalling either "
            "one breaks the other",
            "overwritten": "files of pillow-simd were overwritten: slower, other codecs (a build "
            "that was started with one cannot be resumed with the other), and it may fail",
            "shadowed": "another Pillow comes before pillow-simd on the search path: slower, and "
            "other codecs (a build that was started with one cannot be resumed with the other)",
        }[self.problem]

    @property
    def fix(self) -> str:
        """The command that fixes the problem; empty if there is none."""
        if self.problem is None:
            return ""
        if self.problem == "shadowed":
            site = self.folder.parent if self.folder else None
            listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            by_variable = any(each and Path(each).resolve() == site for each in listed)
            return f"remove {site} from {'PYTHONPATH' if by_variable else 'the search path'}"
        return reinstall_command()


def needs_simd() -> bool:
    """Whether imgprep requires pillow-simd on this processor architecture."""
    return platform.machine() == "x86_64"


def has_avx2() -> bool | None:
    """Whether the processor has AVX2; None if it cannot be determined."""
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text("utf-8", "replace").split()
    except OSError:
        return None


def loaded_library(stem: str) -> Path | None:
    """The path of the shared library with this name that the process has loaded, if any."""
    for line in Path("/proc/self/maps").read_text("utf-8", "replace").splitlines():
        path = line.partition("/")[2]
        if path and Path(path).name.startswith((f"{stem}.", f"{stem}-")):
            return Path("/" + path)
    return None


def compiled_with_avx2(folder: Path, stamp: Path = BUILD_STAMP) -> bool | None:
    """Whether pillow-simd in this ``PIL`` folder was compiled with AVX2.

    None if tools/setup did not build the library that is installed there.
    """
    try:
        lines = stamp.read_text("utf-8", "replace").splitlines()
        (library,) = folder.glob("_imaging.*.so")
        digest = hashlib.sha256(library.read_bytes()).hexdigest()
    except (OSError, ValueError):
        return None
    facts = dict(line.partition(": ")[::2] for line in lines)
    if facts.get("library", "").split()[:1] != [digest]:
        return None
    return "-mavx2" in facts.get("flags", "").split()


def reinstall_command() -> str:
    """The shell command that installs the right Pillow, compiled for this processor."""
    pip = f"{shlex.quote(sys.executable)} -m pip"
    remove = f"{pip} uninstall -y pillow pillow-simd"
    if not needs_simd():
        return f"{remove}; {pip} install --force-reinstall --no-deps pillow"
    compiler = 'CC="cc -mavx2" ' if has_avx2() else ""
    return (
        f"{remove}; {compiler}{pip} install --no-deps --no-cache-dir --no-binary pillow-simd "
        "pillow-simd"
    )


def find_pillow() -> PillowInstall:
    """Check the distributions on the search path and the files of ``PIL``; takes about 10 ms."""
    try:
        spec = util.find_spec("PIL")
    except (ImportError, ValueError):  # a broken loader, or a partly imported PIL
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None or spec.origin is None or not folders:  # not installed, or an empty folder
        return PillowInstall(None, "none", "", "missing")
    folder = Path(folders[0]).resolve()
    simd, plain = _distribution(SIMD), _distribution(PLAIN)
    simd_here = next((each for each in simd if _site(each) == folder.parent), None)
    plain_here = next((each for each in plain if _site(each) == folder.parent), None)
    if simd_here is not None:
        if not _is_intact(simd_here, folder):
            if plain_here is not None and _is_intact(plain_here, folder):
                return PillowInstall(folder, PLAIN, plain_here.version, "overwritten")
            return PillowInstall(folder, UNKNOWN, "", "overwritten")
        problem: Problem | None = "mixed" if plain_here else None
        return PillowInstall(folder, SIMD, simd_here.version, problem)
    name, version = (PLAIN, plain_here.version) if plain_here else (UNKNOWN, "")
    if not needs_simd():
        return PillowInstall(folder, name, version, None)
    return PillowInstall(folder, name, version, "shadowed" if simd else "plain")


def _distribution(name: str) -> list[metadata.Distribution]:
    return list(metadata.distributions(name=name))


def _site(distribution: metadata.Distribution) -> Path:
    return Path(str(distribution.locate_file(""))).resolve()


def _is_intact(distribution: metadata.Distribution, folder: Path) -> bool:
    """Whether the version-dependent files have the hashes in the distribution's RECORD."""
    matching = 0
    for file in distribution.files or ():
        name = file.as_posix()
        if name not in _VERSIONED_FILES and not name.startswith(_VERSIONED_BINARY):
            continue
        if file.hash is None or file.hash.mode != "sha256":
            continue
        try:
            digest = hashlib.sha256((folder.parent / name).read_bytes()).digest()
        except OSError:
            return False
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            return False
        matching += 1
    # Some system packages have no RECORD; then only the version can be compared.
    return matching > 0 or _states_version(folder, distribution.version)


def _states_version(folder: Path, version: str) -> bool:
    try:
        return f'"{version}"' in (folder / "_version.py").read_text("utf-8", "replace")
    except OSError:
        return False
