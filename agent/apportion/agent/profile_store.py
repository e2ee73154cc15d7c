"""Finished profiles on disk, within a budget, and a log of who took which, and when.

The log keeps a line for every attempt, also for one that failed and for profiles whose file had to
make room since. Lines are appended at once, so that several writers do not mix theirs.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from apportion.core.units import NS_PER_SECOND

LOG: Final = "log.jsonl"
ENDING: Final = ".json.gz"
DRAWING: Final = ".stacks"
"""What a trace's stacks are called beside it."""
DEFAULT_BUDGET_BYTES: Final = 64 << 20
LOG_BYTES: Final = 1 << 20
"""A longer log begins anew; one older one is kept beside it."""
_GZIP: Final = b"\x1f\x8b"
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """One attempt. kind: cpu or gpu. who: the user that asked. error: a word, None where it worked.

    file: the profile's name in the store, None of one that failed. cpu_s: the profiler's own.
    samples are of CPUs, steps of devices; what was not measured, or failed, has None.
    """

    taken_unix_ns: int
    kind: str
    who: str
    pid: int | None
    workload: str | None
    duration_s: float | None
    samples: int | None
    cpu_s: float | None
    file: str | None
    error: str | None = None
    steps: int | None = None


class ProfileStore:
    """A directory of profiles."""

    def __init__(self, directory: Path, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self.directory: Final = directory
        self._budget_bytes = budget_bytes

    def name(self, taken_unix_ns: int, kind: str, what: str) -> str:
        """A file's name: by time, so that names sort; harmless, whatever `what` is."""
        taken = datetime.fromtimestamp(taken_unix_ns // NS_PER_SECOND, timezone.utc)
        fraction = taken_unix_ns % NS_PER_SECOND // 1_000_000
        words = _UNSAFE.sub("_", what).strip("._")[:60] or "process"
        return f"{taken:%Y%m%dT%H%M%S}.{fraction:03}Z-{kind}-{words}{ENDING}"

    def add(self, record: ProfileRecord, content: bytes) -> Path:
        """Keep a profile (speedscope's JSON, or a packed trace), write it down, and make room.

        Raises:
            OSError: the directory cannot be written.
        """
        if record.file is None:
            raise ValueError("a profile without a name has no file")
        path = self._write(record.file, content)
        self.note(record)
        self.make_room(keep=path)
        return path

    def add_drawing(self, name: str, content: bytes) -> None:
        """Keep the stacks of a trace (speedscope's JSON) beside it, for as long as it is kept.

        Raises:
            OSError: the directory cannot be written.
        """
        self._write(f"{name}{DRAWING}", content)
        self.make_room(keep=self.directory / name)

    def note(self, record: ProfileRecord) -> None:
        """Write down an attempt.

        Raises:
            OSError: the directory cannot be written.
        """
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self.directory / LOG
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".old"))
        line = json.dumps(asdict(record), separators=(",", ":")) + "\n"
        with path.open("ab", buffering=0) as file:
            file.write(line.encode())

    def records(self) -> list[ProfileRecord]:
        """Every attempt on record, oldest first. Lines that are none are passed over."""
        try:
            lines = (self.directory / LOG).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        return [record for record in map(_record, lines) if record is not None]

    def files(self) -> list[Path]:
        """The profiles that are there, oldest first."""
        return sorted(self.directory.glob(f"[0-9]*{ENDING}"))

    def drawing(self, name: str) -> bytes | None:
        """The stacks of a trace, unpacked; None where nobody drew it."""
        if self.content(name) is None:
            return None
        try:
            return gzip.decompress((self.directory / f"{name}{DRAWING}").read_bytes())
        except FileNotFoundError:
            return None

    def sizes(self) -> list[tuple[Path, int]]:
        """What each profile takes, its drawing included, oldest first."""
        return [
            (path, sum(each.stat().st_size for each in (path, _drawing_of(path)) if each.exists()))
            for path in self.files()
        ]

    def content(self, name: str) -> bytes | None:
        """A profile, unpacked; None where there is none of this name."""
        for path in self.files():
            if path.name == name:
                return gzip.decompress(path.read_bytes())
        return None

    def make_room(self, *, keep: Path) -> None:
        """Delete the oldest profiles until the rest fits the budget; never `keep`."""
        sizes = self.sizes()
        used = sum(size for _, size in sizes)
        for path, size in sizes:
            if used <= self._budget_bytes:
                break
            if path != keep:
                path.unlink(missing_ok=True)
                _drawing_of(path).unlink(missing_ok=True)
                used -= size

    def _write(self, name: str, content: bytes) -> Path:
        self.directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        path = self.directory / name
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        is_packed = content.startswith(_GZIP)
        partial.write_bytes(content if is_packed else gzip.compress(content, mtime=0))
        partial.replace(path)
        return path


def _drawing_of(path: Path) -> Path:
    return path.with_name(f"{path.name}{DRAWING}")


def _record(line: str) -> ProfileRecord | None:
    try:
        return ProfileRecord(**json.loads(line))
    except (ValueError, TypeError):
        return None
