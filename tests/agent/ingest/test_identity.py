"""The identity of a ring: strict, bounded, and never an error."""

from __future__ import annotations

import json

import hypothesis.strategies as st
import pytest
from hypothesis import given

from apportion.agent.ingest import Identity
from apportion.agent.ingest.identity import DEVICES, TAGS, TEXT_CHARACTERS, parse_identity
from apportion.client import layout

WHOLE = {
    "workload": "llama",
    "kind": "trainer",
    "run": "run-1",
    "attempt": "2",
    "restart_count": 2,
    "rank": 3,
    "local_rank": 1,
    "world_size": 8,
    "tags": {"team": "nlp"},
    "devices": ["GPU-1", "GPU-2"],
    "device_hints": {"CUDA_VISIBLE_DEVICES": "1,0"},
    "resumed_from_step": 400,
    "flops_per_token": 48 * 10**9,
    "client_version": "0.1.0",
    "manifest": {"torch": "2.13.0", "seed": "7"},
    "parallel": {"tensor": 2, "data": 4},
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=300),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=6),
    max_leaves=12,
)


def parsed(document: object) -> Identity:
    return parse_identity(json.dumps(document).encode())


def test_every_key_of_the_layout_is_read() -> None:
    """Protects the contract with the client: no key it may write is dropped."""
    assert set(WHOLE) == layout.IDENTITY_KEYS
    identity = parsed(WHOLE)
    assert identity.ignored == 0
    assert (identity.workload, identity.kind, identity.run) == ("llama", "trainer", "run-1")
    assert (identity.attempt, identity.rank, identity.local_rank) == ("2", 3, 1)
    assert identity.restart_count == 2
    assert (identity.world_size, identity.resumed_from_step) == (8, 400)
    assert identity.flops_per_token == 48 * 10**9
    assert identity.tags == (("team", "nlp"),)
    assert identity.devices == ("GPU-1", "GPU-2")
    assert identity.device_hints == (("CUDA_VISIBLE_DEVICES", "1,0"),)
    assert identity.client_version == "0.1.0"
    assert identity.manifest == (("torch", "2.13.0"), ("seed", "7"))
    assert identity.parallel == (("tensor", 2), ("data", 4))


def test_only_what_is_named_is_taken_from_a_manifest() -> None:
    """Whoever makes a ring cannot have the ledger keep what no manifest says."""
    identity = parsed({"manifest": {"HF_TOKEN": "secret", "argv": "--key", "seed": "7"}})
    assert identity.manifest == (("seed", "7"),)
    assert identity.ignored == 2


@pytest.mark.parametrize(
    "said",
    [{"tensor": -1}, {"tensor": "2"}, {"tensor": True}, {"sizes": 2}, {"data": 1 << 40}, [2]],
)
def test_parallel_sizes_are_small_numbers(said: object) -> None:
    """What is none is ignored and counted: devices are divided by them."""
    identity = parsed({"parallel": said})
    assert identity.parallel == ()
    assert identity.ignored == 1


def test_nothing_said_is_none() -> None:
    """Protects against defaults that look like facts."""
    assert parse_identity(b"") == parsed({}) == Identity()
    assert parsed(dict.fromkeys(WHOLE)) == Identity()


def test_a_restart_count_is_an_attempt() -> None:
    """Protects attempts that a client kept as a number."""
    assert parsed({"attempt": 3}).attempt == "3"


@pytest.mark.parametrize(
    "document",
    [
        {"workload": 5},
        {"workload": "x" * (TEXT_CHARACTERS + 1)},
        {"rank": "3"},
        {"rank": True},
        {"rank": -1},
        {"rank": 1.0},
        {"rank": 1 << 40},
        {"tags": ["a"]},
        {"tags": {"a": 1}},
        {"devices": "GPU-1"},
        {"devices": [7]},
        {"device_hints": 4},
        {"attempt": 1.5},
        {"password": "secret"},
        [],
        "text",
    ],
)
def test_what_is_wrong_is_ignored_and_counted(document: object) -> None:
    """Protects the ledger from wrong types, and an operator from silence."""
    assert parsed(document) == Identity(ignored=1)


@pytest.mark.parametrize("raw", [b"{", b"\xff\xfe", b"[" * 3_000, b"9" * 3_500, b"NaN", b"\x00"])
def test_what_is_no_json_is_counted(raw: bytes) -> None:
    """Protects the parser from broken and deeply nested input."""
    assert parse_identity(raw) == Identity(ignored=1)


def test_lists_and_maps_are_bounded() -> None:
    """Protects memory and label sets from endless tags and devices."""
    identity = parsed(
        {
            "tags": {f"k{number}": "v" for number in range(40)},
            "devices": [f"GPU-{number}" for number in range(70)],
        }
    )
    assert (len(identity.tags), len(identity.devices)) == (TAGS, DEVICES)
    assert identity.ignored == 40 - TAGS + 70 - DEVICES


def test_text_is_made_safe() -> None:
    """Protects terminals and labels from control characters."""
    assert parsed({"workload": "a\x1b[31m\nb\u202e"}).workload == "a\ufffd[31m\ufffdb\ufffd"


@given(JSON)
def test_any_json_gives_an_identity(document: object) -> None:
    """Protects the poll: no identity makes the parser raise, and all text is printable."""
    identity = parsed(document)
    assert identity.workload is None or identity.workload.isprintable()


@given(st.dictionaries(st.sampled_from(sorted(layout.IDENTITY_KEYS)), JSON))
def test_any_values_of_known_keys_are_bounded(document: dict[str, object]) -> None:
    """Protects whoever stores the identity: what is kept is of the promised type and size."""
    identity = parsed(document)
    for text in (identity.workload, identity.run, identity.attempt, identity.client_version):
        assert text is None or len(text) <= TEXT_CHARACTERS
    for number in (identity.rank, identity.local_rank, identity.world_size):
        assert number is None or (type(number) is int and number >= 0)
    assert len(identity.tags) <= TAGS
