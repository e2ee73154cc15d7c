"""The ring's life in a process: made at the first span, replaced by init(), closed at the end."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from tests.client.conftest import Run
from tests.client.decoded import only, read, rings

from apportion import client
from apportion.client import directory as directories
from apportion.client.ring import Ring
from apportion.client.session import RETRY_NS, session


def test_nothing_is_made_before_the_first_span(directory: Path) -> None:
    """Import, init(), ready() and an unstarted span make no file."""
    client.ready()
    client.step(1)
    client.request("r")
    assert [] == rings(directory)
    with client.step(1):
        assert 1 == len(rings(directory))


def test_ready_before_and_after_the_ring(directory: Path) -> None:
    """The end of startup is in the header, whether the ring was there yet or not."""
    before_ns = time.monotonic_ns()
    client.ready()
    with client.step(1):
        pass
    first = only(directory).header["ready_ns"]
    client.ready()
    assert before_ns <= first <= only(directory).header["ready_ns"] <= time.monotonic_ns()


def test_a_member_has_a_ring_without_a_span(directory: Path) -> None:
    """A worker of another node's head says so at once: its run, its readiness, and no request."""
    client.init(workload="llm", run="replica-0", directory=directory)
    client.member()
    said = only(directory)
    assert ("member", "replica-0") == (said.identity["kind"], said.identity["run"])
    assert 0 < said.header["ready_ns"] <= time.monotonic_ns()
    client.init(workload="llm", directory=directory)
    with client.step(1):
        pass
    kinds = [read(path).identity.get("kind") for path in rings(directory)]
    assert ["member", None] == sorted(kinds, key=str, reverse=True)


def test_who_had_a_span_is_no_member(directory: Path) -> None:
    """Its ring says who it is already; what it has asked for is counted."""
    with client.step(1):
        pass
    client.member()
    assert "kind" not in only(directory).identity
    assert {"member_too_late": 1} == client.counts()


def test_resumed_before_and_after_the_ring(directory: Path) -> None:
    """What a loaded checkpoint held is in the header, whenever it was loaded."""
    client.resumed(40)
    assert [] == rings(directory)
    with client.step(41):
        pass
    header = only(directory).header
    assert (40, True) == (header["resumed_step"], 0 < header["resumed_ns"])
    client.resumed(20)
    later = only(directory).header
    assert (20, True) == (later["resumed_step"], header["resumed_ns"] < later["resumed_ns"])
    client.init(workload="another", directory=directory)
    with client.step(1):
        pass
    (said,) = [read(path).header for path in rings(directory) if not read(path).header["closed_ns"]]
    assert (0, 0) == (said["resumed_step"], said["resumed_ns"])


@pytest.mark.parametrize("step", [None, -1, 1.5, "7", True, 1 << 53])
def test_what_is_no_step_is_not_resumed_from(directory: Path, step: Any) -> None:
    """Plain ints only: anything else could wait for a GPU, or move cost by mistake."""
    client.resumed(step)
    with client.step(1):
        pass
    assert 0 == only(directory).header["resumed_ns"]
    assert {"argument_ignored": 1} == client.counts()


def test_init_is_in_the_header(directory: Path) -> None:
    """init() ran before the ring was made, and both times are said."""
    with client.step(1):
        pass
    header = only(directory).header
    assert 0 < header["init_ns"] <= header["created_monotonic_ns"]
    assert os.getpid() == header["pid"]


def test_without_init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that never calls init() is named by the environment."""
    monkeypatch.setenv("APPORTION_RING_DIR", str(tmp_path))
    monkeypatch.setenv("APPORTION_WORKLOAD", "from-env")
    with client.step(1):
        pass
    found = only(tmp_path)
    assert ("from-env", 0) == (found.identity["workload"], found.header["init_ns"])


def test_a_second_init_makes_a_new_ring(directory: Path) -> None:
    """The old ring is closed, the new one begins at 1 and carries the new names."""
    with client.step(1):
        pass
    (first,) = rings(directory)
    client.init(workload="second", directory=directory, capacity=4)
    assert read(first).header["closed_ns"] > 0
    with client.step(2):
        pass
    (second,) = set(rings(directory)) - {first}
    assert ("second", 4) == (
        read(second).identity["workload"],
        read(second).header["record_capacity"],
    )
    assert [[1], [1]] == [
        [each["sequence"] for each in read(path).records] for path in (first, second)
    ]


def test_a_second_init_with_open_spans(directory: Path) -> None:
    """Spans that are open go on in the ring that they began in, and are no parents in the new."""
    request = client.request("r", tenant="t").start()
    (first,) = rings(directory)
    with client.step(1):
        client.init(workload="second", directory=directory)
        assert not client.current_span()
        with client.step(2):
            pass
    request.finish()
    (second,) = set(rings(directory)) - {first}
    assert 0 == read(first).header["closed_ns"]
    assert [1, -1] == [each["step"] for each in read(first).records]
    assert [(2, 0)] == [(each["step"], each["parent"]) for each in read(second).records]
    session.end()
    assert read(first).header["closed_ns"] > 0
    assert read(second).header["closed_ns"] > 0


def test_after_the_end_nothing_is_made(directory: Path) -> None:
    """Spans in exit handlers that run after ours write nowhere, silently."""
    with client.step(1) as step:
        session.end()
        step.phase("forward").start().finish()
        step.add(tokens=5)
        step.first_token()
    with client.step(2) as span:
        assert not span
    assert [] == only(directory).records
    assert {"ring_gone": 3} == client.counts()


def test_no_directory_is_a_no_op(no_directory: Path) -> None:
    """Without a directory every call works, does nothing, and the null span is false."""
    with client.step(1) as step, step.phase("forward") as phase, phase.phase("communication"):
        step.add(tokens=5)
        step.scheduled()
        step.first_token()
        assert not step
    request = client.request("r", tenant="t").start()
    assert request is step
    request.finish()
    with request.start(), request:
        assert not client.current_span()

    @client.evaluation()
    def function() -> int:
        return 5

    assert 5 == function() == request(function)()
    client.ready()
    assert f"{no_directory} does not exist" == session.problem
    assert not no_directory.exists()
    assert {} == client.counts()


def test_a_directory_that_comes_later(no_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that starts after the workload is found ten seconds later, not at every span."""
    now_ns = time.monotonic_ns()
    monkeypatch.setattr("apportion.client.session.time.monotonic_ns", lambda: now_ns)
    with client.step(1):
        pass
    no_directory.mkdir()
    with client.step(2):
        pass
    assert [] == rings(no_directory)
    session.retry_ns = now_ns
    with client.step(3):
        pass
    assert [3] == [each["step"] for each in only(no_directory).records]
    assert RETRY_NS == 10**10


