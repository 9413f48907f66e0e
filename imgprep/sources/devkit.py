"""Find and read the devkit of a challenge: its classes, and the labels of val and test."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imgprep.errors import SourceError
from imgprep.sources.challenges import CHALLENGES, Challenge
from imgprep.sources.gzipped import GZIP_MAGIC, in_memory, unpacked
from imgprep.sources.tarwalk import walk
from imgprep.sources.tree import Tree, child_path
from imgprep.sources.truth_files import Synset, parse_devkit_meta, parse_ground_truth

META_NAME = "meta.mat"
LABELLED_SPLITS = ("val", "test")
MAX_FILE_BYTES = 64 * 1024 * 1024
MAX_DEVKIT_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Devkit:
    """What a devkit says."""

    challenge: Challenge
    where: str
    classes: tuple[Synset, ...]
    """The leaves, by devkit id."""
    labels: Mapping[str, Mapping[int, str]]
    """Split -> number of an image -> class; a split without a ground truth is absent."""


def read_devkit(places: Sequence[Tree], challenges: Sequence[Challenge]) -> Devkit | None:
    """Read the first devkit in ``places``, as an archive or unpacked; None where there is none.

    Raises:
        SourceError: a file is malformed, or two contradict each other.
    """
    for challenge in challenges:
        found = _find(places, challenge)
        if found is not None:
            where, files = found
            return _devkit(challenge, where, files, places)
    return None


def _devkit(
    challenge: Challenge, where: str, files: Mapping[str, bytes], places: Sequence[Tree]
) -> Devkit:
    synsets = parse_devkit_meta(files[META_NAME], f"{where}: {META_NAME}", challenge.id_field)
    classes = tuple(entry for entry in synsets if entry.num_children == 0)
    labels = {}
    for split in LABELLED_SPLITS:
        name = challenge.ground_truth(split)
        # The labels of the test split were published in a file of their own.
        beside = first_file(places, (name,)) if name not in files else None
        if name in files:
            labels[split] = _labels(classes, files[name], f"{where}: {name}")
        elif beside is not None and split == "test":
            tree, path = beside
            labels[split] = _labels(classes, read_small(tree, path), tree.where(path))
    return Devkit(challenge, where, classes, labels)


def _labels(classes: Sequence[Synset], ground_truth: bytes, where: str) -> dict[int, str]:
    names = {entry.devkit_id: entry.name for entry in classes}
    found = parse_ground_truth(ground_truth, where)
    for number, devkit_id in enumerate(found, 1):
        if devkit_id not in names:
            raise SourceError(f"{where}, line {number}: no class has the devkit id {devkit_id}")
    return {number: names[devkit_id] for number, devkit_id in enumerate(found, 1)}


def first_file(places: Sequence[Tree], names: Sequence[str]) -> tuple[Tree, str] | None:
    """The first of some files that exists."""
    candidates = ((tree, name) for tree in places for name in names)
    return next(((tree, name) for tree, name in candidates if tree.is_file(name)), None)


def read_small(tree: Tree, path: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """The content of a small file.

    Raises:
        SourceError: it cannot be read, or is too large.
    """
    where = tree.where(path)
    try:
        data = tree.read(path, limit_bytes + 1)
    except OSError as exc:
        raise SourceError(f"{where} cannot be read: {exc.strerror or exc}") from exc
    if len(data) > limit_bytes:
        raise SourceError(f"{where} is larger than {limit_bytes >> 20} MiB; is it the right file?")
    return data


def _find(places: Sequence[Tree], challenge: Challenge) -> tuple[str, dict[str, bytes]] | None:
    """(where, files by bare name) of the first devkit of a challenge."""
    wanted = (META_NAME, *map(challenge.ground_truth, LABELLED_SPLITS))
    archive = first_file(places, challenge.devkit_archives)
    if archive:
        tree, name = archive
        where = tree.where(name)
        files = _read_archive(read_small(tree, name, MAX_DEVKIT_BYTES), where, wanted)
        if META_NAME not in files:
            raise SourceError(f"{where} does not contain {META_NAME}; download it again")
        return name, files
    folder, unpacked = challenge.devkit_name, challenge.devkit_archives[0].removesuffix(".tar.gz")
    folders = (folder, f"{folder}/{folder}", unpacked, f"{unpacked}/{folder}", "devkit", "")
    others = [one.ground_truth("val") for one in CHALLENGES if one is not challenge]
    for tree in places:
        for folder in folders:
            for base in (child_path(folder, "data"), folder):
                if not tree.is_file(child_path(base, META_NAME)):
                    continue
                if any(tree.is_file(child_path(base, name)) for name in others):
                    continue  # the devkit of another challenge
                paths = {name: child_path(base, name) for name in wanted}
                files = {
                    name: read_small(tree, path)
                    for name, path in paths.items()
                    if tree.is_file(path)
                }
                return base or ".", files
    return None


def _read_archive(data: bytes, where: str, wanted: Sequence[str]) -> dict[str, bytes]:
    """Return the files that are wanted, by bare name; bounded, because gzip may be a bomb.

    ``tarfile`` is not used: it reads headers of a hostile tar into memory whatever size they
    claim, and may loop forever on negative sizes.
    """
    found: dict[str, bytes] = {}
    try:
        is_packed = data.startswith(GZIP_MAGIC)
        plain = unpacked(io.BytesIO(data), MAX_DEVKIT_BYTES, where) if is_packed else data
    except (EOFError, zlib.error, OSError) as exc:
        raise SourceError(
            f"{where} is not a readable devkit archive: {exc}; download it again"
        ) from exc
    for member in walk(in_memory(plain), 0, len(plain)):
        if member.problem == "not-a-tar":
            raise SourceError(f"{where}: {member.cause}")
        if member.problem in ("cut-short", "bad-header"):
            raise SourceError(
                f"{where} is not a readable devkit archive: {member.cause}; download it again"
            )
        name = os.fsdecode(member.name.rpartition(b"/")[2])
        if not member.problem and name in wanted:
            found.setdefault(name, plain[member.offset : member.offset + member.size_bytes])
    return found
