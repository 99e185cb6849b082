"""Object detection and instance segmentation: two tasks that differ by masks."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from van.engine.options import CheckOptions, TrainOptions
from van.engine.result import Result
from van.engine.task import Task
from van.errors import VanError
from van.tasks.detection.metrics import BOX, MASK
from van.tasks.detection.options import (
    DetectionEvaluateOptions,
    DetectionInference,
    DetectionTrainOptions,
    InstancesTrainOptions,
)
from van.tasks.detection.results import Detections

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import nn

    from van.data.checks import Problem
    from van.data.labels import Need
    from van.engine.data import DataModule
    from van.engine.evaluation import Evaluation
    from van.engine.graph import Graph
    from van.engine.labeling import LabelWriter
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.engine.suspects import Suspects

_AGNOSTIC_IOU = 0.5  # for architectures without suppression of their own


class DetectionTask(Task):
    """Object detection: a box, a class and a score for each object."""

    name = "detection"
    summary = "objects as boxes with classes"
    metrics = BOX[:3]
    formats = ("COCO", "YOLO", "Pascal VOC", "LabelMe", "CVAT", "Label Studio", "Open Images")
    demo = "detection/fcos_van_b0_shapes"
    demo_data = "shapes"
    result = Detections
    train_options: ClassVar[type[TrainOptions]] = DetectionTrainOptions
    evaluate_options = DetectionEvaluateOptions
    inference = DetectionInference
    label_formats = ("coco", "yolo", "voc")
    predict_only = ("agnostic_nms", "classes", "max_detections")
    architecture: ClassVar[str | None] = "retinanet"
    masks: ClassVar[bool] = False

    @property
    def need(self) -> "Need":
        """What the labels must hold."""
        return "masks" if self.masks else "boxes"

    # ------------------------------------------------------------------------------------------------ training

    def data(self, options: DetectionTrainOptions, processes: int) -> "DataModule":
        """Return annotated images, without what cannot be used."""
        from van.tasks.detection.data import DetectionData

        return DetectionData(options, self.masks, options.batch_size // processes)

    def learner(self, network: "nn.Module", options: DetectionTrainOptions, data: "DataModule") -> "Learner":
        """Return the losses of the detector and COCO's metrics."""
        from van.engine.learner import Learner
        from van.tasks.detection.evaluation import DetectionEvaluator

        return Learner(network, self.metrics, DetectionEvaluator(data.split, self.masks), options)

    def curve_options(self, options: DetectionTrainOptions, data: "DataModule") -> dict[str, Any]:
        """Say what the loss is."""
        return {"loss_label": "sum of the losses"}

    # ------------------------------------------------------------------------------------------------ inference

    def ready(self, predictor: "Predictor") -> None:
        """Give the network the thresholds that options of inference ask for.

        Raises:
            VanError: a class is unknown, or the network has no non-maximum suppression to give an IoU.
        """
        inference, options, changes = predictor.inference, predictor.model.options, {}
        predictor.labels_of(inference.classes)
        if inference.iou is not None:
            if hasattr(options, "nms_threshold"):
                changes["nms_threshold"] = inference.iou
            elif not (inference.agnostic_nms or inference.slice or inference.flip_test):
                raise VanError(
                    f"iou is {inference.iou}, but {options.architecture} has no non-maximum suppression. Leave it out, "
                    "or add agnostic_nms to keep one box per object."
                )
        most = inference.max_detections
        if most is not None and most > getattr(options, "detections_per_image", most):
            changes["detections_per_image"] = most
        if changes:
            device = next(predictor.model.parameters()).device  # meta where an exported file has the weights
            network = replace(options, **changes).build(len(predictor.class_names), device=device)
            network.load_state_dict(predictor.model.state_dict())
            predictor.model = network

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return the objects on each image that options of inference keep."""
        from van.tasks.detection.evaluation import detect, detections_of

        outputs = detect(predictor, items)
        names = predictor.class_names
        return [_kept(detections_of(one, size, names), predictor) for one, size in zip(outputs, sizes, strict=True)]

    def label_writer(self, predictor: "Predictor", folder: Path, to: str) -> "LabelWriter":
        """Return what writes boxes, or masks."""
        from van.engine.labeling import ObjectLabels

        return ObjectLabels(folder, to, self.need)

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see DetectionGraph."""
        from van.tasks.detection.graph import DetectionGraph

        return DetectionGraph(predictor, preprocess, postprocess)

    def open_split(self, options: DetectionEvaluateOptions, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return annotated images, without what cannot be used."""
        from van.data.coco_checks import usable_split
        from van.data.labels import open_labels
        from van.data.splits import evaluated_split
        from van.tasks.detection.evaluation import category_ids_of

        splits = open_labels(options.data, self.need, options.data_root)
        found, options.split, notes = evaluated_split(splits, options.split, predictor.extra.get("split"), options.data)
        skip = options.on_bad_image == "skip"
        split, more = usable_split(found, options.on_bad_image, self.masks, skip, options.workers)
        category_ids_of(predictor.class_names, split)  # classes that do not match show before anything is written
        return split, notes + more

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> "Evaluation":
        """Return what measures a detector."""
        from van.tasks.detection.evaluation import DetectionEvaluation

        return DetectionEvaluation(predictor, split, workers, self.masks)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return the image with its boxes, and masks where they are learned."""
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_boxes

        image, target = sample
        masks = target["masks"].numpy().astype(bool) if self.masks else None
        boxes, labels = target["boxes"].numpy(), target["labels"].numpy()
        return draw_boxes(to_pil_image(image), boxes, labels, data.class_names, masks=masks, size=size)

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: CheckOptions) -> Any:
        """Find label files of a known format."""
        from van.data.labels import find_labels

        return find_labels(options.data, self.need, options.data_root)

    def read_data(self, found: Any) -> dict[Any, Any]:
        """Read the labels by split."""
        return found.read()

    def check(self, splits: Any, options: CheckOptions) -> "list[Problem]":
        """Look for broken images and wrong annotations."""
        from van.data.coco_checks import check

        return check(splits, options.decode, options.workers, self.masks or None)

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return labels that the network contradicts."""
        from van.tasks.detection.suspects import find_suspects

        return find_suspects(predictor, split, workers)

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write the labels in their format where it can be written, else as COCO."""
        from van.data.labels.convert import WRITTEN, most_of, write_labels

        to = next((key for key, name in WRITTEN.items() if name == found.format), "coco")
        return WRITTEN[to], write_labels(splits, folder, to, most_of(splits))[1]


