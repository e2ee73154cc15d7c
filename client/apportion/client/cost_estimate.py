"""What an answer is likely to cost, by what tokens of its workload cost lately.

The agent writes that beside the rings, every 15 seconds. It is read as seldom, and only by who asks
for estimates. Where it is missing, old, or says nothing of the model, there is no estimate.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from time import monotonic_ns
from typing import Any, Final, cast

from apportion.client.layout import COSTS_FILE
from apportion.client.session import session

PERIOD_NS: Final = 15_000_000_000
OLDEST_NS: Final = 60_000_000_000
_MOST_BYTES: Final = 1 << 16
_DIGITS: Final = 12


class CostEstimates:
    """The costs of this process's workload, looked up at most every `PERIOD_NS`."""

    def __init__(self, clock: Callable[[], int] = monotonic_ns) -> None:
        self._clock = clock
        self._due_ns = 0
        self._said: dict[str, Any] = {}

    def estimate(self, model: str | None, tokens: int) -> str | None:
        """An amount and its currency, such as `0.000173 USD`; None where it cannot be told."""
        now_ns = self._clock()
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + PERIOD_NS
            self._said = _read()
        try:
            said_ns, currency = self._said["monotonic_ns"], self._said["currency"]
            per_token = self._said["per_token"][session.workload][model or ""]
            if not 0 <= now_ns - said_ns <= OLDEST_NS or not _is_code(currency):
                return None
            amount = float(per_token) * tokens
        except (KeyError, TypeError, ValueError):
            return None
        if not math.isfinite(amount) or amount < 0:
            return None
        whole, _, part = f"{amount:.{_DIGITS}f}".partition(".")
        return f"{whole}.{part.rstrip('0') or '0'} {currency}"


def _is_code(currency: object) -> bool:
    return (
        isinstance(currency, str)
        and len(currency) == 3
        and currency.isascii()
        and currency.isalpha()
    )


def _read() -> dict[str, Any]:
    ring = session.ring
    if ring is None:
        return {}
    path = f"{ring.path.rpartition('/')[0]}/{COSTS_FILE}"
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        found: Any = json.loads(os.read(fd, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(fd)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
