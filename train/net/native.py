"""The compiled CPU kernels, where they were built, and the threads that run them.

They take float32 images whose channels lie side by side in memory. The environment variable
``TRAIN_KERNEL`` picks the code when this module is imported: ``auto`` (the default) is the first
that works of ``c-avx2``, ``c`` (the same source without AVX2) and ``torch``, which has no compiled
code and is what every other device and type uses.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.errors import ConfigError

Array = NDArray[np.float32]

KERNEL_VARIABLE = "TRAIN_KERNEL"
PARTS_PER_THREAD = 8
"""So that a thread whose processor is busy with something else holds up little."""
SMALL = 1 << 16
"""Fewer values than this are not worth a second thread."""

_cpu: Any
try:
    _cpu = importlib.import_module("train.net._cpu")
except ImportError:  # not built: no compiler when the package was installed
    _cpu = None


def available_backends() -> tuple[str, ...]:
    """The backends that work in this process, fastest first."""
    compiled = () if _cpu is None else (("c-avx2", "c") if _cpu.HAS_AVX2 else ("c",))
    return (*compiled, "torch")


def choose_backend(wanted: str | None) -> str:
    """The backend for a value of ``TRAIN_KERNEL``; ConfigError if it does not work here."""
    working = available_backends()
    if wanted in (None, "", "auto"):
        return working[0]
    if wanted not in working:
        raise ConfigError(
            f"{KERNEL_VARIABLE} is {wanted!r}, but here only auto, {', '.join(working)} work"
        )
    return str(wanted)


BACKEND: str = choose_backend(os.environ.get(KERNEL_VARIABLE))
"""Which code this process uses; benchmarks and tests set it."""


def takes(x: Tensor) -> bool:
    """Whether the kernels can read this tensor: float32 (n, c, h, w) on a CPU, channels last.

    Under ``torch.compile`` never: it sees through torch's operations, but not into compiled code.
    """
    return (
        BACKEND != "torch"
        and not torch.compiler.is_compiling()
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def rows_of(x: Tensor) -> Array:
    """The memory of a tensor that ``takes`` accepts, one row a pixel: (pixels, c), no copy."""
    rows: Array = x.detach().permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy()
    return rows


def lrn_forward(
    x: Tensor, *, groups: int, size: int, k: float, alpha: float, rectify: bool
) -> Tensor:
    """``y = x / (k + alpha * sum)**0.75``, of ``max(x, 0)`` with ``rectify``."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    channels, avx2 = x.shape[1], BACKEND == "c-avx2"

    def work(x_rows: Array, y_rows: Array) -> None:
        _cpu.lrn_forward(x_rows, y_rows, channels, groups, size, k, alpha, rectify, avx2)

    in_parallel(work, rows_of(x), rows_of(y))
    return y


def lrn_backward(
    x: Tensor, gradient: Tensor, *, groups: int, size: int, k: float, alpha: float, rectify: bool
) -> Tensor:
    """The gradient of x, from x and the gradient of y."""
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(x, memory_format=torch.channels_last)
    channels, avx2 = x.shape[1], BACKEND == "c-avx2"

    def work(x_rows: Array, g_rows: Array, out_rows: Array) -> None:
        _cpu.lrn_backward(x_rows, g_rows, out_rows, channels, groups, size, k, alpha, rectify, avx2)

    in_parallel(work, rows_of(x), rows_of(gradient), rows_of(result))
    return result


_helpers: dict[tuple[int, int], ThreadPoolExecutor] = {}


def in_parallel(work: Callable[..., None], *arrays: Array) -> None:
    """``work(*arrays)``, the rows divided among as many threads as torch uses.

    Threads of Python's, because ``work`` gives up the interpreter's lock and a second OpenMP
    runtime beside torch's would compete with it. The calling thread works too.
    """
    threads = torch.get_num_threads() if arrays[0].size >= SMALL else 1
    count = threads * PARTS_PER_THREAD if threads > 1 else 1
    edges = [len(arrays[0]) * part // count for part in range(count + 1)]
    parts = iter(
        [
            tuple(array[start:stop] for array in arrays)
            for start, stop in itertools.pairwise(edges)
            if start < stop
        ]
    )

    def drain() -> None:
        for part in parts:  # each thread takes the next when it is free; the lock guards the list
            work(*part)

    helping = [_helpers_of(threads - 1).submit(drain) for _ in range(threads - 1)]
    drain()
    for future in helping:
        future.result()


def _helpers_of(threads: int) -> ThreadPoolExecutor:
    key = (os.getpid(), threads)  # a forked child has none of its parent's threads
    if key not in _helpers:
        _helpers[key] = ThreadPoolExecutor(threads, thread_name_prefix="train-kernel")
    return _helpers[key]
