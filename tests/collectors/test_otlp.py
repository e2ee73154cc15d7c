"""The OTLP door as the agent runs it: real processes, and broken ones."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.doors.exported import exported

from apportion.client import layout
from apportion.collectors.collector import Batch
from apportion.collectors.options import CollectorOptions
from apportion.collectors.otlp import Otlp
from apportion.core.clock import ManualClock, SystemClock
from apportion.core.errors import CollectorError, NoData, NotYet
from apportion.core.units import NS_PER_SECOND

HEADERS = {"Content-Type": "application/x-protobuf"}


def until(look: Callable[[], object], what: str) -> None:
    """Wait until something holds, at most a minute."""
    deadline = time.monotonic() + 60
    while not look():
        assert time.monotonic() < deadline, f"never came: {what}"
        time.sleep(0.05)


def refusal(door: Otlp) -> str:
    """What the door's end is called."""
    said: list[str] = []

    def has_ended() -> bool:
        try:
            door.collect()
        except CollectorError as error:
            said.append(str(error))
        return bool(said) and "has not said yet" not in said[-1]

    until(has_ended, "its end is noticed")
    return said[-1]


def has_news(door: Otlp) -> bool:
    """Whether the door listens by now."""
    with suppress(CollectorError):
        return bool(counts(door.collect()))
    return False


def counts(batch: Batch) -> dict[str, float]:
    return {sample.labels[0][1]: sample.value for sample in batch.samples or ()}


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Otlp]:
    options = CollectorOptions(ring_dir=tmp_path, otlp_http="127.0.0.1:0", otlp_grpc="127.0.0.1:0")
    made = Otlp(options, SystemClock())
    yield made
    made.close()


def test_its_life(door: Otlp, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It listens, takes requests and says how many; killed, it comes back and no count goes back.

    At its end its rings say that their writer has ended.
    """
    caplog.set_level("INFO")
    door.start()
    until(lambda: has_news(door) and "OTLP door: grpc on" in caplog.text, "it listens")
    body = exported(3).SerializeToString()

    def address() -> str:
        return caplog.text.rpartition("http on ")[2].split()[0]

    url = f"http://{address()}/v1/traces"
    assert httpx.post(url, content=body, headers=HEADERS, trust_env=False).status_code == 200
    until(lambda: counts(door.collect())["accepted"] == 3, "the count")
    assert 1 == len(list(tmp_path.glob(f"*{layout.FILE_SUFFIX}")))

    assert door.pid is not None
    os.kill(door.pid, signal.SIGKILL)
    caplog.clear()

    assert "was killed by SIGKILL" in refusal(door)
    with pytest.raises(CollectorError, match="started again soon"):
        door.collect()

    def listens_again() -> bool:
        try:
            return counts(door.collect())["accepted"] == 3 and "http on" in caplog.text
        except CollectorError:
            return False

    until(listens_again, "it is back")
    url = f"http://{address()}/v1/traces"
    assert httpx.post(url, content=body, headers=HEADERS, trust_env=False).status_code == 200
    until(lambda: counts(door.collect())["accepted"] == 6, "both doors' count")
    door.close()
    closed = layout.HEADER_OFFSETS["closed_ns"]
    ends = [
        int.from_bytes(path.read_bytes()[closed : closed + 8], sys.byteorder)
        for path in tmp_path.glob(f"*{layout.FILE_SUFFIX}")
    ]
    assert [False, True] == sorted(end > 0 for end in ends)


def test_without_an_address(tmp_path: Path) -> None:
    """Nobody has asked for it."""
    with pytest.raises(NoData, match="set `otlp_http` or `otlp_grpc`"):
        Otlp(CollectorOptions(ring_dir=tmp_path), ManualClock(1)).start()


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    """What the door says on its standard error is in the sentence; the next start waits."""
    clock = ManualClock(NS_PER_SECOND)
    options = CollectorOptions(ring_dir=tmp_path / "missing", otlp_http="127.0.0.1:0")
    broken = Otlp(options, clock)
    broken.start()
    said = refusal(broken)
    assert "exited with status 2" in said
    assert "start the agent first" in said
    with pytest.raises(CollectorError, match="started again soon"):
        broken.collect()
    broken.close()


def test_nonsense_is_left_out(tmp_path: Path) -> None:
    """A door that says anything at all costs itself only."""
    lines = [
        '{"listening": {}}',
        "{",
        "[]",
        '{"counts": 5}',
        '{"counts": {"accepted": "x"}}',
        "\x00",
    ]
    good = json.dumps({"counts": {"accepted": 4, "unknown": 7}})
    program = f"import sys; print({chr(10).join([*lines, good])!r}, flush=True); sys.stdin.read()"
    options = CollectorOptions(ring_dir=tmp_path, otlp_http="127.0.0.1:0")
    door = Otlp(options, ManualClock(1), command=[sys.executable, "-c", program])
    door.start()
    until(lambda: has_news(door) and counts(door.collect())["accepted"] == 4, "the good line")
    door.close()


def test_a_door_has_a_while_to_begin(tmp_path: Path) -> None:
    """At first it is only not there yet; one that never says that it listens has failed."""
    clock = ManualClock(NS_PER_SECOND)
    options = CollectorOptions(ring_dir=tmp_path, otlp_http="127.0.0.1:0")
    mute = Otlp(options, clock, command=[sys.executable, "-c", "import sys; sys.stdin.read()"])
    mute.start()
    with pytest.raises(NotYet):
        mute.collect()
    clock.advance(10 * NS_PER_SECOND)
    with pytest.raises(CollectorError, match="does not listen after 10 s"):
        mute.collect()
    mute.close()
