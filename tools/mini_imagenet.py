"""Make a mini ImageNet from real photographs, without a download.

    python tools/mini_imagenet.py OUT [--layout class-folders|archives]

Crops, mirrors and scales the two photographs that scikit-learn installs, in four classes that can
be told apart. Some training images are unusual in the ways of the real set: grey and CMYK JPEG, PNG
named ``.JPEG``, an EXIF rotation, an image smaller than a record, a large one.

``class-folders`` writes ``train/<wnid>/*`` and ``val/<wnid>/*``. ``archives`` writes the same
images like the official download: a tar with one tar per class, a flat tar of the validation
images, and the devkit with ``meta.mat`` and the ground truth. The same arguments (and the same
codec versions) give the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image, ImageEnhance

Box = tuple[int, int, int, int]
Encoder = Callable[[Image.Image], bytes]

TAR_MTIME_S = 1_340_000_000
"""June 2012, when the real archives were made."""
VAL_PER_TRAIN = 4
"""Training images per validation image."""
SIZES_PX = ((500, 375), (375, 500), (400, 300), (333, 500), (320, 320), (280, 210), (600, 450))


@dataclass(frozen=True, slots=True)
class PhotoClass:
    """A real ImageNet class that parts of one photograph can show."""

    wnid: str
    words: str
    gloss: str
    photo: str
    regions: tuple[Box, ...]
    """Where crops are taken, in pixels of the photograph (640x427)."""
    brightness: float = 1.0
    """Factor for the levels of every view."""


CLASSES = (
    PhotoClass(
        "n03457902",
        "greenhouse, nursery, glasshouse",
        "a house of glass where plants grow",
        "flower.jpg",
        ((0, 40, 175, 330), (455, 0, 640, 250)),
        brightness=1.7,  # the photograph's leaves are nearly black
    ),
    PhotoClass("n03877845", "palace", "a stately building", "china.jpg", ((60, 20, 370, 400),)),
    PhotoClass(
        "n09332890",
        "lakeside, lakeshore",
        "the shore of a lake",
        "china.jpg",
        ((340, 120, 640, 427),),
    ),
    PhotoClass(
        "n11939491", "daisy", "a flower of many petals", "flower.jpg", ((160, 75, 455, 365),)
    ),
)


@dataclass(frozen=True, slots=True)
class MiniImage:
    """One image: its class (index into CLASSES), its file name and its bytes."""

    label: int
    name: str
    data: bytes


def photo_folder() -> Path:
    """Return the folder of scikit-learn's sample photos, without importing scikit-learn."""
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("mini_imagenet: scikit-learn is not installed; run tools/setup first")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "images"


def take_view(photo: Image.Image, shown: PhotoClass, rng: Random) -> Image.Image:
    """Crop one of the class's regions at random; scale it, maybe mirror it, vary its brightness."""
    left, top, right, bottom = shown.regions[int(rng.random() * len(shown.regions))]
    out_width_px, out_height_px = SIZES_PX[int(rng.random() * len(SIZES_PX))]
    most = min((right - left) / out_width_px, (bottom - top) / out_height_px)
    scale = most * (0.55 + 0.45 * rng.random())
    width_px, height_px = out_width_px * scale, out_height_px * scale
    x = left + rng.random() * (right - left - width_px)
    y = top + rng.random() * (bottom - top - height_px)
    view = photo.resize(
        (out_width_px, out_height_px),
        Image.Resampling.BICUBIC,
        box=(x, y, x + width_px, y + height_px),
    )
    if rng.random() < 0.5:
        view = view.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(view).enhance(shown.brightness * (0.75 + 0.5 * rng.random()))


def encode_jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def encode_grey(image: Image.Image) -> bytes:
    return encode_jpeg(image.convert("L"))


def encode_cmyk(image: Image.Image) -> bytes:
    return encode_jpeg(image.convert("CMYK"))


