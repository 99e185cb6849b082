import json

import numpy as np
import pytest
from PIL import Image

from van.data.shapes import make_shapes
from van.engine.checking import check_data
from van.engine.registry import task_names
from van.errors import DataError

DENSE = [name for name in task_names() if name != "classification"]


@pytest.fixture
def data(tmp_path):
    make_shapes(tmp_path / "data", 15, 48)
    return tmp_path / "data"


def break_image(path):
    path.write_bytes(path.read_bytes()[:-300])


@pytest.mark.parametrize("task", DENSE)
def test_good_data(van, data, task):
    status, out, err = van("check-data", data, "--task", task)
    count = len(list((data / "saliency").rglob("*.png"))) if task == "saliency" else 15
    assert (status, out) == (0, f"{data}, {task}, train and val: {count} images, no problems\n"), err


@pytest.mark.parametrize(
    ("task", "mask"),
    [("semantic", "semantic/val"), ("saliency", "saliency/masks/val"), ("panoptic", "annotations/panoptic_val")],
)
def test_broken_images_and_masks_are_listed_with_their_files(van, data, task, mask):
    (data / mask / "000014.png").write_bytes(b"no image")
    broken = data / ("saliency/images/train" if task == "saliency" else "train") / "000002.jpg"
    break_image(broken)
    status, out, _ = van("check-data", data, "--task", task)
    first, second, last = out.splitlines()
    assert status == 1
    assert first.startswith(f"{broken}: ")
    assert second.startswith(f"{data / mask / '000014.png'}: ")
    assert last.endswith("2 problems")
    assert van("check-data", data, "--task", task, "--no-decode")[1].endswith("1 problem\n")


def test_wrong_annotations_are_listed_with_their_ids(van, data):
    path = data / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    break_image(data / "train/000002.jpg")
    status, out, _ = van("check-data", data, "--task", "detection")
    assert status == 1
    lines = out.splitlines()
    assert lines[0].startswith(f"{data}/train/000002.jpg: ")
    assert f"annotation {content['annotations'][0]['id']}: its box" in lines[1]
    assert lines[2].endswith("2 problems")


def test_keypoints_concern_pose_only(data):
    path = data / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"].pop()
    path.write_text(json.dumps(content))
    assert not check_data(str(data), "detection").problems
    (problem,) = check_data(str(data), "pose").problems
    assert "50 keypoint values, expected 51" in str(problem)


def test_instances_need_masks(data):
    path = data / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        del annotation["segmentation"]
    path.write_text(json.dumps(content))
    assert not check_data(str(data), "detection").problems
    assert len(check_data(str(data), "instances").problems) == len(content["annotations"])


def test_class_folders(van, colours, tmp_path):
    status, out, _ = van("check-data", colours)  # only one task can read them
    assert (status, out) == (0, f"{colours}, classification, train and val: 33 images, no problems\n")
    rng = np.random.default_rng(0)
    for name, count in (("cat", 3), ("dog", 1)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    break_image(tmp_path / "pets/cat/1.png")
    status, out, _ = van("check-data", "pets", "--workers", 1)
    assert status == 1
    few, broken, last = out.splitlines()
    assert few.startswith("dog: ")
    assert broken.startswith("pets/cat/1.png: ")
    assert last == "pets, classification, all: 4 images, 2 problems"


def test_one_split_is_enough(data):
    (data / "annotations/instances_train.json").unlink()
    assert "val: 3 images" in check_data(str(data), "detection").summary


def test_format_of_semantic_masks(van, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (4, 1)).save(tmp_path / "images/a.png")
    Image.fromarray(np.array([[0, 1, 2, 9]], np.uint8)).save(tmp_path / "masks/a.png")
    (tmp_path / "names.txt").write_text("a\nb\n")
    arguments = ["check-data", tmp_path, "--task", "semantic", "--format.classes", tmp_path / "names.txt"]
    status, out, _ = van(*arguments)
    assert status == 1
    assert "2, 9, expected 0 to 1" in out
    assert "reduce_zero_label" in out
    status, out, err = van(*arguments, "--format.reduce-zero-label", "--format.ignore-index", "9")
    assert (status, out) == (0, f"{tmp_path}, semantic, all: 1 images, no problems\n"), err
    (tmp_path / "options.yaml").write_text(
        f"format: {{classes: {tmp_path / 'names.txt'}, reduce_zero_label: true, ignore_index: 9}}\n"
    )
    assert not check_data(str(tmp_path), "semantic", config=tmp_path / "options.yaml").problems


def test_task_is_asked_for_where_several_can_read_the_data(data):
    with pytest.raises(DataError, match=r"detection, instances.*--task"):
        check_data(str(data))
    (data / "annotations").rename(data / "elsewhere")
    with pytest.raises(DataError, match=r"(?!.*detection).*semantic.*--task"):
        check_data(str(data))


@pytest.mark.parametrize("task", [*DENSE, None])
def test_no_such_data(van, tmp_path, task):
    (tmp_path / "empty").mkdir()
    status, _, err = van("check-data", "empty", *(["--task", task] if task else []))
    assert status == 1
    assert "empty" in err


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["nowhere", "--task", "detection"], 1, "nowhere does not exist"),
        (["data", "--task", "detection", "--workers", "-1"], 1, "workers is -1"),
        (["data", "--task", "detectoin"], 1, "Did you mean detection"),
        (["data", "--format.classes", "x.txt"], 2, "--task"),
        (["data", "--task", "saliency", "--format.ignore-index", "0"], 2, "--format.ignore-index"),
        (["data", "--task", "semantic", "--format.classes", "x.txt"], 1, "x.txt cannot be read"),
        (["data", "--task", "semantic", "--format.ignore-index", "-1"], 1, "ignore_index is -1"),
        ([], 2, "data"),
    ],
)
def test_wrong_requests(van, data, arguments, status, told):
    result, _, err = van("check-data", *arguments)
    assert (result, told in err) == (status, True), err
