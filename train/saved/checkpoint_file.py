"""Plain values and tensors in a file that torch reads without running code from it.

The file is what ``torch.save`` writes: a zip of stored (never compressed) entries. Before torch
reads it, the entries are checked against the file's size and checksums, and the pickle in it may
reference only tensor types; afterwards every value must be a plain one. So a damaged, truncated
or hostile file ends in one sentence.
"""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from imgprep.errors import DestinationError
from imgprep.storage.atomic import partial_file
from train.errors import CheckpointError

MAX_PICKLE_BYTES = 16 * 2**20
MAX_VALUES = 200_000
MAX_DEPTH = 32
_ALLOWED_NAMES = re.compile(
    r"torch\._utils _rebuild_tensor_v2|collections OrderedDict|torch \w+Storage"
)
_SCALARS = (bool, int, float, str, type(None))


def write_values(path: Path, value: Any) -> None:
    """Write nested dicts, lists, scalars and tensors; the file is whole and on disk, or absent.

    Tensors are stored contiguous and on the CPU; tuples as lists.

    Raises:
        DestinationError: the file cannot be written (no space, no permission).
    """
    plain = _plain(value, set())
    try:
        with partial_file(path) as file:
            torch.save(plain, file)
    except OSError as exc:
        raise DestinationError(f"{path}: cannot write the checkpoint: {exc.strerror}") from exc
    except RuntimeError as exc:  # torch's writer wraps the OSError of a full disk
        cause = exc.__context__
        reason = cause.strerror if isinstance(cause, OSError) else exc
        raise DestinationError(f"{path}: cannot write the checkpoint: {reason}") from exc


def read_values(path: Path) -> Any:
    """Read what ``write_values`` wrote; tensors are on the CPU, in memory of their own.

    Raises:
        CheckpointError: the file is missing, damaged, or holds values that are not plain.
    """
    try:
        _check_zip(path)
        # memory-mapped, so that sizes claimed in the pickle are bounded by the file's
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except CheckpointError:
        raise
    except FileNotFoundError as exc:
        raise CheckpointError(f"{path}: there is no such checkpoint") from exc
    except Exception as exc:  # damage raises any of a dozen types, here and inside torch
        # the rest of torch's message advises a load that runs code from the file
        _, rejected, detail = str(exc).partition("WeightsUnpickler error: ")
        reason = ((detail if rejected else str(exc)).strip().splitlines() or [type(exc).__name__])[
            0
        ]
        raise CheckpointError(f"{path}: damaged, or not a checkpoint: {reason[:200]}") from exc
    return _PlainCopier(path).value(loaded)


def _check_zip(path: Path) -> None:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise CheckpointError(f"{path}: not a checkpoint: it has compressed entries")
        if sum(entry.file_size for entry in entries) > size:
            raise CheckpointError(f"{path}: damaged: its entries claim more than its {size} bytes")
        pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
        if len(pickles) != 1 or pickles[0].file_size > MAX_PICKLE_BYTES:
            raise CheckpointError(f"{path}: not a checkpoint: it has no data.pkl of at most 16 MiB")
        damaged = archive.testzip()
        if damaged is not None:
            raise CheckpointError(f"{path}: damaged: the checksum of {damaged} is wrong")
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name in ("INST", "STACK_GLOBAL") or (
                opcode.name == "GLOBAL" and not _ALLOWED_NAMES.fullmatch(str(argument))
            ):
                raise CheckpointError(
                    f"{path}: rejected: it references {argument}, which is not a tensor type"
                )


class _PlainCopier:
    """Copies loaded values after checking that they are plain."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._left = MAX_VALUES
        self._bytes_left = path.stat().st_size

    def value(self, value: Any, depth: int = 0) -> Any:
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise CheckpointError(f"{self._path}: not a checkpoint: too many values, or too deep")
        if type(value) in _SCALARS:
            return value
        if type(value) is list:
            return [self.value(item, depth + 1) for item in value]
        if type(value) is dict:
            if not all(type(key) is str for key in value):
                raise CheckpointError(
                    f"{self._path}: not a checkpoint: it has keys that are not text"
                )
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        if type(value) is Tensor:
            return self._tensor(value)
        raise CheckpointError(f"{self._path}: not a checkpoint: it holds a {type(value).__name__}")

    def _tensor(self, value: Tensor) -> Tensor:
        plain = value.layout is torch.strided and value.device.type == "cpu"
        if not plain or not value.is_contiguous():
            raise CheckpointError(
                f"{self._path}: not a checkpoint: a tensor is sparse or not contiguous"
            )
        self._bytes_left -= value.nbytes  # many views of one storage must not fill memory
        if self._bytes_left < 0:
            raise CheckpointError(f"{self._path}: damaged: its tensors claim more than its bytes")
        return value.detach().clone()


def _plain(value: Any, saved: set[int]) -> Any:
    """Copy ``value`` with lists for tuples and contiguous tensors; ``saved``: storages seen."""
    if isinstance(value, dict):
        return {str(key): _plain(item, saved) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, saved) for item in value]
    if isinstance(value, Tensor):
        compact = value.detach().cpu().contiguous()
        storage = compact.untyped_storage()
        # a view would save its whole storage; two views of one storage would save it only once
        if storage.nbytes() > compact.nbytes or storage.data_ptr() in saved:
            compact = compact.clone()
        saved.add(compact.untyped_storage().data_ptr())
        return compact
    if type(value) in _SCALARS:
        return value
    raise TypeError(f"a checkpoint holds plain values, not {type(value).__name__}")
