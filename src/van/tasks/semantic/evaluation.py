"""Measuring semantic segmentation: IoU, accuracies, boundaries, those of each class, a sheet of predictions."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from van.data.classes import match_classes
from van.data.semantic import IGNORED, SemanticDataset
from van.engine.evaluation import Evaluation, spread
from van.engine.predictor import Predictor
from van.engine.sums import Sums
from van.engine.suspects import Suspects, disagreement, pixel_suspects
from van.errors import DataError
from van.networks.segmentation.inference import label_maps
from van.tasks.semantic.metrics import BOUNDARY, METRICS, boundary_scores, class_values, mean_values

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET = 10  # images on the sheet of predictions


class SemanticEvaluator(Sums):
    """Counts pixels by true and predicted class, over all processes.

    Args:
        class_names: Names in the order of the labels.
        boundaries: Compare boundaries too, which takes longer than all else.

    Attributes:
        sums: Sum of the boundary scores and number of images, of each class that an image has, and in the last row of
            the mean over the classes of an image, shape (K + 1, 2).
        confusion: Pixels by true class (rows) and predicted class (columns), shape (K, K).
    """

    confusion: torch.Tensor

    def __init__(self, class_names: Sequence[str], boundaries: bool = False) -> None:
        super().__init__(len(class_names) + 1, 2)
        self.class_names = list(class_names)
        self.boundaries = boundaries
        zeros = torch.zeros(len(self.class_names), len(self.class_names), dtype=torch.long)
        self.add_state("confusion", zeros, dist_reduce_fx="sum")

    def update(self, found: Sequence[torch.Tensor], true: Sequence[torch.Tensor]) -> None:
        """Add some images. Pixels are counted where the predictions are.

        Args:
            found: Predicted labels (H, W) of each image.
            true: True labels (H, W) of each image, 255 for ignored pixels.

        Raises:
            DataError: shapes differ, or a label is no class.
        """
        for one, other in zip(found, true, strict=True):
            self._add(torch.as_tensor(one), torch.as_tensor(other))

    def _add(self, found: torch.Tensor, true: torch.Tensor) -> None:
        if found.shape != true.shape:
            raise DataError(
                f"Predicted labels have shape {tuple(found.shape)}, true ones {tuple(true.shape)}, expected the same."
            )
        number = len(self.class_names)
        maps = found, true
        found = found.flatten().long()
        true = true.flatten().to(found)
        if not len(found):
            return
        for name, labels in (("predicted", found), ("true", true.where(true != IGNORED, 0))):
            least, most = int(labels.min()), int(labels.max())
            if not 0 <= least <= most < number:
                raise DataError(
                    f"There are {name} labels from {least} to {most}, expected 0 to {number - 1} for {number} classes."
                )
        # one class more for ignored pixels: taking them out would take longer than counting
        true = true.where(true != IGNORED, number)
        counts = multiclass_confusion_matrix(found, true, number + 1, validate_args=False)[:number, :number]
        self.confusion += counts.to(self.confusion)
        if self.boundaries and (scores := boundary_scores(*(one.cpu().numpy() for one in maps))):
            rows = [*scores, number]
            values = [*scores.values(), sum(scores.values()) / len(scores)]
            self.sums[rows] += torch.tensor([[value, 1.0] for value in values]).to(self.sums)

    def compute(self) -> dict[str, float]:
        """Return mIoU, mAcc and aAcc, and BF where boundaries are compared; see van.tasks.semantic.metrics."""
        values = mean_values(self.confusion.cpu().numpy())
        return {**values, BOUNDARY.key: self._boundary_means()[-1]} if self.boundaries else values

    def _boundary_means(self) -> list[float]:
        """Return the boundary score of each class, and the mean over the images; -1 where there is none."""
        return [score / count if count else -1.0 for score, count in self.sums.tolist()]

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, number of pixels, IoU, accuracy and perhaps BF of each class; None where not defined."""
        confusion = self.confusion.cpu().numpy()
        ious, accuracies = class_values(confusion)
        columns = {"IoU": ious, "accuracy": accuracies}
        if self.boundaries:
            columns[BOUNDARY.key] = np.array(self._boundary_means()[:-1])
        return [
            {"class": name, "pixels": pixels, **{key: _rounded(values[label]) for key, values in columns.items()}}
            for label, (name, pixels) in enumerate(zip(self.class_names, confusion.sum(1).tolist(), strict=True))
        ]


