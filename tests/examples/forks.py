"""The examples in real processes of their own that are forked where `import torch` is done.

That import is most of the processor time of a short run, and the same each time. A program's own
modules and `apportion.client`, which asks what process it is in, are imported after the fork.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from io import RawIOBase
from pathlib import Path
from typing import IO, Final

# An optimizer's first step imports the compiler.
_IMPORTED: Final = ("torch", "torch._dynamo", "fastapi", "httpx", "uvicorn")
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_MOST_BYTES: Final = 1 << 20


class ForkedExample:
    """What tests use of `subprocess.Popen`: a program with pipes for its output."""

    def __init__(self, stdout: IO[str], stderr: IO[str], ends: RawIOBase) -> None:
        self.stdout, self.stderr, self._ends = stdout, stderr, ends
        # Unbuffered: a line that was read ahead is one that `select` does not see.
        self.pid = int(ends.readline())
        self.returncode: int | None = None

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, or minus the signal that ended it."""
        if self.returncode is None:
            if not select.select([self._ends], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("a forked example", timeout or 0.0)
            self.returncode = int(self._ends.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, where it still runs."""
        ended = self.returncode is not None or select.select([self._ends], [], [], 0)[0]
        if not ended:
            os.kill(self.pid, number)

    def close(self) -> None:
        """Kill it where it still runs."""
        self.send_signal(signal.SIGKILL)
        self.wait()
        for pipe in (self.stdout, self.stderr, self._ends):
            pipe.close()


class Forks:
    """A process that has imported what takes long, and becomes each program by a fork."""

    def __init__(self) -> None:
        self._socket, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {**os.environ, "PYTHONWARNINGS": "default"}
        with its:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.examples.forks", str(its.fileno())],
                pass_fds=[its.fileno()],
                cwd=_REPOSITORY,
                env=environment,
            )

    def start(
        self, program: Path, arguments: Sequence[str], env: Mapping[str, str]
    ) -> ForkedExample:
        """A running program, as `python PROGRAM ARGUMENTS` would be."""
        pipes = [os.pipe() for _ in range(3)]
        request = json.dumps([str(program), list(arguments), dict(env)]).encode()
        socket.send_fds(self._socket, [request], [written for _, written in pipes])
        for _, written in pipes:
            os.close(written)
        stdout, stderr = (os.fdopen(read, encoding="utf-8") for read, _ in pipes[:2])
        return ForkedExample(stdout, stderr, os.fdopen(pipes[2][0], "rb", buffering=0))

    def close(self) -> None:
        """End it; what it has become goes on."""
        self._socket.close()
        self._process.wait()


def _become(requests: socket.socket) -> str | None:
    """In the process that asks: None, when nobody asks any more. In each fork: its program."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, _MOST_BYTES, 3)
        if not request:
            return None
        # A process between, which waits for the program's end and tells of it.
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    requests.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    stdout, stderr, ends = descriptors
    pid = os.fork()
    if pid:
        os.close(stdout)
        os.close(stderr)
        os.write(ends, b"%d\n" % pid)
        os.write(ends, b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os._exit(0)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    for descriptor in descriptors:
        os.close(descriptor)
    program, arguments, environment = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [program, *arguments]
    sys.path[0] = str(Path(program).parent)
    return str(program)


def main() -> None:
    """Import, and wait to be forked until the tests close their end."""
    for module in _IMPORTED:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes between
    program = _become(socket.socket(fileno=int(sys.argv[1])))
    if program is not None:
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
