"""The errors that imgprep raises, and the exit code of each.

::

    ImgprepError                 1  base class: the user can fix it
    ├── UsageError               2  the command line or the source cannot be understood
    ├── SourceError              1  the source cannot be read as ImageNet
    │   ├── UnreachableError     1  the source's store refuses, or does not answer
    │   └── SourceFaultError     1  a file that the scan saw cannot be read now, or has changed
    ├── ImageError               1  one image cannot be used
    ├── DestinationError         1  DEST cannot be written, is not ours or is too small
    │   ├── BusyError            1  another build is writing to DEST
    │   └── ChangedError         1  DEST was started from another source or spec
    ├── BuildError               1  the build stopped
    │   ├── BadImagesError       1  images failed under ``--on-error fail``
    │   ├── WorkerDiedError      1  a worker process was killed
    │   ├── MemoryLimitError     1  the memory that the process may use is not enough
    │   └── BuildInterruptedError     1  Ctrl-C or SIGTERM; the same command resumes
    ├── StoreError               1  an object store does not answer, or refuses
    ├── FormatError              1  a file of a dataset is missing, malformed or of another version
    └── DamageError              4  verify found damage

Messages say what is wrong, where, and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Container
from typing import ClassVar

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SKIPPED = 3
EXIT_DAMAGED = 4

EXIT_CODES: dict[int, str] = {
    EXIT_DONE: "done",
    EXIT_FAILED: "failed or interrupted",
    EXIT_USAGE: "usage: the command line or the source cannot be understood",
    EXIT_SKIPPED: "finished, but images were skipped (see report.json) or the scan found problems",
    EXIT_DAMAGED: "verify found damage",
}


class ImgprepError(Exception):
    """Base class."""

    exit_code: ClassVar[int] = EXIT_FAILED


class UsageError(ImgprepError):
    """The command line or the source cannot be understood."""

    exit_code: ClassVar[int] = EXIT_USAGE


class SourceError(ImgprepError):
    """The source cannot be read as ImageNet."""


class UnreachableError(SourceError):
    """The source's store refuses, or does not answer; its images may be fine."""


class SourceFaultError(SourceError):
    """A file that the scan saw cannot be read now, or has changed; this makes no image bad."""


class ImageError(ImgprepError):
    """One image cannot be used; the message is the cause alone, without the file's name."""


class DestinationError(ImgprepError):
    """DEST cannot be written, was not made by imgprep, or is too small."""


class BusyError(DestinationError):
    """Another build is writing to DEST."""


class ChangedError(DestinationError):
    """DEST was started from another source or spec."""


class BuildError(ImgprepError):
    """The build stopped."""


class BadImagesError(BuildError):
    """Images failed under ``--on-error fail``."""


class WorkerDiedError(BuildError):
    """A worker process was killed."""


LOWERED = {"--jobs": "use fewer --jobs", "--max-megapixels": "lower --max-megapixels"}
"""Options of a build that decide its memory, and what to do with them."""


class MemoryLimitError(BuildError):
    """The memory that the process may use is not enough; the message says what to lower."""

    @classmethod
    def at(cls, where: str, options: Container[str] = tuple(LOWERED)) -> MemoryLimitError:
        """The error for what was worked on: an image, a shard or a command with ``options``."""
        lowered = [text for option, text in LOWERED.items() if option in options]
        remedies = [*(lowered or ["end other programs"]), "or raise the memory limit (ulimit -v)"]
        return cls(
            f"{where}: not enough memory: {', '.join(remedies)}; then run the same command again"
        )


class BuildInterruptedError(BuildError):
    """Ctrl-C or SIGTERM; finished shards are kept."""


class StoreError(ImgprepError):
    """An object store does not answer, or refuses."""


class FormatError(ImgprepError):
    """A file of a dataset is missing, malformed or of another version."""


class DamageError(ImgprepError):
    """Verify found damage."""

    exit_code: ClassVar[int] = EXIT_DAMAGED


def is_out_of_memory(exc: Exception) -> bool:
    """Whether Python or the system lacks memory: for an object, a process or a thread."""
    if isinstance(exc, OSError):
        return exc.errno == errno.ENOMEM
    return isinstance(exc, MemoryError) or str(exc) == "can't start new thread"
