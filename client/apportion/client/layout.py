"""The ring file, byte by byte: what the client writes and every agent ever released reads.

Version 1, native little-endian, every word aligned to its size:

    header            4096 B   fixed words, then the identity as JSON
    words      512 x   128 B   append-only table of interned words
    open slots 1024 x   64 B   what runs now
    records  32768 x   256 B   what has ended, a ring

The sequence of a record is its position in the stream, from 1; it lives in slot
`(sequence - 1) % capacity`. A writer stores 0 there, then the payload, then the sequence; a
reader believes a record after three equal looks at its sequence (see docs/ring.md). A counter
that was never reported is `ABSENT`.

Standard library only: the agent builds its numpy types from the tables here.
"""

from __future__ import annotations

import struct
from typing import Final

MAGIC: Final = int.from_bytes(b"apprtn01", "little")
"""Stored last when the file is complete: a file without it is not a ring yet."""
VERSION: Final = 1

HEADER_BYTES: Final = 4096
WORD_BYTES: Final = 128
WORD_CAPACITY: Final = 512
OPEN_SLOT_BYTES: Final = 64
OPEN_SLOT_CAPACITY: Final = 1024
RECORD_BYTES: Final = 256
DEFAULT_RECORD_CAPACITY: Final = 32_768

WORDS_OFFSET: Final = HEADER_BYTES
OPEN_SLOTS_OFFSET: Final = WORDS_OFFSET + WORD_BYTES * WORD_CAPACITY
RECORDS_OFFSET: Final = OPEN_SLOTS_OFFSET + OPEN_SLOT_BYTES * OPEN_SLOT_CAPACITY

FILE_SUFFIX: Final = ".ring"
"""A ring is `<32 hex digits of its id>.ring`."""
FILE_MODE: Final = 0o640
DEFAULT_DIRECTORY: Final = "/run/apportion/rings"
USER_DIRECTORY: Final = "apportion/rings"
"""Under $XDG_RUNTIME_DIR for a user who may not write the default one."""
DIRECTORY_VARIABLE: Final = "APPORTION_RING_DIR"
LOCK_OFFSET: Final = 0
"""The writer holds a POSIX write lock on this byte for as long as it lives."""
AGENT_FILE: Final = "agent.json"
"""The agent's own file in the directory: heartbeat and requests. Workloads only read it."""
COSTS_FILE: Final = "costs.json"
"""Another of its files: what a token of the workloads in the directory cost lately."""

TRACE_SUFFIX: Final = ".trace.json.gz"
"""A trace that the agent asked for is `<ring's id>.<wish's id>.trace.json.gz` beside the ring."""

ABSENT: Final = -1
"""A counter or step that was never reported."""

# -- header -------------------------------------------------------------------------------
# name, offset, struct code
HEADER_FIELDS: Final = (
    ("magic", 0, "Q"),
    ("version", 8, "I"),
    ("header_bytes", 12, "I"),
    ("record_bytes", 16, "I"),
    ("record_capacity", 20, "I"),
    ("word_bytes", 24, "I"),
    ("word_capacity", 28, "I"),
    ("open_slot_bytes", 32, "I"),
    ("open_slot_capacity", 36, "I"),
    ("ring_id", 40, "16s"),
    ("boot_id", 56, "16s"),
    ("pid", 72, "q"),
    ("process_start_ticks", 80, "Q"),
    ("process_start_ns", 88, "q"),  # monotonic; 0 where unknown
    ("init_ns", 96, "q"),  # monotonic, when client.init() ran; 0 where it did not
    ("created_monotonic_ns", 104, "q"),
    ("created_realtime_ns", 112, "q"),
    ("ready_ns", 120, "q"),  # monotonic, end of startup of a server; 0 until it says so
    ("closed_ns", 128, "q"),  # monotonic, clean end of the process; 0 while it lives
    ("open_overflow", 136, "Q"),  # spans that found no open slot
    ("word_overflow", 144, "Q"),  # words that became `other`
    ("identity_length", 152, "Q"),
    ("resumed_step", 160, "q"),  # the last step that the state restored then held
    ("resumed_ns", 168, "q"),  # monotonic, when client.resumed() was last called; 0: never
)
IDENTITY_OFFSET: Final = 512
IDENTITY_BYTES: Final = HEADER_BYTES - IDENTITY_OFFSET
HEADER_OFFSETS: Final = {name: offset for name, offset, _ in HEADER_FIELDS}

