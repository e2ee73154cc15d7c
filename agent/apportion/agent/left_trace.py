"""A trace that a workload leaves beside its ring: where that is, and taking it from there.

Whoever may write there is a stranger: the file may be a link to one of ours, or endless.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from apportion.agent.ingest.pod_directories import VOLUME
from apportion.client.layout import FILE_SUFFIX, TRACE_SUFFIX
from apportion.core.errors import ProfilerError

MOST_BYTES: Final = 512 << 20
"""Of a packed trace; a hundred steps have some megabytes."""
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


class LeftTrace:
    """The trace of one wish for one ring."""

    def __init__(self, ring: str, wish: str, ring_dir: Path, pods_dir: Path | None) -> None:
        """Look where the ring is: in the agent's own directory, or in a pod's.

        Traces of earlier wishes, for which nobody waited in the end, are removed: they hold memory.
        """
        self.directory = _directory_of(ring, ring_dir, pods_dir)
        self._path = self.directory / f"{ring}.{wish}{TRACE_SUFFIX}"
        for stale in self.directory.glob(f"{ring}.*{TRACE_SUFFIX}"):
            if stale != self._path:
                stale.unlink(missing_ok=True)

    @property
    def is_there(self) -> bool:
        """Whether the workload has left it: it appears whole."""
        return os.path.lexists(self._path)

    def take(self) -> bytes:
        """Its content; the file is gone then.

        Raises:
            ProfilerError: it is no plain file, or too large. It is gone then, too.
            OSError: it cannot be read.
        """
        try:
            return self._read()
        finally:
            self._path.unlink(missing_ok=True)

    def _read(self) -> bytes:
        try:
            fd = os.open(self._path, _FLAGS)
        except OSError as error:
            if self._path.is_symlink():
                raise self._strange("a symbolic link") from error
            raise
        with os.fdopen(fd, "rb") as file:
            facts = os.fstat(fd)
            if not stat.S_ISREG(facts.st_mode) or facts.st_nlink > 1:
                raise self._strange("no plain file of one name")
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise self._strange(f"larger than {MOST_BYTES >> 20} MiB: ask for fewer steps")
        return content

    def _strange(self, what: str) -> ProfilerError:
        return ProfilerError(f"{self._path} is {what}", "strange")


def _directory_of(ring: str, ring_dir: Path, pods_dir: Path | None) -> Path:
    """Where the ring's file is; the agent's own directory where it is nowhere."""
    pods = [] if pods_dir is None else sorted(pods_dir.glob(f"*/{VOLUME}"))
    places = (place for place in [ring_dir, *pods] if (place / f"{ring}{FILE_SUFFIX}").exists())
    return next(places, ring_dir)
