"""The demo's child processes: each in a process group of its own, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

STOP_SECONDS: Final = 15.0
LOG_LINES: Final = 25


class ChildFailedError(Exception):
    """A child process ended when it should not have, or not as it should have."""


class Child:
    """One child process. Its standard output and error are files, `NAME.out` and `NAME.err`."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> None:
        self.name = name
        self._asked = False
        self._output = directory / f"{name}.out"
        self._errors = directory / f"{name}.err"
        with self._output.open("wb") as output, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(
                list(command),
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process's id, which is its group's too."""
        return self._process.pid

    def lines(self) -> list[str]:
        """The complete lines of its standard output so far."""
        text = self._output.read_text(encoding="utf-8", errors="replace")
        return text.splitlines() if text.endswith("\n") else text.splitlines()[:-1]

    def running(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def require_running(self) -> None:
        """Check that it has not ended.

        Raises:
            ChildFailedError: it has; with the end of what it wrote.
        """
        if not self.running():
            raise self._failure()

    def require_success(self) -> None:
        """Check how it ended.

        Raises:
            ChildFailedError: not with exit status 0; with the end of what it wrote.
        """
        if self._process.wait(STOP_SECONDS) != 0:
            raise self._failure()

    def ask_to_end(self) -> None:
        """Send SIGTERM if it runs, and do not wait.

        Once only: an interpreter that is ending has given its handlers back, and a second one
        would kill it.
        """
        if self.running() and not self._asked:
            self._asked = True
            self._process.terminate()

    def stop(self) -> None:
        """Ask it to end, and after a while end it with all that it has started."""
        if self.running():
            self.ask_to_end()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self.kill_group()

    def kill_group(self) -> None:
        """End at once whatever is left of its process group."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return

    def _failure(self) -> ChildFailedError:
        written = self._errors.read_text(errors="replace") or self._output.read_text(
            errors="replace"
        )
        end = "\n".join(written.splitlines()[-LOG_LINES:])
        return ChildFailedError(
            f"the {self.name} ended with exit status {self._process.returncode}:\n{end}"
        )


class Processes:
    """All children, for `contextlib.closing`: the last one started is stopped first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: list[Child] = []

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> Child:
        """Start a child process."""
        child = Child(name, command, environment, self._directory)
        self._children.append(child)
        return child

    def kill(self) -> None:
        """End all of them at once: for when there is no time for order."""
        for child in self._children:
            child.kill_group()

    def close(self) -> None:
        """Stop all, and leave nothing behind even where that fails."""
        try:
            while self._children:
                self._children[-1].stop()
                self._children.pop()
        finally:
            self.kill()
