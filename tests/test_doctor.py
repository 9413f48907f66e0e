"""``imgprep doctor``: one screen, exit 1 if something must be fixed, and never a traceback."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import PIL
import pytest
from PIL import features

from imgprep.doctor import software, speed
from tests.clobber import broken_module, fake_distribution, plain_pillow
from tests.conftest import Ran, imgprep

x86_64_only = pytest.mark.skipif(platform.machine() != "x86_64", reason="pillow-simd is for x86_64")
FIELDS = {"group", "level", "what", "value", "why", "fix", "facts"}
REQUIRED = ("Python", "imgprep", "Pillow", "pixel code", "JPEG decoder", "simplejpeg", "numpy")
SOFTWARE = """
import json
from dataclasses import asdict
from imgprep.doctor import ask_inside, software
def answer(question):  # scikit-learn takes seconds to import, and works in all of these tests
    return {} if question == "numbers" else ask_inside(question)
print(json.dumps([asdict(each) for each in software.examine(answer)]))
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with plain pillow, as ``pip install --target`` makes it."""
    return plain_pillow(tmp_path_factory.mktemp("plain"))


def first_on_the_path(folder: Path) -> dict[str, str]:
    """Return an environment in which modules of ``folder`` are found first."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def doctor(*arguments: object, environment: dict[str, str], cwd: Path | None = None) -> Ran:
    ran = subprocess.run(
        [sys.executable, "-m", "imgprep", "doctor", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        cwd=cwd,
        check=False,
    )
    assert "Traceback" not in ran.stderr
    return Ran(ran.returncode, ran.stdout, ran.stderr)


def by_name(findings: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {each["what"]: each for each in findings}


def software_of(environment: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return only the findings on imgprep's own software."""
    ran = subprocess.run(
        [sys.executable, "-c", SOFTWARE],
        capture_output=True,
        text=True,
        env=environment,
        check=True,
    )
    return by_name(json.loads(ran.stdout))


def test_the_screen_measures_this_machine_and_leaves_no_files(tmp_path: Path) -> None:
    ran = imgprep("doctor", cwd=tmp_path)
    lines = ran.out.splitlines()
    assert ran.err == ""
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 100
    for name in ("torch", "DALI", "GPUs", "processors", "memory", "open files", "build speed"):
        assert any(line[5:].startswith(name) for line in lines), name
    assert "estimated from" in ran.out
    assert re.search(r"write [\d,]+ MB/s, read [\d,]+ MB/s", ran.out)
    assert ran.code == ("must be fixed; " in lines[-1] and not lines[-1].startswith("nothing"))
    assert not list(tmp_path.iterdir())


def test_the_time_for_imagenet_follows_from_the_measured_speed() -> None:
    finding, rate = speed.examine(1)
    facts = finding.facts
    assert rate == pytest.approx(facts["images_per_s"], abs=0.1)
    assert facts["imagenet_seconds"] == pytest.approx(1_331_167 / facts["images_per_s"], rel=0.01)
    assert facts["images_per_s_one_job"] == pytest.approx(facts["images_per_s"], abs=0.1)


def test_json_has_the_same_findings_and_imgprep_works_here(tmp_path: Path) -> None:
    ran = imgprep("doctor", "--json", "--quick", "--dest", tmp_path)
    report = ran.json
    assert set(report) == {"schema_version", "exit_code", "findings"}
    assert report["schema_version"] == 1
    findings = by_name(report["findings"])
    assert len(findings) == len(report["findings"]), "names are unique"
    for each in report["findings"]:
        assert set(each) == FIELDS
        assert each["level"] in ("ok", "note", "fix")
        assert each["value"]
        assert each["fix"] or each["level"] != "fix"
    assert ran.code == report["exit_code"]
    assert ran.code == any(each["level"] == "fix" for each in report["findings"])
    for name in REQUIRED:
        assert findings[name]["level"] == "ok", findings[name]
    assert "build speed" not in findings
    assert findings["Pillow"]["facts"]["folder"] == str(Path(PIL.__file__).parent.resolve())
    assert findings["processors"]["facts"]["usable"] >= 1
    assert findings["space"]["facts"]["free_bytes"] > 0
    assert not list(tmp_path.iterdir())


def test_formats_that_pillow_lacks_are_noted_with_their_packages() -> None:
    lacking = software._formats({"libtiff": None, "webp": True})
    assert lacking.level == "note"
    assert lacking.value == "compressed TIFF cannot be read"
    assert lacking.fix == "apt-get install libtiff-dev, then tools/setup"
    assert software._formats({"libtiff": "4.5.0", "webp": True}).level == "ok"
    found = software_of(dict(os.environ))["formats"]["facts"]
    assert found == {"libtiff": features.version("libtiff"), "webp": bool(features.check("webp"))}


def test_nothing_heavy_is_imported_into_the_process() -> None:
    code = (
        "import sys; from imgprep.doctor import examine; examine(quick=True); "
        "print(*{'torch', 'nvidia', 'PIL', 'numpy', 'simplejpeg', 'ray'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == ""


@x86_64_only
def test_a_pillow_that_shadows_pillow_simd_must_be_fixed(plain: Path) -> None:
    ran = doctor("--quick", "--json", environment=first_on_the_path(plain))
    assert ran.code == 1
    found = by_name(ran.json["findings"])["Pillow"]
    assert found["fix"] == f"remove {plain.resolve()} from PYTHONPATH"
    assert (found["level"], found["facts"]["problem"]) == ("fix", "shadowed")
    assert found["facts"]["distribution"] == "pillow"


@x86_64_only
def test_a_build_warns_of_it_in_one_line(
    plain: Path, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ("build-shards", mini, tmp_path / "out", "--dry-run", "--quiet", "--json")
    sound = imgprep(*build)
    assert sound.err == ""
    monkeypatch.setenv("PYTHONPATH", first_on_the_path(plain)["PYTHONPATH"])
    clobbered = imgprep(*build)
    assert clobbered.code == 0
    (line,) = clobbered.err.splitlines()
    assert line.startswith("imgprep: warning: pillow ")
    assert line.endswith("imgprep doctor says what to do")
    assert clobbered.json["images"] == sound.json["images"]


@x86_64_only
def test_pillow_over_pillow_simd_in_one_folder(plain: Path, tmp_path: Path) -> None:
    """After ``pip install pillow`` over pillow-simd both claim the files, which are pillow's."""
    site = Path(PIL.__file__).parents[1]
    (simd,) = site.glob("pillow_simd-*.dist-info")
    shutil.copytree(plain, tmp_path, dirs_exist_ok=True)
    shutil.copytree(simd, tmp_path / simd.name)
    found = software_of(first_on_the_path(tmp_path))["Pillow"]
    assert (found["level"], found["facts"]["problem"]) == ("fix", "overwritten")
    assert found["value"].startswith("pillow ")
    assert "-m pip uninstall -y pillow pillow-simd; " in found["fix"]
    assert found["fix"].endswith("--no-binary pillow-simd pillow-simd")
    assert str(sys.executable) in found["fix"]


@x86_64_only
def test_pillow_simd_over_pillow_is_detected_too(tmp_path: Path) -> None:
    """The files are pillow-simd's, but uninstalling pillow would remove them."""
    site = Path(PIL.__file__).parents[1]
    (simd,) = site.glob("pillow_simd-*.dist-info")
    shutil.copytree(site / "PIL", tmp_path / "PIL")
    shutil.copytree(simd, tmp_path / simd.name)
    found = software_of(first_on_the_path(tmp_path))["Pillow"]
    assert (found["level"], found["facts"]["problem"]) == ("ok", None)
    fake_distribution(tmp_path, "pillow", "13.0.0", {})
    found = software_of(first_on_the_path(tmp_path))["Pillow"]
    assert (found["level"], found["facts"]["problem"]) == ("fix", "mixed")


@x86_64_only
def test_a_pillow_that_does_not_load_is_a_finding(tmp_path: Path) -> None:
    files = {"PIL/__init__.py": "raise ImportError('libjpeg.so.62: no such file')\n"}
    fake_distribution(tmp_path, "pillow-simd", "12.1.1.post0", files)
    ran = doctor("--quick", environment=first_on_the_path(tmp_path))
    assert ran.code == 1
    assert "it does not load: ImportError: libjpeg.so.62: no such file" in ran.out
    assert "uninstall -y pillow pillow-simd" in ran.out


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ImportError('gone')", "ImportError: gone"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "killed by SIGSEGV"),
        ("print('[1]'); raise SystemExit(0)", "the answer is not a JSON object"),
    ],
)
def test_a_broken_codec_affects_only_its_own_line(tmp_path: Path, body: str, said: str) -> None:
    broken_module(tmp_path, "simplejpeg", body)
    findings = software_of(first_on_the_path(tmp_path))
    assert findings["simplejpeg"]["level"] == "fix"
    assert said in findings["simplejpeg"]["value"]
    assert findings["pixel code"]["level"] == "ok"


def test_a_disabled_kernel_must_be_enabled() -> None:
    found = software_of({**os.environ, "IMGPREP_KERNEL": "numpy", "IMGPREP_JPEG": "full"})
    assert (found["pixel code"]["level"], found["pixel code"]["fix"]) == (
        "fix",
        "unset IMGPREP_KERNEL",
    )
    assert found["JPEG decoder"]["level"] == "note"
    wrong = software_of({**os.environ, "IMGPREP_KERNEL": "fortran"})["pixel code"]
    assert wrong["level"] == "fix"
    assert "fortran" in wrong["value"]
