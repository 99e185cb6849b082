"""Inference engines by name: what computes a network. An engine of this package is one line here and one file."""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from van.engine.options import EngineName
from van.errors import VanError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from van.models.weight_file import Header

# Where each engine's class is; nothing is imported before it is asked for
ENGINES: dict[EngineName, str] = {
    "torch": "van.export.engines.torch:TorchEngine",
    "compiled": "van.export.engines.compiled:CompiledEngine",
    "onnxruntime": "van.export.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "van.export.engines.openvino:OpenVINOEngine",
    "auto": "van.export.engines.auto:AutoEngine",
}

FORMATS: dict[str, EngineName] = {".onnx": "onnxruntime", ".xml": "openvino", ".pt2": "torch"}
"""Endings of exported files, each with the engine that runs it by default."""


def engine_class(name: str) -> Any:
    """Return the class of an engine, a subclass of van.export.engines.base.Engine.

    Args:
        name: A key of ENGINES.

    Raises:
        VanError: there is no such engine.
    """
    if name not in ENGINES:
        raise VanError(f"There is no engine {name!r}, expected one of {', '.join(ENGINES)}.{nearest(name, ENGINES)}")
    module, _, attribute = ENGINES[cast(EngineName, name)].partition(":")
    return getattr(import_module(module), attribute)


def default_engine(name: str | None, file: Path | None) -> str:
    """Return the name of an engine; None is torch, or the one of an exported file."""
    return name or (FORMATS[file.suffix.lower()] if file else "torch")


def device_for(name: str, device: "torch.device | str | None") -> "torch.device | str | None":
    """Return the device that is asked for; where none is and the engine does not compute on GPUs, the CPU."""
    devices = engine_class(name).devices
    return devices[0] if device is None and devices else device


def place_of(network: "nn.Module") -> "tuple[nn.Module, str]":
    """Return the module and its method that an engine takes the place of: core, or for a classifier forward."""
    core = getattr(network, "core", None)
    return (network, "forward") if core is None else (core.__self__, core.__name__)


def _drop_parameters(network: "nn.Module") -> None:
    """Free the parameters of a network whose weights are in a file."""
    from torch import nn

    for module in network.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)


def put_in_place(
    network: "nn.Module",
    name: str,
    precision: str | None,
    device: "torch.device",
    file: Path | None = None,
    header: "Header | None" = None,
) -> Any:
    """Let an engine compute a network from now on.

    Args:
        network: A classifier, or a network with a core, in evaluation mode.
        name: A key of ENGINES.
        precision: float32, bfloat16 or float16; None is float32, or that of the file.
        device: Where the network computes.
        file: Exported file that holds the weights; None takes those of the network.
        header: What that file says.

    Returns:
        The engine.

    Raises:
        VanError: the engine is not available, or cannot compute this network, on this device or in this precision.
    """
    owner, method = place_of(network)
    file_precision = header.export.get("precision") if file and header else None
    engine = engine_class(name).of(owner, method, precision, device, file, file_precision)
    if file:
        _drop_parameters(owner)
    cast(Any, owner).__dict__[method] = engine  # beside the method of the class, and not as a submodule
    return engine
