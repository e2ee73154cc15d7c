"""Who a process says it is: the user, then the launchers' variables, then a default."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apportion import client
from apportion.client import layout
from apportion.client.counting import forget_counts
from apportion.client.identity import Arguments, identity_json, identity_of, names_of
from apportion.client.process import Process, read_process, start_ticks

HERE = Process(4242, bytes.fromhex("0a0b0c0d") + bytes(12), 777, 5)
PARENT_STAT = b"%d (a (b) c) S 1" + b" 0" * 17 + b" 999 0\n"


def identity(arguments: Arguments, environ: dict[str, str], proc: Path) -> dict[str, Any]:
    """The whole identity on a host called `node`."""
    names = names_of(arguments, environ, HERE, "node", proc)
    return identity_of(names, arguments, environ, "1.2.3")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc that knows this process's parent, which started at tick 999."""
    parent = tmp_path / str(os.getppid())
    parent.mkdir()
    (parent / "stat").write_bytes(PARENT_STAT % os.getppid())
    return tmp_path


def test_the_user_first(proc: Path) -> None:
    """What init() was told wins over every variable."""
    arguments = Arguments("w", "r", 3, 1, 2, ["GPU-1"], {"team": "nlp"}, 40)
    environ = {
        "APPORTION_WORKLOAD": "x",
        "APPORTION_RUN": "x",
        "APPORTION_ATTEMPT": "x",
        "RANK": "9",
        "WORLD_SIZE": "9",
        "LOCAL_RANK": "5",
        "CUDA_VISIBLE_DEVICES": "1,0",
        "SECRET": "x",
    }
    assert {
        "workload": "w",
        "run": "r",
        "attempt": "3",
        "restart_count": 3,
        "rank": 1,
        "local_rank": 5,
        "world_size": 2,
        "devices": ["GPU-1"],
        "device_hints": {"CUDA_VISIBLE_DEVICES": "1,0"},
        "tags": {"team": "nlp"},
        "resumed_from_step": 40,
        "client_version": "1.2.3",
    } == identity(arguments, environ, proc)


