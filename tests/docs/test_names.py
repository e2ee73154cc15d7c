"""One name for one thing: whatever is written `apportion_...` anywhere is in the catalogue."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from alerts.source import load
from tests.promql import declared

PLACES = ("adr", "alerts", "benchmarks", "dashboards", "docs", "examples", "tests")
SUFFIXES = frozenset({".json", ".md", ".prom", ".py", ".txt", ".yaml", ".yml"})
NO_FAMILY = {
    "apportion_million": "a benchmark",
    "apportion_gone": "tests of the check itself",
    "apportion_things": "tests of what the catalogue refuses",
    "apportion_took_seconds": "the same",
    "apportion_undeclared_samples": "prometheus_client's name of a counter, without its suffix",
}
_NAME = re.compile(r"(?<![\w/])apportion_[a-z0-9_]*(?:\$?[{<]currency[}>][a-z0-9_]*)?")
_CURRENCY = re.compile(r"\$?[{<]currency[}>]")


def written(repository: Path) -> Iterator[tuple[Path, str]]:
    """Every name in the places where people and tests write them."""
    pages = [*repository.glob("*.md"), *(repository / place for place in PLACES)]
    for place in pages:
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.suffix in SUFFIXES and path.name != Path(__file__).name:
                for name in set(_NAME.findall(path.read_text(encoding="utf-8"))):
                    yield path.relative_to(repository), _CURRENCY.sub("usd", name)


def known_names() -> set[str]:
    """Families and their samples, and the part of a recorded series' name between its colons."""
    recorded = {record.record.split(":")[1] for record in load().records if ":" in record.record}
    return set(declared("usd")) | set(declared("eur")) | recorded


def is_known(name: str, known: set[str]) -> bool:
    """Is it a name, or the beginning of several (`apportion_cost_`), or listed as neither?"""
    if name.endswith("_"):
        return any(each.startswith(name) for each in known)
    families = {re.sub("_(bucket|sum|count)$", "", each) for each in known}
    no_family = any(name == each or name.startswith(f"{each}_") for each in NO_FAMILY)
    return name in known or name in families or no_family


def test_every_name_is_in_the_catalogue(repository: Path) -> None:
    """A page, a fixture, a dashboard, an alert or a test with an old name fails here, by file."""
    known = known_names()
    found = list(written(repository))
    assert len(found) > 300
    assert {(str(path), name) for path, name in found if not is_known(name, known)} == set()


@pytest.mark.parametrize(
    "name", ["apportion_cost_eur", "apportion_costs_usd_total", "apportion_x_"]
)
def test_a_wrong_name_is_found(name: str) -> None:
    """The check above can fail."""
    assert not is_known(name, known_names())
