"""How good a detector is: COCO's metrics for boxes and masks, and a sheet of predictions beside the annotations."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from van.data.classes import match_classes
from van.data.coco import CocoDetectionDataset, CocoSplit
from van.data.loaders import evaluation_loader
from van.engine.coco import CocoEvaluator
from van.engine.evaluation import Evaluation, line_of, spread
from van.engine.predictor import Predictor
from van.networks.detection.mirrored import with_mirrored
from van.networks.detection.slices import in_slices
from van.tasks.detection.errors import GRID, TYPES, DetectionErrors
from van.tasks.detection.metrics import BOX, MASK
from van.tasks.detection.results import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WORST = 100  # images in worst_images.csv
_SHEET = 12  # images on the sheet of predictions
_MASK_THRESHOLD = 0.5  # probability from which a pixel belongs to an object
_JOINED_IOU = 0.5  # for architectures without suppression of their own
_SMALLEST = 0.01  # pixels: boxes with a shorter side are empty, also in files that round to this


def detect(predictor: Predictor, images: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return what a detector gives for images (3, H, W), in slices and mirrored too where inference asks for it."""
    images, inference = [image.to(predictor.device) for image in images], predictor.inference
    network, options = predictor.model, predictor.model.options
    iou = getattr(options, "nms_threshold", _JOINED_IOU) if inference.iou is None else inference.iou
    if inference.flip_test:
        most = getattr(options, "detections_per_image", None)
        network = partial(with_mirrored, predictor.model, iou=iou, most=most)
    if inference.slice is None:
        return network(images)
    return in_slices(network, images, inference.slice, inference.share, iou, predictor.batch_size)


def detections_of(output: Mapping[str, torch.Tensor], size: Sequence[int], class_names: Sequence[str]) -> Detections:
    """Return what a detector gave for one image, best first, without boxes that have no area.

    Args:
        output: boxes (N, 4), labels (N,), scores (N,), and masks (N, 1, H, W) with probabilities if it has masks.
        size: Height and width of the image.
        class_names: Names in the order of the labels.
    """
    boxes, scores = output["boxes"].float(), output["scores"].float()
    order = scores.argsort(descending=True, stable=True)
    order = order[(boxes[order, 2:] - boxes[order, :2]).amin(1) >= _SMALLEST]
    masks = output.get("masks")
    return Detections(
        class_names=class_names,
        size=(int(size[0]), int(size[1])),
        boxes=boxes[order].cpu().numpy(),
        labels=output["labels"][order].cpu().numpy(),
        scores=scores[order].cpu().numpy(),
        masks=None if masks is None else (masks[order, 0] >= _MASK_THRESHOLD).cpu().numpy(),
    )


