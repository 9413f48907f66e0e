"""From DALI's buffers to torch tensors on the device, of the type in the settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.utils.dlpack
from numpy.typing import NDArray

from train.config import InputConfig
from train.feed.nodes import GraphDevice
from train.feed.spans import new_buffer


class Sink:
    """Makes the tensors of a batch. Only the feeder thread uses it."""

    def __init__(
        self, config: InputConfig, device: torch.device, *, views: int, pixel_sd: float
    ) -> None:
        self._device = device
        self._crop_px, self._views = config.crop_px, views
        self._dtype: torch.dtype = getattr(torch, config.dtype)
        self._channels_first = config.memory_format == "channels-first"
        self._pixel_sd = pixel_sd
        self._stream: torch.cuda.Stream | None = None

    @property
    def graph_device(self) -> tuple[GraphDevice, int | None]:
        """Where the graph should run: DALI's kind of device, and its number."""
        if self._device.type != "cuda":
            return "cpu", None
        index = self._device.index
        return "gpu", torch.cuda.current_device() if index is None else index

    def buffer(self, n_bytes: int, *, for_transfer: bool) -> NDArray[np.uint8]:
        """Allocate memory for records: page-locked if they are copied from it to a GPU."""
        if self._device.type == "cuda" and for_transfer:
            pinned = torch.empty(n_bytes, dtype=torch.uint8, pin_memory=True)
            return np.asarray(pinned.numpy())  # keeps the tensor alive
        return new_buffer(n_bytes)

    def tensors(
        self, views: Sequence[Any], labels_n: NDArray[np.int64], pixel_seed: NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Make images (n, 3, crop, crop) for each view, and labels (n,), ready to use.

        ``views`` are DALI tensors (n, crop, crop, 3); no views mean an empty
        batch. On a CPU the result shares their memory where the type allows it.
        """
        if self._device.type == "cuda":
            return self._on_cuda(views, labels_n, pixel_seed)
        images_v = self._images(views, pixel_seed)
        return images_v, torch.from_numpy(labels_n)

    def _on_cuda(
        self, views: Sequence[Any], labels_n: NDArray[np.int64], pixel_seed: NDArray[np.int64]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Copy on a separate CUDA stream, and finish before the training thread sees the result.

        DALI may reuse a buffer as soon as it is released, while torch's kernels may still have to
        read it. This thread waits for its copy, so the training thread does not wait.
        """
        with torch.cuda.device(self._device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            with torch.cuda.stream(self._stream):
                images_v = [image.clone() for image in self._images(views, pixel_seed)]
                labels = torch.from_numpy(labels_n).to(self._device)
            self._stream.synchronize()
        return images_v, labels

    def _images(self, views: Sequence[Any], pixel_seed: NDArray[np.int64]) -> list[torch.Tensor]:
        if not views:
            shape = (0, 3, self._crop_px, self._crop_px)
            empty = torch.empty(shape, dtype=self._dtype, device=self._device)
            return [empty for _ in range(self._views)]
        images_v = []
        for view in views:
            image = torch.utils.dlpack.from_dlpack(view).permute(0, 3, 1, 2)  # channels last
            if self._pixel_sd:
                image = image + self._pixel_sd * self._pixel_noise(image, pixel_seed)
            image = image.to(self._dtype)
            images_v.append(image.contiguous() if self._channels_first else image)
        return images_v

    def _pixel_noise(self, image: torch.Tensor, pixel_seed: NDArray[np.int64]) -> torch.Tensor:
        """Draw standard normal noise shaped like ``image``, each image from its own seed."""
        generator = torch.Generator(device=image.device)
        noise = torch.empty_like(image)
        for row, seed in zip(noise, pixel_seed.tolist(), strict=True):
            generator.manual_seed(seed)
            # Drawn as (3, crop, crop), whatever the memory format of the images.
            row.copy_(torch.randn(row.shape, generator=generator, device=image.device))
        return noise


def record_stream(tensors: Sequence[torch.Tensor]) -> None:
    """Tell torch that the current stream uses ``tensors``, which another stream made."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))
