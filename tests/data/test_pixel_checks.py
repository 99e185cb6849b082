"""Every kind of bad masks is found with its file, and refused before training."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from van.data.panoptic import encode_ids, find_panoptic, read_ids
from van.data.pixel_checks import check, find_problems, usable_split
from van.data.saliency import find_saliency
from van.data.semantic import find_semantic
from van.data.shapes import make_shapes
from van.errors import DataError


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes") / "shapes"
    make_shapes(folder, 15, 48)
    return folder


@pytest.fixture
def shapes(made, tmp_path):
    shutil.copytree(made, tmp_path / "shapes")
    return tmp_path / "shapes"


def found(split, **options):
    return [str(problem) for problem in find_problems(split, **options)]


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize("find", [find_semantic, find_saliency, find_panoptic])
@pytest.mark.parametrize("workers", [None, 2])
def test_nothing_is_wrong_with_the_shapes(made, find, workers):
    split = find(made, "train")
    assert found(split, workers=workers) == []
    assert usable_split(split, "error") == (split, [])


def spoil_semantic(shapes, case):
    mask, image = shapes / "semantic/train/000003.png", shapes / "train/000003.jpg"
    values = pixels(mask)
    if case == "size":
        Image.fromarray(values[:-2]).save(mask)
    elif case == "range":
        values[0, :3] = 7
        Image.fromarray(values).save(mask)
    elif case == "rgb":
        Image.fromarray(values).convert("RGB").save(mask)
    elif case == "jpeg":
        Image.fromarray(values).save(mask, "JPEG")
    elif case == "ignored":
        Image.fromarray(np.full_like(values, 255)).save(mask)
    elif case == "class":
        for path in (shapes / "semantic/train").iterdir():
            values = pixels(path)
            Image.fromarray(np.where(values == 6, 5, values).astype(np.uint8)).save(path)
    elif case == "broken mask":
        mask.write_bytes(mask.read_bytes()[:-60])
    elif case == "broken image":
        image.write_bytes(image.read_bytes()[:-300])
    elif case == "no mask":
        mask.unlink()
    elif case == "no image":
        image.unlink()


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("size", r"semantic/train/000003.png: has \d+ x \d+ pixels, its image .*train/000003.jpg has"),
        ("range", "semantic/train/000003.png: has 3 pixels with 7, expected 0 to 6 for 7 classes, or 255"),
        ("rgb", "semantic/train/000003.png: is an image of mode RGB, expected a mask with one channel"),
        ("jpeg", "semantic/train/000003.png: is a JPEG, which changes pixel values"),
        ("ignored", "semantic/train/000003.png: all of its pixels are marked as ignored"),
        ("class", "semantic/train: 1 of 7 classes occur in no mask: ground"),
        ("broken mask", "semantic/train/000003.png: cannot be decoded, the file is broken"),
        ("broken image", "train/000003.jpg: cannot be decoded, the file is broken"),
        ("no mask", "train/000003.jpg: it has no mask in .*semantic/train"),
        ("no image", "semantic/train/000003.png: it has no image in .*train"),
    ],
)
def test_bad_masks_of_classes(shapes, case, expected):
    spoil_semantic(shapes, case)
    split = find_semantic(shapes, "train")
    (problem,) = found(split)
    assert problem.startswith(str(shapes))
    with pytest.raises(DataError, match=expected):
        raise DataError(problem)
    decode = case == "broken image"
    with pytest.raises(DataError, match=rf"has 1 problem:\n{shapes}/{expected}.*\nCorrect the data"):
        usable_split(split, "error", decode=decode)
    kept, (note,) = usable_split(split, "skip", decode=decode)
    assert "because of 1 problem:" in note
    assert len(kept) == (12 if case == "class" else 11)
    assert case == "class" or "000003" not in {path.stem for path in (*kept.images, *kept.masks)}
    assert found(kept, empty_classes=False) == []


def test_headers_alone_tell_sizes(shapes):
    image = shapes / "train/000003.jpg"
    image.write_bytes(image.read_bytes()[:-300])
    assert found(find_semantic(shapes, "train"), decode=False) == []
    Image.new("RGB", (9, 9)).save(image)
    assert "its image" in found(find_semantic(shapes, "train"), decode=False)[0]


def test_a_split_for_validation_need_not_show_every_class(shapes):
    split = find_semantic(shapes, "val").without([0])
    for path in split.masks:
        Image.fromarray(np.where(pixels(path) == 5, 6, pixels(path)).astype(np.uint8)).save(path)
    assert "sky" in found(split)[-1]
    assert found(split, empty_classes=False) == []
    assert check({"val": split}) == []
    assert len(check({"train": split})) == 1


def test_nothing_left_is_refused_even_when_skipping(shapes):
    split = find_semantic(shapes, "val")
    for path in split.masks:
        Image.new("RGB", (4, 4)).save(path)
    with pytest.raises(DataError, match=r"semantic/val has nothing left without 3 of 3 images"):
        usable_split(split, "skip")


def test_bad_salient_masks(shapes):
    masks = sorted((shapes / "saliency/masks/train").iterdir())
    Image.fromarray(pixels(masks[0]) // 255).save(masks[0])
    Image.fromarray(pixels(masks[1])).convert("RGB").save(masks[1])
    Image.fromarray(pixels(masks[2])[:, :-1]).save(masks[2])
    masks[3].unlink()
    split = find_saliency(shapes, "train")
    unpaired, zero_one, colours, size = found(split)
    assert "000004.jpg: it has no mask in" in unpaired
    assert "000001.png: its brightest pixel has 1, expected 0 and 255" in zero_one
    assert (
        "000002.png: is an image of mode RGB, expected a mask with one channel that holds brightness from 0 to 255"
        in colours
    )
    assert "000003.png: has" in size
    with pytest.raises(DataError, match="has 4 problems"):
        usable_split(split, "error")
    with pytest.raises(DataError, match=r"(?s)3 of 10 images cannot be used, more than the 10%.*000001\.png"):
        usable_split(split, "skip")
    for path in split.masks:
        Image.fromarray(0 * pixels(path)).save(path)
    assert any("no mask has a salient pixel" in problem for problem in found(split))


def test_bad_segments(shapes):
    file = shapes / "annotations/panoptic_train.json"
    content = json.loads(file.read_text())
    folder = file.with_suffix("")
    by_image = {record["image_id"]: record for record in content["annotations"]}
    lost = by_image[1]["segments_info"].pop()["id"]
    by_image[2]["segments_info"].append({"id": 77, "category_id": 1, "area": 5})
    by_image[3]["segments_info"][0]["area"] += 1
    by_image[4]["segments_info"][0]["category_id"] = 4
    by_image[5]["segments_info"].append(dict(by_image[5]["segments_info"][0]))
    (folder / "000006.png").unlink()
    Image.fromarray(pixels(folder / "000007.png")[1:]).save(folder / "000007.png")
    Image.fromarray(pixels(folder / "000008.png")[..., 0]).save(folder / "000008.png")
    Image.fromarray(encode_ids(0 * read_ids(folder / "000009.png"))).save(folder / "000009.png")
    by_image[9]["segments_info"] = []
    by_image[10]["segments_info"] = None
    content["annotations"].remove(by_image[11])
    content["annotations"].append({**by_image[1], "image_id": 99})
    content["images"][11]["width"] += 1
    file.write_text(json.dumps(content))
    split = find_panoptic(shapes, "train")
    problems = found(split)
    expected = [
        f"{file}: it has segments for image 99, which is not among its images",
        f"train/000011.jpg: {file} has no segments for it (image 11)",
        f"panoptic_train/000011.png: it belongs to no image of {file}",
        f"pixels belong to segment {lost}, which the JSON does not list",
        "000002.png: segment 77 of the JSON has no pixel",
        "000003.png: segment ",
        f"{file}, image 4: segment ",
        "000005.png: the JSON lists segment ",
        "000006.png: does not exist",
        "000007.png: has ",
        "000008.png: is a PNG of mode L, expected a PNG of mode RGB",
        "000009.png: none of its pixels belongs to a segment",
        f"{file}, image 10: 'segments_info' is not a list of objects",
        "train/000012.jpg: the file has ",
    ]
    assert len(problems) == len(expected), problems
    for problem, part_of_it in zip(problems, expected, strict=True):
        assert part_of_it in problem
    with pytest.raises(DataError, match=r"panoptic_train\.json has 14 problems"):
        usable_split(split, "error")
    with pytest.raises(DataError, match="nothing left"):
        usable_split(split, "skip")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda record: record["segments_info"][0].update(id=[1]), "the JSON lists a segment [1], expected a number"),
        (lambda record: record["segments_info"][0].update(id="1"), "the JSON lists a segment '1', expected a number"),
        (lambda record: record["segments_info"][0].update(category_id=[1]), "has the unknown category [1]"),
        (lambda record: record["segments_info"][0].update(area="many"), "its area in the JSON is many"),
        (lambda record: record.update(image_id=[3]), "it has segments for image [3], which is not among its images"),
        (lambda record: record.update(image_id="3"), "it has segments for image '3', which is not among its images"),
    ],
)
def test_a_json_of_odd_values_is_no_crash(shapes, change, expected):
    file = shapes / "annotations/panoptic_train.json"
    content = json.loads(file.read_text())
    change(next(record for record in content["annotations"] if record["image_id"] == 3))
    file.write_text(json.dumps(content))
    split = find_panoptic(shapes, "train")
    assert any(expected in problem for problem in found(split))
    kept, _ = usable_split(split, "skip", empty_classes=False)
    assert len(kept) == 11
    assert 3 not in {image["id"] for image in kept.images}


def test_names_of_png_that_are_no_text_are_those_of_the_images(shapes):
    file = shapes / "annotations/panoptic_train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["file_name"] = 3
    file.write_text(json.dumps(content))
    assert found(find_panoptic(shapes, "train")) == []


def test_changed_ids_are_one_problem_and_not_thousands(shapes):
    png = shapes / "annotations/panoptic_train/000003.png"
    noise = np.random.default_rng(0).integers(1, 255, (*pixels(png).shape[:2], 3), np.uint8)
    Image.fromarray(noise).save(png)
    (problem,) = [problem for problem in found(find_panoptic(shapes, "train")) if "does not list" in problem]
    assert "segments that the JSON does not list: " in problem


def test_png_of_another_format_is_refused(shapes):
    png = shapes / "annotations/panoptic_train/000003.png"
    Image.fromarray(pixels(png)).save(png, "WEBP")
    (problem,) = found(find_panoptic(shapes, "train"), empty_classes=False)
    assert "000003.png: is a WEBP of mode RGB, expected a PNG of mode RGB" in problem


def test_categories_that_come_twice(shapes):
    file = shapes / "annotations/panoptic_train.json"
    content = json.loads(file.read_text())
    content["categories"].append(content["categories"][0])
    file.write_text(json.dumps(content))
    number, name = content["categories"][0]["id"], content["categories"][0]["name"]
    expected = [f"{file}: 2 categories have the id {number}", f"{file}: 2 categories are called {name!r}"]
    assert found(find_panoptic(shapes, "train"), empty_classes=False) == expected


def test_images_with_bad_segments_can_be_skipped(shapes):
    (shapes / "annotations/panoptic_train/000006.png").unlink()
    kept, (note,) = usable_split(find_panoptic(shapes, "train"), "skip", empty_classes=False)
    assert [image["id"] for image in kept.images] == [1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12]
    assert "left out 1 of 12 images" in note
    assert found(kept, empty_classes=False) == []


def test_a_category_without_segments(shapes):
    file = shapes / "annotations/panoptic_train.json"
    content = json.loads(file.read_text())
    content["categories"].append({"id": 200, "name": "moon", "isthing": 1})
    file.write_text(json.dumps(content))
    assert found(find_panoptic(shapes, "train")) == [f"{file}: 1 of 8 classes occur in no mask: moon"]


def test_a_class_stored_as_255_is_suspected(tmp_path):
    for name in "ab":
        for kind in ("images", "masks"):
            (tmp_path / kind / "train").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "images/train" / f"{name}.png")
        Image.fromarray(np.repeat([[0, 255]], 32, 0).reshape(8, 8).astype(np.uint8)).save(
            tmp_path / "masks/train" / f"{name}.png"
        )
    (tmp_path / "classes.txt").write_text("background\nobject\n")
    (problem,) = found(find_semantic(tmp_path, "train"))
    assert "occur in no mask: object" in problem
    assert "255 means ignored and marks 50.0%" in problem
