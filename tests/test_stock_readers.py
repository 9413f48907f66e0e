"""Stock readers open the shards: the webdataset package and DALI on the CPU."""

from __future__ import annotations

import gc
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from numpy.typing import NDArray
from PIL import Image

from imgprep.dataset.format import NPY_HEADER_BYTES
from imgprep.dataset.index import load_index
from imgprep.dataset.labels import LabelMap
from imgprep.image.prepare import prepare
from imgprep.spec import ImageSpec
from imgprep.storage.atomic import read_json
from tests.conftest import imgprep
from tests.reading import Record, source_of

ENCODINGS = ("jpeg", "png", "raw")
JPEG_PSNR_DB = 30.0
"""What quality 95 with 4:2:0 keeps of these photographs, at the least."""


@pytest.fixture(scope="module", params=ENCODINGS)
def dataset(request: pytest.FixtureRequest, mini: Path, tmp_path_factory: Any) -> Path:
    dest: Path = tmp_path_factory.mktemp("readers") / request.param
    ran = imgprep("build-shards", mini, dest, "--encoding", request.param, "--shard-images", 40)
    assert ran.code == 0, ran.err
    return dest


def check(dest: Path, mini: Path, split: str, found: dict[str, Record]) -> None:
    """Every image of the source once, with its label and its pixels."""
    sources = source_of(dest, split)
    labels = LabelMap.from_json(read_json(dest / "labels.json", "labels"))
    assert set(found) == set(sources)
    encoding = load_index(dest).encoding
    for key, record in found.items():
        path = mini / split / sources[key]
        assert labels.classes[record.label].name == path.parent.name
        expected = prepare(path.read_bytes(), ImageSpec()).image_hwc
        if encoding == "jpeg":
            assert psnr_db(expected, record.image_hwc) > JPEG_PSNR_DB, path
        else:
            np.testing.assert_array_equal(record.image_hwc, expected, err_msg=str(path))


def psnr_db(a: NDArray[Any], b: NDArray[Any]) -> float:
    square = float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(square, 1e-9)))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to gc
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("split", ["train", "val"])
def test_webdataset_reads_every_record(dataset: Path, mini: Path, split: str) -> None:
    urls = [str(path) for path in load_index(dataset).shard_paths(split)]
    samples = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
    found = {}
    for sample in samples:
        image = next(sample[name] for name in ("jpg", "png", "npy") if name in sample)
        assert isinstance(sample["cls"], int)  # its stock decoder reads the label
        found[sample["__key__"]] = Record(np.asarray(image), sample["cls"])
    del samples
    gc.collect()
    check(dataset, mini, split, found)


@pytest.mark.parametrize("split", ["train", "val"])
def test_dali_reads_every_record_on_the_cpu(dataset: Path, mini: Path, split: str) -> None:
    found = {}
    for key, image, label in dali_records(dataset, split):
        if image.ndim == 1:  # raw: skip the fixed .npy header, the rest is the pixels
            image = image[NPY_HEADER_BYTES:].reshape(256, 256, 3)
        found[key] = Record(image, label)
    check(dataset, mini, split, found)


def dali_records(dataset: Path, split: str) -> list[tuple[str, NDArray[np.uint8], int]]:
    """Records in file order, by DALI's own reader, index and decoder."""
    from nvidia.dali import fn, pipeline_def, types

    index = load_index(dataset)
    extension = {"jpeg": "jpg", "png": "png", "raw": "npy"}[index.encoding]
    weights = 10 ** np.arange(index.label_digits)[::-1]

    @pipeline_def(batch_size=8, num_threads=1, device_id=None)  # type: ignore[untyped-decorator]
    def pipeline() -> Any:
        image, label = fn.readers.webdataset(
            paths=[str(path) for path in index.shard_paths(split)],
            index_paths=[str(path.with_suffix(".idx")) for path in index.shard_paths(split)],
            ext=[extension, "cls"],
            missing_component_behavior="error",
            name="reader",
        )
        name = fn.get_property(label, key="source_info")
        if extension != "npy":
            image = fn.decoders.image(image, device="cpu", output_type=types.RGB)
        digits = fn.cast(label, dtype=types.INT32) - 48
        return name, image, fn.reductions.sum(digits * types.Constant(weights.astype(np.int32)))

    pipe = pipeline()
    pipe.build()
    found = []
    for _ in range(-(-pipe.reader_meta("reader")["epoch_size"] // 8)):
        names, images, labels = pipe.run()
        for at in range(8):
            source = bytes(names.at(at)).decode()
            key = source.rsplit(":", 1)[1].split(".")[0]
            found.append((key, np.array(images.at(at)), int(labels.at(at))))
    return found[: index.splits[split].records]


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "nvidia", "webdataset"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
if __name__ == "__main__":
    from imgprep.cli import main
    main()
"""


def test_neither_reader_is_needed_to_build(mini: Path, tmp_path: Path) -> None:
    """``imgprep`` runs where torch, DALI and webdataset cannot be imported."""
    program = tmp_path / "blocked.py"
    program.write_text(BLOCKED)
    arguments = ["build-shards", str(mini), str(tmp_path / "out"), "--limit", "8"]
    ran = subprocess.run([sys.executable, str(program), *arguments], check=False, timeout=120)
    assert ran.returncode == 0


def test_shards_hold_what_pillow_calls_rgb(built: Path) -> None:
    with tarfile.open(built / "train-000000.tar") as tar:
        pictures = [member for member in tar if member.name.endswith(".jpg")]
        for member in pictures:
            file = tar.extractfile(member)
            assert file is not None
            picture = Image.open(io.BytesIO(file.read()))
            assert (picture.mode, picture.size, picture.format) == ("RGB", (256, 256), "JPEG")
    assert len(pictures) == 19
