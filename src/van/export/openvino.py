"""OpenVINO: fast inference on CPUs."""

import warnings

import torch
from torch import nn

from van.errors import VanError
from van.export.checks import check_evaluation, package

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """A network that OpenVINO runs on the CPU, for images of one shape.

    Args:
        model: Any network with float32 weights, in evaluation mode, that maps one tensor to one tensor.
        images: Example of the images to come, (B, C, H, W); only the shape matters.
        precision: "float32", or "bfloat16" on CPUs that have it: outputs differ by about 1e-2 of the largest.
        threads: Number of threads; as many as torch uses by default.

    Raises:
        VanError: the model is in training mode, the precision is unknown, or OpenVINO is missing.
    """

    def __init__(
        self, model: nn.Module, images: torch.Tensor, precision: str = "float32", threads: int | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise VanError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")
        check_evaluation(model)
        openvino = package("openvino")
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
                f"The images have shape {tuple(images.shape)}, the engine was built for {self.shape}. Build another."
            )
        outputs = self._request.infer([images.detach().float().contiguous().cpu().numpy()], share_inputs=True)
        return torch.from_numpy(outputs[0])
