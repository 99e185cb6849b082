"""The application: its routes, and the predictor behind them."""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import os
import platform
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from html import escape
from importlib.metadata import version
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from PIL import Image
from starlette.requests import ClientDisconnect

from van import __version__
from van.engine.options import ServeOptions
from van.engine.parsing import to_mapping
from van.engine.result import Result
from van.errors import VanError
from van.serve.batcher import Batcher, QueueFullError
from van.serve.limits import GONE, Limits
from van.serve.metrics import Metrics
from van.serve.requests import ImagesInJSON, Upload, prepare, read_images

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

_MOST_PREPARERS = 4
_WARM_UP = 3.0  # seconds
_BINARY = {"type": "string", "format": "binary"}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"type": "object", "properties": {"images": {"type": "array", "items": _BINARY}}}
            },
            "application/json": {"schema": ImagesInJSON.model_json_schema()},
            "image/*": {"schema": _BINARY},
            "application/octet-stream": {"schema": _BINARY},
        },
    }
}
_ERRORS = {
    401: "The API key is missing or wrong",
    408: "The body was not sent within the time-out",
    413: "The body, the number of images or an image is too large",
    415: "The content type is none of the three forms",
    422: "There is no image, or one that cannot be decoded",
    429: "The queue is full; Retry-After says when to try again",
    500: "The network failed on an image",
    503: "The service is starting or stopping",
    504: "There was no result within the time-out",
}
State = Literal["starting", "ready", "stopping", "failed"]


