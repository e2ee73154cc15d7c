"""The `apportion` command: dependency-free, so that it is there wherever the client is.

Commands live in `apportion.agent.cli`, which the extra `agent` brings; without it this says so.
What the agent must not import has a command line of its own (`_OWN`).
"""

from __future__ import annotations

import importlib
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Final

_HELP: Final = """\
usage: apportion COMMAND ...

Who caused the GPU's cost: money and joules per request, per token and per training step.

The base install holds the client, `apportion run -- COMMAND`, which measures the steps of a PyTorch
program without an edit, and `apportion sglang`, which reads the log of a server. The other commands
(agent, report, prices, replay, audit, doctor, once, check-config, ledger, release, simulator) come
with the extra `agent`, `otlp` with `otlp`, `trace` and `flamegraph` with `profiles`, `profile` with
`agent` and `profiles`:

    pip install 'apportion[agent,profiles]'

`python -m apportion.client` says why nothing arrives from this environment.
"""

_AGENT: Final = "apportion.agent.cli"
_OWN: Final = {
    "otlp": "apportion.doors.otlp",
    "run": "apportion.client.run",
    "sglang": "apportion.doors.sglang",
    "simulator": "apportion.simulator.cli",
}
"""Commands that are no part of the agent, by their first word."""
_EXTRAS: Final = frozenset({"otlp", "sglang"})
"""Commands whose extra is called as they are."""
_OF_PROFILES: Final = frozenset({"trace", "flamegraph"})
_PROFILES: Final = frozenset({"msgspec", "numpy"})
"""What the extra `profiles` brings to them; with a ledger `flamegraph` needs `agent`, too."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status: 2 where it cannot run here."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["--version"], ["-V"]):
        sys.stdout.write(f"apportion {_version()}\n")
        return 0
    own = _OWN.get(arguments[0]) if arguments else None
    try:
        commands = importlib.import_module(own or _AGENT)
        status: int = commands.main(arguments[1:] if own else arguments)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing.partition(".")[0] == "apportion" and missing != "apportion.agent":
            raise
        if not arguments or arguments[0] in {"-h", "--help", "help"}:
            sys.stdout.write(_HELP)
            return 0
        extra = _extra(arguments[0], missing)
        sys.stderr.write(
            f"apportion {arguments[0]}: this command needs the extra `{extra}` "
            f"(there is no module {missing}): pip install 'apportion[{extra}]'\n"
        )
        return 2
    return status


def _extra(command: str, missing: str) -> str:
    if command in _EXTRAS:
        return command
    if command in _OF_PROFILES and missing.partition(".")[0] in _PROFILES:
        return "profiles"
    return "agent,profiles" if command in {*_OF_PROFILES, "profile"} else "agent"


def _version() -> str:
    try:
        return version("apportion")
    except PackageNotFoundError:
        return "unknown (not installed)"


if __name__ == "__main__":
    sys.exit(main())
