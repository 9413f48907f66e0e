"""Class tars scanned in several processes give what one process finds, in its order."""

from __future__ import annotations

from pathlib import Path

import pytest

from imgprep.errors import SourceError
from imgprep.sources.containers import Findings
from imgprep.sources.local_tree import LocalTree
from imgprep.sources.scan_processes import TARS_PER_CHUNK, scan_in_processes
from imgprep.sources.scan_threads import ScanOptions
from imgprep.sources.tars import TarPart, class_tars_beside, class_tars_in, scan_class_tars
from tests.trees import Shape, make_archives, tar_bytes, write_files

TRAIN = "ILSVRC2012_img_train.tar"
CLASSES = tuple(f"n{number:08d}" for number in range(2 * TARS_PER_CHUNK + 5))


class TwoProcesses(LocalTree):
    """A local folder that is scanned like a remote one."""

    processes = 2


def options(seen: list[int] | None = None) -> ScanOptions:
    return ScanOptions(None, None if seen is None else seen.append, lambda: None)


def found(tree: LocalTree, parts: dict[str, TarPart], least_bytes: int) -> list[object]:
    return [
        (name, block.container, block.rows.tobytes(), block.names, block.findings)
        for name, block in scan_in_processes(tree, parts, options(), least_bytes)
    ]


@pytest.mark.parametrize("apart", [False, True])
def test_processes_find_what_one_process_finds(apart: bool, tmp_path: Path) -> None:
    shape = Shape(classes=CLASSES, train_per_class=2, image=lambda name, n: f"{name}{n}".encode())
    if apart:
        tars = {f"{name}.tar": tar_bytes(files.items()) for name, files in shape.train().items()}
        write_files(tmp_path, tars)
        write_files(tmp_path, {f"{CLASSES[3]}.tar": b"no tar" * 200})
        parts = class_tars_beside(tuple(tars))
    else:
        make_archives(tmp_path, shape, val=False)
        parts = class_tars_in(LocalTree(tmp_path), TRAIN, Findings())
    tree = TwoProcesses(tmp_path)
    assert found(tree, parts, 0) == found(tree, parts, 1 << 60)
    seen: list[int] = []
    assert len(list(scan_in_processes(tree, parts, options(seen), 0))) == len(CLASSES)
    assert len(seen) == 3
    assert seen[-1] == 2 * (len(CLASSES) - apart)


def test_what_a_process_cannot_read_ends_the_scan(tmp_path: Path) -> None:
    make_archives(tmp_path, Shape(classes=CLASSES, train_per_class=1), val=False)
    tree = TwoProcesses(tmp_path)
    parts = class_tars_in(tree, TRAIN, Findings())
    (tmp_path / TRAIN).unlink()
    with pytest.raises(SourceError, match=f"{TRAIN} cannot be read"):
        list(scan_in_processes(tree, parts, options(), 0))
    with pytest.raises(SourceError):
        list(scan_class_tars(tree, parts, options()))
