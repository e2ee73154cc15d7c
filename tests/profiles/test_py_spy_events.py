"""py-spy's events as samples: exact where stacks changed, made up for where they did not."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from apportion.core.errors import ProfileTraceError
from apportion.profiles.py_spy_events import AT, THREAD, PySpyEvents
from apportion.profiles.stacks import Stacks


class Recorder:
    """Writes what py-spy writes: an event for each frame that is not as it was last seen."""

    def __init__(self) -> None:
        self.events: list[dict[str, object]] = []
        self.samples = 0
        self._last: dict[int, list[str]] = {}

    def see(self, at_us: int, thread: int, stack: str) -> None:
        """A sample of one thread."""
        self.samples += 1
        frames = [f"thread ({thread}): T", *stack.split(";")]
        before = self._last.get(thread, [])
        same = 0
        while same < min(len(before), len(frames)) and before[same] == frames[same]:
            same += 1
        self._write(at_us, thread, "E", reversed(before[same:]))
        self._write(at_us, thread, "B", frames[same:])
        self._last[thread] = frames

    def end(self, at_us: int) -> bytes:
        """The file."""
        for thread, frames in self._last.items():
            self._write(at_us, thread, "E", reversed(frames))
        return json.dumps(self.events).encode()

    def _write(self, at_us: int, thread: int, kind: str, frames: object) -> None:
        for frame in frames:  # type: ignore[attr-defined]
            self.events.append(
                {"name": frame, "ph": kind, "pid": 1, "tid": 140_000 + thread, "ts": at_us}
            )


def counted(stacks: Stacks) -> Counter[str]:
    return Counter(";".join(stacks.stack(index)[1:]) for index in range(len(stacks)))


def test_every_change_has_its_instant() -> None:
    """Where each sample is another stack, there is nothing to make up."""
    recorder = Recorder()
    seen = [(100, 5, "main;a"), (150, 5, "main;b"), (150, 6, "load"), (230, 5, "main")]
    for at_us, thread, stack in seen:
        recorder.see(at_us, thread, stack)

    found = PySpyEvents.read(recorder.end(300), "x").stacks(4, 1_000_000)

    assert sorted(zip(found.label(AT), found.label(THREAD), strict=True)) == sorted(
        (str(1_000_000 + at_us * 1000), str(thread)) for at_us, thread, _ in seen
    )
    assert counted(found) == {"main;a": 1, "main;b": 1, "load": 1, "main": 1}


def test_samples_without_a_change_are_spread_by_time() -> None:
    """As many as py-spy says, by how long each stack stood, at even distances."""
    recorder = Recorder()
    for at_us in range(0, 800, 100):
        recorder.see(at_us, 5, "long")
    for at_us in (800, 900):
        recorder.see(at_us, 5, "short")

    found = PySpyEvents.read(recorder.end(1000), "x").stacks(recorder.samples, 0)

    assert counted(found) == {"long": 8, "short": 2}
    instants = [int(at or 0) // 1000 for at in found.label(AT)]
    assert instants == list(range(0, 1000, 100))


def test_a_thread_that_waits_is_not_at_work() -> None:
    """Its last stack stands until it is seen again; its CPU time says that it did not run."""
    recorder, chance = Recorder(), Random(3)
    for number in range(500):
        at_us = number * 20_000
        recorder.see(at_us, 5, "twice" if chance.random() < 2 / 3 else "once")
        if number % 100 == 0:
            recorder.see(at_us, 6, f"seldom;{number}")

    events = PySpyEvents.read(recorder.end(10_000_000), "x")
    found = counted(events.stacks(recorder.samples, 0, {"5": 1.0, "6": 0.01}))

    seldom = sum(count for stack, count in found.items() if stack.startswith("seldom"))
    assert found.total() == recorder.samples
    assert seldom == 5
    assert 290 <= found["twice"] <= 370
    # without that knowledge it would be taken for as busy as the other one
    naive = counted(events.stacks(recorder.samples, 0))
    assert sum(count for stack, count in naive.items() if stack.startswith("seldom")) > 100


def test_a_thread_without_an_id_has_its_samples() -> None:
    """Python before 3.11 does not say the kernel's id, so that its CPU time is not known."""
    events = [
        {"name": name, "ph": kind, "tid": 1, "ts": at_us}
        for at_us, kind, name in ((0, "B", "thread (0x7F4)"), (0, "B", "f"), (900, "E", "f"))
    ]
    events.append({"name": "thread (0x7F4)", "ph": "E", "tid": 1, "ts": 900})

    found = PySpyEvents.read(json.dumps(events).encode(), "x").stacks(9, 0, {"4711": 1.0})

    assert counted(found) == {"f": 9}
    assert THREAD not in found.labels


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "is not what py-spy"),
        (b'[{"name": "a", "ph": "B", "tid": 1, "ts"', "is not what py-spy"),
        (b'{"traceEvents": []}', "is not what py-spy"),
        (b'[{"name": "a", "ph": "E", "tid": 1, "ts": 5}]', "ends a frame that did not begin"),
    ],
)
def test_what_is_no_recording_is_refused(text: bytes, said: str) -> None:
    """A py-spy that writes otherwise is said, not guessed at."""
    with pytest.raises(ProfileTraceError, match=said):
        PySpyEvents.read(text, "x")


def test_a_real_recording(published: Path) -> None:
    """py-spy 0.4.3's own file: the frames of its folded text, and paths shortened as it does."""
    folder = published / "pyspy"
    frames = {
        frame
        for line in (folder / "pyspy_043_raw.txt").read_text().splitlines()
        for frame in line.rpartition(" ")[0].split(";")
    }

    events = PySpyEvents.read((folder / "pyspy_043_chrometrace.json").read_bytes(), "x")
    found = events.stacks(0, 0)

    assert len(found) > 50
    assert set(found.names) & frames == frames
    roots = {found.stack(index)[0] for index in range(len(found))}
    assert roots == {"<module> (work.py:16)", "Thread._bootstrap (threading.py:1002)"}


def test_paths_of_packages_keep_what_tells_them_apart() -> None:
    """`module.py` is in many packages; the folder of all packages is in every path."""
    where = ["/usr/lib/python3/dist-packages/torch/nn/module.py", "/home/me/train.py", ""]
    events = [
        {"name": "f", "ph": "B", "tid": 1, "ts": 1, "args": {"filename": path, "line": 3}}
        for path in where
    ]
    ends = [{"name": "f", "ph": "E", "tid": 1, "ts": 9}] * 3

    found = PySpyEvents.read(json.dumps([*events, *ends]).encode(), "x").stacks(1, 0)

    assert found.stack(0) == ["f (torch/nn/module.py:3)", "f (train.py:3)", "f"]
