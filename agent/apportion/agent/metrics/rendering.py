"""The text of /metrics: rendered once for each snapshot, format and encoding, then handed out."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass
from typing import Final

from prometheus_client.exposition import choose_encoder

from apportion.agent.metrics.exposition import Exposition
from apportion.agent.snapshot import SnapshotBoard

_GZIP_LEVEL: Final = 1
"""A scrape crosses one host or one rack: the processor is dearer than the bytes."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A body and the headers that belong to it."""

    body: bytes
    content_type: str
    gzipped: bool

    @property
    def headers(self) -> dict[str, str]:
        """Content-Encoding where it is compressed, and what the choice depended on."""
        vary = {"Vary": "Accept, Accept-Encoding"}
        return {**vary, "Content-Encoding": "gzip"} if self.gzipped else vary


class MetricsText:
    """Renders the latest snapshot as often as it changes, not as often as it is scraped."""

    def __init__(self, board: SnapshotBoard, exposition: Exposition) -> None:
        self._board = board
        self._exposition = exposition
        self._lock = threading.Lock()
        self._generation = -1
        self._cache: dict[tuple[str, bool], Rendered] = {}

    def cached(self, accept: str, accept_encoding: str) -> Rendered | None:
        """The text, if it is made already. Never blocks."""
        generation, cache = self._generation, self._cache
        if generation != self._board.published[0]:
            return None
        _, content_type = choose_encoder(accept)
        return cache.get((content_type, accepts_gzip(accept_encoding)))

    def render(self, accept: str, accept_encoding: str) -> Rendered:
        """The text in the format that `accept` prefers. It takes a while: call it in a thread."""
        with self._lock:
            ready = self.cached(accept, accept_encoding)
            if ready is not None:
                return ready
            generation, _ = self._board.published
            if generation != self._generation:
                # a new dict, not a cleared one: `cached` reads without the lock
                self._cache = {}
                self._generation = generation
            encoder, content_type = choose_encoder(accept)
            plain = self._cache.get((content_type, False))
            if plain is None:
                body = encoder(self._exposition.registry)
                plain = Rendered(body, content_type, gzipped=False)
                self._cache[content_type, False] = plain
            if not accepts_gzip(accept_encoding):
                return plain
            packed = gzip.compress(plain.body, _GZIP_LEVEL, mtime=0)
            rendered = Rendered(packed, content_type, gzipped=True)
            self._cache[content_type, True] = rendered
            return rendered


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header allows gzip (`gzip;q=0` does not)."""
    for offer in accept_encoding.split(","):
        coding, _, parameters = offer.partition(";")
        if coding.strip().lower() == "gzip":
            quality = parameters.strip().lower().replace(" ", "")
            return quality not in {"q=0", "q=0.0", "q=0.00", "q=0.000"}
    return False
