"""What an exported file costs and brings: metrics, size and speed beside the weights that it is made of."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from van.engine.api import evaluate, header_of, load
from van.engine.engines import FORMATS, place_of
from van.engine.registry import get_task
from van.errors import VanError
from van.export import format_named
from van.export.calibration import calibrate

_IMAGES = 8  # on which speed is measured
_ROUNDS = 10


@dataclass(frozen=True)
class Measured:
    """Weights or an exported file.

    Attributes:
        name: Precision and engine.
        metrics: Of the task, by key.
        bytes: Size of the weights, or of all files.
        images_per_second: Of the network alone, one image at a time.
    """

    name: str
    metrics: dict[str, float]
    bytes: int
    images_per_second: float


class Comparison:
    """Weights and files that are made of them, measured on the same data.

    Args:
        weights: Weight file or run folder; it is measured now, so that wrong data shows before a file is written.
        data: Labeled images in the formats that training takes; as in van.evaluate, the validation split is used.
        format: Of the files.
        inside: What they have inside besides the network, such as preprocess.

    Raises:
        VanError: the data cannot be used, or van cannot load such files.
    """

    def __init__(self, weights: str | Path, data: str, format: str = "onnx", inside: Sequence[str] = ()) -> None:
        self.weights, self.data, self.format = weights, data, format_named(format)
        if inside or self.format.ending not in FORMATS:
            what = f"files with {inside[0]}" if inside else f"{format} files"
            raise VanError(f"evaluation_data is given, but van loads no {what} to evaluate. Leave it out.")
        self.task = get_task(header_of(weights).task)
        self._before = self._evaluated(weights)

    def against(self, file: Path) -> list[Measured]:
        """Measure a file, and return the weights in float32 with the engine of the file, and the file.

        Speed is measured in turns, on as many threads as torch has.

        Args:
            file: An exported file without pre- and postprocessing.

        Raises:
            VanError: it cannot be loaded.
        """
        after = self._evaluated(file)
        engine = FORMATS[file.suffix.lower()]
        predictors = [load(self.weights, "cpu", 1, engine, "float32"), load(file, "cpu", 1)]
        plain = load(self.weights, "cpu", 1)
        inputs = [tuple(map(torch.from_numpy, one)) for one in calibrate(plain, self.data, _IMAGES, "val")]
        speeds = _speeds([one.engine or getattr(*place_of(one.model)) for one in predictors], inputs)
        weights = sum(tensor.nbytes for tensor in plain.model.state_dict().values())
        files = [file, *(file.with_suffix(ending) for ending in self.format.beside)]
        sizes = (weights, sum(part.stat().st_size for part in files))
        return [
            Measured(one.computed_by, metrics, size, speed)
            for one, metrics, size, speed in zip(predictors, (self._before, after), sizes, speeds, strict=True)
        ]

    def table(self, file: Path) -> str:
        """Measure a file, and return a table of it and of the weights; see against."""
        columns = self.against(file)
        rows = [["", *(one.name for one in columns)]]
        for metric in self.task.metrics:
            if metric.key in columns[0].metrics:
                rows.append([metric.label, *(metric.text(one.metrics[metric.key]) for one in columns)])
        rows.append(["megabytes", *(f"{one.bytes / 1e6:.1f}" for one in columns)])
        rows.append(["images/s", *(f"{one.images_per_second:.1f}" for one in columns)])
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in rows)

    def _evaluated(self, weights: str | Path) -> dict[str, float]:
        with tempfile.TemporaryDirectory(prefix="van-evaluation-") as folder:
            output = str(Path(folder) / "evaluation")
            return evaluate(weights, self.data, device="cpu", output=output, quiet=True)


@torch.inference_mode()
def _speeds(functions: list[Any], inputs: list[tuple[torch.Tensor, ...]]) -> list[float]:
    """Return images per second of each function, measured in turns; the fastest round counts, others are disturbed."""
    seconds: list[list[float]] = [[] for _ in functions]
    for function in functions:
        for shape in {tuple(one[0].shape): one for one in inputs}.values():
            getattr(function, "prepare", function)(*shape)
    for _ in range(_ROUNDS):
        for function, found in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            for one in inputs:
                function(*one)
            found.append(time.perf_counter() - start)
    return [len(inputs) / min(found) for found in seconds]
