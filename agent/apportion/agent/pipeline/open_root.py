"""A root span that runs, as its open slot shows it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from apportion.core.category import SpanKind

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class OpenRoot:
    """A root span that has not ended. Node time; 0 where not said, `step` -1.

    `seen_ns` is when it was last seen open. `applied_*` is what it claimed when its devices were
    last settled (equal: nothing yet).
    """

    number: int
    kind: SpanKind
    entity: int
    start_ns: int
    scheduled_ns: int
    first_token_ns: int
    seen_ns: int
    step: int
    told_later: bool = False
    """Its admission is told with its end: perhaps it runs already."""
    held: bool = False
    """Its devices are settled for some of its time: without its tokens, by its presence."""
    applied_start_ns: int = 0
    applied_end_ns: int = 0

    def claim(self, *, admits: bool) -> tuple[int, int]:
        """From when to when it competes; empty while it only waits for admission."""
        start_ns = self.start_ns
        if self.kind is SpanKind.REQUEST:
            if self.scheduled_ns:
                start_ns = self.scheduled_ns
            elif admits and not self.first_token_ns:
                start_ns = self.seen_ns
        return min(start_ns, self.seen_ns), self.seen_ns

    @property
    def waits_since_ns(self) -> int:
        """From when on it may turn out to have run; an admission so far is a guess then."""
        return self.start_ns if self.told_later else self.claim(admits=True)[0]

    def go_on(self, seen: OpenRoot) -> None:
        """Take what a later look at the slot showed."""
        self.entity, self.told_later = seen.entity, seen.told_later
        self.scheduled_ns = seen.scheduled_ns
        self.first_token_ns = seen.first_token_ns
        self.seen_ns = max(self.seen_ns, seen.seen_ns)

    def to_json(self) -> dict[str, int]:
        """For the ledger: a restart has to know what ran, and what that was settled with."""
        return {name: int(getattr(self, name)) for name in _KEPT}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> OpenRoot:
        """The inverse of `to_json`."""
        said: dict[str, Any] = {**document, "kind": SpanKind(document["kind"])}
        root = cls(**said)
        root.held, root.told_later = bool(root.held), bool(root.told_later)
        return root

    def apply(self, *, admits: bool) -> None:
        """Its devices are settled with what it claims now."""
        self.applied_start_ns, self.applied_end_ns = self.claim(admits=admits)


_KEPT: Final = tuple(
    field.name for field in fields(OpenRoot) if not field.name.startswith("applied_")
)
