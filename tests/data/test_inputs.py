"""Where images to look at come from, and that each is decoded once."""

import http.server
import io
import os
import sys
import tarfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from van.data import inputs
from van.data.inputs import ImageFiles, ImageSources, Packed, Unlisted, fetch, in_batches
from van.errors import DataError


def encoded(colour=(255, 0, 0), form="PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 4), colour).save(file, form)
    return file.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b10.png", "b2.png", "deep/a.jpg", "deep/er/x.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(encoded())


def names(*sources: str) -> list[str]:
    return [str(image) for image in ImageSources(sources)]


class TestSources:
    def test_files_folders_and_patterns_in_the_order_given(self):
        inside = ["deep/a.jpg", "deep/er/x.png"]
        assert names("b10.png", "deep", "b2.png", "missing.png") == ["b10.png", *inside, "b2.png", "missing.png"]
        assert names("b*.png") == ["b2.png", "b10.png"]  # in natural order
        assert names("deep/**/*.*") == inside
        assert ImageSources(["deep", "b*.png"]).total == 4

    def test_a_file_whose_name_looks_like_a_pattern(self):
        Path("c[1].png").write_bytes(encoded())
        assert names("c[1].png") == ["c[1].png"]

    def test_lists_of_paths_and_urls(self):
        odd = b"na\xefve.png"  # no UTF-8
        Path("list.txt").write_bytes(b"\xef\xbb\xbfb2.png\r\n\n deep/a.jpg\nhttp://host/x.png\n" + odd)
        sources = ImageSources(["list.txt", "b10.png"])
        expected = ["b2.png", " deep/a.jpg", "http://host/x.png", os.fsdecode(odd), "b10.png"]
        assert list(sources) == list(sources) == expected
        assert (sources.total, sources.once) == (None, False)

    def test_standard_input_is_read_as_it_comes(self, monkeypatch):
        read, write = os.pipe()
        with open(read, "rb") as end, open(write, "wb", buffering=0) as start:  # noqa: PTH123
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(end))
            sources = ImageSources(["b2.png", "-"])
            assert sources.once
            listed = iter(sources)
            assert next(listed) == "b2.png"
            start.write(b"one.png\n")
            assert next(listed) == "one.png"  # though the pipe is open
        with pytest.raises(DataError, match="given twice"):
            ImageSources(["-", "-"])

    def test_tar_files_and_shards_are_read_in_place(self):
        members = {
            "a/0.png": encoded(), "a/0.cls": b"1", "a/._0.png": b"x", "../../up.png": encoded((0, 255, 0)),
            "/root.jpg": encoded((0, 0, 255), "JPEG"),
        }  # fmt: skip
        Path("shards").mkdir()
        pack(Path("shards/s-10.tar"), {"z.png": encoded()})
        pack(Path("shards/s-2.tar"), members)
        found = list(ImageSources(["shards"]))
        inside = ["shards/s-2.tar/" + name for name in ("a/0.png", "../../up.png", "/root.jpg")]
        assert [str(one) for one in found] == [*inside, "shards/s-10.tar/z.png"] == names("shards/s-*.tar")
        assert found[1].read() == members["../../up.png"]
        assert found[2].read() == members["/root.jpg"]
        assert sorted(path.name for path in Path().iterdir()) == ["b10.png", "b2.png", "deep", "shards"]

    def test_a_long_tar_file_takes_no_memory(self):
        pack(Path("long.tar"), {f"{i}.png": b"" for i in range(2000)})
        import tracemalloc

        listed = iter(ImageSources(["long.tar"]))
        next(listed)
        tracemalloc.start()
        assert sum(1 for _ in listed) == 1999
        kept = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert kept < 200_000

    def test_a_damaged_tar_file_takes_the_place_of_its_images(self):
        whole = pack(Path("s.tar"), {f"{i}.png": encoded() for i in range(40)}).read_bytes()
        Path("cut.tar").write_bytes(whole[: 512 * 5 + 100])
        Path("half.tar").write_bytes(whole[: 512 * 3] + b"\x01" * 512 * 10)
        pack(Path("none.tar"), {"a.txt": b"x"})
        cut, first, second, half, none, last = ImageSources(["cut.tar", "half.tar", "none.tar", "b2.png"])
        assert [type(one) for one in (cut, half, none)] == [Unlisted] * 3
        assert "truncated" in cut.problem
        assert [str(first), str(second)] == ["half.tar/0.png", "half.tar/1.png"]
        assert "half.tar is damaged" in half.problem
        assert "none.tar has no images" in none.problem
        assert last == "b2.png"
        with pytest.raises(DataError, match="beyond the end"):
            Packed("s.tar", "x.png", 512, 10**15).read()

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("empty", "empty has no images"),
            ("no*.png", "matches no files"),
            ("ftp://host/a.png", "URLs are not supported"),
            ("https://host/list.txt", "Download it"),
            ("a.tar.gz", "compressed"),
        ],
    )
    def test_sources_that_cannot_be_used(self, source, words):
        Path("empty").mkdir()
        with pytest.raises(DataError, match=words):
            ImageSources([source])


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        kinds = {
            "/a.png": "image/png", "/plain": "application/octet-stream", "/page": "text/html", "/large": "image/png",
            "/short": "image/png", "/slow": "image/png", "/lies": "image/png",
        }  # fmt: skip
        if self.path == "/away":
            self.send_response(302)
            self.send_header("location", "file:///etc/passwd")
            self.end_headers()
            return
        if self.path not in kinds:
            self.send_error(404)
            return
        content = b"no image" if self.path == "/lies" else encoded()
        self.send_response(200)
        self.send_header("content-type", kinds[self.path])
        if self.path == "/short":
            self.send_header("content-length", str(len(content) + 9))
        self.end_headers()
        if self.path == "/large":
            content += bytes(4096)
        if self.path == "/slow":
            time.sleep(1)
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


