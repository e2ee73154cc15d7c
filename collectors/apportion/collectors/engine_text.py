"""From an engine's text to samples of the vocabulary, by the table of its engine."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from apportion.collectors.engine_histogram import merged
from apportion.collectors.engine_tables import TABLES, EngineTable, Labels, Source
from apportion.collectors.engine_vocabulary import VOCABULARY, Word
from apportion.collectors.exposition_text import ExpositionText, RawSample
from apportion.core.errors import SourceLost
from apportion.core.family import PARTS
from apportion.core.sample import Sample

MOST_MODELS: Final = 20
OTHER: Final = "other"
_RATIO: Final = "_ratio"
_ROUNDING: Final = 1e-6
"""By so much a ratio may be above 1."""
_LONGEST_NAME: Final = 128

Pairs = tuple[tuple[str, str], ...]
Rows = Sequence[RawSample]


def _wanted() -> Iterator[str]:
    for table in TABLES:
        for word, sources in table.sources.items():
            for source in sources:
                yield from _raw_names(VOCABULARY[word], source)


def _raw_names(word: Word, source: Source) -> tuple[str, ...]:
    if word.how != "histogram":
        return (source.name,)
    return tuple(f"{source.name}{part}" for part in PARTS)


WANTED: Final = frozenset(_wanted())
"""The raw names that any table has."""


class EngineText:
    """Reads the texts of one target. The first `MOST_MODELS` names of models keep their own rows.

    The rest are added up as `other`, for as long as the process lives: a series never moves.
    """

    def __init__(self, target: str) -> None:
        self._target = target
        self._models: dict[str, str] = {}
        self._refused = 0

    def samples(self, text: ExpositionText) -> list[Sample]:
        """Everything that the text says in the vocabulary, and which of its words were found.

        Raises:
            SourceLost: no table has any of its names.
        """
        tables = [
            table for table in TABLES if any(name.startswith(table.prefixes) for name in text.names)
        ]
        if not tables:
            known = ", ".join(table.engine for table in TABLES)
            raise SourceLost(f"{self._target}: of {len(text.names)} names none is of {known}")
        return [sample for table in tables for sample in self._read(text, table)]

    def _read(self, text: ExpositionText, table: EngineTable) -> Iterator[Sample]:
        place = (("target", self._target), ("engine", table.engine))
        self._refused = 0
        for metric in VOCABULARY:
            name, samples = self._first(text, table, metric, place)
            yield from samples
            labels = (*place, ("metric", metric), *((("source_name", name),) if name else ()))
            yield Sample("engine_metric_matched", int(bool(samples)), labels)
        yield Sample("engine_refused_values", self._refused, place)

    def _first(
        self, text: ExpositionText, table: EngineTable, metric: str, place: Pairs
    ) -> tuple[str, list[Sample]]:
        """The first name that has a value, and its samples; else one that is only declared."""
        word = VOCABULARY[metric]
        declared = ""
        for source in table.sources.get(metric, ()):
            samples: list[Sample] = []
            for model, parts in self._by_model(text, table, word, source).items():
                labels = (*place, ("model", model)) if model else place
                samples += self._samples(word, source, parts, (*labels, *word.labels))
            if samples:
                return source.name, samples
            if source.name in text.types:
                declared = declared or source.name
        return declared, []

    def _by_model(
        self, text: ExpositionText, table: EngineTable, word: Word, source: Source
    ) -> Mapping[str, tuple[list[RawSample], ...]]:
        """The rows that count, by model and then by raw name."""
        names = _raw_names(word, source)
        found: dict[str, tuple[list[RawSample], ...]] = {}
        for part, name in enumerate(names):
            for row in text.samples.get(name, ()):
                if _counts(row.labels, source):
                    model = self._model(row.labels.get(table.model_label, ""))
                    parts = found.setdefault(model, tuple([] for _ in names))
                    parts[part].append(row)
        return found

    def _samples(
        self, word: Word, source: Source, parts: tuple[Rows, ...], labels: Pairs
    ) -> Iterator[Sample]:
        if word.how == "histogram":
            yield from _histogram(word, source, parts, labels)
            return
        told = [row.value * source.scale for row in parts[0]]
        values = [value for value in told if _can_be(value, word)]
        self._refused += len(told) - len(values)
        if values:
            value = max(values) if word.how == "largest" else sum(values)
            yield Sample(word.family, value, labels)

    def _model(self, name: str) -> str:
        if name not in self._models:
            if len(self._models) >= MOST_MODELS:
                return OTHER
            self._models[name] = "".join(
                letter if letter.isprintable() else "?" for letter in name[:_LONGEST_NAME]
            )
        return self._models[name]


def _histogram(
    word: Word, source: Source, parts: tuple[Rows, ...], labels: Pairs
) -> Iterator[Sample]:
    buckets, sums, counts = parts
    histogram = merged(buckets, sums, counts, source.scale)
    if histogram is not None:
        for bound, count in histogram.buckets:
            le = "+Inf" if math.isinf(bound) else repr(bound)
            yield Sample(f"{word.family}_bucket", count, (*labels, ("le", le)))
        yield Sample(f"{word.family}_sum", histogram.sum, labels)
        yield Sample(f"{word.family}_count", histogram.count, labels)


def _can_be(value: float, word: Word) -> bool:
    """Is it a number that the family may have?"""
    most = 1 + _ROUNDING if word.family.endswith(_RATIO) else math.inf
    return 0 <= value <= most and math.isfinite(value)


def _counts(labels: Mapping[str, str], source: Source) -> bool:
    return _has_all(labels, source.only) and not any(
        labels.get(label) in values for label, values in source.but.items()
    )


def _has_all(labels: Mapping[str, str], only: Labels) -> bool:
    return all(labels.get(label) in values for label, values in only.items())
