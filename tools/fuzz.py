#!/usr/bin/env python3
"""Fuzz the readers of untrusted files, guided by coverage (atheris) or under sanitizers.

    .venv/bin/python tools/fuzz.py [TARGET ...] [--seconds N] [--corpus DIR]
    .venv/bin/python tools/fuzz.py [TARGET ...] --sanitize [--seconds N]
    .venv/bin/python tools/fuzz.py TARGET --replay FILE
    .venv/bin/python tools/fuzz.py --list

A target passes bytes to a reader as a file and fails unless the reader returns or raises one of our
own errors (tests/fuzzing.py). Without TARGET all targets run in turn, N seconds each. Input that
fails is saved in .bench/fuzz/crashes, the command that replays it is printed, and the exit code
is 1.

atheris is installed into .bench/fuzz on the first run. Its corpora stay in .bench/fuzz/corpus, and
later runs extend them. --sanitize compiles the C code with AddressSanitizer and
UndefinedBehaviorSanitizer (needs gcc with libasan) and runs the targets that use it. Its inputs are
mutated without coverage, because atheris cannot read gcc's.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import sysconfig
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".bench" / "fuzz"
SITE = HOME / "site"
CRASHES = HOME / "crashes"
ATHERIS = "atheris==3.0.0"
SLOW_SECONDS = 25
MEMORY_MIB = 3072
LENGTH_MAX = 1 << 17
SOURCES = {
    "imgprep.image._jpeg": ("imgprep/image/_jpeg.c", ["-ljpeg"]),
    "imgprep.image._kernel": ("imgprep/image/_kernel.c", []),
    "train.net._cpu": ("train/net/_cpu.c", ["-fno-math-errno", "-fno-trapping-math"]),
}
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-O1", "-g"]
SANITIZED = {
    "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=2048",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "PYTHONMALLOC": "malloc",  # so that AddressSanitizer checks Python's buffers too
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=int, default=30, help="per target (default: 30)")
    parser.add_argument("--corpus", type=Path, default=HOME / "corpus", metavar="DIR")
    parser.add_argument("--sanitize", action="store_true", help="run the C code under sanitizers")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one saved input")
    parser.add_argument("--list", action="store_true", help="list the targets")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT)]
    warnings.simplefilter("error")
    if options.child:
        return _child(options)
    if options.sanitize:
        _build()
    names = _names(sanitize=options.sanitize)
    if options.list:
        print("\n".join(f"{name:20} {text}" for name, text in names.items()))
        return 0
    unknown = sorted(set(options.targets) - names.keys())
    if unknown:
        parser.error(f"unknown target {unknown[0]!r}: use one of {', '.join(names)}")
    if options.replay and len(options.targets) != 1:
        parser.error("--replay needs one TARGET")
    if not options.sanitize and not options.replay:
        _install()
    CRASHES.mkdir(parents=True, exist_ok=True)
    failed = [name for name in options.targets or names if not _run(name, options)]
    print(f"failed: {', '.join(failed)}" if failed else "no failures")
    return 1 if failed else 0


def _names(*, sanitize: bool) -> dict[str, str]:
    """Return targets and their descriptions, read in a child: a run may need other modules."""
    code = (
        "import json; from tests import fuzzing; "
        "print(json.dumps([[n, t.text, t.needs] for n, t in fuzzing.load_all().items()]))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {name: text for name, text, needs in found if needs or not sanitize}


def _install() -> None:
    if (SITE / "atheris").is_dir():
        return
    print(f"installing {ATHERIS} into {SITE}", flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(SITE)]
    if subprocess.run([*pip, ATHERIS], check=False).returncode:
        sys.exit(f"tools/fuzz.py needs {ATHERIS} (wheels for Linux, CPython 3.11 to 3.13)")


def _build() -> None:
    """Compile the C code with sanitizers into .bench/fuzz/sanitized."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    for name, (source, flags) in SOURCES.items():
        out = HOME / "sanitized" / f"{name}{suffix}"
        out.parent.mkdir(parents=True, exist_ok=True)
        include = [f"-I{sysconfig.get_path('include')}", f"-I{ROOT / 'imgprep'}"]
        command = ["gcc", "-shared", "-fPIC", *SANITIZERS, *include, str(ROOT / source)]
        subprocess.run([*command, *flags, "-o", str(out)], check=True)