def encode_png(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.resize((240, 180)).save(out, "PNG", compress_level=1)
    return out.getvalue()


def encode_rotated(image: Image.Image) -> bytes:
    """Store the image sideways, with the EXIF orientation that turns it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    image.transpose(Image.Transpose.ROTATE_90).save(out, "JPEG", quality=90, exif=exif)
    return out.getvalue()


def encode_tiny(image: Image.Image) -> bytes:
    return encode_jpeg(image.resize((68, 56)))


def encode_large(image: Image.Image) -> bytes:
    return encode_jpeg(image.resize((2000, 1500), Image.Resampling.BICUBIC))


ODD_ENCODERS: dict[tuple[int, int], Encoder] = {
    (0, 0): encode_grey,
    (1, 0): encode_cmyk,
    (2, 0): encode_png,
    (3, 0): encode_rotated,
    (0, 1): encode_tiny,
    (1, 1): encode_large,
}
"""Training images, by (class, number in the class), that are stored in an unusual way."""


def make_split(split: str, images_per_class: int, seed: int) -> list[MiniImage]:
    """Return all images of a split, class by class (train) or shuffled like the real one (val)."""
    folder = photo_folder()
    photos = {
        name: Image.open(folder / name).convert("RGB") for name in ("china.jpg", "flower.jpg")
    }
    images: list[MiniImage] = []
    for label, photo_class in enumerate(CLASSES):
        for number in range(images_per_class):
            rng = Random(f"{seed}/{split}/{photo_class.wnid}/{number}")
            view = take_view(photos[photo_class.photo], photo_class, rng)
            odd = ODD_ENCODERS.get((label, number)) if split == "train" else None
            # The numbers in the real train set have gaps and no useful order.
            name = f"{photo_class.wnid}_{(number * 37) % 1009 + 1009 * (number // 1009)}.JPEG"
            images.append(MiniImage(label, name, (odd or encode_jpeg)(view)))
    if split == "val":
        Random(f"{seed}/order").shuffle(images)
        return [
            MiniImage(image.label, f"ILSVRC2012_val_{number:08d}.JPEG", image.data)
            for number, image in enumerate(images, start=1)
        ]
    return images


def write_folders(out: Path, splits: dict[str, list[MiniImage]]) -> None:
    for split, images in splits.items():
        for photo_class in CLASSES:
            (out / split / photo_class.wnid).mkdir(parents=True)
        for image in images:
            (out / split / CLASSES[image.label].wnid / image.name).write_bytes(image.data)


def tar_bytes(members: Iterable[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), TAR_MTIME_S
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def devkit_ids() -> list[int]:
    """Return the devkit's 1-based id of each class, deliberately not in the order of the wnids."""
    return [(label + 1) % len(CLASSES) + 1 for label in range(len(CLASSES))]


def meta_mat(train_per_class: int) -> bytes:
    """Return ``meta.mat`` with the official fields: one row per class by id, then an inner node."""
    import numpy as np
    from scipy.io import savemat

    fields = "ILSVRC2012_ID WNID words gloss num_children children wordnet_height num_train_images"
    rows = [
        (i, c.wnid, c.words, c.gloss, 0, np.zeros((0, 0)), 0, train_per_class)
        for i, c in sorted(zip(devkit_ids(), CLASSES, strict=True), key=lambda pair: pair[0])
    ]
    children = np.array([sorted(devkit_ids())])
    count = len(CLASSES)
    rows.append((count + 1, "n00001740", "entity", "the root", count, children, 1, 0))
    synsets = np.empty((len(rows), 1), dtype=[(name, object) for name in fields.split()])
    for number, row in enumerate(rows):
        synsets[number, 0] = row
    out = io.BytesIO()
    savemat(out, {"synsets": synsets})
    # The first 116 bytes are free text, in which scipy writes the time.
    return b"MATLAB 5.0 MAT-file, mini ImageNet".ljust(116) + out.getvalue()[116:]


def write_archives(out: Path, splits: dict[str, list[MiniImage]]) -> None:
    train, val = splits["train"], splits["val"]
    inner = [
        (f"{c.wnid}.tar", tar_bytes((i.name, i.data) for i in train if i.label == label))
        for label, c in enumerate(CLASSES)
    ]
    out.mkdir(parents=True)
    (out / "ILSVRC2012_img_train.tar").write_bytes(tar_bytes(inner))
    (out / "ILSVRC2012_img_val.tar").write_bytes(tar_bytes((i.name, i.data) for i in val))
    ids = devkit_ids()
    truth = "".join(f"{ids[image.label]}\n" for image in val).encode("ascii")
    data = "ILSVRC2012_devkit_t12/data"
    devkit = tar_bytes(
        [
            (f"{data}/meta.mat", meta_mat(len(train) // len(CLASSES))),
            (f"{data}/ILSVRC2012_validation_ground_truth.txt", truth),
        ]
    )
    (out / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(devkit, mtime=0))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Make a mini ImageNet from real photographs, without a download."
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make; it must not exist")
    parser.add_argument("--layout", choices=("class-folders", "archives"), default="class-folders")
    parser.add_argument(
        "--images-per-class",
        type=int,
        default=24,
        metavar="N",
        help="training images in each of the 4 classes; val has a quarter (default: 24)",
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    args = parser.parse_args()
    out: Path = args.out
    count: int = args.images_per_class
    if count < 1:
        parser.error("--images-per-class must be at least 1")
    if out.exists():
        parser.error(f"{out} exists: remove it or give another folder")
    splits = {
        "train": make_split("train", count, args.seed),
        "val": make_split("val", max(1, count // VAL_PER_TRAIN), args.seed),
    }
    # Rename at the end, so that a folder of this name is always complete.
    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (write_archives if args.layout == "archives" else write_folders)(partial, splits)
    partial.rename(out)
    sizes = ", ".join(f"{len(images)} {split}" for split, images in splits.items())
    sys.stdout.write(f"{out}: {len(CLASSES)} classes, {sizes} images, {args.layout}\n")


if __name__ == "__main__":
    main()
