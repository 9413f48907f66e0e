"""The peers: their commands, their environments, and how their output is checked."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BENCH = ROOT / ".bench"
ENVS = BENCH / "envs"
PINS = HERE / "pins"
OWN_ENV = ".venv"
JOBS = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One contestant."""

    name: str
    what: str
    """Description in the table."""
    env: str
    """Folder under ``.bench/envs`` (pinned by ``pins/<env>.txt``), or ``.venv``, our own."""
    command: tuple[str, ...]
    """Our command, or a peer script and the arguments after SOURCE and OUT."""
    packages: tuple[str, ...]
    """Distributions whose versions the table shows."""
    output: str = "tar"
    """The format to check: tar, mds, litdata, or none (nothing is written)."""
    off_the_shelf: bool = False
    """In the "best of" group: the same work on stock wheels; all of these use bilinear."""
    keeps_grey: bool = False
    """A grey photo becomes a record of one channel."""

    @property
    def is_imgprep(self) -> bool:
        return self.env == OWN_ENV

    @property
    def folder(self) -> Path:
        return ROOT / OWN_ENV if self.is_imgprep else ENVS / self.env

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    def argv(self, source: Path, out: Path) -> list[str]:
        """The whole command line of one run."""
        if self.is_imgprep:
            program, *options = self.command
            where = [str(self.folder / "bin" / program), "build-shards"]
            return [*where, str(source), str(out), "--quiet", "--json", *options]
        script, *options = self.command
        return [str(self.python), str(HERE / script), str(source), str(out), *options]


def _imgprep(name: str, what: str, jobs: int) -> Peer:
    return Peer(
        name=name,
        what=what,
        env=OWN_ENV,
        command=("imgprep", "--jobs", str(jobs)),
        packages=("imgprep", "pillow-simd", "simplejpeg"),
    )


def _webdataset(name: str, what: str, env: str, resample: str) -> Peer:
    return Peer(
        name=name,
        what=what,
        env=env,
        command=("peer_webdataset.py", resample),
        packages=("webdataset", "pillow-simd" if env == "simd" else "pillow"),
        off_the_shelf=name == "webdataset",
    )


IMGPREP = _imgprep("imgprep", "imgprep, 2 jobs, statistics, fsync", JOBS)

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(
            name="mds",
            what="MDSWriter, 2 processes",
            env="torch",
            command=("peer_mds.py",),
            packages=("mosaicml-streaming", "pillow"),
            output="mds",
            off_the_shelf=True,
        ),
        Peer(
            name="litdata",
            what="litdata.optimize, 2 workers",
            env="torch",
            command=("peer_litdata.py",),
            packages=("litdata", "pillow"),
            output="litdata",
            off_the_shelf=True,
        ),
        Peer(
            name="dali",
            what="DALI CPU, 2 threads + simplejpeg + tarfile",
            env="plain",
            command=("peer_dali.py",),
            packages=("nvidia-dali-cuda120", "simplejpeg"),
            off_the_shelf=True,
        ),
        _webdataset(
            "webdataset",
            "webdataset ShardWriter + Pillow, 2 processes",
            "plain",
            "bilinear",
        ),
        _webdataset(
            "webdataset-box",
            "the same with Pillow's BOX, its cheapest filter",
            "plain",
            "box",
        ),
        _webdataset(
            "webdataset-simd",
            "the same (bilinear) on pillow-simd",
            "simd",
            "bilinear",
        ),
        Peer(
            name="torchvision",
            what="torchvision Resize + CenterCrop, DataLoader(2), tarfile",
            env="torch",
            command=("peer_torchvision.py",),
            packages=("torchvision", "torch", "pillow"),
        ),
        Peer(
            name="img2dataset",
            what="img2dataset, 2 processes x 4 threads, file://",
            env="img2dataset",
            command=("peer_img2dataset.py",),
            packages=("img2dataset", "opencv-python-headless"),
            keeps_grey=True,
        ),
        Peer(
            name="limit",
            what="limit: simplejpeg decode + encode, 2 processes, nothing else",
            env="plain",
            command=("peer_limit.py",),
            packages=("simplejpeg",),
            output="none",
        ),
        Peer(
            name="limit-1",
            what="the same limit in 1 process",
            env="plain",
            command=("peer_limit.py", "1"),
            packages=("simplejpeg",),
            output="none",
        ),
        _imgprep("imgprep-1", "imgprep, 1 job", 1),
    )
}


def chosen(names: list[str]) -> list[Peer]:
    """Return the peers of these names, or all of them for none."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        sys.exit(f"bench_build: unknown peer {', '.join(unknown)}: use {', '.join(PEERS)}")
    return [PEERS[name] for name in names] if names else list(PEERS.values())
