"""What every export format is."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from van.engine.graph import Graph
from van.models.weight_file import Header

Run = Callable[[Sequence[torch.Tensor]], Sequence[torch.Tensor]]


@dataclass(frozen=True)
class Export:
    """What is written.

    Attributes:
        graph: What the file computes, in evaluation mode and in the precision of the file.
        header: What the file says of itself.
        size: Height and width that the graph is traced with.
        precision: Of the weights.
    """

    graph: Graph
    header: Header
    size: tuple[int, int]
    precision: str

    def program(self) -> Any:
        """Return the graph as torch.export traces it: batch, height and width stay dynamic where they can."""
        inputs = self.graph.inputs(2 if self.graph.batched else 1, self.size)
        auto = torch.export.Dim.AUTO  # type: ignore[attr-defined]
        axes = tuple(dict.fromkeys(names, auto) for names in self.graph.dynamic_shapes())
        return torch.export.export(self.graph, inputs, dynamic_shapes=axes, strict=False)


class Format:
    """An export format: writes a file, and runs it to compare it with the network.

    Attributes:
        name: Its name.
        suffix: Ending of its files.
        precisions: Of the weights in a file.
        packages: What it needs from the extra `export`.
        graphs: Whether pre- and post-processing can be inside.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    packages: ClassVar[tuple[str, ...]] = ()
    graphs: ClassVar[bool] = True

    @abstractmethod
    def write(self, export: Export, path: Path) -> None:
        """Write the file.

        Args:
            export: What to write.
            path: New file in a folder for this export alone; files that belong to it may stand beside it.
        """

    @abstractmethod
    def opened(self, export: Export, path: Path) -> Run:
        """Return a function that runs the file on inputs of the graph.

        Args:
            export: What was written.
            path: The file.
        """
