"""The `engines` collector: inference servers' own /metrics, in one vocabulary."""

from __future__ import annotations

import os
from dataclasses import replace

from apportion.collectors.collector import Batch
from apportion.collectors.engine_text import WANTED, EngineText
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.collectors.scrape import GRACE_NS, Complaints, Scrape, Scraped, look_at_all
from apportion.collectors.target import parse_targets
from apportion.core.clock import Clock
from apportion.core.errors import NoData, SourceLost
from apportion.core.sample import Sample


class Engines:
    """Scrapes all of `engine_urls` at once. One that fails is a sample; the others go on."""

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        """Raises `ConfigError` where an URL is malformed."""
        variables = os.environ if options.environment is None else options.environment
        self._clock = clock
        self._patience_ns = options.deadline_ns + GRACE_NS
        self._scrapes = [
            Scrape(target, clock, WANTED, deadline_ns=options.deadline_ns)
            for target in parse_targets(options.engine_urls, variables)
        ]
        self._texts = [EngineText(scrape.target.name) for scrape in self._scrapes]
        self._complaints = Complaints(self.name)

    @property
    def name(self) -> str:
        """See `Collector`."""
        return "engines"

    def start(self) -> None:
        """Nothing is held open."""

    def collect(self) -> Batch:
        """What every engine says now, and how each look went.

        Raises:
            NoData: the configuration names no engine.
            SourceLost: none of the engines answered.
        """
        if not self._scrapes:
            raise NoData("no engine is named: set `engine_urls`, or give --engine-url")
        samples: list[Sample] = []
        errors: dict[str, str] = {}
        looks = look_at_all(self._scrapes, self._clock, self._patience_ns)
        for scrape, text, look in zip(self._scrapes, self._texts, looks, strict=True):
            told, scraped = _read(text, look)
            samples += (*scrape.samples(self.name, scraped), *told)
            if scraped.error is not None:
                errors[scrape.target.name] = scraped.error
        if len(errors) == len(self._scrapes):
            raise self._complaints.all_of(errors, samples)
        self._complaints.say(errors)
        return Batch(samples=tuple(samples))

    def close(self) -> None:
        """Nothing is held open."""


def _read(text: EngineText, scraped: Scraped) -> tuple[list[Sample], Scraped]:
    """The samples of a look; a text of something else is a failure, too."""
    if scraped.text is None:
        return [], scraped
    try:
        return text.samples(scraped.text), scraped
    except SourceLost as error:
        return [], replace(scraped, text=None, error=str(error))


@BUILT_IN.register("engines", default=False, devices=False)
def make_engines(options: CollectorOptions, clock: Clock) -> Engines:
    """The collector of engines' /metrics."""
    return Engines(options, clock)
