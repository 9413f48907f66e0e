"""A thread that writes checkpoints while the training goes on: one at a time, in order."""

from __future__ import annotations

import threading
from collections.abc import Callable


class BackgroundWriter:
    """Runs one write at a time in a thread of its own.

    An error of a write is raised by the next ``start`` or ``wait``, whichever comes first. The
    thread is no daemon: a process that ends finishes the write first, unless it is killed, and a
    write that is killed leaves what was there before.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], None]) -> None:
        """Run ``write`` in the thread, after the one before it has ended.

        Raises:
            ImgprepError: what the write before it raised; ``write`` is not run then.
        """
        self.wait()
        self._thread = threading.Thread(
            target=self._run, args=(write,), name="imgprep-checkpoint", daemon=False
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until all is written.

        Raises:
            ImgprepError: what the write raised.
        """
        self.join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def join(self) -> None:
        """Wait until the thread has ended; its error is kept for ``wait``."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self, write: Callable[[], None]) -> None:
        try:
            write()
        except BaseException as exc:  # the training thread raises it, whatever it is
            self._error = exc
