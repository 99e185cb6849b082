"""Trained networks for inference: fused copies, export formats, inference engines.

`van.export` is both this package and, called as `van.export(weights, format)`, the function of the same name in it.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from van.errors import VanError, WeightsError

FORMATS = {"onnx": "van.export.onnx:export_onnx"}
"""What writes each format: a function of the network, the path, the image size (H, W) and the class names."""


def export(
    weights: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
) -> Path:
    """Write trained weights in a format that other software runs.

    Args:
        weights: Weight file in any known layout, run folder, or name of published weights such as van_b0; of a
            classifier.
        format: onnx.
        output: New file; by default the weight file with the ending of the format.
        image_size: Height and width that the network is traced with; by default those it was trained with.

    Returns:
        The path of the file.

    Raises:
        VanError: there is no such format, the output exists, a package is missing, or the weights cannot be read or are
            not those of a classifier.
    """
    from van.engine.api import header_of, load
    from van.tasks.classification.task import TASK

    if format not in FORMATS:
        raise VanError(f"There is no export format {format!r}, expected one of {', '.join(FORMATS)}.")
    if (task := header_of(weights).task) != TASK.name:
        raise WeightsError(f"{weights} was trained for {task}, but {format} files are for the task {TASK} only.")
    path = Path(output) if output is not None else _beside(Path(weights)).with_suffix(f".{format}")
    if path.is_file():
        raise VanError(f"{path} exists. Give another output.")
    predictor = load(weights, "cpu")
    size = image_size or tuple(predictor.extra["preprocessing"]["input_size"][1:])
    module, _, function = FORMATS[format].partition(":")
    return getattr(import_module(module), function)(predictor.model, path, size, predictor.class_names)


def _beside(weights: Path) -> Path:
    """Return the weight file; for the name of published weights a file in the working folder."""
    from van.models.weight_file import WEIGHTS_FILE

    return weights / WEIGHTS_FILE if weights.is_dir() else weights


class _Callable(ModuleType):
    """A module that can be called. Importing any of its modules puts the package where the function would be."""

    def __call__(self, *args: Any, **kwargs: Any) -> Path:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
