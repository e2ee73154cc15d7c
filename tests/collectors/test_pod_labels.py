"""Labels of pods, asked of a server that behaves as a Kubernetes API server, over real TLS."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.collectors.api_server import METADATA_ONLY, ApiServer, Pod, account, api_server

from apportion.collectors import pod_labels
from apportion.collectors.options import CollectorOptions
from apportion.collectors.pod_labels import (
    FIRST_PAUSE_NS,
    KEPT_NS,
    LONGEST_PAUSE_NS,
    NEW_POD_NS,
    PERIOD_NS,
    PodLabels,
)
from apportion.core.clock import Clock, ManualClock, SystemClock
from apportion.core.errors import ConfigError
from apportion.core.sample import Sample

TRAIN, CHAT = "pod:ml/train-0", "pod:web/chat"
SECRET = "a secret"
PODS = (
    Pod("ml", "train-0", {"team": "nlp", "app.kubernetes.io/name": "llama", "password": SECRET}),
    Pod("web", "chat", {"team": "web"}),
    Pod("web", "elsewhere", {"team": "other"}, node="node-8"),
)
ALLOWED = ("team", "app.kubernetes.io/name")


@pytest.fixture
def server() -> Iterator[ApiServer]:
    """Three pods, two of them on our node."""
    with api_server(*PODS) as serving:
        yield serving


def looking(
    server: ApiServer, tmp_path: Path, clock: Clock | None = None, **others: Any
) -> PodLabels:
    """A reader with a service account, for node-7."""
    options: dict[str, Any] = {
        "pod_labels": ALLOWED,
        "kubernetes_url": server.url,
        "service_account_dir": account(tmp_path / "account"),
        "node_name": "node-7",
        **others,
    }
    return PodLabels(CollectorOptions(**options), clock or SystemClock())


def told(samples: tuple[Sample, ...]) -> dict[tuple[str, str], str]:
    """Values by pod and key."""
    labels = [dict(sample.labels) for sample in samples if sample.name == "pod_label_info"]
    return {(each["owner"], each["key"]): each["value"] for each in labels}


def success(samples: tuple[Sample, ...]) -> float:
    """How the last look went."""
    (found,) = [sample.value for sample in samples if sample.name == "scrape_success"]
    return found


def test_allowed_labels_of_pods_that_hold_devices(server: ApiServer, tmp_path: Path) -> None:
    """No other key, no pod that holds none; annotations and environment are not even sent."""
    samples = looking(server, tmp_path).samples({TRAIN})
    assert success(samples) == 1
    assert told(samples) == {(TRAIN, "team"): "nlp", (TRAIN, "app.kubernetes.io/name"): "llama"}
    assert SECRET not in str(samples)
    (asked,) = server.asked
    assert asked["fieldSelector"] == "spec.nodeName=node-7"
    assert METADATA_ONLY in asked["Accept"]


def test_without_an_allow_list_nobody_is_asked(server: ApiServer, tmp_path: Path) -> None:
    """Off is off: no request, no sample, no complaint."""
    assert looking(server, tmp_path, pod_labels=()).samples({TRAIN}) == ()
    assert server.asked == []


def test_pages_are_read_to_the_end(server: ApiServer, tmp_path: Path) -> None:
    """Each with the token of the one before; one that has expired (410) is begun again."""
    server.pods += [Pod("ml", f"p{number}", {"team": "x"}) for number in range(5)]
    server.page = 2
    server.expired = 1
    samples = looking(server, tmp_path).samples({TRAIN, "pod:ml/p4"})
    assert told(samples)["pod:ml/p4", "team"] == "x"
    continued = [asked.get("continue") for asked in server.asked]
    assert continued == [None, "2", None, "2", "4", "6"]
    assert [asked.get("resourceVersion") for asked in server.asked[:2]] == ["0", None]


def expire(server: ApiServer, root: Path) -> None:
    server.page, server.expired = 1, 9


def forget(server: ApiServer, root: Path) -> None:
    account(root / "account", "an old token")


def forbid(server: ApiServer, root: Path) -> None:
    server.may_list = False


def distrust(server: ApiServer, root: Path) -> None:
    (root / "account" / "ca.crt").unlink()


def garble(server: ApiServer, root: Path) -> None:
    (root / "account" / "ca.crt").write_text("no certificate")


def mumble(server: ApiServer, root: Path) -> None:
    server.body = b"[" * 100_000


def list_something_else(server: ApiServer, root: Path) -> None:
    server.body = b'{"metadata": {}, "items": null}'


def go_on_for_ever(server: ApiServer, root: Path) -> None:
    server.body = b'{"metadata": {"continue": "x"}, "items": []}'


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (forget, "answered 401 .*token"),
        (forbid, "answered 403 .*`list` `pods`"),
        (expire, "answered 410"),
        (distrust, "CERTIFICATE_VERIFY_FAILED"),
        (garble, "ca.crt is no certificate"),
        (mumble, "no JSON"),
        (list_something_else, "no list of pods"),
        (go_on_for_ever, "more than 10000 pods"),
    ],
)
def test_a_failure_is_a_sample_and_a_sentence(
    server: ApiServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[ApiServer, Path], None],
    sentence: str,
) -> None:
    """What was known is shown on, for a while; it is said once, and asked ever more rarely."""
    clock = ManualClock(10**12)
    labels = looking(server, tmp_path, clock)
    before = told(labels.samples({TRAIN}))
    assert before
    spoil(server, tmp_path)
    clock.advance(PERIOD_NS)
    samples = labels.samples({TRAIN})
    assert success(samples) == 0
    assert told(samples) == before
    asked = len(server.asked)
    clock.advance(FIRST_PAUSE_NS - 1)
    labels.samples({TRAIN, CHAT})
    assert len(server.asked) == asked
    for _ in range(3):
        clock.advance(LONGEST_PAUSE_NS)
        samples = labels.samples({TRAIN})
    assert clock.monotonic_ns() > 10**12 + KEPT_NS
    assert told(samples) == {}
    (message,) = [record.getMessage() for record in caplog.records]
    assert re.search(sentence, message)
    assert SECRET not in message
    assert "an old token" not in message


def test_a_server_that_hangs_is_left_at_the_deadline(
    server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds what must not wait for long for a name."""
    monkeypatch.setattr(pod_labels, "DEADLINE_NS", 50_000_000)
    server.hangs.set()
    labels = looking(server, tmp_path)
    samples = labels.samples({TRAIN})
    assert success(samples) == 0
    assert told(samples) == {}


