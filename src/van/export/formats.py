"""What all export formats share: tracing a network, checking the file that was written, and what it says of itself."""

import copy
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import torch

from van import __version__
from van.engine.graph import Graph
from van.engine.predictor import Predictor
from van.errors import VanError
from van.export.calibration import Calibration
from van.export.checks import package
from van.export.fuse import fuse
from van.files import parents_of
from van.models.van import VANStage
from van.models.weight_file import Header

BOUNDS = {"core": 1e-4, "whole": 5e-3, "float16": 2e-2, "bfloat16": 5e-2, "int8": 0.5}
"""Largest differences from the network that a file may have, see van.engine.graph.Graph.difference: of what the core
returns, where pre- or postprocessing is inside, which resizes images and rounds, and in other precisions. For int8 it
is the length of the difference as a share of the output's, on calibration images; random ones say nothing there."""

_COMPARED = 16  # calibration images

AXES = ("batch", "height", "width")

_LEAST = 256  # pixels: sides of smaller images become 1 inside the network, which would be taken for constant


@dataclass(frozen=True)
class Content:
    """What goes into a file; see van.export.

    Attributes:
        image_size: Height and width to trace with; None takes those of training.
        preprocess: Whether the preprocessing is inside.
        postprocess: Whether the postprocessing is inside.
        features: Whether it is the backbone of a classifier.
        precision: Of the weights.
        calibration: Inputs of the network's core, for int8.
    """

    image_size: tuple[int, int] | None = None
    preprocess: bool = False
    postprocess: bool = False
    features: bool = False
    precision: str = "float32"
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Traced:
    """A network as torch.export has recorded it.

    Attributes:
        graph: What is computed.
        program: The record.
        header: What the file says.
        calibration: Inputs to find the ranges of activations with, for int8.
    """

    graph: Graph
    program: torch.export.ExportedProgram
    header: Header
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Tensor:
    """An input or output of a file.

    Attributes:
        name: Its name.
        type: That of its numbers, such as float32.
        shape: A number for each axis; of dynamic axes their name, or "" where they have none.
    """

    name: str
    type: str
    shape: tuple[int | str, ...]


