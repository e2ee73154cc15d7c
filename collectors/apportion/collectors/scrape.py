"""One place that is scraped: looked at once for all readers, and left alone while it is down."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.collectors.exposition_text import ExpositionError, ExpositionText, parse
from apportion.collectors.metrics_http import read_text
from apportion.collectors.target import Target
from apportion.core.clock import Clock
from apportion.core.errors import SourceLost
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_SECOND, MonotonicNs, seconds

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_scrape_success",
        "gauge",
        "boolean",
        ("collector", "target"),
        "Whether the last look at a place that is scraped brought what was asked for.",
        "collectors",
    ),
    Family(
        "apportion_scrape_duration_seconds",
        "gauge",
        "seconds",
        ("collector", "target"),
        "How long that look took.",
        "collectors",
    ),
    Family(
        "apportion_scrape_malformed_lines",
        "gauge",
        "lines",
        ("collector", "target"),
        "Lines of that text that could not be read and were left out.",
        "collectors",
    ),
)

DEADLINE_NS: Final = 5 * NS_PER_SECOND
GRACE_NS: Final = NS_PER_SECOND // 2
"""How long after its deadline a look is waited for, so that its own error is heard."""
CACHE_NS: Final = NS_PER_SECOND
FAILURES_TO_OPEN: Final = 3
FIRST_PAUSE_NS: Final = 10 * NS_PER_SECOND
LONGEST_PAUSE_NS: Final = 60 * NS_PER_SECOND
_SAID: Final = 3
"""How many of several errors one sentence tells."""
_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Scraped:
    """What one look brought: a `text`, or the `error` that says why there is none.

    `time_ns` (host monotonic) is the middle of the look.
    """

    text: ExpositionText | None
    error: str | None
    time_ns: MonotonicNs
    duration_ns: int = 0


class Scrape:
    """One target. Any thread may look; only one at a time asks.

    A look that is younger than `cache_ns` answers for the next ones. After three failures the
    target is left alone, for a pause that doubles from `first_pause_ns` to a minute; meanwhile
    the last error stands.
    """

    def __init__(
        self,
        target: Target,
        clock: Clock,
        wanted: Collection[str],
        *,
        deadline_ns: int = DEADLINE_NS,
        cache_ns: int = CACHE_NS,
        first_pause_ns: int = FIRST_PAUSE_NS,
    ) -> None:
        self.target = target
        self._clock = clock
        self._wanted = frozenset(wanted)
        self._deadline_ns = deadline_ns
        self._cache_ns = cache_ns
        self._first_pause_ns = min(first_pause_ns, LONGEST_PAUSE_NS)
        self._pause_ns = self._first_pause_ns
        self._failures = 0
        self._next_ns = 0
        self._asking = threading.Lock()
        self._last: Scraped | None = None

    @property
    def is_open(self) -> bool:
        """Whether the target has failed so often that it is left alone for a while."""
        return self._failures >= FAILURES_TO_OPEN

    def look(self) -> Scraped:
        """What the target says; it never raises, and ends at the deadline."""
        if not self._asking.acquire(blocking=False):
            return self.missed()
        try:
            if self._last is None or self._clock.monotonic_ns() >= self._next_ns:
                self._last = self._ask()
            return self._last
        finally:
            self._asking.release()

    def samples(self, collector: str, scraped: Scraped) -> tuple[Sample, ...]:
        """How a look went, as samples."""
        place = (("collector", collector), ("target", self.target.name))
        text = scraped.text
        health = (
            Sample("scrape_success", int(text is not None), place),
            Sample("scrape_duration_seconds", seconds(scraped.duration_ns), place),
        )
        if text is None:
            return health
        return (*health, Sample("scrape_malformed_lines", text.malformed, place))

    def _ask(self) -> Scraped:
        begun_ns = self._clock.monotonic_ns()
        text, error = None, None
        try:
            text = self._text(begun_ns + self._deadline_ns)
        except SourceLost as lost:
            error = str(lost)
        ended_ns = self._clock.monotonic_ns()
        if error is None:
            self._failures, self._pause_ns = 0, self._first_pause_ns
        else:
            self._failures += 1
        self._next_ns = begun_ns + self._cache_ns
        if self.is_open:
            self._next_ns = ended_ns + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)
        middle_ns = MonotonicNs((begun_ns + ended_ns) // 2)
        return Scraped(text, error, middle_ns, ended_ns - begun_ns)

    def _text(self, deadline_ns: int) -> ExpositionText:
        body = read_text(self.target, self._clock, deadline_ns=deadline_ns)
        try:
            text = parse(body, self._wanted)
        except ExpositionError as error:
            raise SourceLost(f"{self.target.name}: {error}") from error
        if text.truncated:
            raise SourceLost(f"{self.target.name}: the text ends in the middle of a line")
        if not text.names:
            raise SourceLost(f"{self.target.name} answered without any metric")
        return text

    def missed(self) -> Scraped:
        """For who got no answer, because an earlier look is still waiting for one."""
        error = f"{self.target.name} has not answered an earlier look yet"
        return Scraped(None, error, self._clock.monotonic_ns())


class Complaints:
    """Says in the log which targets fail, once each, and when they answer again."""

    def __init__(self, collector: str) -> None:
        self._collector = collector
        self._errors: Mapping[str, str] = {}

    def say(self, errors: Mapping[str, str]) -> None:
        """Some targets failed now: their errors by name, each with the name in it."""
        for target, error in errors.items():
            if self._errors.get(target) != error:
                _LOG.warning("collector %s: %s", self._collector, error)
        for target in self._errors.keys() - errors.keys():
            _LOG.info("collector %s: %s answers again", self._collector, target)
        self._errors = dict(errors)

    def all_of(
        self, errors: Mapping[str, str], samples: Iterable[Sample], kind: str | None = None
    ) -> SourceLost:
        """All targets failed now: the error to raise, which whoever called says.

        `samples` are how each look went.
        """
        self._errors = {}
        sentence = "; ".join(list(errors.values())[:_SAID])
        return SourceLost(sentence, kind=kind, samples=tuple(samples))


def look_at_all(scrapes: Sequence[Scrape], clock: Clock, patience_ns: int) -> list[Scraped]:
    """Look at several targets at once, in their order; none waits for another.

    One that has not answered after `patience_ns`, as when the look-up of its name hangs, is an
    error; no more than one thread ever waits for it.
    """
    answers: dict[int, Scraped] = {}

    def look(index: int) -> None:
        answers[index] = scrapes[index].look()

    threads = [
        threading.Thread(target=look, args=(index,), name=f"scrape-{index}", daemon=True)
        for index in range(len(scrapes))
    ]
    for thread in threads:
        thread.start()
    deadline_ns = clock.monotonic_ns() + patience_ns
    for thread in threads:
        thread.join(max(0, deadline_ns - clock.monotonic_ns()) / NS_PER_SECOND)
    return [answers.get(index) or scrape.missed() for index, scrape in enumerate(scrapes)]
