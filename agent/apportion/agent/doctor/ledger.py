"""The doctor's look at the ledger: can the daemon open and write it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from apportion.agent.doctor.finding import Finding, Level
from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.cost.ledger.engine import WRITES, is_file, ledger_errors, ledger_url, open_engine
from apportion.cost.ledger.migration import check_schema

_CHECK: Final = "ledger"
_BUSY_TIMEOUT_MS: Final = 500


def examine_ledger(location: str, shown: str) -> list[Finding]:
    """Whether the ledger at `location` is there, has our schema and can be written.

    `shown` is the location without a password. Nothing is created or written.
    """
    try:
        url = ledger_url(location)
        if is_file(url) and not Path(str(url.database)).exists():
            return [_new_file(Path(str(url.database)))]
        reading = open_engine(url, read_only=is_file(url), busy_timeout_ms=_BUSY_TIMEOUT_MS)
        try:
            with ledger_errors(shown, "be read"):
                check_schema(reading, shown, create=False)
        finally:
            reading.dispose()
        writing = open_engine(url, busy_timeout_ms=_BUSY_TIMEOUT_MS)
        try:
            with (
                ledger_errors(shown, "be written"),
                writing.connect().execution_options(**{WRITES: True}) as connection,
            ):
                connection.begin().rollback()
        finally:
            writing.dispose()
    except LedgerUnavailable as error:
        return [Finding(_CHECK, Level.FAIL, str(error), "see the message")]
    except LedgerError as error:
        return [Finding(_CHECK, Level.FAIL, str(error), "see the message, or set `ledger`")]
    return [Finding(_CHECK, Level.OK, f"{shown} can be written")]


def _new_file(path: Path) -> Finding:
    parent = next(each for each in path.parents if each.exists())
    if os.access(parent, os.W_OK | os.X_OK):
        return Finding(_CHECK, Level.OK, f"{path} is not there yet; the agent will make it")
    return Finding(
        _CHECK,
        Level.FAIL,
        f"{path} is not there and {parent} is not writable",
        "make the directory, or set `ledger` or `state_dir`",
    )
