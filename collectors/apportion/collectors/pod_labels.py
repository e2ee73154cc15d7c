"""The labels of this node's pods, as many as a person allows, from the API server.

The kubelet's pod-resources service knows names only. Facts: Kubernetes API v1, `GET /api/v1/pods`
with `fieldSelector=spec.nodeName=...`, in pages. Only metadata is asked for
(`PartialObjectMetadataList`), so that no environment and no command line is even sent; of the
metadata only the allowed labels are kept.
"""

from __future__ import annotations

import json
import os
import re
import ssl
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlencode

from apportion.collectors.metrics_http import HttpRefused, read_body
from apportion.collectors.options import CollectorOptions
from apportion.collectors.scrape import Complaints
from apportion.collectors.target import Target
from apportion.core.allocation import Pod
from apportion.core.clock import Clock
from apportion.core.errors import ConfigError, SourceLost
from apportion.core.family import Family
from apportion.core.sample import Sample
from apportion.core.units import NS_PER_MINUTE, NS_PER_SECOND, seconds

FAMILIES: Final[tuple[Family, ...]] = (
    Family(
        "apportion_pod_label_info",
        "gauge",
        "",
        ("owner", "namespace", "pod", "key", "value"),
        "A label of a pod that holds a device, always 1. Only keys that `pod_labels` names.",
        "Kubernetes API",
    ),
)

DEADLINE_NS: Final = 3 * NS_PER_SECOND
"""Of one look, all its pages together: who holds what must not wait for long."""
PERIOD_NS: Final = NS_PER_MINUTE
NEW_POD_NS: Final = 10 * NS_PER_SECOND
"""How soon it is looked again for a pod that is not known yet."""
FIRST_PAUSE_NS: Final = 10 * NS_PER_SECOND
LONGEST_PAUSE_NS: Final = 5 * NS_PER_MINUTE
KEPT_NS: Final = 10 * NS_PER_MINUTE
"""For how long labels are shown that cannot be looked up again."""
PAGE: Final = 500
MOST_PAGES: Final = 20
MOST_TOKEN_BYTES: Final = 64 * 1024
GONE: Final = 410
MOUNTED: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
IN_CLUSTER: Final = "https://$(KUBERNETES_SERVICE_HOST):$(KUBERNETES_SERVICE_PORT)"
_ADVICE: Final = {
    401: "it does not take the service account's token: is it mounted, and of this cluster?",
    403: 'the service account may not `list` `pods`: see "Labels of pods" in docs/kubernetes.md',
}
_HEADERS: Final = {
    "Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
    "Accept-Encoding": "identity",
    "User-Agent": "apportion",
    "Connection": "close",
}
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?", re.ASCII)
"""What Kubernetes takes as a label's value; anything else is not from a pod."""
_TOKEN: Final = re.compile(r"[\x21-\x7e]+", re.ASCII)

_NONE: Final[Mapping[str, str]] = {}

Labels = Mapping[str, Mapping[str, str]]
"""By pod, as an allocation names its owner (`pod:NAMESPACE/NAME`), and by key."""


