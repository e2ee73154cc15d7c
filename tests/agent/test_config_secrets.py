"""A password of a location is shown nowhere, and the rest of it is."""

from __future__ import annotations

import pytest

from apportion.agent.config_secrets import mask_http_url, mask_url


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("/var/lib/apportion/ledger.db", "/var/lib/apportion/ledger.db"),
        ("postgresql://ann:secret@db:notaport/ledger", "postgresql://***"),
        ("mysql://ann:secret@db/ledger", "mysql://ann:***@db/ledger"),
    ],
)
def test_a_ledgers_location(location: str, shown: str) -> None:
    """Only the password is hidden, unless the URL cannot be read: then all of it."""
    assert mask_url(location) == shown


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("http://host:9400/metrics", "http://host:9400/metrics"),
        ("http://ann:secret@host:9400/metrics", "http://***@host:9400/metrics"),
        ("http://ann:se@cr/et@host/metrics", "http://***@host/metrics"),
        ("http://host/metrics?token=secret", "http://host/metrics?***"),
        ("https://ann:secret@host/x?token=secret", "https://***@host/x?***"),
        ("/recorded/metrics.txt", "/recorded/metrics.txt"),
    ],
)
def test_an_address_that_is_read(location: str, shown: str) -> None:
    """User, password and query go, whatever they are made of; host and path stay."""
    assert mask_http_url(location) == shown
