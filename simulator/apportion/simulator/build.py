"""Compiles the library and says how a child process is made to load it."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from apportion.core.errors import ApportionError
from apportion.simulator.identity import STATE_VARIABLE

LIBRARY_NAME: Final = "libnvidia-ml.so.1"
SOURCES: Final = Path(__file__).parent / "native"
FLAGS: Final = (
    "-std=c11",
    "-O2",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-pthread",
    "-Wall",
    "-Wextra",
    f"-Wl,-soname,{LIBRARY_NAME}",
)


class BuildError(ApportionError):
    """The simulated library could not be compiled."""


def build(out_dir: Path | None = None, *, compiler: str | None = None) -> Path:
    """Compile the library, unless the same sources were compiled there before.

    Args:
        out_dir: where to keep it; by default the user's cache directory. Each build has a folder
            of its own below, named by a hash of the sources, the flags and the machine.
        compiler: the C compiler; by default `$CC`, else the first of cc, gcc and clang.

    Returns:
        The path of `libnvidia-ml.so.1`.

    Raises:
        BuildError: there is no compiler, or it refused the sources.
    """
    root = _cache_directory(os.environ) if out_dir is None else out_dir
    folder = root / _fingerprint(SOURCES)
    library = folder / LIBRARY_NAME
    if library.exists():
        return library
    command = _find_compiler(compiler, os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as workplace:
        product = Path(workplace) / LIBRARY_NAME
        sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
        result = subprocess.run(
            [command, *FLAGS, "-o", str(product), *sources],
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise BuildError(
                f"{command} could not compile the simulator from {SOURCES} "
                f"(exit status {result.returncode}):\n{result.stderr.strip()}"
            )
        product.replace(library)  # whole or not at all: others may build at the same time
    return library


def environment(
    state: Path, library: Path, *, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The variables that make a child process load `library` and read `state`.

    `inherited` (by default this process's environment) may hold a search path already; it is kept,
    after the library's directory.
    """
    variables = os.environ if inherited is None else inherited
    search_path = [str(library.parent.resolve()), variables.get("LD_LIBRARY_PATH", "")]
    return {
        "LD_LIBRARY_PATH": os.pathsep.join(part for part in search_path if part),
        STATE_VARIABLE: str(state.resolve()),
    }


def _cache_directory(variables: Mapping[str, str]) -> Path:
    base = variables.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "apportion" / "simulator"


def _fingerprint(sources: Path) -> str:
    digest = hashlib.sha256(f"{platform.machine()} {' '.join(FLAGS)}".encode())
    for path in sorted(sources.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:20]


def _find_compiler(wanted: str | None, variables: Mapping[str, str]) -> str:
    named = wanted or variables.get("CC")
    candidates = [named] if named else ["cc", "gcc", "clang"]
    for candidate in candidates:
        found = shutil.which(candidate, path=variables.get("PATH"))
        if found:
            return found
    raise BuildError(
        f"no C compiler found (looked for {', '.join(candidates)}): install one, for example with "
        "`apt-get install gcc libc6-dev`, or name it in the environment variable CC"
    )
