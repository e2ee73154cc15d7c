"""One agent for a ledger: its lock, which the kernel drops when the process ends, however."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.cost.ledger.engine import DIRECTORY_MODE, FILE_MODE, is_file, ledger_url

if TYPE_CHECKING:
    from typing_extensions import Self

AGENT: Final = "lock"
COMMAND: Final = "command.lock"
"""Endings of the locks' own files beside the ledger: SQLite keeps locks of another kind on it."""


class LedgerLock:
    """Held by the agent that writes to a ledger. Two of them would number their lines alike.

    SQLite's own locks last for a transaction; between two of them both agents would settle
    the same devices from states that do not know of each other. Commands that read the ledger
    and then post have a lock of their own, for the same reason.
    """

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @classmethod
    def take(cls, path_or_url: str | Path, ending: str = AGENT) -> Self:
        """Take a lock of a ledger; one that is not in a file has none and needs none.

        Raises:
            LedgerUnavailable: the lock's file cannot be made.
            LedgerError: another agent has it, or another command.
        """
        url = ledger_url(path_or_url)
        if not is_file(url):
            return cls(None)
        path = Path(f"{url.database}.{ending}")
        try:
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        except OSError as error:
            message = f"{path} cannot be made ({error.strerror}): make its directory writable"
            raise LedgerUnavailable(message) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            message = (
                f"an agent that runs on this host uses ledger {url.database}: stop it, or give "
                "another agent a `state_dir` of its own"
                if ending == AGENT
                else f"another command writes to ledger {url.database}: wait until it has ended"
            )
            raise LedgerError(message) from error
        return cls(fd)

    def release(self) -> None:
        """Give it back. Releasing twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