class Format:
    """A kind of file.

    Attributes:
        ending: Of its files.
        beside: Endings of further files that belong to one.
        precisions: Of the weights.
        packages: What it takes to write and check one.
        extra: The extra that installs them.
        traces: Whether it holds what the network computes, and not its weights alone.
        runs: Whether files can be run on this machine, to compare them with the network.
        dynamic: Names of the axes of images that may have another length than those that it was traced with.
        fixed_up_to: Images that it was traced with and that have a side of at most so many pixels are the only ones
            that it computes: inside the network they shrink to one pixel.
        triton: Name of the backend of NVIDIA Triton that runs such files; empty if there is none.
        triton_batches: Whether that backend takes batches of any size up to a largest one.
        triton_lines: What else the configuration of a model needs.
    """

    ending: ClassVar[str]
    beside: ClassVar[tuple[str, ...]] = ()
    precisions: ClassVar[tuple[str, ...]] = ("float32",)
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = "export"
    traces: ClassVar[bool] = True
    runs: ClassVar[bool] = True
    dynamic: ClassVar[tuple[str, ...]] = AXES
    fixed_up_to: ClassVar[int] = 0
    triton: ClassVar[str] = ""
    triton_batches: ClassVar[bool] = False
    triton_lines: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Refuse to begin where a package is missing.

        Raises:
            VanError: one is.
        """
        for name in self.packages:
            package(name, self.extra)

    def traced_type(self, precision: str) -> torch.dtype | None:
        """Return the type of the weights with which the network is recorded; None is theirs, float32.

        Args:
            precision: One of precisions.
        """

    def write(self, traced: Traced, path: Path) -> None:
        """Write a file, and those that belong to it beside it.

        Args:
            traced: What it holds.
            path: The file.
        """
        raise NotImplementedError

    def open(self, path: Path) -> Any:
        """Return a function that runs the file: arrays in, in the order of the inputs, arrays out."""
        raise NotImplementedError

    def signature(self, path: Path) -> tuple[list[Tensor], list[Tensor]]:
        """Return inputs and outputs of a file, where Triton has a backend for it."""
        raise NotImplementedError


def write_checked(kind: Format, predictor: Predictor, path: Path, content: Content) -> Path:
    """Write a file in a folder of its own, run it, and keep it if it agrees with the network.

    Args:
        kind: Format of the file.
        predictor: Whose network is exported.
        path: Where the file goes.
        content: What goes into it.

    Raises:
        VanError: see van.export.
    """
    says = {name: getattr(content, name) for name in ("preprocess", "postprocess", "features", "precision")}
    says["version"] = __version__
    if not kind.traces and content != Content():
        raise VanError(
            f"{kind.ending} files hold weights alone. Leave out preprocess, postprocess, features and image_size."
        )
    graph = _graph(predictor, content) if kind.traces else None
    size = _traced_size(graph, content.image_size, bool(kind.dynamic)) if graph else (0, 0)
    model = predictor.header.model
    header = Header(predictor.task.name, predictor.class_names, model, predictor.extra, says if kind.traces else {})
    with (
        parents_of(path),
        TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        if graph:
            dynamic = ("batch",) if min(size) <= kind.fixed_up_to else kind.dynamic
            says |= {"image_size": list(size), "fixed_size": "height" not in dynamic}
            with torch.no_grad():
                traced = trace(graph, size, header, dynamic, kind.traced_type(content.precision), content.calibration)
                kind.write(traced, folder / path.name)
                if kind.runs:
                    run = kind.open(folder / path.name)
                    compare(graph, run, size, None if content.calibration else _bound(content), dynamic)
                    if content.calibration:
                        compare_on(content.calibration, graph, run)
        else:
            kind.write_weights(header, predictor.model.state_dict(), folder / path.name)  # type: ignore[attr-defined]
        for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):  # the file itself last
            for one in (file, *file.rglob("*")):
                one.chmod(0o755 if one.is_dir() else 0o644)
            file.replace(path.parent / file.name)
    return path


def _graph(predictor: Predictor, content: Content) -> Graph:
    """Return what a file computes."""
    task = predictor.task
    if not content.features:
        return task.graph(predictor, content.preprocess, content.postprocess).eval()
    graph = task.features_graph(predictor, content.preprocess).eval()
    if content.postprocess:
        raise VanError("features have no postprocessing. Leave out one of them.")
    return graph


def _bound(content: Content) -> float:
    if content.precision != "float32":
        return BOUNDS[content.precision]
    return BOUNDS["whole" if content.preprocess or content.postprocess else "core"]


def _traced_size(graph: Graph, asked: tuple[int, int] | None, dynamic: bool) -> tuple[int, int]:
    multiple = graph.multiple
    if asked and (min(asked) < 1 or any(side % multiple for side in asked)):
        raise VanError(f"image_size is {asked}, expected two numbers above 0 and multiples of {multiple}.")
    if asked:
        return asked
    high, wide = (max(side, _LEAST) if multiple > 1 and dynamic else side for side in graph.size)
    return high, wide


def trace(
    graph: Graph,
    size: tuple[int, int],
    header: Header,
    dynamic: Sequence[str] = AXES,
    dtype: torch.dtype | None = None,
    calibration: Calibration | None = None,
) -> Traced:
    """Record what a network computes.

    Args:
        graph: What is computed. A fused copy of its network is recorded.
        size: Height and width of the images.
        header: What the file says.
        dynamic: Names of the dynamic axes.
        dtype: Type of the weights; None leaves it as it is.
        calibration: Inputs of the network's core, for int8.

    Raises:
        VanError: it cannot be recorded.
    """
    fused = copy.copy(graph)
    fused._modules = dict(graph._modules)
    if any(isinstance(module, VANStage) for module in graph.network.modules()):
        fused.network = fuse(graph.network)
    if dtype is not None:
        fused.network = (copy.deepcopy(graph.network) if fused.network is graph.network else fused.network).to(dtype)
    if not dynamic:  # converters for phones expect plain weights, and choose the layout themselves
        fused.network = fused.network.to(memory_format=torch.contiguous_format)
    inputs = graph.inputs(2 if graph.batched and "batch" in dynamic else 1, size)
    any_length: Any = torch.export.Dim.DYNAMIC  # type: ignore[attr-defined]
    axes = tuple({axis: any_length for axis, name in one.items() if name in dynamic} for one in graph.dynamic_shapes())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own code
            program = torch.export.export(fused, inputs, dynamic_shapes=axes, strict=False)
    except Exception as error:  # of torch, sympy or the network's libraries
        reason = str(error).strip().splitlines()[0][:300]
        raise VanError(f"torch.export cannot record this network with these options ({reason}).") from error
    return Traced(graph, program, header, calibration)


def compare(graph: Graph, run: Any, size: tuple[int, int], bound: float | None, dynamic: Sequence[str] = AXES) -> None:
    """Run a file and the network on random images of three sizes, and two batch sizes where there are batches.

    Args:
        graph: The network.
        run: Runs the file; see Format.open.
        size: Height and width that it was traced with.
        bound: Largest difference; None allows any.
        dynamic: Names of the dynamic axes.

    Raises:
        VanError: they differ.
    """
    more = graph.multiple if graph.multiple > 1 else 5
    others = [(size[0] + more, size[1]), (size[0], size[1] + 3 * more)] if "height" in dynamic else [size] * 2
    sizes = [size, *others]
    for number, image_size in enumerate(sizes):
        batch = 1 + number % 2 if graph.batched and "batch" in dynamic else 1
        inputs = graph.inputs(batch, image_size, seed=number)
        expected, found = graph(*inputs), _outputs(run, [one.numpy() for one in inputs])
        if bound is None:
            continue
        for name, difference in graph.differences(expected, found).items():
            if not difference <= bound:
                raise VanError(
                    f"The file is not kept: on {batch} x {image_size} its output {name} differs from the network's by "
                    f"{difference:.2g}, at most {bound:g} is allowed."
                )


def compare_on(calibration: Calibration, graph: Graph, run: Any) -> None:
    """Run an int8 file and the network on images that it was calibrated with.

    Args:
        calibration: The images.
        graph: The network.
        run: Runs the file; see Format.open.

    Raises:
        VanError: what the file computes has little to do with the network.
    """
    shares: dict[str, list[float]] = {}
    for arrays in islice(calibration, _COMPARED):
        expected, found = graph(*map(torch.from_numpy, arrays)), _outputs(run, list(arrays))
        for name, one, other in zip(graph.output_names, expected, found, strict=True):
            if one.shape != other.shape or not bool(torch.isfinite(other).all()):
                raise VanError(f"The file is not kept: its output {name} has another shape or is not finite.")
            if one.is_floating_point() and graph.ordered:
                shares.setdefault(name, []).append(float((one - other).norm() / one.norm().clamp(min=1e-12)))
    for name, found in shares.items():
        if not (mean := sum(found) / len(found)) <= BOUNDS["int8"]:
            raise VanError(
                f"The file is not kept: on images that it was calibrated with its output {name} differs from the "
                f"network's by {mean:.2g} of its length, at most {BOUNDS['int8']:g} is allowed. Export it in another "
                "precision."
            )


def _outputs(run: Any, arrays: list[Any]) -> list[torch.Tensor]:
    """Return what a file computes.

    Raises:
        VanError: it cannot be run.
    """
    try:
        return [torch.as_tensor(one) for one in run(arrays)]
    except Exception as error:  # each runtime has its own classes
        reason, shape = str(error).strip().splitlines()[0][:300], " x ".join(map(str, arrays[0].shape))
        raise VanError(f"The file cannot be run on {shape}, and is not kept ({reason}).") from error


def about(header: Header) -> str:
    """Return what a file says of itself under the key "van", as JSON."""
    return json.dumps(header.to_dict())


def names_of(header: Header) -> str:
    """Return the class names as a JSON list."""
    return json.dumps(list(header.class_names or ()))


def as_arrays(outputs: Sequence[Any]) -> list[Any]:
    """Return outputs of a runtime as arrays of their own."""
    import numpy as np

    return [np.array(one) for one in outputs]
