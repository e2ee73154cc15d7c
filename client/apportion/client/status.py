"""How spans end, as bits of a record's `packed`."""

from __future__ import annotations

import sys
from typing import Final

from apportion.client.counting import count
from apportion.client.layout import STATUS_SHIFT, STATUSES

OK: Final = STATUSES["ok"] << STATUS_SHIFT
ERROR: Final = STATUSES["error"] << STATUS_SHIFT
CANCELLED: Final = STATUSES["cancelled"] << STATUS_SHIFT
_SAID: Final = {"ok": OK, "error": ERROR, "cancelled": CANCELLED}


def status_named(name: object) -> int:
    """What a caller may say; anything else is an error and counted. `lost` is the agent's word."""
    bits = _SAID.get(name) if isinstance(name, str) else None
    if bits is None:
        count("status_unknown")
        return ERROR
    return bits


def status_of(kind: type[BaseException]) -> int:
    """Of a `with` block that raised: cancelled for a cancelled task or a closed generator."""
    if issubclass(kind, GeneratorExit):
        return CANCELLED
    # Only who imported asyncio can have cancelled a task: it is not imported here.
    asyncio = sys.modules.get("asyncio.exceptions")
    if asyncio is not None and issubclass(kind, asyncio.CancelledError):
        return CANCELLED
    return ERROR
