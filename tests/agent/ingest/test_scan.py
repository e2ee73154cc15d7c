"""Listing the directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from apportion.agent.ingest import DirectoryState, read_boot_id
from apportion.agent.ingest import scan as scan_module
from apportion.agent.ingest.header import UNKNOWN_BOOT
from apportion.agent.ingest.scan import DirectoryScan
from apportion.core.units import NS_PER_SECOND


def name(number: int) -> str:
    return f"{number:032x}.ring"


def test_an_unchanged_directory_is_not_listed_at_every_poll(tmp_path: Path) -> None:
    """Protects the idle poll's cost, and still looks once a second."""
    scan = DirectoryScan(tmp_path)
    assert scan.look(0)
    assert not scan.look(1)
    assert scan.look(NS_PER_SECOND)
    (tmp_path / name(1)).write_bytes(b"")
    os.utime(tmp_path, ns=(5, 5))
    assert scan.look(NS_PER_SECOND + 1)
    assert scan.names == (name(1),)
    scan.close()


def test_names_are_bounded_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Protects the poll from a directory with endless names."""
    monkeypatch.setattr(scan_module, "MOST_NAMES", 3)
    for number in range(5):
        (tmp_path / name(number)).write_bytes(b"")
    scan = DirectoryScan(tmp_path)
    scan.look(0)
    assert (len(scan.names), scan.unlisted) == (3, 2)
    scan.close()


def test_a_replaced_directory_is_opened_again(tmp_path: Path) -> None:
    """Protects an agent whose volume was mounted again."""
    path = tmp_path / "rings"
    path.mkdir()
    scan = DirectoryScan(path)
    scan.look(0)
    path.rename(tmp_path / "old")
    path.mkdir()
    (path / name(1)).write_bytes(b"")
    assert scan.look(1)
    assert scan.names == (name(1),)
    scan.close()


def test_a_directory_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    """Protects the start of an agent whose path is wrong."""
    (tmp_path / "file").write_bytes(b"")
    scan = DirectoryScan(tmp_path / "file" / "rings")
    assert not scan.look(0)
    assert scan.state is DirectoryState.UNREADABLE
    assert scan.reason


def test_a_directory_of_others_is_not_made_again(tmp_path: Path) -> None:
    """Protects a mount point: where a volume vanished, no folder is put in its place."""
    path = tmp_path / "rings"
    path.mkdir()
    scan = DirectoryScan(path)
    path.rmdir()
    assert not scan.look(0)
    assert not path.exists()
    assert scan.state is DirectoryState.ABSENT


def test_the_boot_id_is_read_or_unknown(tmp_path: Path) -> None:
    """Protects sandboxes that hide it."""
    path = tmp_path / "boot_id"
    assert read_boot_id(path) == UNKNOWN_BOOT
    path.write_text("not a uuid\n")
    assert read_boot_id(path) == UNKNOWN_BOOT
    path.write_text("00010203-0405-0607-0809-0a0b0c0d0e0f\n")
    assert read_boot_id(path) == bytes(range(16))
