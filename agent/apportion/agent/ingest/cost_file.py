"""What a token cost lately, in a file beside the rings: workloads estimate their answers by it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from apportion.agent.ingest.heartbeat import replace_file
from apportion.client import layout
from apportion.core.clock import Clock

PERIOD_NS: Final = 15_000_000_000


class CostFile:
    """Writes `costs.json` into each directory of rings, with the costs of those who write there.

    So a pod reads of its own workloads only. Nobody needs the file: where it cannot be written
    there are no estimates.
    """

    def __init__(
        self, directory: Path, clock: Clock, *, others: Callable[[], Iterable[Path]] = tuple
    ) -> None:
        """`directory` is the agent's own, `others` those of pods, now."""
        self._directory, self._clock, self._others = directory, clock, others
        self._written: set[Path] = set()

    def write(
        self,
        per_token: Mapping[tuple[str, str], float],
        currency: str | None,
        workloads: Mapping[str, str],
    ) -> None:
        """Write what there is to say; where there is nothing, take away what was said.

        `per_token` are amounts by workload and model, `workloads` names by the digits of rings.
        """
        for folder in (self._directory, *self._others()):
            with contextlib.suppress(OSError):
                here = {
                    workloads[path.stem]
                    for path in folder.glob(f"*{layout.FILE_SUFFIX}")
                    if path.stem in workloads
                }
                costs: dict[str, dict[str, float]] = {}
                for (workload, model), amount in per_token.items():
                    if workload in here:
                        costs.setdefault(workload, {})[model] = amount
                if costs and currency is not None:
                    self._put(folder, currency, costs)
                elif folder in self._written:
                    self._remove(folder)

    def stop(self) -> None:
        """Take the files away: their costs grow old."""
        for folder in list(self._written):
            self._remove(folder)

    def _put(self, folder: Path, currency: str, costs: Mapping[str, Mapping[str, float]]) -> None:
        document = {
            "monotonic_ns": self._clock.monotonic_ns(),
            "currency": currency,
            "per_token": costs,
        }
        replace_file(folder, layout.COSTS_FILE, json.dumps(document, sort_keys=True).encode())
        self._written.add(folder)

    def _remove(self, folder: Path) -> None:
        self._written.discard(folder)
        with contextlib.suppress(OSError):
            (folder / layout.COSTS_FILE).unlink()
