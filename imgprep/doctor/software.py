"""Checks the software that imgprep uses: Pillow, the JPEG decoders, the pixel code, numpy."""

from __future__ import annotations

import platform
import shlex
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from imgprep import __version__
from imgprep.doctor.child import NoAnswerError
from imgprep.doctor.finding import Finding, Level
from imgprep.image.pillowcheck import (
    PillowInstall,
    compiled_with_avx2,
    find_pillow,
    has_avx2,
    needs_simd,
    reinstall_command,
)

Answer = Callable[[str], dict[str, Any]]
"""Returns the answer to a question of ``imgprep.doctor.inside``; raises ``NoAnswerError``."""
_REBUILD = "run pip install --force-reinstall --no-deps . in imgprep's folder, or tools/setup"
_COMPILER = "install a C compiler, Python's headers and libjpeg-turbo's (libjpeg-dev); then "


def version_of(distribution: str) -> str | None:
    """Return the installed version; None if the distribution is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def pip(what: str) -> str:
    """Return a pip command for the running Python."""
    return f"{shlex.quote(sys.executable)} -m pip {what}"


def examine(answer: Answer) -> list[Finding]:
    """Return the findings, in the order of the screen."""
    return [
        _finding("ok", "Python", f"{platform.python_version()} at {sys.executable}",
                 facts={"version": platform.python_version(), "executable": sys.executable}),
        _finding("ok", "imgprep", f"{__version__} at {Path(__file__).parents[1]}",
                 facts={"version": __version__, "folder": str(Path(__file__).parents[1])}),
        *_pillow(answer),
        _kernel(answer),
        _jpeg_window(answer),
        _simplejpeg(answer),
        _numbers(answer),
    ]  # fmt: skip


def _finding(level: Level, what: str, value: str, **more: Any) -> Finding:
    return Finding(group="software", level=level, what=what, value=value, **more)


def _pillow(answer: Answer) -> list[Finding]:
    installed = find_pillow()
    facts: dict[str, Any] = {
        "distribution": installed.name,
        "version": installed.version,
        "folder": str(installed.folder) if installed.folder else None,
        "problem": installed.problem,
    }
    if installed.problem is not None:
        value = f"{installed} in {installed.folder}" if installed.folder else "not installed"
        return [_finding("fix", "Pillow", value, why=installed.why, fix=installed.fix, facts=facts)]
    try:
        loaded = answer("pillow")
    except NoAnswerError as exc:
        why = f"it does not load: {exc}"
        fix = reinstall_command()
        return [_finding("fix", "Pillow", str(installed), why=why, fix=fix, facts=facts)]
    turbo = loaded["libjpeg_turbo"]
    jpeg = f"libjpeg-turbo {turbo}" if turbo else f"libjpeg {loaded['libjpeg']}"
    facts |= {name: loaded[name] for name in ("libjpeg", "libjpeg_turbo", "zlib")}
    value = f"{installed}, files intact; {jpeg}"
    pillow = _finding("ok", "Pillow", value, facts=facts)
    return [pillow, *_avx2(installed), _formats(loaded)]


def _formats(loaded: dict[str, Any]) -> Finding:
    """Image formats that need a library which Pillow may lack."""
    optional = {"compressed TIFF": ("libtiff", "libtiff-dev"), "WebP": ("webp", "libwebp-dev")}
    facts = {name: loaded[name] for name, _ in optional.values()}
    missing = [name for name, (library, _) in optional.items() if not loaded[library]]
    if not missing:
        return _finding("ok", "formats", "compressed TIFF and WebP can be read", facts=facts)
    value = f"{' and '.join(missing)} cannot be read"
    why = "such images are reported as unsupported"
    fix = f"apt-get install {' '.join(optional[name][1] for name in missing)}, then tools/setup"
    return _finding("note", "formats", value, why=why, fix=fix, facts=facts)


def _avx2(installed: PillowInstall) -> list[Finding]:
    """Compare the processor with the AVX2 code of pillow-simd."""
    if not needs_simd() or installed.folder is None:
        return []
    processor, compiled = has_avx2(), compiled_with_avx2(installed.folder)
    facts = {"processor": processor, "pillow_simd": compiled}
    has = {True: "has AVX2", False: "does not have AVX2", None: "unknown"}[processor]
    built = {
        True: "compiled with AVX2",
        False: "compiled without AVX2",
        None: "unknown (not built by tools/setup)",
    }[compiled]
    level: Level = "ok"
    why = fix = ""
    if compiled and processor is False:
        level, why = "fix", "pillow-simd will crash on this processor (SIGILL)"
    elif processor and compiled is False:
        level, why = "note", "filters other than area, and images other than JPEG, are slower"
    if level != "ok":
        fix = reinstall_command()
    value = f"processor {has}; pillow-simd {built}"
    return [_finding(level, "AVX2", value, why=why, fix=fix, facts=facts)]


def _kernel(answer: Answer) -> Finding:
    try:
        found = answer("kernel")
    except NoAnswerError as exc:
        why = "a build cannot start"
        fix = "check IMGPREP_KERNEL, or run tools/setup"
        return _finding("fix", "pixel code", str(exc), why=why, fix=fix)
    backend = found["backend"]
    if backend != "numpy":
        value = {"c-avx2": "C with AVX2", "c": "plain C"}[backend]
        return _finding("ok", "pixel code", value, facts=found)
    if len(found["available"]) > 1:
        value, fix = "numpy, because IMGPREP_KERNEL is set", "unset IMGPREP_KERNEL"
    else:
        value, fix = "numpy: imgprep/image/_kernel was not compiled", _COMPILER + _REBUILD
    why = (
        "several times slower; a build that was started with C code cannot be resumed, and pixels "
        "may differ by 1 level"
    )
    return _finding("fix", "pixel code", value, why=why, fix=fix, facts=found)


def _jpeg_window(answer: Answer) -> Finding:
    what = "JPEG decoder"
    try:
        found = answer("jpeg_window")
    except NoAnswerError as exc:
        why = "builds are slower: without it, every image is decoded whole"
        return _finding("note", what, f"does not load: {exc}", why=why, fix=_COMPILER + _REBUILD)
    if found["enabled"]:
        turbo = found["libjpeg_turbo"] or f"of unknown version ({found['library']})"
        value = f"imgprep/image/_jpeg, with the system's libjpeg-turbo {turbo}"
        return _finding("ok", what, value, facts=found)
    why = "every image is decoded whole: the same pixels, but slower"
    if found["built"]:
        value, fix = "simplejpeg alone, because IMGPREP_JPEG is set", "unset IMGPREP_JPEG"
    else:
        value, fix = "simplejpeg alone: imgprep/image/_jpeg was not compiled", _COMPILER + _REBUILD
    return _finding("note", what, value, why=why, fix=fix, facts=found)


def _simplejpeg(answer: Answer) -> Finding:
    version = version_of("simplejpeg")
    try:
        found = answer("simplejpeg")
    except NoAnswerError as exc:
        value = f"{version}: does not load: {exc}" if version else "not installed"
        fix = pip("install --force-reinstall --no-deps simplejpeg")
        return _finding("fix", "simplejpeg", value, why="a build cannot start", fix=fix)
    turbo = found["libjpeg_turbo"]
    value = f"{version}, with its own libjpeg-turbo {turbo or 'of unknown version'}"
    return _finding("ok", "simplejpeg", value, facts={"version": version, **found})


def _numbers(answer: Answer) -> Finding:
    names = ("numpy", "scikit-learn", "scipy")
    versions = {name: version_of(name) for name in names}
    value = ", ".join(f"{name} {version or 'missing'}" for name, version in versions.items())
    try:
        answer("numbers")
    except NoAnswerError as exc:
        why = f"the last stage of a build will fail: {exc}"
        fix = pip("install --force-reinstall numpy scikit-learn")
        return _finding("fix", "numpy", value, why=why, fix=fix, facts=versions)
    return _finding("ok", "numpy", value, facts=versions)
