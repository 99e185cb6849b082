"""Runs an exported file on whole batches, as programs of others do."""

from collections.abc import Sequence

import torch

from van.export.engines.runtime import Plan, RuntimeEngine
from van.export.formats.base import Run


def runner(engine: RuntimeEngine) -> Run:
    """Return a function that runs the file of an engine.

    Args:
        engine: Of the file.
    """

    def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        arrays = [x.contiguous().numpy() for x in inputs]
        [found] = engine.compute([arrays], Plan(len(arrays[0]), 1))
        return [torch.from_numpy(one) for one in found]

    return run