class InstancesTask(DetectionTask):
    """Instance segmentation: a mask, a box, a class and a score for each object."""

    name = "instances"
    summary = "objects as masks with boxes and classes"
    metrics = (*MASK[:3], *BOX[:3])
    demo = "instances/mask_rcnn_van_b0_shapes"
    train_options = InstancesTrainOptions
    architecture = "mask_rcnn"
    masks = True


def _kept(found: Detections, predictor: "Predictor") -> Detections:
    """Return the detections that options of inference keep."""
    import numpy as np
    import torch
    from torchvision.ops import nms

    inference = predictor.inference
    found.category_ids = predictor.extra.get("category_ids")
    if inference.classes is not None:
        found = found.chosen(np.isin(found.labels, predictor.labels_of(inference.classes)))
    found.best_score = float(found.scores[0]) if len(found) else None
    found = found.above(inference.score_threshold)
    if inference.agnostic_nms:
        own = getattr(predictor.model.options, "nms_threshold", _AGNOSTIC_IOU)
        iou = own if inference.iou is None else inference.iou
        found = found.chosen(nms(torch.from_numpy(found.boxes), torch.from_numpy(found.scores), iou).numpy())
    return found.chosen(np.arange(len(found))[: inference.max_detections])


DETECTION = DetectionTask()
INSTANCES = InstancesTask()
