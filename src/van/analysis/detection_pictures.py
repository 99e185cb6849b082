"""Pictures of detections and of how training a detector went."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import font_manager, rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from van.analysis.pictures import BLUE, FONTS, ORANGE, plain_text, run_curves
from van.inference.detection import Detections

# Okabe and Ito's colours stay apart for colour-blind readers; names are written beside, as classes may outnumber them
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442")
_MASK_OPACITY = 0.4
_SMALLEST_PICTURE = 512  # long edge in pixels: on smaller ones no name can be read
_LARGEST_NAME = 24  # characters

Box = tuple[float, float, float, float]


def draw_detections(
    image: Image.Image, detections: Detections, class_names: Sequence[str], show_scores: bool = True
) -> Image.Image:
    """Draw boxes, masks, names and scores onto a copy of an image; a small image is enlarged by a whole factor.

    Args:
        image: An RGB image.
        detections: What is on it; also ground truth, with scores of 1.
        class_names: Names in the order of the labels.
        show_scores: Whether to write scores behind the names.
    """
    factor = max(1, -(-_SMALLEST_PICTURE // max(image.size)))
    size = (image.width * factor, image.height * factor)
    picture = image.convert("RGB").resize(size, Image.Resampling.BICUBIC) if factor > 1 else image.convert("RGB")
    width = max(2, round(max(size) / 300))
    boxes = np.asarray(detections.boxes, dtype=float).reshape(-1, 4) * factor
    # large ones first, so that they cover nothing
    order = np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1), kind="stable").tolist()
    if detections.masks is not None:
        for i in order:
            _draw_mask(picture, detections.masks[i], _colour(detections.labels[i]), width)
    draw = ImageDraw.Draw(picture)
    for i in order:
        box = _inside(tuple(boxes[i].tolist()), size)
        draw.rectangle(box, outline="black", width=width + 2)  # seen on any background
        draw.rectangle(
            (box[0] + 1, box[1] + 1, box[2] - 1, box[3] - 1), outline=_colour(detections.labels[i]), width=width
        )
    taken: list[Box] = []
    for i in np.argsort(-np.asarray(detections.scores), kind="stable").tolist():
        name = short_name(class_names[int(detections.labels[i])])
        text = f"{name} {detections.scores[i]:.2f}" if show_scores else name
        box = _inside(tuple(boxes[i].tolist()), size)
        taken.append(_write(draw, text, box, _colour(detections.labels[i]), size, taken))
    return picture


def short_name(name: str) -> str:
    """Return the name of a class, cut where it would cover a picture."""
    return name if len(name) <= _LARGEST_NAME else name[: _LARGEST_NAME - 1] + "…"


def _colour(label: Any) -> str:
    return COLOURS[int(label) % len(COLOURS)]


def _inside(box: Any, size: tuple[int, int]) -> Box:
    """Return the box cut to the picture, with at least three pixels each way."""
    x1, y1 = (min(max(box[k], 0.0), size[k] - 4.0) for k in (0, 1))
    x2, y2 = (min(max(box[k + 2], low + 3.0), size[k] - 1.0) for k, low in ((0, x1), (1, y1)))
    return x1, y1, x2, y2


def _draw_mask(picture: Image.Image, mask: np.ndarray, colour: str, width: int) -> None:
    """Tint the pixels of a mask, and draw its outline."""
    shape = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size, Image.Resampling.NEAREST)
    inner = shape.filter(ImageFilter.MinFilter(2 * (width // 2) + 1))
    pixels, core = np.asarray(shape), np.asarray(inner)
    strength = np.where(core > 0, round(255 * _MASK_OPACITY), np.where(pixels > 0, 255, 0)).astype(np.uint8)
    picture.paste(Image.new("RGB", picture.size, colour), mask=Image.fromarray(strength))


@cache
def _font(size: int, path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, size)


@cache
def _font_files() -> list[tuple[str, frozenset[int]]]:
    """Return the fonts that matplotlib's pictures use, with the characters of each."""
    files = [font_manager.findfont(name) for name in FONTS]
    return [(str(file), frozenset(font_manager.get_font(file).get_charmap())) for file in files]


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Return the first font that has all characters, else the first."""
    fonts = _font_files()
    codes = {ord(character) for character in text}
    return _font(size, next((file for file, known in fonts if codes <= known), fonts[0][0]))


def _write(
    draw: ImageDraw.ImageDraw, text: str, box: Box, colour: str, size: tuple[int, int], taken: Sequence[Box]
) -> Box:
    """Write a text at a box, where it covers no other, and return the place."""
    height = max(13, round(max(size) / 42))
    font = font_for(text, height)
    left, top, right, bottom = font.getbbox(text)
    wide, high = right - left + 6, bottom - top + 6
    x = min(max(box[0], 0.0), max(0.0, size[0] - wide))
    # above the box, below it, or inside at the top or bottom
    places = [(x, box[1] - high), (x, box[3] + 1), (x, box[1] + 2), (x, box[3] - high - 1)]
    rectangles = [(x, y, x + wide, y + high) for x, y in places if y >= 0 and y + high <= size[1]]
    rectangles = rectangles or [(x, 0.0, x + wide, float(high))]
    place = min(rectangles, key=lambda r: sum(_overlap(r, other) for other in taken))
    draw.rectangle(place, fill=colour, outline="black")
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 110 else "white"
    draw.text((place[0] + 3 - left, place[1] + 3 - top), text, fill=ink, font=font)
    return place


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


@rc_context({"font.family": FONTS})
def detection_sheet(
    images: Sequence[Image.Image],
    truths: Sequence[Detections],
    predictions: Sequence[Detections],
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Draw what is on images beside what was found on them.

    Args:
        images: RGB images.
        truths: Ground truth of each.
        predictions: What was found on each.
        class_names: Names in the order of the labels.
        title: Line above.
    """
    pairs = min(3, len(images))
    rows = -(-len(images) // pairs)
    figure = Figure(figsize=(5.2 * pairs, 2.75 * rows + 0.5), layout="constrained")
    figure.suptitle(plain_text(title, 45 * pairs))
    grid = np.atleast_1d(figure.subplots(rows, 2 * pairs, squeeze=False)).ravel()
    for axes in grid:
        axes.set_axis_off()
    for i, (image, truth, found) in enumerate(zip(images, truths, predictions, strict=True)):
        panels = (
            (truth, False, f"truth: {len(truth)} object{'s' if len(truth) != 1 else ''}"),
            (found, True, f"found: {len(found)}"),
        )
        for k, (what, scores, line) in enumerate(panels):
            grid[2 * i + k].imshow(draw_detections(image, what, class_names, scores))
            grid[2 * i + k].set_title(line, fontsize=9, color=BLUE if k else "black")
    return figure


def detection_curves(rows: Sequence[dict[str, float]], title: str) -> Figure:
    """Draw the loss and COCO's figures over the epochs.

    Args:
        rows: One per epoch with epoch, train_loss, val_AP, val_AP50 and perhaps val_mask_AP, val_mask_AP50.
        title: Line above both panels.
    """
    known = {
        "val_AP50": ("box AP50", BLUE, "--"),
        "val_AP": ("box AP", BLUE, "-"),
        "val_mask_AP50": ("mask AP50", ORANGE, "--"),
        "val_mask_AP": ("mask AP", ORANGE, "-"),
    }
    return run_curves(
        rows, title, {"train_loss": "training"}, "sum of the losses",
        {name: drawn for name, drawn in known.items() if name in rows[0]}, "average precision on validation (%)",
        best="val_mask_AP" if "val_mask_AP" in rows[0] else "val_AP",
    )  # fmt: skip
