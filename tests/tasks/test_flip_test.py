"""Test-time augmentation: one option for all tasks that have it."""

from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

import van
from van.engine.registry import get_task


@pytest.fixture
def image(data, task) -> Image.Image:
    source = next(path for path in sorted(data[task].rglob("*")) if path.suffix in (".jpg", ".png"))
    return Image.open(source).convert("RGB").resize((48, 48))


def test_an_image_and_its_mirror_image_give_the_same(run_of, image, task):
    if task == "panoptic":  # segments of two views have no common numbers
        assert "flip_test" not in {field.name for field in fields(get_task(task).inference)}
        return
    detector = task in ("detection", "instances")
    more = {"score_threshold": 0.0} if detector else {}
    plain, both = (van.load(run_of(task).folder, flip_test=flip, **more) for flip in (False, True))
    item = both.task.prepare(both)(image)
    if task == "pose":  # its crops are mirrored inside; see tests/tasks/pose
        assert not np.array_equal(both(image).keypoints, plain(image).keypoints)
        return
    one, other = both.predict([item, item.flip(-1)], [(48, 48)] * 2)
    (alone,) = plain.predict([item], [(48, 48)])
    if detector:
        assert one.scores == pytest.approx(other.scores, abs=1e-4)
        assert one.scores.max() >= alone.scores.max() - 1e-6
        boxes = other.boxes[:, [2, 1, 0, 3]] * (-1, 1, -1, 1) + (48, 0, 48, 0)
        apart = np.abs(one.boxes[:, None] - boxes[None]).max(2).min(1)
        assert np.mean(apart < 0.1) > 0.9  # the worst may give way to others of the same score
        return
    name = {"classification": "probabilities", "semantic": "labels", "saliency": "saliency"}[task]
    found, mirrored, single = (np.asarray(getattr(result, name), float) for result in (one, other, alone))
    mirrored = mirrored[:, ::-1] if mirrored.ndim == 2 else mirrored
    assert np.mean(np.abs(found - mirrored) > 1e-4) < 0.01
    assert task == "semantic" or not np.array_equal(found, single)


def test_evaluation_measures_what_prediction_gives(cli, run_of, data):
    folder = run_of("classification").folder
    values = van.evaluate(folder, data["classification"], flip_test=True, workers=0, output="both", quiet=True)
    images = sorted((data["classification"] / "val").rglob("*.png"))
    right = [
        result.classes[0] == path.parent.name
        for path, result in zip(images, van.load(folder, flip_test=True)(images), strict=True)
    ]
    assert values["top1"] == pytest.approx(np.mean(right))


def test_panoptic_has_none(cli, run_of):
    pytest.importorskip("transformers")
    status, _, err = cli("predict", "a.png", "--weights", run_of("panoptic").folder, "--flip-test")
    assert status == 2
    assert "unknown option --flip-test" in err
