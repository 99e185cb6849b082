"""How good predicted numbers are: R2 and the mean absolute error."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torchmetrics.functional.regression import mean_absolute_error, r2_score

from van.engine.predictor import Predictor
from van.tasks.classification.evaluation import ERRORS, GatheredEvaluation
from van.tasks.classification.gathered import Gathered
from van.tasks.classification.metrics import REGRESSION
from van.tasks.classification.targets import Regression

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def scores(values: torch.Tensor, truth: torch.Tensor, std: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return R2 and the mean absolute error of each number, (numbers,) each; R2 is NaN for fewer than two images.

    Args:
        values: Predicted numbers, (N, numbers).
        truth: True numbers, (N, numbers).
        std: Standard deviation of each number, by which R2 does not change, but rounding does.
    """
    values, truth, scale = values.double(), truth.double(), torch.tensor(std, dtype=torch.float64)
    error = np.atleast_1d(mean_absolute_error(values.contiguous(), truth.contiguous(), num_outputs=len(std)).numpy())
    if len(truth) < 2:
        return np.full(len(std), np.nan), error
    center = truth.mean(dim=0)
    found = r2_score((values - center) / scale, (truth - center) / scale, multioutput="raw_values")
    return np.atleast_1d(found.numpy()), error


class RegressionEvaluator(Gathered):
    """R2 and the mean absolute error over all processes: means over the numbers.

    Args:
        std: Standard deviation of each number.
    """

    metrics = REGRESSION

    def __init__(self, std: list[float]) -> None:
        super().__init__(len(std))
        self.std = std

    def compute(self) -> dict[str, float]:
        """Return R2 and MAE by key."""
        means = (float(part.mean()) for part in scores(*self.arrays(), self.std))
        return dict(zip((metric.key for metric in REGRESSION), means, strict=True))


class RegressionEvaluation(GatheredEvaluation):
    """R2, mean absolute error and root mean squared error of each number, plots and a sheet of predictions.

    Attributes:
        values: Predicted numbers, (N, numbers).
        truth: True numbers, (N, numbers).
    """

    def __init__(self, predictor: Predictor, split: Any, workers: int, target: Regression) -> None:
        super().__init__(predictor, split, workers, RegressionEvaluator(target.std), REGRESSION, target)
        self.target: Regression = target

    def compute(self) -> dict[str, float]:
        """Return R2 and MAE by key; see Evaluation."""
        self.values, self.truth = (part.numpy() for part in self.evaluator.arrays())
        return super().compute()

    def numbers(self) -> dict[str, dict[str, float | None]]:
        """Return R2, MAE and RMSE of each number by its name."""
        r2, error = scores(torch.from_numpy(self.values), torch.from_numpy(self.truth), self.target.std)
        squared = np.sqrt(np.mean((self.values.astype(float) - self.truth) ** 2, axis=0))
        table = zip(self.target.names, r2, error, squared, strict=True)
        return {
            name: {
                key: None if np.isnan(value) else float(f"{value:.6g}")
                for key, value in (("R2", a), ("MAE", b), ("RMSE", c))
            }
            for name, a, b, c in table
        }

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics, and those of each number."""
        plain = {key: None if np.isnan(value) else value for key, value in super().report(values).items()}
        return {**plain, "numbers": self.numbers()}

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return the metrics, and those of each number where there are several."""
        each = self.numbers() if len(self.target.names) > 1 else {}
        more = [
            f"{name}: " + ", ".join(f"{metric.label} {metric.text(row[metric.key])}" for metric in self.metrics)
            for name, row in each.items()
        ]
        return [*super().lines(values), *more]

    def write(self, folder: Path) -> list[str]:
        """Write the largest errors, in standard deviations."""
        error = self.values - self.truth
        distance = np.abs(error / np.array(self.target.std))
        order = np.argsort(-distance.flatten(), kind="stable")[:ERRORS]
        with (folder / "errors.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "number", "true", "predicted"])
            for i, k in zip(*(part.tolist() for part in np.unravel_index(order, error.shape)), strict=True):
                pair = (f"{part[i, k]:.6g}" for part in (self.truth, self.values))
                writer.writerow([self.split.name(i), self.target.names[k], *pair])
        return ["errors.csv"]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return predicted against true numbers, and a sheet of predictions."""
        from van.engine.plots import scatter

        line = f"{title}: {', '.join(f'{metric.label} {metric.text(values[metric.key])}' for metric in self.metrics)}"
        plot = scatter(self.truth, self.values, self.target.names, line)
        return {"predicted_true": plot, "predictions": self._sheet(title)}

    def _sheet(self, title: str) -> "Figure":
        """Draw some of the images, those with the largest errors first, with predicted and true numbers."""
        distance = np.abs((self.values - self.truth) / np.array(self.target.std)).max(axis=1)

        def named(row: np.ndarray) -> str:
            return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.target.names, row, strict=True))

        captions = {i: f"{named(self.values[i])}\ntrue: {named(self.truth[i])}" for i in self.shown(distance)}
        return self.sheet(captions, distance > 1, f"{title}: the largest errors, then others; red above 1 std")
