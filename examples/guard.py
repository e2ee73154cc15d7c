"""Guardrails: a classifier that looks at what goes in and comes out, and a log of its decisions.

The weights are random, like the language model's: what it decides is noise, what it costs is real.
The log says who and what was decided, never the text.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

BUCKETS: Final = 4096
WIDTH: Final = 256
GRAM: Final = 3


class Guard(nn.Module):
    """Scores a text from 0 to 1 by its hashed character trigrams."""

    def __init__(self) -> None:
        super().__init__()
        self.grams = nn.EmbeddingBag(BUCKETS, WIDTH, mode="mean")
        self.layers = nn.Sequential(
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, 1),
        )

    @torch.inference_mode()
    def score(self, text: bytes) -> float:
        """How much it objects to a text."""
        padded = text + bytes(GRAM)
        hashed = [
            (padded[at] * 8191 + padded[at + 1] * 127 + padded[at + 2]) % BUCKETS
            for at in range(len(text) or 1)
        ]
        grams = torch.tensor([hashed], device=self.grams.weight.device)
        logit: Tensor = self.layers(self.grams(grams))
        return float(torch.sigmoid(logit))


class DecisionLog:
    """One line of JSON for each decision; nothing without a path."""

    def __init__(self, path: Path | None, threshold: float) -> None:
        self._path, self._threshold = path, threshold
        self._lock = threading.Lock()

    def note(self, request_id: str, tenant: str | None, stage: str, score: float) -> bool:
        """Write down what was decided; whether the text may pass."""
        passes = score <= self._threshold
        if self._path is not None:
            line = {
                "unix_s": time.clock_gettime_ns(time.CLOCK_REALTIME) // 1_000_000 / 1_000,
                "request_id": request_id,
                "tenant": tenant,
                "stage": stage,
                "score": round(score, 4),
                "decision": "pass" if passes else "block",
            }
            with self._lock, self._path.open("a") as log:
                log.write(json.dumps(line) + "\n")
        return passes
