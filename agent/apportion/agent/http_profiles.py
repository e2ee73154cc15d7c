"""`/profiles`: the finished profiles of this node, each as a page or as speedscope's JSON.

Of a trace that is what `profile gpu` drew of it; the trace itself is a form of its own.

Frames name code, so these doors answer to this host alone; from elsewhere `kubectl port-forward`
or ssh leads to them.
"""

from __future__ import annotations

import html
import ipaddress
from typing import Annotated, Final, Literal

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse

from apportion.agent.profile_store import ProfileStore
from apportion.core.errors import ProfileTraceError

LEAST_SHARE: Final = 0.1 / 1200
"""Of the whole: a tenth of a pixel, as `apportion flamegraph` draws pages."""
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>profiles</title></head>
<body><h1>Profiles</h1>
<p>{said}</p>
<ul>
{rows}
</ul></body></html>
"""


def add_profiles(app: FastAPI, store: ProfileStore) -> None:
    """Put the doors into an application."""

    @app.get("/profiles", response_class=HTMLResponse)
    def profiles(request: Request) -> Response:
        _of_this_host(request)
        rows = [_row(html.escape(path.name)) for path in reversed(store.files())]
        said = "The newest first." if rows else "None so far: apportion profile cpu takes one."
        return HTMLResponse(_PAGE.format(said=said, rows="\n".join(rows)))

    @app.get("/profiles/{name}", response_class=HTMLResponse)
    def profile(
        request: Request,
        name: str,
        form: Annotated[Literal["page", "speedscope", "trace"], Query()] = "page",
    ) -> Response:
        _of_this_host(request)
        content = store.content(name)
        if content is None:
            raise HTTPException(404, f"there is no profile {name}: it may have made room")
        if "-gpu-" not in name:
            drawing: bytes | None = content
        else:
            drawing = store.drawing(name)
        if form == "trace" or (form == "speedscope" and drawing is None):
            return Response(content, media_type="application/json")
        if drawing is None:
            raise HTTPException(
                406,
                f"{name} is a trace that was not drawn: apportion flamegraph draws it, "
                "?form=trace has it",
            )
        if form == "speedscope":
            return Response(drawing, media_type="application/json")
        return HTMLResponse(_page(drawing, name))


def _row(name: str) -> str:
    forms = ("speedscope", "trace") if "-gpu-" in name else ("speedscope",)
    links = "".join(f' <a href="/profiles/{name}?form={form}">{form}</a>' for form in forms)
    return f'<li><a href="/profiles/{name}">{name}</a>{links}</li>'


def _of_this_host(request: Request) -> None:
    host = request.client.host if request.client is not None else ""
    try:
        is_own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_own = False
    if not is_own:
        raise HTTPException(403, "profiles name code: read them from this host itself")


def _page(content: bytes, name: str) -> str:
    try:
        # an extra of its own, which an agent may be without
        from apportion.profiles.flame_page import flame_page  # noqa: PLC0415
        from apportion.profiles.flame_tree import flame_tree  # noqa: PLC0415
        from apportion.profiles.speedscope import read_speedscope  # noqa: PLC0415
        from apportion.profiles.weight import COUNT  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise HTTPException(501, "drawing needs pip install 'apportion[profiles]'") from error
    try:
        stacks = read_speedscope(content, name, COUNT)
    except ProfileTraceError as error:
        raise HTTPException(500, str(error)) from error
    return flame_page(flame_tree(stacks, 0, LEAST_SHARE), name)
