"""A YAML file whose values know their line, for files that a person writes.

Nothing is built from a tag: a value is text, a whole number, a float, true or false, nothing, a
list or a mapping with text keys. A date stays text. The file's size, depth and number of values
are bounded, and every refusal names the file and the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from apportion.core.errors import ConfigError

MAX_BYTES: Final = 1 << 20
MAX_VALUES: Final = 200_000
MAX_DEPTH: Final = 8
MAX_SHOWN: Final = 60

Scalar = str | int | float | bool | None

_TAG_PREFIX: Final = "tag:yaml.org,2002:"
_AS_TEXT: Final = frozenset({"str", "timestamp"})
_AS_BUILT: Final = frozenset({"int", "float", "bool", "null"})


@dataclass(frozen=True, slots=True)
class Marked:
    """One value and the line (from 1) where it, or its key, stands.

    `text` is a scalar as it was written, without quotes; empty for lists and mappings.
    """

    value: Scalar | tuple[Marked, ...] | Mapping[str, Marked]
    line: int
    text: str = ""

    @property
    def shown(self) -> str:
        """`text` for a message."""
        return shortened(self.text)

    @property
    def plain(self) -> object:
        """The value as Python's own types, without lines."""
        if isinstance(self.value, Mapping):
            return {key: entry.plain for key, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [entry.plain for entry in self.value]
        return self.value

    @property
    def kind(self) -> str:
        """What it is, for a message."""
        if isinstance(self.value, Mapping):
            return "a mapping"
        if isinstance(self.value, tuple):
            return "a list"
        if self.value is None:
            return "nothing"
        names = {bool: "true or false", int: "a number", float: "a float", str: "text"}
        return names[type(self.value)]


def shortened(text: str) -> str:
    """The beginning of `text`, for a message that quotes what somebody wrote."""
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def read_document(
    path: Path, error: type[ConfigError] = ConfigError, *, most_bytes: int = MAX_BYTES
) -> Marked:
    """The one YAML document in the file at `path`, which has `most_bytes` at most.

    Raises:
        ConfigError: (or the subclass `error`) it cannot be read, is too large, or is not one
            YAML document of plain values; with path and, where known, line.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most_bytes + 1)
    except OSError as failure:
        reason = failure.strerror or type(failure).__name__
        raise error(
            f"cannot be read: {reason}. Give the path of a YAML file that this user may read",
            path=path,
        ) from failure
    if len(content) > most_bytes:
        raise error(
            f"is larger than {most_bytes} bytes; this is not a file that it can be", path=path
        )
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as failure:
        line = content.count(b"\n", 0, failure.start) + 1
        raise error("is not UTF-8 text; save it as UTF-8", path=path, line=line) from failure
    return parse_document(text, path, error)


def parse_document(text: str, path: Path, error: type[ConfigError] = ConfigError) -> Marked:
    """The one YAML document in `text`; `path` only names it in errors.

    Raises:
        ConfigError: (or the subclass `error`) as `read_document`.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as failure:
        mark = failure.problem_mark or failure.context_mark
        line = None if mark is None else mark.line + 1
        raise error(
            f"is not YAML: {failure.problem or failure.context}", path=path, line=line
        ) from (failure)
    except yaml.reader.ReaderError as failure:
        line = text.count("\n", 0, failure.position) + 1
        raise error(f"is not YAML: {failure.reason}", path=path, line=line) from failure
    except (yaml.YAMLError, ValueError) as failure:
        first_line = str(failure).partition("\n")[0]
        raise error(f"is not YAML: {first_line}", path=path) from failure
    except RecursionError as failure:
        raise error(f"is nested deeper than {MAX_DEPTH} levels", path=path) from failure
    if node is None:
        return Marked(None, 1)
    return _Builder(path, error).build(node, node.start_mark.line + 1, 0)


class _Builder:
    """Turns YAML nodes into `Marked` values within the bounds."""

    def __init__(self, path: Path, error: type[ConfigError]) -> None:
        self._path = path
        self._error = error
        self._constructor: Any = yaml.constructor.SafeConstructor()
        self._left = MAX_VALUES

    def build(self, node: yaml.Node, line: int, depth: int) -> Marked:
        self._left -= 1
        if self._left < 0:
            raise self._error(f"has more than {MAX_VALUES} values", path=self._path, line=line)
        if depth > MAX_DEPTH:
            raise self._error(
                f"is nested deeper than {MAX_DEPTH} levels", path=self._path, line=line
            )
        if isinstance(node, yaml.MappingNode):
            return Marked(self._mapping(node, depth), line)
        if isinstance(node, yaml.SequenceNode):
            entries = [self.build(entry, _line(entry), depth + 1) for entry in node.value]
            return Marked(tuple(entries), line)
        return Marked(self._scalar(node), line, str(node.value))

    def _mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Marked]:
        entries: dict[str, Marked] = {}
        for key_node, value_node in node.value:
            line = _line(key_node)
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == f"{_TAG_PREFIX}merge":
                raise self._error("a key must be one plain word", path=self._path, line=line)
            key = str(key_node.value)
            if key in entries:
                raise self._error(
                    f"key {key!r} is there twice, first on line {entries[key].line}; keep one",
                    path=self._path,
                    line=line,
                )
            entries[key] = self.build(value_node, line, depth + 1)
        return entries

    def _scalar(self, node: yaml.Node) -> Scalar:
        kind = str(node.tag).removeprefix(_TAG_PREFIX)
        if kind in _AS_TEXT:
            return str(node.value)
        if kind not in _AS_BUILT:
            raise self._error(
                f"the tag {node.tag!r} is not allowed; write a plain value",
                path=self._path,
                line=_line(node),
            )
        try:
            value = self._constructor.construct_object(node)
        except (ValueError, KeyError) as failure:
            raise self._error(
                f"{node.value!r} is not a value of kind {kind}", path=self._path, line=_line(node)
            ) from failure
        if value is None or isinstance(value, str | int | float | bool):
            return value
        raise self._error(f"{node.value!r} is not a plain value", path=self._path, line=_line(node))


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1
