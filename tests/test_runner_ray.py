"""A build on a Ray cluster of two nodes: the same bytes, even if nodes or drivers are lost."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from imgprep.build.node import NodeNeeds, check_node
from imgprep.errors import BuildError
from imgprep.image.prepare import codecs
from tests.conftest import Ran, command, files_of, imgprep
from tests.objectstore import ObjectStore, Proxy, environment_of
from tests.raycluster import RayCluster, writers_in

SHARDED = ("--shard-images", 60)
RAYS_OWN = re.compile(r"^(?:\x1b\[\d+m)?\(raylet\).*\n(?:\t.*\n)*", re.MULTILINE)
"""Late messages about a node that an earlier test killed."""
TIMES = 4
"""Copies of each photo in the source, so that a shard takes a while."""


@pytest.fixture(scope="module")
def shared_cluster(s3_proxy: Proxy) -> Iterator[RayCluster]:
    cluster = RayCluster(environment_of(s3_proxy))
    try:
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def cluster(shared_cluster: RayCluster) -> RayCluster:
    """Both nodes are up."""
    shared_cluster.start()
    return shared_cluster


@pytest.fixture(scope="module")
def photos(mini: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = tmp_path_factory.mktemp("photos") / "source"
    for path in sorted(mini.rglob("*.JPEG")):
        folder = source / path.parent.relative_to(mini)
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(TIMES):
            os.link(path, folder / f"{path.stem}-{number}.JPEG")
    return source


@pytest.fixture(scope="module")
def local(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset as the local runner makes it."""
    dest = tmp_path_factory.mktemp("local") / "out"
    ran = imgprep("build-shards", photos, dest, *SHARDED, "--jobs", 2)
    assert ran.code == 0, ran.err
    return dest


def start(cluster: RayCluster, *arguments: object, **variables: str) -> subprocess.Popen[str]:
    """Start a build that finds the cluster by RAY_ADDRESS."""
    environment = {**cluster.environment, "RAY_ADDRESS": cluster.address, **variables}
    return subprocess.Popen(
        command("build-shards", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**environment, "PYTHONWARNINGS": "error"},
    )


def build(cluster: RayCluster, *arguments: object, **variables: str) -> Ran:
    process = start(cluster, *arguments, **variables)
    out, err = process.communicate(timeout=120)
    return Ran(process.returncode, out, RAYS_OWN.sub("", err))


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.parametrize("by", ["RAY_ADDRESS", "ray://"])
def test_a_cluster_gives_the_same_bytes_and_messages(
    cluster: RayCluster, photos: Path, local: Path, tmp_path: Path, by: str
) -> None:
    name = "ray" if by == "RAY_ADDRESS" else cluster.client_url
    dest = tmp_path / "out"
    ran = build(cluster, photos, dest, *SHARDED, "--runner", name, "-q")
    assert (ran.code, ran.err) == (0, "")  # and nothing of Ray's own
    assert files_of(dest) == files_of(local)
    again = imgprep("build-shards", photos, local, *SHARDED)  # done: the same lines, no rate
    assert [line for line in ran.out.splitlines() if "img/s" not in line] == [
        line.replace(str(local), str(dest))
        for line in again.out.splitlines()
        if "nothing to build" not in line
    ]
    assert not list(dest.rglob("*.partial"))


