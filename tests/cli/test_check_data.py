import json

import pytest

from van.data.shapes import make_shapes


@pytest.fixture
def data(tmp_path):
    make_shapes(tmp_path / "data", 10, 48)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["instances", "person_keypoints"])
def test_good_data(van, data, kind):
    status, out, _ = van("check-data", data, "--kind", kind)
    assert status == 0
    (line,) = out.splitlines()
    assert f"{kind}_train.json and " in line
    assert "10 images, " in line
    assert line.endswith("no problems")


def test_problems_of_both_parts_are_listed_with_file_and_id(van, data):
    path = data / "annotations/instances_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    broken = data / "train/000002.jpg"
    broken.write_bytes(broken.read_bytes()[:-400])
    status, out, _ = van("check-data", data)
    assert status == 1
    lines = out.splitlines()
    assert lines[0].startswith(f"{data}/train/000002.jpg, image 2: ")
    number = content["annotations"][0]["id"]
    assert f"annotation {number}: its box" in lines[1]
    assert lines[2].endswith("2 problems")
    assert "1 problem\n" in van("check-data", data, "--no-decode")[1]


def test_keypoints(van, data):
    path = data / "annotations/person_keypoints_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["keypoints"].pop()
    path.write_text(json.dumps(content))
    assert van("check-data", data)[0] == 0
    status, out, _ = van("check-data", data, "--kind", "person_keypoints")
    assert status == 1
    assert "50 keypoint values, expected 51" in out


def test_one_part_is_enough(van, data):
    (data / "annotations/instances_train.json").unlink()
    status, out, _ = van("check-data", data)
    assert status == 0
    assert "2 images" in out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("nowhere",), "nowhere is not a folder"),
        ((".",), "Looked for annotations"),
        (("data", "--workers", "-1"), "-1"),
    ],
)
def test_wrong_requests(van, data, arguments, told):
    status, _, err = van("check-data", *arguments)
    assert status == 1
    assert told in err
