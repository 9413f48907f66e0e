"""Datasets of schema versions 1 and 2, made from those of version 3, and checksums of markers."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path

from imgprep.dataset.format import DONE_FOLDER, IDENTITY
from imgprep.dataset.older_versions import IDENTITY_V1, NEW_IN_3
from imgprep.spec import digest_of
from imgprep.storage.atomic import json_bytes


def as_version_2(dest: Path) -> Path:
    """Rewrite a dataset, finished or not, as version 2 had it on disk; returns it."""
    for marker in (dest / DONE_FOLDER).glob("*.json"):
        value = {**json.loads(marker.read_bytes()), "schema_version": 2}
        marker.write_bytes(with_checksum(json.dumps(value).encode()))
    for name in (IDENTITY, "dataset_info.json", "report.json"):
        path = dest / name
        if path.exists():
            value = {**json.loads(path.read_bytes()), "schema_version": 2}
            for field in NEW_IN_3:
                value.get("spec", {}).pop(field, None)
            path.write_bytes(json_bytes(value))
    return dest


def as_version_1(dest: Path) -> Path:
    """Rewrite a dataset, finished or not, as version 1 had it on disk; returns it."""
    as_version_2(dest)
    for marker in sorted((dest / DONE_FOLDER).glob("*.json")):
        value = json.loads(marker.read_bytes())
        del value["content_sha256"]
        (dest / marker.name).write_bytes(json_bytes({**value, "schema_version": 1}))
    shutil.rmtree(dest / DONE_FOLDER)
    (dest / IDENTITY).rename(dest / IDENTITY_V1)
    for name in (IDENTITY_V1, "dataset_info.json", "report.json"):
        path = dest / name
        if path.exists():
            value = {**json.loads(path.read_bytes()), "schema_version": 1}
            renamed = {"engine" if key == "codecs" else key: part for key, part in value.items()}
            path.write_bytes(json_bytes(renamed))
    return dest


def with_checksum(data: bytes) -> bytes:
    """A done marker with the checksum that fits its other fields, as far as it can have one."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        if isinstance(value, dict):
            value.pop("content_sha256", None)
            return json.dumps({**value, "content_sha256": digest_of(value)}).encode()
    return data
