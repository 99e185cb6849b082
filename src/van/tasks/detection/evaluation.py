"""How good a detector is: COCO's metrics for boxes and masks, and a sheet of predictions beside the annotations."""

from collections.abc import Iterable, Mapping, Sequence
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
from van.networks.detection.slices import in_slices
from van.tasks.detection.metrics import BOX, MASK
from van.tasks.detection.results import Detections

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET = 12  # images on the sheet of predictions
_MASK_THRESHOLD = 0.5  # probability from which a pixel belongs to an object
_SLICE_IOU = 0.5  # for architectures without suppression of their own
_SMALLEST = 0.01  # pixels: boxes with a shorter side are empty, also in files that round to this


def detect(predictor: Predictor, images: Sequence[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return what a detector gives for images (3, H, W), seen whole, or in slices too where inference asks for it."""
    images, inference = [image.to(predictor.device) for image in images], predictor.inference
    if inference.slice is None:
        return predictor.model(images)
    own = getattr(predictor.model.options, "nms_threshold", _SLICE_IOU)
    iou = own if inference.iou is None else inference.iou
    return in_slices(predictor.model, images, inference.slice, inference.share, iou, predictor.batch_size)


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

    def write(self, folder: Path) -> list[str]:
        """Write all detections in COCO's results format."""
        (self.evaluator.masks or self.evaluator.boxes).write_results(folder / "detections.json")
        return ["detections.json"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return a sheet of some images with objects: annotations beside predictions."""
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