IDENTITY_KEYS: Final = frozenset(
    {
        "workload",
        "run",
        "attempt",
        "restart_count",
        "rank",
        "local_rank",
        "world_size",
        "kind",
        "tags",
        "devices",
        "device_hints",
        "client_version",
        "resumed_from_step",
        "flops_per_token",
        "manifest",
        "parallel",
    }
)
"""Keys of the identity. `devices` is what the user said; `device_hints` maps the names of
environment variables that hint at devices (CUDA_VISIBLE_DEVICES, ...) to their values; `manifest`
says with what the process computes, by `MANIFEST_KEYS`; `parallel` how a server is spread over
devices, by `PARALLEL_KEYS`."""

MANIFEST_PACKAGES: Final = (
    "torch",
    "numpy",
    "transformers",
    "accelerate",
    "lightning",
    "pytorch_lightning",
    "deepspeed",
    "peft",
    "triton",
    "vllm",
    "sglang",
)
MANIFEST_KEYS: Final = (
    "python",
    "system",
    "driver",
    *MANIFEST_PACKAGES,
    "cuda",
    "hip",
    "cudnn",
    "nccl",
    "seed",
    "deterministic",
    "cudnn_deterministic",
    "cudnn_benchmark",
    "matmul_precision",
    "threads",
)
"""All that a manifest may say, in the order in which it is shown."""

PARALLEL_KEYS: Final = (
    "tensor",
    "pipeline",
    "data",
    "first",
    "engines",
    "here",
    "devices",
    "apart",
)
"""Tensor, pipeline and data parallel size. Of the engines that the process asks: the index of the
first, how many they are, and how many of them, the first ones, are on this host. On how many of its
devices each of those computes; 1 where each has its own, in the order of the engines."""

MEMBER: Final = "member"
"""The `kind` of a process that computes for requests which another one of its run reports."""
DOOR: Final = "door"
"""The `kind` of a ring whose writer was told of others' requests: they may have rings, too."""

# -- words --------------------------------------------------------------------------------
# state (8 bytes, stored last; 0 = empty): length in bits 0-15, kind in bits 16-23, bit 32 set.
WORD_TEXT_OFFSET: Final = 8
WORD_TEXT_BYTES: Final = WORD_BYTES - WORD_TEXT_OFFSET
WORD_USED: Final = 1 << 32
WORD_LABEL: Final = 1
"""A tenant, a model, an adapter."""
WORD_DEVICE: Final = 2
"""A device UUID that the framework reported once CUDA was initialised."""
NO_WORD: Final = 0
"""Index 0 stays empty: it means that nothing was said."""
OTHER_WORD: Final = 1
"""Index 1 is `other`, for words that no longer fit."""
OTHER_TEXT: Final = "other"

# -- open slots ---------------------------------------------------------------------------
# `start_ns` is the guard: 0 is stored first, the other words next, then the start.
OPEN_SLOT_FIELDS: Final = (
    ("start_ns", 0, "q"),
    ("number", 8, "Q"),
    ("parent", 16, "Q"),
    ("packed", 24, "Q"),
    ("scheduled_ns", 32, "q"),
    ("first_token_ns", 40, "q"),
    ("words", 48, "Q"),  # words: tenant in bits 0-31, model in 32-47, adapter in 48-63
    ("step", 56, "q"),
)
MODEL_SHIFT: Final = 32
ADAPTER_SHIFT: Final = 48
OPEN_SLOT_TAIL: Final = struct.Struct("@QQQqqQq")
"""Everything of an open slot but its start, at offset 8."""
OPEN_SLOT_OFFSETS: Final = {name: offset for name, offset, _ in OPEN_SLOT_FIELDS}

