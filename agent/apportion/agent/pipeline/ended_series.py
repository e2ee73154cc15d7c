"""Series end with what they are about, and a counter says so.

A workload or run ends when no process of it has a ring and nothing of it has changed for an hour; a
workload's series in a pod end when that holds no device, too. The places of its labels are free
then; should it come back, its counters begin at 0. The ledger keeps it.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from apportion.agent.metrics.labels import OTHER
from apportion.core.units import NS_PER_HOUR, NS_PER_MINUTE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from apportion.agent.metrics.labels import LabelFolder
    from apportion.agent.pipeline.totals import Totals, Who
    from apportion.agent.snapshot import DeviceState
    from apportion.core.allocation import Pod
    from apportion.core.sample import Sample

ENDED_NS: Final = NS_PER_HOUR
LOOK_NS: Final = NS_PER_MINUTE
LEFT_NS: Final = 10 * NS_PER_MINUTE
"""So long the series of a value are still shown that has lost its place: all have scraped them."""
FINISHED, GONE, REPLACED = "finished", "gone", "replaced"
"""A workload or run that is over; what its source tells nothing of any more; a name that lost its
place to one that spends more."""

_Shown = tuple[str, tuple[tuple[str, str], ...]]


class EndedSeries:
    """Looks for them. One writer: the settlement thread."""

    def __init__(self, totals: Totals, folder: LabelFolder) -> None:
        self._totals, self._folder = totals, folder
        self._looked_ns: int | None = None
        self._watched_ns = 0
        """Time that was looked at: a stopped ledger stops it, too."""
        self._still: dict[Who, tuple[int, int]] = {}
        """By whom: the sum of their counters, and the watched time since which it is that."""
        self._shown: set[_Shown] = set()
        self._left: dict[tuple[str, str], int] = {}
        """Labels and values that have lost their places, and when, in watched time."""
        self.counts: Counter[str] = Counter({FINISHED: 0, GONE: 0, REPLACED: 0})
        """Series that ended, by why."""

    def look(self, now_ns: int, live: Collection[Who], pods: Collection[Pod] = ()) -> None:
        """Once a minute, after a commit: end what is over.

        `live` have a process with a ring; `pods` hold devices.
        """
        if self._looked_ns is not None and now_ns - self._looked_ns < LOOK_NS:
            return
        if self._looked_ns is not None:
            self._watched_ns += min(now_ns - self._looked_ns, 2 * LOOK_NS)
        self._looked_ns = now_ns
        still: dict[Who, tuple[int, int]] = {}
        for who, progress in self._totals.progress().items():
            before, since_ns = self._still.get(who, (None, 0))
            still[who] = (progress, since_ns if before == progress else self._watched_ns)
        ended = {
            who
            for who, (_, since_ns) in still.items()
            if (who.workload or who.pod)
            and OTHER not in who
            and not (who._replace(pod=None) in live and (who.pod is None or who.pod in pods))
            and self._watched_ns - since_ns >= ENDED_NS
        }
        self._still = {who: known for who, known in still.items() if who not in ended}
        if ended:
            series = self._totals.end(ended)
            self.counts[FINISHED] += series
            self._folder.budget.give_back(series)
        left = {each for each, since in self._left.items() if self._watched_ns - since >= LEFT_NS}
        if left:
            self._left = {each: since for each, since in self._left.items() if each not in left}
            series = self._totals.end_values(left)
            self.counts[REPLACED] += series
            self._folder.budget.give_back(series)
        if self._watched_ns >= ENDED_NS:
            # Names that nobody uses: of what has ended, and reserved ones that never came.
            shown = self._totals.shown()
            for who in live:
                shown["workload"].add(who.workload)
                shown["run"].add(who.run)
            shown["pod"].update("/".join(pod) for pod in pods)
            self._folder.keep_only(shown)

    def replaced(self, values: Iterable[tuple[str, str]]) -> None:
        """These values of labels have lost their places: nothing is added to their series."""
        self._left.update((each, self._watched_ns) for each in values)

    def told(self, samples: Iterable[Sample], devices: Iterable[DeviceState]) -> None:
        """What sources tell at present; what they told the last time and not now has ended."""
        shown: set[_Shown] = {(sample.name, sample.labels) for sample in samples}
        for state in devices:
            if state.reading is not None:
                device = ("device", state.info.device)
                shown.update(
                    (sample.name, (device, *sample.labels)) for sample in state.reading.samples
                )
        self.counts[GONE] += len(self._shown - shown)
        self._shown = shown