def test_a_span_kept_from_before(no_directory: Path) -> None:
    """A span object that found no ring can still be used once there is one."""
    span = client.step(1)
    with span:
        pass
    no_directory.mkdir()
    session.retry_ns = 0
    with span:
        pass
    assert [1] == [each["step"] for each in only(no_directory).records]


def test_a_signal_during_the_first_span(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A handler that measures while the ring is being made neither waits nor makes a second."""
    make = Ring.create

    def interrupted(*arguments: object) -> object:
        with client.step(2) as inner:
            assert not inner
        return make(*arguments)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(Ring, "create", interrupted)
    with client.step(1):
        pass
    assert [1] == [each["step"] for each in only(directory).records]


def test_where_rings_go(tmp_path: Path) -> None:
    """What was named is the only candidate; else the default, then the user's own."""
    named, variable = tmp_path / "named", tmp_path / "variable"
    default, user = tmp_path / "default", tmp_path / "user"
    environ = {"APPORTION_RING_DIR": str(variable), "XDG_RUNTIME_DIR": str(user)}

    def paths(directory: Path | None, **left: str) -> list[str]:
        said = None if directory is None else str(directory)
        return [each.path for each in directories.candidates(said, left, str(default))]

    assert [str(named)] == paths(named, **environ)
    assert [str(variable)] == paths(None, **environ)
    del environ["APPORTION_RING_DIR"]
    assert [str(default), f"{user}/apportion/rings"] == paths(None, **environ)
    assert [str(default)] == paths(None)


def test_what_is_wrong_with_a_directory(tmp_path: Path, python: Run) -> None:
    """Each reason is said in words."""
    file = tmp_path / "file"
    file.touch()
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    assert directories.problem_of(str(tmp_path)) is None
    assert "does not exist" == directories.problem_of(str(tmp_path / "missing"))
    assert "is not a directory" == directories.problem_of(str(file))
    assert "cannot be looked at" in str(directories.problem_of("nul\0"))
    said = python(
        "import os, sys\n"
        "from apportion.client.directory import problem_of\n"
        "if os.geteuid() == 0:\n"
        "    os.setgroups([]), os.setgid(65534), os.setuid(65534)\n"
        "print(problem_of(sys.argv[1]))\n",
        "/sys" if os.geteuid() == 0 else str(closed),
    ).stdout
    assert "is not writable for uid" in said
    assert "mode 0555" in said


def _never(path: str, mode: int) -> bool:
    """An `os.access` that root cannot pass."""
    assert path
    assert mode == os.W_OK | os.X_OK
    return False


def test_an_unwritable_directory_is_a_no_op(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that cannot be written is as none: said in words, nothing raised."""
    monkeypatch.setattr("os.access", _never)
    client.init(directory=tmp_path)
    with client.step(1) as span:
        assert not span
    assert "is not writable for uid" in str(session.problem)
    assert [] == list(tmp_path.iterdir())


def test_big_endian_machines_are_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring is little-endian: elsewhere the client does nothing and says why."""
    monkeypatch.setattr("sys.byteorder", "big")
    with client.step(1) as span:
        assert not span
    assert "little-endian" in str(session.problem)
    assert [] == rings(directory)
    assert {"ring_failed": 1} == client.counts()


def test_a_silent_end(tmp_path: Path, python: Run) -> None:
    """Whatever is open when the interpreter goes, nothing is printed and the ring says closed."""
    python(
        "import threading, time\n"
        "from apportion import client\n"
        "held = client.request('r').start()\n"
        "context = client.step(1)\n"
        "context.__enter__()\n"
        "def forever():\n"
        "    while True:\n"
        "        with client.step(1) as step, step.phase('forward'): step.add(tokens=1)\n"
        "threading.Thread(target=forever, daemon=True).start()\n"
        "time.sleep(0.05)\n",
        APPORTION_RING_DIR=str(tmp_path),
    )
    assert only(tmp_path).header["closed_ns"] > 0
