import copy
import json
import math

import pytest
from PIL import Image

from van.data.checks import Problem
from van.data.coco import CocoDetectionDataset, CocoSplit, find_split, find_splits, read_splits
from van.data.coco_checks import check, find_problems, usable_split
from van.data.shapes import make_shapes
from van.errors import DataError

SQUARE = [[2, 3, 6, 3, 6, 8, 2, 8]]


@pytest.fixture
def folder(tmp_path):
    """Three images of 20 x 10 pixels; the third has no object, and category ids have gaps."""
    (tmp_path / "train").mkdir()
    for number in (1, 2, 3):
        Image.new("RGB", (20, 10), (number, 10, 20)).save(tmp_path / "train" / f"{number}.png")
    return tmp_path


@pytest.fixture
def content():
    def entry(number, image):
        return {
            "id": number,
            "image_id": image,
            "category_id": 7,
            "bbox": [2, 3, 4, 5],
            "area": 20,
            "iscrowd": 0,
            "segmentation": SQUARE,
            "keypoints": [2, 3, 2, 4, 5, 1, 0, 0, 0],
            "num_keypoints": 2,
        }

    person = {"id": 7, "name": "person", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2]]}
    return {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 10} for i in (1, 2, 3)],
        "annotations": [entry(11, 1), entry(12, 1), entry(21, 2)],
        "categories": [{"id": 2, "name": "cat"}, person],
    }


def usable(split, on_bad_image, masks=False):
    """Return ids of images and annotations that are left, and the notes."""
    kept, notes = usable_split(split, on_bad_image, masks)
    return *ids(kept), notes


def ids(split):
    return [image["id"] for image in split.images], [entry["id"] for entry in split.all_annotations()]


def open_split(folder, content, kind="instances"):
    path = folder / "annotations" / f"{kind}_train.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return CocoSplit(find_split(folder, "train", kind), kind)


def annotation(**change):
    def damage(content, folder):
        content["annotations"][1].update(change)

    return damage


def remove_field(name):
    def damage(content, folder):
        del content["annotations"][1][name]

    return damage


ON_ANNOTATION_12 = [
    (annotation(image_id=99), "image 99 is not among the images"),
    (annotation(image_id=None), "image None is not among the images"),
    (annotation(image_id=[1]), "image [1] is not among the images"),
    (annotation(category_id=5), "category 5 is unknown, the file has [2, 7]"),
    (remove_field("category_id"), "category None is unknown"),
    (annotation(bbox=[2, 3, 0, 5]), "its box [2, 3, 0, 5] has no area"),
    (annotation(bbox=[2, 3, 4, -5]), "has no area"),
    (annotation(bbox=[25, 3, 4, 5]), "all of its box [25, 3, 4, 5] lies outside the image of 20 x 10"),
    (annotation(bbox=[-30, -30, 4, 5]), "all of its box"),
    (annotation(bbox=[18, 3, 8, 5]), "more than half of its box"),
    (annotation(bbox=[math.nan, 3, 4, 5]), "is not four finite numbers"),
    (annotation(bbox=[2, 3, math.inf, 5]), "is not four finite numbers"),
    (annotation(bbox=[2, 3, 4]), "is not four finite numbers"),
    (annotation(bbox=["2", 3, 4, 5]), "is not four finite numbers"),
    (remove_field("bbox"), "its box None is not four finite numbers"),
    (annotation(segmentation=[[2, 3, 6, 8]]), "a polygon has 2 points, expected at least 3"),
    (annotation(segmentation=[SQUARE[0], [2, 3, 6, 8]]), "a polygon has 2 points"),
    (annotation(segmentation=[[2, 3, 6, 8, 9, 9, 9]]), "a polygon has 7 numbers"),
    (annotation(segmentation=[[2, 3, 6, 8, 9, math.nan]]), "not finite or far outside"),
    (annotation(segmentation=[[2, 3, 6, 8, 9, 1e9]]), "not finite or far outside"),
    (annotation(segmentation=[["2", 3, 6, 8, 9, 9]]), "values that are not numbers"),
    (annotation(segmentation=[2, 3, 6, 8, 9, 9]), "not a list of polygons"),
    (annotation(segmentation="2 3 6 8"), "neither polygons nor RLE"),
    (annotation(segmentation={"counts": [200], "size": [20, 10]}), "size of the RLE mask is [20, 10]"),
    (annotation(segmentation={"counts": [100, 90], "size": [10, 20]}), "do not add up to 10 x 20"),
    (annotation(segmentation={"counts": "zz", "size": [10, 20]}), "the RLE mask is broken"),
    (annotation(segmentation={"size": [10, 20]}), "the RLE mask has no counts"),
    (annotation(segmentation=[]), "it has no mask"),
]
ON_KEYPOINTS = [
    (annotation(keypoints=[2, 3, 2, 4, 5, 1]), "it has 6 keypoint values, expected 9"),
    (remove_field("keypoints"), "it has no keypoint values"),
    (annotation(num_keypoints=3), "num_keypoints is 3, but 2 keypoints are labeled"),
    (annotation(keypoints=[2, 3, 2, 4, 5, 5, 0, 0, 0]), "visibility 5"),
    (annotation(keypoints=[2, math.nan, 2, 4, 5, 1, 0, 0, 0]), "keypoints that are not finite"),
]


