import numpy as np
import pytest
from PIL import Image

from van.analysis.detection_pictures import COLOURS, detection_curves, detection_sheet, draw_detections
from van.inference.detection import Detections

NAMES = ["cat", "dog", "a name that goes on and on and never ends"]


def found(size=(100, 150), masks=False):
    boxes = np.array([[10, 20, 60, 80], [70, 10, 140, 90]], float)
    shapes = np.zeros((2, *size), bool)
    shapes[0, 30:70, 20:50] = True
    shapes[1, 20:80, 80:130] = True
    return Detections(size, boxes, np.array([0, 1]), np.array([0.9, 0.6]), shapes if masks else None)


def rgb(colour):
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def is_near(pixel, colour, tolerance=10):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, rgb(colour), strict=True))


def test_boxes_have_the_colours_of_their_classes():
    picture = draw_detections(Image.new("RGB", (150, 100), "white"), found(), NAMES)
    factor = picture.width / 150
    assert factor == int(factor) > 1  # enlarged: names can be read
    assert picture.size == (150 * factor, 100 * factor)
    for box, colour in zip(found().boxes * factor, COLOURS, strict=False):
        edge = [picture.getpixel((int(box[0]) + k, int(box[1] + box[3]) // 2)) for k in range(4)]
        assert any(is_near(pixel, colour) for pixel in edge)
        inside = picture.getpixel((int(box[0] + box[2]) // 2, int(box[1] + box[3]) // 2))
        assert inside == (255, 255, 255)


def test_masks_are_tinted_and_outlined():
    picture = draw_detections(Image.new("RGB", (150, 100), "white"), found(masks=True), NAMES)
    factor = picture.width // 150
    inside = picture.getpixel((35 * factor, 50 * factor))
    blue = rgb(COLOURS[0])
    assert all(abs(a - (0.6 * 255 + 0.4 * b)) < 4 for a, b in zip(inside, blue, strict=True))
    assert is_near(picture.getpixel((20 * factor, 50 * factor)), COLOURS[0])
    assert picture.getpixel((15 * factor, 50 * factor)) == (255, 255, 255)


def test_names_and_scores_are_written():
    blank = Image.new("RGB", (800, 600), "white")
    one = Detections((600, 800), np.array([[200.0, 200, 500, 400]]), np.array([0]), np.array([0.9]))
    pictures = [
        np.asarray(draw_detections(blank, one, names, scores)).astype(int)
        for names, scores in ((["cat"], True), (["dog"], True), (["cat"], False))
    ]
    for other in pictures[1:]:
        assert np.abs(pictures[0] - other).sum() > 0
        rows = np.nonzero(np.abs(pictures[0] - other).sum(axis=(1, 2)))[0]
        assert rows.max() < 200  # above the box
    assert np.array_equal(np.asarray(blank), np.full((600, 800, 3), 255))  # the image itself is left alone


@pytest.mark.parametrize("size", [(7, 5), (600, 800), (1500, 900)])
@pytest.mark.parametrize("count", [0, 40])
def test_any_size_and_number(size, count):
    rng = np.random.default_rng(0)
    corners = np.sort(rng.uniform(-10, 1600, (count, 2, 2)), axis=1).reshape(count, 4)
    masks = rng.random((count, *size)) > 0.5
    many = Detections(size, corners, rng.integers(0, 3, count), rng.random(count), masks)
    picture = draw_detections(Image.new("RGB", size[::-1], "gray"), many, NAMES)
    assert max(picture.size) >= 512
    assert picture.width * size[0] == picture.height * size[1]


def test_names_do_not_cover_each_other():
    blank = Image.new("RGB", (800, 600), "white")
    same = np.repeat([[200.0, 200, 600, 500]], 3, axis=0)
    many = Detections((600, 800), same, np.array([0, 1, 2]), np.array([0.9, 0.8, 0.7]))
    picture = np.asarray(draw_detections(blank, many, ["first", "second", "third"]))
    for colour in COLOURS[:3]:  # all three rectangles behind the names are seen
        assert (np.abs(picture.astype(int) - rgb(colour)).sum(axis=2) == 0).sum() > 500


def test_names_in_any_script():
    one = Detections((600, 800), np.array([[200.0, 200, 500, 400]]), np.array([0]), np.array([0.9]))
    assert draw_detections(Image.new("RGB", (800, 600)), one, ["猫 $x_1$"]).size == (800, 600)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_sheet(tmp_path, count):
    images = [Image.new("RGB", (150, 100), "white")] * count
    figure = detection_sheet(images, [found(masks=True)] * count, [found()] * count, NAMES, "run $1$")
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == ["truth: 2 objects", "found: 2"] * count
    figure.savefig(tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as picture:
        assert picture.width > 400


def rows(epochs, masks):
    names = ("val_AP", "val_AP50", "val_AP75", *(("val_mask_AP", "val_mask_AP50") if masks else ()))
    return [{"epoch": e + 1.0, "train_loss": 2 / (e + 1), **dict.fromkeys(names, 0.1 * e)} for e in range(epochs)]


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("epochs", [1, 5, 60])
def test_curves(tmp_path, epochs, masks):
    figure = detection_curves(rows(min(epochs, 9), masks) + rows(epochs, masks)[9:], "run")
    figure.savefig(tmp_path / "curves.png")
    labels = figure.axes[1].get_legend_handles_labels()[1]
    assert labels[:2] == ["box AP50", "box AP"]
    assert ("mask AP" in labels) == masks
    assert any(label.startswith("best: ") for label in labels)
