"""Letting go of NVML on request: what is asked, what is answered, and what the sampler does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apportion.agent.cli import main
from apportion.agent.cli import release as command
from apportion.agent.pipeline.sampler import Sampler
from apportion.agent.release import LONGEST_NS, REQUEST, Release, Released
from apportion.collectors.collector import Batch
from apportion.collectors.observed import Observed
from apportion.core.clock import ManualClock
from apportion.core.units import NS_PER_SECOND

BOOT = "0" * 32
PERIOD_NS = NS_PER_SECOND


class Source:
    """What may be let go of; it keeps its calls."""

    name = "source"
    undead_pids: tuple[int, ...] = ()

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def collect(self) -> Batch:
        self.calls.append("collect")
        return Batch()

    def close(self) -> None:
        self.calls.append("close")


class Script(ManualClock):
    """A clock whose waits run one act after another, and then stop what waits."""

    def __init__(self, *acts: Callable[[], object] | None) -> None:
        super().__init__(5 * NS_PER_SECOND)
        self.acts: list[Callable[[], object] | None] = list(acts)

    def wait(self, event: threading.Event, timeout_ns: int) -> bool:
        self.advance(max(timeout_ns, 0))
        if not self.acts:
            event.set()
        elif (act := self.acts.pop(0)) is not None:
            act()
        return event.is_set()


def sampler(source: Source, clock: ManualClock, folder: Path) -> Sampler:
    release = Release(folder, clock, BOOT)
    return Sampler(Observed(source, clock), clock, period_ns=PERIOD_NS, release=release)


def test_the_source_is_closed_on_request_and_opened_when_the_time_is_over(tmp_path: Path) -> None:
    """It is asked nothing meanwhile; the answer stands for as long as nobody reads."""
    clock = Script()
    asker, source = Release(tmp_path, clock, BOOT), Source()
    answers: list[Released | None] = []

    def look() -> None:
        answers.append(asker.answer())

    clock.acts = [lambda: asker.ask(2 * PERIOD_NS), look, look, look]
    each = sampler(source, clock, tmp_path)
    each.start()
    each.run(threading.Event())
    assert source.calls == ["start", "collect", "close", "start", "collect", "collect"]
    assert [answer is None for answer in answers] == [False, False, True]
    assert each.status.success


def test_a_longer_request_and_an_early_end(tmp_path: Path) -> None:
    """A second request replaces the first without opening the source; its end opens it at once."""
    clock = Script()
    asker, source = Release(tmp_path, clock, BOOT), Source()
    untils: list[int] = []

    def ask_again() -> None:
        untils.append(asker.ask(50 * PERIOD_NS))

    def check() -> None:
        assert asker.answer() == Released(untils[-1], (77,))
        asker.end()

    source.undead_pids = (77,)
    clock.acts = [lambda: asker.ask(2 * PERIOD_NS), ask_again, None, None, check]
    each = sampler(source, clock, tmp_path)
    each.start()
    each.run(threading.Event())
    assert source.calls == ["start", "collect", "close", "start", "collect"]
    assert asker.answer() is None


def test_a_restarted_agent_keeps_away(tmp_path: Path) -> None:
    """A request outlives the agent, so that its supervisor cannot spoil a reset."""
    clock = Script(None)
    asker, source = Release(tmp_path, clock, BOOT), Source()
    asker.ask(60 * PERIOD_NS)
    each = sampler(source, clock, tmp_path)
    each.start()
    each.run(threading.Event())
    assert "start" not in source.calls
    assert "collect" not in source.calls
    assert each.status.error is not None
    assert "apportion release" in each.status.error


@pytest.mark.parametrize(
    "said",
    [
        {"boot": "f" * 32, "until_ns": 6 * NS_PER_SECOND},
        {"boot": BOOT, "until_ns": 5 * NS_PER_SECOND},
        {"boot": BOOT, "until_ns": 6 * NS_PER_SECOND + LONGEST_NS},
        {"boot": BOOT, "until_ns": True},
        {"boot": BOOT},
        [BOOT],
        {},
    ],
)
def test_what_asks_for_nothing(tmp_path: Path, said: object) -> None:
    """Another boot, a past time, a time too long and nonsense do not stop the meter."""
    (tmp_path / REQUEST).write_text(json.dumps(said))
    assert Release(tmp_path, ManualClock(5 * NS_PER_SECOND), BOOT).until_ns() is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_can_be_read(tmp_path: Path, data: bytes) -> None:
    """A damaged request is none."""
    (tmp_path / REQUEST).write_bytes(data)
    assert Release(tmp_path, ManualClock(), BOOT).until_ns() is None


def test_a_state_directory_that_is_gone_does_not_stop_the_agent(tmp_path: Path) -> None:
    """The agent's side never raises: what cannot be said is not heard."""
    release = Release(tmp_path / "none", ManualClock(), BOOT)
    release.let_go(1, ())
    release.go_on()
    assert release.until_ns() is None


def run(folder: Path, *arguments: str) -> int:
    return main(["release", "--state-dir", str(folder), *arguments])


def test_the_command_says_that_nobody_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And leaves no request behind for an agent that starts later."""
    monkeypatch.setattr(command, "PATIENCE_NS", 1)
    assert run(tmp_path) == 1
    assert "no agent that reads NVML has answered" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_agent_makes_the_place_for_requests(tmp_path: Path) -> None:
    """Its ledger may be elsewhere, so that nothing else has made it; where it cannot it goes on."""
    release = Release(tmp_path / "var" / "state", ManualClock(), BOOT)
    release.prepare()
    release.prepare()
    assert release.ask(PERIOD_NS) == release.until_ns()
    (tmp_path / "file").touch()
    Release(tmp_path / "file" / "state", ManualClock(), BOOT).prepare()


def test_the_command_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Times that are none or too long, and a directory that is not there."""
    assert run(tmp_path, "--for", "25h") == 2
    assert run(tmp_path, "--for", "0s") == 2
    assert run(tmp_path, "--for", "1ms") == 2
    assert "1ms: give from 1s to 24h" in capsys.readouterr().err
    assert run(tmp_path, "--for", "soon") == 2
    assert run(tmp_path / "none") == 2
    assert "none is not there: no agent has run with this state_dir" in capsys.readouterr().err
    assert run(tmp_path, "--end") == 0
    assert capsys.readouterr().out == "nothing was let go\n"
