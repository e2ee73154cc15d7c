"""`python -m apportion.client`: it says why nothing arrives, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apportion import client
from apportion.client import layout


def ask(directory: Path, **environ: str) -> tuple[int, str]:
    """Exit status and output of the self-test in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "apportion.client"],
        env={
            "PYTHONPATH": ":".join(sys.path),
            layout.DIRECTORY_VARIABLE: str(directory),
            **environ,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "" == done.stderr
    return done.returncode, done.stdout


def beat(directory: Path, **said: object) -> None:
    """What an agent writes."""
    document = {"heartbeat_monotonic_ns": time.monotonic_ns(), "pid": 5, "version": "1.2.3", **said}
    (directory / layout.AGENT_FILE).write_text(json.dumps(document))


def test_all_is_well(tmp_path: Path) -> None:
    """A directory and a living agent: exit status 0, and what a span costs."""
    beat(tmp_path)
    status, said = ask(tmp_path)
    assert 0 == status
    for text in (
        "is writable",
        "an agent 1.2.3 was alive",
        "a span costs",
        "spans from here arrive",
    ):
        assert text in said
    assert "FAIL" not in said
    assert [layout.AGENT_FILE] == [path.name for path in tmp_path.iterdir()]


def test_no_directory(tmp_path: Path) -> None:
    """The directory that was looked at, and what to do."""
    status, said = ask(tmp_path / "missing")
    assert 1 == status
    assert f"FAIL directory {tmp_path / 'missing'} (APPORTION_RING_DIR) does not exist" in said
    assert "start the agent first, or set APPORTION_RING_DIR" in said


def test_candidates_of_a_plain_user(tmp_path: Path) -> None:
    """Without the variable the default is looked at, then the user's own."""
    own = tmp_path / layout.USER_DIRECTORY
    own.mkdir(parents=True)
    beat(own)
    status, said = ask(Path(), XDG_RUNTIME_DIR=str(tmp_path), APPORTION_RING_DIR="")
    if not Path(layout.DEFAULT_DIRECTORY).exists():
        assert 0 == status
        assert f"directory {layout.DEFAULT_DIRECTORY} (the default) does not exist" in said
        assert f"directory {own} (XDG_RUNTIME_DIR) is writable" in said


def test_no_agent(tmp_path: Path) -> None:
    """A directory that no agent has written."""
    status, said = ask(tmp_path)
    assert 1 == status
    assert f"FAIL no agent has written {tmp_path / layout.AGENT_FILE}" in said
    assert "a test ring was made" in said


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heartbeat_monotonic_ns": 1}, "the agent was last alive"),
        ({"heartbeat_monotonic_ns": 1 << 62}, "another time namespace"),
        ({"heartbeat_monotonic_ns": None}, "cannot be read"),
        ({"heartbeat_monotonic_ns": "soon"}, "cannot be read"),
    ],
)
def test_a_strange_heartbeat(tmp_path: Path, change: dict[str, object], text: str) -> None:
    """An old, a future or an unreadable heartbeat is no living agent."""
    beat(tmp_path, **change)
    status, said = ask(tmp_path)
    assert 1 == status
    assert text in said


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff"])
def test_an_unreadable_agent_file(tmp_path: Path, raw: bytes) -> None:
    """What is no JSON object of an agent is said to be unreadable."""
    (tmp_path / layout.AGENT_FILE).write_bytes(raw)
    status, said = ask(tmp_path)
    assert 1 == status
    assert "cannot be read" in said


def test_rings_that_the_agent_cannot_read_are_a_failure(directory: Path) -> None:
    """They are written all the same; nothing of them arrives."""
    beat(directory, unread={"1" * 32: "no_access"})
    status, said = ask(directory)
    assert 1 == status
    assert "the agent cannot read 1 rings here, such as 11111111" in said


def test_spans_that_arrive_without_their_ids(directory: Path) -> None:
    """What is wrong with them is a failure, and not that they do not arrive."""
    beat(directory)
    status, said = ask(directory, APPORTION_ID_KEY_FILE=str(directory / "none"))
    assert 1 == status
    assert "FAIL requests have no ids" in said
    assert said.endswith("spans from here arrive, but not with all that they could say\n")


def test_rings_that_are_there(directory: Path) -> None:
    """Whose they are, whether they live, and the last id that came; others' files harm nobody."""
    beat(directory, unbound={"1" * 32: "workload 'w', pid 1"})
    with client.step(41):
        pass
    with client.request("request-\x1b[31m7", tenant="search"):
        pass
    (directory / f"{'1' * 32}.ring").write_bytes(b"junk")
    (directory / f"{'2' * 32}.ring").symlink_to("/etc/passwd")
    os.mkfifo(directory / f"{'3' * 32}.ring")
    status, said = ask(directory, RANK="1", TORCHELASTIC_RUN_ID="job")
    assert 0 == status, said
    assert ": test, run run, attempt 1; pid " in said
    assert "alive; 2 records, the last request request-?[31m7, ended " in said
    assert "ring 11111111: is damaged, or was made by no client; its devices are not known" in said
    assert said.count("its devices are not known") == 1
    assert "ring 22222222: cannot be read" in said
    assert "ring 33333333: cannot be read" in said
    assert "workload unnamed (say client.init(workload=...)" in said
    assert ", run job, rank 1" in said


def test_a_relative_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is another one for each program."""
    monkeypatch.chdir(tmp_path)
    beat(tmp_path)
    status, said = ask(Path())
    assert 1 == status
    assert "FAIL . is another directory wherever a program is started" in said
