"""Serving: requests."""
# ruff: noqa: SLF001 - a constructor that Python calls costs as much as four stores

from __future__ import annotations

from time import monotonic_ns
from types import TracebackType
from typing import TYPE_CHECKING, Final, cast

from apportion.client import layout
from apportion.client.counting import count
from apportion.client.encoding import request_id_field, trace_field
from apportion.client.id_hashing import hashed_ids
from apportion.client.locking import guarded
from apportion.client.nesting import in_context
from apportion.client.records import OPEN_REQUEST, OTHER_COUNTERS, REQUEST, threads
from apportion.client.ring import ENDED, LabelSet, Ring
from apportion.client.session import session
from apportion.client.span import ABSENT, SMALL, Span
from apportion.client.status import OK, status_of
from apportion.client.surroundings import surroundings

if TYPE_CHECKING:
    from uuid import UUID

    from typing_extensions import Self

_KIND: Final = layout.KINDS["request"]
_ID_BYTES: Final = layout.REQUEST_ID_TEXT_BYTES
_WORDS_WORD: Final = layout.OPEN_SLOT_OFFSETS["words"] // 8
_NO_TOKENS: Final = (ABSENT, ABSENT, ABSENT)
_SAID: Final = (0, 0, 0)
"""In place of the tokens once the full counters hold them."""

_in_context = in_context.get
_pack_open: Final = OPEN_REQUEST.pack_into
_pack_request: Final = REQUEST.pack_into


class Request(Span):
    """A request to a server.

    The short way is for one inside no other span, with an id, a tenant, a model, times, and input,
    cached and output tokens said at once.
    """

    __slots__ = ("_tokens",)
    _kind = _nested_kind = _KIND
    _has_times = True

    _tokens: tuple[int, int, int]
    """Input, cached input and output tokens, where the rest of the counters is absent."""

    def _fill(self) -> None:
        one, two, three = self._tokens
        self._counters = (one, two, three, ABSENT, ABSENT, ABSENT, ABSENT)
        self._parent = self._arrival_ns = self._adapter = self._engine = 0
        self._step = ABSENT
        self._trace = b""
        self._tokens = _SAID
        self._full = True

    def _intern(self, ring: Ring) -> None:
        try:
            self._words, self._adapter = ring.label_words[self._labels]
        except (KeyError, TypeError):  # new, or something unhashable
            self._words, self._adapter = ring.intern(self._labels)

    @property
    def served(self) -> str | None:
        """The name under which reports have what answers it: an adapter's, else the model's."""
        labels = self._labels
        named = cast("LabelSet", labels)[1:] if isinstance(labels, tuple) else (None, None)
        found = named[1] or named[0]
        return found if isinstance(found, str) else None

    def answered_by(self, adapter: str | None = None, *, model: str | None = None) -> None:
        """Say that an open request is for another model, or for an adapter on top of its own."""
        slot = self._slot
        if not slot:
            return
        if not self._full:
            self._fill()
        said = self._labels
        labels = cast("LabelSet", said) if isinstance(said, tuple) else (said, None, None)
        self._labels = (labels[0], model or labels[1], adapter or labels[2])
        ring = slot[6]
        self._intern(ring)
        if slot is not ring.spare:
            slot[2][slot[0] + _WORDS_WORD] = self._words | self._adapter << layout.ADAPTER_SHIFT

    def _again(self) -> Self:
        span = type(self)()
        span._slot = None
        span._full = False
        span._tokens = _NO_TOKENS
        span._id, span._id_head, span._labels = self._id, self._id_head, self._labels
        span._scheduled_ns = span._first_token_ns = 0
        if self._full:
            span._fill()
            span._trace, span._arrival_ns = self._trace, self._arrival_ns
        return span

    @guarded
    def __enter__(self) -> Span:
        try:
            ring = session.short
            if ring is None:
                return self._enter()
            facts = threads.facts
            around = facts.innermost
            if (
                self._full
                or self._slot is not None
                or (around is not None and around._slot)
                or _in_context() is not None
            ):
                return self._enter()
            label_words, adapter = ring.label_words[self._labels]
            if adapter:
                return self._enter()
            start_ns = monotonic_ns()
            if start_ns >= session.due_ns:
                return self._enter()
            self._number = number = ring.next_number()
            slot = ring.take_slot()
            self._words = label_words
            self._bits = bits = ring.clock_bits + _KIND
            self._thread = facts
            self._start_ns = start_ns
            _pack_open(ring.payload, slot[1], number, bits, label_words, ABSENT)
            ring.words[slot[0]] = start_ns
            self._slot = slot
            if surroundings.running_loop() is None:
                facts.innermost = self
            else:  # its end takes the long way, which leaves the context again
                self._fill()
                self._token = in_context.set(self)
        except (LookupError, StopIteration, TypeError):  # new labels, no open slot or number
            return super().__enter__()
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")
        return self

    @guarded
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        slot, self._slot = self._slot, ENDED  # no call between: one thread only gets the slot
        if self._full or not slot:
            self._exit(slot, kind)
            return
        try:
            end_ns = monotonic_ns()
            words = slot[2]
            input_tokens, cached_input_tokens, output_tokens = self._tokens
            sequence, guard, offset = slot[4]()
            words[guard] = 0
            _pack_request(
                slot[3],
                offset,
                self._number,
                self._bits + (OK if kind is None else status_of(kind)),
                self._start_ns,
                self._scheduled_ns,
                self._first_token_ns,
                end_ns,
                ABSENT,
                input_tokens,
                cached_input_tokens,
                output_tokens,
                OTHER_COUNTERS,
                self._words,
                self._thread.native_id,
                self._id_head,
                self._id,
            )
            words[guard] = sequence
            words[slot[0]] = 0
            slot[5](slot)
        except ValueError:
            count("ring_gone")
        except Exception:  # noqa: BLE001 - an observer never raises into the workload
            count("internal_error")

    @guarded
    def add(
        self,
        input_tokens: int | None = None,
        cached_input_tokens: int | None = None,
        output_tokens: int | None = None,
        tokens: int | None = None,
        samples: int | None = None,
        micro_batches: int | None = None,
        preemptions: int | None = None,
        **others: int | None,
    ) -> None:
        """Add to counters, by name, as for any span."""
        if (
            self._tokens is _NO_TOKENS
            and self._slot
            and tokens is None
            and samples is None
            and micro_batches is None
            and preemptions is None
            and not others
            and type(input_tokens) is int
            and 0 <= input_tokens <= SMALL
            and type(output_tokens) is int
            and 0 <= output_tokens <= SMALL
        ):
            if cached_input_tokens is None:
                self._tokens = (input_tokens, ABSENT, output_tokens)
                return
            if type(cached_input_tokens) is int and 0 <= cached_input_tokens <= SMALL:
                self._tokens = (input_tokens, cached_input_tokens, output_tokens)
                return
        super().add(
            input_tokens,
            cached_input_tokens,
            output_tokens,
            tokens,
            samples,
            micro_batches,
            preemptions,
            **others,
        )


