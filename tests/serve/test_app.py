import asyncio
import base64
import io
import json
import zlib

import numpy as np
import pytest
from PIL import Image
from tests.serve.conftest import Gate, png, until

import van
from van.errors import VanError
from van.export import format_named
from van.serve import ServeOptions, create_app

PNG = {"content-type": "image/png"}
JSON = {"content-type": "application/json"}


def in_json(*images: bytes) -> str:
    return json.dumps({"images": [base64.b64encode(image).decode() for image in images]})


def bomb() -> bytes:
    """A PNG of a few bytes whose header promises 30000 x 30000 pixels."""
    head = b"IHDR" + (30000).to_bytes(4, "big") * 2 + png()[24:29]
    return png()[:12] + head + zlib.crc32(head).to_bytes(4, "big") + png()[33:]


def test_every_form_of_a_request_gives_what_the_predictor_gives(service, weights):
    async def scenario(client, _):
        form = await client.post("/predict", files=[("images", ("one.png", png(1))), ("images", ("two.png", png(2)))])
        raw = await client.post("/predict", content=png(1), headers=PNG)
        text = await client.post("/predict", content=in_json(png(1), png(2)), headers=JSON)
        return [answer.json()["results"] for answer in (form, raw, text)]

    form, raw, text = service(scenario)
    expected = [result.to_dict() for result in van.load(weights)([png(1), png(2)])]
    assert [entry["image"] for entry in form] == ["one.png", "two.png"]
    for entries in (form, raw, text):
        for entry, other in zip(entries, expected, strict=False):
            assert {**entry, "image": None}.keys() == other.keys()
            assert entry["classes"] == other["classes"]
            assert entry["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)
    assert (len(form), len(raw), len(text)) == (2, 1, 2)


@pytest.mark.parametrize("form", ["onnx", "torch", pytest.param("openvino", marks=pytest.mark.slow)])
def test_exported_files_are_served_like_their_weights(service, weights, tmp_path, form):
    path = van.export(weights, form, tmp_path / f"file{format_named(form).ending}")

    async def scenario(client, running):
        await until(lambda: running.state == "ready")
        about = await client.get("/model")
        answer = await client.post("/predict", content=in_json(png(1), png(2), png(3)), headers=JSON)
        return about.json(), answer.json()["results"]

    about, results = service(scenario, lambda: van.load(path), weights=str(path), max_batch=2)
    assert (about["weights"], about["task"]) == (path.name, "classification")
    for found, expected in zip(results, van.load(weights)([png(1), png(2), png(3)]), strict=True):
        assert found["classes"] == expected.to_dict()["classes"]
        assert found["probabilities"] == pytest.approx(expected.to_dict()["probabilities"], abs=1e-4)


def test_concurrent_requests_are_batched_and_each_gets_its_own_results(service, weights):
    async def scenario(client, running):
        gate = Gate(running.predictor)
        jobs = [asyncio.ensure_future(client.post("/predict", content=png(i), headers=PNG)) for i in range(30)]
        await until(lambda: gate.batches)
        gate.opened.set()
        answers = await asyncio.gather(*jobs)
        return gate.batches, [answer.json()["results"][0] for answer in answers]

    batches, results = service(scenario, max_batch=4)
    assert sum(batches) == 30
    assert max(batches) == 4
    assert len(batches) < 15
    for result, expected in zip(results, van.load(weights)([png(i) for i in range(30)]), strict=True):
        assert result["probabilities"] == pytest.approx(expected.to_dict()["probabilities"], abs=1e-4)
    assert len({tuple(result["probabilities"]) for result in results}) > 20


@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        pytest.param(
            b"x=1", {"content-type": "application/x-www-form-urlencoded"}, 415, "expected multipart", id="form"
        ),
        pytest.param(b"x", {}, 415, "not given", id="no-type"),
        pytest.param(b"", PNG, 422, "empty", id="empty"),
        pytest.param(b"no image", PNG, 422, "known format", id="text"),
        pytest.param(png()[:60], PNG, 422, "cannot be decoded", id="cut-off"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", PNG, 422, "known format", id="postscript"),
        pytest.param(bomb(), PNG, 413, "pixels", id="bomb"),
        pytest.param(png(size=(200, 60)), PNG, 413, "200 x 60 pixels, at most 10000", id="pixels"),
        pytest.param(b"\0" * 200_001, PNG, 413, "more than 200000 bytes", id="body"),
        pytest.param(b"{", JSON, 422, "JSON", id="broken-json"),
        pytest.param(b"[" * 50_000, JSON, 413, "more than the 3 images", id="deep-json"),
        pytest.param(b'{"images":[' + b"[]," * 50_000 + b"[]]}", JSON, 413, "3 images", id="many-lists"),
        pytest.param(b'{"images": []}', JSON, 422, "no image", id="no-image"),
        pytest.param(b'{"images": ["/etc/passwd"]}', JSON, 422, "base64", id="path"),
        pytest.param(b'{"images": ["http://localhost/x.png"]}', JSON, 422, "base64", id="url"),
        pytest.param(b'{"image": "/etc/passwd"}', JSON, 422, "Expected", id="other-key"),
        pytest.param(in_json(*[png()] * 4).encode(), JSON, 413, "has 4 images, at most 3", id="images"),
        pytest.param(b"x", {"content-type": "multipart/form-data"}, 422, "boundary", id="no-boundary"),
        pytest.param(b"x", {"content-type": "multipart/form-data; boundary=b"}, 422, "Invalid", id="broken-form"),
    ],
)
def test_bad_request_is_refused_and_the_next_one_works(service, content, headers, status, words):
    async def scenario(client, _):
        return await client.post("/predict", content=content, headers=headers), await client.post(
            "/predict", content=png(), headers=PNG
        )

    bad, good = service(scenario, max_body_mb=0.2, max_pixels=10_000, max_images=3)
    assert (bad.status_code, good.status_code) == (status, 200)
    assert words in bad.json()["detail"]


