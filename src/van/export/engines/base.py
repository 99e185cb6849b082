"""What all inference engines share, and what they compute: the weighted part of a network, or an exported file."""

import hashlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from van.engine.engines import FORMATS
from van.errors import VanError
from van.export.checks import check_evaluation
from van.export.fuse import FusedVANBlock, fuse
from van.files import checksum
from van.models.van import VANStage

PRECISIONS = ("float32", "bfloat16", "float16")

Outputs = torch.Tensor | tuple[torch.Tensor, ...]


class Core(nn.Module):
    """A method of a network as a module of its own, so that it can be exported and compiled.

    Args:
        network: The network.
        method: Name of the method.
    """

    def __init__(self, network: nn.Module, method: str) -> None:
        super().__init__()
        self.network = network
        self._method = getattr(type(network), method)  # of the class: an engine may stand in the network's place of it

    def forward(self, *inputs: torch.Tensor) -> Outputs:
        """Return what the method returns."""
        return self._method(self.network, *inputs)


class Source:
    """What an engine computes.

    Args:
        network: A network in evaluation mode.
        method: Its method that the engine takes the place of.
        file: Exported file with the weights; None takes those of the network.
        file_precision: Precision that the file was exported with.

    Attributes:
        batched: Whether several images can be computed at once.

    Raises:
        VanError: the network is in training mode, or its weights are not float32.
    """

    def __init__(
        self, network: nn.Module, method: str = "forward", file: Path | None = None, file_precision: str | None = None
    ) -> None:
        check_evaluation(network)
        if file is None:
            wrong = next((p.dtype for p in network.parameters() if p.dtype != torch.float32), None)
            if wrong:
                raise VanError(f"The weights are {wrong}, expected torch.float32. Call model.float() first.")
        self.network = network
        self.method = method
        self.file = file
        self.file_precision = file_precision
        self.batched = bool(getattr(network, "core_batched", True))
        self._lock = threading.Lock()
        self._digest: str | None = None
        self._fused: Core | None = None

    def core(self) -> Core:
        """Return what has the weights, as it is."""
        return Core(self.network, self.method)

    def fused(self) -> Core:
        """Return a copy of what has the weights on the CPU, fused where there is a VAN inside."""
        with self._lock:
            if self._fused is None:
                modules = list(self.network.modules())
                stages = any(isinstance(m, VANStage) for m in modules)
                if stages and not any(isinstance(m, FusedVANBlock) for m in modules):
                    placed = self.network.__dict__.pop(self.method, None)  # an engine is not copied
                    try:
                        network = fuse(self.network)
                    finally:
                        if placed is not None:
                            self.network.__dict__[self.method] = placed
                    self._fused = Core(network, self.method)
                else:
                    self._fused = self.core()
            return self._fused

    def digest(self) -> str:
        """Return a hash of the weights and of the network that they belong to, or of the file."""
        with self._lock:
            if self._digest is None:
                found = hashlib.sha256()
                for file in [self.file, self.file.with_suffix(".bin")] if self.file else []:
                    if file.exists():
                        found.update(checksum(file).encode())
                if self.file is None:
                    found.update(f"{self.network!r} {self.method}".encode())
                    tensors = [*self.network.named_parameters(), *self.network.named_buffers()]
                    for name, tensor in tensors:
                        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
                        flat = tensor.detach().cpu().contiguous().reshape(-1)
                        found.update(memoryview(flat.view(torch.uint8).numpy()))
                self._digest = found.hexdigest()
            return self._digest


class Engine:
    """Computes a network, in place of its own method. It is called like that method, from any number of threads.

    Args:
        source: What is computed.
        precision: float32, bfloat16 or float16; None is float32, or that of an exported file.
        device: Where it computes.

    Attributes:
        name: Its name.
        formats: Endings of the exported files that it runs.
        devices: Kinds of devices that it computes on; empty for all.
        precision: The precision in use.
        device: See the argument.

    Raises:
        VanError: a package is missing, or it does not run this file, on this device or in this precision.
    """

    name: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ()
    devices: ClassVar[tuple[str, ...]] = ()

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        if precision not in (None, *PRECISIONS):
            raise VanError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}.")
        if self.devices and device.type not in self.devices:
            raise VanError(f"The engine {self.name} computes on {' or '.join(self.devices)}, not on {device.type}.")
        if source.file is not None and source.file.suffix not in self.formats:
            default = FORMATS[source.file.suffix]
            raise VanError(
                f"The engine {self.name} does not run {source.file.suffix} files such as {source.file.name}. Use "
                f"--engine {default}, or export the weights in another format."
            )
        if source.file is not None and source.file_precision == "int8" and precision is not None:
            raise VanError(
                f"{source.file.name} computes in int8, not in {precision}. Leave out the precision, or export the "
                "weights in another one."
            )
        self.source = source
        self.precision = precision or source.file_precision or "float32"
        self.device = device

    @classmethod
    def of(
        cls,
        network: nn.Module,
        method: str,
        precision: str | None,
        device: torch.device,
        file: Path | None = None,
        file_precision: str | None = None,
    ) -> "Engine":
        """Return an engine for a method of a network; see Source and Engine."""
        return cls(Source(network, method, file, file_precision), precision, device)

    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return what the network's own method returns; floating-point outputs are float32."""
        raise NotImplementedError

    def prepare(self, *inputs: torch.Tensor) -> None:
        """Do now what makes later calls with inputs of these shapes fast; by default compute them once."""
        self(*inputs)

    def __str__(self) -> str:
        return f"{self.name}, {self.precision}"


def refuse_float16_on_cpu(precision: str | None, device: torch.device) -> None:
    """Refuse a precision that CPUs only imitate.

    Raises:
        VanError: it is float16, and the device is the CPU.
    """
    if precision == "float16" and device.type == "cpu":
        raise VanError("precision float16 needs a GPU, but the device is cpu. Use bfloat16.")


def full_precision(outputs: Any) -> Any:
    """Return outputs with floating-point tensors in float32, as tensor or tuple."""
    if isinstance(outputs, torch.Tensor):
        return outputs.float() if outputs.is_floating_point() else outputs
    return tuple(full_precision(one) for one in outputs)


def unpacked(outputs: Sequence[torch.Tensor]) -> Outputs:
    """Return several outputs as a tuple, and one alone."""
    return outputs[0] if len(outputs) == 1 else tuple(outputs)
