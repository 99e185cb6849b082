"""How good a classifier is: accuracies, metrics per class, confusion matrix. And what evaluations of images share."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torchmetrics import Metric as State

from van.data.samples import Samples
from van.engine.evaluation import Evaluation, spread
from van.engine.metric import Metric
from van.engine.predictor import Predictor
from van.engine.run import WEIGHTS
from van.errors import DataError
from van.tasks.classification.gathered import Gathered
from van.tasks.classification.metrics import TOP1, accuracies
from van.tasks.classification.targets import Target

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_BINS = 15  # of confidences, as in Guo et al., 2017
_TEMPERATURES = (0.05, 20.0)
_SHOWN = 32  # images on a sheet
ERRORS = 1000
"""Lines of errors.csv."""


def calibration(confidence: np.ndarray, right: np.ndarray, bins: int = _BINS) -> tuple[float, np.ndarray]:
    """Return the expected calibration error (Guo et al., 2017, arXiv 1706.04599, equation 3), and what it comes from.

    Args:
        confidence: Probability of the best class of each image, shape (N,).
        right: Whether it is the true one, shape (N,).
        bins: Number of bins of equal width.

    Returns:
        The error from 0 to 1; and number of images, mean confidence and accuracy of each bin, NaN where it is empty,
        shape (bins, 3).
    """
    # a bin contains its upper end
    places = np.clip(np.ceil(confidence.astype(float) * bins).astype(int) - 1, 0, bins - 1)
    counts, sums, hits = (np.bincount(places, w, minlength=bins) for w in (None, confidence, right))
    means = [np.divide(part, counts, out=np.full(bins, np.nan), where=counts > 0) for part in (sums, hits)]
    return float(np.abs(sums - hits).sum() / max(1, len(confidence))), np.stack([counts, *means], axis=1)


def likelihood(logits: torch.Tensor, labels: torch.Tensor, temperature: float) -> float:
    """Return the mean negative log-likelihood of true labels (N,) where logits (N, K) are divided by a temperature."""
    return float(torch.nn.functional.cross_entropy(logits / temperature, labels))


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the temperature from 0.05 to 20 that makes true labels most likely (Guo et al., 2017, section 4.2).

    Args:
        logits: Shape (N, K).
        labels: True classes, shape (N,).
    """
    from scipy.optimize import minimize_scalar

    bounds = [math.log(limit) for limit in _TEMPERATURES]
    found: Any = minimize_scalar(lambda log: likelihood(logits, labels, math.exp(log)), bounds=bounds, method="bounded")
    return math.exp(found.x)


def log_probabilities_of(predictor: Predictor, images: torch.Tensor) -> torch.Tensor:
    """Return logarithms of class probabilities (B, classes) of prepared images (B, C, H, W), as inference asks for."""
    images, temperature = images.to(predictor.device), predictor.inference.temperature
    views = [images, images.flip(3)] if predictor.inference.flip_test else [images]
    found = torch.stack([(predictor.model(view).float() / temperature).log_softmax(dim=1) for view in views])
    return found.logsumexp(dim=0) - math.log(len(views))


def answers_of(predictor: Predictor, images: torch.Tensor) -> torch.Tensor:
    """Return probabilities or numbers (B, names) of prepared images (B, C, H, W) on the CPU, as inference asks for."""
    images, target = images.to(predictor.device), predictor.state["target"]
    views = [images, images.flip(3)] if predictor.inference.flip_test else [images]
    found = [target.answers(predictor.model(view).float() / predictor.inference.temperature) for view in views]
    return torch.stack(found).mean(dim=0).cpu()


class AccuracyEvaluator(State):
    """Top-1 and top-5 accuracy over all processes.

    Args:
        num_classes: Number of classes.
    """

    full_state_update = False
    right: torch.Tensor
    count: torch.Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.metrics = accuracies(num_classes)
        self.add_state("right", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: torch.Tensor, target: torch.Tensor) -> None:
        """Count logits (B, classes) with their labels (B,)."""
        best = logits.topk(min(5, logits.shape[1]), dim=1).indices == target[:, None]
        self.right += torch.stack([best[:, 0].sum(), best.sum()])
        self.count += len(target)

    def compute(self) -> dict[str, float]:
        """Return the accuracies by key."""
        shares = (self.right / self.count.clamp(min=1)).tolist()
        return dict(zip((metric.key for metric in self.metrics), shares, strict=False))


