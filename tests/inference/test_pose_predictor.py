from dataclasses import asdict

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.pose import box_region, crop_matrix, cut_out
from van.data.shapes import KEYPOINTS
from van.errors import DataError, VanError, WeightsError
from van.inference.pose import COCO_SIGMAS, PosePredictor, keypoint_sigmas, similarity, suppress
from van.models.task_weights import TaskWeights, write_task_weights
from van.networks.options import SimpleBaselineOptions
from van.networks.pose import average_flipped, image_keypoints

TINY = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
PAIRS = [(i, i + 1) for i in range(1, 17, 2)]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    model = SimpleBaselineOptions(backbone_args=TINY, image_size=[64, 32], channels=8).build(17)
    for i in (0, 3, 6):
        torch.nn.init.normal_(model.deconvolutions[i].weight, std=0.1)
    torch.nn.init.normal_(model.head.weight)
    torch.nn.init.constant_(model.head.bias, 0.1)
    extra = {"keypoint_names": list(KEYPOINTS), "flip_pairs": PAIRS, "skeleton": [(0, 1)], "category_ids": [1]}
    content = TaskWeights("pose", asdict(model.options), ["person"], model.state_dict(), extra)
    return write_task_weights(content, tmp_path_factory.mktemp("pose") / "weights.safetensors")


@pytest.fixture(scope="module")
def image():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3)).astype(np.uint8))


class TestPredictor:
    def test_is_what_the_parts_give(self, weights, image):
        predictor = PosePredictor(weights, "cpu")
        box = (20, 10, 30, 50)
        (pose,) = predictor(image, [box], [0.5])
        matrix = crop_matrix(*box_region(box, (64, 32)), (64, 32))
        crop = cut_out(image, matrix, (64, 32))[None]
        with torch.no_grad():
            maps = average_flipped(predictor.model(crop), predictor.model(crop.flip(3)), PAIRS)
        expected = image_keypoints(maps, torch.from_numpy(matrix)[None], 4)[0].numpy()
        np.testing.assert_allclose(pose.keypoints, expected, rtol=1e-4, atol=1e-4)
        confident = expected[expected[:, 2] > 0.2, 2]
        assert pose.score == pytest.approx(0.5 * confident.mean(), rel=1e-4)
        assert pose.box == box

    def test_flip_test_makes_a_mirror_image_give_mirrored_maps(self, weights):
        crop = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
        predictor = PosePredictor(weights, "cpu")
        order = [0, *(i for pair in PAIRS for i in reversed(pair))]
        maps, mirrored = predictor.maps(crop), predictor.maps(crop.flip(3))
        # moved by one pixel one way and not the other: away from the border, both agree after the same move
        with torch.no_grad():
            plain, other = predictor.model(crop), predictor.model(crop.flip(3))
        torch.testing.assert_close(maps[..., 1:], (plain[..., 1:] + other.flip(3)[:, order][..., :-1]) / 2)
        torch.testing.assert_close(mirrored[..., 1:], (other[..., 1:] + plain.flip(3)[:, order][..., :-1]) / 2)
        assert torch.equal(PosePredictor(weights, "cpu", flip_test=False).maps(crop), plain)

    def test_without_boxes_the_image_is_one_person(self, weights, image):
        (pose,) = PosePredictor(weights, "cpu")(image)
        assert pose.box == (0.0, 0.0, 120.0, 90.0)
        assert pose.keypoints.shape == (17, 3)

    def test_batches_change_nothing(self, weights, image):
        boxes = [(10 * i, 5, 20, 60) for i in range(5)]
        alone = PosePredictor(weights, "cpu", batch_size=1)(image, boxes, duplicates=1.0)
        together = PosePredictor(weights, "cpu", batch_size=4)(image, boxes, duplicates=1.0)
        assert len(alone) == len(together) == 5
        assert [pose.score for pose in alone] == sorted((pose.score for pose in alone), reverse=True)
        for one, other in zip(alone, together, strict=True):
            np.testing.assert_allclose(one.keypoints, other.keypoints, atol=1e-4)

    def test_the_same_box_twice_is_one_person(self, weights, image):
        predictor = PosePredictor(weights, "cpu")
        boxes = [(20, 10, 30, 50), (20, 10, 30, 50)]
        (pose,) = predictor(image, boxes, [0.4, 0.9])
        assert pose.score == pytest.approx(predictor(image, boxes[:1], [0.9])[0].score)
        assert len(predictor(image, boxes, duplicates=1.0)) == 2

    def test_no_boxes_no_persons(self, weights, image):
        assert PosePredictor(weights, "cpu")(image, []) == []

    @pytest.mark.parametrize("boxes", [[(1, 2, 3)], [(1, 2, 0, 4)], [(1, 2, float("nan"), 4)]])
    def test_wrong_boxes_are_refused(self, weights, image, boxes):
        with pytest.raises(DataError, match="boxes are"):
            PosePredictor(weights, "cpu")(image, boxes)

    def test_scores_must_be_as_many(self, weights, image):
        with pytest.raises(DataError, match="1 boxes and 2 scores"):
            PosePredictor(weights, "cpu")(image, [(1, 2, 3, 4)], [0.5, 0.5])

    def test_other_weights_are_refused(self, tmp_path):
        path = write_task_weights(TaskWeights("detection", {}, ["a"], {}), tmp_path / "a.safetensors")
        with pytest.raises(WeightsError, match="detection"):
            PosePredictor(path)

    def test_weights_of_another_version_are_refused(self, tmp_path):
        path = write_task_weights(TaskWeights("pose", {"heads": 3}, ["a"], {}), tmp_path / "a.safetensors")
        with pytest.raises(VanError, match="heads"):
            PosePredictor(path)

    def test_wrong_numbers_are_named(self, weights):
        with pytest.raises(VanError, match="batch_size is 0"):
            PosePredictor(weights, batch_size=0)
        with pytest.raises(VanError, match="nowhere"):
            PosePredictor(weights, "nowhere")


