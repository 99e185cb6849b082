"""ExecuTorch programs, for phones and other small devices."""

from pathlib import Path
from typing import Any

import torch

from van.errors import VanError
from van.export.checks import package
from van.export.formats import Format, Traced, about, names_of


class ExecuTorchFormat(Format):
    """A .pte file for one image of one size, whose convolutions run in XNNPACK."""

    ending = ".pte"
    extra = "executorch"
    packages = ("executorch.exir", "executorch.backends.xnnpack.partition.xnnpack_partitioner", "executorch.runtime")
    dynamic = ()

    def write(self, traced: Traced, path: Path) -> None:
        """Write the file; see Format. Its methods `van` and `names` return the header and the class names as JSON."""
        exir, xnnpack, _ = (package(name, self.extra) for name in self.packages)
        try:
            lowered = exir.to_edge_transform_and_lower(
                traced.program,
                partitioner=[xnnpack.XnnpackPartitioner()],
                constant_methods={"van": about(traced.header), "names": names_of(traced.header)},
            )
            path.write_bytes(lowered.to_executorch().buffer)
        except Exception as error:  # of whichever pass fails
            reason = str(error.__cause__ or error).strip().splitlines()[0][:300]
            raise VanError(f"ExecuTorch cannot take this network with these options ({reason}).") from error

    def open(self, path: Path) -> Any:
        """Return a function that runs the file; see Format."""
        runtime = package("executorch.runtime", self.extra)
        method = runtime.Runtime.get().load_program(path).load_method("forward")
        # the outputs lie in memory that the next call writes to
        return lambda arrays: [one.clone() for one in method.execute([torch.from_numpy(array) for array in arrays])]
