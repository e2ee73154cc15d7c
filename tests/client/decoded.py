"""A ring decoded by the layout's tables alone: what a reader sees that never saw the client."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, NamedTuple

from apportion.client import layout

LENGTH_MASK = 0xFFFF


class Decoded(NamedTuple):
    """A ring at one time."""

    header: dict[str, Any]
    identity: dict[str, Any]
    words: dict[int, tuple[int, str]]
    """Index to kind and text."""
    open_slots: list[dict[str, int]]
    records: list[dict[str, Any]]
    """In the order of their sequences."""


def _fields(
    raw: bytes, fields: tuple[tuple[str, int, str], ...], offset: int = 0
) -> dict[str, Any]:
    return {name: struct.unpack_from(f"<{code}", raw, offset + at)[0] for name, at, code in fields}


def request_id(field: bytes) -> tuple[str, bool]:
    """The text of a record's request id, and whether it is a digest."""
    return field[2 : 2 + field[0]].decode(), bool(field[1])


def labels(found: Decoded, record: dict[str, Any]) -> list[str | None]:
    """Texts of a record's tenant, model and adapter."""
    return [
        found.words[record[name]][1] if record[name] else None
        for name in ("tenant", "model", "adapter")
    ]


def unpacked(word: int) -> dict[str, int]:
    """The parts of `packed`."""
    return {
        "kind": word & 0xFF,
        "status": word >> layout.STATUS_SHIFT & 0xFF,
        "phase": word >> layout.PHASE_SHIFT & 0xFF,
        "clock": word >> layout.CLOCK_SHIFT & 0xFF,
        "flags": word >> layout.FLAGS_SHIFT & 0xFFFF,
    }


def decode(raw: bytes) -> Decoded:
    """Everything in a ring's bytes; the parts of `packed` stand beside each record's fields."""
    header = _fields(raw, layout.HEADER_FIELDS)
    end = layout.IDENTITY_OFFSET + header["identity_length"]
    words: dict[int, tuple[int, str]] = {}
    for index in range(layout.WORD_CAPACITY):
        offset = layout.WORDS_OFFSET + index * layout.WORD_BYTES
        (state,) = struct.unpack_from("<Q", raw, offset)
        if state & layout.WORD_USED:
            begin = offset + layout.WORD_TEXT_OFFSET
            text = raw[begin : begin + (state & LENGTH_MASK)]
            words[index] = (state >> 16 & 0xFF, text.decode())
    slots = [
        _fields(raw, layout.OPEN_SLOT_FIELDS, layout.OPEN_SLOTS_OFFSET + at)
        for at in range(0, layout.OPEN_SLOT_BYTES * layout.OPEN_SLOT_CAPACITY, 64)
    ]
    records = [
        _fields(raw, layout.RECORD_FIELDS, layout.RECORDS_OFFSET + at * layout.RECORD_BYTES)
        for at in range(header["record_capacity"])
    ]
    for record in records:
        record.update(unpacked(record["packed"]))
    return Decoded(
        header=header,
        identity=json.loads(raw[layout.IDENTITY_OFFSET : end]),
        words=words,
        open_slots=[slot for slot in slots if slot["start_ns"]],
        records=sorted(
            (record for record in records if record["sequence"]),
            key=lambda record: int(record["sequence"]),
        ),
    )


def read(path: Path) -> Decoded:
    """A ring file."""
    return decode(path.read_bytes())


def rings(directory: Path) -> list[Path]:
    """The ring files of a directory."""
    return sorted(directory.glob(f"*{layout.FILE_SUFFIX}"))


def only(directory: Path) -> Decoded:
    """The one ring of a directory."""
    (path,) = rings(directory)
    return read(path)