def test_a_lost_node_costs_its_shards_and_nothing_else(
    cluster: RayCluster, photos: Path, local: Path, tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    process = start(cluster, photos, dest, *SHARDED, "--runner", "ray")
    wait_for(lambda: cluster.kill_in_mid_shard(dest), process)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    lost = re.findall(r"^(\S+): lost(?: on \S+)?, its (.+): it is retried$", err, re.MULTILINE)
    assert len(lost) >= 1, err
    assert "build: 480 of 480 images (100.0 %)" in err  # none is counted twice
    assert files_of(dest) == files_of(local)
    assert imgprep("verify", dest).code == 0


def test_bad_images_end_the_build_with_the_same_message(
    cluster: RayCluster, mini: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(mini, source)
    cut, text = sorted((source / "train").rglob("*.JPEG"))[3:40:36]
    cut.write_bytes(cut.read_bytes()[:-700])
    text.write_bytes(b"\xff\xd8\xffno photo")
    ours = build(cluster, source, tmp_path / "ray", *SHARDED, "--runner", "ray", "-q")
    theirs = imgprep("build-shards", source, tmp_path / "local", *SHARDED, "-q")
    assert (ours.code, ours.out) == (theirs.code, theirs.out) == (1, "")
    assert sorted(ours.err.splitlines()) == sorted(theirs.err.splitlines())
    assert "2 bad entries" in ours.err
    # The local runner resumes what Ray left, and Ray what the local runner left.
    skip = (*SHARDED, "--on-error", "skip", "-q")
    assert imgprep("build-shards", source, tmp_path / "ray", *skip).code == 3
    assert build(cluster, source, tmp_path / "local", *skip, "--runner", "ray").code == 3
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")


def test_a_stopped_build_is_resumed(
    cluster: RayCluster, photos: Path, local: Path, tmp_path: Path
) -> None:
    """Stopped by SIGKILL, then by Ctrl-C; the local runner builds the rest."""
    dest = tmp_path / "out"
    arguments = (photos, dest, *SHARDED, "--runner", "ray")

    def at_work() -> bool:
        return bool(writers_in(dest))

    killed = start(cluster, *arguments)
    wait_for(at_work, killed)
    killed.kill()
    killed.communicate()
    deadline = time.monotonic() + 30
    while writers_in(dest, "*"):
        assert time.monotonic() < deadline, "the workers of a killed build are still running"
        time.sleep(0.01)
    stopped = start(cluster, *arguments)
    wait_for(at_work, stopped)
    os.killpg(stopped.pid, signal.SIGINT)
    _, err = stopped.communicate(timeout=30)
    assert stopped.returncode == 1
    assert "run the same command again to resume" in err
    assert "Traceback" not in err
    assert not list(dest.rglob("*.partial"))
    assert not (dest / "dataset_info.json").exists()
    assert imgprep("build-shards", photos, dest, *SHARDED).code == 0
    assert files_of(dest) == files_of(local)


def test_source_and_dest_in_an_object_store(
    cluster: RayCluster, mini: Path, s3: ObjectStore, tmp_path: Path
) -> None:
    for path in sorted(mini.rglob("*.JPEG")):
        s3.put(f"photos/{path.relative_to(mini)}", path.read_bytes())
    source, options = f"{s3.url}/photos", ("--limit", 6, "--shard-images", 3, "-q")
    ran = build(cluster, source, f"{s3.url}/out", *options, "--runner", "ray")
    assert (ran.code, ran.err) == (0, "")
    assert imgprep("build-shards", source, tmp_path / "out", *options).code == 0
    found = s3.objects("out/")
    local = files_of(tmp_path / "out")
    assert {name: found[name] for name in local} == local


def test_a_node_with_other_versions_is_refused(
    cluster: RayCluster, mini: Path, tmp_path: Path
) -> None:
    """The nodes use the compiled kernel, the driver does not: their codecs differ."""
    ran = build(cluster, mini, tmp_path / "out", "--runner", "ray", "-q", IMGPREP_KERNEL="numpy")
    assert ran.code == 1
    assert re.search(r"node \S+ has kernel c, not numpy: it would not make the same bytes", ran.err)
    assert not list((tmp_path / "out").glob("*.tar"))


def needs(source: Path, dest: Path) -> NodeNeeds:
    import imgprep

    versions = {"imgprep": imgprep.__version__, **codecs()}
    return NodeNeeds(
        versions=tuple(versions.items()),
        source=(str(source),),
        dest=str(dest),
        build_sha256=re.findall(
            r'"build_sha256": "(.+?)"', (dest / ".imgprep/done/train-000000.json").read_text()
        )[0],
    )


def test_a_node_must_see_source_and_dest(photos: Path, local: Path, tmp_path: Path) -> None:
    good = needs(photos, local)
    check_node(good)
    with pytest.raises(BuildError, match=rf"node {os.uname().nodename} does not see SOURCE at .*x"):
        check_node(replace(good, source=(str(photos / "x"),)))
    with pytest.raises(BuildError, match="does not see the state folder of DEST"):
        check_node(replace(good, dest=str(tmp_path)))
    with pytest.raises(BuildError, match="sees another build at DEST"):
        check_node(replace(good, build_sha256="0" * 64))


def test_without_a_cluster_one_is_started_and_stopped(mini: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="r-", dir="/tmp") as folder:
        environment = {**os.environ, "RAY_TMPDIR": folder, "RAY_AUTH_MODE": "disabled"}
        options = ("--runner", "ray", "--jobs", 1, "--limit", 5, "-q")
        ran = subprocess.run(
            command("build-shards", mini, tmp_path / "out", *options),
            capture_output=True,
            text=True,
            timeout=120,
            env=environment,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "built 10 records from 10 images" in ran.stdout
        for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):
                assert folder.encode() not in cmdline.read_bytes()


def test_missing_packages_are_reported_before_any_work(mini: Path, tmp_path: Path) -> None:
    code = "import sys; sys.modules['ray'] = None; from imgprep.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "build-shards", mini, tmp_path / "out", "--runner", "ray"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == "imgprep: --runner ray needs Ray: pip install 'imgprep[ray]'\n"
    nobody = imgprep("build-shards", mini, tmp_path / "out", "--runner", "ray://127.0.0.1:1")
    assert nobody.code == 1
    assert "ray://127.0.0.1:1: nothing answers there (Connection refused)" in nobody.err
    assert imgprep("build-shards", mini, tmp_path / "out", "--runner", "spark").code == 2
    assert not (tmp_path / "out").exists()
