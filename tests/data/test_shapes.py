import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from van.data.coco import CocoSplit, decode_masks, find_split
from van.data.shapes import KEYPOINTS, make_shapes, shapes_folder
from van.errors import DataError

SHAPES = {"person": 1, "circle": 2, "square": 3, "triangle": 5, "star": 6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "here"
    make_shapes(path, 60, 96, 3)
    return path


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read(folder, kind, split="train"):
    return json.loads((folder / "annotations" / f"{kind}_{split}.json").read_text())


def pixels(path):
    return np.asarray(Image.open(path)).astype(int)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        make_shapes(tmp_path / name, 10, 64, seed)
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert a == b
    assert a.keys() == c.keys()
    assert a["train/000001.jpg"] != c["train/000001.jpg"]
    assert a["annotations/instances_train.json"] != c["annotations/instances_train.json"]


def test_last_fifth_is_for_validation_and_every_image_has_its_files(folder):
    for split, numbers in (("train", range(1, 49)), ("val", range(49, 61))):
        names = [f"{number:06d}" for number in numbers]
        for path in (split, f"annotations/panoptic_{split}", f"semantic/{split}"):
            assert sorted(file.stem for file in (folder / path).iterdir()) == names
        for kind in ("instances", "person_keypoints", "panoptic"):
            images = read(folder, kind, split)["images"]
            assert [image["id"] for image in images] == list(numbers)
            for image in images:
                assert pixels(folder / split / image["file_name"]).shape == (image["height"], image["width"], 3)


def test_variety(folder):
    content = read(folder, "instances")
    by_image = Counter(annotation["image_id"] for annotation in content["annotations"])
    assert {image["id"] for image in content["images"]} - by_image.keys()  # empty ones
    names = {category["id"]: category["name"] for category in content["categories"]}
    assert {name: number for number, name in names.items()} == SHAPES
    assert {names[a["category_id"]] for a in content["annotations"]} == set(SHAPES)
    single = [a for a in content["annotations"] if not a["iscrowd"]]
    crowds = [a for a in content["annotations"] if a["iscrowd"]]
    assert crowds
    assert all(isinstance(a["segmentation"]["counts"], list) for a in crowds)
    forms = Counter(type(a["segmentation"]) for a in single)
    assert forms[list] > 3 * forms[dict] > 0
    sides = [max(a["bbox"][2:]) / 96 for a in single if a["category_id"] != 1]
    assert min(sides) < 0.2
    assert max(sides) > 0.45
    assert len({(image["width"], image["height"]) for image in content["images"]}) == 3
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_masks_boxes_areas_and_panoptic_segments_are_of_the_same_visible_pixels(folder):
    split = CocoSplit(find_split(folder, "train"))
    panoptic = {entry["image_id"]: entry for entry in read(folder, "panoptic")["annotations"]}
    for image in split.images:
        annotations = split.annotations(image["id"])
        masks = decode_masks([a["segmentation"] for a in annotations], image["height"], image["width"])
        # drawn as polygons they share a pixel of their borders here and there
        assert masks.sum(0).max(initial=0) <= 2
        things = [s for s in panoptic[image["id"]]["segments_info"] if s["category_id"] < 90]
        assert [s["category_id"] for s in things] == [a["category_id"] for a in annotations]
        for annotation, mask, thing in zip(annotations, masks, things, strict=True):
            assert abs(int(mask.sum()) - annotation["area"]) <= max(8, 0.05 * annotation["area"])
            assert abs(thing["area"] - annotation["area"]) <= max(8, 0.05 * annotation["area"])
            assert thing["iscrowd"] == annotation["iscrowd"]
            ys, xs = np.nonzero(mask)
            x, y, w, h = annotation["bbox"]
            found = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)  # tips may be thinner than a pixel
            assert np.abs(np.subtract(found, (x, y, x + w, y + h))).max() <= 2.0
            assert x >= 0 <= y
            assert x + w <= image["width"]
            assert y + h <= image["height"]


