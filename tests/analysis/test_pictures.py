import io

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from van.analysis.pictures import RED, confusion_picture, learning_curves, prediction_sheet

# long, not English, not in any font, a formula to matplotlib, several lines
NAMES = ["a very long name of a class that goes on and on", "größer", "категория", "猫", "🐈", "$x_$ coins", "a\nb"]


def render(figure):
    """The picture as an array (H, W, 3); warnings are errors, so that glyphs without a font show."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40)
    picture = Image.open(buffer).convert("RGB")
    assert picture.format is None
    assert np.asarray(picture).std() > 5  # there is something on it
    return np.asarray(picture)


def texts(axes):
    return [text.get_text() for text in axes.texts]


def epochs(count):
    return [
        {
            "epoch": i + 1,
            "train_loss": 2 / (i + 1),
            "val_loss": 2.2 / (i + 1),
            "val_top1": 1 - 0.5 / (i + 1),
            "val_top5": 1,
        }
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [1, 2, 10, 300])
def test_learning_curves(count):
    figure = learning_curves(epochs(count), "van_b0 on 猫 for $5")
    render(figure)
    loss, accuracy = figure.axes
    assert [len(line.get_xdata()) for line in loss.lines] == [count, count]
    assert accuracy.lines[0].get_ydata()[-1] == pytest.approx(100 - 50 / count)
    assert f"best: {100 - 50 / count:.1f} %, epoch {count}" in [t.get_text() for t in accuracy.get_legend().get_texts()]
    figure.canvas.draw()
    assert all(tick == round(tick) for tick in loss.get_xticks())


def test_best_epoch_is_the_first_of_the_best():
    rows = [{**row, "val_top1": value} for row, value in zip(epochs(4), (0.5, 0.9, 0.9, 0.7), strict=True)]
    star = learning_curves(rows, "").axes[1].lines[2]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 90)


@pytest.mark.parametrize("count", [2, 10, 40, 1000])
def test_confusion_picture(count):
    matrix = np.eye(count, dtype=int) * 3
    matrix[0, 1] = 1
    figure = confusion_picture(matrix, [f"c{i}" for i in range(count)], "a title")
    picture = render(figure)
    axes = figure.axes[0]
    assert axes.images[0].get_array()[0].tolist()[:2] == [75, 25]
    assert len(texts(axes)) == (count + 1 if count <= 30 else 0)
    assert max(picture.shape) < 1000


def test_confusion_picture_of_awkward_names():
    figure = confusion_picture(np.diag([1, 2, 3, 4, 5, 0, 0]), NAMES, "größer 猫 $a_$ b")
    render(figure)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[1] == "größer"
    assert len(labels[0]) == 18
    assert labels[0].startswith("a very")
    assert labels[0].endswith("and on")
    assert labels[6] == "a b"


def test_confusion_of_a_class_without_images():
    figure = confusion_picture(np.array([[0, 0], [1, 1]]), ["a", "b"], "")
    render(figure)
    assert figure.axes[0].images[0].get_array().tolist() == [[0, 0], [50, 50]]


@pytest.mark.parametrize("count", [1, 3, 8, 32])
def test_prediction_sheet(count):
    rng = np.random.default_rng(0)
    images = [
        rng.integers(0, 256, (8, 8) if i % 2 else (10, 30, 3), np.uint8)
        if i % 3
        else Image.fromarray(rng.integers(0, 256, (20, 5, 3), np.uint8))
        for i in range(count)
    ]
    truths = [NAMES[i % len(NAMES)] for i in range(count)]
    predictions = [truths[0], *["wrong"] * (count - 1)]
    figure = prediction_sheet(images, truths, predictions, [0.987] * count, "title")
    render(figure)
    shown = [axes for axes in figure.axes if axes.images]
    assert len(shown) == count
    assert "(99%)" in shown[0].get_title()
    assert "is " not in shown[0].get_title()
    assert to_rgb(shown[0].title.get_color()) == (0, 0, 0)
    for axes, truth in list(zip(shown, truths, strict=True))[1:]:
        assert axes.get_title().startswith("wrong (99%)\nis ")
        assert to_rgb(axes.title.get_color()) == to_rgb(RED)
        assert truth != "größer" or axes.get_title().endswith("is größer")
