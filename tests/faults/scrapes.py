"""How a Prometheus' scrapes of one target went, and which failures nothing explains."""

from __future__ import annotations

import re
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple

from tests.monitoring import Prometheus

LOOK_S = 0.2
"""More often than it scrapes."""
LATE = re.compile(r"deadline exceeded|Timeout exceeded")
CLOSED = re.compile(r"connection refused|connection reset|EOF$|use of closed")
SILENT_S = 60.0
"""Late answers are the machine's; none for so long would be the agent's."""
_FRACTION = re.compile(r"\.(\d{1,6})\d*")


class Scrape(NamedTuple):
    """When it began, as unix time, and its error; empty where it went well."""

    at_s: float
    error: str


class Window(NamedTuple):
    """From when to when the target was down on purpose, and may not have been back."""

    begin_s: float
    end_s: float


def unexplained(scrapes: Iterable[Scrape], down: Iterable[Window]) -> list[str]:
    """What is wrong with the target, in sentences.

    While it is down nobody answers, and that is all: an answer that is malformed or refused is a
    fault at any time. Else an answer may be late where the machine is busy, as long as some come.
    """
    windows = list(down)
    faults: list[str] = []
    well_s: float | None = None
    for at_s, error in sorted(scrapes):
        is_down = any(begin_s <= at_s <= end_s for begin_s, end_s in windows)
        if not error or is_down or well_s is None:
            well_s = at_s
        is_late = LATE.search(error) is not None
        if error and not is_late and not (is_down and CLOSED.search(error)):
            faults.append(f"at {at_s:.1f}: {error}")
        if at_s - well_s > SILENT_S:
            faults.append(f"at {at_s:.1f}: no answer in time for {at_s - well_s:.0f} s")
    return faults


def seconds_of(text: str) -> float:
    """Unix time of a date as Go writes it: up to nine decimals, and `Z`."""
    shorter = _FRACTION.sub(lambda found: f".{found[1]:0<6}", text).replace("Z", "+00:00")
    return datetime.fromisoformat(shorter).timestamp()


class Scrapes:
    """Keeps every scrape that a Prometheus makes of its one target."""

    def __init__(self, watcher: Prometheus) -> None:
        self._watcher = watcher
        self._found: dict[str, Scrape] = {}

    @property
    def all(self) -> list[Scrape]:
        """Those so far."""
        return list(self._found.values())

    def look(self) -> None:
        """Ask for the last one."""
        answer = self._watcher.get("/api/v1/targets", state="active")
        for target in answer["data"]["activeTargets"]:
            if target["health"] != "unknown":
                at = target["lastScrape"]
                self._found[at] = Scrape(seconds_of(at), target["lastError"])

    @contextmanager
    def watched(self) -> Generator[Scrapes]:
        """Look again and again meanwhile."""
        done = threading.Event()

        def body() -> None:
            while not done.wait(LOOK_S):
                self.look()

        thread = threading.Thread(target=body)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()
