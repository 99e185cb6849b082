"""Programs of torch.export."""

import warnings
from pathlib import Path
from typing import Any

import torch

from van.export.formats import Format, Traced, about, names_of


class TorchFormat(Format):
    """A .pt2 file, which torch.export.load reads."""

    ending = ".pt2"
    fixed_up_to = 32

    def write(self, traced: Traced, path: Path) -> None:
        """Write the file; see Format. Its extra files are `van`, the header, and `names`, the class names, as JSON."""
        extra = {"van": about(traced.header), "names": names_of(traced.header)}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own code
            torch.export.save(traced.program, path, extra_files=extra)

    def open(self, path: Path) -> Any:
        """Return a function that runs the file; see Format."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.export.load(path).module(check_guards=False)

        def run(arrays: list[Any]) -> list[torch.Tensor]:
            with torch.no_grad():
                return list(module(*map(torch.from_numpy, arrays)))

        return run
