"""Put sources into object stores, then scan and read them.

``python -m tests.remote_source LOCATION...`` prints a JSON object for each one, from a process of
its own: the thread that s3fs starts stays out of the process of the tests.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

from imgprep.errors import ImgprepError
from imgprep.sources.reader import SourceReader
from imgprep.sources.scan import scan_source
from tests.conftest import REPOSITORY
from tests.objectstore import ObjectStore


def put_tree(store: ObjectStore, root: Path, prefix: str) -> str:
    """Upload the files of a folder; returns its URL."""
    for path in root.rglob("*"):
        if path.is_file():
            store.put(f"{prefix}/{quote(str(path.relative_to(root)))}", path.read_bytes())
    return f"{store.url}/{prefix}"


def put_memory(root: Path, url: str) -> str:
    """Copy the files of a folder to a ``memory://`` URL, which is returned."""
    import fsspec

    fs = fsspec.filesystem("memory")
    for path in root.rglob("*"):
        if path.is_file():
            fs.pipe_file(f"{url}/{path.relative_to(root)}", path.read_bytes())
    return url


def look(location: str | Path) -> dict[str, Any]:
    """The result of a scan without times, with a digest of every image; or the error raised."""
    try:
        scan = scan_source(location)
    except ImgprepError as exc:
        text = str(exc).replace(str(location), "SOURCE")
        return {"error": type(exc).__name__, "text": text}
    splits = {}
    for name, manifest in scan.splits.items():
        with SourceReader(scan.root, manifest) as reader:
            reader.will_need(range(0, len(manifest), 2))
            splits[name] = [
                [
                    manifest.where(i),
                    manifest.label(i),
                    int(manifest.rows[i]["offset"]),
                    int(manifest.rows[i]["size_bytes"]),
                    hashlib.sha256(reader.read(i)).hexdigest(),
                ]
                for i in range(len(manifest))
            ]
    return {
        "layout": scan.layout,
        "evidence": list(scan.evidence),
        "classes": [[one.name, one.words, one.devkit_id] for one in scan.labels.classes],
        "problems": [[one.kind, one.where, one.cause] for one in scan.problems],
        "counts": scan.problem_counts,
        "oddities": scan.oddities,
        "splits": splits,
    }


def look_apart(*locations: str | Path) -> list[dict[str, Any]]:
    """``look`` at each location, in another process."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.remote_source", *map(str, locations)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


if __name__ == "__main__":
    for given in sys.argv[1:]:
        sys.stdout.write(json.dumps(look(given)) + "\n")
