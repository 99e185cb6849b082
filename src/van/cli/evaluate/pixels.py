"""What `van evaluate` does for semantic and panoptic segmentation and for saliency alike."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.errors import DataError, VanError

if TYPE_CHECKING:
    from PIL import Image
    from torch.utils.data import Dataset

    from van.inference.pixels import PixelPredictor

_SHEET = 10  # groups of pictures on the sheet of predictions
_SHOWN = 40  # classes that are printed


def looking(
    slide: bool, crop: tuple[int, int] | None, stride: tuple[int, int] | None, scales: list[float] | None, flip: bool
) -> dict[str, Any]:
    """Return the options of PixelInference that a command changes, by their names.

    Args:
        slide: Whether a window slides over the images; crop and stride ask for that too.
        crop: Of the window.
        stride: Of the window; by default two thirds of crop.
        scales: Scales.
        flip: Whether to look at mirror images.
    """
    changes: dict[str, Any] = {"flip": True} if flip else {}
    if slide or crop is not None or stride is not None:
        changes["mode"] = "slide"
    if crop is not None:
        if len(crop) != 2 or min(crop) < 1:
            raise VanError(f"--crop is {crop}, expected a height and a width of at least 1.")
        changes |= {"crop": crop, "stride": (max(1, 2 * crop[0] // 3), max(1, 2 * crop[1] // 3))}
    if stride is not None:
        changes["stride"] = stride
    if scales is not None:
        changes["scales"] = scales
    return changes


def labels_for(class_names: Sequence[str], names: Sequence[str], data: str) -> list[int]:
    """Return a model's label of each class of the data, by its name.

    Args:
        class_names: The model's names.
        names: Names of the data.
        data: What to call the data.

    Raises:
        DataError: the data has a class that the model does not know.
    """
    places = {name: i for i, name in enumerate(class_names)}
    if unknown := [name for name in names if name not in places]:
        raise DataError(
            f"{data} has the class {unknown[0]!r}, which the model does not know. It knows "
            f"{', '.join(class_names[:10])}{', ...' if len(class_names) > 10 else ''}."
        )
    return [places[name] for name in names]


def run_over(
    predictor: "PixelPredictor[Any]",
    dataset: "Dataset",
    workers: int,
    update: Callable[[list[Any], list[Any]], None],
    progress: bool = True,
) -> None:
    """Look at all images of a data set, and hand what was found with the targets to a function, batch by batch."""
    import torch
    from tqdm import tqdm

    from van.data.pixels import evaluation_batches

    batches = evaluation_batches(dataset, predictor.batch_size, workers)
    with torch.inference_mode():
        for images, targets in tqdm(batches, desc="Evaluating", unit=" batches", disable=not progress):
            update(predictor.maps([image.to(predictor.device) for image in images]), targets)


def write_figures(folder: Path, content: dict[str, Any], rows: list[dict[str, Any]] | None = None) -> list[str]:
    """Write evaluation.json, and per_class.csv where there are classes, and return their names."""
    if rows:
        content = {**content, "per_class": rows}
        with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    (folder / "evaluation.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return ["evaluation.json", *(["per_class.csv"] if rows else [])]


def percent(value: float | None) -> str:
    """Return a share as percent, and what cannot be measured as a dash."""
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def print_classes(rows: list[dict[str, Any]], count: str, figures: Sequence[str]) -> None:
    """Print a table of the classes that occur.

    Args:
        rows: One for each class.
        count: Key of how much there is of a class.
        figures: Keys of shares.
    """
    shown = [row for row in rows if row[count]]
    width = min(30, max([len(row["class"]) for row in shown] + [5]) + 2)
    print(f"\n{'class':<{width}}{count:>12}" + "".join(f"{key:>10}" for key in figures))
    for row in shown[:_SHOWN]:
        name = row["class"] if len(row["class"]) < width else row["class"][: width - 2] + "…"
        print(f"{name:<{width}}{row[count]:>12}" + "".join(f"{percent(row[key]):>10}" for key in figures))
    if len(shown) > _SHOWN:
        print(f"... and {len(shown) - _SHOWN} more classes in per_class.csv")


def sheet_places(count: int) -> list[int]:
    """Return which of so many images are shown: some at even distances."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, _SHEET).astype(int)).tolist()


def picture_of(path: Path) -> "Image.Image":
    """Read an image for a sheet."""
    from van.data.images import read_image

    return read_image(path)
