"""One rank of the job of crash.py: steps that all ranks end together, and checkpoints.

    crash_rank.py LOG SOCKET RESUMED STEPS CRASH_AT

It says what it does to apportion and, with times of its own, to LOG, so that both can be compared.
RESUMED is the step of the checkpoint that it goes on from, 0 for none. In step CRASH_AT, if it is
not 0, its GPU is lost, and so is it.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from typing import Final

from apportion import client

STEP_SECONDS: Final = 0.3
CHECKPOINT_SECONDS: Final = 0.4
CHECKPOINT_EVERY: Final = 5
LOADING_SECONDS: Final = 1.0
TOKENS: Final = 4096

LOG, SOCKET, RESUMED, STEPS, CRASH_AT = sys.argv[1:]
LOG_FD: Final = os.open(LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def note(what: str, number: int) -> None:
    """Unbuffered: it must be there when this process is killed at the next instruction."""
    os.write(LOG_FD, f"{what} {number} {time.monotonic_ns()}\n".encode())


def main() -> None:
    """Load, train, save, until the last step or until killed."""
    time.sleep(LOADING_SECONDS)
    if int(RESUMED):
        client.resumed(int(RESUMED))
    with socket.socket(socket.AF_UNIX) as others:
        others.connect(SOCKET)
        for number in range(int(RESUMED) + 1, int(STEPS) + 1):
            note("before step", number)
            with client.step(number) as step:
                note("in step", number)
                with step.phase("forward"):
                    time.sleep(STEP_SECONDS / 3)
                if number == int(CRASH_AT):
                    note("lost in step", number)
                    os.kill(os.getpid(), signal.SIGKILL)
                with step.phase("backward"):
                    time.sleep(STEP_SECONDS * 2 / 3)
                with step.phase("communication"):
                    others.sendall(b".")  # an all-reduce: it ends when all have come
                    others.recv(1)
                step.add(tokens=TOKENS)
                note("ending step", number)
            note("after step", number)
            if number % CHECKPOINT_EVERY == 0:
                with client.checkpoint(number):
                    time.sleep(CHECKPOINT_SECONDS)


if __name__ == "__main__":
    main()