def _run(name: str, options: argparse.Namespace) -> bool:
    """Run one target in its own process; return whether it succeeded."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", name]
    command += ["--seconds", str(options.seconds), "--corpus", str(options.corpus)]
    command += ["--replay", str(options.replay)] if options.replay else []
    environment = dict(os.environ)
    if options.sanitize:
        library = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True)
        environment |= {**SANITIZED, "LD_PRELOAD": library.strip()}
        command.append("--sanitize")
    print(f"{name}: ", end="", flush=True)
    log = HOME / f"{name}.log"
    with log.open("wb") as out:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, check=False
        )
    text = log.read_text("utf-8", "replace")
    if done.returncode == 0:
        print(_summary(text), flush=True)
        return True
    print("FAILED\n" + "\n".join(text.splitlines()[-40:]))
    written = re.findall(r"Test unit written to (\S+)", text)
    current = CRASHES / f"{name}.current"
    if not written and current.exists():
        kept = CRASHES / f"{name}-{hashlib.sha1(current.read_bytes()).hexdigest()}"
        current.replace(kept)
        written = [str(kept)]
    for path in written:
        flag = " --sanitize" if options.sanitize else ""
        print(f"replay: {sys.executable} tools/fuzz.py {name}{flag} --replay {path}", flush=True)
    return False


def _summary(text: str) -> str:
    runs = re.findall(r"stat::number_of_executed_units:\s*(\d+)", text)
    coverage = re.findall(r"cov: (\d+) ft: (\d+) corp: (\d+)", text)
    if runs:
        cov, _, corpus = coverage[-1] if coverage else ("no", "", "no")
        return f"{int(runs[-1]):,} runs, {cov} edges covered, {corpus} inputs in the corpus"
    return (text.strip().splitlines() or ["done"])[-1]


# ---- in the process of one target ----------------------------------------------------------


def _child(options: argparse.Namespace) -> int:
    if options.sanitize:
        for name in SOURCES:
            _preload(name)
    elif not options.replay:
        return _atheris(options)
    from tests import fuzzing

    target = fuzzing.load_all()[options.child]
    if options.replay:
        target.run(options.replay.read_bytes())
        print("passed")
        return 0
    current = CRASHES / f"{options.child}.current"
    seed = random.SystemRandom().randrange(2**32)
    end, runs = time.monotonic() + options.seconds, 0
    while time.monotonic() < end:
        data = target.hostile(random.Random(seed + runs))
        current.write_bytes(data)  # before the run, because a sanitizer ends the process
        target.run(data)
        runs += 1
    current.unlink()
    print(f"{runs:,} runs without coverage, seed {seed}")
    return 0


def _preload(name: str) -> None:
    """Load the sanitized module under the name of the installed one."""
    path = HOME / "sanitized" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def _atheris(options: argparse.Namespace) -> int:
    sys.path.append(str(SITE))
    import atheris

    corpus = options.corpus / options.child
    corpus.mkdir(parents=True, exist_ok=True)
    packages = ["imgprep", "train", "PIL"]
    with atheris.instrument_imports(include=packages, enable_loader_override=False):
        from tests import fuzzing

        target = fuzzing.load_all()[options.child]
        for seed in target.seeds():
            (corpus / f"seed-{hashlib.sha1(seed).hexdigest()}").write_bytes(seed)
            target.run(seed)  # so that lazy imports and caches are done before fuzzing starts

    def mutate(data: bytes, size_max: int, seed: int) -> bytes:
        """Alternate between our mutation, which keeps the structure, and libFuzzer's."""
        if seed % 2:
            return target.mutate(data, random.Random(seed))[:size_max]
        return bytes(atheris.Mutate(data, size_max))

    words = HOME / f"{options.child}.dict"
    tokens = target.tokens or (b"\0",)  # libFuzzer rejects an empty dictionary
    lines = ["".join(f"\\x{byte:02x}" for byte in token) for token in tokens]
    words.write_text("".join(f'"{line}"\n' for line in lines))
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={options.seconds}",
        f"-timeout={SLOW_SECONDS}",
        f"-rss_limit_mb={MEMORY_MIB}",
        f"-max_len={LENGTH_MAX}",
        f"-artifact_prefix={CRASHES}/{options.child}-",
        f"-dict={words}",
        "-print_final_stats=1",
    ]
    atheris.Setup(arguments, target.run, custom_mutator=mutate)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
