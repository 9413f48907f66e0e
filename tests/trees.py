"""Small sources for tests, in each layout, in the official shapes.

Images come from a callable ``(class name, number) -> bytes``, so that a test can give photos::

    make_archives(root, Shape(image=lambda name, number: photos[number % 3]))

Devkit ids run against the order of the class names, as in the real devkit they differ from it.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg

ImageMaker = Callable[[str, int], bytes]
CLASSES = ("n01440764", "n01443537", "n02085620")
ANCESTOR = "n00001740"
TAR_MTIME_S = 1_339_000_000
DEVKIT = "ILSVRC2012_devkit_t12"


def tiny_jpeg(class_name: str, number: int) -> bytes:
    """A real 16x16 JPEG whose pixels depend on the arguments."""
    seed = zlib.crc32(f"{class_name}/{number}".encode())
    image_hwc = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8)
    return bytes(simplejpeg.encode_jpeg(image_hwc, quality=90))


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The classes and images of a source."""

    classes: tuple[str, ...] = CLASSES
    train_per_class: int = 3
    val_images: int = 6
    image: ImageMaker = tiny_jpeg

    def train(self) -> dict[str, dict[str, bytes]]:
        """Bytes by class and file name."""
        return {
            name: {
                f"{name}_{number}.JPEG": self.image(name, number)
                for number in range(1, self.train_per_class + 1)
            }
            for name in self.classes
        }

    def val_class(self, number: int) -> str:
        """Class of validation image ``number`` (from 1); neighbours differ."""
        return self.classes[(number * 2 + 1) % len(self.classes)]

    def val(self) -> dict[str, bytes]:
        """Bytes by file name."""
        return {
            val_name(number): self.image(self.val_class(number), 100_000 + number)
            for number in range(1, self.val_images + 1)
        }

    def devkit_id(self, class_name: str) -> int:
        """Counts from 1, in reverse order of the names."""
        return len(self.classes) - sorted(self.classes).index(class_name)


def val_name(number: int) -> str:
    """The official name of a validation image."""
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def words(class_name: str) -> str:
    """The words of a class in the devkit of a test."""
    return f"thing {class_name[-4:]}, object {class_name[-4:]}"


def tar_bytes(
    members: Iterable[tuple[str, bytes]] | Iterable[tuple[tarfile.TarInfo, bytes]],
    tar_format: int = tarfile.USTAR_FORMAT,
) -> bytes:
    """A tar of members in the order given; names may repeat."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        for member, data in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.mtime = TAR_MTIME_S
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def meta_mat_bytes(
    entries: Sequence[tuple[int, str, str, int]], *, packed: bool = True, year: int = 2012
) -> bytes:
    """``meta.mat`` of (devkit id, name, words, number of children), in the official structure."""
    import scipy.io

    fields = (
        f"ILSVRC{year}_ID WNID words gloss num_children children wordnet_height num_train_images"
    )
    synsets = np.empty((len(entries), 1), [(name, object) for name in fields.split()])
    for at, (devkit_id, name, text, children) in enumerate(entries):
        below = np.arange(1, children + 1, dtype=np.float64)
        synsets[at, 0] = (float(devkit_id), name, text, "a gloss", float(children), below, 0.0, 1.0)
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"synsets": synsets}, do_compression=packed)
    return buffer.getvalue()


def devkit_files(shape: Shape) -> dict[str, bytes]:
    """The two files of the devkit that are read, by name; one of the synsets is an ancestor."""
    entries = [(shape.devkit_id(name), name, words(name), 0) for name in shape.classes]
    entries.append((len(shape.classes) + 1, ANCESTOR, "entity", len(shape.classes)))
    ids = [shape.devkit_id(shape.val_class(n)) for n in range(1, shape.val_images + 1)]
    return {
        "meta.mat": meta_mat_bytes(sorted(entries)),
        "ILSVRC2012_validation_ground_truth.txt": "".join(f"{i}\n" for i in ids).encode(),
    }


def make_devkit(folder: Path, shape: Shape, *, packed: bool = True) -> Path:
    """The devkit as ``.tar.gz``, or unpacked, in ``folder``."""
    files = devkit_files(shape)
    if packed:
        path = folder / f"{DEVKIT}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(f"{DEVKIT}/data/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path
    data_folder = folder / DEVKIT / "data"
    write_files(data_folder, files)
    return data_folder


def make_archives(root: Path, shape: Shape | None = None, *, val: bool = True) -> Path:
    """The official archives in ``root``: train, and with ``val`` the val tar and the devkit."""
    shape = shape or Shape()
    root.mkdir(parents=True, exist_ok=True)
    inner = [(f"{name}.tar", tar_bytes(files.items())) for name, files in shape.train().items()]
    (root / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    if val:
        (root / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes(shape.val().items()))
        make_devkit(root, shape)
    return root


def make_class_folders(root: Path, shape: Shape | None = None, *, val: str = "folders") -> Path:
    """``train/<class>/`` and val as ``folders``, ``flat`` (without labels) or ``none``."""
    shape = shape or Shape()
    for name, files in shape.train().items():
        write_files(root / "train" / name, files)
    if val == "flat":
        write_files(root / "val", shape.val())
    elif val == "folders":
        for number, (file_name, data) in enumerate(shape.val().items(), 1):
            write_files(root / "val" / shape.val_class(number), {file_name: data})
    return root


def kaggle_solution(shape: Shape) -> bytes:
    """``LOC_val_solution.csv``; the rows are not sorted, and some images have two boxes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["ImageId", "PredictionString"])
    for number in sorted(range(1, shape.val_images + 1), key=lambda n: (n * 5) % 7):
        box = f"{shape.val_class(number)} 85 1 499 272 "
        table.writerow([val_name(number).removesuffix(".JPEG"), box * (1 + number % 2)])
    return text.getvalue().encode()


def make_kaggle(root: Path, shape: Shape | None = None) -> Path:
    """Kaggle's tree below ``root``; returns its ``CLS-LOC`` folder."""
    shape = shape or Shape()
    base = root / "ILSVRC/Data/CLS-LOC"
    make_class_folders(base, shape, val="flat")
    write_files(base / "test", {"ILSVRC2012_test_00000001.JPEG": shape.image("test", 1)})
    mapping = "".join(f"{name} {words(name)}\n" for name in sorted(shape.classes))
    write_files(
        root,
        {
            "LOC_val_solution.csv": kaggle_solution(shape),
            "LOC_synset_mapping.txt": mapping.encode(),
        },
    )
    return base


def write_files(folder: Path, files: dict[str, bytes]) -> None:
    """Write ``files`` into ``folder``, which is created if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
