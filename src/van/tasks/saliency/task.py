"""Salient object detection: how much every pixel attracts the eye."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from van.engine.options import CheckOptions
from van.engine.result import Result
from van.engine.task import Task
from van.tasks.saliency.metrics import METRICS
from van.tasks.saliency.options import (
    SaliencyEvaluateOptions,
    SaliencyInference,
    SaliencyPredictOptions,
    SaliencyTrainOptions,
)
from van.tasks.saliency.results import Saliency

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


class SaliencyTask(Task):
    """Salient object detection."""

    name = "saliency"
    summary = "which pixels belong to salient objects"
    metrics = tuple(metric for metric in METRICS if metric.key in ("max_F", "weighted_F", "S", "MAE"))
    formats = ("images with black-and-white masks", "DUTS")
    demo = "saliency/edn_van_b0_shapes"
    demo_data = "shapes"
    result = Saliency
    train_options = SaliencyTrainOptions
    evaluate_options = SaliencyEvaluateOptions
    predict_options = SaliencyPredictOptions
    inference = SaliencyInference
    architecture = "edn"

    def data(self, options: SaliencyTrainOptions, processes: int) -> "DataModule":
        """Return images with masks of salient objects."""
        from van.tasks.saliency.data import saliency_data

        return saliency_data(options, processes)

    def learner(self, network: "nn.Module", options: SaliencyTrainOptions, data: "DataModule") -> "Learner":
        """Return the network's own loss, measured by F, S, E and mean absolute error."""
        from van.tasks.saliency.learner import SaliencyLearner

        return SaliencyLearner(network, options)

    def counted(
        self, options: SaliencyTrainOptions, num_classes: int | None
    ) -> "tuple[nn.Module, tuple[int, int, int], str]":
        """Return the network of a recipe on the meta device, its image size, and its name."""
        return super().counted(options, 1)

    def predict(self, predictor: "Predictor", items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return the saliency of every pixel."""
        from van.networks.segmentation.inference import saliency_maps

        images = [item.to(predictor.device) for item in items]
        maps = saliency_maps(predictor.model, images, predictor.inference)
        return [
            Saliency(class_names=predictor.class_names, size=size, saliency=one.cpu().numpy())
            for size, one in zip(sizes, maps, strict=True)
        ]

    def graph(self, predictor: "Predictor", preprocess: bool = False, postprocess: bool = False) -> "Graph":
        """Return what an exported file computes; see SaliencyGraph."""
        from van.tasks.saliency.graph import SaliencyGraph

        return SaliencyGraph(predictor, preprocess, postprocess)

    def open_split(self, options: SaliencyEvaluateOptions, predictor: "Predictor") -> tuple[Any, list[str]]:
        """Return images with masks."""
        from van.tasks.saliency.data import evaluation_split

        return evaluation_split(options, predictor.extra.get("split"))

    def evaluation(self, predictor: "Predictor", split: Any, workers: int) -> Any:
        """Return what measures maps."""
        from van.tasks.saliency.evaluation import SaliencyEvaluation

        return SaliencyEvaluation(predictor, split, workers)

    # ------------------------------------------------------------------------------------------------ showing data

    def picture(self, data: "DataModule", sample: Any, size: int) -> "Image":
        """Return the image with its salient pixels in color."""
        import numpy as np
        from torchvision.transforms.v2.functional import to_pil_image

        from van.engine.drawing import draw_classes

        image, mask = sample
        labels = np.where(mask.numpy() > 0, 0, 1)
        return draw_classes(to_pil_image(image), labels, [*data.class_names, "background"], False, size)

    def legend(self, data: "DataModule") -> "Sequence[LegendEntry]":
        """Return the color of salient pixels."""
        from van.engine.drawing import class_legend

        return class_legend(data.class_names)[:1]

    # ------------------------------------------------------------------------------------------------ checking data

    def find_data(self, options: CheckOptions) -> Any:
        """Find images with salient masks."""
        from van.data.folders import data_folder
        from van.data.saliency import find_saliency_splits

        return find_saliency_splits(data_folder(options.data, options.data_root))

    def check(self, splits: Any, options: CheckOptions) -> "list[Problem]":
        """Look for broken images and wrong masks."""
        from van.data.pixel_checks import check

        return check(splits, options.decode, options.workers)

    def suspects(self, predictor: "Predictor", split: Any, workers: int) -> "Suspects":
        """Return the images whose maps differ most from their masks."""
        from van.tasks.saliency.evaluation import SaliencyEvaluation

        return SaliencyEvaluation(predictor, split, workers).suspects()

    def write_data(self, found: Any, splits: Any, folder: "Path") -> tuple[str, list[str]]:
        """Write images and masks in folders."""
        from van.data.fixing import write_pairs

        write_pairs(splits, folder)
        return "images and masks", []


TASK = SaliencyTask()
