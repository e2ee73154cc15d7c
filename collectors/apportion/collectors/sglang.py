"""The door for SGLang's request logs (`apportion sglang`) beside the agent: a `Door`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Final

from apportion.collectors.door import PERIOD_NS, Counted, Door, door_command
from apportion.collectors.options import CollectorOptions
from apportion.collectors.registry import BUILT_IN
from apportion.core.clock import Clock
from apportion.core.errors import CollectorError, NoData
from apportion.core.family import Family

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_sglang_lines_total",
        "counter",
        "lines",
        ("outcome",),
        "Lines of SGLang's request logs: accepted as requests, malformed, refused (too many "
        "services), old (from before the door was first started).",
        "sglang",
    ),
    Family(
        "apportion_sglang_forward_passes_total",
        "counter",
        "messages",
        ("outcome",),
        "Messages of SGLang's schedulers about forward passes: heard, broken (no such message), "
        "foreign (of a version that is not known).",
        "sglang",
    ),
)
LOGS: Final = "sglang-request-metrics-*.log"
"""What SGLang calls its logs, one for each hour."""
PASSES_SCHEME: Final = "ipc://"
"""Of `sglang_forward_passes`: rank N of a server is at the path behind it, a dot and N."""
STATE: Final = "sglang-logs.json"
"""How far the logs have been read, in the agent's directory of state."""
_COUNTED: Final[Counted] = {
    "sglang_lines_total": ("outcome", ("accepted", "malformed", "refused", "old")),
    "sglang_forward_passes_total": ("outcome", ("heard", "broken", "foreign")),
}


class Sglang(Door):
    """The `sglang` collector."""

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        super().__init__("sglang", "SGLang", _command(options), _COUNTED, options, clock)

    def start(self) -> None:
        """Start the door.

        Raises:
            NoData: no log is configured.
            CollectorError: it cannot be started.
        """
        if not self._options.sglang_logs:
            raise NoData("no log is named: set `sglang_logs`")
        if self._options.sglang_forward_passes and not can_hear():
            raise CollectorError(
                "ZeroMQ is not installed: pip install 'apportion[sglang]', or leave out "
                "`sglang_forward_passes`"
            )
        super().start()


def can_hear() -> bool:
    """Whether what the extra `sglang` brings is here."""
    return all(map(find_spec, ("msgspec", "zmq")))


def _command(options: CollectorOptions) -> Sequence[str]:
    command = door_command("sglang", options)
    for log in options.sglang_logs:
        command += ["--log", log]
    for name in options.sglang_forward_passes:
        command += ["--forward-passes", name]
    if options.sglang_tenant_label is not None:
        command += ["--tenant-label", options.sglang_tenant_label]
    if options.state_dir is not None:
        command += ["--state", str(options.state_dir / STATE)]
    return command


@BUILT_IN.register("sglang", default=False, devices=False, period_ns=PERIOD_NS)
def make(options: CollectorOptions, clock: Clock) -> Sglang:
    """The registered factory."""
    return Sglang(options, clock)
