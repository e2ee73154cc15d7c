"""Budgets as the configuration says them, and the checked ones that are made of it."""

from __future__ import annotations

import json
from datetime import timezone, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer
from pydantic_settings import NoDecode

from apportion.agent.config_values import Words
from apportion.core.errors import ConfigError
from apportion.core.units import units_of
from apportion.cost.budget import Budget
from apportion.cost.spenders import SPENDERS

MOST: Final = 50
"""So many budgets keep their series few."""
LARGEST: Final = 10**15


def _amount(value: object) -> object:
    """A positive decimal number as text, or a whole number; a float is refused."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError('give an amount as text, such as "5000.00"; a float is not exact')  # noqa: TRY004 - pydantic passes on this one
    try:
        amount = Decimal(value)
        # Compared first: of 1e999999999 nobody wants to see all digits.
        if 0 < amount <= LARGEST:
            units_of(amount)
            return str(value)
    except (InvalidOperation, ValueError) as failure:
        raise ValueError(
            'give a decimal number of at most 12 decimals, such as "5000"'
        ) from failure
    raise ValueError(f"give an amount above 0 and up to {LARGEST}")


def _zone_of(name: str) -> tzinfo:
    """UTC is there also where the host has no time zones."""
    return timezone.utc if name == "UTC" else ZoneInfo(name)


def _zone(value: object) -> object:
    try:
        _zone_of(str(value))
    except (KeyError, ValueError, OSError) as failure:
        raise ValueError("no such time zone here; give one as Europe/Berlin, or UTC") from failure
    return value


def listed(value: object) -> object:
    """JSON, as an environment variable or a flag gives a list of mappings."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else []
    except ValueError as failure:
        raise ValueError("give a list of mappings as JSON, or use the file") from failure


class BudgetConfig(BaseModel):
    """One entry of `budgets`. A selector that is not given chooses everything."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[^\s\x00-\x1f\x7f][^\x00-\x1f\x7f]*$", max_length=64)
    amount: Annotated[str, BeforeValidator(_amount)]
    currency: str = Field(pattern=r"^[A-Z]{3}$")
    period: Literal["day", "week", "month"] = "month"
    time_zone: Annotated[str, BeforeValidator(_zone)] = "UTC"
    workload: Words = ()
    run: Words = ()
    tenant: Words = ()
    model: Words = ()


Budgets = Annotated[
    tuple[BudgetConfig, ...],
    NoDecode,
    BeforeValidator(listed),
    PlainSerializer(lambda budgets: [each.model_dump(exclude_defaults=True) for each in budgets]),
]


def made_of(budgets: tuple[BudgetConfig, ...], currency: str | None) -> tuple[Budget, ...]:
    """What the agent keeps an eye on.

    Raises:
        ConfigError: two have one name, or one is in another currency than the price table.
    """
    names = [each.name for each in budgets]
    for each in budgets:
        if names.count(each.name) > 1:
            raise ConfigError(
                f"budgets: two are called {each.name!r}; each needs a name of its own"
            )
        if each.currency != currency:
            theirs = "there is no price table" if currency is None else f"prices are in {currency}"
            raise ConfigError(
                f"budgets: {each.name} is in {each.currency}, but {theirs}; what is spent cannot "
                "be compared with it"
            )
    return tuple(
        Budget(
            each.name,
            units_of(Decimal(each.amount)),
            each.period,
            _zone_of(each.time_zone),
            {by: frozenset(chosen) for by in SPENDERS if (chosen := getattr(each, by))},
        )
        for each in budgets
    )
