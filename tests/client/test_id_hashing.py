"""Request ids and tenants as keyed hashes, as a ring shows them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from tests.client.decoded import labels, only, request_id

from apportion import client
from apportion.client.__main__ import main
from apportion.client.id_hashing import hashed, hashed_ids, read_key

ID, TENANT = "alice@example.com/7", "search-team"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A deployment's key."""
    path = tmp_path / "key"
    path.write_text("0123456789abcdef0123456789abcdef\n")
    return path


def stored(directory: Path, asked: Any = ID) -> tuple[str, str | None]:
    """What the ring has of one request: its id and its tenant."""
    with client.request(asked, tenant=TENANT, model="llama"):
        pass
    found = only(directory)
    assert labels(found, found.records[-1])[1] == "llama"
    return request_id(found.records[-1]["request_id"])[0], labels(found, found.records[-1])[0]


def test_no_raw_id_is_in_the_ring(directory: Path, key: Path) -> None:
    """Neither of the two is anywhere in the file, and everybody with the key finds them again."""
    client.init(workload="test", directory=directory, id_key_file=key)
    found = stored(directory)
    (ring,) = directory.glob("*.ring")
    assert not [each for each in (ID, TENANT) if each.encode() in ring.read_bytes()]
    secret = read_key(key)
    assert found == (hashed(secret, "request", ID), hashed(secret, "tenant", TENANT))
    assert client.counts() == {}


def test_kinds_and_keys_are_apart() -> None:
    """A tenant that is called as a request is has another hash; so has each under another key."""
    keys = (b"k" * 16, b"l" * 16, b"k" * 65, b"k" * 66)
    assert 8 == len({hashed(key, kind, "x") for key in keys for kind in ("request", "tenant")})


def test_one_kind_alone(directory: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable: tenants that finance knows by name, and requests that nobody does."""
    monkeypatch.setenv("APPORTION_ID_KEY_FILE", str(key))
    monkeypatch.setenv("APPORTION_HASHED_IDS", "request")
    client.init(workload="test", directory=directory)
    found, tenant = stored(directory)
    assert (found[:5], tenant) == ("hash:", TENANT)


@pytest.mark.parametrize(
    ("text", "kinds", "said"),
    [
        (None, "", "No such file"),
        ("short", "", "has 5 bytes, a key has 16 or more"),
        ("0123456789abcdef", "tenants", "there is no 'tenants'"),
    ],
)
def test_rather_no_id_than_a_raw_one(
    directory: Path, tmp_path: Path, text: str | None, kinds: str, said: str
) -> None:
    """Where ids cannot be hashed as was asked for, none is stored, and it is counted."""
    path = tmp_path / "key"
    if text is not None:
        path.write_text(text)
    hashed_ids.configure({"APPORTION_ID_KEY_FILE": str(path), "APPORTION_HASHED_IDS": kinds})
    assert stored(directory) == ("", None)
    assert said in (hashed_ids.problem() or "")
    assert client.counts() == {"ids_not_hashed": 2}


def test_without_a_key_file(directory: Path) -> None:
    """Half of the setting is none, and hides nothing: nothing is stored either."""
    hashed_ids.configure({"APPORTION_HASHED_IDS": "tenant"})
    assert stored(directory) == ("", None)


def test_numbers_and_objects(directory: Path, key: Path) -> None:
    """What has a text has that text's hash; what has none at no cost has no id, as ever."""
    hashed_ids.configure({"APPORTION_ID_KEY_FILE": str(key)})
    secret = read_key(key)
    number, unique = 7, uuid.UUID(int=5)
    assert stored(directory, number)[0] == hashed(secret, "request", "7")
    assert stored(directory, unique)[0] == hashed(secret, "request", str(unique))
    assert stored(directory, object())[0] == stored(directory, None)[0] == ""


def test_a_hash_is_found_again(key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Who has the key learns what a name is called; who has none is told so."""
    environ = {"APPORTION_ID_KEY_FILE": str(key)}
    assert main(environ, ["hash", "tenant", TENANT]) == 0
    assert capsys.readouterr().out == hashed(read_key(key), "tenant", TENANT) + "\n"
    for without, words in (({}, ["hash", "tenant", "x"]), (environ, ["hash", "team", "x"])):
        assert main(without, words) == 2
    assert "set APPORTION_ID_KEY_FILE" in capsys.readouterr().err
