"""What an operator may set: `parameters.yaml`, and the choices that stay with the files made of it.

Choices are kept in the folder that the files were written to, as NAME: VALUE, and the next run for
that folder begins with them: who changes one parameter keeps the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

import yaml

KEPT: Final = Path("alerts/parameters.yaml")
"""Where the choices are, below the folder for the files."""
_HEAD: Final = (
    "# What `python -m alerts --set` chose for the files in this folder. The next run begins with\n"
    "# it; without its line a parameter has its default again.\n"
)
FORMS: Final = {
    "currency": (r"[a-z]{3}", "a currency's three letters in lower case, such as eur"),
    "name": (r"[A-Za-z0-9_./-]+", "a name of letters, digits and _ . / -"),
    "address": (r"[^\s\"'<>{}\\]+", "a path or a URL, without spaces and quotes"),
    "bound": (r"\d+\.\d+", "seconds with a decimal point, as `le` on /metrics, such as 0.5"),
    "share": (r"0\.\d*[1-9]\d*", "a share between 0 and 1, such as 0.99"),
    "duration": (
        r"(?=\d)([1-9]\d*d)?([1-9]\d*h)?([1-9]\d*m)?([1-9]\d*s)?",
        "a duration, such as 90s, 15m or 1h30m",
    ),
    "amount": (r"(?=.*[1-9])\d+(\.\d+)?", "an amount above 0, such as 12.50"),
    "count": (r"[1-9]\d*", "a whole number above 0"),
    "codes": (r"\d+(\|\d+)*", "XID codes with | between them, such as 48|63"),
}
"""What a value may look like, as an expression and in words."""


class ParameterError(ValueError):
    """There is no such parameter, or it cannot have this value."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What an operator may set."""

    name: str
    value: str
    help: str


def parameters(given: Mapping[str, str], listed: Path) -> tuple[Parameter, ...]:
    """Those of the file `listed`, with the given values instead of the defaults.

    Raises:
        ParameterError: one that is not in the file, or a value that is not of its form.
    """
    known: dict[str, dict[str, str]] = yaml.safe_load(listed.read_text(encoding="utf-8"))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ParameterError(
            f"no such parameter: {', '.join(unknown)}; there are {', '.join(known)}"
        )
    values = {name: entry["value"] for name, entry in known.items()} | dict(given)
    for name, value in values.items():
        pattern, words = FORMS[known[name]["form"]]
        if re.fullmatch(pattern, value) is None:
            raise ParameterError(f"{name}={value}: it wants {words}")
    return tuple(Parameter(name, values[name], entry["help"]) for name, entry in known.items())


def kept(folder: Path) -> dict[str, str]:
    """What was chosen for the files in this folder; nothing where there are none yet.

    Raises:
        ParameterError: the file is not NAME: VALUE.
    """
    path = folder / KEPT
    if not path.exists():
        return {}
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is no YAML: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ParameterError(f"{path}: it wants lines of NAME: VALUE")
    entries = cast("dict[object, object]", found)
    return {str(name): str(value) for name, value in entries.items()}


def keeping(chosen: Mapping[str, str]) -> str:
    """The text of the file that keeps them."""
    return _HEAD + (yaml.safe_dump(dict(chosen)) if chosen else "")
