"""How spans reach the agent: rings found, read, believed and counted.

Follow a record: `directory` finds the file, `ring` polls it, `record_window` believes it after
three looks, `record` says whether it can be true. Everything a ring says is untrusted.
"""

from __future__ import annotations

from apportion.agent.ingest.aside import RefusedRing
from apportion.agent.ingest.boot import read_boot_id
from apportion.agent.ingest.clock_offset import ClockPair, clock_offset_ns
from apportion.agent.ingest.directory import DiedRing, DirectoryPoll, RingDirectory
from apportion.agent.ingest.file import RingFile, open_ring_file
from apportion.agent.ingest.header import HeaderState
from apportion.agent.ingest.heartbeat import Heartbeat
from apportion.agent.ingest.identity import Identity, RingIdentity
from apportion.agent.ingest.liveness import writer_pid
from apportion.agent.ingest.losses import LossWindow
from apportion.agent.ingest.pod_directories import PodDirectories
from apportion.agent.ingest.position import Position
from apportion.agent.ingest.record import OPEN_SLOT, RECORD, request_id_of, trace_id_of
from apportion.agent.ingest.refusal import Refusal, RingRefused
from apportion.agent.ingest.ring import Poll, RingReader
from apportion.agent.ingest.scan import DirectoryState
from apportion.agent.ingest.slots import Scratch

__all__ = [
    "OPEN_SLOT",
    "RECORD",
    "ClockPair",
    "DiedRing",
    "DirectoryPoll",
    "DirectoryState",
    "HeaderState",
    "Heartbeat",
    "Identity",
    "LossWindow",
    "PodDirectories",
    "Poll",
    "Position",
    "Refusal",
    "RefusedRing",
    "RingDirectory",
    "RingFile",
    "RingIdentity",
    "RingReader",
    "RingRefused",
    "Scratch",
    "clock_offset_ns",
    "open_ring_file",
    "read_boot_id",
    "request_id_of",
    "trace_id_of",
    "writer_pid",
]
