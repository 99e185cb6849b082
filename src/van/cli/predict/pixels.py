"""What `van predict` does for semantic and panoptic segmentation and for saliency alike."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from van.inference.pixels import PixelPredictor


def prepare(images: list[str], weights: str, output: str | None) -> tuple[list[str], Path]:
    """Return the paths of the images and a new folder for results."""
    from van.cli.run_folder import prediction_folder
    from van.data.images import list_images

    paths = list_images(images)
    return paths, prediction_folder(output, weights)


def predict_all(
    predictor: "PixelPredictor[Any]",
    paths: list[str],
    folder: Path,
    workers: int | None,
    write: Callable[[int, str, str, Any], tuple[dict[str, Any], str]],
) -> int:
    """Look at images one after the other and write what was found, and all of it as JSON.

    Args:
        predictor: The network.
        paths: Of the images.
        folder: An existing folder.
        workers: Processes that decode; None takes none for a few images, else one per processor, at most 8.
        write: Gets the number of an image, its path, a name without ending that no other result has, and what was
            found; returns an entry for the JSON and a line for people.

    Returns:
        Exit status: 1 if an image could not be read.
    """
    from tqdm import tqdm

    from van.cli.run_folder import picture_name
    from van.data.detection import loading_processes
    from van.errors import DataError

    if workers is None:
        workers = loading_processes(None) if len(paths) > 8 * predictor.batch_size else 0
    entries, taken, broken = [], set(), 0
    # the bar goes to standard error, so that the lines can be piped
    bar = tqdm(predictor.stream(paths, workers), total=len(paths), unit=" images", desc="Predicting")
    for number, (path, found) in enumerate(zip(paths, bar, strict=True), 1):
        if isinstance(found, DataError):
            broken += 1
            tqdm.write(f"van predict: {found}", file=sys.stderr)
            entries.append({"image": path, "error": str(found)})
            continue
        entry, line = write(number, path, Path(picture_name(Path(path).stem, taken)).stem, found)
        entries.append({"image": path, **entry})
        tqdm.write(f"{path}: {line}", file=sys.stdout)
    (folder / "predictions.json").write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{len(paths) - broken} images: {folder}: predictions.json and the pictures")
    if broken:
        print(f"van predict: {broken} of {len(paths)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0
