"""Distinguish machine faults and changed sources from bad images.

Only the content of a file can make an image bad. A file that the scan saw and that cannot be read
now, or is not the same any more, ends a build under either policy of ``--on-error``.
"""

from __future__ import annotations

import errno

from imgprep.errors import SourceFaultError
from imgprep.storage.reading import MACHINE_FAULTS

_ADVICE = {
    **MACHINE_FAULTS,
    errno.ENOENT: "put it back",
    errno.ENOTDIR: "put it back",
    errno.EACCES: "restore the permission to read it",
    errno.EPERM: "restore the permission to read it",
    errno.EIO: "check the disk and the file system",
}
_OTHER_ADVICE = "check its disk and file system"


def unreadable(where: str, exc: OSError) -> SourceFaultError:
    """The error for a file that the system cannot read, although it exists or existed."""
    advice = _ADVICE.get(exc.errno or 0, _OTHER_ADVICE)
    return SourceFaultError(
        f"{where} cannot be read: {exc.strerror or exc}: {advice}, and run the same command again; "
        "finished shards are kept"
    )


def changed(where: str, how: str) -> SourceFaultError:
    """The error for a file that is not the one that the scan found."""
    return SourceFaultError(
        f"{where} changed since the scan: {how}; restore it and run the same command again, or "
        "start over with --force"
    )


def is_denied(exc: OSError) -> bool:
    """Whether the system refuses for good: a property of the file, not a fault of the machine."""
    return isinstance(exc, PermissionError)
