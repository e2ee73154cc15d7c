"""Looks for ring files in one directory, which it may make where the agent starts first."""

from __future__ import annotations

import os
import re
from enum import Enum
from pathlib import Path
from typing import Final

from apportion.client import layout
from apportion.core.units import NS_PER_SECOND

DIRECTORY_MODE: Final = 0o3770
"""setgid and sticky: workloads share the group, and none removes another's ring."""
MOST_NAMES: Final = 4096
"""More names than this are not listed, but counted."""
_RESCAN_NS: Final = NS_PER_SECOND
_RING_NAME: Final = re.compile(rf"[0-9a-f]{{32}}{re.escape(layout.FILE_SUFFIX)}")


class DirectoryState(str, Enum):
    """What the ring directory is like."""

    READY = "ready"
    ABSENT = "absent"
    UNREADABLE = "unreadable"


class DirectoryScan:
    """Lists ring names; a missing or unreadable directory is a state, not an error."""

    def __init__(self, path: Path, *, gid: int | None = None, make: bool = True) -> None:
        """`gid` is the group that a directory made here is shared with, None for the agent's.

        Without `make` a directory that is missing is somebody else's to make.
        """
        self.path: Final = path
        self.state = DirectoryState.ABSENT
        self.reason = "not looked at yet"
        """Why the state is what it is, with what to do; empty where all is well."""
        self.names: tuple[str, ...] = ()
        """Ring names of the last listing."""
        self.unlisted = 0
        """How many names the last listing left out."""
        self.fd: int | None = None
        """The open directory, None while it is absent."""
        self.owned = False
        """Whether the directory belongs to the agent, which then tidies it."""
        self._gid = gid
        self._identity = (0, 0)
        self._listed_ns: int | None = None
        self._modified_ns = 0
        self._made = make and self._make()

    def look(self, now_ns: int, *, again: bool = False) -> bool:
        """List the directory if it may have changed, or `again`; whether it was listed."""
        try:
            facts = self.path.stat()
            if self.fd is None or (facts.st_dev, facts.st_ino) != self._identity:
                self._open()
                facts = self.path.stat()
            # The time of a change is coarse: one just after a listing may not move it.
            due = self._listed_ns is None or now_ns - self._listed_ns >= _RESCAN_NS
            if not (again or due or facts.st_mtime_ns != self._modified_ns):
                return False
            self._list()
        except FileNotFoundError:
            self._set_aside(DirectoryState.ABSENT, "it does not exist; start the agent first")
            if self._made:
                self._make()
            return False
        except OSError as error:
            self._set_aside(
                DirectoryState.UNREADABLE,
                f"{error.strerror}; give the agent read, write and search access",
            )
            return False
        self._modified_ns, self._listed_ns = facts.st_mtime_ns, now_ns
        self.state, self.reason = DirectoryState.READY, ""
        return True

    def close(self) -> None:
        """Give the directory back."""
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None

    def _make(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700)
            if self._gid is not None:
                os.chown(self.path, -1, self._gid)
            self.path.chmod(DIRECTORY_MODE)  # after chown, and whatever the umask is
        except FileExistsError:
            return False
        except OSError as error:
            self.reason = f"cannot make {self.path}: {error.strerror}"
            return False
        return True

    def _open(self) -> None:
        self.close()
        self._listed_ns = None
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        facts = os.fstat(self.fd)
        self._identity = (facts.st_dev, facts.st_ino)
        self.owned = facts.st_uid == os.geteuid()

    def _list(self) -> None:
        names: list[str] = []
        unlisted = 0
        with os.scandir(self.fd) as entries:
            for entry in entries:
                if not _RING_NAME.fullmatch(entry.name):
                    continue
                if len(names) < MOST_NAMES:
                    names.append(entry.name)
                else:
                    unlisted += 1
        self.names, self.unlisted = tuple(sorted(names)), unlisted

    def _set_aside(self, state: DirectoryState, reason: str) -> None:
        self.close()
        self.state, self.reason = state, f"{self.path}: {reason}"
        self.names = ()
        self._listed_ns = None
