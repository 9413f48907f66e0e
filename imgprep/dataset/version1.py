"""Read what schema version 1 left on disk, in the shape of version 2.

Version 1 kept the done marker of a shard beside it, without a checksum, and had other names for
the file of the build identity and for the codecs. Its shards are the same.
"""

from __future__ import annotations

import re
from typing import Any, Final

from imgprep.dataset.format import SCHEMA_VERSION, SPLITS, STATE_FOLDER

IDENTITY_V1: Final = f"{STATE_FOLDER}/plan.json"
_MARKER = re.compile(rf"({'|'.join(SPLITS)})-[0-9]+\.json")


def marker_name_v1(stem: str) -> str:
    """Name of the done marker of a shard in version 1."""
    return f"{stem}.json"


def is_marker_v1(name: str) -> bool:
    """Whether a file beside the shards has the name of a done marker of version 1."""
    return _MARKER.fullmatch(name) is not None


def is_v1(value: dict[str, Any]) -> bool:
    """Whether a JSON file was written by version 1."""
    return value.get("schema_version") == 1


def from_v1(value: dict[str, Any]) -> dict[str, Any]:
    """An index or a build identity as version 2 has it; one of another version is unchanged."""
    if not is_v1(value):
        return value
    names = {"engine": "codecs"}
    renamed = {names.get(name, name): part for name, part in value.items()}
    return {**renamed, "schema_version": SCHEMA_VERSION}
