"""Plots of training runs and results: curves, confusion matrices, sheets. Arrays in, matplotlib figures out."""

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from PIL import Image

from van.engine.drawing import LegendEntry, font_families, printable, shorten
from van.engine.metric import Metric

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, ORANGE, GREEN, RED, SKY, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7"

FONTS = list(font_families())
"""For `matplotlib.rc_context({"font.family": FONTS})`."""

PANEL = 384
"""Longer side in pixels of the images on a sheet: draw at this size, so that labels stay legible there."""

_DPI = 110
_LOSSES = {"train_loss": "training", "val_loss": "validation"}
_LINES = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-."), (PURPLE, ":"), (SKY, "-"), (RED, "--"))
_LOG_RANGE = 20  # largest over smallest loss from which the axis is logarithmic
_NAMED_CLASSES = 30  # up to which a confusion matrix has names and numbers
_LISTED = 24  # classes in the legend of a sheet
_PANELS = 6  # of numbers


def plain_text(text: str, length: int = 1000) -> str:
    """Return a text of one line that matplotlib draws as it is: no formulas, no missing characters, shortened."""
    return shorten(printable(text), length).replace("$", r"\$")


def write_figure(figure: Figure, path: Path, dpi: int = 130) -> list[str]:
    """Write a figure as PNG and as SVG.

    Args:
        figure: The figure.
        path: Without a suffix.
        dpi: Pixels per inch of the PNG file, and of images inside the SVG file.

    Returns:
        The names of the two files.
    """
    with rc_context({"svg.hashsalt": "van"}):  # the same figure gives the same file
        figure.savefig(path.with_name(f"{path.name}.png"), dpi=dpi)
        figure.savefig(path.with_name(f"{path.name}.svg"), dpi=dpi, metadata={"Date": None})
    return [f"{path.name}.png", f"{path.name}.svg"]


# --------------------------------------------------------------------------------------------------------------- curves


def _values(rows: Sequence[Mapping[str, float | None]], key: str) -> list[float]:
    """Return a column, with NaN where there is no value."""
    values = (row.get(key) for row in rows)
    return [math.nan if value is None else float(value) for value in values]


def _metric_values(rows: Sequence[Mapping[str, float | None]], metric: Metric) -> list[float]:
    """Return the values of a metric, with NaN where it is undefined, which COCO writes as -1."""
    values = _values(rows, f"val_{metric.key}")
    return [math.nan if metric.unit == "%" and value == -1 else value for value in values]


@rc_context({"font.family": FONTS})
def curves(
    rows: Sequence[Mapping[str, float | None]],
    title: str,
    metrics: Sequence[Metric],
    *,
    axis: str = "epoch",
    losses: Mapping[str, str] = _LOSSES,
    loss_label: str = "loss",
    loss_note: str = "",
) -> Figure:
    """Draw the losses and the validation metrics of a training run.

    Metrics of one unit and direction share a panel. A star marks the best value of the first metric, unless that metric
    was zero throughout.

    Args:
        rows: One per validation, with the axis, the losses, and `val_<key>` of each metric.
        title: Line above the panels.
        metrics: Those to draw; the first one decides which row is the best.
        axis: Key that the rows are counted by, such as "epoch" or "step".
        losses: Labels of the losses by their keys; keys that no row has are left out.
        loss_label: What the losses measure.
        loss_note: What only the training loss contains, such as "label smoothing, mixup".
    """
    panels: dict[tuple[str, bool], list[Metric]] = {}
    for metric in metrics:
        panels.setdefault((metric.unit, metric.higher_is_better), []).append(metric)
    figure = Figure(figsize=(5.2 * (1 + len(panels)), 4.2), dpi=130, layout="constrained")
    figure.suptitle(plain_text(title, 55 * (1 + len(panels))))
    left, *others = figure.subplots(1, 1 + len(panels), squeeze=False)[0]
    places = _values(rows, axis)
    marker = {"marker": "o" if len(rows) < 40 else None, "markersize": 3.5, "clip_on": False}
    drawn = []
    for (key, label), colour in zip(losses.items(), itertools.cycle((BLUE, ORANGE, GREEN))):
        values = _values(rows, key)
        if np.isfinite(values).any():
            note = f" (with {loss_note})" if loss_note and key.startswith("train") else ""
            left.plot(places, values, color=colour, label=plain_text(label + note), **marker)
            drawn += [value for value in values if math.isfinite(value)]
    is_log = bool(drawn) and min(drawn) > 0 and max(drawn) > _LOG_RANGE * min(drawn)
    left.set(ylabel=loss_label + (" (log scale)" if is_log else ""), yscale="log" if is_log else "linear")
    for panel, shown in zip(others, panels.values(), strict=True):
        _draw_metrics(panel, places, rows, shown, marker)
    if metrics:
        _mark_best(others[0], rows, metrics[0], axis)
    for panel in (left, *others):
        panel.set_xlabel(axis)
        panel.grid(alpha=0.3)
        if panel.lines:  # above the panel, where the legend hides no point
            panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)
        if len(places) == 1:
            panel.set_xticks(places)
        else:
            panel.xaxis.get_major_locator().set_params(integer=True)
    return figure


