"""Copies of a ledger in a SQLite file: made beside a running agent, put back without one.

A copy is SQLite's own, of one moment. It is written beside its place, looked through, and only
then gets its name: a file with that name is whole, and one that was there before is never lost.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from apportion.core.errors import LedgerError, LedgerUnavailable
from apportion.cost.ledger.engine import FILE_MODE, is_file, ledger_url, shown
from apportion.cost.ledger.lock import AGENT, COMMAND, LedgerLock
from apportion.cost.ledger.reader import LedgerReader

if TYPE_CHECKING:
    from collections.abc import Generator

_BESIDE: Final = ("-wal", "-shm")
"""What SQLite keeps beside a file that is in use."""


def back_up(ledger: str | Path, target: Path) -> int:
    """Copy a ledger to a new file, whoever writes to it meanwhile; the copy's size in bytes.

    Raises:
        LedgerUnavailable: there is no such ledger, or no room.
        LedgerError: `target` is there already, the ledger is no SQLite file, or the copy is
            damaged; then there is no copy.
    """
    source = sqlite_file(
        ledger,
        "a PostgreSQL is backed up whole and consistently by its own pg_dump, or by the "
        "archive of its write-ahead log",
    )
    LedgerReader.of(source).close()
    return _copy(source, target)


def restore(backup: Path, ledger: str | Path) -> int:
    """Copy a backup to where a ledger was; the size in bytes. The file there must be gone.

    Raises:
        LedgerUnavailable: there is no such backup, or no room.
        LedgerError: the ledger's file is there, an agent or a command runs, or the backup is none
            or damaged.
    """
    target = sqlite_file(ledger, "a PostgreSQL is restored by its own pg_restore")
    LedgerReader.of(backup).close()
    with _alone(target):
        for path in (target, *(Path(f"{target}{ending}") for ending in _BESIDE)):
            if path.exists():
                message = (
                    f"{path} is there: a restore writes over nothing. Move it away, and keep it "
                    "until you are sure of the backup"
                )
                raise LedgerError(message)
        return _copy(backup, target)


def vacuum(ledger: str | Path) -> tuple[int, int]:
    """Give the space of deleted rows back to the file system; bytes (before, after).

    Raises:
        LedgerUnavailable: there is no such ledger, or no room.
        LedgerError: an agent or a command runs, or the ledger is no SQLite file.
    """
    path = sqlite_file(ledger, "a PostgreSQL gives space back by itself, or by its own VACUUM FULL")
    LedgerReader.of(path).close()
    before = size_of(path)
    with _alone(path):
        free = os.statvfs(path.parent)
        if free.f_bavail * free.f_frsize < 2 * before:
            message = (
                f"{path.parent} has less than the {2 * before} bytes free that it can take to "
                f"write {path} anew: make room; until then deleted rows' space is used again"
            )
            raise LedgerUnavailable(message)
        with _sqlite_errors(path, "be written anew"), closing(sqlite3.connect(path)) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return before, size_of(path)


def size_of(path: Path) -> int:
    """The bytes of a ledger's file and of what SQLite keeps beside it."""
    places = (path, *(Path(f"{path}{ending}") for ending in _BESIDE))
    return sum(place.stat().st_size for place in places if place.exists())


def sqlite_file(ledger: str | Path, otherwise: str) -> Path:
    """The path of a ledger in a file.

    Raises:
        LedgerError: it is in none; `otherwise` says what to do instead.
    """
    url = ledger_url(ledger)
    if not is_file(url):
        message = f"{shown(url)} is no SQLite file: {otherwise}"
        raise LedgerError(message)
    return Path(str(url.database))


@contextmanager
def _alone(path: Path) -> Generator[None]:
    """No agent runs meanwhile, and no command that posts.

    Raises:
        LedgerError: one does.
    """
    with ExitStack() as stack:
        for ending in (AGENT, COMMAND):
            lock_path = Path(f"{path}.{ending}")
            is_new = not lock_path.exists()
            stack.callback(LedgerLock.take(path, ending).release)
            if is_new:
                _give_to_owner(lock_path)
        yield


def _copy(source: Path, target: Path) -> int:
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    if target.exists():
        message = f"{target} is there already: give another name"
        raise LedgerError(message)
    try:
        descriptor = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR, FILE_MODE)
    except OSError as error:
        message = f"{part} cannot be made ({error.strerror}): make its directory writable"
        raise LedgerUnavailable(message) from error
    try:
        os.fchmod(descriptor, FILE_MODE)
        _fill(source, part)
        os.fsync(descriptor)
        _give_to_owner(part)
        _name(part, target)
    finally:
        os.close(descriptor)
        part.unlink(missing_ok=True)
    return target.stat().st_size


def _fill(source: Path, part: Path) -> None:
    """Copy and look through. One file: a copy must be readable where nothing can be written."""
    with (
        _sqlite_errors(source, f"be copied to {part.parent}"),
        closing(sqlite3.connect(f"{source.absolute().as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(part)) as writing,
    ):
        reading.backup(writing)
        writing.execute("PRAGMA journal_mode=DELETE")
        ((found,), *_) = writing.execute("PRAGMA quick_check")
    if found != "ok":
        message = f"the copy of {source} is damaged ({found}): there is no backup of it"
        raise LedgerError(message)


def _name(part: Path, target: Path) -> None:
    """Give a finished file its name, unless another has it by now."""
    try:
        os.link(part, target)
    except FileExistsError as error:
        message = f"{target} was made by another process meanwhile: give another name"
        raise LedgerError(message) from error
    except OSError:  # no hard links on this file system
        part.rename(target)
    directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _give_to_owner(path: Path) -> None:
    """What root makes belongs to whom the directory does: an agent must be able to use it."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid)


@contextmanager
def _sqlite_errors(path: Path, doing: str) -> Generator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        message = f"ledger {path} could not {doing} ({error}): make room, or wait, and try again"
        raise LedgerUnavailable(message) from error
    except sqlite3.DatabaseError as error:
        message = f"ledger {path} could not {doing} ({error}): the file is damaged"
        raise LedgerError(message) from error
