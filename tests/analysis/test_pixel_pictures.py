"""Pictures of labelled pixels."""

import itertools

import numpy as np
import pytest
from PIL import Image

from van.analysis.pixel_pictures import (
    class_map,
    class_shares,
    draw_labels,
    draw_saliency,
    draw_segments,
    palette,
    pixel_curves,
    pixel_sheet,
    saliency_image,
)
from van.errors import DataError

NAMES = ["sky", "ground", "person"]


def test_colours_differ_and_do_not_depend_on_how_many_there_are():
    colours = palette(150).astype(int)
    assert np.array_equal(palette(7), colours[:7])
    distances = [np.abs(a - b).max() for a, b in itertools.combinations(colours, 2)]
    assert min(distances) > 0
    assert min(np.abs(a - b).sum() for a, b in itertools.combinations(colours[:21], 2)) > 30


def test_class_map_keeps_the_labels(tmp_path):
    labels = np.array([[0, 1], [2, 255]], np.uint8)
    class_map(labels, 3).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert np.array_equal(np.asarray(image), labels)
        assert np.array_equal(np.asarray(image.convert("RGB"))[0, 1], palette(3)[1])


def halves(height=40, width=600):
    labels = np.zeros((height, width), np.uint8)
    labels[:, width // 2 :] = 1
    return labels


def test_pixels_have_the_colour_of_their_class():
    image = Image.new("RGB", (600, 40), (200, 200, 200))
    labels = halves()
    labels[:10] = 255
    picture = np.asarray(draw_labels(image, labels, NAMES, legend=False)).astype(int)
    assert picture.shape == (40, 600, 3)
    assert (picture[:9] == 200).all()
    for part, label in ((picture[12:, :290], 0), (picture[12:, 310:], 1)):
        assert np.abs(part - (0.4 * 200 + 0.6 * palette(3)[label].astype(int))).max() <= 1
    assert (picture[20, 300] == 255).all()


def test_small_images_are_enlarged_and_the_legend_names_what_is_there():
    image = Image.new("RGB", (60, 40), "gray")
    plain = draw_labels(image, halves(40, 60), NAMES, legend=False)
    assert plain.size == (540, 360)
    with_legend = draw_labels(image, halves(40, 60), NAMES)
    assert with_legend.height == 360
    assert with_legend.width > 640
    beside = np.asarray(with_legend)[:, 540:].reshape(-1, 3)
    present = {tuple(colour) for colour in np.unique(beside, axis=0)}
    assert [tuple(colour) in present for colour in palette(3)] == [True, True, False]


def test_a_low_picture_has_room_for_its_legend():
    names = [f"class {i}" for i in range(12)]
    labels = np.arange(600, dtype=np.uint8)[None].repeat(2, 0) % 12
    for count in (4, 8, 12):
        picture = draw_labels(Image.new("RGB", (600, 2), "gray"), labels % count, names[:count])
        beside = np.asarray(picture)[:, 600:].reshape(-1, 3)
        present = {tuple(colour) for colour in np.unique(beside, axis=0)}
        listed = [tuple(colour) in present for colour in palette(count)]
        assert listed == [True] * count if count <= 8 else sum(listed) == 7
        below = np.asarray(picture)[-2:, 600:]
        assert (below == 255).all()  # nothing is cut off


def test_shares():
    assert class_shares(np.array([[0, 0, 0, 2], [255, 2, 2, 2]], np.uint8), NAMES) == {"person": 0.5, "sky": 0.375}


def test_things_of_one_class_have_shades_and_names():
    image = Image.new("RGB", (600, 200), "gray")
    numbers = np.zeros((200, 600), np.int32)
    numbers[:, :200], numbers[:, 400:] = 1, 300
    segments = [{"id": 1, "label": 2, "isthing": True, "score": 0.9}, {"id": 300, "label": 2, "isthing": True}]
    picture = np.asarray(draw_segments(image, numbers, segments, NAMES, legend=False))
    assert (picture[5, 300] == 128).all()
    assert not np.array_equal(picture[5, 5], picture[5, 595])
    for x in (100, 500):  # the name stands in the middle
        assert (picture[90:110, x - 60 : x + 60].reshape(-1, 3) == 0).all(1).any()
    assert draw_segments(image, numbers, segments, NAMES).width > 600
    assert np.array_equal(np.asarray(draw_segments(image, np.zeros_like(numbers), [], NAMES, legend=False)), image)


def test_saliency():
    saliency = np.linspace(0, 1, 600)[None].repeat(20, 0)
    grey = np.asarray(saliency_image(saliency))
    assert (grey.min(), grey.max()) == (0, 255)
    picture = np.asarray(draw_saliency(Image.new("RGB", (600, 20), (200, 100, 0)), saliency)).astype(int)
    assert picture.shape[1] > 3 * 600
    cut = picture[:, -600:]
    assert (cut[0, 0] == (40, 20, 0)).all()
    assert (cut[0, -1] == (200, 100, 0)).all()


@pytest.mark.parametrize(
    "draw",
    [
        lambda image, array: draw_labels(image, array, NAMES),
        lambda image, array: draw_segments(image, array, [], NAMES),
        draw_saliency,
    ],
)
def test_sizes_that_differ(draw):
    with pytest.raises(DataError, match="pixels, its"):
        draw(Image.new("RGB", (4, 5)), np.zeros((4, 5), np.uint8))


def test_sheet_holds_every_picture():
    picture = Image.new("RGB", (20, 20), "red")
    names = [(f"class {i}", colour) for i, colour in enumerate(palette(40).tolist())]
    figure = pixel_sheet([[picture] * 3] * 3, ("image", "truth", "found"), "a $title", names)
    assert sum(len(axes.get_images()) for axes in figure.axes) == 9
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "class 0"
    assert texts[-1] == "and 16 more"


@pytest.mark.parametrize("by_steps", [False, True])
def test_curves(by_steps):
    rows = [{"epoch": i, "iteration": 100 * i, "train_loss": 1 / i, "val_PQ": i / 10, "val_SQ": 0.5} for i in (1, 2)]
    figure = pixel_curves(rows, {"val_PQ": "PQ", "val_SQ": "SQ"}, "title", by_steps)
    loss, quality = figure.axes
    assert list(loss.lines[0].get_xdata()) == ([100, 200] if by_steps else [1, 2])
    assert list(quality.lines[0].get_ydata()) == [10, 20]
    assert "best: 20.0 %" in quality.lines[-1].get_label()
    assert loss.get_xlabel() == ("iteration" if by_steps else "epoch")
