"""What tests of prices share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def published_prices(repository: Path) -> Path:
    """The folder of real price lists; it is not part of the project."""
    default = repository.parent / "shared" / "fixtures"
    folder = Path(os.environ.get("APPORTION_FIXTURES", default)) / "prices"
    if not folder.is_dir():
        pytest.skip("no published inputs: set APPORTION_FIXTURES to their folder")
    return folder
