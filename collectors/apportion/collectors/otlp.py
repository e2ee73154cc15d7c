"""The OTLP door (`apportion otlp`) beside the agent: a `Door` that listens on addresses."""

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
        "apportion_otlp_spans_total",
        "counter",
        "spans",
        ("outcome",),
        "OpenTelemetry spans that arrived: accepted as requests, repeated, malformed, refused "
        "(too many services), ignored (no requests).",
        "otlp",
    ),
    Family(
        "apportion_otlp_exports_refused_total",
        "counter",
        "exports",
        ("reason",),
        "Exports that were not taken: busy (too much at once), broken (cannot be read).",
        "otlp",
    ),
)
_COUNTED: Final[Counted] = {
    "otlp_spans_total": (
        "outcome",
        ("accepted", "repeated", "malformed", "refused", "ignored"),
    ),
    "otlp_exports_refused_total": ("reason", ("busy", "broken")),
}


class Otlp(Door):
    """The `otlp` collector. `command` replaces the door, for tests of what a broken one does."""

    def __init__(
        self, options: CollectorOptions, clock: Clock, *, command: Sequence[str] | None = None
    ) -> None:
        super().__init__("otlp", "OTLP", command or _command(options), _COUNTED, options, clock)

    def start(self) -> None:
        """Start the door.

        Raises:
            NoData: no address is configured.
            CollectorError: it cannot be started, or is not installed.
        """
        if self._options.otlp_http is None and self._options.otlp_grpc is None:
            raise NoData("no address is named: set `otlp_http` or `otlp_grpc`")
        if not is_installed():
            raise CollectorError("OTLP is not installed: pip install 'apportion[otlp]'")
        super().start()


def is_installed() -> bool:
    """Whether what the extra `otlp` brings is here."""
    try:
        return all(map(find_spec, ("google.rpc", "grpc", "opentelemetry.proto")))
    except ModuleNotFoundError:  # of a package around one of them
        return False


def _command(options: CollectorOptions) -> Sequence[str]:
    command = door_command("otlp", options)
    for flag, address in (("--http", options.otlp_http), ("--grpc", options.otlp_grpc)):
        command += [] if address is None else [flag, address]
    if options.otlp_tenant_attribute is not None:
        command += ["--tenant-attribute", options.otlp_tenant_attribute]
    return command


@BUILT_IN.register("otlp", default=False, devices=False, period_ns=PERIOD_NS)
def make(options: CollectorOptions, clock: Clock) -> Otlp:
    """The registered factory."""
    return Otlp(options, clock)
