"""Which Pillow ``import PIL`` would take, told from files alone: nothing of it is imported.

pillow-simd and pillow install the same ``PIL`` folder. Whichever comes last wins, in silence, and
leaves the other's metadata behind, so versions alone do not tell: the files are hashed.
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
# Both distributions have them and they differ from release to release.
_TELLING = ("PIL/__init__.py", "PIL/_version.py", "PIL/Image.py")
_TELLING_BINARY = "PIL/_imaging."


@dataclass(frozen=True, slots=True)
class PillowInstall:
    """What was found."""

    folder: Path | None
    """The ``PIL`` folder that an import takes."""
    name: str
    """The distribution whose files lie in it: ``pillow-simd``, ``pillow``; ``PIL`` if unknown."""
    version: str
    """Empty if unknown."""
    problem: Problem | None
    """None where the right one is there, whole."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()

    @property
    def why(self) -> str:
        """What is wrong, in one sentence; empty where nothing is."""
        return {
            None: "",
            "missing": "no build starts without it",
            "plain": "plain pillow stands where pillow-simd should: slower, and another engine (a "
            "build begun with one does not go on with the other)",
            "mixed": "pillow and pillow-simd both claim one folder: removing either breaks it",
            "overwritten": "files of pillow-simd were overwritten: slower, another engine (a build "
            "begun with one does not go on with the other), and it may break",
            "shadowed": "another Pillow comes before pillow-simd on the search path: slower, and "
            "another engine (a build begun with one does not go on with the other)",
        }[self.problem]

    @property
    def fix(self) -> str:
        """The command that mends it; empty where nothing is to be mended."""
        if self.problem is None:
            return ""
        if self.problem == "shadowed":
            site = self.folder.parent if self.folder else None
            listed = os.environ.get("PYTHONPATH", "").split(os.pathsep)
            by_variable = any(each and Path(each).resolve() == site for each in listed)
            return f"take {site} out of {'PYTHONPATH' if by_variable else 'the search path'}"
        return reinstall_command()


def needs_simd() -> bool:
    """Whether imgprep asks for pillow-simd on this kind of processor."""
    return platform.machine() == "x86_64"


def has_avx2() -> bool | None:
    """Whether the processor has AVX2; None if the system does not tell."""
    try:
        return "avx2" in Path("/proc/cpuinfo").read_text("utf-8", "replace").split()
    except OSError:
        return None


def reinstall_command() -> str:
    """The shell command that puts the right Pillow in place, compiled for this processor."""
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
    """Look at the distributions on the search path and at the files of ``PIL``; some 10 ms."""
    try:
        spec = util.find_spec("PIL")
    except (ImportError, ValueError):  # a broken loader, or a PIL that is half imported
        spec = None
    places = list(spec.submodule_search_locations or ()) if spec else []
    if spec is None or spec.origin is None or not places:  # not there, or an empty folder
        return PillowInstall(None, "none", "", "missing")
    folder = Path(places[0]).resolve()
    simd, plain = _distribution(SIMD), _distribution(PLAIN)
    simd_here = next((each for each in simd if _site(each) == folder.parent), None)
    plain_here = next((each for each in plain if _site(each) == folder.parent), None)
    if simd_here is not None:
        if not _is_whole(simd_here, folder):
            if plain_here is not None and _is_whole(plain_here, folder):
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


def _is_whole(distribution: metadata.Distribution, folder: Path) -> bool:
    """Whether the files that tell are as the distribution's RECORD says."""
    seen = 0
    for file in distribution.files or ():
        name = file.as_posix()
        if name not in _TELLING and not name.startswith(_TELLING_BINARY):
            continue
        if file.hash is None or file.hash.mode != "sha256":
            continue
        try:
            digest = hashlib.sha256((folder.parent / name).read_bytes()).digest()
        except OSError:
            return False
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != file.hash.value:
            return False
        seen += 1
    # Without a RECORD (some system packages) only the version is left to go by.
    return seen > 0 or _states_version(folder, distribution.version)


def _states_version(folder: Path, version: str) -> bool:
    try:
        return f'"{version}"' in (folder / "_version.py").read_text("utf-8", "replace")
    except OSError:
        return False
