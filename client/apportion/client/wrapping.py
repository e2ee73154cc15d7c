"""A span around each call of a function of any colour."""

from __future__ import annotations

import functools
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, aclosing
from typing import Any, ParamSpec, TypeVar, cast

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


def wrap(
    again: Callable[[], AbstractContextManager[object]],
    function: Callable[Parameters, Result],
) -> Callable[Parameters, Result]:
    """The function, each call of which runs inside a context that `again` makes.

    Of a generator the context is open from its first value to its end.
    """
    # Slow to import, and only decorators need it.
    import inspect  # noqa: PLC0415

    called: Any = function
    wrapped: Any
    if inspect.iscoroutinefunction(function):

        async def await_within(*args: Any, **kwargs: Any) -> Any:
            with again():
                return await called(*args, **kwargs)

        wrapped = await_within
    elif inspect.isasyncgenfunction(function):

        async def iterate_within(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            with again():
                async with aclosing(called(*args, **kwargs)) as items:
                    async for item in items:
                        yield item

        wrapped = iterate_within
    elif inspect.isgeneratorfunction(function):

        def yield_within(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with again():
                items: Generator[Any, Any, Any] = called(*args, **kwargs)
                return (yield from items)

        wrapped = yield_within
    else:

        def call_within(*args: Any, **kwargs: Any) -> Any:
            with again():
                return called(*args, **kwargs)

        wrapped = call_within
    return cast("Callable[Parameters, Result]", functools.update_wrapper(wrapped, function))
