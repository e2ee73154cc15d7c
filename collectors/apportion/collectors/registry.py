"""Every collector by name. A source's module registers itself when it is imported."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from apportion.collectors.collector import Collector
from apportion.collectors.options import CollectorOptions
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError
from apportion.core.units import NS_PER_SECOND

Factory = Callable[[CollectorOptions, Clock], Collector]
"""Makes a collector that has not been started."""

DEFAULT: Final = "default"
PERIOD_NS: Final = 5 * NS_PER_SECOND
_MODULES: Final = (
    "apportion.collectors.dcgm",
    "apportion.collectors.engines",
    "apportion.collectors.host",
    "apportion.collectors.kmsg",
    "apportion.collectors.kubernetes",
    "apportion.collectors.nccl",
    "apportion.collectors.network",
    "apportion.collectors.nvml_process",
    "apportion.collectors.otlp",
    "apportion.collectors.sglang",
    "apportion.collectors.slurm",
    "apportion.collectors.system",
)


@dataclass(frozen=True, slots=True)
class Registration:
    """A source under its name; `default` says whether it runs without being asked for.

    One source of `devices` runs at a time, by the configuration's `devices`. The others run
    beside it, called every `period_ns`.
    """

    name: str
    default: bool
    factory: Factory
    devices: bool = True
    period_ns: int = PERIOD_NS


class Registry:
    """Names to registrations. `BUILT_IN` below is the project's; tests make their own."""

    def __init__(self) -> None:
        self._registrations: dict[str, Registration] = {}

    def register(
        self,
        name: str,
        *,
        default: bool,
        devices: bool = True,
        period_ns: int = PERIOD_NS,
    ) -> Callable[[Factory], Factory]:
        """A decorator for a factory function; see `Registration`.

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
            self._registrations[name] = Registration(name, default, factory, devices, period_ns)
            return factory

        return enter

    def registrations(self) -> tuple[Registration, ...]:
        """All of them, by name."""
        return tuple(self._registrations[name] for name in sorted(self._registrations))

    def beside(self, wanted: Sequence[str]) -> tuple[Registration, ...]:
        """The sources that `wanted` names beside the one of devices, by name.

        The word `default` stands for those that run without being asked for.

        Raises:
            ConfigError: a name is unknown, or that of a source of devices.
        """
        others = {each.name: each for each in self.registrations() if not each.devices}
        chosen: set[str] = set()
        for name in wanted:
            if name == DEFAULT:
                chosen.update(each.name for each in others.values() if each.default)
            elif name in others:
                chosen.add(name)
            else:
                known = ", ".join((DEFAULT, *others))
                raise ConfigError(f"there is no {name!r} to run; known are {known}")
        return tuple(others[name] for name in sorted(chosen))

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
