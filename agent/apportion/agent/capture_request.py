"""A wish for a trace of torch.profiler: from a command, by way of the agent's file, to a workload.

The command leaves it in the agent's state; the agent repeats it in the `agent.json` that workloads
look at between steps; the workload whose ring it names leaves its trace beside its ring. Times are
host monotonic nanoseconds of one boot.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from apportion.core.clock import Clock

FILE: Final = "capture"
MOST_STEPS: Final = 100


class CaptureRequest:
    """Both ends of it: `ask` and `withdraw`; and what the agent repeats, `current`."""

    def __init__(self, state_dir: Path, clock: Clock, boot: str) -> None:
        self._path = state_dir / FILE
        self._clock = clock
        self._boot = boot

    def ask(self, ring: str, steps: int, duration_ns: int) -> str:
        """Ask the process of a ring for so many steps, in place of an earlier wish; its id.

        Raises:
            OSError: the state directory cannot be written.
        """
        wish = secrets.token_hex(8)
        said = {
            "boot": self._boot,
            "until_ns": self._clock.monotonic_ns() + duration_ns,
            "capture": {"id": wish, "ring": ring, "steps": steps},
        }
        part = self._path.with_name(f"{FILE}.{os.getpid()}")
        try:
            part.write_text(json.dumps(said))
            part.replace(self._path)
        finally:
            part.unlink(missing_ok=True)
        return wish

    def withdraw(self) -> None:
        """Nobody waits for it any more."""
        self._path.unlink(missing_ok=True)

    def current(self) -> Mapping[str, object]:
        """What the agent says to workloads: the wish, while somebody waits. Nonsense is none."""
        try:
            said: Any = json.loads(self._path.read_bytes())
            is_open = said["boot"] == self._boot and self._clock.monotonic_ns() < said["until_ns"]
            wish = said["capture"]
            capture = {
                "id": str(wish["id"]),
                "ring": str(wish["ring"]),
                "steps": min(int(wish["steps"]), MOST_STEPS),
            }
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return {}
        return {"capture": capture} if is_open else {}
