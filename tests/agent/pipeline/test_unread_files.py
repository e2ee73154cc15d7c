"""Files that are not read for a reason that somebody can mend."""

from __future__ import annotations

import logging

import pytest

from apportion.agent.ingest.aside import RefusedRing
from apportion.agent.ingest.refusal import Refusal
from apportion.agent.pipeline.unread_files import UnreadFiles
from apportion.core.ids import RingId

RINGS = [RingId(letter * 32) for letter in "abcde"]


def _refused(ring: RingId, reason: Refusal = Refusal.NO_ACCESS) -> RefusedRing:
    return RefusedRing(ring, reason, "", followed=False)


def test_what_the_agent_may_not_read_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """With what to do about it; the sentence stays while it lasts, and comes again when it does."""
    unread = UnreadFiles()
    with caplog.at_level(logging.WARNING):
        assert unread.look([_refused(RINGS[0])]) == {RINGS[0]: "no_access"}
        unread.look([_refused(ring) for ring in RINGS])
        said = unread.complaint or ""
        assert "ring aaaaaaaa, ring bbbbbbbb, ring cccccccc and 2 more" in said
        assert "`fsGroup`" in said
        assert unread.look([]) == {}
        assert unread.complaint is None
        unread.look([_refused(RINGS[1])])
    assert len(caplog.records) == 2


def test_a_broken_file_is_nobodys_fault() -> None:
    """It is counted, and is no reason to change anything."""
    unread = UnreadFiles()
    assert unread.look([_refused(RINGS[0], Refusal.CORRUPT)]) == {}
    assert unread.complaint is None