def test_forms_take_files_only_and_not_too_many(service):
    async def scenario(client, _):
        path = await client.post("/predict", files={"images": (None, "/etc/passwd")})
        many = await client.post("/predict", files=[("images", ("i.png", png()))] * 4)
        return path, many

    path, many = service(scenario, max_images=3)
    assert path.status_code == 422
    assert "Send each image as a file" in path.json()["detail"]
    assert "root:" not in path.text
    assert many.status_code == 413


def test_body_without_length_is_counted_while_it_is_read(service):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 10_000_000:
            sent += 50_000
            yield b"\0" * 50_000

    async def scenario(client, _):
        return await client.post("/predict", content=endless(), headers=PNG)

    assert service(scenario, max_body_mb=0.2).status_code == 413
    assert sent <= 300_000


def test_body_that_does_not_arrive(service):
    async def slow():
        yield b"x"
        await asyncio.sleep(5)

    async def scenario(client, running):
        answer = await client.post("/predict", content=slow(), headers=PNG)
        return answer, running.active

    answer, active = service(scenario, timeout=0.3)
    assert (answer.status_code, active) == (408, 0)


def test_full_queue_time_out_and_clients_that_leave(service):
    async def scenario(client, running):
        def post():
            return asyncio.ensure_future(client.post("/predict", content=png(), headers=PNG))

        def waiting():
            return len(running._batcher._waiting)

        gate = Gate(running.predictor)
        running.options.timeout = 60
        jobs = [post()]
        await until(lambda: gate.batches)  # one is computed
        while not running._batcher.full:  # some are prepared, two wait
            jobs.append(post())
            await asyncio.sleep(0.05)
        full = await post()
        assert (full.status_code, waiting()) == (429, 2)
        assert int(full.headers["retry-after"]) >= 1
        gone = jobs.pop()
        gone.cancel()
        await until(lambda: waiting() == 1)
        running.options.timeout = 0.2
        late = await post()
        assert late.status_code == 504
        await until(lambda: waiting() == 1)
        gate.opened.set()
        return [answer.status_code for answer in await asyncio.gather(*jobs)], running.active

    statuses, active = service(scenario, max_batch=1, max_images=1, queue_size=2)
    assert set(statuses) == {200}
    assert active == 0


def test_client_that_leaves_frees_its_place(service):
    """Over ASGI directly: httpx cancels the application's task, a server sends it a message."""

    async def scenario(client, running):
        gate, sent, left = Gate(running.predictor), [], asyncio.Event()

        async def receive():
            if not sent:
                sent.append(True)
                return {"type": "http.request", "body": png(), "more_body": False}
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            sent.append(message.get("status"))

        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http"}
        scope |= {"path": "/predict", "raw_path": b"/predict", "query_string": b"", "root_path": ""}
        scope |= {"headers": [(b"content-type", b"image/png")], "client": ("test", 1), "server": ("van", 80)}
        job = asyncio.ensure_future(client._transport.app(scope, receive, send))
        await until(lambda: gate.batches)
        left.set()
        await asyncio.wait_for(job, 10)
        gate.opened.set()
        return running.active, sent[1]

    assert service(scenario) == (0, 499)


def test_service_that_starts_or_stops_says_so(service, weights):
    async def scenario(client, running):
        first = [await client.get(path) for path in ("/health", "/ready", "/model", "/metrics")]
        first.append(await client.post("/predict", content=png(), headers=PNG))
        gate.set()
        await until(lambda: running.state == "ready")
        then = [await client.get("/ready"), await client.post("/predict", content=png(), headers=PNG)]
        running.state = "stopping"
        last = [await client.get("/health"), await client.get("/ready")]
        last.append(await client.post("/predict", content=png(), headers=PNG))
        return [[answer.status_code for answer in answers] for answers in (first, then, last)]

    import threading

    gate = threading.Event()

    def loading():
        assert gate.wait(30)
        return van.load(weights)

    assert service(scenario, loading) == [[200, 503, 503, 200, 503], [200, 200], [200, 503, 503]]


