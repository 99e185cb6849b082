"""Semantic segmentation: one class per pixel."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.engine.result import Result
from van.engine.task import Task
from van.tasks.semantic.metrics import METRICS
from van.tasks.semantic.options import (
    SemanticCheckOptions,
    SemanticEvaluateOptions,
    SemanticInference,
    SemanticPredictOptions,
    SemanticTrainOptions,
)
from van.tasks.semantic.results import Segmentation

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from van.data.checks import Problem
    from van.engine.data import DataModule
    from van.engine.drawing import LegendEntry
    from van.engine.graph import Graph
    from van.engine.labeling import LabelWriter
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.engine.suspects import Suspects
    from van.models.weight_file import Header

# how the published models of OpenMMLab are tested
_OPENMMLAB = {"fit": (512, 2048), "to_multiple": "resize", "antialias": False}


class SemanticTask(Task):
    """Semantic segmentation."""

    name = "semantic"
    summary = "a class for every pixel"
    metrics = METRICS
    formats = (
        "images with masks and a class file",
        "ADE20K",
        "Pascal VOC",
        "objects with masks in COCO, YOLO, LabelMe, CVAT and Label Studio",
    )
    demo = "semantic/fpn_van_b0_shapes"
    demo_data = "shapes"
    result = Segmentation
    train_options = SemanticTrainOptions
    evaluate_options = SemanticEvaluateOptions
    predict_options = SemanticPredictOptions
    check_options = SemanticCheckOptions
    inference = SemanticInference
    label_formats = ("masks",)
    architecture = "semantic_fpn"

    def data(self, options: SemanticTrainOptions, processes: int) -> "DataModule":
        """Return images with labels of their pixels."""
        from van.tasks.semantic.data import semantic_data

        return semantic_data(options, processes)

    def learner(self, network: "nn.Module", options: SemanticTrainOptions, data: "DataModule") -> "Learner":
        """Return the network's own loss, measured by IoU and accuracies."""
        from van.tasks.semantic.learner import SemanticLearner

        return SemanticLearner(network, data.class_names, options)

    def load(self, weights: str | Path) -> "tuple[nn.Module, Header]":
        """Return the network of a weight file of ours, or of a segmentation checkpoint of OpenMMLab.

        With OpenMMLab's, images are seen as its published models were tested, at a single scale, and classes that the
        file does not name are called by their numbers.
        """
        from van.engine.parsing import to_mapping
        from van.models.weight_file import Header, describe
        from van.networks.segmentation.openmmlab import segmenter_from_openmmlab

        if describe(weights).model:
            return super().load(weights)
        network, names = segmenter_from_openmmlab(weights)
        names = names or [str(label) for label in range(network.num_classes)]
        return network, Header(self.name, names, to_mapping(network.options), {"inference": dict(_OPENMMLAB)})

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return the class of every pixel."""
        from van.networks.segmentation.inference import label_maps

        images = [item.to(predictor.device) for item in items]
        maps = label_maps(predictor.model, images, predictor.inference)
        return [
            Segmentation(class_names=predictor.class_names, size=size, labels=labels.cpu().numpy())
            for size, labels in zip(sizes, maps, strict=True)
        ]

    def label_writer(self, predictor: "Predictor", folder: Path, to: str) -> "LabelWriter":
        """Return what writes a mask for each image, and the names of the classes."""
        from van.tasks.semantic.labels import MaskLabels

        return MaskLabels(folder, predictor.class_names)

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see SemanticGraph."""
        from van.tasks.semantic.graph import SemanticGraph

        return SemanticGraph(predictor, preprocess, postprocess)

    def open_split(self, options: SemanticEvaluateOptions, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return images with labels, whose classes the predictor knows."""
        from van.tasks.semantic.data import evaluation_split

        return evaluation_split(options, predictor.class_names, predictor.extra.get("split"))

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> Any:
        """Return what measures labels of pixels."""
        from van.tasks.semantic.evaluation import SemanticEvaluation

        return SemanticEvaluation(predictor, split, workers)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return the image in the colors of its classes."""
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_classes

        image, labels = sample
        return draw_classes(to_pil_image(image), labels.numpy(), data.class_names, False, size)

    def legend(self, data: "DataModule") -> "Sequence[LegendEntry]":
        """Return the colors of the classes."""
        from van.engine.drawing import class_legend

        return class_legend(data.class_names)

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: SemanticCheckOptions) -> Any:
        """Find images with masks of classes."""
        from van.data.folders import data_folder

        return options.format.find(data_folder(options.data, options.data_root))

    def read_data(self, found: Any) -> dict[Any, Any]:
        """Read the labels by split."""
        return found()

    def check(self, splits: Any, options: SemanticCheckOptions) -> "list[Problem]":
        """Look for broken images and wrong masks."""
        from van.data.pixel_checks import check

        return check(splits, options.decode, options.workers)

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return the images whose pixels differ most from their labels."""
        from van.tasks.semantic.evaluation import SemanticEvaluation

        return SemanticEvaluation(predictor, split, workers).suspects()

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write images and masks in folders."""
        from van.data.fixing import write_pairs

        write_pairs(splits, folder)
        return "images and masks", []


TASK = SemanticTask()
