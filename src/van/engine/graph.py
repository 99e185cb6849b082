"""What an exported file computes: a module from tensors to tensors, which each task makes of a predictor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from van.errors import VanError
from van.networks.dense import full_precision

if TYPE_CHECKING:
    from van.engine.predictor import Predictor


class Graph(nn.Module):
    """A network between its pre-processing and its post-processing, where these are asked for.

    A task's subclass has a forward method that takes the inputs and returns a tuple of outputs.

    Args:
        predictor: Whose network it is.
        preprocess: Whether the images are bytes of any size, which the graph scales, normalizes and pads; otherwise
            they are what the network's core takes.
        postprocess: Whether the outputs are results; otherwise they are what the core returns.
        outputs: Their names; by default those of the core.

    Attributes:
        network: The network.
        preprocess: See the argument.
        postprocess: See the argument.
        input_names: Names of the inputs, the images first.
        output_names: Names of the outputs.
        batched: Whether it takes several images at once.
        channels: Of the images.
        multiple: Height and width of the images have to be multiples of it.
        size: Height and width of the images that it is traced with, unless others are asked for.
        ordered: Whether outputs correspond by their place; objects may come in another order.
        through_onnx: Whether OpenVINO has to take it from ONNX: its converter of exported programs has no non-maximum
            suppression.
    """

    input_names: tuple[str, ...] = ("images",)
    multiple: int = 32
    ordered: bool = True
    through_onnx: bool = False

    def __init__(
        self, predictor: "Predictor", preprocess: bool, postprocess: bool, outputs: tuple[str, ...] | None = None
    ) -> None:
        super().__init__()
        self.network: Any = predictor.model
        self.preprocess = preprocess
        self.postprocess = postprocess
        self.output_names: tuple[str, ...] = outputs or self.network.core_outputs
        self.batched = bool(getattr(self.network, "core_batched", True))
        self.channels = 3
        if preprocess:
            self.multiple = 1
        self.size = cast(tuple[int, int], tuple(getattr(self.network, "input_size", (3, 224, 224))[1:]))

    def core(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run the network's core in the type of its weights; what it returns is float32 at least."""
        dtype = next(self.network.parameters()).dtype
        found = self.run(*(x.to(dtype) if x.is_floating_point() else x for x in inputs))
        outputs = cast(tuple[torch.Tensor, ...], found if isinstance(found, tuple | list) else (found,))
        return tuple(full_precision(x) if x.is_floating_point() else x for x in outputs)

    def run(self, *inputs: torch.Tensor) -> Any:
        """Call what has the weights; a classifier's is the network itself."""
        return self.network.core(*inputs)

    def inputs(self, batch: int, size: tuple[int, int], seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Return random inputs, to trace the graph with and to compare runtimes on.

        Args:
            batch: Number of images.
            size: Their height and width.
            seed: Of the random numbers.
        """
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, self.channels, *size)
        if self.preprocess:
            return (torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8),)
        return (torch.randn(*shape, generator=generator),)

    def dynamic_shapes(self) -> tuple[dict[int, str], ...]:
        """Return the names of the dynamic axes of each input."""
        axes = {2: "height", 3: "width"}
        return ({0: "batch", **axes} if self.batched else axes,)

    def differences(self, expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> dict[str, float]:
        """Return how far each output is from what is expected, as a share; see difference.

        Args:
            expected: Outputs of the network itself.
            found: Those of the exported file.
        """
        pairs = zip(self.output_names, expected, found, strict=True)
        return {name: self.difference(one, other, name) for name, one, other in pairs}

    def difference(self, expected: torch.Tensor, found: torch.Tensor, name: str) -> float:
        """Return how far an output is from what is expected, as a share.

        Args:
            expected: Of the network itself.
            found: Of the exported file.
            name: Of the output.

        Returns:
            For floating-point numbers the largest difference as a share of the largest number; for labels the share of
            those that differ; infinity where shapes differ or numbers are not finite.
        """
        if expected.shape != found.shape:
            return float("inf")
        if not expected.is_floating_point():
            return float((expected != found).double().mean()) if expected.numel() else 0.0
        if not bool(found.isfinite().all()):
            return float("inf")
        scale = float(expected.abs().max()) if expected.numel() else 0.0
        return float((expected.double() - found.double()).abs().max()) / (scale or 1.0) if expected.numel() else 0.0


class ViewGraph(Graph):
    """A network that predicts for each pixel, seen once and whole.

    Args:
        predictor: See Graph; its options of inference are a view.
        preprocess: See Graph.
        postprocess: See Graph.
        outputs: Names of the outputs with postprocess.

    Attributes:
        view: How the network sees an image.

    Raises:
        VanError: the weights see an image in windows or at several scales.
    """

    def __init__(self, predictor: "Predictor", preprocess: bool, postprocess: bool, outputs: tuple[str, ...]) -> None:
        super().__init__(predictor, preprocess, postprocess, outputs if postprocess else None)
        self.view = predictor.inference
        default = type(self.view)()
        for name in ("slide", "scales") if preprocess or postprocess else ():
            value, only = getattr(self.view, name), getattr(default, name)
            if value != only:
                raise VanError(
                    f"{name} is {value} for these weights, but a file with pre- or post-processing sees an image once "
                    f"and whole. Export it with {name} {only}, or without pre- and post-processing."
                )
