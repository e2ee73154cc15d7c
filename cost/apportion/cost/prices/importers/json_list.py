"""Price lists in JSON, as strictly as the others are read."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, NoReturn

from apportion.core.errors import PriceTableError
from apportion.cost.document import shortened

if TYPE_CHECKING:
    from pathlib import Path


def read_json(text: str, path: Path) -> object:
    """What `text` holds; numbers with a point or an exponent are Decimal, as they are written.

    Raises:
        PriceTableError: it is not JSON, with the line, or nested beyond reason.
    """
    try:
        return json.loads(
            text, parse_float=Decimal, parse_constant=_no_number, object_pairs_hook=_each_key_once
        )
    except json.JSONDecodeError as failure:
        raise PriceTableError(
            f"is not JSON: {failure.msg}", path=path, line=failure.lineno
        ) from failure
    except (ValueError, ArithmeticError, RecursionError) as failure:
        reason = str(failure) if isinstance(failure, _NoListError) else "nested or long numbers"
        raise PriceTableError(f"is no price list: {reason}", path=path) from failure


class _NoListError(ValueError):
    """JSON that no price list has."""


def _no_number(word: str) -> NoReturn:
    raise _NoListError(f"{word} is no number")


def _each_key_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise _NoListError(f"the key {shortened(twice)!r} is there twice in one object")
    return found