def request(
    request_id: str | int | UUID | None = None,
    # Not keyword-only, though written so: a default of one that is costs a dictionary look-up.
    tenant: str | None = None,
    model: str | None = None,
    adapter: str | None = None,
    traceparent: str | None = None,
    arrival_ns: int | None = None,
) -> Span:
    """A request to a server.

    Args:
        request_id: The id by which its cost can be asked for; one over 62 bytes is hashed.
        tenant: Who asked. Both are keyed hashes where $APPORTION_ID_KEY_FILE names a key.
        model: What was asked.
        adapter: A LoRA or similar on top of the model.
        traceparent: The W3C header of the caller, for the trace id.
        arrival_ns: When it came, by `time.monotonic_ns()`, if before now.
    """
    if hashed_ids.on:
        request_id, tenant = hashed_ids.request_id(request_id), hashed_ids.tenant(tenant)
    span = Request()
    span._slot = None
    span._full = False
    span._tokens = _NO_TOKENS
    span._scheduled_ns = span._first_token_ns = 0
    if model is None and adapter is None:
        span._labels = tenant
    else:
        span._labels = (tenant, model, adapter)
    length = _ID_BYTES + 1
    if type(request_id) is str:
        try:
            span._id = text = request_id.encode()
            span._id_head = length = len(text)
        except UnicodeEncodeError:
            pass
    if length > _ID_BYTES:
        span._id_head, span._id = request_id_field(request_id)
    if traceparent is not None or arrival_ns is not None:
        _say_more(span, traceparent, arrival_ns)
    return span


def _say_more(span: Request, traceparent: str | None, arrival_ns: int | None) -> None:
    span._fill()
    if traceparent is not None:
        span._trace = trace_field(traceparent)
    if arrival_ns is not None:
        if type(arrival_ns) is int and 0 < arrival_ns <= monotonic_ns():
            span._arrival_ns = arrival_ns
        else:
            count("arrival_ignored")
