"""Letting go of NVML for a while, so that a GPU can be reset: a request in the agent's state.

Whoever may write the state directory may ask; the agent answers in a file beside the request.
Times are host monotonic nanoseconds of one boot, which every process of the host shares.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from apportion.core.clock import Clock
from apportion.core.units import NS_PER_HOUR

REQUEST: Final = "release"
ANSWER: Final = "released"
LONGEST_NS: Final = 24 * NS_PER_HOUR
"""A request for longer is a mistake: nothing would be metered."""


@dataclass(frozen=True, slots=True)
class Released:
    """The agent's answer. `stuck_pids` hang in the driver and still hold the devices."""

    until_ns: int
    stuck_pids: tuple[int, ...]


class Release:
    """Both ends of the request: `ask`, `end` and `answer`; the agent's are the other methods."""

    def __init__(self, state_dir: Path, clock: Clock, boot: str) -> None:
        self._request = state_dir / REQUEST
        self._answer = state_dir / ANSWER
        self._clock = clock
        self._boot = boot

    # -- who asks --------------------------------------------------------------------------------
    def ask(self, duration_ns: int) -> int:
        """Ask for so long, in place of an earlier request; until when that is.

        Raises:
            OSError: the state directory cannot be written.
        """
        until_ns = self._clock.monotonic_ns() + duration_ns
        _write(self._request, {"boot": self._boot, "until_ns": until_ns})
        return until_ns

    def end(self) -> None:
        """Take the request back.

        Raises:
            OSError: the state directory cannot be written.
        """
        self._request.unlink(missing_ok=True)

    def answer(self) -> Released | None:
        """What the agent has let go; None while it holds what it reads."""
        said = self._read(self._answer)
        if said is None:
            return None
        return Released(said["until_ns"], tuple(map(int, said.get("stuck_pids", ()))))

    # -- the agent -------------------------------------------------------------------------------
    def prepare(self) -> None:
        """Make the directory in which requests are left; where it cannot, nobody can ask."""
        with suppress(OSError):
            self._request.parent.mkdir(parents=True, exist_ok=True)

    def until_ns(self) -> int | None:
        """Until when the agent is asked to let go; None: it is not. Nonsense asks for nothing."""
        asked = self._read(self._request)
        left_ns = 0 if asked is None else asked["until_ns"] - self._clock.monotonic_ns()
        return asked["until_ns"] if asked is not None and 0 < left_ns <= LONGEST_NS else None

    def let_go(self, until_ns: int, stuck_pids: tuple[int, ...]) -> None:
        """Answer that it is done, unless that was said already."""
        if self.answer() == Released(until_ns, stuck_pids):
            return
        said = {"boot": self._boot, "until_ns": until_ns, "stuck_pids": list(stuck_pids)}
        # On a full disk nothing is said, and whoever asks gives up; the agent must live.
        with suppress(OSError):
            _write(self._answer, said)

    def go_on(self) -> None:
        """The time is over, or the request was taken back: the answer no longer holds."""
        with suppress(OSError):
            self._answer.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Any] | None:
        """A file of this boot; None where there is none, or none that can be understood."""
        try:
            said: Any = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(said, dict):
            return None
        known = cast("dict[str, Any]", said)
        is_ours = known.get("boot") == self._boot and type(known.get("until_ns")) is int
        return known if is_ours else None


def _write(path: Path, said: dict[str, Any]) -> None:
    """A whole file or none; anybody may read it, whoever wrote it."""
    part = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(said))
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
