"""Check on each node of a cluster, before its first shard, that it can take part in a build."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from imgprep import __version__
from imgprep.build.identity import BuildIdentity, stored_identity
from imgprep.dataset.format import IDENTITY, STATE_FOLDER
from imgprep.errors import BuildError, ChangedError, FormatError, StoreError
from imgprep.sources.manifest import SourceScan
from imgprep.storage import Store, absolute, open_store
from imgprep.storage.urls import is_url


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeNeeds:
    """What a node must have: the versions that decide the bytes, and the same files."""

    versions: tuple[tuple[str, str], ...]
    """Versions of imgprep and of every library that decides pixels or bytes."""
    source: tuple[str, ...]
    """Paths of the source that must exist; none if it is a URL."""
    dest: str
    build_sha256: str
    """Digest of the build identity that must be in DEST."""


def needs_of(scan: SourceScan, store: Store, identity: BuildIdentity) -> NodeNeeds:
    """What a node needs to build shards of this source into this store."""
    root = scan.absolute_root
    paths = [] if is_url(root) else [root]
    if paths:  # an unmounted mount point is an empty folder: look for a file in it
        held = (rows.container_paths[:1] for rows in scan.splits.values())
        paths += [os.path.join(root, path) for first in held for path in first]  # noqa: PTH118
    return NodeNeeds(
        versions=_versions(identity.codecs),
        source=tuple(paths),
        dest=absolute(store),
        build_sha256=identity.sha256,
    )


@cache
def check_node(needs: NodeNeeds) -> None:
    """Refuse a node that would write different bytes, or read or write other files.

    Raises:
        BuildError: what is wrong, and on which node. Only success is cached.
    """
    from imgprep.image.prepare import codecs

    node = os.uname().nodename
    here, there = dict(_versions(codecs())), dict(needs.versions)
    differing = [
        f"{name} {here.get(name, 'none')}, not {there.get(name, 'none')}"
        for name in sorted(here.keys() | there.keys())
        if here.get(name) != there.get(name)
    ]
    if differing:
        raise BuildError(
            f"node {node} has {'; '.join(differing)}: it would not make the same bytes: install "
            "the versions of the machine that started the build"
        )
    for path in needs.source:
        if not Path(path).exists():
            raise BuildError(
                f"node {node} does not see SOURCE at {path}: mount it there under the same path, "
                "or give a URL that all nodes can read"
            )
    _check_dest(node, needs)


def _check_dest(node: str, needs: NodeNeeds) -> None:
    store = open_store(needs.dest)
    try:
        identity = stored_identity(store)
        if identity is None:
            raise FileNotFoundError(errno.ENOENT, f"no {IDENTITY}")
    except (FormatError, ChangedError, StoreError, OSError) as exc:
        raise BuildError(
            f"node {node} does not see the state folder of DEST, {store.where(STATE_FOLDER)} "
            f"({exc}): mount DEST there under the same path, or give a URL that all nodes can write"
        ) from exc
    if identity.sha256 != needs.build_sha256:
        raise BuildError(
            f"node {node} sees another build at DEST {store}: the folder must be the same one on "
            "all nodes"
        )


def _versions(codecs: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return ("imgprep", __version__), *sorted(codecs.items())


__all__ = ["NodeNeeds", "check_node", "needs_of"]
