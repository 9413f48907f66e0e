"""Python folders in a bad state: the wrong Pillow, packages that do not load."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest


def plain_pillow(folder: Path) -> Path:
    """Plain pillow in a folder of its own; put together from files where pip has no network."""
    options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--retries=0"]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(folder), "pillow"],
        capture_output=True,
        check=False,
    )
    if ran.returncode:
        files = {"PIL/__init__.py": "__version__ = '13.0.0'\n", "PIL/Image.py": ""}
        fake_distribution(folder, "pillow", "13.0.0", files)
    return folder


def fake_distribution(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Files with the metadata that pip writes beside them."""
    record = []
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
        record.append(f"{path},sha256={digest.decode()},{len(text)}")
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("\n".join([*record, f"{info.name}/RECORD,,", ""]))


def broken_module(folder: Path, name: str, body: str) -> None:
    """A module that comes instead of the real one."""
    (folder / f"{name}.py").write_text(body + "\n")


def tmpfs_script(folder: Path, options: str, script: str) -> str:
    """Output of a shell script with ``{disk}``: a tmpfs that only the script sees.

    Skips the test where none may be mounted.
    """
    disk = folder / "disk"
    disk.mkdir()
    unshare = ["unshare", "--map-root-user", "--mount", "sh", "-ec"]
    probe = subprocess.run([*unshare, f"mount -t tmpfs none {disk}"], check=False)
    if probe.returncode:
        pytest.skip("no tmpfs may be mounted here")
    mount = f"mount -t tmpfs -o {options} none {disk}; "
    ran = subprocess.run(
        [*unshare, mount + script.replace("{disk}", str(disk))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
