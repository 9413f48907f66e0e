"""A manifest is compact, is saved and loaded, and is rejected when damaged."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgprep.errors import FormatError
from imgprep.sources.clutter import is_clutter_path
from imgprep.sources.containers import ContainerBuilder, assemble
from imgprep.sources.manifest import LOOSE_FILE, ROW_DTYPE, SplitManifest
from imgprep.sources.scan import scan_source
from tests.trees import Shape, make_archives

NAMES = st.binary(min_size=1, max_size=30).filter(
    lambda name: b"\0" not in name and not is_clutter_path(name)
)
NUMBERS = st.integers(0, 2**62)
IMAGES = st.lists(st.tuples(NAMES, NUMBERS, st.integers(1, 2**62), NUMBERS), max_size=12)


def build(containers: list[list[tuple[bytes, int, int, int]]]) -> SplitManifest:
    blocks = []
    for number, images in enumerate(containers):
        builder = ContainerBuilder(f"c{number}", f"p{number}", ":")
        for image in images:
            builder.add(*image)
        blocks.append((builder.finish(), number))
    return assemble("train", blocks)


@given(st.lists(IMAGES, max_size=4))
def test_rows_hold_what_was_added_by_label_and_name(
    containers: list[list[tuple[bytes, int, int, int]]],
) -> None:
    manifest = build(containers)
    expected = []
    for number, images in enumerate(containers):
        first = {name: (number, name, *rest) for name, *rest in reversed(images)}
        expected += [first[name] for name in sorted(first)]
    rows = manifest.rows
    found = [
        (
            manifest.label(i),
            manifest.name_bytes(i),
            int(rows[i]["offset"]),
            int(rows[i]["size_bytes"]),
            int(rows[i]["mtime_ns"]),
        )
        for i in range(len(manifest))
    ]
    assert found == expected


@given(st.lists(IMAGES, max_size=4))
def test_save_and_load(containers: list[list[tuple[bytes, int, int, int]]]) -> None:
    manifest = build(containers)
    with tempfile.TemporaryDirectory() as folder:
        manifest.save(Path(folder) / "new" / "train")
        loaded = SplitManifest.load(Path(folder) / "new" / "train")
        assert np.array_equal(loaded.rows, manifest.rows)
        assert loaded.split == manifest.split
        assert loaded.containers == manifest.containers
        assert loaded.container_paths == manifest.container_paths
        for i in range(len(manifest)):
            assert loaded.name(i) == manifest.name(i)
            assert loaded.where(i) == manifest.where(i)


def test_duplicates_keep_the_first() -> None:
    builder = ContainerBuilder("c", "c", ":")
    for offset, name in enumerate([b"b", b"a", b"b", b"b"]):
        builder.add(name, offset, 1, 0)
    block = builder.finish()
    assert block.each_name() == [b"a", b"b"]
    assert block.rows["offset"].tolist() == [1, 0]
    assert block.rejected == (b"b", b"b")
    assert block.findings.problem_counts == {"duplicate-name": 2}


def test_where_tells_archives_from_folders() -> None:
    for offset, expected in ((0, "c:é\udcff"), (LOOSE_FILE, "c/é\udcff")):
        builder = ContainerBuilder("c", "c", "/")
        builder.add("é".encode() + b"\xff", offset, 1, 0)
        manifest = assemble("val", [(builder.finish(), 0)])
        assert manifest.where(0) == expected


def test_an_image_costs_less_than_a_hundred_bytes(tmp_path: Path) -> None:
    make_archives(tmp_path, Shape(train_per_class=300, image=lambda *_: b"x"), val=False)
    manifest = scan_source(tmp_path).splits["train"]
    manifest.save(tmp_path / "saved")
    on_disk = sum(path.stat().st_size for path in (tmp_path / "saved").iterdir())
    assert ROW_DTYPE.itemsize == 40
    assert on_disk / len(manifest) < 62


def damage_meta(folder: Path, **fields: object) -> None:
    path = folder / "meta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def damage_rows(folder: Path, column: str, at: int, value: int) -> None:
    rows = np.load(folder / "rows.npy")
    rows[column][at] = value
    np.save(folder / "rows.npy", rows)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "no meta": lambda f: (f / "meta.json").unlink(),
    "meta is no JSON": lambda f: (f / "meta.json").write_bytes(b"\xff{"),
    "meta is a list": lambda f: (f / "meta.json").write_bytes(b"[]"),
    "other version": lambda f: damage_meta(f, format="imgprep-manifest-0"),
    "other count": lambda f: damage_meta(f, images=1),
    "split is a number": lambda f: damage_meta(f, split=1),
    "containers of numbers": lambda f: damage_meta(f, containers=[1, 2]),
    "paths missing": lambda f: damage_meta(f, container_paths=["p0"]),
    "no rows": lambda f: (f / "rows.npy").unlink(),
    "rows cut": lambda f: (f / "rows.npy").write_bytes((f / "rows.npy").read_bytes()[:-9]),
    "rows of another type": lambda f: np.save(f / "rows.npy", np.zeros(4)),
    "rows of objects": lambda f: np.save(f / "rows.npy", np.array([{}]), allow_pickle=True),
    "rows empty": lambda f: (f / "rows.npy").write_bytes(b""),
    "no names": lambda f: (f / "names.bin").unlink(),
    "names cut": lambda f: (f / "names.bin").write_bytes(b"a"),
    "null byte in a name": lambda f: (f / "names.bin").write_bytes(b"a\0cd"),
    "null byte in a path": lambda f: damage_meta(f, container_paths=["p\0", "p1"]),
    "path that is no text": lambda f: damage_meta(f, container_paths=["p\ud800", "p1"]),
    "first name late": lambda f: damage_rows(f, "name_start", 0, 1),
    "names run backwards": lambda f: damage_rows(f, "name_start", 1, -1),
    "names run past": lambda f: damage_rows(f, "name_start", 3, 1000),
    "container below": lambda f: damage_rows(f, "container", 1, -1),
    "container above": lambda f: damage_rows(f, "container", 1, 2),
    "label below": lambda f: damage_rows(f, "label", 1, -1),
    "size below": lambda f: damage_rows(f, "size_bytes", 1, -1),
    "offset below": lambda f: damage_rows(f, "offset", 1, -2),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_a_format_error(damage: str, tmp_path: Path) -> None:
    build([[(b"a", 0, 1, 0), (b"b", 1, 1, 0)], [(b"c", 0, 1, 0), (b"d", 1, 1, 0)]]).save(tmp_path)
    assert len(SplitManifest.load(tmp_path)) == 4
    DAMAGE[damage](tmp_path)
    with pytest.raises(FormatError):
        SplitManifest.load(tmp_path)
