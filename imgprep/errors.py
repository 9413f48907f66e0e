"""Every error that imgprep raises on purpose, and the exit code that each one stands for.

::

    ImgprepError                 1  something the user can act on
    ├── UsageError               2  the command line or the source cannot be understood
    ├── SourceError              1  the source cannot be read as ImageNet
    │   └── UnreachableError     1  the store that holds the source refuses, or does not answer
    ├── ImageError               1  one image cannot be used (carries only the cause)
    ├── DestinationError         1  the output folder cannot be written, is not ours, is too small
    │   ├── BusyError            1  another build holds the output folder
    │   └── ChangedError         1  the output folder was begun from another source or spec
    ├── BuildError               1  the build stopped
    │   ├── BadImagesError       1  images failed under ``--on-error fail``
    │   ├── WorkerDiedError      1  a worker process was killed
    │   └── BuildInterruptedError     1  Ctrl-C or SIGTERM; run again to go on
    ├── StoreError               1  an object store does not answer, or refuses
    ├── FormatError              1  a file of a dataset is missing, malformed or of another version
    └── DamageError              4  verify found damage

A message says what is wrong, where, and what to do about it.
"""

from __future__ import annotations

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
    EXIT_SKIPPED: "finished, but images were skipped (listed in report.json)",
    EXIT_DAMAGED: "verify found damage",
}


class ImgprepError(Exception):
    """Base of the tree."""

    exit_code: ClassVar[int] = EXIT_FAILED


class UsageError(ImgprepError):
    """The command line or the source cannot be understood."""

    exit_code: ClassVar[int] = EXIT_USAGE


class SourceError(ImgprepError):
    """The source cannot be read as ImageNet."""


class UnreachableError(SourceError):
    """The store that holds the source refuses, or does not answer: no fault of any image."""


class ImageError(ImgprepError):
    """One image cannot be used; the message is the cause alone, the caller knows the file."""


class DestinationError(ImgprepError):
    """The output folder cannot be written, is not ours, or is too small."""


class BusyError(DestinationError):
    """Another build holds the output folder."""


class ChangedError(DestinationError):
    """The output folder was begun from another source or spec."""


class BuildError(ImgprepError):
    """The build stopped."""


class BadImagesError(BuildError):
    """Images failed while ``--on-error fail`` was in force."""


class WorkerDiedError(BuildError):
    """A worker process was killed."""


class BuildInterruptedError(BuildError):
    """Ctrl-C or SIGTERM; what is done stays done."""


class StoreError(ImgprepError):
    """An object store does not answer, or refuses."""


class FormatError(ImgprepError):
    """A file of a dataset is missing, malformed or of another version."""


class DamageError(ImgprepError):
    """Verify found damage."""

    exit_code: ClassVar[int] = EXIT_DAMAGED
