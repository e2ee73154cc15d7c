"""`apportion doctor --accept`, on SIMULATED GPUs and beside a stand-in for nvidia-smi."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from apportion.agent.acceptance import page
from apportion.agent.acceptance.nvidia_smi import COMPARED, NvidiaSmi
from apportion.agent.acceptance.overhead import Work, WorkFailedError, run
from apportion.agent.cli import main
from apportion.collectors.nvml_energy_period import energy_periods
from apportion.collectors.testing import FakeGpu, FakeNvml
from apportion.core.clock import ManualClock, SystemClock
from apportion.core.errors import CollectorError
from apportion.simulator import Simulator, environment

HERE = Path(__file__).parent


def stand_in(folder: Path, **variables: str) -> Path:
    """An executable that answers as nvidia-smi does, of the library in the environment."""
    program = folder / "nvidia-smi"
    settings = "".join(f"os.environ[{name!r}] = {text!r}\n" for name, text in variables.items())
    program.write_text(
        f"#!{sys.executable}\nimport os, runpy\n{settings}"
        f"runpy.run_path({str(HERE / 'nvidia_smi.py')!r}, run_name='__main__')\n"
    )
    program.chmod(0o755)
    return program


@pytest.fixture(scope="module")
def simulated(
    tmp_path_factory: pytest.TempPathFactory, library: Path
) -> Iterator[Mapping[str, str]]:
    """Two GPUs, one at 60 %; the variables with which a process reads them."""
    root = tmp_path_factory.mktemp("simulator")
    with Simulator(root / "state", devices=2, pcie_query_ns=0) as simulator:
        simulator.set_utilization(1, 0.6)
        with simulator.running():
            yield environment(simulator.state, library)


@pytest.fixture
def in_simulation(simulated: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """This process's children read the SIMULATED library, and no configuration of this machine."""
    for name in [name for name in os.environ if name.startswith("APPORTION_")]:
        monkeypatch.delenv(name)
    for name, value in simulated.items():
        monkeypatch.setenv(name, value)


def accept(folder: Path, *arguments: str) -> tuple[int, dict[str, Any], str]:
    """The exit status, the document and the page."""
    status = main(
        [
            *("doctor", "--accept", str(folder), "--devices", "simulator"),
            *("--sample-period", "100ms", "--tick-period", "400ms", "--prices", "none"),
            *("--ring-dir", str(folder / "no-rings"), *arguments),
        ]
    )
    return (
        status,
        json.loads((folder / "acceptance.json").read_text()),
        (folder / "acceptance.md").read_text(),
    )


def test_the_whole_of_it(in_simulation: None, tmp_path: Path) -> None:
    """Every part is done and says what it found, in JSON and on a page that says SIMULATED."""
    smi = stand_in(tmp_path)
    work = f"{sys.executable} -m apportion.client.acceptance work 5"
    status, document, text = accept(
        tmp_path,
        *("--accept-for", "12s", "--nvidia-smi", str(smi), "--accept-command", work),
    )
    rows = document["values"]["rows"]
    assert [row for row in rows if row["agrees"] is False] == []
    agreed = {row["field"] for row in rows if row["agrees"]}
    assert agreed == {compared.field for compared in COMPARED} - {"clocks.mem"}
    assert document["values"]["rounds"] >= 3
    assert (status, document["SIMULATED"], document["disagreements"]) == (0, True, 0)
    for row in document["energy"]["rows"]:
        assert row["agrees"], row
        assert row["changes"] >= 5
        # The simulator's counter moves every 100 ms, as those of many real GPUs do.
        assert abs(row["period_ns"] - 100_000_000) <= row["poll_ns"]
    cost = document["overhead"]
    assert (len(cost["without_s"]), len(cost["with_s"])) == (1, 1)
    assert cost["agent_cpu_percent"] > 0
    assert cost["agent_resident_bytes"] > 1 << 20
    assert "missing" in document["phase_clocks"]
    assert not document["agent_was_running"]
    assert "**SIMULATED GPUs: nothing here is of real hardware.**" in text
    assert page(document) == text


def test_what_does_not_agree_or_is_missing(in_simulation: None, tmp_path: Path) -> None:
    """A value that is wrong is named and fails; what is unknown or does not run leaves the rest."""
    smi = stand_in(tmp_path, NVIDIA_SMI_LIES="memory.total", NVIDIA_SMI_OLD="power.draw.instant")
    status, document, text = accept(
        tmp_path,
        *("--accept-for", "1s", "--nvidia-smi", str(smi)),
        *("--accept-command", "/nonexistent/train --steps 3"),
    )
    wrong = {row["field"] for row in document["values"]["rows"] if row["agrees"] is False}
    assert (status, wrong, document["disagreements"]) == (1, {"memory.total"}, 2)
    assert document["values"]["unknown_to_nvidia_smi"] == ["power.draw.instant"]
    assert document["overhead"]["missing"].startswith("/nonexistent/train cannot be run")
    assert {row["agrees"] for row in document["energy"]["rows"]} == {None}  # too short to say
    assert "| **no** |" in text


