"""Places of metrics as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from apportion.collectors.target import Target, parse_targets
from apportion.core.errors import ConfigError

HOST = {"HOST_IP": "10.0.0.7", "HOST_IP6": "fd00::7", "EMPTY": ""}


def parsed(text: str) -> Target:
    return Target.parse(text, HOST)


@pytest.mark.parametrize(
    ("text", "host", "port", "path", "name"),
    [
        ("http://localhost:9400/metrics", "localhost", 9400, "/metrics", "localhost:9400"),
        ("http://localhost:9400", "localhost", 9400, "/metrics", "localhost:9400"),
        ("http://localhost:9400/", "localhost", 9400, "/metrics", "localhost:9400"),
        ("localhost:8000", "localhost", 8000, "/metrics", "localhost:8000"),
        (" 10.1.2.3:8000/m ", "10.1.2.3", 8000, "/m", "10.1.2.3:8000/m"),
        ("http://node/m?a=b", "node", 80, "/m?a=b", "node:80/m"),
        ("https://node", "node", 443, "/metrics", "node:443"),
        ("http://[::1]:9400", "::1", 9400, "/metrics", "[::1]:9400"),
        ("[::1]:9400", "::1", 9400, "/metrics", "[::1]:9400"),
        ("http://$(HOST_IP):9400/metrics", "10.0.0.7", 9400, "/metrics", "10.0.0.7:9400"),
        ("http://$(HOST_IP6):9400", "fd00::7", 9400, "/metrics", "[fd00::7]:9400"),
    ],
)
def test_urls(text: str, host: str, port: int, path: str, name: str) -> None:
    """The scheme and the path go without saying; the name shows no more than the place."""
    target = parsed(text)
    assert (target.host, target.port, target.path, target.name) == (host, port, path, name)
    assert target.file is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/tmp/a.prom", "/tmp/a.prom"),
        ("recorded/a.prom", "recorded/a.prom"),
        ("file:///tmp/a%20b.prom", "/tmp/a b.prom"),
    ],
)
def test_recorded_texts(text: str, path: str) -> None:
    """A path wherever a URL is taken."""
    assert parsed(text).file == Path(path)
    assert parsed(text).name == path


def test_a_password_is_sent_and_never_shown() -> None:
    """Exporters behind basic authentication."""
    target = parsed("http://us%40er:p%3Aw@node:9400/metrics")
    assert target.authorization == "Basic dXNAZXI6cDp3"
    assert target.name == "node:9400"
    assert "dXNA" not in repr(target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ftp://secret@node/metrics",
        "http://",
        "http://secret@node:99999/",
        "http://secret@no de/",
        "http://secret@node/mé",
        "http://[::1",
        "http://$(NOT_SET):9400",
        "http://$(EMPTY):9400",
    ],
)
def test_what_is_no_target_is_refused(text: str) -> None:
    """With what is wrong, and without the text, which may hold a password."""
    with pytest.raises(ConfigError) as refused:
        parsed(text)
    assert "secret" not in str(refused.value)


def test_each_place_once() -> None:
    """Written twice, it is scraped once."""
    targets = parse_targets(("localhost:9400", "http://localhost:9400/metrics", "b:1"), HOST)
    assert [target.name for target in targets] == ["localhost:9400", "b:1"]
