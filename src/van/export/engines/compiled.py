"""PyTorch, compiled for the device by torch.compile."""

from typing import Any, ClassVar

import torch

from van.export.engines.torch import TorchEngine, program


class CompiledEngine(TorchEngine):
    """torch.compile: a call with a new shape may compile for minutes; what it compiled, torch keeps on the disk."""

    name: ClassVar[str] = "compiled"

    def _computed(self, precision: str | None) -> Any:
        source = self.source
        return torch.compile(program(source, precision, self.device) if source.file else source.fused())
