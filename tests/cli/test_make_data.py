import pytest
from PIL import Image


def test_shapes(van, tmp_path):
    status, out, err = van("make-data", "shapes", "here", "--images", "10", "--size", "64", "--seed", "5")
    assert status == 0, err
    assert "here: 8 images for training, 2 for validation, 64 pixels, seed 5" in out
    assert len(list((tmp_path / "here" / "train").iterdir())) == 8
    with Image.open(tmp_path / "here" / "train" / "000001.jpg") as image:
        assert max(image.size) == 64


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--images", "1"), "images is 1, expected 2 or more"),
        (("--size", "8"), "size is 8"),
        ((), "not an empty folder"),
    ],
)
def test_wrong_requests(van, tmp_path, arguments, told):
    if not arguments:
        (tmp_path / "here").write_text("")
    status, _, err = van("make-data", "shapes", "here", *arguments)
    assert status == 1
    assert told in err


def test_unknown_kind(van):
    status, _, err = van("make-data", "digits", "here")
    assert status == 2
    assert "shapes" in err
