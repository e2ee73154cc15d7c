"""The rings of pods that share nothing with the agent but the node: each pod has its own volume.

A pod mounts an `emptyDir {medium: Memory}` called `apportion-rings`; the kubelet makes it under its
own directory, where an agent on the node finds it. No pod needs a hostPath, and none sees another's
rings. When a pod is deleted its files go; those that are open stay readable to their end.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from apportion.agent.ingest.aside import RefusedRing
from apportion.agent.ingest.directory import DiedRing, DirectoryPoll, RingDirectory
from apportion.agent.ingest.identity import RingIdentity
from apportion.agent.ingest.refusal import Refusal
from apportion.agent.ingest.ring import Poll
from apportion.agent.ingest.scan import DirectoryState
from apportion.core.clock import Clock
from apportion.core.ids import RingId
from apportion.core.units import NS_PER_SECOND

VOLUME: Final = Path("volumes", "kubernetes.io~empty-dir", "apportion-rings")
"""Below the directory of a pod, as the kubelet lays it out."""
MOST_PODS: Final = 512
_RESCAN_NS: Final = NS_PER_SECOND


class PodDirectories:
    """Polls the agent's own directory and those of pods as if they were one.

    A ring belongs to the directory in which it was seen first; one of the same id elsewhere is not
    followed. Like `RingDirectory`, it is polled and reaped by one thread and never raises for what
    it finds.
    """

    def __init__(
        self,
        own: RingDirectory,
        pods: Path,
        clock: Clock,
        make: Callable[[Path, RingDirectory], RingDirectory],
    ) -> None:
        """Look for volumes below `pods`; `make` follows one, given the agent's own directory."""
        self._own, self._pods, self._clock, self._make = own, pods, clock, make
        self._directories: dict[Path, RingDirectory] = {}
        self._owners: dict[RingId, RingDirectory] = {}
        self._retired: Counter[Refusal] = Counter()
        self._looked_ns: int | None = None
        self._problem = ""
        self._unlisted = 0

    @property
    def paths(self) -> tuple[Path, ...]:
        """The pods' directories that are there now."""
        return tuple(
            path for path, each in self._directories.items() if each.state is DirectoryState.READY
        )

    @property
    def refused(self) -> tuple[RefusedRing, ...]:
        """Everything in all directories that is not read now, and why."""
        return tuple(ring for each in self._all() for ring in each.refused)

    def poll(self) -> DirectoryPoll:
        """Look for pods, and at every ring of every directory, once."""
        now_ns = self._clock.monotonic_ns()
        if self._looked_ns is None or now_ns - self._looked_ns >= _RESCAN_NS:
            self._looked_ns = now_ns
            self._find()
        polls: dict[RingId, Poll] = {}
        attached: list[RingIdentity] = []
        died: list[DiedRing] = []
        refused: list[RefusedRing] = []
        total = Counter(self._retired)
        waiting = unlisted = 0
        found_by = [(each, each.poll()) for each in self._all()]
        own = found_by[0][1]
        for each, found in found_by:
            polls |= {
                ring: poll
                for ring, poll in found.polls.items()
                if self._owners.setdefault(ring, each) is each
            }
            attached += (new for new in found.attached if self._owners.get(new.ring) is each)
            died += (dead for dead in found.died if self._owners.get(dead.ring) is each)
            refused += found.refused
            total.update(found.refused_total)
            waiting += found.waiting
            unlisted += found.unlisted
        self._retire()
        return DirectoryPoll(
            state=own.state,
            reason=own.reason or self._problem,
            polls=MappingProxyType(polls),
            attached=tuple(attached),
            died=tuple(died),
            refused=tuple(refused),
            refused_total=MappingProxyType(dict(total)),
            waiting=waiting,
            unlisted=unlisted + self._unlisted,
        )

    def reap(self, rings: Iterable[RingId]) -> None:
        """Forget finished rings whose positions are committed, as `RingDirectory.reap` does."""
        for ring in rings:
            owner = self._owners.pop(ring, None)
            if owner is not None:
                owner.reap([ring])

    def close(self) -> None:
        """Give all files back."""
        for each in self._all():
            each.close()

    def _all(self) -> list[RingDirectory]:
        return [self._own, *self._directories.values()]

    def _find(self) -> None:
        """Follow volumes that are new."""
        try:
            with os.scandir(self._pods) as entries:
                pods = sorted(entry.path for entry in entries)
            volumes = [path for pod in pods if (path := Path(pod, VOLUME)).is_dir()]
        except OSError as error:
            self._problem = (
                f"{self._pods}: {error.strerror}; mount the kubelet's directory of pods here, and "
                "let the agent search it, or leave `pods_dir` unset"
            )
            return
        self._problem = ""
        new = [path for path in volumes if path not in self._directories]
        room = max(0, MOST_PODS - len(self._directories))
        self._unlisted = len(new) - len(new[:room])
        for path in new[:room]:
            self._directories[path] = self._make(path, self._own)
        self._share()

    def _retire(self) -> None:
        """Forget directories of pods that are gone, and of which everything was read."""
        for path, each in list(self._directories.items()):
            if each.state is DirectoryState.ABSENT and each.is_idle:
                self._retired.update(each.refused_total)
                each.close()
                del self._directories[path]

    def _share(self) -> None:
        directories = self._all()
        for each in directories:
            each.limit(1 / len(directories))
