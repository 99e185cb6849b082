"""Programs of torch.export."""

import warnings
from pathlib import Path
from typing import Any

import torch

from van.export.formats import Format, Traced, about, names_of


class TorchFormat(Format):
    """A .pt2 file, which torch.export.load reads."""

    ending = ".pt2"
    precisions = ("float32", "bfloat16")
    fixed_up_to = 32

    def traced_type(self, precision: str) -> torch.dtype | None:
        """Return the type of the weights, in which the program computes; see Format."""
        return torch.bfloat16 if precision == "bfloat16" else None

    def write(self, traced: Traced, path: Path) -> None:
        """Write the file; see Format. Its extra files are `van`, the header, and `names`, the class names, as JSON."""
        extra = {"van": about(traced.header), "names": names_of(traced.header)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own code
            torch.export.save(without_limits(traced.program), path, extra_files=extra)

    def open(self, path: Path) -> Any:
        """Return a function that runs the file; see Format."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.export.load(path).module(check_guards=False)

        def run(arrays: list[Any]) -> list[torch.Tensor]:
            with torch.no_grad():
                return list(module(*map(torch.from_numpy, arrays)))

        return run


def without_limits(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Let a program take images of any size, and return it.

    torch.export refuses those whose maps shrink to a single position, whose memory layout is another one. That changes
    no result.
    """
    from torch.utils._sympy.value_ranges import ValueRanges

    for symbol, limits in list(program.range_constraints.items()):
        program.range_constraints[symbol] = ValueRanges(min(limits.lower, 2), limits.upper)
    return program
