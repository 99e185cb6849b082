"""Tiny data, networks and runs of every task, for what all of them promise."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import van
from van.data.shapes import make_shapes

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
_MASK2FORMER = {"queries": 8, "pyramid_channels": 64, "heads": 2, "encoder_layers": 1, "encoder_width": 32}
_MASK2FORMER |= {"decoder_layers": 1, "decoder_width": 32, "points": 64}


def _model(architecture: str, **options: Any) -> dict[str, Any]:
    return {"architecture": architecture, "backbone_args": BACKBONE, **options}


@dataclass(frozen=True)
class Tiny:
    """What makes a run of a task small.

    Attributes:
        options: Of training.
        first: Key of the metric that picks the best epoch.
        per_class: Whether it is measured by class.
        needs: Package that it needs.
    """

    options: dict[str, Any]
    first: str
    per_class: bool = True
    needs: str | None = None


TINY = {
    "classification": Tiny({"model_args": BACKBONE, "image_size": [32, 32]}, "top1"),
    "detection": Tiny(
        {"model": _model("fcos", min_size=[48], max_size=64, pyramid_channels=8)}, "AP", needs="faster_coco_eval"
    ),
    "instances": Tiny(
        {"model": _model("mask_rcnn", min_size=[48], max_size=64, pyramid_channels=8, mask_width=8, box_width=16)},
        "mask_AP",
        needs="faster_coco_eval",
    ),
    "pose": Tiny(
        {"model": _model("simple_baseline", image_size=[64, 64], channels=8)},
        "AP",
        per_class=False,
        needs="faster_coco_eval",
    ),
    "semantic": Tiny(
        {
            "model": _model("semantic_fpn", pyramid_channels=8, channels=8),
            "augmentation": {"fit": [48, 48], "crop_size": [48, 48]},
            "inference": {"fit": [48, 48]},
        },
        "mIoU",
    ),
    "panoptic": Tiny(
        {
            "model": _model("mask2former", **_MASK2FORMER),
            "augmentation": {"crop_size": [48, 48]},
            "inference": {"fit": [48, 48], "score_threshold": 0.0},
        },
        "PQ",
        needs="transformers",
    ),
    "saliency": Tiny(
        {
            "model": _model("edn", channels=[8] * 6, global_channels=8),
            "augmentation": {"image_sizes": [[48, 48]], "crop": 0.1},
            "inference": {"image_size": [48, 48]},
            "batch_size": 7,  # 15 of 16 images show an object
        },
        "max_F",
        per_class=False,
    ),
}


@pytest.fixture(params=list(TINY))
def task(request) -> str:
    """The name of each task in turn."""
    if package := TINY[request.param].needs:
        pytest.importorskip(package)
    return request.param


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch, coarse_plots):
    """Every test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> dict[str, Path]:
    """A small data set for each task: class folders, and shapes for the others."""
    folders = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3)):
        for name, colour in (("blue", (20, 30, 230)), ("green", (20, 200, 40)), ("red", (255, 30, 30))):
            (folders / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(0, 30, (24, 28, 3)) + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folders / split / name / f"{i}.png")
    shapes = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(shapes, 20, 48)
    return {name: folders if name == "classification" else shapes for name in TINY}


@pytest.fixture(scope="session")
def options_of(data):
    """Options of a tiny run of a task: options_of(task, **changes)."""

    def make(task: str, **changes: Any) -> dict[str, Any]:
        base = {"task": task, "data": str(data[task]), "batch_size": 8, "lr": 0.003, "workers": 0}
        base |= {} if "iterations" in changes else {"epochs": 2}
        return {**base, "quiet": True, **TINY[task].options, **changes}

    return make


@pytest.fixture(scope="session")
def run_of(options_of, tmp_path_factory):
    """The run of a task, made when it is first asked for and not to be changed: run_of(task)."""
    made: dict[str, Any] = {}

    def run(task: str) -> Any:
        if task not in made:
            made[task] = van.train(**options_of(task, output=str(tmp_path_factory.mktemp(task))))
        return made[task]

    return run


@pytest.fixture
def copy_of(run_of, tmp_path):
    """A copy of the run folder of a task, to be changed: copy_of(task)."""
    return lambda task: shutil.copytree(run_of(task).folder, tmp_path / "copy")


@pytest.fixture
def cli(capfd):
    """Run `van` with arguments; gives exit status, standard output and standard error."""
    from van.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # the parser's way to end
            status = stop.code
        captured = capfd.readouterr()
        return status, captured.out, captured.err

    return run
