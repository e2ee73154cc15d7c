"""A report of Nsight Systems, exported by `nsys export --type sqlite`, as columns.

UNVERIFIED: built from the exporter's documented schema (Nsight Systems User Guide, "SQLite Schema
Reference"); no real report has been read by it yet. Tables that a report lacks are tables of which
nothing was recorded.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from apportion.core.errors import ProfileTraceError
from apportion.profiles.device_trace import (
    DeviceEvents,
    DeviceTrace,
    HostSpans,
    Ints,
    MatrixProducts,
)
from apportion.profiles.event_order import launches_of, ordered

UNVERIFIED: Final = (
    "UNVERIFIED: this reader follows the documented schema of nsys export; no real report has "
    "been read by it yet"
)
_PROCESS_MASK: Final = ~0xFFFFFF
"""A globalTid without its thread is the globalPid."""
_BATCH: Final = 65_536


class _Query(NamedTuple):
    """A table that a report may lack, and what is read of it."""

    table: str
    columns: str
    width: int
    ending: str = ""


_ACTIVITIES: Final = (
    _Query(
        "CUPTI_ACTIVITY_KIND_KERNEL",
        "s.value, t.globalPid, t.deviceId, t.streamId, t.start, t.end - t.start, 0,"
        " t.correlationId",
        8,
        "JOIN StringIds s ON s.id = t.demangledName",
    ),
    _Query(
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        "CASE t.copyKind WHEN 1 THEN 'Memcpy HtoD' WHEN 2 THEN 'Memcpy DtoH' WHEN 8 THEN"
        " 'Memcpy DtoD' WHEN 10 THEN 'Memcpy PtoP' ELSE 'Memcpy' END, t.globalPid, t.deviceId,"
        " t.streamId, t.start, t.end - t.start, t.bytes, t.correlationId",
        8,
    ),
    _Query(
        "CUPTI_ACTIVITY_KIND_MEMSET",
        "'Memset', t.globalPid, t.deviceId, t.streamId, t.start, t.end - t.start, t.bytes,"
        " t.correlationId",
        8,
    ),
)
_LAUNCHES: Final = _Query("CUPTI_ACTIVITY_KIND_RUNTIME", "t.globalTid, t.correlationId, t.start", 3)
_RANGES: Final = _Query(
    "NVTX_EVENTS",
    "coalesce(t.text, s.value) AS name, t.globalTid, t.start, t.end - t.start",
    4,
    "LEFT JOIN StringIds s ON s.id = t.textId WHERE t.end IS NOT NULL AND name IS NOT NULL",
)
_DEVICES: Final = _Query("TARGET_INFO_GPU", "t.name, t.id", 2)


def read_nsys(path: Path, source: str) -> tuple[DeviceTrace, ...]:
    """A trace for each (process, device) that ran anything, in their order.

    Raises:
        ProfileTraceError: it is no such export, or nothing ran on a device.
    """
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            return _traces(database, source)
    except sqlite3.Error as error:
        raise ProfileTraceError(
            f"is no SQLite export of Nsight Systems as this reader knows it ({error}); export it "
            "again with a current nsys: nsys export --type sqlite REPORT.nsys-rep",
            path=source,
        ) from error


def _traces(database: sqlite3.Connection, source: str) -> tuple[DeviceTrace, ...]:
    names: dict[str, int] = {}
    activities = np.concatenate([_rows(database, query, names) for query in _ACTIVITIES])
    if not len(activities):
        raise ProfileTraceError(
            "holds no kernel and no copy: record with nsys profile --trace=cuda,nvtx", path=source
        )
    launches = _rows(database, _LAUNCHES, names)
    ranges = _rows(database, _RANGES, names)
    devices = _rows(database, _DEVICES, names)
    device_names = {int(row[1]): int(row[0]) for row in devices}
    words = tuple(names)
    owners = np.unique(activities[:, 1:3], axis=0)
    return tuple(
        _trace(
            f"{source} (process {process >> 24 & 0xFFFFFF}, device {device})",
            activities[(activities[:, 1] == process) & (activities[:, 2] == device)],
            launches[launches[:, 0] & _PROCESS_MASK == process],
            ranges[ranges[:, 1] & _PROCESS_MASK == process],
            words,
            words[device_names[device]] if device in device_names else None,
        )
        for process, device in owners.tolist()
    )


def _trace(
    source: str,
    rows: Ints,
    launches: Ints,
    ranges: Ints,
    names: tuple[str, ...],
    device_name: str | None,
) -> DeviceTrace:
    correlation = rows[:, 7]
    launched, launch_ns, launch_thread = launches_of(
        correlation, launches[:, 1], launches[:, 2], launches[:, 0]
    )
    events = DeviceEvents(
        name=rows[:, 0],
        device=rows[:, 2],
        stream=rows[:, 3],
        start_ns=rows[:, 4],
        duration_ns=rows[:, 5],
        size_bytes=rows[:, 6],
        launch_ns=launch_ns,
        launch_thread=launch_thread,
        launched=launched,
    )
    spans = HostSpans(ranges[:, 0], ranges[:, 1], ranges[:, 2], ranges[:, 3])
    return DeviceTrace(
        source=source,
        rank=None,
        world_size=None,
        device_name=device_name,
        names=names,
        events=ordered(events, correlation, ()).events,
        annotations=spans.where(np.argsort(spans.start_ns, kind="stable")),
        operators=HostSpans.none(),
        modules=HostSpans.none(),
        collectives=(),
        products=MatrixProducts(0, ()),
        warnings=(),
        unverified=UNVERIFIED,
    )


def _rows(database: sqlite3.Connection, query: _Query, names: dict[str, int]) -> Ints:
    """Shape n x width; n is 0 where the table is missing. Texts become their codes in `names`."""
    parts = [np.zeros((0, query.width), dtype=np.int64)]
    known = "SELECT 1 FROM sqlite_master WHERE name = ?"
    if database.execute(known, (query.table,)).fetchone() is not None:
        cursor = database.execute(
            f"SELECT {query.columns} FROM {query.table} t {query.ending}"  # noqa: S608 - constants
        )
        while rows := cursor.fetchmany(_BATCH):
            coded = [
                [
                    names.setdefault(cell, len(names)) if isinstance(cell, str) else cell
                    for cell in row
                ]
                for row in rows
            ]
            parts.append(np.array(coded, dtype=np.int64))
    return np.concatenate(parts)
