"""Clips for tests: built-in shapes in motion, whose true boxes are known, and files with odd metadata."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from van.data.shapes import _background, _draw_shape
from van.engine.video import VideoFile

RATE = 10  # frames per second


class MovingShapes:
    """Shapes that cross each other's ways.

    Args:
        frames: Number of frames.
        size: Height and width in pixels.
        seed: Random seed.

    Attributes:
        frames: Frames (H, W, 3).
        boxes: For each frame the boxes (N, 4) as x1, y1, x2, y2 of what is visible of each shape.
        ids: For each frame the numbers (N,) of the shapes, from 1.
    """

    KINDS = ("circle", "square", "triangle", "star")

    def __init__(self, frames: int = 40, size: tuple[int, int] = (96, 128), seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        height, width = size
        ground = _background(rng, height, width)[0]
        colour = ground.mean((0, 1))
        # two from left to right, two from right to left, at heights where neighbours touch
        starts = np.array([[0.05, 0.25], [0.95, 0.45], [0.1, 0.65], [0.9, 0.85]]) * (width, height)
        speeds = np.array([[0.022, 0], [-0.02, 0.001], [0.018, 0], [-0.023, -0.002]]) * (width, height)
        layers = [_draw_shape(rng, kind, np.zeros(2), 0.13 * height, colour) for kind in self.KINDS]
        corners = [(layer.left, layer.top) for layer in layers]
        self.frames, self.boxes, self.ids = [], [], []
        for number in range(frames):
            picture, seen = ground, []
            for layer, corner, start, speed in zip(layers, corners, starts, speeds, strict=True):
                layer.left, layer.top = np.round(corner + start + number * speed).astype(int).tolist()
                color, alpha = layer.on(height, width)
                picture = picture * (1 - alpha[..., None]) + color
                seen = [*(mask * (1 - alpha) for mask in seen), alpha]
            boxes, ids = [], []
            for i, alpha in enumerate(seen, 1):
                ys, xs = np.nonzero(alpha > 0.5)
                if len(xs) >= 0.25 * (layers[i - 1].alpha > 0.5).sum():
                    boxes.append((xs.min(), ys.min(), xs.max() + 1, ys.max() + 1))
                    ids.append(i)
            self.frames.append(np.clip(picture, 0, 255).astype(np.uint8))
            self.boxes.append(np.array(boxes, float).reshape(-1, 4))
            self.ids.append(np.array(ids, int))

    def write(self, path: Path) -> None:
        """Write the clip as MP4, and the true tracks beside it, as PATH.txt in the format of MOTChallenge."""
        with VideoFile(path) as video:
            for number, frame in enumerate(self.frames):
                video.add(Image.fromarray(frame), number / RATE)
        with Path(f"{path}.txt").open("w") as file:
            for number, (boxes, ids) in enumerate(zip(self.boxes, self.ids, strict=True), 1):
                for own, (x1, y1, x2, y2) in zip(ids, boxes, strict=True):
                    file.write(f"{number},{own},{x1},{y1},{x2 - x1},{y2 - y1},1,1,1\n")


def write_clip(path: Path, times: Any, rotation: int = 0, form: str | None = None, **options: str) -> None:
    """Write a clip of 64 x 48 pixels: red top left, green bottom right, the rest brighter with each frame.

    Args:
        path: The file.
        times: Seconds of each frame.
        rotation: Degrees against the clock by which a player turns it.
        form: Name of FFmpeg's format; None takes that of the ending.
        **options: Of the format.
    """
    import av

    with av.open(str(path), "w", format=form, options=options) as container:
        stream: Any = container.add_stream("libx264", rate=RATE, options={"bf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90_000)
        if rotation:
            stream.set_display_rotation(rotation)
        for number, time in enumerate(times):
            pixels = np.full((48, 64, 3), 4 * number % 256, np.uint8)
            pixels[:12, :12], pixels[-12:, -12:] = (255, 0, 0), (0, 255, 0)
            frame = av.VideoFrame.from_ndarray(pixels)
            frame.pts, frame.time_base = round(time * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def cut(path: Path, share: float) -> Path:
    """Return a copy of a file that ends too early."""
    content = path.read_bytes()
    short = path.with_name(f"cut-{path.name}")
    short.write_bytes(content[: int(share * len(content))])
    return short