def test_urls(server, monkeypatch):
    monkeypatch.setattr(inputs, "LARGEST_DOWNLOAD", 4096)
    monkeypatch.setattr(inputs, "_PATIENCE", 0.3)
    assert fetch(f"{server}/a.png") == fetch(f"{server}/plain") == encoded()
    wrong = {
        "/page": "is of type text/html", "/large": "has more than", "/short": "breaks off", "/none": "404",
        "/slow": "does not answer", "/away": "cannot be read",
    }  # fmt: skip
    for path, words in wrong.items():
        with pytest.raises(DataError, match=f"{server}{path}.*{words}"):
            fetch(server + path)
    with pytest.raises(DataError, match="cannot be read"):
        fetch("http://127.0.0.1:1/a.png")
    files = ImageFiles(np.asarray)
    ((good, bad),) = in_batches([f"{server}/a.png", f"{server}/lies"], 2, sent=False)
    assert files[good].path == f"{server}/a.png"
    assert "/lies is not an image" in str(files[bad])


class TestImageFiles:
    @pytest.mark.parametrize(("mode", "keep"), [("RGB", False), ("RGB", True), ("L", False), ("L", True)])
    def test_an_image_is_decoded_once_and_kept_where_asked_for(self, monkeypatch, mode, keep):
        opened = []
        original = Image.open
        monkeypatch.setattr(Image, "open", lambda *args, **options: opened.append(args) or original(*args, **options))
        ((waiting,),) = in_batches([Path("b2.png")], 4, sent=False)
        one = ImageFiles(lambda image: (image.mode, image.size), mode, keep)[waiting]
        assert (one.item, one.size, one.path) == ((mode, (6, 4)), (4, 6), "b2.png")
        assert len(opened) == 1
        assert (one.image.mode == "RGB" and one.image.getpixel((0, 0)) == (255, 0, 0)) if keep else one.image is None

    @pytest.mark.parametrize("sent", [False, True])
    def test_errors_stand_in_for_broken_images(self, sent):
        Path("broken.png").write_bytes(encoded()[:45])
        with Image.open("broken.png") as opened:
            some = [np.zeros((2, 2), np.uint8), "broken.png", b"nothing", opened, io.BytesIO(b"no")]
            ((*waiting,),) = in_batches(some, 8, sent)
            array, *broken = (ImageFiles(np.asarray)[one] for one in waiting)
        assert array.path is None
        assert array.item.shape == (2, 2, 3)
        assert all(isinstance(one, DataError) for one in broken)
        for one, name in zip(broken, ("broken.png", "Image 3", "broken.png", "Image 5"), strict=True):
            assert str(one).startswith(name)

    def test_floating_point_pixels_that_are_not_finite(self):
        Image.fromarray(np.array([[0.5, np.nan]], np.float32)).save("depth.tiff")
        ((waiting,),) = in_batches(["depth.tiff"], 1, sent=False)
        assert isinstance(ImageFiles(np.asarray, keep=True)[waiting], DataError)

    def test_no_more_images_are_taken_than_asked_for(self):
        taken = []
        batches = in_batches((taken.append(i) or bytes(i) for i in range(9)), 3, sent=False)
        assert len(next(batches)) == 3
        assert taken == [0, 1, 2]
