"""What a ring says of its server's engines, beside the devices that were found."""

from __future__ import annotations

from apportion.agent.pipeline.server_engines import ServerEngines

FOUR = {"tensor": 2, "pipeline": 1, "data": 2, "first": 0, "engines": 2, "here": 2}


def test_a_device_that_is_missing_is_named_plainly() -> None:
    """Tensor x pipeline x data are four, and two were found: nothing is divided."""
    engines = ServerEngines.of({**FOUR, "devices": 2, "apart": 1})
    assert engines is not None
    assert engines.wrong_count(4) is None
    assert engines.wrong_count(2) == (
        "4 devices are expected here (tensor 2 x pipeline 1 x data 2), and 2 were found"
    )
    assert engines.split(["a", "b", "c", "d"]) == [("a", "b"), ("c", "d")]
    assert engines.split(["a", "b"]) == []


def test_what_is_not_said_whole_is_not_said() -> None:
    """Half of it divides nothing, and neither do engines that share devices."""
    assert ServerEngines.of(FOUR) is None
    assert ServerEngines.of({}) is None
    shared = ServerEngines.of({**FOUR, "devices": 2, "apart": 0})
    assert shared is not None
    assert shared.split(["a", "b", "c", "d"]) == []
