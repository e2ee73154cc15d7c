"""The demo as a flame graph whose width is money: what the trainer and the server spent it on.

    python examples/flames.py [FILE.svg]

It runs the demo with py-spy on the server, a trace of torch.profiler in the trainer, and draws both
by the ledger. Exit status 0 means that the root is what the ledger says was metered, to the last
10^-12 of the currency. The picture is `docs/flames.svg` unless it is told another one.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from apportion.cost.ledger.reader import LedgerReader
from apportion.cost.report import report
from demo import APPORTION, MAX_SECONDS, Demo, DemoError, Stop
from devices import clean_environment
from processes import Child, ChildFailedError, Processes
from serve_lm import WORKLOAD as SERVER
from train_gpt import WORKLOAD as TRAINER

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "flames.svg"
BURST_SECONDS = 10


class Flames(Demo):
    """The demo, profiled."""

    def __init__(self, directory: Path, processes: Processes, stop: Stop, picture: Path) -> None:
        super().__init__(directory, processes, MAX_SECONDS, stop)
        self._picture = picture
        self._trace = directory / "trainer.json"
        self._samples = directory / "server.json"

    def _start_example(self, program: str, environment: dict[str, str], *options: str) -> Child:
        if program == "train_gpt.py":
            options = (*options, "--trace", str(self._trace))
        return super()._start_example(program, environment, *options)

    def _name_pages(self) -> None:
        super()._name_pages()
        command = [APPORTION, "profile", "cpu", "--workload", SERVER]
        command += ["--seconds", str(BURST_SECONDS), "--out", str(self._samples)]
        command += ["--config", str(self._directory / "apportion.yaml")]
        done = subprocess.run(
            command, env=clean_environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise DemoError(f"the server was not sampled: {done.stderr}")
        self._say(f"sampled: {done.stderr.strip()}")

    def _settle(self, agent: Child) -> None:
        super()._settle(agent)
        self._agent = agent

    def _reckon(self, trainer: Child) -> None:
        super()._reckon(trainer)
        # the ledger grows as long as its agent runs
        self._agent.stop()
        ledger = self._directory / "state" / "ledger.db"
        what = "simulated GPUs: SIMULATED" if self._devices.simulated else "real GPUs"
        command = [APPORTION, "flamegraph", "build", "--ledger", str(ledger)]
        command += ["--profile", f"{TRAINER}={self._trace}"]
        command += ["--profile", f"{SERVER}={self._samples}"]
        command += ["--title", f"What a trainer and a server cost on {what}"]
        figures = self._directory / "flames.json"
        for out in (self._picture, figures):
            subprocess.run([*command, "--out", str(out)], env=clean_environment(), check=True)
        with LedgerReader.of(ledger) as book:
            metered = report(book).proof.metered
        root = [one["endValue"] for one in json.loads(figures.read_text())["profiles"]]
        if root != [metered.units, metered.device_ns, metered.energy_mj]:
            raise DemoError(f"the root is {root}, and the ledger's amounts are {metered}")
        self._say(
            f"the root of {self._picture.name} is the ledger's amount: {metered.units} x 10^-12 "
            f"USD, {metered.device_ns} ns of devices, {metered.energy_mj} mJ"
        )


def main() -> int:
    """Run it; the exit status."""
    picture = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with (
        tempfile.TemporaryDirectory(prefix="apportion-flames-") as directory,
        contextlib.closing(Processes(Path(directory))) as processes,
    ):
        try:
            Flames(Path(directory), processes, stop, picture).run()
        except (DemoError, ChildFailedError) as error:
            sys.stderr.write(f"flames: {error}\n")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
