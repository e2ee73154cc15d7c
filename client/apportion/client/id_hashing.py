"""Ids that nobody can read back: request ids and tenants as keyed hashes, where that is asked for.

The hash (BLAKE2b with a key, 128 bits) is made before anything is stored, so that the id itself is
in no ring, ledger, label or trace. Everybody with the same key makes the same hash of an id;
without the key nobody can try out names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from apportion.client.counting import count

KEY_FILE: Final = "APPORTION_ID_KEY_FILE"
"""A file of at least 16 bytes, the same for all processes that are to agree; hashing is on."""
HASHED: Final = "APPORTION_HASHED_IDS"
"""Which ids, with commas; both where it is unset."""
REQUEST, TENANT = "request", "tenant"
KINDS: Final = (REQUEST, TENANT)
PREFIX: Final = "hash:"
LEAST_KEY_BYTES: Final = 16
_BYTES: Final = 16


class HashedIds:
    """What becomes of ids. `on` is false where they are stored as they come."""

    def __init__(self) -> None:
        self.on = False
        self.path: str | None = None
        """Of the key, where one is named."""
        self._key: bytes | None = None
        self._kinds: frozenset[str] = frozenset()

    def configure(self, environ: Mapping[str, str], key_file: str | None = None) -> None:
        """As `key_file` or the variables say; the key is read when it is first needed."""
        self.path = key_file or environ.get(KEY_FILE) or None
        self._key = None
        named = environ.get(HASHED, "")
        self._kinds = frozenset(filter(None, map(str.strip, named.split(",")))) or frozenset(KINDS)
        self.on = self.path is not None or bool(named)

    def problem(self) -> str | None:
        """Why ids cannot be hashed as was asked for, in words; None where they can."""
        unknown = sorted(self._kinds.difference(KINDS))
        if unknown:
            return f"{HASHED}: there is no {unknown[0]!r}; there are {', '.join(KINDS)}"
        if self.path is None:
            return f"{HASHED} is set and {KEY_FILE} is not"
        try:
            self._key = read_key(Path(self.path))
        except (OSError, ValueError) as error:
            return f"{KEY_FILE}: {error}"
        return None

    def request_id(self, request_id: object) -> str | None:
        """In place of a request's id, or its text; None for what is no id."""
        return self._hashed(REQUEST, request_id)

    def tenant(self, tenant: object) -> str | None:
        """In place of a tenant's name, or the name; None for what is none."""
        return self._hashed(TENANT, tenant)

    def _hashed(self, kind: str, value: object) -> str | None:
        """None where the key cannot be had: rather no id than one that was to be hidden."""
        text = _text(value)
        if not text:
            return None
        if self._key is None and self.problem() is not None:
            count("ids_not_hashed")
            return None
        if kind not in self._kinds or self._key is None:
            return text
        return hashed(self._key, kind, text)


def read_key(path: Path) -> bytes:
    """The key in a file, without the blanks and newlines at its end.

    Raises:
        OSError: it cannot be read.
        ValueError: it is too short to be a secret.
    """
    key = path.read_bytes().rstrip()
    if len(key) < LEAST_KEY_BYTES:
        message = (
            f"{path} has {len(key)} bytes, a key has {LEAST_KEY_BYTES} or more: "
            f"openssl rand -hex 32 > {path}"
        )
        raise ValueError(message)
    return key


def hashed(key: bytes, kind: str, text: str) -> str:
    """The hash of an id of a kind; the same text as a tenant and as a request is not the same."""
    key = key if len(key) <= hashlib.blake2b.MAX_KEY_SIZE else hashlib.blake2b(key).digest()
    made = hashlib.blake2b(
        text.encode("utf-8", "replace"), key=key, person=kind.encode(), digest_size=_BYTES
    )
    return PREFIX + made.hexdigest()


def _text(value: object) -> str | None:
    """The id's text; only of types whose text costs nothing and waits for nothing."""
    if isinstance(value, str):
        return str.__str__(value)
    return str(value) if type(value) is int or type(value).__name__ == "UUID" else None


hashed_ids: Final = HashedIds()
"""Of this process."""
hashed_ids.configure(os.environ)
