"""Published inputs, where they are at hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks.evaluation.cases import fixtures


@pytest.fixture
def published() -> Path:
    """The folder of published traces and measurements."""
    folder = fixtures()
    if folder is None:
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    return folder
