"""`apportion simulator`: runs simulated GPUs until it is told to stop, and gives them faults."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from apportion.core.clock import SystemClock
from apportion.core.errors import ApportionError
from apportion.core.units import NS_PER_HOUR, NS_PER_SECOND
from apportion.simulator.build import build, environment
from apportion.simulator.controller import Simulator
from apportion.simulator.faults import KINDS, Fault, FaultBoard, FaultError
from apportion.simulator.identity import STATE_VARIABLE
from apportion.simulator.mirror import Mirror
from apportion.simulator.profiles import PROFILES
from apportion.simulator.state import MAX_DEVICES, NO_END
from apportion.simulator.state_lock import is_simulated

XID: Final = "xid"
_DURATION: Final = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)(ms|s|m|h)?", re.ASCII)
_UNITS_NS: Final = {
    "ms": NS_PER_SECOND // 1_000,
    "s": NS_PER_SECOND,
    "m": 60 * NS_PER_SECOND,
    "h": NS_PER_HOUR,
}
_LONGEST_NS: Final = 24 * NS_PER_HOUR


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate until SIGTERM or SIGINT, or give a fault to what another process simulates.

    While it simulates, standard output is a shell script: comments that say SIMULATED, two
    `export` lines, and the comment `# ready` once the devices answer.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given if given[:1] in _COMMANDS else ["run", *given])
    try:
        status: int = options.command(options)
    except (ApportionError, OSError, ValueError) as error:
        print(f"apportion simulator: {error}", file=sys.stderr)
        return 1
    return status


def default_state(variables: Mapping[str, str], uid: int) -> Path:
    """The state file where none is named: what `STATE_VARIABLE` says, else one of this user."""
    named = variables.get(STATE_VARIABLE)
    if named:
        return Path(named)
    runtime = variables.get("XDG_RUNTIME_DIR") or ("/run" if uid == 0 else None)
    # The last resort carries the uid, so that two users do not meet there.
    folder = Path(runtime) / "apportion" if runtime else Path(f"/tmp/apportion-{uid}")  # noqa: S108
    return folder / "simulator.state"


def _run(options: argparse.Namespace) -> int:
    stop = threading.Event()

    def end(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    handlers = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _simulate(options, stop)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _simulate(options: argparse.Namespace, stop: threading.Event) -> int:
    profile = PROFILES[options.profile]
    beyond = [device for device, _ in options.mig if device >= options.gpus]
    if beyond:
        raise ValueError(
            f"--mig names GPU {beyond[0]}: with --gpus {options.gpus} the last is "
            f"{options.gpus - 1}"
        )
    library = build(options.library_dir)
    if options.state == default_state(os.environ, os.geteuid()):
        options.state.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    with Simulator(
        options.state, profile=profile, devices=options.gpus, seed=options.seed
    ) as simulator:
        for device, profiles in options.mig:
            simulator.set_mig(device, profiles)
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


def _board(state: Path) -> FaultBoard:
    """The faults of what a simulator publishes now: of one that has ended nobody acts on them."""
    board = FaultBoard(state)
    if not is_simulated(state):
        board.close()
        raise FaultError(
            f"{state}: the simulator that made it has ended; start one with `apportion simulator`"
        )
    return board


def _fault(options: argparse.Namespace) -> int:
    board = _board(options.state)
    until_ns = NO_END
    if options.duration is not None:
        until_ns = SystemClock().monotonic_ns() + options.duration
    try:
        if options.name != XID:
            board.inject(options.name, options.gpu, value=options.value, until_ns=until_ns)
        elif options.gpu is None or options.value is None:
            raise FaultError("an xid needs --gpu and --value, such as --gpu 0 --value 79")
        else:
            board.xid(options.gpu, options.value)
    finally:
        board.close()
    return 0


def _clear(options: argparse.Namespace) -> int:
    board = _board(options.state)
    try:
        board.clear(options.gpu)
    finally:
        board.close()
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


def _gpu_and_profiles(text: str) -> tuple[int, list[str]]:
    """`GPU:PROFILE[,PROFILE...]`."""
    gpu, _, profiles = text.partition(":")
    if not gpu.isdecimal():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not GPU:PROFILE[,PROFILE...], for example 0:3g.40gb,2g.20gb"
        )
    return int(gpu), [profile for profile in profiles.split(",") if profile]


def _duration_ns(text: str) -> int:
    """A time with its unit, or seconds without one."""
    found = _DURATION.fullmatch(text.strip())
    duration_ns = int(float(found[1]) * _UNITS_NS[found[2] or "s"]) if found else 0
    if not 0 < duration_ns <= _LONGEST_NS:
        raise argparse.ArgumentTypeError(f"{text}: give up to a day, such as 500ms, 10s or 10m")
    return duration_ns


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
        prog="apportion simulator",
        description="SIMULATED GPUs: a libnvidia-ml.so.1 for tests and demos, and what drives it.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="simulate until a signal (what is done without a word)")
    fault = commands.add_parser(
        "fault",
        help="give running devices a fault",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(_listed_faults()),
    )
    clear = commands.add_parser("clear", help="end faults: of one GPU, or all there are")
    for command, does in ((run, _run), (fault, _fault), (clear, _clear)):
        command.set_defaults(command=does)
        command.add_argument(
            "--state",
            type=Path,
            default=default_state(os.environ, os.geteuid()),
            metavar="FILE",
            help="the state file (default: %(default)s)",
        )
    _add_run_options(run)
    fault.add_argument("name", choices=(*KINDS, XID), metavar="FAULT", help="see below")
    for command in (fault, clear):
        command.add_argument(
            "--gpu", type=int, metavar="N", help="of this GPU, counted from 0 (default: of all)"
        )
    fault.add_argument("--value", type=int, metavar="N", help="the number that some faults take")
    fault.add_argument(
        "--for",
        dest="duration",
        type=_duration_ns,
        metavar="TIME",
        help="how long (default: until `apportion simulator clear`)",
    )
    return parser


def _listed_faults() -> Iterator[str]:
    yield "faults:"
    for name, kind in KINDS.items():
        yield f"  {name:<18} {_summary(kind)}"
    yield f"  {XID:<18} the driver reports XID N (--value)"


def _summary(kind: Fault) -> str:
    default = "" if kind.default is None else f" (N is --value, default {kind.default})"
    return f"{kind.summary}{default}{'' if kind.single else '; of the whole library only'}"


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=sorted(PROFILES), default="h100", help="model of GPU")
    parser.add_argument("--gpus", type=_device_count, default=1, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=0, help="for UUIDs and serials")
    parser.add_argument(
        "--utilization", type=_ratio, default=0.0, metavar="RATIO", help="of every GPU, 0 to 1"
    )
    parser.add_argument(
        "--mig",
        type=_gpu_and_profiles,
        action="append",
        default=[],
        metavar="GPU:PROFILE[,PROFILE...]",
        help="cut a GPU into MIG instances such as 3g.40gb; repeatable",
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


_COMMANDS: Final = (["run"], ["fault"], ["clear"], ["-h"], ["--help"])
"""What may stand first; anything else is an option of `run`."""
