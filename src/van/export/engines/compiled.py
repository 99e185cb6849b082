"""PyTorch, compiled for the device by torch.compile."""

from typing import Any, ClassVar

import torch

from van.export.engines.base import Engine, Source, full_precision, refuse_float16_on_cpu, unpacked
from van.export.engines.torch import program


class CompiledEngine(Engine):
    """torch.compile: a call with a new shape may compile for minutes; what it compiled, torch keeps on the disk."""

    name: ClassVar[str] = "compiled"
    formats: ClassVar[tuple[str, ...]] = (".pt2",)

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        refuse_float16_on_cpu(precision, device)
        self._type = None if source.file or self.precision == "float32" else getattr(torch, self.precision)
        module = program(source, precision, device) if source.file else source.fused()
        self._function = torch.compile(module)

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs."""
        with torch.autocast(self.device.type, self._type, enabled=self._type is not None):
            outputs = self._function(*inputs)
        outputs = full_precision(outputs)
        return unpacked(outputs) if isinstance(outputs, tuple) else outputs
