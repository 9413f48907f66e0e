"""The build identity: all that decides the bytes of a dataset, and its file in the state folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imgprep.dataset.format import IDENTITY, SCHEMA_VERSION
from imgprep.dataset.older_versions import IDENTITY_V1, as_current, is_known, spec_for_digests
from imgprep.errors import ChangedError
from imgprep.spec import digest_of
from imgprep.storage import Store
from imgprep.storage.atomic import json_bytes
from imgprep.storage.reading import exists, load_json


@dataclass(frozen=True, slots=True)
class BuildIdentity:
    """All that decides the bytes of a dataset; each part is a flat JSON object."""

    source: dict[str, Any]
    spec: dict[str, Any]
    codecs: dict[str, str]

    @property
    def sha256(self) -> str:
        """Digest that done markers carry.

        It names the codecs as schema version 1 did, and leaves out of the spec what is as in
        earlier versions, so that markers of all versions remain valid.
        """
        spec = spec_for_digests(self.spec)
        return digest_of({"source": self.source, "spec": spec, "engine": self.codecs})

    def to_json(self) -> dict[str, Any]:
        """The three parts as one JSON object."""
        return {"source": self.source, "spec": self.spec, "codecs": self.codecs}

    def write(self, store: Store) -> None:
        """Write the file in the state folder."""
        store.write(IDENTITY, json_bytes({"schema_version": SCHEMA_VERSION, **self.to_json()}))


def stored_identity(store: Store) -> BuildIdentity | None:
    """The identity of the build that was begun in a store, of any version; None if none was.

    Its parts may be of any type, as the file may have been edited.

    Raises:
        FormatError: it cannot be read.
        ChangedError: it is of a version that this imgprep does not know.
        StoreError: the store does not answer, or refuses.
    """
    name = next((name for name in (IDENTITY, IDENTITY_V1) if exists(store, name)), None)
    if name is None:
        return None
    value = as_current(load_json(store, name, "build identity"))
    if not is_known(value):
        raise ChangedError(
            f"{store}: begun with schema version {value.get('schema_version')!r:.80}; this imgprep "
            f"reads versions 1 to {SCHEMA_VERSION}: choose another DEST, or start over with --force"
        )
    source, spec, codecs = (value.get(part) for part in ("source", "spec", "codecs"))
    return BuildIdentity(source, spec, codecs)  # type: ignore[arg-type]


def is_current(store: Store) -> bool:
    """Whether the stored identity is of the current schema version.

    Raises:
        FormatError: it cannot be read.
        StoreError: the store does not answer, or refuses.
    """
    value = load_json(store, IDENTITY, "build identity")
    return bool(value.get("schema_version") == SCHEMA_VERSION)


def refuse_changes(store: Store, begun: BuildIdentity, identity: BuildIdentity) -> None:
    """Refuse to resume a build from another source, with another spec or with other codecs.

    Raises:
        ChangedError: names each difference.
    """
    before = begun.to_json()
    differences = [
        (part, *difference)
        for part, fields in identity.to_json().items()
        for difference in _differences(before[part], fields)
    ]
    selected = [one for one in differences if one[1].startswith("selection.")]
    if selected:  # Other classes make the rest of the source differ, too.
        differences = selected
    changes = [
        f"{part}.{name}: was {_short(old)}, is {_short(new)}"
        for part, name, old, new in differences
    ]
    if selected:
        raise ChangedError(
            f"{store} was started with other classes:\n  "
            + "\n  ".join(changes)
            + "\nGive the same --classes and --exclude, choose another DEST, or start over with "
            "--force."
        )
    if changes:
        raise ChangedError(
            f"{store} was started from another source, with other options, or with other versions "
            "of libraries:\n  "
            + "\n  ".join(changes)
            + "\nUse what it was started with, choose another DEST, or start over with --force."
        )


def _differences(old: object, new: dict[str, Any]) -> list[tuple[str, object, object]]:
    before = old if isinstance(old, dict) else {}
    changed = (name for name in sorted({*before, *new}) if before.get(name) != new.get(name))
    return [(name, before.get(name), new.get(name)) for name in changed]


def _short(value: object) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"
