"""Pictures of a classifier's training and results. Arrays in, matplotlib figures out."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure

# Okabe and Ito's colours stay apart for colour-blind readers
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"

_NAMED_CLASSES = 30

# matplotlib's own font, and after it the first of the usual ones for East Asian names that is installed
_EAST_ASIAN = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC")
FONTS = ["DejaVu Sans", *[name for name in _EAST_ASIAN if name in font_manager.get_font_names()][:1]]
_CHARACTERS = {code for name in FONTS for code in font_manager.get_font(font_manager.findfont(name)).get_charmap()}


def plain_text(text: str, length: int = 1000) -> str:
    """Return a text that matplotlib draws as it is: no formulas, a box for what no font has, shortened inside."""
    plain = "".join(c if ord(c) in _CHARACTERS else "□" for c in " ".join(text.split()))
    if len(plain) > length:
        plain = plain[: length // 2] + "…" + plain[length // 2 + 1 - length :]
    return plain.replace("$", r"\$")


@rc_context({"font.family": FONTS})
def run_curves(
    rows: Sequence[dict[str, float]],
    title: str,
    losses: Mapping[str, str],
    loss_name: str,
    figures: Mapping[str, tuple[str, str, str]],
    figure_name: str,
    *,
    best: str,
    axis: str = "epoch",
    log_loss: bool = False,
    limits: tuple[float, float] | None = (0, 100),
) -> Figure:
    """Draw losses and figures of a training run over its epochs, side by side.

    Args:
        rows: One per epoch; losses and figures by their names, figures as shares of 1.
        title: Line above both panels.
        losses: Label of each loss by its name in the rows; the first is blue, the second orange.
        loss_name: What the losses are.
        figures: Label, colour and line style of each figure by its name in the rows.
        figure_name: What the figures are, in percent.
        best: Name of the figure whose largest value gets a star.
        axis: What the rows are counted by, a name in the rows.
        log_loss: Whether the losses' axis is logarithmic.
        limits: Of the figures' axis, in percent; None fits it to them.
    """
    places = [row[axis] for row in rows]
    marker = {"marker": "o" if len(rows) < 40 else None, "markersize": 3}
    picture = Figure(figsize=(10, 4), layout="constrained")
    picture.suptitle(plain_text(title, 110))
    left, right = picture.subplots(1, 2)
    for (name, label), colour in zip(losses.items(), (BLUE, ORANGE), strict=False):
        left.plot(places, [row[name] for row in rows], color=colour, label=label, **marker)
    left.set(xlabel=axis, ylabel=loss_name, yscale="log" if log_loss else "linear")
    for name, (label, colour, style) in figures.items():
        # COCO's -1 says that there was nothing to find
        values = [100 * max(0.0, row[name]) for row in rows]
        right.plot(places, values, color=colour, linestyle=style, label=label, **marker)
    top = max(rows, key=lambda row: row[best])
    label = f"best: {100 * top[best]:.1f} %, {axis} {top[axis]:g}"
    right.plot(top[axis], 100 * max(0.0, top[best]), "*", color=RED, markersize=13, label=label)
    right.set(xlabel=axis, ylabel=figure_name, ylim=limits)
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
        if len(places) == 1:
            axes.set_xticks(places)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
    return picture


def learning_curves(rows: Sequence[dict[str, float]], title: str) -> Figure:
    """Draw loss and accuracy over the epochs.

    Args:
        rows: One per epoch with epoch, train_loss, val_loss, val_top1 and val_top5 (shares of 1).
        title: Line above both panels.
    """
    return run_curves(
        rows, title, {"train_loss": "training", "val_loss": "validation"}, "cross-entropy loss",
        {"val_top1": ("top-1", BLUE, "-"), "val_top5": ("top-5", GREEN, "--")}, "validation accuracy (%)",
        best="val_top1", limits=None,
    )  # fmt: skip


@rc_context({"font.family": FONTS})
def confusion_picture(matrix: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix; with counts and names up to 30 classes.

    Args:
        matrix: Images by true class (rows) and predicted class (columns), shape (classes, classes).
        class_names: Name of each class.
        title: Line above the picture.
    """
    count = len(class_names)
    side = max(5.0, 0.45 * count + 2.5) if count <= _NAMED_CLASSES else 9.0
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    image = axes.imshow(100 * share, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true class (%)", shrink=0.8)
    number = "" if count <= _NAMED_CLASSES else " (number)"
    axes.set(xlabel=f"predicted class{number}", ylabel=f"true class{number}")
    figure.suptitle(plain_text(title, int(10 * side)))
    if count <= _NAMED_CLASSES:
        names = [plain_text(name, 18) for name in class_names]
        long = max(map(len, names)) > 3
        axes.set_xticks(range(count), names, rotation=60 if long else 0, ha="right" if long else "center")
        axes.set_yticks(range(count), names)
        for row, column in np.argwhere(matrix > 0):
            axes.text(
                column, row, str(matrix[row, column]), ha="center", va="center", fontsize=8,
                color="white" if share[row, column] > 0.5 else "black",
            )  # fmt: skip
    return figure


@rc_context({"font.family": FONTS})
def prediction_sheet(
    images: Sequence[Any], truths: Sequence[str], predictions: Sequence[str], confidences: Sequence[float], title: str
) -> Figure:
    """Draw images in a grid with what was predicted; errors stand out by colour and by a line with the truth.

    Args:
        images: PIL images or arrays that matplotlib shows.
        truths: True class of each.
        predictions: Predicted class of each.
        confidences: Probability of the predicted class of each, 0 to 1.
        title: Line above the grid.
    """
    columns = min(8, max(4, len(images)))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.55 * columns, 1.95 * rows + 0.5), layout="constrained")
    figure.suptitle(plain_text(title, 13 * columns))
    grid = np.atleast_1d(figure.subplots(rows, columns, squeeze=False)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, truth, predicted, confidence in zip(
        grid[: len(images)], images, truths, predictions, confidences, strict=True
    ):
        right = truth == predicted
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        line = f"{plain_text(predicted, 14)} ({confidence:.0%})"
        axes.set_title(
            line if right else f"{line}\nis {plain_text(truth, 16)}", fontsize=9 if right else 8,
            color="black" if right else RED, fontweight="normal" if right else "bold",
        )  # fmt: skip
    return figure
