"""Choose how to read the files of a source: from a folder on disk or from an object store."""

from __future__ import annotations

from pathlib import Path

from imgprep.sources.local_tree import LocalTree
from imgprep.sources.remote_tree import RemoteTree
from imgprep.sources.tree import Tree
from imgprep.storage.urls import path_of


def open_tree(location: str | Path) -> Tree:
    """Return the tree at a path or URL; reads nothing yet.

    Raises:
        UsageError: the URL scheme is unknown, or the package that reads it is missing.
    """
    path = path_of(location)
    return RemoteTree(str(location)) if path is None else LocalTree(path)
