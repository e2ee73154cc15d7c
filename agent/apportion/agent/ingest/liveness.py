"""Is the process that writes a ring still alive? The kernel knows: it holds a lock."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import Final

from apportion.client import layout

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""
_QUESTION: Final = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, layout.LOCK_OFFSET, 1, 0)


def writer_pid(fd: int) -> int | None:
    """The pid that holds the writer's lock on the open file `fd`, None where nobody does.

    0 stands for a process of another pid namespace, which the kernel cannot name here. The
    file may be open for reading only. The question is asked for an open file description, so
    that a lock of the asking process itself is seen too.

    Raises:
        OSError: `fd` is closed or its file system has no locks.
    """
    try:
        answer = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _QUESTION)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, _QUESTION)  # sandboxes without OFD locks
    kind, _, _, _, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else max(0, pid)
