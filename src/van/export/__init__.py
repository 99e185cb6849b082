"""Trained networks for inference: fused copies, export formats, inference engines.

`van.export` is both this package and, called as `van.export(weights, format)`, the function of the same name in it.
"""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

from van.errors import VanError, WeightsError, nearest

if TYPE_CHECKING:
    from van.export.calibration import Calibration

FormatName = Literal["onnx", "openvino", "torch", "executorch", "coreml", "safetensors"]

LayoutName = Literal["file", "triton"]

PrecisionName = Literal["float32", "float16", "bfloat16", "int8"]

FORMATS: dict[str, str] = {
    "onnx": "van.export.onnx:OnnxFormat",
    "openvino": "van.export.openvino:OpenVINOFormat",
    "torch": "van.export.torch:TorchFormat",
    "executorch": "van.export.executorch:ExecuTorchFormat",
    "coreml": "van.export.coreml:CoreMLFormat",
    "safetensors": "van.export.safetensors:SafetensorsFormat",
}
"""Where each format's class is, a van.export.formats.Format; nothing is imported before it is asked for."""


def export(
    weights: str | Path,
    format: str = "onnx",
    output: str | Path | None = None,
    image_size: tuple[int, int] | None = None,
    preprocess: bool = False,
    postprocess: bool = False,
    features: bool = False,
    precision: str = "float32",
    layout: str = "file",
    calibration: str | Path | None = None,
) -> Path:
    """Write trained weights in a format that other software runs; the file is run and compared before it is kept.

    Args:
        weights: Weight file in any known layout, run folder, or name of published weights such as van_b0.
        format: onnx, openvino, torch (torch.export), executorch, coreml or safetensors (weights alone).
        output: New file; by default the weight file with the ending of the format.
        image_size: Height and width of the images that the network is traced with; images of other sizes can be
            computed all the same. By default those it was trained with.
        preprocess: Put the preprocessing into the file: it takes images of bytes, of any size.
        postprocess: Put the postprocessing into the file: it returns results.
        features: Export the backbone of a classifier: the file returns its four feature maps.
        precision: float32; float16 in openvino and coreml files, with half the size; bfloat16 in openvino and torch
            files, computed in it; int8 in openvino and onnx files, with about a third of the size.
        layout: file, or triton: a folder for NVIDIA Triton Inference Server, with the file as version 1 of a model and
            its configuration, for onnx and openvino. `output` is the folder, and its name that of the model.
        calibration: For int8, typical images, from which the ranges of activations are taken: data that the task trains
            on, of which the training split is used, or images such as a folder.

    Returns:
        The path of the file, or of the folder.

    Raises:
        VanError: there is no such format, the output exists, a package is missing, the weights cannot be read, the
            network cannot be exported with these options, or what the file computes differs from the network.
    """
    from van.engine.api import header_of, load
    from van.export.formats import Content, write_checked
    from van.export.triton import write_repository

    kind = format_named(format)
    if header_of(weights).export:
        raise WeightsError(f"{weights} is an exported file. Give the weight file that it was exported from.")
    if layout not in get_args(LayoutName):
        raise VanError(f"layout is {layout!r}, expected {' or '.join(get_args(LayoutName))}.")
    repository = layout == "triton"
    if repository and not kind.triton:
        raise VanError(f"Triton has no backend for {format} files. Export onnx or openvino with layout triton.")
    if repository and output is None:
        raise VanError("layout triton writes the folder of a model. Give output, such as models/van.")
    path = Path(output) if output is not None else _beside(Path(weights)).with_suffix(kind.ending)
    if not repository and path.suffix.lower() != kind.ending:
        raise VanError(f"{path} does not end in {kind.ending}, as {format} files do. Give another output.")
    for file in (path, *(path.with_suffix(ending) for ending in (() if repository else kind.beside))):
        if file.exists():
            raise VanError(f"{file} exists. Give another output.")
    if precision not in kind.precisions:
        raise VanError(f"precision is {precision!r}, but {format} files are written in {' or '.join(kind.precisions)}.")
    kind.check()
    seen = _calibration(weights, precision, preprocess, calibration)
    content = Content(image_size, preprocess, postprocess, features, precision, seen)
    write = write_repository if repository else write_checked
    return write(kind, load(weights, "cpu"), path, content)


def _calibration(
    weights: str | Path, precision: str, preprocess: bool, source: str | Path | None
) -> "Calibration | None":
    """Return what the network sees of the images to calibrate with, for int8."""
    from van.engine.api import load
    from van.export.calibration import calibrate
    from van.export.checks import package

    if precision != "int8":
        if source is not None:
            raise VanError(f"calibration is for int8, but precision is {precision!r}. Leave out one of them.")
        return None
    if source is None:
        raise VanError("int8 needs images to calibrate with. Name typical ones, such as a folder, with --calibration.")
    if preprocess:
        raise VanError("int8 files take prepared images. Leave out preprocess.")
    package("nncf")
    return calibrate(load(weights, "cpu", batch_size=1), str(source))


def format_named(name: str) -> Any:
    """Return an export format, a van.export.formats.Format.

    Args:
        name: A key of FORMATS.

    Raises:
        VanError: there is no such format.
    """
    if name not in FORMATS:
        raise VanError(
            f"There is no export format {name!r}, expected one of {', '.join(FORMATS)}.{nearest(name, FORMATS)}"
        )
    module, _, attribute = FORMATS[name].partition(":")
    return getattr(import_module(module), attribute)()


def _beside(weights: Path) -> Path:
    """Return the weight file; for the name of published weights a file in the working folder."""
    from van.models.weight_file import WEIGHTS_FILE

    return weights / WEIGHTS_FILE if weights.is_dir() else weights


class _Callable(ModuleType):
    """A module that can be called. Importing any of its modules puts the package where the function would be."""

    def __call__(self, *args: Any, **kwargs: Any) -> Path:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
