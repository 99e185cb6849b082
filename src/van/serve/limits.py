"""ASGI middleware: how much a request may send, and what is counted about it."""

from collections.abc import Callable
from time import perf_counter

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_BODIES = 8  # of the largest size, in memory at the same time
GONE = 499  # the client went away: nginx's status, which nobody receives


class Limits:
    """Refuses bodies that are too large, with or without a content length, and counts and times every request.

    Args:
        app: The application.
        max_body: Largest body in bytes.
        count: Called with path, status and seconds of every request; paths that do not exist are "other".
    """

    def __init__(self, app: ASGIApp, max_body: int, count: Callable[[str, int, float], None]) -> None:
        self.app = app
        self.max_body = max_body
        self.count = count
        self.held = 0  # bytes of all bodies that are being read or worked on

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the application on a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, size = perf_counter(), 500, 0
        length = int(dict(scope["headers"]).get(b"content-length", b"0"))  # the server has checked it

        async def counted() -> Message:
            nonlocal size
            # before reading: the client may wait for a 100 before it sends the body
            message = {} if length > self.max_body else await receive()
            more = len(message.get("body", b""))
            size += more
            self.held += more
            if max(size, length) > self.max_body:
                raise HTTPException(413, f"The body has more than {self.max_body} bytes. Send fewer or smaller images.")
            if self.held > _BODIES * self.max_body:
                raise HTTPException(429, "Too many large requests at the same time.", {"Retry-After": "1"})
            return message

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, counted, noted)
        finally:
            self.held -= size
            route = scope.get("route")
            self.count(getattr(route, "path", "other"), status, perf_counter() - start)
