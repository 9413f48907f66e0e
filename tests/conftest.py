"""What the tests share: a mini ImageNet of real photographs and finished datasets made from it."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from tests.forked import ForkServer
from tests.objectstore import ObjectStore, Proxy, environment_of, proxy_before, s3_server

if TYPE_CHECKING:
    from playwright.sync_api import Browser

REPOSITORY = Path(__file__).parent.parent
_BUCKETS = itertools.count(1)
_sklearn_is_there = ForkServer(
    *("numpy", "sklearn.decomposition"),
    *("imgprep.cli", "imgprep.build.job", "imgprep.build.publish"),
    OPENBLAS_NUM_THREADS="1",
)

# A shell starts background jobs with Ctrl-C ignored, and the commands that we start would inherit
# that: the tests that interrupt them need it heard, wherever the suite itself runs.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hundreds of commands are started: where Python is told to keep no compiled modules, each would
# compile all of ours again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Several tests run at once: threads of torch that wait must not take the processor from others.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

settings.register_profile(
    "imgprep", deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("imgprep")


def _read_at_import(environment: Mapping[str, str]) -> dict[str, str]:
    """Of the environment, what imports go by: a fork would not see it changed."""
    ours = ("IMGPREP_KERNEL", "IMGPREP_JPEG")
    return {k: v for k, v in environment.items() if k.startswith("PYTHON") or k in ours}


_READ_AT_IMPORT = _read_at_import(os.environ)


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished ``imgprep`` command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def command(*arguments: object) -> list[str]:
    """The ``imgprep`` command line, run by this very Python."""
    return [sys.executable, "-m", "imgprep", *map(str, arguments)]


def imgprep(*arguments: object, **options: Any) -> Ran:
    """Run ``imgprep`` in a process of its own; with options, or ``afresh=True``, a new Python."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    afresh = bool(options) or _read_at_import(os.environ) != _READ_AT_IMPORT
    if not options.pop("afresh", afresh):
        forked = _sklearn_is_there.run("imgprep", [str(each) for each in arguments], environment)
        return Ran(forked.returncode, forked.stdout, forked.stderr)
    result = subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
        **options,
    )
    return Ran(result.returncode, result.stdout, result.stderr)


def make_mini(out: Path, layout: str) -> Path:
    """Cut the mini ImageNet from scikit-learn's photographs."""
    tool = REPOSITORY / "tools" / "mini_imagenet.py"
    subprocess.run(
        [sys.executable, str(tool), str(out), "--layout", layout], check=True, capture_output=True
    )
    return out


def make_dataset(source: Path, dest: Path, *, shard_images: int) -> Path:
    """Build with two workers and default options but for the size of the shards."""
    ran = imgprep("build-shards", source, dest, "--jobs", 2, "--shard-images", shard_images)
    assert ran.code == 0, ran.err
    return dest


def files_of(dest: Path) -> dict[str, bytes]:
    """Every file of a dataset that must not depend on how it was built.

    These are all files except the report and, in the state folder, the done markers.
    """
    paths = sorted([*dest.iterdir(), *(dest / ".imgprep" / "done").glob("*")])
    return {
        path.relative_to(dest).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and path.name != "report.json"
    }


@pytest.fixture(scope="session")
def mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Mini ImageNet as class folders."""
    return make_mini(tmp_path_factory.mktemp("mini") / "folders", "class-folders")


@pytest.fixture(scope="session")
def mini_archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images in the shape of the official archives."""
    return make_mini(tmp_path_factory.mktemp("mini") / "archives", "archives")


@pytest.fixture(scope="session")
def built(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished dataset, by default options with four shards or more a split; read only."""
    return make_dataset(mini, tmp_path_factory.mktemp("built") / "dataset", shard_images=20)


@pytest.fixture(scope="session")
def s3_proxy() -> Iterator[Proxy]:
    """A real S3 server behind a proxy that can be told to fail."""
    with s3_server() as port, proxy_before(port) as proxy:
        yield proxy


@pytest.fixture
def s3(
    s3_proxy: Proxy, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ObjectStore]:
    """An empty bucket; commands that the test runs find the server by their environment."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    store = ObjectStore(s3_proxy, f"{name}-{next(_BUCKETS)}")
    store.put("", b"")
    for variable, value in environment_of(s3_proxy).items():
        monkeypatch.setenv(variable, value)
    s3_proxy.requests.clear()
    yield store
    s3_proxy.heal()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium, for the tests that look at pages; no longer, for it brings threads and a loop."""
    from tests.browser import chromium

    with chromium() as started:
        yield started
