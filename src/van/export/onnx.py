"""ONNX files of classifiers."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import nn

from van.errors import VanError
from van.export.checks import check_evaluation, package


def export_onnx(
    model: nn.Module,
    path: str | Path,
    image_size: tuple[int, int] = (224, 224),
    class_names: Sequence[str] | None = None,
) -> Path:
    """Write a classifier as an ONNX file in which every depth-wise convolution is one plain Conv.

    Input `images` is float32 of shape (B, in_chans, H, W), output `logits` (B, num_classes). Batch, height and width
    are dynamic.

    Args:
        model: A network with float32 weights in evaluation mode, as it is or through van.fuse.
        path: File to write, .onnx.
        image_size: Height and width of the image that it is traced with.
        class_names: Names in the order of the logits, written into the file's metadata as a JSON list under "names".

    Returns:
        The path.

    Raises:
        VanError: the model is no classifier, is in training mode or has weights of another type, the number of names is
            wrong, the path is a folder, or a package of the extra `export` is missing.
    """
    path = Path(path)
    if path.is_dir():
        raise VanError(f"{path} is a folder, expected the name of a file to write, such as {path / 'van.onnx'}.")
    check_evaluation(model)
    weight = next(model.parameters())
    if weight.dtype != torch.float32:
        raise VanError(f"The weights are {weight.dtype}, expected torch.float32. Call model.float() first.")
    images = torch.zeros(2, getattr(model, "in_chans", 3), *image_size, device=weight.device)
    classes = _classes(model, images)
    if class_names is not None and len(class_names) != classes:
        raise VanError(f"class_names has {len(class_names)} names, but the model has {classes} classes.")
    for name in ("onnx", "onnxscript"):
        package(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the exporter's own code
        program = torch.onnx.export(
            model,
            (images,),
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch", 2: "height", 3: "width"},),
        )
    program = cast(torch.onnx.ONNXProgram, program)
    if class_names is not None:
        program.model.metadata_props["names"] = json.dumps(list(class_names))
    path.parent.mkdir(parents=True, exist_ok=True)
    program.save(str(path))
    return path


def _classes(model: nn.Module, images: torch.Tensor) -> int:
    """Return the number of logits per image."""
    try:
        with torch.no_grad():
            logits = model(images)
    except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise VanError(
            f"{type(model).__name__} cannot be run on images alone, as a classifier can ({reason})."
        ) from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise VanError(
            f"{type(model).__name__} returns {shape}, expected logits (images, classes). Only classifiers can be "
            "exported to ONNX."
        )
    return logits.shape[1]
