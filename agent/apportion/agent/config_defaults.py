"""Defaults of the configuration that depend on the host and on the user."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from apportion.client.layout import USER_DIRECTORY


def host_defaults(environment: Mapping[str, str], *, uid: int, host_name: str) -> dict[str, object]:
    """The defaults that depend on the host: directories that this user may write, its name.

    `uid` 0 takes the system's directories. A plain user without a runtime directory gets one
    under /tmp that carries the uid.
    """
    defaults: dict[str, object] = {"node": host_name or "localhost"}
    if uid == 0:
        return defaults
    home = environment.get("HOME", f"/tmp/apportion-{uid}")  # noqa: S108 - last resort, named by uid
    state = Path(environment.get("XDG_STATE_HOME") or Path(home) / ".local" / "state")
    runtime = Path(environment.get("XDG_RUNTIME_DIR") or f"/tmp/apportion-{uid}")  # noqa: S108
    defaults["state_dir"] = str(state / "apportion")
    defaults["ring_dir"] = str(runtime / USER_DIRECTORY)
    defaults["lock_dir"] = str(runtime / "apportion" / "locks")
    return defaults