class PodLabels:
    """Looks pods up from time to time. A failure is a sample; what was known is kept for a while.

    One thread uses it: that of the `kubernetes` collector.
    """

    def __init__(self, options: CollectorOptions, clock: Clock) -> None:
        """It does nothing unless `options.pod_labels` names a label.

        Raises:
            ConfigError: `options.kubernetes_url` is malformed.
        """
        self._allowed = options.pod_labels
        self._node = options.node_name or os.uname().nodename
        self._account = options.service_account_dir or MOUNTED
        self._clock = clock
        self._complaints = Complaints("kubernetes")
        self._target, self._missing = _target(options)
        self._known: Labels = {}
        self._known_ns: int | None = None
        self._next_ns = self._soonest_ns = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._health: tuple[Sample, ...] = ()

    def samples(self, owners: Collection[str]) -> tuple[Sample, ...]:
        """The allowed labels of these pods, and how the last look went."""
        if not self._allowed:
            return ()
        now_ns = self._clock.monotonic_ns()
        is_new = any(owner not in self._known for owner in owners) and now_ns >= self._soonest_ns
        if now_ns >= self._next_ns or (is_new and self._pause_ns == FIRST_PAUSE_NS):
            self._look(now_ns, owners)
        if self._known_ns is None or now_ns - self._known_ns > KEPT_NS:
            self._known = {}
        return (*self._health, *self._told(owners))

    def _told(self, owners: Collection[str]) -> Iterator[Sample]:
        for owner in sorted(owners):
            for key, value in sorted(self._known.get(owner, {}).items()):
                labels = (("owner", owner), *pod_labels_of(owner))
                yield Sample("pod_label_info", 1, (*labels, ("key", key), ("value", value)))

    def _look(self, now_ns: int, owners: Collection[str]) -> None:
        place, errors = self._target.name, dict[str, str]()
        try:
            # A pod that is not in the list is looked for at the next look, not at once again.
            self._known = {**dict.fromkeys(owners, _NONE), **self._pods(now_ns + DEADLINE_NS)}
        except SourceLost as lost:
            errors[place] = str(lost)
        ended_ns = self._clock.monotonic_ns()
        if errors:
            self._next_ns = ended_ns + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)
        else:
            self._known_ns, self._next_ns = ended_ns, ended_ns + PERIOD_NS
            self._pause_ns = FIRST_PAUSE_NS
        self._soonest_ns = ended_ns + NEW_POD_NS
        self._complaints.say(errors)
        labels = (("collector", "kubernetes"), ("target", place))
        self._health = (
            Sample("scrape_success", int(not errors), labels),
            Sample("scrape_duration_seconds", seconds(ended_ns - now_ns), labels),
        )

    def _pods(self, deadline_ns: int) -> Labels:
        """All pods of the node; once more from the first page where a page has expired."""
        if self._missing is not None:
            raise SourceLost(self._missing)
        try:
            return self._pages(deadline_ns)
        except HttpRefused as refused:
            if refused.status == GONE:
                return self._pages(deadline_ns)
            if refused.status in _ADVICE:
                raise SourceLost(f"{refused}: {_ADVICE[refused.status]}") from refused
            raise

    def _pages(self, deadline_ns: int) -> Labels:
        found: dict[str, Mapping[str, str]] = {}
        tls = self._authority()
        # From the server's memory, as old as it may be there; the next pages belong to the first.
        asked = {"resourceVersion": "0"}
        for _ in range(MOST_PAGES):
            page = self._page(asked, tls, deadline_ns)
            found.update(self._labels(page))
            further = page["metadata"].get("continue")
            if not further:
                return found
            asked = {"continue": str(further)}
        raise SourceLost(f"{self._target.name} has more than {MOST_PAGES * PAGE} pods on one node")

    def _page(
        self, asked: Mapping[str, str], tls: ssl.SSLContext | None, deadline_ns: int
    ) -> dict[str, Any]:
        selector = f"spec.nodeName={self._node}"
        query = urlencode({"fieldSelector": selector, "limit": str(PAGE), **asked})
        target = replace(self._target, path=f"/api/v1/pods?{query}")
        body = read_body(
            target,
            self._clock,
            deadline_ns=deadline_ns,
            headers={**_HEADERS, **self._authorization()},
            tls=tls,
        )
        try:
            document = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise SourceLost(f"{target.name} answered with something that is no JSON") from error
        page = cast("dict[str, Any]", document) if isinstance(document, dict) else {}
        if not isinstance(page.get("metadata"), dict) or not isinstance(page.get("items"), list):
            raise SourceLost(f"{target.name} answered with something that is no list of pods")
        return page

    def _labels(self, page: dict[str, Any]) -> Iterator[tuple[str, Mapping[str, str]]]:
        for item in page["items"]:
            try:
                metadata: dict[str, Any] = item["metadata"]
                owner = f"pod:{metadata['namespace']}/{metadata['name']}"
                said: dict[str, Any] = metadata.get("labels") or {}
                kept = {key: said[key] for key in self._allowed if key in said}
            except (KeyError, TypeError, AttributeError):
                continue  # no pod
            yield (
                owner,
                {
                    key: value
                    for key, value in kept.items()
                    if isinstance(value, str) and _VALUE.fullmatch(value)
                },
            )

    def _authority(self) -> ssl.SSLContext | None:
        """The cluster's own authority, read anew: it is renewed while we run."""
        path = self._account / "ca.crt"
        if self._target.scheme != "https" or not path.exists():
            return None
        try:
            return ssl.create_default_context(cafile=path)
        except OSError as error:
            raise SourceLost(f"{path} is no certificate of an authority: {error}") from error

    def _authorization(self) -> dict[str, str]:
        """The service account's token, read anew: it lasts an hour. It is sent over TLS only."""
        if self._target.scheme != "https" or self._target.authorization is not None:
            return {}
        try:
            with (self._account / "token").open("rb") as file:
                token = file.read(MOST_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return {}  # the server says that it wants one
        return {"Authorization": f"Bearer {token}"} if _TOKEN.fullmatch(token) else {}


def pod_labels_of(owner: str) -> tuple[tuple[str, str], ...]:
    """What Prometheus calls a pod; nothing of other owners."""
    pod = Pod.of_owner(owner)
    return () if pod is None else (("namespace", pod.namespace), ("pod", pod.name))


def _target(options: CollectorOptions) -> tuple[Target, str | None]:
    """Where the API server is; without an address, why there is none."""
    environment = os.environ if options.environment is None else options.environment
    if options.kubernetes_url is not None:
        return Target.parse(options.kubernetes_url, environment), None
    try:
        return Target.parse(IN_CLUSTER, environment), None
    except ConfigError as error:
        missing = f"no API server is known ({error}): set `kubernetes_url`"
        return Target("kubernetes"), missing
