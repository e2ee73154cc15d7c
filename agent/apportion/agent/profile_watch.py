"""What finished profiles say of themselves on /metrics: how many, how old, and what failed."""

from __future__ import annotations

from collections import Counter
from typing import Final

from apportion.agent.profile_store import ProfileStore
from apportion.collectors.collector import Batch
from apportion.core.errors import NoData
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND

_SOURCE: Final = "profiles"

FAMILIES: Final[tuple[Family, ...]] = (
    Family("apportion_profiles", "gauge", "profiles", (), "Finished profiles on disk.", _SOURCE),
    Family("apportion_profiles_bytes", "gauge", "bytes", (), "What they take.", _SOURCE),
    Family(
        "apportion_profile_last_timestamp_seconds",
        "gauge",
        "seconds",
        (),
        "When a profile was last taken with success, as unix time.",
        _SOURCE,
    ),
    Family(
        "apportion_profile_failures",
        "gauge",
        "attempts",
        ("reason",),
        "Attempts in the log that failed: ptrace, gone, not_python, threads, idle, budget, stuck, "
        "missing, silent, failed. The log begins anew when it is long.",
        _SOURCE,
    ),
)
REASONS: Final = frozenset(
    {
        "ptrace",
        "gone",
        "not_python",
        "threads",
        "idle",
        "budget",
        "stuck",
        "missing",
        "silent",
        "failed",
    }
)
PERIOD_NS: Final = 15 * NS_PER_SECOND


class ProfileWatch:
    """A collector that looks into a store."""

    name = "profiles"

    def __init__(self, store: ProfileStore) -> None:
        self._store = store

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """What is there now.

        Raises:
            NoData: no profile was ever asked for.
        """
        records = self._store.records()
        if not records:
            raise NoData(f"no profile was taken so far ({self._store.directory})")
        # the log is a file that others may write: no word of it becomes a label of its own
        failures = Counter(
            one.error if one.error in REASONS else "failed"
            for one in records
            if one.error is not None
        )
        taken_ns = [one.taken_unix_ns for one in records if one.error is None]
        sizes = [size for _, size in self._store.sizes()]
        samples = [
            Sample("profiles", float(len(sizes))),
            Sample("profiles_bytes", float(sum(sizes))),
            *(
                Sample("profile_failures", float(count), (("reason", reason),))
                for reason, count in sorted(failures.items())
            ),
        ]
        if taken_ns:
            last_s = max(taken_ns) / NS_PER_SECOND
            samples.append(Sample("profile_last_timestamp_seconds", last_s))
        return Batch(samples=tuple(samples))

    def close(self) -> None:
        """Nothing is held open."""
