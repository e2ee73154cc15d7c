"""With what a process computes: versions, driver, seed, and whether results are deterministic.

Only what the program has loaded is asked, only for what is named here; nothing is imported, no
device is touched, and neither the environment nor the command line is read. What is not known is
absent.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from apportion.client.layout import MANIFEST_KEYS, MANIFEST_PACKAGES

DRIVER: Final = Path("/proc/driver/nvidia/version")
TEXT_LENGTH: Final = 64
_NUMBER: Final = re.compile(r"Kernel Module(?: for \S+)?\s+([0-9][0-9.]*)")
_TORCH: Final[dict[str, Callable[[Any], object]]] = {
    "cuda": lambda torch: torch.version.cuda,
    "hip": lambda torch: torch.version.hip,
    "cudnn": lambda torch: torch.backends.cudnn.version(),
    "nccl": lambda torch: ".".join(map(str, torch.cuda.nccl.version())),
    "seed": lambda torch: torch.initial_seed(),
    "deterministic": lambda torch: torch.are_deterministic_algorithms_enabled(),
    "cudnn_deterministic": lambda torch: torch.backends.cudnn.deterministic,
    "cudnn_benchmark": lambda torch: torch.backends.cudnn.benchmark,
    "matmul_precision": lambda torch: torch.get_float32_matmul_precision(),
    "threads": lambda torch: torch.get_num_threads(),
}
"""What PyTorch says of itself, by key. `seed` is that of its default generator."""


def manifest(driver: Path = DRIVER) -> dict[str, str]:
    """Texts by key, of `layout.MANIFEST_KEYS`: as of now, so call it once the program is set up."""
    system = os.uname()
    found: dict[str, object] = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "system": f"{system.sysname} {system.release} {system.machine}",
        "driver": _driver(driver),
    }
    for package in MANIFEST_PACKAGES:
        module = sys.modules.get(package)
        if module is not None:
            found[package] = _asked(lambda module: module.__version__, module)
    torch = sys.modules.get("torch")
    if torch is not None:
        found |= {key: _asked(ask, torch) for key, ask in _TORCH.items()}
    texts = {key: _text(found.get(key)) for key in MANIFEST_KEYS}
    return {key: text for key, text in texts.items() if text is not None}


def _text(value: object) -> str | None:
    """As a report shows it; None for what is no plain value."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value)[:TEXT_LENGTH] if isinstance(value, (str, int)) and value != "" else None


def _asked(ask: Callable[[Any], object], module: Any) -> object:
    """What a module says; None where this version of it does not, or cannot here."""
    with suppress(Exception):
        return ask(module)
    return None


def _driver(path: Path) -> str | None:
    """The version of NVIDIA's kernel driver, as the driver itself writes it down."""
    try:
        said = _NUMBER.search(path.read_text(errors="replace"))
    except OSError:
        return None
    return said[1] if said else None
