"""How good a pose network is: COCO's metrics for keypoints, and a sheet of predictions beside the annotations."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from van.data.pose import PoseDataset, annotated_persons
from van.engine.coco import CocoEvaluator
from van.engine.evaluation import Evaluation, line_of, spread
from van.engine.predictor import Predictor
from van.networks.pose import coco_results
from van.tasks.pose.inference import heat_maps, keypoint_sigmas, suppress
from van.tasks.pose.metrics import KEYPOINT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET = 12  # images on the sheet of predictions
_LABELED = 0.5  # visibility from which annotated keypoints are drawn


class PoseEvaluator(CocoEvaluator):
    """COCO's metrics of a pose network, in training and in evaluation.

    Args:
        persons: The annotated persons.
        stride: Pixels of the crop per pixel of the heat maps.
    """

    def __init__(self, persons: PoseDataset, stride: int) -> None:
        super().__init__(persons.split, "keypoints", keypoint_sigmas(len(persons.names)))
        self.stride = stride

    def update(self, maps: torch.Tensor, batch: dict[str, Any]) -> None:  # type: ignore[override]
        """Add heat maps (B, K, h, w) of a batch of a PoseDataset."""
        super().update(coco_results(maps, batch, self.stride))


class PoseEvaluation(Evaluation):
    """COCO's metrics for keypoints, results and a sheet of predictions.

    Args:
        predictor: A pose network.
        persons: Crops without random changes.
        workers: Loading processes.
    """

    def __init__(self, predictor: Predictor, persons: PoseDataset, workers: int) -> None:
        evaluator = PoseEvaluator(persons, predictor.model.stride)
        super().__init__(predictor, persons, workers, evaluator, KEYPOINT)

    def size(self) -> int:
        """Return how many images are measured."""
        return len(self.split.split)

    def batches(self) -> Iterable[Any]:
        """Return the crops in order."""
        from torch.utils.data import DataLoader

        return DataLoader(self.split, self.predictor.batch_size, num_workers=self.workers)

    def update(self, batch: Any) -> None:
        """Count what the network finds on a batch of crops."""
        self.evaluator.update(heat_maps(self.predictor, batch["image"]), batch)

    def compute(self) -> dict[str, float]:
        """Return the metrics by key; of persons that a detector has found twice only the better one counts."""
        if self.split.boxes is not None:
            self._keep_one_of_each()
        return super().compute()

    def _keep_one_of_each(self) -> None:
        results = self.evaluator.results
        by_image: dict[Any, list[int]] = {}
        for number, result in enumerate(results):
            by_image.setdefault(result["image_id"], []).append(number)
        kept = []
        for numbers in by_image.values():
            points = np.array([results[i]["keypoints"] for i in numbers]).reshape(len(numbers), -1, 3)
            scores = np.array([results[i]["score"] for i in numbers])
            areas = np.array([np.prod(self.split.persons[i].box[2:]) for i in numbers])
            threshold = self.predictor.inference.oks_threshold
            kept += [results[numbers[i]] for i in suppress(points, scores, areas, threshold)]
        self.evaluator.reset()
        CocoEvaluator.update(self.evaluator, kept)

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics, and what they were measured with."""
        return {
            "images": self.size(),
            "persons": len(self.evaluator.results),
            "boxes": self.split.boxes or "annotated",
            "flip_test": self.predictor.inference.flip_test,
            **values,
        }

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return precision and recall on a line each, after the number of persons."""
        boxes = "detected" if self.split.boxes else "annotated"
        half = len(self.metrics) // 2
        return [
            f"{len(self.evaluator.results)} persons in {boxes} boxes",
            line_of(self.metrics[:half], values),
            line_of(self.metrics[half:], values),
        ]

    def write(self, folder: Path) -> list[str]:
        """Write the poses in COCO's results format."""
        self.evaluator.write_results(folder / "keypoint_results.json")
        return ["keypoint_results.json"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return a sheet of some images with persons: annotations beside predictions."""
        from van.data.images import read_image
        from van.engine.drawing import SIDES, draw_keypoints
        from van.engine.plots import PANEL, sheet

        truth: dict[int, list[np.ndarray]] = {}
        for person in annotated_persons(self.split.split):
            truth.setdefault(person.image_id, []).append(person.keypoints)
        found: dict[int, list[np.ndarray]] = {}
        for result in self.evaluator.results:
            found.setdefault(result["image_id"], []).append(np.array(result["keypoints"]).reshape(-1, 3))
        both = sorted(truth)
        threshold = self.predictor.inference.keypoint_threshold
        groups, captions = [], []
        for image_id in (both[i] for i in spread(len(both), _SHEET)):
            image = read_image(self.split.paths[image_id])
            panels = ((truth[image_id], _LABELED), (found.get(image_id, []), threshold))
            names, skeleton = self.split.names, self.predictor.extra["skeleton"]
            groups.append(
                [
                    draw_keypoints(image, poses, names, skeleton, score_threshold=least, size=PANEL)
                    for poses, least in panels
                ]
            )
            captions.append(f"{len(panels[0][0])} annotated, {len(panels[1][0])} predicted")
        line = f"{title}: keypoints with a score of {threshold:g} or more"
        return {"predictions": sheet(groups, ("annotated", "predicted"), line, SIDES, captions)}
