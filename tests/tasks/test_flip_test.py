"""Test-time augmentation: one option for all tasks that have it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import van
from van.engine.registry import get_task

WITHOUT = ("panoptic",)  # segments of two views have no common numbers to average


@pytest.fixture
def image(data, task) -> Image.Image:
    source = next(path for path in sorted(data[task].rglob("*")) if path.suffix in (".jpg", ".png"))
    return Image.open(source).convert("RGB").resize((48, 48))


def values_of(result) -> np.ndarray:
    names = ("probabilities", "saliency", "scores", "labels")
    return np.asarray(next(getattr(result, name) for name in names if hasattr(result, name)), dtype=float)


def test_an_image_and_its_mirror_image_give_the_same(run_of, image, task):
    if task in WITHOUT:
        assert "flip_test" not in {field.name for field in dataclasses.fields(get_task(task).inference)}
        return
    more = {"score_threshold": 0.0} if task in ("detection", "instances") else {}
    plain, both = (van.load(run_of(task).folder, flip_test=flip, **more) for flip in (False, True))
    mirrored = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    one, other = both([image, mirrored])
    alone = plain(image)
    if task in ("detection", "instances"):
        width = image.width
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert one.scores.max() >= alone.scores.max() - 1e-6
        assert len(one) > 0
        boxes = other.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (width, 0, width, 0)
        best = one.scores > np.partition(one.scores, -5)[-5]  # equal scores may come in any order
        assert one.boxes[best] == pytest.approx(boxes[best], abs=0.05)
        return
    a, b = values_of(one), values_of(other)
    if task in ("semantic", "saliency"):
        b = b[:, ::-1]
    assert np.mean(np.abs(a - b) > 1e-3) < 0.01
    if task not in ("semantic",):
        assert not np.array_equal(a, values_of(alone))


def test_evaluation_sees_the_mirror_images_too(cli, run_of, data, task):
    arguments = ("evaluate", "--weights", run_of(task).folder, "--data", data[task], "--workers", "0", "--quiet")
    status, _, err = cli(*arguments, "--flip-test", "--output", "both")
    if task in WITHOUT:
        assert status == 2
        assert "unknown option --flip-test" in err
        return
    assert status == 0, err
    both = van.load(run_of(task).folder, flip_test=True)
    assert both.inference.flip_test
    values = json.loads(Path("both/evaluation.json").read_text())
    assert values
