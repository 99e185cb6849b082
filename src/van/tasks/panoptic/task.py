"""Panoptic segmentation: every pixel belongs to an object of a countable class or to other stuff."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from van.engine.options import CheckOptions
from van.engine.result import Result
from van.engine.task import Task
from van.tasks.panoptic.metrics import METRICS
from van.tasks.panoptic.options import (
    PanopticEvaluateOptions,
    PanopticInference,
    PanopticPredictOptions,
    PanopticTrainOptions,
)
from van.tasks.panoptic.results import Panoptic, PanopticFolderWriter

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import nn

    from van.data.checks import Problem
    from van.engine.data import DataModule
    from van.engine.drawing import LegendEntry
    from van.engine.graph import Graph
    from van.engine.learner import Learner
    from van.engine.predictor import Predictor
    from van.engine.suspects import Suspects


class PanopticTask(Task):
    """Panoptic segmentation."""

    name = "panoptic"
    summary = "every pixel belongs to an object or to stuff such as sky"
    metrics = METRICS[::3]  # PQ of all classes, of things and of stuff
    formats = ("COCO's panoptic format",)
    demo = "panoptic/mask2former_van_b0_shapes"
    demo_data = "shapes"
    result = Panoptic
    predict_only = ("classes", "max_detections")
    train_options = PanopticTrainOptions
    evaluate_options = PanopticEvaluateOptions
    predict_options = PanopticPredictOptions
    inference = PanopticInference
    writer = PanopticFolderWriter
    architecture = "mask2former"

    def data(self, options: PanopticTrainOptions, processes: int) -> "DataModule":
        """Return images with segments."""
        from van.tasks.panoptic.data import panoptic_data

        return panoptic_data(options, processes)

    def learner(self, network: "nn.Module", options: PanopticTrainOptions, data: "DataModule") -> "Learner":
        """Return the network's own loss, measured by panoptic quality."""
        from van.tasks.panoptic.learner import PanopticLearner

        return PanopticLearner(network, data.class_names, data.extra["isthing"], options)

    def ready(self, predictor: "Predictor") -> None:
        """Check the names of the classes to keep.

        Raises:
            VanError: one is unknown.
        """
        predictor.labels_of(predictor.inference.classes)

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return the segments of each image."""
        from van.tasks.panoptic.evaluation import find_segments, kept_segments

        images = [item.to(predictor.device) for item in items]
        found = find_segments(predictor.model, images, predictor.extra["isthing"], predictor.inference)
        found = [kept_segments(one, predictor) for one in found]
        return [
            Panoptic(
                class_names=predictor.class_names,
                size=size,
                segmentation=one["segmentation"].cpu().numpy(),
                segments=one["segments"],
                best_score=one["best_score"],
                score_threshold=predictor.inference.score_threshold,
            )
            for size, one in zip(sizes, found, strict=True)
        ]

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see PanopticGraph."""
        from van.tasks.panoptic.graph import PanopticGraph

        return PanopticGraph(predictor, preprocess, postprocess)

    def open_split(self, options: PanopticEvaluateOptions, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return images with segments, whose classes the predictor knows."""
        from van.tasks.panoptic.data import evaluation_split

        return evaluation_split(options, predictor.class_names, predictor.extra.get("split"))

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> Any:
        """Return what measures segments."""
        from van.tasks.panoptic.evaluation import PanopticEvaluation

        return PanopticEvaluation(predictor, split, workers)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return the image in the colors of its segments."""
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_segments

        image, target = sample
        numbers, segments = target["segmentation"].numpy(), target["segments"]
        return draw_segments(to_pil_image(image), numbers, segments, data.class_names, False, size)

    def legend(self, data: "DataModule") -> "Sequence[LegendEntry]":
        """Return the colors of the classes."""
        from van.engine.drawing import class_legend

        return class_legend(data.class_names, "no segment")

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: CheckOptions) -> Any:
        """Find panoptic annotations in COCO's format."""
        from van.data.folders import data_folder
        from van.data.panoptic import find_panoptic_splits

        return find_panoptic_splits(data_folder(options.data, options.data_root))

    def check(self, splits: Any, options: CheckOptions) -> "list[Problem]":
        """Look for broken images and wrong masks."""
        from van.data.pixel_checks import check

        return check(splits, options.decode, options.workers)

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return the images whose pixels differ most from the classes of their segments."""
        from van.tasks.panoptic.evaluation import PanopticEvaluation

        return PanopticEvaluation(predictor, split, workers).suspects()

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write COCO's panoptic format."""
        from van.data.fixing import write_panoptic

        write_panoptic(splits, folder)
        return "COCO panoptic", []


TASK = PanopticTask()
