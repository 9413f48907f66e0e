"""Read what schema versions 1 and 2 left on disk, in the form of version 3.

Version 1 kept the done marker of a shard beside it, without a checksum, and had other names for
the file of the build identity and for the codecs. Version 3 added fields to the spec. The shards
of all versions are the same.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from imgprep.dataset.format import SCHEMA_VERSION, SPLITS, STATE_FOLDER

IDENTITY_V1: Final = f"{STATE_FOLDER}/plan.json"
NEW_IN_3: Final[Mapping[str, Any]] = {"image.shape": "square"}
"""Fields of the spec that version 3 added, each with the value that earlier versions imply."""
_MARKER = re.compile(rf"({'|'.join(SPLITS)})-[0-9]+\.json")


def marker_name_v1(stem: str) -> str:
    """Name of the done marker of a shard in version 1."""
    return f"{stem}.json"


def is_marker_v1(name: str) -> bool:
    """Whether a file beside the shards has the name of a done marker of version 1."""
    return _MARKER.fullmatch(name) is not None


def is_v1(value: Mapping[str, Any]) -> bool:
    """Whether a JSON file was written by version 1."""
    return value.get("schema_version") == 1


def is_known(value: Mapping[str, Any]) -> bool:
    """Whether a JSON file was written by a version that this imgprep reads."""
    return value.get("schema_version") in range(1, SCHEMA_VERSION + 1)


def as_current(value: dict[str, Any]) -> dict[str, Any]:
    """An index or a build identity as the current version has it.

    One of the current version, or of a version that is not known, is unchanged.
    """
    if not is_known(value) or value["schema_version"] == SCHEMA_VERSION:
        return value
    names = {"engine": "codecs"} if is_v1(value) else {}
    current = {names.get(name, name): part for name, part in value.items()}
    if isinstance(current.get("spec"), dict):
        current["spec"] = {**NEW_IN_3, **current["spec"]}
    return {**current, "schema_version": SCHEMA_VERSION}


def spec_for_digests(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without the fields that have the meaning of earlier versions.

    So the digests of a build and of a dataset are the same in every version.
    """
    return {
        name: value
        for name, value in spec.items()
        if name not in NEW_IN_3 or value != NEW_IN_3[name]
    }
