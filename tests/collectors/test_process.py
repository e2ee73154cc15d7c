"""Facts about single processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from apportion.collectors.process import namespace_pids, process_cpu_ns, process_start_ns

Tree = Callable[[str], Path]


def test_start_in_monotonic_time(tree: Tree) -> None:
    """The kernel counts ticks from boot, suspended time included."""
    proc = tree("bare_host") / "proc"
    assert process_start_ns(42, proc, suspended_ns=0) == 3_600 * 10**9
    assert process_start_ns(42, proc, suspended_ns=600 * 10**9) == 3_000 * 10**9


def test_start_of_a_real_process() -> None:
    """Between the clock before it and the clock after, to a tick."""
    before_ns = time.monotonic_ns()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        start_ns = process_start_ns(process.pid)
        after_ns = time.monotonic_ns()
    assert start_ns is not None
    tick_ns = 10**9 // os.sysconf("SC_CLK_TCK")
    assert before_ns - 2 * tick_ns <= start_ns <= after_ns + 2 * tick_ns


def test_cpu_time(tree: Tree) -> None:
    """User and system time of all threads; what its dead children used is theirs."""
    proc = tree("bare_host") / "proc"
    assert process_cpu_ns(42, proc) == 17_500 * 10**6
    assert process_cpu_ns(77, proc) == 110 * 10**6


def test_namespace_pids(tree: Tree) -> None:
    """From the host's namespace to the innermost container's."""
    proc = tree("bare_host") / "proc"
    assert namespace_pids(42, proc) == (42, 7, 1)
    assert namespace_pids(77, proc) == ()
    assert namespace_pids(os.getpid())[0] == os.getpid()


def test_processes_that_are_gone(tree: Tree) -> None:
    """They end between two looks, and half a file may be what is left."""
    proc = tree("bare_host") / "proc"
    assert process_start_ns(9, proc) is None
    assert process_cpu_ns(9, proc) is None
    assert namespace_pids(9, proc) == ()
    (proc / "42/stat").write_text("42 (trainer) R 1")
    assert process_cpu_ns(42, proc) is None