class ImageEvaluation(Evaluation):
    """Measures what a network of the task classification gives for preprocessed images."""

    def batches(self) -> Iterable[Any]:
        """Return preprocessed images (B, C, H, W) and targets."""
        from van.tasks.classification.data import evaluation_loader

        return evaluation_loader(
            self.split, self.predictor.extra["preprocessing"], self.predictor.batch_size, self.workers
        )

    def shown(self, errors: np.ndarray) -> list[int]:
        """Return which images a sheet shows: the worst ones, then others at even distances.

        Args:
            errors: How wrong each image is, 0 for not at all, shape (N,).
        """
        worst = np.argsort(-errors, kind="stable")
        worst = worst[errors[worst] > 0][: _SHOWN // 2]
        others = np.setdiff1d(np.arange(len(errors)), worst)
        return [*worst.tolist(), *others[spread(len(others), _SHOWN - len(worst))].tolist()]

    def sheet(self, captions: Mapping[int, str], wrong: np.ndarray, title: str) -> "Figure":
        """Draw images with captions; see van.engine.plots.captioned_sheet."""
        from van.data.images import read_image
        from van.engine.plots import captioned_sheet

        def load(index: int) -> Any:
            return read_image(self.split.load(index), name=self.split.name(index))

        return captioned_sheet(load, captions, wrong, title)


class GatheredEvaluation(ImageEvaluation):
    """Measures outputs that are needed all together.

    Args:
        predictor: See Evaluation.
        split: See Evaluation.
        workers: See Evaluation.
        evaluator: Keeps them.
        metrics: See Evaluation.
        target: What they mean.
    """

    def __init__(
        self,
        predictor: Predictor,
        split: Any,
        workers: int,
        evaluator: Gathered,
        metrics: Sequence[Metric],
        target: Target,
    ) -> None:
        super().__init__(predictor, split, workers, evaluator, metrics)
        self.target = target
        self._count = 0

    def update(self, batch: Any) -> None:
        """Keep what the network answers on a batch."""
        images, truth = batch
        self.evaluator.update(answers_of(self.predictor, images), truth)
        self._count += len(images)

    def size(self) -> int:
        """Return how many images were measured."""
        return self._count

    def compute(self) -> dict[str, float]:
        """Return the metrics by key.

        Raises:
            DataError: there were no images.
        """
        if not self._count:
            raise DataError("There are no images to evaluate the model on. Check the data.")
        return super().compute()


class ClassificationEvaluation(ImageEvaluation):
    """Accuracies of a classifier, metrics per class, a confusion matrix and a sheet of predictions.

    Attributes:
        labels: True class of each image, shape (N,).
        top: The most probable classes of each image, best first, shape (N, k).
        confidence: Probability of the best class, shape (N,).
        temperature: The one that was fitted, where that was asked for.
        calibrated: Probability of the best class with it, shape (N,).
    """

    columns = ("images", "precision", "recall", "f1")
    temperature: float | None = None
    calibrated: np.ndarray

    def __init__(self, predictor: Predictor, split: Any, workers: int) -> None:
        self.class_names = list(split.class_names)
        evaluator = AccuracyEvaluator(len(self.class_names))
        super().__init__(predictor, split, workers, evaluator, evaluator.metrics)
        self._seen: list[tuple[np.ndarray, ...]] = []
        self._weights: Any = predictor.state.get("calibrate")
        self._logits: list[torch.Tensor] = []  # of all images, where a temperature is fitted to them

    def update(self, batch: Any) -> None:
        """Count what the classifier answers on a batch."""
        images, target = batch
        found = log_probabilities_of(self.predictor, images).cpu()
        probabilities = found.exp()
        if self._weights is not None:  # logits but for a constant
            self._logits.append(found * self.predictor.inference.temperature)
        self.evaluator.update(probabilities, target)
        best = probabilities.topk(min(5, probabilities.shape[1]), dim=1)
        self._seen.append((target.numpy(), best.indices.numpy(), best.values[:, 0].numpy()))

    def compute(self) -> dict[str, float]:
        """Return the accuracies by key.

        Raises:
            DataError: there were no images.
        """
        if not self._seen:
            raise DataError("There are no images to evaluate the model on. Check the data.")
        self.labels, self.top, self.confidence = (np.concatenate(part) for part in zip(*self._seen, strict=True))
        if self._logits:
            logits, labels = torch.cat(self._logits), torch.from_numpy(self.labels)
            self.temperature = fit_temperature(logits, labels)
            self.calibrated = (logits / self.temperature).softmax(dim=1).amax(dim=1).numpy()
            pair = (self.predictor.inference.temperature, self.temperature)
            self._likelihoods = [likelihood(logits, labels, temperature) for temperature in pair]
            self._logits.clear()
        return super().compute()

    def size(self) -> int:
        """Return how many images were measured."""
        return len(self.labels)

    def confusion(self) -> np.ndarray:
        """Count images by true class (rows) and best class (columns), shape (classes, classes)."""
        return confusion_matrix(self.labels, self.top[:, 0], labels=range(len(self.class_names)))

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, images, precision, recall and F1 of each class; None where they are not defined."""
        numbers = range(len(self.class_names))
        precision, recall, f1, support = precision_recall_fscore_support(
            self.labels, self.top[:, 0], labels=numbers, zero_division=cast(Any, np.nan)
        )
        columns = zip(self.class_names, support, precision, recall, f1, strict=True)  # type: ignore[arg-type]
        return [
            {
                "class": name,
                "images": int(count),
                **{
                    k: None if np.isnan(v) else round(float(v), 6)
                    for k, v in (("precision", p), ("recall", r), ("f1", f if count else np.nan))
                },
            }
            for name, count, p, r, f in columns
        ]

    def calibration(self) -> tuple[float, np.ndarray]:
        """Return the expected calibration error and its bins; see the function of the same name."""
        return calibration(self.confidence, self.labels == self.top[:, 0])

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the accuracies and the expected calibration error, and what calibration has made of it."""
        content = {**super().report(values), "ECE": round(self.calibration()[0], 6)}
        if self.temperature is None:
            return content
        before, after = (round(value, 6) for value in self._likelihoods)
        error = round(self._calibrated()[0], 6)
        fitted = {"temperature": round(self.temperature, 6), "ECE_calibrated": error}
        return {**content, **fitted, "NLL": before, "NLL_calibrated": after}

    def _calibrated(self) -> tuple[float, np.ndarray]:
        return calibration(self.calibrated, self.labels == self.top[:, 0])

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return the accuracies, and the expected calibration error."""
        lines = [*super().lines(values), f"calibration error (ECE, {_BINS} bins) {100 * self.calibration()[0]:.2f} %"]
        if self.temperature is None:
            return lines
        before, after = self._likelihoods
        return [
            *lines,
            f"with temperature {self.temperature:.3f} instead of {self.predictor.inference.temperature:g}: calibration "
            f"error {100 * self._calibrated()[0]:.2f} %, negative log-likelihood {after:.4f} instead of {before:.4f}",
        ]

    def write(self, folder: Path) -> list[str]:
        """Write the most confident errors, and weights that keep the temperature that was fitted."""
        return [*self._write_errors(folder), *([self._write_weights(folder)] if self._weights is not None else [])]

    def _write_weights(self, folder: Path) -> str:
        from van.models.weight_file import write_weights

        network, header = self.predictor.task.load(self._weights)
        inference = {**(header.extra.get("inference") or {}), "temperature": self.temperature}
        header = replace(header, extra={**header.extra, "inference": inference})
        return write_weights(header, network.state_dict(), folder / WEIGHTS).name

    def _write_errors(self, folder: Path) -> list[str]:
        wrong = np.flatnonzero(self.labels != self.top[:, 0])
        wrong = wrong[np.argsort(-self.confidence[wrong], kind="stable")][:ERRORS]
        with (folder / "errors.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "true", "predicted", "probability"])
            for i in wrong.tolist():
                true, found = (self.class_names[int(label)] for label in (self.labels[i], self.top[i, 0]))
                writer.writerow([self.split.name(i), true, found, round(float(self.confidence[i]), 6)])
        return ["errors.csv"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return the confusion matrix, a reliability diagram and a sheet of predictions."""
        from van.engine.plots import confusion, reliability

        line = f"{title}: {TOP1.label} {TOP1.text(values['top1'])}"
        matrix = confusion(self.confusion(), self.class_names, line)
        error, bins = self.calibration()
        diagram = reliability(bins, f"{title}: ECE {100 * error:.2f} %")
        figures = {"confusion_matrix": matrix, "reliability": diagram, "predictions": self._sheet(self.split, title)}
        if self.temperature is not None:
            error, bins = self._calibrated()
            line = f"{title}: ECE {100 * error:.2f} % with temperature {self.temperature:.3f}"
            figures["reliability_calibrated"] = reliability(bins, line)
        return figures

    def _sheet(self, samples: Samples, title: str) -> "Figure":
        """Draw some of the images: the most confident errors, over all classes, then correct predictions."""
        from van.data.images import read_image
        from van.engine.plots import prediction_sheet

        def load(index: int) -> Any:
            return read_image(samples.load(index), name=samples.name(index))

        return prediction_sheet(load, self.labels, self.top[:, 0], self.confidence, self.class_names, title)
