"""A service in this process, and the command in another."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import httpx
import numpy as np
import pytest
from PIL import Image
from tests.tasks.conftest import data, empty_folder, options_of, run_of  # noqa: F401 - fixtures

from van.serve import ServeOptions, create_app


def png(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG file with a picture of its own."""
    pixels = np.random.default_rng(seed).integers(0, 255, (3, 3, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def weights(run_of):  # noqa: F811
    """Run folder of a small classifier."""
    return run_of("classification").folder


class Gate:
    """Holds a predictor's batches back until it is opened."""

    def __init__(self, predictor):
        self.opened, self.batches, self.predict = threading.Event(), [], predictor.predict
        predictor.predict = self

    def __call__(self, items, sizes):
        self.batches.append(len(items))
        assert self.opened.wait(30)
        return self.predict(items, sizes)


@pytest.fixture
def service(weights):
    """Run a scenario, which gets a client and the service, against the application: service(scenario, **options)."""
    from van import load

    def run(scenario, loading=None, **changes):
        app = create_app(loading or (lambda: load(weights)), replace(ServeOptions(weights=str(weights)), **changes))

        async def body():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with (
                app.router.lifespan_context(app),
                httpx.AsyncClient(transport=transport, base_url="http://van", timeout=30) as client,
            ):
                if loading is None:
                    await until(lambda: app.state.service.state == "ready")
                return await scenario(client, app.state.service)

        return asyncio.run(body())

    return run


async def until(condition, seconds=30):
    """Wait for something to become true."""
    for _ in range(seconds * 100):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("It did not happen.")


@pytest.fixture
def command(weights):
    """Start `van serve` on a free port; gives the process and its address."""
    started = []

    def start(*arguments):
        process = subprocess.Popen(
            [sys.executable, "-m", "van", "serve", "--weights", str(weights), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        started.append(process)
        line = process.stdout.readline()
        assert "http://" in line, line + process.stderr.read()
        return process, "http://" + line.partition("http://")[2].partition(",")[0]

    yield start
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
