"""The command line: runs simulated GPUs until it is told to stop."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from apportion.core.errors import ApportionError
from apportion.simulator.build import build, environment
from apportion.simulator.controller import Simulator
from apportion.simulator.mirror import Mirror
from apportion.simulator.profiles import PROFILES
from apportion.simulator.state import MAX_DEVICES


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate until SIGTERM or SIGINT; returns the exit status.

    Standard output is a shell script: comments that say SIMULATED, two `export` lines, and the
    comment `# ready` once the devices answer.
    """
    options = _parser().parse_args(arguments)
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _simulate(options, stop)
    except (ApportionError, OSError, ValueError) as error:
        print(f"apportion.simulator: {error}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _simulate(options: argparse.Namespace, stop: threading.Event) -> int:
    profile = PROFILES[options.profile]
    library = build(options.library_dir)
    with Simulator(
        options.state, profile=profile, devices=options.gpus, seed=options.seed
    ) as simulator:
        for device in range(options.gpus):
            simulator.set_utilization(device, options.utilization)
        if options.mirror:
            simulator.mirror(_mirror(options))
        print(f"# SIMULATED: {options.gpus} x {profile.name}. No value was measured on a GPU.")
        for name, value in environment(options.state, library).items():
            print(f"export {name}={shlex.quote(value)}")
        print("# ready", flush=True)
        simulator.run(stop)
    return 0


def _mirror(options: argparse.Namespace) -> Mirror:
    devices_of_pids: dict[int, tuple[int, ...]] = {}
    for pid, devices in options.mirror:
        devices_of_pids[pid] = (*devices_of_pids.get(pid, ()), *devices)
    return Mirror(devices_of_pids, cores=options.mirror_cores)


def _pid_and_devices(text: str) -> tuple[int, tuple[int, ...]]:
    """`PID:DEVICE[,DEVICE...]`."""
    pid, _, devices = text.partition(":")
    try:
        return int(pid), tuple(int(device) for device in devices.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not PID:DEVICE[,DEVICE...], for example 4711:0,1"
        ) from None


def _ratio(text: str) -> float:
    ratio = float(text)
    if not 0.0 <= ratio <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is not a ratio from 0 to 1")
    return ratio


def _device_count(text: str) -> int:
    count = int(text)
    if not 0 <= count <= MAX_DEVICES:
        raise argparse.ArgumentTypeError(f"{text} GPUs: give a number from 0 to {MAX_DEVICES}")
    return count


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m apportion.simulator",
        description="SIMULATED GPUs: a libnvidia-ml.so.1 for tests and demos, and what drives it.",
    )
    parser.add_argument("--profile", choices=sorted(PROFILES), default="h100", help="model of GPU")
    parser.add_argument("--gpus", type=_device_count, default=1, metavar="N", help="how many")
    parser.add_argument("--state", type=Path, required=True, metavar="FILE", help="file to make")
    parser.add_argument("--seed", type=int, default=0, help="for UUIDs and serials")
    parser.add_argument(
        "--utilization", type=_ratio, default=0.0, metavar="RATIO", help="of every GPU, 0 to 1"
    )
    parser.add_argument(
        "--mirror",
        type=_pid_and_devices,
        action="append",
        metavar="PID:DEVICE[,DEVICE...]",
        help="let devices follow the CPU use of a process, and list it on them; repeatable",
    )
    parser.add_argument(
        "--mirror-cores",
        type=float,
        metavar="CORES",
        help="how many busy cores make a mirrored device fully busy (default: all)",
    )
    parser.add_argument(
        "--library-dir", type=Path, metavar="DIR", help="where to build (default: user's cache)"
    )
    return parser
