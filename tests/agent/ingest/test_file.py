"""Opening and reading a file that anybody may have made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apportion.agent.ingest import Refusal, RingFile, RingRefused, open_ring_file


def test_a_missing_file_is_told_apart(tmp_path: Path) -> None:
    """Protects the directory's race with a file that is deleted while it is listed."""
    with pytest.raises(FileNotFoundError):
        open_ring_file(str(tmp_path / "absent"))


def test_a_refused_file_is_closed(tmp_path: Path) -> None:
    """Protects descriptors from a flood of bad files."""
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(RingRefused):
        RingFile(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_short_read_is_a_refusal(tmp_path: Path) -> None:
    """Protects the decoder: it never sees half a buffer."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    file = open_ring_file(str(path))
    assert file.read(1, 4) == b"2345"
    for read in (lambda: file.read(3, 4), lambda: file.read_into(memoryview(bytearray(4)), 3)):
        with pytest.raises(RingRefused, match="only 2 of 4 bytes at 3") as caught:
            read()
        assert caught.value.reason is Refusal.TRUNCATED
    file.close()


def test_a_failing_read_is_a_refusal(tmp_path: Path) -> None:
    """Protects the other rings from an I/O error of one."""
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    file = open_ring_file(str(path))
    file.close()
    for read in (lambda: file.read(0, 4), lambda: file.read_into(memoryview(bytearray(4)), 0)):
        with pytest.raises(RingRefused, match="reading it failed") as caught:
            read()
        assert caught.value.reason is Refusal.UNREADABLE


def test_a_change_of_owner_is_a_refusal(tmp_path: Path) -> None:
    """Protects the uid that spans are bound by."""
    if os.geteuid() != 0:
        pytest.skip("needs root to give a file away")
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    file = open_ring_file(str(path))
    file.check(5)
    os.chown(path, 12_345, -1)
    with pytest.raises(RingRefused) as caught:
        file.check(5)
    assert caught.value.reason is Refusal.FOREIGN_OWNER
    file.close()
