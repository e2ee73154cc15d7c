"""A ring file opened for reading: never mapped, checked again at every look."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Final

from apportion.agent.ingest.refusal import Refusal, RingRefused

_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OPEN_ERRORS: Final = {
    errno.ELOOP: (Refusal.NOT_REGULAR, "it is a symbolic link"),
    errno.ENXIO: (Refusal.NOT_REGULAR, "it is a socket or a device that is not there"),
    errno.EACCES: (Refusal.NO_ACCESS, "permission denied: give the agent's group read access"),
    errno.EPERM: (Refusal.NO_ACCESS, "permission denied: give the agent's group read access"),
}


class RingFile:
    """Reads parts of one file with `pread`.

    A mapping would hand the agent a SIGBUS when the writer's side truncates the file; a copy
    that comes out short is only a refusal. Takes over `fd` and closes it.
    """

    def __init__(self, fd: int, *, allowed_uids: AbstractSet[int] | None = None) -> None:
        """`allowed_uids` are the owners whose rings are read, None for any.

        Raises:
            RingRefused: not a regular file, a foreign owner, or a second name. `fd` is closed.
        """
        self.fd = fd
        try:
            facts = os.fstat(fd)
            _check_facts(facts, allowed_uids)
        except BaseException:
            os.close(fd)
            raise
        self.uid: Final = facts.st_uid
        self.inode: Final = (facts.st_dev, facts.st_ino)

    def size_bytes(self) -> int:
        """How long the file is now."""
        return os.fstat(self.fd).st_size

    def check(self, expected_bytes: int) -> None:
        """Look again: owner, names, and that at least `expected_bytes` are there.

        Raises:
            RingRefused: it is no longer what it was. A deleted file (no name left) is fine.
        """
        facts = os.fstat(self.fd)
        if facts.st_uid != self.uid:
            raise RingRefused(Refusal.FOREIGN_OWNER, f"its owner became uid {facts.st_uid}")
        if facts.st_nlink > 1:
            raise RingRefused(Refusal.HARD_LINKED, f"it has {facts.st_nlink} names")
        if facts.st_size < expected_bytes:
            raise RingRefused(
                Refusal.TRUNCATED,
                f"it shrank to {facts.st_size} of {expected_bytes} bytes while it was read",
            )

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`.

        Raises:
            RingRefused: `TRUNCATED` where the file ends before, `UNREADABLE` on a system error.
        """
        try:
            raw = os.pread(self.fd, length, offset)
        except OSError as error:
            raise RingRefused(Refusal.UNREADABLE, f"reading it failed: {error.strerror}") from error
        if len(raw) != length:
            raise _truncated(offset, length, len(raw))
        return raw

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill `buffer` from `offset`; raises as `read` does."""
        try:
            got = os.preadv(self.fd, [buffer], offset)
        except OSError as error:
            raise RingRefused(Refusal.UNREADABLE, f"reading it failed: {error.strerror}") from error
        if got != len(buffer):
            raise _truncated(offset, len(buffer), got)

    def close(self) -> None:
        """Give the descriptor back."""
        os.close(self.fd)


def open_ring_file(
    name: str, *, directory_fd: int | None = None, allowed_uids: AbstractSet[int] | None = None
) -> RingFile:
    """Open `name` (relative to `directory_fd` if given) without following a link or waiting.

    Raises:
        RingRefused: it cannot be opened, or is no file to trust.
        FileNotFoundError: it is gone.
    """
    try:
        fd = os.open(name, _FLAGS, dir_fd=directory_fd)
    except FileNotFoundError:
        raise
    except OSError as error:
        reason, message = _OPEN_ERRORS.get(
            error.errno or 0, (Refusal.UNREADABLE, error.strerror or str(error))
        )
        raise RingRefused(reason, message) from error
    return RingFile(fd, allowed_uids=allowed_uids)


Read = Callable[[int, int], bytes]
"""`read(offset, length)`: that part of a ring."""
ReadInto = Callable[[memoryview, int], None]
"""`read_into(buffer, offset)`: fill the buffer from there."""


def _truncated(offset: int, length: int, got: int) -> RingRefused:
    return RingRefused(
        Refusal.TRUNCATED, f"only {got} of {length} bytes at {offset}: it shrank while it was read"
    )


def _check_facts(facts: os.stat_result, allowed_uids: AbstractSet[int] | None) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise RingRefused(Refusal.NOT_REGULAR, f"it is not a regular file (mode {facts.st_mode:o})")
    if allowed_uids is not None and facts.st_uid not in allowed_uids:
        raise RingRefused(
            Refusal.FOREIGN_OWNER,
            f"it belongs to uid {facts.st_uid}; add it to the users whose rings are read",
        )
    if facts.st_nlink > 1:
        raise RingRefused(Refusal.HARD_LINKED, f"it has {facts.st_nlink} names")
