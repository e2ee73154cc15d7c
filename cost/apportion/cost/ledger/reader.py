"""A ledger to read: for reports and audits, beside an agent that writes, or over many agents."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from apportion.core.clock import Clock, SystemClock
from apportion.core.errors import LedgerUnavailable
from apportion.cost.ledger.engine import (
    DEFAULT_BUSY_TIMEOUT_MS,
    is_file,
    ledger_errors,
    ledger_url,
    open_engine,
    shown,
)
from apportion.cost.ledger.migration import check_schema

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from sqlalchemy import Connection, Engine
    from typing_extensions import Self


class LedgerReader:
    """Reads any ledger by path or URL and changes nothing. `clock` dates what is read.

    `several`: it is made of ledgers that do not know of one another, see `ledger.several`.
    """

    def __init__(self, engine: Engine, name: str, clock: Clock, *, several: bool = False) -> None:
        self._engine = engine
        self.name = name
        self.clock = clock
        self.several = several

    @classmethod
    def of(
        cls,
        path_or_url: str | Path,
        *,
        clock: Clock | None = None,
        busy_timeout_ms: int = DEFAULT_BUSY_TIMEOUT_MS,
    ) -> LedgerReader:
        """The ledger at a path or URL, for reading only.

        Raises:
            LedgerUnavailable: there is no such file, or it is out of reach.
            SchemaMismatch: its schema is not one that this release can use.
        """
        url = ledger_url(path_or_url)
        name = shown(url)
        if is_file(url) and not Path(name).is_file():
            what = "is no file" if Path(name).exists() else "does not exist"
            message = f"ledger {name} {what}: give the path that the agent's config names"
            raise LedgerUnavailable(message)
        engine = open_engine(url, read_only=True, busy_timeout_ms=busy_timeout_ms)
        try:
            with ledger_errors(name, "be opened"):
                check_schema(engine, name, create=False)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, name, clock or SystemClock())

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A connection in one read transaction: whatever it answers is of one moment."""
        with ledger_errors(self.name, "be read"), self._engine.connect() as connection:
            yield connection

    def close(self) -> None:
        """Let go of every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