@pytest.mark.parametrize(
    ("command", "match"),
    [
        (("/nonexistent/train", "--steps"), "/nonexistent/train cannot be run: No such file"),
        ((sys.executable, "-c", "raise SystemExit('no data here')"), "ended with 1: no data here"),
    ],
)
def test_work_that_does_not_run(tmp_path: Path, command: tuple[str, ...], match: str) -> None:
    """It says why, and is then missing in the document."""
    with pytest.raises(WorkFailedError, match=match):
        run(command, SystemClock(), tmp_path)


def test_without_a_gpu_nothing_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host whose device is its CPU does not pass for one with GPUs that agree."""
    monkeypatch.setenv("PATH", "/nonexistent")
    command = ("--accept-command", "/nonexistent/train", "--accept-for", "300ms")
    arguments = ("--devices", "cpu", "--sample-period", "100ms", "--ring-dir", str(tmp_path / "no"))
    assert main(["doctor", "--accept", str(tmp_path), *command, *arguments]) == 1
    said = capsys.readouterr()
    assert "0 values agree" in said.out
    first, *_, last = said.err.splitlines()
    assert first.startswith("nvidia-smi is not here, so no value of ours is compared")
    assert last.startswith("values were not compared: nvidia-smi cannot be asked")
    text = (tmp_path / "acceptance.md").read_text()
    assert "**No GPU was read: nothing is accepted.**" in text
    assert "Not done: nvidia-smi cannot be asked" in text


def test_work_of_ours_is_as_long_as_is_asked(tmp_path: Path) -> None:
    """By a trial on this machine; a person's own command is run as it is."""
    short = Work(sys.executable).sized(SystemClock(), tmp_path, 1)
    assert short == (sys.executable, "-m", "apportion.client.acceptance", "work", "1")
    own = Work(sys.executable, ("train", "--steps", "3"))
    assert own.sized(SystemClock(), tmp_path, 1) == ("train", "--steps", "3")


@pytest.mark.parametrize("command", ["", "train 'without an end"])
def test_a_command_that_is_none(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused before anything is measured."""
    assert main(["doctor", "--accept", str(tmp_path), "--accept-command", command]) == 2
    assert "--accept-command" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("printed", "status", "match"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver.", 9, "with 9: NV"),
        ('Field "uuid" is not a valid field to query.', 2, "ended with 2"),
    ],
)
def test_nvidia_smi_that_fails(tmp_path: Path, printed: str, status: int, match: str) -> None:
    """It says why; a GPU that cannot be asked for its id is not asked for ever."""
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint({printed!r})\nsys.exit({status})\n")
    program.chmod(0o755)
    with pytest.raises(CollectorError, match=match):
        NvidiaSmi(str(program)).ask()


def test_values_that_a_gpu_cannot_tell(tmp_path: Path) -> None:
    """`[N/A]` and its like are no numbers; a name may have a comma; other lines are none."""
    program = tmp_path / "nvidia-smi"
    row = 'GPU-1, "A, B", 580.1, [N/A], 700.00, 40, [Not Supported], 1, [Unknown Error], 1, 2'
    program.write_text(f"#!{sys.executable}\nprint('''{row}\nGPU-2\n''')\n")
    program.chmod(0o755)
    assert NvidiaSmi(str(program)).ask() == {
        "GPU-1": {
            "name": "A, B",
            "driver_version": "580.1",
            "enforced.power.limit": "700.00",
            "temperature.gpu": "40",
            "memory.used": "1",
            "clocks.sm": "1",
            "clocks.mem": "2",
        }
    }


def test_the_period_of_a_counter() -> None:
    """By the times at which it moved; a GPU without one is left out, one that is lost ends."""
    clock = ManualClock()
    gpus = [FakeGpu(uuid="GPU-1"), FakeGpu(uuid="GPU-2", energy_mj=None)]
    library = FakeNvml(gpus)

    class Moving:
        """The clock, which moves the counter every 20 ms as time passes."""

        def __getattr__(self, name: str) -> Any:
            return getattr(clock, name)

        def wait(self, event: object, timeout_ns: int) -> bool:
            clock.advance(timeout_ns)
            gpus[0].energy_mj = 1_000 + 7 * (clock.monotonic_ns() // 20_000_000)
            return False

    moving: Any = Moving()
    (found,) = energy_periods(library, moving, 10**9).values()
    assert (found.period_ns, found.step_mj, found.poll_ns) == (20_000_000, 7, 1_000_000)
    assert found.changes in {49, 50}
