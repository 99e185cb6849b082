import numpy as np
import pytest
from PIL import Image

from van.data.shapes import make_shapes


@pytest.fixture
def data(tmp_path):
    make_shapes(tmp_path / "data", 15, 48)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["semantic", "panoptic", "saliency"])
def test_good_data(van, data, kind):
    status, out, _ = van("check-data", data, "--kind", kind)
    count = len(list((data / "saliency").rglob("*.png"))) if kind == "saliency" else 15
    assert (status, out) == (0, f"{data}, {kind}, train and val: {count} images, no problems\n")


@pytest.mark.parametrize(
    ("kind", "mask"),
    [("semantic", "semantic/val"), ("saliency", "saliency/masks/val"), ("panoptic", "annotations/panoptic_val")],
)
def test_problems_are_listed_with_their_files(van, data, kind, mask):
    (data / mask / "000014.png").write_bytes(b"no image")
    broken = data / ("saliency/images/train" if kind == "saliency" else "train") / "000002.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    status, out, _ = van("check-data", data, "--kind", kind)
    first, second, last = out.splitlines()
    assert status == 1
    assert first.startswith(f"{broken}: cannot be decoded")
    assert second.startswith(f"{data / mask / '000014.png'}: is not an image")
    assert last.endswith("2 problems")
    assert "1 problem\n" in van("check-data", data, "--kind", kind, "--no-decode")[1]


def test_options_of_masks_of_classes(van, tmp_path):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (4, 1)).save(tmp_path / "images/a.png")
    Image.fromarray(np.array([[0, 1, 2, 9]], np.uint8)).save(tmp_path / "masks/a.png")
    (tmp_path / "names.txt").write_text("a\nb\n")
    arguments = ["check-data", tmp_path, "--kind", "semantic", "--classes", tmp_path / "names.txt"]
    status, out, _ = van(*arguments)
    assert status == 1
    assert "a.png: has 2 pixels with 2, 9, expected 0 to 1" in out
    assert "reduce_zero_label" in out
    status, out, _ = van(*arguments, "--reduce-zero-label", "true", "--ignore-index", "9")
    assert (status, out) == (0, f"{tmp_path}, semantic, all: 1 images, no problems\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "saliency", "--ignore-index", "0"], "are for --kind semantic"),
        (["--classes", "x.txt"], "are for --kind semantic"),
        (["--kind", "semantic", "--classes", "x.txt"], "x.txt cannot be read"),
        (["--kind", "semantic", "--ignore-index", "-1"], "ignore_index is -1"),
        (["--kind", "panoptic", "--workers", "-1"], "--workers is -1"),
    ],
)
def test_wrong_options(van, data, arguments, message):
    status, _, err = van("check-data", data, *arguments)
    assert status == 1
    assert message in err


@pytest.mark.parametrize("kind", ["semantic", "panoptic", "saliency"])
def test_no_such_data(van, tmp_path, kind):
    status, _, err = van("check-data", tmp_path, "--kind", kind)
    assert status == 1
    assert f"{tmp_path} has no" in err
