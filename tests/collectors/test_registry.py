"""Collectors by name."""

from __future__ import annotations

import pytest

from apportion.collectors.collector import Batch, Collector
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import Registry, built_in
from apportion.core.clock import Clock, ManualClock
from apportion.core.errors import ConfigError


class Quiet:
    """A collector that has nothing to say."""

    name = "quiet"

    def start(self) -> None:
        pass

    def collect(self) -> Batch:
        return Batch()

    def close(self) -> None:
        pass


def make_quiet(options: CollectorOptions, clock: Clock) -> Collector:
    return Quiet()


def make_other(options: CollectorOptions, clock: Clock) -> Collector:
    return Quiet()


def test_duplicate_names_raise_with_both_origins() -> None:
    """The person who copied a file sees which."""
    registry = Registry()
    assert registry.register("quiet", default=False)(make_quiet) is make_quiet
    with pytest.raises(ValueError, match=r"make_quiet and by .*make_other"):
        registry.register("quiet", default=True)(make_other)


def test_registrations_are_listed_by_name() -> None:
    """In an order that does not depend on imports."""
    registry = Registry()
    registry.register("b", default=True)(make_quiet)
    registry.register("a", default=False)(make_other)
    listed = [(each.name, each.default) for each in registry.registrations()]
    assert listed == [("a", False), ("b", True)]


def test_an_unknown_name_lists_the_known() -> None:
    """For a typing error in a configuration."""
    with pytest.raises(ConfigError, match="dcgm, engines, host"):
        built_in().get("nvlm")


def test_built_in_collectors_make_what_they_name() -> None:
    """Each factory's collector has the name under which it is registered."""
    for registration in built_in().registrations():
        collector = registration.factory(CollectorOptions(), ManualClock())
        assert collector.name == registration.name
        collector.close()


def test_sources_beside_the_devices_are_chosen_by_name() -> None:
    """`default` and names add up; a source of devices is not one of them."""
    registry = Registry()
    registry.register("gpus", default=True)(make_quiet)
    registry.register("network", default=True, devices=False)(make_quiet)
    registry.register("engines", default=False, devices=False)(make_quiet)

    def chosen(*wanted: str) -> list[str]:
        return [each.name for each in registry.beside(wanted)]

    assert chosen() == []
    assert chosen("default") == ["network"]
    assert chosen("engines", "default", "network") == ["engines", "network"]
    with pytest.raises(ConfigError, match="'gpus' to run; known are default, engines, network"):
        chosen("gpus")