@pytest.mark.parametrize(
    ("said", "environ", "flops"),
    [
        ({"parameters": 8e9}, {}, 48 * 10**9),
        ({"parameters": 7, "flops_per_token": 50}, {}, 50),
        ({}, {"APPORTION_PARAMETERS": "10"}, 60),
        ({}, {"APPORTION_FLOPS_PER_TOKEN": "61", "APPORTION_PARAMETERS": "10"}, 61),
        ({"parameters": 3}, {"APPORTION_PARAMETERS": "10"}, 18),
        ({}, {"APPORTION_PARAMETERS": "8e9"}, None),
        ({"parameters": 0}, {}, None),
        ({"parameters": -1}, {}, None),
        ({"parameters": float("inf")}, {}, None),
        ({"parameters": float("nan")}, {}, None),
        ({"parameters": "8B"}, {}, None),
        ({"parameters": True}, {}, None),
    ],
)
def test_what_a_token_takes(
    said: dict[str, object], environ: dict[str, str], flops: int | None, proc: Path
) -> None:
    """Six operations for each parameter, or what is known better; nothing of what is no number."""
    found = identity(Arguments(**said), environ, proc)
    assert found.get("flops_per_token") == flops


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"APPORTION_WORKLOAD": "w", "APPORTION_RUN": "r", "APPORTION_ATTEMPT": "4"},
            {"workload": "w", "run": "r", "attempt": "4", "restart_count": 4},
        ),
        (
            {"TORCHELASTIC_RUN_ID": "job", "TORCHELASTIC_RESTART_COUNT": "2", "SLURM_JOB_ID": "7"},
            {"run": "job", "attempt": "0.2", "restart_count": 2},
        ),
        (
            {"TORCHELASTIC_RUN_ID": "none", "SLURM_JOB_ID": "77", "SLURM_RESTART_COUNT": "1"},
            {"run": "77", "attempt": "1", "restart_count": 1},
        ),
        (
            {
                "TORCHELASTIC_RUN_ID": "none",
                "TORCHELASTIC_RESTART_COUNT": "1",
                "SLURM_JOB_ID": "77",
                "SLURM_RESTART_COUNT": "1",
                "SLURM_STEP_ID": "4",
            },
            {"run": "77", "attempt": "1.4.1", "restart_count": 2},
        ),
        (
            {"SLURM_ARRAY_JOB_ID": "80", "SLURM_ARRAY_TASK_ID": "3", "SLURM_JOB_ID": "83"},
            {"run": "80_3", "attempt": "0"},
        ),
        (  # a batch script is no step of its own
            {"SLURM_JOB_ID": "77", "SLURM_STEP_ID": "4294967291", "SLURM_RESTART_COUNT": "x"},
            {"run": "77", "attempt": "0"},
        ),
        (
            {
                "JOBSET_NAME": "pretrain",
                "JOBSET_RESTART_ATTEMPT": "2",
                "JOB_COMPLETION_INDEX": "0",
                "TORCHELASTIC_RUN_ID": "none",
                "TORCHELASTIC_RESTART_COUNT": "0",
            },
            {"run": "pretrain", "attempt": "2.0", "restart_count": 2},
        ),
        ({"MASTER_ADDR": "llama-master-0.team.svc", "RANK": "1"}, {"run": "llama", "rank": 1}),
        ({"MASTER_ADDR": "llama-worker-0"}, {"run": "llama"}),
        ({"MASTER_ADDR": "10.0.0.7"}, {"run": "unnamed-node-0a0b0c0d-777"}),
        ({"MASTER_ADDR": "-master-0"}, {"run": "unnamed-node-0a0b0c0d-777"}),
        ({"RAY_JOB_ID": "02000000"}, {"run": "02000000"}),
        ({"RAY_JOB_ID": "02000000", "RAY_CLUSTER_NAME": "a"}, {"run": "a/02000000"}),
        ({"RAY_CLUSTER_NAME": "a"}, {"run": "unnamed-node-0a0b0c0d-777"}),
        ({"JOB_COMPLETION_INDEX": "4"}, {"run": "unnamed-node-0a0b0c0d-777"}),
        (
            {"APPORTION_ATTEMPT": "3", "TORCHELASTIC_RESTART_COUNT": "1"},
            {"attempt": "3", "restart_count": 3},
        ),
        (
            {"APPORTION_ATTEMPT": "again", "TORCHELASTIC_RESTART_COUNT": "1"},
            {"attempt": "again"},
        ),
        ({"TORCHELASTIC_RUN_ID": "none"}, {"run": "unnamed-node-0a0b0c0d-999"}),
        ({}, {"workload": "unnamed", "run": "unnamed-node-0a0b0c0d-777"}),
        ({"RANK": "3", "SLURM_PROCID": "5"}, {"rank": 3}),
        ({"SLURM_PROCID": "5", "WORLD_SIZE": "8"}, {"rank": 5, "world_size": 8}),
        ({"RANK": "x", "WORLD_SIZE": "-1", "LOCAL_RANK": "1" * 30}, {}),
        (
            {"NVIDIA_VISIBLE_DEVICES": "all"},
            {"device_hints": {"NVIDIA_VISIBLE_DEVICES": "all"}},
        ),
    ],
)
def test_launchers(environ: dict[str, str], expected: dict[str, Any], proc: Path) -> None:
    """torchrun and Slurm say run, attempt and rank; torchrun's `none` is no id."""
    found = identity(Arguments(), environ, proc)
    assert expected == {key: found[key] for key in expected}
    unnamed = {"workload", "run", "attempt", "client_version"}
    assert set(expected) | unnamed == set(found)


@pytest.mark.parametrize(
    ("host", "index", "run"),
    [("llama-7", "7", "llama"), ("llama-17", "7", "unnamed"), ("-7", "7", "unnamed")],
)
def test_a_pod_of_an_indexed_job_is_named_after_it(
    host: str, index: str, run: str, proc: Path
) -> None:
    """The Job's name and the index make the pod's; a host's own name is no owner."""
    names = names_of(Arguments(), {"JOB_COMPLETION_INDEX": index}, HERE, host, proc)
    assert names.run.startswith(run)


