"""Where a ring can be made: the first directory that exists and is writable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from apportion.client.layout import DEFAULT_DIRECTORY, DIRECTORY_VARIABLE, USER_DIRECTORY


class Candidate(NamedTuple):
    """A directory that was looked at."""

    path: str
    source: str
    """Who named it: `init(directory=)`, an environment variable, or `the default`."""
    problem: str | None
    """Why a ring cannot be made there; None where it can."""


def problem_of(path: str) -> str | None:
    """Why this process cannot make a ring in `path`, in words, or None."""
    try:
        mode = Path(path).stat()
    except FileNotFoundError:
        return "does not exist"
    except (OSError, ValueError) as error:
        return f"cannot be looked at: {getattr(error, 'strerror', None) or error}"
    if not os.path.isdir(path):  # noqa: PTH112 - one more stat, no Path: this may run in a workload
        return "is not a directory"
    if os.access(path, os.W_OK | os.X_OK):
        return None
    return (
        f"is not writable for uid {os.geteuid()} "
        f"(owner {mode.st_uid}, group {mode.st_gid}, mode {mode.st_mode & 0o7777:04o}): "
        "join its group, or run in a pod with its fsGroup"
    )


def candidates(
    directory: str | None, environ: Mapping[str, str], default: str = DEFAULT_DIRECTORY
) -> tuple[Candidate, ...]:
    """Each directory in the order in which it is tried.

    What somebody named is the only one: spans must not turn up with an agent that was not meant.
    """
    if directory:
        places = [(directory, "init(directory=)")]
    elif environ.get(DIRECTORY_VARIABLE):
        places = [(environ[DIRECTORY_VARIABLE], DIRECTORY_VARIABLE)]
    else:
        places = [(default, "the default")]
        runtime = environ.get("XDG_RUNTIME_DIR")
        if runtime:
            places.append((f"{runtime}/{USER_DIRECTORY}", "XDG_RUNTIME_DIR"))
    return tuple(Candidate(path, source, problem_of(path)) for path, source in places)
