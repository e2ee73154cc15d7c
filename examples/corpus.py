"""Text for the examples: sentences from a small grammar, the same for the same seed.

Nothing is downloaded and nothing is shipped: a model of a million weights learns this grammar in
seconds, so that a falling loss can be seen while the demo runs.
"""

from __future__ import annotations

import random
from typing import Final

_SUBJECTS: Final = (
    "the trainer",
    "a server",
    "the scheduler",
    "one request",
    "every step",
    "the meter",
    "a quiet device",
    "the second engine",
)
_VERBS: Final = (
    "waits for",
    "measures",
    "shares",
    "settles",
    "sends",
    "counts",
    "holds",
    "pays for",
)
_OBJECTS: Final = (
    "joules",
    "tokens",
    "seconds of device time",
    "idle minutes",
    "pages of memory",
    "small batches",
    "open spans",
)
_PLACES: Final = (
    "on the first node",
    "before the checkpoint",
    "in the morning",
    "while nobody looks",
    "at the end of the hour",
    "without a word",
)


def sentence(source: random.Random) -> str:
    """One sentence in ASCII, between 25 and 90 characters, that ends with a full stop."""
    words = [
        source.choice(_SUBJECTS),
        source.choice(_VERBS),
        str(source.randint(2, 99)),
        source.choice(_OBJECTS),
    ]
    if source.random() < 0.5:
        words.append(source.choice(_PLACES))
    return " ".join(words).capitalize() + "."


def text(seed: int, length: int) -> str:
    """Exactly `length` characters of sentences, one space apart; ASCII, so as many bytes."""
    source = random.Random(seed)
    parts: list[str] = []
    written = 0
    while written < length:
        part = sentence(source) + " "
        parts.append(part)
        written += len(part)
    return "".join(parts)[:length]
