"""Weight files of this package."""

from pathlib import Path

from van.export.formats.base import Export, Format, Run
from van.models.weight_file import read_weights, write_weights


class SafetensorsFormat(Format):
    """The weight file of a run: tensors and the header that van.load builds the network from."""

    name = "safetensors"
    suffix = ".safetensors"
    graphs = False

    def write(self, export: Export, path: Path) -> None:
        """Write the file; see Format."""
        write_weights(export.header, export.graph.network.state_dict(), path)

    def opened(self, export: Export, path: Path) -> Run:
        """Return what runs the network with the tensors of the file; see Format."""
        from copy import deepcopy

        graph = deepcopy(export.graph)
        graph.network.load_state_dict(read_weights(path)[1])
        return lambda inputs: graph(*inputs)
