"""Clips: video files, animated GIFs, streams and cameras, read frame by frame with PyAV."""

import re
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from van.data.images import one_mode
from van.errors import DataError, VanError

ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".asf", ".flv"),
    *(".3gp", ".ogv", ".mjpeg", ".mjpg", ".y4m"),
)
"""Of video files, in lower case."""

_STREAMS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "udp://", "tcp://", "srt://")
_CAMERA = "camera:"
_RATE = Fraction(30)  # frames per second where a clip does not say
_PATIENCE = 20.0  # seconds without an answer or a frame
_SLACK = 0.5  # seconds that a clip may be shorter than its header says
_T = TypeVar("_T")


def is_clip(source: object) -> bool:
    """Whether a source is text, or a path, that names a clip; GIFs may be images and count only where they move."""
    if not isinstance(source, str | Path):
        return False
    text = str(source).lower()
    if is_live(text):
        return True
    if text.startswith(("http://", "https://")):
        return text.partition("?")[0].endswith((*ENDINGS, ".m3u8"))
    return text.endswith(ENDINGS) or (text.endswith(".gif") and _moves(Path(source)))


def is_live(source: str) -> bool:
    """Whether a source names a stream or a camera."""
    return source.lower().startswith((*_STREAMS, _CAMERA))


def _moves(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            return getattr(image, "is_animated", False)
    except (OSError, SyntaxError, ValueError, EOFError):
        return False  # reading it as an image says what is wrong


def pyav() -> Any:
    """Return the package av.

    Raises:
        VanError: it is not installed.
    """
    try:
        import av  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise VanError("Videos need the package av: pip install 'visual-attention-network[video]'") from error
    return av


@dataclass(frozen=True)
class Frame:
    """A decoded frame.

    Attributes:
        clip: What the clip is called.
        number: Its number in the clip, from 1, skipped ones counted.
        time: Seconds since the first frame.
        image: RGB, turned as the clip says.
    """

    clip: str
    number: int
    time: float
    image: Image.Image = field(repr=False)

    def __str__(self) -> str:
        return self.clip


@dataclass(frozen=True)
class BrokenFrame:
    """The end of a clip that cannot be read further; takes the place of a frame.

    Attributes:
        clip: What the clip is called.
        number: Number of the frame that could not be read, from 1.
        problem: What is wrong, in a sentence.
    """

    clip: str
    number: int
    problem: str

    def __str__(self) -> str:
        return self.clip


class Clip:
    """A video file, an animated GIF, a stream or a camera; iterating over it decodes it from the start.

    Args:
        source: A path, a URL of a stream (rtsp, rtmp, udp, tcp, srt) or of a video file (http, https), or "camera:0"
            for the first camera.
        frame_stride: Take every frame (1), every second one (2), ...

    Attributes:
        name: What it is called in results: the source, without user name and password.
        live: Whether it is a stream or a camera, which does not wait.

    Raises:
        VanError: the package av is not installed.
    """

    def __init__(self, source: str | Path, frame_stride: int = 1) -> None:
        pyav()
        self.source = str(source)
        self.frame_stride = frame_stride
        self.name = without_password(self.source)
        self.live = is_live(self.source)

    def __str__(self) -> str:
        return self.name

    def count(self) -> int:
        """Return about how many frames there will be, for progress; 0 where the clip does not say."""
        if self.live:
            return 0
        try:
            with self._open() as container:
                stream = container.streams.video[0]
                count = stream.frames or round((_duration(container, stream) or 0.0) * (stream.average_rate or _RATE))
                return -(-count // self.frame_stride)
        except DataError:
            return 0

    def __iter__(self) -> Iterator[Frame]:
        """Iterate over its frames.

        Raises:
            DataError: it cannot be opened, or breaks off; all frames before have been given then.
        """
        av = pyav()
        number, start, time, shown = 0, None, -1.0, 0.0
        with self._open() as container:
            stream = container.streams.video[0]
            if not self.live:
                stream.thread_type = "AUTO"
            rate = stream.average_rate or stream.guessed_rate or _RATE
            try:
                for frame in _decoded(container, stream, self.live):
                    number += 1
                    given = None if frame.pts is None else float(frame.pts * frame.time_base)
                    start = given if start is None else start
                    time, last = 0.0 if given is None or start is None else given - start, time
                    if time <= last:  # damaged or missing times
                        time = last + float(1 / rate)
                    shown = max(float((frame.duration or 0) * (frame.time_base or 0)), float(1 / rate))
                    if (number - 1) % self.frame_stride == 0:
                        yield Frame(self.name, number, round(time, 6), _image(frame))
            except (av.FFmpegError, OSError) as error:
                raise DataError(
                    f"{self} breaks off after frame {number} ({max(time, 0.0):.2f} s): {_why(error)}."
                ) from error
            end = max(time, 0.0) + shown
            expected = None if self.live else _duration(container, stream)
        if not number:
            raise DataError(f"{self} has no frames that can be decoded. Get or create it again.")
        if expected is not None and end < expected - max(_SLACK, 0.02 * expected):
            raise DataError(
                f"{self} breaks off after frame {number}, at {end:.2f} of {expected:.2f} s: the file is truncated or "
                "damaged. Get or create it again."
            )

    def _open(self) -> Any:
        av = pyav()
        place, options = self.source, {}
        form = None
        if self.source.lower().startswith(_CAMERA):
            place, form, options = _camera(self.source[len(_CAMERA) :])
        elif self.source.lower().startswith(("rtsp://", "rtsps://")):
            options = {"rtsp_transport": "tcp"}  # frames lost by UDP leave smears
        elif not self.live and "://" not in self.source and not Path(self.source).is_file():
            what = "is a folder" if Path(self.source).is_dir() else "does not exist"
            raise DataError(f"{self} {what}, expected a video file. Check the path.")
        try:
            container = av.open(place, format=form, options=options, timeout=(_PATIENCE, _PATIENCE))
        except (av.FFmpegError, OSError, ValueError) as error:
            what = "Check the address and the network" if self.live else "Get or create it again"
            what = "Check that it is connected, and not in use" if form else what
            raise DataError(f"{self} cannot be opened: {_why(error)}. {what}.") from error
        if not container.streams.video:
            others = ", ".join(stream.type for stream in container.streams) or "nothing"
            container.close()
            raise DataError(f"{self} has no video, only {others}. Give another file.")
        return container


def _decoded(container: Any, stream: Any, live: bool) -> Iterator[Any]:
    """Yield frames; where one cannot be decoded, those before it come first."""
    av = pyav()
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except av.InvalidDataError:
            if live:  # a stream begins and goes on with incomplete frames
                continue
            with suppress(av.FFmpegError, EOFError):
                yield from stream.decode(None)
            raise


def _duration(container: Any, stream: Any) -> float | None:
    """Return the seconds that the header of a clip says; None where it says nothing about the video itself."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / 1e6 if container.duration and len(container.streams) == 1 else None


def _image(frame: Any) -> Image.Image:
    """Return a frame as an RGB image, upright."""
    alpha = any(component.is_alpha for component in frame.format.components) or frame.format.name == "pal8"
    image = one_mode(Image.fromarray(frame.to_ndarray(format="rgba" if alpha else "rgb24")), "RGB")
    turn = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}
    turned = turn.get(round(frame.rotation) % 360)
    return image if turned is None else image.transpose(turned)


def _camera(name: str) -> tuple[str, str, dict[str, str]]:
    """Return file, format and options of a camera by its number."""
    if not name.isdecimal():
        raise DataError(f"{_CAMERA}{name} is not a camera, expected a number as in {_CAMERA}0.")
    if sys.platform == "darwin":
        return name, "avfoundation", {"framerate": "30"}
    if sys.platform == "win32":
        raise DataError(
            f"{_CAMERA}{name}: cameras can be opened on Linux and macOS only. Record a file, and give that."
        )
    return f"/dev/video{name}", "v4l2", {}


def _why(error: BaseException) -> str:
    """Return what FFmpeg says, without the address, which may hold a password."""
    if type(error).__name__ == "ExitError":  # what interrupts waiting
        return f"no answer within {_PATIENCE:.0f} s"
    return str(getattr(error, "strerror", None) or error).strip().rstrip(".")


def without_password(source: str) -> str:
    """Return a URL without user name and password."""
    return re.sub(r"^(\w+://)[^/@]*@", r"\1", source)


# ------------------------------------------------------------------------------------------------ beside the network


def with_frames(images: Iterable[Any], ahead: int = 8) -> Iterator[Any]:
    """Yield images as they are, and the frames of clips in their place.

    A thread decodes frames while others are looked at. Files wait; of streams and cameras the newest frames are kept,
    and those for which there is no time are left out.

    Args:
        images: Images of any form, and clips.
        ahead: Most frames that are decoded before they are asked for.
    """
    for image in images:
        if isinstance(image, Clip):
            yield from beside(_frames(image), ahead, drop=image.live)
        else:
            yield image


def _frames(clip: Clip) -> Iterator[Frame | BrokenFrame]:
    number = 0
    try:
        for frame in clip:
            number = frame.number
            yield frame
    except DataError as error:
        yield BrokenFrame(clip.name, number + 1, str(error))


def beside(items: Iterable[_T], ahead: int, drop: bool = False) -> Iterator[_T]:
    """Yield items in order, which a thread takes from an iterable beforehand.

    Args:
        items: Any iterable; its errors are raised here.
        ahead: Most items that wait.
        drop: Leave out the oldest item that waits instead of making the thread wait, the last one of all aside.
    """
    waiting: deque[_T] = deque()
    changed = threading.Condition()
    state: dict[str, Any] = {"ended": False, "unwanted": False, "error": None}

    def take() -> None:
        try:
            for item in items:
                with changed:
                    if drop and len(waiting) >= ahead:
                        waiting.popleft()
                    changed.wait_for(lambda: len(waiting) < ahead or state["unwanted"])
                    if state["unwanted"]:
                        return
                    waiting.append(item)
                    changed.notify_all()
        except BaseException as error:
            state["error"] = error
        finally:
            with changed:
                state["ended"] = True
                changed.notify_all()

    thread = threading.Thread(target=take, name="frames", daemon=True)
    thread.start()
    try:
        while True:
            with changed:
                changed.wait_for(lambda: waiting or state["ended"])
                if not waiting:
                    break
                item = waiting.popleft()
                changed.notify_all()
            yield item
        if state["error"] is not None:
            raise state["error"]
    finally:
        with changed:
            state["unwanted"] = True
            changed.notify_all()
