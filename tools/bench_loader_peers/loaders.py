"""The loaders that bench_loader compares: each yields the sizes of its batches, without end.

``records`` reads the JPEG files and labels of a dataset's training shards with the standard
library, so that the peers need nothing of imgprep.
"""

# mypy: ignore-errors
from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

PROCESSES = 2
SPAN = 32
"""Images that a process of ``decoding`` gets at once."""
CROP = 224
MEAN, SD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def records(dataset: Path) -> Iterator[tuple[bytes, int]]:
    for shard in sorted(dataset.glob("train-*.tar")):
        with tarfile.open(shard) as tar:
            image = None
            for member in tar:
                content = tar.extractfile(member).read()
                if member.name.endswith(".jpg"):
                    image = content
                elif member.name.endswith(".cls"):
                    yield image, int(content)


def ours(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    from train.loader import ImageLoader

    loader = ImageLoader(
        dataset, batch_images=batch, mean=MEAN, sd=SD, threads=PROCESSES, device="cpu"
    )
    while True:
        for images, _ in loader:
            yield len(images)


def transform():
    """The usual transform of torchvision for images of Pillow."""
    from bench_build_peers import _torchvision_cpu  # noqa: F401
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.RandomResizedCrop(CROP),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in SD]),
        ]
    )


def batches_of(data, batch: int, **options) -> Iterator[int]:
    from torch.utils.data import DataLoader

    loader = DataLoader(
        data, batch_size=batch, num_workers=PROCESSES, persistent_workers=True, **options
    )
    while True:
        for images, _ in loader:
            yield len(images)


def torchvision(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    change = transform()
    from torchvision.datasets import ImageFolder

    for number, (content, label) in enumerate(records(dataset)):
        place = folder / f"{label:05d}"
        place.mkdir(exist_ok=True)
        (place / f"{number:08d}.jpg").write_bytes(content)
    return batches_of(ImageFolder(folder, change), batch, shuffle=True)


def webdataset(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    import webdataset as wds
    from PIL import Image

    change = transform()
    shards = [str(path) for path in sorted(dataset.glob("train-*.tar"))]

    def sample(record):
        image = Image.open(io.BytesIO(record["jpg"])).convert("RGB")
        return change(image), int(record["cls"])

    data = wds.WebDataset(shards, shardshuffle=100, workersplitter=wds.split_by_worker)
    data = data.shuffle(1000).map(sample).batched(batch, partial=True)
    loader = wds.WebLoader(data, batch_size=None, num_workers=PROCESSES, persistent_workers=True)
    while True:
        for images, _ in loader:
            yield len(images)


def datasets(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    import datasets as hf

    change = transform()
    rows = [{"image": {"bytes": image}, "label": label} for image, label in records(dataset)]
    data = hf.Dataset.from_list(rows).cast_column("image", hf.Image())

    def changed(rows):
        rows["image"] = [change(image.convert("RGB")) for image in rows["image"]]
        return rows

    data.save_to_disk(folder / "arrow")
    data = hf.load_from_disk(folder / "arrow").with_transform(changed)
    from torch.utils.data import DataLoader

    loader = DataLoader(
        data, batch_size=batch, num_workers=PROCESSES, persistent_workers=True, shuffle=True
    )
    while True:
        for rows in loader:
            yield len(rows["image"])


def streaming(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    change = transform()  # first, because streaming imports torchvision
    import streaming as mds
    from PIL import Image

    columns = {"image": "bytes", "label": "int"}
    with mds.MDSWriter(out=str(folder / "mds"), columns=columns) as writer:
        for image, label in records(dataset):
            writer.write({"image": image, "label": label})

    class Photos(mds.StreamingDataset):
        def __getitem__(self, index):
            record = super().__getitem__(index)
            image = Image.open(io.BytesIO(record["image"])).convert("RGB")
            return change(image), record["label"]

    data = Photos(local=str(folder / "mds"), shuffle=True, batch_size=batch)
    return batches_of(data, batch)


def end_the_grouping_of_ffcv() -> None:
    """Mend ffcv 1.0.2, whose grouping of operations into stages never ends: it takes up the same
    set for this stage and for the next (https://github.com/libffcv/ffcv/issues/396)."""
    from ffcv.pipeline.graph import Graph

    def group_operations(graph):
        stages, front = [], set(graph.root_nodes)
        while front:
            stage, later, compiled = [], set(), len(stages) % 2 == 0
            while front:
                node = front.pop()
                if node.is_jitted in (compiled, None):
                    stage.append(graph.node_to_id[node])
                    front.update(graph.adjacency_list[node])
                else:
                    later.add(node)
            stages.append(stage)
            front = later
        return stages

    Graph.group_operations = group_operations


def ffcv(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    """Stored JPEG; decoding, random-resized-crop (area averaging), flip and normalisation in its
    compiled pipeline. Normalisation comes first, because it is compiled for arrays of numpy."""
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter
    from PIL import Image

    end_the_grouping_of_ffcv()
    rows = [
        (Image.open(io.BytesIO(image)).convert("RGB"), label) for image, label in records(dataset)
    ]

    class Rows:
        def __len__(self):
            return len(rows)

        def __getitem__(self, index):
            return rows[index]

    path = str(folder / "photos.beton")
    fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
    DatasetWriter(path, fields, num_workers=PROCESSES).from_indexed_dataset(Rows())
    image = [
        RandomResizedCropRGBImageDecoder((CROP, CROP)),
        RandomHorizontalFlip(),
        NormalizeImage(np.array(MEAN), np.array(SD), np.float32),
        ToTensor(),
        ToTorchImage(),  # channels last in memory, which it makes faster than the other order
    ]
    loader = Loader(
        path,
        batch_size=batch,
        num_workers=PROCESSES,
        order=OrderOption.RANDOM,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor()]},
    )
    while True:
        for images, _ in loader:
            yield len(images)


def decoding(dataset: Path, folder: Path, batch: int) -> Iterator[int]:
    """Nothing but decoding whole records by libjpeg-turbo: the limit of any loader of JPEG."""
    import multiprocessing

    from bench_input_peers.loaders import decode_span, keep

    contents = [content for content, _ in records(dataset)]
    ends = [*range(0, len(contents), SPAN), len(contents)]
    spans = list(pairwise(ends))
    some = 8 * batch // SPAN  # a few batches at a time, so that nothing is decoded ahead
    with multiprocessing.get_context("fork").Pool(PROCESSES, keep, (contents,)) as pool:
        while True:
            for first in range(0, len(spans), some):
                yield sum(pool.map(decode_span, spans[first : first + some], chunksize=1))


LOADERS = {
    "ours": ours,
    "decoding": decoding,
    "torchvision": torchvision,
    "webdataset": webdataset,
    "datasets": datasets,
    "streaming": streaming,
    "ffcv": ffcv,
}
