"""Measuring a predictor on samples whose truth is known: one way for all tasks."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from van.engine.metric import Metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from van.engine.predictor import Predictor

_SHOWN = 40  # classes that are printed


class Evaluation:
    """A predictor, samples with their truth, and what is measured on them. Tasks override what is special about them.

    Args:
        predictor: What is measured.
        split: The samples.
        workers: Loading processes.
        evaluator: Counts results; see van.engine.learner.Evaluator.
        metrics: What is printed, in this order; None takes those of the task.

    Attributes:
        columns: Columns of the printed table of classes: the count of objects, then metrics by key.
        files: Names of the files that run has written.
        skipped: How many problems with images and annotations kept these out of the metrics.
        extra: What prediction should know from now on, for the weight file: thresholds that were chosen on these
            samples, for example.
    """

    columns: tuple[str, ...] = ()

    def __init__(
        self,
        predictor: "Predictor",
        split: Any,
        workers: int,
        evaluator: Any = None,
        metrics: Sequence[Metric] | None = None,
    ) -> None:
        self.predictor = predictor
        self.split = split
        self.workers = workers
        self.evaluator = evaluator
        self.metrics = tuple(predictor.task.metrics if metrics is None else metrics)
        self.files: list[str] = []
        self.skipped = 0
        self.extra: dict[str, Any] = {}

    def size(self) -> int:
        """Return how many images are measured."""
        return len(self.split)

    def batches(self) -> Iterable[Any]:
        """Return the samples in batches, each sample once; by default the split is a dataset."""
        from torch.utils.data import DataLoader

        return DataLoader(self.split, self.predictor.batch_size, num_workers=self.workers)

    def update(self, batch: Any) -> None:
        """Count what the predictor finds on a batch, by default of inputs and targets."""
        inputs, targets = batch
        self.evaluator.update(self.predictor.model(inputs.to(self.predictor.device)).cpu(), targets)

    def compute(self) -> dict[str, float]:
        """Return the metrics by key."""
        return {key: float(value) for key, value in self.evaluator.compute().items()}

    def per_class(self) -> list[dict[str, Any]]:
        """Return a line for each class; none where there are no classes."""
        return []

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return what evaluation.json says besides the table of classes."""
        return {"images": self.size(), **values}

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return the metrics as they are printed."""
        return [line_of(self.metrics, values)]

    def write(self, folder: Path) -> list[str]:
        """Write further results into a folder, and return the names of the files."""
        return []

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return figures by the names of their files without ending."""
        return {}

    # ------------------------------------------------------------------------------------------------

    def run(self, folder: Path, title: str, quiet: bool = False) -> dict[str, float]:
        """Measure, print the metrics, and write them with tables, plots and results.

        Args:
            folder: An existing folder.
            title: What is measured, for people.
            quiet: Show no progress bar and print nothing.

        Returns:
            The metrics by key.
        """
        import torch
        from tqdm import tqdm

        with torch.inference_mode():
            for batch in tqdm(self.batches(), desc="Evaluating", unit=" batches", disable=quiet or None):
                self.update(batch)
        values = self.compute()
        rows = self.per_class()
        content = self.report(values)
        content |= ({"skipped": self.skipped} if self.skipped else {}) | ({"per_class": rows} if rows else {})
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        self.files = ["evaluation.json"]
        if rows:
            with (folder / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
            self.files.append("per_class.csv")
        self.files += self.write(folder)
        for name, figure in self.plots(values, title).items():
            figure.savefig(folder / f"{name}.png")
            self.files.append(f"{name}.png")
        if not quiet:
            self._print(title, values, rows)
        return values

    def _print(self, title: str, values: Mapping[str, float], rows: Sequence[Mapping[str, Any]]) -> None:
        if rows and self.columns:
            print(class_table(rows, self.columns[0], self.columns[1:]))
        print(f"\n{title}: {self.size()} images")
        print("\n".join(self.lines(values)))


def line_of(metrics: Sequence[Metric], values: Mapping[str, float]) -> str:
    """Return metrics with their values in one line."""
    return ", ".join(f"{metric.label} {metric.text(values.get(metric.key))}" for metric in metrics)


def class_table(rows: Sequence[Mapping[str, Any]], count: str, keys: Sequence[str]) -> str:
    """Return a table of the classes that occur.

    Args:
        rows: One for each class, with the key class.
        count: Key of how much there is of a class.
        keys: Keys of numbers from 0 to 1, which are shown in percent.
    """
    shown = [row for row in rows if row[count]]
    width = min(30, max([len(row["class"]) for row in shown] + [5]) + 2)
    heads = [count, *(f"{key.replace('_', ' ')} %" for key in keys)]
    wide = [max(10, len(head) + 2) for head in heads]
    lines = ["", f"{'class':<{width}}" + "".join(f"{head:>{w}}" for head, w in zip(heads, wide, strict=True))]
    for row in shown[:_SHOWN]:
        name = row["class"] if len(row["class"]) < width else row["class"][: width - 2] + "…"
        cells = [str(row[count]), *(_percent(row[key]) for key in keys)]
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>{w}}" for cell, w in zip(cells, wide, strict=True)))
    if len(shown) > _SHOWN:
        lines.append(f"... and {len(shown) - _SHOWN} more classes in per_class.csv")
    return "\n".join(lines)


def _percent(value: float | None) -> str:
    return "-" if value is None or value < 0 else f"{100 * value:.1f}"


def spread(count: int, shown: int) -> list[int]:
    """Return which of so many samples a sheet shows: some at even distances."""
    import numpy as np

    return np.unique(np.linspace(0, count - 1, shown).astype(int)).tolist() if count else []
