"""Lines of files that grow, rotate, are cut, or are no logs at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apportion.doors import log_tail
from apportion.doors.log_tail import LogTail


def tail(directory: Path) -> LogTail:
    return LogTail(directory, "x-")


def lines(of: LogTail, most: int = 100) -> list[bytes]:
    return list(of.lines(most))


def test_lines_come_once_and_whole(tmp_path: Path) -> None:
    """Half a line waits for its end; the next file follows the last one."""
    read, first = tail(tmp_path), tmp_path / "x-1.log"
    assert [] == lines(read)
    first.write_bytes(b"a\nb\nhal")
    assert [b"a\n", b"b\n"] == lines(read)
    assert [] == lines(read)
    with first.open("ab") as file:
        file.write(b"f\n")
    (tmp_path / "x-2.log").write_bytes(b"c\n")
    assert [b"half\n", b"c\n"] == lines(read)


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """Another process has its place, not the file's age; what was taken off waits."""
    (tmp_path / "x-1.log").write_bytes(b"a\nb\nc\n")
    first = tail(tmp_path)
    assert [b"a\n"] == lines(first, 1)
    second = tail(tmp_path)
    second.restore(first.position)
    assert [b"b\n", b"c\n"] == lines(second)
    for nonsense in (None, 5, {"x-1.log": "?"}, {"x-1.log": [1]}):
        third = tail(tmp_path)
        third.restore(nonsense)
        assert 3 == len(lines(third))


def test_cut_replaced_and_gone(tmp_path: Path) -> None:
    """A file that is not the one that was read begins anew; one that is gone is forgotten."""
    read, path = tail(tmp_path), tmp_path / "x-1.log"
    path.write_bytes(b"a\nb\n")
    assert 2 == len(lines(read))
    path.write_bytes(b"c\n")
    assert [b"c\n"] == lines(read)
    (tmp_path / "new").write_bytes(b"d\ne\n")
    (tmp_path / "new").replace(path)
    assert [b"d\n", b"e\n"] == lines(read)
    path.unlink()
    assert [] == lines(read)
    assert {} == read.position


def test_what_is_no_log(tmp_path: Path) -> None:
    """A link, a pipe, a directory and another name are left alone, and hold nobody up."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"no\n")
    (tmp_path / "x-link.log").symlink_to(secret)
    os.mkfifo(tmp_path / "x-pipe.log")
    (tmp_path / "x-folder.log").mkdir()
    (tmp_path / "x-1.txt").write_bytes(b"no\n")
    assert [] == lines(tail(tmp_path))
    with pytest.raises(FileNotFoundError):
        lines(tail(tmp_path / "missing"))


def test_a_line_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is left out, counted once, and costs no more memory than the longest line."""
    monkeypatch.setattr(log_tail, "LONGEST_LINE", 8)
    read, path = tail(tmp_path), tmp_path / "x-1.log"
    path.write_bytes(b"a\n" + b"x" * 20)
    assert [b"a\n"] == lines(read)
    with path.open("ab") as file:
        file.write(b"yyyy\nb\n")
    assert [b"b\n"] == lines(read)
    assert 1 == read.too_long


def test_old_files_are_skipped(tmp_path: Path) -> None:
    """A month of logs is not read through to begin with."""
    old, new = tmp_path / "x-1.log", tmp_path / "x-2.log"
    old.write_bytes(b"a\n")
    os.utime(old, (1, 1))
    new.write_bytes(b"b\n")
    read = tail(tmp_path)
    read.skip(1_000_000_000_000)
    assert [b"b\n"] == lines(read)
