"""An update recorded once and replayed: on a GPU a CUDA graph, so that Python makes one call.

A replay computes on the memory that was recorded, so the inputs are copied into buffers that stay,
and what Python decided while recording is fixed: shapes and learning rates. The rates are constants
of the recording, because a schedule changes them a few times in a run, and the update rule needs
``1 - rate`` as a number of Python; an update with other rates is recorded again.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from train.config import RunConfig
from train.errors import TrainError
from train.net import Masks
from train.optim.schedule import Rates
from train.run.memory_error import is_torch_out_of_memory

DIRECT_UPDATES = 2
"""Updates before the first recording: libraries choose their algorithms and allocate in them."""
UPDATES_BETWEEN_EVENTS = 4
"""Python may run ahead of the GPU by at most twice as many updates."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class StepInputs:
    """The tensors of an update, and the numbers that it depends on."""

    images: Tensor
    labels_n: Tensor
    masks: tuple[Masks, ...]
    """Of each part of an accumulated batch."""
    global_images: int
    """Images of the update over all processes: the divisor of the loss."""

    def tensors(self) -> list[Tensor]:
        """All tensors, in a fixed order."""
        masks = [mask for part in self.masks for columns in part.values() for mask in columns]
        return [self.images, self.labels_n, *masks]

    def form(self) -> Hashable:
        """What a recording fixes, apart from the rates."""
        tensors = self.tensors()
        each = tuple((t.shape, t.stride(), t.dtype, t.device) for t in tensors)
        return (each, len(self.masks), self.global_images)

    def buffers(self) -> StepInputs:
        """New tensors of the same form, uninitialised."""
        return replace(
            self,
            images=torch.empty_like(self.images),
            labels_n=torch.empty_like(self.labels_n),
            masks=tuple(
                {name: tuple(map(torch.empty_like, columns)) for name, columns in part.items()}
                for part in self.masks
            ),
        )

    def fill(self, inputs: StepInputs) -> None:
        """Copy the tensors of ``inputs``, without waiting for a device."""
        for buffer, tensor in zip(self.tensors(), inputs.tensors(), strict=True):
            buffer.copy_(tensor, non_blocking=True)


Update = Callable[[StepInputs, Rates], Tensor]
"""Makes an update and returns its sums, on the device."""


class Recording(Protocol):
    """Records the work of a function on a device, to repeat it on the same memory."""

    def record(self, work: Callable[[], None]) -> None:
        """Record ``work`` in place of what was recorded before; it has no effect yet."""

    def replay(self) -> None:
        """Do the recorded work."""


class CudaRecording:
    """A CUDA graph on one GPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None

    def record(self, work: Callable[[], None]) -> None:
        """Record ``work``; other threads may use the GPU meanwhile, as the feeder does.

        Raises:
            TrainError: torch cannot record it.
        """
        torch.cuda.synchronize(self._device)
        if self._graph is not None:
            self._graph.reset()  # frees its memory before the new one takes as much
        self._graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # an object freed in between may call what CUDA forbids while it records
        try:
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(self._graph, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError as exc:
            if is_torch_out_of_memory(exc):
                raise
            raise TrainError(
                f"the update cannot be recorded as a CUDA graph: {exc}\nqueue it from Python with "
                "--set cuda_graph=false"
            ) from exc
        finally:
            gc.enable()

    def replay(self) -> None:
        """Queue the recorded work."""
        assert self._graph is not None, "nothing is recorded"
        self._graph.replay()


class ReplayedUpdate:
    """Makes updates of equal form by replaying a recording.

    The first ``DIRECT_UPDATES`` of a form are made directly. The sums that it returns are valid
    until the next update.
    """

    def __init__(self, update: Update, recording: Recording) -> None:
        self._update = update
        self._recording = recording
        self._form: Hashable = None
        self._direct = 0
        self._buffers: StepInputs | None = None
        self._rates: Rates | None = None
        self._sums: Tensor | None = None

    def __call__(self, inputs: StepInputs, rates: Rates) -> Tensor:
        """Make an update with ``inputs``, which may be reused as soon as the device has read them;
        it waits for no device unless it records."""
        if (form := inputs.form()) != self._form:
            self._form, self._direct = form, 0
            self._buffers = self._rates = None
        if self._direct < DIRECT_UPDATES:
            self._direct += 1
            return self._update(inputs, rates)
        if self._buffers is None:
            self._buffers = inputs.buffers()
        self._buffers.fill(inputs)
        if rates != self._rates:
            self._record(self._buffers, rates)
        self._recording.replay()
        assert self._sums is not None
        return self._sums

    def _record(self, buffers: StepInputs, rates: Rates) -> None:
        self._sums = None

        def work() -> None:
            self._sums = self._update(buffers, rates)

        self._recording.record(work)
        self._rates = rates


def why_not_recorded(
    config: RunConfig, devices: Sequence[torch.device], processes: int
) -> str | None:
    """Say why a run on a GPU does not replay its updates; None if it does."""
    if not config.cuda_graph:
        return "cuda_graph is false"
    if processes > 1:
        return "an exchange of gradients inside a CUDA graph has not been tried"
    if len(set(devices)) > 1:
        return "torch records the memory of one GPU only, and the columns are on two"
    return None


class Event(Protocol):
    """A mark in the queue of a device."""

    def record(self) -> None: ...
    def synchronize(self) -> None: ...


class RunAhead:
    """Bounds how far Python runs ahead of a device; each queued update holds its batch in memory.

    ``new_event`` makes a mark; None, as on a CPU, never waits.
    """

    def __init__(self, new_event: Callable[[], Event] | None) -> None:
        self._new_event = new_event
        self._updates = 0
        self._events: deque[Event] = deque()

    def after_update(self) -> None:
        """Call after each update: waits if the device is too far behind."""
        self._updates += 1
        if self._new_event is None or self._updates % UPDATES_BETWEEN_EVENTS:
            return
        event = self._new_event()
        event.record()
        self._events.append(event)
        if len(self._events) > 1:
            self._events.popleft().synchronize()


def cuda_event() -> Event:
    """Make a mark on a GPU; the thread that waits for it sleeps, so that the feeder can work."""
    event: Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
    return event
