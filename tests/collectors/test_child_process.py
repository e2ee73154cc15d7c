"""A child process that may hang, flood or crash."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import pytest

from apportion.collectors.child_process import ChildProcess

Until = Callable[[Callable[[], bool]], None]
SECOND = 10**9


def started(program: str, **environment: str) -> ChildProcess:
    return ChildProcess([sys.executable, "-c", program], {**os.environ, **environment})


def test_output_arrives_without_blocking(until: Until) -> None:
    """What is there is returned at once, also when it is nothing."""
    child = started("import sys; sys.stdout.write('x' * 200_000); sys.stdout.flush(); input()")
    arrived = bytearray()

    def complete() -> bool:
        arrived.extend(child.read()[0])
        return len(arrived) == 200_000

    until(complete)
    assert child.read() == (b"", True)
    assert child.end(10 * SECOND)


def test_closing_its_input_ends_it() -> None:
    """No signal is needed: a child at work may finish what it does."""
    child = started("input()")
    assert not child.end(30 * SECOND) or child.ending() is not None
    assert child.ending() is not None


def test_a_stubborn_child_is_killed(until: Until) -> None:
    """It ignores the end of its input."""
    child = started("import time; time.sleep(3600)")
    assert not child.end(SECOND // 20)
    until(lambda: child.ending() is not None)
    assert child.ending() == "was killed by SIGKILL"


def test_a_stopped_child_is_abandoned_without_waiting(until: Until) -> None:
    """SIGSTOP is the nearest that a test comes to a driver call that hangs."""
    child = started("input()")
    os.kill(child.pid, signal.SIGSTOP)
    child.abandon()
    until(lambda: child.ending() is not None)


def test_ending_is_told_in_words(until: Until) -> None:
    """The sentence lands in the log."""
    child = started("raise SystemExit(3)")
    until(lambda: not child.read()[1])
    assert child.ending(30 * SECOND) == "exited with status 3"
    child.abandon()


def test_last_words_are_bounded_and_without_environment_values(until: Until) -> None:
    """A traceback may show a secret that came by the environment."""
    program = "import os, sys; sys.stderr.write('y' * 9000 + '\\n' + os.environ['TOKEN']); input()"
    child = started(program, TOKEN="s3cret-value-of-a-token")
    until(lambda: "TOKEN" in child.last_words())
    words = child.last_words()
    assert "s3cret" not in words
    assert words.endswith("| $TOKEN")
    assert len(words) <= 2_000
    child.end(10 * SECOND)


def test_a_command_that_is_not_there() -> None:
    """The caller gets the operating system's error."""
    with pytest.raises(OSError, match="no-such-program"):
        ChildProcess(["/no-such-program"], {})