def _rounded(value: float) -> float | None:
    return round(float(value), 6) if value >= 0 else None


class SemanticEvaluation(Evaluation):
    """IoU, accuracies and boundary score of a predictor; classes of the data are matched with its own by name."""

    columns = ("pixels", "IoU", "accuracy", BOUNDARY.key)

    def __init__(self, predictor: Predictor, split: Any, workers: int) -> None:
        evaluator = SemanticEvaluator(predictor.class_names, boundaries=True)
        super().__init__(predictor, split, workers, evaluator, (*METRICS, BOUNDARY))
        own = match_classes(split.class_names, predictor.class_names, split.name)
        self._own = torch.full((256,), IGNORED, dtype=torch.uint8)
        self._own[: len(own)] = torch.tensor(own, dtype=torch.uint8)

    def batches(self) -> Iterable[Any]:
        """Return lists of images (3, H, W) and of labels (H, W)."""
        from van.data.loaders import evaluation_loader

        return evaluation_loader(SemanticDataset(self.split), self.predictor.batch_size, self.workers)

    def update(self, batch: Any) -> None:
        """Count the labels that the predictor finds on a batch."""
        images, targets = batch
        images = [image.to(self.predictor.device) for image in images]
        found = label_maps(self.predictor.model, images, self.predictor.inference)
        self.evaluator.update(found, [self._own[target.long()] for target in targets])

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, number of pixels, IoU, accuracy and boundary score of each class."""
        return self.evaluator.per_class()

    def suspects(self) -> Suspects:
        """Return the images whose pixels differ most from their labels."""
        names = self.predictor.class_names

        def differences() -> Iterator[dict[str, Any]]:
            with torch.inference_mode():
                for images, targets in self.batches():
                    images = [image.to(self.predictor.device) for image in images]
                    found = label_maps(self.predictor.model, images, self.predictor.inference)
                    for one, target in zip(found, targets, strict=True):
                        yield disagreement(self._own[target.long()].numpy(), one.cpu().numpy(), names)

        rule = "the share of the labeled pixels that are predicted as another class"
        paths = [str(path) for path in self.split.images]
        from van.engine.drawing import class_legend

        return pixel_suspects(paths, differences(), self._panels, rule, class_legend(names))

    def _panels(self, index: int) -> list[Any]:
        """Return an image, its true and its predicted labels."""
        from van.data.images import read_image
        from van.engine.drawing import draw_classes
        from van.engine.plots import PANEL

        image = read_image(self.split.images[index])
        maps: list[np.ndarray] = [self._own.numpy()[self.split.labels(index)], self.predictor(image).labels]
        return [image, *(draw_classes(image, labels, self.predictor.class_names, False, PANEL) for labels in maps)]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return the confusion matrix, and a sheet of images with their true and predicted labels."""
        from van.engine.drawing import class_legend
        from van.engine.plots import confusion, sheet

        groups = [self._panels(place) for place in spread(len(self.split), _SHEET)]
        line = f"{title}: {METRICS[0].label} {METRICS[0].text(values['mIoU'])}"
        figure = sheet(groups, ("image", "truth", "prediction"), line, class_legend(self.predictor.class_names))
        matrix = confusion(self.evaluator.confusion.cpu().numpy(), self.predictor.class_names, line, "pixels")
        return {"confusion_matrix": matrix, "predictions": figure}
