"""Where the real traces are; they are not part of the project."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published_traces(repository: Path) -> Path:
    """The folder of real traces, with the answers of a peer."""
    default = repository.parent / "shared" / "fixtures"
    folder = Path(os.environ.get("APPORTION_FIXTURES", default)) / "traces"
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    return folder
