import pytest
from tests.data.test_labels import yolo

from van.data.labels import find_labels


def test_shapes_in_another_format(van, tmp_path):
    status, out, err = van("convert-data", tmp_path / "none", tmp_path / "new", "--to", "yolo")
    assert (status, "none does not exist" in err) == (1, True)
    yolo(tmp_path / "pets")
    status, out, err = van("convert-data", tmp_path / "pets", tmp_path / "new", "--to", "voc", "--task", "detection")
    assert status == 0, err
    assert out == f"{tmp_path / 'pets'} (YOLO) -> {tmp_path / 'new'} (Pascal VOC): 2 all images, 1 objects\n"
    assert find_labels(tmp_path / "new").format == "Pascal VOC"
    assert van("check-data", tmp_path / "new", "--task", "detection")[0] == 0
    status, _, err = van("convert-data", tmp_path / "pets", tmp_path / "new", "--to", "coco")
    assert (status, "not an empty folder" in err) == (1, True)


def test_bad_labels_stop_or_are_left_out(van, tmp_path):
    yolo(tmp_path / "pets")
    (tmp_path / "pets/labels/a.txt").write_text("1 0.5 0.4 0.5 0.4\n1 0.5 0.4 0 0\n")
    arguments = ("convert-data", tmp_path / "pets", tmp_path / "new", "--to", "coco")
    status, _, err = van(*arguments)
    assert (status, "line 2" in err, (tmp_path / "new").exists()) == (1, True, False)
    status, out, _ = van(*arguments, "--on-bad-image", "skip")
    assert (status, "1 objects" in out, "left out" in out) == (0, True, True)


@pytest.mark.parametrize(
    ("arguments", "told"), [(("--to", "voc", "--task", "pose"), "keypoints"), (("--to", "xml"), "coco"), ((), "to")]
)
def test_wrong_requests(van, tmp_path, arguments, told):
    yolo(tmp_path / "pets")
    status, _, err = van("convert-data", tmp_path / "pets", tmp_path / "new", *arguments)
    assert status in (1, 2)
    assert told in err
    assert not (tmp_path / "new").exists()
