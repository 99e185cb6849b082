import io
import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from van.engine.metric import Metric
from van.engine.plots import (
    PANEL,
    RED,
    choose_predictions,
    confusion,
    curves,
    plain_text,
    prediction_sheet,
    sheet,
    write_figure,
)

# long, not English, not in any font, a formula to matplotlib, several lines
NAMES = ["a very long name of a class that goes on and on", "größer", "категория", "猫", "🐈", "$x_$ coins", "a\nb"]
TOP1, TOP5 = Metric("top1", "top-1"), Metric("top5", "top-5")
ERROR = Metric("error", "mean error", "", higher_is_better=False)


def render(figure, dpi=None):
    """The figure as an array (H, W, 3); warnings are errors, so that glyphs without a font show."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=dpi or "figure")
    array = np.asarray(Image.open(buffer).convert("RGB"))
    assert array.std() > 5  # there is something on it
    return array


def texts(axes):
    return [text.get_text() for text in axes.texts]


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def epochs(top1, **others):
    return [
        {"epoch": i + 1, "train_loss": 2 / (i + 1), "val_loss": 2.2 / (i + 1), "val_top1": value, "val_top5": 1.0}
        | {f"val_{key}": values[i] for key, values in others.items()}
        for i, value in enumerate(top1)
    ]


class TestCurves:
    @pytest.mark.parametrize("count", [1, 2, 10, 300])
    def test_losses_and_metrics_over_the_epochs(self, count):
        figure = curves(epochs([1 - 0.5 / (i + 1) for i in range(count)]), "van_b0 on 猫 for $5", [TOP1, TOP5])
        render(figure, 40)
        loss, accuracy = figure.axes
        assert [len(line.get_xdata()) for line in loss.lines] == [count, count]
        assert accuracy.lines[0].get_ydata()[-1] == pytest.approx(100 - 50 / count)
        assert legend_of(accuracy)[:2] == ["top-1", "top-5"]
        assert all(tick == round(tick) for tick in loss.get_xticks())
        assert "top-1, top-5 (%)" in accuracy.get_ylabel()
        assert [axes.get_xlabel() for axes in figure.axes] == ["epoch", "epoch"]

    def test_the_star_takes_the_later_of_equal_epochs(self):
        panel = curves(epochs([0.5, 0.9, 0.9, 0.7]), "", [TOP1]).axes[1]
        star = panel.lines[-1]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (3, 90)
        assert legend_of(panel)[-1] == "best top-1: 90.00 %, epoch 3"

    def test_lower_may_be_better_and_units_have_their_own_panels(self):
        rows = epochs([0.1, 0.2, 0.3], error=[12.5, 3.25, 7.0])
        figure = curves(rows, "", [ERROR, TOP1])
        assert len(figure.axes) == 3
        star = figure.axes[1].lines[-1]
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (2, 3.25)
        assert "lower is better" in figure.axes[1].get_ylabel()
        assert "%" not in figure.axes[1].get_ylabel()
        assert legend_of(figure.axes[2]) == ["top-1"]  # the star is for the first metric only

    def test_no_star_for_a_metric_that_never_left_zero(self):
        panel = curves(epochs([0.0, 0.0]), "", [TOP1]).axes[1]
        assert legend_of(panel) == ["top-1"]
        assert panel.get_ylim()[0] == 0

    def test_undefined_values_are_not_drawn(self):
        rows = epochs([-1, 0.5, None], AP=[-1, -1, -1])
        panel = curves(rows, "", [TOP1, Metric("AP", "mask AP")]).axes[1]
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), [np.nan, 50, np.nan])
        assert "mask AP" not in legend_of(panel)

    def test_axes_fit_the_data(self):
        panel = curves(epochs([0.02, 0.03]), "", [TOP1]).axes[1]
        assert panel.get_ylim()[1] < 5

    def test_the_legend_hides_no_point(self):
        figure = curves(epochs([0.1, 0.9, 0.5]), "", [TOP1, TOP5])
        figure.draw_without_rendering()
        for axes in figure.axes:
            assert axes.get_legend().get_window_extent().y0 >= axes.get_window_extent().y1

    def test_losses_that_are_absent_or_fall_far(self):
        rows = [{"step": 100 * (i + 1), "train_loss": 10.0**-i, "val_top1": 0.1} for i in range(4)]
        loss = curves(rows, "", [TOP1], axis="step", loss_label="sum of the losses").axes[0]
        assert (loss.get_xlabel(), loss.get_yscale()) == ("step", "log")
        assert "sum of the losses" in loss.get_ylabel()
        assert legend_of(loss) == ["training"]

    def test_what_only_the_training_loss_contains(self):
        loss = curves(epochs([0.1]), "", [TOP1], loss_note="label smoothing").axes[0]
        assert ["label smoothing" in label for label in legend_of(loss)] == [True, False]


class TestConfusion:
    @pytest.mark.parametrize("count", [2, 10, 40, 1000])
    def test_counts_and_percentages(self, count):
        matrix = np.eye(count, dtype=int) * 3
        matrix[0, 1] = 1
        figure = confusion(matrix, [f"c{i}" for i in range(count)], "a title")
        picture = render(figure, 40)
        axes = figure.axes[0]
        assert axes.images[0].get_array()[0].tolist()[:2] == [75, 25]
        assert len(texts(axes)) == (count + 1 if count <= 30 else 0)
        assert count > 30 or "1\n25 %" in texts(axes)
        assert max(picture.shape) < 1000

    def test_awkward_names(self):
        figure = confusion(np.diag([1, 2, 3, 4, 5, 0, 0]), NAMES, "größer 猫 $a_$ b")
        render(figure, 40)
        labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
        assert labels[1] == "größer (2)"
        assert labels[0].startswith("a very")
        assert labels[0].endswith("and on (1)")
        assert labels[6] == "a b (0)"

    def test_a_class_without_images_and_a_rare_confusion(self):
        figure = confusion(np.array([[0, 0], [1, 999]]), ["a", "b"], "")
        assert figure.axes[0].images[0].get_array().tolist() == [[0, 0], [0.1, 99.9]]
        assert texts(figure.axes[0])[0] == "1\n<1 %"


def image(i):
    shape = ((8, 8), (10, 30, 3), (20, 5, 3))[i % 3]
    return Image.fromarray(np.random.default_rng(i).integers(0, 256, shape, np.uint8))


class TestPredictions:
    def test_errors_come_from_all_classes_the_most_confident_first(self):
        labels = np.repeat([0, 1, 2], 20)
        predicted = labels.copy()
        predicted[:15], predicted[20:22], predicted[40] = 1, 2, 0
        confidences = np.linspace(0.99, 0.3, 60)
        errors, others = choose_predictions(labels, predicted, confidences, 12)
        assert errors.tolist() == [0, 1, 2, 20, 21, 40]
        assert labels[others].tolist() == [0, 0, 1, 1, 2, 2]

    @pytest.mark.parametrize(
        ("wrong", "count", "expected"), [(31, 32, (16, 16)), (3, 32, (3, 29)), (0, 8, (0, 8)), (58, 32, (30, 2))]
    )
    def test_as_many_as_there_are(self, wrong, count, expected):
        labels, predicted = np.zeros(60, int), np.zeros(60, int)
        predicted[:wrong] = 1
        found = choose_predictions(labels, predicted, np.full(60, 0.5), count)
        assert tuple(map(len, found)) == expected

    def test_the_title_counts_the_errors(self):
        labels = np.arange(60) % 7
        predicted = labels.copy()
        predicted[:31] = (labels[:31] + 1) % 7
        loaded = []
        figure = prediction_sheet(
            lambda i: loaded.append(i) or image(i), labels, predicted, np.full(60, 0.987), NAMES, "a run"
        )
        render(figure)
        assert "16 of 31 errors" in figure.texts[0].get_text()
        assert len(loaded) == len(figure.axes) == 32
        captions = figure.texts[1:]
        assert ["true: " in text.get_text() for text in captions] == [True] * 16 + [False] * 16
        assert all("99 %" in text.get_text() for text in captions)
        assert {to_rgb(text.get_color()) for text in captions[:16]} == {to_rgb(RED)}
        assert {to_rgb(text.get_color()) for text in captions[16:]} == {(0, 0, 0)}

    @pytest.mark.parametrize(("wrong", "word"), [(0, "no errors"), (1, "1 of 1 error"), (3, "all 3 errors")])
    def test_few_images(self, wrong, word):
        labels, predicted = np.zeros(3, int), np.zeros(3, int)
        predicted[:wrong] = 1
        figure = prediction_sheet(image, labels, predicted, np.full(3, 0.5), NAMES, "a run")
        render(figure)
        assert word in figure.texts[0].get_text()


def boxes_of(figure):
    """Places of the images in pixels: left, bottom, right, top."""
    size = figure.get_size_inches() * figure.dpi
    return [np.array(axes.get_position().extents) * [*size, *size] for axes in figure.axes]


class TestSheet:
    def test_images_keep_their_shape_and_size(self):
        groups = [[Image.new("RGB", size, "red")] * 3 for size in ((384, 288), (288, 384), (40, 40), (384, 96))]
        figure = sheet(groups, ("image", "truth", "prediction"), "a $title", captions=["one"] * 4)
        picture = render(figure)
        shapes = [(round(x2 - x1), round(y2 - y1)) for x1, y1, x2, y2 in boxes_of(figure)]
        assert sorted(set(shapes)) == [(288, 384), (384, 96), (384, 288), (384, 384)]
        assert max(max(shape) for shape in shapes) == PANEL
        reds = int((picture == (255, 0, 0)).all(axis=2).sum())
        assert reds == pytest.approx(sum(w * h for w, h in shapes), rel=0.02)
        assert [axes.get_title() for axes in figure.axes[:3]] == ["image", "truth", "prediction"]

    @pytest.mark.parametrize("count", [1, 2, 5, 12])
    def test_images_of_a_group_are_closer_than_groups_and_gaps_are_small(self, count):
        figure = sheet([[Image.new("RGB", (128, 96))] * 2] * count, ("truth", "prediction"), "title")
        places = boxes_of(figure)
        inner = places[1][0] - places[0][2]
        assert 0 < inner < 10
        if count > 1 and places[2][1] == places[0][1]:
            assert places[2][0] - places[1][2] > 2 * inner
        rows = sorted({round(place[1]) for place in places})
        assert all(b - a < 288 + 60 for a, b in itertools.pairwise(rows))
        covered = sum((x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in places)
        assert covered > 0.6 * np.prod(figure.get_size_inches() * figure.dpi) or count in (1, 5)

    def test_narrow_images_leave_room_for_headings(self):
        figure = sheet([[Image.new("RGB", (10, 384))] * 2], ("truth", "prediction"), "title")
        figure.draw_without_rendering()
        one, other = (axes.title.get_window_extent() for axes in figure.axes)
        assert one.x1 < other.x0

    def test_long_legends_are_cut_and_unlabelled_pixels_hatched(self):
        colours = [(f"class {i}", (i, 0, 0)) for i in range(39)]
        picture = Image.new("RGB", (20, 20), "red")
        names = [text.get_text() for text in sheet([[picture]], ["image"], "", colours).legends[0].get_texts()]
        assert (names[0], names[-1]) == ("class 0", "and 15 more")
        short = sheet([[picture]], ["image"], "", [*colours[:2], ("ignored", None)])
        assert [bool(patch.get_hatch()) for patch in short.legends[0].get_patches()] == [False, False, True]

    def test_the_legend_lies_below_the_images(self):
        figure = sheet([[Image.new("RGB", (20, 20))]], ["image"], "", [(f"class {i}", (i, 0, 0)) for i in range(20)])
        figure.draw_without_rendering()
        assert figure.legends[0].get_window_extent().y1 <= boxes_of(figure)[0][1]


def test_texts_are_no_formulas():
    assert plain_text("$x_$") == r"\$x_\$"


def test_the_same_figure_gives_the_same_files(tmp_path):
    def figure():
        return curves(epochs([0.1, 0.2]), "title", [TOP1])

    assert write_figure(figure(), tmp_path / "one", 40) == ["one.png", "one.svg"]
    first = (tmp_path / "one.svg").read_bytes()
    write_figure(figure(), tmp_path / "one", 40)
    assert (tmp_path / "one.svg").read_bytes() == first