def _draw_metrics(
    panel: Axes,
    places: list[float],
    rows: Sequence[Mapping[str, float | None]],
    metrics: Sequence[Metric],
    marker: Mapping[str, Any],
) -> None:
    """Draw metrics of one unit and direction, with an axis that fits them."""
    is_percent = metrics[0].unit == "%"
    factor, every, names = (100 if is_percent else 1), [], []
    for metric, (colour, style) in zip(metrics, itertools.cycle(_LINES)):
        values = factor * np.array(_metric_values(rows, metric))
        if np.isfinite(values).any():
            panel.plot(places, values, color=colour, linestyle=style, label=plain_text(metric.label), **marker)
            every += values[np.isfinite(values)].tolist()
            names.append(metric.label)
    text = ", ".join(names)
    text = text if len(text) < 30 else "metrics"
    notes = [*(["%"] if is_percent else []), *([] if metrics[0].higher_is_better else ["lower is better"])]
    panel.set_ylabel(plain_text(f"validation {text}" + (f" ({', '.join(notes)})" if notes else ""), 60))
    if every and min(every) >= 0:
        low, high = panel.get_ylim()
        panel.set_ylim(max(0.0, low), high if max(every) > 0 else 1.0)


def _mark_best(panel: Axes, rows: Sequence[Mapping[str, float | None]], metric: Metric, axis: str) -> None:
    """Put a star on the best value of a metric; on none where it was zero or undefined throughout."""
    values = _metric_values(rows, metric)
    defined = [i for i, value in enumerate(values) if math.isfinite(value)]
    if not any(values[i] for i in defined):
        return
    best = reduce(lambda one, other: other if metric.better(values[other], values[one]) else one, defined)
    place = _values(rows, axis)[best]
    label = plain_text(f"best {metric.label}: {metric.text(values[best])}, {axis} {place:g}")
    factor = 100 if metric.unit == "%" else 1
    panel.plot(
        place, factor * values[best], "*", color=RED, markersize=13, label=label, linestyle="none", clip_on=False
    )


# ----------------------------------------------------------------------------------------------------- confusion matrix


