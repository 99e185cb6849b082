"""Programs of torch.export."""

import json
from pathlib import Path

import torch

from van.export.engines.base import Source
from van.export.engines.torch import program
from van.export.formats.base import Export, Format, Run


class TorchFormat(Format):
    """torch.export's .pt2 files, which PyTorch runs without this package."""

    name = "torch"
    suffix = ".pt2"

    def write(self, export: Export, path: Path) -> None:
        """Write the file; see Format."""
        torch.export.save(export.program(), path, extra_files={"van": json.dumps(export.header.to_dict())})

    def opened(self, export: Export, path: Path) -> Run:
        """Return what runs the file; see Format."""
        module = program(Source(export.graph, file=path), None, torch.device("cpu"))
        return lambda inputs: module(*inputs)