class DetectionEvaluator:
    """COCO's metrics of a detector, in training and in evaluation.

    Args:
        split: The annotated images.
        masks: Whether masks are measured too.
        category_ids: Category of each label of the detector; None where its labels are those of the split.
    """

    def __init__(self, split: CocoSplit, masks: bool, category_ids: Sequence[int] | None = None) -> None:
        self.class_names = split.class_names
        self.category_ids = list(split.category_ids if category_ids is None else category_ids)
        self.boxes = CocoEvaluator(split, "bbox")
        self.masks = CocoEvaluator(split, "segm") if masks else None

    def reset(self) -> None:
        """Forget all results."""
        self.boxes.reset()
        if self.masks:
            self.masks.reset()

    def update(self, outputs: Sequence[Mapping[str, torch.Tensor]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add what a detector gave for images.

        Args:
            outputs: boxes, labels, scores and masks of each image; see van.networks.detection.detector.
            targets: image_id and size (H, W) of each.
        """
        for output, target in zip(outputs, targets, strict=True):
            found = detections_of(output, target["size"], self.class_names)
            results = found.results(target["image_id"], self.category_ids)
            self.boxes.update(results)
            if self.masks:
                self.masks.update(results)

    def compute(self) -> dict[str, float]:
        """Return the metrics of boxes and masks by key."""
        values = self.boxes.compute()
        if self.masks:
            values |= {f"mask_{key}": value for key, value in self.masks.compute().items()}
        return values

    def per_category(self) -> list[dict[str, Any]]:
        """Return a line for each category; see CocoEvaluator, with mask_AP and mask_AP50 if masks are measured."""
        rows = self.boxes.per_category()
        if self.masks:
            for row, other in zip(rows, self.masks.per_category(), strict=True):
                row |= {"mask_AP": other["AP"], "mask_AP50": other["AP50"]}
        return rows


def category_ids_of(class_names: Sequence[str], split: CocoSplit) -> tuple[list[int], list[int]]:
    """Match the classes of a split with those of a detector, by name.

    Args:
        class_names: The detector's.
        split: Annotated images.

    Returns:
        The category id of each label of the detector, -1 where the split has no such class; and the detector's label of
        each class of the split, -1 where it has none.

    Raises:
        DataError: a class with annotations is unknown to the detector.
    """
    numbers = (annotation.get("category_id") for annotation in split.all_annotations())
    used = {split.labels[number] for number in numbers if number in split.labels}
    labels = match_classes(split.class_names, class_names, split.name, used)
    ids = [-1] * len(class_names)
    for label, number in zip(labels, split.category_ids, strict=True):
        if label >= 0:
            ids[label] = number
    return ids, labels


class DetectionEvaluation(Evaluation):
    """COCO's metrics of a detector over all its detections, AP of each class, results and a sheet of predictions."""

    def __init__(self, predictor: Predictor, split: CocoSplit, workers: int, masks: bool) -> None:
        ids, self.labels = category_ids_of(predictor.class_names, split)
        evaluator = DetectionEvaluator(split, masks, ids)
        super().__init__(predictor, split, workers, evaluator, (*BOX, *(MASK if masks else ())))
        self.masks = masks
        self.columns = ("objects", "AP", "AP50", *(("mask_AP", "mask_AP50") if masks else ()))

    def batches(self) -> Iterable[Any]:
        """Return each image once, those of similar shape together: images (3, H, W) and targets."""
        dataset = CocoDetectionDataset(self.split)
        return evaluation_loader(dataset, self.predictor.batch_size, self.workers, dataset.ratios)

    def update(self, batch: Any) -> None:
        """Count what the detector finds on a batch."""
        images, targets = batch
        self.evaluator.update(detect(self.predictor, images), targets)

    def per_class(self) -> list[dict[str, Any]]:
        """Return a line for each class of the data; see DetectionEvaluator."""
        return self.evaluator.per_category()

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return precision and recall of each kind on a line of their own."""
        return [line_of(self.metrics[start : start + 6], values) for start in range(0, len(self.metrics), 6)]

    @cached_property
    def errors(self) -> DetectionErrors:
        """What is wrong with the boxes, or the masks where they are measured."""
        evaluator = self.evaluator.masks or self.evaluator.boxes
        return DetectionErrors(evaluator.overlaps(), evaluator.category_ids)

    @cached_property
    def best(self) -> dict[str, float]:
        """The score threshold with the highest F1, and that F1; see DetectionErrors."""
        return self.errors.best()

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics, the threshold with the highest F1, and the error types."""
        content = super().report(values)
        return {**content, "best_F1": self.best, "errors": self.errors.types()} if self.best else content

    def write(self, folder: Path) -> list[str]:
        """Write all detections in COCO's results format, and the images with the most errors."""
        (self.evaluator.masks or self.evaluator.boxes).write_results(folder / "detections.json")
        if not self.best:
            return ["detections.json"]
        paths = self.split.paths()
        with (folder / "worst_images.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "objects", "correct", "wrong_class", "missed", "false"])
            for row in self.errors.worst(self.best["threshold"])[:_WORST]:
                number = row.pop("image_id")
                writer.writerow([paths[number].name if number in paths else number, *row.values()])
        return ["detections.json", "worst_images.csv"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return the confusion matrix, curves, error types, and a sheet of annotations beside predictions."""
        return {**(self._error_plots(title) if self.best else {}), **self._sheet(title)}

    def _error_plots(self, title: str) -> "dict[str, Figure]":
        from van.engine.plots import bars, class_curves, confusion

        names, kind = self.evaluator.class_names, "mask" if self.masks else "box"
        threshold, best = self.best["threshold"], self.best["F1"]
        types, ap50 = self.errors.types(), self.errors.ap50()
        matrix = confusion(
            self.errors.confusion(threshold), [*names, "background"],
            f"{title}: score {threshold:g} or more", "objects",
        )  # fmt: skip
        precision = class_curves(
            np.linspace(0, 1, 101), self.errors.precision(), names,
            f"{title}: {kind} AP50 {100 * ap50:.2f} %", ("recall", f"precision at {kind} IoU 0.5"),
        )  # fmt: skip
        mark = f"best F1 {100 * best:.1f} %\nat threshold {threshold:g}"
        f1 = class_curves(
            GRID, self.errors.f1(), names, f"{title}: best threshold {threshold:g}",
            ("score threshold", f"F1 at {kind} IoU 0.5"), (threshold, best, mark),
        )  # fmt: skip
        errors = bars(
            [f"{row['type']}: {TYPES[row['type']]}" for row in types],
            [100 * row["dAP50"] for row in types],
            [f"{100 * row['dAP50']:.2f} ({row['count']})" for row in types],
            f"{title}: errors at {kind} AP50 {100 * ap50:.2f} %",
            "AP50 gained if only these errors were fixed (points), number of errors in brackets",
        )  # fmt: skip
        return {"confusion_matrix": matrix, "precision_recall": precision, "f1_threshold": f1, "errors": errors}

    def _sheet(self, title: str) -> "dict[str, Figure]":
        from van.data.images import read_image
        from van.engine.drawing import draw_boxes
        from van.engine.plots import PANEL, sheet

        dataset = CocoDetectionDataset(self.split, masks=self.masks, keep_empty=False)
        names, groups, captions = self.predictor.class_names, [], []
        for i in spread(len(dataset), _SHEET):
            target = dataset[i][1]
            image = read_image(self.split.image_path(dataset.images[i]))
            found = self.predictor(image)
            truth = np.array([self.labels[label] for label in target["labels"].tolist()], dtype=np.int64)
            masks = target["masks"].numpy().astype(bool) if self.masks else None
            groups.append(
                [
                    draw_boxes(image, target["boxes"].numpy(), truth, names, masks=masks, size=PANEL),
                    found.draw(PANEL),
                ]
            )
            captions.append(f"{len(truth)} annotated, {len(found)} predicted")
        if not groups:
            return {}
        shown = f"{title}: predictions with a score of {self.predictor.inference.score_threshold:g} or more"
        return {"predictions": sheet(groups, ("annotated", "predicted"), shown, captions=captions)}
