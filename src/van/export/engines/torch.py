"""PyTorch, one operation after the other."""

from typing import Any, ClassVar

import torch

from van.errors import VanError
from van.export.engines.base import Engine, Source, full_precision, refuse_float16_on_cpu, unpacked


class TorchEngine(Engine):
    """The network as it is, under autocast for precisions other than float32, or an exported program (.pt2)."""

    name: ClassVar[str] = "torch"
    formats: ClassVar[tuple[str, ...]] = (".pt2",)

    def __init__(self, source: Source, precision: str | None, device: torch.device) -> None:
        super().__init__(source, precision, device)
        refuse_float16_on_cpu(precision, device)
        self._function = self._computed(precision)
        self._type = None if source.file or self.precision == "float32" else getattr(torch, self.precision)

    def _computed(self, precision: str | None) -> Any:
        """Return the function that is called."""
        return program(self.source, precision, self.device) if self.source.file else self.source.core()

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> Any:
        """Return the outputs."""
        with torch.autocast(self.device.type, self._type, enabled=self._type is not None):
            outputs = self._function(*inputs)
        outputs = full_precision(outputs)
        return unpacked(outputs) if isinstance(outputs, tuple) else outputs


def program(source: Source, precision: str | None, device: torch.device) -> torch.nn.Module:
    """Return the program of an exported file, on a device.

    Raises:
        VanError: the file cannot be read, or has another precision than the one asked for.
    """
    assert source.file is not None  # noqa: S101 - for the type checker
    if precision not in (None, source.file_precision or "float32"):
        raise VanError(
            f"{source.file.name} computes in {source.file_precision or 'float32'}, not in {precision}. Leave out the "
            f"precision, or export the weights with --precision {precision}."
        )
    try:
        exported = torch.export.load(source.file)
    except (RuntimeError, OSError, ValueError, KeyError) as error:
        raise VanError(
            f"{source.file} cannot be read ({str(error).strip().splitlines()[0]}). Export it again."
        ) from error
    if device.type != "cpu":
        from torch.export.passes import move_to_device_pass

        exported = move_to_device_pass(exported, device)
    return exported.module(check_guards=False)  # they are about the memory layout of maps with a single position