def test_weights_that_cannot_be_loaded(service):
    def loading():
        raise VanError("broken")

    async def scenario(client, running):
        await until(lambda: running.state == "failed")
        return [(await client.get(path)).status_code for path in ("/health", "/ready")], str(running.failure)

    assert service(scenario, loading) == ([503, 503], "broken")


def test_image_that_the_network_fails_on_spoils_only_its_own_request(service):
    async def scenario(client, running):
        predict = running.predictor.predict

        def failing(items, sizes):
            if (31, 41) in sizes:
                raise RuntimeError("out of memory")
            return predict(items, sizes)

        running.predictor.predict = failing
        images = [png(), png(size=(41, 31)), png()]
        jobs = [client.post("/predict", content=image, headers=PNG) for image in images]
        return [answer.status_code for answer in await asyncio.gather(*jobs)]

    assert service(scenario, max_wait_ms=300) == [200, 500, 200]


def test_api_key(service, tmp_path):
    key = tmp_path / "key"
    key.write_text("secret\n")

    async def scenario(client, _):
        found = []
        for given in (None, "Bearer wrong", "Bearer secret", "Basic secret"):
            headers = PNG if given is None else {**PNG, "authorization": given}
            answers = [await client.post("/predict", content=png(), headers=headers)]
            answers += [await client.get(path, headers=headers) for path in ("/model", "/metrics", "/health", "/ready")]
            found.append([answer.status_code for answer in answers])
        return found

    refused = [401, 401, 401, 200, 200]
    assert service(scenario, api_key_file=str(key)) == [refused, refused, [200] * 5, refused]


@pytest.mark.parametrize("content", [None, "", "two words"])
def test_file_of_the_api_key_is_checked_first(weights, tmp_path, content):
    key = tmp_path / "key"
    if content is not None:
        key.write_text(content)
    with pytest.raises(VanError, match="key"):
        create_app(lambda: None, ServeOptions(weights=str(weights), api_key_file=str(key)))


@pytest.mark.parametrize(
    "change", [{"port": 70000}, {"max_batch": 0}, {"timeout": 0}, {"queue_size": 3}, {"max_wait_ms": -1}]
)
def test_options_are_checked_first(change):
    with pytest.raises(VanError, match=f"{next(iter(change))} is"):
        create_app(lambda: None, ServeOptions(weights="x", **change))


def test_model_metrics_and_schema(service):
    async def scenario(client, _):
        await client.post("/predict", content=png(), headers=PNG)
        await client.post("/predict", content=b"x", headers=PNG)
        await client.get("/nothing/here")
        return [await client.get(path) for path in ("/model", "/metrics", "/openapi.json", "/docs")]

    model, metrics, schema, docs = service(scenario)
    about = model.json()
    assert (about["task"], about["class_names"]) == ("classification", ["blue", "green", "red"])
    assert about["preprocessing"]["input_size"] == [3, 32, 32]
    assert about["versions"]["van"] == van.__version__
    for line in (
        'van_requests_total{path="/predict",status="200"} 1.0',
        'van_requests_total{path="other",status="404"} 1.0',
        'van_errors_total{status="422"} 1.0',
        'van_request_seconds_count{path="/predict"} 2.0',
        "van_batch_images_count 1.0",
        "van_queue_images 0.0",
    ):
        assert line in metrics.text
    assert {"/predict", "/health", "/ready", "/model", "/metrics"} == set(schema.json()["paths"])
    assert docs.status_code == 200
    assert "//" not in docs.text  # nothing comes from elsewhere
    assert "/predict" in docs.text


def test_grey_rotated_and_transparent_images(service, weights):
    images = []
    for mode, options in (
        ("L", {}),
        ("RGBA", {}),
        ("RGB", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"}),
    ):
        file = io.BytesIO()
        pixels = np.random.default_rng(0).integers(0, 255, (20, 30, len(mode) if mode != "L" else 1), np.uint8)
        Image.fromarray(pixels.squeeze()).save(file, "PNG" if mode == "RGBA" else "JPEG", **options)
        images.append(file.getvalue())

    async def scenario(client, _):
        return (await client.post("/predict", content=in_json(*images), headers=JSON)).json()["results"]

    results = service(scenario)
    assert [(entry["height"], entry["width"]) for entry in results] == [(20, 30), (20, 30), (30, 20)]
    for result, expected in zip(results, van.load(weights)(images), strict=True):
        assert result["probabilities"] == pytest.approx(expected.to_dict()["probabilities"], abs=1e-4)
