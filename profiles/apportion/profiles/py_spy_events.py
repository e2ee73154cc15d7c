"""py-spy's chrometrace as samples: which thread had which stack, and when.

py-spy writes an event only where a thread's stack is another one than when it was last seen, and
says how many samples it took. What it saw in between is made up for: samples without a change are
spread over the times without one, by how much CPU the thread used, because a thread that waits is
not sampled and its last stack stands until it is seen again.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, pairwise
from typing import Final

import msgspec

from apportion.core.errors import ProfileTraceError
from apportion.profiles.stacks import StackColumns, Stacks
from apportion.profiles.weight import COUNT

AT: Final = "at"
"""The label with the instant of a sample: nanoseconds of the host's monotonic clock."""
SEEN: Final = "seen"
"""The label with the instant at which its stack was seen: that of a sample before, where it was
made up for."""
THREAD: Final = "thread"
"""The label with the kernel's id of the thread, in the process's own namespace."""
_THREAD: Final = re.compile(r"thread \((\d+)\)")
_PACKAGES: Final = re.compile(r".*/(?:site-packages|dist-packages|python3\.\d+t?)/")
_NS_PER_US: Final = 1_000


class _Args(msgspec.Struct):
    filename: str = ""
    line: int | None = None


class _Event(msgspec.Struct):
    name: str
    ph: str
    tid: int
    ts: int
    args: _Args = msgspec.field(default_factory=_Args)

    @property
    def frame(self) -> str:
        """As py-spy writes it in folded text; of a path what is behind the packages' folder."""
        path = self.args.filename
        if not path:
            return self.name
        packed = _PACKAGES.match(path)
        short = path[packed.end() :] if packed else path.rpartition("/")[2]
        return (
            f"{self.name} ({short}:{self.args.line})"
            if self.args.line
            else (f"{self.name} ({short})")
        )


@dataclass(frozen=True, slots=True)
class _Sighting:
    """A thread was seen with a new stack `at_us`; it was seen with another one `until_us`."""

    thread: str
    stack: tuple[str, ...]
    at_us: int
    until_us: int


@dataclass(frozen=True, slots=True)
class PySpyEvents:
    """What py-spy wrote, in microseconds since it began. written_us: when it wrote."""

    sightings: Sequence[_Sighting]
    written_us: int

    @classmethod
    def read(cls, text: bytes, source: str) -> PySpyEvents:
        """A file's content.

        Raises:
            ProfileTraceError: it is no such file, or an event ends that never began.
        """
        try:
            events = msgspec.json.decode(text, type=list[_Event])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            message = f"is not what py-spy record -f chrometrace writes ({error})"
            raise ProfileTraceError(message, path=source) from error
        threads: dict[int, list[_Event]] = {}
        for event in events:
            if event.ph in {"B", "E"}:
                threads.setdefault(event.tid, []).append(event)
        try:
            found = [one for own in threads.values() for one in _sightings(own)]
        except IndexError as error:
            raise ProfileTraceError("ends a frame that did not begin", path=source) from error
        return cls(found, max((event.ts for event in events), default=0))

    def stacks(
        self, samples: int, begun_ns: int, active: Mapping[str, float] | None = None
    ) -> Stacks:
        """Every sample as a stack of one, in order of threads and time, with the labels above.

        samples: how many py-spy took. begun_ns: its beginning on the monotonic clock.
        active: by thread, which share of the time it ran; unset, all did.
        """
        unseen = self._unseen(samples, active)
        columns = StackColumns()
        instants: list[str | None] = []
        seen: list[str | None] = []
        threads: list[str | None] = []
        for one, more in zip(self.sightings, unseen, strict=True):
            step_us = (one.until_us - one.at_us) / (more + 1)
            for number in range(more + 1):
                columns.add(one.stack, (1,))
                at_us = one.at_us + round(number * step_us)
                instants.append(str(begun_ns + at_us * _NS_PER_US))
                seen.append(str(begun_ns + one.at_us * _NS_PER_US))
                threads.append(one.thread or None)
        found = columns.stacks((COUNT,))
        for key, texts in ((AT, instants), (SEEN, seen), (THREAD, threads)):
            found = found.labelled(key, texts)
        return found

    def _unseen(self, samples: int, active: Mapping[str, float] | None) -> list[int]:
        """For each sighting, how many samples without a change followed it.

        A thread has a stack for as long, in all, as its share of the samples says: what its
        sightings are short of that is what went unseen, the more the longer it stood unchanged.
        """
        if active is None or not any(active.values()):
            active = {one.thread: 1.0 for one in self.sightings}
        # of a thread without an id (Python before 3.11) nobody knows how much it ran
        known = {"": 1.0, **active}
        ran_us = [(one.until_us - one.at_us) * known.get(one.thread, 0.0) for one in self.sightings]
        times = Counter(one.stack for one in self.sightings)
        stack_us: dict[tuple[str, ...], float] = defaultdict(float)
        for one, own_us in zip(self.sightings, ran_us, strict=True):
            stack_us[one.stack] += own_us
        rate = samples / (sum(ran_us) or 1.0)
        missing = [
            own_us * max(0.0, rate - times[one.stack] / stack_us[one.stack]) if own_us else 0.0
            for one, own_us in zip(self.sightings, ran_us, strict=True)
        ]
        return _spread(max(0, samples - len(self.sightings)), missing)


def _sightings(events: Sequence[_Event]) -> Iterator[_Sighting]:
    """Of one thread, in order. All events of a sample have one time."""
    stack: list[str] = []
    changes: list[tuple[int, tuple[str, ...]]] = []
    for at_us, together in groupby(events, key=lambda event: event.ts):
        for event in together:
            if event.ph == "B":
                stack.append(event.frame)
            else:
                stack.pop()
        changes.append((at_us, tuple(stack)))
    for (at_us, frames), (until_us, _) in pairwise(changes):
        if frames:
            thread = _THREAD.match(frames[0])
            yield _Sighting(thread[1] if thread else "", frames, at_us, until_us)


def _spread(count: int, spans: Sequence[float]) -> list[int]:
    """`count` in parts by length, which add up to it."""
    whole = sum(spans)
    if not whole:
        return [0] * len(spans)
    edges = [0, *(int(count * min(1.0, reached / whole)) for reached in accumulate(spans))]
    edges[-1] = count
    return [after - before for before, after in pairwise(edges)]
