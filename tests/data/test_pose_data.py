import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from van.data.augmentation import PoseAugmentation
from van.data.coco import CocoSplit, find_split
from van.data.pose import (
    annotated_persons,
    box_region,
    crop_matrix,
    cut_out,
    detected_persons,
    half_body,
    invert,
    move,
    open_persons,
)
from van.data.shapes import KEYPOINTS
from van.errors import DataError

LEFT_EYE, RIGHT_EYE = 1, 2
PAIRS = [(i, i + 1) for i in range(1, 17, 2)]


def body(seed: int = 0, visible: int = 17) -> list[float]:
    """Keypoints inside 20..60 x 10..50; the first ones are known."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform(20, 60, 17).round(), rng.uniform(10, 50, 17).round(), np.full(17, 2.0)], 1)
    points[visible:] = 0
    return points.ravel().tolist()


@pytest.fixture
def write(tmp_path):
    """Write a data set with two images of 80 x 60 and these annotations; the val split has the same."""

    def write(annotations, **changes):
        category = {"id": 1, "name": "person", "keypoints": list(KEYPOINTS), "skeleton": [[1, 2]]}
        images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in (1, 2)]
        content = {"images": images, "annotations": annotations, "categories": [category], **changes}
        (tmp_path / "annotations").mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3)).astype(np.uint8)
        for split in ("train", "val"):
            (tmp_path / split).mkdir(exist_ok=True)
            for i in (1, 2):
                Image.fromarray(pixels).save(tmp_path / split / f"{i}.png")
            (tmp_path / "annotations" / f"person_keypoints_{split}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def person(number=1, image_id=1, box=(18, 8, 44, 44), keypoints=None, **changes):
    keypoints = body() if keypoints is None else keypoints
    count = sum(v > 0 for v in keypoints[2::3])
    new = {"id": number, "image_id": image_id, "category_id": 1, "bbox": list(box), "area": 900, "iscrowd": 0}
    return {**new, "keypoints": keypoints, "num_keypoints": count, **changes}


def split_of(folder, split="val") -> CocoSplit:
    return CocoSplit(find_split(folder, split, "person_keypoints"), "person_keypoints")


class TestGeometry:
    @pytest.mark.parametrize(
        ("box", "width"), [((0, 0, 30, 80), 75.0), ((0, 0, 90, 80), 112.5), ((0, 0, 60, 80), 75.0)]
    )
    def test_region_has_the_crop_s_shape_and_a_quarter_more(self, box, width):
        centre, region = box_region(box, (256, 192))
        assert centre == ((box[2] - 1) / 2, 39.5)
        assert region == width

    @pytest.mark.parametrize("angle", [0.0, 30.0, -100.0])
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_there_and_back_is_where_it_was(self, angle, mirrored):
        matrix = crop_matrix((33.3, 44.4), 71.0, (64, 48), angle, mirrored)
        points = np.random.default_rng(0).uniform(-100, 100, (9, 3))
        np.testing.assert_allclose(move(move(points, matrix), invert(matrix)), points, atol=1e-10)

    def test_middle_of_the_crop_is_the_centre_and_its_sides_lie_as_far(self):
        matrix = crop_matrix((30.0, 20.0), 48.0, (64, 48), 90.0)
        middle, right = move(np.array([[23.5, 31.5], [24.5, 31.5]]), matrix)
        assert middle.tolist() == [30.0, 20.0]
        assert right == pytest.approx([30.0, 21.0])  # turned clockwise: to the right is down

    def test_whole_image_is_cut_out_as_it_is(self):
        pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 3)).astype(np.uint8)
        image = Image.fromarray(pixels)
        matrix = crop_matrix((15.5, 23.5), 32.0, (48, 32))
        assert torch.equal(cut_out(image, matrix, (48, 32)), torch.from_numpy(pixels).permute(2, 0, 1))
        mirrored = cut_out(image, crop_matrix((15.5, 23.5), 32.0, (48, 32), flipped=True), (48, 32))
        assert torch.equal(mirrored, torch.from_numpy(pixels[:, ::-1].copy()).permute(2, 0, 1))

    @pytest.mark.parametrize("angle", [0.0, 25.0])
    @pytest.mark.parametrize("width", [20.0, 55.0, 300.0])  # enlarged, as it is, made smaller
    @pytest.mark.parametrize("mirrored", [False, True])
    def test_keypoints_move_with_the_pixels(self, angle, width, mirrored):
        ys, xs = np.mgrid[:400, :400]
        place = np.array([[210.0, 190.0]])
        spread = width / 20
        blob = 255 * np.exp(-((xs - place[0, 0]) ** 2 + (ys - place[0, 1]) ** 2) / (2 * spread**2))
        image = Image.fromarray(blob.astype(np.uint8)).convert("RGB")
        matrix = crop_matrix((205.0, 200.0), width, (64, 48), angle, mirrored)
        crop = cut_out(image, matrix, (64, 48))[0].double().numpy()
        found = [(crop * np.mgrid[:64, :48][axis]).sum() / crop.sum() for axis in (1, 0)]
        assert found == pytest.approx(move(place, invert(matrix))[0].tolist(), abs=0.35)

    def test_outside_of_the_image_is_black(self):
        crop = cut_out(Image.new("RGB", (20, 20), "white"), crop_matrix((0.0, 10.0), 32.0, (32, 32)), (32, 32))
        assert crop[:, :, :14].max() == 0
        assert crop[:, 10:20, 18:].min() == 255


class TestHalfBody:
    def test_takes_one_half(self):
        keypoints = np.array(body()).reshape(17, 3)
        keypoints[:11, 1] -= 100  # arms and head far above hips and legs
        torch.manual_seed(0)
        seen = set()
        for _ in range(20):
            (x, y), width = half_body(keypoints, KEYPOINTS, (64, 48))
            upper = y < 0
            seen.add(upper)
            points = keypoints[:11] if upper else keypoints[11:]
            assert (x, y) == pytest.approx(points[:, :2].mean(0).tolist())
            extent = np.ptp(points[:, :2], axis=0)
            assert width == pytest.approx(1.5 * max(extent[0], extent[1] * 48 / 64))
        assert seen == {True, False}

    def test_takes_the_half_that_is_there(self):
        keypoints = np.array(body(visible=11)).reshape(17, 3)
        (x, y), _ = half_body(keypoints, KEYPOINTS, (64, 48))
        assert (x, y) == pytest.approx(keypoints[:11, :2].mean(0).tolist())

    def test_upper_half_is_as_likely_as_asked(self):
        keypoints = np.array(body()).reshape(17, 3)
        keypoints[:11, 1] -= 100
        torch.manual_seed(0)
        upper = [half_body(keypoints, KEYPOINTS, (64, 48), 0.69)[0][1] < 0 for _ in range(400)]
        assert np.mean(upper) == pytest.approx(0.69, abs=0.06)
        assert all(half_body(keypoints, KEYPOINTS, (64, 48), 1.0)[0][1] < 0 for _ in range(20))

    def test_too_little_is_left_whole(self):
        assert half_body(np.array(body(visible=1)).reshape(17, 3), KEYPOINTS, (64, 48)) is None


class TestDataset:
    def test_crop_and_keypoints_without_changes(self, write):
        dataset, notes = open_persons(split_of(write([person()]), "val"), (64, 48))
        item = dataset[0]
        assert notes == []
        assert item["image"].shape == (3, 64, 48)
        assert item["image"].dtype == torch.uint8
        matrix = crop_matrix(*box_region((18, 8, 44, 44), (64, 48)), (64, 48))
        np.testing.assert_allclose(item["matrix"], matrix, rtol=1e-6)
        points = np.array(body()).reshape(17, 3)
        np.testing.assert_allclose(item["keypoints"], move(points, invert(matrix)), atol=1e-3)
        np.testing.assert_allclose(move(item["keypoints"].numpy(), matrix), points, atol=1e-3)
        assert (item["image_id"], item["category_id"], item["score"], item["index"]) == (1, 1, 1.0, 0)

    def test_mirror_swaps_left_and_right(self, write):
        folder = write([person()])
        straight = open_persons(split_of(folder, "train"), (64, 64))[0][0]
        only_flip = PoseAugmentation(scale=0, rotation_probability=0, hflip=1, half_body=0)
        mirrored = open_persons(split_of(folder, "train"), (64, 64), only_flip)[0][0]
        assert torch.equal(mirrored["image"], straight["image"].flip(2))
        expected = straight["keypoints"].clone()
        expected[:, 0] = 63 - expected[:, 0]
        order = [0, *(i for pair in PAIRS for i in reversed(pair))]
        torch.testing.assert_close(mirrored["keypoints"], expected[order], atol=1e-3, rtol=0)

    def test_changes_keep_keypoints_on_the_image(self, write):
        dataset, _ = open_persons(split_of(write([person()]), "train"), (64, 48), PoseAugmentation())
        points = np.array(body()).reshape(17, 3)
        swapped = points[[0, *(i for pair in PAIRS for i in reversed(pair))]]
        torch.manual_seed(0)
        widths, angles, sides = [], [], set()
        for _ in range(100):
            item = dataset[0]
            matrix = item["matrix"].numpy()
            mirrored = np.linalg.det(matrix[:, :2]) < 0
            sides.add(bool(mirrored))
            back = move(item["keypoints"].numpy(), matrix)
            np.testing.assert_allclose(back, swapped if mirrored else points, atol=1e-2)
            widths.append(48 * math.sqrt(abs(np.linalg.det(matrix[:, :2]))))
            angles.append(math.degrees(math.atan2(matrix[1, 0], matrix[0, 0] * (-1 if mirrored else 1))))
        whole = box_region((18, 8, 44, 44), (64, 48))[1]
        assert sides == {True, False}
        assert max(widths) <= 1.35 * whole + 1e-3
        assert np.std(widths) > 0.1 * whole
        assert 0.2 < np.mean(np.abs(angles) < 1e-3) < 0.6

    def test_half_bodies_have_other_crops(self, write):
        folder = write([person()])
        only_half = PoseAugmentation(scale=0, rotation_probability=0, hflip=0, half_body=1)
        whole = open_persons(split_of(folder, "train"), (64, 48))[0][0]["matrix"]
        assert not torch.allclose(open_persons(split_of(folder, "train"), (64, 48), only_half)[0][0]["matrix"], whole)
        few = write([person(keypoints=body(visible=8))])
        assert torch.allclose(open_persons(split_of(few, "train"), (64, 48), only_half)[0][0]["matrix"], whole)

    def test_centers_are_shifted_by_a_share_of_the_crop(self):
        only_shift = PoseAugmentation(
            shift=0.16, shift_probability=0.3, scale=0, rotation_probability=0, hflip=0, half_body=0
        )
        region = only_shift.transform(KEYPOINTS, (64, 48))
        torch.manual_seed(0)
        moved = [region(np.array(body()).reshape(17, 3), (30.0, 20.0), 60.0) for _ in range(1000)]
        assert {(width, angle, flipped) for _, width, angle, flipped in moved} == {(60.0, 0.0, False)}
        x, y = np.array([center for center, *_ in moved]).T - np.array([[30.0], [20.0]])
        assert np.mean(x != 0) == pytest.approx(0.3, abs=0.05)
        assert 0.14 * 60 < np.abs(x).max() <= 0.16 * 60
        assert 0.14 * 80 < np.abs(y).max() <= 0.16 * 80  # the crop is 60 wide and 80 high
        assert np.std(x[x != 0]) == pytest.approx(0.16 * 60 / np.sqrt(3), rel=0.1)  # uniform
        assert x[x != 0].mean() == pytest.approx(0, abs=1)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"shift": 0.1}, "shift needs both"),
            ({"shift_probability": 0.1}, "shift needs both"),
            ({"scale": 1.0}, "scale is 1.0"),
            ({"rotation": -1.0}, "rotation is -1.0"),
            ({"hflip": 1.5}, "hflip is 1.5"),
            ({"upper_half": 2.0}, "upper_half is 2.0"),
        ],
    )
    def test_wrong_changes_are_named(self, changes, message):
        with pytest.raises(DataError, match=message):
            PoseAugmentation(**changes).transform(KEYPOINTS, (64, 48))


class TestWhoIsTaken:
    def test_persons_with_keypoints_that_are_no_crowd(self, write):
        none = [0.0] * 51
        folder = write([person(1), person(2, 2), person(3, keypoints=none), person(4, iscrowd=1)])
        assert [(p.image_id, p.score) for p in annotated_persons(split_of(folder))] == [(1, 1.0), (2, 1.0)]

    def test_boxes_are_cut_at_the_border(self, write):
        folder = write([person(box=(-10, 30, 100, 100))])
        assert annotated_persons(split_of(folder))[0].box == (0.0, 30.0, 80.0, 30.0)

    def test_nobody_is_an_error(self, write):
        with pytest.raises(DataError, match="no person with labeled keypoints"):
            annotated_persons(split_of(write([])))

    def test_wrong_count_of_keypoints_is_refused_or_skipped(self, write):
        folder = write([person(1), person(7, keypoints=body()[:48])])
        with pytest.raises(DataError, match="7"):
            open_persons(split_of(folder, "val"), (64, 48))
        dataset, notes = open_persons(split_of(folder, "val"), (64, 48), on_bad_image="skip")
        assert len(dataset) == 1
        assert len(notes) == 1
        with pytest.raises(DataError, match="annotation 7 has 48 numbers for 17 keypoints"):
            annotated_persons(split_of(folder))

    def test_a_broken_image_is_named(self, write):
        folder = write([person()])
        dataset, _ = open_persons(split_of(folder, "val"), (64, 48))
        (folder / "val" / "1.png").write_bytes(b"nothing")
        with pytest.raises(DataError, match=r"val/1\.png"):
            dataset[0]


class TestDetectorBoxes:
    def detections(self, folder, *changes):
        found = [
            {"image_id": 2, "category_id": 1, "bbox": [1, 2, 30, 40], "score": 0.7, **change} for change in changes
        ]
        (folder / "boxes.json").write_text(json.dumps(found))
        return detected_persons(split_of(folder), folder / "boxes.json", score_threshold=0.5)

    def test_persons_above_the_score_image_by_image(self, write):
        persons = self.detections(write([person()]), {}, {"image_id": 1}, {"score": 0.4}, {"category_id": 2})
        assert [(p.image_id, p.box, p.score) for p in persons] == [
            (1, (1.0, 2.0, 30.0, 40.0), 0.7),
            (2, (1.0, 2.0, 30.0, 40.0), 0.7),
        ]
        assert not persons[0].keypoints.any()

    def test_crops_come_from_them(self, write):
        folder = write([person()])
        self.detections(folder, {})
        dataset, _ = open_persons(split_of(folder, "val"), (64, 48), boxes=folder / "boxes.json")
        assert dataset[0]["score"] == 0.7
        assert not dataset[0]["keypoints"][:, 2].any()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"image_id": 5}, "image 5"),
            ({"bbox": [1, 2, 3]}, "four finite numbers"),
            ({"bbox": [1, 2, 3, math.nan]}, "four finite numbers"),
            ({"score": 0.1}, "no box of category 1"),
        ],
    )
    def test_what_is_wrong_is_named(self, write, change, message):
        folder = write([person()])
        with pytest.raises(DataError, match=message):
            self.detections(folder, change)

    @pytest.mark.parametrize("content", ["{", '{"a": 1}', '[{"bbox": [1, 2, 3, 4]}]'])
    def test_another_file_is_refused(self, write, content):
        folder = write([person()])
        (folder / "boxes.json").write_text(content)
        with pytest.raises(DataError, match=r"boxes\.json"):
            detected_persons(split_of(folder), folder / "boxes.json")

    def test_a_missing_file_is_named(self, write):
        with pytest.raises(DataError, match=r"none\.json"):
            detected_persons(split_of(write([person()])), "none.json")
