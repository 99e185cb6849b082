"""A classifier that has learned three colours, and images to make more of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.data.conftest import helpers  # noqa: F401 - a fixture

import van

COLOURS = {"blue": (20, 30, 230), "green": (20, 200, 40), "red": (255, 30, 30)}


def make_images(folder: Path, count: int, classes=COLOURS, seed: int = 0) -> Path:
    """Write count images of each class into class folders."""
    rng = np.random.default_rng(seed)
    for name, colour in classes.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.clip(rng.normal(0, 30, (24, 28, 3)) + colour, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="session")
def colours(data) -> Path:
    """Class folders of three colours, in train and val."""
    return data["classification"]


@pytest.fixture
def options(options_of):
    """Options of a tiny run of one epoch: options(**changes)."""
    return lambda **changes: options_of("classification", **{"epochs": 1, **changes})


@pytest.fixture(scope="session")
def trained(options_of, tmp_path_factory) -> Path:
    """The run folder of a small model that has learned the colours."""
    folder = tmp_path_factory.mktemp("trained")
    return van.train(**options_of("classification", epochs=8, output=str(folder))).folder
