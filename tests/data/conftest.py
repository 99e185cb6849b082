"""Small labelled images in every form in which users keep them."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PREPROCESSING = {
    "input_size": (3, 8, 8),
    "mean": (0.0, 0.0, 0.0),
    "std": (1 / 255,) * 3,  # the tensors hold the grey levels 0 to 255
    "interpolation": "bicubic",
    "crop_pct": 1.0,
}


def png(value: int, size: int = 8) -> bytes:
    """A PNG whose pixels all have one grey level, by which a test knows it again."""
    buffer = io.BytesIO()
    Image.new("RGB", (size, size), (value,) * 3).save(buffer, "PNG")
    return buffer.getvalue()


def write_folder(root: Path, classes: dict[str, Iterable[int]]) -> Path:
    """Class folders with one PNG per grey level, called after it."""
    for name, values in classes.items():
        (root / name).mkdir(parents=True)
        for value in values:
            (root / name / f"{value}.png").write_bytes(png(value))
    return root


def write_tar(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def write_shard(path: Path, values: dict[int, int], ending: str = "png") -> Path:
    """A WebDataset shard; values maps grey levels to class numbers."""
    files = {}
    for value, number in values.items():
        files |= {f"{value:04}.{ending}": png(value), f"{value:04}.cls": str(number).encode()}
    return write_tar(path, files)


def levels(batches) -> list[int]:
    """The grey levels of all images of a loader, in order."""
    return [round(float(image[0, 0, 0])) for images, _ in batches for image in images]


@pytest.fixture
def helpers():
    """The functions of this file: test modules cannot import a conftest."""

    class Helpers:
        preprocessing = PREPROCESSING
        png = staticmethod(png)
        write_folder = staticmethod(write_folder)
        write_tar = staticmethod(write_tar)
        write_shard = staticmethod(write_shard)
        levels = staticmethod(levels)

        @staticmethod
        def values(samples) -> list[int]:
            from van.data.images import read_image

            return [int(np.asarray(read_image(samples.load(i)))[0, 0, 0]) for i in range(len(samples))]

    return Helpers
