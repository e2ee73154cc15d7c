"""Nsight Systems: a database made by the documented schema, since no real one is at hand."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest

from apportion.core.errors import ProfileTraceError
from apportion.profiles.nsys_trace import UNVERIFIED
from apportion.profiles.rank_breakdown import RankBreakdown
from apportion.profiles.trace_file import TraceFile

PROCESS = (1 << 56) | (4242 << 24)
SCHEMA = """
CREATE TABLE StringIds (id INTEGER PRIMARY KEY, value TEXT);
CREATE TABLE TARGET_INFO_GPU (id INTEGER, name TEXT, busLocation TEXT);
CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL (start INTEGER, end INTEGER, deviceId INTEGER,
    contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER,
    demangledName INTEGER, shortName INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY (start INTEGER, end INTEGER, deviceId INTEGER,
    contextId INTEGER, streamId INTEGER, correlationId INTEGER, globalPid INTEGER, bytes INTEGER,
    copyKind INTEGER);
CREATE TABLE CUPTI_ACTIVITY_KIND_RUNTIME (start INTEGER, end INTEGER, eventClass INTEGER,
    globalTid INTEGER, correlationId INTEGER, nameId INTEGER);
CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, eventType INTEGER, text TEXT,
    globalTid INTEGER, textId INTEGER);
"""


def export(path: Path, tables: Sequence[str] = ()) -> Path:
    """A report of one step on two devices; without the tables that are named."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(SCHEMA)
        database.executemany(
            "INSERT INTO StringIds VALUES (?, ?)",
            [(1, "gemm"), (2, "ncclDevKernel_AllReduce_Sum_f32"), (3, "step 8")],
        )
        database.execute("INSERT INTO TARGET_INFO_GPU VALUES (0, 'NVIDIA A100-SXM4-80GB', '')")
        database.executemany(
            "INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (?, ?, ?, 1, 7, ?, ?, ?, 0)",
            [
                (1000, 5000, 0, 11, PROCESS, 1),
                (4000, 9000, 0, 12, PROCESS, 2),
                (1000, 2000, 1, 13, PROCESS, 1),
            ],
        )
        database.execute(
            "INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (9500, 9600, 0, 1, 7, 14, ?, 4096, 1)",
            (PROCESS,),
        )
        database.executemany(
            "INSERT INTO CUPTI_ACTIVITY_KIND_RUNTIME VALUES (?, ?, 0, ?, ?, 0)",
            [(500 + row, 600 + row, PROCESS | 77, 11 + row) for row in range(4)],
        )
        database.execute(
            "INSERT INTO NVTX_EVENTS VALUES (400, 9000, 59, NULL, ?, 3)", (PROCESS | 77,)
        )
        for table in tables:
            database.execute(f"DROP TABLE {table}")
        database.commit()
    return path


def test_same_columns_as_any_trace(tmp_path: Path) -> None:
    """A trace for each device, with names, launches, copies and NVTX steps; and UNVERIFIED."""
    first, second = TraceFile(export(tmp_path / "report.sqlite")).read()
    rank = RankBreakdown.of(first)

    assert first.unverified == UNVERIFIED
    assert "UNVERIFIED" in UNVERIFIED
    assert first.device_name == "NVIDIA A100-SXM4-80GB"
    assert first.source.endswith("report.sqlite (process 4242, device 0)")
    assert (len(first.events), len(second.events)) == (3, 1)
    assert first.events.launched.all()
    assert [(one.number, one.device.events) for one in rank.steps] == [(8, 3)]
    assert rank.whole.device.exposed_communication_ns == 4000
    assert rank.whole.device.memory_ns == 100
    assert rank.whole.device.idle.other_ns == 0
    assert rank.whole.device.idle.kernel_wait_ns == 500


def test_tables_that_a_report_lacks_hold_nothing(tmp_path: Path) -> None:
    """A recording without NVTX, copies and API calls gives what is there."""
    lacking = [
        "NVTX_EVENTS",
        "CUPTI_ACTIVITY_KIND_MEMCPY",
        "CUPTI_ACTIVITY_KIND_RUNTIME",
        "TARGET_INFO_GPU",
    ]
    first, _ = TraceFile(export(tmp_path / "report.sqlite", lacking)).read()

    assert len(first.events) == 2
    assert not first.events.launched.any()
    assert first.device_name is None


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM CUPTI_ACTIVITY_KIND_KERNEL", "holds no kernel and no copy"),
        ("ALTER TABLE StringIds RENAME COLUMN value TO text", "no SQLite export of Nsight"),
    ],
)
def test_other_databases_are_refused(tmp_path: Path, statement: str, said: str) -> None:
    """A database of another program, or of another schema, says how to export again."""
    path = export(tmp_path / "report.sqlite", ["CUPTI_ACTIVITY_KIND_MEMCPY"])
    with closing(sqlite3.connect(path)) as database:
        database.execute(statement)
        database.commit()

    with pytest.raises(ProfileTraceError, match=said):
        TraceFile(path).read()


def test_damaged_database_is_refused(tmp_path: Path) -> None:
    """A file that only begins like SQLite is named, and nothing else breaks."""
    path = tmp_path / "report.sqlite"
    path.write_bytes(b"SQLite format 3\x00" + bytes(4096))

    with pytest.raises(ProfileTraceError, match="export it again"):
        TraceFile(path).read()
