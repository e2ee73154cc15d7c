"""Starts the process that writes Parquet: pyarrow would double the caller's memory for good."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from apportion.core.errors import LedgerError

CHILD: Final = "apportion.cost.export"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be written where; instants are unix ns, None is open."""

    ledger: str
    directory: str
    since_unix_ns: int | None = None
    until_unix_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Exported:
    """Rows by dataset, files, and what was left as it is because its rows are not kept."""

    rows: dict[str, int]
    files: int
    notes: list[str]


def export(
    ledger: str | Path,
    directory: Path,
    since_unix_ns: int | None = None,
    until_unix_ns: int | None = None,
) -> Exported:
    """Write the days of [since, until) of a ledger under `directory`; see docs/ledger.md.

    Each file is whole or not there. One that was written before is written anew.

    Raises:
        LedgerError: it could not be written; what is there stays as it was.
    """
    request = Request(str(ledger), str(directory.absolute()), since_unix_ns, until_unix_ns)
    # The location may hold a password: it goes through the pipe, where nobody else looks.
    done = subprocess.run(
        [sys.executable, "-m", CHILD],
        input=json.dumps(asdict(request)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2:
        raise LedgerError(done.stderr.strip())
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        message = f"the export to {directory} ended with status {done.returncode}: {last}"
        raise LedgerError(message)
    return Exported(**json.loads(done.stdout))
