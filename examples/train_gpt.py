"""Train a small GPT, with its cost per step written down by apportion.

    python examples/train_gpt.py --steps 200

What apportion needs is the five kinds of lines that begin with `client.` or `step.`: without an
agent on the host they do nothing, at no cost worth measuring.

On the CPU the losses depend on the seed and the number of threads alone, resumed or not. The last
line on standard output is one JSON object that says what was done.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from apportion import client
from corpus import text
from gpt import Gpt, Shape, device_named

WORKLOAD: Final = "gpt-pretrain"
SEQUENCES: Final = 4
"""Sequences in one micro-batch."""
SEQUENCE_TOKENS: Final = 64
MICRO_BATCHES: Final = 2
"""Micro-batches whose gradients make one optimizer step."""
KEPT_CHECKPOINTS: Final = 2
TRACED_AFTER, TRACED_STEPS = 20, 5


@dataclass
class Stop:
    """Set by SIGTERM or SIGINT: the step at hand is finished, then the program ends well."""

    asked: bool = False

    def ask(self, *_: object) -> None:
        """Handle the signal."""
        self.asked = True


class Batches:
    """Random windows of the corpus. Step N gets the same ones in any process: resuming is exact."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self._seed = seed
        self._device = device
        data = torch.frombuffer(bytearray(text(seed, 200_000).encode()), dtype=torch.uint8)
        self._training, self._held_out = data[:-20_000].long(), data[-20_000:].long()

    def training(self, step: int, micro_batch: int) -> Tensor:
        """(sequences, tokens + 1) for one micro-batch of one step."""
        return self._windows(self._training, f"{self._seed}/step {step}/{micro_batch}")

    def held_out(self, number: int) -> Tensor:
        """(sequences, tokens + 1) of text that is never trained on."""
        return self._windows(self._held_out, f"{self._seed}/held out/{number}")

    def _windows(self, data: Tensor, key: str) -> Tensor:
        source = random.Random(key)
        starts = [source.randrange(len(data) - SEQUENCE_TOKENS) for _ in range(SEQUENCES)]
        windows = [data[start : start + SEQUENCE_TOKENS + 1] for start in starts]
        return torch.stack(windows).to(self._device)


class Checkpoints:
    """Checkpoint files in one directory, written whole or not at all; the newest are kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def newest(self) -> tuple[int, Path] | None:
        """The step after which the newest one was written, and its file."""
        found = self._found()
        return found[-1] if found else None

    def save(self, step: int, model: Gpt, optimizer: torch.optim.Optimizer) -> None:
        """Write what training needs to go on after `step`."""
        path = self._directory / f"step-{step:08d}.pt"
        partial = path.with_suffix(".partial")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, partial)
        partial.replace(path)
        for _, old in self._found()[:-KEPT_CHECKPOINTS]:
            old.unlink()

    @staticmethod
    def load(path: Path, model: Gpt, optimizer: torch.optim.Optimizer) -> None:
        """Put a checkpoint's state into the model and the optimizer."""
        state = torch.load(path, weights_only=True, map_location="cpu")
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])

    def _found(self) -> list[tuple[int, Path]]:
        return sorted((int(p.stem[5:]), p) for p in self._directory.glob("step-*.pt"))


class Trace:
    """A trace of torch.profiler of a few steps; nothing where no file is asked for."""

    def __init__(self, path: Path | None, first: int) -> None:
        self._path = path
        self._first, self._end = first, first + TRACED_STEPS
        self._profiler: torch.profiler.profile | None = None

    def before(self, step: int) -> None:
        """Begin, go on or end, as it is `step`'s turn."""
        if self._path is None:
            return
        if step == self._first:
            # with_stack names the model's modules
            self._profiler = torch.profiler.profile(with_stack=True)
            self._profiler.start()
        elif self._profiler is not None and step < self._end:
            self._profiler.step()
        elif self._profiler is not None:
            self._profiler.stop()
            self._profiler.export_chrome_trace(str(self._path))
            self._profiler = None


