"""Every collector by name. A source's module registers itself when it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from apportion.collectors.collector import Collector
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError

Factory = Callable[[CollectorOptions, Clock], Collector]
"""Makes a collector that has not been started."""

_MODULES: Final = (
    "apportion.collectors.host",
    "apportion.collectors.nvml_process",
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A source under its name; `default` says whether it runs without being asked for."""

    name: str
    default: bool
    factory: Factory


class Registry:
    """Names to registrations. `BUILT_IN` below is the project's; tests make their own."""

    def __init__(self) -> None:
        self._registrations: dict[str, Registration] = {}

    def register(self, name: str, *, default: bool) -> Callable[[Factory], Factory]:
        """A decorator for a factory function.

        Raises:
            ValueError: the name is taken; both factories are named.
        """

        def enter(factory: Factory) -> Factory:
            taken = self._registrations.get(name)
            if taken is not None:
                raise ValueError(
                    f"collector {name!r} is registered twice: by {_origin(taken.factory)} "
                    f"and by {_origin(factory)}"
                )
            self._registrations[name] = Registration(name, default, factory)
            return factory

        return enter

    def registrations(self) -> tuple[Registration, ...]:
        """All of them, by name."""
        return tuple(self._registrations[name] for name in sorted(self._registrations))

    def get(self, name: str) -> Registration:
        """The registration of `name`.

        Raises:
            ConfigError: there is none; the known names are listed.
        """
        try:
            return self._registrations[name]
        except KeyError:
            known = ", ".join(sorted(self._registrations))
            raise ConfigError(f"there is no collector {name!r}; known are {known}") from None


BUILT_IN: Final = Registry()
"""Where this package's own sources register; `built_in` imports them first."""


def built_in() -> Registry:
    """The project's registry with every source in it."""
    for module in _MODULES:
        importlib.import_module(module)
    return BUILT_IN


def _origin(factory: Factory) -> str:
    """Where a factory was defined, for the message about a name that is taken."""
    return f"{factory.__module__}.{getattr(factory, '__qualname__', repr(factory))}"
