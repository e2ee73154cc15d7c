"""Tasks that take turns on one thread: each has its own current span."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator
from pathlib import Path

from tests.client.decoded import only, request_id

from apportion import client
from apportion.client import layout


def parents(directory: Path) -> dict[str, str]:
    """Request ids to the request id of the parent; empty for none."""
    records = only(directory).records
    names = {each["number"]: request_id(each["request_id"])[0] for each in records}
    return {names[each["number"]]: names.get(each["parent"], "") for each in records}


def test_tasks_interleave(directory: Path) -> None:
    """Requests that overlap on one thread do not nest in each other, what is in them does."""

    async def serve(name: str) -> None:
        with client.request(name) as span:
            await asyncio.sleep(0)
            assert span is client.current_span()
            with client.request(f"{name}/inner"):
                await asyncio.sleep(0)
            await asyncio.gather(inner(f"{name}/task"))
            assert span is client.current_span()
        assert not client.current_span()

    async def inner(name: str) -> None:
        with client.request(name):
            await asyncio.sleep(0)

    async def main() -> None:
        await asyncio.gather(*(serve(name) for name in "abc"))

    asyncio.run(main())
    assert {
        name: name.split("/")[0] if "/" in name else ""
        for root in "abc"
        for name in (root, f"{root}/inner", f"{root}/task")
    } == parents(directory)


def test_a_loop_inside_a_span(directory: Path) -> None:
    """What a loop runs inside an outermost span of a plain thread is inside that span."""

    async def main() -> None:
        with client.request("in"):
            await asyncio.sleep(0)

    with client.request("out") as out:
        asyncio.run(main())
        assert out is client.current_span()
    assert {"in": "out", "out": ""} == parents(directory)


def test_a_cancelled_task(directory: Path) -> None:
    """A client that goes away cancels its task: its request is cancelled, not failed."""

    async def serve() -> None:
        with client.request("r"):
            await asyncio.sleep(3600)

    async def main() -> None:
        task = asyncio.create_task(serve())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert [layout.STATUSES["cancelled"]] == [each["status"] for each in only(directory).records]


def test_a_thread_of_a_task_sees_its_span(directory: Path) -> None:
    """A synchronous handler in a thread pool is inside the request that awaits it."""

    def handler() -> None:
        client.current_span().add(output_tokens=5)
        with client.request("in"):
            pass

    async def main() -> None:
        with client.request("out"):
            await asyncio.to_thread(handler)

    asyncio.run(main())
    assert {"in": "out", "out": ""} == parents(directory)
    assert 5 == only(directory).records[-1]["output_tokens"]


def test_a_stream_that_another_task_closes(directory: Path) -> None:
    """An async generator ended in another context ends its span; that context keeps its own."""

    async def stream() -> AsyncIterator[int]:
        with client.request("stream"):
            yield 1
            yield 2

    async def main() -> None:
        items = stream()
        await contextvars.copy_context().run(asyncio.ensure_future, anext(items))
        with client.request("other") as other:
            await items.aclose()  # type: ignore[attr-defined] # a generator has it
            assert other is client.current_span()
        assert not client.current_span()

    asyncio.run(main())
    assert {"stream": "", "other": ""} == parents(directory)
    assert {} == client.counts()
