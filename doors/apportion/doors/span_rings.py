"""Writes finished spans into rings, one ring for each service that speaks."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from apportion.client import iterations, layout
from apportion.client.encoding import request_id_field
from apportion.client.id_hashing import HashedIds
from apportion.client.identity import Arguments, identity_json, identity_of, names_of
from apportion.client.iterations import Iteration
from apportion.client.process import read_process
from apportion.client.ring import Facts, Ring
from apportion.client.session import client_version
from apportion.doors.told_request import ToldRequest

MOST_SERVICES: Final = 64
CAPACITY: Final = layout.DEFAULT_RECORD_CAPACITY
_KIND: Final = layout.KINDS["request"]
_NEVER_OPEN: Final = layout.FLAG_NO_OPEN_SLOT << layout.FLAGS_SHIFT
_ENGINE: Final = layout.FLAG_ENGINE << layout.FLAGS_SHIFT
_MASK_32: Final = 0xFFFF_FFFF


class SpanRings:
    """The rings of one door. One thread at a time writes; the files end with `close`."""

    def __init__(
        self,
        directory: Path,
        devices: Mapping[str, Sequence[str]],
        models: Mapping[str, str] | None = None,
        ids: HashedIds | None = None,
    ) -> None:
        """By service: the ids of the `devices` on which it runs; the host's only GPU else.

        And of `models` the one of those of its requests that name none. `ids` says what becomes
        of request ids and tenants.
        """
        self._ids = HashedIds() if ids is None else ids
        self._directory, self._devices, self._models = directory, devices, models or {}
        self._process = read_process()
        self._rings: dict[str, Ring] = {}

    def write(self, told: ToldRequest) -> bool:
        """Write one request; False where there is no room for another service.

        Raises:
            OSError: no ring can be made.
        """
        ring = self._ring_of(told.service)
        if ring is None:
            return False
        offset_ns = time.monotonic_ns() - time.clock_gettime_ns(time.CLOCK_REALTIME)
        tenant, request_id = told.tenant, told.request_id
        if self._ids.on:
            tenant, request_id = self._ids.tenant(tenant), self._ids.request_id(request_id) or ""
        labels = (tenant, told.model or self._models.get(told.service), told.adapter)
        words, adapter = ring.label_words.get(labels) or ring.intern(labels)
        head, text = request_id_field(request_id)

        def moved(unix_ns: int | None) -> int:
            return 0 if unix_ns is None else max(1, unix_ns + offset_ns)

        packed = _KIND | layout.STATUSES[told.status] << layout.STATUS_SHIFT | _NEVER_OPEN
        if told.engine is not None:
            packed |= _ENGINE
        take = ring.spare[4]
        number = ring.number()
        sequence, guard, offset = take()
        ring.words[guard] = 0
        layout.RECORD_PAYLOAD.pack_into(
            ring.payload,
            offset,
            number,
            0,
            packed,
            0,
            moved(told.start_ns),
            moved(told.scheduled_ns or told.start_ns),
            moved(told.first_token_ns),
            moved(told.end_ns),
            layout.ABSENT,
            *(_counter(told, name) for name in layout.COUNTERS),
            0,
            words & _MASK_32,
            words >> 32,
            adapter,
            told.engine or 0,
            told.trace,
            told.parent,
            0,
            head.to_bytes(2, "little") + text,
        )
        ring.words[guard] = sequence
        return True

    def write_iteration(self, service: str, iteration: Iteration) -> bool:
        """Write what the service's engine did; False where there is no room for another service.

        Raises:
            OSError: no ring can be made.
        """
        ring = self._ring_of(service)
        if ring is not None:
            iterations.write(ring, iteration)
        return ring is not None

    def close(self) -> None:
        """End all rings cleanly: the agent reads what is left."""
        for ring in self._rings.values():
            ring.close(time.monotonic_ns())
        self._rings.clear()

    def _ring_of(self, service: str) -> Ring | None:
        ring = self._rings.get(service)
        if ring is None and self._has_room(service):
            ring = self._rings[service] = self._make(service)
        return ring

    def _has_room(self, service: str) -> bool:
        """Anybody may invent a service: those that were named have places of their own."""
        named = self._devices.keys() | self._models.keys()
        return service in named or len(self._rings.keys() - named) < MOST_SERVICES

    def _make(self, service: str) -> Ring:
        # A service has begun before its first span; that the door's process had is not its startup.
        nobody = self._process._replace(start_ticks=0, start_ns=0)
        arguments = Arguments(workload=service, devices=list(self._devices.get(service, ("GPU-",))))
        names = names_of(arguments, {}, self._process, os.uname().nodename)
        identity = identity_of(names, arguments, {}, client_version())
        now_ns = time.monotonic_ns()
        facts = Facts(
            ring_id=os.urandom(16),
            process=nobody,
            init_ns=now_ns,
            created_monotonic_ns=now_ns,
            created_realtime_ns=time.clock_gettime_ns(time.CLOCK_REALTIME),
            ready_ns=now_ns,
            identity=identity_json({**identity, "kind": layout.DOOR}),
        )
        return Ring.create(str(self._directory), facts, CAPACITY)


def _counter(told: ToldRequest, name: str) -> int:
    value: int | None = getattr(told, name, None)
    return layout.ABSENT if value is None else value
