"""A small data set, a small model and a way to run commands."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from van.cli import main

COLOURS = {"blue": (20, 30, 230), "green": (20, 200, 40), "red": (255, 30, 30)}
SMALL = [
    *("--image-size", "32", "32", "--batch-size", "8", "--workers", "0", "--lr", "0.003"),
    *("--model-args", '{"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}'),
]


@pytest.fixture(scope="session")
def colours(tmp_path_factory) -> Path:
    """A data set with train and val folders of three classes that are easy to tell apart."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(0, 30, (24, 28, 3)) + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


@pytest.fixture
def van(capfd, monkeypatch, tmp_path):
    """Run `van` with arguments in an empty folder; gives exit status, standard output and standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # the parser's way to end
            status = stop.code
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def trained(colours, tmp_path_factory) -> Path:
    """The run folder of a small model that has learned the colours."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", "--data", str(colours), *SMALL, "--epochs", "8", "--output", str(folder)]) == 0
    return folder
