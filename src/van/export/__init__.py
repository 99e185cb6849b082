"""Trained networks for inference: fused copies, export formats, inference engines.

`van.export` is both this package and, called as `van.export(weights, format)`, the function of the same name in it.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any


def export(weights: str | Path, format: str = "onnx", output: str | Path | None = None, **options: Any) -> Path:
    """Write trained weights in a format that other software runs.

    Everything that `van export` can do; options have the same names. The file is run and compared with the network
    before it is kept.

    Args:
        weights: Weight file in any known layout, run folder, or name of published weights such as van_b0.
        format: onnx, openvino, torch (a program of torch.export) or safetensors.
        output: New file; by default beside the weight file, with the ending of the format.
        **options: image_size, preprocess, postprocess, features, precision, and options of inference that differ from
            those in the weight file; see van.engine.options.ExportOptions.

    Returns:
        The path of the file.

    Raises:
        VanError: an option or the weights cannot be used, the output exists, a package is missing, or the file does not
            agree with the network. Nothing has been written then.
    """
    from van.engine.api import inference_options
    from van.export.writing import write

    given = {"weights": str(weights), "format": format, "quiet": True, **options}
    if output is not None:
        given["output"] = str(output)
    return write(*inference_options("export", None, given))


class _Callable(ModuleType):
    """A module that can be called. Importing any of its modules puts the package where the function would be."""

    def __call__(self, *args: Any, **kwargs: Any) -> Path:
        return export(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
