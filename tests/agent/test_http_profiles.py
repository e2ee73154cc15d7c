"""`/profiles`: what the agent lists and serves, to whom, and what /metrics says of it."""

from __future__ import annotations

import asyncio
import gzip
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from tests.profiles.stacking import stacks_of

from apportion.agent.http_profiles import add_profiles
from apportion.agent.profile_store import ProfileRecord, ProfileStore
from apportion.agent.profile_watch import ProfileWatch
from apportion.core.errors import NoData
from apportion.profiles.speedscope import speedscope_json

S = 10**9


def record(taken_s: int, file: str | None, error: str | None = None) -> ProfileRecord:
    return ProfileRecord(taken_s * S, "cpu", "root", 5, "w", 10.0, 3, 0.1, file, error)


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    """Two profiles and two failures."""
    store = ProfileStore(tmp_path)
    for second in (1, 2):
        content = speedscope_json(stacks_of([("main;work", 3)]), "title")
        store.add(record(second, store.name(second * S, "cpu", "w")), content)
    store.note(record(3, None, "ptrace"))
    store.note(record(4, None, "a word that\nnobody knows"))
    return store


def get(store: ProfileStore, path: str, host: str = "127.0.0.1") -> httpx.Response:
    app = FastAPI()
    add_profiles(app, store)

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app, client=(host, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://agent") as client:
            return await client.get(path)

    return asyncio.run(ask())


def test_traces_are_served_as_they_were_drawn(store: ProfileStore) -> None:
    """A trace is a page once somebody drew it, and as itself at any time."""
    trace = b'{"traceEvents": []}'
    name = store.name(5 * S, "gpu", "w")
    store.add(record(5, name), trace)

    assert get(store, f"/profiles/{name}").status_code == 406
    assert get(store, f"/profiles/{name}?form=trace").content == trace
    drawing = speedscope_json(stacks_of([("[direct];gemm", 3)]), "title")
    store.add_drawing(name, drawing)
    assert "gemm" in get(store, f"/profiles/{name}").text
    assert get(store, f"/profiles/{name}?form=speedscope").content == drawing
    assert get(store, f"/profiles/{name}?form=trace").content == trace
    assert get(store, "/profiles").text.count("form=trace") == 1


def test_profiles_are_listed_and_served(store: ProfileStore) -> None:
    """The newest first; each as a page, and as what speedscope opens."""
    listed = get(store, "/profiles").text
    newest = store.files()[-1].name

    assert listed.index(newest) < listed.index(store.files()[0].name)
    assert get(store, f"/profiles/{newest}").text.startswith("<!doctype html>")
    scope = get(store, f"/profiles/{newest}?form=speedscope")
    assert scope.content == gzip.decompress(store.files()[-1].read_bytes())
    assert get(store, f"/profiles/{newest}?form=other").status_code == 422


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    """No profile so far is an answer, and its directory need not be there."""
    assert "apportion profile cpu takes one" in get(ProfileStore(tmp_path / "no"), "/profiles").text


@pytest.mark.parametrize("name", ["none", "log.jsonl", "..%2Flog.jsonl", "%2Fetc%2Fpasswd"])
def test_nothing_else_is_served(store: ProfileStore, name: str) -> None:
    """A name that is no profile's leads to no file."""
    assert get(store, f"/profiles/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/profiles", "/profiles/x"])
def test_frames_are_for_this_host_alone(store: ProfileStore, path: str) -> None:
    """Whoever may scrape /metrics over the network need not see names of code."""
    assert get(store, path, host="10.0.0.7").status_code == 403


def test_a_damaged_profile_is_said(store: ProfileStore) -> None:
    """What is no profile inside is an error with a sentence, and takes no door along."""
    newest = store.files()[-1]
    newest.write_bytes(gzip.compress(b"{}"))

    assert get(store, f"/profiles/{newest.name}").status_code == 500
    assert get(store, "/profiles").status_code == 200


def test_metrics_of_profiles(store: ProfileStore) -> None:
    """Count, size, age and failures; words of a file never become label values of their own."""
    samples = ProfileWatch(store).collect().samples or ()
    values = {(one.name, *(text for _, text in one.labels)): one.value for one in samples}

    assert values.pop(("profiles_bytes",)) > 0
    assert values == {
        ("profiles",): 2.0,
        ("profile_last_timestamp_seconds",): 2.0,
        ("profile_failures", "ptrace"): 1.0,
        ("profile_failures", "failed"): 1.0,
    }


def test_no_profile_is_no_failure(tmp_path: Path) -> None:
    """An agent that nobody asked for profiles shows none, and nothing wrong."""
    with pytest.raises(NoData, match="no profile was taken"):
        ProfileWatch(ProfileStore(tmp_path / "no")).collect()
