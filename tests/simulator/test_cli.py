from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest

from apportion.core.clock import SystemClock
from apportion.simulator import Simulator
from apportion.simulator.cli import default_state, main
from apportion.simulator.faults import FaultBoard, Switch

Ask = Callable[[Path, str], Any]
Start = Callable[..., tuple["subprocess.Popen[str]", list[str]]]


@pytest.fixture
def start(library: Path) -> Generator[Start, None, None]:
    """Starts the command line and returns it with its output up to `# ready`."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], list[str]]:
        command = [sys.executable, "-m", "apportion.simulator", *arguments]
        process = subprocess.Popen(
            [*command, "--library-dir", str(library.parent.parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            lines.append(line.rstrip("\n"))
            if line == "# ready\n":
                break
        return process, lines

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_simulated_serves_and_ends_on_a_signal(
    tmp_path: Path, library: Path, ask: Ask, start: Start, number: signal.Signals
) -> None:
    """The output can be sourced by a shell, the devices answer, and a signal ends it with 0."""
    state = tmp_path / "state"
    process, lines = start(
        "--profile", "a100", "--gpus", "4", "--state", str(state), "--utilization", "0.5"
    )
    inherited = os.environ.get("LD_LIBRARY_PATH", "")
    search_path = f"{library.parent}:{inherited}" if inherited else str(library.parent)
    assert lines == [
        "# SIMULATED: 4 x NVIDIA A100-SXM4-80GB. No value was measured on a GPU.",
        f"export LD_LIBRARY_PATH={search_path}",
        f"export APPORTION_SIMULATOR_STATE={state}",
        "# ready",
    ]
    answer = ask(
        state,
        """
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(3)
        answer = [nvml.nvmlDeviceGetCount(), nvml.nvmlDeviceGetPowerUsage(one)]
        """,
    )
    assert answer == [4, 230_000]
    process.send_signal(number)
    assert process.wait(timeout=60) == 0


def test_a_mirrored_process_makes_its_device_busy(tmp_path: Path, ask: Ask, start: Start) -> None:
    """With a real busy process: its devices are busy and list it, the others are idle."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        _, lines = start(
            *("--gpus", "3", "--state", str(tmp_path / "state")),
            *("--mirror", f"{busy.pid}:0,2", "--mirror-cores", "1"),
        )
        assert lines[-1] == "# ready"
        answer = ask(
            tmp_path / "state",
            """
            import time
            nvml.nvmlInit()
            devices = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(3)]
            deadline = time.monotonic() + 50
            while time.monotonic() < deadline:
                use = [nvml.nvmlDeviceGetUtilizationRates(device).gpu for device in devices]
                if use[0] and use[2]:
                    break
                time.sleep(0.02)
            lists = [nvml.nvmlDeviceGetComputeRunningProcesses(device) for device in devices]
            answer = [
                [bool(share) for share in use],
                [[[p.pid, bool(p.usedGpuMemory)] for p in processes] for processes in lists],
            ]
            """,
        )
    finally:
        busy.kill()
        busy.wait()
    assert answer == [
        [True, False, True],
        [[[busy.pid, True]], [], [[busy.pid, True]]],
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param(["--gpus", "65"], "give a number from 0 to 64", id="too many"),
        pytest.param(["--mirror", "12"], "is not PID:DEVICE", id="no device"),
        pytest.param(["--utilization", "90"], "is not a ratio from 0 to 1", id="percent"),
        pytest.param(["--profile", "h900"], "invalid choice", id="no such profile"),
        pytest.param(["--mirror", "1:7"], "no device 7", id="no such device"),
        pytest.param(["--mig", "3g.40gb"], "is not GPU:PROFILE", id="mig without a gpu"),
        pytest.param(["--mig", "0:9g.1gb"], "no MIG profile", id="no such mig profile"),
    ],
)
def test_wrong_arguments_are_explained(
    tmp_path: Path, library: Path, arguments: list[str], words: str
) -> None:
    """Exit status above 0 and one line that says what would be right."""
    result = subprocess.run(
        [
            *(sys.executable, "-m", "apportion.simulator", "--state", str(tmp_path / "state")),
            *("--library-dir", str(library.parent.parent)),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode > 0
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_state_that_cannot_be_made_is_an_error(tmp_path: Path, library: Path) -> None:
    """A missing folder is named, without a traceback."""
    state = tmp_path / "absent" / "state"
    result = subprocess.run(
        [
            *(sys.executable, "-m", "apportion.simulator", "--state", str(state)),
            *("--library-dir", str(library.parent.parent)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert str(tmp_path / "absent") in result.stderr
    assert "Traceback" not in result.stderr


def run_main(*arguments: str) -> int:
    """The command line in this process: its exit status, also where argparse ends it."""
    try:
        return main(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`apportion simulator` with these words, through the dispatcher."""
    return subprocess.run(
        [sys.executable, "-m", "apportion.client.dispatch", "simulator", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_faults_by_command_while_it_runs(tmp_path: Path, ask: Ask, start: Start) -> None:
    """A fault given from another process is seen at once, ends with `clear`, and is explained."""
    state = tmp_path / "state"
    start("--gpus", "2", "--state", str(state), "--mig", "1:3g.40gb")
    program = """
        nvml.nvmlInit()
        one = nvml.nvmlDeviceGetHandleByIndex(1)
        answer = [code(nvml.nvmlDeviceGetHandleByIndex, 0), nvml.nvmlDeviceGetMigMode(one)[0]]
    """
    assert ask(state, program) == [0, 1]
    done = command("fault", "lost", "--gpu", "0", "--state", str(state))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert ask(state, program) == [15, 1]
    assert command("clear", "--state", str(state)).returncode == 0
    assert ask(state, program) == [0, 1]
    assert command("fault", "hang", "--for", "0.1s", "--state", str(state)).returncode == 0
    assert ask(state, program) == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fault", "fire"], "invalid choice: 'fire'"),
        (["fault", "lost"], "lost cannot be a fault of the whole library"),
        (["fault", "lost", "--gpu", "9"], "no GPU 9: there are 1"),
        (["fault", "xid", "--gpu", "0"], "an xid needs --gpu and --value"),
        (["fault", "lost", "--gpu", "0", "--for", "0"], "give up to a day, such as 500ms, 10s"),
        (["fault", "hang", "--for", "abc"], "abc: give up to a day, such as 500ms, 10s or 10m"),
        (["fault", "slow", "--value", "-5"], "slow takes a number from 1 to 1000000000, not -5"),
        (["fault", "slow", "--value", "0"], "slow takes a number from 1 to 1000000000, not 0"),
        (["fault", "lost", "--gpu", "0", "--value", "7"], "lost takes no number"),
        (["fault", "xid", "--gpu", "0", "--value", "-3"], "from 1 to 99999, not -3"),
    ],
)
def test_faults_that_cannot_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    """One line says what would be right."""
    with Simulator(tmp_path / "state") as simulator:
        status = run_main(*arguments, "--state", str(simulator.state))
    assert status > 0
    assert words in capsys.readouterr().err


def test_times_of_faults_have_units(tmp_path: Path) -> None:
    """As everywhere else; a bare number is seconds."""
    clock = SystemClock()
    with Simulator(tmp_path / "state") as simulator:
        for text, seconds in (("500ms", 0.5), ("90", 90), ("10m", 600), ("1.5h", 5_400)):
            before_ns = clock.monotonic_ns()
            assert (
                run_main("fault", "lost", "--gpu=0", f"--for={text}", f"--state={simulator.state}")
                == 0
            )
            board = FaultBoard(simulator.state)
            just_before_ns = before_ns + int(seconds * 10**9) - 1
            assert Switch.ANSWER in board.in_force(0, just_before_ns)
            just_after_ns = clock.monotonic_ns() + int(seconds * 10**9)
            assert Switch.ANSWER not in board.in_force(0, just_after_ns)
            board.close()


def test_one_simulator_publishes_in_a_state_file(
    tmp_path: Path, library: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one would take the first one's readers away; once that has ended it may."""
    state = str(tmp_path / "state")
    again = ("--gpus=1", f"--state={state}", f"--library-dir={library.parent.parent}")
    with Simulator(tmp_path / "state", devices=2):
        before = (tmp_path / "state").stat().st_ino
        assert run_main(*again) == 1
        assert "another simulator publishes there" in capsys.readouterr().err
        assert (tmp_path / "state").stat().st_ino == before
    with Simulator(tmp_path / "state") as third:
        assert third.state.stat().st_ino != before


def test_a_fault_of_a_simulator_that_has_ended_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody would act on it, nor see it."""
    with Simulator(tmp_path / "state") as simulator:
        state = f"--state={simulator.state}"
        assert run_main("fault", "lost", "--gpu=0", state) == 0
    for given in (["fault", "lost", "--gpu=0"], ["clear"]):
        assert run_main(*given, state) == 1
        assert "the simulator that made it has ended" in capsys.readouterr().err


def test_a_fault_without_a_simulator_says_how_to_start_one(tmp_path: Path) -> None:
    """The commonest mistake: nothing runs, or it runs with another state file."""
    done = command("fault", "lost", "--gpu", "0", "--state", str(tmp_path / "none"))
    assert done.returncode == 1
    assert "start the devices first with `apportion simulator`" in done.stderr


def test_the_folder_of_a_user_is_made(
    tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine where it was never run it needs no preparation."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("APPORTION_SIMULATOR_STATE", raising=False)

    def run(_simulator: Simulator, _stop: threading.Event) -> None:
        """Ends at once."""

    monkeypatch.setattr(Simulator, "run", run)
    assert main(["--gpus", "1", "--library-dir", str(library.parent.parent)]) == 0
    assert (tmp_path / "apportion").is_dir()


@pytest.mark.parametrize(
    ("variables", "uid", "expected"),
    [
        ({"APPORTION_SIMULATOR_STATE": "/x/y"}, 0, "/x/y"),
        ({}, 0, "/run/apportion/simulator.state"),
        ({"XDG_RUNTIME_DIR": "/run/user/7"}, 7, "/run/user/7/apportion/simulator.state"),
        ({}, 7, "/tmp/apportion-7/simulator.state"),
    ],
)
def test_where_the_state_is(variables: dict[str, str], uid: int, expected: str) -> None:
    """Two commands of one user meet at the same file without being told."""
    assert default_state(variables, uid) == Path(expected)
