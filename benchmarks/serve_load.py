"""Throughput of `van serve` next to the predictor alone, and what happens under overload.

    python benchmarks/serve_load.py --weights van_b0 --engine openvino --seconds 300

It makes JPEGs of 224 x 224 pixels and about 30 kB, measures the predictor alone on them, starts the service on the
loopback address, measures its capacity, and sends more than that for a while: every request that was accepted has to be
answered with the results of its own image, broken requests in between with 4xx, and memory has to stay flat.
"""

import argparse
import asyncio
import io
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BROKEN = [
    (b"no image", "image/jpeg", 422),
    (b"", "image/jpeg", 422),
    (b"[" * 30_000, "application/json", 413),
    (b'{"images": ["/etc/passwd"]}', "application/json", 422),
    (b"x=1", "application/x-www-form-urlencoded", 415),
]


def jpegs(count: int) -> list[bytes]:
    """Return JPEG files of about 30 kB: smooth colors with some noise."""
    rng, files = np.random.default_rng(0), []
    for _ in range(count):
        colors = Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = np.asarray(colors, np.float32) + rng.normal(0, 28, (224, 224, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
        files.append(file.getvalue())
    return files


def alone(options: argparse.Namespace, images: list[bytes], answers: Any) -> None:
    """Put into a queue: images per second of the predictor on JPEGs, and on decoded images, and the first classes."""
    import van

    predictor = van.load(options.weights, None, options.max_batch, options.engine, options.precision)
    found = [result.to_dict() for result in predictor(images)]
    prepare, rates = predictor.task.prepare(predictor), []
    items = [prepare(Image.open(io.BytesIO(image)).convert("RGB")) for image in images[: options.max_batch]]
    for run in (lambda: predictor(images), lambda: predictor.predict(items, [(224, 224)] * len(items))):
        run()
        done, start = 0, time.perf_counter()
        while time.perf_counter() - start < options.short:
            done += len(run())
        rates.append(done / (time.perf_counter() - start))
    answers.put((*rates, str(predictor), found))


class Client:
    """One connection at a time over plain HTTP: cheaper than a library, as both sides share the processors."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, body: bytes, kind: str = "image/jpeg") -> tuple[int, bytes]:
        """Return status and body of the answer."""
        while self.free and self.free[-1][0].at_eof():
            self.free.pop()[1].close()
        reader, writer = self.free.pop() if self.free else await asyncio.open_connection("127.0.0.1", self.port)
        head = f"POST /predict HTTP/1.1\r\nHost: van\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        try:
            writer.write(head.encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
            length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
            answer = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        if b"connection: close" in lines:
            writer.close()
        else:
            self.free.append((reader, writer))
        return int(lines[0].split()[1]), answer


def memory(process: subprocess.Popen) -> float:
    """Return the resident memory of a process in megabytes."""
    text = Path(f"/proc/{process.pid}/status").read_text()
    return int(text.partition("VmRSS:")[2].split()[0]) / 1000


async def capacity(client: Client, images: list[bytes], seconds: float, clients: int) -> float:
    """Return answers per second to clients that each wait for their answer."""
    done, end = 0, time.perf_counter() + seconds

    async def one(number: int) -> None:
        nonlocal done
        while time.perf_counter() < end:
            status, _ = await client.post(images[number % len(images)])
            done += status == 200
            number += 1

    start = time.perf_counter()
    await asyncio.gather(*(one(number) for number in range(clients)))
    return done / (time.perf_counter() - start)


async def overload(
    client: Client, images: list[bytes], found: list[dict], process: subprocess.Popen, rate: float, seconds: float
) -> dict[str, Any]:
    """Send so many requests per second, whatever comes back, and return what came back."""
    statuses: Counter[Any] = Counter()
    times: list[float] = []
    sizes: list[float] = []
    wrong = bad = 0
    jobs: set[asyncio.Task] = set()

    async def one(number: int) -> None:
        nonlocal wrong
        sent = time.perf_counter()
        try:
            status, answer = await client.post(images[number])
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses[type(error).__name__] += 1
            return
        statuses[status] += 1
        if status == 200:
            times.append(time.perf_counter() - sent)
            got, expected = json.loads(answer)["results"][0], found[number]
            same = np.allclose(got["probabilities"][:1], expected["probabilities"][:1], atol=0.05)
            wrong += not (same and got["classes"][0] == expected["classes"][0])

    async def broken(body: bytes, kind: str, expected: int) -> None:
        nonlocal bad
        status, _ = await client.post(body, kind)
        bad += status not in (expected, 429, 503)  # 503: more than 512 connections

    start, sent = time.perf_counter(), 0
    while (now := time.perf_counter() - start) < seconds:
        while sent < now * rate:
            job = asyncio.ensure_future(one(random.randrange(len(images))))  # noqa: S311
            jobs.add(job)
            job.add_done_callback(jobs.discard)
            sent += 1
        if now > len(sizes):
            sizes.append(memory(process))
            jobs.add(asyncio.ensure_future(broken(*BROKEN[len(sizes) % len(BROKEN)])))
        await asyncio.sleep(0.005)
    if jobs:
        await asyncio.wait(jobs, timeout=60)
    times.sort()
    middle = len(sizes) // 2
    return {
        "sent": sent,
        "seconds": seconds,
        "statuses": {str(key): count for key, count in sorted(statuses.items(), key=str)},
        "unanswered": sent - sum(statuses.values()),
        "wrong_results": wrong,
        "broken_not_refused": bad,
        "answers_per_second": round(len(times) / seconds, 1),
        "p50_ms": round(1000 * times[len(times) // 2]),
        "p99_ms": round(1000 * times[int(len(times) * 0.99)]),
        "memory_mb": {"start": sizes[0], "middle": sizes[middle], "end": sizes[-1], "most": max(sizes)},
    }


def main() -> None:
    """Measure, and print the numbers as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--engine")
    parser.add_argument("--precision")
    parser.add_argument("--max-batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=300, help="length of the overload")
    parser.add_argument("--short", type=float, default=10, help="length of each other measurement")
    parser.add_argument("--overload", type=float, default=4, help="requests per second, as a multiple of the capacity")
    options = parser.parse_args()
    images = jpegs(64)
    spawn = multiprocessing.get_context("spawn")
    answers = spawn.Queue()
    child = spawn.Process(target=alone, args=(options, images, answers))
    child.start()
    jpeg_rate, network_rate, predictor, found = answers.get()
    child.join()
    command = [sys.executable, "-m", "van", "serve", "--weights", options.weights, "--port", "0"]
    command += ["--max-batch", str(options.max_batch)]
    for name in ("engine", "precision"):
        if value := getattr(options, name):
            command += [f"--{name}", value]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603
        assert process.stdout  # noqa: S101
        port = int(process.stdout.readline().partition("http://")[2].partition(":")[2].partition(",")[0])

        async def measure() -> tuple[float, dict[str, Any]]:
            client = Client(port)
            await capacity(client, images, 2, 2 * options.max_batch)
            rate = await capacity(client, images, options.short, 3 * options.max_batch)
            return rate, await overload(client, images, found, process, options.overload * rate, options.seconds)

        try:
            rate, under_load = asyncio.run(measure())
        finally:
            process.send_signal(signal.SIGTERM)
    report = {
        "predictor": predictor,
        "kilobytes_per_image": round(sum(map(len, images)) / len(images) / 1000, 1),
        "alone_images_per_second": {"jpegs": round(jpeg_rate, 1), "decoded": round(network_rate, 1)},
        "service_images_per_second": round(rate, 1),
        "share_of_alone": {"jpegs": round(rate / jpeg_rate, 3), "decoded": round(rate / network_rate, 3)},
        f"overload_x{options.overload:g}": under_load,
        "exit_status": process.returncode,
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
