"""SQL that is compiled once a process, and not once for each of the many ledgers that tests open.

An agent has one engine for as long as it runs, which keeps what it compiled. A test has a few of
its own, and compiling was a fifth of the processor time of what the tests of ledgers do.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from sqlalchemy import Connection, Dialect, Engine, event


class _Compiled(dict[tuple[Any, ...], Any]):
    """SQLAlchemy's cache of statements, for all engines of one kind of database.

    The first part of its keys is the engine's dialect, of which each engine has its own.
    """

    def get(self, key: tuple[Any, ...], default: Any = None) -> Any:
        return super().get(key[1:], default)

    def __setitem__(self, key: tuple[Any, ...], compiled: Any) -> None:
        super().__setitem__(key[1:], compiled)


def share() -> None:
    """From now on engines of this process share what they compile."""
    kinds: defaultdict[type[Dialect], _Compiled] = defaultdict(_Compiled)

    @event.listens_for(Engine, "engine_connect")
    def connected(connection: Connection) -> None:
        connection.execution_options(compiled_cache=kinds[type(connection.dialect)])