class Service:
    """A predictor in one thread, with threads that decode for it.

    Args:
        load: See van.serve.create_app.
        options: Of the service.

    Attributes:
        state: What it is doing.
        failure: Why it could not start.
        active: Requests with images that are being answered.
        predictor: None until it is loaded.
    """

    def __init__(self, load: "Callable[[], Predictor]", options: ServeOptions) -> None:
        self.state: State = "starting"
        self.failure: Exception | None = None
        self.active = 0
        self.predictor: Predictor | None = None
        self.options = options
        self.metrics = Metrics(lambda: len(self._batcher) if self._batcher else 0, options.max_batch)
        self._load = load
        self._batcher: Batcher | None = None

    @asynccontextmanager
    async def running(self, _: FastAPI) -> AsyncIterator[None]:
        """Load the predictor beside the requests of the block, and stop everything behind it."""
        count = min(_MOST_PREPARERS, os.cpu_count() or 1)
        self._preparing = ThreadPoolExecutor(count, "prepare", _single_thread)
        self._computing = ThreadPoolExecutor(1, "compute")
        starting = asyncio.ensure_future(self._start(count))
        try:
            yield
        finally:
            self.state = "stopping"
            starting.cancel()
            if self._batcher is not None:
                self._batcher.close()
            for pool in (self._preparing, self._computing):
                pool.shutdown(wait=False, cancel_futures=True)

    async def _start(self, preparers: int) -> None:
        run = asyncio.get_running_loop().run_in_executor
        threads = await run(self._computing, _threads)
        # all of them start now, before the network sets its number: MKL takes the last one from whatever thread
        barrier = threading.Barrier(preparers)
        await asyncio.gather(*(run(self._preparing, barrier.wait) for _ in range(preparers)))
        try:
            predictor = await run(self._computing, self._loaded, threads)
        except Exception as error:
            self.failure, self.state = error, "failed"
            return
        self.predictor = predictor
        make, mode = predictor.task.prepare(predictor), predictor.mode
        self._batcher = Batcher(
            lambda upload: prepare(upload, self.options, make, mode),
            self._compute,
            preparing=self._preparing,
            preparers=preparers,
            computing=self._computing,
            max_batch=self.options.max_batch,
            max_wait=self.options.max_wait_ms / 1000,
            queue_size=self.options.queue_size,
            on_batch=self.metrics.batch,
        )
        if self.state == "starting":
            self.state = "ready"

    def _loaded(self, threads: int) -> "Predictor":
        """Load the predictor, and run it once so that the first request does not wait for what happens only once."""
        import torch

        predictor = self._load()
        torch.set_num_threads(threads)
        image = Image.new("RGB", (256, 256), "gray").convert(predictor.mode)
        item = predictor.task.prepare(predictor)(image)
        seconds = 0.0
        for count in (1, 1, self.options.max_batch):
            if seconds * count < _WARM_UP:  # large networks need no more than one image
                start = perf_counter()
                predictor.predict([item] * count, [(256, 256)] * count)
                seconds = perf_counter() - start
        return predictor

    def _compute(self, batch: list[Any]) -> list[Result]:
        assert self.predictor is not None  # noqa: S101 - the batcher is made after it
        results = self.predictor.predict([one.item for one in batch], [one.size for one in batch])
        for one, result in zip(batch, results, strict=True):
            result.path = one.path
        return results

    def admit(self) -> Batcher:
        """Return the batcher if a request may come in.

        Raises:
            HTTPException: it may not, or not now.
        """
        if self._batcher is None or self.state != "ready":
            raise HTTPException(503, f"The service is {self.state}.", {"Retry-After": "1"})
        if self._batcher.full:
            raise self.busy()
        return self._batcher

    def busy(self) -> HTTPException:
        """Return the answer to a request that does not fit into the queue."""
        seconds = max(1, ceil(self._batcher.seconds_left if self._batcher else 1))
        return HTTPException(429, "The queue is full. Try again later.", {"Retry-After": str(seconds)})

    async def answer(self, request: Request, maps: bool) -> Response:
        """Return the results of the images of a request.

        Raises:
            HTTPException: something is wrong with it, or it took too long.
        """
        batcher, loop = self.admit(), asyncio.get_running_loop()
        until = loop.time() + self.options.timeout
        try:
            uploads = await asyncio.wait_for(read_images(request, self.options), self.options.timeout)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"The body did not arrive within {self.options.timeout:g} s.") from None
        except ClientDisconnect:
            return Response(status_code=GONE)
        work = asyncio.ensure_future(self._work(batcher, uploads, maps))
        gone = asyncio.ensure_future(request.receive())  # the body is read: what comes next is that the client leaves
        try:
            await asyncio.wait({work, gone}, timeout=until - loop.time(), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return Response(work.result(), media_type="application/json")
            if gone.done():
                return Response(status_code=GONE)
            raise HTTPException(504, f"There was no result within {self.options.timeout:g} s.")
        except QueueFullError:
            raise self.busy() from None
        finally:
            work.cancel()
            gone.cancel()

    async def _work(self, batcher: Batcher, uploads: list[Upload], maps: bool) -> bytes:
        results = await batcher(uploads)
        return await asyncio.get_running_loop().run_in_executor(self._preparing, _encoded, results, maps)

    def describe(self) -> dict[str, Any]:
        """Return what the service runs."""
        predictor = self.predictor
        if predictor is None:
            raise HTTPException(503, f"The service is {self.state}.", {"Retry-After": "1"})
        options = getattr(predictor.model, "options", None)
        return {
            "weights": Path(self.options.weights).name,
            "task": predictor.task.name,
            "class_names": predictor.class_names,
            "network": None if options is None else to_mapping(options),
            "preprocessing": predictor.extra.get("preprocessing"),
            "target": predictor.extra.get("target"),
            "inference": to_mapping(predictor.inference),
            "device": str(predictor.device),
            "engine": predictor.computed_by,
            "versions": {"van": __version__, "torch": version("torch"), "python": platform.python_version()},
            "limits": {
                name: getattr(self.options, name)
                for name in ("max_batch", "queue_size", "timeout", "max_body_mb", "max_pixels", "max_images")
            },
        }


def create(load: "Callable[[], Predictor]", options: ServeOptions) -> FastAPI:
    """Return the application; see van.serve.create_app."""
    options.check()
    service = Service(load, options)
    guard = [] if options.api_key_file is None else [Depends(_guard(_read_key(options.api_key_file)))]
    app = FastAPI(
        title="van",
        version=__version__,
        summary="What is on images.",
        lifespan=service.running,
        docs_url=None,  # these pages load scripts from the Internet
        redoc_url=None,
    )
    app.state.service = service
    app.add_middleware(Limits, max_body=int(options.max_body_mb * 1e6), count=service.metrics.request)

    @app.post("/predict", dependencies=guard, openapi_extra=_BODY, responses=_described(*_ERRORS))
    async def predict(
        request: Request,
        maps: Annotated[
            bool, Query(description="Add maps that have a value for each pixel, as PNG in base64.")
        ] = False,
    ) -> Response:
        """Return what is on one or several images: {"results": [...]}, one entry for each image, in order."""
        service.active += 1
        try:
            return await service.answer(request, maps)
        finally:
            service.active -= 1

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Say whether the process works: a failure means that it should be started again."""
        if service.state == "failed":
            raise HTTPException(503, "The weights could not be loaded.")
        return {"status": "ok"}

    @app.get("/ready", responses=_described(503))
    async def ready() -> JSONResponse:
        """Say whether requests are answered: not while the service starts or stops."""
        return JSONResponse({"status": service.state}, 200 if service.state == "ready" else 503)

    @app.get("/model", dependencies=guard, responses=_described(401, 503))
    async def model() -> dict[str, Any]:
        """Return task, classes, preprocessing, options, versions and limits."""
        return service.describe()

    @app.get("/metrics", dependencies=guard, responses=_described(401))
    async def metrics() -> Response:
        """Return counters in the format of Prometheus."""
        return Response(service.metrics.text(), media_type=service.metrics.content_type)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(_page(app.openapi()))

    return app


def _page(schema: dict[str, Any]) -> str:
    """Return the schema as a page that needs nothing but itself."""
    parts = []
    for path, methods in schema["paths"].items():
        for method, about in methods.items():
            takes = "".join(f"<li>{escape(kind)}</li>" for kind in about.get("requestBody", {}).get("content", ()))
            given = "".join(
                f"<li><code>?{escape(one['name'])}=</code> {escape(one.get('description', ''))}</li>"
                for one in about.get("parameters", ())
            )
            statuses = "".join(
                f"<li>{status}: {escape(one['description'])}</li>" for status, one in about["responses"].items()
            )
            parts.append(
                f"<h2>{method.upper()} {escape(path)}</h2><p>{escape(about['description'])}</p><ul>{given}</ul>"
                + (f"<p>Content types:</p><ul>{takes}</ul>" if takes else "")
                + f"<p>Statuses:</p><ul>{statuses}</ul>"
            )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>van</title>"
        "<style>body{font:1rem sans-serif;max-width:45rem;margin:2rem auto}</style>"
        f"<h1>van {escape(__version__)}</h1><p>For programs: <a href=openapi.json>openapi.json</a>.</p>"
        + "".join(parts)
    )


def _threads() -> int:
    """Return how many threads PyTorch computes with here; importing it takes seconds."""
    import torch

    return torch.get_num_threads()


def _single_thread() -> None:
    """Let operations of PyTorch in this thread run in it alone: all processors belong to the network."""
    import torch

    torch.set_num_threads(1)


def _described(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": _ERRORS[status]} for status in statuses}


def _encoded(results: Sequence[Result], maps: bool) -> bytes:
    """Return the body of an answer."""
    entries = []
    for result in results:
        entry = result.to_dict()
        if maps:
            entry["maps"] = {name: _png(image) for name, image in result.maps().items()}
        entries.append(entry)
    return json.dumps({"results": entries}, ensure_ascii=False, allow_nan=False).encode()


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()


def _read_key(path: str) -> bytes:
    """Return the digest of the key in a file.

    Raises:
        VanError: the file cannot be read, or holds something else than one key.
    """
    try:
        words = Path(path).read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise VanError(f"The file with the API key, {path}, cannot be read ({error}).") from error
    if len(words) != 1 or not words[0].isascii():
        raise VanError(f"{path} has {len(words)} words, expected one key of ASCII characters without blanks.")
    return hashlib.sha256(words[0].encode()).digest()


def _guard(key: bytes) -> Callable[..., Any]:
    """Return a dependency that refuses requests without the key whose digest this is."""
    bearer = HTTPBearer(auto_error=False)

    async def check(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        digest = hashlib.sha256((given.credentials if given else "").encode()).digest()
        if not hmac.compare_digest(digest, key):
            raise HTTPException(401, _ERRORS[401] + ".", {"WWW-Authenticate": "Bearer"})

    return check
