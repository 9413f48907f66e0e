"""ILSVRC2010 and ImageNet of fall 2011 in their official shapes, with a few small images."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

from tests.trees import ANCESTOR, CLASSES, Shape, meta_mat_bytes, tar_bytes, words, write_files

DEVKIT_2010 = "ILSVRC2010_devkit-1.0.tar.gz"
TEST_TRUTH_2010 = "ILSVRC2010_test_ground_truth.txt"
TEST_IMAGES = 9


@dataclass(frozen=True, kw_only=True)
class Shape2010(Shape):
    """The classes and images of a source in the shape of ILSVRC2010."""

    def flat(self, split: str) -> dict[str, bytes]:
        """Bytes by member name; the members of ``val`` and ``test`` are in a folder."""
        count = self.val_images if split == "val" else TEST_IMAGES
        return {
            f"{split}/ILSVRC2010_{split}_{number:08d}.JPEG": self.image(
                self.class_of(split, number), number + 1000 * len(split)
            )
            for number in range(1, count + 1)
        }

    def class_of(self, split: str, number: int) -> str:
        """Class of an image of ``val`` or ``test``, which have different orders."""
        return self.classes[(number * (2 if split == "val" else 1)) % len(self.classes)]

    def truth(self, split: str) -> bytes:
        """The ground truth of ``val`` or ``test``."""
        numbers = range(1, len(self.flat(split)) + 1)
        ids = (self.devkit_id(self.class_of(split, number)) for number in numbers)
        return "".join(f"{each}\n" for each in ids).encode()


def devkit_2010(shape: Shape2010) -> dict[str, bytes]:
    """Files of the devkit by path; one of the synsets is an ancestor."""
    entries = [(shape.devkit_id(name), name, words(name), 0) for name in shape.classes]
    entries.append((len(shape.classes) + 1, ANCESTOR, "entity", len(shape.classes)))
    return {
        "devkit-1.0/data/meta.mat": meta_mat_bytes(sorted(entries), year=2010),
        "devkit-1.0/data/ILSVRC2010_validation_ground_truth.txt": shape.truth("val"),
        "devkit-1.0/readme.txt": b"ILSVRC2010",
    }


def make_ilsvrc2010(root: Path, shape: Shape2010 | None = None, *, truth: bool = True) -> Path:
    """The archives of ILSVRC2010; with ``truth`` also the published labels of its test split."""
    shape = shape or Shape2010()
    inner = [
        (f"train/{name}.tar", tar_bytes(files.items())) for name, files in shape.train().items()
    ]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in devkit_2010(shape).items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    files = {
        "ILSVRC2010_images_train.tar": tar_bytes(inner),
        # The members of the official archives are not in order.
        "ILSVRC2010_images_val.tar": tar_bytes(reversed(shape.flat("val").items())),
        "ILSVRC2010_images_test.tar": tar_bytes(reversed(shape.flat("test").items())),
        DEVKIT_2010: packed.getvalue(),
    }
    if truth:
        files[TEST_TRUTH_2010] = shape.truth("test")
    write_files(root, files)
    return root


def make_fall2011(root: Path, images: dict[str, int] | None = None) -> Path:
    """``fall11_whole.tar`` with some images of each class."""
    shape = Shape(classes=tuple(images or CLASSES), train_per_class=20)
    inner = [
        (f"{name}.tar", tar_bytes(list(files.items())[: (images or {}).get(name, 8)]))
        for name, files in shape.train().items()
    ]
    write_files(root, {"fall11_whole.tar": tar_bytes(inner)})
    return root
