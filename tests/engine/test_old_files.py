"""Weight files and a run folder of version 0.1.0 work as they did: see tests/golden/old_files/README.md."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.golden.old_files.scene import scene

import van
from van.models.weight_file import read_header

pytestmark = pytest.mark.usefixtures("coarse_plots")

FILES = Path(__file__).parents[1] / "golden" / "old_files"
EXPECTED = np.load(FILES / "expected.npz")
TASKS = ("classification", "detection", "instances", "pose", "semantic", "panoptic", "saliency")
NEEDED = {"detection": "faster_coco_eval", "instances": "faster_coco_eval", "panoptic": "transformers"}


def expected(task: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(f"{task}_"): EXPECTED[key] for key in EXPECTED if key.startswith(f"{task}_")}


def result_of(file: str, **inference):
    return van.load(FILES / file, device="cpu", **inference)(scene())


@pytest.mark.parametrize("task", TASKS)
def test_header_says_task_and_names(task):
    header = read_header(FILES / f"{task}.safetensors")
    assert header is not None
    assert header.task == task
    if task not in ("pose", "saliency"):
        assert header.class_names == expected(task)["class_names"].tolist()


@pytest.mark.parametrize(("name", "file"), [("classification", "classification.safetensors"), ("run", "run")])
def test_classification(name, file):
    result, old = result_of(file, top_k=10), expected(name)
    assert result.labels.tolist() == old["indices"].tolist()
    np.testing.assert_allclose(result.probabilities, old["probabilities"], atol=1e-4)


@pytest.mark.parametrize("task", ["detection", "instances"])
def test_objects(task):
    pytest.importorskip(NEEDED[task])
    result, old = result_of(f"{task}.safetensors", score_threshold=0.0), expected(task)
    assert result.labels.tolist() == old["labels"].tolist()
    np.testing.assert_allclose(result.scores, old["scores"], atol=1e-4)
    np.testing.assert_allclose(result.boxes, old["boxes"], atol=1e-2)
    if task == "instances":
        assert (result.masks != old["masks"]).mean() < 1e-4


def test_pose():
    from van.tasks.pose.inference import find_poses

    old = expected("pose")
    predictor = van.load(FILES / "pose.safetensors", device="cpu", oks_threshold=1.0)
    (result,) = find_poses(predictor, [Image.fromarray(scene())], [(old["boxes"], np.ones(2))])
    order = np.lexsort(result.boxes.T[::-1])
    assert result.keypoint_names == old["keypoint_names"].tolist()
    np.testing.assert_allclose(result.scores[order], old["scores"], atol=1e-4)
    np.testing.assert_allclose(result.keypoints[order], old["keypoints"], atol=1e-2)


def test_semantic():
    result = result_of("semantic.safetensors")
    assert (result.labels != expected("semantic")["labels"]).mean() < 1e-3


def test_panoptic():
    pytest.importorskip(NEEDED["panoptic"])
    result, old = result_of("panoptic.safetensors"), expected("panoptic")
    assert (result.segmentation != old["segmentation"]).mean() < 1e-3
    for key in ("id", "label", "isthing"):
        assert [segment[key] for segment in result.segments] == old[f"segments_{key}"].tolist()
    np.testing.assert_allclose([segment["score"] for segment in result.segments], old["segments_score"], atol=1e-4)


def test_saliency():
    np.testing.assert_allclose(result_of("saliency.safetensors").saliency, expected("saliency")["saliency"], atol=1e-4)


def test_run_is_continued(tmp_path):
    run = van.train(resume=str(shutil.copytree(FILES / "run", tmp_path / "run")), epochs=3, quiet=True)
    assert run.finished
    rows = (run.folder / "metrics.csv").read_text().splitlines()
    before = (FILES / "run" / "metrics.csv").read_text().splitlines()
    assert rows[1].split(",")[:2] == before[1].split(",")[:2]
    assert len(rows) == len(before) + 1
