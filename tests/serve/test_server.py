"""The command, and what only a real connection shows."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from tests.serve.conftest import png

DOCS = Path(__file__).parents[2] / "docs" / "serve.md"
PNG = {"content-type": "image/png"}


def test_sigterm_finishes_what_was_accepted(command):
    process, address = command("--max-batch", "1")
    image = png(size=(2000, 2000))  # decoding 12 of them takes a while
    answers, failures = [], []

    def post():
        try:
            files = [("images", ("i.png", image))] * 6
            answers.append(httpx.post(f"{address}/predict", files=files, timeout=60))
        except httpx.HTTPError as error:
            failures.append(error)

    threads = [threading.Thread(target=post) for _ in range(4)]
    for thread in threads:
        thread.start()
    while True:
        found = re.search(r"van_queue_images (\d+)", httpx.get(f"{address}/metrics", timeout=60).text)
        if int(found[1]) > 12:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    if process.poll() is None:  # what it still listens for
        try:
            late = httpx.post(f"{address}/predict", content=png(), headers=PNG, timeout=60)
            assert late.status_code == 503
        except httpx.TransportError:
            pass  # it has just finished
    for thread in threads:
        thread.join()
    assert not failures
    assert [answer.status_code for answer in answers] == [200] * 4
    assert all(len(answer.json()["results"]) == 6 for answer in answers)
    assert process.wait(30) == 0
    assert "Traceback" not in process.stderr.read()


def test_slow_and_silent_clients_are_cut_off_and_others_are_answered(command):
    process, address = command("--timeout", "1")
    host, port = address.removeprefix("http://").split(":")

    def opened(data: bytes) -> socket.socket:
        client = socket.create_connection((host, int(port)), timeout=20)
        client.sendall(data)
        return client

    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n"
    clients = [opened(data) for data in (b"", b"GET / HT", head, head + b"\r\nabc")]
    broken = opened(b"\x16\x03\x01 no HTTP\r\n\r\n")
    assert b" 400 " in broken.recv(1000)
    assert httpx.post(f"{address}/predict", content=png(), headers=PNG).status_code == 200
    assert b" 408 " in clients[3].recv(1000)
    for client in clients[:3]:
        with suppress(ConnectionResetError):
            assert client.recv(1000) == b""
    for client in (*clients, broken):
        client.close()
    # a body that is still sent after its answer does not end the connection for the next request
    with httpx.Client(base_url=address) as one:
        assert one.post("/predict", content=b"x" * 500_000).status_code == 415
        assert one.post("/predict", content=png(), headers=PNG).status_code == 200
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert "Traceback" not in process.stderr.read()


def test_examples_in_the_docs(command, tmp_path):
    _, address = command()
    (tmp_path / "photo.jpg").write_bytes(png(1))
    (tmp_path / "other.jpg").write_bytes(png(2))
    text = DOCS.read_text(encoding="utf-8").replace("http://127.0.0.1:8000", address)
    python = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shell = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    shell = [line for line in shell if "curl" in line]
    assert python
    assert len(shell) >= 3
    for code in python:
        ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert "probabilities" in ran.stdout
    for line in shell:
        ran = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
        assert "results" in json.loads(ran.stdout), line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--weights", "missing.safetensors"], "missing.safetensors"),
        (["--max-batch", "0"], "max_batch is 0"),
        (["--port", "PORT"], "Give another --port"),
    ],
)
def test_wrong_options_end_the_command(weights, arguments, words):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        arguments = [str(taken.getsockname()[1]) if one == "PORT" else one for one in arguments]
        given = [] if "--weights" in arguments else ["--weights", str(weights)]
        ran = subprocess.run(
            [sys.executable, "-m", "van", "serve", *given, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert ran.returncode == 1
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr
