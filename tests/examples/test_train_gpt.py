"""The example trainer: exact, resumable, and instrumented as the README shows."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.needs_module("torch"), pytest.mark.timeout(240)]
TOKENS_PER_STEP = 512
RUNS = """
import json, os, runpy, sys
import torch._dynamo  # the first optimizer would

program, runs = sys.argv[1], json.loads(sys.argv[2])
for arguments in runs:
    child = os.fork()
    if child == 0:
        sys.argv = [program, *arguments]
        runpy.run_path(program, run_name="__main__")
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
"""
"""A run after the other, each in a process that is forked behind the imports: most of its time."""


def _result(output: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def test_resumed_training_ends_where_unbroken_training_does(
    repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """A checkpoint holds all that training needs: resuming changes no bit of the loss.

    Nor does another process with the same seed; another seed does.
    """
    options = ("--directory", str(tmp_path / "checkpoints"), "--checkpoint-every", "3")
    runs = (
        ("--steps", "6"),
        ("--steps", "3", *options),
        ("--steps", "6", "--resume", *options),
        ("--steps", "6", "--seed", "8"),
    )
    done = subprocess.run(
        [sys.executable, "-c", RUNS, "train_gpt.py", json.dumps(runs)],
        cwd=repository / "examples",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    unbroken, _, resumed, other = map(json.loads, done.stdout.splitlines())
    assert resumed["loss"] == unbroken["loss"] != other["loss"]
    assert unbroken["tokens"] == 6 * TOKENS_PER_STEP
    assert 900_000 < unbroken["weights"] < 1_200_000
    assert (resumed["steps"], resumed["last_step"]) == (3, 6)
    assert not list((tmp_path / "checkpoints").glob("*.partial"))


def test_it_learns(run_example: Callable[..., str]) -> None:
    """It is a real training run: forty steps bring the loss well below a uniform guess (5.5)."""
    assert _result(run_example("train_gpt.py", "--steps", 40))["loss"] < 3.6


def test_its_ring_tells_what_it_did(
    run_example: Callable[..., str], read_ring: Callable[[], Any]
) -> None:
    """Steps, phases, checkpoints and evaluations reach the ring with the counts that are true."""
    every = ("--checkpoint-every", 2, "--evaluate-every", 4)
    done = _result(run_example("train_gpt.py", "--steps", 4, *every))
    ring = read_ring()
    assert ring.identity["workload"] == "gpt-pretrain"
    assert ring.closed_ns > 0
    steps = ring.of("step")
    assert [step.values["step"] for step in steps] == [1, 2, 3, 4]
    assert {step.status for step in steps} == {"ok"}
    assert sum(step.values["tokens"] for step in steps) == done["tokens"]
    assert {step.values["micro_batches"] for step in steps} == {2}
    phases = Counter(phase.phase for phase in ring.of("phase"))
    assert phases == {"data_wait": 8, "forward": 8, "backward": 8, "optimizer": 4}
    assert (len(ring.of("checkpoint")), len(ring.of("evaluation"))) == (2, 1)


def test_a_time_limit_ends_it(run_example: Callable[..., str]) -> None:
    """`--seconds` ends training that has no last step, and no step is left half done."""
    done = _result(run_example("train_gpt.py", "--seconds", 0.5))
    assert done["steps"] >= 1
    assert done["tokens"] == done["steps"] * TOKENS_PER_STEP


def test_sigterm_ends_it_after_the_step(
    repository: Path,
    environment: dict[str, str],
    read_ring: Callable[[], Any],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    """A scheduler's SIGTERM ends it well: a summary, exit status 0, and no step cut in two."""
    command = [sys.executable, str(repository / "examples" / "train_gpt.py")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually(lambda: bool(read_ring().of("step")))
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0
    done = _result(output)
    assert done["stopped_early"]
    steps = read_ring().of("step")
    assert len(steps) == done["steps"]
    assert {step.status for step in steps} == {"ok"}