def test_panoptic_files_are_as_coco_defines_them(folder):
    content = read(folder, "panoptic", "val")
    categories = {category["id"]: category for category in content["categories"]}
    assert {c["name"] for c in categories.values() if c["isthing"]} == set(SHAPES)
    assert {c["name"] for c in categories.values() if not c["isthing"]} == {"sky", "ground"}
    for category in categories.values():
        assert len(category["color"]) == 3
    for entry in content["annotations"]:
        rgb = pixels(folder / "annotations/panoptic_val" / entry["file_name"])
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        segments = {segment["id"]: segment for segment in entry["segments_info"]}
        assert len(segments) == len(entry["segments_info"])
        assert set(np.unique(ids)) - {0} == segments.keys()
        for number, segment in segments.items():
            ys, xs = np.nonzero(ids == number)
            assert segment["area"] == len(ys)
            assert segment["bbox"] == [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert segment["category_id"] in categories


def test_semantic_and_saliency_masks_agree_with_the_segments(folder):
    names = (folder / "semantic/classes.txt").read_text().split()
    assert names == [*SHAPES, "sky", "ground"]
    content = read(folder, "panoptic", "train")
    labels = {c["id"]: names.index(c["name"]) for c in content["categories"]}
    void = empty = 0
    for entry in content["annotations"]:
        rgb = pixels(folder / "annotations/panoptic_train" / entry["file_name"])
        ids = rgb[..., 0] + 256 * rgb[..., 1] + 256**2 * rgb[..., 2]
        semantic = pixels(folder / "semantic/train" / entry["file_name"])
        expected = np.full(ids.shape, 255)
        object_pixels = np.zeros(ids.shape, bool)
        for segment in entry["segments_info"]:
            expected[ids == segment["id"]] = labels[segment["category_id"]]
            if segment["category_id"] < 90 and not segment["iscrowd"]:
                object_pixels |= ids == segment["id"]
        assert (semantic == expected).all()
        mask = folder / "saliency/masks/train" / entry["file_name"]
        image = folder / "saliency/images/train" / f"{mask.stem}.jpg"
        assert mask.exists() == image.exists() == object_pixels.any()
        if object_pixels.any():
            assert image.read_bytes() == (folder / "train" / image.name).read_bytes()
            assert (pixels(mask) == 255 * object_pixels).all()
        empty += not object_pixels.any()
        void += (semantic == 255).sum()
    assert void > 0
    assert 0 < empty < 10


def test_keypoints(folder):
    content = read(folder, "person_keypoints")
    (person,) = content["categories"]
    assert person["keypoints"] == list(KEYPOINTS)
    assert len(person["skeleton"]) == 19
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    flags = Counter()
    sides = Counter()
    for annotation in content["annotations"]:
        points = np.reshape(annotation["keypoints"], (17, 3))
        seen = points[:, 2] > 0
        assert annotation["num_keypoints"] == seen.sum()
        assert (points[~seen] == 0).all()
        assert (points[:, :2] < sizes[annotation["image_id"]]).all()
        if annotation["iscrowd"]:
            assert not seen.any()
            continue
        flags.update(points[:, 2].tolist())
        assert annotation["num_keypoints"] >= 5
        assert annotation["bbox"][3] >= 0.2 * 72
        left, right, nose = points[5], points[6], points[0]
        if left[2] and right[2]:  # who shows a face has the left shoulder on the right of the picture
            sides[bool(left[0] > right[0]), bool(nose[2])] += 1
    assert min(flags[v] for v in (0, 1, 2)) > 0
    assert sides[True, True] > 0 < sides[False, False]
    assert sides[False, True] == 0


def test_objects_stand_out_from_what_is_around_them(folder):
    """Most objects differ from the ring of background around their mask by more than the noise."""
    split = CocoSplit(find_split(folder, "train"))
    distances = []
    for image in split.images:
        picture = pixels(folder / "train" / image["file_name"])
        semantic = pixels(folder / "semantic/train" / f"{image['id']:06d}.png")
        annotations = [a for a in split.annotations(image["id"]) if not a["iscrowd"]]
        for annotation, mask in zip(
            annotations,
            decode_masks([a["segmentation"] for a in annotations], image["height"], image["width"]).astype(bool),
            strict=True,
        ):
            x, y, w, h = (round(v) for v in annotation["bbox"])
            window = np.s_[max(0, y - 3) : y + h + 3, max(0, x - 3) : x + w + 3]
            beside = (semantic[window] >= 5) & (semantic[window] != 255)
            distances.append(np.linalg.norm(picture[mask].mean(0) - picture[window][beside].mean(0)))
    assert np.mean(np.array(distances) > 40) > 0.85


@pytest.mark.parametrize(("wrong", "told"), [({"images": 1}, "images"), ({"size": 20}, "size"), ({"seed": -1}, "seed")])
def test_arguments_out_of_range_are_named_and_nothing_is_written(tmp_path, wrong, told):
    with pytest.raises(DataError, match=told):
        make_shapes(tmp_path / "here", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match="not an empty folder"):
        make_shapes(tmp_path / "here", 2, 48)
    assert contents(tmp_path) == {"here/mine.txt": b"precious"}


def test_nothing_is_left_when_drawing_is_interrupted(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path / "here", 4, 48)
    assert list(tmp_path.iterdir()) == []


def test_default_folder_is_made_once(tmp_path, monkeypatch):
    asked = []

    def small(folder):
        asked.append(folder)
        make_shapes(folder, 4, 48)

    monkeypatch.setattr("van.data.shapes.make_shapes", small)
    assert shapes_folder(tmp_path) == shapes_folder(tmp_path) == tmp_path / "shapes"
    assert asked == [tmp_path / "shapes"]
    monkeypatch.chdir(tmp_path)
    assert shapes_folder().as_posix() == "data/shapes"
    assert len(contents(tmp_path / "data/shapes")) == len(contents(tmp_path / "shapes"))
