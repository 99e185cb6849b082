"""Tasks and networks that are registered from outside the package do everything that ours do."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.engine import toy_detector, toy_task

import van
from van.data.shapes import make_shapes
from van.engine import registry as tasks
from van.engine.registry import register_task
from van.networks import registry as networks
from van.networks.registry import register

pytestmark = pytest.mark.usefixtures("coarse_plots")

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """What these tests register is unknown to the others."""
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))
    monkeypatch.setattr(
        networks, "_ARCHITECTURES", {task: dict(known) for task, known in networks._ARCHITECTURES.items()}
    )


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(24):
        noise = rng.normal(0, 10, (20, 24, 3)) + rng.uniform(30, 220, 3)
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize(("module", "most"), [(toy_task, 80), (toy_detector, 60)])
def test_size_of_the_examples(module, most):
    lines = Path(module.__file__).read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= most


def test_task(images, tmp_path, monkeypatch):
    register_task(toy_task.MeanColourTask())
    register("mean_colour", "linear", toy_task.LinearOptions)
    monkeypatch.chdir(tmp_path)
    options = {"data": str(images), "epochs": 30, "batch_size": 8, "lr": 0.01, "quiet": True}
    run = van.train("mean_colour", output="run", **options)
    assert run.metrics["mae"] < 0.1
    assert van.train("mean_colour", resume="run", epochs=31, quiet=True).finished
    values = van.evaluate(run.folder, images, quiet=True)
    assert values["mae"] == pytest.approx(run.metrics["mae"], abs=0.02)
    predictor = van.load(run.folder)
    assert predictor.task.name == "mean_colour"
    red = predictor(Image.new("RGB", (30, 20), (200, 40, 40)))
    assert red.colour[0] > red.colour[1] + 0.2
    assert red.to_dict()["colour"] == list(red.colour)
    assert (tmp_path / red.save(tmp_path)["picture"]).is_file()


def test_detector(tmp_path, monkeypatch):
    pytest.importorskip("faster_coco_eval")
    register("detection", "one_box", toy_detector.OneBoxOptions)
    monkeypatch.chdir(tmp_path)
    make_shapes(tmp_path / "shapes", 20, 48)
    model = {"architecture": "one_box", "backbone_args": BACKBONE, "width": 16}
    options = {
        "data": str(tmp_path / "shapes"),
        "model": model,
        "epochs": 1,
        "batch_size": 8,
        "workers": 0,
        "quiet": True,
    }
    run = van.train("detection", output="run", **options)
    assert "AP" in van.evaluate(run.folder, options["data"], workers=0, quiet=True)
    result = van.load(run.folder, score_threshold=0.0)(tmp_path / "shapes" / "val" / "000017.jpg")
    assert result.boxes.shape == (1, 4)
    assert (tmp_path / result.save(tmp_path)["picture"]).is_file()