@rc_context({"font.family": FONTS})
def confusion(matrix: np.ndarray, class_names: Sequence[str], title: str, unit: str = "images") -> Figure:
    """Draw a confusion matrix, with counts, percentages and names up to 30 classes.

    Args:
        matrix: Numbers by true class (rows) and predicted class (columns), shape (classes, classes).
        class_names: Name of each class.
        title: Line above the matrix.
        unit: What is counted; pixels are shown in percent only.
    """
    count = len(class_names)
    is_named = count <= _NAMED_CLASSES
    side = max(5.0, 0.48 * count + 2.5) if is_named else 9.0
    figure = Figure(figsize=(side + 1, side), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    totals = matrix.sum(axis=1, keepdims=True)
    percent = 100 * np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    shown = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(shown, ax=axes, label="share of the true class (%)", shrink=0.8)
    figure.suptitle(plain_text(title, int(10 * side)))
    if not is_named:
        axes.set(xlabel="predicted class (index)", ylabel="true class (index)")
        return figure
    axes.set(xlabel="predicted class", ylabel=f"true class ({unit})")
    names = [plain_text(name, 18) for name in class_names]
    is_long = max(map(len, names)) > 3
    axes.set_xticks(range(count), names, rotation=60 if is_long else 0, ha="right" if is_long else "center")
    axes.set_yticks(range(count), [f"{name} ({total})" for name, total in zip(names, totals[:, 0], strict=True)])
    for row, column in np.argwhere(matrix > 0):
        share = "<1" if percent[row, column] < 0.5 else f"{percent[row, column]:.0f}"
        text = f"{share} %" if unit == "pixels" else f"{matrix[row, column]}\n{share} %"
        axes.text(
            column, row, text, ha="center", va="center",
            fontsize=8 if count <= 12 else 7, color="white" if percent[row, column] > 50 else "black",
        )  # fmt: skip
    return figure


# ------------------------------------------------------------------------------------------------- curves of detection

_CURVES = 10  # up to which each class has a curve of its own


@rc_context({"font.family": FONTS})
def class_curves(
    places: np.ndarray,
    rows: np.ndarray,
    class_names: Sequence[str],
    title: str,
    labels: tuple[str, str],
    mark: tuple[float, float, str] | None = None,
) -> Figure:
    """Draw a curve for each class, up to ten classes, and their mean.

    Args:
        places: Places on the horizontal axis, from 0 to 1, shape (P,).
        rows: Values of each class, from 0 to 1, NaN throughout where a class has none, shape (classes, P).
        class_names: Name of each class.
        title: Line above the curves.
        labels: Names of the two axes.
        mark: A point to mark, and its name in the legend.
    """
    figure = Figure(figsize=(7.2, 4.6), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(plain_text(title, 70))
    defined = [k for k in range(len(rows)) if not np.isnan(rows[k]).any()]
    if 1 < len(defined) <= _CURVES:
        for k, (colour, style) in zip(defined, itertools.cycle(_LINES)):
            axes.plot(places, rows[k], color=colour, linestyle=style, lw=1.2, label=plain_text(class_names[k], 24))
    if defined:
        name = f"mean of {len(defined)} classes" if len(defined) > 1 else plain_text(class_names[defined[0]], 24)
        axes.plot(places, rows[defined].mean(axis=0), color="black", lw=2.4, label=name)
    if mark:
        axes.plot(*mark[:2], "*", color=RED, markersize=13, linestyle="none", label=mark[2], clip_on=False)
    axes.set(xlabel=labels[0], ylabel=labels[1], xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)
    return figure


@rc_context({"font.family": FONTS})
def bars(names: Sequence[str], values: Sequence[float], texts: Sequence[str], title: str, label: str) -> Figure:
    """Draw horizontal bars with a text behind each, the first on top."""
    figure = Figure(figsize=(8.4, 0.5 * len(names) + 1.4), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    figure.suptitle(plain_text(title, 80))
    places = range(len(names))
    axes.barh(places, values, color=BLUE)
    for place, value, text in zip(places, values, texts, strict=True):
        axes.annotate(text, (value, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(places, [plain_text(name, 50) for name in names])
    axes.invert_yaxis()
    axes.set(xlabel=label, xlim=(0, 1.35 * max(values) or 1))
    return figure


@rc_context({"font.family": FONTS})
def learning_rates(lrs: Sequence[float], losses: Sequence[float], suggestion: float | None) -> Figure:
    """Draw the loss over growing learning rates, and mark the one that is suggested."""
    figure = Figure(figsize=(6.4, 4.2), dpi=_DPI, layout="constrained")
    axes = figure.subplots()
    axes.plot(lrs, losses, color=BLUE)
    if suggestion is not None:
        loss = float(np.interp(np.log(suggestion), np.log(lrs), losses))
        axes.plot(suggestion, loss, "o", color=RED)
        axes.annotate(f"{suggestion:.2g}", (suggestion, loss), xytext=(8, 8), textcoords="offset points", color=RED)
    axes.set(xscale="log", xlabel="learning rate", ylabel="mean loss of the steps so far")
    axes.grid(alpha=0.3)
    return figure


@rc_context({"font.family": FONTS})
def reliability(bins: np.ndarray, title: str) -> Figure:
    """Draw a reliability diagram: accuracy by confidence, and how many images there are of each.

    Args:
        bins: Number of images, mean confidence and accuracy of bins of equal width, NaN where empty, shape (bins, 3).
        title: Line above the diagram.
    """
    figure = Figure(figsize=(5.6, 6.2), dpi=_DPI, layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    figure.suptitle(plain_text(title, 55))
    width = 1 / len(bins)
    middles = (np.arange(len(bins)) + 0.5) * width
    counts, confidences, accuracies = bins.T
    upper.bar(middles, accuracies, 0.92 * width, color=SKY, label="accuracy")
    upper.plot([0, 1], [0, 1], "--", color="black", lw=1, label="calibrated")
    upper.plot(confidences, accuracies, "o", color=RED, markersize=4, label="at the mean confidence", clip_on=False)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize=9)
    lower.bar(middles, counts, 0.92 * width, color=BLUE)
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="images")
    lower.yaxis.get_major_locator().set_params(integer=True)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    return figure


@rc_context({"font.family": FONTS})
def scatter(truth: np.ndarray, predicted: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Draw predicted against true numbers, a panel for each of the first six.

    Args:
        truth: True numbers, shape (N, numbers).
        predicted: Predicted numbers, shape (N, numbers).
        names: Of the numbers.
        title: Line above the panels.
    """
    count = min(len(names), _PANELS)
    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(max(5.2, 4.4 * columns), 4.4 * rows + 0.4), dpi=_DPI, layout="constrained")
    figure.suptitle(plain_text(title, 50 * columns))
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in panels[count:]:
        panel.set_axis_off()
    for k, panel in enumerate(panels[:count]):
        true, found = truth[:, k], predicted[:, k]
        ends = [min(true.min(), found.min()), max(true.max(), found.max())]
        panel.plot(ends, ends, "--", color="black", lw=1)
        panel.plot(true, found, "o", color=BLUE, markersize=4, alpha=0.5, markeredgewidth=0)
        panel.set(xlabel=plain_text(f"true {names[k]}", 40), ylabel=plain_text(f"predicted {names[k]}", 40))
        panel.grid(alpha=0.3)
    return figure


# --------------------------------------------------------------------------------------------------------------- sheets


def sheet(
    groups: Sequence[Sequence[Image.Image]],
    headings: Sequence[str],
    title: str,
    legend: Sequence[LegendEntry] = (),
    captions: Sequence[str] = (),
) -> Figure:
    """Draw groups of images that belong together, such as image, truth and prediction.

    Each group is a card of its own. Groups of similar shape stand side by side, so that no gaps appear. The images are
    scaled to `PANEL` pixels; draw on them at that size, and their labels stay as they are.

    Args:
        groups: Images of each group, all of one shape.
        headings: A line above each image of a group.
        title: Line above the sheet.
        legend: Names and colours, drawn below; long lists are cut.
        captions: A line below each group.
    """
    shapes = [group[0].height / group[0].width for group in groups]
    order = sorted(range(len(groups)), key=lambda i: shapes[i])
    texts = [captions[i] if captions else "" for i in order]
    cards = [(groups[i], text, "black") for i, text in zip(order, texts, strict=True)]
    return _cards(cards, headings, title, legend, PANEL)


def choose_predictions(
    labels: np.ndarray, predicted: np.ndarray, confidences: np.ndarray, count: int = 32
) -> tuple[np.ndarray, np.ndarray]:
    """Choose errors and correct predictions to show, taken in turn from all true classes.

    Args:
        labels: True class of each image, shape (N,).
        predicted: Predicted class of each image, shape (N,).
        confidences: Probability of the predicted class of each image, shape (N,).
        count: How many images to choose; at most half of them are errors where there are enough others.

    Returns:
        Indices of errors, the most confident first, and of correct predictions, by class.
    """
    wrong, right = np.flatnonzero(predicted != labels), np.flatnonzero(predicted == labels)
    most = max(count // 2, count - len(right))
    errors = _in_turn(wrong[np.argsort(-confidences[wrong], kind="stable")], labels)[:most]
    others = _in_turn(right, labels)[: count - len(errors)]
    return (
        errors[np.argsort(-confidences[errors], kind="stable")],
        others[np.lexsort((others, labels[others]))],
    )


def _in_turn(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Reorder indices so that the first of each class comes first, then the second of each, and so on."""
    seen: dict[int, int] = {}
    turns = []
    for label in labels[indices].tolist():
        turns.append(seen.get(label, 0))
        seen[label] = turns[-1] + 1
    return indices[np.argsort(turns, kind="stable").astype(int)]


def prediction_sheet(
    load: Callable[[int], Image.Image],
    labels: np.ndarray,
    predicted: np.ndarray,
    confidences: np.ndarray,
    class_names: Sequence[str],
    title: str,
    count: int = 32,
) -> Figure:
    """Draw some images with their predicted class: the most confident errors of all classes, then correct predictions.

    Args:
        load: Returns the image of an index; called only for those that are shown.
        labels: True class of each image, shape (N,).
        predicted: Predicted class of each image, shape (N,).
        confidences: Probability of the predicted class of each image, from 0 to 1, shape (N,).
        class_names: Name of each class.
        title: What was evaluated; how many errors there are and are shown is added.
        count: How many images to show.
    """
    wrong, right = choose_predictions(labels, predicted, confidences, count)
    errors = int(np.sum(predicted != labels))
    some = f"all {errors}" if 1 < len(wrong) == errors else f"{len(wrong)} of {errors}"
    what = f"{some} error{'s' * (errors != 1)}" if errors else "no errors"
    what += f", {'then ' * bool(errors)}{len(right)} correct predictions" if len(right) else ""
    cards = []
    for i in [*wrong.tolist(), *right.tolist()]:
        name, true = (shorten(class_names[int(index)], 17) for index in (predicted[i], labels[i]))
        text = f"{name} ({100 * confidences[i]:.0f} %)"
        if predicted[i] != labels[i]:
            text += f"\ntrue: {true}"
        cards.append(([load(i)], text, RED if predicted[i] != labels[i] else "black"))
    return _cards(cards, [""], f"{title}: {what}", (), 160)


def captioned_sheet(
    load: Callable[[int], Image.Image], captions: Mapping[int, str], wrong: np.ndarray, title: str
) -> Figure:
    """Draw images with captions, red where something is wrong.

    Args:
        load: Returns the image of an index.
        captions: Of the images to show, by their index; may have several lines.
        wrong: Whether each image of all is wrong, bool (N,).
        title: Line above the sheet.
    """
    cards = [([load(i)], text, RED if wrong[i] else "black") for i, text in captions.items()]
    return _cards(cards, [""], title, (), 160)


_Card = tuple[Sequence[Image.Image], str, str]


@rc_context({"font.family": FONTS})
def _cards(
    cards: Sequence[_Card], headings: Sequence[str], title: str, legend: Sequence[LegendEntry], edge: int
) -> Figure:
    """Lay out cards of images with a caption and its colour, row by row; all places are pixels from the top left."""
    line, pad, gap = 18, 7, 12
    above = line if any(headings) else pad
    below = pad + line * max((text.count("\n") + 1 for _, text, _ in cards if text), default=0)
    least = max(60, *(8 * len(heading) for heading in headings))  # a heading fits above a narrow image
    boxes = []  # of each card: width and height of its images, its own width and height
    for images, _, _ in cards:
        factor = edge / max(images[0].size)
        width, height = (max(1, round(n * factor)) for n in images[0].size)
        cell = max(width, least)
        boxes.append((width, height, cell, len(images) * (cell + pad) + pad, above + height + below))
    rows = _rows([box[3:] for box in boxes], gap)
    total = max([sum(boxes[k][3] + gap for k in row) - gap for row in rows] + [560]) + 2 * gap
    lines = textwrap.wrap(shorten(printable(title), 200), max(20, int(total / 10.5)))
    top = gap + 25 * len(lines)
    heights = [max((boxes[k][4] for k in row), default=0) for row in rows]
    columns = max(1, min(int(total // 190), len(legend)))
    entries = list(legend[: _LISTED + 1] if len(legend) <= _LISTED + 1 else legend[:_LISTED])
    lists = -(-(len(entries) + (len(legend) > len(entries))) // columns) if legend else 0
    height = top + sum(h + gap for h in heights) + (20 * lists + gap if lists else 0)
    figure = Figure(figsize=(total / _DPI, height / _DPI), dpi=_DPI)
    figure.text(
        0.5, 1 - gap / 2 / height, "\n".join(lines).replace("$", r"\$"), ha="center", va="top", fontsize=12
    )  # fmt: skip
    for row, row_height in zip(rows, heights, strict=True):
        x = float(gap)
        for k in row:
            images, text, colour = cards[k]
            width, image_height, cell, card_width, card_height = boxes[k]
            card = Rectangle(
                (x / total, 1 - (top + card_height) / height), card_width / total, card_height / height,
                transform=figure.transFigure, facecolor="#efefef", edgecolor=colour if colour != "black" else "#c4c4c4",
                zorder=-1,
            )  # fmt: skip
            figure.add_artist(card)
            for i, (image, heading) in enumerate(zip(images, headings, strict=True)):
                left = x + pad + i * (cell + pad) + (cell - width) // 2
                axes = figure.add_axes(
                    (left / total, 1 - (top + above + image_height) / height, width / total, image_height / height)
                )
                axes.set_axis_off()
                axes.imshow(_fitted(image, (width, image_height)), aspect="auto", interpolation="nearest")
                axes.set_title(plain_text(heading), fontsize=9, pad=3)
            caption = "\n".join(plain_text(part, max(12, int(card_width / 6.5))) for part in text.split("\n"))
            figure.text(
                (x + card_width / 2) / total, 1 - (top + above + image_height + 4) / height, caption, ha="center",
                va="top", fontsize=8.5, color=colour, linespacing=1.1,
            )  # fmt: skip
            x += card_width + gap
        top += row_height + gap
    if legend:
        handles = [_patch(name, colour) for name, colour in entries]
        if len(legend) > len(entries):
            handles.append(Patch(alpha=0, label=f"and {len(legend) - len(entries)} more"))
        figure.legend(handles=handles, loc="lower center", ncols=columns, fontsize=8.5, frameon=False)
    return figure


def _rows(sizes: Sequence[tuple[int, int]], gap: int) -> list[list[int]]:
    """Distribute cards (width, height) over rows in their order, with little empty space and a handy overall shape."""
    found: list[tuple[float, list[list[int]]]] = [(math.inf, [])]
    for first in range(1, len(sizes) + 1):
        limit = sum(width + gap for width, _ in sizes[:first])
        rows: list[list[int]] = [[]]
        for i, (width, _) in enumerate(sizes):
            if rows[-1] and sum(sizes[k][0] + gap for k in rows[-1]) + width + gap > limit:
                rows.append([])
            rows[-1].append(i)
        across = max(sum(sizes[k][0] + gap for k in row) for row in rows)
        down = sum(max(sizes[k][1] for k in row) + gap for row in rows)
        filled = sum((width + gap) * (height + gap) for width, height in sizes)
        found.append((across * down / filled + abs(math.log(across / down / 1.4)), rows))
    return min(found, key=lambda one: one[0])[1]


def _fitted(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    image = image.convert("RGB")
    if image.size != size:
        method = Image.Resampling.LANCZOS if image.width > size[0] else Image.Resampling.BICUBIC
        image = image.resize(size, method)
    return np.asarray(image)


def _patch(name: str, colour: tuple[int, int, int] | None) -> Patch:
    """Return an entry of a legend; stripes where there is no colour."""
    label = plain_text(name, 24)
    if colour is None:
        return Patch(facecolor="#a0a0a0", edgecolor="#404040", hatch="/////", label=label)
    return Patch(facecolor="#" + bytes(colour).hex(), edgecolor="black", label=label)