def test_it_recovers(server: ApiServer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A token that is renewed is read anew."""
    caplog.set_level(logging.INFO)
    clock = ManualClock(10**12)
    labels = looking(server, tmp_path, clock)
    account(tmp_path / "account", "not yet")
    assert success(labels.samples({TRAIN})) == 0
    account(tmp_path / "account")
    clock.advance(FIRST_PAUSE_NS)
    assert told(labels.samples({TRAIN}))[TRAIN, "team"] == "nlp"
    assert caplog.records[-1].getMessage().endswith("answers again")


def test_a_new_pod_is_looked_up_soon_and_once(server: ApiServer, tmp_path: Path) -> None:
    """One that the server does not know does not make it be asked again and again."""
    clock = ManualClock(10**12)
    labels = looking(server, tmp_path, clock)
    labels.samples({TRAIN})
    server.pods.append(Pod("ml", "new", {"team": "vision"}))
    clock.advance(NEW_POD_NS)
    assert told(labels.samples({"pod:ml/new"})) == {("pod:ml/new", "team"): "vision"}
    for _ in range(4):
        clock.advance(NEW_POD_NS)
        labels.samples({"pod:ml/new", "pod:ml/unknown"})
    assert len(server.asked) == 3


def test_what_is_no_label_is_left_out(server: ApiServer, tmp_path: Path) -> None:
    """A value that Kubernetes would not take, or no text at all, does not become a label."""
    hostile = {"team": 'x"} 1\nup 1', "app.kubernetes.io/name": ["llama"]}
    server.pods = [Pod("ml", "train-0", hostile), Pod("web", "chat", {"team": ""})]
    samples = looking(server, tmp_path).samples({TRAIN, CHAT})
    assert told(samples) == {(CHAT, "team"): ""}


def test_a_recorded_list(tmp_path: Path) -> None:
    """Wherever a URL is accepted a path is; such as `kubectl get pods -o json` prints it."""
    documents = [pod.document(metadata_only=False) for pod in PODS]
    recorded = tmp_path / "pods.json"
    recorded.write_text(json.dumps({"metadata": {}, "items": [*documents, {"metadata": 7}, 7]}))
    options = CollectorOptions(pod_labels=ALLOWED, kubernetes_url=str(recorded))
    samples = PodLabels(options, SystemClock()).samples({TRAIN})
    assert told(samples)[TRAIN, "team"] == "nlp"


def test_a_token_is_not_sent_in_the_clear(server: ApiServer, tmp_path: Path) -> None:
    """Whoever gives an http URL gets no token with it."""
    labels = looking(server, tmp_path, kubernetes_url=server.url.replace("https", "http"))
    assert labels._authorization() == {}


def test_without_a_cluster_it_says_what_to_set(caplog: pytest.LogCaptureFixture) -> None:
    """A host's own service has no variables of a pod; a malformed URL is refused at once."""
    options = CollectorOptions(pod_labels=ALLOWED, environment={})
    assert success(PodLabels(options, SystemClock()).samples({TRAIN})) == 0
    assert "set `kubernetes_url`" in caplog.text
    with pytest.raises(ConfigError):
        PodLabels(CollectorOptions(kubernetes_url="ftp://x"), SystemClock())
