import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from van.data.labels import find_labels
from van.data.labels.convert import convert_labels
from van.data.shapes import make_shapes
from van.engine.checking import check_data, opened
from van.engine.registry import get_task, task_names
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
    assert (status, out.splitlines()[-1]) == (0, f"{data}, {task}, train and val: {count} images, no problems"), err


@pytest.mark.parametrize(
    ("task", "mask"),
    [("semantic", "semantic/val"), ("saliency", "saliency/masks/val"), ("panoptic", "annotations/panoptic_val")],
)
def test_broken_images_and_masks_are_listed_with_their_files(van, data, task, mask):
    (data / mask / "000014.png").write_bytes(b"no image")
    broken = data / ("saliency/images/train" if task == "saliency" else "train") / "000002.jpg"
    break_image(broken)
    status, out, _ = van("check-data", data, "--task", task)
    first, second, *_, last = out.splitlines()
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
    assert lines[-1].endswith("2 problems")


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
    assert status == 0
    assert out.endswith(f"{colours}, classification, train and val: 33 images, no problems\n")
    rng = np.random.default_rng(0)
    for name, count in (("cat", 3), ("dog", 1)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (9, 9, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{i}.png")
    break_image(tmp_path / "pets/cat/1.png")
    status, out, _ = van("check-data", "pets", "--workers", 1)
    assert status == 1
    few, broken, *_, last = out.splitlines()
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
    assert (status, out.splitlines()[-1]) == (0, f"{tmp_path}, semantic, all: 1 images, no problems"), err
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


def same_data(one, other, task):
    """Whether two data sets have the same number of images and labels."""
    sizes = []
    for folder in (one, other):
        splits = opened(task, get_task(task).check_options(data=str(folder)))[1]
        sizes.append(
            {name: sum(len(part.regions(i).labels) for i in range(len(part))) for name, part in splits.items()}
        )
    return sizes[0] == sizes[1]


@pytest.mark.parametrize("task", DENSE)
def test_clean_copy_of_good_data_is_the_same(van, data, task, tmp_path):
    status, out, err = van("check-data", data, "--task", task, "--fix", "copy")
    assert (status, "nothing had to be changed" in out) == (0, True), out + err
    assert (tmp_path / "copy/changes.csv").read_text().splitlines() == ["split,file,annotation,change,why"]
    status, out, err = van("check-data", "copy", "--task", task)
    assert status == 0, out + err
    assert same_data(data, tmp_path / "copy", task)
    status, _, err = van("check-data", data, "--task", task, "--fix", "copy")
    assert (status, "not an empty folder" in err) == (1, True)


def changes_in(folder):
    return list(csv.DictReader((folder / "changes.csv").read_text().splitlines()))


@pytest.mark.parametrize("to", ["coco", "yolo", "voc"])
def test_clean_copy_keeps_the_format(van, data, tmp_path, to):
    pytest.importorskip("faster_coco_eval")
    convert_labels(data, tmp_path / "labels", to, "boxes")
    broken = next((tmp_path / "labels").rglob("000002.jpg"))
    break_image(broken)
    before = broken.read_bytes()
    status, out, err = van("check-data", "labels", "--task", "detection", "--fix", "copy")
    assert (status, "clean copy: copy" in out) == (1, True), out + err
    assert find_labels("copy").format == find_labels("labels").format
    assert van("check-data", "copy", "--task", "detection")[0] == 0
    rows = changes_in(tmp_path / "copy")
    assert [(row["split"], row["change"]) for row in rows] == [("train", "left out")]
    assert rows[0]["file"].endswith("000002.jpg")
    assert broken.read_bytes() == before  # the data itself stays as it is


def test_clean_copy_of_boxes(van, data, tmp_path):
    path = data / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    image = next(image for image in content["images"] if image["width"] == 48)
    extra = {
        "category_id": 1,
        "image_id": image["id"],
        "iscrowd": 0,
        "segmentation": content["annotations"][0]["segmentation"],
    }
    boxes = {
        99901: [40, 4, 20, 9],
        99902: [3, 3, 0, 9],
        99903: [60, 4, 5, 5],
        99904: [40, 4, 20, 9],
        99905: [2, 2, 9, 9],
    }
    content["annotations"] += [{**extra, "id": number, "bbox": box, "area": 9} for number, box in boxes.items()]
    path.write_text(json.dumps(content))
    twin = next((data / "val").glob("*.jpg"))
    leak = next(image for image in content["images"] if image["id"] != extra["image_id"])
    Image.open(twin).resize((leak["width"], leak["height"])).save(data / "train" / leak["file_name"], quality=95)
    status, out, _ = van("check-data", data, "--task", "detection", "--fix", "copy")
    rows = changes_in(tmp_path / "copy")
    changes = {int(row["annotation"]): row["change"] for row in rows if row["annotation"]}
    assert changes == {99901: "clipped", 99902: "left out", 99903: "left out", 99904: "left out"} | {
        99904: changes[99904]
    }
    assert [row["why"] for row in rows if row["annotation"] == "99904"][-1].startswith("its box [40, 4, 8, 9] repeats")
    assert [row["why"] for row in rows if not row["annotation"]] == ["it looks the same as an image of val"]
    status, out, _ = van("check-data", "copy", "--task", "detection")
    assert (status, "look the same across splits" in out) == (0, False), out


def test_clean_copy_of_class_folders(van, colours, tmp_path):
    shutil.copytree(colours, tmp_path / "colours")
    break_image(tmp_path / "colours/train/red/0.png")
    shutil.copy(tmp_path / "colours/val/blue/0.png", tmp_path / "colours/train/blue/copy.png")
    status, out, _ = van("check-data", "colours", "--fix", "copy")
    assert (status, "(class folders), 23 train and 9 val images; 2 images left out" in out) == (1, True), out
    assert van("check-data", "copy")[0] == 0
    rows = changes_in(tmp_path / "copy")
    assert {row["file"]: row["why"][:24] for row in rows if "copy.png" in row["file"]} == {
        "colours/train/blue/copy.png": "it has the same content "
    }
