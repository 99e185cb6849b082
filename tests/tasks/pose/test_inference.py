import json

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.pose.conftest import PAIRS

import van
from van.data.pose import box_region, crop_matrix, cut_out
from van.engine.registry import get_task
from van.errors import DataError, VanError
from van.networks.pose import average_flipped, image_keypoints
from van.tasks.detection.results import Detections
from van.tasks.pose.inference import (
    COCO_SIGMAS,
    KnownBoxes,
    find_poses,
    heat_maps,
    keypoint_sigmas,
    similarity,
    suppress,
)


def poses(weights, image, boxes, scores=None, **options):
    """The poses in some boxes of an image."""
    scores = np.ones(len(boxes)) if scores is None else scores
    return find_poses(van.load(weights, "cpu", **options), [image], [(boxes, scores)])[0]


class TestPoses:
    def test_are_what_the_parts_give(self, weights, image):
        predictor = van.load(weights, "cpu")
        box = (20, 10, 30, 50)
        found = find_poses(predictor, [image], [([box], [0.5])])[0]
        matrix = crop_matrix(*box_region(box, (64, 32)), (64, 32))
        crop = cut_out(image, matrix, (64, 32))[None]
        with torch.no_grad():
            maps = average_flipped(predictor.model(crop), predictor.model(crop.flip(3)), PAIRS)
        expected = image_keypoints(maps, torch.from_numpy(matrix)[None], 4)[0].numpy()
        np.testing.assert_allclose(found.keypoints[0], expected, rtol=1e-4, atol=1e-4)
        confident = expected[expected[:, 2] > 0.2, 2]
        assert found.scores[0] == pytest.approx(0.5 * confident.mean(), rel=1e-4)
        assert found.boxes.tolist() == [[20, 10, 50, 60]]

    def test_flip_test_makes_a_mirror_image_give_mirrored_maps(self, weights):
        crop = torch.randint(0, 256, (1, 3, 64, 32), dtype=torch.uint8)
        predictor = van.load(weights, "cpu")
        order = [0, *(i for pair in PAIRS for i in reversed(pair))]
        with torch.no_grad():
            maps, mirrored = heat_maps(predictor, crop), heat_maps(predictor, crop.flip(3))
            plain, other = predictor.model(crop), predictor.model(crop.flip(3))
            unflipped = heat_maps(van.load(weights, "cpu", flip_test=False), crop)
        # moved by one pixel one way and not the other: away from the border, both agree after the same move
        torch.testing.assert_close(maps[..., 1:], (plain[..., 1:] + other.flip(3)[:, order][..., :-1]) / 2)
        torch.testing.assert_close(mirrored[..., 1:], (other[..., 1:] + plain.flip(3)[:, order][..., :-1]) / 2)
        assert torch.equal(unflipped, plain)

    def test_batches_change_nothing(self, weights, image):
        boxes = [(10 * i, 5, 20, 60) for i in range(5)]
        alone = poses(weights, image, boxes, batch_size=1, oks_threshold=1.0)
        together = poses(weights, image, boxes, batch_size=4, oks_threshold=1.0)
        assert len(alone) == len(together) == 5
        assert (np.diff(alone.scores) <= 0).all()
        np.testing.assert_allclose(alone.keypoints, together.keypoints, atol=1e-4)

    def test_crops_of_several_images_share_batches(self, weights, image):
        predictor = van.load(weights, "cpu", batch_size=3)
        other = image.transpose(Image.Transpose.ROTATE_90)
        boxes = [(10, 5, 20, 60), (40, 20, 30, 30)]
        both = find_poses(predictor, [image, other, image], [(boxes, [1, 1]), ([], []), None])
        assert [len(one) for one in both] == [2, 0, 1]
        np.testing.assert_allclose(both[0].keypoints, poses(weights, image, boxes).keypoints, atol=1e-4)
        assert [one.whole_image for one in both] == [False, False, True]
        assert both[2].boxes.tolist() == [[0, 0, 120, 90]]

    def test_the_same_box_twice_is_one_person(self, weights, image):
        boxes = [(20, 10, 30, 50), (20, 10, 30, 50)]
        found = poses(weights, image, boxes, [0.4, 0.9])
        assert len(found) == 1
        assert found.scores[0] == pytest.approx(poses(weights, image, boxes[:1], [0.9]).scores[0])
        assert len(poses(weights, image, boxes, oks_threshold=1.0)) == 2

    @pytest.mark.parametrize("boxes", [[(1, 2, 3)], [(1, 2, 0, 4)], [(1, 2, float("nan"), 4)]])
    def test_wrong_boxes_are_refused(self, weights, image, boxes):
        with pytest.raises(DataError, match="boxes are"):
            poses(weights, image, boxes)

    def test_scores_must_be_as_many(self, weights, image):
        with pytest.raises(DataError, match="1 boxes and 2 scores"):
            poses(weights, image, [(1, 2, 3, 4)], [0.5, 0.5])


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
        points = np.stack([first, second, first + 0.1, second + 20])
        assert suppress(points, np.array([0.5, 0.3, 0.9, 0.4]), np.full(4, 900.0)) == [2, 3, 1]

    def test_sigmas_of_other_keypoints(self):
        assert keypoint_sigmas(17)[0] == 0.026
        assert keypoint_sigmas(3) == pytest.approx([sum(COCO_SIGMAS) / 17] * 3)