def check_only_annotation_12(split, told):
    (problem,) = find_problems(split)
    assert (problem.image, problem.annotation, problem.fatal) == (None, 12, False)
    assert told in problem.what
    assert f"annotation 12: {problem.what}" in str(problem)
    with pytest.raises(DataError, match="--on-bad-image skip") as error:
        usable(split, "error", masks=True)
    assert str(problem) in str(error.value)
    images, annotations, notes = usable(split, "skip", masks=True)
    assert (images, annotations) == ([1, 2, 3], [11, 21])
    assert "left out 0 of 3 images and 1 annotation because of 1 problem" in notes[0]


@pytest.mark.parametrize(("damage", "told"), ON_ANNOTATION_12)
def test_each_damage_of_an_annotation_is_found_and_can_be_left_out(folder, content, damage, told):
    damage(content, folder)
    split = open_split(folder, content)
    check_only_annotation_12(split, told)
    dataset = CocoDetectionDataset(split.without(annotations={12}), masks=True)
    assert [len(dataset[i][1]["boxes"]) for i in range(3)] == [1, 1, 0]


@pytest.mark.parametrize(("damage", "told"), ON_KEYPOINTS)
def test_wrong_keypoints_are_found_where_keypoints_are_asked_for(folder, content, damage, told):
    damage(content, folder)
    check_only_annotation_12(open_split(folder, content, "person_keypoints"), told)
    assert find_problems(open_split(folder, content)) == []


def test_good_data_has_no_problems(folder, content):
    content["annotations"][1].update(category_id=2, bbox=[17.5, 3, 4, 5])  # a bit outside is common
    del content["annotations"][1]["keypoints"]  # cats have none
    for kind in ("instances", "person_keypoints"):
        split = open_split(folder, content, kind)
        assert find_problems(split) == []
        assert usable(split, "error", masks=True) == ([1, 2, 3], [11, 12, 21], [])


def test_masks_are_expected_of_all_if_any_has_one_or_if_asked_for(folder, content):
    for entry in content["annotations"]:
        entry["segmentation"] = []
    split = open_split(folder, content)
    assert find_problems(split) == []
    assert [problem.annotation for problem in find_problems(split, masks=True)] == [11, 12, 21]
    content["annotations"][0]["segmentation"] = SQUARE
    split = open_split(folder, content)
    assert [problem.annotation for problem in find_problems(split)] == [12, 21]
    assert usable(split, "error") == ([1, 2, 3], [11, 12, 21], [])  # boxes alone


def check_only_image_1(split, told, decode=False):
    (problem,) = find_problems(split, decode=decode)
    assert (problem.image, problem.annotation, problem.fatal) == (1, None, False)
    assert problem.file == str(split.files.images / "1.png")
    assert told in problem.what


def check_image_1_is_left_out(split):
    with pytest.raises(DataError, match=r"train/1\.png: "):
        usable(split, "error")
    images, annotations, notes = usable(split, "skip")
    assert (images, annotations) == ([2, 3], [21])
    assert "left out 1 of 3 images" in notes[0]
    dataset = CocoDetectionDataset(split.without({1}), masks=True)
    assert [dataset[i][1]["image_id"] for i in range(2)] == [2, 3]


def test_missing_image(folder, content):
    (folder / "train" / "1.png").unlink()
    split = open_split(folder, content)
    check_only_image_1(split, "does not exist")
    check_image_1_is_left_out(split)


def test_size_that_differs(folder, content):
    content["images"][0].update(width=40)
    split = open_split(folder, content)
    for decode in (True, False):
        check_only_image_1(split, "the file has 20 x 10 pixels, the JSON says 40 x 10", decode)
    content["images"][0].update(width=10, height=20)
    del content["annotations"][0]["segmentation"], content["annotations"][1]["segmentation"]
    (problem,) = find_problems(open_split(folder, content), masks=False)
    assert "EXIF" in problem.what
    check_image_1_is_left_out(split)


