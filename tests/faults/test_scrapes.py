"""The judge of scrapes: what a restart or a busy machine explains, and what nothing does."""

from __future__ import annotations

import pytest
from tests.faults.scrapes import SILENT_S, Scrape, Window, seconds_of, unexplained

REFUSED = 'Get "http://127.0.0.1:1/metrics": dial tcp 127.0.0.1:1: connect: connection refused'
LATE = 'Get "http://127.0.0.1:1/metrics": context deadline exceeded'
MALFORMED = 'expected label name, got "INVALID"'
DOWN = [Window(10, 20)]


def every_second(until_s: int, *errors: tuple[int, str]) -> list[Scrape]:
    """Scrapes that went well, but for these."""
    return [Scrape(at_s, dict(errors).get(at_s, "")) for at_s in range(until_s)]


@pytest.mark.parametrize(
    "errors",
    [
        [],
        [(at_s, REFUSED) for at_s in range(10, 21)],
        [(12, LATE), (13, 'Get "http://127.0.0.1:1/metrics": EOF')],
        [(at_s, LATE) for at_s in range(40, 80, 2)],
        [(at_s, LATE) for at_s in range(50)],
    ],
)
def test_what_is_explained(errors: list[tuple[int, str]]) -> None:
    """Nobody answers while it is down; a busy machine makes answers late, however many."""
    assert unexplained(every_second(90, *errors), DOWN) == []


@pytest.mark.parametrize(
    ("at_s", "error"),
    [
        (30, REFUSED),
        (21, REFUSED),
        (15, MALFORMED),
        (30, MALFORMED),
        (30, "server returned HTTP status 500 Internal Server Error"),
        (15, "server returned HTTP status 503 Service Unavailable"),
    ],
)
def test_what_nothing_explains(at_s: int, error: str) -> None:
    """It died by itself, or says what no Prometheus understands, whenever that is."""
    (fault,) = unexplained(every_second(90, (at_s, error)), DOWN)
    assert fault == f"at {at_s:.1f}: {error}"


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("2026-11-26T22:29:45.123456789Z", 1795732185.123456),
        ("2026-11-26T23:29:45.5+01:00", 1795732185.5),
        ("2026-11-26T22:29:45Z", 1795732185),
    ],
)
def test_when_a_scrape_began(text: str, at_s: float) -> None:
    """As Prometheus writes it, which is not as Python reads it."""
    assert seconds_of(text) == at_s


def test_an_agent_that_hangs() -> None:
    """Late is late, but not for ever; and a restart is no excuse for what comes after it."""
    hanging = [(at_s, LATE) for at_s in range(20, 200)]
    faults = unexplained(every_second(200, *hanging), DOWN)
    assert faults[0] == f"at {20 + SILENT_S + 1:.1f}: no answer in time for {SILENT_S + 1:.0f} s"
