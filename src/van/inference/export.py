"""A trained network outside PyTorch: ONNX files, and OpenVINO for fast inference on CPUs."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from van.errors import VanError

__all__ = ["OpenVINOEngine", "export_onnx"]

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def _extra(name: str) -> Any:
    """Import a package of the extra `export`."""
    try:
        return import_module(name)
    except ImportError as error:
        raise VanError(
            f"The package {name} is missing: pip install 'visual-attention-network[export]' brings it ({error})."
        ) from error


def _check_evaluation(model: nn.Module) -> None:
    if any(module.training for module in model.modules()):
        raise VanError("The model is in training mode, whose dropout and BatchNorm differ. Call model.eval() first.")


def export_onnx(model: nn.Module, path: str | Path, image_size: tuple[int, int] = (224, 224)) -> Path:
    """Write a network as an ONNX file in which every depth-wise convolution is one plain Conv.

    Input `images` is float32 of shape (B, in_chans, H, W), output `logits` (B, num_classes). Batch, height and width
    are free.

    Args:
        model: A network of float32 weights in evaluation mode, as it is or through van.fuse.
        path: File to write, .onnx.
        image_size: Height and width that the network is traced with.

    Returns:
        The path.

    Raises:
        VanError: the model is in training mode, its weights are not float32, the path is a folder, or a package of the
            extra `export` is missing.
    """
    path = Path(path)
    if path.is_dir():
        raise VanError(f"{path} is a folder, expected the name of a file to write, such as {path / 'van.onnx'}.")
    _check_evaluation(model)
    weight = next(model.parameters())
    if weight.dtype != torch.float32:
        raise VanError(f"The weights are {weight.dtype}, expected torch.float32. Call model.float() first.")
    for package in ("onnx", "onnxscript"):
        _extra(package)
    images = torch.zeros(2, getattr(model, "in_chans", 3), *image_size, device=weight.device)
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
    path.parent.mkdir(parents=True, exist_ok=True)
    cast(torch.onnx.ONNXProgram, program).save(str(path))
    return path


class OpenVINOEngine:
    """A network as OpenVINO runs it on the CPU, for images of one shape.

    Args:
        model: Any network in evaluation mode that maps one tensor to one tensor; its weights are float32.
        images: Images of the shape that will come, (B, C, H, W); the values do not matter.
        precision: "float32", or "bfloat16" on CPUs that have it: outputs differ by about 1e-2 of the largest.
        threads: Threads; by default as many as torch uses.

    Raises:
        VanError: the model is in training mode, the precision is unknown, or OpenVINO is missing.
    """

    def __init__(
        self, model: nn.Module, images: torch.Tensor, precision: str = "float32", threads: int | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise VanError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")
        _check_evaluation(model)
        openvino = _extra("openvino")
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # OpenVINO's converter warns about versions of torch
            program = torch.export.export(model, (images.float().contiguous(),))
            converted = openvino.convert_model(program)
        self.shape = tuple(images.shape)
        converted.reshape(list(self.shape))
        # without the hint OpenVINO rounds to bfloat16 wherever the CPU knows it
        settings = {
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": threads or torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's float32 output.

        Args:
            images: Of the engine's shape.

        Raises:
            VanError: the shape is another one.
        """
        if tuple(images.shape) != self.shape:
            raise VanError(
                f"The images have shape {tuple(images.shape)}, the engine was made for {self.shape}. Make one for them."
            )
        outputs = self._request.infer([images.detach().float().contiguous().cpu().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0])