@torch.no_grad()
def evaluate(model: Gpt, batches: Batches) -> float:
    """Mean loss over four batches of held-out text, in nats a token."""
    return sum(float(model.loss(batches.held_out(number))) for number in range(4)) / 4


def train(options: argparse.Namespace, directory: Path, stop: Stop) -> dict[str, object]:
    """Train until the step or time limit, or until asked to stop; say what was done."""
    checkpoints = Checkpoints(directory)
    newest = checkpoints.newest() if options.resume else None
    done = newest[0] if newest else 0
    client.init(
        workload=WORKLOAD,
        tags={"team": "research"},
        resumed_from_step=done if newest else None,
    )

    trace = Trace(options.trace, done + TRACED_AFTER)
    device = device_named(options.device)
    torch.use_deterministic_algorithms(device.type == "cpu")
    torch.manual_seed(options.seed)
    model = Gpt(Shape()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    if newest:
        checkpoints.load(newest[1], model, optimizer)
    batches = Batches(options.seed, device)

    first, loss, evaluation_loss = done, None, None
    deadline = time.monotonic() + options.seconds
    while done < options.steps and time.monotonic() < deadline and not stop.asked:
        trace.before(done + 1)
        with client.step(done + 1) as step:
            total = torch.zeros((), device=device)
            for micro_batch in range(MICRO_BATCHES):
                with step.phase("data_wait"):
                    batch = batches.training(done + 1, micro_batch)
                with step.phase("forward"):
                    micro_loss = model.loss(batch)
                with step.phase("backward"):
                    (micro_loss / MICRO_BATCHES).backward()
                total += micro_loss.detach() / MICRO_BATCHES
            with step.phase("optimizer"):
                optimizer.step()
                optimizer.zero_grad()
            step.add(
                tokens=MICRO_BATCHES * SEQUENCES * SEQUENCE_TOKENS,
                samples=MICRO_BATCHES * SEQUENCES,
                micro_batches=MICRO_BATCHES,
            )
        done, loss = done + 1, total.item()
        if done % options.checkpoint_every == 0:
            with client.checkpoint():
                checkpoints.save(done, model, optimizer)
        if done % options.evaluate_every == 0:
            with client.evaluation():
                evaluation_loss = evaluate(model, batches)

    return {
        "workload": WORKLOAD,
        "run": os.environ.get("APPORTION_RUN"),
        "steps": done - first,
        "last_step": done,
        "tokens": (done - first) * MICRO_BATCHES * SEQUENCES * SEQUENCE_TOKENS,
        "loss": loss,
        "evaluation_loss": evaluation_loss,
        "weights": sum(weights.numel() for weights in model.parameters()),
        "stopped_early": stop.asked,
    }


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=1_000_000, help="last step to reach")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="train no longer")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or the best there is: auto")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, help="for checkpoints (default: a temporary one)")
    parser.add_argument(
        "--trace", type=Path, metavar="FILE", help="write a trace of torch.profiler of some steps"
    )
    parser.add_argument("--resume", action="store_true", help="from the newest checkpoint there")
    parser.add_argument("--checkpoint-every", type=int, default=50, metavar="STEPS")
    parser.add_argument("--evaluate-every", type=int, default=25, metavar="STEPS")
    options = parser.parse_args()
    if options.resume and options.directory is None:
        parser.error("--resume needs --directory: where are the checkpoints?")
    if options.checkpoint_every < 1 or options.evaluate_every < 1 or options.threads < 1:
        parser.error("--checkpoint-every, --evaluate-every and --threads are at least 1")
    return options


def main() -> None:
    """Run the program."""
    options = arguments()
    stop = Stop()
    signal.signal(signal.SIGTERM, stop.ask)
    signal.signal(signal.SIGINT, stop.ask)
    torch.set_num_threads(options.threads)
    if options.directory is not None:
        done = train(options, options.directory, stop)
    else:
        with tempfile.TemporaryDirectory(prefix="train-gpt-") as temporary:
            done = train(options, Path(temporary), stop)
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
