"""Values of the configuration as a file, a variable or a flag gives them, and what they become."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_settings import NoDecode

from apportion.agent.duration import Duration
from apportion.collectors.registry import built_in
from apportion.core.errors import ConfigError, LedgerError
from apportion.cost.ledger.engine import is_postgres, ledger_url

HOST_PORT: Final = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s\[\]:/]+)):(\d{1,5})", re.ASCII)


def listed(value: object) -> object:
    """`a,b` and an empty text, as an environment variable or a flag gives a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


def by_name(value: object) -> object:
    """`a=b,c=d`, as an environment variable or a flag gives a mapping."""
    if not isinstance(value, str):
        return value
    pairs = [part.strip().partition("=") for part in value.split(",") if part.strip()]
    if not all(name.strip() and text.strip() for name, _, text in pairs):
        raise ValueError("give pairs such as my-model=/models/my-model/config.json, with commas")
    return {name.strip(): text.strip() for name, _, text in pairs}


def checked_collectors(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of collectors that run beside the devices."""
    try:
        built_in().beside(names)
    except ConfigError as refusal:
        raise ValueError(str(refusal)) from None
    return names


def checked_address(value: object) -> object:
    """A host and a port."""
    if isinstance(value, str):
        match = HOST_PORT.fullmatch(value.strip())
        if match is None or int(match[3]) > 65_535:
            raise ValueError("give a host and a port such as 127.0.0.1:9477 or [::1]:9477")
        return value.strip()
    return value


def checked_postgres(value: object) -> object:
    """The URL of a PostgreSQL; an empty text is none."""
    if isinstance(value, str) and value:
        try:
            right = is_postgres(ledger_url(value))
        except LedgerError:
            right = False
        if not right:
            raise ValueError("give the URL of a PostgreSQL: postgresql://USER@HOST/DATABASE")
    return value or None


Period = Annotated[
    Duration, NoDecode, BeforeValidator(Duration.parse), PlainSerializer(str, return_type=str)
]
OptionalPeriod = Annotated[
    Duration | None,
    NoDecode,
    BeforeValidator(lambda value: None if value is None else Duration.parse(value)),
    PlainSerializer(lambda value: None if value is None else str(value)),
]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]
Collectors = Annotated[Words, AfterValidator(checked_collectors)]
Paths = Annotated[tuple[Path, ...], NoDecode, BeforeValidator(listed)]
ByName = Annotated[dict[str, str], NoDecode, BeforeValidator(by_name)]
Numbers = Annotated[tuple[Annotated[int, Field(ge=0)], ...], NoDecode, BeforeValidator(listed)]
