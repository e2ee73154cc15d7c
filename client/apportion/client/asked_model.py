"""Which model the body of a request asks for, and nothing else of it.

An OpenAI-compatible body is a JSON object with a text called `model`. Only that is decoded; the
rest is looked through for its key and forgotten: inside of a JSON string a quotation mark follows
a backslash, so a prompt cannot pretend to be one.
"""

from __future__ import annotations

import json
import re
from typing import Final

_NAME: Final = re.compile(rb'[{,\s]"model"\s*:\s*("(?:[^"\\]|\\.){1,256}")')
_KEPT: Final = 1024
"""More than a key and its name are long."""


class AskedModel:
    """Finds the first name in a body that comes piece by piece."""

    def __init__(self) -> None:
        self._kept = b""
        self.name: str | None = None
        """None until it came."""

    def feed(self, body: bytes) -> None:
        """Look through the next bytes of the body."""
        if self.name is not None:
            return
        text = self._kept + body
        found = _NAME.search(text)
        self._kept = text[-_KEPT:]
        if found is not None:
            try:
                self.name = json.loads(found[1])
            except ValueError:  # no UTF-8, or a broken escape
                self.name = ""
