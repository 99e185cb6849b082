"""uvicorn around the application: slow clients are cut off, and stopping waits for what was accepted."""

import asyncio
import logging
import signal
import socket
import warnings
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from h11 import IDLE
from uvicorn.protocols.http.h11_impl import H11Protocol

from van.engine.options import ServeOptions
from van.errors import VanError

_CONNECTIONS = 512
_SPARE = 5  # seconds beyond the time-out to send the answer


class _Protocol(H11Protocol):
    """HTTP/1.1 with a limit to the time from the first byte of a request, or from connecting, to the end of its answer.

    uvicorn itself waits without end for a head or body that comes byte by byte, and for a client that does not read.
    """

    seconds: float
    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._end is None:
            self._watch()
        super().data_received(data)
        # the rest of a body whose answer was ready before it
        if set(self.conn.states.values()) == {IDLE} and not self.conn.trailing_data[0] and self.cycle:
            self._unwatch()
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_response_complete(self) -> None:
        self._unwatch()
        super().on_response_complete()
        if not self.cycle.response_complete:  # the next request had already arrived
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def _watch(self) -> None:
        self._end = self.loop.call_later(self.seconds, self.transport.abort)

    def _unwatch(self) -> None:
        if self._end is not None:
            self._end.cancel()
            self._end = None


class _Server(uvicorn.Server):
    """Stops when the requests that were accepted have been answered; a second signal stops at once."""

    signal: int | None = None
    address = ""
    _said = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.should_exit = self.force_exit = True
        self.signal = sig
        self.service.state = "stopping"

    @property
    def service(self) -> Any:
        return self.config.app.state.service  # type: ignore[union-attr]

    async def on_tick(self, counter: int) -> bool:
        if self.service.failure or (self.signal is not None and not self.service.active):
            self.should_exit = True
        if self.service.state == "ready" and not self._said:
            self._said = True
            if not self.service.options.quiet:
                print(f"van serve: {self.service.predictor} answers at {self.address}, Ctrl-C stops it.", flush=True)
        return await super().on_tick(counter)


def run(app: FastAPI, options: ServeOptions) -> int:
    """Answer requests until a signal comes, and return the exit status.

    Args:
        app: What create_app returned.
        options: Of the service.

    Raises:
        VanError: the port cannot be used, or the weights.
        KeyboardInterrupt: after Ctrl-C.
    """
    listener = _listen(options)
    warnings.filterwarnings("ignore", module="PIL")  # about large images and odd metadata
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a line for each broken form
    config = uvicorn.Config(
        app,
        http=type("Protocol", (_Protocol,), {"seconds": options.timeout + _SPARE}),
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_graceful_shutdown=int(options.timeout) + _SPARE,
    )
    server = _Server(config)
    host, port = listener.getsockname()[:2]
    server.address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server.run([listener])
    if server.service.failure:
        raise server.service.failure
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt
    return 0


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server((options.host, options.port), family=family, backlog=_CONNECTIONS)
    except OSError as error:
        raise VanError(
            f"The service cannot listen on {options.host}, port {options.port} ({error.strerror or error}). Give "
            "another --port or --host."
        ) from error
