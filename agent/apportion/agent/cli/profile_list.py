"""`apportion profile list`: what was taken, by whom, and what failed."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Final

from apportion.agent.cli.listing import add_format, render
from apportion.agent.cli.profile_burst import add_store, store_of
from apportion.agent.profile_store import ProfileRecord
from apportion.core.units import NS_PER_SECOND

COLUMNS: Final = (
    "taken",
    "kind",
    "who",
    "workload",
    "pid",
    "duration_s",
    "samples",
    "steps",
    "cpu_s",
    "file",
    "error",
)


def configure_list(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_store(parser)
    add_format(parser)
    parser.epilog = "`file` is empty of those that failed, and of those that had to make room."


def run_list(options: argparse.Namespace) -> int:
    """Print it; the exit status."""
    store = store_of(options)
    there = {path.name for path in store.files()}
    rows = [_row(record, there) for record in store.records()]
    sys.stdout.write(render(rows, COLUMNS, options.format))
    return 0


def _row(record: ProfileRecord, there: set[str]) -> dict[str, object]:
    taken = datetime.fromtimestamp(record.taken_unix_ns // NS_PER_SECOND, timezone.utc)
    row: dict[str, object] = {**asdict(record), "taken": f"{taken:%Y-%m-%d %H:%M:%SZ}"}
    return row if record.file in there else {**row, "file": None}
