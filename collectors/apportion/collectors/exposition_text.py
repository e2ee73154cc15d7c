"""The text of somebody's /metrics, read as it is really written.

Real texts repeat families, leave quotes in label values unescaped, lack HELP and TYPE, and mix the
classic format with OpenMetrics. So a sample is keyed by its raw name, never by a family's, and a
line that cannot be read is counted and left out instead of spoiling the rest.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

MOST_LINES: Final = 500_000
MOST_SAMPLES: Final = 200_000
MOST_MALFORMED: Final = 500
LONGEST_LINE: Final = 8 * 1024
"""Beyond these it is no text of metrics, and reading on would only cost time."""

_NUMBER: Final = r"[+-]?(?:(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[Ii]nf(?:inity)?|[Nn]a[Nn])"
_REST: Final = rf"\s*({_NUMBER})(?:\s+{_NUMBER})?\s*(?:#.*)?"
"""After name and labels: the value, a timestamp, an exemplar."""
_QUOTED: Final = r'"([^"\\]*(?:\\.[^"\\]*)*)"'
_LINE: Final = re.compile(
    rf'([a-zA-Z_:][\w:]*)\s*(?:\{{([^"}}]*(?:{_QUOTED}[^"}}]*)*)\}})?{_REST}', re.ASCII
)
_NAME: Final = re.compile(r"([a-zA-Z_:][\w:]*)\s*", re.ASCII)
_END: Final = re.compile(rf"\}}{_REST}", re.ASCII)
_EXEMPLAR: Final = re.compile(rf"\}}\s*{_NUMBER}(?:\s+{_NUMBER})?\s+#\s*\{{", re.ASCII)
_PAIR: Final = re.compile(rf"\s*([a-zA-Z_]\w*)\s*=\s*{_QUOTED}\s*(?:,|$)", re.ASCII)
_OPENING: Final = re.compile(r'(?:^|,)\s*([a-zA-Z_]\w*)\s*=\s*"', re.ASCII)
_ESCAPE: Final = re.compile(r'\\([\\"n])')
_WHOLE: Final = re.compile(r"[+-]?\d{1,40}", re.ASCII)


class ExpositionError(ValueError):
    """A text that is too long to be somebody's metrics."""


class RawSample(NamedTuple):
    """One line. `value` is an int only where the text is a whole number without a point.

    Many samples share one mapping of `labels`.
    """

    labels: Mapping[str, str]
    value: int | float


@dataclass(slots=True)
class ExpositionText:
    """What a text says.

    `samples` are those that were wanted, by raw name, in the text's order; `names` are the raw
    names of all samples; `types` are what TYPE lines say, by family. `malformed` lines were left
    out, the first of them at line `first_malformed`. `truncated`: the text ends inside a line,
    which is then left out too.
    """

    samples: dict[str, list[RawSample]] = field(default_factory=dict[str, list[RawSample]])
    names: set[str] = field(default_factory=set[str])
    types: dict[str, str] = field(default_factory=dict[str, str])
    malformed: int = 0
    first_malformed: int = 0
    truncated: bool = False


def parse(text: str, wanted: Collection[str] | None = None) -> ExpositionText:
    """Read a text; only samples with `wanted` raw names are kept, all where it is None.

    Raises:
        ExpositionError: it has more lines, samples or malformed lines than any real one.
    """
    found = ExpositionText(truncated=bool(text) and not text.endswith("\n"))
    blocks: dict[str, Mapping[str, str] | None] = {}
    kept = 0
    for number, line in enumerate(_lines(text), 1):
        if number > MOST_LINES:
            raise ExpositionError(f"more than {MOST_LINES} lines: this is not a text of metrics")
        if not line or line.startswith("#"):
            _comment(line, found)
            continue
        name = _NAME.match(line)
        if name is not None and wanted is not None and name[1] not in wanted:
            found.names.add(name[1])
            continue
        sample = None if name is None or len(line) > LONGEST_LINE else _sample(line, blocks)
        if sample is None or name is None:
            found.malformed += 1
            found.first_malformed = found.first_malformed or number
            if found.malformed > MOST_MALFORMED:
                raise ExpositionError(
                    f"more than {MOST_MALFORMED} malformed lines, the first at line "
                    f"{found.first_malformed}: this is not a text of metrics"
                )
            continue
        kept += 1
        if kept > MOST_SAMPLES:
            raise ExpositionError(f"more than {MOST_SAMPLES} samples: too many to keep")
        found.names.add(name[1])
        found.samples.setdefault(name[1], []).append(sample)
    return found


def _lines(text: str) -> Iterator[str]:
    """The lines that end in a line feed, stripped, without a list of them all."""
    begin = 0
    while (end := text.find("\n", begin)) >= 0:
        yield text[begin:end].strip()
        begin = end + 1


def _comment(line: str, found: ExpositionText) -> None:
    words = line.split(None, 3)
    if len(words) == 4 and words[:2] == ["#", "TYPE"]:
        found.types[words[2]] = words[3].strip().lower()


def _sample(line: str, blocks: dict[str, Mapping[str, str] | None]) -> RawSample | None:
    """One line; `blocks` remembers what label texts were read to: most lines share theirs."""
    match = _LINE.fullmatch(line)
    if match is not None:
        block = match[2] or ""
        if block not in blocks:
            blocks[block] = _strict_labels(block)
        labels = blocks[block]
        if labels is not None:
            return RawSample(labels, _value(match[4]))
    return _tolerant(line)


def _strict_labels(block: str) -> Mapping[str, str] | None:
    """Labels as the format wants them; None where they are written otherwise."""
    labels: dict[str, str] = {}
    place = 0
    while place < len(block):
        pair = _PAIR.match(block, place)
        if pair is None:
            return None if block[place:].strip() else labels
        labels[pair[1]] = _unescaped(pair[2])
        place = pair.end()
    return labels


def _tolerant(line: str) -> RawSample | None:
    """A line whose label values hold bare quotes, braces or commas.

    The labels end at the last brace that a value follows, before any exemplar; a label's value
    ends at the last quote before the next `name="`.
    """
    exemplar = _EXEMPLAR.search(line)
    text = line if exemplar is None else line[: exemplar.end()].rpartition("#")[0].rstrip()
    opening, closing = text.find("{"), text.rfind("}")
    rest = _END.fullmatch(text, closing) if 0 <= opening < closing else None
    if rest is None:
        return None
    block = text[opening + 1 : closing]
    starts = list(_OPENING.finditer(block))
    if not starts or block[: starts[0].start()].strip(" ,"):
        return None
    labels: dict[str, str] = {}
    for start, after in zip(
        starts, [*(each.start() for each in starts[1:]), len(block)], strict=True
    ):
        value, quote, tail = block[start.end() : after].rpartition('"')
        if not quote or tail.strip(" ,"):
            return None
        labels[start[1]] = _unescaped(value)
    return RawSample(labels, _value(rest[1]))


def _unescaped(value: str) -> str:
    return _ESCAPE.sub(_character, value) if "\\" in value else value


def _character(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]


def _value(text: str) -> int | float:
    return int(text) if _WHOLE.fullmatch(text) else float(text)
