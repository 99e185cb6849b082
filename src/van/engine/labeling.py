"""Labeling images with predictions: a data set that can be trained on, or corrected by people first."""

import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from van.data.balance import by_class, read_by_class
from van.data.coco import CocoFiles, CocoKind, CocoSplit
from van.data.inputs import ImageSources, Packed, Unlisted, is_url
from van.data.labels.base import Need
from van.data.labels.convert import write_labels
from van.data.loaders import loading_processes
from van.data.processes import loading_errors
from van.engine.options import within
from van.engine.task import Task
from van.errors import DataError, VanError
from van.files import new_folder_at

_THRESHOLD = 0.5
_FEW = 129  # images that are listed to see whether there are few


class LabelWriter(Protocol):
    """Writes results as labels."""

    def add(self, result: Any) -> int:
        """Take a result, and return how many objects of it are labels."""
        ...

    def close(self) -> list[str]:
        """Write what is left, and return sentences about what the format cannot hold."""
        ...


class ObjectLabels:
    """Writes boxes, masks or keypoints of results, by way of COCO's terms.

    Args:
        folder: An empty folder.
        to: coco, yolo or voc.
        need: What is written.
    """

    def __init__(self, folder: Path, to: str, need: Need) -> None:
        self._folder, self._to = folder, to
        self._need: Need = need
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: list[dict[str, Any]] = []

    def add(self, result: Any) -> int:
        """Take a result that has to_coco and categories, and return how many objects it has."""
        number = len(self._images) + 1
        size = {"height": result.size[0], "width": result.size[1]}
        self._images.append({"id": number, "file_name": result.path, **size})
        self._categories = result.categories
        found = result.to_coco(number, len(self._annotations) + 1)
        self._annotations += found
        return len(found)

    def close(self) -> list[str]:
        """Write all labels, and copy the images."""
        content = {"images": self._images, "annotations": self._annotations, "categories": self._categories}
        kind: CocoKind = "person_keypoints" if self._need == "keypoints" else "instances"
        split = CocoSplit(CocoFiles(Path(), Path("predictions")), kind, content)
        return write_labels({"all": split}, self._folder, self._to, self._need)[1]


@loading_errors()
def label(task: Task, options: Any, changes: dict[str, Any]) -> int:
    """Run weights on images, and write what they find as labels, with copies of the images.

    Args:
        task: That of the weights.
        options: Of labeling: an instance of task.label_options.
        changes: Options of inference that differ from those in the weight file.

    Returns:
        Exit status: 1 if an image could not be read; it is left out.

    Raises:
        VanError: weights, images or options cannot be used. Nothing has been written then.
    """
    from van.engine.api import load

    to = options.to or next(iter(task.label_formats), None)
    if to not in task.label_formats:
        known = ", ".join(task.label_formats)
        hint = f"--to is {to}, but labels for the task {task.name} are written as {known}. Choose one of them."
        raise VanError(hint if known else f"Results of the task {task.name} cannot be written as labels.")
    scored = "score_threshold" in {field.name for field in fields(task.inference)}
    if options.score_threshold is not None and not scored:
        raise VanError(f"score_threshold has no effect on the task {task.name}, which has no scores. Leave it out.")
    images = list(_files(options.images))
    with new_folder_at(options.output) as folder:
        if scored:  # the smallest for the network, that of its class for each object
            least = _thresholds(options, None)
            changes = {**changes, "score_threshold": float(np.min(least))}
        engine = (options.engine, options.precision)
        predictor = load(options.weights, options.device, options.batch_size, *engine, **changes)
        thresholds = _thresholds(options, predictor.class_names)
        task.configure(predictor, options)
        writer = task.label_writer(predictor, folder, to)
        workers = loading_processes(options.workers, len(images))
        found = predictor.stream(images, workers, keep_images=False)
        labels = empty = broken = 0
        bar = {"total": len(images), "unit": " images", "desc": "Labeling"}
        for result in tqdm(found, **bar, disable=options.quiet or None):
            if isinstance(result, DataError):
                broken += 1
                tqdm.write(f"van label: {result}", file=sys.stderr)
                continue
            kept: Any = result
            if scored:
                kept = kept.chosen(kept.scores >= thresholds[kept.labels])
            count = writer.add(kept)
            labels, empty = labels + count, empty + (not count)
        if broken == len(images):
            raise DataError("No image could be read, see above.")
        notes = writer.close()
    if not options.quiet:
        print(f"{options.output} ({to}): {len(images) - broken} images with {labels} labels, {empty} without any")
        for note in notes:
            print(f"left out: {note}")
        print(f"train with: van train --task {task.name} --data {options.output}")
    if broken:
        print(f"van label: {broken} of {len(images)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0


def _files(sources: list[str]) -> Iterator[str]:
    """Yield the image files of sources; labels belong to files.

    Raises:
        DataError: one is no file of its own.
    """
    for image in ImageSources(sources):
        if isinstance(image, Unlisted):
            raise DataError(image.problem)
        if is_url(image) or not isinstance(image, str):
            where = (
                "on a web server" if is_url(image) else "inside a tar file" if isinstance(image, Packed) else "a clip"
            )
            raise DataError(f"{image} is {where}, and labels are written beside copies of files. Save images first.")
        yield image


def _thresholds(options: Any, class_names: list[str] | None) -> np.ndarray:
    """Return the score threshold of each class; without class names those that are given, and the default."""
    given = options.score_threshold
    if given is None or isinstance(given, float | int):
        return np.full(len(class_names or [0]), _THRESHOLD if given is None else float(given))
    values = read_by_class(given) if isinstance(given, str) else given
    for name, value in values.items():
        within(f"score_threshold of {name}", value)
    if class_names is None:
        return np.array([_THRESHOLD, *values.values()])
    return by_class(values, class_names, "score_threshold", _THRESHOLD)