def test_ranks_of_a_nameless_torchrun_share_a_run(proc: Path) -> None:
    """Without a rendezvous id, ranks of one torchrun are one run: it is their parent."""
    environ = {"TORCHELASTIC_RUN_ID": "none"}
    other = HERE._replace(start_ticks=888)
    assert (
        names_of(Arguments(), environ, HERE, "node", proc).run
        == names_of(Arguments(), environ, other, "node", proc).run
    )


def test_attempts_differ_by_default(proc: Path) -> None:
    """Two executions that nobody numbered are two attempts."""
    attempts = {names_of(Arguments(), {}, HERE, "node", proc).attempt for _ in range(5)}
    assert 5 == len(attempts)


@pytest.mark.parametrize(
    "arguments",
    [
        Arguments(workload=1.5),
        Arguments(run=b"r"),
        Arguments(rank=-1),
        Arguments(rank=True),
        Arguments(world_size="8"),
        Arguments(resumed_from_step=1 << 60),
        Arguments(devices=7),
        Arguments(devices=[7]),
        Arguments(tags=["a"]),
        Arguments(tags={"a": 1}),
        Arguments(tags={7: "a"}),
    ],
)
def test_wrong_arguments_are_ignored(arguments: Arguments, proc: Path) -> None:
    """An argument of another type is as if it were not given, and counted."""
    found = identity(arguments, {}, proc)
    assert {"workload", "run", "attempt", "client_version"} == set(found)
    assert {"argument_ignored": 1} == client.counts()


def test_one_device_is_a_list(proc: Path) -> None:
    """A single UUID is taken as one device, not as its characters."""
    assert ["GPU-1"] == identity(Arguments(devices="GPU-1"), {}, proc)["devices"]


@given(
    workload=st.text(max_size=400),
    tags=st.dictionaries(st.text(max_size=300), st.text(max_size=300), max_size=40),
    devices=st.lists(st.text(max_size=300), max_size=80),
    hint=st.text(max_size=2000),
)
def test_any_identity_fits(
    workload: str, tags: dict[str, str], devices: list[str], hint: str
) -> None:
    """Whatever is said, the JSON fits the header, is an object and has only known keys."""
    arguments = Arguments(workload, "r" * 300, "a", tags=tags, devices=devices)
    environ = {"CUDA_VISIBLE_DEVICES": hint}
    names = names_of(arguments, environ, HERE, "node", Path("/nonexistent"))

    text = identity_json(identity_of(names, arguments, environ, "1.2.3"))

    assert len(text) <= layout.IDENTITY_BYTES
    assert set(json.loads(text)) <= layout.IDENTITY_KEYS
    assert {"workload", "run", "attempt"} <= set(json.loads(text))
    forget_counts()


def test_what_is_bulky_goes_first() -> None:
    """An identity that is too long loses its tags before its devices, and says so."""
    tags = {str(number): "x" * 200 for number in range(32)}
    text = identity_json({"workload": "w", "tags": tags, "devices": ["GPU-1"]})
    assert {"workload": "w", "devices": ["GPU-1"]} == json.loads(text)
    assert {"identity_shortened": 1} == client.counts()


def test_this_process() -> None:
    """The real /proc tells pid, boot and start, and the start is in the past."""
    found = read_process()
    assert os.getpid() == found.pid
    assert 16 == len(found.boot_id)
    assert any(found.boot_id)
    assert found.start_ticks == start_ticks(os.getpid()) > 0
    assert found.start_ns > 0


def test_a_strange_proc(tmp_path: Path) -> None:
    """Where /proc says nothing or nonsense, what is unknown is 0."""
    assert (bytes(16), 0, 0) == read_process(tmp_path)[1:]
    (tmp_path / str(os.getpid())).mkdir()
    (tmp_path / str(os.getpid()) / "stat").write_text("nonsense")
    boot = tmp_path / "sys/kernel/random"
    boot.mkdir(parents=True)
    for text in ("nonsense", "0a0b"):
        (boot / "boot_id").write_text(text)
        assert (bytes(16), 0, 0) == read_process(tmp_path)[1:]
