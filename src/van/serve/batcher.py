"""Images of concurrent requests in batches, through a bounded queue."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any


class QueueFullError(Exception):
    """The queue has no room for the images of a request."""


@dataclass(eq=False)
class _Image:
    source: Any
    answer: asyncio.Future
    prepared: Any = field(default=None, repr=False)


class Batcher:
    """Collects images, prepares them in threads and has them computed in batches, one batch at a time.

    Images wait as they came, which takes little memory; at most `max_batch` prepared ones wait for the next batch.

    Args:
        prepare: Makes of an image what `compute` takes; called in `preparing`.
        compute: Returns the results of a batch in order; called in `computing`.
        preparing: Threads that prepare.
        preparers: How many images are prepared at the same time.
        computing: The thread that computes.
        max_batch: Most images in a batch.
        max_wait: Seconds that a batch that is not full waits for further images.
        queue_size: Most images that wait to be prepared.
        on_batch: Called with the size of every batch.
    """

    def __init__(
        self,
        prepare: Callable[[Any], Any],
        compute: Callable[[list[Any]], Sequence[Any]],
        *,
        preparing: Executor,
        preparers: int,
        computing: Executor,
        max_batch: int,
        max_wait: float,
        queue_size: int,
        on_batch: Callable[[int], None],
    ) -> None:
        self._prepare, self._compute = prepare, compute
        self._preparing, self._computing = preparing, computing
        self.max_batch, self.max_wait, self.queue_size = max_batch, max_wait, queue_size
        self._on_batch = on_batch
        self._waiting: dict[_Image, None] = {}  # in order, and quick to leave
        self._arrived = asyncio.Event()
        self._ready: asyncio.Queue[_Image] = asyncio.Queue(max_batch)
        self._seconds = 0.0  # per image, lately
        jobs = [self._prepare_images() for _ in range(preparers)]
        self._tasks = [asyncio.ensure_future(job) for job in (*jobs, self._compute_batches())]

    def __len__(self) -> int:
        """Return how many images wait."""
        return len(self._waiting) + self._ready.qsize()

    @property
    def full(self) -> bool:
        """Whether there is no room for a single image."""
        return len(self._waiting) >= self.queue_size

    @property
    def seconds_left(self) -> float:
        """About how long it takes to compute what waits now."""
        return self._seconds * len(self)

    async def __call__(self, sources: Sequence[Any]) -> list[Any]:
        """Return the results of the images of a request. Cancelling the call takes them out of the queue.

        Raises:
            QueueFullError: there is no room for them; none has been taken.
            Exception: what preparing or computing one of them raised.
        """
        if len(self._waiting) + len(sources) > self.queue_size:
            raise QueueFullError
        loop = asyncio.get_running_loop()
        images = [_Image(source, loop.create_future()) for source in sources]
        self._waiting.update(dict.fromkeys(images))
        self._arrived.set()
        try:
            return await asyncio.gather(*(image.answer for image in images))
        finally:
            for image in images:
                self._waiting.pop(image, None)
                image.answer.cancel()

    def close(self) -> None:
        """Stop; images that still wait are never answered."""
        for task in self._tasks:
            task.cancel()

    async def _prepare_images(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            image = next(iter(self._waiting))
            del self._waiting[image]
            try:
                image.prepared = await loop.run_in_executor(self._preparing, self._prepare, image.source)
            except Exception as error:  # whatever it is, it belongs to this image
                _fail(image, error)
                continue
            image.source = None
            await self._ready.put(image)

    async def _compute_batches(self) -> None:
        while True:
            if batch := [image for image in await self._next_batch() if not image.answer.done()]:
                await self._compute_batch(batch)

    async def _compute_batch(self, batch: list[_Image]) -> None:
        self._on_batch(len(batch))
        start = perf_counter()
        try:
            await self._answer(batch)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch[0], error)
            else:
                for image in batch:  # one of them may have spoiled it for the others
                    await self._compute_batch([image])
        seconds = (perf_counter() - start) / len(batch)
        self._seconds = 0.8 * self._seconds + 0.2 * seconds if self._seconds else seconds

    async def _next_batch(self) -> list[_Image]:
        loop = asyncio.get_running_loop()
        batch = [await self._ready.get()]
        until = loop.time() + self.max_wait
        while len(batch) < self.max_batch:
            try:
                batch.append(self._ready.get_nowait())
            except asyncio.QueueEmpty:
                try:
                    batch.append(await asyncio.wait_for(self._ready.get(), until - loop.time()))
                except asyncio.TimeoutError:
                    break
        return batch

    async def _answer(self, batch: list[_Image]) -> None:
        loop = asyncio.get_running_loop()
        prepared = [image.prepared for image in batch]
        results = await loop.run_in_executor(self._computing, self._compute, prepared)
        for image, result in zip(batch, results, strict=True):
            if not image.answer.done():
                image.answer.set_result(result)


def _fail(image: _Image, error: Exception) -> None:
    if not image.answer.done():
        image.answer.set_exception(error)
