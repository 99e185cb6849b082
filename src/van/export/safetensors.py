"""Weight files of ours, from any layout."""

from collections.abc import Mapping
from pathlib import Path

import torch

from van.export.formats import Format
from van.models.weight_file import Header, write_weights


class SafetensorsFormat(Format):
    """The weights alone, with everything that van needs to run them; what a run folder has as weights.safetensors."""

    ending = ".safetensors"
    traces = False
    runs = False

    def write_weights(self, header: Header, tensors: Mapping[str, torch.Tensor], path: Path) -> None:
        """Write the file.

        Args:
            header: What it says.
            tensors: The weights.
            path: The file.
        """
        write_weights(header, tensors, path)
