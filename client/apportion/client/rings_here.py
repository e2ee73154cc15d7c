"""Which rings are in a directory, whose they are, and what came into them last.

Only what a header and a few records say, read as any other process may: rings are nobody's to
trust, so nothing in one can do more than be shown.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, Final

from apportion.client import layout

MOST: Final = 20
"""Rings that are told of, the newest."""
_TEXT: Final = 60
_HEAD: Final = layout.RECORD_PAYLOAD.size + 8
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_FLOCK: Final = struct.Struct("@hhqqi4x")
_KINDS: Final = {number: name for name, number in layout.KINDS.items()}


def rings_here(
    directory: str, clock: Callable[[], int], unbound: Collection[str] = ()
) -> Iterator[str]:
    """A sentence on each ring in the directory, the newest first.

    `unbound` are the ids of those for which the agent knows no device.
    """
    try:
        paths = list(Path(directory).glob(f"*{layout.FILE_SUFFIX}"))
        paths.sort(key=lambda path: -path.lstat().st_mtime_ns)
    except OSError as error:
        yield f"the rings in {directory} cannot be listed: {error.strerror}"
        return
    for path in paths[:MOST]:
        money = "; its devices are not known: no money" if path.stem in unbound else ""
        yield f"ring {path.stem[:8]}: {_sentence(path, clock())}{money}"
    if len(paths) > MOST:
        yield f"and {len(paths) - MOST} older rings"


def _sentence(path: Path, now_ns: int) -> str:
    try:
        return _told(path, now_ns)
    except OSError as error:
        return f"cannot be read by uid {os.geteuid()}: {error.strerror}"
    except (ValueError, KeyError, TypeError, struct.error, RecursionError):
        return "is damaged, or was made by no client"


def _told(path: Path, now_ns: int) -> str:
    fd = os.open(path, _FLAGS)
    try:
        header = os.pread(fd, layout.HEADER_BYTES, 0)
        said = {
            name: struct.unpack_from(f"@{code}", header, offset)[0]
            for name, offset, code in layout.HEADER_FIELDS
        }
        if said["magic"] != layout.MAGIC:
            return "it is not complete yet"
        identity: dict[str, Any] = json.loads(
            header[layout.IDENTITY_OFFSET : layout.IDENTITY_OFFSET + said["identity_length"]]
        )
        written, last = _last_record(fd, said["record_capacity"])
        lives = _is_locked(fd)
    finally:
        os.close(fd)
    names = [str(identity["workload"]), *(
        f"{key} {identity[key]}" for key in ("run", "attempt", "rank") if key in identity
    )]  # fmt: skip
    if said["closed_ns"]:
        state = f"ended {_ago(now_ns - said['closed_ns'])}"
    else:
        state = "alive" if lives else "died"
    text = f"{', '.join(names)}; pid {said['pid']}, {state}; {written:,} records"
    if last is not None:
        text += f", the last {last[0]}, ended {_ago(now_ns - last[1])}"
    if said["word_overflow"]:
        text += f"; {said['word_overflow']:,} names became `{layout.OTHER_TEXT}`: too many"
    return _printable(text)


def _last_record(fd: int, capacity: int) -> tuple[int, tuple[str, int] | None]:
    """How many were ever written; and the last one in words, with its end."""
    end = layout.RECORDS_OFFSET + layout.RECORD_BYTES * min(capacity, 1 << 20)
    newest, place = 0, 0
    for offset in range(layout.RECORDS_OFFSET, end, layout.RECORD_BYTES << 8):
        part = os.pread(fd, min(layout.RECORD_BYTES << 8, end - offset), offset)
        if not part:  # shorter than its header says
            break
        for at in range(0, len(part) - 7, layout.RECORD_BYTES):
            (sequence,) = struct.unpack_from("@Q", part, at)
            if sequence > newest:
                newest, place = sequence, offset + at
    if not newest:
        return 0, None
    record = _record(fd, place)
    if record["start_ns"] == record["end_ns"] and newest > 1:  # a step taken back: the one before
        before = layout.RECORDS_OFFSET + layout.RECORD_BYTES * ((newest - 2) % capacity)
        record = _record(fd, before)
    kind = _KINDS.get(record["packed"] & 0xFF, "span")
    field: bytes = record["request_id"]
    name = field[2 : 2 + field[0]].decode(errors="replace")
    if record["step"] != layout.ABSENT and not name:
        name = str(record["step"])
    return newest, (f"{kind} {name}"[:_TEXT].strip(), record["end_ns"])


def _record(fd: int, place: int) -> dict[str, Any]:
    raw = os.pread(fd, _HEAD, place)
    return {
        name: struct.unpack_from(f"@{code}", raw, offset)[0]
        for name, offset, code in layout.RECORD_FIELDS
    }


def _is_locked(fd: int) -> bool:
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, layout.LOCK_OFFSET, 1, 0)
    kind: int = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))[0]
    return kind != fcntl.F_UNLCK


def _ago(age_ns: int) -> str:
    return f"{max(0, age_ns) / 1e9:,.1f} s ago"


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)