class TestSimilarity:
    def test_is_coco_s_formula(self):
        pose = np.zeros((17, 2))
        other = pose.copy()
        other[3] = 3.0, 4.0
        term = np.exp(-25 / (2 * 100 * (2 * COCO_SIGMAS[3]) ** 2))
        found = similarity(pose, np.stack([pose, other]), 100.0, np.array([100.0, 100.0]))
        assert found == pytest.approx([1.0, (16 + term) / 17])

    def test_agrees_with_the_evaluation_library(self):
        pytest.importorskip("faster_coco_eval")
        from faster_coco_eval import COCO, COCOeval_faster

        rng = np.random.default_rng(0)
        truth = np.concatenate([rng.uniform(0, 50, (17, 2)), np.full((17, 1), 2)], 1)
        found = truth + np.concatenate([rng.normal(0, 2, (17, 2)), np.zeros((17, 1))], 1)
        shared = {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "area": 900.0, "bbox": [0, 0, 30, 30]}
        coco = COCO(
            {
                "images": [{"id": 1, "width": 50, "height": 50}],
                "categories": [{"id": 1, "name": "person"}],
                "annotations": [{**shared, "keypoints": truth.ravel().tolist(), "num_keypoints": 17}],
            }
        )
        results = [{"image_id": 1, "category_id": 1, "score": 1.0, "keypoints": found.ravel().tolist()}]
        run = COCOeval_faster(coco, coco.loadRes(results), "keypoints")
        run.evaluate()
        run.accumulate()
        run.summarize()
        oks = similarity(truth, found[None], 900.0, np.array([900.0]))[0]
        # of ten thresholds 0.5, 0.55 ... those below the similarity are met
        assert run.stats[0] == pytest.approx(np.mean(np.arange(0.5, 1.0, 0.05) <= oks))
        assert 0.55 < oks < 0.95

    def test_keeps_the_best_of_those_alike(self):
        rng = np.random.default_rng(0)
        first, second = rng.uniform(0, 50, (2, 17, 2))
        poses = np.stack([first, second, first + 0.1, second + 20])
        assert suppress(poses, np.array([0.5, 0.3, 0.9, 0.4]), np.full(4, 900.0)) == [2, 3, 1]

    def test_sigmas_of_other_keypoints(self):
        assert keypoint_sigmas(17)[0] == 0.026
        assert keypoint_sigmas(3) == pytest.approx([sum(COCO_SIGMAS) / 17] * 3)
