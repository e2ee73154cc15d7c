"""The token counts in what an OpenAI-compatible server answers, and nothing else of it.

A response says them in an object called `usage`: whole in a JSON body, in the last events of a
stream. Only that object is decoded. The rest of a body is looked through for its key and forgotten:
inside of a JSON string a quotation mark follows a backslash, so a text cannot pretend to be one.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NamedTuple, cast

_KEY: Final = re.compile(rb'[{,\s]"usage"\s*:\s*(?=\{|$)')
_NAME: Final = b'"usage"'
"""Looked for first: a pattern looks at each byte of a stream in turn, which is its whole cost."""
_KEY_BYTES: Final = 32
"""So much of a body's end may be the beginning of a key."""
_OBJECT_BYTES: Final = 4096
"""More than any server says; what is longer is not read."""
_decoder: Final = json.JSONDecoder()


class Usage(NamedTuple):
    """Counts that a server reported; None where it did not. Input includes what was cached."""

    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None


class UsageReader:
    """Finds the counts in a body that comes piece by piece."""

    def __init__(self) -> None:
        self._kept = b""
        self._usage = Usage()

    @property
    def usage(self) -> Usage:
        """What was reported so far; where it is reported again, the later number."""
        return self._usage

    def feed(self, body: bytes) -> None:
        """Look through the next bytes of the body."""
        text = self._kept + body
        self._kept = text[-_KEY_BYTES:]
        place = text.find(_NAME, 1)
        while place > 0:
            key = _KEY.match(text, place - 1)
            place = text.find(_NAME, place + len(_NAME))
            if key is None:
                continue
            told = text[key.end() : key.end() + _OBJECT_BYTES]
            try:
                found, _ = _decoder.raw_decode(told.decode("utf-8", "replace"))
            except (ValueError, RecursionError):
                if len(told) < _OBJECT_BYTES:  # the rest is still to come
                    self._kept = text[key.start() :]
                continue
            self._take(found)

    def _take(self, found: dict[str, Any]) -> None:
        """Names of OpenAI's chat and responses, and of Anthropic's messages."""
        details = _object(found, "prompt_tokens_details") or _object(found, "input_tokens_details")
        cached = _count(details.get("cached_tokens"))
        total = _count(found.get("prompt_tokens", found.get("input_tokens")))
        apart = _count(found.get("cache_read_input_tokens"))
        if apart is not None:  # counted beside the others there
            made = _count(found.get("cache_creation_input_tokens")) or 0
            cached, total = apart, None if total is None else total + apart + made
        told = Usage(
            total, cached, _count(found.get("completion_tokens", found.get("output_tokens")))
        )
        self._usage = Usage._make(
            before if now is None else now for before, now in zip(self._usage, told, strict=True)
        )


def _object(found: dict[str, Any], name: str) -> dict[str, Any]:
    value = found.get(name)
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None
