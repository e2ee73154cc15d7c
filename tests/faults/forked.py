"""`apportion` in a real process of its own that is forked where its imports are done.

Starting an interpreter and importing everything is most of the processor time of a short test,
and the same each time. Programs whose start is what a test is about are started as users do.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

_FORKS: Final = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["apportion.agent.cli.agent", "apportion.agent.daemon"])


class ForkedProcess:
    """What tests use of `subprocess.Popen`, of a command of `apportion` with its output in `log`.

    It leads a session of its own and has no input, and none of this process's files.
    """

    stdin: Final = None
    stdout: Final = None

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        started = (tuple(arguments), dict(env), os.fspath(log))
        self._process = _FORKS.Process(target=_main, args=started)
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, as `subprocess` says it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The same."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; its exit status."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("apportion", timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


def _main(arguments: tuple[str, ...], env: dict[str, str], log: str) -> None:
    os.setsid()
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    for descriptor in (sys.stdout.fileno(), sys.stderr.fileno()):
        os.dup2(output, descriptor)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    from apportion.agent.cli import main  # noqa: PLC0415 - by the server of forks already

    sys.argv = ["apportion", *arguments]
    sys.exit(main(list(arguments)))
