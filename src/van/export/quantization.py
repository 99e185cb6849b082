"""Post-training quantization to int8 by NNCF, with what large kernel attention needs left in floating point."""

import contextlib
import io
import os
from collections.abc import Callable
from typing import Any

from van.errors import VanError
from van.export.calibration import Calibration
from van.export.checks import package

# Sums, products, norms, pooling and resizing, by their names in OpenVINO and in ONNX: quantizing the products of gate
# and attention and the sums along the shortcuts costs VAN-B0 1.7 points on the digits, and makes nothing faster
_IN_FLOATING_POINT = (
    "GroupConvolution",  # OpenVINO 2026.4.1 crashes on some dynamic shapes where depth-wise convolutions are in int8
    *("Add", "Subtract", "Multiply", "Divide", "Power", "Maximum", "Minimum", "Sub", "Mul", "Div", "Pow", "Max", "Min"),
    *("Less", "LessEqual", "Greater", "GreaterEqual", "Equal", "NotEqual", "FloorMod", "Mod"),
    *("MVN", "NormalizeL2", "GroupNormalization", "LayerNormalization", "ReduceMean", "ReduceSum", "ReduceL2"),
    *("AvgPool", "AveragePool", "GlobalAveragePool", "Interpolate", "Resize"),
)


def quantized(model: Any, calibration: Calibration, item: Callable[[Any], Any]) -> Any:
    """Return a model whose convolutions and matrix products are computed in int8.

    Args:
        model: An openvino.Model or an onnx.ModelProto.
        calibration: Inputs from which the ranges of activations are taken.
        item: Makes of the arrays of one call what the runtime takes.

    Raises:
        VanError: NNCF is missing, or cannot quantize this network.
    """
    os.environ.setdefault("NNCF_CI", "1")  # the only way to turn its telemetry off
    nncf = package("nncf")
    nncf.set_log_level(40)  # errors
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
            return nncf.quantize(
                model,
                nncf.Dataset(calibration, item),
                subset_size=len(calibration),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(types=list(_IN_FLOATING_POINT), validate=False),
            )
    except (nncf.ValidationError, nncf.UnsupportedModelError, RuntimeError, ValueError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise VanError(f"This network cannot be quantized ({reason}). Export it in another precision.") from error