class TestWherePersonsAre:
    @pytest.fixture
    def paths(self, image, tmp_path):
        found = [tmp_path / name for name in ("a/7.png", "b/7.png", "b/x.png")]
        for path in found:
            path.parent.mkdir(exist_ok=True)
            image.save(path)
        return found

    @staticmethod
    def write(content):
        with open("boxes.json", "w", encoding="utf-8") as file:  # noqa: PTH123
            json.dump(content, file)
        return "boxes.json"

    def test_without_boxes_the_image_is_one_person(self, weights, image):
        found = van.load(weights)(image)
        assert found.boxes.tolist() == [[0, 0, 120, 90]]
        assert found.keypoints.shape == (1, 17, 3)
        assert "whole image" in found.summary()

    def test_boxes_of_van_predict(self, weights, paths):
        box = {"class": "person", "category_id": 1, "bbox": [2, 3, 20, 40], "score": 0.9}
        others = [{**box, "class": "circle"}, {**box, "bbox": [40, 3, 20, 40], "score": 0.1}]
        content = [{"image": str(paths[0]), "objects": [box, *others]}, {"image": "gone.png", "error": "broken"}]
        known = self.write(content)
        first, _second, third = van.load(weights, boxes=known)(paths)
        assert first.boxes.tolist() == [[2, 3, 22, 43]]
        assert len(third) == 0
        assert "no persons" in third.summary()
        low = van.load(weights, boxes=known, score_threshold=0.05, oks_threshold=1.0)(paths[0])
        assert len(low) == 2

    def test_of_two_images_with_one_name_the_right_one_gets_the_boxes(self, weights, paths):
        box = {"class": "person", "bbox": [2, 3, 20, 40], "score": 0.9}
        predictor = van.load(weights, boxes=self.write([{"image": str(paths[0]), "objects": [box]}]))
        known = predictor.state["boxes"]
        known.check(list(map(str, paths)))
        assert [len(known.of(str(path))[0]) for path in paths] == [1, 0, 0]
        moved = KnownBoxes("boxes.json", predictor)  # the images may have moved since
        moved.check([str(paths[1])])
        assert len(moved.of(str(paths[1]))[0]) == 1

    def test_boxes_of_coco_results(self, weights, paths):
        found = [
            {"image_id": 7, "category_id": c, "bbox": b, "score": s}
            for c, b, s in ((1, [2, 3, 20, 40], 0.9), (1, [30, 3, 20, 40], 0.1), (5, [2, 3, 20, 30], 0.9))
        ]
        first, _, third = van.load(weights, boxes=self.write(found))(paths)
        assert first.boxes.tolist() == [[2, 3, 22, 43]]
        assert len(third) == 0
        assert "0.1" in van.load(weights, boxes=self.write(found[1:2]))(paths[0]).summary()

    def test_boxes_need_files(self, weights, image):
        predictor = van.load(weights, boxes=self.write([]))
        with pytest.raises(DataError, match="file name"):
            predictor(np.asarray(image))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ('[{"image_id": 12345, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "none of these"),
            ('[{"image_id": 33, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "entry 0"),
            ("[3]", "entry 0"),
            ('[{"bbox": [1, 2, 3, 4]}]', "entry 0"),
            (None, "cannot be read"),
        ],
    )
    def test_other_boxes_are_refused(self, cli, weights, paths, tmp_path, content, message):
        if content is not None:
            (tmp_path / "boxes.json").write_text(content)
        options = ("--weights", weights, "--boxes", "boxes.json", "--output", "new")
        status, _, err = cli("predict", paths[2], *options)
        assert status == 1
        assert message in err
        assert not (tmp_path / "new").exists()

    def test_detector(self, weights, image, run_of, monkeypatch):
        seen = []

        def found(self, predictor, items, sizes):
            seen.append((sizes, [tuple(item.shape) for item in items]))
            boxes = np.array([[1, 2, 21, 42], [3, 3, 9, 9], [60, 5, 90, 80]], np.float32)
            scores, labels = np.array([0.9, 0.8, 0.2], np.float32), np.array([0, 1, 0])
            names = predictor.class_names
            return [Detections(class_names=names, size=s, boxes=boxes, scores=scores, labels=labels) for s in sizes]

        detector = run_of("detection").folder
        monkeypatch.setattr(type(get_task("detection")), "predict", found)
        predictor = van.load(weights, detector=str(detector), score_threshold=0.4)
        one = predictor(image)
        assert one.boxes.tolist() == [[1, 2, 21, 42]]
        assert one.scores[0] <= 0.9
        assert seen == [([(90, 120)], [(3, 90, 120)])]
        assert len(van.load(weights, detector=str(detector), score_threshold=0.1)(image)) == 2
        nothing = van.load(weights, detector=str(detector), score_threshold=0.95)(image)
        assert "best 0.90" in nothing.summary()

    def test_detector_of_another_kind(self, weights, run_of, tmp_path):
        from van.models.weight_file import read_weights, write_weights

        with pytest.raises(VanError, match="task pose"):
            van.load(weights, detector=str(weights))
        with pytest.raises(VanError, match="classification"):
            van.load(weights, detector=str(run_of("classification").folder))
        header, tensors = read_weights(run_of("detection").folder)
        header.class_names[0] = "nobody"
        other = write_weights(header, tensors, tmp_path / "other.safetensors")
        with pytest.raises(VanError, match="'person'"):
            van.load(weights, detector=str(other))

    def test_images_are_decoded_once(self, weights, run_of, paths, monkeypatch):
        from van.data import inputs

        opened, read = [], inputs.read_image
        monkeypatch.setattr(
            inputs, "read_image", lambda source, *a, **k: opened.append(source) or read(source, *a, **k)
        )
        predictor = van.load(weights, detector=str(run_of("detection").folder), score_threshold=0.0)
        assert len(predictor(paths)) == 3
        assert opened == paths

    def test_boxes_and_detector_exclude_each_other(self, weights):
        with pytest.raises(VanError, match="Give one of them"):
            van.load(weights, boxes="a", detector="b")
