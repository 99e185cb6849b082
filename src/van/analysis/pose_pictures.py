"""Pictures of poses: skeletons on images, a sheet of predictions beside the truth, curves of a training run."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from van.analysis.pictures import BLUE, FONTS, GREEN, plain_text, run_curves

# left and right in two of Okabe and Ito's colours, the middle in white: told apart by any eye on a dark rim
LEFT, RIGHT, MIDDLE = (230, 159, 0), (86, 180, 233), (255, 255, 255)
_RIM = (0, 0, 0)
_LEGIBLE = 480  # pixels: smaller images are enlarged, so that the lines do not cover what they are about


def _side(names: Sequence[str]) -> tuple[int, int, int]:
    sides = {next((side for side in ("left", "right") if side in name.lower()), "middle") for name in names}
    return {"left": LEFT, "right": RIGHT}.get(sides.pop(), MIDDLE) if len(sides) == 1 else MIDDLE


def draw_poses(
    image: Image.Image,
    poses: Sequence[np.ndarray],
    names: Sequence[str],
    skeleton: Sequence[tuple[int, int]],
    labels: Sequence[str] = (),
    threshold: float = 0.2,
) -> Image.Image:
    """Draw skeletons onto an image: left sides orange, right ones blue, all with a dark rim.

    Args:
        image: RGB image; one whose longer side is below 480 pixels is enlarged.
        poses: (K, 3) each: x, y in pixels of the image, confidence or visibility.
        names: Names of the keypoints.
        skeleton: Pairs of keypoints that are joined.
        labels: A text for each pose, set above its head.
        threshold: Keypoints that are less certain are left out.

    Returns:
        A new image.
    """
    factor = -(-_LEGIBLE // max(image.size))
    canvas = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    unit = max(canvas.size) / 480
    for pose in poses:
        shown = pose[:, 2] >= threshold
        if not shown.any():
            continue
        points = [tuple(point) for point in ((pose[:, :2] + 0.5) * factor - 0.5).tolist()]
        # lines as thick as the person allows: fine ones on a small person in a large image
        extent = float(np.ptp(pose[shown, :2], axis=0).max()) * factor
        width = min(max(2.0 * unit, extent / 50), 6.0 * unit)
        bones = [(a, b) for a, b in skeleton if shown[a] and shown[b]]
        for rim in (True, False):
            for a, b in bones:
                colour = _RIM if rim else _side([names[a], names[b]])
                draw.line([points[a], points[b]], fill=colour, width=max(1, round(width + (2 * unit if rim else 0))))
        radius = 0.9 * width + 0.5 * unit
        for (x, y), name, visible in zip(points, names, shown, strict=True):
            if visible:
                box = (x - radius, y - radius, x + radius, y + radius)
                draw.ellipse(box, fill=_side([name]), outline=_RIM, width=max(1, round(unit)))
    font = ImageFont.load_default(round(14 * unit))
    for pose, label in zip(poses, labels, strict=False):
        shown = pose[:, 2] >= threshold
        if shown.any():
            top = pose[shown][np.argmin(pose[shown, 1])]
            _label(draw, canvas.size, label, float(top[0]) * factor, float(top[1]) * factor - 10 * unit, font)
    return canvas


def _label(draw: ImageDraw.ImageDraw, size: tuple[int, int], text: str, x: float, y: float, font: Any) -> None:
    """Write white on black, centred above a place and inside the image."""
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(x - width / 2, 0), max(size[0] - width, 0))
    y = min(max(y - height, 0), max(size[1] - height, 0))
    draw.rectangle((x, y, x + width, y + height), fill=_RIM)
    draw.text((x + 3 - left, y + 3 - top), text, fill="white", font=font)


@rc_context({"font.family": FONTS})
def pose_sheet(
    images: Sequence[Image.Image], truths: Sequence[Image.Image], predictions: Sequence[Image.Image], title: str
) -> Figure:
    """Draw images in pairs: the annotation beside the prediction.

    Args:
        images: For the shape of each pair.
        truths: The images with the annotated poses.
        predictions: The images with the predicted poses.
        title: Line above all.
    """
    across = 3 if len(images) > 2 else max(1, len(images))
    rows = -(-len(images) // across)
    tallest = max(image.height / image.width for image in images)
    figure = Figure(figsize=(4.6 * across, (2.3 * tallest + 0.3) * rows + 0.8), layout="constrained")
    figure.suptitle(f"{plain_text(title, 40 * across)}\norange: the person's left; blue: right", fontsize=10)
    grid = figure.subplots(rows, 2 * across, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for number, pair in enumerate(zip(truths, predictions, strict=True)):
        row, column = divmod(number, across)
        for offset, (what, picture) in enumerate(zip(("annotated", "predicted"), pair, strict=True)):
            axes = grid[row][2 * column + offset]
            axes.imshow(picture)
            axes.set_title(what, fontsize=8)
    return figure


def pose_curves(rows: Sequence[dict[str, float]], title: str) -> Figure:
    """Draw loss and average precision over the epochs.

    Args:
        rows: One per epoch with epoch, train_loss, val_loss, val_ap and val_ap50 (shares of 1).
        title: Line above both panels.
    """
    return run_curves(
        rows, title, {"train_loss": "training", "val_loss": "validation"}, "mean squared error of the heat maps",
        {"val_ap": ("AP", BLUE, "-"), "val_ap50": ("AP50", GREEN, "--")}, "keypoint precision on validation (%)",
        best="val_ap", log_loss=True,
    )  # fmt: skip