def test_size_that_is_not_given(folder, content):
    del content["images"][0]["width"]
    check_only_image_1(open_split(folder, content), "gives no width and height")
    (folder / "train" / "1.png").unlink()
    check_only_image_1(open_split(folder, content), "does not exist")


def test_exif_rotation_counts(folder, content):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 20)).save(folder / "train" / "1.png", exif=exif)
    split = open_split(folder, content)
    for decode in (True, False):
        assert find_problems(split, decode=decode) == []


@pytest.mark.parametrize("keep", [10, 30])
def test_image_without_a_header(folder, content, keep):
    path = folder / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:keep])
    split = open_split(folder, content)
    check_only_image_1(split, "", decode=False)
    check_image_1_is_left_out(split)


def test_image_that_is_damaged_behind_its_header_is_found_by_decoding(folder, content):
    path = folder / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:-25])
    split = open_split(folder, content)
    check_only_image_1(split, "broken", decode=True)
    assert find_problems(split, decode=False) == []


def test_loading_processes_find_the_same(folder, content):
    (folder / "train" / "1.png").unlink()
    split = open_split(folder, content)
    assert find_problems(split, workers=1) == find_problems(split, workers=0) != []


def test_ids_used_twice(folder, content):
    content["annotations"][1]["id"] = 11
    problems = find_problems(open_split(folder, content))
    assert [(p.annotation, p.what) for p in problems] == [(11, "another annotation has the same id")] * 2
    assert usable(open_split(folder, content), "skip")[1] == [21]

    content["annotations"][1]["id"] = 12
    content["images"][1]["id"] = 1
    content["annotations"][2]["image_id"] = 3
    split = open_split(folder, content)
    problems = find_problems(split)
    assert [(p.image, p.what) for p in problems] == [(1, "another image has the same id 1")] * 2
    assert {p.file for p in problems} == {str(folder / "train" / name) for name in ("1.png", "2.png")}
    assert usable(split, "skip")[:2] == ([3], [21])


def check_refused_even_when_skipping(split, told):
    assert [p.fatal for p in find_problems(split)] == [True]
    for on_bad_image in ("error", "skip"):
        with pytest.raises(DataError, match=told) as error:
            usable(split, on_bad_image)
        assert "--on-bad-image" not in str(error.value)  # it would not help


def test_category_id_used_twice_cannot_be_left_out(folder, content):
    content["categories"][0]["id"] = 7
    check_refused_even_when_skipping(open_split(folder, content), "2 categories have the id 7")


def test_no_annotations_at_all(folder, content):
    content["annotations"] = []
    check_refused_even_when_skipping(open_split(folder, content), "no annotations")
    del content["annotations"]
    check_refused_even_when_skipping(open_split(folder, content), "no annotations")


def test_annotation_without_id(folder, content):
    del content["annotations"][0]["id"]
    check_refused_even_when_skipping(open_split(folder, content), "an annotation of image 1 has the id None")


def test_nothing_left(folder, content):
    for entry in content["annotations"]:
        entry["bbox"] = [0, 0, 0, 0]
    with pytest.raises(DataError, match="no annotations left"):
        usable(open_split(folder, content), "skip")


def test_long_lists_are_cut_with_their_count(folder, content):
    template = content["annotations"][0]
    content["annotations"] += [{**copy.deepcopy(template), "id": 100 + i, "bbox": [0, 0, 0, 0]} for i in range(25)]
    split = open_split(folder, content)
    assert len(find_problems(split)) == 25
    with pytest.raises(DataError, match="25 problems") as error:
        usable(split, "error")
    assert str(error.value).count("has no area") == 10
    assert "and 15 more" in str(error.value)


def test_problem_of_a_file():
    assert str(Problem("a.json", "it has none")) == "a.json: it has none"
    assert str(Problem("a.jpg", "is broken", image=3)) == "a.jpg: is broken"
    assert str(Problem("a.jpg", "has no area", annotation=3)) == "a.jpg, annotation 3: has no area"


def test_shapes_have_no_problems(tmp_path):
    make_shapes(tmp_path / "shapes", 20, 64)
    for split in ("train", "val"):
        for kind in ("instances", "person_keypoints"):
            data = CocoSplit(find_split(tmp_path / "shapes", split, kind), kind)
            assert find_problems(data, masks=True) == []
    assert check(read_splits(find_splits(tmp_path / "shapes"))) == []
