"""Pictures of labelled pixels: classes, segments, saliency, sheets beside the truth, curves of a training run."""

import colorsys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image, ImageDraw

from van.analysis.detection_pictures import font_for, short_name
from van.analysis.pictures import BLUE, FONTS, GREEN, ORANGE, plain_text, run_curves
from van.errors import DataError

IGNORED = 255
_BASE = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_SHADES = (0.0, 0.5, -0.45, 0.25, -0.25)  # towards white, towards black
_OPACITY = 0.6
_SMALLEST_PICTURE = 512  # long edge in pixels: on smaller ones no name can be read
_LISTED = 24  # classes in the legend of a sheet
_LEGEND_LINES = 8  # of the legend beside a picture, however low it is

Colour = tuple[int, int, int]


def palette(count: int) -> np.ndarray:
    """Return a colour for each label, the same whatever the number of classes: (count, 3), uint8.

    Okabe and Ito's colours, which stay apart for colour-blind readers, then shades of them, then hues that are spread
    evenly in changing brightness. Pictures write names beside them.
    """
    colours = []
    for i in range(count):
        turn, place = divmod(i, len(_BASE))
        if turn < len(_SHADES):
            base = np.array([int(_BASE[place][k : k + 2], 16) for k in (1, 3, 5)], float)
            shade = _SHADES[turn]
            colours.append(base + (255 - base) * shade if shade > 0 else base * (1 + shade))
        else:
            hue = i * 0.618034 % 1
            colours.append(255 * np.array(colorsys.hls_to_rgb(hue, (0.35, 0.55, 0.75)[i % 3], (0.9, 0.6)[i // 3 % 2])))
    return np.array(colours).round().astype(np.uint8).reshape(count, 3)


def class_map(labels: np.ndarray, count: int) -> Image.Image:
    """Return labels (H, W) uint8 as an image whose pixels are the labels, with a palette that colours them.

    Args:
        labels: 255 where there is none.
        count: Number of classes.
    """
    image = Image.fromarray(labels.astype(np.uint8))
    colours = np.zeros((256, 3), np.uint8)
    colours[:count] = palette(count)
    image.putpalette(colours.ravel().tolist())
    return image


def _enlarged(image: Image.Image) -> tuple[Image.Image, int]:
    """Return a small image by a whole factor larger, and the factor."""
    image = image.convert("RGB")
    factor = max(1, -(-_SMALLEST_PICTURE // max(image.size)))
    size = (image.width * factor, image.height * factor)
    return (image.resize(size, Image.Resampling.BICUBIC) if factor > 1 else image), factor


def _tinted(image: Image.Image, numbers: np.ndarray, colours: np.ndarray, shown: np.ndarray) -> Image.Image:
    """Return an image with the colour of its number on every pixel that is shown, and white lines between numbers."""
    if image.size != numbers.shape[::-1]:
        raise DataError(f"The image has {image.size[::-1]} pixels, its labels {numbers.shape}.")
    picture, factor = _enlarged(image)
    if factor > 1:
        numbers, shown = (np.kron(part, np.ones((factor, factor), np.uint8)) for part in (numbers, shown))
    on = shown.astype(bool)
    # in bytes all the way: large images would take gigabytes as floats
    overlay = Image.fromarray(colours.round().astype(np.uint8)[np.where(on, numbers, 0)])
    mixed = np.asarray(Image.blend(picture, overlay, _OPACITY))
    pixels = np.where(on[..., None], mixed, np.asarray(picture))
    edges = np.zeros(numbers.shape, bool)
    edges[:, 1:] |= numbers[:, 1:] != numbers[:, :-1]
    edges[1:] |= numbers[1:] != numbers[:-1]
    for _ in range(max(picture.size) // 1200):
        edges[1:] |= edges[:-1]
        edges[:, 1:] |= edges[:, :-1]
    pixels[edges] = 255
    return Image.fromarray(pixels)


def _with_legend(picture: Image.Image, entries: Sequence[tuple[str, Sequence[int]]]) -> Image.Image:
    """Return a picture with names and colours on its right; one too low for some of them gets white space below."""
    height = max(13, round(max(picture.size) / 42))
    line = height + height // 2
    most = max(_LEGEND_LINES, (picture.height - line // 2) // line)
    shown = list(entries if len(entries) <= most else entries[: most - 1])
    left = len(entries) - len(shown)
    texts = [name for name, _ in shown] + ([f"and {left} more"] if left else [])
    fonts = [font_for(text, height) for text in texts]
    width = round(max((font.getlength(text) for font, text in zip(fonts, texts, strict=True)), default=0))
    below = max(picture.height, line // 2 + len(texts) * line)
    canvas = Image.new("RGB", (picture.width + width + 3 * line, below), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for i, (text, font) in enumerate(zip(texts, fonts, strict=True)):
        x, y = picture.width + line // 2, line // 2 + i * line
        if i < len(shown):
            draw.rectangle((x, y, x + height, y + height), fill=tuple(int(c) for c in shown[i][1]), outline="black")
        draw.text((x + line, y - height // 8), text, fill="black", font=font)
    return canvas


def class_shares(labels: np.ndarray, class_names: Sequence[str]) -> dict[str, float]:
    """Return the share of the pixels of each class that labels (H, W) have, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=256)[: len(class_names)]
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return {class_names[i]: float(counts[i] / labels.size) for i in order}


def draw_labels(image: Image.Image, labels: np.ndarray, class_names: Sequence[str], legend: bool = True) -> Image.Image:
    """Colour an image by the classes of its pixels; a small image is enlarged by a whole factor.

    Args:
        image: An image of any mode.
        labels: (H, W) uint8; pixels with 255 keep their colour.
        class_names: Names in the order of the labels.
        legend: Whether to write colours, names and shares of the pixels beside it, the largest first.

    Raises:
        DataError: image and labels have different sizes.
    """
    colours = palette(len(class_names))
    picture = _tinted(image, labels, colours, labels < len(class_names))
    if not legend:
        return picture
    shares = class_shares(labels, class_names)
    places = {name: i for i, name in enumerate(class_names)}
    return _with_legend(
        picture, [(f"{short_name(name)} {100 * share:.1f} %", colours[places[name]]) for name, share in shares.items()]
    )


def draw_segments(
    image: Image.Image,
    segmentation: np.ndarray,
    segments: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    legend: bool = True,
) -> Image.Image:
    """Colour an image by its segments: every thing in another shade of its class's colour, and with its name.

    Args:
        image: An image of any mode.
        segmentation: (H, W), the number of the segment; pixels with 0 keep their colour.
        segments: For each id (that number), label, isthing, and perhaps score and iscrowd.
        class_names: Names in the order of the labels.
        legend: Whether to write colours, names and numbers of segments beside it.

    Raises:
        DataError: image and segments have different sizes.
    """
    base = palette(len(class_names)).astype(float)
    colours = np.zeros((max([int(s["id"]) for s in segments] + [int(segmentation.max(initial=0))]) + 1, 3))
    seen: dict[int, int] = {}
    for segment in segments:
        label = int(segment["label"])
        turn = seen[label] = seen.get(label, -1) + 1
        shade = (0.0, 0.35, -0.3, 0.55, -0.5)[turn % 5]
        colour = base[label]
        colours[int(segment["id"])] = colour + (255 - colour) * shade if shade > 0 else colour * (1 + shade)
    picture = _tinted(image, segmentation, colours, segmentation > 0)
    factor = picture.width // image.width
    draw = ImageDraw.Draw(picture)
    height = max(13, round(max(picture.size) / 42))
    for segment in segments:
        ys, xs = np.nonzero(segmentation == segment["id"])
        if not segment.get("isthing") or not len(ys):
            continue
        # the pixel of the segment that is nearest to its middle: the middle itself may lie outside
        near = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
        text = short_name(class_names[int(segment["label"])]) + (" (group)" if segment.get("iscrowd") else "")
        text += f" {segment['score']:.2f}" if "score" in segment else ""
        place = (float((xs[near] + 0.5) * factor), float((ys[near] + 0.5) * factor))
        font = font_for(text, height)
        half, wide = font.getlength(text) / 2, float(picture.width)
        x = max(half + 2, min(place[0], wide - half - 2))
        draw.text((x, place[1]), text, fill="white", font=font, anchor="mm", stroke_width=2, stroke_fill="black")
    if not legend:
        return picture
    entries = [(f"{short_name(class_names[label])}: {turn + 1}", base[label]) for label, turn in sorted(seen.items())]
    return _with_legend(picture, entries)


def saliency_image(saliency: np.ndarray) -> Image.Image:
    """Return saliency (H, W) from 0 to 1 as an image of 8 bits."""
    return Image.fromarray((saliency.clip(0, 1) * 255).round().astype(np.uint8))


def draw_saliency(image: Image.Image, saliency: np.ndarray) -> Image.Image:
    """Return an image, its saliency, and the image with what does not stand out dimmed, side by side.

    Args:
        image: An image of any mode; a small one is enlarged by a whole factor.
        saliency: (H, W) from 0 to 1.

    Raises:
        DataError: image and map have different sizes.
    """
    if image.size != saliency.shape[::-1]:
        raise DataError(f"The image has {image.size[::-1]} pixels, its map {saliency.shape}.")
    picture, _ = _enlarged(image)
    grey = saliency_image(saliency).resize(picture.size, Image.Resampling.BILINEAR)
    dark = Image.eval(picture, lambda value: value // 5)
    cut = Image.composite(picture, dark, grey)
    gap = max(4, picture.width // 64)
    canvas = Image.new("RGB", (3 * picture.width + 2 * gap, picture.height), "white")
    for i, part in enumerate((picture, grey.convert("RGB"), cut)):
        canvas.paste(part, (i * (picture.width + gap), 0))
    return canvas


@rc_context({"font.family": FONTS})
def pixel_sheet(
    rows: Sequence[Sequence[Image.Image]],
    heads: Sequence[str],
    title: str,
    legend: Sequence[tuple[str, Sequence[int]]] = (),
) -> Figure:
    """Draw groups of pictures that belong together, such as image, truth and what was found, in two columns of groups.

    Args:
        rows: Pictures of each group.
        heads: A line above each picture of a group.
        title: Line above all.
        legend: Names and colours below; long lists are cut.
    """
    groups = min(2, len(rows))
    lines = -(-len(rows) // groups)
    columns = groups * len(heads)
    figure = Figure(figsize=(2.1 * columns, 2.25 * lines + 1.1), layout="constrained")
    figure.suptitle(plain_text(title, 18 * columns))
    grid = np.atleast_1d(figure.subplots(lines, columns, squeeze=False)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, row in enumerate(rows):
        for k, picture in enumerate(row):
            axes = grid[i * len(heads) + k]
            axes.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255)
            axes.set_title(heads[k], fontsize=9, color="black" if k < len(heads) - 1 else BLUE)
    if legend:
        patches = [
            Patch(facecolor="#" + bytes(colour).hex(), edgecolor="black", label=plain_text(name, 24))
            for name, colour in legend[:_LISTED]
        ]
        if len(legend) > _LISTED:
            patches.append(Patch(alpha=0, label=f"and {len(legend) - _LISTED} more"))
        figure.legend(handles=patches, loc="outside lower center", ncols=min(8, len(patches)), fontsize=8)
    return figure


def pixel_curves(
    rows: Sequence[dict[str, float]], figures: Mapping[str, str], title: str, by_steps: bool = False
) -> Figure:
    """Draw the loss and figures over the epochs.

    Args:
        rows: One per epoch with epoch, train_loss and the figures; with iteration where these are the axis.
        figures: Label of each figure, by its name in the rows; the first one's best value gets a star.
        title: Line above both panels.
        by_steps: Whether the axis is steps.
    """
    styles = ((BLUE, "-"), (ORANGE, "--"), (GREEN, ":"))
    return run_curves(
        rows, title, {"train_loss": "training"}, "sum of the losses",
        {name: (label, *style) for (name, label), style in zip(figures.items(), styles, strict=False)},
        "on validation (%)", best=next(iter(figures)), axis="iteration" if by_steps else "epoch",
    )  # fmt: skip
