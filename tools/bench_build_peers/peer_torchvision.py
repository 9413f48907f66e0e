# mypy: ignore-errors
"""torchvision's Resize and CenterCrop in a DataLoader with two workers; the main process writes."""

from __future__ import annotations

import io
import time

import _torchvision_cpu  # noqa: F401  (before torchvision)
from _tar import TarShards
from _task import PROCESSES, QUALITY, SIZE_PX, Photo, arguments, list_photos, report
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms  # type: ignore[import-not-found]


class Records(Dataset[tuple[bytes, int]]):
    """JPEG bytes and label of each photo, made in the worker."""

    def __init__(self, photos: list[Photo]) -> None:
        self.photos = photos
        self.transform = transforms.Compose(
            [transforms.Resize(SIZE_PX), transforms.CenterCrop(SIZE_PX)]
        )

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[bytes, int]:
        path, label = self.photos[index]
        with Image.open(path) as opened:
            image = self.transform(opened.convert("RGB"))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=QUALITY, subsampling="4:2:0")
        return buffer.getvalue(), label


def main() -> None:
    source, out = arguments()
    start = time.perf_counter()
    loader = DataLoader(
        Records(list_photos(source)), batch_size=32, num_workers=PROCESSES, collate_fn=list
    )
    with TarShards(out) as sink:
        for batch in loader:
            for jpeg, label in batch:
                sink.add(jpeg, label)
        count = sink.count
    report(count, time.perf_counter() - start)


if __name__ == "__main__":
    main()
