"""Writing pictures as a video."""

from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image, ImageOps

from van.data.video import pyav
from van.errors import VanError

_CLOCK = 90_000  # ticks per second
_RATE = 30  # frames per second that the encoder reckons with; the times say when frames are shown
_BT709 = 1


class VideoFile:
    """An MP4 file with H.264, which grows frame by frame and appears when it is closed.

    All frames have the size of the first one, made even; frames of another size are scaled to fit into it.

    Args:
        path: The file, .mp4.

    Raises:
        VanError: the package av is not installed, or the path has another ending.
    """

    def __init__(self, path: str | Path) -> None:
        self._av = pyav()
        self.path = Path(path)
        if self.path.suffix.lower() != ".mp4":
            raise VanError(f"{path} is not a name of a video, expected one that ends in .mp4.")
        self._unfinished = self.path.with_name(f".{self.path.name}.unfinished")
        self._container: Any = None
        self._stream: Any = None
        self._size = (0, 0)
        self._last = -1

    def add(self, picture: Image.Image, time: float) -> None:
        """Write a frame.

        Args:
            picture: Of any mode.
            time: Seconds since the first frame, when it is shown.
        """
        picture = picture.convert("RGB")
        if self._container is None:
            self._open(picture.size)
        if picture.size != self._size:
            close = all(0 <= own - other <= 1 for own, other in zip(self._size, picture.size, strict=True))
            if close:  # odd sizes
                canvas = Image.new("RGB", self._size, "white")
                canvas.paste(picture)
                picture = canvas
            else:
                picture = ImageOps.pad(picture, self._size, color="white")
        frame = self._av.VideoFrame.from_image(picture).reformat(format="yuv420p", dst_colorspace=_BT709)
        self._last = max(round(time * _CLOCK), self._last + 1)
        frame.pts, frame.time_base = self._last, Fraction(1, _CLOCK)
        container: Any = self._container
        container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file, and put it in its place; without a frame there is none."""
        if self._container is None:
            return
        container: Any = self._container
        self._container = None
        container.mux(self._stream.encode())
        container.close()
        self._unfinished.replace(self.path)

    def __enter__(self) -> "VideoFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self, size: tuple[int, int]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._size = (size[0] + size[0] % 2, size[1] + size[1] % 2)  # H.264 halves the resolution of colours
        self._container = self._av.open(str(self._unfinished), "w", format="mp4")
        # without B-frames, which make players cut off the end where frames come at uneven times
        self._stream = self._container.add_stream("libx264", rate=_RATE, options={"bf": "0", "crf": "20"})
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = Fraction(1, _CLOCK)
        context.colorspace = context.color_primaries = context.color_trc = _BT709