# -- records ------------------------------------------------------------------------------
RECORD_FIELDS: Final = (
    ("sequence", 0, "Q"),
    ("number", 8, "Q"),
    ("parent", 16, "Q"),  # number of the enclosing span, 0 for a root
    ("packed", 24, "Q"),
    ("arrival_ns", 32, "q"),  # times: monotonic, 0 where not reported
    ("start_ns", 40, "q"),
    ("scheduled_ns", 48, "q"),
    ("first_token_ns", 56, "q"),
    ("end_ns", 64, "q"),
    ("step", 72, "q"),
    ("input_tokens", 80, "q"),
    ("cached_input_tokens", 88, "q"),
    ("output_tokens", 96, "q"),
    ("tokens", 104, "q"),
    ("samples", 112, "q"),
    ("micro_batches", 120, "q"),
    ("preemptions", 128, "q"),
    ("reserved", 136, "q"),
    ("tenant", 144, "I"),  # word indices
    ("model", 148, "I"),
    ("adapter", 152, "I"),
    ("engine", 156, "I"),  # index of the engine in its server; of a request with FLAG_ENGINE alone
    ("trace_id", 160, "16s"),
    ("trace_parent", 176, "8s"),
    ("thread_id", 184, "Q"),  # native id of the thread that started the span
    ("request_id", 192, "64s"),
)
RECORD_OFFSETS: Final = {name: offset for name, offset, _ in RECORD_FIELDS}
RECORD_PAYLOAD: Final = struct.Struct("@QQQqqqqqqqqqqqqqqIIII16s8sQ64s")
"""Everything of a record but its sequence, at offset 8."""
COUNTERS: Final = (
    "input_tokens",
    "cached_input_tokens",
    "output_tokens",
    "tokens",
    "samples",
    "micro_batches",
    "preemptions",
)
ITERATION_FIELDS: Final = {
    "index": "step",
    "prefill_requests": "samples",
    "prefill_tokens": "input_tokens",
    "decode_requests": "micro_batches",
    "decode_tokens": "output_tokens",
}
"""What an engine iteration says, and which field of a record holds it."""
SCHEDULED_FIELDS: Final = {
    "first": "step",
    "iterations": "samples",
    "tokens": "input_tokens",
    "context": "cached_input_tokens",
}
"""The same of iterations in a row in which one request was scheduled alike."""
COUNTER_ALIASES: Final = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}

# packed: kind in bits 0-7, status 8-15, phase 16-23, phase clock 24-31, flags 32-47
KIND_SHIFT: Final = 0
STATUS_SHIFT: Final = 8
PHASE_SHIFT: Final = 16
CLOCK_SHIFT: Final = 24
FLAGS_SHIFT: Final = 32
FLAG_NO_OPEN_SLOT: Final = 1
"""The span was never visible as open: it can come as a surprise to settlement."""
FLAG_TOLD_LATER: Final = 4
"""Its admission is told with its end: while it runs nobody knows whether it waits."""
FLAG_ENGINE: Final = 8
"""Of a request: `engine` says in which engine of its server it was."""
FLAG_EXACT: Final = 2
"""Of an iteration: records of kind `scheduled` say who was in it."""

# The numbers below are those of apportion.core.category; a test holds the two together.
KINDS: Final = {
    "request": 1,
    "step": 2,
    "phase": 3,
    "checkpoint": 4,
    "evaluation": 5,
    "iteration": 6,
    "scheduled": 7,
}
STATUSES: Final = {"open": 0, "ok": 1, "error": 2, "cancelled": 3, "lost": 4}
PHASES: Final = {
    "prefill": 1,
    "decode": 2,
    "guard_input": 3,
    "guard_output": 4,
    "constrain": 5,
    "data_wait": 6,
    "forward": 7,
    "backward": 8,
    "optimizer": 9,
    "communication": 10,
    "checkpoint": 11,
    "evaluation": 12,
}
CLOCK_HOST: Final = 0
CLOCK_HOST_LAUNCH: Final = 1
CLOCK_DEVICE: Final = 2

REQUEST_ID_BYTES: Final = 64
REQUEST_ID_TEXT_BYTES: Final = 62
REQUEST_ID_HEAD_BYTES: Final = REQUEST_ID_BYTES - REQUEST_ID_TEXT_BYTES
"""Byte 0 of the field is the length, byte 1 is 1 where the text is `sha256:` and a digest's
first 48 hexadecimal digits, because the id itself was longer; then the text in UTF-8."""


def file_bytes(record_capacity: int) -> int:
    """Size of a ring file with room for `record_capacity` records."""
    return RECORDS_OFFSET + RECORD_BYTES * record_capacity
