"""A simple file system, as a process and its children see it.

It has no file locks and no hard links, and cannot flush folders.
"""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

SOURCE = """
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int fsync(int fd)
{
    struct stat status;
    if (fstat(fd, &status) == 0 && S_ISDIR(status.st_mode)) {
        errno = EINVAL;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int flock(int fd, int operation)
{
    (void)fd;
    (void)operation;
    errno = atoi(getenv("TEST_FLOCK_ERRNO"));
    return -1;
}

int link(const char *from, const char *to)
{
    (void)from;
    (void)to;
    errno = EPERM;
    return -1;
}
"""


def without_locks(folder: Path, error: int = errno.ENOSYS) -> dict[str, str]:
    """Environment of a process in which ``flock`` fails so; ``folder`` is for the library."""
    source, library = folder / "nolocks.c", folder / "nolocks.so"
    source.write_text(SOURCE)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source], check=True)
    return {**os.environ, "LD_PRELOAD": str(library), "TEST_FLOCK_ERRNO": str(error)}
