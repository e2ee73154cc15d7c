"""The kernel's word on whether a writer lives."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from apportion.agent.ingest import writer_pid
from apportion.client import layout

HOLD = (
    "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR);"
    "fcntl.lockf(fd, fcntl.LOCK_EX, 1, int(sys.argv[2])); os.set_inheritable(fd, True);"
    "print('held', flush=True); {then}"
)
WAIT = "sys.stdin.read()"
EXEC = "os.execvp('sleep', ['sleep', '60'])"


def holder(
    path: Path, offset: int = layout.LOCK_OFFSET, then: str = WAIT
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLD.format(then=then), str(path), str(offset)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(bytes(16))
    return made


@pytest.mark.parametrize("then", [WAIT, EXEC])
def test_the_lock_of_another_process_is_seen_through_a_read_only_file(
    path: Path, then: str
) -> None:
    """Protects liveness: the agent opens rings for reading, and the lock survives exec."""
    fd = os.open(path, os.O_RDONLY)
    with holder(path, then=then) as process:
        assert writer_pid(fd) == process.pid
        process.kill()
        process.wait()
        assert writer_pid(fd) is None
    os.close(fd)


def test_a_lock_of_this_process_is_seen_too(path: Path) -> None:
    """Protects an agent that is instrumented itself."""
    held, fd = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    assert writer_pid(fd) is None
    fcntl.lockf(held, fcntl.LOCK_EX, 1, layout.LOCK_OFFSET)
    assert writer_pid(fd) == os.getpid()
    os.close(fd)
    os.close(held)


def test_a_lock_elsewhere_in_the_file_is_not_the_writers(path: Path) -> None:
    """Protects against other locks of the same process."""
    fd = os.open(path, os.O_RDONLY)
    with holder(path, offset=8) as process:
        assert writer_pid(fd) is None
        process.kill()
    os.close(fd)


def test_without_locks_per_description_the_old_question_is_asked(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects sandboxes whose kernel has no such locks."""
    ask = fcntl.fcntl

    def refuse(fd: int, command: int, argument: bytes) -> bytes:
        if command == fcntl.F_OFD_GETLK:
            raise OSError(errno.EINVAL, "Invalid argument")
        return ask(fd, command, argument)

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    fd = os.open(path, os.O_RDONLY)
    with holder(path) as process:
        assert writer_pid(fd) == process.pid
        process.kill()
    os.close(fd)


def test_a_closed_file_is_an_error(path: Path) -> None:
    """Protects against taking a closed descriptor for a dead writer."""
    fd = os.open(path, os.O_RDONLY)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer_pid(fd)


def test_a_writer_in_another_pid_namespace_is_alive_without_a_name(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Protects containers: the kernel reports pid 0 or less for a process it cannot name here."""

    def answer(_fd: int, _command: int, _argument: bytes) -> bytes:
        return struct.pack("@hhqqi4x", fcntl.F_WRLCK, 0, 0, 1, -1)

    monkeypatch.setattr(fcntl, "fcntl", answer)
    with path.open("rb") as file:
        assert writer_pid(file.fileno()) == 0
