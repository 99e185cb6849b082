from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from van.errors import DataError, VanError, WeightsError
from van.inference.detection import DetectionPredictor, Detections, detections_of, encode_masks
from van.models.task_weights import TaskWeights, write_task_weights
from van.networks.registry import from_dict

mask_functions = pytest.importorskip("faster_coco_eval.core.mask")

TINY = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}


def weights_of(architecture, **arguments):
    torch.manual_seed(0)
    arguments = {"score_threshold": 0.0, "detections_per_image": 5, **arguments}
    task = "instances" if "mask" in architecture else "detection"
    options = {"architecture": architecture, "backbone_args": TINY, "min_size": [64], "max_size": 96}
    detector = from_dict(task, {**options, "pyramid_channels": 32, **arguments}).build(3)
    return TaskWeights(
        task, asdict(detector.options), ["cat", "dog", "emu"], detector.state_dict(), {"category_ids": [4, 7, 9]}
    )


@pytest.fixture(scope="module")
def boxes_only():
    return weights_of("retinanet")


@pytest.fixture(scope="module")
def with_masks():
    return weights_of("mask_rcnn", box_width=16, mask_width=8, proposals_test=20)


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(48, 64), (80, 64), (64, 64)]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(paths[-1])
    return paths


def test_finds_in_the_pixels_of_the_image(with_masks, pictures):
    predictor = DetectionPredictor(with_masks, score_threshold=0.0, batch_size=2)
    found = predictor(pictures)
    assert [f.size for f in found] == [(48, 64), (80, 64), (64, 64)]
    for one in found:
        height, width = one.size
        assert 0 < len(one) <= 5
        assert (one.boxes[:, :2] >= 0).all()
        assert (one.boxes[:, 2] <= width).all()
        assert (one.boxes[:, 3] <= height).all()
        assert one.masks.shape == (len(one), height, width)
        assert one.masks.dtype == bool
        assert (np.diff(one.scores) <= 0).all()
        assert set(one.labels) <= {0, 1, 2}


def test_same_as_the_detector(boxes_only, pictures):
    predictor = DetectionPredictor(boxes_only, score_threshold=0.0)
    detector = from_dict("detection", boxes_only.model).build(3)
    detector.load_state_dict(boxes_only.tensors)
    image = torch.from_numpy(np.asarray(Image.open(pictures[0])).copy()).permute(2, 0, 1)
    (output,) = detector.eval()([image])
    found = predictor(pictures[0])
    assert found.masks is None
    assert found.boxes == pytest.approx(output["boxes"].detach().numpy(), abs=1e-4)
    assert found.labels.tolist() == output["labels"].tolist()


def test_kinds_of_input(boxes_only, pictures):
    predictor = DetectionPredictor(boxes_only, score_threshold=0.0)
    image = Image.open(pictures[0])
    array = np.asarray(image)
    expected = predictor(pictures[0])
    several = (str(pictures[0]), image, array, torch.from_numpy(array.copy()).permute(2, 0, 1))
    for one in several:
        assert predictor(one).boxes == pytest.approx(expected.boxes, abs=1e-4)
    assert len(predictor(np.stack([array, array]))) == 2


def test_threshold(boxes_only, pictures):
    everything = DetectionPredictor(boxes_only, score_threshold=0.0)(pictures[0])
    threshold = float(np.median(everything.scores))
    some = DetectionPredictor(boxes_only, score_threshold=threshold)(pictures[0])
    assert 0 < len(some) < len(everything)
    assert (some.scores >= threshold).all()


def test_broken_image_is_an_error_in_its_place(boxes_only, pictures, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    predictor = DetectionPredictor(boxes_only, batch_size=2)
    found = list(predictor.stream([pictures[0], broken, pictures[1]]))
    assert [isinstance(one, DataError) for one in found] == [False, True, False]
    assert "broken.jpg" in str(found[1])
    with pytest.raises(DataError, match=r"broken\.jpg"):
        predictor(broken)


def test_weight_files(boxes_only, pictures, tmp_path):
    path = write_task_weights(boxes_only, tmp_path / "weights.safetensors")
    for source in (path, tmp_path):
        predictor = DetectionPredictor(source, score_threshold=0.0)
        assert predictor.class_names == ["cat", "dog", "emu"]
        assert predictor.category_ids == [4, 7, 9]
        assert predictor.task == "detection"


def test_what_cannot_be_used(boxes_only, tmp_path):
    with pytest.raises(WeightsError, match=r"none\.safetensors"):
        DetectionPredictor(tmp_path / "none.safetensors")
    other = write_task_weights(TaskWeights("pose", {}, ["a"], {"x": torch.zeros(1)}), tmp_path / "pose.safetensors")
    with pytest.raises(WeightsError, match="'pose', expected detection or instances"):
        DetectionPredictor(other)
    missing = dict(boxes_only.tensors)
    del missing[next(iter(missing))]
    with pytest.raises(WeightsError, match="do not fit"):
        DetectionPredictor(TaskWeights("detection", boxes_only.model, boxes_only.class_names, missing))
    with pytest.raises(VanError, match="'size'"):
        DetectionPredictor(TaskWeights("detection", {"size": 3}, ["a"], {}))
    with pytest.raises(VanError, match="threshold is 2"):
        DetectionPredictor(boxes_only, score_threshold=2.0)
    with pytest.raises(VanError, match="batch_size is 0"):
        DetectionPredictor(boxes_only, batch_size=0)
    with pytest.raises(VanError, match="'abacus'"):
        DetectionPredictor(boxes_only, device="abacus")


def test_results_in_cocos_format():
    masks = np.zeros((2, 10, 12), bool)
    masks[0, 2:5, 3:9] = True
    boxes = np.array([[3.0, 2.0, 9.0, 5.0], [0.0, 0.0, 1.5, 2.25]], np.float32)
    found = Detections((10, 12), boxes, np.array([1, 0]), np.array([0.75, 0.5], np.float32), masks)
    first, second = found.results(42, [4, 7])
    assert {k: v for k, v in first.items() if k != "segmentation"} == {
        "image_id": 42, "category_id": 7, "bbox": [3.0, 2.0, 6.0, 3.0], "score": 0.75
    }  # fmt: skip
    assert second["bbox"] == [0.0, 0.0, 1.5, 2.25]
    assert np.array_equal(mask_functions.decode(first["segmentation"]), masks[0])
    assert mask_functions.area([second["segmentation"]]).tolist() == [0]
    assert isinstance(first["segmentation"]["counts"], str)
    assert encode_masks(masks[:0]) == []


def test_best_first():
    output = {
        "boxes": torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 2.0, 2.0]]), "labels": torch.tensor([0, 1]),
        "scores": torch.tensor([0.25, 0.5]), "masks": torch.tensor([0.4, 0.6])[:, None, None, None].expand(2, 1, 3, 4),
    }  # fmt: skip
    found = detections_of(output, (3, 4))
    assert found.labels.tolist() == [1, 0]
    assert found.masks.all(axis=(1, 2)).tolist() == [True, False]
